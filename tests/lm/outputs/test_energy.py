"""The energy network: its equation word by word, its gradient, layout and learning."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from class_grammar import grammar, trained_params
from flax import linen as nn
from placed_params import drawn_params, initial_params, layout_on

from jaxgen.data import load_corpus
from jaxgen.errors import InputError
from jaxgen.lm.network import NetworkModel
from jaxgen.lm.nplm import NPLMConfig, is_weight
from jaxgen.lm.outputs import energy
from jaxgen.lm.outputs.energy import EnergyNPLMConfig
from jaxgen.parallel import communication, make_mesh, put_batch
from jaxgen.parallel.sharding import gather_fsdp

CONFIG = EnergyNPLMConfig(vocabulary_size=37, order=4, features=4, hidden=8)
B = 24
WORDS = np.random.default_rng(0).integers(0, 37, (B, 4), dtype=np.int32)
CONTEXTS, TARGETS = WORDS[:, :-1], WORDS[:, -1]


@pytest.fixture(autouse=True)
def several_passes(monkeypatch):
    """Few numbers at a time, so that 37 words take several passes and a remainder."""
    monkeypatch.setattr(energy, "pass_size", lambda: 5 * B * CONFIG.hidden)


def random_params(config=CONFIG, seed=0):
    """Every number random, biases too; padding of the words stays zero."""
    params = drawn_params(config, seed, 0.7)
    for name in ("C", "b"):
        params[name][config.vocabulary_size :] = 0
    return params


def numpy_energy(params, words):
    """E of one n-gram in float64: v . tanh(d + H x) + sum of the b of all its words."""
    p = {name: np.asarray(x, np.float64) for name, x in params.items()}
    x = np.concatenate([p["C"][word] for word in words[::-1]])
    return p["v"] @ np.tanh(p["d"] + x @ p["H"]) + sum(p["b"][word] for word in words)


def numpy_log_probabilities(params, contexts, size=37):
    """log P(w | context) of every w, from the energies of all n-grams."""
    energies = [[numpy_energy(params, [*c, w]) for w in range(size)] for c in contexts]
    return log_softmax(-np.array(energies))


def log_softmax(y):
    y = y - y.max(1, keepdims=True)
    return y - np.log(np.exp(y).sum(1, keepdims=True))


def naive_loss(params, words):
    """The same with jax.numpy at once, to be differentiated: x of every candidate written out."""
    contexts, targets = words[:, :-1], words[:, -1]
    x_BVD = jnp.concatenate(
        [
            jnp.broadcast_to(params["C"][:37], (B, 37, 4)),
            jnp.repeat(params["C"][contexts[:, ::-1]].reshape(B, 1, -1), 37, axis=1),
        ],
        axis=-1,
    )
    energy_BV = jnp.tanh(params["d"] + x_BVD @ params["H"]) @ params["v"] + params["b"][:37]
    return -jax.nn.log_softmax(-energy_BV)[jnp.arange(B), targets].mean()


@pytest.mark.parametrize("changes", [{}, {"order": 2}, {"output_blocks": 3}], ids=str)
def test_forward_pass_matches_the_equation(changes):
    config = dataclasses.replace(CONFIG, **changes)
    contexts = CONTEXTS[:, 4 - config.order :]
    params = random_params(config)

    def everything(params):
        model = config.make_model().bind({"params": params})
        return (
            model(contexts),
            model.loss(contexts, TARGETS),
            model.log_probabilities(contexts, TARGETS),
            model.top_k(contexts, 5),
            model.sample(contexts, jax.random.key(0), temperature=0.0),
            model.energy(WORDS[:, 4 - config.order :]),
        )

    y_BV, (loss, nll_B), log_p_B, (top_BK, ids_BK), best_B, energy_B = jax.jit(everything)(params)
    expected = numpy_log_probabilities(params, contexts)
    found = log_softmax(np.asarray(y_BV)[:, :37])
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert np.all(np.asarray(y_BV)[:, 37:] == -np.inf)
    expected_B = expected[np.arange(B), TARGETS]
    np.testing.assert_allclose(nll_B, -expected_B, rtol=1e-5)
    np.testing.assert_allclose(log_p_B, expected_B, rtol=1e-5)
    np.testing.assert_allclose(loss, -expected_B.mean(), rtol=1e-5)
    np.testing.assert_allclose(top_BK, -np.sort(-expected)[:, :5], rtol=1e-5, atol=1e-6)
    assert np.array_equal(ids_BK, np.argsort(-expected)[:, :5])
    assert np.array_equal(best_B, expected.argmax(1))
    n_grams = WORDS[:, 4 - config.order :]
    expected_E = [numpy_energy(params, words) for words in n_grams]
    np.testing.assert_allclose(energy_B, expected_E, rtol=1e-5, atol=1e-5)


def test_only_the_bias_of_the_predicted_word_survives():
    """P = exp(-E) / sum with E of `energy`, which has the b of every word; and P without them."""
    params = random_params()
    model = CONFIG.make_model()
    n_grams = np.concatenate(
        [np.repeat(CONTEXTS[:1], 37, axis=0), np.arange(37, dtype=np.int32)[:, None]], axis=1
    )
    difference = jax.jit(
        lambda p: (
            model.apply({"params": p}, CONTEXTS[:1])[0]
            + model.apply({"params": p}, n_grams, method="energy")
        )
    )(params)
    np.testing.assert_allclose(difference, params["b"][CONTEXTS[0]].sum(), rtol=1e-5)


@functools.cache
def loss_and_gradients(config):
    """`params` -> the loss of the examples and its gradient, compiled."""
    model = config.make_model()
    loss_fn = lambda p: model.apply({"params": p}, CONTEXTS, TARGETS, method="loss")[0]  # noqa: E731
    return jax.jit(jax.value_and_grad(loss_fn))


def test_gradient_matches_the_naive_one():
    """In one block and in three, whose padding has no gradient."""
    naive = jax.jit(jax.value_and_grad(naive_loss))
    for blocks in (1, 3):
        config = dataclasses.replace(CONFIG, output_blocks=blocks)
        params = random_params(config)
        loss, gradients = loss_and_gradients(config)(params)
        real = {name: x[:37] if name in "Cb" else x for name, x in params.items()}
        expected_loss, expected = naive(real, WORDS)
        np.testing.assert_allclose(loss, expected_loss, rtol=1e-6)
        for name, x in gradients.items():
            found = np.asarray(x)
            found, padding = (found[:37], found[37:]) if name in "Cb" else (found, 0)
            np.testing.assert_allclose(found, expected[name], rtol=1e-4, atol=1e-6, err_msg=name)
            assert not np.any(padding)


def test_weights_leave_examples_out():
    params, model = random_params(), CONFIG.make_model()
    weights = (np.arange(B) % 3).astype(np.float32)
    loss_fn = jax.jit(
        lambda p, w: model.apply({"params": p}, CONTEXTS, TARGETS, w, method="loss")[0]
    )
    nll_B = -numpy_log_probabilities(params, CONTEXTS)[np.arange(B), TARGETS]
    np.testing.assert_allclose(
        loss_fn(params, weights), np.average(nll_B, weights=weights), rtol=1e-5
    )


def test_finite_where_energies_are_extreme():
    params = {name: np.float32(1e3) * x for name, x in random_params().items()}
    loss, gradients = loss_and_gradients(CONFIG)(params)
    expected = -numpy_log_probabilities(params, CONTEXTS)[np.arange(B), TARGETS].mean()
    assert expected > 1e3
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    assert all(np.isfinite(g).all() for g in gradients.values())


def test_parameter_count():
    """|V|(1 + m) + h(nm + 2); weight decay for all but b and d."""
    config = EnergyNPLMConfig(vocabulary_size=16_383, order=5, features=30, hidden=100)
    assert config.parameter_count == 16_383 * 31 + 100 * 152 == 523_073
    for blocks in (1, 8):
        model = dataclasses.replace(config, output_blocks=blocks).make_model()
        shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 4), jnp.int32))
        shapes = nn.meta.unbox(shapes)["params"]
        rows = -(-16_383 // blocks) * blocks
        assert {name: x.shape for name, x in shapes.items()} == {
            "C": (rows, 30),
            "H": (150, 100),
            "d": (100,),
            "v": (100,),
            "b": (rows,),
        }
    assert {name for name in shapes if is_weight(name)} == {"C", "H", "v"}


MESHES = ["data=2,model=4", "data=2,fsdp=2,model=2", "model=8"]


def compiled_step(mesh, size=37):
    """Loss and gradient of parameters that lie over the mesh, and their layout."""
    config = dataclasses.replace(CONFIG, vocabulary_size=size, output_blocks=mesh.shape["model"])
    model, layout = config.make_model(), layout_on(mesh, config)

    def loss_fn(params, batch):
        whole = gather_fsdp(params, layout)
        return model.apply({"params": whole}, *batch, method="loss")[0]

    with jax.set_mesh(mesh):
        batch = put_batch((CONTEXTS, TARGETS), mesh)
        return jax.jit(jax.value_and_grad(loss_fn)).lower(layout.abstract, batch).compile(), layout


@functools.cache
def start():
    return initial_params(CONFIG)


def step_on(mesh):
    """Loss, gradient without padding, and what the step communicates, on a mesh."""
    step, layout = compiled_step(mesh)
    missing = {name: x.shape[0] - len(start()[name]) for name, x in layout.abstract.items()}
    params = {
        name: np.pad(x, [(0, missing[name]), *[(0, 0)] * (x.ndim - 1)])
        for name, x in start().items()
    }
    params = jax.device_put(params, layout.shardings)
    loss, gradients = step(params, put_batch((CONTEXTS, TARGETS), mesh))
    gradients = jax.tree.map(np.asarray, gradients)
    gradients = {name: x[:37] if name in "Cb" else x for name, x in gradients.items()}
    return loss, gradients, communication(step, mesh=mesh)


@functools.cache
def step_alone():
    return step_on(make_mesh("data=1", jax.devices()[:1]))


@pytest.mark.parametrize("mesh", MESHES)
def test_on_a_mesh_as_on_one_device_and_nothing_of_size_v_along_model(mesh):
    expected_loss, expected, _ = step_alone()
    mesh = make_mesh(mesh)
    loss, gradients, report = step_on(mesh)
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-6)
    for name, x in gradients.items():
        np.testing.assert_allclose(x, expected[name], rtol=1e-4, atol=1e-7, err_msg=name)
    sizes = mesh.shape
    local = B // (sizes["data"] * sizes["fsdp"])
    # Per example the context's features, maximum, normaliser, target and dL/d(context part of Hx);
    # per step the gradients of the words' part of H and of v.
    per_example = 3 * CONFIG.features + 3 + CONFIG.hidden
    per_step = CONFIG.features * CONFIG.hidden + CONFIG.hidden
    for found in (report, communication(compiled_step(mesh, size=500)[0], mesh=mesh)):
        along = found.along("model")
        assert {c.kind for c in along} == {"all-reduce"}, found.table()
        assert along.bytes == 4 * (local * per_example + per_step), found.table()


def test_predictions_on_a_mesh():
    config = dataclasses.replace(CONFIG, output_blocks=4)
    params = random_params(config)
    alone = NetworkModel(
        CONFIG.make_model(), {n: x[:37] if n in "Cb" else x for n, x in params.items()}
    )
    model = config.make_model()

    def answers(params):
        m = model.bind({"params": params})
        return m.top_k(CONTEXTS, 12), m.sample(CONTEXTS, jax.random.key(1), top_p=0.9)

    expected = jax.jit(answers)(params)
    with jax.set_mesh(make_mesh("data=2,model=4")):
        on_mesh = jax.jit(answers).lower(params).compile()
        found = on_mesh(params)
        report = communication(on_mesh)
    assert np.array_equal(found[0][1], expected[0][1])
    assert np.array_equal(found[1], expected[1])
    assert {c.kind for c in report.along("model")} == {"all-reduce"}, report.table()
    p_NV = alone.distributions(CONTEXTS)
    np.testing.assert_allclose(p_NV.sum(1), 1, rtol=1e-12)
    np.testing.assert_allclose(
        np.log(p_NV), numpy_log_probabilities(params, CONTEXTS), rtol=1e-5, atol=1e-5
    )


def trained_perplexity(config, text, held_out):
    """Perplexity on the held-out text after a thousand small batches of the other."""
    windows_of = lambda tokens: np.lib.stride_tricks.sliding_window_view(tokens, 3)  # noqa: E731
    params = trained_params(config, windows_of(text))
    test = windows_of(held_out)
    p_N = NetworkModel(config.make_model(), params).probabilities(test[:, :2], test[:, 2])
    return np.exp(-np.log(p_N).mean())


def test_it_learns_what_the_softmax_network_learns():
    """A class grammar: within 2 % of the softmax network and 10 % of the grammar's perplexity."""
    text, held_out = grammar(20_000, 1)[0], grammar(4_000, 2)[0]
    found = trained_perplexity(EnergyNPLMConfig(30, order=3, features=8, hidden=48), text, held_out)
    softmax = trained_perplexity(NPLMConfig(30, order=3, features=8, hidden=48), text, held_out)
    best = np.exp(-np.log(grammar(4_000, 2)[1]).mean())
    assert found < 1.02 * softmax
    assert found < 1.1 * best


@pytest.mark.slow
def test_it_learns_a_real_text():
    """Python's reference, all but its 399 commonest words merged: within 25 % of the softmax
    network (with 0.42 of its parameters), and half the perplexity of word frequencies."""
    corpus = load_corpus("builtin")
    parts = [np.minimum(corpus.split(p), 399).astype(np.int32) for p in ("train", "validation")]
    config = EnergyNPLMConfig(400, order=3, features=20, hidden=40)
    softmax = NPLMConfig(400, order=3, features=20, hidden=40)
    assert config.parameter_count < softmax.parameter_count / 2
    found = trained_perplexity(config, *parts)
    assert found < 1.25 * trained_perplexity(softmax, *parts)
    frequency = (np.bincount(parts[0], minlength=400) + 0.5) / (len(parts[0]) + 200)
    assert found < 0.5 * np.exp(-np.log(frequency[parts[1]]).mean())


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"vocabulary_size": 1}, "vocabulary_size is 1, expected 2 or more"),
        ({"order": 1}, "order is 1, expected 2 or more"),
        ({"features": 0}, "features is 0, expected 1 or more"),
        ({"hidden": 0}, "hidden is 0, expected 1 or more"),
        ({"output_blocks": 0}, "output_blocks is 0, expected 1 or more"),
    ],
)
def test_configurations_that_are_no_network(options, fault):
    with pytest.raises(InputError, match=fault):
        dataclasses.replace(CONFIG, **options)


def test_shapes_that_do_not_fit():
    model, params = CONFIG.make_model(), random_params()
    with pytest.raises(InputError, match=r"contexts have shape \(24, 4\), expected \[B, 3\]"):
        model.apply({"params": params}, WORDS)
    with (
        jax.set_mesh(make_mesh("data=2,model=4")),
        pytest.raises(InputError, match=r"table of shape \(37, 4\) cannot be cut into 4 equal"),
    ):
        model.apply({"params": params}, CONTEXTS)
