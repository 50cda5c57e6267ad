"""Priors of unCLIP from the folders of diffusers, and back.

::

    config, params = load_prior("karlo-v1-alpha")              # its prior/
    x_BC = config.make_model().apply({"params": params}, z, time, text_BNC=states, pooled_BC=text)
    vectors_BC = image_vectors(params, z)                      # of the process, as CLIP has them
"""

import pathlib

import numpy as np
from jaxtyping import Array, Float

from jaxgen.encoders.image_prior import ImagePriorConfig
from jaxgen.interop.model_folders import write_model_folder
from jaxgen.interop.prior_weights import (
    PRIOR_TRANSFORMER,
    prior_fields,
    prior_options,
    prior_params,
    prior_tensors,
)
from jaxgen.interop.safetensors import Path
from jaxgen.interop.weight_folders import open_network, stored_dtype
from jaxgen.pretrained.networks import LoadedNetwork, abstract_params
from jaxgen.typing import Tree


def load_prior(
    path: Path, *, variant: str | None = None, dtype: str | None = "float32"
) -> LoadedNetwork:
    """The diffusion prior of a folder of diffusers, a ``PriorTransformer``.

    Args:
      path: the folder, or a pipeline with a sub-folder ``prior/``.
      variant: which weights of the folder ("fp16"); None: those without a name.
      dtype: of the parameters; None: as they are stored.

    Returns:
      The configuration (a `jaxgen.encoders.ImagePriorConfig`) and the parameters, beside which
      ``params["statistics"]`` says what image vectors the process is of (`image_vectors`).

    Raises:
      FileNotFoundError: for a path that does not exist.
      InputError: for weights or a configuration of another model; the message names the file.
    """
    tensors = open_network(path, ["prior"], variant, classes=[PRIOR_TRANSFORMER])
    config = ImagePriorConfig(**prior_options(tensors))
    like = with_vector_statistics(config, abstract_params(config, (), config.pooled_width))
    return LoadedNetwork(config, prior_params(tensors, like, dtype))


def save_prior(
    folder: Path,
    config: ImagePriorConfig,
    params: Tree,
    *,
    dtype: str | None = None,
    variant: str | None = None,
    max_bytes: int | None = None,
) -> list[pathlib.Path]:
    """Writes a folder that `load_prior` and ``PriorTransformer.from_pretrained`` open.

    Args:
      folder: made if it does not exist.
      config: the network.
      params: its parameters; without ``"statistics"`` they are those of `with_vector_statistics`.
      dtype: of the tensors; None: that of the variant "fp16" or "bf16", else of the parameters.
      variant: what the file's name says, "fp16" say.
      max_bytes: above which weights are cut into shards; None: one file.

    Returns:
      The files written.

    Raises:
      InputError: for a network that diffusers has not, naming the field.
    """
    fields = prior_fields(config)
    if "statistics" not in params:
        params = with_vector_statistics(config, params)
    tensors = prior_tensors(params, stored_dtype(dtype, variant))
    return write_model_folder(folder, fields, tensors, max_bytes, variant)


def with_vector_statistics(config: ImagePriorConfig, params: Tree) -> Tree:
    """Parameters with the statistics of a prior of vectors of length sqrt(C), as those here are:
    the image vector is of length one, so the mean is 0 and the deviation 1 / sqrt(C).
    """
    width = config.pooled_width
    mean, deviation = np.zeros(width, np.float32), np.full(width, width**-0.5, np.float32)
    return {**params, "statistics": {"mean": mean, "deviation": deviation}}


def image_vectors(params: Tree, z_BC: Float[Array, "B C"]) -> Float[Array, "B C"]:
    """The image vectors of those of the process.

    Args:
      params: of `load_prior`.
      z_BC: samples of the denoiser.
    """
    statistics = params["statistics"]
    return z_BC * statistics["deviation"] + statistics["mean"]
