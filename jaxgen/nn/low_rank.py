"""Low-rank adapters of kernels (Hu et al. 2022, LoRA).

With W a kernel, r the rank and s a scale::

    W' = W + s A B        A [inputs, r] normal, B [r, outputs] zero at first

Adapters are parameters of their own, and no model knows of them: a loss takes both and hands the
sum to the model, so that gradients go to what is trained alone::

    adapters = make_adapters(params, "text_attention/.*(query|value)", 4, key)
    loss = lambda adapters: model_loss(with_adapters(params, adapters), batch)
    params = with_adapters(params, adapters)                             merged, for good

A kernel of several axes is a matrix of those that its layer joins:

=====================  ================  =======================
layer                  kernel            matrix
=====================  ================  =======================
most                   [D, ...]          D x all others
``output`` of heads    [H, K, D]         H K x D
convolutions           [3, 3, I, O]      9 I x O
=====================  ================  =======================
"""

import math
import re
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from jaxgen.errors import InputError
from jaxgen.typing import Tree

KERNEL = "kernel"
DOWN, UP = "down", "up"
"""A and B."""

SEVERAL_PARTS = ("qkv", "key_value", "text")
"""Layers whose outputs have an axis for queries, keys and values; others of four axes convolve."""


def make_adapters(params: Tree, pattern: str, rank: int, key: Key[Array, ""]) -> Tree:
    """Adapters that change nothing yet, of the kernels that a pattern names.

    Args:
      params: of a model; a nested dict.
      pattern: a regular expression, found anywhere in a path such as
        ``blocks_0/attention/qkv/kernel``.
      rank: r.
      key: randomness; that of a kernel depends on its place among those named.

    Returns:
      A nested dict like that of the parameters, with ``down`` [*inputs, r] and ``up`` [r, *outputs]
      in the place of each kernel.

    Raises:
      InputError: for what is no regular expression or names no kernel, and a rank that is below 1
        or above that of a kernel.
    """
    kernels = _kernels(params)
    try:
        named = {path: leaf for path, leaf in kernels.items() if re.search(pattern, "/".join(path))}
    except re.error as error:
        raise InputError(
            f"the pattern is {pattern!r}, expected a regular expression: {error}"
        ) from (None)
    if not named:
        some = ", ".join("/".join(path) for path in list(kernels)[:3])
        raise InputError(f"the pattern {pattern!r} names no kernel, expected a part of {some}, ...")
    adapters: dict[str, Any] = {}
    for place, (path, kernel) in enumerate(named.items()):
        split = input_axes("/".join(path), kernel.ndim)
        inputs, outputs = kernel.shape[:split], kernel.shape[split:]
        most = min(math.prod(inputs), math.prod(outputs))
        if not 1 <= rank <= most:
            raise InputError(
                f"rank is {rank}, expected 1 to {most} for {'/'.join(path)} of shape {kernel.shape}"
            )
        own_key = jax.random.fold_in(key, place)
        down = jax.random.normal(own_key, (*inputs, rank)) / math.sqrt(math.prod(inputs))
        pair = {DOWN: down, UP: jnp.zeros((rank, *outputs))}
        _put(adapters, path, pair)
    return adapters


def with_adapters(params: Tree, adapters: Tree, scale: float | Array = 1.0) -> Tree:
    """Parameters with the adapters' products added: ``W + s A B``.

    Args:
      params: of the model.
      adapters: of some of its kernels.
      scale: s; other programs give alpha, s = alpha / r.

    Returns:
      A tree of the shapes and types of the parameters.

    Raises:
      InputError: for adapters of kernels that the model has not, or of other shapes.
    """
    return _added(params, adapters, scale, ())


def input_axes(path: str, axes: int) -> int:
    """How many of the first axes of a kernel are inputs, by the name of its layer.

    Args:
      path: of the kernel.
      axes: of it.
    """
    layer = path.split("/")[-2] if "/" in path else ""
    if axes > 3:
        return 1 if layer.endswith(SEVERAL_PARTS) else axes - 1
    return 2 if axes == 3 and (layer == "output" or "conv" in layer) else 1


def _kernels(params: Tree, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Kernels with two axes or more, by path."""
    found: dict[tuple[str, ...], Any] = {}
    for name, value in params.items():
        if isinstance(value, dict):
            found |= _kernels(value, (*path, name))
        elif name == KERNEL and value.ndim > 1:
            found[*path, name] = value
    return found


def _put(tree: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
    tree[path[-1]] = value


def _added(params: Tree, adapters: Tree, scale: float | Array, path: tuple[str, ...]) -> Tree:
    changed = dict(params)
    for name, own in adapters.items():
        place = "/".join((*path, name))
        if name not in params:
            raise InputError(f"adapters have {place}, which the parameters have not")
        if isinstance(params[name], dict):
            changed[name] = _added(params[name], own, scale, (*path, name))
            continue
        kernel, down, up = params[name], own[DOWN], own[UP]
        if (*down.shape[:-1], *up.shape[1:]) != kernel.shape or down.shape[-1] != len(up):
            raise InputError(
                f"adapters of {place} have shapes {down.shape} and {up.shape}, expected the axes "
                f"of {kernel.shape} and a rank between"
            )
        product = jnp.tensordot(down, up, 1)
        changed[name] = (kernel + scale * product).astype(kernel.dtype)
    return changed
