"""The short list: s outputs and elsewhere, with an n-gram tail."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from ngram_references import random_text, some_contexts
from placed_params import drawn_params

from jaxgen.errors import InputError
from jaxgen.lm import perplexity, windows
from jaxgen.lm.network import NetworkModel
from jaxgen.lm.ngram import count_ngrams, fit_kneser_ney
from jaxgen.lm.outputs.short_list import ShortListConfig, ShortListModel, tail_probabilities

V, S, ORDER = 14, 5, 3
TEXT = random_text(seed=4, length=400, vocabulary_size=V)
CONFIG = ShortListConfig(V, ORDER, features=3, hidden=4, direct=True, short_list=S)
TAIL = fit_kneser_ney(count_ngrams(TEXT, 2, V), discounts=[(0.5, 0.8, 0.9)] * 2)


NETWORK = NetworkModel(CONFIG.make_model(), drawn_params(CONFIG, 3))
MODEL = ShortListModel(NETWORK, TAIL)
CONTEXTS = np.maximum(some_contexts(0, TEXT, ORDER, V), 0)


def test_distributions_share_the_mass_of_elsewhere_as_the_tail_would():
    found = MODEL.distributions(CONTEXTS)
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-6)
    outputs, tail = NETWORK.distributions(CONTEXTS), TAIL.distributions(CONTEXTS)
    np.testing.assert_allclose(found[:, :S], outputs[:, :S], rtol=1e-6)
    np.testing.assert_allclose(found[:, S:].sum(axis=1), outputs[:, S], rtol=1e-6)
    for v in range(S + 1, V):  # odds within the tail are the tail model's
        odds = tail[:, v] / tail[:, S]
        np.testing.assert_allclose(found[:, v] / found[:, S], odds, rtol=1e-6)


def test_probabilities_are_those_of_the_distributions():
    targets = np.random.default_rng(0).integers(0, V, len(CONTEXTS))
    targets[:2] = S - 1, S
    found = MODEL.probabilities(CONTEXTS, targets)
    expected = MODEL.distributions(CONTEXTS)[np.arange(len(targets)), targets]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    inside = np.full(len(CONTEXTS), 2)
    np.testing.assert_allclose(
        MODEL.probabilities(CONTEXTS, inside), NETWORK.distributions(CONTEXTS)[:, 2], rtol=1e-5
    )


def test_perplexity_splits_into_the_network_and_a_constant():
    """-log P = -log P_net(output), what training lowers, plus the tail's share, which is fixed."""
    start, stop = 200, 260
    contexts, targets = windows(TEXT, ORDER, start, stop), TEXT[start:stop]
    loss_of = lambda p: CONFIG.make_model().apply({"params": p}, contexts, targets, method="loss")  # noqa: E731
    loss, nll_B = jax.jit(loss_of)(NETWORK.params)
    outside = targets >= S
    assert 5 < outside.sum() < 50
    tail_N = tail_probabilities(TAIL, S, contexts[outside], targets[outside])
    tail_nll = -np.log(tail_N).sum()
    total = np.log(perplexity(MODEL, TEXT, start, stop)) * (stop - start)
    np.testing.assert_allclose(nll_B.sum() + tail_nll, total, rtol=1e-5)
    np.testing.assert_allclose(loss, nll_B.mean(), rtol=1e-6)


def test_a_tail_without_probability_outside_the_list_is_taken_as_uniform():
    @dataclasses.dataclass(frozen=True)
    class Nothing:
        order: int = 1
        vocabulary_size: int = V

        def distributions(self, contexts_NL):
            return np.tile(np.eye(V)[0], (len(contexts_NL), 1))

    found = ShortListModel(NETWORK, Nothing()).distributions(CONTEXTS)
    elsewhere = NETWORK.distributions(CONTEXTS)[:, -1:]
    np.testing.assert_allclose(found[:, S:], np.tile(elsewhere / (V - S), V - S), rtol=1e-6)


def test_the_network_has_s_plus_one_outputs_and_rows_for_all_words():
    params = NETWORK.params
    assert params["context"]["C"].shape == (V, 3)
    assert params["U"].shape == (4, S + 1)
    assert sum(p.size for p in jax.tree.leaves(params)) == CONFIG.parameter_count
    assert CONFIG.parameter_count == V * 3 + (S + 1) * (1 + 4 + 6) + 4 * (1 + 6)


def test_targets_outside_the_list_all_train_elsewhere():
    model, contexts = CONFIG.make_model(), CONTEXTS[:4]

    loss = lambda p, targets: model.apply({"params": p}, contexts, targets, method="loss")[0]  # noqa: E731
    gradient = functools.partial(jax.jit(jax.grad(loss)), NETWORK.params)
    one, other = gradient(np.array([5, 9, 13, 7])), gradient(np.array([13, 6, 5, 8]))
    jax.tree.map(np.testing.assert_array_equal, one, other)
    inside = gradient(np.array([0, 1, 2, 3]))
    assert np.abs(inside["b"] - one["b"]).max() > 0.1
    log_p = lambda p, targets: model.apply(  # noqa: E731
        {"params": p}, contexts, targets, method="log_probabilities"
    )
    log_p_B = jax.jit(log_p)(NETWORK.params, np.array([5, 9, 13, 7]))
    expected = np.log(NETWORK.distributions(contexts)[:, S])
    np.testing.assert_allclose(log_p_B, expected, rtol=1e-5)


@pytest.mark.parametrize("short_list", [0, V, V + 1])
def test_lists_that_are_empty_or_have_every_word_are_refused(short_list):
    with pytest.raises(InputError, match=rf"short_list is {short_list}, expected 1 to .* = 13"):
        ShortListConfig(V, ORDER, short_list=short_list)
    five_words = fit_kneser_ney(count_ngrams(TEXT % 5, 1, 5), discounts=[(0.5, 0.5, 0.5)])
    with pytest.raises(InputError, match="short_list is 5"):
        ShortListModel(NETWORK, five_words)
