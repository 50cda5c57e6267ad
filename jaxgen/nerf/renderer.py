"""Radiance fields as a configuration: a field, where rays are sampled, the background.

With it and parameters a field is rendered::

    render = jax.jit(config.make_render())
    rendering = render(params, cameras)

Rays are sampled in one of three ways. With ``two_networks`` as in the original (Mildenhall et al.
2020, section 5.2): a coarse network at even intervals, and a fine one at these and at intervals
placed by the weights of the coarse one. Without, one field twice: its density at even intervals,
without gradient, then density and colour at the intervals so placed. Or, with no fine samples, the
field at even intervals.

Every sample is the midpoint of its interval, or with a key a uniform point of it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Key

from jaxgen.axes import BATCH_MESH_AXES
from jaxgen.errors import InputError, check_not_negative
from jaxgen.nerf.cameras import Box, Cameras, Rays, camera_rays, ray_box
from jaxgen.nerf.fields import FieldOutput, HashFieldConfig
from jaxgen.nerf.ray_samples import (
    even_edges,
    ray_jitter,
    resampled_edges,
    stratified_distances,
)
from jaxgen.nerf.volume_rendering import composite, expected_depth, render_weights
from jaxgen.typing import Tree

COARSE, FINE = "coarse", "fine"
"""Names of the parameters; a field alone is "fine"."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Rendering:
    """Images of cameras ([N, Y, X, ...]), or what single rays see ([R, ...]).

    Attributes:
      colour: [..., 3], in front of the background.
      opacity: [...], between 0 and 1.
      depth: [...], expected distance along the ray; see
        `jaxgen.nerf.volume_rendering.expected_depth`.
      weights: [..., S], of the samples that colour is the sum of.
      normals: [..., 3], ``sum_i w_i n_i`` of the unit vectors n against the gradient of density, in
        world coordinates: shorter than 1 where opacity is, or where n disagree. None unless they
        are wanted.
    """

    colour: Float[Array, "*B 3"]
    opacity: Float[Array, "*B"]
    depth: Float[Array, "*B"]
    weights: Float[Array, "*B S"]
    normals: Float[Array, "*B 3"] | None


class Render(Protocol):
    """A differentiable renderer, as `RadianceConfig.make_render` makes it."""

    def __call__(
        self,
        params: Tree,
        cameras: Cameras,
        *,
        key: Key[Array, ""] | None = None,
        background: Float[Array, "3"] | None = None,
    ) -> Rendering:
        """Images [N, Y, X, ...] of all cameras.

        Args:
          params: of the field.
          cameras: the cameras.
          key: where samples are in their intervals; a ray's depend on the key and on the ray's
            number in the images. None: midpoints.
          background: a colour; None: the configuration's.
        """
        ...


@dataclass(frozen=True)
class RadianceConfig:
    """A radiance field that can be rendered.

    Attributes:
      field: the configuration of a field, with ``make_model()`` and ``box``.
      near: distance from the camera where rays begin.
      far: where they end; both within the field's box.
      coarse_samples: even intervals of a ray.
      fine_samples: intervals placed by the weights of the even ones; 0 for none.
      two_networks: whether even intervals have a network of their own (see the module).
      padding: added to weights before intervals are placed by them.
      background: the colour behind the field, in [0, 1].
      chunk: rays that are rendered at a time; bounds memory.

    Raises:
      InputError: for numbers that sample nothing.
    """

    field: Any = HashFieldConfig()
    near: float = 2.0
    far: float = 6.0
    coarse_samples: int = 64
    fine_samples: int = 20
    two_networks: bool = False
    padding: float = 0.003
    background: tuple[float, float, float] = (1.0, 1.0, 1.0)
    chunk: int = 4096

    def __post_init__(self) -> None:
        if not 0 <= self.near < self.far:
            raise InputError(f"near is {self.near} with far={self.far}, expected 0 <= near < far")
        for name, least in (("coarse_samples", 1), ("fine_samples", 0), ("chunk", 1)):
            if getattr(self, name) < least:
                raise InputError(f"{name} is {getattr(self, name)}, expected {least} or more")
        if self.two_networks and not self.fine_samples:
            raise InputError("fine_samples is 0 with two_networks, expected 1 or more")
        check_not_negative("padding", self.padding)
        if len(self.background) != 3 or not all(0 <= part <= 1 for part in self.background):
            raise InputError(f"background is {self.background}, expected 3 numbers in [0, 1]")

    @property
    def box(self) -> Box | None:
        """The field's box; None: rays are sampled from near to far."""
        return self.field.box

    def make_init(self) -> Callable[[Array], Tree]:
        """``key -> parameters``, with logical axes; "fine", and "coarse" for two networks."""
        model = self.field.make_model()
        names = (FINE, COARSE) if self.two_networks else (FINE,)

        def init(key: Array) -> Tree:
            keys = dict(zip(names, jax.random.split(key, len(names)), strict=True))
            point = jnp.zeros((1, 3))
            return {name: model.init(keys[name], point, point)["params"] for name in names}

        return init

    def make_density(self, params: Tree) -> Callable[[Array], Array]:
        """``points [..., 3] -> density [...]`` of the (fine) field, in world coordinates."""
        return _Field(self.field, params[FINE]).density

    def make_field(self, params: Tree) -> Callable[[Array, Array], FieldOutput]:
        """``(points [..., 3], unit directions [..., 3]) -> density and colour`` of the same."""
        return _Field(self.field, params[FINE])

    def make_render(self, *, normals: bool = False) -> Render:
        """A renderer of whole images, pure and differentiable in parameters and cameras.

        Rays are rendered in chunks of one size, the last one filled up, so that memory does not
        grow with the images. Compiled with `jax.jit`, it is one program for all cameras of one
        number and size of image. Rays are sharded over the mesh axes of the rule "rays", where a
        mesh is set.

        Args:
          normals: whether normals are computed, which takes the gradient of density.
        """

        def render(
            params: Tree,
            cameras: Cameras,
            *,
            key: Key[Array, ""] | None = None,
            background: Float[Array, "3"] | None = None,
        ) -> Rendering:
            rays = jax.tree.map(lambda x: x.reshape(-1, *x.shape[3:]), camera_rays(cameras))
            count = rays.origin.shape[0]
            size = _chunk_size(self.chunk, count)

            def render_chunk(part: tuple[Rays, Array]) -> Rendering:
                rays, number_R = shard_rays(part)
                found, _ = render_rays(
                    self, params, rays, key, background, numbers=number_R, normals=normals
                )
                return shard_rays(found)

            numbered = rays, jnp.arange(count)
            chunks = jax.tree.map(lambda x: _in_chunks(x, size), numbered)
            found = jax.lax.map(render_chunk, chunks)
            shape = len(cameras), cameras.height, cameras.width

            def join(x: Array) -> Array:
                return x.reshape(-1, *x.shape[2:])[:count].reshape(*shape, *x.shape[2:])

            return jax.tree.map(join, found)

        return render


def _chunk_size(chunk: int, count: int) -> int:
    """At most all rays, rounded up to a multiple of the devices that share them."""
    mesh = jax.sharding.get_abstract_mesh()
    shards = 1 if mesh.empty else math.prod(mesh.shape[axis] for axis in BATCH_MESH_AXES)
    return -(-min(chunk, count) // shards) * shards


def _in_chunks(array: Array, size: int) -> Array:
    """[R, ...] to [chunks, size, ...]; the last row fills what is missing."""
    missing = -len(array) % size
    filled = jnp.concatenate([array, jnp.repeat(array[-1:], missing, axis=0)])
    return filled.reshape(-1, size, *array.shape[1:])


def shard_rays(tree: Tree) -> Tree:
    """Arrays [R, ...] sharded as the rule "rays" has it; unchanged where no mesh is set."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return tree
    spec = PartitionSpec(BATCH_MESH_AXES)
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, spec), tree)


def render_rays(
    config: RadianceConfig,
    params: Tree,
    rays: Rays,
    key: Key[Array, ""] | None = None,
    background: Float[Array, "*#R 3"] | None = None,
    *,
    numbers: Array | None = None,
    normals: bool = False,
) -> tuple[Rendering, Float[Array, "R 3"] | None]:
    """What R rays see: the renderer without images, for training on random pixels.

    Args:
      config: the radiance field.
      params: its parameters.
      rays: [R, 3].
      key: where samples are in their intervals; None: midpoints.
      background: a colour, or one for each ray; None: the configuration's.
      numbers: [R], with which the key is folded; None: 0, 1, ...
      normals: whether normals are computed.

    Returns:
      The rendering; and the colour by the coarse network, for the original's loss on both, None
      without one.
    """
    if background is None:
        background = jnp.asarray(config.background)
    fine, coarse_colour = _Field(config.field, params[FINE]), None
    jitters = _jitters(config, rays, key, numbers)
    edges = even_edges(*_ends(config, rays), config.coarse_samples)
    if config.two_networks:
        coarse = _Field(config.field, params[COARSE])
        first = _shade(coarse, rays, edges, jitters[0], background)
        coarse_colour = first.colour
        placed = _place(config, edges, first.weights, jitters[1], config.fine_samples + 1)
        edges = jnp.sort(jnp.concatenate([edges, placed[..., 1:-1]], axis=-1), axis=-1)
    elif config.fine_samples:
        frozen = _Field(config.field, jax.lax.stop_gradient(params[FINE]))
        weights = _density_weights(frozen, jax.lax.stop_gradient(rays), edges, jitters[0])
        edges = _place(config, edges, weights, jitters[1], config.fine_samples)
    return _shade(fine, rays, edges, jitters[2], background, normals), coarse_colour


class _Field:
    """A field with its parameters."""

    def __init__(self, config: Any, params: Tree) -> None:
        self.apply = config.make_model().apply
        self.variables = {"params": params}

    def __call__(self, x: Array, direction: Array) -> FieldOutput:
        return self.apply(self.variables, x, direction)

    def density(self, x: Array) -> Array:
        return self.apply(self.variables, x, method="density")

    def normals(self, x: Array) -> Array:
        """Unit vectors against the gradient of density; 0 where there is none."""
        slope = jax.grad(lambda x: self.density(x).sum())(x)
        return -slope * jax.lax.rsqrt(jnp.maximum((slope**2).sum(-1, keepdims=True), 1e-20))


def _shade(
    field: _Field,
    rays: Rays,
    edges: Array,
    jitter: Array | None,
    background: Array,
    normals: bool = False,
) -> Rendering:
    """Density and colour at one point of each interval, and the sum."""
    distances = stratified_distances(edges, jitter)
    points = rays.points(distances)
    output = field(points, jnp.broadcast_to(rays.direction[..., None, :], points.shape))
    weights = render_weights(output.density, edges)
    return Rendering(
        colour=composite(weights, output.colour, background),
        opacity=weights.sum(axis=-1),
        depth=expected_depth(weights, distances),
        weights=weights,
        normals=(weights[..., None] * field.normals(points)).sum(axis=-2) if normals else None,
    )


def _density_weights(field: _Field, rays: Rays, edges: Array, jitter: Array | None) -> Array:
    return render_weights(field.density(rays.points(stratified_distances(edges, jitter))), edges)


def _place(
    config: RadianceConfig, edges: Array, weights: Array, jitter: Array | None, samples: int
) -> Array:
    return resampled_edges(edges, weights, samples, jitter, config.padding)


def _ends(config: RadianceConfig, rays: Rays) -> tuple[Array, Array]:
    """Where rays begin and end; one that is none, or misses the box, ends where it begins."""
    begin = jnp.full_like(rays.origin[..., 0], config.near)
    end = jnp.full_like(begin, config.far)
    if config.box is not None:
        entry, exit = ray_box(rays, *config.box)
        begin = jnp.clip(entry, begin, end)
        end = jnp.clip(exit, begin, end)
    return begin, end if rays.valid is None else jnp.where(rays.valid, end, begin)


def _jitters(
    config: RadianceConfig, rays: Rays, key: Array | None, numbers: Array | None
) -> list[Array] | list[None]:
    """Uniform numbers for the first points, for placing edges, and for the last points."""
    if key is None:
        return [None, None, None]
    coarse, fine = config.coarse_samples, config.fine_samples
    both = config.two_networks
    first = coarse if fine else 0
    counts = [first, fine if both else max(fine - 1, 0), coarse + fine if both else fine or coarse]
    numbers = jnp.arange(len(rays.origin)) if numbers is None else numbers
    uniform = ray_jitter(key, numbers, sum(counts))
    return jnp.split(uniform, [counts[0], counts[0] + counts[1]], axis=-1)
