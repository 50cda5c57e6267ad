"""Which text the flags of the language-model programs ask for, and training by sentence."""

import jax
import numpy as np
import pytest
from random_text import sentences

from experiments.lm import bengio2003, nplm
from experiments.lm.support.language_modelling import make_batch, marks_of, own_contexts
from experiments.shared.launch import parse_flags
from jaxgen.errors import InputError
from jaxgen.interop.word_vectors import write_word_vectors
from jaxgen.lm import windows
from jaxgen.parallel import make_mesh


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    lines = [" ".join(words) for words in sentences(300)]
    path.write_bytes("\n".join(["é", *lines, "only once"]).encode("latin-1"))
    return path


def corpus_of(*flags):
    return nplm.read_corpus(parse_flags(nplm.Config, [str(flag) for flag in flags]))


def test_encoding_cutoff_words_and_parts(text):
    flags = ("--corpus", text, "--encoding", "latin-1", "--cutoff", 0)
    corpus = corpus_of(*flags)
    assert "once" in corpus.vocabulary
    assert corpus.spans["train"] == (0, round(0.8 * len(corpus.tokens)))
    fewer = corpus_of(*flags, "--vocabulary-from", "train", "--split", "0.5", "0.25")
    assert fewer.spans["train"] == (0, round(0.5 * len(corpus.tokens)))
    assert "once" not in fewer.vocabulary
    assert corpus_of(*flags, "--split", 700, 300).spans["validation"] == (700, 1000)
    with pytest.raises(InputError, match="not utf-8 text"):
        corpus_of("--corpus", text)
    with pytest.raises(InputError, match="encoding is latin-1, expected utf-8 of a corpus of b"):
        corpus_of("--encoding", "latin-1")
    other = parse_flags(
        bengio2003.Config,
        f"--corpus {text} --encoding latin-1 --cutoff 1 --vocabulary-from train "
        "--split 0.7 0.2".split(),
    )
    assert (other.encoding, other.cutoff, other.vocabulary_from) == ("latin-1", 1, "train")
    assert other.split == (0.7, 0.2)


def test_what_no_run_could_use_is_refused_before_anything_is_estimated(text, monkeypatch):
    def no_estimate(*arguments):
        raise AssertionError("something was estimated")

    for name in ("count_ngrams", "fit_kneser_ney", "fit_interpolated"):
        monkeypatch.setattr(nplm, name, no_estimate)
    own = ("--corpus", text, "--encoding", "latin-1")
    for flags, message in [
        ((*own, "--sentences", "--cutoff", 100000), "cutoff is 100000, expected less"),
        (("--sentences",), "corpus is builtin with sentences on, expected a text file"),
        (("--corpus", text.parent, "--sentences"), "with sentences on, expected a text file"),
        ((*own, "--split", 10, 5), "batch_size is 256, expected at most"),
    ]:
        config = parse_flags(nplm.Config, [str(flag) for flag in flags])
        with (
            pytest.raises(InputError, match=message),
            jax.set_mesh(make_mesh("data=1", jax.devices()[:1])),
        ):
            nplm.main(config)


def test_sentences_are_batched_by_themselves(text):
    flags = ("--corpus", text, "--encoding", "latin-1", "--cutoff", 0)
    assert marks_of(corpus_of(*flags)) is None
    corpus = corpus_of(*flags, "--sentences")
    marks = marks_of(corpus)
    assert corpus.vocabulary.words[marks.start] == "<s>"
    positions = np.arange(10, 200)
    batch = make_batch(corpus.tokens, positions, 4, marks)
    assert not (batch["contexts"] == marks.end).any()
    np.testing.assert_array_equal(batch["targets"], corpus.tokens[positions])
    after_end = corpus.tokens[positions - 1] == marks.end
    assert (batch["contexts"][after_end] == marks.start).all()
    assert (batch["contexts"][~after_end, -1] == corpus.tokens[positions - 1][~after_end]).all()
    same = own_contexts(windows(corpus.tokens, 4, 10, 200), marks)
    np.testing.assert_array_equal(batch["contexts"], same)


def test_vectors_of_another_width_or_other_words(text, tmp_path):
    flags = ("--corpus", text, "--encoding", "latin-1", "--features", 3)
    corpus = corpus_of(*flags)
    path = tmp_path / "vectors.bin"
    words = [*corpus.vocabulary.words[2:5], "elsewhere"]
    write_word_vectors(path, words, np.eye(4, 3), form="word2vec-binary")

    def chosen(*more):
        config = parse_flags(nplm.Config, [str(f) for f in (*flags, "--vectors", path, *more)])
        return nplm.chosen_vectors(config, corpus)

    found, vectors = chosen()
    assert found == words[:3]
    np.testing.assert_array_equal(vectors, np.eye(3))
    with pytest.raises(InputError, match="vectors of 3 numbers, expected 5, the network's"):
        chosen("--features", 5)
