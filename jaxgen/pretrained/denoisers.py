"""A denoiser of images from whatever holds one: a run, its checkpoints, folders of other programs.

::

    model = open_denoiser("runs/images_train")            # or a checkpoint, or DiT-XL-2-256
    x = sample_model(model.config, model.params, key, labels, sampler="DPM++ 2M", scale=4.0)
"""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxgen.diffusion.model import DenoiserConfig
from jaxgen.diffusion.process.sde_schedules import LinearBetaSchedule
from jaxgen.diffusion.process.table_schedules import DiscreteSchedule, TableSchedule
from jaxgen.errors import InputError
from jaxgen.files import as_path
from jaxgen.interop.learned_positions import Grid, resize_offsets, resize_positions
from jaxgen.interop.mdt_weights import MDT_MARKERS
from jaxgen.interop.model_configs import read_model_config
from jaxgen.interop.safetensors import Path
from jaxgen.interop.uvit_weights import MARKERS as UVIT_MARKERS
from jaxgen.interop.weight_folders import network_folder, open_weights
from jaxgen.pretrained.autoencoder_folders import load_autoencoder
from jaxgen.pretrained.networks import LoadedNetwork, load_dit, load_mdt, load_unet, load_uvit
from jaxgen.pretrained.schedulers import SCHEDULER_FILE, from_diffusers_scheduler
from jaxgen.training import load_model

CLASSES_OF = {
    "DiTTransformer2DModel": load_dit,
    "Transformer2DModel": load_dit,
    "UNet2DModel": load_unet,
}
"""Networks of diffusers that are denoisers of images, and what opens them."""

WEIGHTS = "*.safetensors"


class Published(NamedTuple):
    """Networks that are published as weights alone, and how they were trained.

    Attributes:
      marker: a tensor that no others have.
      load: opens them.
      pixels: fields of a `DenoiserConfig` of those that make pixels.
      latents: the same of latents.
    """

    marker: str
    load: Callable[..., LoadedNetwork]
    pixels: Mapping[str, Any]
    latents: Mapping[str, Any]


DIT_TABLE = {"target": "e", "schedule": DiscreteSchedule(), "time_input": "step"}

PUBLISHED = (
    Published(MDT_MARKERS[0], load_mdt, DIT_TABLE, DIT_TABLE),
    Published(
        UVIT_MARKERS[0],
        load_uvit,
        {"target": "e", "schedule": LinearBetaSchedule(), "time_input": "out_of_999"},
        {"target": "e", "schedule": DiscreteSchedule("scaled_linear", 1000, 0.00085, 0.012)},
    ),
)
"""U-ViT of pixels was trained with the SDE of Song et al. (2021b), of latents with the table of
Stable Diffusion, whose steps count from 1 there; MDT with DiT's table."""

INDEX, AUTOENCODER = "model_index.json", "vae"
"""Of a pipeline: the list of its parts, and the one that decodes latents."""

DIT_SCHEDULER = {"_class_name": "DDIMScheduler", "clip_sample": False}
"""Of the published DiT: the linear table, and a network that predicts the noise."""


def open_denoiser(path: Path, variant: str | None = None) -> LoadedNetwork:
    """A model of images and its parameters.

    Args:
      path: a run's folder (with ``checkpoints/`` in it), a folder of checkpoints, one checkpoint,
        or a folder of diffusers: of a network or of a pipeline with its scheduler; or a file or
        folder with the weights of a U-ViT or MDT under its published names, which are taken to be
        trained as published (`PUBLISHED`) unless a ``scheduler_config.json`` beside them says how.
      variant: of the weights of a folder of other programs, "fp16" say.

    Returns:
      A `jaxgen.diffusion.model.DenoiserConfig` and parameters (of a checkpoint their moving
      average).

    Raises:
      FileNotFoundError: for a path that does not exist, or holds no checkpoint.
      InputError: for a folder of another model.
    """
    folder = as_path(path)
    if (folder / "checkpoints").is_dir():
        folder = folder / "checkpoints"
    elif folder.is_dir() and (fields := _diffusers_fields(folder)).get("_class_name") is not None:
        return _from_diffusers(folder, fields, variant)
    elif folder.suffix == ".safetensors" or (folder.is_dir() and any(folder.glob(WEIGHTS))):
        return _from_published(folder, variant)
    model = load_model(folder)
    if not isinstance(model.config, DenoiserConfig) or len(model.config.image_shape) != 3:
        raise InputError(f"{path} holds {type(model.config).__name__}, expected a model of images")
    return LoadedNetwork(model.config, model.params)


def open_decoder(path: Path, variant: str | None = None) -> LoadedNetwork | None:
    """The autoencoder of a denoiser of latents: ``vae/`` in its folder; None without one.

    Args:
      path: as for `open_denoiser`: the folder of the pipeline or of the network in it.
      variant: of its weights.

    Returns:
      As `load_autoencoder`: it decodes the latents that the denoiser makes, scaled as the folder
      says.

    Raises:
      InputError: as `load_autoencoder`.
    """
    folder = as_path(path)
    for place in (folder, folder.parent):
        pipeline = place == folder or folder.is_file() or (place / INDEX).is_file()
        if pipeline and (place / AUTOENCODER).is_dir():
            return load_autoencoder(place / AUTOENCODER, variant=variant)
    return None


def _diffusers_fields(folder: pathlib.Path) -> Mapping[str, Any]:
    """The configuration of the network in a folder of diffusers; empty where there is none."""
    return read_model_config(network_folder(folder, ["transformer", "unet"])) or {}


def _from_diffusers(
    folder: pathlib.Path, fields: Mapping[str, Any], variant: str | None
) -> LoadedNetwork:
    name = fields["_class_name"]
    if name not in CLASSES_OF:
        raise InputError(
            f"{folder}: a {name}, expected a network of images: {', '.join(CLASSES_OF)}"
        )
    network, params = CLASSES_OF[name](folder, variant=variant)
    recipe = from_diffusers_scheduler(_scheduler_of(folder, name))
    if not isinstance(recipe.schedule, TableSchedule):
        raise InputError(f"{folder}: a {recipe.name} scheduler, expected one with a table of betas")
    size = fields.get("sample_size")
    sides = (size, size) if isinstance(size, int) else size
    if not sides or len(sides) != 2:
        raise InputError(f"{folder}: sample_size is {size!r}, expected the side of the images")
    channels = network.in_channels
    config = DenoiserConfig(
        network,
        (*sides, channels),
        _class_names(folder, network.num_classes),
        recipe.target,
        recipe.schedule,
        time_input="step",
        learned_variance=network.out_channels == 2 * channels,
    )
    return LoadedNetwork(config, params)


def _from_published(path: pathlib.Path, variant: str | None) -> LoadedNetwork:
    """A network whose names of tensors tell what it is."""
    tensors = open_weights(path, variant)
    for each in PUBLISHED:
        if any(name == each.marker or name.endswith(f".{each.marker}") for name in tensors):
            break
    else:
        raise InputError(
            f"{path}: neither a config.json of diffusers nor the weights of a U-ViT or MDT, "
            "expected one of them"
        )
    network, params = each.load(path, variant=variant)
    channels = network.in_channels
    process: dict[str, Any] = dict(each.pixels if channels == 3 else each.latents)
    folder = path if path.is_dir() else path.parent
    if (folder / SCHEDULER_FILE).is_file():
        recipe = from_diffusers_scheduler(folder)
        process = {"target": recipe.target, "schedule": recipe.schedule, "time_input": "step"}
    config = DenoiserConfig(
        network,
        (*network.input_size, channels),
        _class_names(folder, network.num_classes),
        **process,
        learned_variance=network.out_channels == 2 * channels,
    )
    return LoadedNetwork(config, params)


def _class_names(folder: pathlib.Path, count: int) -> tuple[str, ...]:
    """Names of the classes: those of the pipeline's ``id2label``, or else numbers.

    Raises:
      InputError: for a name of a class that the network has not.
    """
    names = {str(i): str(i) for i in range(count)}
    for place in (folder, folder.parent):
        for number, name in ((read_model_config(place, INDEX) or {}).get("id2label") or {}).items():
            if number not in names:
                raise InputError(
                    f"{place / INDEX}: id2label has {number!r}, expected numbers below {count}, "
                    "the network's classes"
                )
            names[number] = str(name)
    return tuple(names.values())


def _scheduler_of(folder: pathlib.Path, name: str) -> Path | Mapping[str, Any]:
    """Where the scheduler's configuration lies; of a DiT alone it is the published one."""
    for place in (folder, folder / "scheduler", folder.parent / "scheduler"):
        if (place / SCHEDULER_FILE).is_file():
            return place / SCHEDULER_FILE
    if name == "UNet2DModel":
        raise InputError(
            f"{folder}: no {SCHEDULER_FILE} in it, in scheduler/ or beside it, expected one: what "
            "a U-Net predicts is said there"
        )
    return DIT_SCHEDULER


def adapt_to_data(
    model: LoadedNetwork,
    image_shape: tuple[int, int, int],
    classes: tuple[str, ...],
    key: jax.Array,
) -> tuple[LoadedNetwork, list[str]]:
    """A model to be trained on with other images: of another size, or with other classes.

    Parameters whose shapes do not depend on either are kept; learnt positions and offsets are
    interpolated; the table of classes is initialised where the classes are others.

    Args:
      model: what to start from.
      image_shape: Y, X, C of the new images; C must be that of the model.
      classes: their names; empty for images without labels.
      key: randomness of what is initialised.

    Returns:
      The model, and the paths of the parameters that are initialised.

    Raises:
      InputError: for images with other channels, or of a size that the network does not take.
    """
    config = model.config
    if image_shape == tuple(config.image_shape) and classes == config.classes:
        return model, []
    if image_shape[2] != config.image_shape[2]:
        raise InputError(
            f"images have {image_shape[2]} channels, expected {config.image_shape[2]}, as the "
            "model that training starts from"
        )
    network = dataclasses.replace(config.network, num_classes=len(classes))
    if not classes:
        network = dataclasses.replace(network, null_class=False, class_dropout=0.0)
    if hasattr(network, "input_size"):
        network = dataclasses.replace(network, input_size=image_shape[:2])
    changed = dataclasses.replace(config, network=network, image_shape=image_shape, classes=classes)
    kept_table = classes == config.classes
    fresh = jax.tree.map(np.asarray, nn.meta.unbox(jax.jit(changed.make_init())(key)))
    old = {_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(model.params)}
    fresh_paths: list[str] = []

    def chosen(path: Any, leaf: np.ndarray) -> Any:
        name = _name(path)
        found = old.get(name)
        if found is not None and "label" in name and not kept_table:
            found = None
        if found is not None and hasattr(network, "grid"):
            found = _resized(name, np.asarray(found), config.network.grid, network.grid)
        if found is not None and found.shape == leaf.shape:
            return jnp.asarray(found)
        fresh_paths.append(name)
        return jnp.asarray(leaf)

    return LoadedNetwork(changed, jax.tree_util.tree_map_with_path(chosen, fresh)), fresh_paths


def _resized(name: str, values: np.ndarray, old: Grid, new: Grid) -> np.ndarray:
    """Learnt positions or offsets of a grid of patches for another one; other parameters as is."""
    if name.endswith("relative/table"):
        return resize_offsets(values, old, new)
    if not name.endswith("positions"):
        return values
    extra = len(values) - old[0] * old[1]
    inner = resize_positions(values[extra:], old, new)
    return np.concatenate([values[:extra], inner])


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def describe_denoiser(config: DenoiserConfig) -> str:
    """One line on a model: network, images, classes, what is predicted."""
    height, width, channels = config.image_shape
    classes = f"{len(config.classes)} classes" if config.classes else "no classes"
    name = type(config.network).__name__.removesuffix("Config")
    return f"{name} of images of {height}x{width}x{channels}, {classes}, predicts {config.target}"
