"""Captioned pictures as the programs on texts and images use them: words, batches, digests."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Int

from experiments.shared.digests import digest_of
from experiments.shared.training_runs import loss_of_batch
from jaxgen.data import BatchPlan, CaptionedSet, captioned_batch_at
from jaxgen.data.captions.caption_batches import CaptionTokens
from jaxgen.data.captions.class_captions import CLASS, class_prompts
from jaxgen.data.tokenizers import Tokenizer, train_tokenizer
from jaxgen.errors import InputError
from jaxgen.parallel import check_batch_size, current_mesh
from jaxgen.training import TrainState
from jaxgen.training.step import LossFn
from jaxgen.typing import Batch

MOST_WORDS = 4096


def plan_batches(pictures: CaptionedSet, batch_size: int, seed: int) -> BatchPlan:
    """Which pictures each update sees.

    Raises:
      InputError: for clips, or as `plan_examples`.
    """
    if pictures.frames is not None:
        raise InputError(f"{pictures.name}: clips of {pictures.frames} frames, expected pictures")
    return plan_examples(pictures, batch_size, seed)


def plan_examples(pictures: CaptionedSet, batch_size: int, seed: int) -> BatchPlan:
    """Which pictures or clips each update sees.

    Raises:
      InputError: for a set without the parts "train" and "test", or a batch that is too large or
        that the devices cannot share.
    """
    for part in ("train", "test"):
        pictures.part(part)
    check_batch_size(batch_size, current_mesh())
    return BatchPlan(*pictures.parts["train"], batch_size, seed=seed, name=pictures.name)


def evenly_spread(count: int, most: int) -> Int[np.ndarray, "K"]:
    """Positions of at most so many of a number of examples, the first and the last among them."""
    return np.linspace(0, count - 1, min(most, count)).astype(int)


def make_tokenizer(texts: Sequence[str]) -> Tokenizer:
    """A token for each word of some texts; as long as the longest of them."""
    tokenizer = train_tokenizer(texts, MOST_WORDS)
    return dataclasses.replace(tokenizer, length=tokenizer.encode(texts).ids.shape[1])


def told_by(tokenizer: Tokenizer, texts: Sequence[str]) -> list[str]:
    """Texts as a tokenizer gives them back; one of words writes them in lower case."""
    return tokenizer.decode(tokenizer.encode(texts).ids)


def prompts_of(pictures: CaptionedSet) -> Sequence[str]:
    """The texts of zero-shot classification, where pictures have classes."""
    if pictures.attributes is None or CLASS not in pictures.attributes.values:
        return ()
    rows = class_prompts(pictures.attributes.values[CLASS])
    return [text for row in rows for text in row]


def pictures_digest(pictures: CaptionedSet) -> str:
    """A digest of pictures, captions and parts."""
    return digest_of(pictures.images, pictures.short, pictures.descriptive, pictures.parts)


def loss_of_validation(
    loss_fn: LossFn,
    pictures: CaptionedSet,
    tokens: CaptionTokens,
    batch_size: int,
    named: Callable[[Batch], Batch] = dict,
) -> Callable[[TrainState], dict[str, float]] | None:
    """The loss of the averaged parameters on a batch of the validation part, if there is one.

    Args:
      loss_fn: the loss.
      pictures: the set.
      tokens: of its captions.
      batch_size: of the batch.
      named: gives the parts of a batch the names that the loss has for them.
    """
    first, last = pictures.parts.get("validation", (0, 0))
    if last - first < batch_size:
        return None
    part = BatchPlan(first, last, batch_size, seed=0, name=pictures.name)
    return loss_of_batch(loss_fn, named(captioned_batch_at(pictures, tokens, part, 0)))
