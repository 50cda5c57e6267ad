"""Recipes of ``scheduler_config.json`` against diffusers' schedulers, latents after every step."""

import importlib
import pathlib

import jax
import numpy as np
import pytest

from jaxgen.errors import InputError
from jaxgen.pretrained import from_diffusers_scheduler
from jaxgen.pretrained.scheduler_methods import SIGMA_FLAGS, TABLE_METHODS

pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")
torch = pytest.importorskip("torch", reason="torch (the [parity] extra) is not installed")
diffusers = pytest.importorskip("diffusers", reason="diffusers (the [parity] extra) is missing")

from diffusers_steps import (  # noqa: E402
    assert_same_steps,
    in_float64,
    latents,
    network,
    ours,
    theirs,
    twice,
)

CONFIGURATIONS = [
    "Tencent-Hunyuan/HunyuanDiT-Diffusers",
    "black-forest-labs/FLUX.1-schnell",
    "runwayml/stable-diffusion-inpainting",
    "runwayml/stable-diffusion-v1-5",
    "stabilityai/stable-diffusion-2-1",
    "stabilityai/stable-diffusion-3-medium-diffusers",
    "stabilityai/stable-diffusion-xl-base-1.0",
]
LATENT = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
OWN = {
    "DDIM": {},
    "DDIM-trailing": {"timestep_spacing": "trailing", "prediction_type": "v_prediction"},
    "DDPM": {"variance_type": "fixed_large", "beta_schedule": "squaredcos_cap_v2"},
    "DDPM-learned": {"variance_type": "learned_range", "clip_sample": False},
    "PNDM": {"set_alpha_to_one": True, "steps_offset": 1},
    "EulerDiscrete": {**LATENT, "steps_offset": 1, "timestep_spacing": "leading"},
    "EulerDiscrete-karras": {"use_karras_sigmas": True, "final_sigmas_type": "sigma_min"},
    "EulerDiscrete-spaced": {**LATENT, "timestep_spacing": "leading", "use_karras_sigmas": True},
    "EulerDiscrete-linspace": LATENT,
    "EulerAncestralDiscrete": {"timestep_spacing": "trailing", "prediction_type": "v_prediction"},
    "HeunDiscrete": {"use_karras_sigmas": True, "clip_sample": True},
    "LMSDiscrete": {},
    "KDPM2Discrete": {},
    "KDPM2Discrete-spaced": {"timestep_spacing": "trailing", "use_karras_sigmas": True},
    "KDPM2Discrete-expo": {"timestep_spacing": "trailing", "use_exponential_sigmas": True},
    "HeunDiscrete-expo": {"timestep_spacing": "trailing", "use_exponential_sigmas": True},
    "DPMSolverMultistep": {"solver_order": 3, "use_karras_sigmas": True},
    "DPMSolverMultistep-lu": {**LATENT, "use_lu_lambdas": True},
    "DPMSolverMultistep-sde": {"algorithm_type": "sde-dpmsolver++", "steps_offset": 1},
    "DPMSolverMultistep-threshold": {"thresholding": True, "sample_max_value": 2.0},
    "DPMSolverSinglestep": {"prediction_type": "v_prediction"},
    "DEISMultistep": {},
    "UniPCMultistep": {"final_sigmas_type": "sigma_min"},
    "DDIMParallel": {},
    "DDPMParallel": {"variance_type": "fixed_large", "beta_schedule": "squaredcos_cap_v2"},
    "SASolver": {},
    "SASolver-karras": {"use_karras_sigmas": True, "lower_order_final": False},
    "LCM": {"clip_sample": True, "timestep_scaling": 0.01},
    "TCD": {"prediction_type": "v_prediction", "original_inference_steps": 40},
    "FlowMatchEulerDiscrete": {"shift": 2.0},
    "FlowMatchHeunDiscrete": {"shift": 3.0},
    "EDMEuler": {"sigma_max": 40.0},
    "EDMDPMSolverMultistep": {"sigma_schedule": "exponential", "prediction_type": "v_prediction"},
}


WITH_SIGMAS = [name for name, own in TABLE_METHODS.items() if own.in_sigma or own.whole_times]


def class_name(name):
    """The class of a method of a table."""
    full = f"{name}DiscreteScheduler"
    return full if hasattr(diffusers, full) else f"{name}Scheduler"


def compare(path, scheduler, monkeypatch, tolerance=1e-5, count=10):
    """All steps of both, from the same latents with the same noise."""
    kind = type(scheduler)
    if hasattr(kind, "_sigma_to_t"):  # numpy 2 no longer takes logarithms of tensors
        of_sigma = kind._sigma_to_t
        monkeypatch.setattr(
            kind, "_sigma_to_t", lambda self, *args: of_sigma(self, *map(np.asarray, args))
        )
    recipe = from_diffusers_scheduler(path)
    scheduler.set_timesteps(count)
    if recipe.name in ("DEISMultistep", "UniPCMultistep", "SASolver"):
        in_float64(scheduler)
    if recipe.name == "DEISMultistep":
        monkeypatch.setattr(importlib.import_module(kind.__module__), "np", torch)
    net = twice if recipe.learned_variance else network
    levels = recipe.levels(count)
    times = [float(np.ravel(recipe.time_input(at(levels, i)))[0]) for i in range(count)]
    in_sigma = recipe.name in TABLE_METHODS and TABLE_METHODS[recipe.name].in_sigma
    told = np.asarray(scheduler.timesteps, np.float64)
    if len(told) == count:
        np.testing.assert_allclose(times, told, atol=1e-2)
    scale = np.float32(levels.a[0]) if in_sigma else np.float32(1)
    z = latents(float(levels.s[0]) if recipe.name.startswith("EDM") else 1.0)
    found, noises = ours(recipe.sampler, recipe.make_denoiser(net), z, levels)
    if recipe.name == "DDPM":  # diffusers adds noise where the last step begins above index 0
        noises = [*noises[:-1], np.zeros_like(noises[-1])]
    wanted = theirs(scheduler, z / scale, [*noises, noises[-1]], net)
    ends = np.asarray(recipe.sampler.table(levels).next.a) if in_sigma else None
    # A last level that is there twice: their last step goes nowhere, and is none here.
    assert len(wanted) - len(found) == (levels.log_snr[-1] == levels.log_snr[-2])
    assert_same_steps(found, wanted[: len(found)], ends, tolerance)


def at(levels, i):
    return jax.tree.map(lambda value: np.asarray(value)[i], levels)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_real_configurations(name, data_folder, monkeypatch):
    folder = pathlib.Path(data_folder) / "text" / "hub_configs" / name
    config = folder / "scheduler"
    kind = from_diffusers_scheduler(folder).fields["_class_name"]
    scheduler = getattr(diffusers, kind).from_pretrained(config)
    compare(folder, scheduler, monkeypatch)


def test_no_configuration_is_forgotten(data_folder):
    folder = pathlib.Path(data_folder) / "text" / "hub_configs"
    found = folder.glob("*/*/scheduler/scheduler_config.json")
    assert sorted("/".join(path.parts[-4:-2]) for path in found) == CONFIGURATIONS


@pytest.mark.parametrize("name", OWN)
def test_own_configurations(name, tmp_path, monkeypatch):
    scheduler = getattr(diffusers, f"{name.split('-')[0]}Scheduler")(**OWN[name])
    scheduler.save_pretrained(tmp_path)
    # Their tables are in float32 (`table_of` of other tests), which third orders and short steps
    # show most; LMS is integrated numerically.
    loose = {"LMSDiscrete": 1e-4, "DPMSolverMultistep": 1e-4, "SASolver-karras": 2e-4}
    loose["KDPM2Discrete-spaced"] = 1e-4  # times are rounded there, in part
    # Steps of a table that are no whole numbers, but for DDIM's (docs/diffusion_design.md).
    count = 10 if name.startswith("DD") else 6
    compare(tmp_path, scheduler, monkeypatch, loose.get(name, 3e-5), count)


@pytest.mark.parametrize("flag", [None, *SIGMA_FLAGS])
@pytest.mark.parametrize("spacing", ["linspace", "leading", "trailing"])
@pytest.mark.parametrize("name", WITH_SIGMAS)
def test_sigmas_of_every_flag(name, spacing, flag):
    """Also of fields that a class has not, which diffusers passes over."""
    fields = {
        **{**LATENT, "_class_name": class_name(name), "timestep_spacing": spacing},
        **{"steps_offset": 1, "lower_order_final": flag is None or name != "SASolver"},
        **({flag: True} if flag else {}),
    }
    for count in (4, 6, 20, 28):
        scheduler = getattr(diffusers, fields["_class_name"]).from_config(fields)
        scheduler.set_timesteps(count)
        levels = from_diffusers_scheduler(fields).levels(count)
        found, wanted = levels.s / levels.a, scheduler.sigmas.numpy()
        if len(wanted) > count + 1:  # a level of a method of two evaluations is there twice
            wanted = np.append(wanted[:-1:2], 0.0)[: count + 1]
        np.testing.assert_allclose(found, wanted, rtol=1e-4, err_msg=str(count))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"_class_name": "VQDiffusionScheduler"}, "_class_name is 'VQDiffusionScheduler'"),
        ({"_class_name": "DDIMScheduler", "timestep_spacing": "linspace"}, "timestep_spacing"),
        ({"_class_name": "DDIMScheduler", "beta_schedule": "exp"}, "beta_schedule is 'exp'"),
        ({"_class_name": "PNDMScheduler", "prediction_type": "v_prediction"}, "averages before"),
        ({"_class_name": "EulerDiscreteScheduler", "use_beta_sigmas": True}, "use_beta_sigmas"),
        ({"_class_name": "DDPMScheduler", "variance_type": "learned"}, "variance_type is 'lea"),
        (
            {"_class_name": "SASolverScheduler", "use_karras_sigmas": True},
            "lower_order_final is True with",
        ),
        ({"_class_name": "IPNDMScheduler"}, "its own schedule begins at pure noise"),
        ({"_class_name": "DPMSolverSDEScheduler"}, "of one path there, and independent here"),
    ],
)
def test_what_is_not_known(fields, message):
    with pytest.raises(InputError, match=message):
        from_diffusers_scheduler(fields)
