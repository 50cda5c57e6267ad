"""Denoisers from folders, and models that are trained on with other images."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.diffusion.model import DenoiserConfig
from jaxgen.diffusion.process.schedules import CosineSchedule
from jaxgen.diffusion.process.table_schedules import DiscreteSchedule
from jaxgen.errors import InputError
from jaxgen.interop.learned_positions import resize_offsets, resize_positions
from jaxgen.interop.mdt_weights import mdt_tensors
from jaxgen.interop.safetensors import write_safetensors
from jaxgen.interop.uvit_weights import uvit_tensors
from jaxgen.pretrained import (
    LoadedNetwork,
    adapt_to_data,
    from_diffusers_scheduler,
    open_denoiser,
    save_dit,
    save_unet,
)
from jaxgen.pretrained.networks import abstract_params
from jaxgen.spacetime import DiTConfig, MDTConfig, UViTConfig
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


def test_published_weights_alone(tmp_path):
    """U-ViT and MDT by the names of their tensors, with the process that they were trained with."""
    grids = {"in_channels": 4, "depth": 3, "num_classes": 3, "input_size": (4, 4)}
    uvit = UViTConfig(**grids, out_channels=4, width=512, heads=8, mlp_ratio=0.125)
    mdt = MDTConfig(**grids, out_channels=8, width=12, heads=2)
    write_safetensors(tmp_path / "u.safetensors", uvit_tensors(filled(uvit), uvit.patch))
    (tmp_path / "m").mkdir()
    write_safetensors(tmp_path / "m" / "m.safetensors", mdt_tensors(filled(mdt), mdt.patch))
    found = open_denoiser(tmp_path / "u.safetensors").config
    assert (found.image_shape, found.classes, found.target) == ((4, 4, 4), ("0", "1", "2"), "e")
    assert found.schedule.betas[[0, -1]].tolist() == pytest.approx([0.00085, 0.012])
    # Steps count from 1 there: network((i + 1)) of the entry with index i.
    assert conditioned_on(found, found.schedule.at_index(41).t) == pytest.approx(42)
    found = open_denoiser(tmp_path / "m").config
    assert (found.network, found.learned_variance) == (mdt, True)
    assert found.schedule == DiscreteSchedule()
    assert conditioned_on(found, found.schedule.at_index(41).t) == pytest.approx(41)
    pixels = dataclasses.replace(uvit, in_channels=3, out_channels=3)
    write_safetensors(tmp_path / "p.safetensors", uvit_tensors(filled(pixels), pixels.patch))
    found = open_denoiser(tmp_path / "p.safetensors").config
    # Of log a^2 in Song et al. (2021b, equation 33), at t = 0.6.
    log_a2 = -(0.1 * 0.6 + 19.9 * 0.6**2 / 2)
    assert 2 * np.log(found.schedule.at(0.6).a) == pytest.approx(log_a2)
    assert conditioned_on(found, 0.6) == pytest.approx(0.6 * 999)
    fields = {"_class_name": "DDIMScheduler", "prediction_type": "v_prediction"}
    (tmp_path / "m" / "scheduler_config.json").write_text(json.dumps(fields))
    assert open_denoiser(tmp_path / "m").config.target == "v"
    write_safetensors(tmp_path / "other.safetensors", {"weight": np.zeros(3, np.float32)})
    with pytest.raises(InputError, match="nor the weights of a U-ViT or MDT, expected one of them"):
        open_denoiser(tmp_path / "other.safetensors")


def conditioned_on(config, t):
    """What the network is given at time t."""
    given = []
    config.adapt(lambda z, time: given.append(time) or z)(np.zeros((1, 2)), np.float32(1000 * t))
    return float(given[0])


def test_an_mdt_of_another_size_keeps_its_offsets():
    """As the loader's own interpolation; sides that change places are not left as they are."""
    rng = np.random.default_rng(0)
    network = MDTConfig(
        **{"width": 12, "depth": 3, "heads": 2, "num_classes": 2, "in_channels": 3},
        **{"out_channels": 3, "input_size": (4, 8)},
    )
    params = jax.tree.map(lambda x: rng.normal(size=x.shape), filled(network, (4, 8)))
    model = LoadedNetwork(DenoiserConfig(network, (4, 8, 3), ("a", "b"), "e"), params)
    for size in ((8, 4),):
        other, anew = adapt_to_data(model, (*size, 3), ("a", "b"), jax.random.key(0))
        assert anew == []
        new = (size[0] // 2, size[1] // 2)
        for block in ("encoder_0", "side", "decoder_1"):
            found, table = (p[block]["relative"]["table"] for p in (other.params, params))
            np.testing.assert_allclose(found, resize_offsets(table, (2, 4), new), rtol=1e-6)
        found, positions = (p["encoder_positions"] for p in (other.params, params))
        np.testing.assert_allclose(found, resize_positions(positions, (2, 4), new), rtol=1e-6)


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
