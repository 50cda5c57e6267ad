"""Captioners of pictures and clips: their size, their training, and what they write."""

import pathlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import numpy as np

from experiments.shared.training_runs import TrainedModel, train_model
from experiments.shared.unet_sizes import heads_of
from experiments.text_to_image.support.captioned_data import loss_of_validation
from experiments.text_to_image.support.text_pairs import (
    PairTrainingFlags,
    loss_on,
    to_batch,
)
from jaxgen.data import BatchPlan, CaptionedSet, captioned_batch_at
from jaxgen.data.captions.caption_batches import CaptionTokens
from jaxgen.data.tokenizers import Tokenizer
from jaxgen.encoders import CoCaConfig, CoCaImageConfig, CoCaTextConfig, coca_loss
from jaxgen.encoders.captioner import write_captions_of
from jaxgen.errors import InputError, check_not_negative, check_positive
from jaxgen.evaluation.features import apply_to_rows
from jaxgen.nn.decoding import Decoding
from jaxgen.nn.written_texts import Decoded, Marks
from jaxgen.training.saved_names import register_config
from jaxgen.typing import Tree

ROWS = 8
"""The table of words has a multiple of so many rows, so that a mesh can share them."""

SEEDS_OF_TEXTS = 7
"""Folded into the seed for keys of texts that are drawn."""


@register_config("text_to_image.captioner_network")
@dataclass(frozen=True, kw_only=True)
class CaptionerFlags:
    """A captioner.

    Attributes:
      width: of a token.
      depth: blocks of the image side, and of both halves of the text decoder together.
      patch: pixels along the side of a patch.
      queries: tokens that captions see of a picture.
      dtype: the compute dtype of products.
    """

    width: int = 64
    depth: int = 4
    patch: int = 8
    queries: int = 8
    dtype: Literal["float32", "bfloat16"] = "float32"

    def config(self, pictures: CaptionedSet, tokenizer: Tokenizer) -> CoCaConfig:
        """The network for a set and its vocabulary.

        Raises:
          InputError: for pictures that are not square, and sizes that do not fit each other.
        """
        *_, height, width, channels = pictures.images.shape
        if height != width:
            raise InputError(f"{pictures.name}: images of {height}x{width}, expected squares")
        if self.depth < 2:
            raise InputError(f"depth is {self.depth}, expected 2 or more, for both halves")
        heads = heads_of(self.width)
        both: dict[str, Any] = {
            "width": self.width,
            "heads": heads,
            "mlp_units": 4 * self.width,
            "projection": self.width,
            "dtype": self.dtype,
        }
        half = (0.5,) * channels
        return CoCaConfig(
            CoCaTextConfig(
                **both,
                depth=self.depth - self.depth // 2,
                image_depth=self.depth // 2,
                vocabulary=table_rows(tokenizer),
                length=text_length(tokenizer),
            ),
            CoCaImageConfig(
                **both,
                depth=self.depth,
                size=height,
                patch=self.patch,
                mean=half,
                deviation=half,
                queries=self.queries,
                pooler_heads=heads,
                frames=pictures.frames,
            ),
        )


@register_config("text_to_image.captioner_training")
@dataclass(frozen=True, kw_only=True)
class CaptionerTrainingFlags(PairTrainingFlags):
    """As `PairTrainingFlags`.

    Attributes:
      training_steps: updates.
      batch_size: pairs of an update; each is compared with all others.
      learning_rate: the highest one.
      contrastive_weight: of the contrastive loss; 0: a plain captioner.
      caption_weight: of the loss of next words.
    """

    training_steps: int = 1600
    batch_size: int = 64
    learning_rate: float = 1.5e-3
    contrastive_weight: float = 1.0
    caption_weight: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_not_negative("contrastive_weight", self.contrastive_weight)
        check_positive("caption_weight", self.caption_weight)


def table_rows(tokenizer: Tokenizer) -> int:
    """Rows of a table of words."""
    return -(-tokenizer.size // ROWS) * ROWS


def text_length(tokenizer: Tokenizer) -> int:
    """Tokens of the longest text."""
    assert tokenizer.length is not None
    return tokenizer.length


def text_marks(tokenizer: Tokenizer) -> tuple[int, Marks]:
    """The token that texts begin with, and what they end with."""
    assert tokenizer.start is not None
    assert tokenizer.end is not None
    return tokenizer.start, Marks(tokenizer.end, tokenizer.pad)


def train_captioner(
    config: CoCaConfig,
    pictures: CaptionedSet,
    tokens: CaptionTokens,
    plan: BatchPlan,
    folder: pathlib.Path,
    flags: CaptionerTrainingFlags,
    *,
    seed: int,
    tensorboard: bool,
) -> TrainedModel:
    """Trains a captioner, or resumes.

    Args:
      config: its network.
      pictures: pictures or clips.
      tokens: of their captions.
      plan: which of them each update sees.
      folder: its own.
      flags: how to train it.
      seed: of all randomness.
      tensorboard: whether to write event files too.
    """

    loss_fn = coca_loss(config, flags.contrastive_weight, flags.caption_weight)

    def data(step: int, rows: np.ndarray) -> Any:
        return to_batch(captioned_batch_at(pictures, tokens, plan, step, rows=rows))

    return train_model(
        config,
        data,
        folder,
        flags,
        lambda layout: loss_on(layout, loss_fn),
        batch_size=flags.batch_size,
        make_evaluation=lambda loss_fn: loss_of_validation(
            loss_fn, pictures, tokens, flags.batch_size, to_batch
        ),
        seed=seed,
        tensorboard=tensorboard,
    )


def caption_writer(
    config: CoCaConfig,
    params: Tree,
    tokenizer: Tokenizer,
    how: Decoding,
    *,
    at_a_time: int,
    seed: int = 0,
) -> Callable[..., list[str]]:
    """``(images [N, ...], first=0) -> N captions``, uint8 pictures or clips.

    Args:
      config: of the captioner.
      params: its parameters.
      tokenizer: of its words.
      how: the method.
      at_a_time: pictures of one call; the same program for any number of them.
      seed: of texts that are drawn, each by the number of its picture; ``first`` is that of the
        first of the call.
    """
    start, marks = text_marks(tokenizer)
    length = text_length(tokenizer)

    def forward(params: Tree, inputs: tuple[jax.Array, jax.Array]) -> Decoded:
        images, number_B = inputs
        key = jax.random.key(seed + SEEDS_OF_TEXTS)
        key_B = jax.vmap(jax.random.fold_in, (None, 0))(key, number_B)
        return write_captions_of(params, images, key_B, config, marks, start, length, how)

    def write(images: np.ndarray, first: int = 0) -> list[str]:
        inputs = images, first + np.arange(len(images))
        return texts_of(apply_to_rows(forward, params, inputs, at_a_time).ids_BL, tokenizer)

    return write


def texts_of(ids_NL: np.ndarray, tokenizer: Tokenizer) -> list[str]:
    """Texts of ids; rows of the table that are no words, as they round it up, end a text."""
    return tokenizer.decode(np.where(ids_NL < tokenizer.size, ids_NL, tokenizer.end))


def exact_share(found: Sequence[str], right: Sequence[str]) -> float:
    """How often texts are the right ones, word for word."""
    return float(np.mean([a == b for a, b in zip(found, right, strict=True)]))
