"""Tokenizers against those of transformers with the same files."""

import logging
import warnings

import pytest
from hard_texts import HARD_TEXTS
from tokenizer_files import (
    brown_lines,
    clip_merges,
    prose,
    sentence_piece_model,
    write_clip_folder,
)

from jaxgen.data.tokenizers import open_tokenizer, save_tokenizer, train_tokenizer

transformers = pytest.importorskip(
    "transformers", reason="transformers (the [parity] extra) is not installed"
)

SPLIT_BY_CLASS = "\u0085"
"""Its T5Tokenizer splits at this sign; SentencePiece, and T5's tokenizer.json, do not."""

NAMES_SPECIAL = "</s>"
"""Its unigram tokenizers take a special token's spelling for the token even where asked not to."""


@pytest.fixture(autouse=True)
def _no_complaint_about_lengths():
    logging.getLogger("transformers").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def compare(tokenizer, reference, texts, **options):
    """Ids of both, without start, end and padding."""
    special = not options.get("split_special_tokens", False)
    found = [pieces.ids for pieces in tokenizer.vocabulary.split(texts, special)]
    expected = reference(texts, add_special_tokens=False, **options).input_ids
    different = [
        (text, ours, theirs)
        for text, ours, theirs in zip(texts, found, expected, strict=True)
        if ours != theirs
    ]
    assert not different, f"{len(different)} of {len(texts)}, the first {different[0]}"


@pytest.mark.parametrize("split_special_tokens", [False, True])
def test_clip(tmp_path, split_special_tokens):
    write_clip_folder(tmp_path, clip_merges(prose(), 1000))
    reference = transformers.CLIPTokenizer.from_pretrained(tmp_path)
    ours = open_tokenizer(tmp_path)
    texts = [*HARD_TEXTS, *prose()[:200]]
    compare(ours, reference, texts, split_special_tokens=split_special_tokens)


def test_clip_in_batches(tmp_path):
    """Start, end, padding and truncation too; and the tokenizer.json of transformers 5."""
    merges = [*clip_merges(prose(), 100), ("!", "!</w>")]
    write_clip_folder(tmp_path, merges, pad_token="!")
    reference = transformers.CLIPTokenizer.from_pretrained(tmp_path)
    (tmp_path / "json").mkdir()
    reference.save_pretrained(tmp_path / "json")
    assert not (tmp_path / "json" / "vocab.json").exists()
    texts = ["a cat!", "!! wow !a", *HARD_TEXTS]
    expected = reference(
        texts, padding="max_length", truncation=True, max_length=77, return_tensors="np"
    )
    for folder in (tmp_path, tmp_path / "json"):
        found = open_tokenizer(folder).encode(texts, truncate=True, special=True)
        assert (found.ids == expected.input_ids).all()
        assert (found.mask == expected.attention_mask).all()
        assert open_tokenizer(folder).pad == 0


@pytest.mark.parametrize("kind", ["words", "bpe", "unigram"])
def test_what_is_saved_here_opens_there(tmp_path, kind):
    texts = ["a red cube", "a blue ball, left of it"]
    ours = train_tokenizer(texts, {"words": 20, "bpe": 530, "unigram": 40}[kind], kind, length=40)
    save_tokenizer(ours, tmp_path)
    reference = transformers.AutoTokenizer.from_pretrained(tmp_path)
    expected = reference(texts, padding="max_length", max_length=40, return_tensors="np")
    found = ours.encode(texts)
    assert (found.ids == expected.input_ids).all()
    assert (found.mask == expected.attention_mask).all()
    assert reference.model_max_length == 40


def test_t5(tmp_path):
    """spiece.model by sentencepiece, and what transformers makes of it, as tokenizer.json."""
    model = sentence_piece_model([*prose()[:400], *HARD_TEXTS[:20]], 500)
    (tmp_path / "spiece.model").write_bytes(model)
    reference = transformers.T5Tokenizer.from_pretrained(tmp_path)
    ours = open_tokenizer(tmp_path)
    assert ours.size == len(reference)
    texts = [text for text in HARD_TEXTS if SPLIT_BY_CLASS not in text]
    compare(ours, reference, texts)
    (tmp_path / "json").mkdir()
    reference.save_pretrained(tmp_path / "json")
    as_json = open_tokenizer(tmp_path / "json")
    compare(as_json, reference, HARD_TEXTS)
    assert (as_json.size, as_json.pad, as_json.start, as_json.end) == (
        *(ours.size, ours.pad, ours.start, ours.end),
    )
    # Special tokens are text in both, as SentencePiece has it.
    assert (
        as_json.vocabulary.split([NAMES_SPECIAL], False)[0].ids
        == ours.vocabulary.split([NAMES_SPECIAL], False)[0].ids
    )
    assert 1 not in ours.vocabulary.split([NAMES_SPECIAL], False)[0].ids
    found = ours.encode(texts, special=True)
    expected = reference(texts, padding=True, return_tensors="np")
    assert (found.ids == expected.input_ids).all()
    assert (found.mask == expected.attention_mask).all()


@pytest.mark.slow
def test_real_clip_on_brown(data_folder, tmp_path):
    clip = open_tokenizer(data_folder / "text" / "clip_bpe")
    merges = [tuple(pair) for pair in clip.vocabulary.definition["model"]["merges"]]
    write_clip_folder(tmp_path, merges, pad_token="<|endoftext|>")
    reference = transformers.CLIPTokenizer.from_pretrained(tmp_path)
    lines = brown_lines(data_folder)
    assert len(lines) == 10_000
    compare(clip, reference, [*HARD_TEXTS, *lines])
    compare(open_tokenizer(tmp_path), reference, HARD_TEXTS, split_special_tokens=True)
    assert clip.decode(clip.encode(["a photo of a cat"]).ids) == ["a photo of a cat"]


@pytest.mark.slow
def test_real_t5_on_brown(data_folder):
    folder = data_folder / "text" / "t5_v1_1"
    ours = open_tokenizer(folder)
    texts = [*HARD_TEXTS, *brown_lines(data_folder)]
    compare(ours, transformers.AutoTokenizer.from_pretrained(folder), texts)
    texts = [text for text in texts if SPLIT_BY_CLASS not in text and NAMES_SPECIAL not in text]
    compare(ours, transformers.T5Tokenizer.from_pretrained(folder), texts)
