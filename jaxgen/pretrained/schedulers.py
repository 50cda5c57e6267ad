"""diffusers' ``scheduler_config.json``: schedule, target, spacing, clipping and sampler at once.

::

    recipe = from_diffusers_scheduler("stable-diffusion-v1-5")     # a pipeline, folder or file
    denoiser = recipe.make_denoiser(network)                       # conditioned on diffusers' times
    levels = recipe.levels(50)
    x = sample(recipe.sampler, denoiser, z, levels, key)

==============================  =======================================  ========================
class                           sampler                                  levels end
==============================  =======================================  ========================
DDIM                            ``DDIM()``                               ``set_alpha_to_one``
DDPM                            ``Ancestral``, ``LearnedAncestral``      clean
PNDM                            ``Adams(4, "steps", ...)``               ``set_alpha_to_one``
EulerDiscrete, Heun, LMS        ``Euler("ve")``, ``Heun``, ``Adams``     ``final_sigmas_type``
EulerAncestral                  ``DDIM(1.0)``                            clean
KDPM2, KDPM2Ancestral           ``Midpoint``                             clean
DPMSolverMultistep, Singlestep  ``DPMSolver``, ``SingleStepDPMSolver``   ``final_sigmas_type``
DEISMultistep, UniPCMultistep   ``DPMSolver``, ``UniPC``                 first, final_sigmas_type
SASolver                        ``SASolver``                             first
LCM, TCD                        ``ConsistencySampler``, ``TCD``          clean, first
FlowMatchEuler, FlowMatchHeun   ``Euler()``, ``Heun()``                  clean
EDMEuler, EDMDPMSolver          ``Euler()``, ``DPMSolver``               clean
==============================  =======================================  ========================

DDIMParallel and DDPMParallel are DDIM and DDPM. What changes a result and is not known here is an
error that names the field; a field that a class of diffusers has not changes nothing there either.
Differences that stay are those of docs/diffusion_design.md ("Parity with other implementations"),
such as DDPM's noise in its last step. Where the schedule is a table, a network is conditioned on
the number of the step.
"""

import dataclasses
import json
import math
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float64

from jaxgen.diffusion.denoiser import (
    Denoiser,
    Network,
    clip_x,
    make_denoiser,
    step_index,
    threshold_x,
)
from jaxgen.diffusion.distillation.consistency import hold_boundary
from jaxgen.diffusion.preconditioning import precondition, quarter_log_sigma
from jaxgen.diffusion.process.derived_schedules import Shifted
from jaxgen.diffusion.process.level_lists import repeat_last
from jaxgen.diffusion.process.levels import Level
from jaxgen.diffusion.process.predictions import Target
from jaxgen.diffusion.process.schedules import KarrasSchedule, RectifiedFlow, Schedule
from jaxgen.diffusion.process.step_levels import Spacing, make_steps, respace, steps_at
from jaxgen.diffusion.process.table_schedules import (
    CustomTable,
    DiscreteSchedule,
    TableKind,
    TableSchedule,
)
from jaxgen.diffusion.samplers.sampling import Sampler
from jaxgen.errors import InputError
from jaxgen.interop.safetensors import Path
from jaxgen.pretrained.scheduler_methods import (
    EDM_METHODS,
    FLOW_METHODS,
    NOT_HERE,
    SIGMA_FLAGS,
    TABLE_METHODS,
    TableMethod,
    field_of,
)

SCHEDULER_FILE = "scheduler_config.json"
TARGET_NAMES: dict[str, Target] = {
    "epsilon": "e",
    "sample": "x",
    "v_prediction": "v",
    "flow_prediction": "flow",
}
KINDS: dict[str, TableKind] = {
    "linear": "linear",
    "scaled_linear": "scaled_linear",
    "squaredcos_cap_v2": "squared_cosine",
}


UNCHANGED: dict[str, Any] = {
    **dict.fromkeys(("use_flow_sigmas", "use_beta_sigmas", "use_dynamic_shifting"), False),
    **dict.fromkeys(("invert_sigmas", "euler_at_final"), False),
    **dict.fromkeys(("sigma_min", "sigma_max", "shift_terminal"), None),
    "timestep_type": "discrete",
    "lambda_min_clipped": -math.inf,
}
"""Fields that say something here in one value alone."""

READ = {(name, field) for name in EDM_METHODS for field in ("sigma_min", "sigma_max")}
"""Those of them that some classes have as others have betas."""


@dataclasses.dataclass(frozen=True)
class SchedulerRecipe:
    """What a configuration of a scheduler stands for.

    Attributes:
      name: its class in diffusers, without "Scheduler".
      schedule: of the noise.
      target: what the network predicts.
      sampler: the method.
      clip: x^ is kept within so much of zero; None: it is not.
      threshold: percentile and limit of dynamic thresholding; None: without.
      learned_variance: whether the network's output tells the variance too.
      sigma_data: of EDM's preconditioning; None: without.
      fields: of the configuration, with diffusers' defaults.
    """

    name: str
    schedule: Schedule
    target: Target
    sampler: Sampler
    clip: float | None
    threshold: tuple[float, float] | None
    learned_variance: bool
    sigma_data: float | None
    fields: Mapping[str, Any]

    def levels(self, count: int) -> Level:
        """The levels that diffusers goes through in so many steps, [N + 1]."""
        get = field_of(self.fields)
        if self.name in FLOW_METHODS:
            assert isinstance(self.schedule, Shifted)
            # diffusers spaces its times down to the last one of a table that is shifted already.
            last = self.schedule.at(1 / get("num_train_timesteps", 1000)).s
            return steps_at(self.schedule, np.linspace(1, last, count))
        if self.name in EDM_METHODS:
            spacing = get("sigma_schedule", "karras")
            named: Spacing = "uniform_log_snr" if spacing == "exponential" else "karras"
            return make_steps(self.schedule, count, named, rho=get("rho", 7.0))
        method = TABLE_METHODS[self.name]
        if method.teacher_steps:
            times = self._teacher_times(get("original_inference_steps", 50), count)
            return steps_at(self.schedule, times, final=method.final(get))
        final, spaced = method.final(get), self._spaced_sigmas()
        if spaced and not method.in_sigma:
            levels = make_steps(self.schedule, count, spaced)
            return repeat_last(levels) if final == "first" else levels
        spacing = self._spacing()
        if method.in_sigma and spacing == "linspace" and not spaced:
            return steps_at(self.schedule, self._between_entries(count), final=final)
        options: dict[str, Any] = {}
        if spacing == "leading":
            options["offset"] = get("steps_offset", 0)
        if spacing in ("leading", "linspace"):
            options["without_first"] = method.without_first
        if not spaced:
            return make_steps(self.schedule, count, spacing, final=final, **options)
        # Sigmas of these classes lie between the first and the last of the table's steps.
        levels = make_steps(self.schedule, count, spacing, **options)
        if final == "clean":
            return respace(levels, self.schedule, spaced)
        assert isinstance(self.schedule, TableSchedule)
        if levels.t[-2] == self.schedule.at_index(0).t:
            return repeat_last(respace(levels, self.schedule, spaced))
        levels = make_steps(self.schedule, count, spacing, final=final, **options)
        return respace(levels, self.schedule, spaced)

    def _spacing(self) -> Spacing:
        """How the steps of a table are chosen."""
        method = TABLE_METHODS[self.name]
        default = method.spacing
        return field_of(self.fields)("timestep_spacing", default) if method.has_spacing else default

    def _sigma_flag(self) -> str | None:
        """The flag that asks for other sigmas than those of the table's steps; None: none does."""
        get, flags = field_of(self.fields), TABLE_METHODS[self.name].sigma_flags
        return next((flag for flag in flags if get(flag, False)), None)

    def _spaced_sigmas(self) -> Spacing | None:
        """The spacing of that flag."""
        flag = self._sigma_flag()
        return None if flag is None else SIGMA_FLAGS[flag]

    def _between_entries(self, count: int) -> Float64[np.ndarray, "N"]:
        """Times at even distances, also between two steps of the table, with sigma linear there."""
        assert isinstance(self.schedule, TableSchedule)
        index_N = np.linspace(0, self.schedule.steps - 1, count)[::-1]
        entries = self.schedule.at_index(np.arange(self.schedule.steps, dtype=np.float64))
        noisiest = index_N == self.schedule.steps - 1  # where sigma may be infinite
        with np.errstate(divide="ignore"):
            sigma_N = np.interp(index_N, np.arange(self.schedule.steps), entries.s / entries.a)
        log_snr_N = -2 * np.log(np.where(noisiest, 1, sigma_N))
        return np.where(noisiest, 1, self.schedule.at_log_snr(log_snr_N).t)

    def _teacher_times(self, teacher: int, count: int) -> Float64[np.ndarray, "N"]:
        """Some of the even steps of a teacher, from the noisiest on."""
        assert isinstance(self.schedule, TableSchedule)
        if count > teacher:
            raise InputError(
                f"count is {count}, expected at most original_inference_steps, {teacher}"
            )
        numbers = np.arange(teacher, 0, -1) * (self.schedule.steps // teacher)
        kept = np.floor(np.linspace(0, teacher, count, endpoint=False)).astype(int)
        return numbers[kept] / self.schedule.steps

    def time_input(self, level: Level) -> Any:
        """The conditioning: the step of a table, 1,000 s of flows, ln(sigma) / 4 of EDM."""
        if self.name in FLOW_METHODS:
            return level.s * self.fields.get("num_train_timesteps", 1000)
        if self.name in EDM_METHODS:
            return quarter_log_sigma(level)
        assert isinstance(self.schedule, TableSchedule)
        index = step_index(self.schedule)(level)
        flag, between = self._sigma_flag(), self._spacing() == "linspace"
        if not TABLE_METHODS[self.name].whole_times and (flag or between):
            return index
        if flag == "use_exponential_sigmas":
            return jnp.floor(index + 1e-3)
        return jnp.round(index)

    def make_denoiser(self, network: Network) -> Denoiser:
        """The denoiser of ``(z, time) -> prediction``, clipped as the configuration says."""
        if self.sigma_data is not None:
            sign = -1 if self.target == "v" else 1
            denoiser = precondition(
                lambda z, time: sign * network(z, time),
                self.sigma_data,
                time_input=self.time_input,
            )
        else:
            denoiser = make_denoiser(
                network,
                self.target,
                time_input=self.time_input,
                learned_variance=self.learned_variance,
            )
        return self.limit(denoiser)

    def limit(self, denoiser: Denoiser) -> Denoiser:
        """A denoiser, a guided one say, clipped or thresholded as the configuration says.

        That of a latent consistency model is held to its boundary after that.
        """
        recompute = self.name not in ("DDIM", "DDPM")
        if self.threshold is not None:
            denoiser = threshold_x(denoiser, *self.threshold, recompute_e=recompute)
        elif self.clip is not None:
            denoiser = clip_x(denoiser, -self.clip, self.clip, recompute_e=recompute)
        if self.name == "LCM":
            scale = field_of(self.fields)("timestep_scaling", 10.0)
            return hold_boundary(denoiser, time_input=lambda level: scale * self.time_input(level))
        return denoiser


def from_diffusers_scheduler(path: Path | Mapping[str, Any], **changes: Any) -> SchedulerRecipe:
    """The recipe of a scheduler of Gaussian diffusion.

    Args:
      path: ``scheduler_config.json``, its folder, a pipeline with ``scheduler/`` in it, or the
        fields themselves.
      **changes: fields that differ from those of the file, as in diffusers' ``from_config``;
        ``_class_name`` among them for another method on the same schedule.

    Raises:
      FileNotFoundError: for a path that does not exist.
      InputError: for a class or a value of a field that is not known here; the message names it.
    """
    where, found = _read(path)
    fields = {**found, **changes}
    name = str(fields.get("_class_name", "")).removesuffix("Scheduler").removesuffix("Discrete")
    name = name.removesuffix("Parallel")
    known = [*TABLE_METHODS, *FLOW_METHODS, *EDM_METHODS]
    if name not in known:
        why = f" ({NOT_HERE[name]})" if name in NOT_HERE else ""
        raise InputError(
            f"{where}: _class_name is {fields.get('_class_name')!r}{why}, expected one of "
            f"{', '.join(known)} (each followed by Scheduler)"
        )
    get = field_of(fields)
    for field, value in UNCHANGED.items():
        if (name, field) not in READ and get(field, value) != value:
            raise InputError(f"{where}: {field} is {get(field, value)!r}, expected {value!r}")
    if get("sigma_schedule", "karras") not in ("karras", "exponential"):
        raise InputError(
            f"{where}: sigma_schedule is {get('sigma_schedule', '')!r}, expected karras or "
            "exponential"
        )
    schedule = _schedule_of(where, name, get)
    default = "flow_prediction" if name in FLOW_METHODS else "epsilon"
    prediction = get("prediction_type", default)
    if prediction not in TARGET_NAMES:
        raise InputError(
            f"{where}: prediction_type is {prediction!r}, expected one of {', '.join(TARGET_NAMES)}"
        )
    methods: Mapping[str, TableMethod | Callable[..., Sampler]] = {
        **TABLE_METHODS,
        **FLOW_METHODS,
        **EDM_METHODS,
    }
    method = methods[name]
    make = method.make if isinstance(method, TableMethod) else method
    try:
        if isinstance(method, TableMethod):
            method.check(get, prediction)
        sampler = make(get, schedule)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    clips = get("clip_sample", name in ("DDIM", "DDPM"))
    thresholds = (get("dynamic_thresholding_ratio", 0.995), get("sample_max_value", 1.0))
    return SchedulerRecipe(
        name,
        schedule,
        TARGET_NAMES[prediction],
        sampler,
        float(get("clip_sample_range", 1.0)) if clips else None,
        thresholds if get("thresholding", False) else None,
        get("variance_type", "") == "learned_range",
        get("sigma_data", 0.5) if name in EDM_METHODS else None,
        fields,
    )


def _read(path: Path | Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """What errors call a configuration, and its fields."""
    if isinstance(path, Mapping):
        return "the scheduler's configuration", path
    file = pathlib.Path(path)
    if file.is_dir():
        inner = file / "scheduler" / SCHEDULER_FILE
        file = inner if inner.is_file() else file / SCHEDULER_FILE
    try:
        found = json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise InputError(f"{file}, expected JSON ({error})") from error
    if not isinstance(found, dict):
        raise InputError(f"{file}: is a JSON {type(found).__name__}, expected an object of fields")
    return str(file), found


def _schedule_of(where: str, name: str, get: Callable[[str, Any], Any]) -> Schedule:
    if name in FLOW_METHODS:
        return Shifted(RectifiedFlow(), 1 / get("shift", 1.0))
    if name in EDM_METHODS:
        return KarrasSchedule(get("sigma_min", 0.002), get("sigma_max", 80.0), get("rho", 7.0))
    zero = get("rescale_betas_zero_snr", False)
    if get("trained_betas", None) is not None:
        if zero:
            raise InputError(f"{where}: rescale_betas_zero_snr with trained_betas, expected False")
        return CustomTable.from_betas(get("trained_betas", None))
    of_latents = name in ("LCM", "TCD")
    kind = get("beta_schedule", "scaled_linear" if of_latents else "linear")
    if kind not in KINDS:
        raise InputError(f"{where}: beta_schedule is {kind!r}, expected one of {', '.join(KINDS)}")
    first, last = get("beta_start", 1e-4), get("beta_end", 0.02)
    if of_latents or name in ("Heun", "KDPM2", "KDPM2Ancestral"):
        first, last = get("beta_start", 0.00085), get("beta_end", 0.012)
    return DiscreteSchedule(KINDS[kind], get("num_train_timesteps", 1000), first, last, zero)


def noise_scale(recipe: SchedulerRecipe, levels: Level) -> float:
    """What diffusers multiplies standard normal numbers by to begin with, in units of our latents.

    It is the deviation of `jaxgen.diffusion.initial_noise` but for methods in sigma whose steps are
    not "leading", which start from s alone.
    """
    a, s = float(levels.a[0]), float(levels.s[0])
    in_sigma = recipe.name in TABLE_METHODS and TABLE_METHODS[recipe.name].in_sigma
    leading = field_of(recipe.fields)("timestep_spacing", "linspace") == "leading"
    return s if in_sigma and not leading else math.hypot(a, s)
