"""Whether pictures show what their captions ask for: a classifier of several attributes.

One network (`jaxgen.evaluation.classifier`) with the logits of all attributes side by side; each
attribute has a softmax of its own. Its loss is the mean of their cross-entropies; a picture without
an attribute counts for the others alone.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from jaxgen.errors import InputError
from jaxgen.evaluation.classifier import ClassifierConfig, Loss
from jaxgen.typing import Tree


def attribute_loss(config: ClassifierConfig, sizes: Sequence[int]) -> Loss:
    """The loss that trains a classifier of attributes: cross-entropy in nats.

    Args:
      config: The classifier; its classes are the values of all attributes, one after the other.
      sizes: How many values each attribute has.

    Returns:
      ``loss_fn(params, batch, key) -> (mean loss, {"accuracy"})`` for batches of ``"image"`` and
      ``"codes"`` [B, F], -1 where a picture does not have the attribute; accuracy is the share of
      known attributes that are right.

    Raises:
      InputError: Sizes that do not add up to the classes.
    """
    model, splits = config.make_model(), attribute_splits(config, sizes)

    def loss_fn(params: Tree, batch: Mapping[str, Any], key: Key[Array, ""]) -> Any:
        _, logits_BV = model.apply(
            {"params": params}, batch["image"], train=True, rngs={"dropout": key}
        )
        code_BF = batch["codes"]
        known_BF = code_BF >= 0
        loss, right = jnp.zeros(()), jnp.zeros(())
        for i, logits_BC in enumerate(jnp.split(logits_BV, splits, axis=1)):
            code_B, known_B = jnp.maximum(code_BF[:, i], 0), known_BF[:, i]
            log_p_BC = jax.nn.log_softmax(logits_BC)
            loss_B = -jnp.take_along_axis(log_p_BC, code_B[:, None], axis=1)[:, 0]
            loss += jnp.sum(jnp.where(known_B, loss_B, 0))
            right += jnp.sum(known_B & (jnp.argmax(logits_BC, axis=1) == code_B))
        count = jnp.maximum(known_BF.sum(), 1)
        return loss / count, {"accuracy": right / count}

    return loss_fn


def attribute_splits(config: ClassifierConfig, sizes: Sequence[int]) -> list[int]:
    """Where one attribute ends and the next begins.

    Raises:
      InputError: Sizes that do not add up to the classes.
    """
    if sum(sizes) != config.num_classes:
        raise InputError(
            f"attributes have {sum(sizes)} values, expected {config.num_classes}, the classes"
        )
    return np.cumsum(sizes)[:-1].tolist()


def attribute_codes(p_NV: Float[np.ndarray, "N V"], sizes: Sequence[int]) -> Int[np.ndarray, "N F"]:
    """The most likely value of each attribute.

    Args:
      p_NV: Logits, or any numbers that rise with them, of all attributes side by side.
      sizes: How many values each attribute has.

    Raises:
      InputError: Sizes that do not add up to V.
    """
    if sum(sizes) != p_NV.shape[1]:
        raise InputError(f"attributes have {sum(sizes)} values, expected {p_NV.shape[1]}")
    parts = np.split(p_NV, np.cumsum(sizes)[:-1], axis=1)
    return np.stack([part.argmax(axis=1) for part in parts], axis=1)


def attribute_accuracy(
    found_NF: Int[np.ndarray, "N F"], wanted_NF: Int[np.ndarray, "N F"], names: Sequence[str]
) -> dict[str, float]:
    """The share of pictures with each attribute as it was asked for, and with all of them.

    Args:
      found_NF: What was found.
      wanted_NF: What was asked for, -1 for nothing.
      names: Of the attributes.

    Returns:
      Name -> share of those pictures that were asked for the attribute; and ``"all"``.

    Raises:
      InputError: Arrays of other shapes.
    """
    if found_NF.shape != wanted_NF.shape or found_NF.shape[1:] != (len(names),):
        raise InputError(
            f"attributes have shapes {found_NF.shape} and {wanted_NF.shape}, expected "
            f"[N, {len(names)}] both"
        )
    asked_NF = wanted_NF >= 0
    right_NF = found_NF == wanted_NF
    shares = {
        name: float(right_NF[asked_NF[:, i], i].mean())
        for i, name in enumerate(names)
        if asked_NF[:, i].any()
    }
    return shares | {"all": float((right_NF | ~asked_NF).all(axis=1).mean())}
