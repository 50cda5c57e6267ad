import dataclasses

import numpy as np
import pytest

from jaxgen.errors import InputError
from jaxgen.lm.evaluation import perplexity, span_probabilities


@dataclasses.dataclass(frozen=True)
class Table:
    """P(w | previous word) read from a table; the last row is for "no word"."""

    table_VV: np.ndarray
    order: int = 2

    @property
    def vocabulary_size(self):
        return self.table_VV.shape[1]

    def probabilities(self, contexts_NL, targets_N):
        return self.table_VV[contexts_NL[:, -1], targets_N]

    def distributions(self, contexts_NL):
        return self.table_VV[contexts_NL[:, -1]]


TABLE = Table(np.array([[0.5, 0.5], [0.25, 0.75], [0.9, 0.1]]))
TEXT = np.array([0, 0, 1, 1, 0])


def test_perplexity_is_the_inverse_geometric_mean():
    expected = (0.9 * 0.5 * 0.5 * 0.75 * 0.25) ** (-1 / 5)
    assert perplexity(TABLE, TEXT, 0, 5) == pytest.approx(expected, rel=1e-14)
    assert perplexity(TABLE, TEXT, 3, 5) == pytest.approx((0.75 * 0.25) ** -0.5, rel=1e-14)


@pytest.mark.parametrize("batch", [1, 2, 5, 100])
def test_the_batch_changes_nothing_and_progress_counts_positions(batch):
    done = []
    got = span_probabilities(TABLE, TEXT, 1, 5, batch=batch, progress=done.append)
    np.testing.assert_array_equal(got, [0.5, 0.5, 0.75, 0.25])
    assert sum(done) == 4


def test_a_word_of_probability_zero_makes_the_perplexity_infinite():
    assert perplexity(Table(np.array([[1.0, 0.0]] * 3)), TEXT, 1, 5) == np.inf


def test_bad_spans_and_batches_are_refused():
    with pytest.raises(InputError, match="empty"):
        perplexity(TABLE, TEXT, 3, 3)
    with pytest.raises(InputError, match="5 tokens"):
        perplexity(TABLE, TEXT, 3, 6)
    with pytest.raises(InputError, match="batch is 0"):
        perplexity(TABLE, TEXT, 0, 5, batch=0)
