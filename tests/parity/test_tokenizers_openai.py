"""CLIP's tokenizer with clean="openai" against OpenAI's algorithm in plain Python."""

import dataclasses
import functools
import html
import itertools

import pytest
from hard_texts import HARD_TEXTS
from tokenizer_files import brown_lines, clip_merges, prose, write_openai_file

from jaxgen.data.tokenizers import open_tokenizer
from jaxgen.data.tokenizers.clip_vocabulary import clip_ids

ftfy = pytest.importorskip("ftfy", reason="ftfy (the [text] extra) is not installed")
regex = pytest.importorskip("regex", reason="regex (comes with nltk, of [parity]) is not installed")

PATTERN = regex.compile(
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",
    regex.IGNORECASE,
)


class Reference:
    """Merges applied one after another, the earliest first, to each piece that `PATTERN` finds."""

    def __init__(self, merges):
        self.ranks = {pair: rank for rank, pair in enumerate(merges)}
        self.ids = clip_ids(merges)
        tokens = list(self.ids)
        visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
        rest = [byte for byte in range(256) if byte not in visible]
        self.symbols = dict(zip([*visible, *rest], tokens[:256], strict=True))

    @functools.cache  # noqa: B019
    def merged(self, piece):
        if piece in ("<|startoftext|>", "<|endoftext|>"):
            return [piece]
        symbols = [self.symbols[byte] for byte in piece.encode()]
        symbols[-1] += "</w>"
        while True:
            pairs = [pair for pair in itertools.pairwise(symbols) if pair in self.ranks]
            if not pairs:
                return symbols
            first = min(pairs, key=self.ranks.__getitem__)
            joined = []
            while symbols:
                together = tuple(symbols[:2]) == first
                joined.append("".join(symbols[: 1 + together]))
                symbols = symbols[1 + together :]
            symbols = joined

    def encode(self, text):
        cleaned = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
        cleaned = regex.sub(r"\s+", " ", cleaned).strip().lower()
        return [self.ids[s] for piece in PATTERN.findall(cleaned) for s in self.merged(piece)]


def compare(tokenizer, reference, texts):
    found = dataclasses.replace(tokenizer, length=None).encode(texts, special=True)
    for text, row, mask in zip(texts, found.ids, found.mask, strict=True):
        assert row[mask].tolist()[1:-1] == reference.encode(text), text


def test_small_vocabulary(tmp_path):
    merges = clip_merges(prose(), 500)
    path = tmp_path / "bpe_simple_vocab_16e6.txt.gz"
    write_openai_file(path, merges)
    compare(open_tokenizer(path, clean="openai"), Reference(merges), HARD_TEXTS + prose()[:100])


@pytest.mark.slow
def test_real_vocabulary_on_brown(data_folder):
    tokenizer = open_tokenizer(data_folder / "text" / "clip_bpe", clean="openai")
    merges = [tuple(pair) for pair in tokenizer.vocabulary.definition["model"]["merges"]]
    compare(tokenizer, Reference(merges), HARD_TEXTS + brown_lines(data_folder))
