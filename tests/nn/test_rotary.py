"""Rotary positions against complex numbers; what they leave alone."""

import math

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
from jaxgen.nn.video_rotary import clip_spacing, rotary_form, video_angles


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


def test_heads_can_have_angles_of_their_own():
    x_BLHK = np.random.default_rng(0).normal(size=(2, 3, 2, 4)).astype(np.float32)
    angle_BLHK = np.random.default_rng(1).normal(size=(1, 3, 2, 2))
    found = np.asarray(rotate(x_BLHK, angle_BLHK))
    for h in range(2):
        own = rotate(x_BLHK[:, :, h : h + 1], angle_BLHK[0, :, h])
        np.testing.assert_allclose(found[:, :, h : h + 1], own, atol=1e-6)


@pytest.mark.parametrize(
    ("form", "head", "split", "theta"),
    [
        ("wan", 128, (44, 42, 42), 1e4),
        ("hunyuan", 128, (16, 56, 56), 256.0),
        ("cogvideox", 64, (16, 24, 24), 1e4),
    ],
)
def test_published_splits(form, head, split, theta):
    assert rotary_form(form, head) == (split, theta)


def test_ltx_turns_a_sixth_of_the_width_for_each_axis():
    """Formula by formula in float64, the numbers that are left over first."""
    place = np.array([[3.0, 100.0, 640.0], [0.0, 0.0, 2048.0]])
    found = np.asarray(video_angles(place, "ltx", 2, 10)).reshape(2, -1)  # 20 = 6 * 3 + 2
    assert not found[:, 0].any()
    for n, (row, at) in enumerate(zip(found, place, strict=True)):
        for i in range(3):
            for axis, extent in enumerate((20, 2048, 2048)):
                angle = math.pi / 2 * 1e4 ** (i / 2) * (2 * at[axis] / extent - 1)
                assert row[1 + 3 * i + axis] == pytest.approx(angle, rel=1e-5, abs=1e-5), n


def test_spacing_counts_frames_at_the_reference_rate():
    np.testing.assert_allclose(clip_spacing(24.0), [1, 1, 1])
    np.testing.assert_allclose(
        clip_spacing(np.array([12.0, 48.0]), scale=np.array([1.0, 0.5])),
        [[2, 1, 1], [0.5, 0.5, 0.5]],
    )
    np.testing.assert_allclose(clip_spacing(25.0, 1.0, patch=(8, 32, 32)), [0.32, 32, 32])
    np.testing.assert_allclose(jax.jit(clip_spacing)(jnp.array([12.0])), [[2, 1, 1]])
    with pytest.raises(InputError, match=r"fps is 0\.0, expected a positive number"):
        clip_spacing(0.0)


def test_heads_that_no_form_splits_are_refused():
    for form, head, message in (
        ("hunyuan", 24, "head size is 24, expected a multiple of 32 for the split of hunyuan"),
        ("cogvideox", 24, "head size is 24, expected a multiple of 16 for the split of cogvideox"),
        ("rope", 24, "rotary is 'rope', expected one of wan, hunyuan, cogvideox, ltx"),
    ):
        with pytest.raises(InputError, match=message):
            rotary_form(form, head)
    with pytest.raises(InputError, match="width is 4, expected an even number of 6 or more"):
        video_angles(np.zeros((2, 3)), "ltx", 2, 2)
