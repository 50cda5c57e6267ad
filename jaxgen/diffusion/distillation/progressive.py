"""Progressive distillation: samplers of few steps from samplers of many.

Symbols: z_t = a_t x + s_t e; the teacher samples by DDIM in 2 N steps, the student in N, and one of
its steps, from t to t'', is two of the teacher's, from t through t' to t''. A DDIM step with the
estimate x~ goes to ``a'' x~ + (s''/s) (z - a x~)``; it ends where the teacher does, at z'', for

    x~ = (z'' - (s''/s) z) / (a'' - (s''/s) a)        Salimans & Ho 2022, algorithm 2

which is what the student is trained to predict at t. With R = a/s and the teacher's predictions x1
at t and x2 at t' (where its ``z = a x + s e``) that is ``((R' - R) x1 + (R'' - R') x2) / (R'' -
R)``, a mean of the two; where t'' = 0 is clean data it is x2. The student becomes the next teacher,
until one step is left (`halving_plan`)::

    levels = make_steps(schedule, 16)                      the teacher's: 2 N = 16
    loss_B, _ = distillation_loss(student, teacher, x, key, levels)
    levels = every_second(levels)                          the student's, to sample and to continue

Teachers that are guided (Meng et al. 2023, "On distillation of guided diffusion models") first
become one network that is conditioned on the guidance weight w, since w is chosen when sampling. A
*guided denoiser* is a function from the examples' guidance weights to a denoiser::

    teacher = lambda w_B: guide_network(network, labels, null, w_B, target="v")
    student = lambda w_B: make_denoiser(lambda z, time: network2(z, time, w_B), "v")
    loss_B, _ = matching_loss(student, teacher, x, key, schedule=schedule)           stage one
    loss_B, _ = guided_distillation_loss(student2, student, x, key, levels)          stage two

`with_guidance_weight` gives any network an input for w.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, Shaped

from jaxgen.diffusion.denoiser import Denoiser, check_target_fits, noise_given, visiting
from jaxgen.diffusion.objectives.losses import UNIFORM, V_LOSS, draw_noised, prediction_loss
from jaxgen.diffusion.objectives.time_distributions import Times
from jaxgen.diffusion.objectives.weightings import Weighting
from jaxgen.diffusion.process.example_keys import example_indices, example_keys, uniform
from jaxgen.diffusion.process.forward import add_noise
from jaxgen.diffusion.process.levels import Level, expand
from jaxgen.diffusion.process.predictions import (
    NOISE_TARGETS,
    TargetName,
    check_target,
    make_target,
)
from jaxgen.diffusion.process.schedules import Schedule
from jaxgen.diffusion.process.step_levels import pair_levels
from jaxgen.diffusion.samplers.ddim import DDIM
from jaxgen.diffusion.samplers.single_steps import (
    SingleSteps,
    draw_examples,
    rows_at,
    single_steps,
    take_step,
)
from jaxgen.errors import InputError
from jaxgen.nn.embeddings import time_frequencies

GuidedDenoiser = Callable[[Array], Denoiser]
"""``guidance weights w [B] -> denoiser``, of latents of the same B."""

GUIDANCE_WEIGHTS = (0.0, 4.0)
"""Between which w is drawn (Meng et al. 2023)."""

GUIDANCE_CHANNELS = 16


class DistillationSteps(NamedTuple):
    """Steps of a student, [N] each, or the one of each example, [B].

    Attributes:
      now: t, where the student answers.
      after: t'', where its step ends.
      teacher: the teacher's two steps for it, [N, 2].
      ratio: s''/s.
      scale: a'' - (s''/s) a, which is positive.
    """

    now: Level
    after: Level
    teacher: SingleSteps
    ratio: Any
    scale: Any


def halving_plan(start: int, stop: int = 1) -> tuple[int, ...]:
    """Numbers of steps from the first teacher's to the last student's: 16, 8, 4, 2, 1.

    Raises:
      InputError: unless start is stop times a power of two.
    """
    if stop < 1 or start < stop:
        raise InputError(f"start is {start}, stop is {stop}, expected start >= stop >= 1")
    plan = [start]
    while plan[-1] > stop:
        if plan[-1] % 2 or plan[-1] < 2 * stop:
            raise InputError(
                f"start is {start}, stop is {stop}, expected start to be stop times a power of two"
            )
        plan.append(plan[-1] // 2)
    return tuple(plan)


def every_second(levels: Level) -> Level:
    """The levels of a student, [N + 1], from those of its teacher, [2 N + 1].

    Raises:
      InputError: for an odd number of steps.
    """
    steps = len(np.asarray(levels.t)) - 1
    if steps < 2 or steps % 2:
        raise InputError(f"levels of {steps} steps, expected an even number of steps to halve")
    return Level(*(np.asarray(value)[::2] for value in levels))


def distillation_steps(levels: Level) -> DistillationSteps:
    """All that distillation needs to know of a teacher's levels, computed on the host in float64.

    Args:
      levels: the teacher's, [2 N + 1], from noise to data.

    Returns:
      N steps of the student, in numpy float32.

    Raises:
      InputError: for an odd number of steps, or levels that do not go from noise to data.
    """
    now, after = pair_levels(every_second(levels))
    steps = single_steps(DDIM(), levels)
    pairs = jax.tree.map(lambda value: value.reshape(-1, 2, *value.shape[1:]), steps)
    ratio = after.s / now.s
    found = DistillationSteps(now, after, pairs, ratio, after.a - ratio * now.a)
    return jax.tree.map(lambda value: np.asarray(value, np.float32), found)


def distillation_target(
    teacher: Denoiser, z: Float[Array, "B ..."], step: DistillationSteps
) -> Float[Array, "B ..."]:
    """x~: the estimate with which one DDIM step ends where two of the teacher's do.

    The difference in x~ loses digits as steps become small: rounding is multiplied by about N.

    Args:
      teacher: clipped or guided as it is when it samples.
      z: latents at ``step.now``, [B, ...].
      step: of each example, picked from `distillation_steps`.

    Returns:
      [B, ...].
    """
    end = z
    for i in range(2):
        half = jax.tree.map(lambda value, i=i: value[:, i], step.teacher)
        end = take_step(DDIM(), teacher, end, half)
    return (end - expand(step.ratio, z) * z) / expand(step.scale, z)


def distillation_loss(
    student: Denoiser,
    teacher: Denoiser,
    x: Shaped[Array, "B ..."],
    key: Key[Array, ""],
    levels: Level,
    *,
    target: TargetName = "v",
    weighting: Weighting = V_LOSS,
    times: Times = UNIFORM,
    index_B: Int[Array, "B"] | None = None,
) -> tuple[Float[Array, "B"], Level]:
    """The loss of a student of N steps under a teacher of 2 N (Salimans & Ho 2022, algorithm 2).

    For a student of few steps, which has to begin where z says next to nothing of x, only v, x,
    flow and both are good targets. The paper's weights are `TruncatedSNR` and `SNRPlus`.

    Args:
      student: what is trained, made from its network and target.
      teacher: what it learns from; it gets no gradient.
      x: data, [B, ...].
      key: randomness.
      levels: the teacher's, [2 N + 1] from noise to data, in numpy; `make_steps` with "uniform"
        gives the paper's t = 1/N .. N/N for the student.
      target: in which terms the loss is computed: what the student's network predicts.
      weighting: the weight of |x~ - x^|^2.
      times: of which the step is drawn, see `draw_steps`; uniform in the paper.
      index_B: example indices, folded into the key; places in the batch unless given.

    Returns:
      The losses, [B], and the student's levels at which they were taken.

    Raises:
      InputError: for levels that cannot be halved, an unknown target, or one that says nothing of x
        at the first level.
    """
    steps, target = distillation_steps(levels), check_target(target)
    if target in NOISE_TARGETS and steps.now.a[0] == 0:
        raise InputError(
            f"target is {target!r} from zero SNR: the noise says nothing of the data there, "
            "expected target x, v, flow or both"
        )
    step_B, x, e = draw_examples(x, key, len(steps.ratio), times, index_B)
    step = rows_at(steps, step_B)
    z = add_noise(x, e, step.now)
    with visiting(steps.now):
        wanted = distillation_target(teacher, z, step)
        loss_B = _loss_to(student, z, step.now, wanted, None, target, weighting)
    return loss_B, step.now


def matching_loss(
    student: GuidedDenoiser,
    teacher: GuidedDenoiser,
    x: Shaped[Array, "B ..."],
    key: Key[Array, ""],
    *,
    schedule: Schedule,
    guidance_weights: tuple[float, float] = GUIDANCE_WEIGHTS,
    target: TargetName = "v",
    weighting: Weighting = V_LOSS,
    times: Times = UNIFORM,
    index_B: Int[Array, "B"] | None = None,
) -> tuple[Float[Array, "B"], Level]:
    """Stage one: a student conditioned on w learns the guided teacher (Meng et al. 2023, 3.1).

    Args:
      student: what is trained.
      teacher: guided with the weights that it is given; it gets no gradient.
      x: data, [B, ...]; their conditions are closed over.
      key: randomness.
      schedule: the noise schedule.
      guidance_weights: between which w is drawn, evenly.
      target: in which terms the loss is computed.
      weighting: the weight of the squared difference in x^.
      times: how times are drawn.
      index_B: example indices, folded into the key; places in the batch unless given.

    Returns:
      The losses, [B], and the levels at which they were taken.

    Raises:
      InputError: for guidance weights out of order, or a target that the schedule does not allow.
    """
    target = check_target_fits(schedule, target)
    weight_key, key = jax.random.split(key)
    w_B = draw_guidance_weights(weight_key, len(x), guidance_weights, index_B)
    noised = draw_noised(x, key, schedule=schedule, times=times, index_B=index_B)
    wanted = teacher(w_B)(noised.z, noised.level)
    loss_B = _loss_to(student(w_B), noised.z, noised.level, wanted.x, wanted.e, target, weighting)
    return loss_B, noised.level


def guided_distillation_loss(
    student: GuidedDenoiser,
    teacher: GuidedDenoiser,
    x: Shaped[Array, "B ..."],
    key: Key[Array, ""],
    levels: Level,
    *,
    guidance_weights: tuple[float, float] = GUIDANCE_WEIGHTS,
    target: TargetName = "v",
    weighting: Weighting = V_LOSS,
    times: Times = UNIFORM,
    index_B: Int[Array, "B"] | None = None,
) -> tuple[Float[Array, "B"], Level]:
    """Stage two: `distillation_loss`, both networks given the same w (Meng et al. 2023, 3.2).

    Args:
      student: what is trained.
      teacher: the student of stage one, or of the round before.
      x: data, [B, ...].
      key: randomness.
      levels: the teacher's, [2 N + 1].
      guidance_weights: between which w is drawn, evenly; for both of a teacher's steps alike.
      target: as in `distillation_loss`, and so are the others.
      weighting: as there.
      times: as there.
      index_B: as there.

    Returns:
      The losses, [B], and the student's levels at which they were taken.

    Raises:
      InputError: for guidance weights out of order, and as `distillation_loss`.
    """
    weight_key, key = jax.random.split(key)
    w_B = draw_guidance_weights(weight_key, len(x), guidance_weights, index_B)
    return distillation_loss(
        student(w_B),
        teacher(w_B),
        x,
        key,
        levels,
        target=target,
        weighting=weighting,
        times=times,
        index_B=index_B,
    )


def draw_guidance_weights(
    key: Key[Array, ""],
    batch: int,
    guidance_weights: tuple[float, float] = GUIDANCE_WEIGHTS,
    index_B: Int[Array, "B"] | None = None,
) -> Float[Array, "B"]:
    """w ~ U[low, high] for each example.

    Raises:
      InputError: unless low <= high.
    """
    low, high = guidance_weights
    if not low <= high:
        raise InputError(f"guidance_weights is {guidance_weights}, expected low <= high")
    index_B = example_indices(index_B, batch)
    return low + (high - low) * uniform(example_keys(key, index_B))


def with_guidance_weight(
    network: Callable[..., Array], channels: int = GUIDANCE_CHANNELS
) -> Callable[..., Array]:
    """A network conditioned on w: ``(z [B, ..., C], time [B], w [B], ...) -> prediction``.

    Fourier features of w (as Meng et al. 2023 have it) are laid beside the latents as channels that
    are the same in all pixels: the first layer of any network adds a linear map of them to every
    token. `jaxgen.nn.widening` turns the teacher's parameters into those of such a network, one
    that at first ignores w.

    Args:
      network: ``(z, time, ...)``, made for `channels` more channels than the data have.
      channels: how many features.

    Raises:
      InputError: for a number of channels that is odd or below 2.
    """
    if channels < 2 or channels % 2:
        raise InputError(f"channels is {channels}, expected an even number, at least 2")

    def conditioned(
        z: Float[Array, "B ..."],
        time_B: Array,
        w_B: Float[Array, "B"],
        *rest: Array,
        **named: Array,
    ) -> Array:
        features_BC = time_frequencies(w_B, channels, max_period=100.0)
        shape = (len(z), *(1,) * (z.ndim - 2), channels)
        features = jnp.broadcast_to(features_BC.reshape(shape), (*z.shape[:-1], channels))
        return network(jnp.concatenate([z, features], -1), time_B, *rest, **named)

    return conditioned


def _loss_to(
    student: Denoiser,
    z: Float[Array, "B ..."],
    level: Level,
    x: Shaped[Array, "B ..."],
    e: Float[Array, "B ..."] | None,
    target: TargetName,
    weighting: Weighting,
) -> Float[Array, "B"]:
    """The loss of a student that should predict x, and e (what x leaves of z, if not given)."""
    e = noise_given(x, z, level) if e is None else e
    x, e = jax.lax.stop_gradient((x, e))
    estimate = student(z, level)
    prediction = make_target(target, estimate.x, estimate.e, level)
    return prediction_loss(prediction, x, e, level, target=target, weighting=weighting)
