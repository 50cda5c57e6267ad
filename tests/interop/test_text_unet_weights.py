"""The U-Net that reads texts under diffusers' names: round trips, configurations, sizes."""

import dataclasses
import functools
import json
import math

import jax
import numpy as np
import pytest
from random_weights import assert_same_bits, randomly

from jaxgen.errors import InputError
from jaxgen.interop.safetensors import TensorFile, write_safetensors
from jaxgen.interop.text_unet_config import text_unet_fields, text_unet_options
from jaxgen.interop.unet_weights import unet_params, unet_tensors
from jaxgen.parallel import make_mesh, plan_layout
from jaxgen.pretrained.networks import abstract_params
from jaxgen.unet.unet import UNetConfig

SMALL = UNetConfig(
    in_channels=4,
    out_channels=4,
    channels=(4, 8),
    blocks=1,
    attention_levels=(1,),
    heads=2,
    head_size=None,
    groups=2,
    adaptive_norm=False,
    downsampling=("conv",),
    upsampling=("conv",),
    text_width=6,
)
LINEAR = dataclasses.replace(
    SMALL, linear_projection=True, heads=(1, 2), transformer_depth=(1, 2), pooled_width=5
)
SD1 = {"cross_attention_dim": 768, "attention_head_dim": 8}
SD2 = {
    "cross_attention_dim": 1024,
    "attention_head_dim": [5, 10, 20, 20],
    "use_linear_projection": True,
    "upcast_attention": True,
}
SDXL = {
    **SD2,
    "block_out_channels": [320, 640, 1280],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "attention_head_dim": [5, 10, 20],
    "cross_attention_dim": 2048,
    "transformer_layers_per_block": [1, 2, 10],
    "addition_embed_type": "text_time",
    "projection_class_embeddings_input_dim": 2816,
}


@functools.cache
def like(config):
    side = 2 ** (config.levels - 1)
    return abstract_params(config, (side, side))


def count(config):
    return sum(math.prod(x.shape) for x in jax.tree.leaves(like(config)))


@pytest.mark.parametrize("config", [SMALL, LINEAR], ids=["convolutions", "linear"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_round_trips_are_bit_exact(config, dtype, tmp_path):
    params = jax.tree.map(lambda x: x.astype(dtype), randomly(like(config)))
    tensors = unet_tensors(params)
    write_safetensors(tmp_path / "m.safetensors", tensors, max_bytes=10_000)
    found = unet_params(TensorFile(tmp_path), like(config), None)
    assert_same_bits(found, params)
    assert_same_bits(unet_tensors(found), tensors)


@pytest.mark.parametrize("config", [SMALL, LINEAR], ids=["convolutions", "linear"])
def test_names_and_axes(config):
    params = randomly(like(config))
    tensors = unet_tensors(params)
    place = params["down_1_attention_0"]
    block, name = place["blocks_0"], "down_blocks.1.attentions.0.transformer_blocks.0."
    mlp = block["mlp"]["hidden"]
    values = {
        f"{name}attn2.to_q.weight": block["text"]["query"]["kernel"].reshape(8, 8).T,
        f"{name}attn2.to_v.weight": block["text"]["key_value"]["kernel"][:, :, 1].reshape(6, 8).T,
        f"{name}attn1.to_k.weight": block["pixels"]["qkv"]["kernel"][:, :, 1].reshape(8, 8).T,
        f"{name}attn1.to_out.0.weight": block["pixels"]["output"]["kernel"].reshape(8, 8).T,
        f"{name}norm3.bias": block["mlp_norm"]["bias"],
        f"{name}ff.net.0.proj.bias": np.concatenate(list(mlp["bias"].T)),
        f"{name}ff.net.0.proj.weight": np.concatenate(list(mlp["kernel"].transpose(2, 1, 0))),
        f"{name}ff.net.2.weight": block["mlp"]["output"]["kernel"].T,
        "down_blocks.1.attentions.0.norm.weight": place["input_norm"]["scale"],
    }
    if config.linear_projection:
        values["mid_block.attentions.0.proj_in.weight"] = params["middle_attention_0"]["linear_in"][
            "kernel"
        ].T
        values["add_embedding.linear_1.weight"] = params["pooled"]["hidden"]["kernel"].T
        assert "mid_block.attentions.0.transformer_blocks.1.norm1.weight" in tensors
    else:
        kernel = params["middle_attention_0"]["conv_out"]["kernel"]
        values["mid_block.attentions.0.proj_out.weight"] = kernel.transpose(3, 2, 0, 1)
    for each, value in values.items():
        np.testing.assert_array_equal(tensors[each], value, err_msg=each)
    assert not any(each.endswith("to_q.bias") for each in tensors)


def test_attention_beside_pixels_has_no_counterpart_there():
    config = dataclasses.replace(SMALL, text_attention="beside")
    with pytest.raises(InputError, match="attention_0/text/bias has no counterpart"):
        unet_tensors(randomly(like(config)))
    with pytest.raises(InputError, match="text_attention is 'beside', expected 'cross'"):
        text_unet_fields(config)


@pytest.mark.parametrize(
    ("version", "fields", "expected"),
    [("1", SD1, 859_520_964), ("2", SD2, 865_910_724), ("xl", SDXL, 2_567_463_684)],
)
def test_published_networks_by_name_and_by_configuration(version, fields, expected):
    config = UNetConfig.stable_diffusion(version)
    assert count(config) == expected
    assert text_unet_options(fields) | {"null_class": True} == text_unet_options(
        text_unet_fields(config)
    ) | {"null_class": True}
    with pytest.raises(InputError, match="version is '3', expected one of 1, 2, xl"):
        UNetConfig.stable_diffusion("3")


def test_layout_of_stable_diffusion_over_devices():
    """Every parameter is named, and of two by two devices each has 28 % of the numbers."""
    config = UNetConfig(**text_unet_options(SD1))
    example = np.zeros((1, 8, 8, 4)), np.zeros(1)
    init = functools.partial(config.make_model().init, text_BNC=np.zeros((1, 77, 768)))
    layout = plan_layout(
        lambda key: init(key, *example)["params"],
        jax.random.key(0),
        mesh=make_mesh("data=2,fsdp=2,model=2"),
    )
    assert all(jax.tree.leaves(layout.axes, is_leaf=lambda x: isinstance(x, tuple)))
    leaves = jax.tree.leaves(layout.abstract)
    total = sum(math.prod(x.shape) for x in leaves)
    local = sum(math.prod(x.sharding.shard_shape(x.shape)) for x in leaves)
    assert total == 859_520_964
    assert local / total < 0.2805


@pytest.mark.parametrize("config", [SMALL, LINEAR], ids=["convolutions", "linear"])
def test_configurations_and_back(config):
    fields = json.loads(json.dumps(text_unet_fields(config, sample_size=8)))
    told = UNetConfig(**text_unet_options(fields))
    assert told == dataclasses.replace(
        config, up_attention_levels=(1,), middle_divisor=1.0, null_class=False
    )
    sized = dataclasses.replace(config, heads=None, head_size=4)
    assert text_unet_fields(sized)["attention_head_dim"] == [1, 2]


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"addition_embed_type": "text"}, "addition_embed_type is 'text', expected one of None"),
        ({"class_embed_type": "projection"}, "class_embed_type is 'projection', expected one of"),
        ({"encoder_hid_dim": 4}, "encoder_hid_dim is 4, expected one of None"),
        ({"dual_cross_attention": True}, "dual_cross_attention is True"),
        ({"only_cross_attention": [False, True]}, r"only_cross_attention is \[False, True\]"),
        ({"conv_in_kernel": 5}, "conv_in_kernel is 5, expected one of 3"),
        ({"act_fn": "gelu"}, "act_fn is 'gelu', expected one of 'silu'"),
        ({"mid_block_type": "UNetMidBlock2D"}, "mid_block_type is 'UNetMidBlock2D', expected one"),
        ({"down_block_types": ["AttnDownBlock2D"] * 4}, "down_block_types is 'AttnDownBlock2D'"),
        ({"up_block_types": ["UpBlock2D"] * 3}, "up_block_types has 3 entries, expected 4"),
        ({"cross_attention_dim": [1, 2]}, r"cross_attention_dim is \[1, 2\], expected one number"),
        ({"layers_per_block": [1, 2]}, r"layers_per_block is \[1, 2\], expected one number"),
        ({"time_cond_proj_dim": 8}, "time_cond_proj_dim is 8, expected one of None"),
        ({"_class_name": "UNet2DModel"}, "_class_name is 'UNet2DModel', expected UNet2DCond"),
        ({"attention_head_dim": [1, 2, 3]}, "heads has 3 entries, expected one or 4"),
    ],
    ids=str,
)
def test_configurations_that_cannot_be_had(changes, fault):
    with pytest.raises(InputError, match=fault):
        UNetConfig(**text_unet_options(changes))


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"activation": "gelu"}, "act_fn is 'gelu'"),
        ({"downsampling": "residual"}, r"down_kinds is \('residual',\), expected \('conv'"),
        ({"temporal": True}, "temporal is True, expected False"),
        ({"middle_attention": False}, "middle_attention is False, expected True"),
    ],
    ids=str,
)
def test_networks_that_diffusers_has_not(changes, fault):
    attended = dataclasses.replace(SMALL, attention_levels=(0, 1), **changes)
    with pytest.raises(InputError, match=fault):
        text_unet_fields(attended)


def test_configurations_of_hubs(data_folder):
    """Each U-Net of a published pipeline opens, with the parameters that its weights have."""
    root = data_folder / "text" / "hub_configs"
    found = {
        str(path.relative_to(root).parent.parent): json.loads(path.read_text())
        for path in root.glob("*/*/unet/config.json")
    }
    configs = {name: UNetConfig(**text_unet_options(fields)) for name, fields in found.items()}
    assert {name.split("/")[1]: count(config) for name, config in configs.items()} == {
        "stable-diffusion-v1-5": 859_520_964,
        "stable-diffusion-inpainting": 859_520_964 + 5 * 9 * 320,
        "stable-diffusion-2-1": 865_910_724,
        "stable-diffusion-xl-base-1.0": 2_567_463_684,
    }
    for name, config in configs.items():
        again = UNetConfig(**text_unet_options(text_unet_fields(config)))
        assert again == config, name
