"""Pipelines from texts to images: programs, guidance, sizes, folders, what does not fit."""

import dataclasses
import json
import math
import shutil

import jax
import numpy as np
import pytest
from random_weights import assert_same_bits
from tiny_pipelines import KEY, LENGTH, WIDTH, parts, pipeline, tokenizer

from jaxgen.compressors.bottlenecks.gaussian_bottleneck import KLConfig
from jaxgen.compressors.compressor import CompressorConfig
from jaxgen.compressors.frame_autoencoder import FrameAutoencoderConfig
from jaxgen.data.tokenizers import save_tokenizer, train_tokenizer
from jaxgen.errors import InputError
from jaxgen.nn import parameter_count
from jaxgen.pretrained import (
    LoadedNetwork,
    from_diffusers_scheduler,
    load_autoencoder,
    load_clip,
    load_pipeline,
    load_unet,
    save_pipeline,
)

PROMPTS = ["a red cube", "a ball"]


def latents(prompts=PROMPTS, negative=("", ""), key=KEY, seed=0, **options):
    noise = np.random.default_rng(seed).normal(size=(2, 4, 4, 4)).astype(np.float32)
    texts = pipeline().encode(prompts), pipeline().encode(negative)
    return np.asarray(pipeline().sample_latents(*texts, key, noise, **options))


def test_nothing_is_compiled_for_other_prompts_guidance_seeds_or_steps():
    programs = []
    for i, guidance in enumerate((1.0, 7.5, np.array([2.0, 3.0]))):
        given = {"guidance_scale": guidance, "negative": ["no", ""][i % 2], "steps": 2 + i}
        prompts = [PROMPTS[i % 2], "cube"]
        images = pipeline()(prompts, jax.random.key(i), **given)
        assert images.shape == (2, 8, 8, 3)
        assert images.dtype == np.uint8
        programs.append((pipeline()._sampling._cache_size(), pipeline()._decoding._cache_size()))
    assert programs[1] == programs[0]
    # An array of guidance scales, one of each, is another shape than one of all.
    assert programs[2][0] <= programs[0][0] + 1
    assert programs[2][1] == programs[0][1]


def test_guidance_extrapolates_between_prompt_and_negative_prompt():
    """g = 1 is the prompt alone, g = 0 the negative alone, and each example has its own g."""
    given = {"steps": 2}
    conditional = latents(guidance_scale=1.0, **given)
    np.testing.assert_allclose(
        conditional, latents(negative=("no", "no"), guidance_scale=1.0, **given), atol=1e-6
    )
    unconditional = latents(guidance_scale=0.0, **given)
    np.testing.assert_allclose(
        unconditional, latents(("", ""), guidance_scale=1.0, **given), atol=1e-6
    )
    assert np.abs(conditional - unconditional).max() > 1e-4
    mixed = latents(guidance_scale=np.array([1.0, 0.0]), **given)
    np.testing.assert_allclose(mixed[0], conditional[0], atol=1e-6)
    np.testing.assert_allclose(mixed[1], unconditional[1], atol=1e-6)


def test_an_image_depends_on_key_and_place_alone():
    whole = pipeline()(PROMPTS, KEY, steps=2)
    alone = pipeline()(PROMPTS[:1], KEY, steps=2)
    np.testing.assert_array_equal(alone, whole[:1])
    assert (pipeline()(PROMPTS, jax.random.key(1), steps=2) != whole).any()


def test_no_prompts():
    with pytest.raises(InputError, match="prompts are empty, expected one or more"):
        pipeline()([], KEY)


def test_windows_of_long_prompts_lie_side_by_side():
    long = "red cube blue ball red cube blue"
    with pytest.raises(InputError, match="would be lost"):
        pipeline().encode([long])
    windows = tokenizer().count_windows([long])
    assert windows > 1
    states = pipeline().encode([long, "ball"], windows=windows)
    assert states.shape == (2, windows * LENGTH, WIDTH)
    first = pipeline().encode([long], truncate=True)
    np.testing.assert_allclose(states[:1, :LENGTH], first, atol=1e-6)
    empty = pipeline().encode([""])
    np.testing.assert_allclose(states[1:, -LENGTH:], empty, atol=1e-6)


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        (
            {"height": 6},
            "height is 6, expected a whole number, a multiple of 4: it is divided by 2",
        ),
        ({"width": 0}, "width is 0, expected a whole number, a multiple of 4"),
        ({"height": 16.0}, "height is 16.0, expected a whole number"),
        ({"guidance_scale": [1.0, 2.0, 3.0]}, r"guidance_scale has shape \(3,\), expected one num"),
        ({"guidance_scale": math.nan}, "guidance_scale is nan, expected finite numbers"),
        ({"key": 7}, r"key is 7, expected a key such as jax\.random\.key\(7\)"),
        ({"also": "blue"}, "also is 'blue', expected pairs of a prompt and its weight"),
        ({"also": ["ab"]}, r"also is \['ab'\], expected pairs"),
        ({"also": [(["no"], 0.5)]}, "also has a list of 1 texts, expected a string, or 2, one for"),
        ({"steps": 0}, "steps is 0, expected a whole number, 1 or more"),
        ({"noise": [[0.0]]}, "noise is a list, expected an array"),
        ({"prompts": "a red cube"}, r"prompts are the string 'a red cube', expected a list, \['a"),
        ({"noise": np.zeros((2, 3, 4, 4))}, r"noise has shape \(2, 3, 4, 4\), expected latents"),
        ({"noise": np.zeros((2, 4, 4, 3))}, r"noise has shape \(2, 4, 4, 3\), expected latents \["),
        ({"negative": None}, "negative is None, expected a string, or 2, one for each prompt"),
        ({"guidance_scale": "x"}, r"guidance_scale is 'x' and also is \(\), expected numbers"),
        ({"rescale": "x"}, "rescale is x, expected 0 <= rescale <= 1"),
        ({"negative": ["no"]}, "negative has a list of 1 texts, expected a string, or 2"),
    ],
    ids=str,
)
def test_calls_that_do_not_fit(given, fault):
    with pytest.raises(InputError, match=fault):
        pipeline()(**{"prompts": PROMPTS, "key": KEY, **given})


@pytest.mark.parametrize(
    ("part", "changes", "fault"),
    [
        ("encoder", {"vocabulary": 600}, "the vocabulary has 520 ids and the text encoder's table"),
        ("encoder", {"length": 5}, "the tokenizer's length is 12, expected at most 5 tokens"),
        ("encoder", {"width": 12}, "the network's text_width is 8, expected 12"),
        ("network", {"in_channels": 8}, "the network's in_channels is 8, expected 4, that of the"),
        ("network", {"pooled_width": 3}, "the network's pooled_width is 3, expected 0"),
    ],
)
def test_parts_that_do_not_belong_together(part, changes, fault):
    config, params = parts()[part]
    other = LoadedNetwork(dataclasses.replace(config, **changes), params)
    with pytest.raises(InputError, match=fault):
        dataclasses.replace(pipeline(), **{part: other})


def test_a_scheduler_of_other_networks():
    recipe = from_diffusers_scheduler({"_class_name": "EDMEulerScheduler"})
    with pytest.raises(InputError, match="the scheduler is EDMEuler with sigma_data"):
        dataclasses.replace(pipeline(), scheduler=recipe)


@pytest.fixture
def folder(tmp_path):
    save_pipeline(pipeline(), tmp_path / "pipeline")
    return tmp_path / "pipeline"


def test_folders_bit_by_bit(folder, tmp_path):
    """Also each part alone, and as float16."""
    found = load_pipeline(folder)
    assert found.latent_sides == (4, 4)
    assert found.scheduler.fields == pipeline().scheduler.fields
    for name in ("encoder", "network", "autoencoder"):
        ours, part = getattr(pipeline(), name), getattr(found, name)
        assert part.config == ours.config
        plain = jax.tree.map(np.asarray, part.params)
        if name != "autoencoder":
            assert_same_bits(plain, ours.params)
        else:
            assert_same_bits(plain["network"], ours.params["network"])
            np.testing.assert_allclose(plain["statistics"]["deviation"], 5.49, rtol=1e-6)
    opened = {"encoder": load_clip, "network": load_unet, "autoencoder": load_autoencoder}
    for name, load in opened.items():
        assert load(folder).config == getattr(pipeline(), name).config
    given = {"steps": 2, "guidance_scale": 3.0}
    np.testing.assert_array_equal(found(PROMPTS, KEY, **given), pipeline()(PROMPTS, KEY, **given))
    save_pipeline(found, tmp_path / "half", dtype="float16")
    half = load_unet(tmp_path / "half", dtype=None).params
    assert {leaf.dtype for leaf in jax.tree.leaves(half)} == {np.dtype("float16")}


def change_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_folders_that_do_not_open(folder, tmp_path):
    """One line each: class of pipeline and of parts, scheduler, shards, pickles, sizes."""
    kept = tmp_path / "kept"
    shutil.copytree(folder, kept)

    def restore():
        shutil.rmtree(folder)
        shutil.copytree(kept, folder)

    def drop_shard():
        names = ["a.safetensors", "model.safetensors"]
        index = {"weight_map": dict.fromkeys(("x", "y"), names[0])}
        path = folder / "text_encoder" / "model.safetensors"
        path.rename(folder / "text_encoder" / "other.bin")
        (path.parent / "model.safetensors.index.json").write_text(json.dumps(index))

    def pickle():
        path = folder / "unet" / "diffusion_pytorch_model.safetensors"
        path.rename(path.with_suffix(".bin"))

    def no_weights():
        (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()

    index, scheduler = folder / "model_index.json", folder / "scheduler" / "scheduler_config.json"
    text, unet, vae = (folder / part / "config.json" for part in ("text_encoder", "unet", "vae"))
    faults = {
        "_class_name is 'FluxPipeline', expected one of StableDiffusionPipe": lambda: change_json(
            index, _class_name="FluxPipeline"
        ),
        "text_encoder is 'T5EncoderModel', expected CLIPTextModel": lambda: change_json(
            index, text_encoder=["transformers", "T5EncoderModel"]
        ),
        "vae is None, expected AutoencoderKL": lambda: change_json(index, vae=[None, None]),
        "no folder unet/, expected that of the UNet2DCond": lambda: shutil.rmtree(folder / "unet"),
        "no model_index.json in it, expected the folder of a pipeline": index.unlink,
        "_class_name is 'AmusedScheduler', expected one of": lambda: change_json(
            scheduler, _class_name="AmusedScheduler"
        ),
        r"vae: groups is 0, expected 1 or more": lambda: change_json(vae, norm_num_groups=0),
        r"vae: a field of its configuration has another type than expected \(": lambda: change_json(
            vae, latent_channels="4"
        ),
        r"unet: a field of its configuration has another type": lambda: change_json(
            unet, norm_num_groups=None
        ),
        r"scheduler: a field of its configuration has another type": lambda: change_json(
            scheduler, beta_start="x"
        ),
        r"config.json: sample_size is \[8\], expected one or two": lambda: change_json(
            unet, sample_size=[8]
        ),
        "names the shard a.safetensors, which is missing": drop_shard,
        r"diffusion_pytorch_model\.bin": pickle,
        "unet holds no weights, expected one safetensors file": no_weights,
        r"has shape \(12, 8\), expected \(5, 8\) for positions": lambda: change_json(
            text, max_position_embeddings=5
        ),
        "the vocabulary has .* ids and the text encoder's table has 520": lambda: save_tokenizer(
            train_tokenizer(["a red cube, a blue ball"], 521, "bpe", length=LENGTH),
            folder / "tokenizer",
        ),
    }
    for fault, spoil in faults.items():
        spoil()
        with pytest.raises(InputError, match=fault):
            load_pipeline(folder)
        restore()
    with pytest.raises(FileNotFoundError, match="no such folder"):
        load_pipeline(tmp_path / "nowhere")


def test_pipelines_of_hubs(data_folder):
    """Every published index is one whose parts are known, or its class is named."""
    found = {}
    for path in sorted((data_folder / "text" / "hub_configs").glob("*/*/model_index.json")):
        with pytest.raises((InputError, FileNotFoundError)) as error:
            load_pipeline(path.parent)  # the known ones have no vocabulary and no weights there
        found[path.parent.name] = str(error.value).removeprefix(f"{path.parent}")
    known = {"stable-diffusion-v1-5", "stable-diffusion-2-1", "stable-diffusion-inpainting"}
    known |= {"stable-diffusion-xl-base-1.0"}
    for name, message in found.items():
        if name in known:
            assert "/tokenizer: holds no tokenizer" in message
        else:
            assert "StableDiffusionXLPipeline; parts that are known open alone" in message
    assert len(found) == 7


def test_parameter_count_of_the_autoencoder_of_stable_diffusion():
    config = CompressorConfig(FrameAutoencoderConfig(), KLConfig(4), (8, 8, 3))
    assert parameter_count(jax.eval_shape(config.make_init(), KEY)) == 83_653_863
