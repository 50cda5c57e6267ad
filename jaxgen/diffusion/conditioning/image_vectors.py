"""Image vectors of CLIP as conditions: which of several, between two, changed by a text.

Ramesh et al. 2022, sections 2.2 and 3. With i an image's vector, t and t_0 those of two texts, all
of one length r::

    best of several          the one with the largest <i, t>
    between two images       slerp(i, i', f), see `jaxgen.diffusion.conditioning.editing.slerp`
    changed by a text        slerp(i, r (t - t_0) / |t - t_0|, f), f from 0 to 1/4 .. 1/2

t_0 is the text of what is there, or of nothing; what t adds to it is a direction among images too,
wherever images and texts lie.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgen.diffusion.conditioning.editing import slerp
from jaxgen.errors import InputError
from jaxgen.nn.norms import to_unit_length


def closest_to_text(
    vectors_SBC: Float[Array, "S B C"], text_BC: Float[Array, "B C"]
) -> Float[Array, "B C"]:
    """Of S image vectors for each text the one with the largest product with the text's vector.

    Raises:
      InputError: for shapes that do not belong together.
    """
    if vectors_SBC.shape[1:] != text_BC.shape or not len(vectors_SBC):
        raise InputError(
            f"image vectors have shape {vectors_SBC.shape} and text vectors {text_BC.shape}, "
            "expected [S, B, C] and [B, C]"
        )
    best_B = jnp.einsum("SBC,BC->SB", vectors_SBC, text_BC).argmax(axis=0)
    return jnp.take_along_axis(vectors_SBC, best_B[None, :, None], axis=0)[0]


def text_difference(
    image_BC: Float[Array, "B C"],
    text_BC: Float[Array, "B C"],
    before_BC: Float[Array, "B C"],
    share: float | Float[Array, "..."],
) -> Float[Array, "B C"]:
    """Image vectors moved towards what a text says more than another.

    Args:
      image_BC: i; its length stays.
      text_BC: t.
      before_BC: t_0.
      share: f, [] or [B].
    """
    length_B1 = jnp.linalg.norm(image_BC, axis=-1, keepdims=True)
    return slerp(image_BC, length_B1 * to_unit_length(text_BC - before_BC), share)
