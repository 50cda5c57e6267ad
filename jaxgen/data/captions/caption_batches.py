"""Batches of pictures or clips with the ids of their captions, and text dropout.

A tokenizer is any callable ``texts -> (ids [N, L], mask [N, L])``, the mask true where a token is,
or one whose result has these as `ids` and `mask`.
With probability `text_dropout` a caption is replaced by the null caption (the empty text), which
classifier-free guidance compares with (Ho & Salimans 2022). Whether that happens depends, as
everything random here, on the seed and on the example's place in the global order alone: not on the
batch size, nor on the number of processes, nor on where a run was resumed.

Nothing is mirrored: "left of" would be wrong.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Int32, Integer, Shaped

from jaxgen.data.batch_plan import BatchPlan
from jaxgen.data.captions.captioned_set import CaptionedSet
from jaxgen.errors import InputError, check_share
from jaxgen.ids import as_ids, check_not_string
from jaxgen.pixels import to_unit

Tokenise = Callable[[Sequence[str]], Any]
"""Maps N texts to ids [N, L] and a mask [N, L]; L is the same for all calls."""

NULL_CAPTION = ""


@dataclass(frozen=True, eq=False)
class CaptionTokens:
    """The ids of all captions of a set, tokenised once, each distinct one once.

    Attributes:
      ids: int32 [K + 1, L], of the K distinct captions; the last row is the null caption's.
      mask: bool [K + 1, L], true where a token is.
      caption: int32 [N], the row of each example.
    """

    ids: Int32[np.ndarray, "K L"]
    mask: Bool[np.ndarray, "K L"]
    caption: Int32[np.ndarray, "N"]

    @property
    def null(self) -> int:
        """The row of the null caption."""
        return len(self.ids) - 1


def tokenise_captions(
    captions: Sequence[str], tokenizer: Tokenise, null: str = NULL_CAPTION
) -> CaptionTokens:
    """Tokenises the captions of a set.

    Args:
      captions: One for each example.
      tokenizer: Makes ids and mask of them, in one call.
      null: The null caption.

    Raises:
      InputError: What the tokenizer gives are not ids and a mask of one shape, a row for each text;
        or captions have no token, or those of the empty text alone, as if they were left out.
    """
    check_not_string(captions, "captions", "a list of texts")
    distinct = list(dict.fromkeys(captions))
    ids, mask = _tokenised(tokenizer, [*distinct, null])
    told_K = mask[:-1].any(axis=1)
    if null == NULL_CAPTION:
        told_K = told_K & ((ids[:-1] != ids[-1]) | (mask[:-1] != mask[-1])).any(axis=1)
    empty = [distinct[k] for k in np.flatnonzero(~told_K)]
    if empty:
        raise InputError(
            f"{len(empty)} captions without a token, first {empty[0]!r}, expected one or more each"
        )
    row_of = {caption: row for row, caption in enumerate(distinct)}
    rows = np.array([row_of[caption] for caption in captions], np.int32)
    return CaptionTokens(ids, mask, rows)


def _tokenised(
    tokenizer: Tokenise, texts: Sequence[str]
) -> tuple[Int32[np.ndarray, "K L"], Bool[np.ndarray, "K L"]]:
    found = tokenizer(texts)
    ids, mask = map(np.asarray, (found.ids, found.mask) if hasattr(found, "ids") else found)
    if ids.ndim != 2 or len(ids) != len(texts) or mask.shape != ids.shape:
        raise InputError(
            f"the tokenizer gives ids {list(ids.shape)} and a mask {list(mask.shape)} for"
            f" {len(texts)} texts, expected [{len(texts)}, L] both"
        )
    return as_ids(ids), mask.astype(bool)


def captioned_batch_at(
    images: CaptionedSet,
    tokens: CaptionTokens,
    plan: BatchPlan,
    step: int,
    *,
    text_dropout: float = 0.0,
    rows: Integer[np.ndarray, "rows"] | None = None,
) -> dict[str, np.ndarray]:
    """The batch that a training step sees, from the step's number alone.

    Args:
      images: The set.
      tokens: The ids of its captions (`tokenise_captions`).
      plan: Which positions of it a step sees; ``BatchPlan(*images.parts["train"], B)``.
      step: The step's number, 0 for the first one.
      text_dropout: Probability that a caption is replaced by the null caption.
      rows: The rows of the global batch to give, as `jaxgen.parallel.process_rows` says for this
        process. None gives all.

    Returns:
      ``"image"``: float32 [rows, Y, X, C] in [-1, 1], or ``"video"``: [rows, T, Y, X, C];
      ``"text_ids"``: int32 [rows, L] and ``"text_mask"``: bool [rows, L]; ``"caption"``: int32
      [rows], the number of the caption, equal for equal ones (no negatives of each other).

    Raises:
      InputError: `step` is negative, the plan reaches beyond the set, the tokens are those of
        another set, or the dropout is no probability.
    """
    check_share("text_dropout", text_dropout)
    if plan.stop > len(images) or len(tokens.caption) != len(images):
        raise InputError(
            f"{images.name}: positions {plan.start} to {plan.stop} and ids of"
            f" {len(tokens.caption)} captions, of {len(images)} images, expected as many"
        )
    positions = plan.positions(step)
    places = step * plan.batch_size + np.arange(len(positions))
    if rows is not None:
        positions, places = positions[rows], places[rows]
    dropped = [_drops(np.random.default_rng((plan.seed, int(p))), text_dropout) for p in places]
    caption = np.where(dropped, tokens.null, tokens.caption[positions]).astype(np.int32)
    return {
        images.pixel_key: to_unit(images.images[positions]),
        "text_ids": tokens.ids[caption],
        "text_mask": tokens.mask[caption],
        "caption": caption,
    }


def make_caption_transform(
    tokenizer: Tokenise,
    *,
    key: str = "caption",
    text_dropout: float = 0.0,
    null: str = NULL_CAPTION,
) -> Callable[[Mapping[str, Any], np.random.Generator], dict[str, Any]]:
    """What `jaxgen.data.pipeline.make_batches` applies to records with captions.

    For sets that are too large for memory, such as `jaxgen.data.VideoFolder`.

    Args:
      tokenizer: Makes ids and mask of a caption.
      key: Which entry of a record is the caption.
      text_dropout: Probability that a caption is replaced by the null caption; for the same seed,
        the same places have it as in `captioned_batch_at`.
      null: The null caption.

    Returns:
      A transform to examples with ``"text_ids"`` int32 [L] and ``"text_mask"`` bool [L] in place of
      texts, in which ``"image"`` or ``"video"`` is float32 in [-1, 1]; other entries are as they
      were.

    Raises:
      InputError: The dropout is no probability; a record has no caption.
    """
    check_share("text_dropout", text_dropout)

    def transform(record: Mapping[str, Any], generator: np.random.Generator) -> dict[str, Any]:
        if not isinstance(record.get(key), str):
            raise InputError(f"a record with {', '.join(record)}, expected a text {key!r}")
        caption = null if _drops(generator, text_dropout) else record[key]
        ids, mask = _tokenised(tokenizer, [caption])
        kept = {name: _as_unit(value) for name, value in record.items() if type(value) is not str}
        return {**kept, "text_ids": ids[0], "text_mask": mask[0]}

    return transform


def _as_unit(value: Any) -> Shaped[np.ndarray, "..."] | Any:
    return to_unit(value) if getattr(value, "dtype", None) == np.uint8 else value


def _drops(generator: np.random.Generator, text_dropout: float) -> bool:
    return bool(generator.random() < text_dropout)
