"""The transformer of CLIP's towers (Radford et al. 2021): what texts and images have in common.

::

    x += Attention(LN(x))          causal in the text tower
    x += MLP(LN(x))

The stream x and the norms are float32, the branches ``config.dtype``. Initial deviations are those
of OpenAI's ``clip/model.py``, with D the width and N the depth: D^-.5 for queries, keys and values,
(2 D)^-.5 for the hidden layer, D^-.5 (2 N)^-.5 for both outputs, D^-.5 for the projection.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
from flax import linen as nn
from jaxtyping import Array, Float, Int

from jaxgen.errors import InputError, check_positive, check_sizes
from jaxgen.nn.attention import Bias, Implementation, SelfAttention, check_implementation
from jaxgen.nn.dense import Dense, Dtype, check_dtype
from jaxgen.nn.key_values import KeyValues, Place
from jaxgen.nn.mlp import MLP, gelu_exact, quick_gelu
from jaxgen.nn.norms import LayerNorm

Activation = Literal["quick_gelu", "gelu"]

ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = {
    "quick_gelu": quick_gelu,
    "gelu": gelu_exact,
}
"""x sigmoid(1.702 x), of OpenAI's weights, and the exact one, of most of OpenCLIP's."""

normal = nn.initializers.normal


@dataclasses.dataclass(frozen=True)
class TowerConfig:
    """Options of a tower.

    Attributes:
      width: D, of a token.
      depth: blocks.
      heads: attention heads; they divide the width.
      mlp_units: hidden units of a block's MLP.
      activation: of the MLP, "quick_gelu" (OpenAI) or "gelu" (the exact one).
      epsilon: added to variances in norms.
      projection: P, the width of the vectors that texts and images share; None: pooled states are
        not projected.
      dtype: the compute dtype of matrix products.
      remat: whether a block's activations are recomputed in the backward pass.
      attention: implementation of attention, see `jaxgen.nn.attention`.
    """

    width: int = 512
    depth: int = 12
    heads: int = 8
    mlp_units: int = 2048
    activation: Activation = "quick_gelu"
    epsilon: float = 1e-5
    projection: int | None = 512
    dtype: Dtype = "float32"
    remat: bool = False
    attention: Implementation = "auto"

    def __post_init__(self) -> None:
        """Validates the fields."""
        check_sizes(self, "width", "depth", "heads", "mlp_units")
        if self.projection is not None:
            check_sizes(self, "projection")
        if self.width % self.heads:
            raise InputError(f"width is {self.width}, expected a multiple of heads={self.heads}")
        if self.activation not in ACTIVATIONS:
            raise InputError(
                f"activation is {self.activation!r}, expected {' or '.join(ACTIVATIONS)}"
            )
        check_positive("epsilon", self.epsilon)
        check_dtype(self.dtype)
        check_implementation(self.attention)


class TowerBlock(nn.Module):
    """One block.

    Attributes:
      config: the tower's options.
      causal: whether a token sees those before it and itself alone.
    """

    config: TowerConfig
    causal: bool = False

    @nn.compact
    def __call__(
        self,
        x_BLD: Float[Array, "B L D"],
        segments_BL: Int[Array, "B L"] | None = None,
        bias: Bias | None = None,
        past: KeyValues | None = None,
        place: Place = 0,
    ) -> Any:
        """[B, L, D] to [B, L, D].

        Args:
          x_BLD: tokens.
          segments_BL: segment ids for attention, see `jaxgen.nn.attention`.
          bias: added to the logits of attention.
          past: keys and values of earlier tokens, see `SelfAttention`.
          place: of the first token in ``past``.

        Returns:
          The tokens; with ``past`` they and what is kept for the next ones.
        """
        c = self.config
        attention = SelfAttention(
            c.heads,
            c.dtype,
            implementation=c.attention,
            causal=self.causal,
            qkv_init=normal(c.width**-0.5),
            output_init=initial_outputs(c),
            name="attention",
        )
        y_BLD = LayerNorm(c.epsilon, name="attention_norm")(x_BLD)
        if past is None:
            x_BLD = x_BLD + attention(y_BLD, segments_BL=segments_BL, bias=bias)
        else:
            seen_BLD, past = attention(y_BLD, past=past, place=place)
            x_BLD = x_BLD + seen_BLD
        x_BLD = x_BLD + tower_mlp(c, "mlp")(LayerNorm(c.epsilon, name="mlp_norm")(x_BLD))
        return x_BLD if past is None else (x_BLD, past)


def initial_outputs(config: TowerConfig) -> Any:
    """The initial kernels of the layers that add to the stream."""
    return normal(config.width**-0.5 * (2 * config.depth) ** -0.5)


def tower_mlp(config: TowerConfig, name: str | None = None) -> MLP:
    """The MLP of a block."""
    hidden = normal((2 * config.width) ** -0.5)
    activation, outputs = ACTIVATIONS[config.activation], initial_outputs(config)
    return MLP(config.mlp_units, config.dtype, activation, hidden, outputs, name=name)


def continue_blocks(
    blocks: Sequence[TowerBlock],
    x_BLD: Float[Array, "B L D"],
    past: Sequence[KeyValues],
    place: Place,
) -> tuple[Float[Array, "B L D"], tuple[KeyValues, ...]]:
    """Causal blocks on the tokens that follow others.

    Args:
      blocks: one after the other.
      x_BLD: the tokens.
      past: what each block has kept of the tokens before.
      place: how many those are.
    """
    kept = []
    for block, before in zip(blocks, past, strict=True):
        x_BLD, after = block(x_BLD, past=before, place=place)
        kept.append(after)
    return x_BLD, tuple(kept)


def empty_past(config: TowerConfig, batch: int, length: int) -> tuple[KeyValues, ...]:
    """Room for the keys and values of texts, for each of ``config.depth`` blocks."""
    size = config.width // config.heads
    empty = KeyValues.empty(batch, length, config.heads, size, config.dtype)
    return (empty,) * config.depth


def tower_blocks(config: TowerConfig, causal: bool = False) -> list[TowerBlock]:
    """The blocks of a tower, to be kept by a module's ``setup`` as ``blocks``."""
    block = nn.remat(TowerBlock) if config.remat else TowerBlock
    return [block(config, causal) for _ in range(config.depth)]


def tower_projection(config: TowerConfig) -> Dense:
    """The layer from pooled states to the vectors that texts and images share; no bias."""
    assert config.projection is not None
    shape, axes = (config.projection,), ("embed", "hidden")
    return Dense(shape, axes, kernel_init=normal(config.width**-0.5), bias=False)


def positions_param(module: nn.Module, length: int, width: int, deviation: float) -> jax.Array:
    """The learnt positions [L, D] of a module, a parameter ``positions``."""
    named = nn.with_logical_partitioning(normal(deviation), ("positions", "embed"))
    return module.param("positions", named, (length, width))
