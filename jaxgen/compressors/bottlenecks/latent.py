"""The contract of bottlenecks, and what the discrete ones share.

A bottleneck takes h [B, ..., encoder_channels] and gives a `Latent`. Its loss is one number for
each example, so that examples may be masked or weighted before they are averaged. Positions of an
example (frames, rows, columns) are alike to it.
"""

from dataclasses import dataclass
from typing import Protocol

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int, Int32

from jaxgen.errors import InputError, can_be_checked

MAX_CODEBOOK = 2**24
"""The largest codebook: counts of its codes are kept in memory."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Latent:
    """What a bottleneck makes of h.

    Attributes:
      values: [B, ..., latent_channels], what the decoder takes, float32; gradients pass straight
        through quantisation.
      codes: [B, ...], which code each position has; None where latents are continuous.
      loss: [B], the bottleneck's own loss of each example: for KL the sum over all numbers of an
        example, for codebooks the mean. Its mean over B, times a weight, is added to the loss.
      metrics: scalars of the batch by name; ``perplexity`` of the codebook where there is one.
    """

    values: Float[Array, "B *positions C"]
    codes: Int32[Array, "B *positions"] | None
    loss: Float[Array, "B"]
    metrics: dict[str, Float[Array, ""]]


class BottleneckConfig(Protocol):
    """A frozen dataclass with these; its module is called as ``module(h, key=None) -> Latent``, and
    of discrete latents has ``values(codes [...]) -> [..., latent_channels]``."""

    @property
    def latent_channels(self) -> int:
        """Channels that the decoder takes."""

    @property
    def encoder_channels(self) -> int:
        """Channels that the encoder gives."""

    @property
    def codebook_size(self) -> int | None:
        """How many codes there are; None where latents are continuous."""

    def make_model(self) -> nn.Module:
        """The module."""


def as_encoding(h: Float[Array, "B *positions C"], channels: int) -> Float[Array, "B *positions C"]:
    """h in float32.

    Raises:
      InputError: unless it is [B, ..., channels].
    """
    if h.ndim < 2 or h.shape[-1] != channels:
        raise InputError(f"h has shape {h.shape}, expected [B, ..., {channels}] of the encoder")
    return h.astype(jnp.float32)


def check_codebook_size(name: str, value: int) -> None:
    """Raises InputError unless a codebook has 2 to `MAX_CODEBOOK` codes."""
    if not 2 <= value <= MAX_CODEBOOK:
        raise InputError(f"{name} is {value}, expected 2 to {MAX_CODEBOOK} codes")


def check_codes(codes: Int[Array, "..."], codebook_size: int) -> None:
    """Validates codes; values are looked at outside of compiled programs only.

    Raises:
      InputError: for codes that are no integers, or outside the codebook.
    """
    if not jnp.issubdtype(codes.dtype, jnp.integer):
        raise InputError(f"codes have dtype {codes.dtype}, expected integers")
    if not codes.size or not can_be_checked(codes):
        return
    least, most = int(codes.min()), int(codes.max())
    if least < 0 or most >= codebook_size:
        bad = least if least < 0 else most
        raise InputError(f"codes hold {bad}, expected 0 to {codebook_size - 1}, the codebook's")


def nan_outside(
    values: Float[Array, "*N C"], codes: Int[Array, "*N"], codebook_size: int
) -> Float[Array, "*N C"]:
    """The values of codes; NaN for codes outside the codebook, which no program can refuse."""
    inside = (codes >= 0) & (codes < codebook_size)
    return jnp.where(inside[..., None], values, jnp.nan)


def straight_through(
    z: Float[Array, "*N C"], quantized: Float[Array, "*N C"]
) -> Float[Array, "*N C"]:
    """The quantised values, bit for bit, with the gradient of z (Bengio et al. 2013)."""
    return jax.lax.stop_gradient(quantized) + (z - jax.lax.stop_gradient(z))


def mean_of_examples(x: Float[Array, "B *positions"]) -> Float[Array, "B"]:
    """The mean over all axes but the first."""
    return x.mean(axis=tuple(range(1, x.ndim)))


def commitment_of(
    z: Float[Array, "B *positions C"], quantized: Float[Array, "B *positions C"]
) -> Float[Array, "B"]:
    """``mean |z - sg(quantized)|^2`` of each example: it pulls the encoder towards the codes."""
    return mean_of_examples(jnp.square(z - jax.lax.stop_gradient(quantized)))
