"""LLFF's format: rows of 17 numbers beside photographs."""

import pathlib

import numpy as np
import pytest
from captures import SHAPE, random_poses
from image_files import random_images, write_image

from jaxgen.data.scenes.llff import FILE, read_llff, recentred_capture, seen_box
from jaxgen.data.scenes.load_scene import load_scene
from jaxgen.errors import InputError

FULL = (48.0, 64.0, 50.0)
"""Height, width and focal length of the full images, four times those that are there."""


def write_capture(folder: pathlib.Path, count: int = 9, images: str = "images") -> np.ndarray:
    """Photographs, and rows in LLFF's axes (down, right, back); the rows."""
    for i, image in enumerate(random_images(count, *SHAPE, 3)):
        write_image(folder / images / f"{i}.png", image)
    poses = random_poses(count).astype(np.float64)
    right, up, back, place = np.moveaxis(poses, 2, 0)
    full = np.tile(FULL, (count, 1))
    matrix = np.stack([-up, right, back, place, full], axis=-1)
    bounds = np.stack([np.linspace(2, 3, count), np.linspace(20, 30, count)], axis=-1)
    rows = np.concatenate([matrix.reshape(count, 15), bounds], axis=-1)
    np.save(folder / FILE, rows)
    return rows


def refuse(folder: pathlib.Path, message: str, rows: object = None, **options: object) -> None:
    if rows is not None:
        np.save(folder / FILE, rows, allow_pickle=True)
    with pytest.raises(InputError, match=message) as error:
        read_llff(folder, **options)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(str(folder))


def test_rows_become_cameras(tmp_path):
    write_capture(tmp_path)
    scene = read_llff(tmp_path, every=0)
    views = scene.parts["train"]
    assert views.names == tuple(map(str, range(9)))
    np.testing.assert_array_equal(views.images, random_images(9, *SHAPE, 3))
    np.testing.assert_allclose(views.camera_to_world, random_poses(9), atol=1e-6)
    np.testing.assert_allclose(views.intrinsics.focal, 50 / 4)
    np.testing.assert_allclose(views.intrinsics.centre, [(8, 6)] * 9)
    assert views.intrinsics.model == "PINHOLE"
    assert (scene.near, scene.far) == (pytest.approx(1.8), 30.0)
    parts = read_llff(tmp_path).parts
    assert {part: v.names for part, v in parts.items()} == {
        "train": tuple("1234567"), "test": ("0", "8"),
    }  # fmt: skip
    small = read_llff(tmp_path, size=5).parts["train"]
    assert small.images.shape == (7, 4, 5, 3)
    np.testing.assert_allclose(small.intrinsics.focal[0], (12.5 * 5 / 16, 12.5 * 4 / 12))


def test_which_folder_of_images_is_read(tmp_path):
    write_capture(tmp_path, images="images_8")
    assert read_llff(tmp_path).parts["train"].images.shape[1:3] == SHAPE
    for i, image in enumerate(random_images(9, 6, 8, 3)):
        write_image(tmp_path / f"images_16/{i}.png", image)
    assert read_llff(tmp_path).parts["train"].images.shape[1:3] == SHAPE  # the largest
    small = read_llff(tmp_path, images="images_16").parts["train"]
    np.testing.assert_allclose(small.intrinsics.focal, 50 / 8)
    assert load_scene(tmp_path, images="images_16").parts["test"].images.shape == (2, 6, 8, 3)
    refuse(tmp_path, r": no folder images_4, expected one of images", images="images_4")
    (tmp_path / "images_8").rename(tmp_path / "photos")
    (tmp_path / "images_16").rename(tmp_path / "other")
    refuse(tmp_path, r": no folder images or images_N, expected one of images")


def test_masks_are_in_the_folder_that_is_called_alike(tmp_path):
    write_capture(tmp_path, images="images_4")
    masks = np.random.default_rng(0).random((9, *SHAPE)) > 0.4
    for i, mask in enumerate(masks):
        write_image(tmp_path / f"masks_4/{i}.png", mask.astype(np.uint8) * 255)
    scene = read_llff(tmp_path)
    np.testing.assert_array_equal(scene.parts["test"].masks, masks[[0, 8]])
    np.testing.assert_array_equal(scene.parts["train"].masks, masks[1:8])
    (tmp_path / "masks_4/3.png").unlink()
    refuse(tmp_path, r"npy: row 3: no mask .*masks_4/3\.png, expected a file")
    write_image(tmp_path / "masks_4/3.png", np.zeros(SHAPE, np.uint8))
    refuse(tmp_path, r"npy: row 3: .*masks_4/3\.png leaves no pixel")
    write_image(tmp_path / "masks_4/3.png", np.ones((3, 4), np.uint8))
    refuse(tmp_path, r"npy: row 3: .*masks_4/3\.png: a mask of 3 x 4 pixels, expected 12 x 16")


def test_the_box_holds_what_is_seen_and_moves_along(tmp_path):
    write_capture(tmp_path)
    scene = read_llff(tmp_path)
    moved = recentred_capture(scene)
    scale = moved.to_files.scale
    assert moved.near * scale == pytest.approx(scene.near)
    assert moved.far * scale == pytest.approx(scene.far)
    places = np.concatenate([v.camera_to_world[:, :, 3] for v in moved.parts.values()])
    assert np.linalg.norm(places, axis=1).max() == pytest.approx(1, abs=1e-6)
    rng = np.random.default_rng(0)
    for found in (scene, moved):
        low, high = map(np.array, found.box)
        touched = []
        for views in found.parts.values():
            for pose in views.camera_to_world.astype(np.float64):
                depth = rng.uniform(found.near, found.far, (500, 1))
                across = rng.uniform(-1, 1, (500, 2)) * (8 / 12.5, 6 / 12.5)
                own = np.concatenate([depth * across, -depth, np.ones((500, 1))], axis=1)
                points = own @ pose.T
                assert ((points >= low) & (points <= high)).all()
                touched.append(points)
        every = np.concatenate(touched)
        assert ((every.max(0) - every.min(0)) / (high - low)).min() > 0.7
    single = scene.parts["test"].take([0])
    assert seen_box([single], 1, 2)[0][0] < seen_box([single], 1, 2)[1][0]


def test_faults(tmp_path):
    rows = write_capture(tmp_path)

    def changed(row: int, column: int, value: float) -> np.ndarray:
        new = rows.copy()
        new[row, column] = value
        return new

    for content, message in (
        (rows[:, :16], r"npy: float64 \[9, 16\], expected floats \[N, 17\]"),
        (rows[:0], r"npy: float64 \[0, 17\], expected floats"),
        (rows.astype(int), r"npy: int64 \[9, 17\], expected floats"),
        (rows[:8], r"npy: 8 rows, expected 9, one for each image in .*images"),
        (changed(2, 3, np.nan), r"npy: row 2 is not finite, expected finite numbers"),
        (changed(2, 15, 99.0), r"npy: row 2 has near 99 and far 22\.5, expected 0 < near < far"),
        (changed(2, 15, 0.0), r"npy: row 2 has near 0 and far 22\.5, expected 0 < near < far"),
        (changed(2, 14, 0.0), r"npy: row 2 has height, width and focal .*, expected numbers > 0"),
        (changed(2, 14, 51.0), r"npy: row 2: height, width and focal are not those of row 0"),
        (changed(2, 0, 5.0), r"npy: row 2: the camera's axes are .*, expected a rotation"),
        (rows * np.where(np.arange(17) == 9, 2, 1), r"npy: full images have 48 x 128 pixels, exp"),
        (np.array([{}], object), r"npy: not a file of numpy \("),
    ):
        refuse(tmp_path, message, content)
    np.savez(tmp_path / "rows.npz", rows)
    content = (tmp_path / FILE).read_bytes()
    np.save(tmp_path / FILE, rows)
    whole = (tmp_path / FILE).read_bytes()
    for content in (b"", b"no file", whole[:50], whole[:-9], (tmp_path / "rows.npz").read_bytes()):
        (tmp_path / FILE).write_bytes(content)
        refuse(tmp_path, r"npy: not a file of numpy \(")
    (tmp_path / FILE).write_bytes(whole)
    (tmp_path / "images/4.png").write_bytes(b"no image")
    refuse(tmp_path, r"npy: row 4: .*4\.png: not a readable image")
    write_image(tmp_path / "images/4.png", random_images(16, 12, 3))
    refuse(tmp_path, r"npy: row 4: .*4\.png has shape \[16, 12, 3\], expected \[12, 16, 3\]")
    (tmp_path / FILE).unlink()
    refuse(tmp_path, r": no poses_bounds\.npy, expected one")
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        read_llff(tmp_path / "nowhere")


def test_fern(data_folder):
    scene = read_llff(data_folder / "llff_fern")
    assert {part: len(views) for part, views in scene.parts.items()} == {"train": 17, "test": 3}
    assert scene.parts["test"].names == ("image000", "image008", "image016")
    train = scene.parts["train"]
    assert train.images.shape == (17, 378, 504, 3)
    np.testing.assert_allclose(train.intrinsics.focal, 3260.526333 / 8, rtol=1e-6)
    assert scene.near == pytest.approx(0.9 * 16.985, abs=1e-3)
    assert scene.far == pytest.approx(80.002, abs=1e-3)
    # All look ahead, from a wall.
    ahead = -train.camera_to_world[:, :, 2]
    assert (ahead @ ahead.mean(axis=0)).min() > 0.95


def test_head_with_masks(data_folder):
    scene = read_llff(data_folder / "llff_head_masks", size=100)
    assert {part: len(views) for part, views in scene.parts.items()} == {"train": 57, "test": 9}
    train = scene.parts["train"]
    np.testing.assert_allclose(train.intrinsics.focal, 7543.57 / 40, rtol=1e-5)
    share = train.masks.mean(axis=(1, 2))
    assert share.min() > 0.05
    assert share.max() < 0.6
    # The object stands in the middle of all views, where optical axes meet.
    moved = recentred_capture(scene)
    for views in moved.parts.values():
        poses = views.camera_to_world.astype(np.float64)
        own = np.einsum("nij,ni->nj", poses[:, :, :3], -poses[:, :, 3])
        place = own[:, :2] / -own[:, 2:] * views.intrinsics.focal * (1, -1) + 50
        assert np.abs(place - 50).max() < 25
        column, row = np.floor(place).astype(int).T
        assert views.masks[np.arange(len(views)), row, column].mean() > 0.9
