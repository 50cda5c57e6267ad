"""Which sampler each scheduler of diffusers is, with the defaults of its configuration."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jaxgen.diffusion.distillation.consistency import ConsistencySampler
from jaxgen.diffusion.process.schedules import Schedule
from jaxgen.diffusion.process.step_levels import Final, Spacing
from jaxgen.diffusion.process.table_schedules import TableSchedule
from jaxgen.diffusion.samplers import (
    DDIM,
    TCD,
    Adams,
    Ancestral,
    DPMSolver,
    Euler,
    Heun,
    LearnedAncestral,
    Midpoint,
    SASolver,
    SingleStepDPMSolver,
    UniPC,
)
from jaxgen.diffusion.samplers.sampling import Sampler
from jaxgen.errors import InputError

Get = Callable[[str, Any], Any]
"""``(field, default) -> value``; a field that is null has its default."""


def field_of(fields: Mapping[str, Any]) -> Get:
    """The reader of some fields."""

    def get(name: str, default: Any) -> Any:
        value = fields.get(name)
        return default if value is None else value

    return get


def _clean(get: Get) -> Final:
    return "clean"


def _first(get: Get) -> Final:
    return "first"


def _alpha_to_one(get: Get) -> Final:
    return "clean" if get("set_alpha_to_one", True) else "first"


def _pndm_final(get: Get) -> Final:
    return "clean" if get("set_alpha_to_one", False) else "first"


def _final_sigmas(get: Get) -> Final:
    return "clean" if get("final_sigmas_type", "zero") == "zero" else "first"


def _anything(get: Get, prediction: str) -> None:
    return None


class TableMethod(NamedTuple):
    """A scheduler on a table of steps.

    Attributes:
      make: its sampler, from fields and schedule.
      spacing: where the configuration does not say it.
      final: where its last step ends.
      without_first: whether the table's first entry is never evaluated (`make_steps`).
      whole_times: whether networks are conditioned on whole steps, however sigmas are spaced.
      in_sigma: whether latents are kept in the scaling "ve" there.
      check: refuses fields that it has otherwise here.
      teacher_steps: whether its steps are some of those that a model was distilled at.
      sigma_flags: those of `SIGMA_FLAGS` that its configuration has; diffusers passes over others.
      has_spacing: whether it has ``timestep_spacing``; else it is ``spacing`` always.
    """

    make: Callable[[Get, Any], Sampler]
    spacing: Spacing
    final: Callable[[Get], Final] = _clean
    without_first: bool = False
    whole_times: bool = False
    in_sigma: bool = False
    check: Callable[[Get, str], None] = _anything
    teacher_steps: bool = False
    sigma_flags: tuple[str, ...] = ()
    has_spacing: bool = True


SIGMA_FLAGS: dict[str, Spacing] = {
    "use_karras_sigmas": "karras",
    "use_exponential_sigmas": "uniform_log_snr",
    "use_lu_lambdas": "uniform_log_snr",
}
"""Fields that space sigmas in place of the table's steps; the first that is set counts."""

_TWO = ("use_karras_sigmas", "use_exponential_sigmas")


def _ancestral(get: Get, schedule: Schedule) -> Sampler:
    variances: dict[str, Sampler] = {
        "fixed_small": Ancestral(),
        "fixed_small_log": Ancestral(),
        "fixed_large": Ancestral(1.0),
        "learned_range": LearnedAncestral(),
    }
    return _choose(get, "variance_type", "fixed_small", variances)


def _adams(get: Get, schedule: Schedule) -> Sampler:
    if get("skip_prk_steps", False):
        return Adams(4, "steps", repeat_first=True)
    return Adams(4, "steps", runge_kutta=schedule)


def _solver(get: Get, schedule: Schedule) -> Sampler:
    return DPMSolver(**_solver_options(get), halve_curvature=True)


def _single_step(get: Get, schedule: Schedule) -> Sampler:
    # diffusers lowers the order at the end wherever that is clean data.
    lower = get("lower_order_final", False) or _final_sigmas(get) == "clean"
    return SingleStepDPMSolver(**_solver_options(get) | {"lower_order_final": lower})


def _solver_options(get: Get) -> dict[str, Any]:
    algorithms = ("dpmsolver", "dpmsolver++", "sde-dpmsolver", "sde-dpmsolver++")
    algorithm = _choose(get, "algorithm_type", "dpmsolver++", {each: each for each in algorithms})
    variants = {"midpoint": "midpoint", "heun": "exact"}
    return {
        "order": get("solver_order", 2),
        "variant": _choose(get, "solver_type", "midpoint", variants),
        "predicts": "x" if algorithm.endswith("++") else "e",
        "stochastic": algorithm.startswith("sde"),
        "lower_order_final": None if get("lower_order_final", True) else False,
    }


def _deis(get: Get, schedule: Schedule) -> Sampler:
    lower = None if get("lower_order_final", True) else False
    return DPMSolver(get("solver_order", 2), "exact", predicts="e", lower_order_final=lower)


def _unipc(get: Get, schedule: Schedule) -> Sampler:
    if get("disable_corrector", []):
        raise InputError(f"disable_corrector is {get('disable_corrector', [])!r}, expected []")
    return UniPC(
        get("solver_order", 2),
        _choose(get, "solver_type", "bh2", {"bh1": "bh1", "bh2": "bh2"}),
        "x" if get("predict_x0", True) else "e",
        get("lower_order_final", True),
    )


def _sa_solver(get: Get, schedule: Schedule) -> Sampler:
    assert isinstance(schedule, TableSchedule)
    # Stochastic at the steps 200 to 800, however many there are.
    low, high = (number / schedule.steps for number in (200.5, 801.5))
    return SASolver(
        get("predictor_order", 2),
        get("corrector_order", 2),
        1.0,
        low,
        high,
        _choose(get, "algorithm_type", "data_prediction", SA_PREDICTS),
        get("lower_order_final", True),
    )


SA_PREDICTS = {"data_prediction": "x", "noise_prediction": "e"}


def _as_sa_solver(get: Get, prediction: str) -> None:
    if get("tau_func", None) is not None:
        raise InputError(f"tau_func is {get('tau_func', None)!r}, expected None")
    spaced = get("use_karras_sigmas", False) or get("use_exponential_sigmas", False)
    if spaced and get("lower_order_final", True):
        raise InputError(
            "lower_order_final is True with sigmas of Karras or exponential ones, where diffusers' "
            "SASolver lowers the order towards a step that goes nowhere, expected False"
        )


def _not_clipped(get: Get, prediction: str) -> None:
    for field in ("clip_sample", "thresholding"):
        if get(field, False):
            raise InputError(f"{field} is True, which diffusers' TCD passes over, expected False")


def _no_linspace(get: Get, prediction: str) -> None:
    if get("timestep_spacing", "leading") == "linspace":
        raise InputError(
            "timestep_spacing is 'linspace', of which diffusers' DDIM does not step to the next "
            "time, expected leading or trailing"
        )


def _noise_alone(get: Get, prediction: str) -> None:
    if prediction != "epsilon":
        raise InputError(
            f"prediction_type is {prediction!r}, which diffusers' PNDM averages before it converts "
            "it, expected epsilon, or another _class_name"
        )


def _linear_sigmas(get: Get, prediction: str) -> None:
    if get("interpolation_type", "linear") != "linear":
        raise InputError(
            f"interpolation_type is {get('interpolation_type', 'linear')!r}, expected linear"
        )


def _choose(get: Get, name: str, default: str, choices: Mapping[str, Any]) -> Any:
    value = get(name, default)
    if value not in choices:
        raise InputError(f"{name} is {value!r}, expected one of {', '.join(choices)}")
    return choices[value]


TABLE_METHODS: dict[str, TableMethod] = {
    "DDIM": TableMethod(lambda get, _: DDIM(), "leading", _alpha_to_one, check=_no_linspace),
    "DDPM": TableMethod(_ancestral, "leading"),
    "PNDM": TableMethod(_adams, "leading", _pndm_final, check=_noise_alone),
    "Euler": TableMethod(
        lambda get, _: Euler("ve"),
        "linspace",
        _final_sigmas,
        in_sigma=True,
        check=_linear_sigmas,
        sigma_flags=_TWO,
    ),
    "EulerAncestral": TableMethod(lambda get, _: DDIM(1.0), "linspace", in_sigma=True),
    "Heun": TableMethod(lambda get, _: Heun("ve"), "linspace", in_sigma=True, sigma_flags=_TWO),
    "LMS": TableMethod(lambda get, _: Adams(), "linspace", in_sigma=True, sigma_flags=_TWO),
    "KDPM2": TableMethod(
        lambda get, schedule: Midpoint(schedule), "linspace", in_sigma=True, sigma_flags=_TWO
    ),
    "KDPM2Ancestral": TableMethod(
        lambda get, schedule: Midpoint(schedule, 1.0), "linspace", in_sigma=True, sigma_flags=_TWO
    ),
    "DPMSolverMultistep": TableMethod(
        _solver, "linspace", _final_sigmas, True, True, sigma_flags=tuple(SIGMA_FLAGS)
    ),
    "DPMSolverSinglestep": TableMethod(
        _single_step, "linspace", _final_sigmas, True, True, sigma_flags=_TWO, has_spacing=False
    ),
    "DEISMultistep": TableMethod(_deis, "linspace", _first, True, True, sigma_flags=_TWO),
    "UniPCMultistep": TableMethod(_unipc, "linspace", _final_sigmas, True, True, sigma_flags=_TWO),
    "SASolver": TableMethod(
        _sa_solver, "linspace", _first, True, True, check=_as_sa_solver, sigma_flags=_TWO
    ),
    "LCM": TableMethod(lambda get, _: ConsistencySampler(), "leading", teacher_steps=True),
    "TCD": TableMethod(
        lambda get, schedule: TCD(schedule),
        "leading",
        _first,
        check=_not_clipped,
        teacher_steps=True,
    ),
}
"""Class, without "Parallel", "Discrete" and "Scheduler" -> its method."""

NOT_HERE = {
    "IPNDM": "its own schedule begins at pure noise, where diffusers takes zero for the data",
    "DPMSolverSDE": "the two noises of its steps are of one path there, and independent here",
}
"""Classes whose results would be others, and why; `jaxgen.diffusion.sampler_named` has methods by
these names."""

FLOW_METHODS: dict[str, Callable[[Get, Any], Sampler]] = {
    "FlowMatchEuler": lambda get, _: DDIM(1e9) if get("stochastic_sampling", False) else Euler(),
    "FlowMatchHeun": lambda get, _: Heun(),
}
EDM_METHODS: dict[str, Callable[[Get, Any], Sampler]] = {
    "EDMEuler": lambda get, _: Euler(),
    "EDMDPMSolverMultistep": _solver,
}
