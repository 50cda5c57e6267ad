"""The contrastive loss of pairs of images and texts (Radford et al. 2021, figure 3), over a mesh.

With unit vectors i_b and t_b of B pairs and a scale s::

    l_bc = s <i_b, t_c>        loss = (CE(l, b) + CE(l', b)) / 2

the mean over b of the cross-entropy of finding the text of an image among all texts, and the image
of a text among all images. Vectors that are all equal give log B.

**Equal captions.** A pair whose text means the same as that of another is no negative of it: with
few captions a batch holds some several times, and the loss could not reach 0. Such pairs are left
out of each other's sums.

**Over devices.** Each device has b of the B pairs. It gathers the vectors of all (one all-gather of
each kind), and computes the b rows of l and of l' that its own images and texts have, [b, B]
numbers each. Gradients go back to the devices that the vectors came from (a reduce-scatter), so
loss and gradients are those of one device with all pairs.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int

from jaxgen.errors import InputError
from jaxgen.parallel.softmax.mesh_axes import MeshAxes
from jaxgen.typing import Batch, Tree

Loss = Callable[[Tree, Batch, Array], tuple[Array, Mapping[str, Array]]]
"""``loss_fn(params, batch, key) -> (loss, metrics)``."""


def contrastive_loss(
    image_BD: Float[Array, "B D"],
    text_BD: Float[Array, "B D"],
    scale: Float[Array, ""] | float,
    meaning_B: Int[Array, "B"] | None = None,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The loss of a batch in nats, and the share of pairs that find each other.

    The batch is that of the whole mesh of ``jax.set_mesh``, where there is one.

    Args:
      image_BD: unit vectors of images.
      text_BD: unit vectors of their texts.
      scale: s.
      meaning_B: an id for each text, equal where texts mean the same; None: all differ.

    Returns:
      The loss, and the mean over both directions of how often the largest logit, among those that
      count, is the pair's own.

    Raises:
      InputError: for shapes that do not belong together.
    """
    batch = len(image_BD)
    if meaning_B is None:
        meaning_B = jnp.arange(batch)
    if image_BD.shape != text_BD.shape or meaning_B.shape != (batch,):
        raise InputError(
            f"images have vectors {image_BD.shape}, texts {text_BD.shape} and meanings "
            f"{meaning_B.shape}, expected [B, D], [B, D] and [B]"
        )
    axes = MeshAxes.current(batch)

    def on_device(image: Array, text: Array, meaning: Array, scale: Array) -> tuple[Array, Array]:
        image_all, text_all, meaning_all = (_gathered(x, axes) for x in (image, text, meaning))
        first = jax.lax.axis_index(axes.batch) * len(image) if axes.batch else 0
        own = first + jnp.arange(len(image))
        same = (meaning[:, None] == meaning_all) & (own[:, None] != jnp.arange(batch))
        found = [
            _direction(image, text_all, scale, own, same),
            _direction(text, image_all, scale, own, same),
        ]
        loss, accuracy = (sum(part) / (2 * batch) for part in zip(*found, strict=True))
        return axes.sum_over_batch((loss, accuracy))

    scale = jnp.asarray(scale, jnp.float32)
    arguments = image_BD, text_BD, meaning_B, scale
    if not axes.names:
        return on_device(*arguments)
    in_specs = axes.spec("BD"), axes.spec("BD"), axes.spec("B"), P()
    return jax.shard_map(
        on_device, mesh=axes.mesh, in_specs=in_specs, out_specs=(P(), P()), axis_names=axes.names
    )(*arguments)


def _gathered(x: Array, axes: MeshAxes) -> Array:
    """The rows of all devices that share the batch."""
    return jax.lax.all_gather(x, axes.batch, tiled=True) if axes.batch else x


def _direction(
    own_BD: Float[Array, "B D"],
    others_MD: Float[Array, "M D"],
    scale: Array,
    place_B: Int[Array, "B"],
    left_out_BM: Bool[Array, "B M"],
) -> tuple[Array, Array]:
    """Sums over a device's examples: of cross-entropies, and of how often the pair is found."""
    logits_BM = scale * jnp.einsum(
        "BD,MD->BM", own_BD, others_MD, preferred_element_type=jnp.float32
    )
    logits_BM = jnp.where(left_out_BM, -jnp.inf, logits_BM)
    log_p_BM = jax.nn.log_softmax(logits_BM)
    loss_B = -jnp.take_along_axis(log_p_BM, place_B[:, None], axis=1)
    right_B = jnp.argmax(logits_BM, axis=1) == place_B
    return loss_B.sum(), right_B.astype(jnp.float32).sum()


def clip_loss(config: Any) -> Loss:
    """The loss that trains a CLIP.

    Args:
      config: a `CLIPConfig`.

    Returns:
      ``loss_fn(params, batch, key) -> (loss in nats, {"accuracy", "scale"})`` for batches of
      ``"image"`` [B, Y, X, C], ``"ids"`` [B, L] and, where there are any, ``"mask"`` [B, L],
      ``"meaning"`` [B], see `contrastive_loss`, and ``"time"`` [B] of noisy images, 1,000 t.
      Nothing in it is random.
    """
    model = config.make_model()

    def loss_fn(params: Tree, batch: Batch, key: Array) -> tuple[Array, Mapping[str, Array]]:
        image_BD, text_BD, scale = model.apply(
            {"params": params}, batch["image"], batch["ids"], batch.get("mask"), batch.get("time")
        )
        loss, accuracy = contrastive_loss(image_BD, text_BD, scale, batch.get("meaning"))
        return loss, {"accuracy": accuracy, "scale": scale}

    return loss_fn
