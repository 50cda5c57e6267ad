"""What recipes of schedulers say, without diffusers: of written fields, and of real files."""

import json

import numpy as np
import pytest

from jaxgen.diffusion.distillation.consistency import ConsistencySampler
from jaxgen.diffusion.process.derived_schedules import Shifted
from jaxgen.diffusion.process.schedules import RectifiedFlow
from jaxgen.diffusion.process.table_schedules import DiscreteSchedule
from jaxgen.diffusion.samplers import DDIM, TCD, Adams, DPMSolver, Euler
from jaxgen.errors import InputError
from jaxgen.pretrained import from_diffusers_scheduler

LATENT = DiscreteSchedule("scaled_linear", 1000, 0.00085, 0.012)
FIELDS = {
    "_class_name": "PNDMScheduler",
    **{"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    **{"clip_sample": False, "skip_prk_steps": True, "steps_offset": 1},
}
"""As of Stable Diffusion 1.5."""


def test_fields(tmp_path):
    """A file, and other methods on the same schedule by their class."""
    (tmp_path / "scheduler").mkdir()
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps(FIELDS))
    recipe = from_diffusers_scheduler(tmp_path)
    assert (recipe.schedule, recipe.target, recipe.clip) == (LATENT, "e", None)
    assert recipe.sampler == Adams(4, "steps", repeat_first=True)
    levels = recipe.levels(50)
    assert np.round(recipe.schedule.index(levels.t[[0, 1, -2, -1]])).tolist() == [981, 961, 1, 0]
    other = from_diffusers_scheduler(
        tmp_path, _class_name="DPMSolverMultistepScheduler", use_karras_sigmas=True
    )
    assert other.sampler == DPMSolver(2, halve_curvature=True)
    sigma = other.levels(20).s[:-1] / other.levels(20).a[:-1]
    np.testing.assert_allclose(np.diff(sigma ** (1 / 7)), np.diff(sigma ** (1 / 7))[0], rtol=1e-5)
    clipped = from_diffusers_scheduler({"_class_name": "DDIMScheduler", "thresholding": True})
    assert (clipped.clip, clipped.threshold, clipped.sampler) == (1.0, (0.995, 1.0), DDIM())
    flow = from_diffusers_scheduler({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3})
    assert (flow.schedule, flow.sampler) == (Shifted(RectifiedFlow(), 1 / 3), Euler())
    assert flow.levels(4).s[0] == 1


@pytest.mark.parametrize(
    ("name", "target", "schedule"),
    [
        ("runwayml/stable-diffusion-v1-5", "e", LATENT),
        ("stabilityai/stable-diffusion-2-1", "v", LATENT),
        ("stabilityai/stable-diffusion-xl-base-1.0", "e", LATENT),
        (
            "stabilityai/stable-diffusion-3-medium-diffusers",
            "flow",
            Shifted(RectifiedFlow(), 1 / 3),
        ),
        ("black-forest-labs/FLUX.1-schnell", "flow", Shifted(RectifiedFlow(), 1.0)),
    ],
)
def test_real_files(name, target, schedule, data_folder):
    recipe = from_diffusers_scheduler(data_folder / "text" / "hub_configs" / name)
    assert (recipe.target, recipe.schedule) == (target, schedule)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"_class_name": "AmusedScheduler"}, "_class_name is 'AmusedScheduler', expected one of"),
        ({"prediction_type": "velocity"}, "prediction_type is 'velocity'"),
        ({"beta_schedule": "exp"}, "beta_schedule is 'exp', expected one of linear"),
        ({"_class_name": "EulerDiscreteScheduler", "sigma_min": 0.1}, r"sigma_min is 0\.1"),
        ({"_class_name": "UniPCMultistepScheduler", "solver_type": "bh3"}, "solver_type is 'bh3'"),
        ({"_class_name": "IPNDMScheduler"}, "_class_name is 'IPNDMScheduler' .its own schedule"),
        ({"_class_name": "TCDScheduler", "clip_sample": True}, "clip_sample is True, which diff"),
    ],
)
def test_what_is_not_known(change, message):
    with pytest.raises(InputError, match=f"the scheduler's configuration: {message}"):
        from_diffusers_scheduler({**FIELDS, **change})


def test_methods_of_few_steps():
    """Some of fifty steps of the teacher, the boundary held after clipping; Parallel is nothing."""
    lcm = from_diffusers_scheduler({"_class_name": "LCMScheduler"})
    assert (lcm.schedule, lcm.sampler) == (LATENT, ConsistencySampler())
    levels = lcm.levels(4)
    # Of 999, 979, .., 19 those numbered 0, 12, 25 and 37.
    assert np.round(lcm.schedule.index(levels.t[:-1])).tolist() == [999, 759, 499, 259]
    assert levels.s[-1] == 0
    with pytest.raises(InputError, match="count is 51, expected at most original_inference_steps"):
        lcm.levels(51)
    tcd = from_diffusers_scheduler({"_class_name": "TCDScheduler"})
    assert tcd.sampler == TCD(LATENT, 0.3)
    assert tcd.levels(4).log_snr[-1] == LATENT.table[0]
    parallel = from_diffusers_scheduler({"_class_name": "DDIMParallelScheduler"})
    assert (parallel.name, parallel.sampler, parallel.clip) == ("DDIM", DDIM(), 1.0)


def test_no_json(tmp_path):
    (tmp_path / "scheduler_config.json").write_text("[1]")
    with pytest.raises(InputError, match="is a JSON list, expected an object of fields"):
        from_diffusers_scheduler(tmp_path)
    with pytest.raises(FileNotFoundError):
        from_diffusers_scheduler(tmp_path / "scheduler_config.yaml")
