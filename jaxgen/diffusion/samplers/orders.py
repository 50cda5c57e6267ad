"""How fast samplers of the ODE come to its solution, where that is known in closed form.

For data N(m, diag(c^2)) the solution through z at one level is, at another one (a', s') ::

    z' = a' m + sqrt((a'^2 c^2 + s'^2) / (a^2 c^2 + s^2)) (z - a m)

since the latents' distribution stays Gaussian and every direction only changes its scale.
"""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Float64

from jaxgen.diffusion.exact import gaussian_denoiser
from jaxgen.diffusion.process.levels import Level
from jaxgen.diffusion.process.schedules import Schedule
from jaxgen.diffusion.process.step_levels import Spacing, make_steps
from jaxgen.diffusion.samplers.sampling import Sampler, sample

MEANS = (0.5, -1.0)
DEVIATIONS = (0.5, 1.3)


def ode_solution(
    z_BD: Float[np.ndarray, "B D"],
    start: Level,
    end: Level,
    mean_D: Sequence[float] = MEANS,
    deviation_D: Sequence[float] = DEVIATIONS,
) -> Float64[np.ndarray, "B D"]:
    """The latents at level `end` of those that are z at level `start`; in float64."""
    m, c = np.asarray(mean_D, np.float64), np.asarray(deviation_D, np.float64)
    ratio = np.hypot(end.a * c, end.s) / np.hypot(start.a * c, start.s)
    return end.a * m + ratio * (np.asarray(z_BD, np.float64) - start.a * m)


def ode_errors(
    samplers: Mapping[str, Sampler],
    schedule: Schedule,
    counts: Sequence[int],
    spacing: Spacing = "uniform_log_snr",
) -> dict[str, list[float]]:
    """The largest error of each sampler with so many steps, for data N(MEANS, DEVIATIONS^2).

    On doubly logarithmic axes these lie on lines whose slope is minus the order; `fitted_order`
    reads it off. In float32 errors below about 1e-6 are those of rounding.

    Args:
      samplers: samplers without noise, by name.
      schedule: with finite ends, between which the ODE is solved.
      counts: numbers of steps.
      spacing: of the steps.

    Returns:
      name -> one error for each count.
    """
    denoiser = gaussian_denoiser(jnp.array(MEANS), jnp.diag(jnp.array(DEVIATIONS) ** 2))
    unit_BD = np.array([[1.0, -0.7], [-0.5, 0.4], [0.2, 1.4]])

    def error(sampler: Sampler, count: int) -> float:
        levels = make_steps(schedule, count, spacing, final="first")
        start, end = (Level(*(value[i] for value in levels)) for i in (0, -1))
        z_BD = unit_BD * start.s
        table = sampler.table(levels)
        found_BD = sample(sampler, denoiser, jnp.float32(z_BD), table, jax.random.key(0))
        return float(np.abs(found_BD - ode_solution(z_BD, start, end)).max())

    return {name: [error(sampler, count) for count in counts] for name, sampler in samplers.items()}


def fitted_order(counts: Sequence[int], errors: Sequence[float]) -> float:
    """Minus the slope of log error against log count, by least squares."""
    return -float(np.polyfit(np.log(counts), np.log(errors), 1)[0])
