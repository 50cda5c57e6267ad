"""Our ARPA files as KenLM reads them."""

import numpy as np
import pytest

from jaxgen.interop.arpa import NgramTables, write_arpa
from jaxgen.lm.evaluation import span_probabilities
from jaxgen.lm.ngram import count_ngrams, fit_kneser_ney

kenlm = pytest.importorskip("kenlm", reason="kenlm (packages kenlm, ufal-kenlm) is not installed")


@pytest.mark.filterwarnings("ignore:Kneser-Ney discounts")
@pytest.mark.parametrize("interpolated", [True, False])
@pytest.mark.parametrize("order", [2, 3, 5])
def test_kenlm_computes_the_same_probabilities(tmp_path, order, interpolated):
    size = 50
    tokens = np.random.default_rng(order).zipf(1.5, 4000).clip(max=size) - 1
    words = [f"wörd{i}" for i in range(size)]
    minimum = [1, 1, 2, 2, 2][:order]
    model = fit_kneser_ney(count_ngrams(tokens[:3000], order, size), interpolated, minimum)
    path = tmp_path / "model.arpa"
    write_arpa(path, NgramTables(tuple(words), *model.tables()), sentence_marks=True)

    reader = kenlm.LanguageModel(str(path))
    state, scores = kenlm.State(), []
    reader.NullContextWrite(state)
    for token in tokens:
        following = kenlm.State()
        scores.append(reader.BaseScore(state, words[token], following))
        state = following
    expected = np.log10(span_probabilities(model, tokens, 0, len(tokens)))
    np.testing.assert_allclose(scores, expected, rtol=0, atol=3e-6)  # KenLM keeps float32
