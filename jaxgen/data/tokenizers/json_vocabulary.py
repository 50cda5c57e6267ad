"""Vocabularies of the package tokenizers, in the format of ``tokenizer.json``."""

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jaxgen.data.tokenizers.pieces import Pieces
from jaxgen.data.tokenizers.tokenizer_packages import import_tokenizers
from jaxgen.errors import InputError

END_OF_WORD = "</w>"
"""What the last piece of a word ends with in CLIP's vocabulary."""

Definition = Mapping[str, Any]
"""The content of a tokenizer.json."""


@dataclass(frozen=True)
class JsonVocabulary:
    """A vocabulary of the package tokenizers: BPE, unigram, whole words, WordPiece.

    Attributes:
      text: The content of a tokenizer.json. Its truncation, padding and what it puts around a text
        are left to `Tokenizer`.
      normalise: Whether texts go through its normaliser; not where they are cleaned before.
      source: What errors call it.
    """

    text: str = field(repr=False)
    normalise: bool = True
    source: str = "tokenizer.json"

    @functools.cached_property
    def definition(self) -> Definition:
        """The content as Python objects.

        Raises:
          InputError: It is no JSON object that has a model.
        """
        try:
            found = json.loads(self.text)
        except ValueError as error:
            raise InputError(f"{self.source}: damaged, expected JSON ({error})") from error
        if not isinstance(found, dict) or not isinstance(found.get("model"), dict):
            raise InputError(f"{self.source}: no field model, expected that of a tokenizer.json")
        return found

    @functools.cached_property
    def special_tokens(self) -> Mapping[str, int]:
        """Tokens that are marked as special, by their spelling."""
        added = self.definition.get("added_tokens") or []
        return {token["content"]: token["id"] for token in added if token.get("special")}

    @functools.cached_property
    def size(self) -> int:
        """One more than the largest id."""
        return max(self.ids.values(), default=-1) + 1

    @functools.cached_property
    def ids(self) -> Mapping[str, int]:
        """All tokens by their spelling, added ones among them.

        Raises:
          InputError: The model names none.
        """
        vocabulary = self.definition["model"].get("vocab")
        if isinstance(vocabulary, list):
            vocabulary = {token: i for i, (token, _) in enumerate(vocabulary)}
        if not isinstance(vocabulary, dict) or not all(
            isinstance(i, int) for i in vocabulary.values()
        ):
            raise InputError(f"{self.source}: the model has no vocab, expected tokens and ids")
        added = self.definition.get("added_tokens") or []
        return vocabulary | {token["content"]: token["id"] for token in added}

    @property
    def ends_words(self) -> bool:
        """Whether pieces say where words end, as in CLIP's vocabulary."""
        return bool(self.definition["model"].get("end_of_word_suffix") == END_OF_WORD)

    def split(self, texts: Sequence[str], special: bool) -> list[Pieces]:
        """Pieces of texts (`Vocabularies.split`)."""
        backend = self._whole if special else self._of_text
        found = backend.encode_batch(list(texts), add_special_tokens=False)
        return [Pieces(encoding.ids, encoding.offsets) for encoding in found]

    def join(self, ids: Sequence[int]) -> str:
        """The text of ids; where pieces say where words end, a blank stands between words."""
        joined = self._whole.decode(list(ids), skip_special_tokens=False)
        return joined.replace(END_OF_WORD, " ").strip() if self.ends_words else joined

    @functools.cached_property
    def _whole(self) -> Any:
        return self._build(self.definition)

    @functools.cached_property
    def _of_text(self) -> Any:
        return self._build(without_special_tokens(self.definition, self.special_tokens))

    def _build(self, definition: Definition) -> Any:
        around = {"truncation": None, "padding": None, "post_processor": None}
        if not self.normalise:
            around["normalizer"] = None
        text = json.dumps({**definition, **around})
        try:
            return import_tokenizers().Tokenizer.from_str(text)
        except InputError:
            raise
        except Exception as error:  # the package raises no other class
            raise InputError(f"{self.source}: damaged, or of a newer format ({error})") from error


def without_special_tokens(definition: Definition, special: Mapping[str, int]) -> Definition:
    """A definition in which no text becomes a special token; all ids are kept.

    The models of unigrams and of words would find "</s>" in their vocabulary even where it is no
    added token; there it gets a spelling of noncharacters. (BPE makes tokens by merges alone, of
    signs that keep theirs: "!" is the padding of Stable Diffusion 2.)
    """
    model = dict(definition["model"])
    is_bpe = model.get("type") == "BPE"
    hidden = {t: f"\U0010ffff{i}" for t, i in special.items() if len(t) > 1 or not is_bpe}
    hidden.pop(model.get("unk_token", ""), None)  # which the model needs by name
    vocabulary = model.get("vocab")
    if isinstance(vocabulary, list):
        model["vocab"] = [[hidden.get(token, token), score] for token, score in vocabulary]
    elif isinstance(vocabulary, dict):
        model["vocab"] = {hidden.get(token, token): i for token, i in vocabulary.items()}
    added = [token for token in definition.get("added_tokens") or [] if not token.get("special")]
    return {**definition, "model": model, "added_tokens": added}
