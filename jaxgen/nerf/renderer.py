"""Radiance fields as a configuration: a field, where rays are sampled, the background.

With it and parameters a field is rendered::

    render = jax.jit(config.make_render())
    rendering = render(params, cameras)

Rays are sampled in one of four ways. With ``two_networks`` as in the original (Mildenhall et al.
2020, section 5.2): a coarse network at even intervals, and a fine one at these and at intervals
placed by the weights of the coarse one. With ``proposals`` (Barron et al. 2022, section 3): small
densities with networks of their own, each at intervals placed by the one before, and the field at
those placed by the last. Without either, one field twice: its density at even intervals, without
gradient, then density and colour at the intervals so placed. Or, with no fine samples, the field at
even intervals.

Every sample is the midpoint of its interval, or with a key a uniform point of it. Intervals are
even in s from 0 to 1, ``s = (g(t) - g(near)) / (g(far) - g(near))``, with ``spacing``

    linear       g(t) = t
    inverse      g(t) = -1 / t: even in disparity (Barron et al. 2022, equation 11)
    piecewise    g(t) = t / 2 to distance 1, 1 - 1 / (2 t) beyond: for scenes around the unit ball
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
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
from jaxgen.nerf.spacing import Spacing, spaced_distances
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
      weights: [..., S], of the samples that colour is the sum of. None of a renderer that has no
        fixed number of them.
      normals: [..., 3], ``sum_i w_i n_i`` of the unit vectors n against the gradient of density, in
        world coordinates: shorter than 1 where opacity is, or where n disagree. None unless they
        are wanted.
    """

    colour: Float[Array, "*B 3"]
    opacity: Float[Array, "*B"]
    depth: Float[Array, "*B"]
    weights: Float[Array, "*B S"] | None
    normals: Float[Array, "*B 3"] | None


class RayWeights(NamedTuple):
    """How much of R rays is absorbed in their intervals.

    Attributes:
      edges: [R, S + 1], in s, from 0 to 1.
      weights: [R, S].
      colour: [R, 3] of a coarse network; None of a proposal, which has none.
    """

    edges: Float[Array, "R S1"]
    weights: Float[Array, "R S"]
    colour: Float[Array, "R 3"] | None = None


class RenderedRays(NamedTuple):
    """What rays see, and what losses on their samples need.

    Attributes:
      rendering: of the field, [R, ...].
      final: weights of the field.
      earlier: weights by which its intervals were placed and which have gradients: of the coarse
        network, or of all proposals.
    """

    rendering: Rendering
    final: RayWeights
    earlier: tuple[RayWeights, ...] = ()


@dataclass(frozen=True)
class ProposalConfig:
    """A density that places intervals.

    Attributes:
      field: of which the density alone is used.
      samples: intervals at which it is evaluated.
    """

    field: Any
    samples: int


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
      spacing: of even intervals, see the module.
      proposals: densities that place intervals, in place of ``coarse_samples``; the field has
        ``fine_samples``.

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
    spacing: Spacing = "linear"
    proposals: tuple[ProposalConfig, ...] = ()

    def __post_init__(self) -> None:
        if self.spacing == "inverse" and not self.near > 0:
            raise InputError(f"near is {self.near} with spacing 'inverse', expected near > 0")
        if self.proposals and (self.two_networks or not self.fine_samples):
            raise InputError(
                "proposals are given with two_networks or without fine_samples, expected one field "
                "and fine_samples of 1 or more"
            )
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
        """Where the field has density; None: rays are sampled from near to far."""
        return self.field.bounds

    def make_init(self) -> Callable[[Array], Tree]:
        """``key -> parameters``, with logical axes.

        "fine" of the field, "coarse" of two networks, "proposal_0", ... of proposals.
        """
        names = (FINE, COARSE) if self.two_networks else (FINE,)
        proposed = [proposal_name(i) for i in range(len(self.proposals))]

        def init(key: Array) -> Tree:
            every = (*names, *proposed)
            keys = dict(zip(every, jax.random.split(key, len(every)), strict=True))
            point, model = jnp.zeros((1, 3)), self.field.make_model()
            params = {name: model.init(keys[name], point, point)["params"] for name in names}
            for name, proposal in zip(proposed, self.proposals, strict=True):
                model = proposal.field.make_model()
                params[name] = model.init(keys[name], point, method="density")["params"]
            return params

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
                found = render_rays(
                    self, params, rays, key, background, numbers=number_R, normals=normals
                )
                return shard_rays(found.rendering)

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
    anneal: Float[Array, "R"] | float = 1.0,
) -> RenderedRays:
    """What R rays see: the renderer without images, for training on random pixels.

    Args:
      config: the radiance field.
      params: its parameters.
      rays: [R, 3].
      key: where samples are in their intervals; None: midpoints.
      background: a colour, or one for each ray; None: the configuration's.
      numbers: [R], with which the key is folded; None: 0, 1, ...
      normals: whether normals are computed.
      anneal: power of the weights by which proposals place intervals, rising from 0 to 1 early in
        training (Barron et al. 2022, equation 18).
    """
    if background is None:
        background = jnp.asarray(config.background)
    along, fine = _Along(config, rays), _Field(config.field, params[FINE])
    counts = _sample_counts(config)
    jitters = _jitters(counts, rays, key, numbers)
    even = config.proposals[0].samples if config.proposals else config.coarse_samples
    edges = even_edges(along.zero, along.zero + 1, even)
    earlier: list[RayWeights] = []
    if config.two_networks:
        coarse = _Field(config.field, params[COARSE])
        first = _shade(coarse, along, edges, jitters[0], background)
        earlier.append(RayWeights(edges, first.weights, first.colour))
        placed = _place(config, edges, first.weights, jitters[1], config.fine_samples + 1)
        edges = jnp.sort(jnp.concatenate([edges, placed[..., 1:-1]], axis=-1), axis=-1)
    elif config.proposals:
        for i, proposal in enumerate(config.proposals):
            field = _Field(proposal.field, params[proposal_name(i)])
            weights = _density_weights(field, along, edges, jitters[2 * i])
            earlier.append(RayWeights(edges, weights))
            power = jnp.broadcast_to(anneal, along.zero.shape)[..., None]
            annealed = jax.lax.stop_gradient(weights) ** power
            following = [*(p.samples for p in config.proposals[1:]), config.fine_samples][i]
            edges = _place(config, edges, annealed, jitters[2 * i + 1], following)
    elif config.fine_samples:
        frozen = _Field(config.field, jax.lax.stop_gradient(params[FINE]))
        weights = _density_weights(frozen, along, edges, jitters[0])
        weights = jax.lax.stop_gradient(weights)
        edges = _place(config, edges, weights, jitters[1], config.fine_samples)
    rendering = _shade(fine, along, edges, jitters[-1], background, normals)
    return RenderedRays(rendering, RayWeights(edges, rendering.weights), tuple(earlier))


def proposal_name(i: int) -> str:
    """Of the parameters of a proposal."""
    return f"proposal_{i}"


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


class _Along:
    """Rays between the distances where they begin and end; one that is none, or misses the box,
    ends where it begins.
    """

    def __init__(self, config: RadianceConfig, rays: Rays) -> None:
        self.rays, self.spacing = rays, config.spacing
        self.zero = jnp.zeros_like(rays.origin[..., 0])
        begin, end = self.zero + config.near, self.zero + config.far
        if config.box is not None:
            entry, exit = ray_box(rays, *config.box)
            begin = jnp.clip(entry, begin, end)
            end = jnp.clip(exit, begin, end)
        self.begin = begin
        self.end = end if rays.valid is None else jnp.where(rays.valid, end, begin)

    def distances(self, s: Array) -> Array:
        """t of s."""
        return spaced_distances(self.spacing, self.begin, self.end, s)


def _shade(
    field: _Field,
    along: _Along,
    edges: Array,
    jitter: Array | None,
    background: Array,
    normals: bool = False,
) -> Rendering:
    """Density and colour at one point of each interval, and the sum."""
    distances = along.distances(stratified_distances(edges, jitter))
    points = along.rays.points(distances)
    output = field(points, jnp.broadcast_to(along.rays.direction[..., None, :], points.shape))
    weights = render_weights(output.density, along.distances(edges))
    return Rendering(
        colour=composite(weights, output.colour, background),
        opacity=weights.sum(axis=-1),
        depth=expected_depth(weights, distances),
        weights=weights,
        normals=(weights[..., None] * field.normals(points)).sum(axis=-2) if normals else None,
    )


def _density_weights(field: _Field, along: _Along, edges: Array, jitter: Array | None) -> Array:
    """Weights of a density alone; samples are where they are, so cameras get no gradient here."""
    distances = jax.lax.stop_gradient(along.distances(stratified_distances(edges, jitter)))
    points = jax.lax.stop_gradient(along.rays.points(distances))
    return render_weights(field.density(points), jax.lax.stop_gradient(along.distances(edges)))


def _place(
    config: RadianceConfig, edges: Array, weights: Array, jitter: Array | None, samples: int
) -> Array:
    return resampled_edges(edges, weights, samples, jitter, config.padding)


def _sample_counts(config: RadianceConfig) -> list[int]:
    """Random numbers of a ray: for points of intervals, for placing edges, ..., for last points."""
    coarse, fine = config.coarse_samples, config.fine_samples
    if config.two_networks:
        return [coarse, fine, coarse + fine]
    if config.proposals:
        samples = [*(proposal.samples for proposal in config.proposals), fine]
        both = itertools.pairwise(samples)
        return [*(count for own, following in both for count in (own, following - 1)), fine]
    return [coarse, fine - 1, fine] if fine else [0, 0, coarse]


def _jitters(
    counts: list[int], rays: Rays, key: Array | None, numbers: Array | None
) -> list[Array] | list[None]:
    """Uniform numbers, as many of each kind as are counted."""
    if key is None:
        return [None] * len(counts)
    numbers = jnp.arange(len(rays.origin)) if numbers is None else numbers
    uniform = ray_jitter(key, numbers, sum(counts))
    return jnp.split(uniform, np.cumsum(counts)[:-1].tolist(), axis=-1)
