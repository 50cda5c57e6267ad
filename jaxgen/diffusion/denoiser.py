"""Denoisers: what samplers, guidance and losses evaluate, whatever the network.

A *network* is a callable ``network(z, time) -> prediction`` with its conditions closed over; a
*denoiser* is a callable ``denoiser(z, level) -> Estimate`` of the data and the noise in z. Whatever
guides, clips or thresholds is a function from denoisers to denoisers, so they compose::

    denoiser = make_denoiser(lambda z, time: model.apply(params, z, time, labels), "v")
    denoiser = clip_x(guide(denoiser, ...))

Symbols: z = a x + s e.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgen.diffusion.process.levels import Level, broadcast_level, expand
from jaxgen.diffusion.process.predictions import Target, check_target, divide, to_x_and_e
from jaxgen.diffusion.process.schedules import Schedule, check_schedule
from jaxgen.diffusion.process.table_schedules import DiscreteSchedule, TableSchedule
from jaxgen.errors import InputError


class Estimate(NamedTuple):
    """A denoiser's estimates from a latent.

    Attributes:
      x: the data, [B, ...].
      e: the noise, [B, ...]; ``z = a x + s e`` unless something was clipped without recomputing it.
      fraction: where a learnt variance lies between the least and the largest one (0 to 1, in
        logarithms; Nichol & Dhariwal 2021, equation 15), [B, ...], or None.
    """

    x: Array
    e: Array
    fraction: Array | None = None


Network = Callable[[Array, Array], Array]
"""``(z [B, ...], time [B], or [B, T] for levels of frames) -> prediction [B, ...]``."""

Denoiser = Callable[[Array, Level], Estimate]
"""``(z [B, ...], level of [B], [B, T] or [] each) -> Estimate``."""

TimeInput = Callable[[Level], Any]
"""The network's conditioning on the noise level: ``level -> numbers of the same shape``."""


def thousandths(level: Level) -> Any:
    """1000 t: the scale that sinusoidal embeddings are made for."""
    return 1000 * level.t


def step_index(schedule: TableSchedule) -> TimeInput:
    """The number of the step, the time input of networks trained on a table of steps."""
    return lambda level: schedule.index(level.t)


def make_denoiser(
    network: Network,
    target: Target,
    *,
    time_input: TimeInput = thousandths,
    learned_variance: bool = False,
) -> Denoiser:
    """The denoiser of a network.

    Args:
      network: ``(z, time) -> prediction``.
      target: what it predicts.
      time_input: its conditioning on the noise level.
      learned_variance: whether the prediction is twice as long along the last axis, the second half
        an output in [-1, 1], the variance's place between its bounds.

    Returns:
      The denoiser.

    Raises:
      InputError: for an unknown target; when called, for a prediction of the wrong shape.
    """
    check_target(target)

    def denoiser(z: Float[Array, "B ..."], level: Level) -> Estimate:
        level = broadcast_level(level, len(z))
        prediction = network(z, time_input(level))
        fraction = None
        if learned_variance:
            prediction, output = split_variance(prediction)
            fraction = (output + 1) / 2
        return Estimate(*to_x_and_e(prediction, z, level, target), fraction)

    return denoiser


def split_variance(
    prediction: Float[Array, "B ... C"],
) -> tuple[Float[Array, "B ... C2"], Float[Array, "B ... C2"]]:
    """A prediction and what was learnt of the variance, each half of the last axis.

    Raises:
      InputError: where the last axis is odd.
    """
    if prediction.shape[-1] % 2:
        raise InputError(
            f"prediction has shape {prediction.shape}, expected an even last axis, mean and "
            "variance"
        )
    first, second = jnp.split(prediction, 2, -1)
    return first, second


def check_target_fits(schedule: Schedule, target: Target) -> None:
    """Refuses to predict noise where nothing else is left.

    At zero SNR z is the noise, and a network that predicts it says nothing of the data (Lin et al.
    2024): only x, v, flow and both make sense.

    Raises:
      InputError: for the targets e and score under a schedule whose log-SNR ends at -inf, for an
        unknown target, and for a schedule that is none.
    """
    check_schedule(schedule)
    if check_target(target) not in ("e", "score"):
        return
    end = schedule.at(1.0).log_snr
    # A learnt schedule's end is a parameter, which is finite and not known while tracing.
    if not isinstance(end, jax.core.Tracer) and float(end) == -math.inf:
        name = "zero_terminal_snr" if isinstance(schedule, DiscreteSchedule) else "this schedule"
        raise InputError(
            f"target is {target!r} with {name}: at zero SNR the noise says nothing of the data, "
            "expected target x, v, flow or both"
        )


def clip_x(
    denoiser: Denoiser,
    low: float = -1.0,
    high: float = 1.0,
    *,
    recompute_e: bool = True,
) -> Denoiser:
    """Keeps x^ within the range of the data.

    Args:
      denoiser: what is clipped.
      low: least value.
      high: largest value.
      recompute_e: whether e^ is recomputed from the clipped x^, so that ``z = a x^ + s e^`` still
        holds (Salimans & Ho 2022), or left as predicted (a common default of other libraries,
        there called ``use_clipped_model_output=False``).

    Raises:
      InputError: unless low < high.
    """
    if not low < high:
        raise InputError(f"low is {low}, high is {high}, expected low < high")
    return change_x(denoiser, lambda x: jnp.clip(x, low, high), recompute_e=recompute_e)


def threshold_x(
    denoiser: Denoiser,
    percentile: float = 0.995,
    limit: float = math.inf,
    *,
    recompute_e: bool = True,
) -> Denoiser:
    """Dynamic thresholding (Saharia et al. 2022, section 2.3).

    Per example, with q the percentile of the absolute values of x^: where q > 1, x^ is clipped to
    [-q, q] and divided by q. Frames of a video have one q, whatever their levels.

    Args:
      denoiser: what is thresholded.
      percentile: share of numbers that are not clipped, in (0, 1].
      limit: the largest q.
      recompute_e: as in `clip_x`.

    Raises:
      InputError: for a percentile out of range, or a limit below 1.
    """
    if not 0 < percentile <= 1:
        raise InputError(f"percentile is {percentile}, expected 0 < percentile <= 1")
    if not limit >= 1:
        raise InputError(f"limit is {limit}, expected at least 1")

    def threshold(x: Float[Array, "B ..."]) -> Float[Array, "B ..."]:
        q = jnp.quantile(jnp.abs(x).reshape(len(x), -1), percentile, axis=1)
        q = expand(jnp.clip(q, 1.0, limit), x)
        return jnp.clip(x, -q, q) / q

    return change_x(denoiser, threshold, recompute_e=recompute_e)


def change_x(
    denoiser: Denoiser, change: Callable[[Array], Array], *, recompute_e: bool = True
) -> Denoiser:
    """A denoiser whose x^ is changed, and with it e^ unless it is to be left alone."""

    def changed(z: Float[Array, "B ..."], level: Level) -> Estimate:
        estimate = denoiser(z, level)
        x = change(estimate.x)
        return estimate._replace(x=x, e=noise_given(x, z, level) if recompute_e else estimate.e)

    return changed


def noise_given(x: Array, z: Float[Array, "B ..."], level: Level) -> Float[Array, "B ..."]:
    """e with z = a x + s e; zero where s is."""
    return divide(z - expand(level.a, z) * x, expand(level.s, z))


def evaluate_at(denoiser: Denoiser, schedule: Schedule) -> Callable[[Array, Any], Estimate]:
    """The denoiser as a function of latent and time: ``(z [B, ...], t [B] or []) -> Estimate``."""
    return lambda z, t: denoiser(z, jax.tree.map(jnp.asarray, schedule.at(t)))
