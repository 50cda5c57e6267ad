"""Networks from the folders of other programs, configuration and parameters at once, and back.

======================  ==============================================  ==========================
function                what it opens                                   network
======================  ==============================================  ==========================
`load_dit`              DiT, in the original naming and in diffusers'    `jaxgen.spacetime.DiT`
`load_unet`             diffusers' ``UNet2DModel`` and, of texts,        `jaxgen.unet.UNet`
                        ``UNet2DConditionModel``
`load_uvit`             U-ViT, as published                              `jaxgen.spacetime.UViT`
`load_mdt`              MDT, as published (first version)                `jaxgen.spacetime.MDT`
======================  ==============================================  ==========================

Weights are safetensors: one file, shards with their index, a variant ("fp16"), or the sub-folder of
a pipeline (`jaxgen.interop.weight_folders`)::

    config, params = load_dit("DiT-XL-2-256")
    output = config.make_model().apply({"params": params}, z, time, label)
    save_dit("finetuned", config, params, sample_size=32)     # DiTTransformer2DModel opens it
"""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxgen.diffusion.model import text_example
from jaxgen.interop.dit_config import CLASS_NAMES, DIFFUSERS_SHIFT, dit_fields
from jaxgen.interop.dit_weights import Naming, dit_naming, dit_options, dit_params, dit_tensors
from jaxgen.interop.mdt_weights import mdt_options, mdt_params
from jaxgen.interop.model_folders import write_model_folder
from jaxgen.interop.safetensors import Path
from jaxgen.interop.text_unet_config import TEXT_UNET, text_unet_fields, text_unet_options
from jaxgen.interop.unet_config import unet_fields
from jaxgen.interop.unet_weights import UNET, unet_options, unet_params, unet_tensors
from jaxgen.interop.uvit_weights import uvit_options, uvit_params
from jaxgen.interop.weight_folders import open_network, open_weights, stored_dtype
from jaxgen.spacetime import DiTConfig, MDTConfig, UViTConfig
from jaxgen.typing import Tree
from jaxgen.unet import UNetConfig

DIFFUSERS_EPSILON = 1e-5
"""Added to variances in diffusers' DiT where its configuration does not say otherwise."""


class LoadedNetwork(NamedTuple):
    """A network with its parameters.

    Attributes:
      config: its configuration, with ``make_model()``.
      params: numpy arrays, for ``apply({"params": params}, ...)``.
    """

    config: Any
    params: Tree


def load_dit(
    path: Path,
    *,
    variant: str | None = None,
    dtype: str | None = "float32",
    heads: int | None = None,
    null_class: bool | None = None,
    frequency_shift: float | None = None,
    prefix: str | None = None,
) -> LoadedNetwork:
    """A diffusion transformer (Peebles & Xie 2023) from a folder or file of weights.

    Args:
      path: a folder, one with a sub-folder ``transformer/``, or a file.
      variant: which weights of the folder ("fp16", "bf16", "ema"); None: those without a name.
      dtype: of the parameters; None: as they are stored.
      heads: attention heads, where neither ``config.json`` nor the published sizes tell.
      null_class: whether the last row of the table of classes is the null class; None: as
        ``config.json`` says, or else True.
      frequency_shift: of the frequencies of the time, which is in no file. None: what the program
        whose names the tensors have computes with: 0 in the original, 1 in diffusers, which also
        runs the published weights with it (they were trained with 0).
      prefix: what all names begin with before the network's own, or which to take ("ema.").

    Returns:
      The configuration (a `jaxgen.spacetime.DiTConfig`) and the parameters. Blocks whose embeddings
      of time and class differ keep them (``own_embeddings``).

    Raises:
      FileNotFoundError: for a path that does not exist.
      InputError: for weights of another model, a variant that is not there, or where nothing tells
        the heads; the message names the file.
    """
    tensors = open_network(path, ["transformer"], variant, classes=CLASS_NAMES)
    options = dit_options(tensors, heads, null_class, prefix=prefix)
    if dit_naming(tensors, prefix=prefix) == "diffusers":
        options.setdefault("mlp_norm_epsilon", DIFFUSERS_EPSILON)
        options["frequency_shift"] = (tensors.config or {}).get("frequency_shift", DIFFUSERS_SHIFT)
    if frequency_shift is not None:
        options["frequency_shift"] = frequency_shift
    config = DiTConfig(**options)
    like = abstract_params(config, (config.patch, config.patch))
    return LoadedNetwork(config, dit_params(tensors, like, config.patch, dtype, prefix=prefix))


def save_dit(
    folder: Path,
    config: DiTConfig,
    params: Tree,
    *,
    sample_size: int,
    naming: Naming = "diffusers",
    dtype: str | None = None,
    variant: str | None = None,
    max_bytes: int | None = None,
) -> list[pathlib.Path]:
    """Writes a folder that `load_dit` opens and, under diffusers' names, ``from_pretrained`` too.

    diffusers computes with a frequency shift of 1 and nothing else; another one is written into
    ``config.json`` for `load_dit`, and there passed over.

    Args:
      folder: made if it does not exist.
      config: the network.
      params: its parameters.
      sample_size: height and width of the images or latents, in pixels.
      naming: "diffusers" or "original".
      dtype: of the tensors; None: that of the variant "fp16" or "bf16", else of the parameters.
      variant: what the file's name says, "fp16" say; ``from_pretrained(..., variant="fp16")``.
      max_bytes: above which weights are cut into shards; None: one file.

    Returns:
      The files written.

    Raises:
      InputError: for a network that diffusers has not, naming the field.
    """
    fields = dit_fields(config, sample_size)
    grid = sample_size // config.patch if naming == "original" else None
    tensors = dit_tensors(params, naming, config.patch, grid, stored_dtype(dtype, variant))
    return _write(folder, fields, tensors, max_bytes, variant)


def load_unet(
    path: Path,
    *,
    variant: str | None = None,
    dtype: str | None = "float32",
    null_class: bool = False,
    prefix: str | None = None,
) -> LoadedNetwork:
    """A U-Net of diffusers from its folder, or from a pipeline with ``unet/`` in it.

    A ``UNet2DConditionModel``, such as Stable Diffusion's, is a network that reads texts.

    Args:
      path: the folder; ``config.json`` must lie beside the weights.
      variant: as for `load_dit`.
      dtype: of the parameters; None: as they are stored.
      null_class: whether the last row of the table of classes is the null class.
      prefix: as for `load_dit`.

    Raises:
      FileNotFoundError: for a path that does not exist.
      InputError: for a network that the U-Net here is not, naming the field; and as `load_dit`.
    """
    tensors = open_network(path, ["unet"], variant, classes=[TEXT_UNET, UNET])
    if (tensors.config or {}).get("_class_name") == TEXT_UNET:
        config = UNetConfig(**text_unet_options(tensors))
    else:
        config = UNetConfig(**unet_options(tensors, null_class))
    side = 2 ** (len(config.channels) - 1)
    like = abstract_params(config, (side, side))
    return LoadedNetwork(config, unet_params(tensors, like, dtype, prefix=prefix))


def save_unet(
    folder: Path,
    config: UNetConfig,
    params: Tree,
    *,
    sample_size: int | tuple[int, int] | None = None,
    dtype: str | None = None,
    variant: str | None = None,
    max_bytes: int | None = None,
) -> list[pathlib.Path]:
    """Writes a folder that `load_unet` and diffusers' ``from_pretrained`` open.

    Of a network that reads texts the class is ``UNet2DConditionModel``, else ``UNet2DModel``.

    Arguments and result as for `save_dit`.

    Raises:
      InputError: for a network that diffusers has not, naming the field.
    """
    fields_of = text_unet_fields if config.text_width else unet_fields
    fields = fields_of(config, sample_size)
    tensors = unet_tensors(params, stored_dtype(dtype, variant))
    return _write(folder, fields, tensors, max_bytes, variant)


def load_uvit(
    path: Path,
    *,
    size: tuple[int, int] | None = None,
    heads: int | None = None,
    null_class: bool = True,
    variant: str | None = None,
    dtype: str | None = "float32",
    prefix: str | None = None,
) -> LoadedNetwork:
    """A U-ViT (Bao et al. 2023) from weights under its published names.

    Args:
      path: a file or folder of safetensors.
      size: height and width of the images; None: as trained. Positions of another size are
        interpolated (`jaxgen.interop.learned_positions`).
      heads: attention heads, of networks that are not published.
      null_class: whether the last class of the table is the null class (1,001 for ImageNet).
      variant: as for `load_dit`.
      dtype: as there.
      prefix: as there.

    Raises:
      FileNotFoundError: for a path that does not exist.
      InputError: for weights of another model.
    """
    tensors = open_weights(path, variant)
    options = uvit_options(tensors, heads, null_class, size=size, prefix=prefix)
    config = UViTConfig(**options)
    like = abstract_params(config, config.input_size)
    return LoadedNetwork(
        config, uvit_params(tensors, like, config.patch, config.grid, dtype, prefix=prefix)
    )


def load_mdt(
    path: Path,
    *,
    size: tuple[int, int] | None = None,
    decoder_depth: int = 2,
    variant: str | None = None,
    dtype: str | None = "float32",
    prefix: str | None = None,
) -> LoadedNetwork:
    """An MDT (Gao et al. 2023, first version) from weights under its published names.

    Args:
      path: a file or folder of safetensors.
      size: height and width of the images or latents; None: as trained. Positions and offsets of
        another size are interpolated.
      decoder_depth: blocks of the decoder, which no tensor tells.
      variant: as for `load_dit`.
      dtype: as there.
      prefix: as there.

    Raises:
      FileNotFoundError: for a path that does not exist.
      InputError: for weights of another model.
    """
    tensors = open_weights(path, variant)
    config = MDTConfig(**mdt_options(tensors, decoder_depth, size=size, prefix=prefix))
    like = abstract_params(config, config.input_size)
    return LoadedNetwork(
        config, mdt_params(tensors, like, config.patch, config.grid, dtype, prefix=prefix)
    )


def abstract_params(config: Any, size: tuple[int, ...], channels: int | None = None) -> Tree:
    """Shapes of a network's parameters; nothing is computed.

    Args:
      config: of a network of images, or of other data.
      size: height and width of images that it takes; () for vectors.
      channels: of the data; None: ``config.in_channels``.
    """
    channels = config.in_channels if channels is None else channels
    inputs = (jnp.zeros((1, *size, channels)), jnp.zeros((1,)))
    numbers = getattr(config, "labels", "classes") == "numbers"
    label = jnp.zeros((1,), jnp.float32 if numbers else jnp.int32)
    labels = (label,) if config.num_classes or numbers else ()
    init: Callable[..., Tree] = config.make_model().init
    key, texts = jax.random.key(0), text_example(config)
    return nn.meta.unbox(jax.eval_shape(init, key, *inputs, *labels, **texts)["params"])


def _write(
    folder: Path,
    fields: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray],
    max_bytes: int | None,
    variant: str | None,
) -> list[pathlib.Path]:
    return write_model_folder(folder, fields, tensors, max_bytes, variant)
