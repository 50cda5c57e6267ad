"""The CLIP score of samples, by both towers of a run of ``experiments.text_to_image.clip``."""

import pathlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Array, Float

from jaxgen.data import from_unit, to_unit
from jaxgen.data.tokenizers import Tokenizer, open_tokenizer
from jaxgen.encoders import CLIPConfig, CLIPImageConfig, CLIPTextConfig, to_unit_length
from jaxgen.errors import InputError
from jaxgen.evaluation import clip_score
from jaxgen.evaluation.features import apply_to_rows
from jaxgen.training import load_model
from jaxgen.typing import Tree

AT_A_TIME = 256


@dataclass(frozen=True)
class ClipScorer:
    """Compares pictures with texts.

    Attributes:
      config: both towers.
      params: their parameters.
      tokenizer: of the texts.
    """

    config: CLIPConfig
    params: Tree
    tokenizer: Tokenizer

    def score(self, images: Float[np.ndarray, "N Y X C"], texts: Sequence[str]) -> float:
        """The mean similarity of pictures in about [-1, 1] and their texts."""
        shown = to_unit(from_unit(images))
        image_ND = vectors_of(self.config.image, self.params["image"], shown)
        return clip_score(image_ND, self.text_vectors(texts))

    def text_vectors(self, texts: Sequence[str]) -> Float[np.ndarray, "N D"]:
        """Unit vectors of texts."""
        found = self.tokenizer.encode(texts)
        return vectors_of(self.config.text, self.params["text"], found.ids, found.mask)


def open_clip_scorer(path: str | None, shape: tuple[int, ...]) -> ClipScorer | None:
    """The scorer of a run's folder; None without one.

    Arguments and errors as those of `open_clip_run`.
    """
    return None if path is None else ClipScorer(*open_clip_run(path, shape))


def open_clip_run(
    path: str, shape: tuple[int, ...], *, noisy: bool = False
) -> tuple[CLIPConfig, Tree, Tokenizer]:
    """Both towers of a run, their parameters, and the tokenizer of the texts.

    Args:
      path: the working folder of ``experiments.text_to_image.clip``.
      shape: Y, X and C of the pictures.
      noisy: whether pictures are noisy ones.

    Raises:
      InputError: another model, or one for pictures of another size or kind.
    """
    folder = pathlib.Path(path)
    model = load_model(folder / "checkpoints")
    if not isinstance(model.config, CLIPConfig):
        raise InputError(f"{path}: {type(model.config).__name__}, expected a run of CLIP")
    if model.config.image.size != shape[0]:
        raise InputError(
            f"{path}: for images of {model.config.image.size} pixels, expected {shape[0]}"
        )
    if model.config.image.noisy != noisy:
        raise InputError(f"{path}: noisy is {model.config.image.noisy}, expected {noisy}")
    return model.config, model.params, open_tokenizer(folder / "tokenizer")


def vectors_of(
    config: CLIPImageConfig | CLIPTextConfig, params: Tree, *inputs: np.ndarray
) -> Float[np.ndarray, "N D"]:
    """Unit vectors of pictures or texts, by a trained tower."""
    model = config.make_model()

    def forward(params: Tree, inputs: tuple[Array, ...]) -> Array:
        return to_unit_length(model.apply({"params": params}, *inputs).pooled_BD)

    return apply_to_rows(forward, params, inputs, AT_A_TIME)
