"""Views, scenes, and images over a background."""

import math
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from image_files import random_images

from jaxgen.data.scenes.intrinsics import Intrinsics, pinholes
from jaxgen.data.scenes.views import Scene, Views, over_background, pose_fault, unit_colours
from jaxgen.errors import InputError

BOX = ((-1.0, -1.0, -1.0), (1.0, 1.0, 1.0))
POSES = np.tile(np.eye(3, 4, dtype=np.float32), (2, 1, 1))
VIEWS = Views(("a", "b"), random_images(2, 4, 5, 4), POSES, pinholes(2, 6.0, (2.5, 2.0)))


def test_a_scene_has_parts_and_a_line():
    scene = Scene("s", {"train": VIEWS, "test": replace(VIEWS, names=("c", "d"))}, 2.0, 6.0, BOX)
    assert len(scene.part("test")) == 2
    assert scene.part("test").names == ("c", "d")
    assert scene.describe() == (
        "s: 4 views of 4x5x4 (train 2, test 2), PINHOLE with focal 6.0, distances 2 to 6,"
        " box (-1, -1, -1) to (1, 1, 1)"
    )
    with pytest.raises(InputError, match=r"^s: no part validation, only train, test$"):
        scene.part("validation")


def lens(focal=((6.0, 6.0),) * 2, centre=((2.5, 2.0),) * 2, distortion=((), ())) -> dict:
    if distortion != ((), ()):
        distortion = [row or [0.0] for row in distortion]
    arrays = (np.array(x, float).reshape(2, -1) for x in (focal, centre, distortion))
    return {"intrinsics": Intrinsics(*arrays)}


def test_some_of_the_views():
    depth = np.arange(1, 41, dtype=np.float32).reshape(2, 4, 5)
    views = replace(
        VIEWS, depth=depth, masks=depth > 3, depth_along="axis", **lens([[5, 6], [7, 8]])
    )
    taken = views.take([1])
    assert (taken.names, taken.depth_along, taken.normals) == (("b",), "axis", None)
    np.testing.assert_array_equal(taken.intrinsics.focal, [[7, 8]])
    np.testing.assert_array_equal(taken.depth, depth[1:])
    np.testing.assert_array_equal(taken.masks, depth[1:] > 3)
    assert len(views.take([1, 0]).intrinsics) == 2


def test_faults_of_views_name_scene_part_and_view():
    turned, mirrored, nan = (POSES.copy() for _ in range(3))
    turned[1, 0, 1], mirrored[1, 0, 0], nan[1, 2, 3] = 0.1, -1, np.nan
    depth, normals = np.ones((2, 4, 5), np.float32), np.zeros((2, 4, 5, 3), np.float32)
    not_positive = depth.copy()
    not_positive[1, 2, 2] = 0
    black = np.arange(2)[:, None, None] == np.zeros((2, 4, 5))
    cases = [
        ({"camera_to_world": turned}, r"view 1 \(b\): the camera's axes are 0\.1 from orthonormal"),
        ({"camera_to_world": mirrored}, r"view 1 \(b\): .*determinant -1, expected a rotation"),
        ({"camera_to_world": nan}, r"view 1 \(b\): the camera's matrix is not finite"),
        (
            {"camera_to_world": POSES[:1]},
            r"camera_to_world is float32 \[1, 3, 4\], expected .*\[2,",
        ),
        ({"camera_to_world": POSES.astype(float)}, r"camera_to_world is float64 \[2, 3, 4\]"),
        (
            lens([[6.0, 6.0], [6.0, 0.0]]),
            r"view 1 \(b\): focal is \[6\.0, 0\.0\], expected numbers >",
        ),
        (lens([[math.nan, 6.0]] * 2), r"view 0 \(a\): focal is \[nan, 6\.0\], expected finite"),
        (
            lens(centre=[[math.inf, 6.0]] * 2),
            r"view 0 \(a\): centre is \[inf, 6\.0\], expected fin",
        ),
        (lens(distortion=[[], [math.nan]]), r"view 1 \(b\): distortion is \[nan\], expected fin"),
        ({"intrinsics": pinholes(3, 6.0, (2.5, 2.0))}, r"intrinsics of 3 cameras, expected 2"),
        ({"masks": black}, r"view 1 \(b\): the mask leaves no pixel, expected some that count"),
        ({"masks": black[:, 1:]}, r"masks are bool \[2, 3, 5\], expected bool \[2, 4, 5\]"),
        ({"masks": depth}, r"masks are float32 \[2, 4, 5\], expected bool"),
        ({"images": VIEWS.images[:0]}, r"no views, expected 1 or more"),
        ({"images": VIEWS.images[..., :2]}, r"images are uint8 \[2, 4, 5, 2\], expected uint8"),
        ({"images": VIEWS.images / 255}, r"images are float64"),
        ({"images": VIEWS.images[0]}, r"images are uint8 \[4, 5, 4\]"),
        ({"names": ("a",)}, r"1 names, expected 2, one per image"),
        ({"names": ("a", "a")}, r"two views are named a, expected different names"),
        ({"depth": depth[:, 1:]}, r"depth is float32 \[2, 3, 5\], expected float32 \[2, 4, 5\]"),
        ({"depth": not_positive}, r"view 1 \(b\): depth is 0 or less"),
        ({"depth": -depth}, r"view 0 \(a\): depth is 0 or less, expected distances > 0, inf where"),
        ({"normals": normals[..., 0]}, r"normals is float32 \[2, 4, 5\]"),
    ]
    for changes, message in cases:
        with pytest.raises(InputError, match=r"^s, test: " + message) as error:
            Scene("s", {"train": VIEWS, "test": replace(VIEWS, **changes)}, 2.0, 6.0, BOX)
        assert "\n" not in str(error.value)
    for unknown in (np.inf, np.nan):
        views = replace(
            VIEWS, depth=depth * np.float32(unknown), normals=normals, masks=black | True
        )
        Scene("s", {"train": views}, 0, 6.0, BOX)


def test_faults_of_a_scene():
    train = {"train": VIEWS}
    for near, far in ((6.0, 2.0), (2.0, 2.0), (-1.0, 2.0), (math.nan, 2.0), (0.0, math.inf)):
        with pytest.raises(InputError, match=rf"^s: near and far are {near} and {far}, expected 0"):
            Scene("s", train, near, far, BOX)
    for box in (BOX[::-1], (BOX[0], (1.0, 1.0, math.nan)), (BOX[0],)):
        with pytest.raises(InputError, match=r"^s: box is \(\(.*expected a low corner"):
            Scene("s", train, 2.0, 6.0, box)
    for parts in ({}, {"test": VIEWS}, train | {"val": VIEWS}):
        with pytest.raises(InputError, match=r"^s: parts are .*expected train, and"):
            Scene("s", parts, 2.0, 6.0, BOX)


def test_rotations_are_told_from_others():
    rotation, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
    rotation *= np.linalg.det(rotation)
    pose = np.concatenate([rotation, [[5.0], [6.0], [7.0]]], 1)
    assert pose_fault(pose) == ""
    assert pose_fault(pose * [1, 1, 1, -9]) == ""
    assert pose_fault(pose * [1.0004, 1.0004, 1.0004, 1]) != ""  # a scale: determinant 1.0012
    assert pose_fault(pose * [1.0001, 1.0001, 1.0001, 1]) == ""
    assert "determinant -1" in pose_fault(pose * [1, 1, -1, 1])


def test_over_a_background():
    images = random_images(3, 4, 5, 4)
    images[0, 0, :2, 3] = 0, 255
    alpha, rgb = images[..., 3:].astype(float) / 255, images[..., :3].astype(float) / 255
    random = np.random.default_rng(0).random((3, 4, 5, 3), np.float32)
    for background in (1.0, np.array([0.2, 0.5, 1.0], np.float32), random):
        laid = over_background(images, background)
        assert laid.dtype == np.float32
        np.testing.assert_allclose(laid, rgb * alpha + (1 - alpha) * background, atol=1e-6)
        np.testing.assert_array_equal(
            laid[0, 0, 0], np.broadcast_to(background, rgb.shape)[0, 0, 0]
        )
        assert laid.min() >= 0
        assert laid.max() <= 1
    np.testing.assert_array_equal(
        over_background(images[..., :3], 0.5), images[..., :3] / np.float32(255)
    )
    with pytest.raises(InputError, match=r"background is 255, expected colours in \[0, 1\]"):
        over_background(images, 255)
    with pytest.raises(InputError, match=r"images are \[3, 4, 5, 2\]"):
        over_background(images[..., :2], 1.0)


def test_unit_colours_are_over_the_largest_value_of_the_type():
    for dtype in (np.uint8, np.uint16):
        images = np.array([0, 51, np.iinfo(dtype).max], dtype)
        expected = [0, 51 / np.iinfo(dtype).max, 1]
        for found in (unit_colours(images), unit_colours(jnp.asarray(images))):
            assert found.dtype == np.float32
            np.testing.assert_allclose(found, expected, rtol=1e-6)
    with pytest.raises(InputError, match="images are int32, expected uint8 or uint16"):
        unit_colours(np.zeros(3, np.int32))
    half = np.array([[0, 0, 65535, 32768]], np.uint16)
    np.testing.assert_allclose(over_background(half, 1.0), [[0.5, 0.5, 1]], atol=1e-4)
