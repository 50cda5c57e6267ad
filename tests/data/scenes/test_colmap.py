"""COLMAP's reconstructions, binary and text: read, written, and what is wrong with a file."""

import dataclasses
import pathlib
import struct

import numpy as np
import pytest
from captures import SHAPE, assert_same_views, moved, random_lens, random_scene
from image_files import random_images, write_image

from jaxgen.camera_models import CAMERA_MODELS
from jaxgen.data.scenes.analytic_scene import make_analytic_scene
from jaxgen.data.scenes.colmap import read_colmap, write_colmap
from jaxgen.data.scenes.colmap_model import find_model, read_colmap_model
from jaxgen.data.scenes.load_scene import load_scene
from jaxgen.errors import InputError

MODELS = [name for name, model in CAMERA_MODELS.items() if model.id is not None]
CAMERAS = {
    1: ("SIMPLE_RADIAL", 16, 12, [20.0, 8.0, 6.0, 0.125]),
    2: ("OPENCV", 16, 12, [20.0, 21.0, 8.0, 6.0, 0.1, -0.05, 0.003, 0.25]),
}
IMAGES = [
    (7, (1.0, 0.0, 0.0, 0.0), (1.0, 2.0, 3.0), 2, "b.png"),
    (3, (0.5, -0.5, 0.5, 0.5), (0.0, 0.25, -1.0), 1, "a.png"),
    (9, (0.0, 0.6, 0.0, 0.8), (0.0, 0.0, 0.0), 1, "deep/c.png"),
]
POINTS = [((1.5, 2.5, -3.5), (255, 0, 7)), ((0.0, 1.0, 2.0), (1, 2, 3))]


def write_text(folder: pathlib.Path, cameras=CAMERAS, images=IMAGES, points=POINTS) -> None:
    """With comments, and lines of points of which one is blank."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["# Camera list"]
    for number, (model, width, height, values) in cameras.items():
        lines.append(" ".join(map(str, (number, model, width, height, *values))))
    (folder / "cameras.txt").write_text("\n".join(lines) + "\n")
    lines = ["# Image list"]
    for i, (number, quaternion, translation, camera, name) in enumerate(images):
        lines.append(" ".join(map(str, (number, *quaternion, *translation, camera, name))))
        lines.append("" if i == 0 else "1.5 2.5 1 3.5 4.5 -1")
    (folder / "images.txt").write_text("\n".join(lines) + "\n")
    lines = ["# 3D point list"]
    for i, (place, color) in enumerate(points):
        lines.append(" ".join(map(str, (i + 1, *place, *color, 0.5, 7, 0, 3, 1))))
    (folder / "points3D.txt").write_text("\n".join(lines) + "\n")
    for name in ("rigs", "frames"):
        (folder / f"{name}.txt").write_text("no file that is read")


def write_binary(folder: pathlib.Path, cameras=CAMERAS, images=IMAGES, points=POINTS) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    content = struct.pack("<Q", len(cameras))
    for number, (model, width, height, values) in cameras.items():
        known = CAMERA_MODELS[model].id if isinstance(model, str) else model
        content += struct.pack(f"<iiQQ{len(values)}d", number, known, width, height, *values)
    (folder / "cameras.bin").write_bytes(content)
    content = struct.pack("<Q", len(images))
    for i, (number, quaternion, translation, camera, name) in enumerate(images):
        content += struct.pack("<I7dI", number, *quaternion, *translation, camera)
        content += name.encode() + b"\0" + struct.pack("<Q", 2 * min(i, 1))
        content += struct.pack("<ddqddq", 1.5, 2.5, 1, 3.5, 4.5, -1) * min(i, 1)
    (folder / "images.bin").write_bytes(content)
    content = struct.pack("<Q", len(points))
    for i, (place, color) in enumerate(points):
        content += struct.pack("<Q3d3Bd", i + 1, *place, *color, 0.5)
        content += struct.pack("<Q4I", 2, 7, 0, 3, 1)
    (folder / "points3D.bin").write_bytes(content)
    for name in ("rigs", "frames"):
        (folder / f"{name}.bin").write_bytes(b"no file that is read")


BOTH = pytest.mark.parametrize("write", [write_text, write_binary])


def write_photos(folder: pathlib.Path) -> None:
    for i, image in enumerate(IMAGES):
        write_image(folder / image[-1], random_images(*SHAPE, 3, seed=i))


def refuse(folder: pathlib.Path, message: str, read=read_colmap_model, **options) -> None:
    with pytest.raises(InputError, match=message) as error:
        read(folder, **options)
    assert "\n" not in str(error.value)
    assert str(folder) in str(error.value)


@BOTH
def test_cameras_images_and_points(tmp_path, write):
    write(tmp_path)
    model = read_colmap_model(tmp_path)
    assert {number: camera.intrinsics.model for number, camera in model.cameras.items()} == {
        **{1: "SIMPLE_RADIAL", 2: "OPENCV"}
    }
    for number, (_, width, height, values) in CAMERAS.items():
        assert model.cameras[number].shape == (height, width)
        assert model.cameras[number].intrinsics.parameters(0) == values
    assert [image[:2] for image in model.images] == [("a.png", 1), ("b.png", 2), ("deep/c.png", 1)]
    a, b, c = (image.camera_to_world for image in model.images)
    np.testing.assert_allclose(b, [[1, 0, 0, -1], [0, -1, 0, -2], [0, 0, -1, -3]])
    w, x, y, z = IMAGES[1][1]
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    rotation = np.eye(3) + 2 * w * cross + 2 * cross @ cross
    np.testing.assert_allclose(a[:, :3], rotation.T * (1, -1, -1), atol=1e-15)
    np.testing.assert_allclose(rotation @ a[:, 3] + IMAGES[1][2], 0, atol=1e-15)
    np.testing.assert_allclose(c[:, 3], 0)
    np.testing.assert_array_equal(model.points, [place for place, _ in POINTS])
    np.testing.assert_array_equal(model.colors, [color for _, color in POINTS])
    for name in ("rigs", "frames", "points3D"):
        for file in tmp_path.glob(f"{name}.*"):
            file.unlink()
    model = read_colmap_model(tmp_path)
    assert model.points.shape == model.colors.shape == (0, 3)
    assert len(model.images) == 3


def test_binary_is_read_where_both_are(tmp_path):
    write_text(tmp_path)
    write_binary(tmp_path, images=IMAGES[:2])
    assert len(read_colmap_model(tmp_path).images) == 2


@BOTH
def test_photographs_and_cameras_of_two_models(tmp_path, write):
    write(tmp_path / "sparse/0")
    write_photos(tmp_path / "images")
    views = read_colmap(tmp_path, every=0).parts["train"]
    assert views.names == ("a", "b", "deep/c")
    np.testing.assert_array_equal(views.images[2], random_images(*SHAPE, 3, seed=2))
    assert views.intrinsics.model == "OPENCV"
    np.testing.assert_array_equal(views.intrinsics.focal, [[20, 20], [20, 21], [20, 20]])
    expected = [[0.125, 0, 0, 0], CAMERAS[2][3][4:], [0.125, 0, 0, 0]]
    np.testing.assert_array_equal(views.intrinsics.distortion, expected)
    scene = read_colmap(tmp_path, size=5)
    assert (scene.parts["test"].names, scene.parts["train"].names) == (("a",), ("b", "deep/c"))
    scale = np.array([5 / 16, 4 / 12])
    np.testing.assert_allclose(scene.parts["train"].intrinsics.focal[0], scale * (20, 21))
    assert load_scene(tmp_path, size=8).parts["train"].images.shape == (2, 6, 8, 3)


def test_where_models_and_photographs_are(tmp_path):
    for i, place in enumerate(("", "sparse/0", "sparse", "colmap/sparse/0")):
        folder = tmp_path / str(i)
        write_binary(folder / place)
        assert find_model(folder) == folder / place
        write_photos(folder / "photos")
        for photos in (folder / "photos", "photos"):
            assert len(read_colmap(folder, images=photos).parts["train"]) == 2
        refuse(folder, r"images: no such folder, expected the one of the photographs", read_colmap)
    assert find_model(tmp_path) is None
    refuse(tmp_path, r": no cameras\.bin or cameras\.txt, expected a model of COLMAP", read_colmap)
    refuse(tmp_path, r": no cameras\.txt, expected one")
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        read_colmap(tmp_path / "nowhere")


def test_photographs_that_are_missing_or_wrong(tmp_path):
    write_binary(tmp_path)
    write_photos(tmp_path / "images")
    for name in ("a.png", "deep/c.png"):
        (tmp_path / "images" / name).unlink()
    message = r": 2 of 3 images are missing in .*images, .*option to skip .*: a\.png, deep/c\.png$"
    refuse(tmp_path, message, read_colmap)
    views = read_colmap(tmp_path, skip_missing=True, every=0).parts["train"]
    assert views.names == ("b",)
    (tmp_path / "images/b.png").write_bytes(b"no image")
    message = r"image b\.png: .*b\.png: not a readable image"
    refuse(tmp_path, message, read_colmap, skip_missing=True)
    write_image(tmp_path / "images/b.png", random_images(16, 12, 3))
    message = r"image b\.png: .*b\.png has 16 x 12 pixels, expected 12 x 16 .* as is stated"
    refuse(tmp_path, message, read_colmap, skip_missing=True)
    (tmp_path / "images/b.png").unlink()
    refuse(tmp_path, r"3 of 3 images are missing", read_colmap, skip_missing=True)


@BOTH
def test_faults_of_what_is_in_files(tmp_path, write):
    suffix = "txt" if write is write_text else "bin"
    first, second = CAMERAS[1], IMAGES[0]

    def image(**changes: object) -> dict:
        keys = "number", "quaternion", "translation", "camera", "name"
        other = tuple((dict(zip(keys, second, strict=True)) | changes).values())
        return {"images": [other, *IMAGES[1:]]}

    def camera(**changes: object) -> dict:
        keys = "model", "width", "height", "values"
        other = tuple((dict(zip(keys, first, strict=True)) | changes).values())
        return {"cameras": CAMERAS | {1: other}}

    at_camera = rf"cameras\.{suffix}: (line 2|camera 1): "
    at_image = rf"images\.{suffix}: (line 2|image 7) \(b\.png\): "
    for changes, message in (
        ({"cameras": {}}, rf"cameras\.{suffix}: no cameras, expected 1 or more"),
        ({"images": []}, rf"images\.{suffix}: no images, expected 1 or more"),
        (
            camera(values=[0.0, 8, 6, 0]),
            at_camera + r"focal is \[0\.0, 0\.0\], expected numbers >",
        ),
        (camera(values=[np.nan, 8, 6, 0]), at_camera + r"focal is \[nan, nan\], expected finite"),
        (camera(width=0), at_camera + r"images of 12 x 0 pixels, expected 1 or more"),
        (image(quaternion=(0, 0, 0, 0)), at_image + r"the quaternion is \[0\.0, .*of length 1"),
        (image(quaternion=(1, 1, 0, 0)), at_image + r"the quaternion is \[1\.0, 1\.0.*of length 1"),
        (image(translation=(0, np.nan, 0)), at_image + r"the quaternion .*nan.* finite numbers"),
        (image(translation=(0, 1e300, 0)), at_image + r"the quaternion .*1e\+300.* finite numbers"),
        (
            image(name="a.png"),
            rf"images\.{suffix}: two entries have the name a\.png, expected different ones",
        ),
        (image(camera=5), rf"images\.{suffix}: image b\.png is of camera 5, expected one of came"),
    ):
        write(tmp_path, **changes)
        refuse(tmp_path, message)
    write_photos(tmp_path / "images")
    for name, message in (
        ("../b.png", r"image \(\.\./b\.png\): name is '\.\./b\.png', expected a path inside"),
        ("/etc/b.png", r"name is '/etc/b\.png', expected a path inside the folder"),
        ("a.jpg", r"images are missing in"),
    ):
        write(tmp_path, **image(name=name))
        refuse(tmp_path, message, read_colmap, every=0)
    fisheye = {2: ("SIMPLE_FISHEYE", 16, 12, [20.0, 8.0, 6.0])}
    write(tmp_path, cameras=CAMERAS | fisheye)
    refuse(tmp_path, r": cameras are of the models SIMPLE_RADIAL and SIMPLE_FISHEYE", read_colmap)


def test_models_that_are_not_known(tmp_path):
    write_binary(tmp_path / "binary", cameras={1: (99, 16, 12, [1.0] * 4)})
    refuse(tmp_path / "binary", r"bin: camera 1 is of model 99, expected a number from 0 to 17")
    write_text(tmp_path / "text", cameras={1: ("PIN", 16, 12, [1.0] * 4)})
    refuse(tmp_path / "text", r"txt: line 2: camera model 'PIN', expected one of SIMPLE_PINHOLE, ")
    write_text(tmp_path / "text", cameras={1: ("OPENCV", 16, 12, [1.0] * 4)})
    refuse(tmp_path / "text", r"txt: line 2: 4 parameters of OPENCV, expected 8")


def test_binary_files_that_end_early(tmp_path):
    """Wherever they are cut."""
    write_binary(tmp_path)
    for name in ("cameras", "images", "points3D"):
        whole = (tmp_path / f"{name}.bin").read_bytes()
        for size in (3, 7, 8, 9, 20, len(whole) // 2, len(whole) - 25, len(whole) - 1):
            (tmp_path / f"{name}.bin").write_bytes(whole[:size])
            refuse(tmp_path, rf"{name}\.bin: ends after {size} bytes, expected more \(truncated")
        (tmp_path / f"{name}.bin").write_bytes(b"")
        refuse(tmp_path, rf"{name}\.bin: the file is empty")
        (tmp_path / f"{name}.bin").write_bytes(whole)
        for more in (b"\0", whole):  # a count that is too small
            (tmp_path / f"{name}.bin").write_bytes(whole + more)
            refuse(tmp_path, rf"{name}\.bin: {len(whole + more)} bytes, expected {len(whole)} for")
        (tmp_path / f"{name}.bin").write_bytes(whole)
    (tmp_path / "cameras.bin").write_bytes(b"\xff" * 400)  # more cameras than there are bytes
    refuse(tmp_path, r"cameras\.bin: camera -1 is of model -1, expected a number from")
    (tmp_path / "images.bin").unlink()
    refuse(tmp_path, r": no images\.bin, expected one")


def test_lines_that_are_none(tmp_path):
    for file, line, message in (
        ("cameras", "1 PINHOLE 16", r"txt: line 1: 3 words, expected a camera's 4 or more"),
        ("cameras", "1 PINHOLE 16 12 a b c d", r"txt: line 1: 'a b c d', expected numbers"),
        ("cameras", "1 PINHOLE 1.5 12 1 1 1 1", r"txt: line 1: '1 1\.5 12', expected numbers"),
        ("images", "1 1 0 0 0 0 0 0 1", r"txt: line 1: 9 words, expected an image's 10"),
        ("images", "1 x 0 0 0 0 0 0 1 a.png", r"txt: line 1: 'x 0 0 0 0 0 0', expected numbers"),
        ("points3D", "1 2 3", r"txt: line 1: 3 words, expected a point's 8 or more"),
        ("points3D", "1 2 3 x 1 2 3 0.5", r"txt: line 1: '2 3 x', expected numbers"),
        (
            "points3D",
            "1 2 3 4 1 2 900 0.5",
            r"txt: line 1: the colour \[1, 2, 900\], exp",
        ),
    ):
        write_text(tmp_path)
        (tmp_path / f"{file}.txt").write_text(line + "\n")
        refuse(tmp_path, rf"{file}\." + message)
    for file in ("cameras", "images"):
        write_text(tmp_path)
        (tmp_path / f"{file}.txt").write_text("# nothing\n\n")
        refuse(tmp_path, rf"{file}\.txt: no {file}, expected 1 or more")
        (tmp_path / f"{file}.txt").write_bytes(b"\0\1\2")
        refuse(tmp_path, rf"{file}\.txt: binary data")


def test_text_files_that_end_early(tmp_path):
    """Where a comment says how many entries there are, as those that COLMAP writes do."""
    write_text(tmp_path)
    for name, comment in (("cameras", "cameras"), ("images", "images"), ("points3D", "points")):
        file = tmp_path / f"{name}.txt"
        whole = file.read_text()
        entries = 3 if name == "images" else 2
        file.write_text(f"# Number of {comment}: {entries}, mean of something: 2.5\n{whole}")
        read_colmap_model(tmp_path)
        file.write_text(f"# Number of {comment}: {entries + 1}\n{whole}")
        refuse(tmp_path, rf"{name}\.txt: {entries} entries, expected {entries + 1} as its comment")
        file.write_text(whole)
    camera = CAMERAS[1]
    line = " ".join(map(str, (1, *camera[:3], *camera[3])))
    (tmp_path / "cameras.txt").write_text(f"{line}\n{line}\n")
    refuse(tmp_path, r"cameras\.txt: two entries have the number 1, expected different ones")


def test_the_traced_scene_comes_back(tmp_path):
    """Cameras, pixels and alpha, all as one capture, of which every eighth is held out."""
    scene = make_analytic_scene(16, (6, 0, 3))
    write_colmap(tmp_path / "s", scene)
    read = read_colmap(tmp_path / "s", every=0).parts["train"]
    for part, views in scene.parts.items():
        places = [read.names.index(f"{part}/r_{i}") for i in range(len(views))]
        assert_same_views(views, read.take(places))
        assert read.intrinsics.model == "PINHOLE"
    again = read_colmap(tmp_path / "s")
    assert [(part, len(views)) for part, views in again.parts.items()] == [
        ("train", 7),
        ("test", 2),
    ]


def test_what_is_written_comes_back(tmp_path):
    """Of all models, each camera its own, in the units of the files."""
    for model in MODELS:
        scene = moved(random_scene(model))
        write_colmap(tmp_path / model, scene)
        read = read_colmap(tmp_path / model)
        for part, views in scene.parts.items():
            assert_same_views(views, read.parts[part], scene.to_files)
            assert read.parts[part].intrinsics.model == model
    with pytest.raises(InputError, match=r"PINHOLE: is there and not empty"):
        write_colmap(tmp_path / "PINHOLE", scene)


def test_images_that_shrank_by_two_factors_are_written_with_two_focal_lengths(tmp_path):
    scene = random_scene("SIMPLE_RADIAL")
    lens = random_lens("SIMPLE_RADIAL", 9).scaled(1.0, 1.1)
    scene = random_scene("SIMPLE_RADIAL", intrinsics=lens)
    write_colmap(tmp_path / "s", scene)
    read = read_colmap(tmp_path / "s")
    for part, views in scene.parts.items():
        found = read.parts[part].intrinsics
        assert found.model == "OPENCV"
        np.testing.assert_array_equal(found.focal, views.intrinsics.focal)
        np.testing.assert_array_equal(found.distortion[:, :1], views.intrinsics.distortion)
        assert not found.distortion[:, 1:].any()


def test_faults_of_what_is_to_be_written(tmp_path):
    scene = random_scene()
    train = scene.parts["train"]
    for changes, message in (
        (
            {"intrinsics": random_lens("ORTHOGRAPHIC", 7)},
            r"^random, train: ORTHOGRAPHIC cameras, ",
        ),
        ({"names": ("../a", *train.names[1:])}, r"^random: a view is named '\.\./a', expected a p"),
    ):
        parts = scene.parts | {"train": dataclasses.replace(train, **changes)}
        with pytest.raises(InputError, match=message):
            write_colmap(tmp_path / "s", dataclasses.replace(scene, parts=parts))
    assert not list(tmp_path.iterdir())


def test_fern_as_binary_and_as_text(data_folder):
    folder = data_folder / "llff_fern/colmap_simple_radial"
    binary, text = (read_colmap_model(folder / name) for name in ("sparse/0", "sparse_text"))
    assert len(binary.images) == len(text.images) == 20
    assert len(binary.points) == len(text.points) == 1860
    for left, right in zip(binary.images, text.images, strict=True):
        assert left[:2] == right[:2]
        np.testing.assert_allclose(left.camera_to_world, right.camera_to_world, atol=1e-9)
    order = [np.lexsort(model.points.T) for model in (binary, text)]
    np.testing.assert_allclose(binary.points[order[0]], text.points[order[1]], rtol=1e-6)
    np.testing.assert_array_equal(binary.colors[order[0]], text.colors[order[1]])
    (left,), (right,) = (model.cameras.values() for model in (binary, text))
    assert left.shape == right.shape == (378, 504)
    np.testing.assert_allclose(left.intrinsics.parameters(0), right.intrinsics.parameters(0))
    np.testing.assert_allclose(
        left.intrinsics.parameters(0), [416.717, 252, 189, 0.01799], rtol=1e-3
    )
    photos = data_folder / "llff_fern/images_8"
    scene = read_colmap(folder, images=photos, size=252)
    assert {part: len(views) for part, views in scene.parts.items()} == {"train": 17, "test": 3}
    np.testing.assert_allclose(scene.parts["train"].intrinsics.focal, 416.717 / 2, rtol=1e-3)
    # What is reconstructed is in front of the cameras, mostly within their images.
    for image in binary.images:
        pose = image.camera_to_world
        own = (binary.points - pose[:, 3]) @ pose[:, :3]
        place = own[:, :2] / -own[:, 2:] * 416.7 * (1, -1) + (252, 189)
        assert (own[:, 2] < 0).mean() > 0.99
        assert ((place > 0) & (place < (504, 378))).all(axis=1).mean() > 0.4
