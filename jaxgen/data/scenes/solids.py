"""Convex solids: where rays enter and leave them, their normals and colours.

A ray o + t d is inside a convex solid for t between an entry and an exit:

* a sphere, |p - c|^2 <= r^2:  t = -b -+ sqrt(b^2 - |o - c|^2 + r^2) with b = (o - c) . d;
* a box, |p_a - c_a| <= h_a on each axis a of its own: the largest of the three entries between
  planes, and the smallest of the three exits (Kay & Kajiya 1986);
* an upright cylinder: a circle in x and y (as the sphere, divided by d_x^2 + d_y^2), and the planes
  of its ends.

Every solid has `interval` (entry and exit; a ray misses where the entry is not before the exit),
`normal` (unit, outwards) and `albedo` (linear colours), the last two of points on its surface.
"""

import math
from dataclasses import dataclass
from functools import reduce

import numpy as np
from jaxtyping import Float, Integer

from jaxgen.data.scenes.views import Corner


@dataclass(frozen=True)
class Ball:
    """A sphere; with bands of a second colour where `bands` is not 0.

    Attributes:
      centre: Of the sphere.
      radius: Of the sphere.
      color: Its albedo, linear red, green and blue.
      specular: How strong its highlight is.
      shininess: How sharp.
      bands: Their number per unit of height.
      second_color: Of every second band.
    """

    centre: Corner
    radius: float
    color: Corner
    specular: float
    shininess: float
    bands: float = 0.0
    second_color: Corner = (1.0, 1.0, 1.0)

    def interval(
        self, origin_R3: Float[np.ndarray, "R 3"], direction_R3: Float[np.ndarray, "R 3"]
    ) -> tuple[Float[np.ndarray, "R"], Float[np.ndarray, "R"]]:
        """See the module."""
        return _round_interval(origin_R3 - self.centre, direction_R3, self.radius)

    def normal(self, point_R3: Float[np.ndarray, "R 3"]) -> Float[np.ndarray, "R 3"]:
        """See the module."""
        return (point_R3 - self.centre) / self.radius

    def albedo(self, point_R3: Float[np.ndarray, "R 3"]) -> Float[np.ndarray, "R 3"]:
        """See the module."""
        band_R = np.floor((point_R3[:, 2] - self.centre[2]) * self.bands + 0.5).astype(int)
        return _alternate(band_R, self.color, self.second_color)


@dataclass(frozen=True)
class Block:
    """A box turned about its upright axis; its upper face checkered where `check` is not 0.

    Attributes:
      centre: Of the box.
      half: Half of its sizes, along its own axes.
      turn: Its angle to the world's axes, in radians.
      color: Its albedo, linear red, green and blue.
      specular: How strong its highlight is.
      shininess: How sharp.
      check: The side of a square of the pattern.
      second_color: Of every second square.
    """

    centre: Corner
    half: Corner
    turn: float
    color: Corner
    specular: float
    shininess: float
    check: float = 0.0
    second_color: Corner = (1.0, 1.0, 1.0)

    def _axes(self) -> Float[np.ndarray, "3 3"]:
        """The box's own axes, in columns."""
        c, s = math.cos(self.turn), math.sin(self.turn)
        return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])

    def interval(
        self, origin_R3: Float[np.ndarray, "R 3"], direction_R3: Float[np.ndarray, "R 3"]
    ) -> tuple[Float[np.ndarray, "R"], Float[np.ndarray, "R"]]:
        """See the module."""
        axes = self._axes()
        spans = _slab(
            into_axes(origin_R3 - self.centre, axes),
            into_axes(direction_R3, axes),
            np.array(self.half),
        )
        return reduce(np.maximum, spans[0].T), reduce(np.minimum, spans[1].T)

    def normal(self, point_R3: Float[np.ndarray, "R 3"]) -> Float[np.ndarray, "R 3"]:
        """See the module."""
        axes = self._axes()
        local_R3 = into_axes(point_R3 - self.centre, axes)
        face_R = np.abs(np.abs(local_R3) - self.half).argmin(1)
        return axes.T[face_R] * np.sign(np.take_along_axis(local_R3, face_R[:, None], 1))

    def albedo(self, point_R3: Float[np.ndarray, "R 3"]) -> Float[np.ndarray, "R 3"]:
        """See the module."""
        if not self.check:
            return np.broadcast_to(np.array(self.color), point_R3.shape)
        local_R3 = into_axes(point_R3 - self.centre, self._axes())
        square_R2 = np.floor((local_R3[:, :2] + self.half[:2]) / self.check).astype(int)
        top_R = local_R3[:, 2] > self.half[2] * (1 - 1e-9)
        return _alternate(square_R2.sum(1) * top_R, self.color, self.second_color)


@dataclass(frozen=True)
class Drum:
    """An upright cylinder.

    Attributes:
      centre: Of the cylinder.
      radius: Of its circle.
      half_height: Half of its height.
      color: Its albedo, linear red, green and blue.
      specular: How strong its highlight is.
      shininess: How sharp.
    """

    centre: Corner
    radius: float
    half_height: float
    color: Corner
    specular: float
    shininess: float

    def interval(
        self, origin_R3: Float[np.ndarray, "R 3"], direction_R3: Float[np.ndarray, "R 3"]
    ) -> tuple[Float[np.ndarray, "R"], Float[np.ndarray, "R"]]:
        """See the module."""
        local_R3 = origin_R3 - self.centre
        enter_R, leave_R = _round_interval(local_R3[:, :2], direction_R3[:, :2], self.radius)
        low_R, high_R = _slab(local_R3[:, 2], direction_R3[:, 2], np.array(self.half_height))
        return np.maximum(enter_R, low_R), np.minimum(leave_R, high_R)

    def normal(self, point_R3: Float[np.ndarray, "R 3"]) -> Float[np.ndarray, "R 3"]:
        """See the module."""
        local_R3 = point_R3 - self.centre
        round_R = np.hypot(local_R3[:, 0], local_R3[:, 1])
        end_R1 = np.abs(np.abs(local_R3[:, 2:]) - self.half_height) < np.abs(
            round_R[:, None] - self.radius
        )
        side_R3 = local_R3 * [1, 1, 0] / np.maximum(round_R, 1e-300)[:, None]
        return np.where(end_R1, np.sign(local_R3) * [0, 0, 1], side_R3)

    def albedo(self, point_R3: Float[np.ndarray, "R 3"]) -> Float[np.ndarray, "R 3"]:
        """See the module."""
        return np.broadcast_to(np.array(self.color), point_R3.shape)


Solid = Ball | Block | Drum


def dot(
    left: Float[np.ndarray, "R axes"], right: Float[np.ndarray, "R axes"]
) -> Float[np.ndarray, "R"]:
    """Products of vectors, row by row (three times as fast as a sum over so short an axis)."""
    return np.einsum("ra,ra->r", left, right)


def into_axes(
    vector_R3: Float[np.ndarray, "R 3"], axes: Float[np.ndarray, "3 3"]
) -> Float[np.ndarray, "R 3"]:
    """Products with the columns of `axes`, summed in one order on every machine and thread."""
    return np.einsum("ra,ab->rb", vector_R3, axes)


def _alternate(
    number_R: Integer[np.ndarray, "R"], even: Corner, odd: Corner
) -> Float[np.ndarray, "R 3"]:
    return np.array([even, odd])[number_R % 2]


def _round_interval(
    origin: Float[np.ndarray, "R axes"], direction: Float[np.ndarray, "R axes"], radius: float
) -> tuple[Float[np.ndarray, "R"], Float[np.ndarray, "R"]]:
    """Where |o + t d| = radius, on two axes or three: (0, -1) where nowhere."""
    square_R = np.maximum(dot(direction, direction), 1e-300)  # a ray along a cylinder: then +-huge
    half_R = dot(origin, direction)
    root_R = half_R**2 - square_R * (dot(origin, origin) - radius**2)
    far_R = np.sqrt(np.maximum(root_R, 0))
    miss_R = root_R < 0
    enter_R, leave_R = (-half_R - far_R) / square_R, (-half_R + far_R) / square_R
    return np.where(miss_R, 0.0, enter_R), np.where(miss_R, -1.0, leave_R)


def _slab(
    origin: Float[np.ndarray, "..."], direction: Float[np.ndarray, "..."], half: np.ndarray
) -> tuple[Float[np.ndarray, "..."], Float[np.ndarray, "..."]]:
    """Where lines are between the planes at -half and half, of each axis."""
    with np.errstate(over="ignore"):  # a ray along the planes: then +-inf
        inverse = 1 / np.where(np.abs(direction) < 1e-300, 1e-300, direction)
        low, high = (-half - origin) * inverse, (half - origin) * inverse
    return np.minimum(low, high), np.maximum(low, high)
