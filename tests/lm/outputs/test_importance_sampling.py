"""Importance-sampling training, against the exact gradient and its limits."""

import functools

import jax
import numpy as np
import pytest
from ngram_references import random_text
from placed_params import drawn_params, initial_params, layout_on

from jaxgen.errors import InputError
from jaxgen.lm.network import NetworkModel
from jaxgen.lm.ngram.counts import count_ngrams
from jaxgen.lm.ngram.interpolated import InterpolatedModel
from jaxgen.lm.ngram.interpolation_weights import frequency_bin_count
from jaxgen.lm.outputs.importance_sampling import (
    MIXTURE_SPEED,
    SampledNPLMConfig,
    Samples,
    SampleSizes,
    effective_sample_size,
    sampled_cross_entropy,
)
from jaxgen.lm.outputs.proposals import make_proposal
from jaxgen.parallel import make_mesh, put_batch
from jaxgen.parallel.softmax import output_units
from jaxgen.parallel.softmax.output_units import Units

B, V, D = 8, 17, 5
RNG = np.random.default_rng(0)
HIDDEN = (RNG.normal(size=(B, D)).astype(np.float32),)
UNITS = Units(
    (RNG.normal(size=(D, V)).astype(np.float32),), RNG.normal(size=V).astype(np.float32), V
)
TARGETS = RNG.integers(0, V, B).astype(np.int32)
WEIGHTS = (np.arange(B) % 3).astype(np.float32)
LOG_P_BV = np.asarray(jax.jit(lambda: jax.nn.log_softmax(output_units.logits(HIDDEN, UNITS)))())


def parameters_of(hidden, units):
    return hidden, units.kernels, units.bias


def exact(parameters):
    hidden, kernels, bias = parameters
    loss, nll_B = output_units.cross_entropy(hidden, Units(kernels, bias, V), TARGETS, WEIGHTS)
    return loss, nll_B


def estimated(parameters, samples, **options):
    hidden, kernels, bias = parameters
    units = Units(kernels, bias, V)
    return sampled_cross_entropy(hidden, units, TARGETS, samples, WEIGHTS, **options)


PARAMETERS = parameters_of(HIDDEN, UNITS)
EXACT, EXACT_GRADIENT = jax.device_get(jax.jit(jax.value_and_grad(exact, has_aux=True))(PARAMETERS))
estimate_gradient = jax.jit(
    jax.value_and_grad(estimated, has_aux=True), static_argnames=("least_ess", "count_target")
)


COUNTED = pytest.mark.parametrize("count_target", [True, False])


def check_close(found, expected, rtol=1e-4, atol=1e-6):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), found, expected
    )


@pytest.mark.parametrize(
    ("weights", "expected"),
    [([1, 1, 1, 1], 4), ([1, 0, 0], 1), ([3, 1], 1.6), ([2, 2, 1, 1], 3.6), ([5], 1)],
)
def test_effective_sample_size_by_hand(weights, expected):
    """(sum w)^2 / sum w^2, whatever the scale of the weights."""
    with np.errstate(divide="ignore"):
        log_w = np.log(np.array([weights], float))
    for shift in (0.0, 500.0, -500.0):
        np.testing.assert_allclose(effective_sample_size(log_w + shift), [expected], rtol=1e-4)


@COUNTED
@pytest.mark.parametrize("shared", [True, False])
def test_every_word_as_often_as_q_has_it_is_the_exact_gradient(shared, count_target):
    """Samples without noise: word j occurs 1 + j % 3 times among them, and Q(j) says so."""
    count_V = 1 + np.arange(V) % 3
    ids_S = np.repeat(np.arange(V), count_V)
    log_q_S = np.log(count_V / count_V.sum())[ids_S].astype(np.float32)
    samples = Samples(ids_S, log_q_S)
    if not shared:
        samples = Samples(*(np.tile(x, (B, 1)) for x in samples))
    (loss, estimate), gradient = estimate_gradient(PARAMETERS, samples, count_target=count_target)
    np.testing.assert_allclose(loss, EXACT[0], rtol=1e-5)
    np.testing.assert_allclose(estimate.nll_B, EXACT[1], rtol=1e-4, atol=1e-5)
    check_close(gradient, EXACT_GRADIENT)
    # Each of a word's c draws has an equal part of its P; ESS = 1 / sum_s w_s^2, drawn words only.
    p_BV = np.exp(LOG_P_BV)
    np.testing.assert_allclose(estimate.weight_BS, (p_BV / count_V)[:, ids_S], rtol=1e-4, atol=1e-7)
    squares_BV = p_BV**2 / count_V
    if count_target:
        squares_BV[np.arange(B), TARGETS] = 0
    expected = 1 / squares_BV.sum(axis=1)
    np.testing.assert_allclose(estimate.ess_B, expected, rtol=1e-4)
    weights = np.asarray(WEIGHTS) / WEIGHTS.sum()
    np.testing.assert_allclose(estimate.ess, 1 / (weights / expected).sum(), rtol=1e-4)
    assert not estimate.exact


def test_draws_of_the_target_alone_leave_a_finite_gradient():
    """Nothing is known of the other words: the target seems certain, and nothing moves."""
    samples = Samples(np.tile(TARGETS[:, None], (1, 3)), np.zeros((B, 3), np.float32))
    (loss, estimate), gradient = estimate_gradient(PARAMETERS, samples)
    np.testing.assert_allclose(loss, 0, atol=1e-6)
    assert np.isinf(estimate.ess)
    assert all(np.abs(leaf).max() < 1e-6 for leaf in jax.tree.leaves(gradient))


def test_with_q_equal_to_p_the_normaliser_is_exact_and_every_draw_counts_fully():
    """exp(y) / P is the same for every word: no variance, whichever words came."""
    for seed in range(3):
        ids_BS = np.random.default_rng(seed).integers(0, V, (B, 6))
        samples = Samples(ids_BS, np.take_along_axis(LOG_P_BV, ids_BS, axis=1))
        (loss, estimate), _ = estimate_gradient(PARAMETERS, samples, count_target=False)
        np.testing.assert_allclose(loss, EXACT[0], rtol=1e-5)
        np.testing.assert_allclose(estimate.nll_B, EXACT[1], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(estimate.ess_B, 6, rtol=1e-4)


@functools.partial(jax.jit, static_argnames=("k", "count_target"))
def bias_gradients(log_q_V, seed, k, count_target, replicates=200):
    """d/db from each of several sets of k draws."""

    def one(key):
        ids_S = jax.random.categorical(key, log_q_V, shape=(k,))
        samples = Samples(ids_S, log_q_V[ids_S])
        loss = lambda b: estimated((*PARAMETERS[:2], b), samples, count_target=count_target)[0]  # noqa: E731
        return jax.grad(loss)(UNITS.bias)

    return jax.vmap(one)(jax.random.split(jax.random.key(seed), replicates))


def gradient_errors(sizes, q_V, count_target=True):
    """Mean square error and squared bias of the bias gradient d/db for each k."""
    log_q_V = np.log(np.asarray(q_V, np.float32))
    errors, biases = [], []
    for k in sizes:
        found = np.asarray(bias_gradients(log_q_V, k, k, count_target), float)
        difference = found - np.asarray(EXACT_GRADIENT[2])
        errors.append(np.square(difference).sum(axis=1).mean())
        biases.append(np.square(difference.mean(axis=0)).sum())
    return np.array(errors), np.array(biases)


@pytest.mark.parametrize("count_target", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_the_gradient_converges_to_the_exact_one(count_target):
    """Mean square error falls as 1/k (fitted slope -1 +- 0.15); bias is a small part of it."""
    sizes = np.array([64, 256, 1024, 4096])
    errors, biases = gradient_errors(sizes.tolist(), np.full(V, 1 / V), count_target=count_target)
    slope = np.polyfit(np.log(sizes), np.log(errors), 1)[0]
    assert -1.15 < slope < -0.85
    assert errors[-1] < 1e-3 * np.square(np.asarray(EXACT_GRADIENT[2])).sum()
    # What is left of the bias among 200 replicates is mostly their noise, 1/200 of the error.
    assert (biases[1:] < 0.05 * errors[1:]).all()


def test_a_better_proposal_has_a_smaller_error():
    mean_p_V = np.exp(LOG_P_BV).mean(axis=0)
    (near,), _ = gradient_errors([128], mean_p_V / mean_p_V.sum())
    (uniform,), _ = gradient_errors([128], np.full(V, 1 / V))
    (far,), _ = gradient_errors([128], (1 / (mean_p_V + 0.01)) / (1 / (mean_p_V + 0.01)).sum())
    assert 1.2 * near < uniform < far / 2


@pytest.mark.parametrize("least_ess", [2.9, 3.1])
def test_a_minibatch_of_too_small_ess_takes_the_exact_gradient(least_ess):
    """Three equal weights are an ESS of 3."""
    ids_BS = np.tile(np.arange(3), (B, 1))
    samples = Samples(ids_BS, np.take_along_axis(LOG_P_BV, ids_BS, axis=1))
    (loss, estimate), gradient = estimate_gradient(
        PARAMETERS, samples, least_ess=least_ess, count_target=False
    )
    np.testing.assert_allclose(estimate.ess, 3, rtol=1e-5)
    assert bool(estimate.exact) == (least_ess > 3)
    np.testing.assert_allclose(loss, EXACT[0], rtol=1e-5)
    difference = np.abs(gradient[2] - EXACT_GRADIENT[2]).max()
    assert difference < 1e-6 if least_ess > 3 else difference > 0.01


# The model and its proposal.

MESHES = ("data=2,model=4", "data=2,fsdp=2,model=2")
ORDER = 3
TEXT = random_text(seed=6, length=600, vocabulary_size=V)
CONTEXTS = np.stack([TEXT[i : i + 2] for i in range(64)])
NEXT = TEXT[2:66]


def make_problem(proposal_order, **options):
    proposal = make_proposal(count_ngrams(TEXT, proposal_order, V))
    config = SampledNPLMConfig(
        V,
        ORDER,
        features=4,
        hidden=6,
        proposal_order=proposal_order,
        proposal_bins=proposal.bins,
        **options,
    )
    return config, proposal


def sampled(config, params, proposal, key, *batch, samples=64, **options):
    return config.make_model().apply(
        {"params": params},
        *batch[:2],
        proposal,
        samples,
        *batch[2:],
        **options,
        method="sampled_loss",
        rngs={"sample": key},
    )


@pytest.mark.parametrize("proposal_order", [1, 2, pytest.param(3, marks=pytest.mark.slow)])
def test_the_model_s_gradient_converges_to_its_exact_one(proposal_order):
    """At k = 4096 the network's gradient is within 4 % of the exact one; both losses agree."""
    config, proposal = make_problem(proposal_order)
    params = initial_params(config, seed=1, scale=8)

    def sampled_loss(params):
        return sampled(config, params, proposal, jax.random.key(2), CONTEXTS, NEXT, samples=4096)

    def exact_loss(params):
        return config.make_model().apply({"params": params}, CONTEXTS, NEXT, method="loss")

    both = lambda params: [  # noqa: E731
        jax.value_and_grad(loss, has_aux=True)(params) for loss in (sampled_loss, exact_loss)
    ]
    sampled_part, exact_part = jax.device_get(jax.jit(both)(params))
    ((loss, estimate), found), ((expected_loss, nll_B), expected) = sampled_part, exact_part
    np.testing.assert_allclose(loss, expected_loss, rtol=0.01)
    np.testing.assert_allclose(estimate.nll_B, nll_B, atol=0.2)
    assert estimate.ess > 400
    found.pop("mixture")
    assert not np.any(expected.pop("mixture"))
    norm = lambda tree: np.sqrt(sum(np.square(x).sum() for x in jax.tree.leaves(tree)))  # noqa: E731
    assert norm(jax.tree.map(lambda a, b: a - b, found, expected)) < 0.04 * norm(expected)


def kl_gradient(config, params, proposal, counts):
    """d/d mixture of the mean over examples of KL(P || Q), by central differences in float64."""
    p_NV = NetworkModel(config.make_model(), params).distributions(CONTEXTS)
    mixture = np.asarray(params["mixture"], float)

    def divergence(mixture):
        e = np.exp(MIXTURE_SPEED * mixture)
        weights = np.tile(e / e.sum(axis=1, keepdims=True), (bins // len(e), 1))
        q_NV = InterpolatedModel(counts, weights).distributions(CONTEXTS)
        return -(p_NV * np.log(q_NV)).sum(axis=1).mean()

    bins = frequency_bin_count(counts.tokens)
    gradient, step = np.zeros_like(mixture), 1e-5
    for index in np.ndindex(mixture.shape):
        moved = [mixture.copy(), mixture.copy()]
        moved[0][index] += step
        moved[1][index] -= step
        gradient[index] = (divergence(moved[0]) - divergence(moved[1])) / (2 * step)
    return gradient


@pytest.mark.parametrize("proposal_order", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_the_mixture_descends_the_divergence_from_the_network(proposal_order):
    config, proposal = make_problem(proposal_order)
    params = initial_params(config, seed=1, scale=8)
    start = np.random.default_rng(0).normal(size=params["mixture"].shape) * 0.1
    params["mixture"] = start.astype(np.float32)

    def sampled_loss(params):
        return sampled(config, params, proposal, jax.random.key(3), CONTEXTS, NEXT, samples=8192)

    found = jax.jit(jax.grad(sampled_loss, has_aux=True))(params)[0]["mixture"]
    expected = kl_gradient(config, params, proposal, count_ngrams(TEXT, proposal_order, V))
    assert np.abs(expected).max() > 0.05
    np.testing.assert_allclose(found, expected, atol=0.04 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("proposal_order", "mesh"),
    [
        (1, "data=2,model=4"),
        pytest.param(1, "data=2,fsdp=2,model=2", marks=pytest.mark.slow),
        pytest.param(2, "data=8", marks=pytest.mark.slow),
        (2, "data=2,fsdp=2,model=2"),
    ],
)
def test_sharded_equals_unsharded(proposal_order, mesh):
    config, proposal = make_problem(proposal_order, output_blocks=8)
    weights = (np.arange(64) % 3).astype(np.float32)
    batch, key = (CONTEXTS, NEXT, weights), jax.random.key(5)

    def loss_fn(params, *batch):
        return sampled(config, params, proposal, key, *batch, least_ess=4.0)

    run = jax.value_and_grad(loss_fn, has_aux=True)
    params = initial_params(config)
    expected = jax.jit(run)(params, *batch)
    mesh = make_mesh(mesh)
    with jax.set_mesh(mesh):
        params = jax.device_put(params, layout_on(mesh, config).shardings)
        found = jax.jit(run)(params, *put_batch(batch, mesh))
    check_close(found, expected, rtol=1e-4, atol=2e-6)


def test_a_proposal_that_does_not_fit_is_refused():
    config, _ = make_problem(2)
    params = drawn_params(config)
    with pytest.raises(InputError, match=r"proposal has \(order, bins, vocabulary_size\) = \(1, 1"):
        sampled(config, params, make_problem(1)[1], jax.random.key(0), CONTEXTS, NEXT)
    with pytest.raises(InputError, match="proposal_order is 4, expected 1 to order = 3"):
        SampledNPLMConfig(V, ORDER, proposal_order=4)


def test_sample_sizes_follow_the_ess():
    sizes = SampleSizes((10, 20, 40), target=8.0)
    assert sizes.choose(10, 9.0) == 10
    assert sizes.choose(10, 7.0) == 20  # 20 draws should give 14
    assert sizes.choose(10, 2.5) == 40  # 40 should give 10
    assert sizes.choose(40, 1.0) == 40  # not enough: the largest
    assert sizes.choose(40, 39.0) == 10
    for wrong in ((), (10, 10), (20, 10), (0, 5)):
        with pytest.raises(InputError, match="sizes are"):
            SampleSizes(wrong, target=1.0)
    with pytest.raises(InputError, match=r"target is 50\.0, expected 1 to 40"):
        SampleSizes((10, 40), target=50.0)
