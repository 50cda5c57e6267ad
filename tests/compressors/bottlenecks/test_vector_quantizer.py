"""Vector quantisation: the nearest code, losses and gradients, averages over devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgen.compressors.bottlenecks import CodebookStatistics, VQConfig, update_codebook
from jaxgen.errors import InputError
from jaxgen.parallel import make_mesh, put_batch
from jaxgen.training import compile_step, create_state, make_train_step

KEY = jax.random.key(0)
H = np.random.default_rng(0).normal(size=(4, 3, 5, 2)).astype(np.float32)
BY_GRADIENT = VQConfig(7, 2, ema_decay=None)
AVERAGED = VQConfig(7, 2, ema_decay=0.9)
PROJECTED = VQConfig(7, 6, code_channels=2)


def unboxed(config, h=H):
    variables = jax.jit(config.make_model().init)(KEY, h)
    variables = jax.tree.map(
        lambda x: getattr(x, "value", x), variables, is_leaf=lambda x: hasattr(x, "value")
    )
    return jax.tree.map(lambda x: 10 * x if x.ndim == 2 else x, variables)  # codes further apart


@functools.cache
def compiled(config, method=None):
    return jax.jit(functools.partial(config.make_model().apply, method=method))


def nearest(z, codebook):
    return np.argmin(((z[..., None, :] - codebook) ** 2).sum(-1), axis=-1)


def test_a_position_becomes_the_nearest_code_and_the_loss_is_the_formulas():
    variables = unboxed(BY_GRADIENT)
    codebook = np.asarray(variables["params"]["codebook"], np.float64)
    latent = compiled(BY_GRADIENT)(variables, H)
    codes = nearest(H, codebook)
    np.testing.assert_array_equal(latent.codes, codes)
    np.testing.assert_array_equal(latent.values, np.float32(codebook)[codes])
    square = ((H - codebook[codes]) ** 2).mean((1, 2, 3))
    np.testing.assert_allclose(latent.loss, 1.25 * square, rtol=1e-5)
    np.testing.assert_allclose(latent.metrics["commitment"], square.mean(), rtol=1e-5)
    share = np.bincount(codes.ravel(), minlength=7) / codes.size
    expected = np.exp(-np.sum(share[share > 0] * np.log(share[share > 0])))
    np.testing.assert_allclose(latent.metrics["perplexity"], expected, rtol=1e-5)


def test_gradients_pass_straight_through_and_pull_each_side_to_the_other():
    variables = unboxed(BY_GRADIENT)
    codebook = np.asarray(variables["params"]["codebook"], np.float64)
    codes = nearest(H, codebook)
    weights = np.random.default_rng(1).normal(size=H.shape).astype(np.float32)

    @jax.jit
    @functools.partial(jax.grad, argnums=(0, 1))
    def gradients(variables, h):
        latent = BY_GRADIENT.make_model().apply(variables, h)
        return jnp.sum(weights * latent.values) + latent.loss.mean()

    to_codebook, to_h = gradients(variables, H)
    difference = 2 * (H - codebook[codes]) / H.size
    np.testing.assert_allclose(to_h, weights + 0.25 * difference, rtol=1e-4, atol=1e-6)
    pulls = np.eye(7)[codes.ravel()].T @ -difference.reshape(-1, 2)
    np.testing.assert_allclose(to_codebook["params"]["codebook"], pulls, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("config", [BY_GRADIENT, AVERAGED, PROJECTED])
def test_all_codes_come_back_exactly_and_no_others_are_taken(config):
    h = np.random.default_rng(2).normal(size=(4, 9, config.encoder_channels)).astype(np.float32)
    variables = unboxed(config, h)
    latent = compiled(config)(variables, h)
    values = compiled(config, "values")
    np.testing.assert_array_equal(values(variables, latent.codes), latent.values)
    all_values = values(variables, np.arange(7))
    assert len(np.unique(all_values, axis=0)) == 7
    assert latent.values.shape == h.shape
    assert np.isnan(values(variables, np.array([7, -1]))).all()
    for bad in (7, -1):
        with pytest.raises(InputError, match=f"codes hold {bad}, expected 0 to 6, the codebook's"):
            config.make_model().apply(variables, np.array([0, bad]), method="values")


def test_an_averaged_codebook_is_no_parameter_and_is_updated_only_where_it_is_mutable():
    variables = unboxed(AVERAGED)
    assert set(variables) == {"codebook"}
    before = CodebookStatistics(*(variables["codebook"][name] for name in ("count", "total")))
    np.testing.assert_array_equal(before.count_K, 1)
    latent = compiled(AVERAGED)(variables, H)
    model = AVERAGED.make_model()
    updated, new = jax.jit(functools.partial(model.apply, mutable=["codebook"]))(variables, H, KEY)
    np.testing.assert_array_equal(updated.values, latent.values)  # those of the codebook before
    np.testing.assert_allclose(updated.loss, 0.25 * ((H - latent.values) ** 2).mean((1, 2, 3)))
    expected = jax.jit(
        functools.partial(update_codebook, decay=0.9, revive_below=AVERAGED.revive_below)
    )(before, H, latent.codes, KEY)
    np.testing.assert_allclose(new["codebook"]["count"], expected.count_K, rtol=1e-6)
    np.testing.assert_allclose(new["codebook"]["total"], expected.total_KD, rtol=1e-6)


WIDTH = VQConfig(12, 3, ema_decay=0.8)


def train(mesh, accumulate=1, steps=4):
    """A linear autoencoder of clusters with an averaged codebook between its halves."""
    model = WIDTH.make_model()

    def loss_fn(params, batch, key, variables):
        h = batch["x"] @ params["encode"]
        latent, variables = model.apply(variables, h, key, mutable=["codebook"])
        error = jnp.mean((latent.values @ params["decode"] - batch["x"]) ** 2)
        return error + latent.loss.mean(), (latent.metrics, variables)

    def init():
        encode = jax.random.normal(KEY, (6, 3)) / 2
        return {"encode": encode, "decode": encode.T}

    with jax.set_mesh(mesh):
        variables = jax.jit(model.init)(KEY, jnp.zeros((1, 1, 3)))
        tx = optax.sgd(0.05)
        state, _ = create_state(init, tx=tx, variables=variables)
        made = make_train_step(loss_fn, tx, accumulate=accumulate, stateful=True)
        step, perplexities = compile_step(made, state), []
        for index in range(steps):
            rng = np.random.default_rng(index)
            centres = 3 * np.random.default_rng(9).normal(size=(12, 6))
            x = centres[rng.integers(0, 12, (16, 4))] + 0.1 * rng.normal(size=(16, 4, 6))
            batch = put_batch({"x": x.astype(np.float32)}, mesh)
            state, metrics = step(state, batch, KEY)
            perplexities.append(float(metrics["perplexity"]))
        assert step._cache_size() == 1
    assert all(x.sharding.is_fully_replicated for x in jax.tree.leaves(state.variables))
    return jax.device_get(state), perplexities


def test_statistics_of_a_sharded_batch_are_those_of_the_whole():
    whole, perplexities = train(make_mesh("data=1", jax.devices()[:1]))
    sharded, found = train(make_mesh("data=4,fsdp=2"))
    assert set(whole.variables["codebook"]) == {"count", "total"}
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), sharded, whole
    )
    np.testing.assert_allclose(found, perplexities, rtol=1e-5)
    assert perplexities[-1] > perplexities[0]  # codes that nothing was near were revived


def test_microbatches_update_the_codebook_one_after_the_other():
    state, perplexities = train(make_mesh("data=1", jax.devices()[:1]), accumulate=2, steps=2)
    count = state.variables["codebook"]["count"]
    # Each of the four updates gives 64 / 2 positions the weight 0.2; revival adds to that.
    assert count.sum() > 12 * 0.8**4 + 32 * (1 - 0.8**4) - 1e-3
    assert int(state.skipped) == 0
    assert perplexities[-1] > 6


def test_bad_values_are_refused():
    for kwargs, message in (
        ({"codebook_size": 1}, "codebook_size is 1, expected 2 to 16777216 codes"),
        ({"latent_channels": 0}, "latent_channels is 0, expected 1 or more"),
        ({"code_channels": 0}, "code_channels is 0, expected 1 or more"),
        ({"ema_decay": 1.0}, "ema_decay is 1.0, expected 0 <= ema_decay < 1, or None"),
        ({"commitment": -0.1}, "commitment is -0.1, expected a finite number >= 0"),
        ({"revive_below": -1.0}, "revive_below is -1.0, expected a finite number >= 0"),
    ):
        with pytest.raises(InputError, match=message):
            VQConfig(**kwargs)
    with pytest.raises(InputError, match=r"h has shape \(4, 3\), expected \[B, ..., 2\]"):
        AVERAGED.make_model().init(KEY, jnp.zeros((4, 3)))
