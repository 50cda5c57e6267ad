"""Where a camera of any model sees a point, and the ray of a place on its image.

A point (x, y, z) in axes of OpenCV (x right, y down, z ahead) is taken to the plane of the model::

    perspective        a = (x, y) / z
    fisheye            a = (x, y) theta / |(x, y)|,  theta = atan2(|(x, y)|, z)
    equirectangular    a = (atan2(x, z), atan2(y, |(x, z)|))
    orthographic       a = (x, y)

distorted there, and scaled to pixels, ``f distort(a) + c``. With r = |a|, models of OpenCV have

    a (1 + k1 r^2 + k2 r^4 + k3 r^6) / (1 + k4 r^2 + k5 r^4 + k6 r^6)            radial
    + (2 p1 x y + p2 (r^2 + 2 x^2),  p1 (r^2 + 2 y^2) + 2 p2 x y)                tangential

and the others what COLMAP's sensor/models says. FOV (Devernay & Faugeras 2001), DIVISION
(Fitzgibbon 2001) and EUCM (Khomutenko et al. 2016) have inverses in closed form; the polynomials
are inverted by Newton's method.

**Where there is no inverse.** A polynomial turns back somewhere: beyond, a place of the image
belongs to several directions or to none. Points and places that lie on or beyond the first fold,
seen from the centre, are marked as not valid, rather than given what happens to solve the equation.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

Place = Float[Array, "*B 2"]
Valid = Bool[Array, "*B"]
Distort = Callable[[Array, Array], Array]

NEWTON_STEPS = 20
FOLD_POINTS = 24
"""Between the centre and a place, where a distortion must not turn back."""
SLACK = 1e-6
"""By which a place at the border of a sphere may lie beyond it."""
NO_DISTORTION = 1e-4
"""An omega of FOV that is closer to 0 counts as this."""


def _dot(a: Array) -> Array:
    return (a * a).sum(axis=-1, keepdims=True)


def _series(r2: Array, coefficients: Array) -> Array:
    """``k1 r^2 + k2 r^4 + ...``; r2 and the result [..., 1]."""
    total = jnp.zeros_like(r2)
    for i in reversed(range(coefficients.shape[-1])):
        total = (total + coefficients[..., i : i + 1]) * r2
    return total


def _tangential(a: Array, p1: Array, p2: Array) -> Array:
    x, y, r2 = a[..., :1], a[..., 1:], _dot(a)
    along_x = 2 * p1 * x * y + p2 * (r2 + 2 * x * x)
    along_y = 2 * p2 * x * y + p1 * (r2 + 2 * y * y)
    return jnp.concatenate([along_x, along_y], axis=-1)


def _columns(k: Array) -> list[Array]:
    return jnp.split(k, k.shape[-1], axis=-1)


def _radial(a: Array, k: Array) -> Array:
    return a * (1 + _series(_dot(a), k))


def _opencv(a: Array, k: Array) -> Array:
    return _radial(a, k[..., :2]) + _tangential(a, k[..., 2:3], k[..., 3:4])


def _full_opencv(a: Array, k: Array) -> Array:
    over = jnp.concatenate([k[..., :2], k[..., 4:5]], axis=-1)
    r2 = _dot(a)
    ratio = (1 + _series(r2, over)) / (1 + _series(r2, k[..., 5:]))
    return a * ratio + _tangential(a, k[..., 2:3], k[..., 3:4])


def _thin_prism(a: Array, k: Array) -> Array:
    radial = jnp.concatenate([k[..., :2], k[..., 4:6]], axis=-1)
    return _radial(a, radial) + _tangential(a, k[..., 2:3], k[..., 3:4]) + k[..., 6:] * _dot(a)


def _rad_tan_thin_prism(a: Array, k: Array) -> Array:
    a = _radial(a, k[..., :6])
    p0, p1, s0, s1, s2, s3 = _columns(k[..., 6:])
    r2 = _dot(a)
    prism = jnp.concatenate([s0 * r2 + s1 * r2**2, s2 * r2 + s3 * r2**2], axis=-1)
    return a + _tangential(a, p1, p0) + prism


DISTORTIONS: dict[str, Distort] = {
    "SIMPLE_RADIAL": _radial,
    "RADIAL": _radial,
    "OPENCV": _opencv,
    "OPENCV_FISHEYE": _radial,
    "FULL_OPENCV": _full_opencv,
    "SIMPLE_RADIAL_FISHEYE": _radial,
    "RADIAL_FISHEYE": _radial,
    "THIN_PRISM_FISHEYE": _thin_prism,
    "RAD_TAN_THIN_PRISM_FISHEYE": _rad_tan_thin_prism,
}
"""Polynomials on the plane, by model."""


def to_plane(
    model: str, point: Float[Array, "*B 3"], k: Float[Array, "*#B K"]
) -> tuple[Place, Valid]:
    """The place of a point on the model's plane, before focal lengths and centre.

    Args:
      model: one of `jaxgen.camera_models.CAMERA_MODELS`.
      point: in axes of OpenCV; all but orthographic cameras see its direction alone.
      k: what the model has beside focal lengths and centre.

    Returns:
      The distorted place; and whether it is one: in front of the camera (fisheye and
      equirectangular cameras see behind themselves too) and before the first fold.
    """
    xy, z = point[..., :2], point[..., 2:]
    if model == "ORTHOGRAPHIC":
        return xy, jnp.ones(xy.shape[:-1], bool)
    if model in _CLOSED:
        return _CLOSED[model][0](xy, z, k)
    if _is_fisheye(model):
        a, seen = _fisheye(xy, z)
    else:
        seen = z > 0
        a, seen = xy / jnp.where(seen, z, 1), seen[..., 0]
    if model not in DISTORTIONS:
        return a, seen
    distort = DISTORTIONS[model]
    return distort(a, k), seen & _before_fold(distort, a, k)


def from_plane(
    model: str, place: Place, k: Float[Array, "*#B K"]
) -> tuple[Float[Array, "*B 3"], Valid]:
    """The direction that is seen at a place of the plane: the inverse of `to_plane`.

    Args:
      model: as there; not "ORTHOGRAPHIC", whose rays all have one direction.
      place: after distortion.
      k: as there.

    Returns:
      A direction in axes of OpenCV, of any length above 0; and whether there is one. Where there is
      none, it is ahead.
    """
    if model in _CLOSED:
        direction, valid = _CLOSED[model][1](place, k)
    else:
        a, valid = place, jnp.ones(place.shape[:-1], bool)
        if model in DISTORTIONS:
            a, valid = _undistort(DISTORTIONS[model], place, k)
        if _is_fisheye(model):
            theta2 = _dot(a)
            theta = jnp.sqrt(jnp.where(theta2 > 0, theta2, 1))
            sine = jnp.where(theta2 > 0, jnp.sin(theta) / theta, 1)
            cosine = jnp.where(theta2 > 0, jnp.cos(theta), 1)
            direction = jnp.concatenate([a * sine, cosine], axis=-1)
            valid &= theta2[..., 0] < jnp.pi**2
        else:
            direction = jnp.concatenate([a, jnp.ones_like(a[..., :1])], axis=-1)
    ahead = jnp.zeros_like(direction).at[..., 2].set(1)
    return jnp.where(valid[..., None], direction, ahead), valid


def _is_fisheye(model: str) -> bool:
    return model.endswith("FISHEYE")


def _fisheye(xy: Array, z: Array) -> tuple[Place, Valid]:
    r2 = _dot(xy)
    off = r2 > 0
    r = jnp.sqrt(jnp.where(off, r2, 1))
    scale = jnp.where(off, jnp.arctan2(r, z) / r, 1 / jnp.where(z == 0, 1, z))
    return xy * scale, (off | (z > 0))[..., 0]


def _jacobian(distort: Distort, a: Array, k: Array) -> tuple[Array, Array, Array]:
    """The distorted place, and its derivatives by both coordinates."""
    along = lambda axis: jnp.zeros_like(a).at[..., axis].set(1)  # noqa: E731
    place, by_x = jax.jvp(lambda a: distort(a, k), (a,), (along(0),))
    _, by_y = jax.jvp(lambda a: distort(a, k), (a,), (along(1),))
    return place, by_x, by_y


def _determinant(by_x: Array, by_y: Array) -> Array:
    return by_x[..., 0] * by_y[..., 1] - by_x[..., 1] * by_y[..., 0]


def _newton_step(distort: Distort, a: Array, place: Array, k: Array) -> Array:
    found, by_x, by_y = _jacobian(distort, a, k)
    by_x, by_y = jax.lax.stop_gradient((by_x, by_y))
    determinant = _determinant(by_x, by_y)
    determinant = jnp.where(jnp.abs(determinant) > 1e-9, determinant, jnp.inf)
    dx, dy = found[..., 0] - place[..., 0], found[..., 1] - place[..., 1]
    step_x = (dx * by_y[..., 1] - dy * by_y[..., 0]) / determinant
    step_y = (dy * by_x[..., 0] - dx * by_x[..., 1]) / determinant
    return a - jnp.stack([step_x, step_y], axis=-1)


def _undistort(distort: Distort, place: Place, k: Array) -> tuple[Place, Valid]:
    """Newton's method from the distorted place; derivatives are those of the last step alone."""
    fixed = jax.lax.stop_gradient((place, k))
    a = jax.lax.fori_loop(0, NEWTON_STEPS, lambda _, a: _newton_step(distort, a, *fixed), fixed[0])
    miss = jnp.abs(distort(a, fixed[1]) - fixed[0]).max(axis=-1)
    size = 1 + jnp.abs(fixed[0]).max(axis=-1)
    valid = (miss < 1e3 * jnp.finfo(place.dtype).eps * size) & _before_fold(distort, a, fixed[1])
    a = jnp.where(valid[..., None], a, 0)
    return _newton_step(distort, jax.lax.stop_gradient(a), place, k), valid


def _before_fold(distort: Distort, a: Place, k: Array) -> Valid:
    """Whether the distortion turns back nowhere between the centre and ``a``.

    Points are even in atan |a|: of a place far out, too, some are near the centre. Beyond a fold a
    determinant may be above 0 again, where both axes point back; the trace then is not.
    """
    share_P11 = jnp.linspace(0, 1, FOLD_POINTS + 1, dtype=a.dtype)[1:].reshape(-1, *(1,) * a.ndim)
    r2 = jax.lax.stop_gradient(_dot(a))
    r = jnp.sqrt(jnp.where(r2 > 0, r2, 1))
    on_the_way = a * jnp.tan(jnp.arctan(r) * share_P11) / r
    _, by_x, by_y = _jacobian(
        distort, on_the_way, jnp.broadcast_to(k, (*a.shape[:-1], k.shape[-1]))
    )
    ahead = by_x[..., 0] + by_y[..., 1] > 0
    return jnp.all((_determinant(by_x, by_y) > 0) & ahead, axis=0)


def _fov_scale(k: Array) -> tuple[Array, Array]:
    """omega where it is not 0, and ``2 tan(omega / 2)``; without distortion both are nearly 0."""
    omega = jnp.where(jnp.abs(k) < NO_DISTORTION, NO_DISTORTION, k)
    return omega, 2 * jnp.tan(omega / 2)


def _fov_to_plane(xy: Array, z: Array, k: Array) -> tuple[Place, Valid]:
    omega, c = _fov_scale(k)
    seen = z > 0
    a = xy / jnp.where(seen, z, 1)
    r2 = _dot(a)
    r = jnp.sqrt(jnp.where(r2 > 0, r2, 1))
    scale = jnp.where(r2 > 0, jnp.arctan(r * c) / (r * omega), c / omega)
    return a * scale, seen[..., 0]


def _fov_from_plane(place: Place, k: Array) -> tuple[Array, Valid]:
    omega, c = _fov_scale(k)
    r2 = _dot(place)
    r = jnp.sqrt(jnp.where(r2 > 0, r2, 1))
    valid = jnp.where(r2 > 0, r * jnp.abs(omega), 0) < jnp.pi / 2
    angle = jnp.where(valid, r * omega, 0)
    scale = jnp.where(r2 > 0, jnp.tan(angle) / (r * c), omega / c)
    a = place * scale
    return jnp.concatenate([a, jnp.ones_like(r)], axis=-1), valid[..., 0]


def _division_to_plane(xy: Array, z: Array, k: Array) -> tuple[Place, Valid]:
    square = z * z - 4 * k * _dot(xy)
    below = z + jnp.sqrt(jnp.where(square > 0, square, 0))
    valid = (square > 0) & (below > 0)
    return 2 * xy / jnp.where(valid, below, 1), valid[..., 0]


def _division_from_plane(place: Place, k: Array) -> tuple[Array, Valid]:
    bend = k * _dot(place)
    return jnp.concatenate([place, 1 + bend], axis=-1), (bend < 1)[..., 0]


def _eucm_to_plane(xy: Array, z: Array, k: Array) -> tuple[Place, Valid]:
    alpha, beta = _columns(k)
    rho2 = beta * _dot(xy) + z * z
    rho = jnp.sqrt(jnp.where(rho2 > 0, rho2, 1))
    below = alpha * rho + (1 - alpha) * z
    steep = jnp.minimum(alpha, 1 - alpha) / jnp.maximum(alpha, 1 - alpha)
    valid = (rho2 > 0) & (below > 0) & (z > -steep * rho)
    return xy / jnp.where(valid, below, 1), valid[..., 0]


def _eucm_from_plane(place: Place, k: Array) -> tuple[Array, Valid]:
    alpha, beta = _columns(k)
    r2 = beta * _dot(place)
    square = 1 - (2 * alpha - 1) * r2
    valid = square > 0
    below = alpha * jnp.sqrt(jnp.where(valid, square, 1)) + 1 - alpha
    z = (1 - alpha * alpha * r2) / below
    return jnp.concatenate([place, z], axis=-1), valid[..., 0]


def _sphere_to_plane(xy: Array, z: Array, k: Array) -> tuple[Place, Valid]:
    x, y = xy[..., :1], xy[..., 1:]
    level2 = x * x + z * z
    level = jnp.sqrt(jnp.where(level2 > 0, level2, 1))
    around = jnp.where(level2 > 0, jnp.arctan2(x, jnp.where(level2 > 0, z, 1)), 0)
    below = jnp.arctan2(y, jnp.where(level2 > 0, level, 0))
    valid = (level2 > 0) | (y != 0)
    return jnp.concatenate([around, below], axis=-1), valid[..., 0]


def _sphere_from_plane(place: Place, k: Array) -> tuple[Array, Valid]:
    around, below = place[..., :1], place[..., 1:]
    level = jnp.cos(below)
    parts = level * jnp.sin(around), jnp.sin(below), level * jnp.cos(around)
    valid = (jnp.abs(around) <= jnp.pi + SLACK) & (jnp.abs(below) <= jnp.pi / 2 + SLACK)
    return jnp.concatenate(parts, axis=-1), valid[..., 0]


_CLOSED: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "FOV": (_fov_to_plane, _fov_from_plane),
    "SIMPLE_DIVISION": (_division_to_plane, _division_from_plane),
    "DIVISION": (_division_to_plane, _division_from_plane),
    "EUCM": (_eucm_to_plane, _eucm_from_plane),
    "EQUIRECTANGULAR": (_sphere_to_plane, _sphere_from_plane),
}
"""Both ways of the models whose inverse is known."""
