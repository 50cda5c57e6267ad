"""New words: the paper's formula, what must not change, and words held out of a class grammar."""

import functools

import numpy as np
import pytest
from class_grammar import CLASSES, grammar, trained_params
from placed_params import drawn_params

from jaxgen.errors import InputError
from jaxgen.lm.network import NetworkModel
from jaxgen.lm.nplm import NPLMConfig
from jaxgen.lm.outputs.energy import EnergyNPLMConfig
from jaxgen.lm.outputs.oov import add_words, context_weights, extend_vocabulary
from jaxgen.lm.outputs.short_list import ShortListConfig
from jaxgen.lm.word_maps import neighbours, word_features

V, KNOWN = 30, 5
"""Words that the networks learn, and how many of each class."""

CONFIGS = {
    "softmax": NPLMConfig(V, order=3, features=8, hidden=48),
    "direct, padded": NPLMConfig(V, order=3, features=8, hidden=8, direct=True, output_blocks=4),
    "energy": EnergyNPLMConfig(V, order=3, features=8, hidden=48),
    "energy, padded": EnergyNPLMConfig(V, order=3, features=8, hidden=8, output_blocks=4),
}
RNG = np.random.default_rng(0)
CONTEXTS = [RNG.integers(0, V, (n, 2), dtype=np.int32) for n in (1, 4, 600)]


def windows_of_known_words(length, seed):
    """Windows of a text with six words a class, the sixth held out: (known, held-out targets).

    Contexts have known words alone. In the first, words are numbered without the held-out ones;
    the second are (class, window) pairs.
    """
    windows = np.lib.stride_tricks.sliding_window_view(grammar(length, seed, KNOWN + 1)[0], 3)
    word_class, rank = windows // (KNOWN + 1), windows % (KNOWN + 1)
    known = rank < KNOWN
    renumbered = (KNOWN * word_class + rank).astype(np.int32)
    both = known[:, :2].all(1)
    unseen = both & ~known[:, 2]
    return renumbered[both & known[:, 2]], [
        renumbered[unseen & (word_class[:, 2] == c), :2] for c in range(CLASSES)
    ]


@functools.cache
def trained(name):
    return trained_params(CONFIGS[name], windows_of_known_words(20_000, 1)[0])


def random_params(name, seed=0):
    params = drawn_params(CONFIGS[name], seed, 0.7)
    for key in ("U", "W", "b", "C"):
        if key in params:
            axis = -1 if key in "UW" else 0
            np.moveaxis(params[key], axis, 0)[V:] = 0
    return params


def model_of(config, params):
    return NetworkModel(config.make_model(), params)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_new_word_is_the_mean_of_what_its_contexts_expect(name):
    """C(j) = mean over contexts of sum_i P(i | c) C(i), written out; and so b, U and W."""
    config, params = CONFIGS[name], random_params(name)
    larger, extended = extend_vocabulary(config, params, CONTEXTS)
    assert larger.vocabulary_size == V + 3
    assert type(larger) is type(config)
    model = model_of(config, params)
    leaves = {**params, **params.get("context", {})}
    new = {**extended, **extended.get("context", {})}
    for j, contexts in enumerate(CONTEXTS):
        mean_V = np.mean([model.distributions(c[None])[0] for c in contexts], axis=0)
        for key in {"C", "b", "U", "W"} & set(leaves):
            by_word = lambda x, key=key: np.moveaxis(np.asarray(x), -1 if key in "UW" else 0, 0)  # noqa: E731
            expected = sum(mean_V[i] * by_word(leaves[key])[i] for i in range(V))
            np.testing.assert_allclose(by_word(new[key])[V + j], expected, rtol=1e-4, atol=1e-6)
            assert np.array_equal(by_word(new[key])[:V], by_word(leaves[key])[:V])
            assert not np.any(by_word(new[key])[V + 3 :])
    for key in {"H", "d", "v"} & set(leaves):
        assert np.array_equal(new[key], leaves[key])


@pytest.mark.parametrize("name", CONFIGS)
def test_old_words_keep_their_ratios_and_all_sum_to_one(name):
    config, params = CONFIGS[name], random_params(name)
    before = model_of(config, params).distributions(CONTEXTS[2])
    after_model = model_of(*extend_vocabulary(config, params, CONTEXTS))
    after = after_model.distributions(CONTEXTS[2])
    assert after.shape == (600, V + 3)
    np.testing.assert_allclose(after.sum(1), 1, rtol=1e-12)
    assert after[:, V:].min() > 0
    kept = after[:, :V].sum(1, keepdims=True)
    np.testing.assert_allclose(after[:, :V] / kept, before, rtol=2e-5)
    # New words are words: they may stand in contexts, of which each changes the prediction.
    new_contexts = np.array([[V, 0], [V + 1, 0], [0, V + 2]], np.int32)
    predictions = after_model.distributions(new_contexts)
    assert np.abs(predictions[0] - predictions[1]).max() > 1e-3


@pytest.mark.parametrize("name", ["softmax", "direct, padded"])
def test_in_the_softmax_network_it_is_the_geometric_mean_of_its_like(name):
    config, params = CONFIGS[name], random_params(name)
    weights = context_weights(config, params, CONTEXTS[:2])
    np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-12)
    log_p = np.log(model_of(*add_words(config, params, weights)).distributions(CONTEXTS[2]))
    np.testing.assert_allclose(log_p[:, V:], log_p[:, :V] @ weights.T, rtol=1e-4)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_copy_of_a_word_behaves_as_the_word(name):
    config, params = CONFIGS[name], random_params(name)
    copies = np.eye(V)[[7, 21]]
    model = model_of(*add_words(config, params, copies))
    p_NV = model.distributions(CONTEXTS[2])
    np.testing.assert_allclose(p_NV[:, V:], p_NV[:, [7, 21]], rtol=2e-5)
    swapped = np.where(CONTEXTS[2] == 7, V, CONTEXTS[2])
    assert np.any(swapped != CONTEXTS[2])
    np.testing.assert_allclose(model.distributions(swapped), p_NV, rtol=2e-5)


@pytest.mark.parametrize("name", ["softmax", pytest.param("energy", marks=pytest.mark.slow)])
def test_held_out_words_find_their_class(name):
    """One word of each class is never seen in training; a second text shows 16 to 50 contexts.

    Half of them make the word. Its nearest words are of its class, and in the other half it is
    likelier than words mixed at random, by 0.4 nats on average.
    """
    config, params = CONFIGS[name], trained(name)
    contexts = windows_of_known_words(4_000, 2)[1]
    first, second = [c[::2] for c in contexts], [c[1::2] for c in contexts]
    larger, extended = extend_vocabulary(config, params, first)
    table = word_features(extended, V + CLASSES)
    _, ids = neighbours(table, np.arange(V, V + CLASSES), 3)
    class_of = np.concatenate([np.arange(V) // KNOWN, np.arange(CLASSES)])
    right = class_of[ids] == np.arange(CLASSES)[:, None]
    assert right.mean() >= 0.75
    model = model_of(larger, extended)

    def mean_log_probability(model):
        words = enumerate(second, start=V)
        return np.mean(
            [np.log(model.probabilities(c, np.full(len(c), w))).mean() for w, c in words]
        )

    random_weights = np.random.default_rng(1).dirichlet(np.ones(V), size=(5, CLASSES))
    at_random = [
        mean_log_probability(model_of(*add_words(config, params, weights)))
        for weights in random_weights
    ]
    assert mean_log_probability(model) > np.max(at_random) + 0.4


def test_what_cannot_be_extended():
    config, params = CONFIGS["softmax"], random_params("softmax")
    with pytest.raises(InputError, match="new word 1 has no contexts"):
        extend_vocabulary(config, params, [CONTEXTS[0], CONTEXTS[0][:0]])
    with pytest.raises(InputError, match="contexts contain the id 30"):
        extend_vocabulary(config, params, [np.array([[3, 30]])])
    with pytest.raises(InputError, match="contexts contain -1"):
        extend_vocabulary(config, params, [np.array([[3, -1]])])
    with pytest.raises(InputError, match=r"weights have shape \(2, 29\), expected \[J, 30\]"):
        add_words(config, params, np.ones((2, 29)) / 29)
    with pytest.raises(InputError, match="do not sum to one"):
        add_words(config, params, np.ones((2, 30)))
    with pytest.raises(InputError, match="expected"):
        extend_vocabulary(config, params, [])
    short = ShortListConfig(V, order=3, short_list=10)
    with pytest.raises(InputError, match="a ShortListConfig has no parameters of its own"):
        extend_vocabulary(short, params, CONTEXTS)
