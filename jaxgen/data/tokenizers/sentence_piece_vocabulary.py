"""Vocabularies of the package sentencepiece: the file ``spiece.model`` of T5."""

import functools
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jaxgen.data.tokenizers.pieces import Pieces
from jaxgen.data.tokenizers.tokenizer_packages import import_sentencepiece
from jaxgen.errors import InputError

T5_EXTRA_IDS = 100
"""Sentinels that T5 counts down from the end of its vocabulary: ``<extra_id_0>`` is the last."""


@dataclass(frozen=True)
class SentencePieceVocabulary:
    """A vocabulary of the package sentencepiece.

    Attributes:
      model: The content of a ``spiece.model``.
      extra_ids: Sentinels after its pieces, which the file does not hold.
      source: What errors call it.
    """

    model: bytes = field(repr=False)
    extra_ids: int = 0
    source: str = "spiece.model"

    @property
    def size(self) -> int:
        """Pieces and sentinels."""
        return self._processor.get_piece_size() + self.extra_ids

    @property
    def named_ids(self) -> tuple[int | None, int | None, int | None]:
        """Ids of start, end and padding that the file names; None for those that it does not."""
        found = (self._processor.bos_id(), self._processor.eos_id(), self._processor.pad_id())
        start, end, pad = (i if i >= 0 else None for i in found)
        return start, end, pad

    @property
    def as_t5(self) -> bool:
        """Whether its special pieces are T5's: padding 0, end 1, unknown 2, no start."""
        return self.named_ids == (None, 1, 0) and self._processor.unk_id() == 2

    @functools.cached_property
    def special_tokens(self) -> Mapping[str, int]:
        """Start, end, padding, the unknown piece and sentinels by their spelling."""
        processor = self._processor
        own = {
            processor.id_to_piece(i): i
            for i in range(processor.get_piece_size())
            if processor.is_control(i) or processor.is_unknown(i)
        }
        return own | {f"<extra_id_{i}>": self.size - 1 - i for i in range(self.extra_ids)}

    def split(self, texts: Sequence[str], special: bool) -> list[Pieces]:
        """Pieces of texts (`Vocabularies.split`). The package itself finds no special pieces."""
        if special:
            return [self._split_at_special(text) for text in texts]
        found = self._processor.encode(list(texts), return_type="offset_mapping")
        return [Pieces(list(each["ids"]), list(each["offsets"])) for each in found]

    def join(self, ids: Sequence[int]) -> str:
        """The text of ids; sentinels are spelled out."""
        spellings = {i: token for token, i in self.special_tokens.items()}
        first_sentinel = self.size - self.extra_ids
        texts: list[str] = []
        for is_sentinel, run in itertools.groupby(ids, lambda token: token >= first_sentinel):
            if is_sentinel:
                texts += [spellings[token] for token in run]
            else:
                texts.append(self._processor.decode(list(run)))
        return " ".join(texts)

    def _split_at_special(self, text: str) -> Pieces:
        ids: list[int] = []
        spans: list[tuple[int, int]] = []
        place = 0
        pattern = "|".join(map(re.escape, sorted(self.special_tokens, key=len, reverse=True)))
        for part in re.split(f"({pattern})", text) if pattern else [text]:
            if part in self.special_tokens:
                found = Pieces([self.special_tokens[part]], [(0, len(part))])
            else:
                found = self.split([part], special=False)[0]
            ids += found.ids
            spans += [(place + first, place + stop) for first, stop in found.spans]
            place += len(part)
        return Pieces(ids, spans)

    @functools.cached_property
    def _processor(self) -> Any:
        if not self.model:
            raise InputError(f"{self.source}: the file is empty")
        try:
            return import_sentencepiece().SentencePieceProcessor(model_proto=self.model)
        except RuntimeError as error:
            raise InputError(f"{self.source}: damaged, expected a SentencePiece model") from error
