"""Radiance fields as a configuration: a field, where rays are sampled, the background.

With it and parameters a field is rendered::

    render = jax.jit(config.make_render())
    rendering = render(params, cameras)

Rays are sampled in one of six ways. With ``two_networks`` as in the original (Mildenhall et al.
2020, section 5.2): a coarse network at even intervals, and a fine one at these and at intervals
placed by the weights of the coarse one. With ``coarse_colour`` as in mip-NeRF (Barron et al. 2021):
one network at even intervals, and once more at intervals placed by their weights. With
``proposals`` (Barron et al. 2022, section 3): small densities with networks of their own, each at
intervals placed by the one before, and the field at those placed by the last. With ``occupancy``
(Müller et al. 2022): where cells of a grid are occupied, in budgets of samples
(`jaxgen.nerf.packed_rays`). With none of these, one field twice: its density at even intervals,
without gradient, then density and colour at the intervals so placed. Or, with no fine samples, the
field at even intervals.

Every sample is the midpoint of its interval, or with a key a uniform point of it. (Of an integrated
encoding it is the Gaussian of the cone's piece, and with a key the even intervals have random
edges.) Intervals are even in s from 0 to 1, ``s = (g(t) - g(near)) / (g(far) - g(near))``, with
``spacing``

    linear       g(t) = t
    inverse      g(t) = -1 / t: even in disparity (Barron et al. 2022, equation 11)
    piecewise    g(t) = t / 2 to distance 1, 1 - 1 / (2 t) beyond: for scenes around the unit ball
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from jaxgen.errors import InputError, check_not_negative
from jaxgen.nerf.cameras import Box, Cameras, Rays, camera_rays
from jaxgen.nerf.distance_field import DistanceFieldConfig
from jaxgen.nerf.fields import FieldOutput, SampleContext
from jaxgen.nerf.grid_field import HashFieldConfig
from jaxgen.nerf.ndc import NdcConfig
from jaxgen.nerf.ndc_rendering import cube_span, density_in_cube, rendered_in_the_world
from jaxgen.nerf.occupancy import OccupancyConfig, measure_cells
from jaxgen.nerf.packed_rays import render_packed, render_to_the_end
from jaxgen.nerf.ray_chunks import ray_chunk_size, ray_chunks, shard_rays
from jaxgen.nerf.ray_passes import BoundField, RaySpan, density_weights, shade_rays
from jaxgen.nerf.ray_samples import (
    blurred_weights,
    even_edges,
    jittered_edges,
    ray_jitter,
    resampled_edges,
)
from jaxgen.nerf.rendering import RayWeights, Render, RenderedRays, Rendering
from jaxgen.nerf.spacing import Spacing
from jaxgen.nerf.surroundings import SurroundingsConfig
from jaxgen.nerf.view_parameters import ViewConfig, expose, view_codes
from jaxgen.typing import Tree

COARSE, FINE, VIEWS, SURROUNDINGS = "coarse", "fine", "views", "surroundings"
"""Names of the parameters; a field alone is "fine"."""


@dataclass(frozen=True)
class ProposalConfig:
    """A density that places intervals.

    Attributes:
      field: of which the density alone is used.
      samples: intervals at which it is evaluated.
    """

    field: Any
    samples: int


@dataclass(frozen=True)
class RadianceConfig:
    """A radiance field that can be rendered.

    Attributes:
      field: the configuration of a field, with ``make_model()`` and ``bounds``.
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
      coarse_colour: whether the one network is rendered at the even intervals too.
      occupancy: guides samples by the occupied cells of the field's box.
      views: what is learned of the photographs beside the field.
      surroundings: a network for the colour of the background by direction, in place of
        ``background``.
      ndc: the cube of normalised device coordinates in which the field is and rays are sampled, all
        of each, in place of ``near`` and ``far``. Depths and normals are those of the world.

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
    coarse_colour: bool = False
    occupancy: OccupancyConfig | None = None
    views: ViewConfig | None = None
    surroundings: SurroundingsConfig | None = None
    ndc: NdcConfig | None = None

    def __post_init__(self) -> None:
        if self.spacing == "inverse" and not self.near > 0:
            raise InputError(f"near is {self.near} with spacing 'inverse', expected near > 0")
        if self.proposals and (self.two_networks or not self.fine_samples):
            raise InputError(
                "proposals are given with two_networks or without fine_samples, expected one field "
                "and fine_samples of 1 or more"
            )
        ways = [self.two_networks, self.coarse_colour, bool(self.proposals), bool(self.occupancy)]
        if sum(ways) > 1:
            raise InputError(
                "two_networks, coarse_colour, proposals and occupancy are given together, expected "
                "one of them at most"
            )
        if self.occupancy and self.field.bounds is None:
            raise InputError("occupancy is given with a field that has no box, expected one")
        if self.ndc is not None:
            self._check_ndc()
        if not 0 <= self.near < self.far:
            raise InputError(f"near is {self.near} with far={self.far}, expected 0 <= near < far")
        for name, least in (("coarse_samples", 1), ("fine_samples", 0), ("chunk", 1)):
            if getattr(self, name) < least:
                raise InputError(f"{name} is {getattr(self, name)}, expected {least} or more")
        for name in ("two_networks", "coarse_colour"):
            if getattr(self, name) and not self.fine_samples:
                raise InputError(f"fine_samples is 0 with {name}, expected 1 or more")
        check_not_negative("padding", self.padding)
        if len(self.background) != 3 or not all(0 <= part <= 1 for part in self.background):
            raise InputError(f"background is {self.background}, expected 3 numbers in [0, 1]")

    def _check_ndc(self) -> None:
        if self.footprints or self.proposals or self.spacing != "linear" or self.box is not None:
            raise InputError(
                "ndc is given with an integrated encoding, proposals, a box or spacing, "
                "expected a field of points without a box, at even and placed intervals"
            )

    @property
    def box(self) -> Box | None:
        """Where the field has density; None: rays are sampled from near to far."""
        return self.field.bounds

    @property
    def footprints(self) -> bool:
        """Whether rays need the radius of their cones."""
        return self.field.uses_covariance

    def make_init(self) -> Callable[[Array], Tree]:
        """``key -> parameters``, with logical axes.

        "fine" of the field, "coarse" of two networks, "proposal_0", ... of proposals, "views" of
        photographs, "surroundings" of the background.
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
            own = jax.random.split(jax.random.fold_in(key, 1))
            if self.views is not None and self.views.learns:
                params[VIEWS] = self.views.init(own[0])
            if self.surroundings is not None:
                params[SURROUNDINGS] = self.surroundings.make_model().init(own[1], point)["params"]
            return params

        return init

    def make_density(self, params: Tree) -> Callable[[Array], Array]:
        """``points [..., 3] -> density [...]`` of the (fine) field, in world coordinates."""
        density = BoundField(self.field, params[FINE]).density
        return (
            density if self.ndc is None else functools.partial(density_in_cube, self.ndc, density)
        )

    def make_distance(self, params: Tree) -> Callable[[Array], Array] | None:
        """``points [..., 3] -> signed distance [...]``, negative inside; None of other fields."""
        if not isinstance(self.field, DistanceFieldConfig):
            return None
        return BoundField(self.field, params[FINE]).distance

    def make_field(self, params: Tree) -> Callable[[Array, Array], FieldOutput]:
        """``(points [..., 3], unit directions [..., 3]) -> density and colour`` of the same.

        Of photographs with codes, with the mean of all codes.
        """
        field = BoundField(self.field, params[FINE])
        code = view_codes(params[VIEWS], None) if VIEWS in params else None
        context = SampleContext(code=None if code is None else code[0])
        place = (lambda x: x) if self.ndc is None else (lambda x: self.ndc.points(x)[0])
        return lambda x, direction: field(place(x), direction, context)

    def make_cells(self) -> Callable[[Tree], Bool[Array, "X Y Z"]]:
        """``params -> the occupied cells`` of a field with an occupancy grid."""
        assert self.occupancy is not None
        assert self.box is not None
        occupancy, box = self.occupancy, self.box
        return lambda params: measure_cells(occupancy, self.make_density(params), box)

    def make_render(self, *, normals: bool = False, to_the_end: bool = False) -> Render:
        """A renderer of whole images, pure and differentiable in parameters and cameras.

        Rays are rendered in chunks of one size, the last one filled up, so that memory does not
        grow with the images, nor does that of a gradient, which renders each chunk once more.
        Compiled with `jax.jit`, it is one program for all cameras of one
        number and size of image. Rays are sharded over the mesh axes of the rule "rays", where a
        mesh is set.

        Args:
          normals: whether normals are computed, which takes the gradient of density.
          to_the_end: of a field with an occupancy grid, whether all samples of all rays are
            evaluated however many there are, and none where almost no light passes. Without, what
            is over the budgets is left out and marked. Not differentiable.
        """
        if to_the_end and self.occupancy is None:
            raise InputError("to_the_end is True without occupancy, expected False")

        def render(
            params: Tree,
            cameras: Cameras,
            *,
            key: Key[Array, ""] | None = None,
            background: Float[Array, "3"] | None = None,
            bounds: Float[Array, "2"] | None = None,
            cells: Bool[Array, "X Y Z"] | None = None,
        ) -> Rendering:
            rays = camera_rays(cameras, footprints=self.footprints)
            rays = jax.tree.map(lambda x: x.reshape(-1, *x.shape[3:]), rays)
            count = rays.origin.shape[0]
            size = ray_chunk_size(self.chunk, count)

            # A gradient computes each chunk again, rather than keep what all of them computed.
            @functools.partial(jax.checkpoint, prevent_cse=False)
            def render_chunk(part: tuple[Rays, Array]) -> Rendering:
                rays, number_R = shard_rays(part)
                if to_the_end:
                    return shard_rays(
                        render_rays_to_the_end(
                            self,
                            params,
                            rays,
                            background,
                            bounds=bounds,
                            cells=cells,
                            normals=normals,
                        )
                    )
                found = render_rays(
                    self,
                    params,
                    rays,
                    key,
                    background,
                    numbers=number_R,
                    normals=normals,
                    bounds=bounds,
                    cells=cells,
                )
                return shard_rays(found.rendering)

            numbered = rays, jnp.arange(count)
            chunks = jax.tree.map(lambda x: ray_chunks(x, size), numbered)
            found = jax.lax.map(render_chunk, chunks)
            shape = len(cameras), cameras.height, cameras.width

            def join(x: Array) -> Array:
                return x.reshape(-1, *x.shape[2:])[:count].reshape(*shape, *x.shape[2:])

            return jax.tree.map(join, found)

        return render


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
    progress: Float[Array, ""] | None = None,
    view: Int[Array, "R"] | None = None,
    bounds: Float[Array, "2"] | None = None,
    cells: Bool[Array, "X Y Z"] | None = None,
) -> RenderedRays:
    """What R rays see: the renderer without images, for training on random pixels.

    Args:
      config: the radiance field.
      params: its parameters.
      rays: [R, 3]; with radius where ``config.footprints``.
      key: where samples are in their intervals; None: midpoints.
      background: a colour, or one for each ray; None: the configuration's.
      numbers: [R], with which the key is folded; None: 0, 1, ...
      normals: whether normals are computed.
      anneal: power of the weights by which proposals place intervals, rising from 0 to 1 early in
        training (Barron et al. 2022, equation 18).
      progress: the share of the training that is done; None: all of it.
      view: [R], which photograph a ray is of, for its code and exposure; None: of none, with the
        mean of all codes.
      bounds: distances where rays begin and end; None: the configuration's.
      cells: which cells of the box are occupied; None: all.
    """
    background = _background(config, params, rays, background)
    span = _span(config, rays, bounds)
    fine = BoundField(config.field, params[FINE], progress)
    counts = _sample_counts(config)
    jitters = _jitters(counts, rays, key, numbers)
    code = None if VIEWS not in params else view_codes(params[VIEWS], view)
    if config.occupancy is not None:
        assert config.box is not None
        jitter = None if jitters[0] is None else jitters[0][:, 0]
        if code is not None:
            code = jnp.broadcast_to(code, (len(span.zero), code.shape[-1]))
        found = render_packed(
            config.occupancy,
            fine,
            span,
            config.box,
            background,
            cells=cells,
            jitter=jitter,
            code=code,
            normals=normals,
        )
        return found._replace(rendering=_exposed(params, view, found.rendering))
    even = config.proposals[0].samples if config.proposals else config.coarse_samples
    edges = even_edges(span.zero, span.zero + 1, even)
    if config.footprints and jitters[0] is not None:
        edges = jittered_edges(edges, jitters[0])
    earlier: tuple[RayWeights, ...] = ()
    if config.two_networks or config.coarse_colour:
        coarse = BoundField(config.field, params[COARSE if config.two_networks else FINE], progress)
        first, _ = shade_rays(coarse, span, edges, jitters[0], background, code=code)
        edges, earlier = _after_colours(config, edges, first, jitters[1])
    elif config.proposals:
        fields = [
            BoundField(proposal.field, params[proposal_name(i)], progress)
            for i, proposal in enumerate(config.proposals)
        ]
        edges, earlier = _after_proposals(config, fields, span, edges, jitters, anneal)
    elif config.fine_samples:
        frozen = BoundField(config.field, jax.lax.stop_gradient(params[FINE]), progress)
        weights = jax.lax.stop_gradient(density_weights(frozen, span, edges, jitters[0]))
        edges = _place(config, edges, weights, jitters[1], config.fine_samples)
    rendering, gradient = shade_rays(
        fine, span, edges, jitters[-1], background, code=code, normals=normals
    )
    assert rendering.weights is not None
    final = RayWeights(edges, rendering.weights)
    if config.ndc is not None:
        rendering = rendered_in_the_world(config.ndc, rays, span, rendering)
    rendering = _exposed(params, view, rendering)
    return RenderedRays(rendering, final, earlier, gradient)


def _after_colours(
    config: RadianceConfig, edges: Array, first: Rendering, jitter: Array | None
) -> tuple[Array, tuple[RayWeights, ...]]:
    """Edges of the fine pass, placed by the weights of a coarse rendering; and that rendering's."""
    assert first.weights is not None
    coarse = RayWeights(edges, first.weights, first.colour)
    if not config.two_networks:
        weights = blurred_weights(first.weights)
        return _place(config, edges, weights, jitter, config.fine_samples), (coarse,)
    # The fine network is evaluated at the even intervals too.
    placed = _place(config, edges, first.weights, jitter, config.fine_samples + 1)
    joined = jnp.concatenate([edges, placed[..., 1:-1]], axis=-1)
    return jnp.sort(joined, axis=-1), (coarse,)


def _after_proposals(
    config: RadianceConfig,
    fields: Sequence[BoundField],
    span: RaySpan,
    edges: Array,
    jitters: Sequence[Array | None],
    anneal: Array | float,
) -> tuple[Array, tuple[RayWeights, ...]]:
    """Edges placed by the last of the proposals, each at those placed by the one before; weights of
    all.
    """
    earlier = []
    samples = [*(proposal.samples for proposal in config.proposals[1:]), config.fine_samples]
    power = jnp.broadcast_to(anneal, span.zero.shape)[..., None]
    for i, (field, following) in enumerate(zip(fields, samples, strict=True)):
        weights = density_weights(field, span, edges, jitters[2 * i])
        earlier.append(RayWeights(edges, weights))
        annealed = jax.lax.stop_gradient(weights) ** power
        edges = _place(config, edges, annealed, jitters[2 * i + 1], following)
    return edges, tuple(earlier)


def render_rays_to_the_end(
    config: RadianceConfig,
    params: Tree,
    rays: Rays,
    background: Float[Array, "*#R 3"] | None = None,
    *,
    bounds: Float[Array, "2"] | None = None,
    cells: Bool[Array, "X Y Z"] | None = None,
    normals: bool = False,
) -> Rendering:
    """What R rays see of a field with an occupancy grid, whatever its budgets.

    Arguments are those of `render_rays`. Not differentiable.
    """
    assert config.occupancy is not None
    assert config.box is not None
    span = RaySpan(rays, *_bounds(config, bounds), config.box, config.spacing)
    field = BoundField(config.field, params[FINE])
    background = _background(config, params, rays, background)
    code = None if VIEWS not in params else view_codes(params[VIEWS], None)
    return render_to_the_end(
        config.occupancy,
        field,
        span,
        config.box,
        background,
        cells=cells,
        code=code,
        normals=normals,
    )


def proposal_name(i: int) -> str:
    """Of the parameters of a proposal."""
    return f"proposal_{i}"


def _span(config: RadianceConfig, rays: Rays, bounds: Array | None) -> RaySpan:
    """The rays between their ends: all of them, where they are in normalised device coordinates."""
    if config.ndc is None:
        return RaySpan(rays, *_bounds(config, bounds), config.box, config.spacing)
    if bounds is not None:
        raise InputError("bounds are given with ndc, expected none: rays end at infinity")
    return cube_span(config.ndc, rays)


def _bounds(config: RadianceConfig, bounds: Array | None) -> tuple[Array | float, Array | float]:
    return (config.near, config.far) if bounds is None else (bounds[0], bounds[1])


def _background(
    config: RadianceConfig, params: Tree, rays: Rays, background: Array | None
) -> Array:
    """What is given, else what the surroundings are in each ray's direction, else one colour."""
    if background is not None:
        return background
    if config.surroundings is None:
        return jnp.asarray(config.background)
    model = config.surroundings.make_model()
    return model.apply({"params": params[SURROUNDINGS]}, rays.direction)


def _exposed(params: Tree, view: Array | None, rendering: Rendering) -> Rendering:
    if VIEWS not in params:
        return rendering
    return dataclasses.replace(rendering, colour=expose(params[VIEWS], view, rendering.colour))


def _place(
    config: RadianceConfig, edges: Array, weights: Array, jitter: Array | None, samples: int
) -> Array:
    return resampled_edges(edges, weights, samples, jitter, config.padding)


def _sample_counts(config: RadianceConfig) -> list[int]:
    """Random numbers of a ray: for points of intervals, for placing edges, ..., for last points."""
    coarse, fine = config.coarse_samples, config.fine_samples
    if config.occupancy is not None:
        return [1]
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
