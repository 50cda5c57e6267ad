"""Noise levels: scales of each scaling, against their definitions and at both ends."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.diffusion.process.levels import (
    Level,
    as_numbers,
    broadcast_level,
    expand,
    log_snr_of,
    namespace,
    scales,
    sigmoid,
    softplus,
)

SCALINGS = ("vp", "ve", "flow")
LOG_SNRS = np.linspace(-30, 30, 61)


@pytest.mark.parametrize("scaling", SCALINGS)
def test_scales_have_the_log_snr_and_keep_the_scaling(scaling):
    a, s = scales(LOG_SNRS, scaling)
    np.testing.assert_allclose(np.log(a**2 / s**2), LOG_SNRS, rtol=1e-12, atol=1e-12)
    kept = {"vp": a**2 + s**2, "ve": a, "flow": a + s}[scaling]
    np.testing.assert_allclose(kept, 1, rtol=1e-14)
    np.testing.assert_allclose(log_snr_of(a, s), LOG_SNRS, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("xp", [np, jnp])
def test_infinite_log_snrs_are_clean_data_and_pure_noise(scaling, xp):
    a, s = scales(xp.asarray([np.inf, -np.inf]), scaling)
    assert (a[0], s[0]) == (1, 0)
    if scaling == "ve":
        assert a[1] == 1
        assert s[1] == np.inf
    else:
        assert (a[1], s[1]) == (0, 1)
    if scaling != "ve":
        assert list(log_snr_of(a, s)) == [np.inf, -np.inf]


@pytest.mark.parametrize("scaling", SCALINGS)
def test_small_scales_keep_their_digits(scaling):
    """1 - a^2 in float32 would be zero from a log-SNR of 17 on."""
    a, s = scales(jnp.float32(30.0), scaling)
    np.testing.assert_allclose(s, np.exp(-15), rtol=1e-5)
    np.testing.assert_allclose(a, 1, atol=5e-7)


@pytest.mark.parametrize("scaling", SCALINGS)
def test_numpy_computes_in_float64_and_jax_in_jax(scaling):
    a, s = scales(0.5, scaling)
    assert isinstance(s, np.ndarray | np.float64)
    assert s.dtype == np.float64
    found = scales(jnp.asarray(LOG_SNRS), scaling)
    assert all(isinstance(value, jax.Array) and value.dtype == jnp.float32 for value in found)
    for value, reference in zip(found, scales(LOG_SNRS, scaling), strict=True):
        np.testing.assert_allclose(value, reference, rtol=1e-5)
    assert a.shape == ()


@pytest.mark.parametrize("scaling", SCALINGS)
def test_gradients_of_scales(scaling):
    """da/dlambda and ds/dlambda in closed form, and finite far out."""
    log_snr = jnp.linspace(-60.0, 60.0, 25)
    da, ds = (jax.vmap(jax.grad(lambda v, i=i: scales(v, scaling)[i]))(log_snr) for i in (0, 1))
    a, s = scales(log_snr, scaling)
    want = {
        "vp": (a * s**2 / 2, -s * a**2 / 2),
        "ve": (jnp.zeros_like(a), -s / 2),
        "flow": (a * s / 2, -a * s / 2),
    }[scaling]
    np.testing.assert_allclose(da, want[0], rtol=2e-5, atol=1e-7)
    np.testing.assert_allclose(ds, want[1], rtol=2e-5, atol=1e-7)


def test_numbers_of_any_kind():
    assert as_numbers(3).dtype == np.float64
    assert as_numbers(jnp.int32(3)).dtype == jnp.float32
    assert as_numbers(np.float32(0.5)).dtype == np.float64
    assert namespace(1.0, np.ones(2)) is np
    assert namespace(1.0, jnp.ones(2)) is jnp


@pytest.mark.parametrize("xp", [np, jnp])
def test_sigmoid_and_softplus_do_not_overflow(xp):
    x = xp.asarray([-np.inf, -1000.0, -1.0, 0.0, 2.0, 1000.0, np.inf])
    np.testing.assert_allclose(
        sigmoid(x), [0, 0, 1 / (1 + np.e), 0.5, 1 / (1 + np.exp(-2)), 1, 1], rtol=1e-6
    )
    np.testing.assert_allclose(
        softplus(x),
        [0, 0, np.log1p(np.exp(-1)), np.log(2), np.log1p(np.exp(2)), 1000, np.inf],
        rtol=1e-6,
    )


def test_values_of_examples_broadcast_over_whatever_an_example_is():
    value_B = jnp.arange(3.0)
    assert expand(value_B, jnp.zeros((3,))).shape == (3,)
    assert expand(value_B, jnp.zeros((3, 4))).shape == (3, 1)
    assert expand(value_B, jnp.zeros((3, 2, 4, 4, 1))).shape == (3, 1, 1, 1, 1)
    assert expand(jnp.float32(2), jnp.zeros((3, 4))).shape == ()


def test_one_level_for_a_batch():
    level = broadcast_level(Level(0.5, 0.0, np.sqrt(0.5), np.sqrt(0.5)), 4)
    assert all(isinstance(value, jax.Array) and value.shape == (4,) for value in level)
    many = Level(*(jnp.arange(4.0) for _ in range(4)))
    np.testing.assert_array_equal(broadcast_level(many, 4).a, many.a)
