"""Lists of parameters, cameras of several models as one, other sizes."""

import numpy as np
import pytest
from captures import random_lens

from jaxgen.camera_models import CAMERA_MODELS
from jaxgen.data.scenes.intrinsics import (
    WIDER,
    Intrinsics,
    from_parameters,
    intrinsics_fault,
    join_intrinsics,
    pinholes,
    with_own_focals,
)
from jaxgen.errors import InputError


def named(lens: Intrinsics, i: int = 0) -> dict[str, float]:
    """Distortion by name; what is 0 is left out."""
    names = ["k1" if name == "k" else name for name in CAMERA_MODELS[lens.model].distortion]
    return {name: x for name, x in zip(names, lens.distortion[i], strict=True) if x}


def test_parameters_are_in_the_order_of_colmap():
    lens = from_parameters("SIMPLE_RADIAL", [400, 320, 240, 0.1])
    np.testing.assert_array_equal(lens.focal, [[400, 400]])
    np.testing.assert_array_equal(lens.centre, [[320, 240]])
    np.testing.assert_array_equal(lens.distortion, [[0.1]])
    lens = from_parameters("FULL_OPENCV", range(1, 13))
    np.testing.assert_array_equal(lens.focal, [[1, 2]])
    np.testing.assert_array_equal(lens.distortion, [range(5, 13)])
    assert named(lens)["k6"] == 12
    sphere = from_parameters("EQUIRECTANGULAR", [100, 50])
    np.testing.assert_allclose(sphere.focal, [[50 / np.pi] * 2], rtol=1e-15)
    np.testing.assert_array_equal(sphere.centre, [[50, 25]])
    for model, known in CAMERA_MODELS.items():
        values = np.arange(1.0, known.parameters + 1)
        assert from_parameters(model, values).parameters(0) == pytest.approx(values, rel=1e-15)


def test_other_sizes_and_some_of_the_cameras():
    lens = random_lens("OPENCV", 4)
    small = lens.scaled(0.5, 0.25)
    np.testing.assert_allclose(small.focal, lens.focal * (0.5, 0.25))
    np.testing.assert_allclose(small.centre, lens.centre * (0.5, 0.25))
    np.testing.assert_array_equal(small.distortion, lens.distortion)
    assert len(lens.take([3, 1])) == 2
    np.testing.assert_array_equal(lens.take([3, 1]).focal, lens.focal[[3, 1]])
    np.testing.assert_array_equal(pinholes(2, 5.0, (1.0, 2.0)).focal, [[5, 5]] * 2)


def test_cameras_of_several_models_join_into_the_one_that_says_all():
    """Nothing is lost and nothing added, by the names of the numbers."""
    for family in WIDER:
        for i, wide in enumerate(family):
            lenses = [random_lens(model, 2, seed=i) for model in (wide, *family[: i + 1])]
            joined = join_intrinsics(lenses, "file")
            assert joined.model == wide
            assert len(joined) == 2 * len(lenses)
            for j, lens in enumerate(lenses):
                np.testing.assert_array_equal(joined.focal[2 * j : 2 * j + 2], lens.focal)
                np.testing.assert_array_equal(joined.centre[2 * j : 2 * j + 2], lens.centre)
                for k in range(2):
                    assert named(joined, 2 * j + k) == named(lens, k)


def test_models_that_do_not_join():
    for models in (("OPENCV", "OPENCV_FISHEYE"), ("FOV", "PINHOLE"), ("DIVISION", "RADIAL")):
        pattern = f"^file: cameras are of the models {models[0]} and {models[1]}, expected models"
        with pytest.raises(InputError, match=pattern) as error:
            join_intrinsics([random_lens(model, 1) for model in models], "file")
        assert "\n" not in str(error.value)
    assert join_intrinsics([random_lens("FOV", 1)] * 2, "file").model == "FOV"


def test_two_focal_lengths_where_one_is_not_enough():
    for model, wide in (
        *(("SIMPLE_PINHOLE", "PINHOLE"), ("SIMPLE_RADIAL", "OPENCV"), ("RADIAL", "OPENCV")),
        *(("SIMPLE_FISHEYE", "FISHEYE"), ("RADIAL_FISHEYE", "OPENCV_FISHEYE")),
        *(("SIMPLE_RADIAL_FISHEYE", "OPENCV_FISHEYE"), ("SIMPLE_DIVISION", "DIVISION")),
    ):
        lens = random_lens(model, 2)
        assert with_own_focals(lens) is lens
        found = with_own_focals(lens.scaled(1, 2))
        assert found.model == wide
        np.testing.assert_array_equal(found.focal, lens.focal * (1, 2))
        assert [named(found, i) for i in range(2)] == [named(lens, i) for i in range(2)]
    lens = random_lens("OPENCV", 2)
    assert with_own_focals(lens) is lens


def test_faults():
    with pytest.raises(InputError, match=r"^camera model 'PIN', expected one of SIMPLE_PINHOLE"):
        from_parameters("PIN", [1.0])
    with pytest.raises(InputError, match=r"^3 parameters of PINHOLE, expected 4"):
        from_parameters("PINHOLE", [1.0] * 3)
    lens = random_lens("RADIAL", 2)
    assert intrinsics_fault(lens, 1) == ""
    for focal in (0.0, 1e-300, 1e-45, -1.0):
        lens.focal[1, 1] = focal
        assert intrinsics_fault(lens, 1).startswith("focal is [")
        assert intrinsics_fault(lens, 1).endswith(f"{focal}], expected numbers > 0 in float32")
    lens.focal[1, 1] = 1e300
    assert intrinsics_fault(lens, 1).endswith("1e+300], expected finite numbers in float32")
    lens.focal[1, 1] = 15
    lens.distortion[1, 0] = np.inf
    assert "distortion is [inf," in intrinsics_fault(lens, 1)
    assert intrinsics_fault(lens, 0) == ""
