"""Samplers by the names that other programs give them, with the levels that belong to the name.

====================  ===========================  =====================================
name                  also                         here
====================  ===========================  =====================================
DDIM                                               ``DDIM()``
DDPM                                               ``Ancestral()``
Euler                                              ``Euler("ve")``
Euler a               Euler ancestral              ``DDIM(1.0)``
Heun                                               ``Heun("ve")``
LMS                                                ``Adams()``
PLMS                                               ``Adams(4, "steps", repeat_first=True)``
PNDM                                               ``Adams(4, "steps", runge_kutta=schedule)``
iPNDM                                              ``Adams(4, "steps")``
DPM2                  DPM 2, KDPM2                 ``Midpoint(schedule)``
DPM2 a                KDPM2 ancestral              ``Midpoint(schedule, 1.0)``
DPM++ 2M              DPM-Solver++ (multistep)     ``DPMSolver(2)``
DPM++ 3M                                           ``DPMSolver(3, halve_curvature=True)``
DPM++ 2M SDE                                       ``DPMSolver(2, stochastic=True)``
DPM++ 2M SDE Heun                                  the same with ``"exact"`` slopes
DPM++ 3M SDE                                       ``DPMSolver(3, stochastic=True, ...)``
DPM++ 2S              DPM-Solver++ (single step)   ``SingleStepDPMSolver(2)``
DPM++ SDE                                          the same of the SDE, with middles
DEIS                                               ``DPMSolver(2, "exact", predicts="e")``
UniPC                                              ``UniPC()``
SA-Solver                                          ``SASolver()``
LCM                                                ``ConsistencySampler()``
TCD                                                ``TCD(schedule)``
EDM                                                ``StochasticKarras(schedule)``
angular, adjusted                                  ``AngularDDIM()``, ``AdjustedDDIM()``
====================  ===========================  =====================================

Case, blanks, hyphens and underscores do not matter; ``k_`` and ``sample_`` before a name, ``pp``
for ``++``, and diffusers' ``Scheduler`` and ``Discrete`` are understood. A name may end in how
levels are spaced: Karras, Exponential (even in log-SNR), SGM Uniform (trailing), DDIM Uniform
(leading), Uniform or Normal. Not here: DPM++ 2S a, DPM fast, DPM adaptive, Restart.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

from jaxgen.diffusion.distillation.consistency import ConsistencySampler
from jaxgen.diffusion.process.levels import Level
from jaxgen.diffusion.process.schedules import Schedule
from jaxgen.diffusion.process.step_levels import Final, Spacing, insert_middles, make_steps
from jaxgen.diffusion.samplers import (
    DDIM,
    TCD,
    Adams,
    AdjustedDDIM,
    Ancestral,
    AngularDDIM,
    DPMSolver,
    Euler,
    Heun,
    Midpoint,
    SASolver,
    SingleStepDPMSolver,
    StochasticKarras,
    UniPC,
)
from jaxgen.diffusion.samplers.sampling import Sampler
from jaxgen.errors import InputError


class NamedSampler(NamedTuple):
    """What a name stands for.

    Attributes:
      sampler: the method.
      spacing: how its levels are spaced.
      final: where the last step ends.
      middles: whether every step has a level in its middle.
    """

    sampler: Sampler
    spacing: Spacing = "uniform"
    final: Final = "clean"
    middles: bool = False

    def levels(self, schedule: Schedule, count: int) -> Level:
        """The levels of so many steps."""
        levels = make_steps(schedule, count, self.spacing, final=self.final)
        return insert_middles(levels, schedule) if self.middles else levels


METHODS: dict[str, Callable[[Schedule], Sampler]] = {
    "DDIM": lambda schedule: DDIM(),
    "DDPM": lambda schedule: Ancestral(),
    "Euler": lambda schedule: Euler("ve"),
    "Euler a": lambda schedule: DDIM(1.0),
    "Heun": lambda schedule: Heun("ve"),
    "LMS": lambda schedule: Adams(),
    "PLMS": lambda schedule: Adams(4, "steps", repeat_first=True),
    "PNDM": lambda schedule: Adams(4, "steps", runge_kutta=schedule),
    "iPNDM": lambda schedule: Adams(4, "steps"),
    "DPM2": Midpoint,
    "DPM2 a": lambda schedule: Midpoint(schedule, 1.0),
    "DPM++ 2M": lambda schedule: DPMSolver(2),
    "DPM++ 3M": lambda schedule: DPMSolver(3, halve_curvature=True),
    "DPM++ 2M SDE": lambda schedule: DPMSolver(2, stochastic=True),
    "DPM++ 2M SDE Heun": lambda schedule: DPMSolver(2, "exact", stochastic=True),
    "DPM++ 3M SDE": lambda schedule: DPMSolver(3, stochastic=True, halve_curvature=True),
    "DPM++ 2S": lambda schedule: SingleStepDPMSolver(2),
    "DPM++ SDE": lambda schedule: SingleStepDPMSolver(2, stochastic=True),
    "DEIS": lambda schedule: DPMSolver(2, "exact", predicts="e"),
    "UniPC": lambda schedule: UniPC(),
    "SA-Solver": lambda schedule: SASolver(),
    "LCM": lambda schedule: ConsistencySampler(),
    "TCD": TCD,
    "EDM": StochasticKarras,
    "angular": lambda schedule: AngularDDIM(),
    "adjusted": lambda schedule: AdjustedDDIM(),
}
"""The method of each name, for a schedule."""

ALSO = {
    "Euler ancestral": "Euler a",
    "KDPM2": "DPM2",
    "KDPM2 ancestral": "DPM2 a",
    "DPM2 ancestral": "DPM2 a",
    "DPM-Solver++": "DPM++ 2M",
    "DPMSolver Multistep": "DPM++ 2M",
    "DPMSolver Singlestep": "DPM++ 2S",
    "DPMSolver SDE": "DPM++ SDE",
    "DEIS Multistep": "DEIS",
    "UniPC Multistep": "UniPC",
    "ancestral": "DDPM",
    "StochasticKarras": "EDM",
}
"""Other words for some of them."""

ENDS_NOISY = ("DEIS",)
"""Methods that cannot end at clean data."""

WITH_MIDDLES = ("DPM++ SDE",)

SPACING_NAMES: dict[str, Spacing] = {
    "karras": "karras",
    "exponential": "uniform_log_snr",
    "sgm uniform": "trailing",
    "ddim uniform": "leading",
    "trailing": "trailing",
    "leading": "leading",
    "linspace": "linspace",
    "uniform": "uniform",
    "normal": "uniform",
    "simple": "uniform",
}


def sampler_named(name: str, schedule: Schedule) -> NamedSampler:
    """The sampler of a name, with its levels.

    Args:
      name: of the table above, with or without a spacing at its end: "Euler a", "dpmpp_2m_karras",
        "DPM++ 2M SDE Karras", "EulerAncestralDiscreteScheduler".
      schedule: of the noise; some methods ask it for levels in between.

    Raises:
      InputError: for a name that is none; it lists those there are.
    """
    plain = _plain(name)
    spacing: Spacing = "uniform"
    known = {_plain(each): each for each in METHODS} | {_plain(k): v for k, v in ALSO.items()}
    if plain not in known:
        for words, value in SPACING_NAMES.items():
            end = _plain(words)
            if plain.endswith(end) and plain.removesuffix(end) in known:
                plain, spacing = plain.removesuffix(end), value
                break
    if plain not in known:
        raise InputError(
            f"sampler is {name!r}, expected one of {', '.join(METHODS)}, and perhaps one of "
            f"{', '.join(SPACING_NAMES)} behind it"
        )
    method = known[plain]
    final: Final = "first" if method in ENDS_NOISY else "clean"
    return NamedSampler(METHODS[method](schedule), spacing, final, method in WITH_MIDDLES)


def _plain(name: str) -> str:
    """A name without what does not matter."""
    text = re.sub(r"[^a-z0-9+]", "", name.lower())
    text = re.sub(r"^(sample|k(?=euler|heun|lms|dpm[p2+]))", "", text)
    return text.replace("scheduler", "").replace("discrete", "").replace("dpmpp", "dpm++")
