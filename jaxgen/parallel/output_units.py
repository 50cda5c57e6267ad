"""The softmax over partitioned output units (Bengio et al. 2003, section 3.2).

Symbols, for one example with hidden layers h_i (for the paper's network: a and x)::

    y_j = b_j + sum_i h_i . kernel_i[:, j]     logits, j = 0 .. V-1
    m   = max_j y_j
    Z   = sum_j exp(y_j - m)                   normaliser
    log P(t) = y_t - m - log Z                 nats

The kernels and the bias lie over the mesh axis ``model`` in blocks of ``ceil(V / M)`` units, the
examples over ``data`` and ``fsdp``. Every device computes the logits of its own units for its own
examples, and what devices tell each other along ``model`` is a few numbers per example: m, Z, y_t
and the gradient with respect to each h_i. Nothing of size V travels, in training or in generation.

The mesh is the one that ``jax.set_mesh`` made current; without a mesh the same code runs on one
device. Axes that an enclosing ``jax.shard_map`` already handles are left to it.

Where M does not divide V, kernels and bias are padded to ``padded_units(V, M)``: padding units have
logit ``-inf``, so they get no probability, and their parameters no gradient.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int, Key

from jaxgen.errors import InputError
from jaxgen.parallel.mesh_axes import MeshAxes

CPU_CHUNK = 128
"""Examples per pass over the units on CPU, so that [128, V] stays in the last-level cache: at
V = 17,906, D = 100 and 512 examples, 117 Gflop/s against 49 for the textbook form."""


class Units(NamedTuple):
    """An output layer: kernels [D_i, V'], bias [V'], and V, the units that are no padding."""

    kernels: tuple[Float[Array, "D V"], ...]
    bias: Float[Array, " V"]
    size: int


Hidden = Sequence[Float[Array, "B D"]]


def padded_units(size: int, blocks: int) -> int:
    """``blocks * ceil(size / blocks)``: units that ``blocks`` equal blocks hold."""
    return blocks * math.ceil(size / blocks)


def cross_entropy(
    hidden: Hidden,
    units: Units,
    targets_B: Int[Array, " B"],
    weights_B: Float[Array, " B"] | None = None,
    *,
    chunk: int | None = None,
) -> tuple[Float[Array, ""], Float[Array, " B"]]:
    """Weighted mean of ``-log P(target)``, its gradient computed along with it.

    Loss and gradient need the same exponentials, so one pass over chunks of examples makes both,
    and no [B, V] array outlives its chunk.

    Args:
      hidden: the layers h_i [B, D_i] that feed the units, one for each kernel.
      units: the output layer.
      targets_B: ids in [0, V).
      weights_B: weight of each example (zero leaves it out); None is one each. No gradient.
      chunk: examples per pass; None chooses (128 on CPU, all of them elsewhere).

    Returns:
      The loss ``sum_b weights_b nll_b / sum_b weights_b`` in nats, differentiable with respect to
      ``hidden``, ``units.kernels`` and ``units.bias``; and ``nll_B`` [B] in nats, a metric through
      which no gradient flows.

    Raises:
      InputError: shapes that do not fit each other.
    """
    _check_shapes(hidden, units)
    weights_B = mean_weights(weights_B, len(targets_B))
    parameters = tuple(hidden), tuple(units.kernels), units.bias
    loss, nll_B = _loss(units.size, chunk, parameters, targets_B, weights_B)
    return loss, jax.lax.stop_gradient(nll_B)


def mean_weights(weights_B: Float[Array, " B"] | None, examples: int) -> Float[Array, " B"]:
    """Weights in proportion to those given, with sum one (zeros stay zeros); None: equal ones."""
    if weights_B is None:
        return jnp.full(examples, 1 / examples, jnp.float32)
    return weights_B / jnp.maximum(weights_B.sum(), jnp.finfo(jnp.float32).tiny)


def log_probabilities(
    hidden: Hidden, units: Units, targets_B: Int[Array, " B"], *, chunk: int | None = None
) -> Float[Array, " B"]:
    """``log P(target)`` of each example [B], in nats. Arguments as in `cross_entropy`."""
    _check_shapes(hidden, units)

    def on_shard(shard: "_Shard", hidden, targets_B):
        def one_chunk(_, inputs):
            y_BV = shard.logits(inputs[0])
            m_B1, Z_B1, _ = shard.normaliser(y_BV)
            target_B1 = shard.sum(shard.pick(y_BV, inputs[1]))
            return (), (target_B1 - m_B1 - jnp.log(Z_B1))[:, 0]

        return _in_chunks(one_chunk, (), (hidden, targets_B), chunk)[1]

    return _on_shards(on_shard, units, (tuple(hidden), targets_B), out="B")


def logits(hidden: Hidden, units: Units) -> Float[Array, "B V"]:
    """Logits [B, V'], left where they were computed (V' over ``model``); padding has ``-inf``."""
    _check_shapes(hidden, units)
    return _on_shards(lambda shard, h: shard.logits(h), units, (tuple(hidden),), out="BV")


def argmax(hidden: Hidden, units: Units) -> Int[Array, " B"]:
    """The likeliest unit of each example, [B] int32; the lowest id among equals."""
    _check_shapes(hidden, units)
    return _on_shards(lambda s, h: s.argmax(s.logits(h)), units, (tuple(hidden),), out="B")


def top_k(hidden: Hidden, units: Units, k: int) -> tuple[Float[Array, "B K"], Int[Array, "B K"]]:
    """The k likeliest units, likeliest first.

    Every device sends its own k best along ``model``, never its logits.

    Args:
      hidden: the layers h_i [B, D_i].
      units: the output layer.
      k: how many, 1 to V.

    Returns:
      Log-probabilities [B, K] in nats and ids [B, K] int32.

    Raises:
      InputError: k outside 1 .. V, or shapes that do not fit each other.
    """
    _check_shapes(hidden, units)
    _check_k(k, units.size)

    def on_shard(shard: "_Shard", hidden):
        y_BV = shard.logits(hidden)
        m_B1, Z_B1, _ = shard.normaliser(y_BV)
        y_BK, ids_BK = shard.top_k(y_BV, k)
        return y_BK - m_B1 - jnp.log(Z_B1), ids_BK

    return _on_shards(on_shard, units, (tuple(hidden),), out=("BK", "BK"))


def sample(
    hidden: Hidden,
    units: Units,
    key: Key[Array, ""],
    *,
    temperature: float | Float[Array, ""] = 1.0,
    top_k: int | None = None,
    top_p: float | Float[Array, ""] | None = None,
) -> Int[Array, " B"]:
    """One unit for each example, drawn from ``softmax(y / temperature)`` cut to a subset.

    The draw is the arg-max of ``y + temperature * Gumbel noise``; the noise of a unit depends on
    the key, the example's index and the unit's id alone, so the mesh does not change the sample.

    Args:
      hidden: the layers h_i [B, D_i].
      units: the output layer.
      key: a key of ``jax.random.key``.
      temperature: 0 is the likeliest unit.
      top_k: keep the k likeliest units.
      top_p: keep the smallest set of likeliest units that holds this much probability (Holtzman et
        al. 2020), counted after ``temperature`` and ``top_k``; units as likely as the last one kept
        stay in.

    Returns:
      ids [B] int32.

    Raises:
      InputError: ``top_k`` outside 1 .. V, or shapes that do not fit each other.
    """
    _check_shapes(hidden, units)
    draw, keys_B, settings = _plan_draw(
        hidden[0].shape[0], units.size, key, temperature, top_k, top_p
    )

    def on_shard(shard: "_Shard", hidden, key_data_B, settings):
        return draw(shard, shard.logits(hidden), key_data_B, settings)

    # Traced arguments enter a shard_map as arguments: closed-over ones would miss its mesh.
    return _on_shards(on_shard, units, (tuple(hidden), keys_B), settings, out="B")


def sample_logits(
    logits_BV: Float[Array, "B V"],
    key: Key[Array, ""],
    *,
    temperature: float | Float[Array, ""] = 1.0,
    top_k: int | None = None,
    top_p: float | Float[Array, ""] | None = None,
) -> Int[Array, " B"]:
    """What `sample` draws, from logits (or log-probabilities) that were computed elsewhere.

    Every device has all units: with logits split over ``model`` they are gathered.

    Args:
      logits_BV: [B, V]; -inf for units that are never drawn.
      key: as for `sample`, and so are the other arguments.

    Returns:
      ids [B] int32.

    Raises:
      InputError: ``top_k`` outside 1 .. V.
    """
    examples, size = logits_BV.shape
    draw, keys_B, settings = _plan_draw(examples, size, key, temperature, top_k, top_p)
    whole = _Shard(MeshAxes.none(), Units((), jnp.zeros(size), size))
    return draw(whole, logits_BV, keys_B, settings)


def _plan_draw(examples: int, size: int, key, temperature, top_k, top_p):
    """``draw(shard, y_BV, key_data_B, settings) -> ids_B``, with the last two of its arguments."""
    if top_k is not None:
        _check_k(top_k, size)
    keys_B = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(examples))
    settings = (
        jnp.asarray(temperature, jnp.float32),
        jnp.asarray(1.0 if top_p is None else top_p, jnp.float32),
    )

    def draw(shard: "_Shard", y_BV, key_data_B, settings):
        temperature, mass = settings
        if top_k is not None:
            kth_B1 = shard.top_k(y_BV, top_k)[0][:, -1:]
            y_BV = jnp.where(y_BV >= kth_B1, y_BV, -jnp.inf)
        if top_p is not None:
            y_BV = jnp.where(shard.nucleus(y_BV, temperature, mass), y_BV, -jnp.inf)
        keys_B = jax.random.wrap_key_data(key_data_B)
        per_unit = jax.vmap(jax.random.fold_in, (None, 0))
        keys_BV = jax.vmap(per_unit, (0, None))(keys_B, shard.ids)
        noise_BV = jax.vmap(jax.vmap(jax.random.gumbel))(keys_BV)
        return shard.argmax(y_BV + temperature * noise_BV)

    return draw, jax.random.key_data(keys_B), settings


# The loss and its gradient, made together.


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _loss(size, chunk, parameters, targets_B, weights_B):
    hidden, kernels, bias = parameters
    nll_B = -log_probabilities(hidden, Units(kernels, bias, size), targets_B, chunk=chunk)
    return jnp.sum(nll_B * weights_B), nll_B


def _loss_forward(size, chunk, parameters, targets_B, weights_B):
    hidden, kernels, bias = parameters
    on_shard = functools.partial(_loss_and_gradients, chunk=chunk)
    loss, nll_B, gradients = _on_shards(
        on_shard,
        Units(kernels, bias, size),
        (hidden, targets_B, weights_B),
        out=("", "B", (tuple("BK" for _ in hidden), tuple("DV" for _ in kernels), "V")),
    )
    return (loss, nll_B), (gradients, targets_B, weights_B)


def _loss_backward(size, chunk, residuals, cotangents):
    gradients, targets_B, weights_B = residuals
    scaled = jax.tree.map(lambda d: (cotangents[0] * d).astype(d.dtype), gradients)
    return scaled, np.zeros(targets_B.shape, jax.dtypes.float0), jnp.zeros_like(weights_B)


_loss.defvjp(_loss_forward, _loss_backward)


def _loss_and_gradients(shard: "_Shard", hidden, targets_B, weights_B, *, chunk):
    """Weighted loss, nll [B] and d loss / d (hidden, kernels, bias) on one device."""

    def one_chunk(carry, inputs):
        d_kernels, d_bias_V = carry
        hidden, targets_B, weights_B = inputs
        y_BV = shard.logits(hidden)
        m_B1, Z_B1, e_BV = shard.normaliser(y_BV)
        # d nll / d y = P - [unit is the target] = (e - [unit is the target] Z) / Z
        is_target_BV = shard.ids == targets_B[:, None]
        residual_BV = e_BV - jnp.where(is_target_BV, Z_B1, 0.0)
        scale_B1 = weights_B[:, None] / Z_B1
        d_hidden = tuple(
            jnp.dot(residual_BV.astype(k_DV.dtype), k_DV.T, preferred_element_type=jnp.float32)
            for k_DV in shard.units.kernels
        )
        target_B1, d_hidden = shard.sum((shard.pick(y_BV, targets_B), d_hidden))
        nll_B = (jnp.log(Z_B1) + m_B1 - target_B1)[:, 0]
        d_kernels = tuple(
            d_DV + jnp.dot((h_BD * scale_B1).T, residual_BV, preferred_element_type=jnp.float32)
            for d_DV, h_BD in zip(d_kernels, hidden, strict=True)
        )
        d_bias_V += (scale_B1.T @ residual_BV)[0]
        d_hidden = tuple(d * scale_B1 for d in d_hidden)
        return (d_kernels, d_bias_V), (nll_B, d_hidden)

    start = jax.tree.map(
        lambda p: shard.axes.as_varying(jnp.zeros(p.shape, jnp.float32)),
        (shard.units.kernels, shard.units.bias),
    )
    (d_kernels, d_bias_V), (nll_B, d_hidden) = _in_chunks(
        one_chunk, start, (hidden, targets_B, weights_B), chunk
    )
    loss, d_kernels, d_bias_V = shard.axes.sum_over_batch(
        (jnp.sum(nll_B * weights_B), d_kernels, d_bias_V)
    )
    gradients = d_hidden, d_kernels, d_bias_V
    primals = tuple(hidden), shard.units.kernels, shard.units.bias
    return loss, nll_B, jax.tree.map(lambda d, p: d.astype(p.dtype), gradients, primals)


def _in_chunks(one_chunk: Callable, carry: Any, inputs: Any, chunk: int | None) -> tuple[Any, Any]:
    """``jax.lax.scan`` over chunks of the leading axis, the last of which may be shorter."""
    count = jax.tree.leaves(inputs)[0].shape[0]
    if chunk is None:
        chunk = CPU_CHUNK if jax.default_backend() == "cpu" else count
    full = count // chunk
    if full * chunk == count and full <= 1:
        return one_chunk(carry, inputs)
    stacked = jax.tree.map(lambda x: x[: full * chunk].reshape(full, chunk, *x.shape[1:]), inputs)
    carry, outputs = jax.lax.scan(one_chunk, carry, stacked)
    outputs = jax.tree.map(lambda x: x.reshape(full * chunk, *x.shape[2:]), outputs)
    if full * chunk < count:
        rest = jax.tree.map(lambda x: x[full * chunk :], inputs)
        carry, last = one_chunk(carry, rest)
        outputs = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), outputs, last)
    return carry, outputs


# One device's part of the work.


@dataclasses.dataclass(frozen=True)
class _Shard:
    """The units that one device owns: ids ``first .. first + v - 1``."""

    axes: MeshAxes
    units: Units

    @property
    def ids(self) -> Int[Array, " V"]:
        """Global ids of this device's units."""
        count = self.units.bias.shape[0]
        first = jax.lax.axis_index(self.axes.model) * count if self.axes.model else 0
        return first + jnp.arange(count, dtype=jnp.int32)

    @property
    def padded(self) -> bool:
        return self.axes.blocks * self.units.bias.shape[0] != self.units.size

    def sum(self, tree: Any) -> Any:
        return jax.lax.psum(tree, self.axes.model) if self.axes.model else tree

    def max(self, x: Array) -> Array:
        return jax.lax.pmax(x, self.axes.model) if self.axes.model else x

    def logits(self, hidden: Hidden) -> Float[Array, "B V"]:
        y_BV = self.units.bias.astype(jnp.float32)
        for h_BD, k_DV in zip(hidden, self.units.kernels, strict=True):
            y_BV = y_BV + jnp.dot(h_BD, k_DV, preferred_element_type=jnp.float32)
        return jnp.where(self.ids < self.units.size, y_BV, -jnp.inf) if self.padded else y_BV

    def normaliser(self, y_BV):
        """m [B, 1], Z [B, 1] over all units, and exp(y - m) [B, V] of this device's units."""
        m_B1 = self.max(jax.lax.stop_gradient(y_BV.max(-1, keepdims=True)))
        e_BV = jnp.exp(y_BV - m_B1)
        return m_B1, self.sum(e_BV.sum(-1, keepdims=True)), e_BV

    def pick(self, y_BV, ids_B):
        """y[b, ids[b]] where this device owns the unit, else 0; [B, 1]."""
        first = self.ids[0]
        local_B1 = (ids_B - first)[:, None]
        mine = (local_B1 >= 0) & (local_B1 < y_BV.shape[1])
        picked_B1 = jnp.take_along_axis(y_BV, jnp.clip(local_B1, 0, y_BV.shape[1] - 1), axis=1)
        return jnp.where(mine, picked_B1, 0.0)

    def argmax(self, y_BV) -> Int[Array, " B"]:
        best_B1 = self.max(y_BV.max(-1, keepdims=True))
        none = jnp.iinfo(jnp.int32).max
        ids_B = jnp.where(y_BV == best_B1, self.ids, none).min(-1)
        # pmin is -pmax(-x): the lowest id among equals, as jnp.argmax has it.
        return -self.max(-ids_B)

    def top_k(self, y_BV, k: int):
        """The k largest logits [B, k] over all units, in falling order, and their ids."""
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

    def nucleus(self, y_BV, temperature, mass):
        """Which units are in the smallest set of likeliest ones with probability >= ``mass``.

        The threshold is found by bisection over the bit patterns of floats in [0, 1] (they are
        ordered as integers are): 30 sums of [B] numbers instead of a sort of sharded logits.
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
            enough_B1 = kept_B1 >= mass
            return (
                jnp.where(enough_B1, middle_B1, low_B1),
                jnp.where(enough_B1, high_B1, middle_B1 - 1),
            )

        low_B1 = 0 * self.max(bits_BV.max(-1, keepdims=True))
        high_B1 = low_B1 + np.float32(1).view(np.int32)
        threshold_B1, _ = jax.lax.fori_loop(0, 31, halve, (low_B1, high_B1))
        return bits_BV >= threshold_B1


def _on_shards(body: Callable, units: Units, batched: tuple, settings: Any = None, *, out: Any):
    """Runs ``body(shard, *batched, [settings])`` on every device's block of units and examples.

    Args:
      body: what one device does.
      units: the whole output layer.
      batched: trees of arrays whose leading axis is the examples.
      settings: a tree of scalars that every device knows, handed to the body if not None.
      out: dimension letters of each output ("BV": examples by units), as a tree.
    """
    axes = MeshAxes.current(jax.tree.leaves(batched)[0].shape[0])
    extra = () if settings is None else (settings,)

    def on_device(kernels, bias, batched, extra):
        return body(_Shard(axes, Units(kernels, bias, units.size)), *batched, *extra)

    arguments = tuple(units.kernels), units.bias, batched, extra
    if not axes.names:
        return on_device(*arguments)
    in_specs = (
        tuple(axes.spec("DV") for _ in units.kernels),
        axes.spec("V"),
        jax.tree.map(lambda x: axes.spec("B" + "K" * (x.ndim - 1)), batched),
        jax.tree.map(lambda x: P(), extra),
    )
    out_specs = jax.tree.map(axes.spec, out)
    return jax.shard_map(
        on_device, mesh=axes.mesh, in_specs=in_specs, out_specs=out_specs, axis_names=axes.names
    )(*arguments)


def _check_shapes(hidden: Hidden, units: Units) -> None:
    if len(hidden) != len(units.kernels):
        raise InputError(f"{len(hidden)} hidden layers for {len(units.kernels)} output kernels")
    for i, (h, kernel) in enumerate(zip(hidden, units.kernels, strict=True)):
        expected = (h.shape[-1], *units.bias.shape)
        if kernel.shape != expected:
            raise InputError(
                f"output kernel {i} has shape {kernel.shape}, expected {expected}: "
                "the width of its hidden layer by the length of the bias"
            )
    rows, blocks = units.bias.shape[0], MeshAxes.current(1).blocks
    if rows < units.size or rows % blocks:
        raise InputError(
            f"{rows} rows of output units cannot hold |V| = {units.size} in {blocks} equal blocks "
            f"along `model`: expected {padded_units(units.size, blocks)} (output_blocks={blocks})"
        )


def _check_k(k: int, size: int) -> None:
    if not 1 <= k <= size:
        raise InputError(f"top_k is {k}, expected 1 to |V| = {size}")
