"""Samplers by name, our own and those of other programs, with the levels that belong to the name.

====================  ===========================  =====================================
name                  also                         here
====================  ===========================  =====================================
DDIM                                               ``DDIM()``
DDPM                                               ``Ancestral()``
ancestral                                          ``Ancestral(gamma=0.3)``
Euler                 EDM Euler                    ``Euler("ve")`` of tables, else ``Euler()``
Euler a               Euler ancestral              ``DDIM(1.0)``
Heun                                               ``Heun("ve")`` of tables, else ``Heun()``
LMS                                                ``Adams()``
PLMS                                               ``Adams(4, "steps", repeat_first=True)``
PNDM                                               ``Adams(4, "steps", runge_kutta=schedule)``
iPNDM                                              ``Adams(4, "steps")``
DPM2                  DPM 2, KDPM2                 ``Midpoint(schedule)``
DPM2 a                KDPM2 ancestral              ``Midpoint(schedule, 1.0)``
DPM++ 2M              DPM-Solver++, dpm_solver     ``DPMSolver(2)``
DPM++ 3M                                           ``DPMSolver(3, halve_curvature=True)``
dpm_solver_3m                                      ``DPMSolver(3)``
DPM++ 2M SDE          sde-dpmsolver++              ``DPMSolver(2, stochastic=True)``
DPM++ 2M SDE Heun                                  the same with ``"exact"`` slopes
DPM++ 3M SDE                                       ``DPMSolver(3, stochastic=True, ...)``
DPM++ 2S              dpm_solver_2s                ``SingleStepDPMSolver(2)``
DPM++ SDE             dpm_solver_sde               the same of the SDE, with middles
DEIS                                               ``DPMSolver(2, "exact", predicts="e")``
UniPC                 uni_pc_bh2                   ``UniPC()``
SA-Solver                                          ``SASolver()``
LCM                                                ``ConsistencySampler()``
TCD                                                ``TCD(schedule)``
EDM                                                ``StochasticKarras(schedule)``
angular, adjusted                                  ``AngularDDIM()``, ``AdjustedDDIM()``
====================  ===========================  =====================================

Other programs step by Euler and Heun in sigma, and have tables that end at about 15; sigma of other
schedules may be infinite at t = 1, and steps are straight in the latents' own scaling.

Case, blanks, hyphens and underscores do not matter; ``k_`` and ``sample_`` before a name, ``pp``
for ``++``, and diffusers' ``Scheduler`` and ``Discrete`` are understood. A name may end in how
levels are spaced: Karras, Exponential (even in log-SNR), SGM Uniform (trailing), DDIM Uniform
(leading; for a schedule with noise at t = 0), Uniform or Normal. Not here: DPM++ 2S a, DPM fast,
DPM adaptive, Restart, Heun++ (heunpp2).
"""

import re
from collections.abc import Callable
from typing import NamedTuple

from jaxgen.diffusion.distillation.consistency import ConsistencySampler
from jaxgen.diffusion.process.levels import Level, Scaling
from jaxgen.diffusion.process.schedules import Schedule
from jaxgen.diffusion.process.step_levels import Final, Spacing, insert_middles, make_steps
from jaxgen.diffusion.process.table_schedules import TableSchedule
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
    "ancestral": lambda schedule: Ancestral(gamma=0.3),
    "Euler": lambda schedule: Euler(_straight_in(schedule)),
    "Euler a": lambda schedule: DDIM(1.0),
    "Heun": lambda schedule: Heun(_straight_in(schedule)),
    "LMS": lambda schedule: Adams(),
    "PLMS": lambda schedule: Adams(4, "steps", repeat_first=True),
    "PNDM": lambda schedule: Adams(4, "steps", runge_kutta=schedule),
    "iPNDM": lambda schedule: Adams(4, "steps"),
    "DPM2": Midpoint,
    "DPM2 a": lambda schedule: Midpoint(schedule, 1.0),
    "DPM++ 2M": lambda schedule: DPMSolver(2),
    "DPM++ 3M": lambda schedule: DPMSolver(3, halve_curvature=True),
    "dpm_solver_3m": lambda schedule: DPMSolver(3),
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
    "EDM Euler": "Euler",
    "KDPM2": "DPM2",
    "KDPM2 ancestral": "DPM2 a",
    "DPM2 ancestral": "DPM2 a",
    "dpm_solver": "DPM++ 2M",
    "DPM-Solver++": "DPM++ 2M",
    "EDM DPMSolver Multistep": "DPM++ 2M",
    "dpm_solver_2s": "DPM++ 2S",
    "sde-dpmsolver++": "DPM++ 2M SDE",
    "DPMSolver Multistep": "DPM++ 2M",
    "DPMSolver Singlestep": "DPM++ 2S",
    "DPMSolver SDE": "DPM++ SDE",
    "DEIS Multistep": "DEIS",
    "UniPC Multistep": "UniPC",
    "uni_pc_bh2": "UniPC",
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


def _straight_in(schedule: Schedule) -> Scaling | None:
    """The scaling in which Euler and Heun step; None: the latents' own."""
    return "ve" if isinstance(schedule, TableSchedule) else None


def _plain(name: str) -> str:
    """A name without what does not matter."""
    text = re.sub(r"[^a-z0-9+]", "", name.lower())
    text = re.sub(r"^(sample|k(?=euler|heun|lms|dpm[p2+]))", "", text)
    return text.replace("scheduler", "").replace("discrete", "").replace("dpmpp", "dpm++")
