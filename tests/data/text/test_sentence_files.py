import gzip

import numpy as np
import pytest

from jaxgen.data.text.sentence_files import (
    encode_sentences,
    load_sentences,
    read_sentences,
    sentence_vocabulary,
)
from jaxgen.errors import InputError


def test_a_line_is_a_sentence(tmp_path):
    path = tmp_path / "text"
    text = "a  b\tc\r\n\n<s> d é </s>\n<s>\n  \nlast\u00a0one"
    for content in (text.encode(), gzip.compress(text.encode())):
        path.write_bytes(content)
        expected = [["a", "b", "c"], ["d", "é"], ["last\u00a0one"]]
        assert read_sentences(path) == expected
    path.write_bytes(text.encode("utf-16"))
    assert read_sentences(path, "utf-16") == expected
    for content, message in [
        (b"a b\na <s> b\n", "text, line 2: <s> among the words of a sentence"),
        (b"</s> a\n", "text, line 1: </s> among"),
        (b"\n \n", "no words, only white space"),
        (b"", "the file is empty"),
        (b"\xff\n", "not utf-8 text: byte 0xff at offset 0"),
    ]:
        path.write_bytes(content)
        with pytest.raises(InputError, match=message):
            read_sentences(path)


def test_the_vocabulary_and_the_stream():
    sentences = [["a", "b", "a"], ["c", "a"], ["b"]]
    vocabulary = sentence_vocabulary(sentences)
    assert vocabulary.words == ("<unk>", "<s>", "</s>", "a", "b", "c")
    np.testing.assert_array_equal(
        encode_sentences(sentences, vocabulary), [3, 4, 3, 2, 5, 3, 2, 4, 2]
    )
    assert sentence_vocabulary(sentences, cutoff=1).words[3:] == ("a", "b")
    assert sentence_vocabulary(sentences, maximum_size=4).words[3:] == ("a",)
    assert sentence_vocabulary([["<unk>", "a"]]).words == ("<unk>", "<s>", "</s>", "a")
    with pytest.raises(InputError, match="maximum_size is 3"):
        sentence_vocabulary(sentences, maximum_size=3)


def test_parts_end_where_sentences_do(tmp_path):
    rng = np.random.default_rng(0)
    lines = [" ".join(rng.choice(list("abcdefgh"), n)) for n in rng.integers(1, 9, 200)]
    path = tmp_path / "text"
    path.write_text("\n".join(lines), "latin-1")
    corpus = load_sentences(path, split=(0.5, 0.25), cutoff=0, encoding="latin-1")
    end, start = (corpus.vocabulary.words.index(mark) for mark in ("</s>", "<s>"))
    stops = [stop for _, stop in corpus.spans.values()]
    assert (corpus.tokens[np.array(stops) - 1] == end).all()
    assert not (corpus.tokens == start).any()
    total = sum(len(line.split()) + 1 for line in lines)
    assert stops[2] == total
    assert 0 <= stops[0] - total / 2 < 9
    assert 0 <= stops[1] - 0.75 * total < 9
    by_words = load_sentences(path, split=(100, 50))
    assert [0 <= s - w < 9 for (_, s), w in zip(by_words.spans.values(), (100, 150), strict=False)]
    path.write_text("a b\nc d\na new\n")
    few = load_sentences(path, split=(0.3, 0.3), cutoff=0, vocabulary_from="train")
    assert few.vocabulary.words[3:] == ("a", "b")
    path.write_text("a b c d e f\ng h i j k l\n")
    with pytest.raises(InputError, match="2 sentences are too few for three parts"):
        load_sentences(path)
