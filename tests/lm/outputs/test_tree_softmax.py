"""Tree-structured probabilities, against a walk down the tree in plain numpy."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from placed_params import drawn_params, initial_params, layout_on

from jaxgen.errors import InputError
from jaxgen.lm.outputs.tree_softmax import TreeCode, TreeNPLMConfig, node_log_odds
from jaxgen.lm.outputs.word_tree import feature_tree, huffman_merges, tree_from_merges
from jaxgen.parallel import make_mesh, put_batch
from jaxgen.training.saved_configs import config_from_json, config_to_json

V, ORDER = 21, 3
MERGES = huffman_merges(np.random.default_rng(0).zipf(1.4, size=V))
TREE = tree_from_merges(MERGES)
CONTEXTS = np.random.default_rng(1).integers(0, V, (16, ORDER - 1)).astype(np.int32)
TARGETS = np.random.default_rng(2).integers(0, V, 16).astype(np.int32)
WEIGHTS = (np.arange(16) % 3).astype(np.float32)


def make_config(**changes):
    options = {"features": 4, "hidden": 6, "direct": True, "tree": TreeCode.of(TREE)}
    return TreeNPLMConfig(V, ORDER, **{**options, **changes})


def random_parameters(config, scale=1.0):
    """Parameters far from their start; padding nodes stay zero."""
    params = drawn_params(config, 3, scale)
    for name in {"U", "W", "b"} & set(params):
        params[name][config.outputs :] = 0
    return params


def apply(config, params, *args, method=None, **options):
    """A method of the model, compiled as one program; options are static."""
    return compiled(config, method, **options)(params, *args)


@functools.cache
def compiled(config, method=None, **options):
    model = config.make_model()
    run = lambda params, *args: model.apply({"params": params}, *args, method=method, **options)  # noqa: E731
    return jax.jit(run)


def reference_log_probabilities(params, contexts):
    """From the merges alone: the last one is the root, and decides on every word below it."""
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    x_BD = p["context"]["C"][contexts[:, ::-1]].reshape(len(contexts), -1)
    y_BN = np.zeros((len(contexts), V - 1)) + p["b"][: V - 1]
    if "U" in p:
        a_BF = np.tanh(p["context"]["d"] + x_BD @ p["context"]["H"])
        y_BN = y_BN + a_BF @ p["U"][: V - 1].T
    if "W" in p:
        y_BN = y_BN + x_BD @ p["W"][: V - 1].T
    log_p = {2 * V - 2: np.zeros(len(contexts))}
    for node in range(2 * V - 2, V - 1, -1):
        y_B = y_BN[:, 2 * V - 2 - node]
        left, right = MERGES[node - V]
        log_p[left] = log_p[node] - np.log1p(np.exp(y_B))
        log_p[right] = log_p[node] - np.log1p(np.exp(-y_B))
    return np.stack([log_p[word] for word in range(V)], axis=1)


@pytest.mark.parametrize(
    "changes", [{}, {"direct": False}, {"hidden": 0}, {"output_blocks": 8}], ids=str
)
def test_probabilities_match_a_walk_down_the_tree(changes):
    config = make_config(**changes)
    params = random_parameters(config)
    expected = reference_log_probabilities(params, CONTEXTS)
    found = apply(config, params, CONTEXTS)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(np.exp(expected).sum(axis=1), 1, rtol=1e-12)
    path = apply(config, params, CONTEXTS, TARGETS, method="log_probabilities")
    np.testing.assert_allclose(path, expected[np.arange(16), TARGETS], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mesh", [None, "data=2,model=4"])
def test_many_examples_descend_in_groups(mesh):
    """192 examples are three groups of 64, with or without a mesh."""
    config = make_config(output_blocks=4)
    params = random_parameters(config)
    contexts = np.random.default_rng(5).integers(0, V, (192, ORDER - 1)).astype(np.int32)
    with jax.set_mesh(make_mesh(mesh or "data=1", None if mesh else jax.devices()[:1])):
        found = apply(config, params, contexts)
    expected = reference_log_probabilities(params, contexts)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_sums_to_one_with_extreme_logits_and_stays_finite():
    config = make_config()
    params = random_parameters(config, scale=30.0)
    found = np.asarray(apply(config, params, CONTEXTS))
    assert np.isfinite(found).all()
    assert found.min() < -1000
    np.testing.assert_allclose(np.exp(found).sum(axis=1), 1, rtol=1e-5)
    gradients = gradient_of(config)(params, CONTEXTS, TARGETS)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradients))


@functools.cache
def gradient_of(config):
    return jax.jit(jax.grad(lambda *args: compiled(config, "loss")(*args)[0]))


def test_loss_and_gradient_are_those_of_the_whole_distribution():
    config = make_config(output_blocks=8)
    params = random_parameters(config)

    def by_path(params):
        return apply(config, params, CONTEXTS, TARGETS, WEIGHTS, method="loss")

    def by_distribution(params):
        nll_B = -apply(config, params, CONTEXTS)[jnp.arange(16), TARGETS]
        return jnp.sum(nll_B * WEIGHTS) / WEIGHTS.sum(), nll_B

    both = lambda p: [  # noqa: E731
        jax.value_and_grad(loss, has_aux=True)(p) for loss in (by_path, by_distribution)
    ]
    path, whole = jax.device_get(jax.jit(both)(params))
    ((loss, nll_B), found), ((expected_loss, expected_B), expected) = path, whole
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-5)
    np.testing.assert_allclose(nll_B, expected_B, rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), found, expected
    )
    assert not np.any(found["U"][V - 1 :])


def test_a_node_gets_no_gradient_from_words_that_are_not_below_it():
    config = make_config()
    params = random_parameters(config)
    word = int(np.argmin(TREE.lengths_V))
    gradient = gradient_of(config)(params, CONTEXTS[:1], np.array([word]))
    touched = np.flatnonzero(np.asarray(gradient["b"]))
    assert set(touched) == set(TREE.paths_VD[word, : TREE.lengths_V[word]].tolist())


def test_a_start_from_log_odds_is_the_unigram_model():
    config = make_config()
    params = jax.tree.map(np.zeros_like, random_parameters(config))
    count_V = np.random.default_rng(7).integers(0, 40, V) + 0.5
    params["b"] = np.asarray(node_log_odds(TREE, count_V), np.float32)
    found = np.exp(apply(config, params, CONTEXTS))
    np.testing.assert_allclose(found, np.tile(count_V / count_V.sum(), (16, 1)), rtol=1e-5)


def test_top_k_and_samples():
    config = make_config()
    params = random_parameters(config)
    expected = np.asarray(apply(config, params, CONTEXTS))
    order = np.argsort(-expected, axis=1, kind="stable")
    log_p_BK, ids_BK = apply(config, params, CONTEXTS, k=4, method="top_k")
    np.testing.assert_array_equal(ids_BK, order[:, :4])
    np.testing.assert_allclose(log_p_BK, np.take_along_axis(expected, order[:, :4], 1), rtol=1e-6)
    coldest = apply(config, params, CONTEXTS, jax.random.key(0), temperature=0.0, method="sample")
    np.testing.assert_array_equal(coldest, order[:, 0])
    with pytest.raises(InputError, match=r"top_k is 22, expected 1 to \|V\| = 21"):
        apply(config, params, CONTEXTS, k=22, method="top_k")


@pytest.mark.parametrize(
    "mesh",
    [
        pytest.param("data=8", marks=pytest.mark.slow),
        pytest.param("data=2,model=4", marks=pytest.mark.slow),
        "data=2,fsdp=2,model=2",
    ],
)
def test_sharded_equals_unsharded(mesh):
    """Loss, gradients and distribution, with sharded parameters and 20 nodes padded to 24."""
    config = make_config(output_blocks=8)
    model = config.make_model()

    def loss_fn(params, contexts, targets, weights):
        return model.apply({"params": params}, contexts, targets, weights, method="loss")

    def run(params, *batch):
        value, gradient = jax.value_and_grad(loss_fn, has_aux=True)(params, *batch)
        return value, gradient, model.apply({"params": params}, batch[0])

    batch = (CONTEXTS, TARGETS, WEIGHTS)
    params = initial_params(config)
    expected = jax.jit(run)(params, *batch)
    mesh = make_mesh(mesh)
    with jax.set_mesh(mesh):
        params = jax.device_put(params, layout_on(mesh, config).shardings)
        assert params["U"].sharding.spec[0] == "model"
        found = jax.jit(run)(params, *put_batch(batch, mesh))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, expected
    )


@pytest.mark.parametrize(("direct", "hidden"), [(False, 5), (True, 5), (True, 0)])
def test_parameter_count(direct, hidden):
    """|V| m + (|V| - 1)(1 + h + (n-1)m) + h(1 + (n-1)m) with W."""
    config = make_config(direct=direct, hidden=hidden)
    shapes = jax.eval_shape(config.make_model().init, jax.random.key(0), CONTEXTS)["params"]
    count = sum(leaf.size for leaf in jax.tree.leaves(nn.meta.unbox(shapes)))
    inputs = 2 * 4
    expected = 21 * 4 + 20 * (1 + hidden + inputs * direct) + hidden * (1 + inputs)
    assert count == config.parameter_count == expected


@pytest.mark.parametrize("words", [2, 3, 8, 33])
def test_a_code_gives_the_tree_back(words):
    tree = feature_tree(np.random.default_rng(words).normal(size=(words, 2)))
    code = TreeCode.of(tree)
    for field in dataclasses.fields(tree):
        expected, found = getattr(tree, field.name), getattr(code.tree(), field.name)
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == expected.dtype
    assert TreeCode.of(code.tree()) == code


def test_codes_are_hashable_short_to_print_and_fit_for_a_configuration_file():
    config = make_config()
    again = config_from_json(json.loads(json.dumps(config_to_json(config))))
    assert again == config
    assert hash(again) == hash(config)
    assert len(repr(config.tree)) < 60
    assert TreeCode.of(feature_tree(np.eye(V))) != config.tree


@pytest.mark.parametrize("text", ["", "no base 64!", "AAAA", "AAAAAAAAAAA="])
def test_bad_codes_are_refused(text):
    with pytest.raises(InputError):
        make_config(tree=TreeCode(text))


def test_a_tree_of_another_vocabulary_is_refused():
    with pytest.raises(InputError, match="tree has 5 words, expected vocabulary_size = 21"):
        make_config(tree=TreeCode.of(feature_tree(np.eye(5))))
