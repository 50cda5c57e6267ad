"""Euler and Heun on the probability-flow ODE, in any scaling.

As noise falls, the scales (a, s) run along a curve, and the probability-flow ODE is
``dz = x^ da + e^ ds`` (Song et al. 2021b, equation 13, in the form of Karras et al. 2022). A step
is a straight line in the curve's own parameter u, so that slopes are finite at both ends and do not
depend on how t is chosen::

    scaling u      dz/du
    "vp"    phi    a e^ - s x^ = v^       phi = atan(s/a)
    "ve"    s      e^                     Karras et al. 2022, equation 1
    "flow"  s      e^ - x^                Lipman et al. 2022; u is t itself

    Euler   z' = z + (u' - u) dz/du
    Heun    the mean of the slopes here and there; two evaluations, second order

In "ve" and "flow" the curve is straight and Euler is DDIM. Latents of any scaling may be stepped in
any other: only their scale is changed.
"""

from dataclasses import dataclass
from typing import NamedTuple, get_args

import numpy as np

from jaxgen.diffusion.process.levels import Level, Scaling
from jaxgen.diffusion.samplers.linear import (
    LinearRow,
    LinearSampler,
    Term,
    check_finite_sigma,
    from_level_with_noise,
    make_table,
)
from jaxgen.errors import InputError


class Curve(NamedTuple):
    """Levels on the curve of a scaling, [N] each.

    Attributes:
      scale: what latents are multiplied by to get the scaling.
      u: the parameter.
      da: da/du.
      ds: ds/du.
    """

    scale: np.ndarray
    u: np.ndarray
    da: np.ndarray
    ds: np.ndarray


def curve(level: Level, scaling: Scaling) -> Curve:
    """Levels of any scaling seen in another one."""
    a, s, one = level.a, level.s, np.ones_like(level.a)
    match scaling:
        case "vp":
            r = np.hypot(a, s)
            return Curve(1 / r, np.arctan2(s, a), -s / r, a / r)
        case "ve":
            return Curve(1 / a, s / a, 0 * one, one)
        case "flow":
            return Curve(1 / (a + s), s / (a + s), -one, one)


def scaling_of(levels: Level) -> Scaling:
    """The scaling that levels have.

    Raises:
      InputError: where a and s are in none.
    """
    if np.allclose(levels.a, 1):
        return "ve"
    if np.allclose(levels.a + levels.s, 1):
        return "flow"
    if np.allclose(np.hypot(levels.a, levels.s), 1):
        return "vp"
    raise InputError("levels have none of the scalings vp, ve, flow")


@dataclass(frozen=True)
class Euler(LinearSampler):
    """Euler's method; first order, one evaluation per step.

    Attributes:
      scaling: where the steps are straight; None for the latents' own.

    Raises:
      InputError: for an unknown frame.
    """

    scaling: Scaling | None = None

    def __post_init__(self) -> None:
        if self.scaling not in (None, *get_args(Scaling)):
            raise InputError(f"scaling is {self.scaling!r}, expected vp, ve, flow or None")

    @property
    def terms(self) -> tuple[Term, ...]:
        """See `LinearSampler`."""
        return ("z", 0), ("x", 0), ("e", 0)

    def table(self, levels: Level) -> LinearRow:
        """See `jaxgen.diffusion.samplers.sampling.Sampler`.

        Raises:
          InputError: in the scaling "ve" for a first level without data.
        """
        now, after = from_level_with_noise(levels)
        here, there = _curves(self, now, after, self.scaling or scaling_of(levels))
        step = (there.u - here.u) / there.scale
        return make_table(now, after, [here.scale / there.scale, step * here.da, step * here.ds])


@dataclass(frozen=True)
class Heun(Euler):
    """Heun's method (Karras et al. 2022, algorithm 1, without churn); second order.

    Two rows of the table, and two evaluations of the denoiser, for each step; a last step to clean
    data, where there is no noise to estimate, is Euler's and has one.
    """

    @property
    def terms(self) -> tuple[Term, ...]:
        """See `LinearSampler`."""
        return tuple((name, lag) for name in "zxe" for lag in (0, 1))

    def table(self, levels: Level) -> LinearRow:
        """See `jaxgen.diffusion.samplers.sampling.Sampler`.

        Raises:
          InputError: in the scaling "ve" for a first level without data.
        """
        now, after = from_level_with_noise(levels)
        return heun_table(self, now, after, self.scaling or scaling_of(levels))[0]


def heun_table(
    sampler: LinearSampler, now: Level, after: Level, scaling: Scaling, *, second_order: bool = True
) -> tuple[LinearRow, np.ndarray]:
    """Heun's rows for steps from `now` to `after`, with terms z, x, e of lags 0 and 1.

    Returns:
      The table, and which of its rows begin a step. With `second_order` there are two rows for each
      step, but one to clean data; without it one.
    """
    here, there = _curves(sampler, now, after, scaling)
    ratio, step = here.scale / there.scale, (there.u - here.u) / there.scale
    zero, half = np.zeros_like(ratio), step / 2
    first = [ratio, zero, step * here.da, zero, step * here.ds, zero]
    second = [zero, ratio, half * there.da, half * here.da, half * there.ds, half * here.ds]
    kept = np.stack([now.s > 0, (after.s > 0) & second_order], -1).ravel()
    weights = [np.stack(pair, -1).ravel()[kept] for pair in zip(first, second, strict=True)]
    evaluated = Level(*(np.stack(pair, -1).ravel()[kept] for pair in zip(now, after, strict=True)))
    ends = Level(*(np.repeat(value, 2)[kept] for value in after))
    begins = np.tile([True, False], len(ratio))[kept]
    return make_table(evaluated, ends, weights), begins


def _curves(
    sampler: LinearSampler, now: Level, after: Level, scaling: Scaling
) -> tuple[Curve, Curve]:
    if scaling == "ve":
        check_finite_sigma(now, sampler)
    return curve(now, scaling), curve(after, scaling)
