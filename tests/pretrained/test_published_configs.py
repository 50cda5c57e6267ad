"""The configurations of published pipelines, each by the function that reads its kind."""

import json
import pathlib

import jax
import pytest

from jaxgen.compressors.bottlenecks.gaussian_bottleneck import KLConfig
from jaxgen.compressors.compressor import CompressorConfig
from jaxgen.compressors.frame_autoencoder import FrameAutoencoderConfig
from jaxgen.data.tokenizers import open_tokenizer
from jaxgen.errors import InputError
from jaxgen.interop.autoencoder_config import autoencoder_options, latent_statistics
from jaxgen.nn.counting import parameter_count
from jaxgen.pretrained import (
    from_diffusers_scheduler,
    load_autoencoder,
    load_clip,
    load_dit,
    load_pipeline,
    load_prior,
    load_t5,
    load_unet,
)

OPENED = {
    "scheduler": from_diffusers_scheduler,
    "tokenizer": open_tokenizer,
    "text_encoder": load_clip,
    "transformer": load_dit,
    "feature_extractor": load_clip,
    "unet": load_unet,
    "vae": load_autoencoder,
}
"""By the beginning of a folder's name."""

IS_MISSING = ("holds no weights", "names the shard", "holds no tokenizer")
"""What an error says of a configuration that is known, without its weights or vocabulary."""


@pytest.fixture
def hub_folder(data_folder):
    """Configurations of seven pipelines."""
    return data_folder / "text" / "hub_configs"


def outcome(folder: pathlib.Path) -> str:
    """ "opened", "known" where nothing but weights is missing, or what is said to be unknown."""
    kind = next((kind for kind in OPENED if folder.name.startswith(kind)), "")
    read = OPENED.get(kind, load_pipeline)
    if kind == "text_encoder" and '"t5"' in (folder / "config.json").read_text():
        read = load_t5
    try:
        read(folder)
    except InputError as error:
        message = str(error)
        assert message.startswith(str(folder))
        if any(part in message for part in IS_MISSING):
            return "known"
        return message.split(" is '", 1)[1].split("'")[0]
    return "opened"


def test_each_is_opened_or_refused_by_its_name(hub_folder):
    files = sorted(hub_folder.rglob("*.json"))
    folders = sorted({file.parent for file in files})
    found = {str(each.relative_to(hub_folder).as_posix()): outcome(each) for each in folders}
    refused = {name: what for name, what in found.items() if what not in ("opened", "known")}
    hunyuan, flux = "Tencent-Hunyuan/HunyuanDiT-Diffusers", "black-forest-labs/FLUX.1-schnell"
    third = "stabilityai/stable-diffusion-3-medium-diffusers"
    assert refused == {
        hunyuan: "HunyuanDiTPipeline",
        f"{hunyuan}/text_encoder": "bert",
        f"{hunyuan}/transformer": "HunyuanDiT2DModel",
        flux: "FluxPipeline",
        f"{flux}/transformer": "FluxTransformer2DModel",
        third: "StableDiffusion3Pipeline",
        f"{third}/transformer": "SD3Transformer2DModel",
    }
    opened = [name for name, what in found.items() if what == "opened"]
    assert [name.split("/")[-1] for name in opened] == ["scheduler"] * 7
    assert (len(files), len(folders)) == (76, 58)


def test_autoencoders(hub_folder):
    """Parameters as diffusers counts them, and how latents are scaled."""
    found = {}
    for path in sorted(hub_folder.glob("*/*/vae*/config.json")):
        fields = json.loads(path.read_text())
        network = FrameAutoencoderConfig(**autoencoder_options(fields))
        config = CompressorConfig(network, KLConfig(network.latent_channels), (8, 8, 3))
        count = parameter_count(jax.eval_shape(config.make_init(), jax.random.key(0)))
        scale = latent_statistics(fields)
        told = round(float(scale["mean"][0]), 4), round(1 / float(scale["deviation"][0]), 5)
        found.setdefault((network.latent_channels, count, *told), []).append(path.parts[-3])
    assert {key: len(names) for key, names in found.items()} == {
        (4, 83_653_863, 0.0, 0.18215): 3,  # Stable Diffusion 1 and 2
        (4, 83_653_863, 0.0, 0.13025): 5,  # HunyuanDiT and four of Stable Diffusion XL
        (16, 83_819_683, 0.0609, 1.5305): 1,  # Stable Diffusion 3
        (16, 83_819_683, 0.1159, 0.3611): 1,  # FLUX
    }


@pytest.mark.parametrize(
    ("read", "fields", "fault"),
    [
        (load_dit, {"_class_name": "FluxTransformer2DModel"}, "expected DiTTransformer2DModel or"),
        (load_unet, {"_class_name": "UNet3DConditionModel"}, "expected UNet2DConditionModel or"),
        (load_autoencoder, {"_class_name": "AutoencoderTiny"}, "expected AutoencoderKL"),
        (load_prior, {"_class_name": "UNet2DModel"}, "expected PriorTransformer"),
        (load_clip, {"model_type": "bert"}, "expected clip or clip_text_model or"),
        (load_t5, {"model_type": "clip_text_model"}, "expected t5 or mt5"),
    ],
)
def test_another_model_is_refused_before_its_weights_are_looked_for(tmp_path, read, fields, fault):
    (tmp_path / "config.json").write_text(json.dumps(fields))
    (given,) = fields.values()
    with pytest.raises(InputError, match=f"config.json: .* is '{given}', {fault}"):
        read(tmp_path)


def test_parts_of_a_pipeline_with_a_configuration_of_its_own(tmp_path):
    """Stable Diffusion's pipeline of inpainting has the U-Net's once more beside its index."""
    (tmp_path / "config.json").write_text('{"_class_name": "UNet2DConditionModel"}')
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "config.json").write_text('{"_class_name": "AutoencoderKL"}')
    with pytest.raises(InputError, match=f"{tmp_path / 'vae'} holds no weights"):
        load_autoencoder(tmp_path)
