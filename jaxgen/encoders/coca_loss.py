"""The losses of captioners and of language models: next tokens, and CoCa's sum (Yu et al. 2022).

::

    caption loss = mean of  - log p(token l + 1 | image, tokens 0 to l)  over tokens but padding
    loss         = w_con contrastive loss + w_cap caption loss            w_con = 1, w_cap = 2

`jaxgen.encoders.contrastive` has the contrastive loss. With w_con = 0 the network is a plain
captioner, and nothing is computed for the vectors.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxgen.encoders.contrastive import Loss, contrastive_loss
from jaxgen.encoders.encoded import text_mask
from jaxgen.errors import InputError, check_not_negative
from jaxgen.typing import Batch, Tree


def next_token_loss(
    logits_BLV: Float[Array, "B L V"], ids_BL: Int[Array, "B L"], counted_BL: Bool[Array, "B L"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The mean cross-entropy in nats, and how often the likeliest token is the right one.

    Args:
      logits_BLV: of each token.
      ids_BL: the tokens.
      counted_BL: which of them count; the mean is over those of the whole batch.
    """
    log_p_BLV = jax.nn.log_softmax(logits_BLV.astype(jnp.float32))
    loss_BL = -jnp.take_along_axis(log_p_BLV, ids_BL[..., None], axis=-1)[..., 0]
    right_BL = jnp.argmax(logits_BLV, axis=-1) == ids_BL
    count = jnp.maximum(counted_BL.sum(), 1)
    loss, right = (jnp.where(counted_BL, x, 0).sum() / count for x in (loss_BL, right_BL))
    return loss, right


def coca_loss(config: Any, contrastive_weight: float = 1.0, caption_weight: float = 2.0) -> Loss:
    """The loss that trains a CoCa, or a plain captioner.

    Args:
      config: a `CoCaConfig`.
      contrastive_weight: w_con; 0: a plain captioner.
      caption_weight: w_cap.

    Returns:
      ``loss_fn(params, batch, key) -> (loss in nats, metrics)`` for batches of ``"image"``
      [B, Y, X, C] or [B, T, Y, X, C], ``"ids"`` [B, L] and, where there are any, ``"mask"`` [B, L]
      and ``"meaning"`` [B], see `contrastive_loss`. Metrics are the "caption" loss and "words", how
      often the likeliest next token is the right one; and unless w_con is 0 the "contrastive" loss,
      its "accuracy" and "scale". Nothing in it is random.

    Raises:
      InputError: for weights below 0, or both 0.
    """
    check_not_negative("contrastive_weight", contrastive_weight)
    check_not_negative("caption_weight", caption_weight)
    if not contrastive_weight + caption_weight:
        raise InputError("contrastive_weight and caption_weight are 0, expected one above 0")
    model = config.make_model()

    def loss_fn(params: Tree, batch: Batch, key: Array) -> tuple[Array, Mapping[str, Array]]:
        images, ids_BL, mask_BL = batch["image"], batch["ids"], batch.get("mask")
        counted_BL = text_mask(ids_BL, mask_BL)[:, 1:]
        if not contrastive_weight:
            logits_BLV = model.apply(
                {"params": params}, images, ids_BL[:, :-1], method=model.caption_logits
            )
            caption, words = next_token_loss(logits_BLV, ids_BL[:, 1:], counted_BL)
            return caption_weight * caption, {"caption": caption, "words": words}
        found = model.apply({"params": params}, images, ids_BL, mask_BL)
        caption, words = next_token_loss(found.logits_BLV, ids_BL[:, 1:], counted_BL)
        contrastive, accuracy = contrastive_loss(
            found.image_BP, found.text_BP, found.scale, batch.get("meaning")
        )
        loss = contrastive_weight * contrastive + caption_weight * caption
        metrics = {"caption": caption, "words": words, "contrastive": contrastive}
        return loss, {**metrics, "accuracy": accuracy, "scale": found.scale}

    return loss_fn


def causal_text_loss(config: Any) -> Loss:
    """The loss that trains a language model.

    Args:
      config: a `CausalTextConfig`.

    Returns:
      ``loss_fn(params, batch, key) -> (loss in nats, {"words"})`` for batches of ``"ids"`` [B, L]
      and ``"counted"`` [B, L], true for tokens that are predicted; the first of a text never is.
    """
    model = config.make_model()

    def loss_fn(params: Tree, batch: Batch, key: Array) -> tuple[Array, Mapping[str, Array]]:
        ids_BL = batch["ids"]
        logits_BLV = model.apply({"params": params}, ids_BL[:, :-1])
        counted_BL = jnp.asarray(batch["counted"])[:, 1:] != 0
        loss, words = next_token_loss(logits_BLV, ids_BL[:, 1:], counted_BL)
        return loss, {"words": words}

    return loss_fn
