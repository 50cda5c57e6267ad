"""One evaluation of a field along rays: where rays are in the scene, samples, weights, colours."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgen.nerf.cameras import Box, Rays, ray_box
from jaxgen.nerf.distance_field import difference
from jaxgen.nerf.fields import NO_CONTEXT, FieldOutput, SampleContext, unit
from jaxgen.nerf.footprints import cylinder_moments, frustum_moments, lift_moments
from jaxgen.nerf.ray_samples import stratified_distances
from jaxgen.nerf.rendering import Rendering
from jaxgen.nerf.spacing import Spacing, spaced_distances
from jaxgen.nerf.volume_rendering import composite, expected_depth, render_weights
from jaxgen.typing import Tree


class BoundField:
    """A field with its parameters, and what is the same for all of its samples."""

    def __init__(self, config: Any, params: Tree, progress: Array | None = None) -> None:
        self.config = config
        self.apply = config.make_model().apply
        self.variables = {"params": params}
        self.progress = progress

    def __call__(
        self, x: Array, direction: Array, context: SampleContext = NO_CONTEXT
    ) -> FieldOutput:
        """Density and colour."""
        return self.apply(self.variables, x, direction, self._with_progress(context))

    def density(self, x: Array, context: SampleContext = NO_CONTEXT) -> Array:
        """Density alone."""
        return self.apply(self.variables, x, self._with_progress(context), method="density")

    def distance(self, x: Array, context: SampleContext = NO_CONTEXT) -> Array:
        """The signed distance, of a field that has one."""
        return self.apply(self.variables, x, self._with_progress(context), method="distance")

    def normals(self, x: Array, context: SampleContext = NO_CONTEXT) -> Array:
        """Unit vectors against the gradient of density; 0 where there is none.

        Of a grid, against the difference of log(1 + density) over some of its finest cells: the
        gradient of trilinear features jumps from cell to cell. (On the traced scene normals are
        21 degrees off at the median so, and 42 by the gradient.)
        """
        step = getattr(self.config, "normal_step", None)
        if step is None:
            return -unit(jax.grad(lambda x: self.density(x, context).sum())(x))
        return -unit(difference(lambda x: jnp.log1p(self.density(x)), x, step, taps=4))

    def _with_progress(self, context: SampleContext) -> SampleContext:
        return dataclasses.replace(context, progress=self.progress)


class RaySpan:
    """Rays between the distances where they begin and end; one that is none, or misses the box,
    ends where it begins. Fields see them along `direction`, which is theirs unless it is given.
    """

    def __init__(
        self,
        rays: Rays,
        near: Float[Array, ""] | float,
        far: Float[Array, "*#R"] | float,
        box: Box | None,
        spacing: Spacing,
        direction: Float[Array, "R 3"] | None = None,
    ) -> None:
        self.rays, self.spacing = rays, spacing
        self.direction = rays.direction if direction is None else direction
        self.zero = jnp.zeros_like(rays.origin[..., 0])
        begin, end = self.zero + near, self.zero + far
        if box is not None:
            entry, exit = ray_box(rays, *box)
            begin = jnp.clip(entry, begin, end)
            end = jnp.clip(exit, begin, end)
        self.begin = begin
        self.end = end if rays.valid is None else jnp.where(rays.valid, end, begin)

    def distances(self, s: Array) -> Array:
        """t of s."""
        return spaced_distances(self.spacing, self.begin, self.end, s)

    def gaussians(self, edges: Array) -> tuple[Array, Array, Array]:
        """Mean distances, means and covariances of the cones' pieces between edges (in t)."""
        rays = self.rays
        assert rays.radius is not None, "rays without footprints"
        moments = cylinder_moments if rays.parallel else frustum_moments
        found = moments(edges[..., :-1], edges[..., 1:], rays.radius[..., None])
        return found[0], *lift_moments(rays.origin, rays.direction, *found)


def place_samples(
    field: BoundField, span: RaySpan, edges: Array, jitter: Array | None
) -> tuple[Array, Array, SampleContext]:
    """Distances and points of samples in intervals (edges in s), and what is known of them.

    A Gaussian's is the mean of its piece of the cone; another sample is where its jitter is.
    """
    t_edges = span.distances(edges)
    length = jnp.diff(t_edges, axis=-1)
    if field.config.uses_covariance:
        distances, points, covariance = span.gaussians(t_edges)
        return distances, points, SampleContext(covariance=covariance, length=length)
    distances = span.distances(stratified_distances(edges, jitter))
    context = SampleContext(length=length, offset=distances - t_edges[..., :-1])
    return distances, span.rays.points(distances), context


def shade_rays(
    field: BoundField,
    span: RaySpan,
    edges: Float[Array, "R S1"],
    jitter: Float[Array, "R S"] | None,
    background: Array,
    *,
    code: Float[Array, "#R C"] | None = None,
    normals: bool = False,
) -> tuple[Rendering, Array | None]:
    """Density and colour at one point of each interval, and the sum; gradients of distances."""
    distances, points, context = place_samples(field, span, edges, jitter)
    if code is not None:
        context = dataclasses.replace(context, code=code[..., None, :])
    direction = jnp.broadcast_to(span.direction[..., None, :], points.shape)
    output = field(points, direction, context)
    t_edges = span.distances(edges)
    weights = render_weights(output.density, t_edges)
    normal = None
    if normals:
        found = normals_of(field, points, output, context)
        normal = (weights[..., None] * found).sum(axis=-2)
    rendering = Rendering(
        colour=composite(weights, output.colour, background),
        opacity=weights.sum(axis=-1),
        depth=expected_depth(weights, distances),
        weights=weights,
        normals=normal,
        edges=t_edges,
    )
    return rendering, output.gradient


def normals_of(
    field: BoundField, points: Float[Array, "*B 3"], output: FieldOutput, context: SampleContext
) -> Float[Array, "*B 3"]:
    """Unit normals at points: of a signed distance its gradient, else against that of density."""
    if output.gradient is not None:
        return unit(output.gradient)
    return field.normals(points, context)


def density_weights(
    field: BoundField,
    span: RaySpan,
    edges: Float[Array, "R S1"],
    jitter: Float[Array, "R S"] | None,
) -> Float[Array, "R S"]:
    """Weights of a density alone; samples are where they are, so cameras get no gradient here."""
    _, points, context = jax.lax.stop_gradient(place_samples(field, span, edges, jitter))
    t_edges = jax.lax.stop_gradient(span.distances(edges))
    return render_weights(field.density(points, context), t_edges)
