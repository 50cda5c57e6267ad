"""Which of some captions a picture shows, by a text-to-image model's errors (Li et al. 2023)."""

from collections.abc import Sequence

import jax
import numpy as np

from experiments.shared.training_runs import OpenedModel
from experiments.text_to_image.support.captioned_data import evenly_spread
from experiments.text_to_image.support.text_samples import as_texts
from jaxgen.data import CaptionedSet, to_unit
from jaxgen.data.captions.captioned_set import CaptionKind
from jaxgen.data.tokenizers import Tokenizer
from jaxgen.diffusion.conditioning.diffusion_classifier import classify, even_times
from jaxgen.evaluation.features import apply_to_rows
from jaxgen.typing import Tree

CANDIDATES, PICTURES, LEVELS, AT_A_TIME = 8, 64, 16, 16


def caption_accuracy_by_errors(
    model: OpenedModel, tokenizer: Tokenizer, pictures: CaptionedSet, kind: CaptionKind
) -> dict[str, float]:
    """The share of test pictures whose own caption is found among `CANDIDATES`, evenly chosen.

    Args:
      model: the text-to-image model.
      tokenizer: of its texts.
      pictures: the set; its test part is looked at.
      kind: which captions.

    Returns:
      One figure; none where there are fewer captions.
    """
    test = pictures.part("test")
    captions = test.distinct(kind)
    if len(captions) < CANDIDATES:
        return {}
    chosen = evenly_spread(len(captions), CANDIDATES)
    candidates = [captions[i] for i in chosen]
    number = {caption: i for i, caption in enumerate(candidates)}
    own = test.captions(kind)
    rows = [i for i, caption in enumerate(own) if caption in number][:PICTURES]
    found_N = numbers_of(model, tokenizer, to_unit(test.images[rows]), candidates)
    right = found_N == np.array([number[own[i]] for i in rows])
    return {f"caption found by errors, of {CANDIDATES}": float(right.mean())}


def numbers_of(
    model: OpenedModel, tokenizer: Tokenizer, images: np.ndarray, candidates: Sequence[str]
) -> np.ndarray:
    """The number of the caption under which the noise in each image is predicted best, [N].

    Args:
      model: the text-to-image model.
      tokenizer: of its texts.
      images: in [-1, 1], [N, Y, X, C].
      candidates: the captions.
    """
    config, texts = model.config, as_texts(tokenizer, candidates)
    levels = even_times(config.schedule, LEVELS)

    def forward(params: Tree, given: tuple[jax.Array, jax.Array]) -> jax.Array:
        image, index = given
        denoiser = config.make_caption_denoiser(params, texts)
        key = jax.random.key(0)
        return classify(denoiser, image, len(candidates), levels, key, index_B=index).label_B

    index = np.arange(len(images), dtype=np.int32)
    return apply_to_rows(forward, model.params, (images, index), AT_A_TIME)
