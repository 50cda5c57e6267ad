"""Folders that diffusers writes, opened in one call, and folders that diffusers opens."""

import jax
import numpy as np
import pytest

from jaxgen.diffusion import sample_model
from jaxgen.pretrained import (
    from_diffusers_scheduler,
    load_dit,
    load_unet,
    open_denoiser,
    save_dit,
    save_unet,
)

torch = pytest.importorskip("torch", reason="torch (the [parity] extra) is not installed")
diffusers = pytest.importorskip("diffusers", reason="diffusers (the [parity] extra) is missing")

DIT = {
    **{"num_attention_heads": 2, "attention_head_dim": 12, "num_layers": 2, "sample_size": 8},
    "num_embeds_ada_norm": 5,
}
UNET = {
    **{"sample_size": 8, "block_out_channels": (8, 16), "layers_per_block": 1},
    **{"down_block_types": ("DownBlock2D", "AttnDownBlock2D")},
    **{"up_block_types": ("AttnUpBlock2D", "UpBlock2D"), "norm_num_groups": 4},
}


def randomised(model, same_embeddings=False):
    """Every parameter random; the embeddings of blocks their own, or equal."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 4
            parameter.normal_(0, fan_in**-0.5, generator=generator)
            if "norm" in name and name.endswith("norm.weight"):
                parameter += 1
        if same_embeddings:
            first, *others = (block.norm1.emb for block in model.transformer_blocks)
            for embedding in others:
                embedding.load_state_dict(first.state_dict())
    return model.eval()


def theirs(model, z, time, label=None):
    labels = () if label is None else (torch.tensor(label),)
    with torch.no_grad():
        output = model(torch.tensor(z.transpose(0, 3, 1, 2)), torch.tensor(time), *labels)
    return output.sample.numpy().transpose(0, 2, 3, 1)


def difference(found, expected):
    return np.abs(found - expected).max() / np.abs(expected).max()


def batch(channels):
    z = np.random.default_rng(1).normal(size=(3, 8, 8, channels)).astype(np.float32)
    return z, np.array([0.0, 417.0, 999.0], np.float32), np.array([0, 3, 5], np.int32)


@pytest.mark.parametrize("same", [True, False], ids=["one_embedding", "own_embeddings"])
def test_dit(same, tmp_path):
    """Shards in the sub-folder of a pipeline; then all of it written here and opened there."""
    model = randomised(diffusers.DiTTransformer2DModel(**DIT), same)
    model.save_pretrained(tmp_path / "pipeline" / "transformer", max_shard_size="30KB")
    assert list((tmp_path / "pipeline" / "transformer").glob("*-of-*"))
    config, params = load_dit(tmp_path / "pipeline")
    assert config.own_embeddings is not same
    inputs = batch(4)
    expected = theirs(model, *inputs)
    apply = jax.jit(config.make_model().apply)
    assert difference(apply({"params": params}, *inputs), expected) < 1e-5
    save_dit(tmp_path / "back", config, params, sample_size=8, max_bytes=30_000)
    again = diffusers.DiTTransformer2DModel.from_pretrained(tmp_path / "back")
    np.testing.assert_array_equal(theirs(again, *inputs), expected)


@pytest.mark.parametrize("variant", ["fp16", "bf16"])
@pytest.mark.parametrize("max_bytes", [None, 30_000])
def test_dit_variants(variant, max_bytes, tmp_path):
    """A variant beside the full weights, from both sides; theirs are rounded as ours are."""
    model = randomised(diffusers.DiTTransformer2DModel(**DIT), same_embeddings=True)
    model.save_pretrained(tmp_path)
    config, params = load_dit(tmp_path)
    save_dit(tmp_path, config, params, sample_size=8, variant=variant, max_bytes=max_bytes)
    half = load_dit(tmp_path, variant=variant)
    assert half.config == config
    loaded = diffusers.DiTTransformer2DModel.from_pretrained(tmp_path, variant=variant).float()
    inputs = batch(4)
    found = jax.jit(config.make_model().apply)({"params": half.params}, *inputs)
    assert difference(found, theirs(loaded, *inputs)) < 1e-5
    full = load_dit(tmp_path).params
    jax.tree.map(np.testing.assert_array_equal, full, params)


@pytest.mark.parametrize(
    "case",
    [
        {},
        {"num_class_embeds": 6, "resnet_time_scale_shift": "scale_shift"},
        {"downsample_type": "resnet", "upsample_type": "resnet", "downsample_padding": 0},
        {"class_embed_type": "timestep", "freq_shift": 1, "attention_head_dim": None},
    ],
    ids=str,
)
def test_unet(case, tmp_path):
    model = randomised(diffusers.UNet2DModel(**{**UNET, **case}))
    model.save_pretrained(tmp_path / "pipeline" / "unet")
    config, params = load_unet(tmp_path / "pipeline")
    z, time, label = batch(3)
    numbers = config.labels == "numbers"
    labels = (label.astype(np.float32) if numbers else label,)
    inputs = (z, time, *(labels if numbers or config.num_classes else ()))
    expected = theirs(model, *inputs)
    found = jax.jit(config.make_model().apply)({"params": params}, *inputs)
    assert difference(found, expected) < 1e-5
    save_unet(tmp_path / "back", config, params, sample_size=8)
    assert load_unet(tmp_path / "back").config == config
    again = diffusers.UNet2DModel.from_pretrained(tmp_path / "back")
    np.testing.assert_array_equal(theirs(again, *inputs), expected)


def test_pipeline(tmp_path):
    """A pipeline's folder, opened and sampled in one call, against its own loop."""
    network = randomised(diffusers.UNet2DModel(**UNET))
    scheduler = diffusers.DDIMScheduler(
        beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", clip_sample=False
    )
    diffusers.DDIMPipeline(network, scheduler).save_pretrained(tmp_path)
    config, params = open_denoiser(tmp_path)
    recipe = from_diffusers_scheduler(tmp_path)
    z = np.random.default_rng(2).normal(size=(2, 8, 8, 3)).astype(np.float32)
    found = sample_model(
        config,
        params,
        jax.random.key(0),
        count=2,
        sampler=recipe.sampler,
        levels=recipe.levels(5),
        noise=z,
        clip=False,
    )
    sample = torch.tensor(z.transpose(0, 3, 1, 2))
    scheduler.set_timesteps(5)
    with torch.no_grad():
        for t in scheduler.timesteps:
            sample = scheduler.step(network(sample, t).sample, t, sample).prev_sample
    assert difference(found, sample.numpy().transpose(0, 2, 3, 1)) < 2e-5
