"""Word vectors in word2vec and GloVe text form."""

import gzip
import math
import os
import struct

import numpy as np
import pytest

from jaxgen.errors import InputError
from jaxgen.interop import word_vectors
from jaxgen.interop.word_vectors import read_word_vectors, write_word_vectors

WORDS = ("the", "<unk>", "naïve", "1990", "-0.5")


def floats(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    """Finite float32 of every magnitude: random bit patterns, and the extremes."""
    bits = np.random.default_rng(seed).integers(0, 2**32, (rows, columns), dtype=np.uint32)
    values = bits.view(np.float32)
    values = np.where(np.isfinite(values), values, np.float32(0.1))
    limits = np.finfo(np.float32)
    extremes = [limits.max, limits.min, limits.tiny, limits.smallest_subnormal, 0.0, -0.0, 1 / 3]
    values.flat[: len(extremes)] = np.array(extremes, np.float32)[: values.size]
    return values


@pytest.mark.parametrize("form", ["word2vec", "glove"])
@pytest.mark.parametrize("name", ["vectors.txt", "vectors.txt.gz"])
@pytest.mark.parametrize("shape", [(5, 7), (5, 1), (1, 300)])
def test_round_trips_are_exact(tmp_path, form, name, shape):
    words, vectors = WORDS[: shape[0]], floats(*shape)
    write_word_vectors(tmp_path / name, words, vectors, form)
    back_words, back = read_word_vectors(tmp_path / name)
    assert back_words == words
    assert back.dtype == np.float32
    np.testing.assert_array_equal(back.view(np.uint32), vectors.view(np.uint32))
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_a_thousand_random_floats_survive(tmp_path):
    vectors = floats(200, 50, seed=1)
    write_word_vectors(tmp_path / "v", [f"w{i}" for i in range(200)], vectors)
    np.testing.assert_array_equal(
        read_word_vectors(tmp_path / "v")[1].view(np.uint32), vectors.view(np.uint32)
    )


def test_the_text_itself(tmp_path):
    vectors = np.array([[0.5, -2], [1e-8, 0.1]], np.float32)
    write_word_vectors(tmp_path / "w", ["a", "é"], vectors)
    lines = "a 0.5 -2\né 9.99999994e-09 0.100000001\n"
    assert (tmp_path / "w").read_text("utf-8") == "2 2\n" + lines
    write_word_vectors(tmp_path / "g", ["a", "é"], vectors, "glove")
    assert (tmp_path / "g").read_text("utf-8") == lines


def test_compressed_files_are_compressed_and_recognised_by_content(tmp_path):
    vectors = np.zeros((5, 50), np.float32)
    write_word_vectors(tmp_path / "v.gz", WORDS, vectors)
    content = (tmp_path / "v.gz").read_bytes()
    assert gzip.decompress(content).startswith(b"5 50\nthe 0 0 ")
    os.rename(tmp_path / "v.gz", tmp_path / "plain.txt")
    assert read_word_vectors(tmp_path / "plain.txt")[0] == WORDS


@pytest.mark.parametrize(
    ("content", "words", "rows"),
    [
        (b"a\t1\t2\r\nb 3  4 \r\n", ("a", "b"), [[1, 2], [3, 4]]),
        (b"a 1 2\nb 3 4", ("a", "b"), [[1, 2], [3, 4]]),
        (b"2 2\na +1. .2e1\nb -3 4E0", ("a", "b"), [[1, 2], [-3, 4]]),
        (b"# 1 2\n; 3 4\n", ("#", ";"), [[1, 2], [3, 4]]),
        (b"a 1 2\n. . . 3 4\nat me@x.org 5 6\n", ("a", ". . .", "at me@x.org"), None),
        ("1\u00a0/2 1 2\n".encode(), ("1\u00a0/2",), [[1, 2]]),
    ],
)
def test_what_other_programs_write(tmp_path, content, words, rows):
    (tmp_path / "v").write_bytes(content)
    back_words, back = read_word_vectors(tmp_path / "v")
    assert back_words == words
    assert back.tolist() == (rows or [[1, 2], [3, 4], [5, 6]])


ODD_WORDS = (
    ".\u00a0.\u00a0.",
    "x\u3000y",
    "\u2028",
    "\x85",
    "\x1c",
    "\ufeffa",
    "e\u0301",
    "é",
    "12",
)


@pytest.mark.parametrize("form", ["word2vec", "glove"])
def test_only_ascii_white_space_ends_a_word(tmp_path, form):
    for words in (ODD_WORDS, ODD_WORDS[5:] + ODD_WORDS[:5]):  # a mark first, too
        write_word_vectors(tmp_path / "v", words, floats(len(words), 3), form)
        back_words, back = read_word_vectors(tmp_path / "v")
        assert back_words == words
        np.testing.assert_array_equal(back, floats(len(words), 3))


def test_words_with_spaces_go_round_in_glove_form(tmp_path):
    words = ("the", ". . .", "at me@x.org")
    write_word_vectors(tmp_path / "v", words, floats(3, 2), "glove")
    assert read_word_vectors(tmp_path / "v")[0] == words
    for wrong in (("a b", "c"), ("a", "b  c"), ("a", "b 1"), ("a", " b")):
        with pytest.raises(InputError, match="is empty or holds white space"):
            write_word_vectors(tmp_path / "w", wrong, floats(2, 2), "glove")
    with pytest.raises(InputError, match=r"line 1 would be '12 3\\n', a header"):
        write_word_vectors(tmp_path / "w", ["12"], np.full((1, 1), 3.0), "glove")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_marks_and_line_ends(tmp_path, monkeypatch, end):
    for size in (1, 2, 5, 1 << 20):
        monkeypatch.setattr(word_vectors, "_CHUNK_BYTES", size)
        for text, words in (("the 1 2\na 3 4\n", ("the", "a")), ("1 2\nthe 1 2", ("the",))):
            content = "\ufeff" + text.replace("\n", end)
            (tmp_path / "v").write_bytes(content.encode())
            assert read_word_vectors(tmp_path / "v")[0] == words


def test_the_header_is_detected_or_told(tmp_path):
    (tmp_path / "v").write_bytes(b"1 2\n7 8\n")
    with pytest.raises(InputError, match=r"v, line 2: 1 numbers after the word, expected 2"):
        read_word_vectors(tmp_path / "v")
    assert read_word_vectors(tmp_path / "v", header=False)[0] == ("1", "7")
    (tmp_path / "v").write_bytes(b"the 2\n")
    with pytest.raises(InputError, match="v, line 1: 'the 2', expected a header"):
        read_word_vectors(tmp_path / "v", header=True)


def test_files_are_read_in_pieces(tmp_path, monkeypatch):
    vectors = floats(100, 8)
    write_word_vectors(tmp_path / "v", [f"w{i}" for i in range(100)], vectors)
    monkeypatch.setattr(word_vectors, "_CHUNK_BYTES", 200)
    words, back = read_word_vectors(tmp_path / "v")
    assert words[99] == "w99"
    np.testing.assert_array_equal(back, vectors)
    content = (tmp_path / "v").read_bytes().replace(b"\nw70 ", b"\nw70 x")
    (tmp_path / "v").write_bytes(content)
    with pytest.raises(InputError, match=r"line 72: 'x.*' is not a finite number"):
        read_word_vectors(tmp_path / "v")


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "v: the file is empty"),
        (b"\na 1\n", "v, line 1: no numbers after the word"),
        (b"alone\n", "v, line 1: no numbers after the word"),
        (b"2 3\na 1 2 3\n", "v: the header promises 2 words, the file has 1"),
        (b"1 2\na 1 2\nb 1 2\n", "v: the header promises 1 words, the file has 2"),
        (b"2 3\na 1 2 3\nb 1 2", "v, line 3: 2 numbers after the word, expected 3"),
        (b"a 1 2 3\nb 1 2 3 4\n", "v, line 2: 4 numbers after the word, expected 3"),
        (b"a 1 2\nb\n", "v, line 2: 0 numbers after the word, expected 2"),
        (b"a 1 2\n\nb 1 2\n", "v, line 2: an empty line"),
        (b"a 1 2\nb 1 x\n", "v, line 2: 'x' is not a finite number"),
        (b"a 1 2\nb 1 1_0\n", "v, line 2: '1_0' is not a finite number"),
        (b"a 1 2\nb 1 nan\n", "v, line 2: a number is not finite"),
        (b"a 1 2\nb 1 1e39\n", "v, line 2: a number is not finite"),
        (b"2 2\na 1 2\na 3 4\n", "v, line 3: the word 'a' was on line 2 already"),
        (b"a 1 2\n\xff 3 4\n", r"v, line 2: the word b'\\xff' is not UTF-8"),
        (b"0 5\n", "v, line 1: '0 5', expected a header"),
        (gzip.compress(os.urandom(999))[:500], "v: a damaged or truncated gzip file"),
        (b"3 4\na \x00\x01\x80?\x9a\x99\x19?\x00\x00\x00@\n", "v: ends after 0 words, expected 3"),
        (b"b 1 2\na \x00\x01\x80? 2\n", "v, line 2: .*; word2vec's binary form has a header"),
        (b"the 1 2\n 3 4\n", "v, line 2: '3 4' begins with an empty word"),
        (b"the 1 2\na 3\xc2\xa04 5\n", r"v, line 2: '3\\xa04' is not a finite number"),
        ("the 1 2\n".encode("utf-16"), "v: begins with the byte-order mark of UTF-16"),
    ],
)
def test_faults_name_the_file_and_the_line(tmp_path, content, fault):
    (tmp_path / "v").write_bytes(content)
    with pytest.raises(InputError, match=fault) as error:
        read_word_vectors(tmp_path / "v")
    assert "\n" not in str(error.value)


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_word_vectors(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("words", "vectors", "fault"),
    [
        (["a b"], [[1.0]], "word 0, 'a b', is empty or holds white space"),
        (["a", ""], [[1.0], [1.0]], "word 1, '', is empty"),
        (["a\tb"], [[1.0]], "is empty or holds white space"),
        (["a\ud800"], [[1.0]], "v: .* has half of a surrogate pair"),
        ("ab", [[1.0], [2.0]], "v: words are the string 'ab', expected a list of words"),
        (["a", "a"], [[1.0], [2.0]], "word 1, 'a', occurs twice"),
        (["a", "b"], [[1.0]], r"2 words for vectors of shape \(1, 1\)"),
        (["a"], [1.0], r"1 words for vectors of shape \(1,\)"),
        ([], np.zeros((0, 3)), r"0 words for vectors of shape \(0, 3\)"),
        (["a", "b"], [[1.0], [np.nan]], r"the vector of 'b' \(row 1\) is not finite"),
        (["a"], [[1e39]], r"the vector of 'a' \(row 0\) is not finite"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_what_cannot_be_written(tmp_path, words, vectors, fault):
    with pytest.raises(InputError, match=fault):
        write_word_vectors(tmp_path / "v", words, np.array(vectors))
    assert not list(tmp_path.iterdir())


def test_an_unknown_form(tmp_path):
    with pytest.raises(InputError, match="form 'fasttext', expected 'word2vec', 'glove', 'w"):
        write_word_vectors(tmp_path / "v", ["a"], np.ones((1, 1)), "fasttext")


def binary(words, vectors_VD, end=b"\n"):
    """The form as word2vec's program writes it, byte by byte."""
    rows = [
        word.encode() + b" " + struct.pack(f"<{len(row)}f", *row) + end
        for word, row in zip(words, vectors_VD, strict=True)
    ]
    return f"{len(words)} {len(vectors_VD[0])}\n".encode() + b"".join(rows)


@pytest.mark.parametrize("end", [b"\n", b""])
@pytest.mark.parametrize("name", ["v", "v.gz"])
def test_the_binary_form(tmp_path, monkeypatch, name, end):
    monkeypatch.setattr("jaxgen.interop.binary_vectors._READ_TOGETHER", 100)
    words = [f"wörd{i}" for i in range(200)]
    vectors_VD = np.random.default_rng(0).normal(size=(200, 5)).astype(np.float32)
    content = binary(words, vectors_VD.tolist(), end)
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    read_words, read_VD = read_word_vectors(tmp_path / name)
    assert read_words == tuple(words)
    np.testing.assert_array_equal(read_VD, vectors_VD)
    few_words, few_VD = read_word_vectors(tmp_path / name, limit=7)
    assert few_words == tuple(words[:7])
    np.testing.assert_array_equal(few_VD, vectors_VD[:7])
    if end and name == "v":
        write_word_vectors(tmp_path / "w", words, vectors_VD, form="word2vec-binary")
        assert (tmp_path / "w").read_bytes() == content
    # A few vectors, none of whose bytes tells: the name or the caller does.
    (tmp_path / "few.bin").write_bytes(binary(["a"], [[0.3, 0.7]]))
    assert read_word_vectors(tmp_path / "few.bin")[0] == ("a",)
    assert read_word_vectors(tmp_path / "few.bin", binary=True)[0] == ("a",)


def test_limit_repeated_words_and_bytes_that_are_no_utf_8(tmp_path):
    path = tmp_path / "v"
    path.write_bytes(b"4 1\na 1\nb\xff 2\na 3\nc 4\n")
    for options, words, rows in [
        ({"limit": 1}, ("a",), [1]),
        ({"repeated": "first", "invalid": "skip"}, ("a", "c"), [1, 4]),
        ({"repeated": "first", "invalid": "replace"}, ("a", "b\ufffd", "c"), [1, 2, 4]),
        ({"limit": 2, "invalid": "replace"}, ("a", "b\ufffd"), [1, 2]),
    ]:
        read_words, vectors_VD = read_word_vectors(path, **options)
        assert read_words == words
        np.testing.assert_array_equal(vectors_VD[:, 0], rows)
    with pytest.raises(InputError, match=r"v, line 4: the word 'a' was on line 2 already"):
        read_word_vectors(path, invalid="skip")
    with pytest.raises(InputError, match=r"v, line 3: the word b'b\\xff' is not UTF-8"):
        read_word_vectors(path, repeated="first")
    two = tmp_path / "two.bin"
    two.write_bytes(binary(["a", "a"], [[1.0], [2.0]]))
    with pytest.raises(InputError, match=r"two\.bin, word 2: the word 'a' was on word 1 already"):
        read_word_vectors(two)


def test_binary_files_that_are_damaged(tmp_path):
    path = tmp_path / "v.bin"
    whole = binary(["a", "b"], [[1.0, 2.0], [3.0, 4.0]])
    for content, fault in [
        (whole[:-4], "ends after 1 words, expected 2 as the header says"),
        (whole + b"c", "has more than the 2 words"),
        (b"2 2\n" + whole[4:].replace(b"b ", b" "), "word 2: an empty word"),
        (binary(["a"], [[math.inf, 1.0]]), "word 1: a number is not finite"),
        (b"2 0\n", "line 1: b'2 0"),
    ]:
        path.write_bytes(content)
        with pytest.raises(InputError, match=fault):
            read_word_vectors(path)
    for options, fault in [
        ({"limit": 0}, "limit is 0"),
        ({"repeated": "last"}, "repeated is 'last'"),
        ({"invalid": "guess"}, "invalid is 'guess'"),
        ({"binary": True}, "expected a header"),
    ]:
        with pytest.raises(InputError, match=fault):
            read_word_vectors(path, **options)
