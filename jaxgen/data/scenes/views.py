"""Photographs of one scene from known places: `Views` of one part, and a `Scene` of all parts.

A camera has the axes of OpenGL: x to the right of the image, y up, z back, away from what is seen.
Its matrix takes them to the world: a pinhole camera at o = c2w[:, 3] sees, at the point (x, y) of
its image,

    o + t R (x' , -y', -1) / |(x', -y', -1)|,    x' = (x - cx) / fx,  y' = (y - cy) / fy,

with R = c2w[:, :3] and t the distance along the ray; of other models see `jaxgen.nerf.projection`.
Points of an image are counted in pixels from its upper left corner, so the pixel in column i and
row j has its centre at (i + .5, j + .5), and the middle of an image of width W is W / 2.

A scene may be moved, turned and scaled to be modelled (`jaxgen.data.scenes.recentring`). How is
kept beside it, so that what is made of it can leave in the units of its files.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Float32, Shaped, UInt8, UInt16

from jaxgen.data.scenes.intrinsics import Intrinsics, intrinsics_fault
from jaxgen.data.scenes.similarity import IDENTITY, Similarity
from jaxgen.data.text.corpus import PARTS
from jaxgen.errors import InputError

ROTATION_TOLERANCE = 1e-3
"""How far R^T R may be from the identity, and the determinant of R from 1."""

LARGEST = float(np.finfo(np.float32).max)
"""Of the numbers of a camera's place."""

Corner = tuple[float, float, float]

WIDE_NEAR, WIDE_FAR = 0.1, 100.0
UNIT_BOX: tuple[Corner, Corner] = ((-1.0, -1.0, -1.0), (1.0, 1.0, 1.0))
"""Distances and box of captures whose files do not say."""


@dataclass(frozen=True, eq=False)
class Views:
    """Photographs of one size by cameras of one model; checked where a `Scene` takes them.

    Attributes:
      names: What the views are called, [N], often paths of files without a suffix.
      images: uint8 or uint16 [N, Y, X, C], C = 3 (red, green, blue) or 4 (with straight alpha);
        `unit_colours` makes them numbers in [0, 1].
      camera_to_world: float32 [N, 3, 4], a rotation and the camera's place, in world units.
      intrinsics: of the N cameras.
      depth: float32 [N, Y, X], distances of what is seen at each pixel's centre, in world units;
        inf where there is nothing, nan where it is not known. Or None.
      normals: float32 [N, Y, X, 3], the unit normal of the surface there, in axes of the world;
        zero where the ray meets nothing. Or None.
      masks: bool [N, Y, X], whether a pixel counts. None: all do.
      depth_along: what depth is measured along: the pixel's "ray", or the camera's "axis".
    """

    names: tuple[str, ...]
    images: UInt8[np.ndarray, "N Y X C"] | UInt16[np.ndarray, "N Y X C"]
    camera_to_world: Float32[np.ndarray, "N 3 4"]
    intrinsics: Intrinsics
    depth: Float32[np.ndarray, "N Y X"] | None = None
    normals: Float32[np.ndarray, "N Y X 3"] | None = None
    masks: Bool[np.ndarray, "N Y X"] | None = None
    depth_along: Literal["ray", "axis"] = "ray"

    def take(self, index: Sequence[int]) -> "Views":
        """Some of the views."""
        some = list(index)
        depth, normals, masks = (
            None if x is None else x[some] for x in (self.depth, self.normals, self.masks)
        )
        return Views(
            tuple(self.names[i] for i in some),
            self.images[some],
            self.camera_to_world[some],
            self.intrinsics.take(some),
            depth,
            normals,
            masks,
            self.depth_along,
        )

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True, eq=False)
class Scene:
    """Views of one scene in named parts, and the space that is to be modelled.

    Attributes:
      name: What the scene is called in tables and errors, often its path.
      parts: "train" and where there are any "validation" and "test" -> their views.
      near: The distance from a camera at which its rays begin, in world units.
      far: The distance at which they end.
      box: The low and the high corner of what is to be modelled, in world units.
      to_files: From this world to that of the files that the scene comes from.
      bounded: Whether all that is seen is in the box; else the box holds the middle of it.
      applied: From the world that the files were made of (COLMAP's) to theirs, where they say it.

    Raises:
      InputError: Of the parts, arrays or numbers one cannot be used; the message names the scene,
        the part, and where it is one view's the view.
    """

    name: str
    parts: Mapping[str, Views]
    near: float
    far: float
    box: tuple[Corner, Corner]
    to_files: Similarity = IDENTITY
    bounded: bool = True
    applied: Similarity | None = None

    def __post_init__(self):
        if not 0 <= self.near < self.far < math.inf:
            raise InputError(
                f"{self.name}: near and far are {self.near} and {self.far}, expected"
                " 0 <= near < far"
            )
        _check_box(self.name, self.box)
        if "train" not in self.parts or not set(self.parts) <= set(PARTS):
            raise InputError(
                f"{self.name}: parts are {', '.join(self.parts) or 'none'}, expected train, and"
                " beside it validation or test"
            )
        for part, views in self.parts.items():
            _check_views(f"{self.name}, {part}", views)

    def part(self, name: str) -> Views:
        """The views of one part.

        Raises:
          InputError: There is no part of this name.
        """
        if name not in self.parts:
            raise InputError(f"{self.name}: no part {name}, only {', '.join(self.parts)}")
        return self.parts[name]

    def describe(self) -> str:
        """Name, sizes, cameras, distances and box on one line, for a log."""
        parts = ", ".join(f"{name} {len(views):,}" for name, views in self.parts.items())
        train = self.parts["train"]
        shape = "x".join(map(str, train.images.shape[1:]))
        low, high = ("(" + ", ".join(f"{c:g}" for c in corner) + ")" for corner in self.box)
        return (
            f"{self.name}: {sum(map(len, self.parts.values())):,} views of {shape} ({parts}),"
            f" {train.intrinsics.model} with focal {train.intrinsics.focal[0, 0]:.1f}, distances"
            f" {self.near:g} to {self.far:g}, box {low} to {high}"
        )


def unit_colours(images: Any) -> Any:
    """Images of numpy or JAX as float32 in [0, 1], over the largest value of their type.

    Args:
      images: uint8 or uint16.

    Raises:
      InputError: They have another type.
    """
    if images.dtype not in (np.uint8, np.uint16):
        raise InputError(f"images are {images.dtype}, expected uint8 or uint16")
    return images.astype(np.float32) / np.float32(np.iinfo(images.dtype).max)


def over_background(
    images: UInt8[np.ndarray, "*shape C"] | UInt16[np.ndarray, "*shape C"],
    background: Float[np.ndarray, "..."] | float,
) -> Float32[np.ndarray, "*shape 3"]:
    """Images laid over a background: rgb a + (1 - a) background, in sRGB values as stored.

    Args:
      images: Red, green, blue, and where C is 4 straight alpha.
      background: In [0, 1]: one grey, a colour [3], or colours that broadcast to [..., 3].

    Returns:
      Colours in [0, 1]; without alpha those of the images.

    Raises:
      InputError: C is neither 3 nor 4, or the background is not in [0, 1].
    """
    if images.shape[-1] not in (3, 4):
        raise InputError(f"images are {list(images.shape)}, expected [..., 3] or [..., 4]")
    behind = np.asarray(background, np.float32)
    if not ((behind >= 0) & (behind <= 1)).all():
        raise InputError(f"background is {background}, expected colours in [0, 1]")
    unit = unit_colours(images)
    if images.shape[-1] == 3:
        return unit
    alpha = unit[..., 3:]
    return unit[..., :3] * alpha + (1 - alpha) * behind


def pose_fault(camera_to_world: Float[np.ndarray, "3 4"]) -> str:
    """What is wrong with a camera's matrix, in words; empty where nothing is."""
    if not (np.abs(camera_to_world) <= LARGEST).all():
        return "the camera's matrix is not finite in float32, expected finite numbers"
    rotation = camera_to_world[:, :3].astype(np.float64)
    error = np.abs(rotation.T @ rotation - np.eye(3)).max()
    determinant = np.linalg.det(rotation)
    if error <= ROTATION_TOLERANCE and abs(determinant - 1) <= ROTATION_TOLERANCE:
        return ""
    return (
        f"the camera's axes are {error:.2g} from orthonormal, with determinant {determinant:.4g},"
        " expected a rotation, with determinant 1"
    )


def _check_box(name: str, box: tuple[Corner, Corner]) -> None:
    corners = np.asarray(box, np.float64)
    if (
        corners.shape != (2, 3)
        or not np.isfinite(corners).all()
        or (corners[0] >= corners[1]).any()
    ):
        raise InputError(
            f"{name}: box is {box}, expected a low corner and a high one, of 3 numbers"
        )


def _check_views(where: str, views: Views) -> None:
    shape, dtype = views.images.shape, views.images.dtype
    if len(shape) == 4 and not shape[0]:
        raise InputError(f"{where}: no views, expected 1 or more")
    if (
        dtype not in (np.uint8, np.uint16)
        or len(shape) != 4
        or shape[-1] not in (3, 4)
        or not np.prod(shape)
    ):
        raise InputError(
            f"{where}: images are {dtype} {list(shape)}, expected uint8 or uint16 [N, Y, X, C]"
            " with Y and X of 1 or more and C of 3 or 4"
        )
    _check_names(where, views)
    _check_array(where, "camera_to_world", views.camera_to_world, (shape[0], 3, 4))
    _check_array(where, "depth", views.depth, shape[:3])
    _check_array(where, "normals", views.normals, (*shape[:3], 3))
    if len(views.intrinsics) != len(views):
        raise InputError(
            f"{where}: intrinsics of {len(views.intrinsics)} cameras, expected {len(views)}"
        )
    _check_masks(where, views)
    for i, name in enumerate(views.names):
        fault = pose_fault(views.camera_to_world[i]) or intrinsics_fault(views.intrinsics, i)
        if not fault and views.depth is not None and (views.depth[i] <= 0).any():
            fault = (
                "depth is 0 or less, expected distances > 0, inf where nothing is, nan where it is"
                " not known"
            )
        if not fault and views.masks is not None and not views.masks[i].any():
            fault = "the mask leaves no pixel, expected some that count"
        if fault:
            raise InputError(f"{where}: view {i} ({name}): {fault}")


def _check_masks(where: str, views: Views) -> None:
    masks, shape = views.masks, views.images.shape[:3]
    if masks is not None and (masks.dtype != bool or masks.shape != shape):
        raise InputError(
            f"{where}: masks are {masks.dtype} {list(masks.shape)}, expected bool {list(shape)}"
        )


def _check_names(where: str, views: Views) -> None:
    if len(views.names) != len(views):
        raise InputError(f"{where}: {len(views.names)} names, expected {len(views)}, one per image")
    if len(set(views.names)) < len(views):
        twice = next(name for name in views.names if views.names.count(name) > 1)
        raise InputError(f"{where}: two views are named {twice}, expected different names")


def _check_array(
    where: str, field: str, array: Shaped[np.ndarray, "..."] | None, shape: tuple[int, ...]
) -> None:
    if array is not None and (array.dtype != np.float32 or array.shape != shape):
        raise InputError(
            f"{where}: {field} is {array.dtype} {list(array.shape)}, expected float32 {list(shape)}"
        )
