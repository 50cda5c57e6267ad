"""Encoders of texts and images from the folders of other programs, and back.

=============  ========================================================  ===========================
function       what it opens                                             network
=============  ========================================================  ===========================
`load_clip`    CLIP, or one of its towers: transformers' names,          `jaxgen.encoders.CLIP`
               OpenAI's and open_clip's
`load_coca`    CoCa: open_clip's names                                   `jaxgen.encoders.CoCa`
`load_t5`      T5 v1.1: ``T5EncoderModel``, or the whole T5              `jaxgen.encoders.T5Encoder`
=============  ========================================================  ===========================

Weights are safetensors, in the forms of `jaxgen.pretrained.networks`::

    config, params = load_clip("stable-diffusion-v1-5")        # its text_encoder/
    encode = make_encoder(config, params)                      # jaxgen.encoders
    states_BLD, mask_BL, pooled_BD = encode(ids_BL)
"""

import pathlib
from typing import Any

import jax
from flax import linen as nn

from jaxgen.encoders import CLIPConfig, CLIPImageConfig, CLIPTextConfig, CoCaConfig, T5Config
from jaxgen.encoders.coca_image import CoCaImageConfig
from jaxgen.encoders.coca_text import CoCaTextConfig
from jaxgen.encoders.encoded import encoder_init
from jaxgen.interop.clip_config import MODEL_TYPES as CLIP_TYPES
from jaxgen.interop.clip_config import (
    OPEN_CLIP_CONFIG,
    PREPROCESSOR,
    open_clip_fields,
    preprocessor_fields,
    transformers_fields,
)
from jaxgen.interop.clip_naming import CLIPNaming, clip_naming
from jaxgen.interop.clip_options import clip_options
from jaxgen.interop.clip_weights import clip_params, clip_tensors
from jaxgen.interop.coca_config import coca_fields, coca_options
from jaxgen.interop.coca_weights import coca_params, coca_tensors
from jaxgen.interop.model_configs import read_model_config
from jaxgen.interop.model_folders import TRANSFORMERS_WEIGHTS, write_model_folder
from jaxgen.interop.safetensors import Path
from jaxgen.interop.t5_weights import MODEL_TYPES as T5_TYPES
from jaxgen.interop.t5_weights import t5_fields, t5_options, t5_params, t5_tensors
from jaxgen.interop.weight_folders import open_network, stored_dtype
from jaxgen.pretrained.networks import LoadedNetwork
from jaxgen.typing import Tree

OPEN_CLIP_WEIGHTS = "open_clip_model.safetensors"

TEXT_FOLDERS = ["text_encoder"]
"""Sub-folders of a pipeline that hold a text encoder; another one is opened by its own path."""


def load_clip(
    path: Path,
    *,
    variant: str | None = None,
    dtype: str | None = "float32",
    activation: str | None = None,
) -> LoadedNetwork:
    """A CLIP (Radford et al. 2021), or one of its towers, from a folder or file of weights.

    Args:
      path: a folder, a pipeline with a sub-folder ``text_encoder/``, or a file. Under
        transformers' names ``config.json`` must lie beside the weights; a
        ``preprocessor_config.json`` or ``open_clip_config.json`` there is read.
      variant: which weights of the folder ("fp16"); None: those without a name.
      dtype: of the parameters; None: as they are stored.
      activation: "quick_gelu" or "gelu", for OpenAI's names without a configuration.

    Returns:
      The configuration and the parameters: a `CLIPConfig` for both towers, a `CLIPTextConfig` or
      `CLIPImageConfig` for one. ``config.text`` and ``params["text"]`` are a text tower, too.

    Raises:
      FileNotFoundError: for a path that does not exist.
      InputError: for weights or a configuration of another model, or where nothing tells the
        activation; the message names the file.
    """
    tensors = open_network(path, TEXT_FOLDERS, variant, model_types=CLIP_TYPES)
    folder = tensors.path.parent
    config = None
    if clip_naming(tensors) != "transformers":
        config = read_model_config(folder, OPEN_CLIP_CONFIG)
    pixels = read_model_config(folder, PREPROCESSOR)
    towers = clip_options(tensors, activation, config=config, pixels=pixels)
    kinds: dict[str, Any] = {"text": CLIPTextConfig, "image": CLIPImageConfig}
    configs = [kinds[part](**fields) for part, fields in towers.items()]
    network = CLIPConfig(*configs) if len(configs) == 2 else configs[0]
    like = abstract_encoder_params(network)
    return LoadedNetwork(network, clip_params(tensors, like, _patch(network), dtype))


def save_clip(
    folder: Path,
    config: CLIPConfig | CLIPTextConfig | CLIPImageConfig,
    params: Tree,
    *,
    naming: CLIPNaming = "transformers",
    dtype: str | None = None,
    variant: str | None = None,
    max_bytes: int | None = None,
) -> list[pathlib.Path]:
    """Writes a folder that `load_clip` opens, and the program whose names it has.

    Args:
      folder: made if it does not exist.
      config: the network, or one of its towers (for transformers' names).
      params: its parameters.
      naming: "transformers", "openai" (open_clip's models without ``custom_text`` too), or
        "open_clip".
      dtype: of the tensors; None: that of the variant "fp16" or "bf16", else of the parameters.
      variant: what the file's name says, "fp16" say.
      max_bytes: above which weights are cut into shards; None: one file.

    Returns:
      The files written.

    Raises:
      InputError: for a network that the other program has not, naming the field.
    """
    tensors = clip_tensors(params, naming, _patch(config), stored_dtype(dtype, variant))
    if naming != "transformers":
        fields = open_clip_fields(config, custom_text=naming == "open_clip")
        return write_model_folder(
            folder,
            fields,
            tensors,
            max_bytes,
            variant,
            weights=OPEN_CLIP_WEIGHTS,
            config=OPEN_CLIP_CONFIG,
        )
    towers = _towers(config)
    beside = {PREPROCESSOR: preprocessor_fields(towers["image"])} if "image" in towers else {}
    return write_model_folder(
        folder,
        transformers_fields(towers),
        tensors,
        max_bytes,
        variant,
        weights=TRANSFORMERS_WEIGHTS,
        beside=beside,
    )


def load_coca(
    path: Path, *, variant: str | None = None, dtype: str | None = "float32"
) -> LoadedNetwork:
    """A CoCa (Yu et al. 2022) from a folder of open_clip.

    Args:
      path: the folder, with ``open_clip_config.json`` beside the weights.
      variant: as for `load_clip`.
      dtype: of the parameters; None: as they are stored.

    Returns:
      The configuration (a `CoCaConfig`) and the parameters.

    Raises:
      FileNotFoundError: for a path that does not exist.
      InputError: for weights or a configuration of another model; the message names the file.
    """
    tensors = open_network(path, [], variant)
    fields = coca_options(tensors, read_model_config(tensors.path.parent, OPEN_CLIP_CONFIG))
    config = CoCaConfig(CoCaTextConfig(**fields["text"]), CoCaImageConfig(**fields["image"]))
    like = abstract_encoder_params(config)
    return LoadedNetwork(config, coca_params(tensors, like, config.image.patch, dtype))


def save_coca(
    folder: Path,
    config: CoCaConfig,
    params: Tree,
    *,
    dtype: str | None = None,
    variant: str | None = None,
    max_bytes: int | None = None,
) -> list[pathlib.Path]:
    """Writes a folder that `load_coca` and open_clip open.

    Arguments and result as for `save_clip`.
    """
    fields = coca_fields(config)
    tensors = coca_tensors(params, config.image.patch, stored_dtype(dtype, variant))
    return write_model_folder(
        folder,
        fields,
        tensors,
        max_bytes,
        variant,
        weights=OPEN_CLIP_WEIGHTS,
        config=OPEN_CLIP_CONFIG,
    )


def load_t5(
    path: Path, *, variant: str | None = None, dtype: str | None = "float32"
) -> LoadedNetwork:
    """The encoder of T5 v1.1 (Raffel et al. 2020) from a folder of transformers.

    Args:
      path: the folder, or a pipeline with a sub-folder ``text_encoder/``.
      variant: as for `load_clip`.
      dtype: of the parameters; None: as they are stored.

    Returns:
      The configuration (a `T5Config`) and the parameters.

    Raises:
      FileNotFoundError: for a path that does not exist.
      InputError: for weights or a configuration of another model; the message names the file.
    """
    tensors = open_network(path, TEXT_FOLDERS, variant, model_types=T5_TYPES)
    config = T5Config(**t5_options(tensors))
    return LoadedNetwork(config, t5_params(tensors, abstract_encoder_params(config), dtype))


def save_t5(
    folder: Path,
    config: T5Config,
    params: Tree,
    *,
    dtype: str | None = None,
    variant: str | None = None,
    max_bytes: int | None = None,
) -> list[pathlib.Path]:
    """Writes a folder that `load_t5` and ``T5EncoderModel.from_pretrained`` open.

    Arguments and result as for `save_clip`.
    """
    tensors = t5_tensors(params, stored_dtype(dtype, variant))
    return write_model_folder(
        folder,
        t5_fields(config),
        tensors,
        max_bytes,
        variant,
        weights=TRANSFORMERS_WEIGHTS,
    )


def abstract_encoder_params(config: Any) -> Tree:
    """Shapes of an encoder's parameters; nothing is computed.

    Args:
      config: a configuration of `jaxgen.encoders`.
    """
    return nn.meta.unbox(jax.eval_shape(encoder_init(config), jax.random.key(0)))


def _towers(config: CLIPConfig | CLIPTextConfig | CLIPImageConfig) -> dict[str, Any]:
    """The configurations of towers by what they take."""
    if isinstance(config, CLIPConfig):
        return {"text": config.text, "image": config.image}
    return {"text" if isinstance(config, CLIPTextConfig) else "image": config}


def _patch(config: Any) -> int | None:
    """P of the image tower, if there is one."""
    return getattr(getattr(config, "image", config), "patch", None)
