"""The perceptron of a transformer block."""

from collections.abc import Callable

import jax
from flax import linen as nn
from jaxtyping import Array, Float

from jaxgen.nn.dense import Dense, Dtype


def gelu_tanh(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """``x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) / 2`` (Hendrycks & Gimpel 2016)."""
    return jax.nn.gelu(x, approximate=True)


class MLP(nn.Module):
    """``output(f(hidden(x)))``; its hidden units lie over the mesh axis ``model``.

    Attributes:
      hidden_units: F.
      dtype: what the products are computed in.
      activation: f.
    """

    hidden_units: int
    dtype: Dtype = "float32"
    activation: Callable[[Array], Array] = gelu_tanh

    @nn.compact
    def __call__(self, x_BLD: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        """[B, L, D] to [B, L, D] in ``dtype``."""
        hidden = Dense((self.hidden_units,), ("embed", "mlp"), self.dtype, name="hidden")
        output = Dense((x_BLD.shape[-1],), ("mlp", "embed"), self.dtype, name="output")
        return output(self.activation(hidden(x_BLD)))
