"""Weights of PyTorch's convolutions and batch norms: checked by name, folded into one layer.

At inference a batch norm is linear, and is folded into its convolution in float64::

    w' = w g / sqrt(var + epsilon)        b' = beta - mean g / sqrt(var + epsilon)
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from jaxgen.errors import InputError

NORM = ("weight", "bias", "running_mean", "running_var")
"""What a batch norm holds, by PyTorch's names."""

COUNTER = ".num_batches_tracked"

Tensors = Mapping[str, Any]
"""Arrays by name; what they are is checked."""


def checked_tensors(
    tensors: Tensors, shapes: Mapping[str, tuple[int, ...]], network: str, source: str
) -> dict[str, Float[np.ndarray, "..."]]:
    """The tensors of a network in float64; counters of batches are left out.

    Args:
      tensors: name -> array.
      shapes: name -> shape of all that there should be.
      network: what they are the tensors of, for an error.
      source: what they are called in an error, say their file.

    Raises:
      InputError: A tensor is missing, not expected, has another shape, is complex or not finite, or
        a variance is negative; the message names it and `source`.
    """
    given = {name for name in tensors if not name.endswith(COUNTER)}
    for name in [*sorted(shapes.keys() - given), *sorted(given - shapes.keys())]:
        fault = "missing" if name in shapes else f"not part of {network}"
        raise InputError(
            f"{source}: {name} is {fault}, expected the {len(shapes)} tensors of {network}"
        )
    return {name: _checked(source, name, tensors[name], shape) for name, shape in shapes.items()}


def _checked(
    source: str, name: str, tensor: Float[np.ndarray, "..."], shape: tuple[int, ...]
) -> Float[np.ndarray, "..."]:
    if not isinstance(tensor, np.ndarray | jax.Array):
        kind = f"{type(tensor).__module__.split('.')[0]}.{type(tensor).__name__}"
        raise InputError(
            f"{source}: {name} is a {kind}, expected a numpy array, x.numpy() of torch"
        )
    if np.iscomplexobj(tensor):
        raise InputError(f"{source}: {name} holds complex numbers, expected real ones")
    if tensor.shape != shape:
        raise InputError(f"{source}: {name} has shape {list(tensor.shape)}, expected {list(shape)}")
    array = np.asarray(tensor, np.float64)
    if not np.isfinite(array).all() or (name.endswith("running_var") and array.min() < 0):
        raise InputError(f"{source}: {name} holds numbers that are NaN or out of range")
    return array


def fold_batch_norm(
    kernel: Float[np.ndarray, "*sides C F"], norm: str, tensors: Tensors, epsilon: float
) -> dict[str, Float[np.ndarray, "..."]]:
    """A convolution and the batch norm behind it as one convolution with a bias, in float32.

    Args:
      kernel: of the convolution, output channels last.
      norm: the name that the norm's tensors begin with, such as ``"Mixed_3b.b0.bn"``.
      tensors: name -> array.
      epsilon: of the norm.

    Returns:
      ``"kernel"`` with the axes it had, and ``"bias"`` [F].
    """
    weight, bias, mean, variance = (tensors[f"{norm}.{kind}"] for kind in NORM)
    scale = weight / np.sqrt(variance + epsilon)
    return {
        "kernel": (kernel * scale).astype(np.float32),
        "bias": (bias - mean * scale).astype(np.float32),
    }
