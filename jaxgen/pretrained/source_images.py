"""Images that pipelines start from: to be changed as a whole, or in a part.

With z0 the latents of an image, e noise, N steps and the strength r::

    z = a x + s e  at  x = z0,  level N - int(r N), and the steps from there on     Meng et al. 2022

Where a part of the image is known, either its latents are put in place after every step
(`jaxgen.diffusion.conditioning.inpainting.Replacement`), or a network that was trained for it has
mask and masked image beside its latents (Rombach et al. 2022, section 4.5)::

    input = [z, 1 - m, E(m image)]        m: 1 where known, in the latents' grid
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Shaped

from jaxgen.diffusion.conditioning.masks import check_mask
from jaxgen.diffusion.process.level_lists import skip_steps, start_from
from jaxgen.diffusion.process.levels import Level
from jaxgen.errors import InputError
from jaxgen.pixels import as_unit
from jaxgen.pretrained.schedulers import SchedulerRecipe, noise_scale

STRENGTH, FILLING_STRENGTH = 0.8, 1.0
"""The usual strength, of changes of whole images and of their parts."""


class SourceImage(NamedTuple):
    """What samples start from, in the latents' grid.

    Attributes:
      z: latents of the images.
      strength: share of the steps that are run, 0 to 1.
      known: 1 where latents stay, 0 where they are to be made; None: none stays.
      beside: what the network has beside its latents, mask and masked image; None: nothing.
      noise_alone: whether samples start from noise, without the image, as none of it is meant to be
        seen but what is known.
    """

    z: Float[Array, "B Y X C"]
    strength: float = STRENGTH
    known: Float[Array, "B Y X 1"] | None = None
    beside: Float[Array, "B Y X C2"] | None = None
    noise_alone: bool = False


def make_source(
    encode: Callable[[Any], Float[Array, "B Y X C"]],
    image: Shaped[Any, "B Y2 X2 3"],
    known: Shaped[Any, "..."] | None,
    strength: float | None,
    factor: int,
    *,
    beside: bool,
) -> SourceImage:
    """What samples start from, of images and of what of them is known.

    Args:
      encode: images in [-1, 1] to latents.
      image: bytes, or numbers in [-1, 1].
      known: a mask that broadcasts against [B, Y2, X2, 1]: 1 where the image stays; None: nowhere.
        Without `beside` a latent stays as far as the least known of its pixels does. With it a
        pixel is known above 0.5, and a latent where its first pixel is, as the networks were
        trained.
      strength: 0 to 1; None: 0.8, or 1 with a mask.
      factor: pixels along the side of a latent.
      beside: whether the network has mask and masked image beside its latents.

    Raises:
      InputError: for a strength out of range, an image or a mask that is none, or no mask for a
        network that was trained with one.
    """
    usual = STRENGTH if known is None else FILLING_STRENGTH
    strength = usual if strength is None else strength
    if not 0 <= strength <= 1:
        raise InputError(f"strength is {strength}, expected 0 to 1, a share of the steps")
    x = np.asarray(as_unit(np.asarray(image), "image"), np.float32)
    if known is None:
        if beside:
            raise InputError("known is None, expected a mask: the network fills in parts of images")
        return SourceImage(encode(x), strength)
    check_mask(known, (*x.shape[:-1], 1))
    known_BYX1 = np.broadcast_to(np.asarray(known, np.float32), (*x.shape[:-1], 1))
    alone = strength == 1
    if not beside:
        kept = _least(known_BYX1, factor)
        return SourceImage(encode(x), strength, jnp.asarray(kept), None, alone)
    is_known = known_BYX1 > 0.5
    made = ~is_known[:, ::factor, ::factor]
    channels = jnp.asarray(made, jnp.float32), encode(np.where(is_known, x, 0))
    return SourceImage(encode(x), strength, None, jnp.concatenate(channels, -1), alone)


def start_of(
    source: SourceImage | None,
    noise: Float[Array, "B Y X C"],
    scheduler: SchedulerRecipe,
    steps: int,
) -> tuple[Float[Array, "B Y X C"], Level]:
    """Where sampling starts, and the levels from there on.

    Args:
      source: the images; None: there are none.
      noise: standard normal numbers.
      scheduler: of the model.
      steps: of all the way from noise.

    Raises:
      InputError: for noise of another shape than the images' latents, or a strength that leaves no
        step.
    """
    noise, levels = jnp.asarray(noise, jnp.float32), scheduler.levels(steps)
    if source is not None:
        if noise.shape != source.z.shape:
            raise InputError(
                f"noise has shape {noise.shape}, expected {source.z.shape}, that of the latents of "
                "the images"
            )
        run = int(steps * source.strength)
        if run < 1:
            raise InputError(
                f"strength is {source.strength} of {steps} steps, which leaves none, expected at "
                f"least {1 / steps:.4g}"
            )
        levels = skip_steps(levels, steps - run)
        if not source.noise_alone:
            return start_from(source.z, noise, levels), levels
    return noise * np.float32(noise_scale(scheduler, levels)), levels


def _least(known_BYX1: Float32[np.ndarray, "B Y X 1"], factor: int) -> np.ndarray:
    """The least of each block of factor x factor pixels."""
    batch, height, width, _ = known_BYX1.shape
    blocks = known_BYX1.reshape(batch, height // factor, factor, width // factor, factor, 1)
    return blocks.min((2, 4))
