"""A denoiser of images from whatever holds one: a run, its checkpoints, a folder of diffusers.

::

    model = open_denoiser("runs/images_train")            # or a checkpoint, or DiT-XL-2-256
    x = sample_model(model.config, model.params, key, labels, sampler="DPM++ 2M", scale=4.0)
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxgen.diffusion.model import DenoiserConfig
from jaxgen.diffusion.process.table_schedules import TableSchedule
from jaxgen.errors import InputError
from jaxgen.files import as_path
from jaxgen.interop.learned_positions import resize_positions
from jaxgen.interop.model_configs import read_model_config
from jaxgen.interop.safetensors import Path
from jaxgen.interop.weight_folders import network_folder
from jaxgen.pretrained.autoencoder_folders import load_autoencoder
from jaxgen.pretrained.networks import LoadedNetwork, load_dit, load_unet
from jaxgen.pretrained.schedulers import SCHEDULER_FILE, from_diffusers_scheduler
from jaxgen.training import load_model

CLASSES_OF = {
    "DiTTransformer2DModel": load_dit,
    "Transformer2DModel": load_dit,
    "UNet2DModel": load_unet,
}
"""Networks of diffusers that are denoisers of images, and what opens them."""

INDEX, AUTOENCODER = "model_index.json", "vae"
"""Of a pipeline: the list of its parts, and the one that decodes latents."""

DIT_SCHEDULER = {"_class_name": "DDIMScheduler", "clip_sample": False}
"""Of the published DiT: the linear table, and a network that predicts the noise."""


def open_denoiser(path: Path, variant: str | None = None) -> LoadedNetwork:
    """A model of images and its parameters.

    Args:
      path: a run's folder (with ``checkpoints/`` in it), a folder of checkpoints, one checkpoint,
        or a folder of diffusers: of a network or of a pipeline with its scheduler.
      variant: of the weights of a folder of diffusers, "fp16" say.

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
    model = load_model(folder)
    if not isinstance(model.config, DenoiserConfig) or len(model.config.image_shape) != 3:
        raise InputError(f"{path} holds {type(model.config).__name__}, expected a model of images")
    return LoadedNetwork(model.config, model.params)


def open_decoder(path: Path, variant: str | None = None) -> LoadedNetwork | None:
    """The autoencoder of a denoiser of latents: ``vae/`` in its pipeline; None without one.

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
        if (place / INDEX).is_file() and (place / AUTOENCODER).is_dir():
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

    Parameters whose shapes do not depend on either are kept; learnt positions are interpolated; the
    table of classes is initialised where the classes are others.

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
    fresh = jax.tree.map(np.asarray, nn.meta.unbox(changed.make_init()(key)))
    old = {_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(model.params)}
    fresh_paths: list[str] = []

    def chosen(path: Any, leaf: np.ndarray) -> Any:
        name = _name(path)
        found = old.get(name)
        if found is not None and "label" in name and not kept_table:
            found = None
        if found is not None and found.shape == leaf.shape:
            return jnp.asarray(found)
        if found is not None and name.endswith("positions"):
            return jnp.asarray(_resized(config.network, network, np.asarray(found)))
        fresh_paths.append(name)
        return jnp.asarray(leaf)

    return LoadedNetwork(changed, jax.tree_util.tree_map_with_path(chosen, fresh)), fresh_paths


def _resized(old: Any, new: Any, positions: np.ndarray) -> np.ndarray:
    extra = len(positions) - old.grid[0] * old.grid[1]
    inner = resize_positions(positions[extra:], old.grid, new.grid)
    return np.concatenate([positions[:extra], inner])


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def describe_denoiser(config: DenoiserConfig) -> str:
    """One line on a model: network, images, classes, what is predicted."""
    height, width, channels = config.image_shape
    classes = f"{len(config.classes)} classes" if config.classes else "no classes"
    name = type(config.network).__name__.removesuffix("Config")
    return f"{name} of images of {height}x{width}x{channels}, {classes}, predicts {config.target}"
