"""Attention of tokens that are spread over the mesh axis ``sequence``: by all-to-all over heads.

Each of n devices holds L / n tokens with all H heads (of those that ``model`` leaves it). Attention
needs all tokens of a head, not all heads of a token: an all-to-all gives every device all L tokens
of H / n heads, attention runs there as it does on one device, and another all-to-all puts what was
seen back to the tokens (Jacobs et al. 2023, "DeepSpeed Ulysses"). Any implementation, segment ids,
reaches and folded views work unchanged. Attention of frames to themselves sends nothing where
devices hold whole frames; attention to a text neither, of which every device has all.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from jaxgen.axes import BATCH_MESH_AXES, MODEL, SEQUENCE
from jaxgen.errors import InputError
from jaxgen.nn.token_sharding import auto_axes, sequence_shards
from jaxgen.nn.visibility import Segments, View

Attend = Callable[[Array, Array, Array, View], Array]
"""``(q, k, v, view) -> seen``, [B, L, H, K] each."""


def over_sequence(
    attend: Attend,
    q_BLHK: Float[Array, "B L H K"],
    k_BLHK: Float[Array, "B L H K"],
    v_BLHK: Float[Array, "B L H K"],
    view: View,
) -> Float[Array, "B L H K"]:
    """``attend(q, k, v, view)`` of tokens to each other, which are spread over ``sequence``.

    Args:
      attend: attention on one device.
      q_BLHK: queries.
      k_BLHK: keys.
      v_BLHK: values.
      view: what is attended over.

    Returns:
      What `attend` returns, spread as the queries; where the current mesh does not cut L tokens,
      what it returns as it is.

    Raises:
      InputError: for heads that ``model`` and ``sequence`` do not divide.
    """
    shards = sequence_shards(q_BLHK.shape[1])
    if shards == 1:
        return attend(q_BLHK, k_BLHK, v_BLHK, view)
    own_frames = _own_frames(view, shards)
    if own_frames is None:
        _check_heads(q_BLHK.shape[2], shards)
    batch, tokens = _specs(q_BLHK)
    leaves = jax.tree.map(lambda x: _of_batch(x, len(q_BLHK), batch), view)

    def on_device(q: Array, k: Array, v: Array, view: View) -> Array:
        if own_frames is not None:
            return attend(q, k, v, own_frames)
        q, k, v = _exchange((q, k, v), split=2, join=1)
        return _exchange(attend(q, k, v, view), split=1, join=2)

    run = _shard_map(on_device, (tokens, tokens, tokens, leaves), tokens)
    return run(q_BLHK, k_BLHK, v_BLHK, view)


def to_context(
    attend: Callable[[Array, Array, Array, Segments | None], Array],
    q_BLHK: Float[Array, "B L H K"],
    k_BNHK: Float[Array, "B N H K"],
    v_BNHK: Float[Array, "B N H K"],
    segments: Segments | None,
) -> Float[Array, "B L H K"]:
    """``attend(q, k, v, segments)`` of spread queries to keys that every device has all of."""
    if sequence_shards(q_BLHK.shape[1]) == 1:
        return attend(q_BLHK, k_BNHK, v_BNHK, segments)
    batch, tokens = _specs(q_BLHK)
    context = P(batch, None, tokens[2])
    ids = None if segments is None else (P(batch, SEQUENCE), P(batch))
    return _shard_map(attend, (tokens, context, context, ids), tokens)(
        q_BLHK, k_BNHK, v_BNHK, segments
    )


def _exchange(x: Any, split: int, join: int) -> Any:
    """All of one axis for a part of another; arrays [B, L, H, K]."""
    return jax.lax.all_to_all(x, SEQUENCE, split, join, tiled=True)


def _shard_map(function: Callable[..., Array], in_specs: Any, out_specs: Any) -> Any:
    """The function on each device; what an axis is not named for is whole along it."""
    axes = set(auto_axes())
    # Unchecked: the loops of `block_attention` start from constants, which vary over no axis.
    return jax.shard_map(
        function, in_specs=in_specs, out_specs=out_specs, axis_names=axes, check_vma=False
    )


def _specs(q_BLHK: Array) -> tuple[tuple[str, ...] | None, P]:
    """The axes of examples, None where these do not divide; and the sharding of queries."""
    sizes = auto_axes()
    batch = tuple(axis for axis in BATCH_MESH_AXES if axis in sizes)
    examples = batch if len(q_BLHK) % math.prod(sizes[axis] for axis in batch) == 0 else None
    model = MODEL if q_BLHK.shape[2] % sizes.get(MODEL, 1) == 0 and MODEL in sizes else None
    return examples, P(examples, SEQUENCE, model)


def _of_batch(x: Any, size: int, batch: tuple[str, ...] | None) -> P:
    """The sharding of what belongs to a view: arrays [B, L] or [1, L], or numbers."""
    shape: tuple[int, ...] = getattr(x, "shape", ())
    return P(batch) if len(shape) == 2 and shape[0] == size else P()


def _own_frames(view: View, shards: int) -> View | None:
    """The view of a device's own frames, where it has whole ones and these see themselves alone."""
    if view.over != "space" or view.grid is None or view.grid[0] % shards:
        return None
    if view.segments_BL is not None or view.reach is not None:
        return None
    frames, places = view.grid
    return dataclasses.replace(view, grid=(frames // shards, places))


def _check_heads(heads: int, shards: int) -> None:
    """Refuses heads that cannot be shared out."""
    model = auto_axes().get(MODEL, 1)
    if heads % (model * shards):
        raise InputError(
            f"heads that attend over the same are {heads}, expected a multiple of "
            f"{model * shards}: model={model} times sequence={shards}"
        )
