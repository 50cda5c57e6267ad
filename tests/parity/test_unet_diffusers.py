"""The U-Net against diffusers' UNet2DModel with the same random weights."""

import jax
import numpy as np
import pytest
from flax import linen as nn
from random_models import randomised

from jaxgen.interop.safetensors import TensorFile, write_safetensors
from jaxgen.interop.unet_weights import unet_options, unet_params, unet_tensors
from jaxgen.unet.unet import UNetConfig

torch = pytest.importorskip("torch", reason="torch (the [parity] extra) is not installed")
diffusers = pytest.importorskip(
    "diffusers", reason="diffusers (the [parity] extra) is not installed"
)

SMALL = {
    "sample_size": 8,
    "block_out_channels": (8, 16),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "attention_head_dim": 8,
}
RESIDUAL = {
    "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "ResnetUpsampleBlock2D"),
    "downsample_type": "resnet",
    "upsample_type": "resnet",
    "resnet_time_scale_shift": "scale_shift",
}
THREE_LEVELS = {
    "block_out_channels": (8, 16, 8),
    "down_block_types": ("AttnDownBlock2D", "ResnetDownsampleBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"),
    "upsample_type": "resnet",
    "layers_per_block": 2,
    "attention_head_dim": 4,
}
CASES = {
    "default": {},
    "ddpm": {
        **{"freq_shift": 1, "flip_sin_to_cos": False, "downsample_padding": 0},
        **{"attention_head_dim": None, "norm_eps": 1e-6},
    },
    "adm": {**RESIDUAL, "num_class_embeds": 5, "out_channels": 6},
    "adm_middle_norm": {**RESIDUAL, "attn_norm_num_groups": 2},
    "mixed_levels": THREE_LEVELS,
    "numbers": {"class_embed_type": "timestep", "act_fn": "gelu", "in_channels": 4},
    "no_attention": {"add_attention": False, "act_fn": "mish", "time_embedding_dim": 20},
    "rescaled": {"mid_block_scale_factor": 2**0.5, "act_fn": "relu"},
}


def example(config, seed=1):
    """A batch for both sides: images, times, labels."""
    rng = np.random.default_rng(seed)
    z_BYXC = rng.normal(size=(3, 8, 16, config.in_channels)).astype(np.float32)
    time_B = np.array([0.0, 417.0, 999.0], np.float32)
    if config.labels == "numbers":
        return z_BYXC, time_B, np.array([3.0, 250.0, 0.0], np.float32)
    labels_B = np.array([0, 2, 4], np.int32) if config.num_classes else None
    return z_BYXC, time_B, labels_B


def theirs(model, z_BYXC, time_B, label_B):
    labels = None if label_B is None else torch.tensor(label_B)
    with torch.no_grad():
        output = model(torch.tensor(z_BYXC.transpose(0, 3, 1, 2)), torch.tensor(time_B), labels)
    return output.sample.numpy().transpose(0, 2, 3, 1)


def abstract(config):
    inputs = example(config)
    boxed = jax.eval_shape(config.make_model().init, jax.random.key(0), *inputs)["params"]
    return jax.tree.map(
        lambda x: x.value, boxed, is_leaf=lambda x: isinstance(x, nn.meta.AxisMetadata)
    )


@pytest.mark.parametrize("case", CASES)
def test_forward_pass(case, tmp_path):
    model = randomised(diffusers.UNet2DModel(**{**SMALL, **CASES[case]}))
    config = UNetConfig(**unet_options(model.config))
    model.save_pretrained(tmp_path)
    tensors = TensorFile(tmp_path)
    params = unet_params(tensors, abstract(config))
    inputs = example(config)
    expected = theirs(model, *inputs)
    found = jax.jit(config.make_model().apply)({"params": params}, *inputs)
    error = np.abs(found - expected).max() / np.abs(expected).max()
    assert error < 1e-5
    # And back: the same tensors, bit by bit, which their model takes.
    back = unet_tensors(params)
    assert set(back) == set(tensors)
    assert all(back[name].tobytes() == tensors[name].tobytes() for name in tensors)
    write_safetensors(tmp_path / "diffusion_pytorch_model.safetensors", back, {"format": "pt"})
    again = diffusers.UNet2DModel.from_pretrained(tmp_path)
    np.testing.assert_array_equal(theirs(again, *inputs), expected)
