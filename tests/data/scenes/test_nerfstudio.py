"""nerfstudio's and instant-ngp's format: read, written, and what is wrong with a file."""

import dataclasses
import json
import math
import pathlib

import numpy as np
import pytest
from captures import SHAPE, assert_same_views, moved, random_lens, random_poses, random_scene
from image_files import random_images, write_image

from jaxgen.data import load_scene
from jaxgen.data.scenes.alpha_images import shrink
from jaxgen.data.scenes.analytic_scene import make_analytic_scene
from jaxgen.data.scenes.nerfstudio import FILE, read_nerfstudio, write_nerfstudio
from jaxgen.data.scenes.recentring import recentred
from jaxgen.data.scenes.views import Scene
from jaxgen.errors import InputError

APPLIED = [[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, -1.0, 0.0, 0.0]]
"""nerfstudio's own, of captures of COLMAP: a rotation."""
PIXELS = {"fl_x": 20.0, "fl_y": 21.0, "cx": 7.5, "cy": 6.5, "w": 16, "h": 12}


def write_capture(folder: pathlib.Path, count: int = 4, **content: object) -> dict:
    """Images and a file whose frames have no intrinsics; the file's object."""
    poses, frames = random_poses(count), []
    for i, image in enumerate(random_images(count, *SHAPE, 3)):
        write_image(folder / f"images/{i}.png", image)
        matrix = [*poses[i].astype(float).tolist(), [0.0, 0.0, 0.0, 1.0]]
        frames.append({"file_path": f"images/{i}.png", "transform_matrix": matrix})
    return save(folder, {**PIXELS, **content, "frames": frames})


def save(folder: pathlib.Path, content: object) -> dict:
    (folder / FILE).write_text(content if isinstance(content, str) else json.dumps(content))
    return content


def changed(content: dict, number: int, **changes: object) -> dict:
    """With another frame; what becomes None is gone."""
    frames = list(content["frames"])
    frames[number] = {k: v for k, v in (frames[number] | changes).items() if v is not None}
    return content | {"frames": frames}


def refuse(folder: pathlib.Path, content: object, message: str, **options: object) -> None:
    save(folder, content)
    with pytest.raises(InputError, match=message) as error:
        read_nerfstudio(folder, **options)
    assert "\n" not in str(error.value)
    assert str(folder) in str(error.value)


def lens_of(folder: pathlib.Path, **options: object):
    return read_nerfstudio(folder, every=0, **options).parts["train"].intrinsics


def test_what_is_written_comes_back(tmp_path):
    """Of each camera its own numbers, in the units of the files; masks too."""
    for model in ("PINHOLE", "OPENCV", "FULL_OPENCV", "OPENCV_FISHEYE", "EQUIRECTANGULAR"):
        lens = random_lens(model, 9)
        if model == "FULL_OPENCV":
            lens.distortion[:, 5:] = 0  # the format has no more
        masks = np.random.default_rng(0).random((9, *SHAPE)) > 0.5
        scene = moved(random_scene(model, intrinsics=lens, masks=masks))
        write_nerfstudio(tmp_path / model, scene)
        read = read_nerfstudio(tmp_path / model)
        assert list(read.parts) == ["train", "test"]
        for part, views in scene.parts.items():
            assert_same_views(views, read.parts[part], scene.to_files)
            assert read.parts[part].intrinsics.model == model
    assert (tmp_path / "PINHOLE/masks/photos/003.png").is_file()
    with pytest.raises(InputError, match=r"PINHOLE: is there and not empty"):
        write_nerfstudio(tmp_path / "PINHOLE", scene)


def test_the_transform_that_was_applied_stays_with_the_scene(tmp_path):
    """Original cameras come back, also from the recentred scene and from what is written of it."""
    content = write_capture(tmp_path, 9)
    turn = random_poses(1, 3)[0].astype(float)
    for name, matrix, scale in (
        ("nerfstudio", APPLIED, None),
        ("4 x 4", [*turn.tolist(), [0, 0, 0, 1]], None),
        ("scaled", [[0.5 * value for value in row] for row in APPLIED], None),
        ("scale beside it", turn.tolist(), 0.25),
    ):
        applied = np.array(matrix, float)[:3] * (scale or 1)
        files = np.array([frame["transform_matrix"] for frame in content["frames"]])
        size = np.cbrt(np.linalg.det(applied[:, :3]))
        place = np.linalg.solve(applied[:, :3], (files[:, :3, 3] - applied[:, 3]).T).T
        axes = np.linalg.solve(applied[:, :3] / size, files[:, :3, :3])
        save(tmp_path, content | {"applied_transform": matrix, "applied_scale": scale})
        write_nerfstudio(tmp_path / name, recentred(read_nerfstudio(tmp_path), 0.1, 9.0, 1.0))
        for scene in (read_nerfstudio(tmp_path / name), load_scene(tmp_path / name)):
            assert scene.applied is not None
            np.testing.assert_allclose(scene.applied.matrix(), applied, atol=1e-12)
            back = scene.applied.inverse().after(scene.to_files)
            for views in scene.parts.values():
                found = back.poses(views.camera_to_world.astype(float))
                numbers = [int(view.split("/")[1]) for view in views.names]
                np.testing.assert_allclose(found[:, :, 3], place[numbers], atol=2e-5)
                np.testing.assert_allclose(found[:, :, :3], axes[numbers], atol=2e-6)
    save(tmp_path, content)
    assert read_nerfstudio(tmp_path).applied is None
    stretched, mirrored, nan = (np.array(APPLIED) for _ in range(3))
    stretched[0, 0], nan[0, 3] = 2.0, np.nan
    mirrored[2] *= -1
    no_similarity = r"json: applied_transform is \[\[.*expected a scale > 0 times a rotation"
    for matrix, message in (
        ("x", r"json: applied_transform is not 3 x 4 or 4 x 4 numbers, expected those"),
        (APPLIED[:2], r"json: applied_transform is not 3 x 4 or 4 x 4 numbers"),
        (nan.tolist(), r"json: applied_transform is not finite in float32, expected finite num"),
        (stretched.tolist(), no_similarity),
        (mirrored.tolist(), no_similarity),
        (np.zeros((3, 4)).tolist(), no_similarity),
        ([*APPLIED, [0, 0, 0, 2]], r"json: applied_transform: the matrix's last row is \[0\.0, 0"),
    ):
        refuse(tmp_path, content | {"applied_transform": matrix}, message)
    refuse(tmp_path, content | {"applied_scale": 0}, r"json: applied_scale is 0\.0, expected a num")


def test_masks_of_some_parts_come_back_as_masks_of_all(tmp_path):
    """The format has masks of all frames or of none: those of other parts are white."""
    scene = random_scene()
    masks = np.random.default_rng(0).random((len(scene.parts["train"]), *SHAPE)) > 0.5
    train = dataclasses.replace(scene.parts["train"], masks=masks)
    write_nerfstudio(
        tmp_path / "s", dataclasses.replace(scene, parts=scene.parts | {"train": train})
    )
    read = read_nerfstudio(tmp_path / "s")
    assert_same_views(train, read.parts["train"])
    assert read.parts["test"].masks.all()
    assert not list(tmp_path.glob("*.tmp"))


def test_the_traced_scene_comes_back(tmp_path):
    """Parts, cameras, pixels and alpha."""
    scene = make_analytic_scene(16, (4, 2, 2))
    write_nerfstudio(tmp_path / "s", scene)
    read = read_nerfstudio(tmp_path / "s")
    assert list(read.parts) == list(scene.parts)
    for part, views in scene.parts.items():
        assert_same_views(views, read.parts[part])


def test_a_frame_may_add_to_the_cameras_of_the_file(tmp_path):
    content = write_capture(tmp_path, k1=0.25)
    save(tmp_path, changed(content, 2, k1=0.5, p2=0.125))
    lens = lens_of(tmp_path)
    assert lens.model == "OPENCV"
    np.testing.assert_array_equal(lens.distortion[:, 0], [0.25, 0.25, 0.5, 0.25])
    np.testing.assert_array_equal(lens.distortion[:, 3], [0, 0, 0.125, 0])
    np.testing.assert_array_equal(lens.focal, [[20, 21]] * 4)


def test_models_with_fewer_numbers_come_back_as_those_with_more(tmp_path):
    for model, wide in (
        *(("SIMPLE_PINHOLE", "PINHOLE"), ("SIMPLE_RADIAL", "OPENCV"), ("RADIAL", "OPENCV")),
        *(("RADIAL_FISHEYE", "OPENCV_FISHEYE"), ("SIMPLE_RADIAL_FISHEYE", "OPENCV_FISHEYE")),
        *(("FISHEYE", "OPENCV_FISHEYE"), ("SIMPLE_FISHEYE", "OPENCV_FISHEYE")),
    ):
        scene = random_scene(model)
        write_nerfstudio(tmp_path / model, scene)
        read = read_nerfstudio(tmp_path / model)
        for part, views in scene.parts.items():
            found, given = read.parts[part].intrinsics, views.intrinsics
            assert found.model == wide
            np.testing.assert_array_equal(found.focal, given.focal)
            count = given.distortion.shape[1]
            np.testing.assert_array_equal(found.distortion[:, :count], given.distortion)
            assert not found.distortion[:, count:].any()


def test_cameras_of_the_file_and_of_frames(tmp_path):
    content = write_capture(tmp_path, k1=0.1, p2=-0.02)
    lens = lens_of(tmp_path)
    assert lens.model == "OPENCV"
    np.testing.assert_array_equal(lens.focal, [[20, 21]] * 4)
    np.testing.assert_array_equal(lens.centre, [[7.5, 6.5]] * 4)
    np.testing.assert_array_equal(lens.distortion, [[0.1, 0, 0, -0.02]] * 4)
    for i in range(4):
        content = changed(content, i, fl_x=30.0 + i, fl_y=40.0, k1=i / 100)
    save(tmp_path, content)
    lens = lens_of(tmp_path)
    np.testing.assert_array_equal(lens.focal, [[30 + i, 40] for i in range(4)])
    np.testing.assert_allclose(lens.distortion[:, 0], np.arange(4) / 100)
    np.testing.assert_array_equal(lens.distortion[:, 3], [-0.02] * 4)


def test_models_by_their_names_and_numbers(tmp_path):
    content = write_capture(tmp_path)
    for changes, model in (
        ({}, "PINHOLE"),
        ({"k2": 0.1}, "OPENCV"),
        ({"k3": 0.1, "camera_model": "OPENCV"}, "FULL_OPENCV"),
        ({"k4": 0.1, "camera_model": "OPENCV_FISHEYE"}, "OPENCV_FISHEYE"),
        ({"k1": 0.1, "is_fisheye": True}, "OPENCV_FISHEYE"),
        ({"camera_model": "EQUIRECTANGULAR"}, "EQUIRECTANGULAR"),
    ):
        save(tmp_path, content | changes)
        assert lens_of(tmp_path).model == model
    np.testing.assert_allclose(lens_of(tmp_path).focal, [[16 / (2 * np.pi), 12 / np.pi]] * 4)
    # Frames without a model have that of the file; without one there, OPENCV's.
    for whole, own in (("OPENCV_FISHEYE", "OPENCV_FISHEYE"), (None, "OPENCV")):
        save(tmp_path, changed(content | {"k1": 0.1, "camera_model": whole}, 1, camera_model=own))
        assert lens_of(tmp_path).model == own
    # Several models in one file become the one that says all.
    content = {key: value for key, value in content.items() if key not in PIXELS}
    for i, changes in enumerate(({}, {"k1": 0.1}, {"k3": 0.2}, {"p1": 0.3})):
        content = changed(content, i, **PIXELS, **changes)
    save(tmp_path, content)
    lens = lens_of(tmp_path)
    assert lens.model == "FULL_OPENCV"
    expected = np.zeros((4, 8))
    expected[[1, 2, 3], [0, 4, 2]] = 0.1, 0.2, 0.3
    np.testing.assert_array_equal(lens.distortion, expected)


def test_angles_of_view_where_there_is_no_focal_length(tmp_path):
    content = {k: v for k, v in write_capture(tmp_path).items() if k not in PIXELS}
    save(tmp_path, content | {"camera_angle_x": 0.8})
    lens = lens_of(tmp_path)
    np.testing.assert_allclose(lens.focal, [[8 / math.tan(0.4)] * 2] * 4, rtol=1e-14)
    np.testing.assert_array_equal(lens.centre, [[8, 6]] * 4)
    save(tmp_path, content | {"camera_angle_x": 0.8, "camera_angle_y": 0.7, "fl_x": 9.0})
    np.testing.assert_allclose(lens_of(tmp_path).focal, [[9, 6 / math.tan(0.35)]] * 4)
    save(tmp_path, content | {"fl_y": 9.0})
    np.testing.assert_array_equal(lens_of(tmp_path).focal, [[9, 9]] * 4)


def test_sizes(tmp_path):
    """Sides shrink to whole pixels, and intrinsics by what they really shrink."""
    content = write_capture(tmp_path, k1=0.1)
    images = read_nerfstudio(tmp_path, every=0).parts["train"].images
    for size, shape in ((8, (6, 8)), (5, (4, 5)), (16, (12, 16))):
        train = read_nerfstudio(tmp_path, every=0, size=size).parts["train"]
        np.testing.assert_array_equal(train.images, [shrink(image, shape) for image in images])
        scale = np.array([shape[1] / 16, shape[0] / 12])
        np.testing.assert_allclose(train.intrinsics.focal, [scale * (20, 21)] * 4, rtol=1e-14)
        np.testing.assert_allclose(train.intrinsics.centre, [scale * (7.5, 6.5)] * 4, rtol=1e-14)
        np.testing.assert_array_equal(train.intrinsics.distortion[:, 0], [0.1] * 4)
    refuse(tmp_path, content, r"frame 0 .*0\.png: an image of 12 x 16 pixels, expected 17", size=17)


def test_depth_and_masks(tmp_path):
    content = write_capture(tmp_path)
    depth = np.random.default_rng(0).integers(0, 60_000, (4, *SHAPE)).astype(np.uint16)
    masks = np.random.default_rng(1).random((4, *SHAPE)) > 0.3
    depth[:, 0, 0] = depth[3] = 0
    for i in range(4):
        write_image(tmp_path / f"depth/{i}.png", depth[i])
        write_image(tmp_path / f"masks/{i}.png", masks[i].astype(np.uint8) * (255 - i))
        files = {"depth_file_path": f"depth/{i}.png", "mask_path": f"masks/{i}.png"}
        content = changed(content, i, **files)
    for unit, factor in ((None, 0.001), (0.25, 0.25)):
        save(tmp_path, content | ({"depth_unit_scale_factor": unit} if unit else {}))
        train = read_nerfstudio(tmp_path, every=0).parts["train"]
        expected = np.where(depth > 0, depth * factor, np.nan)
        np.testing.assert_allclose(train.depth, expected, rtol=1e-6)
        np.testing.assert_array_equal(train.masks, masks)
        assert train.depth_along == "axis"
        assert np.isnan(train.depth[3]).all()
        small = read_nerfstudio(tmp_path, every=0, size=8).parts["train"]
        np.testing.assert_array_equal(small.depth, train.depth[:, 1::2, 1::2])
        whole = masks.reshape(4, 6, 2, 8, 2).all(axis=(2, 4))
        np.testing.assert_array_equal(small.masks, whole)


def test_parts_by_their_names_or_every_eighth(tmp_path):
    content = write_capture(tmp_path, 10)
    scene = read_nerfstudio(tmp_path)
    assert scene.parts["test"].names == ("images/0", "images/8")
    assert len(scene.parts["train"]) == 8
    assert list(read_nerfstudio(tmp_path, every=0).parts) == ["train"]
    listed = {
        "train_filenames": ["images/3.png", "./images/1.png"],
        "val_filenames": ["images/5.png"],
        "test_filenames": ["images/0.png", "images/7.png"],
    }
    save(tmp_path, content | listed)
    parts = read_nerfstudio(tmp_path).parts
    assert {part: views.names for part, views in parts.items()} == {
        "train": ("images/3", "images/1"),
        "validation": ("images/5",),
        "test": ("images/0", "images/7"),
    }
    whole = read_nerfstudio(tmp_path).parts["train"]
    np.testing.assert_array_equal(whole.camera_to_world, random_poses(10)[[3, 1]])
    save(tmp_path, content | listed | {"test_filenames": []})
    assert list(read_nerfstudio(tmp_path).parts) == ["train", "validation"]
    for faulty, message in (
        ({"train_filenames": ["images/99.png"]}, r"train_filenames has 'images/99\.png', expected"),
        ({"train_filenames": "images/1.png"}, r"train_filenames is no list, expected one of paths"),
        ({"train_filenames": [{}]}, r"train_filenames: file_path is \{\}, expected a path"),
        ({"train_filenames": []}, r"parts are validation, test, expected train"),
        (
            {"train_filenames": ["images/1.png"] * 2},
            r"train_filenames has 'images/1\.png', which train_filenames has already",
        ),
        (
            {"test_filenames": ["images/1.png"]},
            r"test_filenames has 'images/1\.png', which train_filenames has already",
        ),
    ):
        refuse(tmp_path, content | listed | faulty, message)


def test_images_that_are_missing(tmp_path):
    listed = {"train_filenames": [f"images/{i}.png" for i in range(4)]}
    content = write_capture(tmp_path, **listed)
    for i in (1, 3):
        (tmp_path / f"images/{i}.png").unlink()
    message = r"json: 2 of 4 images are missing, .*option to skip .*: images/1\.png, images/3\.png$"
    refuse(tmp_path, content, message)
    views = read_nerfstudio(tmp_path, skip_missing=True).parts["train"]
    assert views.names == ("images/0", "images/2")
    np.testing.assert_array_equal(views.camera_to_world, random_poses(4)[[0, 2]])
    twice = changed(content, 2, file_path="images/0.png")
    refuse(tmp_path, twice, r"frame 2 .*: has the image of frame 0, expected", skip_missing=True)
    for i in (0, 2):
        (tmp_path / f"images/{i}.png").unlink()
    refuse(tmp_path, content, r"4 of 4 images are missing", skip_missing=True)


def test_another_name_of_the_file(tmp_path):
    write_capture(tmp_path)
    (tmp_path / FILE).rename(tmp_path / "other.json")
    assert len(read_nerfstudio(tmp_path / "other.json", every=0).parts["train"]) == 4
    with pytest.raises(InputError, match=r": no transforms\.json, expected one"):
        read_nerfstudio(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        read_nerfstudio(tmp_path / "nowhere")


def test_faults_of_the_file_and_of_its_cameras(tmp_path):
    good = write_capture(tmp_path)
    plain = {key: value for key, value in good.items() if not key.startswith("fl_")}
    where = r"json: frame 0 \(images/0\.png\): "
    for key in ("fl_x", "fl_y", "cx", "cy", "w", "h", "camera_angle_x", "camera_angle_y"):
        half = changed(changed(good, 0, **{key: 12.0}), 2, **{key: 12.0})
        refuse(
            tmp_path, half, rf"frame 1 \(images/1\.png\): no {key}, expected one as other frames"
        )
    mixed = plain
    for i in range(4):
        fisheye = {"camera_model": "OPENCV_FISHEYE"} if i == 2 else {}
        mixed = changed(mixed, i, fl_x=9.0, **fisheye)
    for content, message in (
        ("{", r"json: not JSON \("),
        ([], r"json: JSON of a list, expected an object"),
        (good | {"frames": []}, r"json: frames is empty, expected a list"),
        (plain, where + "no focal length, expected fl_x or camera_angle_x"),
        (good | {"fl_x": 0}, where + r"focal is \[0\.0, 21\.0\], expected numbers > 0"),
        (good | {"fl_x": 1e-300}, where + r"focal is \[1e-300, 21\.0\], expected numbers > 0"),
        (good | {"fl_x": 1e300}, where + r"focal is \[1e\+300, 21\.0\], expected finite numb"),
        (good | {"fl_x": -3}, where + r"focal is \[-3\.0, 21\.0\], expected numbers > 0"),
        (good | {"fl_x": "20"}, where + r"fl_x is '20', expected a finite number"),
        (good | {"cx": math.nan}, where + r"cx is nan, expected a finite number"),
        (good | {"k1": math.inf}, where + r"k1 is inf, expected a finite number"),
        (plain | {"camera_angle_x": 3.2}, where + r"camera_angle_x is 3\.2, expected an angle"),
        (good | {"camera_model": "PIN"}, where + r"camera_model is 'PIN', expected one of EQUI"),
        (good | {"camera_model": ["OPENCV"]}, where + r"camera_model is \['OPENCV'\], expected"),
        (good | {"k4": 0.1}, where + r"k4 is 0\.1, expected 0 of OPENCV"),
        (good | {"p1": 0.1, "is_fisheye": True}, where + r"p1 is 0\.1, expected 0 of OPENCV_FISH"),
        (good | {"w": 15}, where + r".*0\.png has 12 x 16 pixels, expected 12 x 15 .* as is sta"),
        (good | {"w": 15.5}, where + r"w and h are 15\.5 and 12, expected whole numbers"),
        (
            good | {"depth_unit_scale_factor": 0},
            r"json: depth_unit_scale_factor is 0\.0, expected a number > 0",
        ),
        (good | {"frames": good["frames"][:1]}, r"json: 1 view, expected 2 or more to hold one"),
        (mixed, r"json: cameras are of the models PINHOLE and OPENCV_FISHEYE, expected models of"),
    ):
        refuse(tmp_path, content, message)
    save(tmp_path, good)
    for near, far in ((3.0, 2.0), (2.0, 2.0), (-1.0, 2.0)):
        with pytest.raises(InputError, match=rf"near and far are {near} and {far}, expected 0 <="):
            read_nerfstudio(tmp_path, near=near, far=far)


def test_faults_of_a_frame_name_it(tmp_path):
    good = write_capture(tmp_path)
    write_image(tmp_path / "black.png", np.zeros(SHAPE, np.uint8))
    write_image(tmp_path / "small.png", np.ones((3, 4), np.uint8))
    (tmp_path / "text.png").write_bytes(b"no image")
    turned, nan, huge = (np.eye(4) for _ in range(3))
    turned[0, 1], nan[2, 3], huge[2, 3] = 0.1, np.nan, 1e300
    where = r"json: frame 1 \(images/1\.png\): "

    def of_all(**files: str) -> dict:
        content = good
        for i in range(4):
            content = changed(content, i, **{key: f"{name}.png" for key, name in files.items()})
        return content

    for content, message in (
        (changed(good, 1, file_path="../x.png"), r"frame 1 .*expected a path inside the folder"),
        (changed(good, 1, file_path="/x.png"), r"frame 1 .*expected a path inside the folder"),
        (changed(good, 1, file_path=None), r"frame 1: file_path is missing, expected a path"),
        (changed(good, 1, file_path="images/0.png"), r"frame 1 .*: has the image of frame 0, exp"),
        (changed(good, 1, file_path="text.png"), r"frame 1 \(text\.png\): .*text\.png: not a read"),
        (changed(good, 1, file_path="small.png"), r"frame 1 .*small\.png has 3 x 4 pixels, expec"),
        (changed(good, 1, transform_matrix=turned.tolist()), where + r".* expected a rotation"),
        (changed(good, 1, transform_matrix=nan.tolist()), where + r"the camera's matrix is not fi"),
        (
            changed(good, 1, transform_matrix=huge.tolist()),
            where + r"the camera's matrix is not fi",
        ),
        (changed(good, 1, transform_matrix=None), where + r"transform_matrix is missing"),
        (changed(good, 0, mask_path="black.png"), where + r"no mask, expected one, as other frame"),
        (changed(good, 0, depth_file_path="black.png"), where + r"no depth, expected one, as othe"),
        (changed(good, 0, mask_path="../x"), r"frame 0: .*|frame 0 .*mask_path is '\.\./x', expe"),
        (of_all(mask_path="black"), r"frame 0 .*black\.png leaves no pixel, expected a mask with"),
        (of_all(mask_path="small"), r"frame 0 .*small\.png: a mask of 3 x 4 pixels, expected 12"),
        (of_all(mask_path="gone"), r"frame 0 .*: no mask .*gone\.png, expected a file"),
        (of_all(mask_path="text"), r"frame 0 .*text\.png: not a readable image"),
        (of_all(depth_file_path="small"), r"frame 0 .*small\.png: a depth of 3 x 4 pixels, expec"),
    ):
        refuse(tmp_path, content, message)


def test_faults_of_what_is_to_be_written(tmp_path):
    scene = random_scene()
    train = scene.parts["train"]
    fifth = random_lens("FULL_OPENCV", 7)
    for changes, message in (
        ({"intrinsics": random_lens("FOV", 7)}, r"^random, train: cameras of the model FOV, expec"),
        ({"intrinsics": fifth}, r"camera 0 has k4, k5 or k6 of FULL_OPENCV, expected 0"),
        ({"names": ("../a", *train.names[1:])}, r"^random: a view is named '\.\./a', expected a p"),
    ):
        parts = scene.parts | {"train": dataclasses.replace(train, **changes)}
        with pytest.raises(InputError, match=message):
            write_nerfstudio(tmp_path / "s", dataclasses.replace(scene, parts=parts))
    assert not list(tmp_path.iterdir())


def focal_of(scene: Scene) -> list[float]:
    return scene.parts["train"].intrinsics.focal[0].tolist()


def test_fox(data_folder, tmp_path):
    folder = data_folder / "nerf_fox"
    scene = read_nerfstudio(folder, size=96)
    assert {part: len(views) for part, views in scene.parts.items()} == {"train": 43, "test": 7}
    train = scene.parts["train"]
    assert train.images.shape == (43, 96, 54, 3)
    assert train.intrinsics.model == "OPENCV"
    stated = json.loads((folder / FILE).read_text())
    np.testing.assert_allclose(focal_of(scene), [stated["fl_x"] / 20, stated["fl_y"] / 20])
    np.testing.assert_allclose(train.intrinsics.centre[0], [stated["cx"] / 20, stated["cy"] / 20])
    np.testing.assert_array_equal(
        train.intrinsics.distortion[0], [stated[key] for key in ("k1", "k2", "p1", "p2")]
    )
    published = folder / "transforms_upstream_67_frames.json"
    with pytest.raises(InputError, match=r"json: 17 of 67 images are missing") as error:
        read_nerfstudio(published, size=96)
    assert str(error.value).count(".jpg") == 17
    again = read_nerfstudio(published, size=96, skip_missing=True)
    for part, views in scene.parts.items():
        assert_same_views(views, again.parts[part])
