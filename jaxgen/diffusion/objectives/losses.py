"""The loss of a diffusion model, one number per example.

Symbols: x data, e ~ N(0, 1), z = a x + s e at a level drawn for each example, w(SNR) the weight of
|x - x^|^2. A norm is a *mean* over the numbers of an example here, so that a loss does not grow
with the size of images; the variational bound (`jaxgen.diffusion.objectives.variational`) has sums
instead.

A loss for training is a mean of these, for parameters p::

    def loss_fn(p, batch, key):
        network = lambda z, time: model.apply(p, z, time, batch["label"])
        loss_B, level = diffusion_loss(network, batch["image"], key, schedule=schedule)
        return loss_B.mean(), loss_by_level(loss_B, level)

(`loss_by_level` wants one level for each example: it has no place beside ``level_axes=2``.)
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, Shaped

from jaxgen.diffusion.denoiser import (
    Denoiser,
    TimeInput,
    check_target_fits,
    thousandths,
)
from jaxgen.diffusion.objectives.time_distributions import Times, Uniform
from jaxgen.diffusion.objectives.weightings import SNRPlus, Weighting
from jaxgen.diffusion.process.example_keys import example_indices, example_keys, normal
from jaxgen.diffusion.process.forward import Noised, add_noise
from jaxgen.diffusion.process.levels import Level, expand
from jaxgen.diffusion.process.predictions import TargetName, channels_of, check_target, make_target
from jaxgen.diffusion.process.schedules import Schedule, check_schedule
from jaxgen.errors import InputError, check_kind
from jaxgen.pixels import as_data, as_unit

Outputs = Array | tuple[Array, ...]
"""What a network gives in training: a prediction, or several of the same target."""

TrainingNetwork = Callable[[Array, Any], Outputs]
"""``(z [B, ...], time) -> outputs``."""

UNIFORM = Uniform()
V_LOSS = SNRPlus()


def draw_level(
    key: Key[Array, ""],
    index_B: Int[Array, "B"],
    schedule: Schedule,
    times: Times,
    parts: tuple[int, ...] = (),
) -> Level:
    """A schedule's level at a time drawn for every example ([B]), or part of one ([B, *parts]).

    Raises:
      InputError: for names where a schedule or times are wanted.
    """
    check_schedule(schedule)
    check_kind("times", times, Times, "Uniform()")
    return jax.tree.map(jnp.asarray, schedule.at(times.draw(key, index_B, parts)))


def draw_noised(
    x: Shaped[Array, "B ..."],
    key: Key[Array, ""],
    *,
    schedule: Schedule,
    times: Times = UNIFORM,
    index_B: Int[Array, "B"] | None = None,
    level_axes: int = 1,
) -> Noised:
    """Draws a time and noise for every example.

    Args:
      x: data, [B, ...].
      key: randomness.
      schedule: the noise schedule.
      times: how times are drawn.
      index_B: example indices, folded into the key; places in the batch unless given.
      level_axes: how many leading axes have levels of their own: 1 for one level an example, 2 for
        one level a frame of videos [B, T, ...] (Chen et al. 2024, "Diffusion forcing").

    Returns:
      The latents, in float32.

    Raises:
      InputError: as `draw_level`, and for axes that the data do not have.
    """
    if not 1 <= level_axes <= x.ndim:
        raise InputError(
            f"level_axes is {level_axes} for data of shape {x.shape}, expected 1 to {x.ndim}"
        )
    x = as_data(x).astype(jnp.float32)
    index_B = example_indices(index_B, len(x))
    time_key, noise_key = jax.random.split(key)
    level = draw_level(time_key, index_B, schedule, times, x.shape[1:level_axes])
    e = normal(example_keys(noise_key, index_B), x.shape[1:])
    return Noised(add_noise(x, e, level), e, level)


def prediction_loss(
    prediction: Float[Array, "B ..."],
    x: Shaped[Array, "B ..."],
    e: Float[Array, "B ..."],
    level: Level,
    *,
    target: TargetName,
    weighting: Weighting,
) -> Float[Array, "B"]:
    """w(SNR) |x - x^|^2 of a prediction, written in its own terms and so finite at both ends.

    With the target "both" the loss is on the x^ that the two predictions make together (Salimans &
    Ho 2022, section 4).

    Args:
      prediction: of the target, [B, ...].
      x: data, [B, ...].
      e: the noise in the latents, [B, ...].
      level: the noise level, [B] or [], or of the leading axes of x.
      target: what is predicted.
      weighting: w.

    Returns:
      [B], float32: means over the parts of an example, each with the weight of its level.

    Raises:
      InputError: for an unknown target, a weighting that is none, or a prediction that has not the
        target's shape.
    """
    check_kind("weighting", weighting, Weighting, 'SNR(), or weighting_named("snr")')
    target, x = check_target(target), as_unit(x, "x", limit=math.inf)
    shape = (*x.shape[:-1], channels_of(target, x.shape[-1]))
    if prediction.shape != shape:
        raise InputError(
            f"prediction has shape {prediction.shape} for data of shape {x.shape}, expected "
            f"{shape} for target {target!r}"
        )
    error = make_target(target, x, e, level) - prediction.astype(jnp.float32)
    if target == "both":
        error = both_error(error, level)
    weight = weighting.weight(level, target)
    return mean_of_each(weight * mean_of_each(jnp.square(error), max(1, jnp.ndim(weight))))


def both_error(error: Float[Array, "B ... C2"], level: Level) -> Float[Array, "B ... C"]:
    """The error of x^ from those of x~ and e~, divided by sqrt(S), with S = s^2 / (a^2 + s^2).

    Args:
      error: (x - x~, e - e~) along the last axis.
      level: the noise level, [B], [B, T] or [].
    """
    x, e = jnp.split(error, 2, -1)
    share = expand(jax.nn.sigmoid(jnp.asarray(level.log_snr, jnp.float32)), error)
    return jnp.sqrt(1 - share) * x - jnp.sqrt(share) * e


def mean_square(error: Float[Array, "B ..."]) -> Float[Array, "B"]:
    """The mean of the squares of each example's numbers."""
    return mean_of_each(jnp.square(error))


def mean_of_each(value: Float[Array, "B ..."], axes: int = 1) -> Float[Array, "B ..."]:
    """Means over all but so many leading axes."""
    return value.mean(tuple(range(axes, value.ndim)))


def diffusion_loss(
    network: TrainingNetwork,
    x: Shaped[Array, "B ..."],
    key: Key[Array, ""],
    *,
    schedule: Schedule,
    target: TargetName = "v",
    weighting: Weighting = V_LOSS,
    times: Times = UNIFORM,
    index_B: Int[Array, "B"] | None = None,
    level_axes: int = 1,
    time_input: TimeInput = thousandths,
) -> tuple[Float[Array, "B"], Level]:
    """The loss of a network at a random level for each example.

    Args:
      network: ``(z, time) -> prediction``, its conditions closed over; or a tuple of predictions,
        whose losses are added.
      x: data, [B, ...], of any rank; images as uint8 or in [-1, 1].
      key: randomness.
      schedule: the noise schedule.
      target: what the network predicts.
      weighting: the weight of |x - x^|^2.
      times: how times are drawn.
      index_B: example indices, folded into the key; places in the batch unless given.
      level_axes: how many leading axes have levels of their own; see `draw_noised`.
      time_input: the network's conditioning on the level.

    Returns:
      The losses, [B], and the levels at which they were taken.

    Raises:
      InputError: for a target that the schedule does not allow, or a prediction of another shape.
    """
    target = check_target_fits(schedule, target)
    noised = draw_noised(
        x, key, schedule=schedule, times=times, index_B=index_B, level_axes=level_axes
    )
    outputs = network(noised.z, time_input(noised.level))
    loss_B = sum_of_losses(outputs, x, noised, target=target, weighting=weighting)
    return loss_B, noised.level


def sum_of_losses(
    outputs: Outputs,
    x: Shaped[Array, "B ..."],
    noised: Noised,
    *,
    target: TargetName,
    weighting: Weighting,
) -> Float[Array, "B"]:
    """`prediction_loss` of what a network gives in training: one prediction, or several, added up.

    Args:
      outputs: a prediction of the target, or a tuple of some (those of a masked diffusion
        transformer from all patches and from the visible ones, say).
      x: data, [B, ...].
      noised: what was made from them.
      target: what is predicted.
      weighting: as in `prediction_loss`.

    Returns:
      [B].
    """
    several = outputs if isinstance(outputs, tuple) else (outputs,)
    losses = [
        prediction_loss(output, x, noised.e, noised.level, target=target, weighting=weighting)
        for output in several
    ]
    return sum(losses[1:], losses[0])


def denoiser_loss(
    denoiser: Denoiser,
    x: Shaped[Array, "B ..."],
    key: Key[Array, ""],
    *,
    schedule: Schedule,
    target: TargetName = "v",
    weighting: Weighting = V_LOSS,
    times: Times = UNIFORM,
    index_B: Int[Array, "B"] | None = None,
    level_axes: int = 1,
) -> tuple[Float[Array, "B"], Level]:
    """`diffusion_loss` of a denoiser, such as an exact, clipped or guided one.

    Args:
      denoiser: ``(z, level) -> Estimate``.
      x: data, [B, ...].
      key: randomness.
      schedule: the noise schedule.
      target: in which terms the loss is computed; where x^ and e^ agree with z it matters only at
        the ends, where some terms are infinite.
      weighting: the weight of |x - x^|^2.
      times: how times are drawn.
      index_B: example indices, folded into the key; places in the batch unless given.
      level_axes: how many leading axes have levels of their own; see `draw_noised`.

    Returns:
      The losses, [B], and the levels at which they were taken.
    """
    noised = draw_noised(
        x, key, schedule=schedule, times=times, index_B=index_B, level_axes=level_axes
    )
    estimate = denoiser(noised.z, noised.level)
    prediction = make_target(target, estimate.x, estimate.e, noised.level)
    loss_B = prediction_loss(
        prediction, x, noised.e, noised.level, target=target, weighting=weighting
    )
    return loss_B, noised.level


def loss_by_level(
    loss_B: Float[Array, "*B"],
    level: Level,
    edges: Sequence[float] = (-4.0, 0.0, 4.0),
    present_B: Bool[Array, "*B"] | None = None,
) -> dict[str, Float[Array, ""]]:
    """What each range of the log-SNR contributes to the mean loss; the contributions add up to it.

    Contributions, unlike means over the examples that happen to fall into a range, may be averaged
    over steps, and no range is ever empty. A range's mean loss is its contribution over its share.

    Args:
      loss_B: losses, of any shape.
      level: their levels.
      edges: where ranges of the log-SNR meet, rising.
      present_B: which of the losses are of an example (of packs, which have places without one);
        None: all.

    Returns:
      ``loss_snr_0``, ``share_snr_0``, ``loss_snr_1``, ...: range 0 is the noisiest.

    Raises:
      InputError: unless there is one level for each loss.
    """
    if jnp.shape(level.log_snr) != jnp.shape(loss_B):
        raise InputError(
            f"levels have shape {jnp.shape(level.log_snr)} for losses of shape "
            f"{jnp.shape(loss_B)}, expected one for each"
        )
    range_B = jnp.searchsorted(jnp.asarray(edges), jnp.asarray(level.log_snr, jnp.float32))
    if present_B is None:
        present_B = jnp.ones(jnp.shape(loss_B), bool)
    metrics, count = {}, jnp.maximum(present_B.sum(), 1)
    for i in range(len(edges) + 1):
        inside_B = (range_B == i) & present_B
        metrics[f"loss_snr_{i}"] = jnp.where(inside_B, loss_B, 0.0).sum() / count
        metrics[f"share_snr_{i}"] = inside_B.sum() / count
    return metrics
