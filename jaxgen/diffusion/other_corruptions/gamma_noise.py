"""Diffusion with gamma noise (Nachmani et al. 2021, "Denoising diffusion gamma models").

Symbols: z = a x + s e as everywhere, but e = (g - k) / sqrt(k), where g has the gamma distribution
of shape k and scale one: e has mean 0 and variance 1, skewness 2 / sqrt(k) and excess kurtosis 6/k.
The shape grows with the noise ::

    k_t = (s_t / (a_t theta))^2 = 1 / (theta^2 SNR_t)

so that steps add up: sums of gamma variables of one scale are such variables, and with s e =
(a theta) (g - k) the scale a theta shrinks as the data do. From a level (a', s') on to (a, s) ::

    z = (a/a') z' + a theta (g - k),      g of shape k = k_t - k_t'

for which the paper writes k = beta_t / (theta^2 prod alpha) in its table of steps. As theta goes to
zero this is Gaussian diffusion. Two moments being the same, schedules, weights and samplers are
those of Gaussian noise, and only the noise is drawn otherwise. The paper's loss is the absolute
error of e; here errors are squared and weighed as everywhere.
"""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, Shaped

from jaxgen.diffusion.denoiser import Denoiser, TimeInput, check_target_fits, thousandths
from jaxgen.diffusion.objectives.losses import (
    UNIFORM,
    V_LOSS,
    TrainingNetwork,
    draw_level,
    sum_of_losses,
)
from jaxgen.diffusion.objectives.time_distributions import Times
from jaxgen.diffusion.objectives.weightings import Weighting
from jaxgen.diffusion.process.example_keys import example_indices, example_keys
from jaxgen.diffusion.process.forward import Noised, add_noise
from jaxgen.diffusion.process.levels import Level, broadcast_level, expand
from jaxgen.diffusion.process.predictions import TargetName
from jaxgen.diffusion.process.schedules import Schedule
from jaxgen.diffusion.samplers.ancestral import Ancestral
from jaxgen.diffusion.samplers.linear import LinearRow
from jaxgen.diffusion.samplers.sampling import SampleState
from jaxgen.errors import check_positive
from jaxgen.pixels import as_data

THETA = 0.001
"""The paper's."""

LARGE_SHAPE = 1e4
SHAPES = (1e-12, 1e30)
"""Shapes are kept within these, so that noise is finite at s = 0 and normal at a = 0."""


def gamma_shape(level: Level, theta: float = THETA) -> Float[Array, "..."]:
    """k = (s / (a theta))^2, of the shape of the level, kept within `SHAPES`."""
    log_k = -jnp.asarray(level.log_snr, jnp.float32) - 2 * jnp.log(theta)
    low, high = SHAPES
    return jnp.exp(jnp.clip(log_k, math.log(low), math.log(high)))


def gamma_noise(
    keys_B: Key[Array, "B"], shape: tuple[int, ...], k_B: Float[Array, "B"]
) -> Float[Array, "B ..."]:
    """(g - k) / sqrt(k) with g ~ Gamma(k, 1): mean 0 and variance 1 for any shape.

    Large shapes, for which g - k would have no digits left, are drawn by the transform of Marsaglia
    & Tsang (2000), g = d (1 + n / sqrt(9 d))^3 with d = k - 1/3 and normal n, of whose proposals
    less than one in 10^4 would be refused there, and with k subtracted on paper.

    Args:
      keys_B: the examples' keys.
      shape: of one example, without B.
      k_B: the gamma distribution's shape.

    Returns:
      [B, *shape], float32.
    """

    def one(key: Key[Array, ""], k: Float[Array, ""]) -> Float[Array, "..."]:
        small = jnp.minimum(k, LARGE_SHAPE)
        exact = (jax.random.gamma(key, small, shape, jnp.float32) - small) / jnp.sqrt(small)
        large = jnp.maximum(k, LARGE_SHAPE)
        d, n = large - 1 / 3, jax.random.normal(key, shape, jnp.float32)
        cube = jnp.sqrt(d) * n + (n * n - 1) / 3 + n**3 / (27 * jnp.sqrt(d))
        return jnp.where(k < LARGE_SHAPE, exact, cube / jnp.sqrt(large))

    return jax.vmap(one)(keys_B, k_B)


def draw_gamma_noised(
    x: Shaped[Array, "B ..."],
    key: Key[Array, ""],
    *,
    schedule: Schedule,
    theta: float = THETA,
    times: Times = UNIFORM,
    index_B: Int[Array, "B"] | None = None,
) -> Noised:
    """`jaxgen.diffusion.objectives.losses.draw_noised` with gamma noise.

    Args:
      x: data, [B, ...].
      key: randomness.
      schedule: the noise schedule.
      theta: the scale of the noise.
      times: how times are drawn.
      index_B: example indices, folded into the key; places in the batch unless given.

    Returns:
      The latents, in float32.

    Raises:
      InputError: unless theta > 0, and as `jaxgen.diffusion.objectives.losses.draw_level`.
    """
    check_theta(theta)
    x = as_data(x).astype(jnp.float32)
    index_B = example_indices(index_B, len(x))
    time_key, noise_key = jax.random.split(key)
    level = draw_level(time_key, index_B, schedule, times)
    e = gamma_noise(example_keys(noise_key, index_B), x.shape[1:], gamma_shape(level, theta))
    return Noised(add_noise(x, e, level), e, level)


def add_gamma_step(
    z: Float[Array, "B ..."],
    keys_B: Key[Array, "B"],
    now: Level,
    after: Level,
    theta: float = THETA,
) -> Float[Array, "B ..."]:
    """One step of the forward process: latents at a level, taken to one with more noise.

    Args:
      z: latents at `now`, [B, ...].
      keys_B: the examples' keys.
      now: their level, [] or [B].
      after: the noisier one.
      theta: the scale of the noise.

    Returns:
      Latents at `after`, [B, ...].
    """
    now, after = broadcast_level(now, len(z)), broadcast_level(after, len(z))
    ratio = after.a / now.a
    # How much of the noise at `after` is new: 1 - SNR / SNR', all of it where there was none.
    share = 1 - jnp.where(now.s > 0, (ratio * now.s) ** 2 / jnp.maximum(after.s, 1e-30) ** 2, 0.0)
    share = jnp.maximum(share, 0.0)
    k_B = jnp.maximum(share * gamma_shape(after, theta), SHAPES[0])
    deviation_B = after.s * jnp.sqrt(share)
    return expand(ratio, z) * z + expand(deviation_B, z) * gamma_noise(keys_B, z.shape[1:], k_B)


def gamma_noise_loss(
    network: TrainingNetwork,
    x: Shaped[Array, "B ..."],
    key: Key[Array, ""],
    *,
    schedule: Schedule,
    theta: float = THETA,
    target: TargetName = "v",
    weighting: Weighting = V_LOSS,
    times: Times = UNIFORM,
    index_B: Int[Array, "B"] | None = None,
    time_input: TimeInput = thousandths,
) -> tuple[Float[Array, "B"], Level]:
    """`jaxgen.diffusion.objectives.losses.diffusion_loss` with gamma noise.

    Args:
      network: ``(z, time) -> prediction``, its conditions closed over.
      x: data, [B, ...].
      key: randomness.
      schedule: the noise schedule.
      theta: the scale of the noise.
      target: what the network predicts; e is (g - k) / sqrt(k).
      weighting: the weight of |x - x^|^2.
      times: how times are drawn.
      index_B: example indices, folded into the key; places in the batch unless given.
      time_input: the network's conditioning on the level.

    Returns:
      The losses, [B], and the levels at which they were taken.

    Raises:
      InputError: unless theta > 0, and as `jaxgen.diffusion.objectives.losses.diffusion_loss`.
    """
    target = check_target_fits(schedule, target)
    noised = draw_gamma_noised(x, key, schedule=schedule, theta=theta, times=times, index_B=index_B)
    outputs = network(noised.z, time_input(noised.level))
    loss_B = sum_of_losses(outputs, x, noised, target=target, weighting=weighting)
    return loss_B, noised.level


def initial_gamma_noise(
    key: Key[Array, ""],
    index_B: Int[Array, "B"],
    shape: tuple[int, ...],
    level: Level,
    theta: float = THETA,
) -> Float[Array, "B ..."]:
    """`jaxgen.diffusion.samplers.sampling.initial_noise` with gamma noise.

    Args:
      key: randomness.
      index_B: which example each is.
      shape: of one example, without B.
      level: the first level ([]), or all the levels of a sampler ([N + 1]).
      theta: the scale of the noise.

    Returns:
      [B, *shape].

    Raises:
      InputError: unless theta > 0.
    """
    check_theta(theta)
    first = Level(*(jnp.ravel(jnp.asarray(value, jnp.float32))[0] for value in level))
    k_B = jnp.broadcast_to(gamma_shape(first, theta), index_B.shape)
    return jnp.hypot(first.a, first.s) * gamma_noise(example_keys(key, index_B), shape, k_B)


@dataclass(frozen=True)
class GammaAncestral(Ancestral):
    """Ancestral sampling with gamma noise of the next level's shape.

    Attributes:
      theta: the scale of the noise.

    Raises:
      InputError: unless theta > 0, and as `Ancestral`.
    """

    theta: float = THETA

    def __post_init__(self) -> None:
        super().__post_init__()
        check_theta(self.theta)

    @property
    def noisy(self) -> bool:
        """It adds its own noise, not the normal one."""
        return False

    def step(
        self, denoiser: Denoiser, state: SampleState, row: LinearRow, keys_B: Key[Array, "B"]
    ) -> SampleState:
        """See `jaxgen.diffusion.samplers.sampling.Sampler`."""
        state = super().step(denoiser, state, row, keys_B)
        k_B = jnp.broadcast_to(gamma_shape(row.next, self.theta), len(keys_B))
        e = gamma_noise(keys_B, state.z.shape[1:], k_B)
        return state._replace(z=state.z + row.noise * e)


def check_theta(theta: float) -> None:
    """Validates a scale.

    Raises:
      InputError: unless theta is a finite number > 0.
    """
    check_positive("theta", theta)
