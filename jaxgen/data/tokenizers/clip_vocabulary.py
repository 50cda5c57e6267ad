"""CLIP's byte-level BPE: byte symbols, merges, and both as the content of a tokenizer.json."""

import json
from collections.abc import Mapping, Sequence

from jaxgen.data.archives import decode_text
from jaxgen.data.tokenizers.json_vocabulary import END_OF_WORD
from jaxgen.errors import InputError

CLIP_START, CLIP_END = "<|startoftext|>", "<|endoftext|>"

CLIP_LENGTH = 77

CLIP_MERGES = 49152 - 256 - 2
"""Merges that CLIP takes from the beginning of bpe_simple_vocab_16e6.txt, which has 262,144."""

WORD_PATTERN = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)
"""What is merged by itself: a run of letters, a digit, a run of other signs."""

Merges = Sequence[tuple[str, str]]


def byte_symbols() -> list[str]:
    """A visible character for each of the 256 bytes, in the order of CLIP's first 256 ids.

    Bytes that are visible in Latin-1 stand for themselves and come first; the n-th of the others is
    ``chr(256 + n)`` (openai/CLIP `simple_tokenizer.py`, bytes_to_unicode).
    """
    visible = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    return [*map(chr, visible), *(chr(256 + n) for n in range(256 - len(visible)))]


def read_merges(content: bytes, source: str, most: int | None = None) -> list[tuple[str, str]]:
    """The merges of a merges.txt or of OpenAI's bpe_simple_vocab_16e6.txt, compressed or not.

    Args:
      content: One merge a line, two symbols and a blank; the first line may name the version.
      source: The file's name, for errors.
      most: Merges that are taken, from the beginning; None for all.

    Raises:
      InputError: It is no UTF-8 text or has a damaged line; or no symbol ends a word, as in the
        merges of GPT-2.
    """
    lines = decode_text(content, source).split("\n")
    skipped = 1 if "#version" in lines[0] else 0
    stop = None if most is None else skipped + most
    merges = []
    for number, line in enumerate(lines[skipped:stop], skipped + 1):
        symbols = line.split(" ")
        if len(symbols) == 2 and all(symbols):
            merges.append((symbols[0], symbols[1]))
        elif line or number < len(lines):
            raise InputError(f"{source}: line {number} is {line[:40]!r}, expected two symbols")
    if not any(right.endswith(END_OF_WORD) for _, right in merges):
        raise InputError(f"{source}: no symbol ends with {END_OF_WORD}, expected CLIP's merges")
    return merges


def clip_ids(merges: Merges) -> dict[str, int]:
    """Ids of CLIP's tokens in OpenAI's order: bytes, bytes that end words, merges, start, end."""
    symbols = byte_symbols()
    ends = [symbol + END_OF_WORD for symbol in symbols]
    joined = [left + right for left, right in merges]
    tokens = [*symbols, *ends, *joined, CLIP_START, CLIP_END]
    return {token: i for i, token in enumerate(tokens)}


def clip_definition(
    ids: Mapping[str, int],
    merges: Merges,
    special: Sequence[str] = (CLIP_START, CLIP_END),
    unknown: str = CLIP_END,
) -> str:
    """The content of the tokenizer.json that transformers writes for CLIP.

    Args:
      ids: All tokens.
      merges: In the order in which they are applied.
      special: Tokens that are special, each in `ids`.
      unknown: What the model falls back to; never needed, as every byte is a token.
    """
    added = [
        {
            **{"id": ids[token], "content": token, "special": True},
            **dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False),
        }
        for token in special
    ]
    normalizers = [
        {"type": "NFC"},
        {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
        {"type": "Lowercase"},
    ]
    split = {
        **{"type": "Split", "pattern": {"Regex": WORD_PATTERN}},
        **{"behavior": "Removed", "invert": True},
    }
    byte_level = {
        **{"type": "ByteLevel", "add_prefix_space": False},
        **{"trim_offsets": True, "use_regex": True},
    }
    model = {
        **{"type": "BPE", "dropout": None, "unk_token": unknown},
        **{"continuing_subword_prefix": "", "end_of_word_suffix": END_OF_WORD},
        **{"fuse_unk": False, "byte_fallback": False, "ignore_merges": False},
        **{"vocab": dict(ids), "merges": [list(pair) for pair in merges]},
    }
    return json.dumps(
        {
            **{"version": "1.0", "truncation": None, "padding": None, "added_tokens": added},
            "normalizer": {"type": "Sequence", "normalizers": normalizers},
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
            "post_processor": None,
            "decoder": byte_level,
            "model": model,
        },
        ensure_ascii=False,
    )
