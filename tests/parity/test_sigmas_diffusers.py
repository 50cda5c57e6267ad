"""Solvers against diffusers' schedulers on its other spacings of noise levels, taken from there.

The network has no time input: how they round times is what `test_dpm_solver_sigmas` is about.
"""

import importlib

import numpy as np
import pytest

from jaxgen.diffusion.denoiser import make_denoiser
from jaxgen.diffusion.process.derived_schedules import Shifted
from jaxgen.diffusion.process.levels import Level
from jaxgen.diffusion.process.schedules import RectifiedFlow
from jaxgen.diffusion.process.step_levels import CLEAN, linear_quadratic_times
from jaxgen.diffusion.samplers import (
    Adams,
    DPMSolver,
    Euler,
    Heun,
    Midpoint,
    SASolver,
    SingleStepDPMSolver,
    UniPC,
)

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
torch = pytest.importorskip("torch", reason="torch (the [parity] extra) is not installed")
diffusers = pytest.importorskip("diffusers", reason="diffusers (the [parity] extra) is missing")

from diffusers_steps import (  # noqa: E402
    TOLERANCE,
    assert_same_steps,
    in_float64,
    latents,
    network,
    ours,
    table_of,
    theirs,
)

SIGMA = {  # latents in the scaling "ve"
    "EulerDiscrete": lambda table: Euler("ve"),
    "HeunDiscrete": lambda table: Heun("ve"),
    "LMSDiscrete": lambda table: Adams(),
    "KDPM2Discrete": lambda table: Midpoint(table),
    "KDPM2AncestralDiscrete": lambda table: Midpoint(table, 1.0),
}
EXPONENTIAL = {
    "DPMSolverMultistep": lambda table: DPMSolver(),
    "DPMSolverSinglestep": lambda table: SingleStepDPMSolver(),
    "UniPCMultistep": lambda table: UniPC(),
    "DEISMultistep": lambda table: DPMSolver(2, "exact", "e", lower_order_final=False),
    "SASolver": lambda table: SASolver(tau=0.6, low=0.0, high=1.0, lower_order_final=False),
}
NOWHERE = ("DEISMultistep", "SASolver")
"""Whose last step leads from the first level to itself; it is left out."""


def timeless(z, time):
    return network(z, 0 * time)


def scheduler_with(name, monkeypatch, **config):
    kind = getattr(diffusers, f"{name}Scheduler")
    # Numpy 2 no longer takes logarithms of tensors.
    if hasattr(kind, "_sigma_to_t"):
        of_sigma = kind._sigma_to_t
        monkeypatch.setattr(
            kind, "_sigma_to_t", lambda self, *args: of_sigma(self, *map(np.asarray, args))
        )
    if name in NOWHERE:
        config["lower_order_final"] = False
    if name == "SASolver":
        config["tau_func"] = lambda t: torch.tensor(0.6)
    scheduler = kind(**config)
    scheduler.set_timesteps(10)
    if name == "DEISMultistep":
        monkeypatch.setattr(importlib.import_module(kind.__module__), "np", torch)
    return in_float64(scheduler) if name in EXPONENTIAL else scheduler


def levels_of(scheduler, schedule):
    """Their levels, each once; some end at the first one, in a step that goes nowhere."""
    sigma = scheduler.sigmas.double().numpy()
    sigma = sigma[np.append(True, np.diff(sigma) != 0)]
    noisy = sigma[sigma > 0]
    if schedule.scaling == "flow":
        levels = schedule.at(noisy)
    else:
        levels = schedule.at_log_snr(-2 * np.log(noisy))
    if sigma[-1] > 0:
        return levels
    return Level(*(np.append(value, end) for value, end in zip(levels, CLEAN, strict=True)))


@pytest.mark.parametrize("spacing", ["karras", "exponential", "beta"])
@pytest.mark.parametrize("name", [*SIGMA, *EXPONENTIAL])
def test_sigmas(name, spacing, monkeypatch):
    config = {f"use_{spacing}_sigmas": True, "prediction_type": "v_prediction"}
    scheduler = scheduler_with(name, monkeypatch, **config)
    table = table_of(scheduler)
    levels = levels_of(scheduler, table)
    sampler = {**SIGMA, **EXPONENTIAL}[name](table)
    found, noises = ours(sampler, make_denoiser(timeless, "v"), latents(), levels)
    rows = sampler.table(levels)
    scale, ends = np.float32(1), None
    if name in SIGMA:
        scale, ends = np.float32(levels.a[0]), rows.next.a
    drawn = noises[1::2] if name.startswith("KDPM2") else [*noises, noises[-1]]
    wanted = theirs(scheduler, latents() / scale, drawn, timeless)
    # LMS integrates numerically there, to 1e-4. In DEIS rounded values of e^ are subtracted, and
    # divided by steps that are short at both ends of the betas.
    tolerance = {"LMSDiscrete": 5e-5, "DEISMultistep": 2e-5}.get(name, TOLERANCE)
    assert_same_steps(found, wanted[: len(found)], ends, tolerance)
    assert len(wanted) - len(found) == (name in NOWHERE)


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("name", ["DEISMultistep", "SASolver"])
def test_flow_sigmas(name, shift, monkeypatch):
    """As in `test_flow_matching`, which has the solvers that end at clean data."""
    config = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": shift}
    scheduler = scheduler_with(name, monkeypatch, **config)
    levels = levels_of(scheduler, RectifiedFlow())
    sampler = EXPONENTIAL[name](None)
    found, noises = ours(sampler, make_denoiser(timeless, "flow"), latents(), levels)
    wanted = theirs(scheduler, latents(), [*noises, noises[-1]], timeless)
    assert_same_steps(found, wanted[: len(found)])


@pytest.mark.parametrize(
    "config",
    [
        {"use_karras_sigmas": True},
        {"use_exponential_sigmas": True},
        {"use_beta_sigmas": True},
        {"shift": 3.0, "shift_terminal": 0.1},
        {"use_dynamic_shifting": True},
        {"use_dynamic_shifting": True, "time_shift_type": "linear"},
    ],
    ids=lambda config: "-".join(map(str, config)),
)
def test_flow_matching_sigmas(config):
    """Euler on straight lines; a dynamic shift by mu is one by exp(mu), or by mu if linear."""
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(**config)
    scheduler.set_timesteps(10, mu=0.8 if config.get("use_dynamic_shifting") else None)
    levels = levels_of(scheduler, RectifiedFlow())
    if config.get("use_dynamic_shifting"):
        shift = 0.8 if "time_shift_type" in config else np.exp(0.8)
        times = np.linspace(1, scheduler.sigma_min, 10)
        shifted = Shifted(RectifiedFlow(), 1 / shift).at(times)
        np.testing.assert_allclose(levels.s[:-1], shifted.s, rtol=1e-6)
    found, _ = ours(Euler(), make_denoiser(timeless, "flow"), latents(), levels)
    assert_same_steps(found, theirs(scheduler, latents(), net=timeless))


@pytest.mark.parametrize(("count", "linear"), [(8, None), (50, None), (50, 10)])
def test_linear_quadratic_times(count, linear):
    from diffusers.pipelines.mochi.pipeline_mochi import linear_quadratic_schedule

    wanted = linear_quadratic_schedule(count, 0.025, linear)
    np.testing.assert_allclose(linear_quadratic_times(count, 0.025, linear), wanted, rtol=1e-12)
