"""What convolutional networks share: convolutions of images and videos, group norms, resampling.

Kernels are [sides..., inputs, outputs], data [B, sides..., C]. Parameters carry logical axes, as
those of `jaxgen.nn.dense.Dense` do.
"""

from collections.abc import Callable

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxgen.nn.dense import Dtype, zeros

Axes = tuple[str | None, str | None]
Padding = tuple[int, int]

uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
"""Uniform within ``+- 1 / sqrt(inputs)``, what the paper's networks started from."""


def conv(
    features: int,
    axes: Axes,
    dtype: Dtype,
    *,
    name: str,
    size: int | tuple[int, ...] = 3,
    stride: int | tuple[int, ...] = 1,
    padding: Padding | tuple[Padding, ...] | None = None,
    init: Callable[..., Array] = uniform,
) -> nn.Conv:
    """A convolution that keeps the resolution, or divides it by its stride.

    Args:
      features: output channels.
      axes: logical names of the input and the output channels.
      dtype: compute dtype.
      name: of its parameters.
      size: of the kernel: the side of a square in pixels, or one size for each axis, such as
        (3, 1, 1) of time, rows and columns.
      stride: pixels from one output to the next, of all axes or of each.
      padding: zeros before and after, along all axes or along each; None: size // 2 of both.
      init: initial kernel.
    """
    named = nn.with_logical_partitioning
    sizes = (size, size) if isinstance(size, int) else size
    if padding is None:
        pads = tuple((side // 2, side // 2) for side in sizes)
    else:
        pads = (padding,) * len(sizes) if isinstance(padding[0], int) else padding
    return nn.Conv(
        features,
        sizes,
        strides=stride,
        padding=pads,
        dtype=dtype,
        kernel_init=named(init, (*(None,) * len(sizes), *axes)),
        bias_init=named(zeros, axes[1:]),
        name=name,
    )


def group_norm(groups: int, epsilon: float, *, name: str, axis: str = "embed") -> nn.Module:
    """A group norm computed in float32, with learnt scale and bias.

    Args:
      groups: channel groups.
      epsilon: added to variances.
      name: of its parameters.
      axis: logical name of the channels.
    """
    named = nn.with_logical_partitioning
    return nn.GroupNorm(
        groups,
        epsilon=epsilon,
        dtype=jnp.float32,
        use_fast_variance=False,
        scale_init=named(nn.initializers.ones, (axis,)),
        bias_init=named(zeros, (axis,)),
        name=name,
    )


def repeat_pixels(x_BYXC: Float[Array, "B Y X C"]) -> Float[Array, "B 2*Y 2*X C"]:
    """Twice the resolution: every pixel becomes 2 x 2 equal ones."""
    return jnp.repeat(jnp.repeat(x_BYXC, 2, axis=1), 2, axis=2)


def average_pixels(x_BYXC: Float[Array, "B Y X C"]) -> Float[Array, "B Y//2 X//2 C"]:
    """Half the resolution: the mean of every 2 x 2 pixels."""
    return nn.avg_pool(x_BYXC, (2, 2), (2, 2))
