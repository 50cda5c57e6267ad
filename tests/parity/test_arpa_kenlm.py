"""Our ARPA files as KenLM reads them."""

import numpy as np
import pytest

from jaxgen.interop.arpa import NgramTables, read_arpa, write_arpa
from jaxgen.lm.evaluation import span_probabilities
from jaxgen.lm.ngram import BackoffModel, count_ngrams, fit_kneser_ney

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


KENLM = """\\data\\
ngram 1=6
ngram 2=4

\\1-grams:
-1.0\t{unknown}\t-0.7
{start}\t<s>\t-0.30103
-0.8\t</s>\t0
-0.5\tb\t-0.1
-0.25\ta\t-0.2
-1.5\tc\u00a0d

\\2-grams:
-0.3\t<s> a\t0
-0.6\ta b
-0.9\tb {unknown}
-0.2\t{unknown} a

\\end\\
"""


@pytest.mark.parametrize("unknown", ["<unk>", "<UNK>"])
@pytest.mark.parametrize("start", ["0", "-99"])
def test_we_read_files_as_kenlm_does(tmp_path, unknown, start):
    path = tmp_path / "model.arpa"
    path.write_text(KENLM.format(unknown=unknown, start=start), "utf-8")
    tables = read_arpa(path)
    size = len(tables.words)
    model = BackoffModel.from_tables(
        tables.ngrams, tables.log10_probabilities, tables.log10_backoffs, size
    )
    reader = kenlm.LanguageModel(str(path))
    for context in range(size):
        before, state = kenlm.State(), kenlm.State()
        reader.NullContextWrite(before)
        reader.BaseScore(before, tables.words[context], state)
        scores = [reader.BaseScore(state, word, kenlm.State()) for word in tables.words]
        with np.errstate(divide="ignore"):
            ours = np.log10(model.distributions(np.array([[context]]))[0])
        # -99 is zero here; KenLM adds to it.
        np.testing.assert_allclose(np.maximum(ours, -99), np.maximum(scores, -99), atol=1e-6)
