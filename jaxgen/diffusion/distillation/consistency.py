"""Consistency models: a network that goes from any latent to the end of its path in one step.

Symbols: z = a x + s e, sigma = s / a. The probability-flow ODE has one path through every latent; f
takes a latent to where its path ends, at sigma_min (the first level of a schedule, or 0 for clean
data), in units of the data::

    f(z_t, t) = f(z_t', t')       for two points of a path        Song et al. 2023, section 3
    f(z, t) = z / a               where sigma = sigma_min         the boundary condition

The second holds by construction (`make_consistency_function`), and with it the first determines f.
A student learns it between neighbouring levels t > t', from a *target* that is a slow copy of
itself (a moving average of its parameters, or itself) and gets no gradient::

    distillation    z' is one step of an ODE solver with a teacher's estimate      algorithm 2
    training        z' = a' x + s' e with the x and e of z; no teacher             algorithm 3

Levels are a sampler's, [N + 1] from noise to data: with a `KarrasSchedule`,
``make_steps(schedule, N, "karras", final="first")`` are the paper's.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, Shaped

from jaxgen.diffusion.denoiser import (
    Denoiser,
    Estimate,
    Network,
    TimeInput,
    noise_given,
    thousandths,
    visiting,
)
from jaxgen.diffusion.objectives.losses import UNIFORM, mean_square
from jaxgen.diffusion.objectives.time_distributions import Times
from jaxgen.diffusion.preconditioning import precondition
from jaxgen.diffusion.process.forward import add_noise
from jaxgen.diffusion.process.levels import Level, broadcast_level, expand
from jaxgen.diffusion.process.predictions import divide
from jaxgen.diffusion.samplers.linear import (
    LinearRow,
    LinearSampler,
    Term,
    from_noise_to_data,
    make_table,
)
from jaxgen.diffusion.samplers.ode import Heun
from jaxgen.diffusion.samplers.single_steps import draw_examples, rows_at, single_steps, take_step
from jaxgen.errors import InputError, check_not_negative, check_positive

Distance = Callable[[Array, Array], Float[Array, "B"]]
"""``(x [B, ...], y [B, ...]) -> [B]``."""

PairWeight = Callable[[Level, Level], Any]
"""``(level t, level t') -> weight``, of [B] each."""

HEUN = Heun()


def make_consistency_function(
    network: Network,
    *,
    sigma_min: float = 0.0,
    sigma_data: float = 0.5,
    time_input: TimeInput = thousandths,
) -> Denoiser:
    """f(z, t) = c_skip z + c_out F(c_in z, t), which is z / a at sigma_min whatever F is.

    The scales of Song et al. (2023, appendix C), which are EDM's for paths that end at sigma_min
    (`jaxgen.diffusion.preconditioning`), here for all scalings; with d for sigma_data ::

        c_skip = d^2 a / ((s - sigma_min a)^2 + d^2 a^2)
        c_out = d (s - sigma_min a) / r      c_in = 1 / r      r = sqrt(s^2 + d^2 a^2)

    In the scaling "vp" with d = 1 and sigma_min = 0 that is ``a z + s F``, so a denoiser that
    predicts v (which is -F) is a consistency function as it is, and can begin as its teacher.

    Args:
      network: F, ``(z, time) -> [B, ...]``.
      sigma_min: where paths end.
      sigma_data: d, the standard deviation of the data.
      time_input: the network's conditioning on the noise level.

    Returns:
      A denoiser whose x is f, and whose e is what f leaves of z.

    Raises:
      InputError: unless sigma_min >= 0 and sigma_data > 0.
    """
    return precondition(network, sigma_data, sigma_min=sigma_min, time_input=time_input)


def ten_per_thousandth(level: Level) -> Any:
    """10 times `thousandths`: what latent consistency models count noise by."""
    return 10 * thousandths(level)


def hold_boundary(
    denoiser: Denoiser, *, sigma_data: float = 0.5, time_input: TimeInput = ten_per_thousandth
) -> Denoiser:
    """f(z, t) = c_skip z + c_out x^(z): a denoiser that is z where its time is zero.

    Latent consistency models (Luo et al. 2023) are networks that predict e or v, with the boundary
    held by a number tau that has little to do with the noise, d for sigma_data ::

        c_skip = d^2 / (tau^2 + d^2)        c_out = tau / sqrt(tau^2 + d^2)

    With their tau of 10 for each of 1,000 steps that is x^ nearly everywhere. Clip or threshold the
    denoiser before, not the result.

    Args:
      denoiser: x^.
      sigma_data: d.
      time_input: tau.

    Returns:
      A denoiser whose x is f, and whose e is what f leaves of z; for `ConsistencySampler`.

    Raises:
      InputError: unless sigma_data > 0.
    """
    check_positive("sigma_data", sigma_data)

    def held(z: Float[Array, "B ..."], level: Level) -> Estimate:
        level = broadcast_level(level, len(z))
        tau = expand(jnp.asarray(time_input(level)), z)
        total = tau**2 + sigma_data**2
        x = sigma_data**2 / total * z + tau / jnp.sqrt(total) * denoiser(z, level).x
        return Estimate(x, noise_given(x, z, level))

    return held


def squared_distance(x: Float[Array, "B ..."], y: Float[Array, "B ..."]) -> Float[Array, "B"]:
    """The mean of (x - y)^2 over an example's numbers."""
    return mean_square(x - y)


def pseudo_huber(
    x: Shaped[Array, "B ..."], y: Float[Array, "B ..."], c: float = 0.00054
) -> Float[Array, "B"]:
    """sqrt(mean (x - y)^2 + c^2) - c (Song & Dhariwal 2023, section 3.3).

    The paper has sums, and c = 0.00054 sqrt(D) for D numbers: this one's, times sqrt(D).
    """
    return jnp.sqrt(mean_square(x - y) + c * c) - c


def even_weight(now: Level, after: Level) -> float:
    """One for all pairs (Song et al. 2023)."""
    return 1.0


def inverse_gap(now: Level, after: Level) -> Any:
    """1 / (sigma - sigma') (Song & Dhariwal 2023, section 3.1); zero where sigma is infinite."""
    a = jnp.asarray(now.a)
    return divide(a * after.a, now.s * after.a - after.s * a)


def consistency_distillation_loss(
    student: Denoiser,
    target: Denoiser,
    teacher: Denoiser,
    x: Shaped[Array, "B ..."],
    key: Key[Array, ""],
    levels: Level,
    *,
    sampler: LinearSampler = HEUN,
    distance: Distance = squared_distance,
    weight: PairWeight = even_weight,
    times: Times = UNIFORM,
    index_B: Int[Array, "B"] | None = None,
) -> tuple[Float[Array, "B"], Level]:
    """d(f(z, t), f_target(z', t')) with z' one solver step from z (Song et al. 2023, algorithm 2).

    Args:
      student: f, from `make_consistency_function`.
      target: its slow copy; gets no gradient.
      teacher: a denoiser; gets no gradient.
      x: data, [B, ...].
      key: randomness.
      levels: [N + 1] from noise to data, in numpy; they end where paths do.
      sampler: the solver: Heun as in the paper, DDIM or Euler.
      distance: d.
      weight: of each pair of levels.
      times: of which the pair is drawn, see `jaxgen.diffusion.samplers.single_steps.draw_steps`.
        With a `KarrasSchedule` and levels uniform in t, `NormalLogSNR` is the choice of Song &
        Dhariwal.
      index_B: example indices, folded into the key; places in the batch unless given.

    Returns:
      The losses, [B], and the levels t.

    Raises:
      InputError: for a sampler whose steps do not stand alone, or levels out of order.
    """
    steps = single_steps(sampler, levels)
    step_B, x, e = draw_examples(x, key, len(steps.now.t), times, index_B)
    step = rows_at(steps, step_B)
    z = add_noise(x, e, step.now)
    with visiting(steps.now):
        z_after = take_step(sampler, teacher, z, step)
        loss_B = _loss(student, target, z, z_after, step.now, step.after, distance, weight)
    return loss_B, step.now


def consistency_training_loss(
    student: Denoiser,
    target: Denoiser,
    x: Shaped[Array, "B ..."],
    key: Key[Array, ""],
    levels: Level,
    *,
    distance: Distance = pseudo_huber,
    weight: PairWeight = inverse_gap,
    times: Times = UNIFORM,
    index_B: Int[Array, "B"] | None = None,
) -> tuple[Float[Array, "B"], Level]:
    """d(f(a x + s e, t), f_target(a' x + s' e, t')): no teacher (Song et al. 2023, algorithm 3).

    Distance and weight are by default those of Song & Dhariwal (2023), who have the student itself
    as target and more and more levels (`steps_in_training`).

    Args:
      student: f, from `make_consistency_function`.
      target: its slow copy, or itself; gets no gradient.
      x: data, [B, ...].
      key: randomness.
      levels: [N + 1] from noise to data, in numpy; they end where paths do.
      distance: d.
      weight: of each pair of levels.
      times: as in `consistency_distillation_loss`.
      index_B: as there.

    Returns:
      The losses, [B], and the levels t.

    Raises:
      InputError: for levels that do not go from noise to data.
    """
    pairs = jax.tree.map(np.float32, from_noise_to_data(levels))
    step_B, x, e = draw_examples(x, key, len(pairs[0].t), times, index_B)
    now, after = rows_at(pairs, step_B)
    z, z_after = add_noise(x, e, now), add_noise(x, e, after)
    with visiting(pairs[0]):
        return _loss(student, target, z, z_after, now, after, distance, weight), now


def _loss(
    student: Denoiser,
    target: Denoiser,
    z: Float[Array, "B ..."],
    z_after: Float[Array, "B ..."],
    now: Level,
    after: Level,
    distance: Distance,
    weight: PairWeight,
) -> Float[Array, "B"]:
    """The weighted distance between the ends of two latents' paths."""
    wanted = jax.lax.stop_gradient(target(z_after, after).x)
    return weight(now, after) * distance(student(z, now).x, wanted)


def steps_in_training(
    update: int,
    updates: int,
    first: int = 10,
    last: int = 1280,
    growth: Literal["doubling", "square_root"] = "doubling",
) -> int:
    """How many steps N the levels have in the course of consistency training.

    ``doubling``      first, 2 first, .. up to last, for equally many updates each (Song & Dhariwal
                      2023, section 3.4; N(k) - 1 there)
    ``square_root``   ceil(sqrt(k/K ((last + 1)^2 - first^2) + first^2) - 1) (Song et al. 2023,
                      appendix C, with first = 2 and last = 150)

    Args:
      update: k, the number of the update.
      updates: K, how many there will be.
      first: s_0.
      last: s_1.
      growth: which rule.

    Raises:
      InputError: for another rule, or unless 0 <= update <= updates and 1 <= first <= last.
    """
    if not (0 <= update <= updates and updates > 0 and 1 <= first <= last):
        raise InputError(
            f"update is {update} of {updates}, first is {first}, last is {last}, expected 0 <= "
            "update <= updates and 1 <= first <= last"
        )
    match growth:
        case "doubling":
            period = max(1, math.floor(updates / (math.log2(last / first) + 1)))
            return min(first * 2 ** (update // period), last)
        case "square_root":
            square = update / updates * ((last + 1) ** 2 - first**2) + first**2
            return max(1, math.ceil(math.sqrt(square) - 1))
    raise InputError(f"growth is {growth!r}, expected doubling or square_root")


@dataclass(frozen=True)
class ConsistencySampler(LinearSampler):
    """Multistep consistency sampling: to the end, and back with noise (Song et al. 2023, alg. 1).

    ``z' = a' f(z) + sqrt(s'^2 - (a' sigma_min)^2) noise``, since f has noise sigma_min left. One
    step is the consistency function itself; more trade speed for quality. For sigma_min = 0 it is
    DDIM with all of the noise resampled.

    Attributes:
      sigma_min: where paths end, as in `make_consistency_function`.

    Raises:
      InputError: for a negative or infinite sigma_min.
    """

    sigma_min: float = 0.0

    def __post_init__(self) -> None:
        check_not_negative("sigma_min", self.sigma_min)

    @property
    def terms(self) -> tuple[Term, ...]:
        """See `LinearSampler`."""
        return (("x", 0),)

    @property
    def noisy(self) -> bool:
        """In all steps but a last one to clean data or sigma_min."""
        return True

    def table(self, levels: Level) -> LinearRow:
        """See `jaxgen.diffusion.samplers.sampling.Sampler`."""
        now, after = from_noise_to_data(levels)
        variance = after.s**2 - (after.a * self.sigma_min) ** 2
        # At sigma_min itself rounding leaves a little of either sign.
        variance = np.where(variance < 1e-9 * after.s**2, 0.0, variance)
        return make_table(now, after, [after.a], np.sqrt(variance))
