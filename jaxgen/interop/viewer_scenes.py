"""What the viewer shows (`jaxgen.interop.scene_viewer`): meshes, points and splats as arrays.

Gaussian splats are N Gaussians in space with a colour and an opacity each. A covariance is given as
such, or as scales s and a rotation R, the quaternion (w, x, y, z): R diag(s)^2 R^T.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Shaped, UInt8

from jaxgen.errors import InputError
from jaxgen.interop.mesh_files import Mesh, check_surface

UPPER = (0, 0, 0, 1, 1, 2), (0, 1, 2, 1, 2, 2)
"""Row and column of the numbers xx, xy, xz, yy, yz, zz of a covariance."""

Kind = Literal["mesh", "points", "splats", "orbit"]


@dataclass(frozen=True, eq=False)
class ColouredPoints:
    """N points.

    Attributes:
      positions_N3: (x, y, z).
      colours_N3: red, green, blue of 0 to 255 in sRGB.
    """

    positions_N3: Float[np.ndarray, "N 3"]
    colours_N3: UInt8[np.ndarray, "N 3"]


@dataclass(frozen=True, eq=False)
class GaussianSplats:
    """N Gaussians; with covariances, or with scales and quaternions.

    Attributes:
      positions_N3: their middles.
      colours_N3: red, green, blue in [0, 1] in sRGB; what is beyond is cut off.
      opacities_N: in [0, 1].
      covariances_N33: symmetric, or None.
      scales_N3: standard deviations along the axes of each, or None.
      quaternions_N4: (w, x, y, z) of the rotation of these axes, of any length above 0, or None.
    """

    positions_N3: Float[np.ndarray, "N 3"]
    colours_N3: Float[np.ndarray, "N 3"]
    opacities_N: Float[np.ndarray, "N"]
    covariances_N33: Float[np.ndarray, "N 3 3"] | None = None
    scales_N3: Float[np.ndarray, "N 3"] | None = None
    quaternions_N4: Float[np.ndarray, "N 4"] | None = None


class Shown(NamedTuple):
    """What a page draws.

    Attributes:
      kind: how.
      size: how many faces, points or splats.
      arrays: by name, of the types float32, uint32 and uint8.
      texture: of a mesh, or None.
      centre: what the camera turns around.
      radius: of the sphere around it that the camera sees first.
    """

    kind: Kind
    size: int
    arrays: Mapping[str, Shaped[np.ndarray, "..."]]
    texture: UInt8[np.ndarray, "Y X C"] | None
    centre: Float[np.ndarray, "3"]
    radius: float


def shown_mesh(mesh: Mesh) -> Shown:
    """A mesh with the colours of its vertices, or with a texture.

    Raises:
      InputError: as `check_surface`, or for texture coordinates or a texture of another shape.
    """
    check_surface(mesh)
    arrays: dict[str, np.ndarray] = {
        "positions": mesh.vertices_V3.astype(np.float32),
        "faces": mesh.faces_F3.astype(np.uint32),
    }
    if mesh.colours_V3 is not None:
        arrays["colours"] = mesh.colours_V3.astype(np.uint8)
    uv_V2, texture = getattr(mesh, "uv_V2", None), getattr(mesh, "texture", None)
    if uv_V2 is not None and texture is not None:
        _check("mesh: uv", uv_V2, (len(mesh.vertices_V3), 2))
        arrays["uv"] = np.asarray(uv_V2, np.float32)
    else:
        texture = None
    low, high = mesh.vertices_V3.min(axis=0), mesh.vertices_V3.max(axis=0)
    return Shown("mesh", len(mesh.faces_F3), arrays, texture, *_sphere(low, high))


def shown_points(points: ColouredPoints) -> Shown:
    """Points with their colours.

    Raises:
      InputError: for no points, another shape or type, or numbers that are not finite.
    """
    count = len(points.positions_N3)
    _check("points: positions", points.positions_N3, (count, 3))
    if points.colours_N3.dtype != np.uint8:
        raise InputError(f"points: colours are {points.colours_N3.dtype}, expected uint8")
    _check("points: colours", points.colours_N3, (count, 3))
    arrays = {
        "positions": np.asarray(points.positions_N3, np.float32),
        "colours": np.asarray(points.colours_N3),
    }
    return Shown("points", count, arrays, None, *_sphere(*_middle_range(points.positions_N3)))


def shown_splats(splats: GaussianSplats) -> Shown:
    """Splats with covariances of six numbers, and colour and opacity as four bytes.

    Raises:
      InputError: for no splats, another shape, numbers that are not finite, opacities that are not
        in [0, 1], or neither covariances nor both scales and quaternions.
    """
    count = len(splats.positions_N3)
    _check("splats: positions", splats.positions_N3, (count, 3))
    _check("splats: colours", splats.colours_N3, (count, 3))
    _check("splats: opacities", splats.opacities_N, (count,))
    if splats.opacities_N.min() < 0 or splats.opacities_N.max() > 1:
        raise InputError(
            f"splats: opacities are in [{splats.opacities_N.min():g}, {splats.opacities_N.max():g}]"
            ", expected them in [0, 1]"
        )
    covariances_N33 = covariances(splats)
    colours_N4 = np.concatenate([splats.colours_N3, splats.opacities_N[:, None]], axis=1)
    arrays = {
        "positions": np.asarray(splats.positions_N3, np.float32),
        "covariances": covariances_N33[:, UPPER[0], UPPER[1]].astype(np.float32),
        "colours": np.rint(np.clip(colours_N4, 0, 1) * 255).astype(np.uint8),
    }
    return Shown("splats", count, arrays, None, *_sphere(*_middle_range(splats.positions_N3)))


def covariances(splats: GaussianSplats) -> Float[np.ndarray, "N 3 3"]:
    """The covariances of splats, whichever way they are given.

    Raises:
      InputError: for another shape, numbers that are not finite, a quaternion of length 0, or if
        there are neither covariances nor both scales and quaternions.
    """
    count = len(splats.positions_N3)
    if splats.covariances_N33 is not None:
        _check("splats: covariances", splats.covariances_N33, (count, 3, 3))
        return splats.covariances_N33
    if splats.scales_N3 is None or splats.quaternions_N4 is None:
        raise InputError("splats have no covariances, expected them, or scales and quaternions")
    _check("splats: scales", splats.scales_N3, (count, 3))
    _check("splats: quaternions", splats.quaternions_N4, (count, 4))
    length_N1 = np.linalg.norm(splats.quaternions_N4, axis=1, keepdims=True)
    if not length_N1.all():
        raise InputError(
            f"splats: quaternion {int(length_N1.argmin())} is 0, expected a length above 0"
        )
    half_N33 = quaternion_matrices(splats.quaternions_N4 / length_N1) * splats.scales_N3[:, None, :]
    return half_N33 @ half_N33.swapaxes(1, 2)


def quaternion_matrices(quaternions_N4: Float[np.ndarray, "N 4"]) -> Float[np.ndarray, "N 3 3"]:
    """Rotation matrices of quaternions (w, x, y, z) of length 1."""
    w, x, y, z = quaternions_N4.T
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.moveaxis(np.array(rows), -1, 0)


def _check(name: str, values: Any, shape: tuple[int, ...]) -> None:
    array = np.asarray(values)
    if array.shape != shape or not len(array):
        expected = f"{list(shape)}, 1 or more" if not len(array) else f"{list(shape)}"
        raise InputError(f"{name} have shape {list(array.shape)}, expected {expected}")
    finite_N = np.isfinite(array.reshape(len(array), -1)).all(axis=1)
    if not finite_N.all():
        first = int(finite_N.argmin())
        raise InputError(
            f"{name}: number {first} is {array[first].tolist()}, expected finite numbers"
        )


def _middle_range(positions_N3: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A box without the outermost twentieth of positions along each axis: few are far away."""
    low, high = np.percentile(positions_N3, [2.5, 97.5], axis=0)
    return low, high


def _sphere(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, float]:
    """Middle and radius of the sphere around a box."""
    radius = float(np.linalg.norm(high - low)) / 2
    return (low + high) / 2, radius if radius > 0 else 1.0
