"""The front door for scenes."""

import numpy as np
import pytest

from jaxgen.data.scenes.analytic_scene import make_analytic_scene
from jaxgen.data.scenes.blender import write_blender
from jaxgen.data.scenes.load_scene import load_scene
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


def test_what_is_no_scene(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"legos: no such scene or folder; scenes are 'sha"):
        load_scene("legos")
    (tmp_path / "file").write_text("x")
    with pytest.raises(FileNotFoundError, match="file: not a folder; scenes are 'shapes', or a"):
        load_scene(tmp_path / "file")
    with pytest.raises(
        InputError, match=r": none of transforms_train\.json, transforms\.json, poses_b"
    ):
        load_scene(tmp_path)
    with pytest.raises(InputError, match="size is 0"):
        load_scene(size=0)
