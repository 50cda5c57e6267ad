"""Logits [B, V] split over the mesh axis ``model``, and what is computed from them ungathered.

A model defines in a `ShardedLogits` how one device computes the logits y of its own units for its
own examples; the functions here then find, for each example::

    m = max_j y_j        Z = sum_j exp(y_j - m)        log P(t) = y_t - m - log Z   (nats)

the likeliest units, or a random one. The collectives along ``model`` are a few numbers per example,
never anything of size V. `jaxgen.parallel.softmax.output_units` is the matrix product over these
functions.

The mesh is the one that ``jax.set_mesh`` made current; without a mesh the same code runs on one
device. Axes that an enclosing ``jax.shard_map`` already handles are left to it. Where the number of
devices does not divide V, the units are padded: padding has logit ``-inf``, so no probability.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int, Key

from jaxgen.errors import InputError
from jaxgen.parallel.softmax.mesh_axes import MeshAxes
from jaxgen.typing import Tree

CPU_CHUNK = 128
"""Examples per pass over the units on CPU, so that [128, V] stays in the last-level cache: at
V = 17,906, D = 100 and 512 examples, 117 Gflop/s against 49 for the textbook form."""


@dataclasses.dataclass(frozen=True)
class ShardedLogits:
    """Logits [B, V'] that nobody has computed yet.

    Attributes:
      compute: ``(examples, units, shared) -> float32 [b, v]``: the logits of some of the examples
        and of the units of one device, padding included.
      examples: a tree of arrays [B, ...].
      units: a tree of arrays with a dimension V' that counts units.
      letters: like ``units``, the dimension letters of each: ``"DV"`` where V' comes second.
      shared: a tree of arrays that every device has whole.
      size: V, the units that are no padding.
    """

    compute: Callable[[Tree, Tree, Tree], Float[Array, "B V"]]
    examples: Tree
    units: Tree
    letters: Tree
    shared: Tree
    size: int

    @property
    def count(self) -> int:
        """B."""
        return jax.tree.leaves(self.examples)[0].shape[0]

    @property
    def rows(self) -> int:
        """V', padding included; of one device's part: its own units."""
        first, letters = jax.tree.leaves(self.units)[0], jax.tree.leaves(self.letters)[0]
        return first.shape[letters.index("V")]


def log_probabilities(
    logits: ShardedLogits, targets_B: Int[Array, "B"], *, chunk: int | None = None
) -> Float[Array, "B"]:
    """``log P(target)`` of each example [B], in nats; differentiable.

    Args:
      logits: the logits.
      targets_B: ids in [0, V).
      chunk: examples per pass over the units; None chooses (128 on CPU, all of them elsewhere).

    Raises:
      InputError: if ``targets_B`` is not [B].
    """
    check_rows(targets_B, logits.count, "targets")

    def on_block(block: "LogitBlock", targets_B):
        def one_chunk(_, inputs):
            y_BV = block.logits(inputs[0])
            m_B1, Z_B1, _ = block.normaliser(y_BV)
            target_B1 = block.sum(block.pick(y_BV, inputs[1]))
            return (), (target_B1 - m_B1 - jnp.log(Z_B1))[:, 0]

        return in_chunks(one_chunk, (), (block.part.examples, targets_B), chunk)[1]

    return on_blocks(on_block, logits, (targets_B,), out="B")


def values(logits: ShardedLogits) -> Float[Array, "B V"]:
    """The logits [B, V'], left where they were computed (V' over ``model``)."""
    return on_blocks(lambda block: block.logits(block.part.examples), logits, out="BV")


def argmax(logits: ShardedLogits) -> Int[Array, "B"]:
    """The likeliest unit of each example, [B] int32; the lowest id among equals."""
    return on_blocks(lambda block: block.argmax(block.logits(block.part.examples)), logits, out="B")


def top_k(logits: ShardedLogits, k: int) -> tuple[Float[Array, "B K"], Int[Array, "B K"]]:
    """The k likeliest units, likeliest first; the lower id first among equals.

    Every device sends its own k best along ``model``, never its logits.

    Args:
      logits: the logits.
      k: how many, 1 to V.

    Returns:
      Log-probabilities [B, K] in nats and ids [B, K] int32.

    Raises:
      InputError: k outside 1 .. V.
    """
    _check_k(k, logits.size)

    def on_block(block: "LogitBlock"):
        y_BV = block.logits(block.part.examples)
        m_B1, Z_B1, _ = block.normaliser(y_BV)
        y_BK, ids_BK = block.top_k(y_BV, k)
        return y_BK - m_B1 - jnp.log(Z_B1), ids_BK

    return on_blocks(on_block, logits, out=("BK", "BK"))


def sample(
    logits: ShardedLogits,
    key: Key[Array, ""],
    *,
    temperature: float | Float[Array, ""] = 1.0,
    top_k: int | None = None,
    top_p: float | Float[Array, ""] | None = None,
    forbid: Sequence[int] = (),
) -> Int[Array, "B"]:
    """One unit for each example, drawn from ``softmax(y / temperature)`` cut to a subset.

    The draw is the arg-max of ``y + temperature * Gumbel noise``; the noise of a unit depends on
    the key, the example's index and the unit's id alone, so the mesh does not change the sample.

    Args:
      logits: the logits.
      key: a key of ``jax.random.key``.
      temperature: 0 is the likeliest unit.
      top_k: keep the k likeliest units; units as likely as the last one kept stay in.
      top_p: keep the smallest set of likeliest units that holds this much probability (Holtzman et
        al. 2020), counted after ``temperature`` and ``top_k``; units as likely as the last one kept
        stay in. At least one is kept.
      forbid: units that are never drawn, left out before anything else.

    Returns:
      ids [B] int32.

    Raises:
      InputError: ``top_k`` outside 1 .. V, a negative ``temperature`` or a ``top_p`` outside
        [0, 1] (where they are Python numbers; arrays are not looked at); ``forbid`` with an id
        outside [0, V), or with all of them.
    """
    check_sampling(logits.size, temperature, top_k, top_p, forbid)
    impl = jax.random.key_impl(key)
    keys_B = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(logits.count))
    settings = (
        jnp.asarray(temperature, jnp.float32),
        jnp.asarray(1.0 if top_p is None else top_p, jnp.float32),
    )

    def on_block(block: "LogitBlock", key_data_B, settings):
        temperature, mass = settings
        y_BV = block.logits(block.part.examples)
        if len(forbid):
            forbidden_V = jnp.isin(block.ids, jnp.asarray(forbid, jnp.int32))
            y_BV = jnp.where(forbidden_V, -jnp.inf, y_BV)
        if top_k is not None:
            kth_B1 = block.top_k(y_BV, top_k)[0][:, -1:]
            y_BV = jnp.where(y_BV >= kth_B1, y_BV, -jnp.inf)
        if top_p is not None:
            y_BV = jnp.where(block.nucleus(y_BV, temperature, mass), y_BV, -jnp.inf)
        noise_BV = block.gumbel(jax.random.wrap_key_data(key_data_B, impl=impl))
        return block.argmax(y_BV + temperature * noise_BV)

    # Traced arguments enter a shard_map as arguments: closed-over ones would miss its mesh.
    return on_blocks(on_block, logits, (jax.random.key_data(keys_B),), settings, out="B")


def check_sampling(
    size: int, temperature: Any, top_k: int | None, top_p: Any, forbid: Sequence[int]
) -> None:
    """Raises an InputError for invalid sampling options; see `sample`."""
    outside = [unit for unit in forbid if not 0 <= unit < size]
    if outside or len(set(forbid)) == size:
        wrong = f"the id {outside[0]}" if outside else "every id"
        raise InputError(f"forbid has {wrong}, expected some of the ids in [0, {size})")
    if top_k is not None:
        _check_k(top_k, size)
    if isinstance(temperature, int | float) and not temperature >= 0:
        raise InputError(f"temperature is {temperature}, expected 0 or more")
    if isinstance(top_p, int | float) and not 0 <= top_p <= 1:
        raise InputError(f"top_p is {top_p}, expected 0 <= top_p <= 1")


def _check_k(k: int, size: int) -> None:
    if not 1 <= k <= size:
        raise InputError(f"top_k is {k}, expected 1 to |V| = {size}")


def check_rows(array: Array, count: int, name: str) -> None:
    """Raises an InputError unless an array is [B]."""
    if array.shape != (count,):
        raise InputError(f"{name} have shape {array.shape}, expected ({count},)")


# One device's part of the work.


@dataclasses.dataclass(frozen=True)
class LogitBlock:
    """The units that one device owns: ids ``first .. first + v - 1``.

    Attributes:
      axes: the mesh axes.
      part: this device's part of the logits.
    """

    axes: MeshAxes
    part: ShardedLogits

    @property
    def ids(self) -> Int[Array, "V"]:
        """Global ids of this device's units."""
        first = jax.lax.axis_index(self.axes.model) * self.part.rows if self.axes.model else 0
        return first + jnp.arange(self.part.rows, dtype=jnp.int32)

    def sum(self, tree: Tree) -> Tree:
        """The sum over ``model``."""
        return jax.lax.psum(tree, self.axes.model) if self.axes.model else tree

    def max(self, x: Array) -> Array:
        """The maximum over ``model``."""
        return jax.lax.pmax(x, self.axes.model) if self.axes.model else x

    def logits(self, examples: Tree) -> Float[Array, "B V"]:
        """The logits of these examples and this device's units; padding has ``-inf``."""
        y_BV = self.part.compute(examples, self.part.units, self.part.shared)
        padded = self.axes.blocks * self.part.rows != self.part.size
        return jnp.where(self.ids < self.part.size, y_BV, -jnp.inf) if padded else y_BV

    def normaliser(
        self, y_BV: Float[Array, "B V"]
    ) -> tuple[Float[Array, "B 1"], Float[Array, "B 1"], Float[Array, "B V"]]:
        """m [B, 1], Z [B, 1] over all units, and exp(y - m) [B, V] of this device's units."""
        m_B1 = self.max(jax.lax.stop_gradient(y_BV.max(-1, keepdims=True)))
        e_BV = jnp.exp(y_BV - m_B1)
        return m_B1, self.sum(e_BV.sum(-1, keepdims=True)), e_BV

    def pick(self, y_BV: Float[Array, "B V"], ids_B: Int[Array, "B"]) -> Float[Array, "B 1"]:
        """y[b, ids[b]] where this device owns the unit, else 0."""
        local_B1 = (ids_B - self.ids[0])[:, None]
        mine = (local_B1 >= 0) & (local_B1 < y_BV.shape[1])
        picked_B1 = jnp.take_along_axis(y_BV, jnp.clip(local_B1, 0, y_BV.shape[1] - 1), axis=1)
        return jnp.where(mine, picked_B1, 0.0)

    def argmax(self, y_BV: Float[Array, "B V"]) -> Int[Array, "B"]:
        """The id of the greatest over all units."""
        best_B1 = self.max(y_BV.max(-1, keepdims=True))
        none = jnp.iinfo(jnp.int32).max
        ids_B = jnp.where(y_BV == best_B1, self.ids, none).min(-1)
        # pmin is -pmax(-x): the lowest id among equals, as jnp.argmax has it.
        return -self.max(-ids_B)

    def top_k(
        self, y_BV: Float[Array, "B V"], k: int
    ) -> tuple[Float[Array, "B K"], Int[Array, "B K"]]:
        """The k greatest [B, k] over all units, in falling order, and their ids."""
        y_BK, index_BK = jax.lax.top_k(y_BV, min(k, y_BV.shape[1]))
        ids_BK = self.ids[index_BK]
        if self.axes.model is None:
            return y_BK, ids_BK
        mine = jax.lax.axis_index(self.axes.model)
        # A sum of disjoint places is a gather whose result is known to be the same everywhere.
        place_M = (jnp.arange(self.axes.blocks) == mine)[:, None, None]
        y_MBK, ids_MBK = self.sum((jnp.where(place_M, y_BK, 0.0), jnp.where(place_M, ids_BK, 0)))
        flat = lambda x_MBK: jnp.moveaxis(x_MBK, 0, 1).reshape(y_BV.shape[0], -1)  # noqa: E731
        y_BK, index_BK = jax.lax.top_k(flat(y_MBK), k)
        return y_BK, jnp.take_along_axis(flat(ids_MBK), index_BK, axis=1)

    def nucleus(
        self, y_BV: Float[Array, "B V"], temperature: Array, mass: Array
    ) -> Bool[Array, "B V"]:
        """Which units are in the smallest set of likeliest ones with probability >= ``mass``.

        The threshold is found by bisection over the bit patterns of floats in [0, 1] (they are
        ordered as integers are): 31 sums of [B] numbers instead of a sort of sharded logits.
        """
        z_BV = (y_BV - self.max(y_BV.max(-1, keepdims=True))) / jnp.maximum(temperature, 1e-30)
        e_BV = jnp.exp(z_BV)
        p_BV = e_BV / self.sum(e_BV.sum(-1, keepdims=True))
        # Rounding may leave the whole sum just under 1: the threshold then stays at 0.
        bits_BV = jax.lax.bitcast_convert_type(p_BV, jnp.int32)

        def halve(_, bounds):
            low_B1, high_B1 = bounds
            middle_B1 = low_B1 + (high_B1 - low_B1 + 1) // 2
            kept_B1 = self.sum(jnp.where(bits_BV >= middle_B1, p_BV, 0.0).sum(-1, keepdims=True))
            enough_B1 = (kept_B1 >= mass) & (kept_B1 > 0)
            return (
                jnp.where(enough_B1, middle_B1, low_B1),
                jnp.where(enough_B1, high_B1, middle_B1 - 1),
            )

        low_B1 = 0 * self.max(bits_BV.max(-1, keepdims=True))
        high_B1 = low_B1 + np.float32(1).view(np.int32)
        threshold_B1, _ = jax.lax.fori_loop(0, 31, halve, (low_B1, high_B1))
        return bits_BV >= threshold_B1

    def gumbel(self, keys_B: Key[Array, "B"]) -> Float[Array, "B V"]:
        """Gumbel noise of this device's units, the same on every mesh."""
        per_unit = jax.vmap(jax.random.fold_in, (None, 0))
        keys_BV = jax.vmap(per_unit, (0, None))(keys_B, self.ids)
        return jax.vmap(jax.vmap(jax.random.gumbel))(keys_BV)


def on_blocks(
    body: Callable,
    logits: ShardedLogits,
    batched: tuple = (),
    settings: Tree = None,
    *,
    out: Tree,
) -> Tree:
    """Runs ``body(block, *batched, [settings])`` on every device's block of units and examples.

    Args:
      body: what one device does, given a `LogitBlock`.
      logits: the whole logits.
      batched: further trees of arrays whose leading axis is the examples.
      settings: a tree of scalars that every device knows, handed to the body if not None.
      out: dimension letters of each output ("BV": examples by units), as a tree.
    """
    axes = MeshAxes.current(logits.count)
    extra = () if settings is None else (settings,)

    def vary_units(x: Array, letters: str) -> Array:
        return axes.vary(x, batch="B" not in letters)

    def on_device(examples, units, shared, batched, extra):
        # Said once and outside of any loop, so that gradients are summed over devices once, too.
        part = dataclasses.replace(
            logits,
            examples=axes.vary(examples, model=True),
            units=jax.tree.map(vary_units, units, logits.letters),
            shared=axes.vary(shared, model=True, batch=True),
        )
        return body(LogitBlock(axes, part), *batched, *extra)

    arguments = logits.examples, logits.units, logits.shared, batched, extra
    if not axes.names:
        return on_device(*arguments)
    by_example = lambda x: axes.spec("B" + "K" * (x.ndim - 1))  # noqa: E731
    in_specs = (
        jax.tree.map(by_example, logits.examples),
        jax.tree.map(axes.spec, logits.letters),
        jax.tree.map(lambda x: P(), logits.shared),
        jax.tree.map(by_example, batched),
        jax.tree.map(lambda x: P(), extra),
    )
    out_specs = jax.tree.map(axes.spec, out)
    return jax.shard_map(
        on_device, mesh=axes.mesh, in_specs=in_specs, out_specs=out_specs, axis_names=axes.names
    )(*arguments)


def in_chunks(one_chunk: Callable, carry: Tree, inputs: Tree, chunk: int | None) -> tuple:
    """``jax.lax.scan`` over chunks of the leading axis, the last of which may be shorter.

    Args:
      one_chunk: ``(carry, inputs of a chunk) -> (carry, outputs of the chunk)``.
      carry: what it starts with.
      inputs: a tree of arrays [N, ...].
      chunk: rows at a time; None is `CPU_CHUNK` on CPU and all of them elsewhere.

    Returns:
      The last carry and the outputs [N, ...].

    Raises:
      InputError: a chunk under 1.
    """
    count = jax.tree.leaves(inputs)[0].shape[0]
    if chunk is None:
        chunk = CPU_CHUNK if jax.default_backend() == "cpu" else max(count, 1)
    if chunk < 1:
        raise InputError(f"chunk is {chunk}, expected 1 or more examples at a time")
    if count <= chunk:
        return one_chunk(carry, inputs)
    full = count // chunk
    stacked = jax.tree.map(lambda x: x[: full * chunk].reshape(full, chunk, *x.shape[1:]), inputs)
    carry, outputs = jax.lax.scan(one_chunk, carry, stacked)
    outputs = jax.tree.map(lambda x: x.reshape(full * chunk, *x.shape[2:]), outputs)
    if full * chunk < count:
        rest = jax.tree.map(lambda x: x[full * chunk :], inputs)
        carry, last = one_chunk(carry, rest)
        outputs = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), outputs, last)
    return carry, outputs
