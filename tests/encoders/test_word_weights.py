"""Weights of words on states: against the sums, and what stays as it is."""

import numpy as np
import pytest

from jaxgen.encoders.word_weights import weigh_states
from jaxgen.errors import InputError


def test_states_are_scaled_and_keep_their_mean():
    generator = np.random.default_rng(0)
    states_BLD = generator.normal(0.5, 1, size=(3, 5, 4)).astype(np.float32)
    weights_BL = np.ones((3, 5), np.float32)
    weights_BL[0, 2], weights_BL[1, 1:3] = 1.3, 0.5
    found = np.asarray(weigh_states(states_BLD, weights_BL))
    for b in range(2):
        scaled = states_BLD[b].astype(np.float64) * weights_BL[b][:, None]
        expected = scaled * states_BLD[b].mean() / scaled.mean()
        np.testing.assert_allclose(found[b], expected, rtol=1e-4)
        assert found[b].mean() == pytest.approx(states_BLD[b].mean(), rel=1e-4)
    np.testing.assert_array_equal(found[2], states_BLD[2])


def test_weights_of_other_texts():
    with pytest.raises(InputError, match=r"weights have shape \(2, 4\), expected \(2, 5\)"):
        weigh_states(np.ones((2, 5, 3), np.float32), np.ones((2, 4)))
