"""Folders of pipelines from texts to images: ``model_index.json`` and a sub-folder for each part.

===============  ================================  ==========================
folder           class                             opened alone by
===============  ================================  ==========================
tokenizer/       ``CLIPTokenizer``                 `open_tokenizer`
text_encoder/    ``CLIPTextModel``                 `load_clip`
unet/            ``UNet2DConditionModel``          `load_unet`
vae/             ``AutoencoderKL``                 `load_autoencoder`
scheduler/       any that is known                 `from_diffusers_scheduler`
tokenizer_2/     of XL, as tokenizer/              `open_tokenizer`
text_encoder_2/  ``CLIPTextModelWithProjection``   `load_clip`
===============  ================================  ==========================

What else a folder has, such as a safety checker, is passed over.
"""

import contextlib
import dataclasses
import json
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax

from jaxgen.data.tokenizers import open_tokenizer, save_tokenizer
from jaxgen.errors import InputError
from jaxgen.files import as_path, replacing
from jaxgen.interop.model_configs import CONFIG, read_model_config
from jaxgen.interop.safetensors import Path
from jaxgen.interop.text_unet_config import TEXT_UNET
from jaxgen.pretrained.autoencoder_folders import load_autoencoder, save_autoencoder
from jaxgen.pretrained.encoder_folders import load_clip, save_clip
from jaxgen.pretrained.networks import LoadedNetwork, load_unet, save_unet
from jaxgen.pretrained.pipelines import TextToImagePipeline
from jaxgen.pretrained.schedulers import SCHEDULER_FILE, SchedulerRecipe, from_diffusers_scheduler
from jaxgen.pretrained.two_encoder_pipelines import TwoEncoderPipeline

INDEX = "model_index.json"

FROM_TEXT, FILLING_IN = "StableDiffusionPipeline", "StableDiffusionInpaintPipeline"
TWO_ENCODERS = "StableDiffusionXLPipeline"
PIPELINES = (FROM_TEXT, "StableDiffusionImg2ImgPipeline", FILLING_IN, TWO_ENCODERS)
"""Classes of pipelines that are known; the first three are one object, called in different ways."""

LEAST_VERSION = "0.6.0"
"""Of diffusers: it takes older inpainting pipelines, and those without a version, for others."""

PARTS: dict[str, tuple[str, ...]] = {
    "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
    "text_encoder": ("CLIPTextModel",),
    "unet": (TEXT_UNET,),
    "vae": ("AutoencoderKL",),
}
"""Parts whose class is one of these; that of the scheduler is its own configuration's."""

SECOND_PARTS: dict[str, tuple[str, ...]] = {
    "tokenizer_2": ("CLIPTokenizer", "CLIPTokenizerFast"),
    "text_encoder_2": ("CLIPTextModelWithProjection",),
}
"""Further ones of pipelines with two encoders."""

ZERO_NULL = "force_zeros_for_empty_prompt"

CORRECTED = {"clip_sample": False, "steps_offset": 1}
"""Fields of schedulers that old folders have otherwise, and that diffusers corrects too."""

USUAL_SIDE = 64
"""Of latents, where the network's configuration says nothing."""


def load_pipeline(
    folder: Path, *, variant: str | None = None, dtype: str | None = "float32"
) -> TextToImagePipeline:
    """A pipeline from texts to images, of Stable Diffusion 1, 2 or XL, from its folder.

    Args:
      folder: with ``model_index.json`` in it.
      variant: which weights of the folders ("fp16"); None: those without a name.
      dtype: of the parameters; None: as they are stored.

    Returns:
      The pipeline, with parameters on the default device; of XL a `TwoEncoderPipeline`.

    Raises:
      FileNotFoundError: for a path that does not exist.
      InputError: for a class of pipeline or of a part that is not known, which says those that are;
        for parts that do not belong together; and as what opens each part.
    """
    root = as_path(folder)
    index = _read_index(root)
    options: dict[str, Any] = {"variant": variant, "dtype": dtype}
    two = index["_class_name"] == TWO_ENCODERS

    def opened(load: Callable[..., LoadedNetwork], part: str) -> LoadedNetwork:
        with _naming(root / part):
            return _on_device(load(root / part, **options))

    def encoder(part: str) -> LoadedNetwork:
        config, params = opened(load_clip, part)
        states = "penultimate" if two else config.states
        return LoadedNetwork(dataclasses.replace(config, states=states), params)

    parts = (
        open_tokenizer(root / "tokenizer"),
        encoder("text_encoder"),
        opened(load_unet, "unet"),
        opened(load_autoencoder, "vae"),
        _open_scheduler(root / "scheduler"),
        _sides(root / "unet"),
    )
    if not two:
        return TextToImagePipeline(*parts)
    return TwoEncoderPipeline(
        *parts,
        second_tokenizer=open_tokenizer(root / "tokenizer_2"),
        second_encoder=encoder("text_encoder_2"),
        zero_null=bool(index.get(ZERO_NULL, True)),
    )


def save_pipeline(
    pipeline: TextToImagePipeline, folder: Path, *, dtype: str | None = None
) -> list[pathlib.Path]:
    """Writes a folder that `load_pipeline` and diffusers' ``from_pretrained`` open.

    Args:
      pipeline: the pipeline.
      folder: made if it does not exist.
      dtype: of the tensors; None: that of the parameters.

    Returns:
      The files written.

    Raises:
      InputError: for a part that the other programs have not, naming the field.
    """
    root = as_path(folder)
    root.mkdir(parents=True, exist_ok=True)
    sides, network = pipeline.latent_sides, pipeline.network
    size = sides[0] if sides[0] == sides[1] else sides
    files = [
        *save_tokenizer(pipeline.tokenizer, root / "tokenizer"),
        *save_clip(root / "text_encoder", *pipeline.encoder, dtype=dtype),
        *save_unet(root / "unet", *network, sample_size=size, dtype=dtype),
        *save_autoencoder(root / "vae", *pipeline.autoencoder, dtype=dtype),
    ]
    fields = dict(pipeline.scheduler.fields)
    index: dict[str, Any] = {
        "_class_name": FILLING_IN if pipeline.fills_in else FROM_TEXT,
        "_diffusers_version": LEAST_VERSION,
        "feature_extractor": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", fields["_class_name"]],
        "text_encoder": ["transformers", PARTS["text_encoder"][0]],
        "tokenizer": ["transformers", PARTS["tokenizer"][0]],
        "unet": ["diffusers", TEXT_UNET],
        "vae": ["diffusers", PARTS["vae"][0]],
    }
    if isinstance(pipeline, TwoEncoderPipeline):
        files += save_tokenizer(pipeline.second_tokenizer, root / "tokenizer_2")
        files += save_clip(root / "text_encoder_2", *pipeline.second_encoder, dtype=dtype)
        index |= {part: ["transformers", names[0]] for part, names in SECOND_PARTS.items()}
        index |= {"_class_name": TWO_ENCODERS, ZERO_NULL: pipeline.zero_null}
        for absent in ("requires_safety_checker", "safety_checker"):
            del index[absent]
        index["image_encoder"] = [None, None]
    (root / "scheduler").mkdir(exist_ok=True)
    scheduler, model_index = root / "scheduler" / SCHEDULER_FILE, root / INDEX
    for path, content in ((scheduler, fields), (model_index, index)):
        with replacing(path) as handle:
            handle.write(json.dumps(content, indent=2).encode() + b"\n")
    return [*files, scheduler, model_index]


@contextlib.contextmanager
def _naming(folder: pathlib.Path) -> Iterator[None]:
    """Errors of what is opened name its folder, those of fields of another type too."""
    try:
        yield
    except InputError as error:
        if str(folder) in str(error):
            raise
        raise InputError(f"{folder}: {error}") from error
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{folder}: a field of its configuration has another type than expected ({error})"
        ) from error


def _open_scheduler(folder: pathlib.Path) -> SchedulerRecipe:
    with _naming(folder):
        return from_diffusers_scheduler(folder, **CORRECTED)


def _sides(folder: pathlib.Path) -> tuple[int, int]:
    """The usual height and width of latents, as the network's configuration says them."""
    size = (read_model_config(folder) or {}).get("sample_size") or USUAL_SIDE
    sides = [size, size] if isinstance(size, int) else size
    if not (isinstance(sides, list) and len(sides) == 2 and all(_is_side(one) for one in sides)):
        raise InputError(f"{folder / CONFIG}: sample_size is {size!r}, expected one or two sizes")
    return sides[0], sides[1]


def _is_side(value: Any) -> bool:
    return isinstance(value, int) and value > 0


def _read_index(root: pathlib.Path) -> Mapping[str, Any]:
    """The index of a folder; refuses what is no pipeline, or one with other parts."""
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder")
    index = read_model_config(root, INDEX)
    if index is None:
        raise InputError(f"{root}: no {INDEX} in it, expected the folder of a pipeline")
    where, name = root / INDEX, index.get("_class_name")
    if name not in PIPELINES:
        raise InputError(
            f"{where}: _class_name is {name!r}, expected one of {', '.join(PIPELINES)}; parts that "
            "are known open alone"
        )
    expected = PARTS | (SECOND_PARTS if name == TWO_ENCODERS else {})
    for part, classes in expected.items():
        found = _class_of(index, part)
        if found not in classes:
            raise InputError(f"{where}: {part} is {found!r}, expected {' or '.join(classes)}")
        if not (root / part).is_dir():
            raise InputError(f"{root}: no folder {part}/, expected that of the {found}")
    return index


def _class_of(index: Mapping[str, Any], part: str) -> str | None:
    """The class of a part; None where there is none."""
    entry = index.get(part)
    return entry[1] if isinstance(entry, list) and len(entry) == 2 else None


def _on_device(part: LoadedNetwork) -> LoadedNetwork:
    return LoadedNetwork(part.config, jax.tree.map(jax.numpy.asarray, part.params))
