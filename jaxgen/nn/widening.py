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


def widen_input(
    params: Any, wider: Any, channels: int, added: int, place: int | None = None
) -> Any:
    """The old parameters, with zeros for the added input channels.

    Args:
      params: of the network with `channels` input channels.
      wider: parameters, or their shapes (`jax.eval_shape`), of the same network with `added` more.
      channels: C.
      added: how many more.
      place: how many of the old channels come before the new ones in its input; None: all.

    Returns:
      A tree like `params` in the shapes of `wider`.

    Raises:
      InputError: where the trees differ, or a shape by more than that, or for a place outside.
    """
    place = channels if place is None else place
    if not 0 <= place <= channels:
        raise InputError(f"place is {place}, expected 0 to {channels}, the channels there are")
    old, structure = jax.tree.flatten_with_path(params)
    new, _ = jax.tree.flatten_with_path(wider)
    if [path for path, _ in old] != [path for path, _ in new]:
        raise InputError(
            "params and wider have different names, expected parameters of the same names"
        )
    widened = [
        _widen(jax.tree_util.keystr(path), value, like, channels, added, place)
        for (path, value), (_, like) in zip(old, new, strict=True)
    ]
    return jax.tree.unflatten(structure, widened)


def _widen(name: str, value: Array, like: Any, channels: int, added: int, place: int) -> Array:
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
    zeros = jnp.zeros((*before, pixels, added, *rest), value.dtype)
    parts = jnp.split(split, [place], axis=axis + 1)
    return jnp.concatenate([parts[0], zeros, parts[1]], axis=axis + 1).reshape(like.shape)
