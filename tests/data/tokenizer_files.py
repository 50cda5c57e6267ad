"""Files of small tokenizers, as other programs write them."""

import functools
import gzip
import io
import json
import pathlib
import re

import sentencepiece

from jaxgen.data.text.brown import read_brown
from jaxgen.data.text.builtin_text import prose_paragraphs
from jaxgen.data.tokenizers import train_tokenizer
from jaxgen.data.tokenizers.clip_vocabulary import clip_ids


@functools.cache
def prose() -> list[str]:
    """Paragraphs of English that every Python carries."""
    from pydoc_data import topics

    return list(prose_paragraphs(topics.topics))


def brown_lines(data_folder: pathlib.Path) -> list[str]:
    """10,000 sentences of the Brown corpus."""
    words = read_brown(data_folder / "brown" / "brown.zip", paragraph_mark=None).tokens
    return re.split(r"(?<= [.?!]) ", " ".join(words))[:10_000]


def clip_merges(texts: list[str], count: int) -> list[tuple[str, str]]:
    """Merges of a small vocabulary like CLIP's."""
    model = train_tokenizer(texts, 514 + count, "bpe").vocabulary.definition["model"]
    return [(left, right) for left, right in model["merges"]]


def write_openai_file(path: pathlib.Path, merges: list[tuple[str, str]]) -> None:
    """The file of OpenAI's repository."""
    lines = ['"bpe_simple_vocab_16e6.txt#version: 0.2', *map(" ".join, merges)]
    path.write_bytes(gzip.compress("\n".join(lines).encode() + b"\n"))


def write_clip_folder(
    folder: pathlib.Path, merges: list[tuple[str, str]], **config: object
) -> None:
    """vocab.json and merges.txt, with a tokenizer_config.json where fields of it are given."""
    (folder / "vocab.json").write_text(json.dumps(clip_ids(merges)))
    lines = ["#version: 0.2", *map(" ".join, merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf8")
    if config:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))


def sentence_piece_model(texts: list[str], size: int, **options: object) -> bytes:
    """A spiece.model with T5's special pieces, unless options say otherwise."""
    model = io.BytesIO()
    special = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
    fixed = {"hard_vocab_limit": False, "minloglevel": 2, "num_threads": 1}
    sentencepiece.SentencePieceTrainer.train(
        **{"sentence_iterator": iter(texts), "model_writer": model, "vocab_size": size},
        **fixed,
        **(special | options),
    )
    return model.getvalue()
