"""Random pixels of resident views: their truth over random colours, and which of them count."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.spatial.transform

from experiments.nerf.support.field_flags import FieldFlags
from experiments.nerf.support.field_training import make_pixel_loss
from experiments.nerf.support.view_rays import (
    cameras_of,
    draw_rays,
    mask_unseen,
    resident_views,
)
from jaxgen.data import Scene, Views
from jaxgen.data.scenes.intrinsics import Intrinsics
from jaxgen.errors import InputError
from jaxgen.nerf import camera_rays
from jaxgen.parallel import init_sharded, make_mesh

VIEWS, HEIGHT, WIDTH = 3, 6, 9
FLAGS = FieldFlags(
    levels=2, log2_table_size=8, finest_resolution=16, occupancy=False, coarse_samples=8,
    fine_samples=4,
)  # fmt: skip
FOCAL, BEND = 5.0, -0.3
"""Of a SIMPLE_RADIAL camera, which shows nothing beyond r (1 + BEND r^2) at r^2 = -1 / (3 BEND)."""
FOLD = FOCAL * 2 / 3 / np.sqrt(-3 * BEND)
"""In pixels from the middle of the image."""


def views_of(images, masks=None, scale=1.0):
    """Views of bent cameras around the origin; images of another size have another focal length."""
    count, height, width, _ = images.shape
    poses = np.zeros((count, 3, 4), np.float32)
    for pose, angle in zip(poses, np.arange(count) * 2 * np.pi / count, strict=True):
        pose[:, :3] = scipy.spatial.transform.Rotation.from_rotvec([0, angle, 0]).as_matrix()
        pose[:, 3] = 4 * pose[:, 2]
    lens = Intrinsics(
        np.full((count, 2), scale * FOCAL),
        np.tile([width / 2, height / 2], (count, 1)),
        np.full((count, 1), BEND),
        "SIMPLE_RADIAL",
    )
    names = tuple(map(str, range(count)))
    return Views(names, images, poses, lens, masks=masks)


def numbered(height=HEIGHT, width=WIDTH):
    """Images whose pixels hold their view, row and column."""
    return np.stack(np.indices((VIEWS, height, width), np.uint8), axis=-1)


def rays_of(views):
    """All rays of all views, numpy arrays [N, Y, X, 3]."""
    return jax.tree.map(np.asarray, jax.jit(camera_rays)(cameras_of(views)))


@functools.cache
def field():
    box = ((-1.0,) * 3, (1.0,) * 3)
    return FLAGS.config(Scene("numbers", {"train": views_of(numbered())}, 2.0, 6.0, box))


@functools.partial(jax.jit, static_argnums=(0, 1))
def draw(config, count, sizes):
    return draw_rays(config, {}, sizes, jnp.arange(count), jax.random.key(3))


def drawn_from(*sizes, count=400):
    """The rays, and view, row and column of the pixels, [R, 3], where images are numbered."""
    with jax.set_mesh(make_mesh("data=1", jax.devices()[:1])):
        found = jax.tree.map(np.asarray, draw(field(), count, resident_views(sizes)["sizes"]))
    return found, np.rint(found.truth * 255).astype(int)


def seen(place_R3):
    """Whether the camera sees anything at a pixel: its centre is before the fold."""
    offset_R2 = place_R3[:, 1:] + 0.5 - np.array([HEIGHT, WIDTH]) / 2
    return np.linalg.norm(offset_R2, axis=-1) < FOLD


def test_truth_and_field_are_over_one_random_colour_for_each_ray():
    """With straight alpha of 8 and of 16 bits."""
    _, place_R3 = drawn_from(views_of(numbered()))
    rng = np.random.default_rng(0)
    for dtype in (np.uint8, np.uint16):
        most = np.iinfo(dtype).max
        images = rng.integers(0, most, (VIEWS, HEIGHT, WIDTH, 4), dtype, endpoint=True)
        images[0, ..., 3], images[1, ..., 3] = 0, most
        found, _ = drawn_from(views_of(images))
        background = found.background.astype(np.float64)
        pixel_R4 = images[tuple(place_R3.T)] / most
        alpha = pixel_R4[:, 3:]
        expected = pixel_R4[:, :3] * alpha + (1 - alpha) * background
        np.testing.assert_allclose(found.truth, expected, atol=1e-6)
        np.testing.assert_array_equal(
            found.truth[place_R3[:, 0] == 0], found.background[found.view == 0]
        )
        assert len(np.unique(background, axis=0)) == 400
        np.testing.assert_allclose(background.mean(axis=0), 0.5, atol=0.05)
        np.testing.assert_allclose(background.std(axis=0), 12**-0.5, atol=0.02)
        np.testing.assert_allclose(np.corrcoef(background.T), np.eye(3), atol=0.12)


def test_without_alpha_the_background_is_the_fields():
    found, _ = drawn_from(views_of(numbered()))
    np.testing.assert_array_equal(found.background, np.ones((400, 3)))


def test_rays_are_those_of_the_pixels_and_count_before_the_fold():
    views = views_of(numbered())
    found, place_R3 = drawn_from(views)
    np.testing.assert_array_equal(found.view, place_R3[:, 0])
    every = rays_of(views)
    np.testing.assert_allclose(found.rays.direction, every.direction[tuple(place_R3.T)], atol=1e-6)
    np.testing.assert_array_equal(found.rays.origin, every.origin[tuple(place_R3.T)])
    np.testing.assert_array_equal(found.counts, seen(place_R3))
    assert 0.3 < found.counts.mean() < 0.9
    # All pixels alike: 400 draws of 162.
    assert len(np.unique(place_R3, axis=0)) > 135
    for axis, size in enumerate((VIEWS, HEIGHT, WIDTH)):
        counts = np.bincount(place_R3[:, axis], minlength=size)
        assert np.abs(counts / 400 - 1 / size).max() < 4 * (400 * size) ** -0.5


def test_masks_leave_out_what_is_beyond_the_fold():
    masks = np.random.default_rng(2).random((VIEWS, HEIGHT, WIDTH)) > 0.4
    places = numbered().reshape(-1, 3).astype(int)
    for given in (None, masks):
        found = mask_unseen(views_of(numbered(), given)).masks
        expected = seen(places).reshape(masks.shape) & (True if given is None else given)
        np.testing.assert_array_equal(found, expected)
    narrow = views_of(numbered(), scale=4.0)
    assert mask_unseen(narrow) is narrow


def test_pixels_that_do_not_count_leave_loss_and_gradient_as_they_are():
    """Those that a mask leaves out, and those beyond the fold."""
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (VIEWS, HEIGHT, WIDTH, 4), np.uint8)
    masks = rng.random(images.shape[:3]) > 0.4
    counted = masks & seen(numbered().reshape(-1, 3).astype(int)).reshape(masks.shape)
    assert 0.1 < counted.mean() < 0.6
    masked_alone = np.where(masks[..., None], images, 255 - images)
    beyond_alone = np.where(masks[..., None] & ~counted[..., None], 255 - images, images)
    other = np.where(counted[..., None], images // 2, images)
    count = 256
    batch = {"number": jnp.arange(count), "anneal": jnp.ones(count), "progress": jnp.ones(count)}
    with jax.set_mesh(make_mesh("data=1", jax.devices()[:1])):
        params, layout = init_sharded(
            field().make_init(), jax.random.key(0), mesh=jax.sharding.get_mesh()
        )
        loss_fn = make_pixel_loss(field(), 0.0, 0.0, layout)

        @jax.jit
        def run(resident):
            return jax.value_and_grad(
                lambda params: loss_fn(params, batch | resident, jax.random.key(1))[0]
            )(params)

        expected, *found, changed = (
            jax.device_get(run(resident_views((views_of(given, masks),))))
            for given in (images, masked_alone, beyond_alone, other)
        )
    assert max(np.abs(x).max() for x in jax.tree.leaves(expected[1])) > 1e-4
    for one in found:
        jax.tree.map(np.testing.assert_array_equal, one, expected)
    assert abs(changed[0] - expected[0]) > 0.01


def test_smaller_views_are_drawn_as_often_through_their_own_cameras():
    """As `smaller` of `train_field` has them: every second ray is of images of half the size."""
    half = HEIGHT // 2, WIDTH // 3
    large, small = views_of(numbered()), views_of(numbered(*half), scale=0.5)
    found, place_R3 = drawn_from(large, small)
    parts = (slice(0, 200), large), (slice(200, 400), small)
    for part, views in parts:
        rays = rays_of(views)
        place = tuple(place_R3[part].T)
        np.testing.assert_allclose(found.rays.direction[part], rays.direction[place], atol=1e-6)
        np.testing.assert_array_equal(found.rays.origin[part], rays.origin[place])
        assert (place_R3[part].max(axis=0) + 1).tolist() == [*views.images.shape[:3]]
    cameras = [cameras_of(views) for views in (large, small)]
    assert [(c.height, c.width) for c in cameras] == [(HEIGHT, WIDTH), half]
    np.testing.assert_allclose(cameras[0].focal, 2 * cameras[1].focal)
    with pytest.raises(InputError, match="rays is 401, expected a multiple of 2 sizes"):
        draw_rays(field(), {}, [{}, {}], jnp.arange(401), jax.random.key(0))
