"""Rays whose samples are only where space is occupied, in budgets of samples.

A ray has a step wherever its even steps meet an occupied cell, so rays have any number of them,
none where nothing is. The steps of all rays are packed into slots, ray after ray, as many as the
budget has; shapes stay static and empty space costs nothing. What does not fit is counted: its rays
are marked as left out.

To pack is to find the s-th of the steps that are occupied. Occupied steps are bits, 32 to a word;
words are counted, and a bit is found within a word by halving it. No array of all steps has its
cumulative sum taken.
"""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Int, UInt32

from jaxgen.axes import BATCH_MESH_AXES
from jaxgen.nerf.cameras import Box
from jaxgen.nerf.fields import SampleContext
from jaxgen.nerf.occupancy import OccupancyConfig, cell_is_occupied
from jaxgen.nerf.ray_passes import BoundField, RaySpan, normals_of
from jaxgen.nerf.rendering import RenderedRays, Rendering
from jaxgen.nerf.volume_rendering import EPSILON
from jaxgen.typing import Tree

WORD, ROW = 32, 512
"""Bits of a word; candidates of a row, when those that weigh something are packed once more."""


class OccupiedSteps(NamedTuple):
    """The occupied steps of R rays, as bits.

    Attributes:
      words: [R, W], bit b of word w is step 32 w + b.
      before: [R, W], how many steps the words before hold.
      total: [R], how many steps all hold.
    """

    words: UInt32[Array, "R W"]
    before: Int[Array, "R W"]
    total: Int[Array, "R"]


class Slots(NamedTuple):
    """Which ray and which step fill the slots of a budget.

    Attributes:
      ray: [S], rising.
      step: [S].
      filled: [S]; the slots at the end may be empty.
      fits: [R], whether all steps of a ray have their slots.
    """

    ray: Int[Array, "S"]
    step: Int[Array, "S"]
    filled: Bool[Array, "S"]
    fits: Bool[Array, "R"]


def pack_bits(bits: Bool[Array, "R N"]) -> OccupiedSteps:
    """Booleans as `OccupiedSteps`; N is a multiple of 32."""
    grouped = bits.reshape(len(bits), -1, WORD).astype(jnp.uint32)
    words = (grouped << jnp.arange(WORD, dtype=jnp.uint32)).sum(axis=-1, dtype=jnp.uint32)
    counts = jax.lax.population_count(words).astype(jnp.int32)
    total = jnp.cumsum(counts, axis=-1)
    return OccupiedSteps(words, total - counts, total[:, -1])


def shard_slots(tree: Tree) -> Tree:
    """Arrays [S, ...] sharded over the devices that share the rays, where a mesh is set.

    Slots are filled by the rays of all devices together, so that budgets, and what is left out, do
    not depend on the mesh; without this every device would evaluate the field in all slots. Where
    the devices do not divide S, they do.
    """
    mesh = jax.sharding.get_abstract_mesh()
    shards = 1 if mesh.empty else math.prod(mesh.shape[axis] for axis in BATCH_MESH_AXES)
    if shards == 1 or any(len(x) % shards for x in jax.tree.leaves(tree)):
        return tree
    spec = PartitionSpec(BATCH_MESH_AXES)
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, spec), tree)


def gather_slots(tree: Tree) -> Tree:
    """The same on every device: a scan over slots in parts would send in each of its rounds."""
    mesh = jax.sharding.get_abstract_mesh()
    return tree if mesh.empty else jax.lax.with_sharding_constraint(tree, PartitionSpec())


def fill_slots(
    steps: OccupiedSteps,
    slots: int,
    taken: Int[Array, "R"] | None = None,
    most: Array | int | None = None,
) -> Slots:
    """Fills slots with the steps of rays, ray after ray, each ray's in order.

    Args:
      steps: of the rays.
      slots: S, the budget.
      taken: how many steps of each ray have had their turn; None: none.
      most: how many steps of one ray have slots at a time; None: all of them.
    """
    taken = jnp.zeros_like(steps.total) if taken is None else taken
    wanted = steps.total - taken
    wanted = wanted if most is None else jnp.minimum(wanted, most)
    end = gather_slots(jnp.cumsum(wanted))
    slot = jnp.arange(slots)
    ray = jnp.searchsorted(end, slot, side="right").astype(jnp.int32)
    ray = jnp.minimum(ray, len(end) - 1)
    rank = slot - (end - wanted)[ray] + taken[ray]
    word = _last_word(steps.before[ray], rank)
    own = jnp.take_along_axis(steps.words[ray], word[:, None], axis=1)[:, 0]
    rank_in_word = rank - jnp.take_along_axis(steps.before[ray], word[:, None], axis=1)[:, 0]
    step = word * WORD + _bit_of_rank(own, rank_in_word)
    return Slots(ray, step, slot < end[-1], end <= slots)


def _last_word(before: Int[Array, "S W"], rank: Int[Array, "S"]) -> Int[Array, "S"]:
    """The word that holds a rank: the last of those that begin at or before it."""
    return jnp.maximum((before <= rank[:, None]).sum(axis=1) - 1, 0)


def _bit_of_rank(word: UInt32[Array, "S"], rank: Int[Array, "S"]) -> Int[Array, "S"]:
    """The position of a word's set bit of some rank, by halves."""
    position = jnp.zeros_like(rank)
    for half in (16, 8, 4, 2, 1):
        low = (word >> position.astype(jnp.uint32)) & jnp.uint32((1 << half) - 1)
        count = jax.lax.population_count(low).astype(rank.dtype)
        beyond = rank >= count
        rank = jnp.where(beyond, rank - count, rank)
        position = jnp.where(beyond, position + half, position)
    return position


def sum_before(value: Float[Array, "S"], ray: Int[Array, "S"]) -> Float[Array, "S"]:
    """Of each slot the sum over the slots of the same ray before it.

    A scan that starts at 0 for each ray: differences of sums over all rays would lose what is small
    beside what is large, and optical depths may be 1e10.
    """
    value, ray = gather_slots((value, ray))
    first = jnp.concatenate([jnp.ones((1,), bool), ray[1:] != ray[:-1]])
    shifted = jnp.where(first, 0, jnp.concatenate([jnp.zeros_like(value[:1]), value[:-1]]))

    def add(a: tuple[Array, Array], b: tuple[Array, Array]) -> tuple[Array, Array]:
        return jnp.where(b[1], b[0], a[0] + b[0]), a[1] | b[1]

    return gather_slots(jax.lax.associative_scan(add, (shifted, first))[0])


class _March:
    """Steps of rays through the occupied cells of a box."""

    def __init__(
        self,
        config: OccupancyConfig,
        span: RaySpan,
        box: Box,
        cells: Bool[Array, "X Y Z"] | None,
        jitter: Float[Array, "R"] | None,
    ) -> None:
        self.span, self.length = span, config.step_length(box)
        self.begin = jax.lax.stop_gradient(span.begin)
        self.share = jnp.full_like(self.begin, 0.5) if jitter is None else jitter
        distance = self.begin[:, None] + self.offset(jnp.arange(config.steps), self.share[:, None])
        inside = distance < jax.lax.stop_gradient(span.end)[:, None]
        if cells is not None:
            points = jax.lax.stop_gradient(span.rays.points(distance))
            inside &= cell_is_occupied(cells, points, box)
        self.steps = pack_bits(inside)

    def offset(self, step: Array, share: Array) -> Array:
        """Of a share of a step from where rays begin."""
        return (step + share) * self.length

    def samples(self, slots: Slots) -> tuple[Array, Array, Array]:
        """Distances, points and directions in slots."""
        ray, rays = slots.ray, self.span.rays
        distance = self.begin[ray] + self.offset(slots.step, self.share[ray])
        direction = rays.direction[ray]
        return distance, rays.origin[ray] + distance[:, None] * direction, direction


def render_packed(
    config: OccupancyConfig,
    field: BoundField,
    span: RaySpan,
    box: Box,
    background: Array,
    *,
    cells: Bool[Array, "X Y Z"] | None = None,
    jitter: Float[Array, "R"] | None = None,
    code: Float[Array, "R C"] | None = None,
    normals: bool = False,
) -> RenderedRays:
    """What R rays see, within the budgets; differentiable.

    Density alone, without gradient, at the occupied steps; then density and colour at those that
    weigh something.

    Args:
      config: the budgets.
      field: the field.
      span: the rays.
      box: where the field's density is.
      background: a colour, or one for each ray.
      cells: which are occupied; None: all.
      jitter: where in its steps each ray's samples are; None: in their middles.
      code: of the image of each ray.
      normals: whether normals are computed.
    """
    march = _March(config, span, box, cells, jitter)
    rays = len(march.begin)
    candidates = fill_slots(march.steps, -(-config.candidates // ROW) * ROW)
    points = shard_slots(jax.lax.stop_gradient(march.samples(candidates)[1]))
    depth = jax.lax.stop_gradient(field.density(points)) * march.length
    depth = jnp.where(candidates.filled, depth, 0)
    passed = jnp.exp(-sum_before(depth, candidates.ray))
    weighty = candidates.filled & (passed * -jnp.expm1(-depth) > config.least_weight)
    chosen = fill_slots(pack_bits(weighty.reshape(-1, ROW)), config.samples)
    kept = chosen.ray * ROW + chosen.step
    slots = Slots(candidates.ray[kept], candidates.step[kept], chosen.filled, candidates.fits)
    sums, _, weight = _shade(field, march, slots, jnp.zeros(rays), code, normals)
    # A ray is whole where its last weighty step has a slot.
    total = jax.ops.segment_sum(weighty.astype(jnp.int32), candidates.ray, rays, True)
    left_out = ~candidates.fits | (jnp.cumsum(total) > config.samples)
    rendering = _finish(sums, background, left_out, normals)
    rendering = dataclasses.replace(rendering, median=_median(march, slots, weight, sums[:, 0]))
    return RenderedRays(rendering, None, samples=chosen.filled.sum())


def render_to_the_end(
    config: OccupancyConfig,
    field: BoundField,
    span: RaySpan,
    box: Box,
    background: Array,
    *,
    cells: Bool[Array, "X Y Z"] | None = None,
    code: Float[Array, "1 C"] | None = None,
    normals: bool = False,
    least: int = 8,
) -> Rendering:
    """The same with all samples of all rays, round after round; not differentiable.

    In each round the rays that are not at their end have a few of their steps evaluated, as many
    as the budget ``samples`` holds. A ray ends where it is out of steps, or its transmittance is
    below ``least_weight``.

    Args:
      config: the budget.
      field: the field.
      span: the rays.
      box: where the field's density is.
      background: a colour, or one for each ray.
      cells: which are occupied; None: all.
      code: of all rays.
      normals: whether normals are computed.
      least: steps of a ray in one round, while all rays are under way.
    """
    march = _March(config, span, box, cells, None)
    rays, width = len(march.begin), 8 if normals else 5
    steps, everything = march.steps, march.steps.total

    def unfinished(carry: tuple[Array, Array, Array]) -> Array:
        return (carry[0] < everything).any()

    def advance(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        taken, depth, sums = carry
        # The fewer rays are left, the more steps of each: every round has all slots to fill.
        left = jnp.maximum((taken < everything).sum(), 1)
        slots = fill_slots(steps, config.samples, taken, jnp.maximum(least, config.samples // left))
        new, depths, _ = _shade(field, march, slots, depth, code, normals)
        ones = slots.filled.astype(jnp.int32)
        taken += jax.ops.segment_sum(ones, slots.ray, rays, True)
        depth += depths
        ended = depth > -math.log(max(config.least_weight, 1e-30))
        return jnp.where(ended, everything, taken), depth, sums + new

    start = jnp.zeros_like(everything), jnp.zeros(rays), jnp.zeros((rays, width))
    *_, sums = jax.lax.while_loop(unfinished, advance, start)
    return _finish(sums, background, jnp.zeros(rays, bool), normals)


def _shade(
    field: BoundField,
    march: _March,
    slots: Slots,
    before: Float[Array, "R"],
    code: Array | None,
    normals: bool,
) -> tuple[Float[Array, "R W"], Float[Array, "R"], Float[Array, "S"]]:
    """Sums over the slots of each ray, their optical depths, and the weights of slots.

    The sums are of weights, times 1, distance, colour and normals. ``before`` is the optical depth
    of what is in front of the slots.
    """
    distance, points, direction = shard_slots(march.samples(slots))
    length = jnp.full_like(distance, march.length)
    if code is not None and len(code) > 1:
        code = code[slots.ray]
    context = SampleContext(length=length, code=code)
    output = field(points, direction, context)
    depth = jnp.where(slots.filled, output.density * march.length, 0)
    passed = before[slots.ray] + sum_before(depth, slots.ray)
    weight = jnp.exp(-passed) * -jnp.expm1(-depth)
    columns = [jnp.ones_like(points[:, :1]), distance[:, None], output.colour]
    if normals:
        columns.append(normals_of(field, points, output, context))
    terms = weight[:, None] * jnp.concatenate(columns, axis=-1)
    terms = jnp.concatenate([terms, depth[:, None]], axis=-1)
    sums = jax.ops.segment_sum(terms, slots.ray, len(before), indices_are_sorted=True)
    return sums[:, :-1], sums[:, -1], weight


def _median(
    march: _March, slots: Slots, weight: Float[Array, "S"], opacity: Float[Array, "R"]
) -> Float[Array, "R"]:
    """Where the weights of a ray so far are half of its opacity; each is spread over its step."""
    half = opacity / 2
    before = sum_before(weight, slots.ray)
    reached = slots.filled & (weight > 0) & (before + weight >= half[slots.ray])
    last = len(weight) - 1
    slot = jnp.where(reached, jnp.arange(len(weight)), last)
    first = jax.ops.segment_min(slot, slots.ray, len(opacity), indices_are_sorted=True)
    first = jnp.minimum(first, last)  # of a ray without slots
    hit = opacity > EPSILON
    share = (half - before[first]) / jnp.where(hit & (weight[first] > 0), weight[first], 1)
    found = march.begin + march.offset(slots.step[first], jnp.clip(share, 0, 1))
    return jnp.where(hit, found, march.span.end)


def _finish(sums: Array, background: Array, left_out: Array, normals: bool) -> Rendering:
    opacity = sums[:, 0]
    return Rendering(
        colour=sums[:, 2:5] + (1 - opacity)[:, None] * background,
        opacity=opacity,
        depth=sums[:, 1] / jnp.maximum(opacity, EPSILON),
        weights=None,
        normals=sums[:, 5:8] if normals else None,
        left_out=left_out,
    )
