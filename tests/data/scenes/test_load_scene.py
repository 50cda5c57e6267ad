"""The front door for scenes."""

import numpy as np
import pytest
from captures import random_scene

from jaxgen.data.scenes.analytic_scene import make_analytic_scene
from jaxgen.data.scenes.blender import write_blender
from jaxgen.data.scenes.colmap import write_colmap
from jaxgen.data.scenes.load_scene import load_scene
from jaxgen.data.scenes.nerfstudio import write_nerfstudio
from jaxgen.errors import InputError


def test_by_name_and_by_folder(tmp_path):
    shapes = load_scene("shapes", size=12)
    assert shapes.name == "shapes"
    assert {part: len(views) for part, views in shapes.parts.items()} == {
        **{"train": 60, "validation": 8, "test": 12}
    }
    write_blender(tmp_path / "s", make_analytic_scene(12, (2, 1, 1)))
    read = load_scene(tmp_path / "s")
    made = make_analytic_scene(12, (2, 1, 1))
    for part, views in made.parts.items():
        np.testing.assert_array_equal(read.parts[part].images, views.images)
        np.testing.assert_array_equal(read.parts[part].camera_to_world, views.camera_to_world)
        np.testing.assert_allclose(
            read.parts[part].intrinsics.focal, views.intrinsics.focal, rtol=1e-14
        )
    assert load_scene(str(tmp_path / "s"), size=6).parts["test"].images.shape == (1, 6, 6, 4)


def test_captures_are_recentred(tmp_path):
    """By what is in the folder, and by the path of a file."""
    scene = random_scene()
    write_nerfstudio(tmp_path / "nerfstudio", scene)
    write_colmap(tmp_path / "colmap", scene)
    found = [load_scene(tmp_path / name, size=8) for name in ("nerfstudio", "colmap")]
    found.append(load_scene(tmp_path / "nerfstudio" / "transforms.json", size=8))
    for read in found:
        assert (read.near, read.far, read.box) == (0.05, 100.0, ((-1.0,) * 3, (1.0,) * 3))
        assert not read.bounded
        places = np.concatenate([v.camera_to_world[:, :, 3] for v in read.parts.values()])
        assert np.linalg.norm(places, axis=1).max() == pytest.approx(1, abs=1e-6)
        for part, views in scene.parts.items():
            assert read.parts[part].names == views.names
            assert read.parts[part].images.shape[1:] == (6, 8, 3)
            back = read.to_files.poses(read.parts[part].camera_to_world.astype(float))
            np.testing.assert_allclose(back, views.camera_to_world, atol=2e-6)
    # Parts that a file names stay; every eighth of those that are left is another one.
    for name, file, left in (("nerfstudio", ".", 6), ("colmap", "images", 7)):
        (tmp_path / name / file / "photos/003.png").unlink()
        with pytest.raises(InputError, match=r"1 of 9 images are missing.*photos/003\.png$"):
            load_scene(tmp_path / name)
        assert len(load_scene(tmp_path / name, skip_missing=True).parts["train"]) == left


def test_what_is_no_scene(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"legos: no such scene or folder; scenes are 'sha"):
        load_scene("legos")
    (tmp_path / "file").write_text("x")
    with pytest.raises(FileNotFoundError, match="file: not a folder; scenes are 'shapes', a mesh"):
        load_scene(tmp_path / "file")
    with pytest.raises(
        InputError, match=r": none of transforms_train\.json, transforms\.json, poses_b"
    ):
        load_scene(tmp_path)
    with pytest.raises(InputError, match="size is 0"):
        load_scene(size=0)


def test_options_of_other_formats(tmp_path):
    """What would be ignored is an error."""
    scene = make_analytic_scene(12, (8, 0, 1))
    write_blender(tmp_path / "blender", scene)
    write_nerfstudio(tmp_path / "nerfstudio", scene)
    np.save(tmp_path / "poses_bounds.npy", np.zeros((1, 17)))
    images, missing = {"images": "photos"}, {"skip_missing": True}
    for name, options in (
        ("shapes", images),
        ("shapes", missing),
        (tmp_path / "blender", images),
        (tmp_path / "blender", missing),
        (tmp_path / "nerfstudio", images),
        (tmp_path / "nerfstudio" / "transforms.json", images),
        (tmp_path, missing),
    ):
        message = "images is photos, expected none" if options is images else "skip_missing is set"
        with pytest.raises(InputError, match=rf"^{name}: {message}"):
            load_scene(name, size=12, **options)


def test_all_cameras_in_one_place(tmp_path):
    scene = random_scene()
    for views in scene.parts.values():
        views.camera_to_world[:, :, :3] = np.eye(3)
        views.camera_to_world[:, :, 3] = 1
    write_nerfstudio(tmp_path / "s", scene)
    with pytest.raises(InputError, match=r"s: all 9 cameras are in one place, expected two"):
        load_scene(tmp_path / "s")
