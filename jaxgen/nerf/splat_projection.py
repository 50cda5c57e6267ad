"""3-D Gaussians and what a camera sees of them (Kerbl et al. 2023, section 4).

A Gaussian has a mean m, a covariance from a unit quaternion and three scales, an opacity o and a
colour that depends on the direction d from the camera to it::

    Sigma = R S S^T R^T,   S = diag(exp(log scales)),   R of the quaternion (w, x, y, z)
    o     = sigmoid(logit)
    c     = max(0, 1/2 + sum_j harmonics_j Y_j(d))

With W the rotation to the camera's axes (OpenCV's here: x right, y down, z forward), p = W (m - e)
and J the derivative of the projection at p, the image of the Gaussian is about a Gaussian too::

    Sigma_2 = J W Sigma W^T J^T + 0.3 I            (0.3: a pixel sees more than a point)
    alpha   = min(0.99, o exp(-(u - u_m)^T Sigma_2^-1 (u - u_m) / 2)),  0 where below 1 / 255

J is taken at x / z and y / z at most 15 % of the image's sides outside of the image, as in the
published code: farther out it grows without bound. Of cameras that are no pinholes it is the
derivative of `jaxgen.nerf.projection.to_plane`, at most as far from the axis as the farthest corner
of that larger image. A Gaussian is one in the image as far as the projection is linear over it: of
those that are large beside the bends of a lens the middle alone is exact.

The box that holds all pixels with alpha >= 1 / 255 has half the sides
``sqrt(2 log(255 o) diag(Sigma_2))``, which is exact; three deviations, as in the published code,
cut opaque Gaussians off at alpha = o / 90.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxgen.nerf.cameras import Cameras
from jaxgen.nerf.encodings import spherical_harmonics
from jaxgen.nerf.projection import from_plane, to_plane
from jaxgen.typing import Tree

MEANS, LOG_SCALES, QUATERNIONS = "means", "log_scales", "quaternions"
OPACITY_LOGITS, HARMONICS = "opacity_logits", "harmonics"
"""Names of the parameters."""

LEAST_ALPHA, LARGEST_ALPHA = 1 / 255, 0.99
BLUR = 0.3
"""Added to the variance along both axes of the image, in pixels squared."""

PINHOLES = "PINHOLE", "SIMPLE_PINHOLE"
AHEAD = "SIMPLE_RADIAL", "RADIAL", "OPENCV", "FULL_OPENCV", "FOV", "ORTHOGRAPHIC"
"""Other models whose depth is along the axis; that of models that see behind them is distance."""

BEYOND = 0.15
"""How far outside of the image J still changes, as a share of its sides."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ProjectedSplats:
    """G Gaussians in the image of one camera.

    Attributes:
      place: [G, 2], x and y in pixels from the upper left corner.
      conic: [G, 3], (a, b, c) of the inverse covariance [[a, b], [b, c]].
      opacity: [G].
      colour: [G, 3].
      depth: [G], what Gaussians are sorted by: along the camera's axis, or the distance where the
        model sees behind itself (fisheyes, DIVISION, EUCM, EQUIRECTANGULAR).
      distance: [G], along the ray, see `jaxgen.nerf.cameras`.
      normal: [G, 3], the unit vector along the shortest axis, towards the camera, in axes of the
        world.
      extent: [G, 2], half the sides of the box around what is seen.
      visible: [G], whether anything may be seen: the camera sees its mean, and it is opaque
        enough.
    """

    place: Float[Array, "G 2"]
    conic: Float[Array, "G 3"]
    opacity: Float[Array, "G"]
    colour: Float[Array, "G 3"]
    depth: Float[Array, "G"]
    distance: Float[Array, "G"]
    normal: Float[Array, "G 3"]
    extent: Float[Array, "G 2"]
    visible: Bool[Array, "G"]


class _Linearised(NamedTuple):
    """The projection at G means: places, derivatives in the camera's axes, what is seen."""

    place: Float[Array, "G 2"]
    jacobian: Float[Array, "G 2 3"]
    depth: Float[Array, "G"]
    seen: Bool[Array, "G"]


def rotations(quaternions: Float[Array, "*G 4"]) -> Float[Array, "*G 3 3"]:
    """The rotations of quaternions (w, x, y, z) of any length but 0."""
    length = jnp.sqrt(jnp.maximum((quaternions**2).sum(axis=-1, keepdims=True), 1e-24))
    w, x, y, z = jnp.moveaxis(quaternions / length, -1, 0)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)


def colours(
    harmonics: Float[Array, "G K 3"], direction: Float[Array, "G 3"]
) -> Float[Array, "G 3"]:
    """Colours seen along unit directions, of K = 1, 4, 9 or 16 harmonics."""
    value_GK = spherical_harmonics(direction)[:, : harmonics.shape[1]]
    return jnp.maximum((value_GK[..., None] * harmonics).sum(axis=1) + 0.5, 0)


def project_splats(params: Tree, camera: Cameras, near: float) -> ProjectedSplats:
    """Gaussians in the image of one camera; differentiable in both.

    Args:
      params: arrays [G, ...] by name, see `jaxgen.nerf.splat_rendering.SplatConfig.make_init`.
      camera: one, its arrays without the axis N.
      near: Gaussians with a smaller depth (see `ProjectedSplats`) are not seen.
    """
    right, up, back, position = jnp.moveaxis(camera.camera_to_world, -1, 0)
    turn_33 = jnp.stack([right, -up, -back])
    offset_G3 = params[MEANS] - position
    own_G3 = offset_G3 @ turn_33.T
    if camera.model == "ORTHOGRAPHIC":
        distance, direction_G3 = own_G3[:, 2], jnp.broadcast_to(-back, offset_G3.shape)
    else:
        distance = jnp.sqrt(jnp.maximum((offset_G3**2).sum(axis=-1), 1e-20))
        direction_G3 = offset_G3 / distance[:, None]
    turned_G33 = rotations(params[QUATERNIONS])
    scales_G3 = jnp.exp(params[LOG_SCALES])
    if camera.model in PINHOLES:
        place_G2, jacobian_G23, depth, seen = _by_pinhole(camera, own_G3, near)
    else:
        place_G2, jacobian_G23, depth, seen = _by_lens(camera, own_G3, distance, near)
    root_G23 = (jacobian_G23 @ turn_33) @ (turned_G33 * scales_G3[:, None, :])
    (var_x, var_y), cov = ((root_G23**2).sum(axis=-1) + BLUR).T, root_G23.prod(axis=1).sum(axis=-1)
    determinant = var_x * var_y - cov**2
    conic_G3 = jnp.stack([var_y, -cov, var_x], axis=-1) / determinant[:, None]
    opacity = jax.nn.sigmoid(params[OPACITY_LOGITS])
    reach = 2 * jnp.log(jnp.maximum(opacity / LEAST_ALPHA, 1))
    shortest = jnp.argmin(scales_G3, axis=-1)
    normal_G3 = jnp.take_along_axis(turned_G33, shortest[:, None, None], axis=2)[..., 0]
    towards = jnp.sign((normal_G3 * direction_G3).sum(axis=-1, keepdims=True))
    return ProjectedSplats(
        place=place_G2,
        conic=conic_G3,
        opacity=opacity,
        colour=colours(params[HARMONICS], direction_G3),
        depth=depth,
        distance=distance,
        normal=-towards * normal_G3,
        extent=jax.lax.stop_gradient(jnp.sqrt(reach[:, None] * jnp.stack([var_x, var_y], -1))),
        visible=seen & (opacity > LEAST_ALPHA) & (determinant > 0),
    )


def _by_pinhole(camera: Cameras, own_G3: Float[Array, "G 3"], near: float) -> _Linearised:
    x, y, depth = own_G3.T
    in_front = depth > near
    z = jnp.where(in_front, depth, 1)
    place_G2 = jnp.stack([x / z, y / z], axis=-1) * camera.focal + camera.centre
    return _Linearised(place_G2, _pinhole_jacobian(camera, x / z, y / z, z), depth, in_front)


def _pinhole_jacobian(camera: Cameras, u: Array, v: Array, z: Array) -> Float[Array, "G 2 3"]:
    """Of the projection to pixels, with u = x / z and v = y / z near the image."""
    side_2 = jnp.asarray([camera.width, camera.height])
    low_2 = (-BEYOND * side_2 - camera.centre) / camera.focal
    high_2 = ((1 + BEYOND) * side_2 - camera.centre) / camera.focal
    u, v = jnp.clip(u, low_2[0], high_2[0]), jnp.clip(v, low_2[1], high_2[1])
    zero, one = jnp.zeros_like(z), jnp.ones_like(z)
    rows = jnp.stack([jnp.stack([one, zero, -u], -1), jnp.stack([zero, one, -v], -1)], axis=1)
    return rows * (camera.focal[:, None] / z[:, None, None])


def _by_lens(
    camera: Cameras, own_G3: Float[Array, "G 3"], distance: Float[Array, "G"], near: float
) -> _Linearised:
    """By the model's own projection."""

    def to_pixels(point: Float[Array, "*B 3"]) -> Float[Array, "*B 2"]:
        return to_plane(camera.model, point, camera.distortion)[0] * camera.focal + camera.centre

    depth = own_G3[:, 2] if camera.model in AHEAD else distance
    fixed_G3 = jax.lax.stop_gradient(own_G3)
    seen = to_plane(camera.model, fixed_G3, camera.distortion)[1] & (depth > near)
    seen &= jnp.isfinite(to_pixels(fixed_G3)).all(axis=-1)
    # What is not seen has no place, and there derivatives may be infinite.
    own_G3 = jnp.where(seen[:, None], own_G3, jnp.array([0.0, 0, 1]))
    jacobian_G23 = jax.vmap(jax.jacfwd(to_pixels))(_near_image(camera, own_G3))
    return _Linearised(to_pixels(own_G3), jacobian_G23, depth, seen)


def _near_image(camera: Cameras, own_G3: Float[Array, "G 3"]) -> Float[Array, "G 3"]:
    """Points turned towards the axis, to the angle of the farthest corner BEYOND the image."""
    if camera.model == "ORTHOGRAPHIC":
        return own_G3
    side_2 = jnp.asarray([camera.width, camera.height])
    corner_42 = (jnp.array([[0, 0], [0, 1], [1, 0], [1, 1]]) * (1 + 2 * BEYOND) - BEYOND) * side_2
    way_43, valid_4 = from_plane(
        camera.model, (corner_42 - camera.centre) / camera.focal, camera.distortion
    )
    # A corner beyond the fold is no limit: the fold is one.
    cosine_4 = jnp.where(valid_4, way_43[:, 2] / jnp.linalg.norm(way_43, axis=-1), -1)
    cosine = jax.lax.stop_gradient(cosine_4.min())
    across2 = (own_G3[:, :2] ** 2).sum(axis=-1, keepdims=True)
    length = jnp.sqrt(across2 + own_G3[:, 2:] ** 2)
    outside = (own_G3[:, 2:] < cosine * length) & (across2 > 0)
    sine = jnp.sqrt(1 - cosine**2) / jnp.sqrt(jnp.where(outside, across2, 1))
    ahead_G3 = jnp.concatenate(
        [own_G3[:, :2] * sine, jnp.broadcast_to(cosine, length.shape)], axis=-1
    )
    return jnp.where(outside, ahead_G3 * length, own_G3)
