"""The paper's network: equations in numpy, parameter counts, layout, communication."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from placed_params import drawn_params, initial_params, layout_on

from jaxgen.errors import InputError
from jaxgen.lm.nplm import NPLMConfig, is_weight
from jaxgen.parallel import communication, init_optimizer, make_mesh, put_batch, shardings_of
from jaxgen.parallel.sharding import gather_fsdp
from jaxgen.training.optimizers import OptimizerConfig, make_optimizer
from jaxgen.training.state import abstract_state
from jaxgen.training.step import compile_step, make_train_step

SMALL = NPLMConfig(vocabulary_size=37, order=4, features=4, hidden=8, direct=True)
B = 24


def small_batch(config=SMALL, examples=B, seed=0):
    rng = np.random.default_rng(seed)
    words = rng.integers(0, config.vocabulary_size, (examples, config.order), dtype=np.int32)
    return {"contexts": words[:, :-1], "targets": words[:, -1]}


def random_params(config, seed=0):
    """Parameters with every number random, biases too; padding of the output units stays zero."""
    params = drawn_params(config, seed, 0.5)
    for name in ("U", "W", "b"):
        if name in params:
            params[name][..., config.vocabulary_size :] = 0
    return params


def numpy_logits(params, contexts, config):
    """Equation 1, one example after the other, in float64: y = b + W x + U tanh(d + H x)."""
    p = {**params, **params["context"]}
    rows = []
    for context in contexts:
        nearest_first = context[::-1]
        x = np.concatenate([np.asarray(p["C"][word], np.float64) for word in nearest_first])
        y = np.asarray(p["b"], np.float64)
        if config.direct:
            y = y + x @ p["W"]
        if config.hidden:
            y = y + np.tanh(p["d"] + x @ p["H"]) @ p["U"]
        rows.append(y[: config.vocabulary_size])
    return np.stack(rows)


def log_softmax(y):
    y = y - y.max(-1, keepdims=True)
    return y - np.log(np.exp(y).sum(-1, keepdims=True))


TABLE_1 = [
    dict(order=n, hidden=h, features=m, direct=direct)
    for n, h, m, direct in itertools.product((3, 5), (0, 50, 100), (30, 60), (False, True))
    if h or direct
]


@pytest.mark.parametrize("options", TABLE_1, ids=str)
def test_parameter_count_is_the_papers(options):
    """|V|(1 + nm + h) + h(1 + (n-1)m) with direct connections, and what is really there."""
    size, n, h, m = 16_383, options["order"], options["hidden"], options["features"]
    config = NPLMConfig(vocabulary_size=size, **options)
    expected = size * (1 + n * m + h) + h * (1 + (n - 1) * m)
    if not options["direct"]:
        expected -= size * (n - 1) * m  # W
    assert config.parameter_count == expected
    for blocks in (1, 8):
        model = dataclasses.replace(config, output_blocks=blocks).make_model()
        contexts = jnp.zeros((1, n - 1), jnp.int32)
        shapes = nn.meta.unbox(jax.eval_shape(model.init, jax.random.key(0), contexts))["params"]
        counts = {name: x.size for name, x in shapes.items() if name != "context"}
        rows = -(-size // blocks) * blocks
        true = sum(count // rows * size for count in counts.values())
        assert true + sum(x.size for x in shapes["context"].values()) == expected


def test_published_sizes():
    """MLP1 and MLP9 on the paper's Brown vocabulary, MLP10 of Table 2 on AP News."""
    mlp1 = NPLMConfig(16_383, order=5, features=60, hidden=50, direct=True)
    mlp9 = NPLMConfig(16_383, order=5, features=30, hidden=100, direct=False)
    ap_news = NPLMConfig(17_964, order=6, features=100, hidden=60, direct=True)
    assert mlp1.parameter_count == 16_383 * 351 + 50 * 241 == 5_762_483
    assert mlp9.parameter_count == 16_383 * 131 + 100 * 121 == 2_158_273
    assert ap_news.parameter_count == 17_964 * 661 + 60 * 501 == 11_904_264


@pytest.mark.parametrize(
    "changes", [{}, {"hidden": 0}, {"direct": False}, {"order": 2}, {"output_blocks": 3}], ids=str
)
def test_forward_pass_matches_the_equations(changes):
    config = dataclasses.replace(SMALL, **changes)
    params, batch = random_params(config), small_batch(config)

    def everything(params, contexts, targets):
        model = config.make_model().bind({"params": params})
        return (
            model(contexts),
            model.loss(contexts, targets),
            model.log_probabilities(contexts, targets),
            model.top_k(contexts, 5),
            model.sample(contexts, jax.random.key(0), temperature=0.0),
        )

    y_BV, (loss, nll_B), log_p_B, (top_BK, ids_BK), best_B = jax.jit(everything)(
        params, *batch.values()
    )
    expected = numpy_logits(params, batch["contexts"], config)
    np.testing.assert_allclose(y_BV[:, :37], expected, rtol=1e-5, atol=1e-5)
    log_p_BV = log_softmax(expected)
    expected_B = log_p_BV[np.arange(B), batch["targets"]]
    np.testing.assert_allclose(nll_B, -expected_B, rtol=1e-5)
    np.testing.assert_allclose(log_p_B, expected_B, rtol=1e-5)
    np.testing.assert_allclose(loss, -expected_B.mean(), rtol=1e-5)
    np.testing.assert_allclose(top_BK, -np.sort(-log_p_BV)[:, :5], rtol=1e-5, atol=1e-6)
    assert np.array_equal(ids_BK, np.argsort(-log_p_BV)[:, :5])
    assert np.array_equal(best_B, expected.argmax(-1))


def test_context_words_are_in_the_order_of_the_text():
    """The word before the target, last in the context, meets the first m rows of W and H."""
    params, m = random_params(SMALL), SMALL.features
    model = jax.jit(SMALL.make_model().apply)
    contexts = small_batch()["contexts"]
    for position, changed in ((2, slice(0, m)), (1, slice(m, 2 * m)), (0, slice(2 * m, None))):
        blind = jax.tree.map(np.copy, params)
        for kernel in (blind["W"], blind["context"]["H"]):
            kernel[changed] = 0
        other = contexts.copy()
        other[:, position] = (other[:, position] + 1) % 37
        same = [model({"params": blind}, c) for c in (contexts, other)]
        assert np.array_equal(*same)
        seen = [model({"params": params}, c) for c in (contexts, other)]
        assert np.all(np.abs(np.asarray(seen[0]) - seen[1])[:, :37].max(-1) > 1e-3)


def test_weight_decay_touches_weights_and_features_but_no_bias():
    paths = {
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, _ in jax.tree_util.tree_leaves_with_path(random_params(SMALL))
    }
    assert paths == {"context/C", "context/H", "context/d", "U", "W", "b"}
    assert {path for path in paths if is_weight(path)} == {"context/C", "context/H", "U", "W"}
    # A decay alone, without any gradient, shrinks those and leaves the biases.
    params = random_params(SMALL)
    config = OptimizerConfig(name="sgd", learning_rate=0.5, weight_decay=0.1)
    tx = make_optimizer(config, lambda path, _: is_weight(path))
    zeros = jax.tree.map(np.zeros_like, params)
    decay = jax.jit(lambda p: optax.apply_updates(p, tx.update(zeros, tx.init(p), p)[0]))
    new = decay(params)
    for path, (x, old) in zip(sorted(paths), _pairs(new, params), strict=True):
        np.testing.assert_allclose(x, old * (0.95 if is_weight(path) else 1.0), rtol=1e-6)


def _pairs(a, b):
    """Leaves of two trees side by side, in the order of their sorted paths."""
    named = [
        sorted(
            (jax.tree_util.keystr(path, simple=True, separator="/"), leaf)
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        )
        for tree in (a, b)
    ]
    return [(x, y) for (_, x), (_, y) in zip(*named, strict=True)]


def unpadded(params, size=37):
    return {name: x[..., :size] if name in ("U", "W", "b") else x for name, x in params.items()}


def test_function_and_gradient_do_not_depend_on_the_blocks():
    batch = small_batch()
    found = {}
    for blocks in (1, 3, 4, 8):
        config = dataclasses.replace(SMALL, output_blocks=blocks)
        params = initial_params(config, scale=3.0)
        assert params["U"].shape == (8, blocks * -(-37 // blocks))

        def loss_fn(params, config=config):
            return config.make_model().apply({"params": params}, *batch.values(), method="loss")[0]

        loss, gradients = jax.device_get(jax.jit(jax.value_and_grad(loss_fn))(params))
        padding = [x[..., 37:] for t in (params, gradients) for x in (t["U"], t["W"], t["b"])]
        assert not any(np.any(x) for x in padding)
        found[blocks] = loss, unpadded(params), unpadded(gradients)
    for loss, params, gradients in found.values():
        jax.tree.map(np.testing.assert_array_equal, params, found[1][1])
        np.testing.assert_allclose(loss, found[1][0], rtol=1e-6)
        close = lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7)  # noqa: E731
        jax.tree.map(close, gradients, found[1][2])


def test_gradients_match_finite_differences():
    params, batch = random_params(SMALL), small_batch()
    model = SMALL.make_model()
    loss_fn = lambda p: model.apply({"params": p}, *batch.values(), method="loss")[0]  # noqa: E731

    def numpy_loss(params):
        log_p_BV = log_softmax(numpy_logits(params, batch["contexts"], SMALL))
        return -log_p_BV[np.arange(B), batch["targets"]].mean()

    rng = np.random.default_rng(1)
    direction = jax.tree.map(lambda x: rng.normal(size=x.shape), params)
    step = lambda t: jax.tree.map(lambda x, d: x.astype(np.float64) + t * d, params, direction)  # noqa: E731
    slope = (numpy_loss(step(1e-5)) - numpy_loss(step(-1e-5))) / 2e-5
    gradients = jax.jit(jax.grad(loss_fn))(params)
    products = jax.tree.map(lambda g, d: np.vdot(g, d), gradients, direction)
    np.testing.assert_allclose(sum(jax.tree.leaves(products)), slope, rtol=1e-5)


def test_dropout_is_for_training_alone_and_keeps_the_mean():
    config = dataclasses.replace(SMALL, dropout=0.5, hidden=0)
    model, params = config.make_model(), random_params(dataclasses.replace(SMALL, hidden=0))
    contexts = small_batch()["contexts"]

    def layers(params, **options):
        return model.apply({"params": params}, contexts, method="output_layer", **options)[0][0]

    kept = jax.jit(layers)(params)
    keys = jax.random.split(jax.random.key(0), 200)
    one = lambda key: layers(params, train=True, rngs={"dropout": key})  # noqa: E731
    drawn = np.asarray(jax.jit(jax.vmap(one))(keys))
    zero = drawn == 0
    np.testing.assert_allclose(zero.mean(), 0.5, atol=0.01)
    np.testing.assert_allclose(drawn[~zero], np.broadcast_to(2 * kept, drawn.shape)[~zero])


MESHES = ["data=2,model=4", "data=2,fsdp=2,model=2", "model=8", "fsdp=2,model=4"]


@functools.cache
def start():
    return initial_params(SMALL)


def padded_start(config):
    """The same start, with zero padding of the output units."""
    padding = config.output_blocks * -(-37 // config.output_blocks) - 37
    wide = {n: [(0, 0)] * (start()[n].ndim - 1) + [(0, padding)] for n in ("U", "W", "b")}
    return {name: np.pad(x, wide[name]) if name in wide else x for name, x in start().items()}


def sharded_steps(mesh_description, steps=3):
    """Losses of a few Adagrad steps on a mesh, and the parameters after them, without padding."""
    mesh = make_mesh(mesh_description, None if mesh_description != "data=1" else jax.devices()[:1])
    config = dataclasses.replace(SMALL, output_blocks=mesh.shape["model"])
    model, tx, layout = config.make_model(), optax.adagrad(0.5), layout_on(mesh, config)
    with jax.set_mesh(mesh):
        params = jax.device_put(padded_start(config), layout.shardings)
        state = init_optimizer(tx, params, layout)

        def step(params, state, batch):
            def loss_fn(params):
                whole = gather_fsdp(params, layout)
                return model.apply({"params": whole}, *batch.values(), method="loss")[0]

            loss, gradients = jax.value_and_grad(loss_fn)(params)
            updates, state = tx.update(gradients, state, params)
            return optax.apply_updates(params, updates), state, loss

        step = jax.jit(step, out_shardings=(layout.shardings, shardings_of(state), None))
        losses = []
        for index in range(steps):
            batch = put_batch(small_batch(seed=index), mesh)
            params, state, loss = step(params, state, batch)
            losses.append(float(loss))
    return losses, unpadded(jax.tree.map(np.asarray, params)), layout


@pytest.fixture(scope="module")
def alone():
    return sharded_steps("data=1")


@pytest.mark.parametrize("mesh", MESHES)
def test_training_on_a_mesh_is_training_on_one_device(mesh, alone):
    losses, params, layout = sharded_steps(mesh)
    np.testing.assert_allclose(losses, alone[0], rtol=2e-6)
    close = lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=2e-6)  # noqa: E731
    jax.tree.map(close, params, alone[1])
    specs = {name: tuple(s.spec) for name, s in layout.shardings.items() if name != "context"}
    assert specs == {"U": ("fsdp", "model"), "W": ("fsdp", "model"), "b": ("model",)}
    context = {name: tuple(s.spec) for name, s in layout.shardings["context"].items()}
    assert context == {"C": (None, "fsdp"), "H": ("fsdp", None), "d": (None,)}


def train_step_communication(mesh_description, config, examples=B, optimizer="adagrad"):
    """What the compiled train step of this library communicates."""
    mesh = make_mesh(mesh_description)
    config = dataclasses.replace(config, output_blocks=mesh.shape["model"])
    model, layout = config.make_model(), layout_on(mesh, config)
    recipe = OptimizerConfig(name=optimizer, weight_decay=1e-4)
    tx = make_optimizer(recipe, lambda path, _: is_weight(path))
    with jax.set_mesh(mesh):
        state = abstract_state(layout, tx)

        def loss_fn(params, batch, key):
            variables = {"params": gather_fsdp(params, layout)}
            loss, _ = model.apply(
                variables, batch["contexts"], batch["targets"], method="loss", rngs={"dropout": key}
            )
            return loss, {}

        step = compile_step(make_train_step(loss_fn, tx), state)
        batch = put_batch(small_batch(config, examples), mesh)
        return communication(step, state, batch, jax.random.key(0))


@pytest.mark.parametrize(
    ("mesh", "examples"),
    [
        ("data=2,fsdp=2,model=2", B),
        ("data=2,model=4", 1200),
        pytest.param("data=2,model=4", B, marks=pytest.mark.slow),
        pytest.param("model=8", B, marks=pytest.mark.slow),
        pytest.param("fsdp=2,model=4", B, marks=pytest.mark.slow),
    ],
)
def test_what_a_train_step_sends_along_model(mesh, examples):
    """Only the maximum, the normaliser, the target logit, dL/da and dL/dx: nothing of size V.

    1200 examples are computed in chunks of 128 (in a loop and a remainder) on CPU.
    """
    reports = [
        train_step_communication(mesh, dataclasses.replace(SMALL, vocabulary_size=size), examples)
        for size in (37, 1000)
    ]
    sizes = make_mesh(mesh).shape
    local = examples // (sizes["data"] * sizes["fsdp"])
    inputs = (SMALL.order - 1) * SMALL.features
    per_example = 3 + SMALL.hidden + inputs
    for report in reports:
        along = report.along("model")
        assert {c.kind for c in along} == {"all-reduce"}, report.table()
        assert {c.axes for c in along} == {("model",)}, report.table()
        widths = {o.shape[1:] for c in along for o in c.operands if o.shape}
        assert widths == {(1,), (SMALL.hidden,), (inputs,)}, report.table()
        # The squared norms of U, W and b for the metric `gradient_norm`, one number each.
        norms = sum(o.shape == () for c in along for o in c.operands)
        assert norms == 3
        assert along.bytes == 4 * (local * per_example + norms), report.table()


@pytest.mark.parametrize(
    "changes",
    [
        {"direct": False},
        {"hidden": 0},
    ],
    ids=str,
)
def test_without_direct_connections_or_hidden_units_less_is_sent(changes):
    config = dataclasses.replace(SMALL, **changes)
    report = train_step_communication("data=2,model=4", config, optimizer="sgd")
    width = SMALL.hidden if config.hidden else (SMALL.order - 1) * SMALL.features
    assert report.along("model").bytes == 4 * (B // 2 * (3 + width) + 2), report.table()


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"vocabulary_size": 1}, "vocabulary_size is 1, expected 2 or more"),
        ({"order": 1}, "order is 1, expected 2 or more"),
        ({"features": 0}, "features is 0, expected 1 or more"),
        ({"hidden": -1}, "hidden is -1, expected 0 or more"),
        ({"output_blocks": 0}, "output_blocks is 0, expected 1 or more"),
        ({"dropout": 1.0}, "dropout is 1.0, expected 0 <= dropout < 1"),
        ({"hidden": 0, "direct": False}, "hidden is 0 and direct is off"),
    ],
)
def test_configurations_that_are_no_network(options, fault):
    with pytest.raises(InputError, match=fault):
        dataclasses.replace(SMALL, **options)


def test_contexts_of_another_length_are_refused():
    with pytest.raises(InputError, match=r"words have shape \(24, 4\), expected \[B, 3\]"):
        SMALL.make_model().apply({"params": random_params(SMALL)}, jnp.zeros((24, 4), jnp.int32))


def test_blocks_that_do_not_fit_the_mesh_are_refused():
    with (
        jax.set_mesh(make_mesh("data=2,model=4")),
        pytest.raises(InputError, match="output_blocks=4"),
    ):
        SMALL.make_model().apply({"params": random_params(SMALL)}, jnp.zeros((24, 3), jnp.int32))
