"""Parameters of a network for those of one with more input channels, which it ignores at first.

A network that is given something new to look at (a guidance weight, a low-resolution image)
beside its old input, as channels, can start where the old one ended: the kernel's rows for the new
channels are zero.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxgen.errors import InputError


def widen_input(params: Any, wider: Any, channels: int, added: int) -> Any:
    """The old parameters, with zeros for the added input channels.

    Args:
      params: of the network with `channels` input channels.
      wider: parameters, or their shapes (`jax.eval_shape`), of the same network with `added` more;
        the new channels come after the old ones in its input.
      channels: C.
      added: how many more.

    Returns:
      A tree like `params` in the shapes of `wider`.

    Raises:
      InputError: where the trees differ, or a shape by more than that.
    """
    old, structure = jax.tree.flatten_with_path(params)
    new, _ = jax.tree.flatten_with_path(wider)
    if [path for path, _ in old] != [path for path, _ in new]:
        raise InputError(
            "params and wider have different names, expected parameters of the same names"
        )
    widened = [
        _widen(jax.tree_util.keystr(path), value, like, channels, added)
        for (path, value), (_, like) in zip(old, new, strict=True)
    ]
    return jax.tree.unflatten(structure, widened)


def _widen(name: str, value: Array, like: Any, channels: int, added: int) -> Array:
    """One array; along its input axis channels are the fastest to change (n pixels of C each)."""
    if value.shape == like.shape:
        return value
    pairs = list(zip(value.shape, like.shape, strict=False))
    differ = [i for i, (old, new) in enumerate(pairs) if old != new]
    fits = len(value.shape) == len(like.shape) and len(differ) == 1
    if fits:
        axis = differ[0]
        old, new = pairs[axis]
        pixels = old // channels
        fits = old == pixels * channels and new == pixels * (channels + added)
    if not fits:
        raise InputError(
            f"{name} has shape {value.shape}, and {like.shape} in the wider network, expected one "
            f"axis with {added} more for each {channels}"
        )
    before, rest = value.shape[:axis], value.shape[axis + 1 :]
    split = value.reshape(*before, pixels, channels, *rest)
    padding = [(0, 0)] * split.ndim
    padding[axis + 1] = (0, added)
    return jnp.pad(split, padding).reshape(like.shape)
