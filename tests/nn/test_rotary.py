"""Rotary positions against complex numbers; what they leave alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.errors import InputError
from jaxgen.nn import (
    SelfAttention,
    grid_places,
    rotary_angles,
    rotary_split,
    rotate,
    sincos,
    sincos_grid,
    sincos_places,
)


@pytest.mark.parametrize(
    ("head", "axes", "split"),
    [(128, 3, (44, 42, 42)), (64, 3, (24, 20, 20)), (32, 3, (12, 10, 10)), (64, 2, (32, 32))],
)
def test_the_split_is_wans(head, axes, split):
    assert rotary_split(head, axes) == split
    assert sum(split) == head


@pytest.mark.parametrize("head", [7, 4])
def test_heads_that_have_no_pairs_for_every_axis_are_refused(head):
    with pytest.raises(InputError, match=f"head size is {head}, expected an even number of 6"):
        rotary_split(head)


def test_pairs_are_turned_as_complex_numbers():
    """HunyuanVideo's split and theta, at fractional places too."""
    generator, split, theta = np.random.default_rng(0), (4, 6, 6), 256.0
    x_BLHK = generator.normal(size=(2, 5, 3, 16)).astype(np.float32)
    place_BLA = generator.uniform(0, 20, size=(2, 5, 3))
    expected = np.empty((2, 5, 3, 8), complex)
    pairs = x_BLHK[..., ::2] + 1j * x_BLHK[..., 1::2]
    start = 0
    for axis, size in enumerate(split):
        for i in range(size // 2):
            turn = np.exp(1j * place_BLA[..., axis] * theta ** (-2 * i / size))
            expected[..., start + i] = pairs[..., start + i] * turn[:, :, None]
        start += size // 2
    for places in (place_BLA, jnp.asarray(place_BLA, jnp.float32)):
        found = np.asarray(rotate(x_BLHK, rotary_angles(places, split, theta)))
        np.testing.assert_allclose(found[..., ::2], expected.real, atol=1e-5)
        np.testing.assert_allclose(found[..., 1::2], expected.imag, atol=1e-5)


def test_attention_does_not_see_a_shift():
    """All places of an example moved by the same: what attention gives does not change."""
    x_BLD = np.random.default_rng(0).normal(size=(1, 24, 32)).astype(np.float32)
    place_LA, split = grid_places((2, 3, 4)), rotary_split(16)
    layer = SelfAttention(heads=2)
    variables = layer.init(jax.random.key(0), x_BLD)

    @jax.jit
    def attend(place):
        return layer.apply(variables, x_BLD, angle=rotary_angles(place, split))

    here, there = (attend(jnp.asarray(place_LA + shift)) for shift in ([0, 0, 0], [7, 3, 40]))
    np.testing.assert_allclose(here, there, atol=1e-5)
    other = attend(jnp.asarray(place_LA[::-1].copy()))
    assert abs(np.asarray(here) - np.asarray(other)).max() > 1e-3
    assert abs(np.asarray(here) - np.asarray(layer.apply(variables, x_BLD))).max() > 1e-3


def test_known_and_traced_places_have_the_same_waves():
    places = grid_places((3, 5, 4))
    np.testing.assert_array_equal(
        places[:6], [[0, 0, i] for i in range(4)] + [[0, 1, 0], [0, 1, 1]]
    )
    np.testing.assert_array_equal(
        sincos_places(places, 12).astype(np.float32), sincos_grid((3, 5, 4), 12)
    )
    traced = jax.jit(lambda place: sincos_places(place, 12))(jnp.asarray(places))
    np.testing.assert_allclose(traced, sincos_grid((3, 5, 4), 12), atol=1e-6)
    np.testing.assert_allclose(sincos(jnp.array([0.5]), 4), sincos(np.array([0.5]), 4), atol=1e-6)


@pytest.mark.parametrize("split", [(4, 4), (4, 3, 4)])
def test_splits_that_do_not_fit_the_places_are_refused(split):
    with pytest.raises(InputError, match=r"expected an even number for each of 3 axes"):
        rotary_angles(np.zeros((5, 3)), split)
