"""Texts that were published tokenised and split: Penn Treebank, WikiText and files like them."""

import re

from jaxgen.data.archives import Path, decode_text, last_name, read_members
from jaxgen.data.text.corpus import TokenStream
from jaxgen.errors import InputError

END_OF_LINE = "<eos>"
"""The mark that stands at the end of each line in published counts and perplexities."""

PART_NAMES = {
    "train": "train",
    "valid": "validation",
    "validation": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
}

match_part = re.compile(rf"(?:[\w-]+\.)?({'|'.join(PART_NAMES)})\.(?:txt|tokens|raw)").fullmatch
"""Matches ``train.txt``, ``ptb.valid.txt``, ``wiki.test.tokens``: group 1 is the part."""


def read_token_files(path: Path, *, line_mark: str | None = END_OF_LINE) -> TokenStream:
    """Reads the training, validation and test files of a tokenised text as one stream.

    Words are what white space separates. The complete Penn Treebank (Mikolov's files) gives
    929,589 / 73,760 / 82,430 tokens and 10,000 types; WikiText-2 gives 2,088,628 / 217,646 /
    245,569 and 33,278, all with the line mark.

    Args:
      path: A zip archive or folder with files such as ``ptb.train.txt`` or ``wiki.test.tokens``.
      line_mark: Word put at the end of each line, empty lines included, or None.

    Returns:
      The parts one after another, with their spans.

    Raises:
      FileNotFoundError: There is no such path.
      InputError: A damaged zip, a part that is missing or there twice, or a file that is empty or
        not UTF-8.
    """
    members = read_members(
        path,
        match_part,
        "token files (names like train.txt, ptb.valid.txt, wiki.test.tokens)",
    )
    names = _names_of_parts(path, list(members))
    tokens: list[str] = []
    spans: dict[str, tuple[int, int]] = {}
    for part, name in names.items():
        start = len(tokens)
        tokens += _read_lines(decode_text(members[name], f"{path}: {name}"), line_mark)
        if start == len(tokens):
            raise InputError(f"{path}: {name}: no words, only white space")
        spans[part] = (start, len(tokens))
    return TokenStream(str(path), tokens, spans=spans)


def _names_of_parts(path: Path, names: list[str]) -> dict[str, str]:
    """Part -> the name of its file, in the order train, validation, test."""
    found: dict[str, str] = {}
    for name in names:
        match = match_part(last_name(name))
        assert match
        part = PART_NAMES[match[1]]
        if part in found:
            raise InputError(f"{path}: two {part} files, {found[part]} and {name}, expected one")
        found[part] = name
    missing = [part for part in ("train", "validation", "test") if part not in found]
    if missing:
        raise InputError(
            f"{path}: no {' and no '.join(missing)} file beside {', '.join(sorted(names))}"
        )
    return {part: found[part] for part in ("train", "validation", "test")}


def _read_lines(text: str, line_mark: str | None) -> list[str]:
    if line_mark is None:
        return text.split()
    tokens: list[str] = []
    for line in text.removesuffix("\n").split("\n"):
        tokens += line.split()
        tokens.append(line_mark)
    return tokens
