"""The U-Net under diffusers' names: round trips, configurations, what does not fit."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from random_weights import assert_same_bits, randomly

from jaxgen.errors import InputError
from jaxgen.interop.safetensors import TensorFile, write_safetensors
from jaxgen.interop.unet_weights import unet_options, unet_params, unet_tensors
from jaxgen.unet.unet import UNetConfig

SMALL = UNetConfig(
    channels=(8, 16), blocks=1, attention_levels=(1,), head_size=8, groups=4, num_classes=3
)
DDPM = {
    "_class_name": "UNet2DModel",
    "act_fn": "silu",
    "attention_head_dim": None,
    "block_out_channels": [128, 256, 256, 256],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "norm_eps": 1e-6,
    "sample_size": 32,
}
"""The architecture of Ho et al. 2020 for CIFAR-10, 35.7 million parameters."""


@functools.cache
def like(config=SMALL, size=4):
    """The abstract parameters of the model."""
    inputs = jnp.zeros((1, size, size, config.in_channels)), jnp.zeros(1), None
    if config.num_classes:
        inputs = *inputs[:2], jnp.zeros(1, int)
    boxed = jax.eval_shape(config.make_model().init, jax.random.key(0), *inputs)["params"]
    return jax.tree.map(
        lambda x: x.value, boxed, is_leaf=lambda x: isinstance(x, nn.meta.AxisMetadata)
    )


def random_params(seed=0):
    return randomly(like(), seed)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_round_trips_are_bit_exact(dtype, tmp_path):
    rounded = jax.tree.map(lambda x: x.astype(jnp.dtype(dtype)), random_params())
    params = jax.tree.map(lambda x: x.astype(np.float32), rounded)
    tensors = unet_tensors(params, dtype)
    write_safetensors(tmp_path / "m.safetensors", tensors, max_bytes=10_000)
    file = TensorFile(tmp_path)
    assert_same_bits(unet_params(file, like()), params)
    assert_same_bits(unet_params(file, like(), None), rounded)
    assert_same_bits(unet_tensors(unet_params(file, like(), None)), tensors)


def test_names_and_axes():
    params = random_params()
    tensors = unet_tensors(params)
    block = params["up_0_block_1"]
    names = {
        "conv_in.weight": params["conv_in"]["kernel"].transpose(3, 2, 0, 1),
        "class_embedding.weight": params["label"]["table"],
        "time_embedding.linear_2.weight": params["time"]["output"]["kernel"].T,
        "up_blocks.0.resnets.1.conv_shortcut.weight": block["skip"]["kernel"].transpose(3, 2, 0, 1),
        "up_blocks.0.resnets.1.norm2.weight": block["norm2"]["scale"],
        "down_blocks.0.downsamplers.0.conv1.bias": params["down_0_resample"]["conv1"]["bias"],
        "mid_block.attentions.0.group_norm.bias": params["middle_attention_0"]["norm"]["bias"],
        "down_blocks.1.attentions.0.to_out.0.weight": np.concatenate(
            list(params["down_1_attention_0"]["output"]["kernel"])
        ).T,
    }
    for name, value in names.items():
        np.testing.assert_array_equal(tensors[name], value, err_msg=name)
    scale_and_shift = tensors["up_blocks.0.resnets.1.time_emb_proj.weight"]
    np.testing.assert_array_equal(scale_and_shift[:16].T, block["condition"]["kernel"][..., 0])
    np.testing.assert_array_equal(scale_and_shift[16:].T, block["condition"]["kernel"][..., 1])
    qkv = params["down_1_attention_0"]["qkv"]
    for i, part in enumerate("qkv"):
        weight = tensors[f"down_blocks.1.attentions.0.to_{part}.weight"]
        for head in range(2):
            rows = slice(8 * head, 8 * head + 8)
            np.testing.assert_array_equal(weight[rows].T, qkv["kernel"][:, head, i])
    assert len(tensors) == len(jax.tree.leaves(params)) + 2 * 2 * 4  # qkv apart, in 4 layers


def test_names_of_older_files():
    tensors = unet_tensors(random_params())
    renamed = {}
    for name, value in tensors.items():
        for new, old in {"to_q": "query", "to_k": "key", "to_v": "value"}.items():
            name = name.replace(f".{new}.", f".{old}.")
        renamed[name.replace(".to_out.0.", ".proj_attn.")] = value
    assert set(renamed) != set(tensors)
    assert_same_bits(unet_params(renamed, like()), random_params())


def test_a_published_network_by_its_configuration():
    config = UNetConfig(**unet_options(DDPM))
    assert (config.downsampling, config.attention_levels) == (("conv_end",) * 3, (1,))
    count = sum(math.prod(x.shape) for x in jax.tree.leaves(like(config, 32)))
    assert count == 35_746_307
    default = UNetConfig(**unet_options({}))
    assert (default.channels, default.head_size) == ((224, 448, 672, 896), 8)
    assert default.attention_levels == default.attention_levels_up == (1, 2, 3)


def test_options_of_labels_and_of_attention_in_the_middle():
    scale_shift = {"resnet_time_scale_shift": "scale_shift"}
    assert unet_options({})["middle_groups"] is None
    assert unet_options(scale_shift)["middle_groups"] == 0
    assert unet_options({**scale_shift, "attn_norm_num_groups": 8})["middle_groups"] == 8
    classes = unet_options({"num_class_embeds": 11})
    assert (classes["num_classes"], classes["null_class"]) == (11, False)
    null = unet_options({"num_class_embeds": 11}, null_class=True)
    assert (null["num_classes"], null["null_class"]) == (10, True)
    assert unet_options({"class_embed_type": "timestep"})["labels"] == "numbers"


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"time_embedding_type": "fourier"}, "time_embedding_type is 'fourier', expected one of"),
        ({"class_embed_type": "identity"}, "class_embed_type is 'identity', expected one of None"),
        ({"mid_block_type": None}, "mid_block_type is None, expected one of 'UNetMidBlock2D'"),
        ({"center_input_sample": True}, "center_input_sample is True, expected one of False"),
        ({"act_fn": "tanh"}, "act_fn is 'tanh', expected one of 'silu'"),
        ({"down_block_types": ["SkipDownBlock2D"] * 4}, "down_block_types is 'SkipDownBlock2D'"),
        ({"up_block_types": ["UpBlock2D"] * 3}, "up_block_types has 3 entries, expected 4"),
    ],
    ids=str,
)
def test_configurations_that_cannot_be_had(changes, fault):
    with pytest.raises(InputError, match=fault):
        unet_options(changes)


def test_a_checkpoint_that_does_not_fit(tmp_path):
    tensors = unet_tensors(random_params())
    missing = {k: v for k, v in tensors.items() if k != "mid_block.resnets.1.conv2.bias"}
    write_safetensors(tmp_path / "m.safetensors", missing)
    with pytest.raises(
        InputError, match=r"m\.safetensors: no tensor 'mid_block\.resnets\.1\.conv2\.bias'"
    ):
        unet_params(TensorFile(tmp_path / "m.safetensors"), like())
    with pytest.raises(InputError, match=r"^f: tensor 'down_blocks.7.x' is no part of the model"):
        unet_params({**tensors, "down_blocks.7.x": np.zeros(1)}, like(), name="f")
    with pytest.raises(
        InputError, match=r"'conv_in.weight' has shape \(8, 4, 3, 3\), expected \(8"
    ):
        unet_params({**tensors, "conv_in.weight": np.zeros((8, 4, 3, 3), np.float32)}, like())
    with pytest.raises(InputError, match="parameter blocks_0/scale has no counterpart"):
        unet_tensors({"blocks_0": {"scale": np.zeros(3)}})
