"""Tokenizers from the files that models come with, whichever of the usual ones they are."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from jaxgen.data.archives import Path, decode_text, read_bytes
from jaxgen.data.tokenizers.clip_vocabulary import (
    CLIP_END,
    CLIP_LENGTH,
    CLIP_MERGES,
    CLIP_START,
    clip_definition,
    clip_ids,
    read_merges,
)
from jaxgen.data.tokenizers.json_vocabulary import JsonVocabulary
from jaxgen.data.tokenizers.sentence_piece_vocabulary import T5_EXTRA_IDS, SentencePieceVocabulary
from jaxgen.data.tokenizers.tokenizer import Cleaning, Tokenizer
from jaxgen.data.tokenizers.tokenizer_settings import (
    CONFIG_FILE,
    padding_id,
    read_tokenizer_settings,
    tokens_around,
)
from jaxgen.errors import InputError
from jaxgen.text_rules import has_suffix

JSON_FILE, VOCABULARY_FILE, MERGES_FILE = "tokenizer.json", "vocab.json", "merges.txt"
MODEL_FILE = "spiece.model"
OPENAI_FILE = "bpe_simple_vocab_16e6.txt.gz"


def open_tokenizer(
    path: Path,
    *,
    clean: Cleaning = "plain",
    pad: int | None = None,
    length: int | None = None,
) -> Tokenizer:
    """Opens the tokenizer of a folder, or a single file.

    Of a folder the first of these is opened: ``tokenizer.json``; ``vocab.json`` with
    ``merges.txt`` (CLIP); ``spiece.model`` (T5); ``bpe_simple_vocab_16e6.txt.gz`` (OpenAI's CLIP).
    tokenizer_config.json and special_tokens_map.json beside it are read. A file is taken by its
    ending: ``.json``, ``.model``, and ``.txt`` or ``.gz`` for CLIP's merges.

    Args:
      path: The folder or the file.
      clean: How texts are cleaned before; "openai" for CLIP's vocabulary alone.
      pad: Id of padding instead of the one that the files name.
      length: Tokens of a text instead of what the files say; 77 for CLIP where they do not.

    Raises:
      FileNotFoundError: There is no such path.
      InputError: A folder without any of these files; a damaged file; merges of another model; or
        a package that is not installed.
    """
    path = pathlib.Path(path)
    opened = _open_folder(path) if path.is_dir() else _open_file(path)
    if clean != "plain":
        if not (isinstance(opened.vocabulary, JsonVocabulary) and opened.vocabulary.ends_words):
            raise InputError(f"{path}: clean is {clean!r}, which is for CLIP, expected 'plain'")
        vocabulary = dataclasses.replace(opened.vocabulary, normalise=False)
        opened = dataclasses.replace(opened, vocabulary=vocabulary, clean=clean)
    opened.vocabulary.split([""], special=False)  # damage shows where the file is opened
    pad = opened.pad if pad is None else pad
    return dataclasses.replace(opened, pad=pad, length=opened.length if length is None else length)


def _open_folder(folder: pathlib.Path) -> Tokenizer:
    if (folder / JSON_FILE).exists():
        return _open_json(folder / JSON_FILE)
    if (folder / VOCABULARY_FILE).exists() and (folder / MERGES_FILE).exists():
        return _open_clip(folder)
    for name, open_it in ((MODEL_FILE, _open_model), (OPENAI_FILE, _open_openai)):
        if (folder / name).exists():
            return open_it(folder / name)
    inside = [name for name in sorted(os.listdir(folder)) if _holds_tokenizer(folder / name)]
    named = read_tokenizer_settings(folder).fields.get("tokenizer_class")
    hint = f"; {CONFIG_FILE} says {named}" if named else ""
    hint += f"; the folder {inside[0]} in it holds one" if inside else ""
    raise InputError(
        f"{folder}: holds no tokenizer, expected {JSON_FILE}, {VOCABULARY_FILE} with {MERGES_FILE},"
        f" {MODEL_FILE} or {OPENAI_FILE}{hint}"
    )


def _holds_tokenizer(folder: pathlib.Path) -> bool:
    names = (JSON_FILE, MERGES_FILE, MODEL_FILE)
    return any((folder / name).is_file() for name in names)


def _open_file(path: pathlib.Path) -> Tokenizer:
    openers: Mapping[tuple[str, ...], Callable[[pathlib.Path], Tokenizer]] = {
        (".json",): _open_json,
        (".model",): _open_model,
        (".txt", ".gz"): _open_openai,
    }
    for suffixes, open_it in openers.items():
        if has_suffix(path.name, *suffixes):
            return open_it(path)
    read_bytes(path)  # a missing file is called that
    raise InputError(f"{path}, expected a file *.json, *.model, *.txt or *.gz")


def _open_json(path: pathlib.Path) -> Tokenizer:
    vocabulary = JsonVocabulary(_read_text(path), source=str(path))
    settings = read_tokenizer_settings(path.parent)
    definition = vocabulary.definition
    try:
        start, end = tokens_around(definition, str(path))
        pad = padding_id(vocabulary.ids, settings.token("pad_token"), definition, end, str(path))
        own = (definition.get("truncation") or {}).get("max_length")
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise InputError(f"{path}: damaged, or of a newer format ({error!r})") from error
    default = CLIP_LENGTH if vocabulary.ends_words and CLIP_START in vocabulary.ids else None
    return Tokenizer(vocabulary, pad, start, end, settings.length(default, own))


def _open_clip(folder: pathlib.Path) -> Tokenizer:
    """Of vocab.json and merges.txt, as transformers wrote them before its version 5."""
    source = str(folder / VOCABULARY_FILE)
    ids = _read_ids(folder / VOCABULARY_FILE)
    merges_path = folder / MERGES_FILE
    merges = read_merges(read_bytes(merges_path), str(merges_path))
    settings = read_tokenizer_settings(folder)
    start = settings.token("bos_token") or CLIP_START
    end = settings.token("eos_token") or CLIP_END
    if missing := [token for token in (start, end) if token not in ids]:
        raise InputError(f"{source}: no token {missing[0]!r}, expected start and end of texts")
    unknown = [token for pair in merges for token in (*pair, "".join(pair)) if token not in ids]
    if unknown:
        raise InputError(f"{source}: no token {unknown[0]!r}, expected those of {merges_path}")
    named = [token for token in settings.special_tokens() if token in ids]
    text = clip_definition(ids, merges, list(dict.fromkeys((start, end, *named))), end)
    vocabulary = JsonVocabulary(text, source=source)
    pad = padding_id(ids, settings.token("pad_token"), {}, ids[end], source)
    return Tokenizer(vocabulary, pad, ids[start], ids[end], settings.length(CLIP_LENGTH))


def _open_openai(path: pathlib.Path) -> Tokenizer:
    """Of OpenAI's merges alone; padding is 0 there."""
    merges = read_merges(read_bytes(path), str(path), CLIP_MERGES)
    ids = clip_ids(merges)
    vocabulary = JsonVocabulary(clip_definition(ids, merges), source=str(path))
    return Tokenizer(vocabulary, 0, ids[CLIP_START], ids[CLIP_END], CLIP_LENGTH)


def _open_model(path: pathlib.Path) -> Tokenizer:
    settings = read_tokenizer_settings(path.parent)
    vocabulary = SentencePieceVocabulary(read_bytes(path), source=str(path))
    extra = settings.fields.get("extra_ids", T5_EXTRA_IDS if vocabulary.as_t5 else 0)
    vocabulary = dataclasses.replace(vocabulary, extra_ids=extra)
    _, end, own_pad = vocabulary.named_ids
    pad = padding_id({}, None, {}, end if own_pad is None else own_pad, str(path))
    return Tokenizer(vocabulary, pad, None, end, settings.length(None))


def _read_text(path: pathlib.Path) -> str:
    return decode_text(read_bytes(path), str(path))


def _read_ids(path: pathlib.Path) -> dict[str, int]:
    try:
        found: Any = json.loads(_read_text(path))
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: damaged, expected JSON ({error})") from error
    if not isinstance(found, dict) or not all(isinstance(i, int) for i in found.values()):
        raise InputError(f"{path}, expected a JSON object of tokens and their ids")
    if len(set(found.values())) != len(found):
        raise InputError(f"{path}: two tokens have one id, expected one each")
    return found
