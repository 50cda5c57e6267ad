"""Networks wrapped as language models: numpy in and out, on every mesh, batches padded."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from placed_params import initial_params, layout_on

from jaxgen.errors import InputError
from jaxgen.lm.evaluation import perplexity, span_probabilities
from jaxgen.lm.network import NetworkModel
from jaxgen.lm.nplm import NPLMConfig
from jaxgen.lm.outputs.short_list import ShortListConfig
from jaxgen.lm.outputs.tree_softmax import TreeCode, TreeNPLMConfig
from jaxgen.lm.outputs.word_tree import feature_tree
from jaxgen.parallel import make_mesh

CONFIG = NPLMConfig(vocabulary_size=13, order=4, features=4, hidden=8, direct=True)
CONFIGS = {
    "softmax": CONFIG,
    "padded": dataclasses.replace(CONFIG, output_blocks=8),
    "tree": TreeNPLMConfig(
        **dataclasses.asdict(CONFIG),
        tree=TreeCode.of(feature_tree(np.random.default_rng(0).normal(size=(13, 2)))),
    ),
    "short list": ShortListConfig(**dataclasses.asdict(CONFIG), short_list=5),
}
RNG = np.random.default_rng(0)
CONTEXTS = RNG.integers(0, 13, (50, 3), dtype=np.int32)
TARGETS = RNG.integers(0, 13, 50, dtype=np.int32)


@functools.cache
def wrapped(config, mesh=None, batch=16):
    # Away from the start, where all words are about alike; padding stays zero.
    params = initial_params(config, scale=8)
    if mesh is not None:
        params = jax.device_put(params, layout_on(mesh, config).shardings)
    return NetworkModel(config.make_model(), params, batch)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_network_is_a_language_model(name):
    config = CONFIGS[name]
    model = wrapped(config)
    assert (model.order, model.vocabulary_size) == (4, 6 if name == "short list" else 13)
    p_NV = model.distributions(CONTEXTS)
    assert p_NV.shape == (50, model.vocabulary_size)
    assert p_NV.dtype == np.float64
    np.testing.assert_allclose(p_NV.sum(1), 1, rtol=1e-12)
    assert p_NV.max() > 2 / model.vocabulary_size
    targets = np.minimum(TARGETS, model.vocabulary_size - 1)
    p_N = model.probabilities(CONTEXTS, targets)
    assert p_N.dtype == np.float64
    np.testing.assert_allclose(p_N, p_NV[np.arange(50), targets], rtol=2e-6)


@pytest.mark.parametrize(
    "mesh",
    [
        pytest.param("data=2,model=4", marks=pytest.mark.slow),
        "data=2,fsdp=2,model=2",
        pytest.param("data=8", marks=pytest.mark.slow),
    ],
)
def test_parameters_on_a_mesh(mesh):
    """The mesh need not be current: the parameters know it."""
    mesh = make_mesh(mesh)
    config = dataclasses.replace(CONFIG, output_blocks=mesh.shape["model"])
    model, alone = wrapped(config, mesh), wrapped(CONFIG)
    np.testing.assert_allclose(
        model.distributions(CONTEXTS), alone.distributions(CONTEXTS), rtol=1e-5
    )
    np.testing.assert_allclose(
        model.probabilities(CONTEXTS, TARGETS), alone.probabilities(CONTEXTS, TARGETS), rtol=1e-5
    )
    with jax.set_mesh(mesh):
        np.testing.assert_allclose(model.distributions(CONTEXTS[:1]).sum(), 1, rtol=1e-12)


def test_batches_do_not_matter_and_few_shapes_are_compiled():
    large, small = wrapped(CONFIG, batch=64), wrapped(CONFIG, batch=8)
    for count in (1, 3, 8, 9, 50):
        contexts, targets = CONTEXTS[:count], TARGETS[:count]
        np.testing.assert_allclose(
            small.distributions(contexts), large.distributions(contexts), rtol=1e-6
        )
        np.testing.assert_allclose(
            small.probabilities(contexts, targets),
            large.probabilities(contexts, targets),
            rtol=1e-6,
        )
    # Of five counts the shapes 1, 2, 4 and 8.
    assert small._methods["__call__"].func._cache_size() <= 4
    assert small.distributions(CONTEXTS[:0]).shape == (0, 13)
    assert small.probabilities(CONTEXTS[:0], TARGETS[:0]).shape == (0,)


def test_wider_contexts_are_cut_on_the_left():
    model = wrapped(CONFIG)
    wide = np.concatenate([np.full((50, 2), -1), CONTEXTS], axis=1)
    assert np.array_equal(model.distributions(wide), model.distributions(CONTEXTS))


def test_perplexity_of_a_text():
    model = wrapped(CONFIG)
    tokens = RNG.integers(0, 13, 100)
    p_N = span_probabilities(model, tokens, 3, 100)
    by_hand = [model.distributions(tokens[None, i - 3 : i])[0, tokens[i]] for i in range(3, 100)]
    np.testing.assert_allclose(p_N, by_hand, rtol=1e-5)
    np.testing.assert_allclose(
        perplexity(model, tokens, 3, 100), np.exp(-np.mean(np.log(by_hand))), rtol=1e-6
    )


def test_what_a_network_cannot_answer():
    model = wrapped(CONFIG)
    with pytest.raises(InputError, match=r"contexts contain -1 \(no word\).*expected 3 words"):
        model.distributions(np.array([[-1, 2, 3]]))
    with pytest.raises(InputError, match=r"contexts contain the id 13, expected ids in \[-1, 13\)"):
        model.distributions(np.array([[13, 2, 3]]))
    with pytest.raises(InputError, match=r"contexts have shape \(1, 2\), expected \[N, 3\]"):
        model.distributions(np.array([[2, 3]]))
    with pytest.raises(InputError, match=r"targets contain the id 6, expected ids in \[0, 6\)"):
        wrapped(CONFIGS["short list"]).probabilities(CONTEXTS[:1], np.array([6]))
    with pytest.raises(InputError, match="batch is 0, expected 1 or more"):
        wrapped(CONFIG, batch=0)
