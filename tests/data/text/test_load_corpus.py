"""The front door: texts recognised by what they hold, and one clear error for the rest."""

import sys

import pytest
from texts import BROWN, PTB, write_folder, write_zip

from jaxgen.data import load_corpus
from jaxgen.data.text.load_corpus import recognise
from jaxgen.data.text.normalise import ap_news_style
from jaxgen.errors import InputError

BOOKS = {"emma.txt": "One two.\n\nThree four.", "hamlet.txt": "Five", "README": "about"}


def file_of(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    ("files", "kind"), [(BROWN, "brown"), (PTB, "token files"), (BOOKS, "plain text")]
)
def test_kinds_are_recognised_by_content(tmp_path, files, kind):
    folder = write_folder(tmp_path / "some folder", files)
    misnamed = write_zip(tmp_path / "data.txt", files)
    assert recognise(folder) == (kind, folder)
    assert recognise(str(misnamed)) == (kind, str(misnamed))
    # A folder whose only corpus is an archive is that archive.
    (tmp_path / "outer").mkdir()
    inner = write_zip(tmp_path / "outer" / "x.zip", files)
    assert recognise(tmp_path / "outer") == (kind, inner)


def test_names_and_files_are_recognised(tmp_path):
    assert recognise("builtin") == ("builtin", "builtin")
    assert recognise("tfds:lm1b") == ("tfds", "lm1b")
    story = file_of(tmp_path / "story.zip", "PK is no zip")
    assert recognise(story) == ("plain text", story)


def test_default_recipes(tmp_path):
    story = file_of(tmp_path / "story", "a a a a b b b c\n\n" * 10)
    corpus = load_corpus(story)
    assert corpus.spans == {"train": (0, 72), "validation": (72, 81), "test": (81, 90)}
    assert corpus.vocabulary.words == ("a", "b", "c", "<p>")
    tokens = load_corpus(write_zip(tmp_path / "p.zip", PTB))
    assert tokens.spans == {"train": (0, 40), "validation": (40, 43), "test": (43, 47)}
    assert "end" in tokens.vocabulary  # nothing is merged: it was before publication
    with pytest.raises(InputError, match=r"21 words are too few for 800000 to train"):
        load_corpus(write_zip(tmp_path / "b.zip", BROWN))


def test_choices(tmp_path):
    brown = write_zip(tmp_path / "b.zip", BROWN)
    corpus = load_corpus(brown, split=(12, 4), rare_frequency=0, paragraph_mark=None)
    assert corpus.spans == {"train": (0, 12), "validation": (12, 16), "test": (16, 17)}
    assert "<p>" not in corpus.vocabulary
    corpus = load_corpus(brown, split=(0.5, 0.25), maximum_size=3)
    assert corpus.spans["train"] == (0, 10)
    assert len(corpus.vocabulary) == 3
    corpus = load_corpus(brown, split=(12, 4), rare_frequency=0, vocabulary_from="train")
    assert "Sunday" not in corpus.vocabulary


def test_normalisation_sees_tags(tmp_path):
    brown = write_zip(tmp_path / "b.zip", BROWN)
    corpus = load_corpus(
        brown, split=(12, 4), rare_frequency=0, normalise=lambda s: ap_news_style(s, 0)
    )
    words = corpus.vocabulary.decode(corpus.tokens)
    assert words[:3] == ["the", "jury", "said"]
    assert words[16:18] == ["<name>", "``"]  # Atlanta's/np$
    assert "sunday" in words  # nr: no proper noun


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "the file is empty"),
        (b"\x89PNG\r\n\x1a\n\0\0", "not utf-8 text: byte 0x89 at offset 0"),
        (b"\0" * 100, "binary data, not text: a zero byte at offset 0"),
        ("x" * 100 + "ÿ", "byte 0xff at offset 100"),
        (b"PK\x03\x04 and then nothing", "not a zip archive, or a truncated one"),
        ("word", "1 words are too few"),
    ],
)
def test_bad_files_name_the_file_and_the_fault(tmp_path, content, fault):
    content = content.encode("latin-1") if isinstance(content, str) else content
    path = file_of(tmp_path / "bad", content)
    with pytest.raises(InputError, match=rf"bad: .*{fault}") as error:
        load_corpus(path, paragraph_mark=None)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("keep", [0.2, 0.5, 0.99])
def test_a_truncated_zip(tmp_path, keep):
    whole = write_zip(tmp_path / "whole.zip", BROWN).read_bytes()
    path = file_of(tmp_path / "cut.zip", whole[: int(len(whole) * keep)])
    with pytest.raises(InputError, match=r"cut\.zip: not a zip archive, or a truncated one"):
        load_corpus(path)


def test_a_zip_with_a_damaged_member(tmp_path):
    text = " ".join(f"w{i * 7919 % 1000}" for i in range(5000))
    path = write_zip(tmp_path / "hurt.zip", {"story.txt": text})
    content = bytearray(path.read_bytes())
    content[1000:1010] = bytes(10)
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"hurt\.zip: cannot read story\.txt, damaged"):
        load_corpus(path)


@pytest.mark.parametrize("files", [{"photo.png": b"\x89PNG", "readme.txt": "x"}, {}])
def test_nothing_that_is_accepted(tmp_path, files):
    for path in (write_zip(tmp_path / "x.zip", files), write_folder(tmp_path / "x", files)):
        path.mkdir(exist_ok=True) if not path.exists() else None
        with pytest.raises(InputError, match="no corpus in it") as error:
            load_corpus(path)
        message = str(error.value)
        assert ("photo.png, readme.txt" if files else "nothing") in message
        assert "a corpus is 'builtin', 'tfds:NAME', a text file, or a folder" in message


def test_a_missing_path_says_what_is_accepted():
    with pytest.raises(FileNotFoundError, match="nowhere: no such file or folder; a corpus is"):
        load_corpus("nowhere")


def test_without_the_packages_of_tfds(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(InputError, match=r"tfds:lm1b: needs the packages .* jaxgen\[data\]"):
        load_corpus("tfds:lm1b")


def test_the_paper_recipe_on_the_brown_corpus(data_folder):
    corpus = load_corpus(data_folder / "brown")
    assert len(corpus.vocabulary) == 17_906
    assert corpus.spans == {
        "train": (0, 800_000),
        "validation": (800_000, 1_000_000),
        "test": (1_000_000, 1_176_859),
    }
    assert (corpus.tokens == corpus.vocabulary.unknown).sum() == 1_161_192 - 1_106_010
    assert len(load_corpus(data_folder / "brown", paragraph_mark=None).vocabulary) == 17_905
    alone = load_corpus(data_folder / "brown", paragraph_mark=None, vocabulary_from="train")
    assert len(alone.vocabulary) == 14_113 + 1
