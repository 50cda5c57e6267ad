"""Masks: what is known, how much of it, and that an example's mask is its own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.diffusion.conditioning.image_to_image import with_known
from jaxgen.diffusion.conditioning.inpainting import RePaint, Replacement
from jaxgen.diffusion.conditioning.masks import (
    box_mask,
    frame_mask,
    keep_known,
    known_channels,
    random_borders,
    random_boxes,
    random_strokes,
)
from jaxgen.diffusion.conditioning.reconstruction import masked
from jaxgen.diffusion.denoiser import Estimate
from jaxgen.diffusion.process.levels import expand
from jaxgen.diffusion.process.schedules import CosineSchedule
from jaxgen.diffusion.process.step_levels import make_steps
from jaxgen.diffusion.samplers import DDIM
from jaxgen.diffusion.samplers.sampling import sample
from jaxgen.errors import InputError

SIZE = (24, 32)
KEYS = jax.jit(lambda: jax.random.split(jax.random.key(0), 64))()
RANDOM = {"boxes": random_boxes, "strokes": random_strokes, "borders": random_borders}


MAKE = {name: jax.jit(make, static_argnums=1) for name, make in RANDOM.items()}


@pytest.fixture(scope="module")
def masks():
    return {name: np.asarray(make(KEYS, SIZE)) for name, make in MAKE.items()}


@pytest.mark.parametrize("name", RANDOM)
def test_masks_are_zeros_and_ones_and_differ(masks, name):
    mask_BYX1 = masks[name]
    assert mask_BYX1.shape == (64, *SIZE, 1)
    assert mask_BYX1.dtype == np.float32
    assert set(np.unique(mask_BYX1)) == {0, 1}
    assert (mask_BYX1.min((1, 2, 3)) == 0).all()
    assert (mask_BYX1.max((1, 2, 3)) == 1).all()
    assert len(np.unique(mask_BYX1.reshape(64, -1), axis=0)) >= (5 if name == "borders" else 60)


@pytest.mark.parametrize("name", RANDOM)
def test_a_mask_depends_on_its_key_alone(masks, name):
    other = np.random.default_rng(0).integers(0, 64, 64)
    keys = jax.random.wrap_key_data(np.asarray(jax.random.key_data(KEYS))[other])
    np.testing.assert_array_equal(MAKE[name](keys, SIZE), masks[name][other])


def test_boxes_have_the_sides_asked_for(masks):
    for mask_YX in masks["boxes"][..., 0]:
        rows, columns = (np.flatnonzero((mask_YX == 0).any(axis)) for axis in (1, 0))
        assert (mask_YX[np.ix_(rows, columns)] == 0).all()
        assert rows.size * columns.size == (mask_YX == 0).sum()
        assert 6 <= rows.size <= 18
        assert 8 <= columns.size <= 24
    whole = jax.jit(lambda keys: random_boxes(keys, SIZE, 1.0, 1.0))(KEYS)
    assert np.max(whole) == 0


def test_boxes_lie_anywhere(masks):
    """Every border pixel of the image is reached by some box, and a corner as seldom as it must."""
    holes_YX = (masks["boxes"][..., 0] == 0).mean(0)
    assert holes_YX[12, 16] > holes_YX[0].mean() > 0
    assert holes_YX[-1].mean() > 0
    assert holes_YX[:, 0].mean() > 0
    assert holes_YX[:, -1].mean() > 0


def test_strokes_cover_a_part_and_more_of_them_more(masks):
    covered = 1 - masks["strokes"].mean()
    assert 0.1 < covered < 0.5
    few = jax.jit(lambda keys: random_strokes(keys, SIZE, strokes=1))(KEYS)
    assert 1 - np.mean(few) < 0.6 * covered
    thin = np.asarray(jax.jit(lambda keys: random_strokes(keys, SIZE, width=1e-6))(KEYS))
    assert thin.min((1, 2, 3)).max() == 0, "even the thinnest brush paints"


def test_borders_make_half_of_the_area(masks):
    known_B = masks["borders"].mean((1, 2, 3))
    assert (np.abs(known_B - 0.5) < 0.02).all()
    whole_edges = {
        tuple(int(edge.min()) for edge in (mask[0], mask[-1], mask[:, 0], mask[:, -1]))
        for mask in masks["borders"]
    }
    assert whole_edges == {(1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1), (0, 0, 0, 0)}


def test_masks_by_hand():
    mask = np.asarray(box_mask((4, 5), (1, 3), (0, 2)))
    assert mask.shape == (4, 5, 1)
    assert float(mask.sum()) == 16
    assert float(mask[1:3, :2].sum()) == 0
    frames = np.asarray(frame_mask(4, (0, 3)))
    np.testing.assert_array_equal(frames.ravel(), [1, 0, 0, 1])
    video = np.ones((2, 4, 3, 3, 1), np.float32)
    assert np.sum(jax.jit(keep_known)(frames, video, 0 * video)) == 2 * 2 * 9


def test_unknown_pixels_may_hold_anything():
    x, known = jnp.array([[1.0, jnp.nan]]), jnp.array([1.0, 0.0])
    np.testing.assert_array_equal(keep_known(known, x, jnp.array([[5.0, 7.0]])), [[1.0, 7.0]])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: box_mask((4, 4), (2, 2), (0, 1)),
            r"rows is \(2, 2\), expected 0 <= first < last <= 4",
        ),
        (lambda: box_mask((4, 4), (0, 1), (3, 5)), r"columns is \(3, 5\), expected .* <= 4"),
        (
            lambda: keep_known(jnp.ones((5, 1)), jnp.ones((3, 2)), jnp.ones((3, 2))),
            r"known has shape \(5, 1\) for data of shape \(3, 2\), expected a mask that broadcasts",
        ),
        (
            lambda: keep_known(jnp.ones((2, 3, 2)), jnp.ones((3, 2)), jnp.ones((3, 2))),
            r"known has shape \(2, 3, 2\) for data of shape \(3, 2\)",
        ),
        (lambda: frame_mask(3, (3,)), "known frame 3, expected 0 to 2"),
        (
            lambda: random_boxes(KEYS, SIZE, 0.0, 1.0),
            r"least is 0\.0, most is 1\.0, expected 0 < least",
        ),
        (lambda: random_strokes(KEYS, SIZE, strokes=0), "strokes is 0, expected at least 1"),
        (lambda: random_strokes(KEYS, SIZE, width=0), "width is 0, expected 0 < width <= 1"),
        (lambda: random_borders(KEYS, SIZE, 1.0), r"share is 1\.0, expected 0 < share < 1"),
        (lambda: random_borders(KEYS, (1, 1)), "of 1 x 1, expected pixels to make"),
    ],
)
def test_masks_that_cannot_be_meant(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_soft_masks_blend_in_their_shares():
    """m x + (1 - m) made everywhere; where m is 0 or 1 the other side may be nan, gradients too."""
    mask = np.float32([0.0, 0.25, 0.7, 1.0])
    x, made = np.float32([[np.nan, 2.0, 4.0, 8.0]]), np.float32([[16.0, 32.0, 64.0, np.nan]])

    @jax.jit
    def run(x, made):
        blended, pull = jax.vjp(lambda x, made: keep_known(mask, x, made), x, made)
        hard = keep_known(np.array([True, False]), x[:, 2:], made[:, :2])
        return blended, pull(jnp.ones_like(blended)), hard

    blended, slopes, hard = run(x, made)
    np.testing.assert_allclose(blended, [[16.0, 24.5, 22.0, 8.0]], rtol=1e-6)
    np.testing.assert_allclose(slopes, [[mask], [1 - mask]], rtol=1e-6)
    assert np.asarray(hard)[0, 0] == 4


def test_soft_masks_blend_in_inpainting_and_operators():
    """At clean data, the last level, what is known counts as much as the mask says."""
    mask, x = np.float32([0.25, 1.0, 0.0]), np.float32([[1.0, 0.5, 0.2]])
    made = np.full((1, 3), -0.4, np.float32)

    def denoiser(z, level):
        return Estimate(made, (z - expand(level.a, z) * made) / expand(level.s, z))

    levels = make_steps(CosineSchedule(), 4)

    @jax.jit
    def run(x, made):
        samplers = Replacement(DDIM(), mask, x), RePaint(DDIM(), mask, x, 2, 2)
        key = jax.random.key(0)
        samples = [sample(sampler, denoiser, made, levels, key) for sampler in samplers]
        return *samples, with_known(denoiser, mask, x)(made, CosineSchedule().at(0.5)).x

    for found in run(x, made):
        np.testing.assert_allclose(found, mask * x + (1 - mask) * made, atol=1e-6)
    np.testing.assert_allclose(masked(mask)(x), mask * x, atol=1e-6)


@pytest.mark.parametrize("mask", [[0.0, 1.5], [-0.1, 1.0], [0.0, np.nan], [0.0, 255.0]])
def test_masks_of_other_values_are_refused(mask):
    x = jnp.ones((1, 2))
    with pytest.raises(InputError, match=r"known has values from .*, expected a mask of 0"):
        keep_known(jnp.array(mask), x, x)


def test_the_known_part_and_the_mask_as_channels():
    """[m x, m]; what is not known may be anything."""
    x = np.random.default_rng(0).uniform(-1, 1, (2, 4, 6, 3)).astype(np.float32)
    known = np.asarray(box_mask((4, 6), (1, 3), (2, 5)))
    spoilt = np.where(known > 0, x, np.nan)
    found = np.asarray(known_channels(spoilt, known))
    assert found.shape == (2, 4, 6, 4)
    np.testing.assert_array_equal(found[..., :3], known * x)
    np.testing.assert_array_equal(found[..., 3:], np.broadcast_to(known, (2, 4, 6, 1)))
