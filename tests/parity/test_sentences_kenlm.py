"""Scores of sentences against KenLM's, word by word."""

import os
import pathlib

import numpy as np
import pytest

from jaxgen.data import encode_sentences, sentence_vocabulary
from jaxgen.interop.arpa import NgramTables, read_arpa, write_arpa
from jaxgen.lm import SentenceMarks, TextModel, score, score_sentences, score_text
from jaxgen.lm.ngram import count_ngrams, fit_kneser_ney, fit_witten_bell, prune

kenlm = pytest.importorskip("kenlm", reason="kenlm (packages kenlm, ufal-kenlm) is not installed")

FIVE_GRAMS = """\\data\\
ngram 1=7
ngram 2=6
ngram 3=4
ngram 4=2
ngram 5=1

\\1-grams:
-1.9\t<unk>\t-18
-99\t<s>\t-0.41
-1.1\t</s>
-1.2\ta\t-0.7
-1.4\tb\t-0.3
-1.6\tc\t-0.5
-2.5\td

\\2-grams:
-0.5\t<s> a\t-0.45
-0.1\ta b\t-0.65
-0.3\tb c\t-0.2
-0.6\tc </s>
-14\t<unk> <unk>\t-2
-4\t<unk> a\t-1

\\3-grams:
-0.35\t<s> a b\t-0.4
-0.02\ta b c\t-0.1
-0.2\tb c </s>
-6\t<unk> <unk> <unk>

\\4-grams:
-0.01\t<s> a b c\t-0.47
-0.15\ta b c </s>

\\5-grams:
-0.003\t<s> a b c </s>

\\end\\
"""


def compare(path, sentences, lengths=True):
    """The perplexity that both give, after every word was compared."""
    model, reader = TextModel.from_tables(read_arpa(path)), kenlm.LanguageModel(str(path))
    for marks in (True, False):
        theirs = [list(reader.full_scores(text, bos=marks, eos=marks)) for text in sentences]
        ours = score_sentences(model, sentences, start=marks, end=marks)
        for of_sentence, expected in zip(ours, theirs, strict=True):
            words = of_sentence.words
            assert len(words) == len(expected)
            np.testing.assert_allclose(
                [word.log10 for word in words], [p for p, _, _ in expected], rtol=0, atol=1e-5
            )
            if lengths:
                assert [w.ngram_length for w in words] == [length for _, length, _ in expected]
            assert [w.is_unknown for w in words] == [is_oov for _, _, is_oov in expected]
        if marks:
            log10 = [p for of_sentence in theirs for p, _, _ in of_sentence]
            for text, of_sentence in zip(sentences, ours, strict=True):
                assert of_sentence.perplexity == pytest.approx(reader.perplexity(text), rel=1e-5)
    together = score_text(model, sentences)
    assert together.perplexity == pytest.approx(10 ** -np.mean(log10), rel=1e-5)
    return together.perplexity


def random_sentences(words, count, seed=0):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(words, rng.integers(1, 9))) for _ in range(count)]


def test_a_file_of_five_orders(tmp_path):
    path = tmp_path / "model.arpa"
    path.write_text(FIVE_GRAMS)
    texts = ["a b c", "a b", "b c", "x y z", "x a b c", *random_sentences([*"aaabbbcccdx"], 60)]
    compare(path, texts)
    # By hand: "a b c </s>" after <s> is listed whole.
    model = TextModel.from_tables(read_arpa(path))
    assert score(model, "a b c").perplexity == pytest.approx(10 ** ((0.5 + 0.35 + 0.013) / 4))


@pytest.mark.filterwarnings("ignore:Kneser-Ney discounts")
def test_models_of_sentences_that_we_estimated(tmp_path):
    words = [f"w{i}" for i in np.random.default_rng(1).zipf(1.5, 3000).clip(max=60)]
    text = [words[i : i + 6] for i in range(0, 3000, 6)]
    vocabulary = sentence_vocabulary(text, cutoff=1)
    tokens = encode_sentences(text, vocabulary)
    marks = SentenceMarks(*vocabulary.encode(["<s>", "</s>"]).tolist())
    counts = count_ngrams(tokens, 4, len(vocabulary), marks)
    models = [fit_kneser_ney(counts), fit_witten_bell(counts, interpolated=False)]
    pruned = prune(models[1], 1e-4, marks)
    for estimated in (*models, pruned):
        path = tmp_path / "model.arpa"
        write_arpa(path, NgramTables(vocabulary.words, *estimated.tables()))
        sentences = [" ".join(line) for line in text[:20]]
        sentences += random_sentences([*words[:50], "new"], 20)
        # Of a pruned model KenLM adds the ends of n-grams where they are not listed, and counts
        # them as found, with the probability that they have without.
        perplexity = compare(path, sentences, lengths=estimated is not pruned)
        assert 5 < perplexity < 60


def test_kenlms_own_file():
    folder = os.environ.get("JAXGEN_DATA")
    path = pathlib.Path(folder or "") / "kenlm" / "test.arpa"
    if not path.is_file():
        pytest.skip("JAXGEN_DATA has no kenlm/test.arpa (lm/test.arpa of KenLM's sources)")
    compare(path, random_sentences(["looking", "on", "a", "little", "more", "loin", "x"], 200))
