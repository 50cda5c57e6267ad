"""The rules that all formats of text keep, held by every reader and writer of one."""

import gzip
import io

import numpy as np
import pytest

from jaxgen.data import Vocabulary, load_corpus, read_brown, read_plain_text, read_token_files
from jaxgen.errors import InputError
from jaxgen.interop.arpa import NgramTables, read_arpa, write_arpa
from jaxgen.interop.word_vectors import read_word_vectors, write_word_vectors
from jaxgen.text_rules import has_suffix, is_word, line_chunks, split_words

WORDS = ("a\u00a0b", "x\u3000y", "\u2028", "\x85", "\x1c", "e\u0301", "é", "\u200b", "a\ufeff")
"""Words with everything that Unicode calls white space and ASCII does not, and both forms of é."""


def read_tokens_in_a_folder(path):
    for part in ("valid", "test"):
        (path.parent / f"{part}.txt").write_text("a")
    path.rename(path.parent / "TRAIN.TXT")
    stream = read_token_files(path.parent, line_mark=None)
    return tuple(stream.tokens[: stream.spans["train"][1]])


def read_brown_in_a_folder(path):
    path.rename(path.parent / "CA01")
    return tuple(read_brown(path.parent, paragraph_mark=None).tokens)


ARPA = "\\data\\\nngram 1={}\n\n\\1-grams:\n{}\n\\end\\\n"
FORMATS = {  # the text of a file with certain words, and its reader
    "plain text": (" ".join, lambda path: tuple(read_plain_text(path).tokens)),
    "tokens": ("\n".join, read_tokens_in_a_folder),
    "Brown": (lambda words: "\t".join(f"{w}/nn" for w in words), read_brown_in_a_folder),
    "vocabulary": (lambda words: "\n".join(words) + "\n", lambda path: Vocabulary.load(path).words),
    "ARPA": (
        lambda words: ARPA.format(len(words), "\n".join(f"-1\t{word}" for word in words)),
        lambda path: read_arpa(path).words,
    ),
    "GloVe": (
        lambda words: "\n".join(f"{word} 1 2" for word in words),
        lambda path: read_word_vectors(path)[0],
    ),
    "word2vec": (
        lambda words: f"{len(words)} 2\n" + "\n".join(f"{word} 1 2" for word in words),
        lambda path: read_word_vectors(path)[0],
    ),
}


@pytest.mark.parametrize("name", FORMATS)
def test_all_formats_keep_the_rules(tmp_path, name):
    write, read = FORMATS[name]
    words = ("the", "cat", "12") if name == "plain text" else ("the", "cat", *WORDS, "12")
    text = write(words)
    spellings = {
        "plain": text.encode(),
        "mark": ("\ufeff" + text).encode(),
        "crlf": text.replace("\n", "\r\n").encode(),
        "cr": ("\ufeff" + text.replace("\n", "\r")).encode(),
        "gzip": gzip.compress(("\ufeff" + text).encode()),
    }
    for spelling, content in spellings.items():
        folder = tmp_path / spelling
        folder.mkdir()
        (folder / "file").write_bytes(content)
        assert read(folder / "file") == words, spelling
    for i, encoding in enumerate(("utf-16", "utf-16-be", "utf-32", "utf-32-be")):
        folder = tmp_path / str(i)
        folder.mkdir()
        mark = "" if encoding in ("utf-16", "utf-32") else "\ufeff"
        (folder / "file").write_bytes((mark + text).encode(encoding))
        with pytest.raises(InputError, match=rf"begins with .* mark of {encoding[:6].upper()}"):
            read(folder / "file")


def test_plain_text_decodes_the_encodings_that_it_is_told(tmp_path):
    for encoding in ("utf-16", "utf-32", "utf-8-sig", "utf-8"):
        (tmp_path / "t").write_bytes("\ufeffthe naïve\rcat".encode(encoding))
        assert read_plain_text(tmp_path / "t", encoding=encoding).tokens == ["the", "naïve", "cat"]


def test_writers_write_what_their_readers_give(tmp_path):
    vectors = np.arange(2.0 * len(WORDS)).reshape(-1, 2)
    for words in (WORDS, ("\ufefffirst", *WORDS[1:])):
        write_word_vectors(tmp_path / "v", words, vectors, "glove")
        assert read_word_vectors(tmp_path / "v")[0] == words
        Vocabulary((*words, "with spaces ", "\t")).save(tmp_path / "w")
        assert Vocabulary.load(tmp_path / "w").words == (*words, "with spaces ", "\t")
        ids, logs = np.arange(len(words))[:, None], np.full(len(words), -1.0)
        write_arpa(tmp_path / "a", NgramTables(words, (ids,), (logs,), (0 * logs,)))
        assert read_arpa(tmp_path / "a").words == words
    for word in ("a\nb", "a\rb", "a\0b", "a\ud800"):
        with pytest.raises(InputError, match=r"w: .*(line break|zero byte|surrogate)"):
            Vocabulary(("x", word)).save(tmp_path / "w")


def test_words_of_a_corpus_go_through_all_files(tmp_path):
    (tmp_path / "PTB.TRAIN.TXT.GZ").write_bytes(gzip.compress("\n".join(WORDS * 3).encode()))
    for part in ("VALID", "test"):
        (tmp_path / f"ptb.{part}.txt").write_text(f"{WORDS[0]} {WORDS[2]}\n", "utf-8")
    vocabulary = load_corpus(tmp_path).vocabulary
    assert set(WORDS) < set(vocabulary.words)
    vocabulary.save(tmp_path / "vocabulary")
    assert Vocabulary.load(tmp_path / "vocabulary") == vocabulary
    write_word_vectors(tmp_path / "v", vocabulary.words, np.ones((len(vocabulary), 2)))
    assert read_word_vectors(tmp_path / "v")[0] == vocabulary.words


def test_the_pieces():
    text = b"\xef\xbb\xbfone\r\ntwo\rthree\n\n\r\nfour\r"
    for size in (1, 4, 5, 6, 7, 100):
        lines = [line for lines in line_chunks(io.BytesIO(text), "t", size) for line in lines]
        assert lines == [b"one", b"two", b"three", b"", b"", b"four"]
    assert list(line_chunks(io.BytesIO(b""), "t", 10)) == []
    assert split_words(" a\u00a0b\tc\x0b\x0cd\r\n") == ["a\u00a0b", "c", "d"]
    assert [is_word(word) for word in ("a", "a\u2003b", "", " a", "a b")] == [
        *(True, True, False, False, False)
    ]
    assert has_suffix("A.TxT", ".txt", ".gz")
    assert not has_suffix("txt", ".txt")
