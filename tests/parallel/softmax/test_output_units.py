"""The softmax over partitioned output units, against plain numpy in float64 on every mesh."""

import contextlib
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jax.sharding import PartitionSpec as P

from jaxgen.errors import InputError
from jaxgen.parallel import communication, make_mesh
from jaxgen.parallel.softmax import output_units
from jaxgen.parallel.softmax.output_units import Units, padded_units

MESHES = [None, "data=1", "data=2,model=4", "data=2,fsdp=2,model=2", "model=8", "data=8"]
FEW = [None, "data=2,model=4", "model=8"]
"""The meshes of a plain `pytest`: the others repeat what these do along `model`."""


def marked(mesh, *case, few=FEW):
    """A case of a parametrised test, slow unless its mesh is one of the few."""
    return pytest.param(*case, mesh, marks=() if mesh in few else pytest.mark.slow)


B = 24
WIDTHS = (5, 3)


@contextlib.contextmanager
def on_mesh(description):
    """The mesh made current, over as many devices as it asks for; yields devices along `model`."""
    if description is None:
        yield 1
        return
    sizes = [int(part.split("=")[1]) for part in description.split(",")]
    mesh = make_mesh(description, jax.devices()[: int(np.prod(sizes))])
    with jax.set_mesh(mesh):
        yield mesh.shape["model"]


@dataclasses.dataclass
class Problem:
    """Two hidden layers, output units without padding, targets and weights, all of numpy."""

    hidden: tuple
    kernels: tuple
    bias: np.ndarray
    targets: np.ndarray
    weights: np.ndarray

    @classmethod
    def random(cls, size, seed=0, scale=1.0):
        rng = np.random.default_rng(seed)
        normal = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
        return cls(
            hidden=tuple(normal(B, width) for width in WIDTHS),
            kernels=tuple(scale * normal(width, size) for width in WIDTHS),
            bias=normal(size),
            targets=rng.integers(0, size, B),
            weights=(np.arange(B) % 3).astype(np.float32),
        )

    @property
    def logits(self):
        pairs = zip(self.hidden, self.kernels, strict=True)
        return self.bias + sum(h.astype(np.float64) @ k for h, k in pairs)

    @property
    def log_softmax(self):
        y_BV = self.logits - self.logits.max(-1, keepdims=True)
        return y_BV - np.log(np.exp(y_BV).sum(-1, keepdims=True))

    def units(self, blocks):
        """The units with zero padding to equal blocks."""
        size = len(self.bias)
        pad = padded_units(size, blocks) - size
        padded = [np.pad(k, [(0, 0)] * (k.ndim - 1) + [(0, pad)]) for k in self.kernels]
        bias = jnp.asarray(np.pad(self.bias, (0, pad)))
        return Units(tuple(map(jnp.asarray, padded)), bias, size)

    def loss_and_gradients(self):
        """The weighted mean of -log P, and its gradient, by the formulas of the softmax."""
        log_p_BV = self.log_softmax
        weights = self.weights / self.weights.sum()
        loss = -np.sum(weights * log_p_BV[np.arange(B), self.targets])
        residual_BV = np.exp(log_p_BV)
        residual_BV[np.arange(B), self.targets] -= 1
        d_y = residual_BV * weights[:, None]
        d_hidden = tuple(d_y @ k.T for k in self.kernels)
        return loss, (d_hidden, tuple(h.T @ d_y for h in self.hidden), d_y.sum(0))


def loss_and_gradients(problem, blocks, chunk=None, dtype=jnp.float32):
    units = problem.units(blocks)

    def loss_fn(parameters):
        hidden, kernels, bias = parameters
        return output_units.cross_entropy(
            hidden,
            Units(kernels, bias, units.size),
            jnp.asarray(problem.targets),
            jnp.asarray(problem.weights),
            chunk=chunk,
        )

    parameters = tuple(problem.hidden), units.kernels, units.bias
    parameters = jax.tree.map(lambda x: np.asarray(x).astype(dtype), parameters)
    return jax.device_get(jax.jit(jax.value_and_grad(loss_fn, has_aux=True))(parameters))


def run(operation, hidden, units, *args, **kwargs):
    """One operation, compiled for the current mesh."""

    def function(hidden, kernels, bias, args):
        return operation(hidden, Units(kernels, bias, units.size), *args, **kwargs)

    hidden = tuple(map(jnp.asarray, hidden))
    arguments = hidden, units.kernels, units.bias, jax.tree.map(jnp.asarray, args)
    result = jax.jit(function)(*arguments)
    return jax.tree.map(np.asarray, result)


def check_against_numpy(problem, found, rtol=2e-6, atol=2e-7):
    (loss, nll_B), (d_hidden, d_kernels, d_bias) = found
    expected_loss, (e_hidden, e_kernels, e_bias) = problem.loss_and_gradients()
    size = len(problem.bias)
    np.testing.assert_allclose(loss, expected_loss, rtol=rtol)
    expected_nll = -problem.log_softmax[np.arange(B), problem.targets]
    np.testing.assert_allclose(nll_B, expected_nll, rtol=rtol, atol=10 * atol)
    for x, expected in zip(d_hidden, e_hidden, strict=True):
        np.testing.assert_allclose(x, expected, rtol=rtol, atol=atol)
    for x, expected in zip((*d_kernels, d_bias), (*e_kernels, e_bias), strict=True):
        np.testing.assert_allclose(x[..., :size], expected, rtol=rtol, atol=atol)
        assert not np.any(x[..., size:])


@pytest.mark.parametrize(
    ("size", "chunk", "mesh"),
    [
        *(marked(mesh, 37, 5) for mesh in MESHES),
        *(
            marked(mesh, size, chunk, few=["data=2,model=4"])
            for size, chunk in [(37, None), (32, 2), (3, None)]
            for mesh in MESHES
        ),
    ],
)
def test_loss_and_gradients_match_numpy(size, chunk, mesh):
    """V that divides and not, chunks with a remainder, fewer units than devices, zero weights."""
    problem = Problem.random(size)
    with on_mesh(mesh) as blocks:
        check_against_numpy(problem, loss_and_gradients(problem, blocks, chunk))


@pytest.mark.parametrize("blocks", [3, 8])
def test_padding_without_a_mesh_changes_nothing(blocks):
    problem = Problem.random(37)
    check_against_numpy(problem, loss_and_gradients(problem, blocks))


def test_more_blocks_than_devices():
    problem = Problem.random(37)
    with on_mesh("data=2,model=4"):
        check_against_numpy(problem, loss_and_gradients(problem, blocks=8))


def test_examples_that_do_not_divide_over_the_mesh():
    problem = Problem.random(37)
    units, first = problem.units(4), [h[:7] for h in problem.hidden]
    with on_mesh("data=2,model=4"):
        loss, nll_B = run(output_units.cross_entropy, first, units, problem.targets[:7])
    expected = -problem.log_softmax[np.arange(7), problem.targets[:7]]
    np.testing.assert_allclose(nll_B, expected, rtol=2e-6)
    np.testing.assert_allclose(loss, expected.mean(), rtol=2e-6)


def test_weights_scale_and_zero_weights():
    """The mean does not change with the weights' scale; no weight at all is a loss of zero."""
    problem = Problem.random(37)
    problem.weights *= 17
    check_against_numpy(problem, loss_and_gradients(problem, 1))
    problem.weights *= 0
    (loss, _), gradients = loss_and_gradients(problem, 1)
    assert loss == 0
    assert not any(np.any(g) for g in jax.tree.leaves(gradients))


def test_the_metric_has_no_gradient_and_the_cotangent_scales():
    problem = Problem.random(37)
    units, targets = problem.units(1), jnp.asarray(problem.targets)

    def three_times(bias):
        loss, nll_B = output_units.cross_entropy(
            problem.hidden, units._replace(bias=bias), targets, jnp.asarray(problem.weights)
        )
        return 3 * loss + nll_B.sum()

    found = jax.jit(jax.grad(three_times))(units.bias)
    np.testing.assert_allclose(found, 3 * problem.loss_and_gradients()[1][2], rtol=5e-6, atol=1e-6)


@pytest.mark.parametrize("mesh", [None, "data=2,model=4"])
def test_bfloat16(mesh):
    """Parameters of bfloat16 keep their type; sums and logits are float32 inside."""
    problem = Problem.random(37)
    with on_mesh(mesh) as blocks:
        (loss, nll_B), gradients = loss_and_gradients(problem, blocks, dtype=jnp.bfloat16)
    assert loss.dtype == nll_B.dtype == jnp.float32
    assert {g.dtype for g in jax.tree.leaves(gradients)} == {jnp.dtype(jnp.bfloat16)}
    rounded = Problem.random(37)
    for name in ("hidden", "kernels"):
        cast = [np.asarray(jnp.bfloat16(x), np.float32) for x in getattr(rounded, name)]
        setattr(rounded, name, tuple(cast))
    rounded.bias = np.asarray(jnp.bfloat16(rounded.bias), np.float32)
    found = jax.tree.map(lambda g: np.asarray(g, np.float32), gradients)
    check_against_numpy(rounded, ((loss, nll_B), found), rtol=0.02, atol=2e-3)
    np.testing.assert_allclose(loss, rounded.loss_and_gradients()[0], rtol=1e-6)


@pytest.mark.parametrize("mesh", [None, "data=2,model=4"])
def test_finite_at_extreme_logits(mesh):
    problem = Problem.random(37, scale=3e3)
    with on_mesh(mesh) as blocks:
        (loss, nll_B), gradients = loss_and_gradients(problem, blocks)
        log_p_B = run(
            output_units.log_probabilities, problem.hidden, problem.units(blocks), problem.targets
        )
    expected = -problem.log_softmax[np.arange(B), problem.targets]
    assert expected.max() > 5e3
    np.testing.assert_allclose(nll_B, expected, rtol=1e-6, atol=5e-3)
    np.testing.assert_allclose(-log_p_B, expected, rtol=1e-6, atol=5e-3)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves((loss, gradients)))


@pytest.mark.parametrize("mesh", [marked(mesh) for mesh in MESHES])
def test_evaluation_matches_numpy(mesh):
    problem = Problem.random(37)
    with on_mesh(mesh) as blocks:

        def everything(hidden, units, targets):
            return (
                output_units.log_probabilities(hidden, units, targets, chunk=7),
                output_units.argmax(hidden, units),
                output_units.logits(hidden, units),
                # Ten of the 37 are more than the five that a device of eight owns.
                {k: output_units.top_k(hidden, units, k) for k in (1, 10, 37)},
            )

        log_p_B, best_B, y_BV, tops = run(
            everything, problem.hidden, problem.units(blocks), problem.targets
        )
    expected = problem.log_softmax
    np.testing.assert_allclose(log_p_B, expected[np.arange(B), problem.targets], rtol=2e-6)
    assert np.array_equal(best_B, problem.logits.argmax(-1))
    np.testing.assert_allclose(y_BV[:, :37], problem.logits, rtol=1e-5, atol=2e-6)
    assert np.all(np.asarray(y_BV[:, 37:]) == -np.inf)
    order = np.argsort(-expected, axis=-1, kind="stable")
    for k, (log_p_BK, ids_BK) in tops.items():
        assert np.array_equal(ids_BK, order[:, :k])
        np.testing.assert_allclose(
            log_p_BK, np.take_along_axis(expected, order[:, :k], 1), rtol=2e-6, atol=1e-6
        )


@pytest.mark.parametrize("mesh", [None, "data=2,model=4", "model=8"])
def test_ties_go_to_the_lowest_id(mesh):
    """Six units of the greatest logit, in four different blocks, are ranked by their ids."""
    tied = [3, 11, 12, 20, 30, 36]
    bias = np.zeros(37, np.float32)
    bias[tied] = 2.0
    problem = Problem(
        (np.zeros((B, 2), np.float32),), (np.ones((2, 37), np.float32),), bias, None, None
    )
    with on_mesh(mesh) as blocks:
        units = problem.units(blocks)
        both = lambda h, u: (output_units.argmax(h, u), output_units.top_k(h, u, k=8)[1])  # noqa: E731
        best_B, ids_BK = run(both, problem.hidden, units)
    assert np.all(best_B == 3)
    assert np.all(ids_BK == [*tied, 0, 1])


SETTINGS = {
    "plain": {},
    "hot": {"temperature": 3.0},
    "top_k": {"top_k": 3},
    "top_p": {"top_p": 0.5},
    "all three": {"temperature": 2.0, "top_k": 9, "top_p": 0.6},
}


def all_samples(hidden, units, key):
    """A sample for each of the settings, [settings, B]."""
    samples = [
        output_units.sample_units(hidden, units, key, **options) for options in SETTINGS.values()
    ]
    return jnp.stack(samples)


@functools.cache
def samples_without_a_mesh():
    """A function of the key, compiled."""
    problem = Problem.random(37)
    units = problem.units(1)
    sample = jax.jit(lambda key: all_samples(problem.hidden, units, key))
    return lambda seed: np.asarray(sample(jax.random.key(seed)))


def test_a_sample_depends_on_the_key_and_the_index():
    problem, expected = Problem.random(37), samples_without_a_mesh()(7)
    assert len(np.unique(expected, axis=0)) == len(SETTINGS)
    assert np.all(np.any(samples_without_a_mesh()(8) != expected, axis=1))
    with on_mesh("data=2,model=4") as blocks:
        first, key = [h[:7] for h in problem.hidden], jax.random.key(7)
        few = run(all_samples, first, problem.units(blocks), key)
    assert np.array_equal(few, expected[:, :7])


@pytest.mark.parametrize("mesh", [marked(mesh, few=["model=8"]) for mesh in MESHES[1:]])
def test_a_sample_does_not_depend_on_the_mesh(mesh):
    problem = Problem.random(37)
    with on_mesh(mesh) as blocks:
        found = run(all_samples, problem.hidden, problem.units(blocks), jax.random.key(7))
    assert np.array_equal(found, samples_without_a_mesh()(7))


@pytest.mark.parametrize("mesh", [None, "data=2,model=4"])
def test_given_logits_are_sampled_alike(mesh):
    problem, key = Problem.random(37), jax.random.key(7)
    with on_mesh(mesh):
        found = jax.jit(
            lambda y_BV: jnp.stack(
                [output_units.sample_logits(y_BV, key, **o) for o in SETTINGS.values()]
            )
        )(problem.logits.astype(np.float32))
    assert np.array_equal(found, samples_without_a_mesh()(7))


def many_draws(bias, count, all_settings):
    """For each of some settings, draws of `count` examples that all have the same logits."""
    kernel = jnp.asarray(np.zeros((1, len(bias)), np.float32))
    units = Units((kernel,), jnp.asarray(np.asarray(bias, np.float32)), len(bias))
    hidden = (np.zeros((count, 1), np.float32),)
    with on_mesh("data=2,model=4"):
        draws = lambda h, u, key: [output_units.sample_units(h, u, key, **s) for s in all_settings]  # noqa: E731
        return run(draws, hidden, units, jax.random.key(0))


def softmax(y):
    e = np.exp(y - y.max())
    return e / e.sum()


def test_frequencies_follow_the_softmax():
    """Chi-square at the 0.1 % level, over 8,000 independent draws with a fixed key."""
    bias = np.random.default_rng(5).normal(size=16)
    all_settings = [{}, {"temperature": 0.5}, {"top_k": 5}, {"top_p": 0.8}]
    for settings, ids in zip(all_settings, many_draws(bias, 8000, all_settings), strict=True):
        p_V = softmax(bias / settings.get("temperature", 1.0))
        order = np.argsort(-p_V)
        kept = np.cumsum(p_V[order]) - p_V[order] < settings.get("top_p", 2.0)
        kept &= np.arange(16) < settings.get("top_k", 16)
        p_V[order[~kept]] = 0
        counts = np.bincount(ids, minlength=16)
        assert not counts[p_V == 0].any(), settings
        support = p_V > 0
        result = scipy.stats.chisquare(counts[support], 8000 * p_V[support] / p_V.sum())
        assert result.pvalue > 1e-3, settings


@pytest.mark.parametrize(("temperature", "top_k"), [(1.0, None), (2.0, None), (0.7, 4)])
def test_top_p_keeps_the_exact_set_of_a_sort(temperature, top_k):
    """The words that 600 draws show are those that a sort keeps, for 8 distributions over 7."""
    rng = np.random.default_rng(3)
    bias_BV = 0.7 * rng.normal(size=(8, 8))
    identity = np.repeat(np.eye(8, dtype=np.float32), 600, axis=0)
    units = Units((bias_BV.astype(np.float32),), np.zeros(8, np.float32), 7)
    with on_mesh("data=2,model=4"):
        sample = jax.jit(
            lambda mass: output_units.sample_units(
                (identity,),
                units,
                jax.random.key(1),
                temperature=temperature,
                top_k=top_k,
                top_p=mass,
            )
        )
        drawn = {mass: np.asarray(sample(mass)) for mass in (0.0, 1e-6, 0.3, 0.6, 0.9, 1.0)}
    for mass, ids_B in drawn.items():
        for bias, ids in zip(bias_BV[:, :7], ids_B.reshape(8, 600), strict=True):
            order = np.argsort(-bias)[:top_k]
            p = softmax(bias[order] / temperature)
            count = max(1, int(np.sum(np.cumsum(p) - p < mass)))
            assert set(ids) == set(order[:count])


def test_top_p_keeps_ties_of_the_last_unit():
    bias = [3.0, 1.0, 1.0, 1.0, -9.0, -9.0, -9.0, -9.0]
    (ids,) = many_draws(bias, 2000, [{"top_p": 0.75}])
    assert set(ids) == {0, 1, 2, 3}


def test_temperature_zero_is_the_arg_max():
    problem = Problem.random(37)

    def coldest(hidden, units, key):
        options = ({}, {"top_p": 0.9}, {"top_k": 4})
        draws = [
            output_units.sample_units(hidden, units, key, temperature=0.0, **o) for o in options
        ]
        return jnp.stack(draws)

    with on_mesh("data=2,model=4") as blocks:
        ids_SB = run(coldest, problem.hidden, problem.units(blocks), jax.random.key(0))
    assert np.all(np.asarray(ids_SB) == problem.logits.argmax(-1))


def test_settings_may_be_traced():
    problem, units = Problem.random(37), Problem.random(37).units(4)
    key, options = jax.random.key(2), {"temperature": 2.0, "top_p": 0.5}
    with on_mesh("data=2,model=4"):
        sample = lambda h, u, options: output_units.sample_units(h, u, key, **options)  # noqa: E731
        found = run(sample, problem.hidden, units, options)
        expected = run(output_units.sample_units, problem.hidden, units, key, **options)
    assert np.array_equal(found, expected)


def test_keys_of_any_generator():
    problem = Problem.random(37)
    with on_mesh("data=2,model=4") as blocks:
        key = jax.random.key(0, impl="rbg")
        ids_B = run(output_units.sample_units, problem.hidden, problem.units(blocks), key)
    assert ids_B.shape == (B,)
    assert ids_B.min() >= 0
    assert ids_B.max() < 37


def test_inside_a_shard_map_over_the_examples():
    """Local steps: each shard of the data has a loss of its own, `model` is still partitioned."""
    problem = Problem.random(37)
    problem.weights[:] = 1
    targets = jnp.asarray(problem.targets)
    with on_mesh("data=2,model=4") as blocks:
        units = problem.units(blocks)

        def local_loss_and_gradient(hidden, targets_B, parameters):
            parameters = jax.lax.pcast(parameters, "data", to="varying")

            def loss_fn(parameters):
                return output_units.cross_entropy(
                    hidden, Units(*parameters, units.size), targets_B
                )[0]

            loss, gradients = jax.value_and_grad(loss_fn)(parameters)
            return loss[None], gradients[1][None]

        losses, gradients = jax.jit(
            jax.shard_map(
                local_loss_and_gradient,
                in_specs=(P("data"), P("data"), P()),
                out_specs=(P("data"), P("data")),
                axis_names={"data"},
            )
        )(tuple(map(jnp.asarray, problem.hidden)), targets, tuple(units[:2]))
    log_p_B = problem.log_softmax[np.arange(B), problem.targets]
    np.testing.assert_allclose(losses, -log_p_B.reshape(2, -1).mean(1), rtol=2e-6)
    expected = problem.loss_and_gradients()[1][2]
    np.testing.assert_allclose(gradients.mean(0)[:37], expected, rtol=1e-5, atol=1e-6)


OPERATIONS = {
    "log_probabilities": lambda h, u: output_units.log_probabilities(h, u, np.zeros(B, np.int32)),
    "argmax": output_units.argmax,
    "top_k": lambda h, u: output_units.top_k(h, u, 5),
    "sample": lambda h, u: output_units.sample_units(h, u, jax.random.key(0)),
    "sample top_k top_p": lambda h, u: output_units.sample_units(
        h, u, jax.random.key(0), top_k=5, top_p=0.5
    ),
}
"""Operation -> what it does with hidden layers and units."""

BYTES_ALONG_MODEL = {
    # Per example of this device, in words of four bytes: maximum, normaliser, target logit.
    "log_probabilities": 3,
    # Maximum and id.
    "argmax": 2,
    # Maximum, normaliser, and five logits and ids from each of four devices.
    "top_k": 2 + 4 * 5 * 2,
    "sample": 2,
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_no_operation_sends_its_logits(name):
    """The collectives along `model` are sums and maxima, and their bytes do not depend on V."""
    found = []
    for size in (37, 3000):
        problem = Problem.random(size)
        with on_mesh("data=2,model=4"):
            report = communication(
                lambda h, k, b, size=size: OPERATIONS[name](h, Units(k, b, size)),
                tuple(map(jnp.asarray, problem.hidden)),
                *problem.units(4)[:2],
            )
        assert {c.kind for c in report} == {"all-reduce"}, report.table()
        assert set(report.bytes_by_axes()) == {"model"}, report.table()
        found.append(report.bytes)
    assert found[0] == found[1]
    if name in BYTES_ALONG_MODEL:
        assert found[0] == 4 * (B // 2) * BYTES_ALONG_MODEL[name]


@pytest.mark.parametrize(
    ("call", "fault"),
    [
        (lambda h, u, t: output_units.cross_entropy(h[:1], u, t), "1 hidden layers for 2 output"),
        (
            lambda h, u, t: output_units.argmax(h[::-1], u),
            r"output kernel 0 has shape \(5, 37\), expected \(3, 37\)",
        ),
        (
            lambda h, u, t: output_units.logits(h, u._replace(size=40)),
            r"37 rows of output units cannot hold \|V\| = 40",
        ),
        (lambda h, u, t: output_units.top_k(h, u, 38), r"top_k is 38, expected 1 to \|V\| = 37"),
        (
            lambda h, u, t: output_units.sample_units(h, u, jax.random.key(0), top_k=0),
            r"top_k is 0, expected 1 to \|V\| = 37",
        ),
        (
            lambda h, u, t: output_units.sample_units(h, u, jax.random.key(0), temperature=-1.0),
            "temperature is -1.0, expected 0 or more",
        ),
        (
            lambda h, u, t: output_units.sample_units(h, u, jax.random.key(0), top_p=1.5),
            "top_p is 1.5, expected 0 <= top_p <= 1",
        ),
        (
            lambda h, u, t: output_units.cross_entropy(h, u, t[:5]),
            r"targets have shape \(5,\), expected \(24,\)",
        ),
        (
            lambda h, u, t: output_units.cross_entropy(h, u, t, jnp.ones(3)),
            r"weights have shape \(3,\), expected \(24,\)",
        ),
        (
            lambda h, u, t: output_units.log_probabilities(h, u, t, chunk=0),
            "chunk is 0, expected 1 or more",
        ),
    ],
)
def test_errors_name_what_does_not_fit(call, fault):
    problem = Problem.random(37)
    with pytest.raises(InputError, match=fault) as error:
        call(problem.hidden, problem.units(1), jnp.asarray(problem.targets))
    assert "\n" not in str(error.value)


def test_rows_that_do_not_divide_over_model_are_refused():
    problem = Problem.random(37)
    with (
        on_mesh("data=2,model=4"),
        pytest.raises(InputError, match=r"37 rows .* 4 equal blocks .* expected 40"),
    ):
        output_units.argmax(problem.hidden, problem.units(1))


@pytest.mark.parametrize("mesh", [None, "data=2,model=4"])
def test_forbidden_units_are_never_drawn(mesh):
    """Without the likeliest unit of each example the arg-max is the second likeliest."""
    problem = Problem.random(8)
    best = sorted(set(problem.logits.argmax(-1)))
    rest = problem.logits.copy()
    rest[:, best] = -np.inf
    with on_mesh(mesh) as blocks:
        units, key = problem.units(blocks), jax.random.key(0)
        found = run(
            output_units.sample_units, problem.hidden, units, key, temperature=0.0, forbid=best
        )
    assert len(best) < 8
    assert np.array_equal(found, rest.argmax(-1))
    with pytest.raises(InputError, match=r"forbid has the id 8, expected some of the ids in"):
        run(output_units.sample_units, problem.hidden, problem.units(1), key, forbid=(8,))
