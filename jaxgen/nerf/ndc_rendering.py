"""What is rendered in normalised device coordinates, in those of the world.

Samples, intervals and their lengths are those of the cube (`jaxgen.nerf.ndc`), as published:
density is absorption per unit of length there.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxgen.nerf.cameras import Rays
from jaxgen.nerf.fields import unit
from jaxgen.nerf.ndc import NdcConfig
from jaxgen.nerf.ray_passes import RaySpan
from jaxgen.nerf.rendering import Rendering


def cube_span(ndc: NdcConfig, rays: Rays) -> RaySpan:
    """Rays of the world in the cube, from its plane to infinity, seen along their directions."""
    found, length = ndc.rays(rays)
    return RaySpan(found, 0.0, length, None, "linear", rays.direction)


def rendered_in_the_world(
    ndc: NdcConfig, rays: Rays, span: RaySpan, rendering: Rendering
) -> Rendering:
    """Distances and normals of what was rendered in normalised device coordinates.

    Depth is where the expected depth of the cube lies. A normal is turned by the transposed
    Jacobian of the coordinates there, as a gradient is.
    """
    assert rendering.edges is not None
    length = jnp.maximum(span.end, 1e-9)[..., None]
    depth = ndc.distances(rays, rendering.depth[..., None] / length)
    edges = ndc.distances(rays, rendering.edges / length)
    normals = rendering.normals
    if normals is not None:
        _, turn = jax.vjp(lambda x: ndc.points(x)[0], rays.points(depth)[..., 0, :])
        (turned,) = turn(normals)
        normals = unit(turned) * jnp.linalg.norm(normals, axis=-1, keepdims=True)
    return dataclasses.replace(rendering, depth=depth[..., 0], edges=edges, normals=normals)


def density_in_cube(ndc: NdcConfig, density: Callable[[Array], Array], x: Array) -> Array:
    """Density at points of the world; 0 in front of the cube."""
    points, beyond = ndc.points(x)
    return jnp.where(beyond, density(points), 0.0)
