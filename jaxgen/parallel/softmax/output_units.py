"""The softmax over partitioned output units (Bengio et al. 2003, section 3.2).

Symbols, for one example with hidden layers h_i (for the paper's network: a and x)::

    y_j = b_j + sum_i h_i . kernel_i[:, j]     logits, j = 0 .. V-1
    m   = max_j y_j
    Z   = sum_j exp(y_j - m)                   normaliser
    log P(t) = y_t - m - log Z                 nats

The kernels and the bias are sharded over the mesh axis ``model`` in blocks of ``ceil(V / M)``
units, the examples over ``data`` and ``fsdp``. Every device computes the logits of its own units
for its own examples, and the collectives along ``model`` are a few numbers per example: m, Z, y_t
and the gradient with respect to each h_i. Nothing of size V is communicated, in training or in
generation.

The mesh is the one that ``jax.set_mesh`` made current, if any. Everything but the loss comes from
sharded logits in general (`jaxgen.parallel.softmax.sharded_logits`); here is what the matrix
product adds: the units, and the loss with its gradient in one pass.

Where M does not divide V, kernels and bias are padded to ``padded_units(V, M)``: padding units have
logit ``-inf``, so they get no probability, and their parameters no gradient.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from jaxgen.errors import InputError
from jaxgen.parallel.softmax import sharded_logits
from jaxgen.parallel.softmax.mesh_axes import MeshAxes
from jaxgen.parallel.softmax.sharded_logits import LogitBlock, ShardedLogits, in_chunks, on_blocks


class Units(NamedTuple):
    """An output layer: kernels [D_i, V'], bias [V'], and V, the units that are no padding."""

    kernels: tuple[Float[Array, "D V"], ...]
    bias: Float[Array, "V"]
    size: int


Hidden = Sequence[Float[Array, "B D"]]


def padded_units(size: int, blocks: int) -> int:
    """``blocks * ceil(size / blocks)``: units that ``blocks`` equal blocks hold."""
    return blocks * math.ceil(size / blocks)


def cross_entropy(
    hidden: Hidden,
    units: Units,
    targets_B: Int[Array, "B"],
    weights_B: Float[Array, "B"] | None = None,
    *,
    chunk: int | None = None,
) -> tuple[Float[Array, ""], Float[Array, "B"]]:
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
    logits = _logits(hidden, units)
    sharded_logits.check_rows(targets_B, logits.count, "targets")
    weights_B = mean_weights(weights_B, logits.count)
    loss, nll_B = _loss(units.size, chunk, (logits.examples, *logits.units), targets_B, weights_B)
    return loss, jax.lax.stop_gradient(nll_B)


def mean_weights(weights_B: Float[Array, "B"] | None, examples: int) -> Float[Array, "B"]:
    """Weights in proportion to those given, with sum one (zeros stay zeros); None: equal ones."""
    if weights_B is None:
        return jnp.full(examples, 1 / examples, jnp.float32)
    sharded_logits.check_rows(weights_B, examples, "weights")
    return weights_B / jnp.maximum(weights_B.sum(), jnp.finfo(jnp.float32).tiny)


def log_probabilities(
    hidden: Hidden, units: Units, targets_B: Int[Array, "B"], *, chunk: int | None = None
) -> Float[Array, "B"]:
    """``log P(target)`` of each example [B], in nats. Arguments as in `cross_entropy`."""
    return sharded_logits.log_probabilities(_logits(hidden, units), targets_B, chunk=chunk)


def logits(hidden: Hidden, units: Units) -> Float[Array, "B V"]:
    """Logits [B, V'], left where they were computed (V' over ``model``); padding has ``-inf``."""
    return sharded_logits.values(_logits(hidden, units))


def argmax(hidden: Hidden, units: Units) -> Int[Array, "B"]:
    """The likeliest unit of each example, [B] int32; the lowest id among equals."""
    return sharded_logits.argmax(_logits(hidden, units))


def top_k(hidden: Hidden, units: Units, k: int) -> tuple[Float[Array, "B K"], Int[Array, "B K"]]:
    """The k likeliest units: log-probabilities [B, K] and ids; see `sharded_logits.top_k`."""
    return sharded_logits.top_k(_logits(hidden, units), k)


def sample(hidden: Hidden, units: Units, key: Key[Array, ""], **options: Any) -> Int[Array, "B"]:
    """One unit for each example [B], drawn with the options of `sharded_logits.sample`."""
    return sharded_logits.sample(_logits(hidden, units), key, **options)


def sample_logits(
    logits_BV: Float[Array, "B V"], key: Key[Array, ""], **options: Any
) -> Int[Array, "B"]:
    """What `sample` draws, from logits (or log-probabilities) that were computed elsewhere.

    Args:
      logits_BV: [B, V]; -inf for units that are never drawn.
      key: a key of ``jax.random.key``.
      **options: those of `sharded_logits.sample`.

    Returns:
      ids [B] int32.

    Raises:
      InputError: as `sharded_logits.sample`.
    """
    examples, size = logits_BV.shape
    pad = padded_units(size, MeshAxes.current(examples).blocks) - size
    given = ShardedLogits(
        compute=lambda _, y_BV, __: y_BV,
        examples=jnp.arange(examples),
        units=jnp.pad(logits_BV, ((0, 0), (0, pad))),
        letters="BV",
        shared=(),
        size=size,
    )
    return sharded_logits.sample(given, key, **options)


def _logits(hidden: Hidden, units: Units) -> ShardedLogits:
    """y = b + sum_i h_i . kernel_i, to be computed where they are stored."""
    _check_shapes(hidden, units)
    return ShardedLogits(
        compute=_block_logits,
        examples=tuple(hidden),
        units=(tuple(units.kernels), units.bias),
        letters=(tuple("DV" for _ in units.kernels), "V"),
        shared=(),
        size=units.size,
    )


def _block_logits(hidden, units, _) -> Float[Array, "B V"]:
    kernels, bias_V = units
    y_BV = bias_V.astype(jnp.float32)
    for h_BD, k_DV in zip(hidden, kernels, strict=True):
        y_BV = y_BV + jnp.dot(h_BD, k_DV, preferred_element_type=jnp.float32)
    return y_BV


# The loss and its gradient, made together.


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _loss(size, chunk, parameters, targets_B, weights_B):
    hidden, kernels, bias = parameters
    nll_B = -log_probabilities(hidden, Units(kernels, bias, size), targets_B, chunk=chunk)
    return jnp.sum(nll_B * weights_B), nll_B


def _loss_forward(size, chunk, parameters, targets_B, weights_B):
    hidden, kernels, bias = parameters
    loss, nll_B, gradients = on_blocks(
        functools.partial(_loss_and_gradients, chunk=chunk),
        _logits(hidden, Units(kernels, bias, size)),
        (targets_B, weights_B),
        out=("", "B", (tuple("BK" for _ in hidden), tuple("DV" for _ in kernels), "V")),
    )
    return (loss, nll_B), (gradients, targets_B, weights_B)


def _loss_backward(size, chunk, residuals, cotangents):
    gradients, targets_B, weights_B = residuals
    scaled = jax.tree.map(lambda d: (cotangents[0] * d).astype(d.dtype), gradients)
    return scaled, np.zeros(targets_B.shape, jax.dtypes.float0), jnp.zeros_like(weights_B)


_loss.defvjp(_loss_forward, _loss_backward)


def _loss_and_gradients(block: LogitBlock, targets_B, weights_B, *, chunk):
    """Weighted loss, nll [B] and d loss / d (hidden, kernels, bias) on one device."""
    kernels, bias_V = block.part.units

    def one_chunk(carry, inputs):
        d_kernels, d_bias_V = carry
        hidden, targets_B, weights_B = inputs
        y_BV = block.logits(hidden)
        m_B1, Z_B1, e_BV = block.normaliser(y_BV)
        # d nll / d y = P - [unit is the target] = (e - [unit is the target] Z) / Z
        is_target_BV = block.ids == targets_B[:, None]
        residual_BV = e_BV - jnp.where(is_target_BV, Z_B1, 0.0)
        scale_B1 = weights_B[:, None] / Z_B1
        d_hidden = tuple(
            jnp.dot(residual_BV.astype(k_DV.dtype), k_DV.T, preferred_element_type=jnp.float32)
            for k_DV in kernels
        )
        target_B1, d_hidden = block.sum((block.pick(y_BV, targets_B), d_hidden))
        nll_B = (jnp.log(Z_B1) + m_B1 - target_B1)[:, 0]
        d_kernels = tuple(
            d_DV + jnp.dot((h_BD * scale_B1).T, residual_BV, preferred_element_type=jnp.float32)
            for d_DV, h_BD in zip(d_kernels, hidden, strict=True)
        )
        d_bias_V += (scale_B1.T @ residual_BV)[0]
        d_hidden = tuple(d * scale_B1 for d in d_hidden)
        return (d_kernels, d_bias_V), (nll_B, d_hidden)

    start = jax.tree.map(
        lambda p: block.axes.as_varying(jnp.zeros(p.shape, jnp.float32)), block.part.units
    )
    (d_kernels, d_bias_V), (nll_B, d_hidden) = in_chunks(
        one_chunk, start, (block.part.examples, targets_B, weights_B), chunk
    )
    loss, d_kernels, d_bias_V = block.axes.sum_over_batch(
        (jnp.sum(nll_B * weights_B), d_kernels, d_bias_V)
    )
    gradients = d_hidden, d_kernels, d_bias_V
    primals = block.part.examples, kernels, bias_V
    return loss, nll_B, jax.tree.map(lambda d, p: d.astype(p.dtype), gradients, primals)


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
            f"along `model`, expected {padded_units(units.size, blocks)} (output_blocks={blocks})"
        )
