"""NeRF's Blender format: read, written, and what is wrong with a file."""

import dataclasses
import json
import math
import pathlib
from dataclasses import replace

import numpy as np
import pytest
from captures import assert_same_views, moved
from image_files import random_images, write_image

from jaxgen.data.scenes import blender
from jaxgen.data.scenes.alpha_images import shrink
from jaxgen.data.scenes.blender import FILES, read_blender, write_blender
from jaxgen.data.scenes.intrinsics import pinholes
from jaxgen.data.scenes.views import Scene, Views, over_background
from jaxgen.errors import InputError

ANGLE = 0.6911112070783618


def rotations(count: int, seed: int = 0) -> np.ndarray:
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(count, 3, 3)))
    return q * np.linalg.det(q)[:, None, None]


def random_scene(channels: int = 4, sizes=(3, 2, 2)) -> Scene:
    parts = {}
    for i, (part, count) in enumerate(zip(FILES, sizes, strict=True)):
        places = np.random.default_rng(i).normal(size=(count, 3, 1))
        poses = np.concatenate([rotations(count, i), places], -1).astype(np.float32)
        images, names = random_images(count, 6, 8, channels, seed=i), range(count)
        focal = 0.5 * 8 / math.tan(0.5 * ANGLE)
        lens = pinholes(count, focal, (4.0, 3.0))
        parts[part] = Views(tuple(f"{part}/r_{n}" for n in names), images, poses, lens)
    return Scene("random", parts, 2.0, 6.0, blender.BOX)


def assert_same(left: Views, right: Views) -> None:
    assert left.names == right.names
    np.testing.assert_array_equal(left.images, right.images)
    np.testing.assert_array_equal(left.camera_to_world, right.camera_to_world)
    np.testing.assert_allclose(left.intrinsics.focal, right.intrinsics.focal, rtol=1e-14)
    np.testing.assert_array_equal(left.intrinsics.centre, right.intrinsics.centre)
    assert left.intrinsics.model == right.intrinsics.model == "PINHOLE"


@pytest.mark.parametrize("channels", [3, 4])
def test_what_is_written_comes_back(tmp_path, channels):
    scene = random_scene(channels)
    write_blender(tmp_path / "new" / "scene", scene)
    read = read_blender(tmp_path / "new" / "scene")
    assert list(read.parts) == ["train", "validation", "test"]
    for part, views in scene.parts.items():
        assert_same(read.parts[part], views)
    assert (read.near, read.far, read.box) == (2.0, 6.0, ((-1.5,) * 3, (1.5,) * 3))
    assert read.name == str(tmp_path / "new" / "scene")
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["scene"]
    box = ((0.0, 0.0, 0.0), (1.0, 2.0, 3.0))
    read = read_blender(read.name, parts=["train"], near=0.5, far=9.0, box=box)
    assert list(read.parts) == ["train"]
    assert (read.near, read.far, read.box) == (0.5, 9.0, box)


def test_cameras_of_a_moved_scene_are_those_of_its_files(tmp_path):
    scene = moved(random_scene())
    write_blender(tmp_path / "scene", scene)
    read = read_blender(tmp_path / "scene")
    for part, views in scene.parts.items():
        assert_same_views(views, read.parts[part], scene.to_files)


def test_16_bits_come_back(tmp_path):
    scene = random_scene()
    parts = {part: views for part, views in scene.parts.items() if part != "test"}
    deep = np.random.default_rng(0).integers(0, 65536, (2, 6, 8, 3)).astype(np.uint16)
    parts["test"] = dataclasses.replace(scene.part("test"), images=deep)
    write_blender(tmp_path / "scene", dataclasses.replace(scene, parts=parts))
    read = read_blender(tmp_path / "scene")
    assert [views.images.dtype for views in read.parts.values()] == [np.uint8, np.uint8, np.uint16]
    assert_same(read.part("test"), parts["test"])


def content_of(folder: pathlib.Path, part: str = "train") -> dict:
    return json.loads((folder / FILES[part]).read_text())


def test_the_format_is_that_of_nerf(tmp_path):
    scene = random_scene()
    (tmp_path / "s").mkdir()  # an empty folder may be there
    write_blender(tmp_path / "s", scene)
    content = content_of(tmp_path / "s")
    assert content["camera_angle_x"] == pytest.approx(ANGLE, abs=1e-15)
    assert [frame["file_path"] for frame in content["frames"]][:2] == [
        *("./train/r_0", "./train/r_1")
    ]
    matrix = np.array(content["frames"][1]["transform_matrix"])
    np.testing.assert_array_equal(matrix[:3], scene.parts["train"].camera_to_world[1])
    np.testing.assert_array_equal(matrix[3], [0, 0, 0, 1])
    assert (tmp_path / "s" / "validation" / "r_1.png").is_file()
    assert (tmp_path / "s" / "transforms_val.json").is_file()


def test_paths_with_and_without_suffix(tmp_path):
    images = random_images(4, 5, 5, 3)
    files = ("a.png", "deep/b.v2.png", "c.bmp", "d.png")
    for name, image in zip(files, images, strict=True):
        write_image(tmp_path / name, image)
    paths = ("./a", "deep/b.v2", "./c.bmp", "x/../d.png")
    frames = [{"file_path": path, "transform_matrix": np.eye(4).tolist()} for path in paths]
    content = {"camera_angle_x": 1.0, "frames": frames, "fl_x": 9, "aabb_scale": 1}
    (tmp_path / FILES["train"]).write_text(json.dumps(content))
    train = read_blender(tmp_path, parts=["train"]).parts["train"]
    assert train.names == ("a", "deep/b.v2", "c", "d")
    np.testing.assert_array_equal(train.images, images)


def test_sizes(tmp_path):
    scene = random_scene()
    square = replace(
        scene.parts["train"],
        images=random_images(3, 12, 12, 4),
        intrinsics=pinholes(3, 15.0, (6.0, 6.0)),
    )
    write_blender(tmp_path / "s", replace(scene, parts={"train": square}))
    for size in (12, 4, 5):
        train = read_blender(tmp_path / "s", size=size, parts=["train"]).parts["train"]
        np.testing.assert_array_equal(
            train.images, [shrink(i, (size, size)) for i in square.images]
        )
        np.testing.assert_allclose(train.intrinsics.focal, 15 * size / 12, rtol=1e-14)
        np.testing.assert_allclose(train.intrinsics.centre, size / 2, rtol=1e-14)
    with pytest.raises(InputError, match=r"r_0\.png: an image of 12 x 12 pixels, expected 13 or"):
        read_blender(tmp_path / "s", size=13, parts=["train"])
    with pytest.raises(InputError, match=r"size is 0"):
        read_blender(tmp_path / "s", size=0)
    write_blender(tmp_path / "wide", scene)
    wide = read_blender(tmp_path / "wide", size=5, parts=["train"]).parts["train"]
    images = scene.parts["train"].images
    np.testing.assert_array_equal(wide.images, [shrink(image, (4, 5)) for image in images])
    whole = scene.parts["train"].intrinsics.focal[0, 0]
    np.testing.assert_allclose(wide.intrinsics.focal[0], (whole * 5 / 8, whole * 4 / 6), rtol=1e-14)
    np.testing.assert_allclose(wide.intrinsics.centre, [(2.5, 2)] * 3, rtol=1e-14)


def refuse(folder: pathlib.Path, content: object, message: str) -> None:
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / FILES["train"]).write_text(text)
    with pytest.raises(InputError, match=message) as error:
        read_blender(folder)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(str(folder / FILES["train"]))


def test_faults_of_the_file(tmp_path):
    write_blender(tmp_path / "s", random_scene())
    good = content_of(tmp_path / "s")
    cases = [
        ("{", r"json: not JSON \("),
        ("[" * 100_000, r"json: not JSON \("),
        ("[]", r"json: JSON of a list, expected an object"),
        ("\0", r"json: binary data"),
        ({"frames": good["frames"]}, r"camera_angle_x is missing, expected an angle in \(0, pi\)"),
        ({"camera_angle_x": 1.0}, r"frames is missing, expected a list"),
        (good | {"frames": []}, r"frames is empty"),
        (good | {"frames": {}}, r"frames is no list"),
        *(
            (good | {"camera_angle_x": angle}, r"camera_angle_x is .*, expected an angle in")
            for angle in (0, -1, 3.15, math.nan, "1", True, None)
        ),
    ]
    for content, message in cases:
        refuse(tmp_path / "s", content, message)


def test_faults_of_a_frame_name_it(tmp_path):
    write_blender(tmp_path / "s", random_scene())
    good = content_of(tmp_path / "s")

    def changed(**changes: object) -> dict:
        frame = {k: v for k, v in (good["frames"][1] | changes).items() if v is not None}
        return good | {"frames": [good["frames"][0], frame, good["frames"][2]]}

    def matrix(row: int, column: int, number: object) -> dict:
        rows = [list(row) for row in good["frames"][1]["transform_matrix"]]
        rows[row][column] = number
        return changed(transform_matrix=rows)

    where = r"json: frame 1 \(\./train/r_1\): "
    cases = [
        (
            good | {"frames": [good["frames"][0], 3]},
            r"json: frame 1 is a float, expected an object",
        ),
        (changed(file_path=None), r"json: frame 1: file_path is missing"),
        (changed(file_path=7), r"json: frame 1: file_path is 7"),
        (changed(file_path=""), r"json: frame 1: file_path is ''"),
        (changed(file_path="./train/r_9"), r"frame 1 \(\./train/r_9\): no image .*train/r_9\.png,"),
        (changed(file_path="a.jpg"), r"frame 1 \(a\.jpg\): no image .*s/a\.jpg,"),
        (changed(file_path="../s/train/r_1"), r"frame 1 .*expected a path inside the folder"),
        (changed(file_path="a/../../r_1"), r"frame 1 .*expected a path inside the folder"),
        (changed(file_path="/etc/r_1"), r"frame 1 .*expected a path inside the folder"),
        (changed(file_path="."), r"frame 1 .*expected a path inside the folder"),
        (changed(file_path="train/r_0.png"), r"frame 1 \(.*\): has the image of frame 0, expected"),
        (changed(transform_matrix=None), where + "transform_matrix is missing"),
        (changed(transform_matrix=[[1, 0, 0, 0]] * 3), where + "transform_matrix is not 4 x 4"),
        (changed(transform_matrix="eye"), where + "transform_matrix is not 4 x 4"),
        (matrix(0, 0, "1"), where + "transform_matrix is not 4 x 4"),
        (matrix(0, 0, 3.0), where + r"the camera's axes are .* expected a rotation"),
        (matrix(2, 3, math.nan), where + "the camera's matrix is not finite"),
        (matrix(2, 3, 10**400), where + "the camera's matrix is not finite"),
        (matrix(3, 3, 2.0), where + r"the matrix's last row is \[0\.0, 0\.0, 0\.0, 2\.0\]"),
        (matrix(3, 0, math.nan), where + r"the matrix's last row is \[nan"),
        (changed(transform_matrix=np.diag([1, 1, -1, 1]).tolist()), where + ".*determinant -1"),
    ]
    for content, message in cases:
        refuse(tmp_path / "s", content, message)
    write_image(tmp_path / "s/train/r_1.png", random_images(6, 8, 3))
    refuse(
        tmp_path / "s",
        good,
        r"frame 1: .*r_1\.png has shape \[6, 8, 3\], expected \[6, 8, 4\] as .*r_0\.png has",
    )
    (tmp_path / "s/train/r_1.png").write_bytes(b"no image")
    refuse(tmp_path / "s", good, r"frame 1: .*r_1\.png: not a readable image")


def test_images_for_training_are_in_no_other_part(tmp_path):
    write_blender(tmp_path / "s", random_scene())
    trained = content_of(tmp_path / "s")["frames"]
    for part in ("validation", "test"):
        good = content_of(tmp_path / "s", part)
        file = tmp_path / "s" / FILES[part]
        file.write_text(json.dumps(good | {"frames": [*good["frames"], trained[1]]}))
        message = (
            rf"{FILES[part]}: frame 2 \(train/r_1\): transforms_train\.json has this image too"
        )
        with pytest.raises(InputError, match=message) as error:
            read_blender(tmp_path / "s")
        assert "\n" not in str(error.value)
        assert len(read_blender(tmp_path / "s", parts=["train"]).part("train")) == 3
        file.write_text(json.dumps(good))
    same = content_of(tmp_path / "s", "test")
    (tmp_path / "s" / FILES["validation"]).write_text(json.dumps(same))
    assert read_blender(tmp_path / "s").part("validation").names == ("test/r_0", "test/r_1")


def test_parts_that_are_not_there(tmp_path):
    write_blender(tmp_path / "s", random_scene())
    (tmp_path / "s" / FILES["validation"]).unlink()
    assert list(read_blender(tmp_path / "s").parts) == ["train", "test"]
    with pytest.raises(
        InputError, match=r"s: no transforms_val\.json, expected it for the part va"
    ):
        read_blender(tmp_path / "s", parts=["train", "validation"])
    (tmp_path / "s" / FILES["test"]).unlink()
    with pytest.raises(
        InputError, match=r"s: no transforms_test\.json, expected it for .*test; give"
    ):
        read_blender(tmp_path / "s")
    with pytest.raises(InputError, match=r"parts has 'val', expected some of train, validation, t"):
        read_blender(tmp_path / "s", parts=["train", "val"])
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        read_blender(tmp_path / "nowhere")


def test_faults_of_what_is_to_be_written(tmp_path):
    scene = random_scene()
    train = scene.parts["train"]
    cases = [
        (
            {"intrinsics": pinholes(3, (5.0, 6.0), (4.0, 3.0))},
            r"random, train: PINHOLE cameras with focal lengths \[5\.0, 6\.0\] and the centre",
        ),
        (
            {"intrinsics": pinholes(3, 5.0, (4.0, 4.0))},
            r"random, train: PINHOLE cameras .* centre \[4\.0, 4\.0\] .*the middle, \(4\.0, 3\.0\)",
        ),
        (
            {"intrinsics": replace(pinholes(3, 5.0, (4.0, 3.0)), model="SIMPLE_FISHEYE")},
            r"random, train: SIMPLE_FISHEYE cameras .*expected pinholes with one focal length",
        ),
        ({"names": ("a", "b", "test/r_1")}, r"random: two views are named test/r_1"),
        *(
            ({"names": ("a", "b", name)}, r"random: a view is named .*, expected a path inside")
            for name in ("../c", "/c", ".", "", "./c", "c/../d", "c.png", "c\0")
        ),
    ]
    for changes, message in cases:
        changed = replace(scene, parts=scene.parts | {"train": replace(train, **changes)})
        with pytest.raises(InputError, match=message):
            write_blender(tmp_path / "s", changed)
    assert not list(tmp_path.iterdir())
    with pytest.raises(InputError, match=r"gs://b/s, expected a local folder|gcsfs"):
        write_blender("gs://b/s", scene)
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "README").write_text("kept")
    for folder in (tmp_path / "s", tmp_path / "s" / "README"):
        with pytest.raises(InputError, match=r"is there and not empty, expected a new folder"):
            write_blender(folder, scene)
    assert [file.name for file in (tmp_path / "s").iterdir()] == ["README"]


def test_a_scene_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    write, calls = blender._write_part, []

    def fail(*args):
        calls.append(args)
        if len(calls) == 3:
            raise OSError("disk full")
        write(*args)

    monkeypatch.setattr(blender, "_write_part", fail)
    with pytest.raises(OSError, match="disk full"):
        write_blender(tmp_path / "s", random_scene())
    assert len(calls) == 3
    assert not list(tmp_path.iterdir())


def test_lego(data_folder):
    folder = data_folder / "nerf_lego"
    scene = read_blender(folder, size=100)
    assert {part: len(views) for part, views in scene.parts.items()} == {
        **{"train": 100, "validation": 13, "test": 25}
    }
    train = scene.parts["train"]
    assert train.names[:2] == ("train/r_0", "train/r_1")
    assert scene.parts["test"].names[1] == "test/r_8"
    places = train.camera_to_world[:, :, 3]
    np.testing.assert_allclose(np.linalg.norm(places, axis=1), 4.0311, atol=1e-4)
    with np.load(folder / "lego_tiny_100x100_derived.npz") as tiny:
        np.testing.assert_allclose(train.intrinsics.focal, tiny["focal"], rtol=1e-12)
        np.testing.assert_allclose(train.camera_to_world, tiny["poses"][:100, :3], atol=1e-6)
        # Theirs are averages over black, rounded; ours are rounded as colours and as alpha.
        error = np.abs(over_background(train.images, 0.0) - tiny["images"][:100])
    assert error.max() < 1.51 / 255
    assert error.mean() < 0.2 / 255


def test_lego_in_full(data_folder):
    test = read_blender(data_folder / "nerf_lego", parts=["train", "test"]).parts["test"]
    assert test.images.shape == (25, 400, 400, 4)
    np.testing.assert_allclose(test.intrinsics.focal, 555.5555, atol=1e-4)
    np.testing.assert_array_equal(test.intrinsics.centre, [(200.0, 200.0)] * 25)
