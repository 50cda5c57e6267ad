"""The alternatives to the full softmax learn what it learns: a text from a known Markov chain."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from placed_params import initial_params

from jaxgen.lm import windows
from jaxgen.lm.classes.clustering import exchange_clustering
from jaxgen.lm.ngram import count_ngrams, fit_kneser_ney
from jaxgen.lm.nplm import NPLMConfig
from jaxgen.lm.outputs.importance_sampling import SampledNPLMConfig
from jaxgen.lm.outputs.proposals import make_proposal
from jaxgen.lm.outputs.short_list import ShortListConfig, tail_probabilities
from jaxgen.lm.outputs.tree_softmax import TreeCode, TreeNPLMConfig
from jaxgen.lm.outputs.word_tree import class_tree, feature_tree

V, TRAIN, HELD_OUT, BATCH, STEPS = 60, 30_000, 6_000, 200, 900
NETWORK = {"vocabulary_size": V, "order": 2, "features": 12, "hidden": 30}


def markov_chain(seed=0):
    """A few likely successors for each word, all words possible; frequent words have low ids."""
    rng = np.random.default_rng(seed)
    base_V = 1 / np.arange(1, V + 1)
    p_VV = rng.gamma(0.3, size=(V, V)) * base_V + 0.02 * base_V
    return p_VV / p_VV.sum(axis=1, keepdims=True)


def draw_text(p_VV, length, seed=1):
    u = np.random.default_rng(seed).random(length)
    bounds_VV = p_VV.cumsum(axis=1)
    text = np.zeros(length, np.int32)
    for i in range(1, length):
        text[i] = min(np.searchsorted(bounds_VV[text[i - 1]], u[i]), V - 1)
    return text


CHAIN = markov_chain()
TEXT = draw_text(CHAIN, TRAIN + HELD_OUT)
CONTEXTS, TARGETS = windows(TEXT, 2, 1, len(TEXT)), TEXT[1:]


def train(config, loss_of):
    """Adam with a linear decay, the same batches for all; the perplexity of the held-out part."""
    model = config.make_model()
    params = initial_params(config)
    tx = optax.adam(optax.linear_schedule(0.01, 0.0, STEPS))

    def step(carry, inputs):
        params, state = carry
        index_B, key = inputs
        batch = jnp.asarray(CONTEXTS)[index_B], jnp.asarray(TARGETS)[index_B]
        gradients = jax.grad(lambda p: loss_of(model, {"params": p}, *batch, key))(params)
        updates, state = tx.update(gradients, state)
        return (optax.apply_updates(params, updates), state), None

    index = np.random.default_rng(2).integers(0, TRAIN - 1, (STEPS, BATCH))
    keys = jax.random.split(jax.random.key(3), STEPS)

    def run(params, index, keys):
        (params, _), _ = jax.lax.scan(step, (params, tx.init(params)), (index, keys))
        log_p_N = model.apply(
            {"params": params}, CONTEXTS[TRAIN:], TARGETS[TRAIN:], method="log_probabilities"
        )
        return params, jnp.exp(-log_p_N.mean())

    params, perplexity = jax.jit(run)(params, index, keys)
    return params, float(perplexity)


def exact_loss(model, variables, contexts, targets, key):
    return model.apply(variables, contexts, targets, method="loss")[0]


@functools.cache
def full_softmax():
    return train(NPLMConfig(**NETWORK), exact_loss)


def test_the_full_softmax_comes_near_the_chain_itself():
    """Perplexity 17.1 for the chain itself, 34.9 for word frequencies; the network reaches 19.7."""
    true_p_N = CHAIN[CONTEXTS[TRAIN:, 0], TARGETS[TRAIN:]]
    chain = np.exp(-np.log(true_p_N).mean())
    unigram_p_V = np.bincount(TEXT[:TRAIN], minlength=V) / TRAIN
    unigram = np.exp(-np.log(unigram_p_V[TARGETS[TRAIN:]]).mean())
    assert full_softmax()[1] < chain + 0.25 * (unigram - chain)


@pytest.mark.parametrize("kind", ["classes", "features"])
def test_the_tree_comes_within_four_percent(kind):
    if kind == "classes":
        tree = class_tree(TEXT[:TRAIN], exchange_clustering(TEXT[:TRAIN], V, 12).classes_V)
    else:
        tree = feature_tree(np.asarray(full_softmax()[0]["context"]["C"]))
    config = TreeNPLMConfig(**NETWORK, tree=TreeCode.of(tree))
    assert train(config, exact_loss)[1] < 1.04 * full_softmax()[1]


def test_the_short_list_comes_within_four_percent():
    """Ten outputs and a bigram for the other 50 words."""
    config = ShortListConfig(**NETWORK, short_list=10)
    _, outputs_perplexity = train(config, exact_loss)
    contexts, targets = CONTEXTS[TRAIN:], TARGETS[TRAIN:]
    outside = targets >= 10
    assert outside.mean() > 0.25
    tail = fit_kneser_ney(count_ngrams(TEXT[:TRAIN], 2, V), discounts=[(0.5, 0.8, 1.0)] * 2)
    tail_N = tail_probabilities(tail, 10, contexts[outside], targets[outside])
    perplexity = outputs_perplexity * np.exp(-np.log(tail_N).sum() / len(targets))
    assert perplexity < 1.04 * full_softmax()[1]


@pytest.mark.parametrize(
    ("order", "samples"), [(1, 80), pytest.param(2, 10, marks=pytest.mark.slow)]
)
def test_importance_sampling_comes_within_two_percent(order, samples):
    """With 80 samples for a minibatch, or 10 for each example, of 60 words."""
    proposal = make_proposal(count_ngrams(TEXT[:TRAIN], order, V))
    config = SampledNPLMConfig(**NETWORK, proposal_order=order, proposal_bins=proposal.bins)

    def sampled_loss(model, variables, contexts, targets, key):
        return model.apply(
            variables, contexts, targets, proposal, samples, method="sampled_loss",
            rngs={"sample": key},
        )[0]  # fmt: skip

    params, perplexity = train(config, sampled_loss)
    assert perplexity < 1.02 * full_softmax()[1]
    # The proposal has followed the network: less weight on the uniform part than at the start.
    weight_CJ = jax.nn.softmax(10 * params["mixture"], axis=1)
    assert weight_CJ[:, 0].min() < 0.1
