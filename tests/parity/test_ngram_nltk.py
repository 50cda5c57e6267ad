"""Kneser-Ney with a single discount against nltk.lm."""

import numpy as np
import pytest

from jaxgen.lm.ngram import count_ngrams, fit_kneser_ney

nltk_lm = pytest.importorskip("nltk.lm", reason="nltk (the [parity] extra) is not installed")


@pytest.mark.parametrize("order", [2, 3, 4])
def test_interpolated_kneser_ney(order):
    from nltk.util import everygrams

    size, discount = 8, 0.4
    rng = np.random.default_rng(order)
    tokens = rng.integers(0, size, 150)
    # nltk takes the types after a context from raw counts, the definition from continuation counts:
    # they differ for n-grams found only at the start, so the start occurs again.
    tokens = np.concatenate([tokens, tokens[: 2 * order]])
    names = [str(word) for word in tokens]
    reference = nltk_lm.KneserNeyInterpolated(order, discount=discount)
    reference.fit([list(everygrams(names, max_len=order))], [str(word) for word in range(size)])

    # nltk discounts unigrams by nothing.
    discounts = [(0.0, 0.0, 0.0)] + [(discount,) * 3] * (order - 1)
    model = fit_kneser_ney(count_ngrams(tokens, order, size), discounts=discounts)
    starts = rng.integers(0, len(tokens) - order, 15)
    seen = np.stack([tokens[s : s + order - 1] for s in starts])
    got = model.distributions(seen)
    expected = [
        [reference.score(str(w), [str(c) for c in context]) for w in range(size)]
        for context in seen
    ]
    np.testing.assert_allclose(got, expected, rtol=1e-12)
