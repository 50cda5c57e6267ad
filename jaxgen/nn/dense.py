"""A linear layer over any axes, with logical names on its parameters."""

import math
from collections.abc import Callable
from typing import Any, Literal

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxgen.axes import DEFAULT_RULES, SEQUENCE
from jaxgen.errors import InputError
from jaxgen.nn.token_sharding import auto_axes

Dtype = Literal["float32", "bfloat16"]
"""Compute dtype of matrix products; parameters are float32 whatever it is."""

xavier = nn.initializers.xavier_uniform()
zeros = nn.initializers.zeros


def check_dtype(dtype: str, field: str = "dtype") -> None:
    """Validates a compute dtype, naming the field."""
    if dtype not in ("float32", "bfloat16"):
        raise InputError(f"{field} is {dtype!r}, expected 'float32' or 'bfloat16'")


class Dense(nn.Module):
    """``y = x W + b`` from the last axes of x to one or several new ones.

    W has one axis for each contracted axis of x, then one for each feature axis; an initial value
    is drawn as for the flat matrix, so fan-in and fan-out do not depend on how axes are split. The
    product is that of flat matrices: of several input or feature axes only the first may be cut
    over a mesh axis, or the cut would be lost (gathered) when they are joined; names that the
    default rules cut elsewhere are refused.

    Attributes:
      features: sizes of the new axes.
      axes: logical names of all axes of W, inputs first; the bias has those of the features.
      dtype: the compute dtype of the product.
      kernel_init: initial W from (key, [inputs, outputs], dtype).
      bias: whether b is added.

    Raises:
      InputError: when called, for axes that cannot be joined.
    """

    features: tuple[int, ...]
    axes: tuple[str | None, ...]
    dtype: Dtype = "float32"
    kernel_init: Callable[..., Any] = xavier
    bias: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """x [..., inputs] to y [..., features], in ``dtype``."""
        outputs = len(self.features)
        contracted = len(self.axes) - outputs
        for joined in (self.axes[:contracted], self.axes[contracted:]):
            _check_joined(joined)
        inputs = x.shape[x.ndim - contracted :]
        flat = math.prod(inputs), math.prod(self.features)

        def initial(key: Any, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
            return self.kernel_init(key, flat, dtype).reshape(shape)

        named = nn.with_logical_partitioning
        kernel = self.param("kernel", named(initial, self.axes), (*inputs, *self.features))
        x, kernel = x.astype(self.dtype), jnp.asarray(kernel, self.dtype)
        leading = x.shape[: x.ndim - contracted]
        # A plain product of matrices: with more axes XLA on CPU transposes W, and the gradient of
        # y, in memory in the backward pass, which takes longer than the products. Examples and
        # tokens stay apart where tokens are cut too: joined, the cut would be lost.
        joined_axes = leading if auto_axes().get(SEQUENCE, 1) > 1 else (-1,)
        y = x.reshape(*joined_axes, flat[0]) @ kernel.reshape(flat)
        y = y.reshape(*leading, *self.features)
        if self.bias:
            bias = self.param("bias", named(zeros, self.axes[contracted:]), self.features)
            y = y + jnp.asarray(bias, self.dtype)
        return y


def _check_joined(axes: tuple[str | None, ...]) -> None:
    """Refuses a cut behind the first of the axes that are joined to one."""
    for name in axes[1:]:
        if name is not None and DEFAULT_RULES.get(name) is not None:
            raise InputError(
                f"axes {axes} are joined, expected {name!r}, which is cut over the mesh axis "
                f"{DEFAULT_RULES[name]!r}, to be the first of them"
            )
