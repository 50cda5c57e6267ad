"""N-gram proposals on the device, against the interpolated n-gram of numpy and its counts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from ngram_references import random_text, some_contexts

from jaxgen.lm.ngram.counts import count_ngrams
from jaxgen.lm.ngram.interpolated import InterpolatedModel
from jaxgen.lm.ngram.interpolation_weights import frequency_bin_count
from jaxgen.lm.outputs.proposals import components, draw, look_up, make_proposal

V = 13
TEXT = random_text(seed=2, length=300, vocabulary_size=V)


def proposal_and_model(order):
    """Q, its mixture weights, and the same distribution as a numpy model."""
    counts = count_ngrams(TEXT, order, V)
    bins = frequency_bin_count(counts.tokens)
    weight_CJ = np.random.default_rng(3).dirichlet(np.ones(order + 1), size=bins)
    if order == 1:
        weight_CJ[:] = weight_CJ[0]
    proposal = make_proposal(counts)
    assert proposal.bins == (1 if order == 1 else bins)
    mixture_CJ = weight_CJ[: proposal.bins].astype(np.float32)
    return proposal, mixture_CJ, InterpolatedModel(counts, weight_CJ)


@functools.partial(jax.jit, static_argnames="count")
def draws(proposal, mixture_CJ, contexts_BL, seed, count):
    """Ids [B, count] from Q after each context."""
    state = look_up(proposal, contexts_BL, mixture_CJ)
    return draw(proposal, state, jax.random.key(seed), count)


def densities(proposal, mixture_CJ, contexts_BL):
    """Q of every word after each context."""
    state = look_up(proposal, contexts_BL, mixture_CJ)
    words_BV = jnp.broadcast_to(jnp.arange(V), (len(contexts_BL), V))
    p_BVJ = components(proposal, state, words_BV)
    return jnp.einsum("BVJ,BJ->BV", p_BVJ, state.weight_BJ), p_BVJ


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_densities_are_those_of_the_interpolated_model(order):
    """On seen and unseen contexts, contexts with missing words, and one column too many."""
    proposal, mixture_CJ, model = proposal_and_model(order)
    contexts = some_contexts(1, TEXT, order + 1, V)
    found_BV, p_BVJ = jax.jit(densities)(proposal, mixture_CJ, contexts)
    np.testing.assert_allclose(found_BV, model.distributions(contexts), rtol=2e-5, atol=1e-7)
    found_BV, p_BVJ = np.asarray(found_BV), np.asarray(p_BVJ)
    np.testing.assert_allclose(found_BV.sum(axis=1), 1, rtol=2e-6)
    assert found_BV.min() > 0
    # Each defined order is a distribution; p_0 and p_1 always are.
    sums_BJ = np.asarray(p_BVJ.sum(axis=1))
    np.testing.assert_allclose(sums_BJ[:, :2], 1, rtol=2e-6)
    assert set(np.round(sums_BJ[:, 2:], 5).ravel()) <= {0.0, 1.0}


@pytest.mark.parametrize("order", [1, 2, 3])
def test_draws_follow_the_density(order):
    """Chi-square at the 0.1 % level for each of six contexts, 4,000 draws with a fixed key."""
    proposal, mixture_CJ, model = proposal_and_model(order)
    contexts = some_contexts(1, TEXT, order, V)[[0, 3, 8, 13, 25, 30]]
    ids_BS = np.asarray(draws(proposal, mixture_CJ, contexts, 5, count=4000))
    assert ids_BS.shape == (6, 4000)
    for ids, p_V in zip(ids_BS, model.distributions(contexts), strict=True):
        counts = np.bincount(ids, minlength=V)
        assert scipy.stats.chisquare(counts, 4000 * p_V / p_V.sum()).pvalue > 1e-3


def test_draws_depend_on_the_key():
    proposal, mixture_CJ, _ = proposal_and_model(2)
    contexts = np.zeros((4, 1), np.int32)
    first, again, other = (draws(proposal, mixture_CJ, contexts, k, count=50) for k in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert not np.array_equal(first[0], first[1])  # the same context, independent draws


def test_a_weight_of_one_draws_from_that_order_alone():
    """All weight on bigrams: after a seen word only its successors come."""
    proposal, mixture_CJ, _ = proposal_and_model(2)
    only_bigrams = np.zeros_like(mixture_CJ)
    only_bigrams[:, 2] = 1.0
    word = int(TEXT[0])
    ids = np.asarray(draws(proposal, only_bigrams, np.full((1, 1), word), 0, count=2000))
    assert set(ids.ravel()) == set(TEXT[1:][TEXT[:-1] == word].tolist())
