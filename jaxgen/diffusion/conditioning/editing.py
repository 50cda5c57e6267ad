"""Editing images with a denoiser that was trained on nothing but images.

Symbols: z = a x + s e; levels 0 .. N of a sampler, from noise to data.

* SDEdit (Meng et al. 2022): noise to the level of some strength, then the sampler from there on.
* Encoding (Song et al. 2021, section 4.3): the probability-flow ODE from data to noise. Decoding
  is the same sampler the other way, so an image comes back, up to the steps' error.
* Translation: encoded with one condition, decoded with another (Su et al. 2023, dual diffusion
  implicit bridges).
* Interpolation of codes along the sphere (Song et al. 2021, section 5.3), where noise lies.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, Shaped

from jaxgen.diffusion.denoiser import Denoiser
from jaxgen.diffusion.process.example_keys import example_indices, example_keys, normal
from jaxgen.diffusion.process.forward import add_noise
from jaxgen.diffusion.process.levels import Level, broadcast_level, expand
from jaxgen.diffusion.process.predictions import divide
from jaxgen.diffusion.process.step_levels import reverse_steps
from jaxgen.diffusion.samplers import DDIM
from jaxgen.diffusion.samplers.sampling import Sampler, sample
from jaxgen.errors import InputError
from jaxgen.pixels import as_data


def last_steps(levels: Level, strength: float) -> Level:
    """The end of a sampler's steps, from the first level with ``t <= strength`` on.

    Args:
      levels: [N + 1], from noise to data.
      strength: how much of the process is run, in (0, 1]; 1 is all of it.

    Returns:
      [M + 1] with M <= N, for SDEdit.

    Raises:
      InputError: for a strength out of range, or one that leaves no step.
    """
    if not 0 < strength <= 1:
        raise InputError(f"strength is {strength}, expected 0 < strength <= 1")
    t_N = np.asarray(levels.t, np.float64)
    first = int((t_N <= strength + 1e-9).argmax())
    if len(t_N) - first < 2:
        raise InputError(
            f"strength is {strength}: the last step begins at t={t_N[-2]:.4g}, expected at least "
            "that"
        )
    return Level(*(np.asarray(value)[first:] for value in levels))


def sdedit(
    sampler: Sampler,
    denoiser: Denoiser,
    x: Shaped[Array, "B ..."],
    levels: Level,
    key: Key[Array, ""],
    index_B: Int[Array, "B"] | None = None,
) -> Float[Array, "B ..."]:
    """Noises a guide image to the first of some levels and samples from there (Meng et al. 2022).

    What is coarser than that noise stays as in x; the rest is resampled. Within a mask:
    ``sampler = Replacement(sampler, known, x)``.

    Args:
      sampler: the method.
      denoiser: what the result shall look like, with its conditions.
      x: guides such as strokes, collages, other images; [B, ...].
      levels: ``last_steps(levels, strength)``.
      key: randomness.
      index_B: which example each is; 0 .. B-1 if not given.

    Returns:
      Edited images, [B, ...].
    """
    x, index_B = as_data(x), example_indices(index_B, len(x))
    first = jax.tree.map(lambda value: jnp.float32(value[0]), levels)
    e = normal(example_keys(key, index_B), x.shape[1:])
    z = add_noise(x, e, broadcast_level(first, len(x)))
    return sample(sampler, denoiser, z, levels, key, index_B)


def encode(
    denoiser: Denoiser, x: Shaped[Array, "B ..."], levels: Level, sampler: Sampler | None = None
) -> Float[Array, "B ..."]:
    """The latents at the noisiest level that decode to images (DDIM inversion).

    Args:
      denoiser: with the condition that describes x; guidance makes inversion less exact.
      x: images.
      levels: [N + 1], from noise to data.
      sampler: a sampler without randomness; DDIM unless given.

    Returns:
      z at ``levels[0]``, [B, ...].
    """
    return _follow(denoiser, as_data(x), reverse_steps(levels), sampler)


def decode(
    denoiser: Denoiser, z: Float[Array, "B ..."], levels: Level, sampler: Sampler | None = None
) -> Float[Array, "B ..."]:
    """The images of latents at ``levels[0]``, by the same ODE; arguments as `encode`."""
    return _follow(denoiser, z, levels, sampler)


def translate(
    source: Denoiser, target: Denoiser, x: Float[Array, "B ..."], levels: Level
) -> Float[Array, "B ..."]:
    """Image to image by inversion: encoded with one denoiser, decoded with another.

    Args:
      source: with the condition that describes x.
      target: with the condition that is wanted.
      x: images.
      levels: [N + 1], from noise to data.
    """
    return decode(target, encode(source, x, levels), levels)


def interpolate(
    denoiser: Denoiser,
    first: Float[Array, "B ..."],
    second: Float[Array, "B ..."],
    shares_S: Float[Array, "S"],
    levels: Level,
) -> Float[Array, "S B ..."]:
    """Images between two others: codes interpolated along the sphere, then decoded.

    Args:
      denoiser: for both.
      first: images for share 0.
      second: images for share 1, of the same shape.
      shares_S: how far from the first to the second.
      levels: [N + 1], from noise to data.

    Returns:
      [S, B, ...].
    """
    codes = encode(denoiser, first, levels), encode(denoiser, second, levels)
    between = jax.vmap(slerp, (None, None, 0))(*codes, jnp.asarray(shares_S))
    images = decode(denoiser, between.reshape(-1, *first.shape[1:]), levels)
    return images.reshape(between.shape)


def slerp(
    first: Float[Array, "B ..."],
    second: Float[Array, "B ..."],
    share: float | Float[Array, "..."],
) -> Float[Array, "B ..."]:
    """Spherical interpolation, sin((1-f) u)/sin(u) z + sin(f u)/sin(u) z', u the angle between.

    Lengths stay those of noise where straight lines would pass near zero. Along parallel latents
    it is the straight line, and so along opposite ones, which have no shortest way on the sphere.

    Args:
      first: z, for share 0.
      second: z', for share 1.
      share: f, [] or [B].
    """
    flat, other = (z.reshape(len(z), -1) for z in (first, second))
    ends = [divide(z, _length(z)) for z in (flat, other)]
    # The angle from both diagonals of the rhombus: exact for small and large ones alike.
    angle_B = 2 * jnp.arctan2(_length(ends[0] - ends[1]), _length(ends[0] + ends[1]))[:, 0]
    share_B = jnp.broadcast_to(jnp.asarray(share, jnp.float32), angle_B.shape)
    # sin(f u) / sin(u) = f sinc(f u / pi) / sinc(u / pi), finite at u = 0.
    whole_B = jnp.sinc(angle_B / jnp.pi)
    opposite_B = whole_B < 1e-3

    def weight(f_B: Float[Array, "B"]) -> Float[Array, "B ..."]:
        curve_B = jnp.sinc(f_B * angle_B / jnp.pi) / jnp.where(opposite_B, 1.0, whole_B)
        return expand(f_B * jnp.where(opposite_B, 1.0, curve_B), first)

    return weight(1 - share_B) * first + weight(share_B) * second


def _length(z: Float[Array, "B N"]) -> Float[Array, "B 1"]:
    """The norm, [B, 1], with a finite gradient at zero."""
    square = (z * z).sum(1, keepdims=True)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)


def _follow(
    denoiser: Denoiser, z: Array, levels: Level, sampler: Sampler | None
) -> Float[Array, "B ..."]:
    """A sampler that draws nothing."""
    sampler = DDIM() if sampler is None else sampler
    return sample(sampler, denoiser, z, levels, jax.random.key(0))
