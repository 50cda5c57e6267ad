"""Denoisers from folders, and models that are trained on with other images."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.diffusion.model import DenoiserConfig
from jaxgen.diffusion.process.schedules import CosineSchedule
from jaxgen.diffusion.process.table_schedules import DiscreteSchedule
from jaxgen.errors import InputError
from jaxgen.pretrained import (
    LoadedNetwork,
    adapt_to_data,
    from_diffusers_scheduler,
    open_denoiser,
    save_dit,
    save_unet,
)
from jaxgen.pretrained.networks import abstract_params
from jaxgen.spacetime import DiTConfig, UViTConfig
from jaxgen.training import Checkpoints
from jaxgen.training.state import TrainState
from jaxgen.unet import UNetConfig

DIT = DiTConfig(width=12, depth=1, heads=2, num_classes=3, in_channels=3, out_channels=6)
UNET = UNetConfig(
    channels=(4, 8), blocks=1, attention_levels=(), middle_attention=False, groups=4, heads=None
)


def filled(config, size=(4, 4), value=0.5):
    return jax.tree.map(
        lambda x: np.full(x.shape, value, np.float32), abstract_params(config, size)
    )


def test_folders_of_diffusers(tmp_path):
    """What the network predicts is in the scheduler's configuration; a DiT alone has the usual."""
    save_dit(tmp_path / "dit", DIT, filled(DIT), sample_size=4)
    found = open_denoiser(tmp_path / "dit").config
    assert (found.image_shape, found.classes) == ((4, 4, 3), ("0", "1", "2"))
    assert (found.target, found.schedule, found.time_input) == ("e", DiscreteSchedule(), "step")
    assert found.learned_variance
    save_unet(tmp_path / "ddpm" / "unet", UNET, filled(UNET), sample_size=8)
    with pytest.raises(InputError, match=r"no scheduler_config.json in it"):
        open_denoiser(tmp_path / "ddpm")
    fields = {
        "_class_name": "DDPMScheduler",
        "beta_schedule": "squaredcos_cap_v2",
        "prediction_type": "v_prediction",
    }
    (tmp_path / "ddpm" / "scheduler").mkdir()
    (tmp_path / "ddpm" / "scheduler" / "scheduler_config.json").write_text(json.dumps(fields))
    found = open_denoiser(tmp_path / "ddpm").config
    assert (found.image_shape, found.classes, found.target) == ((8, 8, 3), (), "v")
    assert found.schedule == DiscreteSchedule("squared_cosine")
    assert from_diffusers_scheduler(tmp_path / "ddpm", _class_name="DDIMScheduler").clip == 1.0
    config = tmp_path / "dit" / "config.json"
    config.write_text(config.read_text().replace("DiTTransformer2DModel", "FluxTransformer2DModel"))
    with pytest.raises(InputError, match="a FluxTransformer2DModel, expected a network of images"):
        open_denoiser(tmp_path / "dit")


def test_own_runs(tmp_path):
    """A run's folder, its checkpoints, one checkpoint; other models are refused."""
    model = DenoiserConfig(DIT, (4, 4, 3), ("a", "b", "c"), "e", learned_variance=True)
    params = jax.tree.map(jnp.asarray, filled(DIT))
    zero = jnp.zeros((), jnp.int32)
    with Checkpoints(tmp_path / "run" / "checkpoints", config=model) as checkpoints:
        checkpoints.save(TrainState(zero + 7, params, (), None, zero, zero, None))
    for part in ("", "checkpoints", "checkpoints/7"):
        found = open_denoiser(tmp_path / "run" / part)
        assert found.config == model
        jax.tree.map(np.testing.assert_array_equal, found.params, params)
    with pytest.raises(FileNotFoundError):
        open_denoiser(tmp_path / "nothing")


def test_other_classes_and_other_sizes():
    network = UViTConfig(
        width=12, depth=3, heads=2, num_classes=2, in_channels=3, out_channels=3, input_size=(8, 8)
    )
    model = DenoiserConfig(network, (8, 8, 3), ("a", "b"), "v", CosineSchedule())
    loaded = LoadedNetwork(model, filled(network, (8, 8)))
    same, anew = adapt_to_data(loaded, (8, 8, 3), ("a", "b"), jax.random.key(0))
    assert same is loaded
    assert anew == []
    other, anew = adapt_to_data(loaded, (16, 8, 3), ("x", "y", "z"), jax.random.key(0))
    assert anew == ["label/table"]
    assert other.config.network.input_size == (16, 8)
    assert (other.config.classes, other.config.target) == (("x", "y", "z"), "v")
    assert other.params["label"]["table"].shape == (4, 12)
    assert np.abs(other.params["label"]["table"]).max() < 0.2  # new, not 0.5
    # Constant positions stay constant when they are interpolated.
    assert other.params["positions"].shape == (2 + 32, 12)
    np.testing.assert_allclose(other.params["positions"], 0.5, rtol=1e-6)
    with pytest.raises(InputError, match="images have 1 channels, expected 3"):
        adapt_to_data(loaded, (8, 8, 1), ("a", "b"), jax.random.key(0))
