"""Text-to-image pipelines against diffusers' StableDiffusionPipeline, opened here and there."""

import functools
import itertools
import json

import jax
import numpy as np
import pytest
from random_models import randomised

from jaxgen.data.tokenizers import save_tokenizer, train_tokenizer
from jaxgen.interop.safetensors import write_safetensors
from jaxgen.pretrained import load_adapters, load_pipeline, save_pipeline

torch = pytest.importorskip("torch", reason="torch (the [parity] extra) is not installed")
transformers = pytest.importorskip(
    "transformers", reason="transformers (the [parity] extra) is not installed"
)
diffusers = pytest.importorskip("diffusers", reason="diffusers (the [parity] extra) is missing")

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

PROMPTS = ["a red cube", "a small blue ball on a table"]
NEGATIVE = "ugly"
LENGTH = 11
SCHEDULE = {
    **{"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    **{"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1},
}
UNET = {
    "sample_size": 8,
    "block_out_channels": (4, 8),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 1,
    "norm_num_groups": 2,
    "cross_attention_dim": 12,
    "attention_head_dim": 2,
}
VAE = {
    "block_out_channels": (4, 8),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "norm_num_groups": 2,
    "sample_size": 16,
}
LINEAR = {"use_linear_projection": True, "attention_head_dim": (1, 2)}
CASES = {
    "sd1": ("DDIM", {}, {}, "quick_gelu"),
    "sd2_v": ("DDIM", {"prediction_type": "v_prediction"}, LINEAR, "gelu"),
    "sd1_adams": ("PNDM", {"skip_prk_steps": True}, {}, "quick_gelu"),
    "sigmas": ("EulerDiscrete", {"timestep_spacing": "leading"}, {}, "quick_gelu"),
}


@functools.cache
def vocabulary():
    return train_tokenizer(PROMPTS, 530, "bpe", length=LENGTH)


def make_theirs(case, folder, kind="StableDiffusion", **changes):
    """A tiny pipeline of theirs with random weights."""
    method, schedule, network, activation = CASES[case]
    save_tokenizer(vocabulary(), folder)
    size = vocabulary().size
    text = transformers.CLIPTextConfig(
        **{
            "vocab_size": size,
            "hidden_size": 12,
            "intermediate_size": 20,
            "hidden_act": activation,
        },
        **{"num_hidden_layers": 2, "num_attention_heads": 3},
        max_position_embeddings=LENGTH,
        **{"bos_token_id": size - 2, "eos_token_id": 2, "pad_token_id": 1},
    )
    return getattr(diffusers, f"{kind}Pipeline")(
        vae=randomised(diffusers.AutoencoderKL(**VAE)),
        text_encoder=randomised(transformers.CLIPTextModel(text)),
        tokenizer=transformers.CLIPTokenizer.from_pretrained(folder),
        unet=randomised(diffusers.UNet2DConditionModel(**{**UNET, **network, **changes})),
        scheduler=getattr(diffusers, f"{method}Scheduler").from_config({**SCHEDULE, **schedule}),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def noise():
    return np.random.default_rng(0).normal(size=(2, 8, 12, 4)).astype(np.float32)


def to_torch(value_BYXC):
    return torch.tensor(np.array(value_BYXC).transpose(0, 3, 1, 2))


def theirs(pipeline, output="latent", steps=2, **options):
    pipeline.set_progress_bar_config(disable=True)
    if not options:
        options = {"height": 16, "width": 24, "latents": to_torch(noise())}
    options = {"negative_prompt": [NEGATIVE] * 2, **options}
    settings = {"num_inference_steps": steps, "guidance_scale": 3.0, "output_type": output}
    found = pipeline(PROMPTS, **settings, **options).images
    return found.permute(0, 2, 3, 1).numpy() if output == "latent" else found


def ours(pipeline, steps=2, noise_BYXC=None, **options):
    texts = pipeline.encode(PROMPTS), pipeline.encode([NEGATIVE] * 2)
    given = noise() if noise_BYXC is None else noise_BYXC
    key = jax.random.key(0)
    return pipeline.sample_latents(*texts, key, given, guidance_scale=3.0, steps=steps, **options)


def assert_close(found, expected, tolerance):
    assert np.abs(found - expected).max() < tolerance * np.abs(expected).max()


@pytest.mark.parametrize("case", CASES)
def test_equal_latents_and_images_both_ways(case, tmp_path):
    """After two steps of DDIM; of Adams after four, as its second step repeats the first."""
    steps = 4 if case == "sd1_adams" else 2
    pipeline = make_theirs(case, tmp_path / "tokenizer")
    pipeline.save_pretrained(tmp_path / "theirs")
    expected = theirs(pipeline, steps=steps)
    if case == "sd1":  # an old folder, of which both sides correct the same fields
        path = tmp_path / "theirs" / "scheduler" / "scheduler_config.json"
        fields = json.loads(path.read_text())
        path.write_text(json.dumps({**fields, "clip_sample": True, "steps_offset": 0}))
    opened = load_pipeline(tmp_path / "theirs")
    assert_close(ours(opened, steps), expected, 1e-4)
    if case == "sd2_v":
        size = {"height": 16, "width": 24, "latents": to_torch(noise())}
        rescaled = theirs(pipeline, steps=steps, guidance_rescale=0.7, **size)
        assert_close(ours(opened, steps, rescale=0.7), rescaled, 1e-4)
        assert np.abs(rescaled - expected).max() > 1e-3 * np.abs(expected).max()
    save_pipeline(opened, tmp_path / "ours")
    again = diffusers.StableDiffusionPipeline.from_pretrained(tmp_path / "ours")
    assert type(again.scheduler) is type(pipeline.scheduler)
    assert_close(theirs(again, steps=steps), expected, 1e-6)
    if case != "sd1":
        return
    settings = {"steps": steps, "guidance_scale": 3.0, "negative": NEGATIVE}
    size = {"height": 16, "width": 24, "noise": noise()}
    images = opened(PROMPTS, jax.random.key(0), **settings, **size)
    close = theirs(pipeline, "np") * 255
    assert np.abs(images.astype(float) - close).max() < 1
    index = json.loads((tmp_path / "theirs" / "model_index.json").read_text())
    written = json.loads((tmp_path / "ours" / "model_index.json").read_text())
    del written["_diffusers_version"]
    assert {name: index[name] for name in written} == written


def photograph():
    return np.random.default_rng(1).uniform(-1, 1, size=(2, 16, 24, 3)).astype(np.float32)


def latents_of(pipeline, image_BYXC):
    """Their latents, the mean of what the encoder says."""
    with torch.no_grad():
        found = pipeline.vae.encode(to_torch(image_BYXC)).latent_dist.mode()
    return found * pipeline.vae.config.scaling_factor


def seeded():
    """Numbers that their pipeline draws, and the generator that it draws them with."""
    drawn = torch.randn((2, 4, 8, 12), generator=torch.Generator().manual_seed(5))
    return drawn.permute(0, 2, 3, 1).numpy(), torch.Generator().manual_seed(5)


@pytest.mark.parametrize("case", ["sd2_v", "sigmas"])
def test_images_from_images(case, tmp_path):
    pipeline = make_theirs(case, tmp_path / "tokenizer", "StableDiffusionImg2Img")
    pipeline.save_pretrained(tmp_path / "theirs")
    opened = load_pipeline(tmp_path / "theirs")
    z = latents_of(pipeline, photograph())
    assert_close(opened.latents_of(photograph()), z.permute(0, 2, 3, 1).numpy(), 1e-5)
    for strength in (0.3, 0.75, 1.0):
        drawn, generator = seeded()
        given = {"image": z, "strength": strength, "generator": generator}
        expected = theirs(pipeline, steps=4, **given)
        source = opened.source_of(photograph(), strength=strength)
        assert_close(ours(opened, 4, drawn, source=source), expected, 1e-4)


@pytest.mark.parametrize("case", ["sd1", "sigmas"])
def test_parts_filled_in(case, tmp_path):
    """By networks of nine channels, from noise and from the image, there and back."""
    kind = "StableDiffusionInpaint"
    pipeline = make_theirs(case, tmp_path / "tokenizer", kind, in_channels=9)
    pipeline.save_pretrained(tmp_path / "theirs")
    opened = load_pipeline(tmp_path / "theirs")
    save_pipeline(opened, tmp_path / "ours")
    again = diffusers.StableDiffusionInpaintPipeline.from_pretrained(tmp_path / "ours")
    known = np.random.default_rng(2).uniform(size=(2, 16, 24, 1)) > 0.4
    masked = latents_of(pipeline, photograph() * known)
    for strength in (1.0, 0.5):
        drawn, generator = seeded()
        given = {
            **{"image": latents_of(pipeline, photograph()), "masked_image_latents": masked},
            **{"mask_image": 1.0 - to_torch(known).float(), "strength": strength},
            **{"height": 16, "width": 24},
        }
        expected = theirs(pipeline, steps=4, generator=generator, **given)
        source = opened.source_of(photograph(), known=known, strength=strength)
        assert_close(ours(opened, 4, drawn, source=source), expected, 1e-4)
        _, generator = seeded()
        assert_close(theirs(again, steps=4, generator=generator, **given), expected, 1e-6)


PLACES = {
    "unet": "up_blocks.1.attentions.{}.transformer_blocks.0.attn2.to_{}",
    "text_encoder": "text_model.encoder.layers.{}.self_attn.{}_proj",
}


def test_low_rank_adapters(tmp_path):
    """By their ``load_lora_weights`` where peft is installed, else added to their weights here."""
    pipeline = make_theirs("sd1", tmp_path / "tokenizer")
    pipeline.save_pretrained(tmp_path / "theirs")
    before, tensors = theirs(pipeline), {}
    generator = torch.Generator().manual_seed(3)
    peft = diffusers.utils.is_peft_available()
    kinds = {"unet": ("q", "k", "v", "out.0"), "text_encoder": ("q", "v")}
    for part, names in kinds.items():
        weights = {
            name.removeprefix("text_model."): weight
            for name, weight in getattr(pipeline, part).named_parameters()
        }
        for i, kind in itertools.product((0, 1), names):
            place = PLACES[part].format(i, kind)
            weight = weights[f"{place}.weight".removeprefix("text_model.")]
            sizes = (2, weight.shape[1]), (weight.shape[0], 2)
            down, up = (torch.randn(size, generator=generator) for size in sizes)
            stem = f"{part}.{place}"
            tensors |= {f"{stem}.lora_A.weight": down.numpy(), f"{stem}.lora_B.weight": up.numpy()}
            if not peft:
                with torch.no_grad():
                    weight += up @ down
    write_safetensors(tmp_path / "adapters.safetensors", tensors)
    if peft:
        pipeline.load_lora_weights(tmp_path, weight_name="adapters.safetensors")
    expected = theirs(pipeline)
    assert np.abs(expected - before).max() > 0.1 * np.abs(expected).max()
    changed = load_adapters(load_pipeline(tmp_path / "theirs"), tmp_path / "adapters.safetensors")
    assert_close(ours(changed), expected, 1e-4)


def make_two_encoders(folder):
    """A tiny pipeline of XL with random weights."""
    save_tokenizer(vocabulary(), folder)
    shared = {
        **{"vocab_size": vocabulary().size, "intermediate_size": 20, "num_hidden_layers": 2},
        **{"max_position_embeddings": LENGTH, "eos_token_id": 2, "pad_token_id": 1},
        **{"bos_token_id": vocabulary().size - 2, "projection_dim": 6},
    }
    first = {"hidden_size": 12, "num_attention_heads": 3, "hidden_act": "quick_gelu"}
    second = {"hidden_size": 8, "num_attention_heads": 2, "hidden_act": "gelu"}
    network = {
        **{"cross_attention_dim": 20, "addition_embed_type": "text_time"},
        **{"addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 6 + 6 * 256},
    }
    tokenizers = [transformers.CLIPTokenizer.from_pretrained(folder) for _ in range(2)]
    text = transformers.CLIPTextConfig
    return diffusers.StableDiffusionXLPipeline(
        vae=randomised(diffusers.AutoencoderKL(**VAE)),
        text_encoder=randomised(transformers.CLIPTextModel(text(**shared, **first))),
        text_encoder_2=randomised(
            transformers.CLIPTextModelWithProjection(text(**shared, **second)), seed=1
        ),
        tokenizer=tokenizers[0],
        tokenizer_2=tokenizers[1],
        unet=randomised(diffusers.UNet2DConditionModel(**{**UNET, **LINEAR, **network})),
        scheduler=diffusers.EulerDiscreteScheduler.from_config(
            {**SCHEDULE, "timestep_spacing": "leading"}
        ),
        add_watermarker=False,
    )


def test_two_encoders(tmp_path):
    """Prompts against nothing, which is zeros, and against a text; there and back."""
    pipeline = make_two_encoders(tmp_path / "tokenizer")
    pipeline.save_pretrained(tmp_path / "theirs")
    opened = load_pipeline(tmp_path / "theirs")
    save_pipeline(opened, tmp_path / "ours")
    again = diffusers.StableDiffusionXLPipeline.from_pretrained(
        tmp_path / "ours", add_watermarker=False
    )
    size = {"height": 16, "width": 24, "latents": to_torch(noise())}
    prompts = opened.conditions(PROMPTS, size=(16, 24))
    settings = {"guidance_scale": 3.0, "steps": 2}
    for theirs_negative, negative in ((None, ""), ([NEGATIVE] * 2, NEGATIVE)):
        expected = theirs(pipeline, negative_prompt=theirs_negative, **size)
        nothing = opened.conditions([negative] * 2, size=(16, 24), negative=True)
        key = jax.random.key(0)
        found = opened.sample_latents(prompts, nothing, key, noise(), **settings)
        assert_close(found, expected, 1e-4)
        assert_close(theirs(again, negative_prompt=theirs_negative, **size), expected, 1e-6)
    given = {"negative": NEGATIVE, "height": 16, "width": 24, "noise": noise(), **settings}
    images = opened(PROMPTS, jax.random.key(0), **given)
    z = opened.decode(found)
    assert np.abs(images - np.clip((np.asarray(z) + 1) * 127.5, 0, 255)).max() < 0.51
