"""The MLP of a transformer block."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxgen.nn.dense import Dense, Dtype, xavier

SLOPE, CUBIC = math.sqrt(2 / math.pi), 0.044715


@jax.custom_jvp
def gelu_tanh(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """``x (1 + tanh(u)) / 2`` with ``u = sqrt(2/pi) (x + 0.044715 x^3)``, in float32.

    The hyperbolic form of the Gaussian error linear unit (Hendrycks & Gimpel 2016, section 2). As
    ``x / (1 + exp(-2u))`` it is the same number without a difference of nearly equal ones.
    """
    y = _at_least_float32(x)
    return (y / (1 + jnp.exp(-2 * _argument(y)))).astype(x.dtype)


@gelu_tanh.defjvp
def _gelu_tanh_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    """``x (1 - c)`` has the derivative ``1 - c + x c (1 - c) 2 u'`` with ``c = 1 / (1 + exp(2u))``.

    Another exponential than the value's, so that the compiler makes it from x in the backward pass:
    one that both share it would compute once and keep, F more numbers a token to write and read.
    """
    (x,), (dx,) = primals, tangents
    y = _at_least_float32(x)
    closed = 1 / (1 + jnp.exp(2 * _argument(y)))
    slope = 1 - closed + y * closed * (1 - closed) * 2 * SLOPE * (1 + 3 * CUBIC * y**2)
    return gelu_tanh(x), (slope * dx).astype(x.dtype)


def _argument(y: Array) -> Array:
    """u."""
    return SLOPE * (y + CUBIC * y**3)


def _at_least_float32(x: Array) -> Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


gelu_exact = functools.partial(jax.nn.gelu, approximate=False)
"""``x (1 + erf(x / sqrt(2))) / 2`` (Hendrycks & Gimpel 2016)."""


def quick_gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """``x sigmoid(1.702 x)``, the approximation that OpenAI's CLIP was trained with."""
    return x * jax.nn.sigmoid(1.702 * x)


class MLP(nn.Module):
    """``output(f(hidden(x)))``; its hidden units are sharded over the mesh axis ``model``.

    Attributes:
      hidden_units: F.
      dtype: the compute dtype of products.
      activation: f.
      hidden_init: the initial kernel of the hidden layer.
      output_init: the initial kernel of the output layer.
    """

    hidden_units: int
    dtype: Dtype = "float32"
    activation: Callable[[Array], Array] = gelu_tanh
    hidden_init: Callable[..., Any] = xavier
    output_init: Callable[..., Any] = xavier

    @nn.compact
    def __call__(self, x_BLD: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        """[B, L, D] to [B, L, D] in ``dtype``."""
        units, width = (self.hidden_units,), (x_BLD.shape[-1],)
        hidden = Dense(units, ("embed", "mlp"), self.dtype, self.hidden_init, name="hidden")
        output = Dense(width, ("mlp", "embed"), self.dtype, self.output_init, name="output")
        return output(self.activation(hidden(x_BLD)))
