"""Cameras along paths: around a target, on a spiral in front of a scene, through key poses.

A spiral (Mildenhall et al. 2019, "Local Light Field Fusion") is for captures that face forward. In
the axes of the average pose, with a radius r for each of them, camera n of N is at::

    (r_x cos a, -r_y sin a, -r_z sin(a / 2)),    a = 2 pi turns n / N

and looks at a point on the average pose's axis at the depth ``focus``.

A path through key poses is a Catmull-Rom curve of positions and rotations. From key i on it is,
with the steps s_j = p_(j+1) - p_j and shares b of them that are sums of Catmull-Rom's polynomials::

    p(u) = p_i + b_0 s_(i-1) + b_1 s_i + b_2 s_(i+1)
    R(u) = R_i exp(b_0 w_(i-1)) exp(b_1 w_i) exp(b_2 w_(i+1)),    w_j = log(R_j^T R_(j+1))

(Kim, Kim and Shin 1995), so that both velocities are continuous.
"""

import numpy as np
from jaxtyping import Float

from jaxgen.errors import InputError, check_positive
from jaxgen.nerf.cameras import ArrayLike, Cameras, look_at, make_cameras

CLOSENESS = 0.75
"""Of the inverse depth of focus, the share of the nearest one; the rest is the farthest one's."""


def orbit_cameras(
    count: int,
    *,
    radius: float,
    elevation: float,
    focal: ArrayLike,
    height: int,
    width: int,
    target: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> Cameras:
    """Cameras on a circle around a target, evenly spaced, the first one towards +x; z is up.

    Args:
      count: N.
      radius: distance of the cameras from the target.
      elevation: above the horizon, in degrees, between -90 and 90.
      focal: in pixels, see `make_cameras`.
      height: of the images, in pixels.
      width: of the images, in pixels.
      target: what is in the middle of the images.

    Raises:
      InputError: for no cameras, a radius that is not positive, another elevation, and as
        `make_cameras`.
    """
    _check_count(count)
    if not radius > 0:
        raise InputError(f"radius is {radius}, expected a number > 0")
    if not -90 < elevation < 90:
        raise InputError(f"elevation is {elevation}, expected -90 < elevation < 90 degrees")
    around_N = 2 * np.pi * np.arange(count) / count
    above = np.radians(elevation)
    circle = [np.cos(above) * np.cos(around_N), np.cos(above) * np.sin(around_N)]
    position_N3 = np.stack([*circle, np.full(count, np.sin(above))], axis=-1) * radius + target
    return make_cameras(look_at(position_N3, target), focal, height=height, width=width)


def average_pose(camera_to_world: ArrayLike) -> Float[np.ndarray, "3 4"]:
    """The mean position, with the mean direction back and, across it, the mean one up.

    Raises:
      InputError: for no poses, or directions whose mean is 0 or parallel to the mean one up.
    """
    pose_N34 = _as_poses(camera_to_world)
    back, up = pose_N34[:, :, 2].mean(axis=0), pose_N34[:, :, 1].mean(axis=0)
    right = np.cross(up, back)
    if np.linalg.norm(right) < 1e-6:
        raise InputError(
            "camera_to_world has no mean direction, expected cameras that face one way"
        )
    back, right = (vector / np.linalg.norm(vector) for vector in (back, right))
    return np.stack([right, np.cross(back, right), back, pose_N34[:, :, 3].mean(axis=0)], axis=-1)


def focus_depth(near: float, far: float) -> float:
    """The depth whose inverse is 3/4 of the nearest one's and 1/4 of the farthest one's."""
    check_positive("near", near)
    check_positive("far", far)
    return 1 / (CLOSENESS / near + (1 - CLOSENESS) / far)


def spiral_cameras(
    count: int,
    camera_to_world: ArrayLike,
    *,
    focus: float,
    focal: ArrayLike,
    height: int,
    width: int,
    turns: float = 2.0,
    percentile: float = 90.0,
) -> Cameras:
    """Cameras on a spiral in front of a scene, which look at one point; the module has the curve.

    With whole turns the curve is closed where they are even, so that a video can be repeated.

    Args:
      count: N.
      camera_to_world: the poses of the capture: their average is the spiral's middle.
      focus: depth of the point that is looked at, see `focus_depth`.
      focal: in pixels, see `make_cameras`.
      height: of the images, in pixels.
      width: of the images, in pixels.
      turns: around the average pose's axis.
      percentile: the radius along each axis is this percentile of the distances of the capture's
        positions from their mean along it.

    Raises:
      InputError: for no cameras, a focus that is not positive, and as `average_pose`,
        `make_cameras`.
    """
    _check_count(count)
    check_positive("focus", focus)
    if not 0 <= percentile <= 100:
        raise InputError(f"percentile is {percentile}, expected 0 <= percentile <= 100")
    pose_N34 = _as_poses(camera_to_world)
    middle = average_pose(pose_N34)
    turn, centre = middle[:, :3], middle[:, 3]
    radius_3 = np.percentile(np.abs((pose_N34[:, :, 3] - centre) @ turn), percentile, axis=0)
    around_N = 2 * np.pi * turns * np.arange(count) / count
    place_N3 = np.stack([np.cos(around_N), -np.sin(around_N), -np.sin(around_N / 2)], axis=-1)
    position_N3 = place_N3 * radius_3 @ turn.T + centre
    target = centre - focus * turn[:, 2]
    poses = look_at(position_N3, target, turn[:, 1])
    return make_cameras(poses, focal, height=height, width=width)


def key_pose_cameras(
    count: int,
    camera_to_world: ArrayLike,
    *,
    focal: ArrayLike,
    height: int,
    width: int,
    closed: bool = False,
) -> Cameras:
    """Cameras on a smooth path through key poses, which takes as long from each key to the next.

    Args:
      count: of cameras, evenly spaced in time from the first key to the last one; of a closed path
        the last camera is as far before the first one as any other.
      camera_to_world: 2 or more key poses, in the order in which they are passed.
      focal: in pixels, see `make_cameras`.
      height: of the images, in pixels.
      width: of the images, in pixels.
      closed: whether the path returns from the last key to the first one.

    Raises:
      InputError: for no cameras, fewer than two keys, and as `make_cameras`.
    """
    _check_count(count)
    key_N34 = _as_poses(camera_to_world)
    if len(key_N34) < 2:
        raise InputError(f"camera_to_world has {len(key_N34)} key poses, expected 2 or more")
    pieces = len(key_N34) if closed else len(key_N34) - 1
    time_N = pieces * np.arange(count) / (count if closed else max(count - 1, 1))
    poses = pose_path(key_N34, time_N, closed)
    return make_cameras(poses, focal, height=height, width=width)


def pose_path(
    key_N34: Float[np.ndarray, "N 3 4"], time_M: Float[np.ndarray, "M"], closed: bool = False
) -> Float[np.ndarray, "M 3 4"]:
    """The poses of the path through key poses, key n at the time n.

    Args:
      key_N34: poses, with rotations.
      time_M: in [0, N - 1], or of a closed path any, with the period N.
      closed: whether the path returns from the last key to the first one.
    """
    count = len(key_N34)
    piece_M = np.floor(time_M).astype(int)
    if not closed:
        piece_M = np.clip(piece_M, 0, count - 2)
    index_MJ = piece_M[:, None] + np.arange(-1, 3)
    index_MJ = index_MJ % count if closed else np.clip(index_MJ, 0, count - 1)
    turn_MJ33, position_MJ3 = key_N34[index_MJ][..., :3], key_N34[index_MJ][..., 3]
    steps_MJ3 = np.diff(position_MJ3, axis=1)
    turns_MJ3 = rotation_vectors(turn_MJ33[:, :-1].swapaxes(-1, -2) @ turn_MJ33[:, 1:])
    if not closed:  # it begins and ends with the velocity of its first and last step
        for vectors in (steps_MJ3, turns_MJ3):
            vectors[piece_M == 0, 0] = vectors[piece_M == 0, 1]
            vectors[piece_M == count - 2, 2] = vectors[piece_M == count - 2, 1]
    shares_MJ = _shares_of_steps(time_M - piece_M)
    position_M3 = position_MJ3[:, 1] + (shares_MJ[..., None] * steps_MJ3).sum(axis=1)
    turn_M33 = turn_MJ33[:, 1]
    for j in range(3):
        turn_M33 = turn_M33 @ rotations_of(shares_MJ[:, j, None] * turns_MJ3[:, j])
    return np.concatenate([turn_M33, position_M3[..., None]], axis=-1)


def _shares_of_steps(u_M: Float[np.ndarray, "M"]) -> Float[np.ndarray, "M J"]:
    """How much of the steps before, of and after its piece a curve has made since the piece began.

    Sums of Catmull-Rom's polynomials. Velocities are half of the first two steps at u = 0 and half
    of the last two at u = 1.
    """
    before = u_M * (1 - u_M) ** 2
    own = u_M * (1 + 3 * u_M - 2 * u_M**2)
    after = u_M**2 * (u_M - 1)
    return np.stack([before, own, after], axis=-1) / 2


def rotation_vectors(turn: Float[np.ndarray, "*N 3 3"]) -> Float[np.ndarray, "*N 3"]:
    """The axes of rotations, as long as the angles in [0, pi]: the inverse of `rotations_of`."""
    xx, yy, zz = (turn[..., i, i] for i in range(3))
    # The unit quaternion (x, y, z, w) is the first eigenvector of this matrix, for any angle.
    matrix = np.zeros((*turn.shape[:-2], 4, 4))
    matrix[..., :3, :3] = turn + turn.swapaxes(-1, -2)
    for i, value in enumerate((xx - yy - zz, yy - xx - zz, zz - xx - yy, xx + yy + zz)):
        matrix[..., i, i] = value
    axial = [turn[..., 2, 1] - turn[..., 1, 2], turn[..., 0, 2] - turn[..., 2, 0]]
    axial.append(turn[..., 1, 0] - turn[..., 0, 1])
    matrix[..., 3, :3] = matrix[..., :3, 3] = np.stack(axial, axis=-1)
    quaternion = np.linalg.eigh(matrix)[1][..., -1]
    quaternion = quaternion * np.where(quaternion[..., 3:] < 0, -1, 1)
    sine = np.linalg.norm(quaternion[..., :3], axis=-1, keepdims=True)
    angle = 2 * np.arctan2(sine, quaternion[..., 3:])
    return quaternion[..., :3] * np.where(sine > 0, angle / np.where(sine > 0, sine, 1), 2)


def rotations_of(vectors: Float[np.ndarray, "*N 3"]) -> Float[np.ndarray, "*N 3 3"]:
    """Rotations about vectors by their lengths (Rodrigues' formula)."""
    angle = np.linalg.norm(vectors, axis=-1)[..., None, None]
    x, y, z = np.moveaxis(vectors, -1, 0)
    zero = np.zeros_like(x)
    rows = [[zero, -z, y], [z, zero, -x], [-y, x, zero]]
    cross = np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)
    half = np.sinc(angle / (2 * np.pi)) ** 2 / 2  # (1 - cos a) / a^2
    return np.eye(3) + np.sinc(angle / np.pi) * cross + half * cross @ cross


def _check_count(count: int) -> None:
    if count < 1:
        raise InputError(f"count is {count}, expected 1 or more")


def _as_poses(camera_to_world: ArrayLike) -> Float[np.ndarray, "N 3 4"]:
    """Poses in float64, checked as those of cameras are."""
    if not np.size(camera_to_world):
        raise InputError("camera_to_world has no poses, expected 1 or more")
    cameras = make_cameras(camera_to_world, 1.0, height=1, width=1)
    return np.asarray(cameras.camera_to_world, np.float64)
