"""VideoDiT with the weights of Wan and of Latte against diffusers' networks, both ways, tiny."""

import dataclasses
import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxgen.interop.safetensors import TensorFile
from jaxgen.interop.video_transformer_config import (
    latte_fields,
    latte_options,
    latte_spacing,
    wan_fields,
    wan_options,
)
from jaxgen.interop.video_transformer_weights import (
    video_transformer_params,
    write_video_transformer,
)
from jaxgen.spacetime import VideoDiTConfig

torch = pytest.importorskip("torch", reason="torch (the [parity] extra) is not installed")
pytest.importorskip("diffusers", reason="diffusers (the [parity] extra) is not installed")

H, K, C, TEXT = 2, 12, 4, 6
WAN = {
    "num_attention_heads": H,
    "attention_head_dim": K,
    "in_channels": C,
    "out_channels": C,
    "text_dim": TEXT,
    "ffn_dim": 41,
    "num_layers": 2,
    "rope_max_seq_len": 32,
}
LATTE = {
    "num_attention_heads": H,
    "attention_head_dim": K,
    "in_channels": C,
    "out_channels": 2 * C,
    "num_layers": 2,
    "cross_attention_dim": H * K,
    "attention_bias": True,
    "sample_size": 8,
    "patch_size": 2,
    "activation_fn": "gelu-approximate",
    "num_embeds_ada_norm": 1000,
    "norm_type": "ada_norm_single",
    "norm_elementwise_affine": False,
    "norm_eps": 1e-6,
    "caption_channels": TEXT,
    "video_length": 3,
}
WAN_T2V = {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30}
"""Wan 2.1 of 1.3 billion parameters, where it differs from the larger one."""
LATTE_1 = {
    **LATTE,
    "num_attention_heads": 16,
    "attention_head_dim": 72,
    "num_layers": 28,
    "cross_attention_dim": 1152,
    "sample_size": 64,
    "caption_channels": 4096,
    "video_length": 16,
}


def their_class(name):
    module = {
        "WanTransformer3DModel": "transformer_wan",
        "LatteTransformer3DModel": "latte_transformer_3d",
    }[name]
    return getattr(importlib.import_module(f"diffusers.models.transformers.{module}"), name)


def random_module(cls, options):
    """A network of diffusers with random weights."""
    module = cls(**options).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    return module


def abstract_params(config):
    frames, height, width = config.patch
    z = jnp.zeros((1, frames, height, width, config.in_channels))
    text = jnp.zeros((1, 1, config.text_width))
    init = functools.partial(config.make_model().init, text_BNC=text)
    return nn.meta.unbox(jax.eval_shape(init, jax.random.key(0), z, jnp.zeros(1))["params"])


def inputs(size, times):
    rng = np.random.default_rng(0)
    z = rng.normal(size=(2, *size, C)).astype(np.float32)
    text = rng.normal(size=(2, 5, TEXT)).astype(np.float32)
    return z, rng.integers(0, 1000, (2, *times)).astype(np.float32), text


def theirs(module, z, time, text, time_type):
    """Their prediction, in our order of axes."""
    videos = torch.tensor(z.transpose(0, 4, 1, 2, 3))
    with torch.no_grad():
        at = torch.tensor(time).to(time_type)
        found = module(videos, timestep=at, encoder_hidden_states=torch.tensor(text)).sample
    return found.numpy().transpose(0, 2, 3, 4, 1)


def compare(module, folder, options_of, size, spacing=None, times=(), time_type=torch.float32):
    """Their folder opened here predicts the same, to 1e-4 of the largest number."""
    module.save_pretrained(folder)
    file = TensorFile(folder)
    config = VideoDiTConfig(**options_of(file))
    params = video_transformer_params(file, abstract_params(config), config.patch)
    z, time, text = inputs(size, times)
    expected = theirs(module, z, time, text, time_type)
    model = config.make_model()
    found = jax.jit(lambda p: model.apply({"params": p}, z, time, text_BNC=text, spacing=spacing))(
        params
    )
    scale = abs(expected).max()
    np.testing.assert_allclose(found / scale, expected / scale, atol=1e-4)
    return config, params, (z, time, text), expected


def compare_back(module, folder, params, fields, given, expected, time_type=torch.float32):
    """The folder written here has their tensors bit by bit, and their network takes it."""
    write_video_transformer(folder, params, fields, max_bytes=20_000)
    again = type(module).from_pretrained(folder).eval()
    state = module.state_dict()
    assert set(again.state_dict()) == set(state) == set(TensorFile(folder))
    for name, value in state.items():
        assert torch.equal(again.state_dict()[name], value), name
    for name, value in module.config.items():
        if name != "rope_max_seq_len" and not name.startswith("_"):
            assert np.array_equal(again.config[name], value), name
    np.testing.assert_array_equal(theirs(again, *given, time_type), expected)


def test_wan(tmp_path, monkeypatch):
    cls = their_class("WanTransformer3DModel")
    # All weights are float32 here; to keep some so, it would ask for another package.
    monkeypatch.setattr(cls, "_keep_in_fp32_modules", None)
    module = random_module(cls, WAN)
    config, params, given, expected = compare(module, tmp_path, wan_options, (3, 4, 6))
    written = tmp_path / "written"
    written.mkdir()
    fields = wan_fields(dataclasses.asdict(config))
    compare_back(module, written, params, fields, given, expected)


@pytest.mark.slow
def test_wan_with_times_of_tokens_and_patches_in_time_without_norm_before_texts(tmp_path):
    options = {**WAN, "patch_size": (2, 1, 2), "cross_attn_norm": False}
    module = random_module(their_class("WanTransformer3DModel"), options)
    compare(module, tmp_path, wan_options, (4, 3, 4), times=(12,))


def test_latte(tmp_path):
    module = random_module(their_class("LatteTransformer3DModel"), LATTE)
    config, params, given, expected = compare(
        module, tmp_path, latte_options, (3, 8, 8), time_type=torch.int64
    )
    written = tmp_path / "written"
    written.mkdir()
    fields = latte_fields(dataclasses.asdict(config), sample_size=8, frames=3)
    compare_back(module, written, params, fields, given, expected, torch.int64)


@pytest.mark.slow
def test_latte_at_another_size_than_that_of_training(tmp_path):
    module = random_module(their_class("LatteTransformer3DModel"), LATTE)
    spacing = np.array(latte_spacing(LATTE, (4, 12)), np.float32)
    compare(module, tmp_path, latte_options, (3, 4, 12), spacing, time_type=torch.int64)


@pytest.mark.parametrize(
    ("name", "options", "options_of", "number"),
    [
        ("WanTransformer3DModel", WAN_T2V, wan_options, 1_418_996_800),
        pytest.param(
            *("LatteTransformer3DModel", LATTE_1, latte_options, 1_057_246_880),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_numbers_of_parameters_of_published_networks(name, options, options_of, number):
    with torch.device("meta"):
        expected = sum(parameter.numel() for parameter in their_class(name)(**options).parameters())
    config = VideoDiTConfig(**options_of(options))
    ours = sum(leaf.size for leaf in jax.tree.leaves(abstract_params(config)))
    assert ours == expected == number
