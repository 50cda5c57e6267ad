"""The exact likelihood of a diffusion model, by its probability-flow ODE (Song et al. 2021).

Symbols: y = z / sqrt(a^2 + s^2) = A x + S e with A^2 + S^2 = 1, the latent in the scaling of the
scaling "vp", whatever the schedule's; lambda the log-SNR, x^ and e^ the denoiser's estimates::

    dy / d lambda = f(y, lambda) = -1/2 A S (A e^ - S x^)
    log p(y_0) = log N(y_1; 0, I) + integral of tr(df / dy) d lambda from lambda_0 to lambda_1

(equations 36 and 39 there, with lambda as time). The trace is exact, or estimated without bias by
v . (df / dy) v for random v with E[v v^T] = I (Hutchinson). At lambda_0 the data are taken for
y_0 / A: their density smoothed by noise of deviation exp(-lambda_0 / 2), 5e-5 for lambda_0 = 20.
"""

import math
from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, Shaped

from jaxgen.diffusion.denoiser import Denoiser
from jaxgen.diffusion.objectives.decoders import total
from jaxgen.diffusion.process.example_keys import example_indices, example_keys, normal, uniform
from jaxgen.diffusion.process.levels import Level, broadcast_level, scales
from jaxgen.diffusion.process.schedules import Schedule
from jaxgen.errors import InputError
from jaxgen.pixels import as_data, as_unit

Trace = Literal["rademacher", "gaussian", "exact"]
Method = Literal["heun", "rk4"]

_STAGES: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "heun": ((0.0, 1.0), (1 / 2, 1 / 2)),
    "rk4": ((0.0, 1 / 2, 1 / 2, 1.0), (1 / 6, 1 / 3, 1 / 3, 1 / 6)),
}
"""Method -> places of the evaluations in a step, and their weights; each uses the slope before."""


def log_likelihood(
    denoiser: Denoiser,
    x: Shaped[Array, "B ..."],
    key: Key[Array, ""],
    *,
    schedule: Schedule,
    count: int = 64,
    method: Method = "rk4",
    trace: Trace = "rademacher",
    limits: tuple[float, float] = (-20.0, 20.0),
    index_B: Int[Array, "B"] | None = None,
) -> Float[Array, "B"]:
    """log p(x) in nats, of the distribution that the ODE of a denoiser samples from.

    Args:
      denoiser: ``(z, level) -> Estimate``.
      x: data, [B, ...].
      key: randomness of the trace's estimate; an example's probe is the same in all steps.
      schedule: which log-SNRs the denoiser knows, and how it wants its latents scaled.
      count: steps, even in log-SNR; each evaluates the denoiser twice ("heun") or four times
        ("rk4").
      method: of second or fourth order.
      trace: how the trace is found; "exact" costs as much as D probes.
      limits: the least and the largest log-SNR that are used of the schedule.
      index_B: example indices, folded into the key; places in the batch unless given.

    Returns:
      [B], float32.

    Raises:
      InputError: for an unknown method or trace, fewer than one step, or limits that leave nothing
        of the schedule.
    """
    if method not in _STAGES:
        raise InputError(f"method is {method!r}, expected one of {', '.join(_STAGES)}")
    if trace not in get_args(Trace):
        raise InputError(f"trace is {trace!r}, expected one of {', '.join(get_args(Trace))}")
    if count < 1:
        raise InputError(f"count is {count}, expected at least 1 step")
    x = as_data(x).astype(jnp.float32)
    index_B = example_indices(index_B, len(x))
    slope = _make_slope(denoiser, trace, _probe(trace, key, index_B, x.shape[1:]))
    levels, sizes_N = _steps(schedule, count, method, limits)
    places, weights = _STAGES[method]

    def step(state: tuple[Array, Array], row: tuple[Level, Array]) -> tuple[Any, None]:
        y, integral_B = state
        stages, size = row
        change, gain_B = jnp.zeros_like(y), jnp.zeros_like(integral_B)
        velocity = change
        for i, (place, weight) in enumerate(zip(places, weights, strict=True)):
            level = Level(*(value[i] for value in stages))
            velocity, trace_B = slope(y + place * size * velocity, level)
            change, gain_B = change + weight * velocity, gain_B + weight * trace_B
        return (y + size * change, integral_B + size * gain_B), None

    first = levels.log_snr[0, 0]
    log_a = jnp.log(scales(jnp.asarray(first, jnp.float32), "vp")[0])
    start = jnp.exp(log_a) * x, jnp.zeros(len(x), x.dtype)
    (y, integral_B), _ = jax.lax.scan(step, start, (levels, sizes_N))
    size = x[0].size
    log_prior_B = -total(y**2) / 2 - size / 2 * math.log(2 * math.pi)
    return log_prior_B + integral_B + size * log_a


def dequantise(
    x: Shaped[Array, "B ..."],
    key: Key[Array, ""],
    index_B: Int[Array, "B"] | None = None,
    count: int = 256,
) -> Float[Array, "B ..."]:
    """Values spread uniformly over their cells (Theis et al. 2016).

    A model's density of such numbers says what probability it gives to the values; see
    `dequantised_bits`.

    Args:
      x: values ``2 k / (count - 1) - 1``.
      key: randomness.
      index_B: example indices, folded into the key; places in the batch unless given.
      count: how many values there are.

    Returns:
      x + (u - 1/2) width with width = 2 / (count - 1).
    """
    index_B = example_indices(index_B, len(x))
    x = as_unit(x, "x")
    u = uniform(example_keys(key, index_B), x.shape[1:])
    return x + (u - 0.5) * 2 / (count - 1)


def dequantised_bits(
    log_density_B: Float[Array, "B"], size: int, count: int = 256
) -> Float[Array, "B"]:
    """Bits per dimension of values, from the log-density of their dequantised form.

    Args:
      log_density_B: log p in nats.
      size: D, the numbers of an example.
      count: how many values a number can have.

    Returns:
      An upper bound on average: -log2(p width^D) / D.
    """
    return -(log_density_B / size + math.log(2 / (count - 1))) / math.log(2)


def _steps(
    schedule: Schedule, count: int, method: Method, limits: tuple[float, float]
) -> tuple[Level, Array]:
    """Levels of all evaluations [N, stages], and the steps' sizes in log-SNR, [N]; data first."""
    high = schedule.log_snr(0.0).clip(*limits)
    low = schedule.log_snr(1.0).clip(*limits)
    if not low < high:
        raise InputError(
            f"limits is {limits}, expected a range of log-SNR that the schedule has a part of"
        )
    size = (low - high) / count
    place = np.arange(count)[:, None] + np.array(_STAGES[method][0])
    levels = schedule.at_log_snr(high + size * place)
    as_float32 = jax.tree.map(lambda value: jnp.asarray(value, jnp.float32), levels)
    return as_float32, jnp.full((count,), size, jnp.float32)


def _make_slope(
    denoiser: Denoiser, trace: Trace, probe: Array
) -> Callable[[Array, Level], tuple[Array, Array]]:
    """f and the trace of its derivative, at y and a level."""

    def velocity(y: Float[Array, "B ..."], level: Level) -> Float[Array, "B ..."]:
        a, s = scales(level.log_snr, "vp")
        estimate = denoiser(jnp.hypot(level.a, level.s) * y, broadcast_level(level, len(y)))
        return -a * s / 2 * (a * estimate.e - s * estimate.x)

    def estimated(y: Float[Array, "B ..."], level: Level) -> tuple[Array, Array]:
        found, change = jax.jvp(lambda y: velocity(y, level), (y,), (probe,))
        return found, total(probe * change)

    def exact(y: Float[Array, "B ..."], level: Level) -> tuple[Array, Array]:
        found, push = jax.linearize(lambda y: velocity(y, level), y)
        basis = jnp.eye(y[0].size, dtype=y.dtype).reshape(-1, *y.shape[1:])

        def diagonal(direction: Array) -> Float[Array, "B"]:
            return total(direction * push(jnp.broadcast_to(direction, y.shape)))

        return found, jax.lax.map(diagonal, basis).sum(0)

    return exact if trace == "exact" else estimated


def _probe(
    trace: Trace, key: Key[Array, ""], index_B: Int[Array, "B"], shape: tuple[int, ...]
) -> Float[Array, "B ..."]:
    """Random directions with unit covariance."""
    keys_B = example_keys(key, index_B)
    if trace == "gaussian":
        return normal(keys_B, shape)
    return jnp.where(uniform(keys_B, shape) < 0.5, jnp.float32(-1), jnp.float32(1))
