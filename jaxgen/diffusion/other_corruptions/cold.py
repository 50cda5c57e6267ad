"""Cold diffusion (Bansal et al. 2022): any degradation in the place of noise.

Symbols: x data, t in [0, 1], D(x, t) the data degraded as far as t with D(x, 0) = x, and R a
network that restores, x^ = R(z, t). Nothing is random: D blurs, coarsens or erases::

    loss           |R(D(x, t), t) - x|
    algorithm 1    z' = D(x^, t')
    algorithm 2    z' = z - D(x^, t) + D(x^, t')

The first is what samplers of noise do, and it adds up the errors of R. The second evaluates R only
for the difference: for degradations of the form ``D(x, t) = x + t d`` it recovers x whatever R
answers (section 3.3), and for those that are linear in x an error r of R leaves ``r - D(r, 1)``,
nothing of what D does not remove.

A degradation is any callable ``(x [B, ...], t [B]) -> [B, ...]``; `Blur`, `Pixelate` and `Erase`
are those of images, worked out.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, Shaped

from jaxgen.diffusion.conditioning.image_to_image import downsample
from jaxgen.diffusion.objectives.losses import UNIFORM
from jaxgen.diffusion.objectives.time_distributions import Times
from jaxgen.diffusion.process.example_keys import example_indices
from jaxgen.diffusion.process.levels import expand
from jaxgen.errors import InputError, check_positive
from jaxgen.pixels import as_data

Degradation = Callable[[Array, Array], Array]
"""``(x [B, ...], t [B]) -> D(x, t)``, of the shape of x."""

Restorer = Callable[[Array, Array], Array]
"""``(z [B, ...], t [B]) -> x^``."""


def cold_loss(
    restorer: Restorer,
    degradation: Degradation,
    x: Shaped[Array, "B ..."],
    key: Key[Array, ""],
    *,
    times: Times = UNIFORM,
    index_B: Int[Array, "B"] | None = None,
) -> tuple[Float[Array, "B"], Float[Array, "B"]]:
    """The mean of |R(D(x, t), t) - x| over an example's numbers, at a random t.

    Args:
      restorer: R, a network with its time input and conditions closed over.
      degradation: D.
      x: data, [B, ...].
      key: randomness.
      times: how times are drawn; `Steps` for degradations that go in steps.
      index_B: example indices, folded into the key; places in the batch unless given.

    Returns:
      The losses, [B], and the times, [B].
    """
    x = as_data(x).astype(jnp.float32)
    t_B = times.draw(key, example_indices(index_B, len(x)))
    error = jnp.abs(restorer(degradation(x, t_B), t_B) - x)
    return error.mean(tuple(range(1, x.ndim))), t_B


def cold_sample(
    restorer: Restorer,
    degradation: Degradation,
    z: Shaped[Array, "B ..."],
    count: int,
    *,
    algorithm: Literal[1, 2] = 2,
) -> Float[Array, "B ..."]:
    """Takes degraded data back to t = 0, in one scan over even steps of t.

    Args:
      restorer: R.
      degradation: D.
      z: data at t = 1, [B, ...].
      count: steps.
      algorithm: 1, or the improved 2; see the module.

    Returns:
      [B, ...].

    Raises:
      InputError: for a count below 1, or another algorithm.
    """
    if count < 1:
        raise InputError(f"count is {count}, expected at least 1")
    if algorithm not in (1, 2):
        raise InputError(f"algorithm is {algorithm}, expected 1 or 2")
    z = as_data(z, "z")
    t_N = jnp.linspace(1, 0, count + 1)

    def step(z: Array, pair: tuple[Array, Array]) -> tuple[Array, None]:
        now_B, after_B = (jnp.broadcast_to(t, (len(z),)) for t in pair)
        x = restorer(z, now_B)
        there = degradation(x, after_B)
        return (there if algorithm == 1 else z - degradation(x, now_B) + there), None

    return jax.lax.scan(step, z.astype(jnp.float32), (t_N[:-1], t_N[1:]))[0]


@dataclass(frozen=True)
class Blur:
    """Convolution with a Gaussian of deviation t * largest, images being continued periodically.

    Exact in frequencies: a wave of w radians per pixel is multiplied by exp(-w^2 deviation^2 / 2),
    and what was blurred twice is blurred by the sum of the variances.

    Attributes:
      largest: deviation at t = 1, in pixels.

    Raises:
      InputError: unless largest > 0.
    """

    largest: float = 4.0

    def __post_init__(self) -> None:
        check_positive("largest", self.largest)

    def __call__(
        self, x_BYXC: Float[Array, "B Y X C"], t_B: Float[Array, "B"]
    ) -> Float[Array, "B Y X C"]:
        """The blurred images."""
        _, height, width, _ = x_BYXC.shape
        rows_Y, columns_X = np.fft.fftfreq(height), np.fft.rfftfreq(width)
        square_YX = (2 * np.pi) ** 2 * (rows_Y[:, None] ** 2 + columns_X**2)
        variance = expand((self.largest * jnp.asarray(t_B, jnp.float32)) ** 2, x_BYXC)
        kept = jnp.exp(-variance * square_YX[..., None].astype(np.float32) / 2)
        waves = jnp.fft.rfft2(x_BYXC.astype(jnp.float32), axes=(1, 2))
        return jnp.fft.irfft2(kept * waves, s=(height, width), axes=(1, 2))


@dataclass(frozen=True)
class Pixelate:
    """Means over blocks of 2^k pixels, k = 0 .. levels in even steps of t, as large as before.

    Attributes:
      levels: k at t = 1.

    Raises:
      InputError: for less than one level; when called, for sides that 2^levels does not divide.
    """

    levels: int = 3

    def __post_init__(self) -> None:
        if self.levels < 1:
            raise InputError(f"levels is {self.levels}, expected at least 1")

    def __call__(
        self, x_BYXC: Float[Array, "B Y X C"], t_B: Float[Array, "B"]
    ) -> Float[Array, "B Y X C"]:
        """The coarse images."""
        level = expand(jnp.rint(t_B * self.levels), x_BYXC)
        z = x_BYXC
        for k in range(1, self.levels + 1):
            blocks = downsample(x_BYXC, 2**k)
            coarse = blocks.repeat(2**k, axis=1).repeat(2**k, axis=2)
            z = jnp.where(level >= k, coarse, z)
        return z


@dataclass(frozen=True)
class Erase:
    """A growing hole in the middle: x exp(-depth t g), g a Gaussian bump of height one.

    Fading by one mask after the other, as the paper's inpainting does, with infinitely many masks:
    what was erased for t and then for u was erased for t + u.

    Attributes:
      radius: deviation of the bump, in units of the images' shorter side.
      depth: at t = 1 the middle is multiplied by exp(-depth).

    Raises:
      InputError: unless both are positive.
    """

    radius: float = 0.25
    depth: float = 8.0

    def __post_init__(self) -> None:
        check_positive("radius", self.radius)
        check_positive("depth", self.depth)

    def __call__(
        self, x_BYXC: Float[Array, "B Y X C"], t_B: Float[Array, "B"]
    ) -> Float[Array, "B Y X C"]:
        """The images with the hole, in which they are zero."""
        _, height, width, _ = x_BYXC.shape
        y_Y, x_X = (np.arange(side) - (side - 1) / 2 for side in (height, width))
        deviation = self.radius * min(height, width)
        bump_YX = np.exp(-(y_Y[:, None] ** 2 + x_X**2) / (2 * deviation**2))
        return x_BYXC * jnp.exp(-self.depth * expand(t_B, x_BYXC) * bump_YX[..., None])
