"""Pipelines with two text encoders: Stable Diffusion XL (Podell et al. 2024).

With h1, h2 the states of both encoders before their last block, p the projected vector of the
second, and w waves of six numbers, height and width of the image that the text is of, its first row
and column in a larger one, height and width that are wanted::

    c = [h1, h2] along the width,   vector = [p, w(Y), w(X), w(0), w(0), w(Y), w(X)]

The null text, where nothing is led away from, is zeros in h1, h2 and p.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxgen.data.tokenizers import Tokenizer
from jaxgen.diffusion.model import Conditions
from jaxgen.interop.text_unet_config import SIZE_WAVES
from jaxgen.nn.embeddings import time_frequencies
from jaxgen.pretrained.networks import LoadedNetwork
from jaxgen.pretrained.pipeline_checks import check_encoder
from jaxgen.pretrained.pipelines import TextToImagePipeline
from jaxgen.pretrained.prompt_states import encode_texts

SIZE_NUMBERS = 6


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class TwoEncoderPipeline(TextToImagePipeline):
    """A `TextToImagePipeline` whose network reads two encoders, a vector and sizes.

    Attributes:
      second_tokenizer: of the second encoder.
      second_encoder: a `jaxgen.encoders.CLIPTextConfig` with a projection, and its parameters. The
        states of both are the "penultimate".
      zero_null: whether an empty negative prompt is zeros; else it is encoded.

    Raises:
      InputError: for parts that do not belong together, naming both.
    """

    second_tokenizer: Tokenizer
    second_encoder: LoadedNetwork
    zero_null: bool = True

    def __post_init__(self) -> None:
        check_encoder(self.second_tokenizer, self.second_encoder.config)
        super().__post_init__()

    @property
    def text_widths(self) -> tuple[int, int]:
        """Width of the states and of the vector that the network reads."""
        second = self.second_encoder.config
        vector = second.projection or second.width
        return self.encoder.config.width + second.width, vector + SIZE_NUMBERS * SIZE_WAVES

    def encode(
        self,
        texts: Sequence[str],
        *,
        weighted: bool = False,
        windows: int = 1,
        truncate: bool = False,
    ) -> Float[Array, "B N C"]:
        """States of texts, those of both encoders along the width; see `TextToImagePipeline`."""
        options = {"weighted": weighted, "windows": windows, "truncate": truncate}
        return self._encode(texts, options)[0]

    def conditions(
        self,
        texts: Sequence[str],
        *,
        size: tuple[int, int],
        negative: bool = False,
        **options: Any,
    ) -> Conditions:
        """States and vector of texts; see `TextToImagePipeline`."""
        states_BNC, vector_BC = self._encode(texts, options)
        if negative and self.zero_null:
            said_B = jnp.asarray(np.array([text != "" for text in texts]))
            states_BNC = jnp.where(said_B[:, None, None], states_BNC, 0)
            vector_BC = jnp.where(said_B[:, None], vector_BC, 0)
        numbers = jnp.array([*size, 0, 0, *size], jnp.float32)
        waves = time_frequencies(numbers, SIZE_WAVES).reshape(-1)
        waves_BC = jnp.broadcast_to(waves, (len(texts), waves.size))
        return {
            "text_BNC": states_BNC,
            "pooled_BC": jnp.concatenate([vector_BC, waves_BC], axis=-1),
        }

    def _encode(
        self, texts: Sequence[str], options: dict[str, Any]
    ) -> tuple[Float[Array, "B N C"], Float[Array, "B C2"]]:
        first, _ = encode_texts(self.tokenizer, self.encoder, texts, **options)
        second, vector = encode_texts(self.second_tokenizer, self.second_encoder, texts, **options)
        return jnp.concatenate([first, second], axis=-1), vector
