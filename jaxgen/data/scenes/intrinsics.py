"""What cameras are beside their places: focal lengths, centres and distortions, by model.

Models and the order of their parameters are in `jaxgen.camera_models`. Places in an image are
counted in pixels from its upper left corner, so that the middle of a width of W is W / 2.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float64

from jaxgen.camera_models import CAMERA_MODELS
from jaxgen.errors import InputError

WIDER = (
    ("SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "FULL_OPENCV"),
    (
        *("SIMPLE_FISHEYE", "FISHEYE", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE"),
        *("OPENCV_FISHEYE", "THIN_PRISM_FISHEYE"),
    ),
    ("SIMPLE_DIVISION", "DIVISION"),
)
"""Models of which a later one says all that an earlier one does, where further numbers are 0."""

FLOAT32 = np.finfo(np.float32)
"""What programs compute with."""


@dataclass(frozen=True, eq=False)
class Intrinsics:
    """Of N cameras of one model, float64.

    Attributes:
      focal: [N, 2], fx and fy, in pixels (per radian of equirectangular cameras, per unit of length
        of orthographic ones).
      centre: [N, 2], cx and cy of the principal point, in pixels.
      distortion: [N, K], the model's further parameters.
      model: its name.
    """

    focal: Float64[np.ndarray, "N 2"]
    centre: Float64[np.ndarray, "N 2"]
    distortion: Float64[np.ndarray, "N K"]
    model: str = "PINHOLE"

    def __len__(self) -> int:
        return len(self.focal)

    def take(self, index: Sequence[int] | slice) -> "Intrinsics":
        """Those of some cameras."""
        return Intrinsics(self.focal[index], self.centre[index], self.distortion[index], self.model)

    def scaled(self, x: float, y: float) -> "Intrinsics":
        """Those of the same cameras, whose images have x and y times the width and the height."""
        return replace(self, focal=self.focal * (x, y), centre=self.centre * (x, y))

    def parameters(self, i: int) -> list[float]:
        """Camera i's, in COLMAP's order; of two focal lengths where the model has one, the first.

        The two parameters of an equirectangular camera are the sides of its images.
        """
        focals = CAMERA_MODELS[self.model].focals
        if not focals:
            return (2 * self.centre[i]).tolist()
        return [*self.focal[i, :focals], *self.centre[i], *self.distortion[i]]


def pinholes(count: int, focal: Sequence[float] | float, centre: Sequence[float]) -> Intrinsics:
    """Of equal pinhole cameras.

    Args:
      count: How many.
      focal: fx and fy, or one number for both.
      centre: cx and cy.
    """
    pair, middle = (np.broadcast_to(np.asarray(x, float), (count, 2)) for x in (focal, centre))
    return Intrinsics(pair, middle, np.zeros((count, 0)))


def from_parameters(model: str, parameters: Sequence[float]) -> Intrinsics:
    """Of one camera, from a list in COLMAP's order.

    Args:
      model: Its name.
      parameters: As many as it has.

    Raises:
      InputError: There is no such model, or it has another number of parameters.
    """
    if model not in CAMERA_MODELS:
        raise InputError(f"camera model {model!r}, expected one of {', '.join(CAMERA_MODELS)}")
    known, values = CAMERA_MODELS[model], np.asarray(parameters, float)
    if len(values) != known.parameters:
        raise InputError(f"{len(values)} parameters of {model}, expected {known.parameters}")
    if not known.focals:  # the sides of an image that shows the whole sphere
        return Intrinsics(
            (values / (2 * np.pi, np.pi))[None], (values / 2)[None], np.zeros((1, 0)), model
        )
    focal, (centre, distortion) = values[: known.focals], np.split(values[known.focals :], [2])
    pair = np.broadcast_to(focal, 2)
    return Intrinsics(pair[None], centre[None], distortion[None], model)


def join_intrinsics(cameras: Sequence[Intrinsics], where: str) -> Intrinsics:
    """Those of several cameras as one, of a model that says what each of theirs does.

    Args:
      cameras: 1 or more.
      where: What an error begins with.

    Raises:
      InputError: There is no such model.
    """
    models = [camera.model for camera in cameras]
    model = _widest(list(dict.fromkeys(models)), where)
    parts = [_widened(camera, model) for camera in cameras]
    focal, centre, distortion = (
        np.concatenate([getattr(part, name) for part in parts])
        for name in ("focal", "centre", "distortion")
    )
    return Intrinsics(focal, centre, distortion, model)


def _widest(models: list[str], where: str) -> str:
    if len(models) == 1:
        return models[0]
    for family in WIDER:
        if set(models) <= set(family):
            return max(models, key=family.index)
    raise InputError(
        f"{where}: cameras are of the models {' and '.join(models)}, expected models of which one"
        f" says what the others do: {'; or '.join(', '.join(family) for family in WIDER)}"
    )


def with_own_focals(camera: Intrinsics) -> Intrinsics:
    """The same cameras, of a model with two focal lengths where fx and fy differ."""
    if CAMERA_MODELS[camera.model].focals != 1 or (camera.focal[:, 0] == camera.focal[:, 1]).all():
        return camera
    family = next(family for family in WIDER if camera.model in family)
    wider = family[family.index(camera.model) :]
    return _widened(camera, next(model for model in wider if CAMERA_MODELS[model].focals == 2))


def _widened(camera: Intrinsics, model: str) -> Intrinsics:
    names = ["k1" if name == "k" else name for name in CAMERA_MODELS[camera.model].distortion]
    wide = ["k1" if name == "k" else name for name in CAMERA_MODELS[model].distortion]
    distortion = np.zeros((len(camera), len(wide)))
    distortion[:, [wide.index(name) for name in names]] = camera.distortion
    return Intrinsics(camera.focal, camera.centre, distortion, model)


def intrinsics_fault(intrinsics: Intrinsics, i: int) -> str:
    """What is wrong with a camera's numbers, in words; empty where nothing is."""
    for name in ("focal", "centre", "distortion"):
        values = getattr(intrinsics, name)[i]
        if not (np.abs(values) <= FLOAT32.max).all():
            return f"{name} is {values.tolist()}, expected finite numbers in float32"
    if not (intrinsics.focal[i] >= FLOAT32.tiny).all():
        return f"focal is {intrinsics.focal[i].tolist()}, expected numbers > 0 in float32"
    return ""
