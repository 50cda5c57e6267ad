"""MDT: published sizes, what is hidden stays hidden, the side-interpolater, asymmetry."""

import dataclasses
import functools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import TINY, B, apply, initial, inputs, params_of, shapes

from jaxgen.errors import InputError
from jaxgen.nn import multiply_adds, parameter_count, sincos_grid
from jaxgen.parallel import communication, make_mesh, put_batch
from jaxgen.spacetime import MDTConfig, patchify
from jaxgen.spacetime.mdt import visible_places

CONFIG = TINY["mdt"]
LENGTH = 8

LATENT = (
    jax.ShapeDtypeStruct((1, 32, 32, 4), jnp.float32),
    jax.ShapeDtypeStruct((1,), jnp.float32),
    jax.ShapeDtypeStruct((1,), jnp.int32),
)


@pytest.mark.parametrize(
    ("name", "millions"), [("MDT-S/2", 33.1), ("MDT-B/2", 130.8), ("MDT-XL/2", 675.8)]
)
def test_parameter_counts_are_the_published_ones(name, millions):
    """Gao et al. 2023, of the network that samples: without side-interpolater and mask token."""
    config = MDTConfig.named(name)
    tree = dict(shapes(config, *LATENT))
    for_training = parameter_count([tree.pop("side"), tree.pop("mask_token")])
    assert for_training > 0
    assert abs(parameter_count(tree) / 1e6 - millions) < 0.1


def test_visible_places_are_drawn_without_replacement():
    places = np.asarray(visible_places(jax.random.key(0), 2000, 10, 0.3))
    assert places.shape == (2000, 7)
    assert np.all(np.diff(places, axis=1) > 0)
    counts = np.bincount(places.ravel(), minlength=10) / 2000
    np.testing.assert_allclose(counts, 0.7, atol=0.05)  # 5 standard deviations
    # An example's places do not depend on how many examples there are.
    np.testing.assert_array_equal(visible_places(jax.random.key(0), 5, 10, 0.3), places[:5])
    assert visible_places(jax.random.key(0), 2, 10, 0.99).shape == (2, 1)
    np.testing.assert_array_equal(visible_places(jax.random.key(0), 1, 4, 0.0), [[0, 1, 2, 3]])


@partial(jax.jit, static_argnames="mask_ratio")
def both(params, key, z, time, label, mask_ratio=0.5):
    return CONFIG.make_model().apply(
        {"params": params},
        *(z, time, label),
        mask_ratio=mask_ratio,
        train=False,
        method="full_and_masked",
        rngs={"mask": key},
    )


@functools.cache
def hidden_patches(seed, mask_ratio=0.5):
    """Booleans [B, L] of the patches that a call with this key hides, found by looking."""
    key, (z, time, label) = jax.random.key(seed), inputs()
    params = params_of(CONFIG)

    def masked_of(z):
        return both(params, key, z, time, label, mask_ratio)[1]

    change = jax.jit(jax.grad(lambda z: jnp.sum(masked_of(z) ** 2)))(z)
    return ~np.any(np.asarray(patchify(np.abs(change), 2)), axis=2)


def test_hidden_patches_do_not_influence_the_masked_prediction():
    key, (z, time, label) = jax.random.key(3), inputs()
    hidden = hidden_patches(3)
    np.testing.assert_array_equal(hidden.sum(1), LENGTH // 2)
    assert len({tuple(row) for row in hidden}) > 1  # each example has a draw of its own
    pixels = np.kron(hidden.reshape(B, 2, 4), np.ones((1, 2, 2))).astype(bool)
    changed = np.where(pixels[..., None], 100 * z[::-1], z)
    full, masked = both(params_of(CONFIG), key, z, time, label)
    full_changed, masked_changed = both(params_of(CONFIG), key, changed, time, label)
    np.testing.assert_array_equal(masked_changed, masked)
    assert np.abs(full_changed - full).max() > 0.1
    # The masked prediction covers the whole image all the same, from what is visible.
    assert np.abs(masked).min(axis=(1, 2, 3)).max() > 0
    assert np.abs(masked - full).max() > 0.01


def test_the_full_prediction_is_the_denoiser():
    full, _ = both(params_of(CONFIG), jax.random.key(3), *inputs())
    np.testing.assert_allclose(full, apply(CONFIG, params_of(CONFIG), *inputs()), rtol=1e-5)


def test_which_patches_are_hidden_depends_on_the_key():
    first, again, other = (
        both(params_of(CONFIG), jax.random.key(i), *inputs())[1] for i in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.01


def test_with_nothing_hidden_both_predictions_agree():
    """The side block then fills no place."""
    full, masked = both(params_of(CONFIG), jax.random.key(0), *inputs(), mask_ratio=0.0)
    np.testing.assert_allclose(masked, full, rtol=1e-4, atol=1e-5)


def test_hiding_patches_sends_no_example_to_another_device():
    """What eight devices exchange is the gradient of the parameters, which they share."""
    params, mesh = params_of(CONFIG), make_mesh("data=8")

    def loss(params, given):
        return sum((output**2).mean() for output in both(params, jax.random.key(0), *given))

    with jax.set_mesh(mesh):
        report = communication(jax.jit(jax.grad(loss)), params, put_batch(inputs(), mesh))
    assert {c.kind for c in report} == {"all-reduce"}, report.table()
    # Both passes reduce a gradient of their own.
    assert report.bytes < 2 * 4 * parameter_count(params)


def test_visible_tokens_pass_the_side_interpolater_untouched():
    """With the decoder cut, what a visible patch becomes does not depend on the side block."""
    key, given = jax.random.key(3), inputs()
    hidden = hidden_patches(3)
    params = params_of(CONFIG)
    params = {**params, "decoder_0": jax.tree.map(np.zeros_like, params["decoder_0"])}
    other = {**params, "side": jax.tree.map(lambda x: 2 * x, params["side"])}
    difference = both(params, key, *given)[1] - both(other, key, *given)[1]
    changed = np.any(np.asarray(patchify(np.abs(difference), 2)) > 1e-6, axis=2)
    np.testing.assert_array_equal(changed, hidden)


def test_hidden_patches_cost_the_encoder_nothing():
    """Multiply-adds of the encoder fall with the share of visible tokens."""
    config = MDTConfig(depth=12, decoder_depth=2)
    variables = {"params": shapes(config, *LATENT)}
    model = config.make_model()
    full = multiply_adds(model.apply, variables, *LATENT)

    def training(variables, *given):
        rngs = {"mask": jax.random.key(0), "dropout": jax.random.key(0)}
        return model.apply(variables, *given, mask_ratio=0.5, method="full_and_masked", rngs=rngs)

    masked = multiply_adds(training, variables, *LATENT) - full
    # 10 of 12 blocks at half of the tokens, 2 and the side block at all of them.
    assert 0.6 * full < masked < (10 / 2 + 3) / 12 * full


def test_positions_start_as_waves_and_are_learned():
    params = initial(CONFIG, *inputs())
    for name in ("encoder_positions", "decoder_positions"):
        np.testing.assert_allclose(params[name], sincos_grid((2, 4), 16), atol=1e-6)
    assert params["encoder_0"]["relative"]["table"].shape == (3 * 7, 2)
    assert not np.any(apply(CONFIG, params, *inputs()))


@pytest.mark.parametrize("ratio", [-0.1, 1.0])
def test_a_ratio_that_is_none_is_refused(ratio):
    with pytest.raises(InputError, match=f"mask_ratio is {ratio}, expected 0 <= mask_ratio < 1"):
        both(params_of(CONFIG), jax.random.key(0), *inputs(), mask_ratio=ratio)


@pytest.mark.parametrize("depth", [0, 2])
def test_a_decoder_that_leaves_no_encoder_is_refused(depth):
    with pytest.raises(InputError, match=f"decoder_depth is {depth}, expected 1 or more and less"):
        dataclasses.replace(CONFIG, decoder_depth=depth)
