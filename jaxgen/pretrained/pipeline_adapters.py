"""Low-rank adapters of other programs' files, added to the networks of a pipeline."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.errors import InputError
from jaxgen.interop.clip_weights import clip_params, clip_tensors
from jaxgen.interop.low_rank_weights import (
    NETWORK_PART,
    SECOND_TEXT_PART,
    TEXT_PART,
    adapter_settings,
    low_rank_pairs,
)
from jaxgen.interop.safetensors import Path, TensorFile
from jaxgen.interop.unet_weights import unet_params, unet_tensors
from jaxgen.pretrained.networks import LoadedNetwork
from jaxgen.pretrained.pipelines import TextToImagePipeline
from jaxgen.pretrained.two_encoder_pipelines import TwoEncoderPipeline

FIELDS = {NETWORK_PART: "network", TEXT_PART: "encoder", SECOND_TEXT_PART: "second_encoder"}


def load_adapters(
    pipeline: TextToImagePipeline, path: Path, *, scale: float = 1.0
) -> TextToImagePipeline:
    """A pipeline with the low-rank adapters of a file merged into network and text encoders.

    Several files are loaded one after the other; the negative scale takes one out again, up to
    rounding.

    Args:
      pipeline: the pipeline, which stays as it is.
      path: a file or folder of safetensors, in a naming of `jaxgen.interop.low_rank_weights`.
      scale: s, what the products are multiplied by.

    Raises:
      FileNotFoundError: for a path that does not exist.
      InputError: for a file whose tensors are not of this model, which lists the first of them.
    """
    file = TensorFile(path)
    tensors = {
        NETWORK_PART: unet_tensors(pipeline.network.params),
        TEXT_PART: clip_tensors(pipeline.encoder.params, "transformers"),
    }
    if isinstance(pipeline, TwoEncoderPipeline):
        second = pipeline.second_encoder.params
        tensors[SECOND_TEXT_PART] = clip_tensors(second, "transformers")
    changed: dict[str, Any] = {}
    names = {part: tuple(own) for part, own in tensors.items()}
    for part, pairs in low_rank_pairs(file, names, None, adapter_settings(file)).items():
        if not pairs:
            continue
        for name, pair in pairs.items():
            weight = tensors[part][name]
            try:
                added = weight.astype(np.float32) + np.float32(scale) * pair.product(weight.shape)
            except InputError as error:
                raise InputError(f"{file.path}: {part}.{name}: {error}") from None
            tensors[part][name] = added.astype(weight.dtype)
        config, params = getattr(pipeline, FIELDS[part])
        read: Any = unet_params if part == NETWORK_PART else clip_params
        merged = read(tensors[part], params, dtype=None, name=str(file.path))
        changed[FIELDS[part]] = LoadedNetwork(config, jax.tree.map(jnp.asarray, merged))
    return dataclasses.replace(pipeline, **changed)
