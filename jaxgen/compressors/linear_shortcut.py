"""A linear transform beside a network: the network learns what the transform gets wrong.

    h  = (p * U, -6) + network(p)         means, and log-variances where there are any
    p^ = z * V + network(z)

for each block p of pixels that one latent position stands for. U and V are causal convolutions that
see the blocks around, too: what is linear in removing the seams between blocks is learned there. At
first they are transforms of single blocks, and the network's last layers are zero: training from a
cosine transform or principal components (`jaxgen.compressors.block_transforms`, `with_transform`)
begins where these end.

These layers have an equalised learning rate (Karras et al. 2018, section 4.1): kernels are stored
times the square root of their number of inputs. Without it Adam's first steps, as large for each of
20,000 weights as for any other, undo the transform.
"""

import functools
import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from jaxgen.compressors.causal_layers import CausalConv
from jaxgen.errors import InputError
from jaxgen.typing import Tree

LOG_VARIANCE = -6.0
"""Of all latents at first: noise of deviation 0.05, where latents have deviation 1."""

SHORTCUT, SIZE = "shortcut", (3, 3, 3)


class LinearShortcut(nn.Module):
    """The two linear maps.

    Attributes:
      block: P, numbers of a block.
      latent_channels: K.
      encoder_channels: K, or 2 K with log-variances.
      first_frame: what is in front of a video, see `CausalConv`.
    """

    block: int
    latent_channels: int
    encoder_channels: int
    first_frame: bool

    def setup(self) -> None:
        """U and V: at first orthonormal vectors, of single blocks."""
        layer = functools.partial(
            CausalConv, size=SIZE, first_frame=self.first_frame, kernel_init=_single_blocks
        )
        self.analysis = layer(self.latent_channels, axes=("patch", None))
        self.synthesis = layer(self.block, axes=(None, "patch"))

    def analyse(self, p: Float[Array, "B T Y X P"]) -> Float[Array, "B T Y X C"]:
        """Means of blocks [B, T, Y, X, P] and, up to ``encoder_channels``, log-variances."""
        z = self.analysis(p * _constant(self.block))
        rest = self.encoder_channels - self.latent_channels
        return jnp.concatenate([z, jnp.full((*z.shape[:-1], rest), LOG_VARIANCE)], axis=-1)

    def synthesise(self, z: Float[Array, "B T Y X K"]) -> Float[Array, "B T Y X P"]:
        """Blocks of latents [B, T, Y, X, K]."""
        return self.synthesis(z * _constant(self.latent_channels))


def equalised(inputs: int) -> float:
    """What stored kernels of so many inputs are multiplied by, one over its square root."""
    return inputs**-0.5


def _constant(channels: int) -> float:
    return equalised(math.prod(SIZE) * channels)


def _single_blocks(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """A kernel that sees the block at hand alone, by orthonormal vectors."""
    return _at_centre(nn.initializers.orthogonal()(key, shape[-2:], dtype)) / _constant(shape[-2])


def _at_centre(matrix: Float[Any, "C F"]) -> Float[Array, "T Y X C F"]:
    """A kernel that is a matrix for the block at hand, the last in time, and else zeros."""
    kernel = jnp.zeros((*SIZE, *matrix.shape), jnp.float32)
    return kernel.at[-1, SIZE[1] // 2, SIZE[2] // 2].set(matrix)


def with_transform(
    network_params: Tree,
    basis_PK: Float[np.ndarray, "P K"],
    deviation_K: Float[np.ndarray, "K"],
    kernel: Float[np.ndarray, "3 3 3 K P"] | None = None,
) -> Tree:
    """The parameters of a network with a shortcut that is a given transform.

    Args:
      network_params: of a network with `LinearShortcut`.
      basis_PK: orthonormal vectors.
      deviation_K: of their coefficients; latents are divided by them, and so have deviation 1.
      kernel: from such latents back to blocks (`least_squares_kernel`); None: the transpose.

    Raises:
      InputError: for a network without a shortcut, or one of another shape.
    """
    shortcut = network_params.get(SHORTCUT)
    found = None if shortcut is None else shortcut["analysis"]["kernel"].shape[-2:]
    if shortcut is None or found != basis_PK.shape:
        raise InputError(f"the network's shortcut has shape {found}, expected {basis_PK.shape}")
    back = _at_centre((basis_PK * deviation_K).T) if kernel is None else kernel
    layers = {
        name: {
            "kernel": jnp.asarray(weights / _constant(weights.shape[-2]), jnp.float32),
            "bias": jnp.zeros_like(shortcut[name]["bias"]),
        }
        for name, weights in (("analysis", _at_centre(basis_PK / deviation_K)), ("synthesis", back))
    }
    return {**network_params, SHORTCUT: layers}
