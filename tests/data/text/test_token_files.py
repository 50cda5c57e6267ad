"""Token files with given splits: Penn Treebank, WikiText."""

import pytest
from texts import PTB, write_folder, write_zip

from jaxgen.data import make_corpus, read_token_files
from jaxgen.errors import InputError


@pytest.mark.parametrize("write", [write_zip, write_folder])
def test_parts_follow_each_other_with_a_mark_a_line(tmp_path, write):
    stream = read_token_files(write(tmp_path / "ptb", PTB))
    assert stream.tokens[:8] == ["the", "cat", "<unk>", "N", "<eos>", "the", "dog", "<eos>"]
    assert stream.tokens[40:] == ["a", "dog", "<eos>", "the", "end", "<eos>", "<eos>"]
    assert stream.spans == {"train": (0, 40), "validation": (40, 43), "test": (43, 47)}


def test_the_mark_is_optional_and_unk_is_unknown(tmp_path):
    stream = read_token_files(write_zip(tmp_path / "p.zip", PTB), line_mark=None)
    assert "<eos>" not in stream.tokens
    corpus = make_corpus(stream, rare_frequency=0)
    assert corpus.vocabulary.words[corpus.vocabulary.unknown] == "<unk>"


@pytest.mark.parametrize(
    "names",
    [
        ("train.txt", "valid.txt", "test.txt"),
        ("x/wiki.train.tokens", "x/wiki.valid.tokens", "x/wiki.test.tokens"),
        ("a.train.txt", "a.dev.txt", "a.test.txt"),
        ("train.raw", "validation.raw", "test.raw"),
    ],
)
def test_names_that_are_recognised(tmp_path, names):
    files = dict(zip(names, ("a b\n", "c\n", "d\n"), strict=True))
    files["ptb.char.train.txt"] = "no"
    stream = read_token_files(write_folder(tmp_path, files))
    assert stream.tokens == ["a", "b", "<eos>", "c", "<eos>", "d", "<eos>"]


@pytest.mark.parametrize(
    ("files", "fault"),
    [
        ({"train.txt": "a\n", "test.txt": "b\n"}, "no validation file beside test.txt, train.txt"),
        ({**PTB, "x/valid.txt": "a\n"}, "two validation files, ptb.valid.txt and x/valid.txt"),
        ({**PTB, "ptb.test.txt": ""}, "ptb.test.txt: the file is empty"),
        ({**PTB, "ptb.test.txt": b"a \xff"}, "ptb.test.txt: not utf-8 text: byte 0xff at offset 2"),
        ({"other.txt": "a\n"}, "holds no token files"),
    ],
)
def test_bad_archives(tmp_path, files, fault):
    with pytest.raises(InputError, match=rf"p\.zip: {fault}"):
        read_token_files(write_zip(tmp_path / "p.zip", files))


def test_a_part_of_white_space_alone_without_marks(tmp_path):
    path = write_zip(tmp_path / "p.zip", {**PTB, "ptb.valid.txt": " \n"})
    with pytest.raises(InputError, match=r"ptb\.valid\.txt: no words"):
        read_token_files(path, line_mark=None)


@pytest.mark.parametrize(
    ("name", "sizes", "types"),
    [
        ("ptb/ptb.zip", (929_589, 73_760, 82_430), 10_000),
        ("wikitext-2/wikitext-2.zip", (2_088_628, 217_646, 245_569), 33_278),
    ],
)
def test_published_counts(data_folder, name, sizes, types):
    stream = read_token_files(data_folder / name)
    assert tuple(stop - start for start, stop in stream.spans.values()) == sizes
    assert len(set(stream.tokens)) == types
    assert len(make_corpus(stream, rare_frequency=0).vocabulary) == types
