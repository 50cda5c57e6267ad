"""Images of a published layout by the program that samples, against diffusers' DiTPipeline."""

import json

import jax
import numpy as np
import pytest
from picture_folder import run_here

from experiments.images import sample
from jaxgen.diffusion import initial_noise
from jaxgen.diffusion.named_samplers import sampler_named
from jaxgen.pretrained import open_denoiser

torch = pytest.importorskip("torch", reason="torch (the [parity] extra) is not installed")
diffusers = pytest.importorskip("diffusers", reason="diffusers (the [parity] extra) is missing")

from random_models import randomised  # noqa: E402

LABELS = {i: f"class {i}" for i in range(1000)} | {207: "golden retriever, dog"}
STEPS, SEED = 5, 3


def test_a_pipeline_of_latents(tmp_path, monkeypatch):
    """DiT of latents with a learnt variance, guided; the same noise, floats within 1e-3."""
    transformer = diffusers.DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        num_layers=2,
        sample_size=8,
        out_channels=8,
        num_embeds_ada_norm=1000,
    )
    blocks = {
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
    }
    vae = diffusers.AutoencoderKL(
        **blocks, block_out_channels=(8, 8), norm_num_groups=4, scaling_factor=0.3
    )
    pipeline = diffusers.DiTPipeline(
        randomised(transformer),
        randomised(vae),
        diffusers.DDIMScheduler(clip_sample=False),
    )
    pipeline.save_pretrained(tmp_path / "pipeline")
    index = tmp_path / "pipeline" / "model_index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "id2label": LABELS}))
    pipeline = diffusers.DiTPipeline.from_pretrained(tmp_path / "pipeline")

    seen = []
    monkeypatch.setattr(sample, "write_samples", lambda folder, x, names: seen.append((x, names)))
    flags = ["--run", tmp_path / "pipeline", "--classes", "golden retriever", "3", "--count", "1"]
    flags += ["--sampler", "DDIM leading", "--steps", str(STEPS), "--scale", "4"]
    flags += ["--seed", str(SEED), "--workdir", tmp_path / "out"]
    assert run_here("sample", flags, monkeypatch) == 0
    ((found, names),) = seen
    assert names == ["golden retriever, dog", "class 3"]

    model = open_denoiser(tmp_path / "pipeline").config
    levels = sampler_named("DDIM leading", model.schedule).levels(model.schedule, STEPS)
    noise = initial_noise(jax.random.key(SEED), np.arange(2), model.image_shape, levels)
    noise = torch.tensor(np.asarray(noise).transpose(0, 3, 1, 2))
    module = __import__(type(pipeline).__module__, fromlist=["randn_tensor"])
    monkeypatch.setattr(module, "randn_tensor", lambda **_: noise)
    pipeline.set_progress_bar_config(disable=True)
    options = {"num_inference_steps": STEPS, "guidance_scale": 4.0, "output_type": "np"}
    expected = pipeline(pipeline.get_label_ids(["golden retriever", "class 3"]), **options).images
    assert expected.std() > 0.1
    np.testing.assert_allclose(np.clip(found / 2 + 0.5, 0, 1), expected, atol=1e-3)
