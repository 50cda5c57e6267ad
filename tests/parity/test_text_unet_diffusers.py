"""The U-Net that reads texts against diffusers' UNet2DConditionModel with the same weights."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_models import randomised

from jaxgen.interop.text_unet_config import text_unet_options
from jaxgen.interop.unet_weights import unet_tensors
from jaxgen.nn.embeddings import time_frequencies
from jaxgen.pretrained import load_unet, save_unet
from jaxgen.pretrained.networks import abstract_params
from jaxgen.unet import UNetConfig

torch = pytest.importorskip("torch", reason="torch (the [parity] extra) is not installed")
diffusers = pytest.importorskip("diffusers", reason="diffusers (the [parity] extra) is missing")

SMALL = {
    "sample_size": 8,
    "block_out_channels": (4, 8),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 1,
    "norm_num_groups": 2,
    "cross_attention_dim": 6,
    "attention_head_dim": 2,
}
WAVES, POOLED = 256, 10
CASES = {
    "sd1": {},
    "sd2": {"use_linear_projection": True, "attention_head_dim": (1, 4), "upcast_attention": True},
    "sdxl": {
        **{"use_linear_projection": True, "attention_head_dim": (1, 2)},
        **{"transformer_layers_per_block": [1, 2], "addition_embed_type": "text_time"},
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        "addition_time_embed_dim": WAVES,
        "projection_class_embeddings_input_dim": POOLED + 6 * WAVES,
    },
    "upscaler": {"num_class_embeds": 7, "in_channels": 7, "mid_block_scale_factor": 2.0},
    "adaptive": {"resnet_time_scale_shift": "scale_shift", "freq_shift": 1},
}


def example(config, seed=1):
    """A batch for both sides: images, times, texts; sizes and crops, labels."""
    rng = np.random.default_rng(seed)
    normal = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    given = {"z": normal(3, 8, 12, config.in_channels), "text": normal(3, 5, 6)}
    given |= {"time": np.array([0.0, 417.0, 999.0], np.float32)}
    given |= {"mask": np.arange(5) < np.array([[2], [5], [1]])}
    if config.pooled_width:
        sizes = rng.integers(0, 1000, (3, 6)).astype(np.float32)
        given |= {"pooled": normal(3, POOLED), "sizes": sizes}
    if config.num_classes:
        given["label"] = np.array([0, 2, 6], np.int32)
    return given


def theirs(model, given, masked):
    tensors = {name: torch.tensor(value) for name, value in given.items()}
    added = (
        {"text_embeds": tensors["pooled"], "time_ids": tensors["sizes"]}
        if ("pooled" in given)
        else None
    )
    with torch.no_grad():
        output = model(
            tensors["z"].permute(0, 3, 1, 2),
            tensors["time"],
            tensors["text"],
            class_labels=tensors.get("label"),
            added_cond_kwargs=added,
            encoder_attention_mask=tensors["mask"] if masked else None,
        )
    return output.sample.numpy().transpose(0, 2, 3, 1)


def ours(config, params, given):
    """Without and with the mask."""
    texts = {"text_BNC": given["text"]}
    if config.pooled_width:
        waves = time_frequencies(jnp.asarray(given["sizes"]).reshape(-1), WAVES)
        texts["pooled_BC"] = jnp.concatenate([given["pooled"], waves.reshape(3, -1)], axis=-1)

    @jax.jit
    def run(params, masks):
        inputs = given["z"], given["time"], given.get("label")
        apply = config.make_model().apply
        return apply({"params": params}, *inputs, **texts, text_mask_BN=masks)

    return [run(params, mask) for mask in (None, given["mask"])]


@pytest.mark.parametrize("case", CASES)
def test_forward_pass_and_back(case, tmp_path):
    model = randomised(diffusers.UNet2DConditionModel(**{**SMALL, **CASES[case]}))
    model.save_pretrained(tmp_path / "unet")
    config, params = load_unet(tmp_path)
    given = example(config)
    expected = [theirs(model, given, masked) for masked in (False, True)]
    for found, wanted in zip(ours(config, params, given), expected, strict=True):
        assert np.abs(found - wanted).max() < 1e-5 * np.abs(wanted).max()
    assert np.abs(expected[0] - expected[1]).max() > 1e-2 * np.abs(expected[0]).max()
    save_unet(tmp_path / "back", config, params, sample_size=8)
    again = diffusers.UNet2DConditionModel.from_pretrained(tmp_path / "back")
    np.testing.assert_array_equal(theirs(again, given, False), expected[0])
    changed = {
        name
        for name, value in model.config.items()
        if not name.startswith("_") and again.config[name] != value
    }
    assert changed <= {"block_out_channels", "down_block_types", "up_block_types"} | {
        *("attention_head_dim", "upcast_attention", "time_embedding_dim", "sample_size"),
        *("transformer_layers_per_block", "mid_block_scale_factor"),
    }


def test_tensors_of_published_networks(data_folder):
    """By their configurations: the names and shapes that diffusers' models have."""
    paths = sorted((data_folder / "text" / "hub_configs").glob("*/*/unet/config.json"))
    for path in paths:
        fields = json.loads(path.read_text())
        with torch.device("meta"):
            model = diffusers.UNet2DConditionModel.from_config(fields)
        expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
        config = UNetConfig(**text_unet_options(fields))
        zeros = jax.tree.map(
            lambda x: np.broadcast_to(np.float32(0), x.shape), abstract_params(config, (8, 8))
        )
        found = {name: value.shape for name, value in unet_tensors(zeros).items()}
        assert found == expected, path
    assert len(paths) == 4
