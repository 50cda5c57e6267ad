"""Vocabularies trained on texts in memory, for experiments without a download."""

import json
from collections.abc import Sequence
from typing import Any, Literal, get_args

from jaxgen.data.tokenizers.clip_vocabulary import CLIP_END, CLIP_START, clip_definition, clip_ids
from jaxgen.data.tokenizers.json_vocabulary import JsonVocabulary
from jaxgen.data.tokenizers.text_checks import check_texts
from jaxgen.data.tokenizers.tokenizer import Tokenizer
from jaxgen.data.tokenizers.tokenizer_packages import import_tokenizers
from jaxgen.errors import InputError

VocabularyKind = Literal["words", "bpe", "unigram"]

OF_WORDS = ("<pad>", "<unk>", "<start>", "<end>")
OF_UNIGRAM = ("<pad>", "</s>", "<unk>")
NO_BLANK = r" (?=[,.;:!?)\]])|(?<=[(\[]) "
"""Where no blank stands between words and signs of a text that is put together again."""

OF_BPE = 2 * 256 + 2
"""Ids of CLIP's vocabulary without any merge: bytes, bytes that end words, start and end."""


def train_tokenizer(
    texts: Sequence[str],
    size: int,
    kind: VocabularyKind = "words",
    *,
    length: int | None = None,
) -> Tokenizer:
    """A tokenizer for texts like the given ones.

    * ``"words"``: a token for each word or sign, in lower case; what captions of a few dozen words
      need. Padding 0, unknown words 1, start 2, end 3, then words by falling frequency.
    * ``"bpe"``: CLIP's vocabulary with merges of its own; padding 0, as OpenAI's.
    * ``"unigram"``: T5's kind (Kudo 2018), with its special tokens: padding 0, end 1, unknown 2.

    Args:
      texts: What it is trained on.
      size: Ids at most; fewer where the texts have no more.
      kind: Its kind.
      length: Tokens of a text; None pads to the longest of a batch.

    Raises:
      InputError: An unknown kind, no text at all, or a size that leaves no room beside the tokens
        that every vocabulary of the kind has.

    Example:
      >>> tokenizer = train_tokenizer(["a red cube", "a blue ball"], 20, "words")
      >>> tokenizer.size
      9
    """
    kinds = {"words": (_train_words, len(OF_WORDS)), "bpe": (_train_bpe, OF_BPE)}
    kinds["unigram"] = (_train_unigram, len(OF_UNIGRAM))
    if kind not in kinds:
        raise InputError(f"kind is {kind!r}, expected one of {get_args(VocabularyKind)}")
    check_texts(texts)
    if not any(map(str.strip, texts)):
        raise InputError("texts are all empty, expected some to train a vocabulary on")
    train, least = kinds[kind]
    if size <= least:
        raise InputError(f"size is {size}, expected more than the {least} ids of every {kind} one")
    tokenizer = train(texts, size)
    return Tokenizer(*tokenizer, length=length)


Trained = tuple[JsonVocabulary, int, int | None, int]
"""A vocabulary, padding, start, end."""


def _train_words(texts: Sequence[str], size: int) -> Trained:
    package = import_tokenizers()
    backend = package.Tokenizer(package.models.WordLevel(unk_token="<unk>"))
    backend.normalizer = package.normalizers.Sequence(
        [package.normalizers.NFC(), package.normalizers.Lowercase()]
    )
    backend.pre_tokenizer = package.pre_tokenizers.Whitespace()
    decoders, regex = package.decoders, package.Regex
    backend.decoder = decoders.Sequence(
        [
            decoders.WordPiece(prefix=" ", cleanup=False),  # blanks between all
            decoders.Fuse(),
            decoders.Replace(regex(NO_BLANK), ""),
        ]
    )
    _train(backend, "WordLevelTrainer", texts, vocab_size=size, special_tokens=list(OF_WORDS))
    return JsonVocabulary(backend.to_str()), 0, 2, 3


def _train_bpe(texts: Sequence[str], size: int) -> Trained:
    """Merges by the package; the bytes that no text has are added, so all texts can be encoded."""
    package = import_tokenizers()
    empty = JsonVocabulary(clip_definition(clip_ids([]), []))
    backend = package.Tokenizer.from_str(empty.text)
    suffix = {"end_of_word_suffix": "</w>"}
    alphabet = {"initial_alphabet": package.pre_tokenizers.ByteLevel.alphabet()}
    _train(backend, "BpeTrainer", texts, vocab_size=size, **suffix, **alphabet)
    found = json.loads(backend.to_str())["model"]["merges"]
    merges = [(left, right) for left, right in found[: size - OF_BPE]]
    ids = clip_ids(merges)
    return JsonVocabulary(clip_definition(ids, merges)), 0, ids[CLIP_START], ids[CLIP_END]


def _train_unigram(texts: Sequence[str], size: int) -> Trained:
    package = import_tokenizers()
    backend = package.Tokenizer(package.models.Unigram())
    backend.normalizer = package.normalizers.NFKC()
    metaspace = {"replacement": "▁", "prepend_scheme": "always"}
    backend.pre_tokenizer = package.pre_tokenizers.Sequence(
        [
            package.pre_tokenizers.WhitespaceSplit(),
            package.pre_tokenizers.Metaspace(**metaspace),
        ]
    )
    backend.decoder = package.decoders.Metaspace(**metaspace)
    special = {"special_tokens": list(OF_UNIGRAM), "unk_token": "<unk>"}
    _train(backend, "UnigramTrainer", texts, vocab_size=size, **special)
    return JsonVocabulary(backend.to_str()), 0, None, 1


def _train(backend: Any, trainer: str, texts: Sequence[str], **settings: Any) -> None:
    made = getattr(import_tokenizers().trainers, trainer)(show_progress=False, **settings)
    backend.train_from_iterator(texts, made)
