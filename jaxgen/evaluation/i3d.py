"""The features of the Fréchet video distance: I3D, Inception-v1 inflated to three dimensions.

The network of Carreira & Zisserman 2017, "Quo vadis, action recognition?", for colour and the 400
classes of Kinetics-400: 12,697,264 parameters with scale and bias of every norm (12,689,984
without the scales, which the published TensorFlow graph leaves out). Published distances
(Unterthiner et al. 2018; Skorokhodov et al. 2022, StyleGAN-V) take its 400 logits as features.
Every convolution and pool is padded as TensorFlow's "SAME" is; of S positions ceil(S / stride) are
left, and where the padding is odd the larger half is behind::

    before + behind = max((ceil(S / stride) - 1) stride + k - S, 0)

At the end the mean of 2 x 7 x 7 positions and one linear layer give logits for every place in time,
whose mean is returned. Clips are resized to 224 x 224, frame by frame (bilinear, half-pixel
centres, not antialiased), with pixels in [-1, 1], as StyleGAN-V does.

Weights come from a file that the user has, as a flat dict of arrays under the names of the PyTorch
port pytorch-i3d (``Conv3d_1a_7x7.conv3d.weight``, ``Mixed_3b.b1b.bn.running_var``, ...,
``logits.conv3d.bias``). Batch norms (epsilon 0.001) are folded into their convolutions
(`jaxgen.evaluation.torch_layers`).

A convolution in time and space is one over frames: the k_t frames that a kernel sees are put side
by side as channels, so a kernel here is [k, k, k_t C, F]. On two CPU cores that is 1.6 times as
fast as XLA's convolution in three dimensions ([1, 8, 56, 56, 64] to 192 channels, 3 x 3 x 3).
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Shaped

from jaxgen.errors import InputError
from jaxgen.evaluation.features import apply_in_batches
from jaxgen.evaluation.torch_layers import NORM, checked_tensors, fold_batch_norm
from jaxgen.typing import Tree

SIDE = 224
FEWEST_FRAMES = 10
LOGITS = 400
BATCH_NORM_EPSILON = 1e-3
BATCHES_AT_ONCE = 16
"""Batches of clips whose bytes become float32 numbers at one time."""

BLOCKS: Mapping[str, tuple[int, int, int, int, int, int]] = {
    "Mixed_3b": (64, 96, 128, 16, 32, 32),
    "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "Mixed_4b": (192, 96, 208, 16, 48, 64),
    "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64),
    "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128),
    "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128),
}
"""Channels of the convolutions b0, b1a, b1b, b2a, b2b, b3b of each block (Szegedy et al. 2015)."""

Conv = Callable[..., Array]
"""``conv(x, name, width, size=1, stride=1)``: convolution and rectifier."""


class I3D(nn.Module):
    """The network from clips to logits; a convolution is called by its name in pytorch-i3d."""

    @nn.compact
    def __call__(self, x_BTYXC: Float[Array, "B T Y X 3"]) -> Float[Array, "B V"]:
        """Logits [B, 400] of clips in [-1, 1] of 10 frames and 193 x 193 pixels or more.

        The distance has 224 x 224.
        """

        def conv(x: Array, name: str, width: int, size: int = 1, stride: int = 1) -> Array:
            named = nn.with_logical_partitioning
            axes = (None, None, None, "mlp")
            layer = nn.Conv(
                width,
                (size, size),
                stride,
                padding="SAME",
                precision=jax.lax.Precision.HIGHEST,
                kernel_init=named(nn.initializers.he_normal(), axes),
                bias_init=named(nn.initializers.zeros, axes[-1:]),
                name=name,
            )
            return nn.relu(layer(frames_as_channels(x, size, stride)))

        x = conv(x_BTYXC, "Conv3d_1a_7x7", 64, 7, stride=2)
        x = _max_pool(x, (1, 3, 3), (1, 2, 2))
        x = conv(x, "Conv3d_2b_1x1", 64)
        x = conv(x, "Conv3d_2c_3x3", 192, 3)
        x = _max_pool(x, (1, 3, 3), (1, 2, 2))
        for name, widths in BLOCKS.items():
            if name == "Mixed_4b":
                x = _max_pool(x, (3, 3, 3), (2, 2, 2))
            if name == "Mixed_5b":
                x = _max_pool(x, (2, 2, 2), (2, 2, 2))
            x = _block(conv, name, x, widths)
        x = nn.avg_pool(x, (2, 7, 7), (1, 1, 1), "VALID")
        named = nn.with_logical_partitioning
        logits = nn.Dense(
            LOGITS,
            precision=jax.lax.Precision.HIGHEST,
            kernel_init=named(nn.initializers.he_normal(), (None, None)),
            bias_init=named(nn.initializers.zeros, (None,)),
            name="logits",
        )
        return jnp.mean(logits(x), axis=(1, 2, 3))


def _block(conv: Conv, name: str, x: Array, widths: tuple[int, int, int, int, int, int]) -> Array:
    """1 x 1 x 1, twice 3 x 3 x 3 behind 1 x 1 x 1, and a pool."""
    first = conv(x, f"{name}.b0", widths[0])
    second = conv(conv(x, f"{name}.b1a", widths[1]), f"{name}.b1b", widths[2], 3)
    third = conv(conv(x, f"{name}.b2a", widths[3]), f"{name}.b2b", widths[4], 3)
    pool = conv(_max_pool(x, (3, 3, 3), (1, 1, 1)), f"{name}.b3b", widths[5])
    return jnp.concatenate([first, second, third, pool], axis=-1)


def _max_pool(x: Array, window: tuple[int, int, int], stride: tuple[int, int, int]) -> Array:
    return nn.max_pool(x, window, stride, "SAME")


def frames_as_channels(
    x_BTYXC: Float[Array, "B T Y X C"], size: int, stride: int
) -> Float[Array, "B T2 Y X F"]:
    """For each output of a convolution in time, the frames it sees, side by side as channels.

    Args:
      x_BTYXC: frames.
      size: k_t, frames that the kernel sees, padded as TensorFlow's "SAME" is.
      stride: frames from one output to the next.

    Returns:
      [B, ceil(T / stride), Y, X, k_t C], the first frame's channels first.
    """
    frames = x_BTYXC.shape[1]
    outputs = -(-frames // stride)
    reach = (outputs - 1) * stride + 1
    missing = max(reach + size - 1 - frames, 0)
    before = missing // 2
    padding = [(0, 0), (before, missing - before), (0, 0), (0, 0), (0, 0)]
    padded = jnp.pad(x_BTYXC, padding)
    return jnp.concatenate([padded[:, i : i + reach : stride] for i in range(size)], axis=-1)


def i3d_shapes() -> dict[str, tuple[int, ...]]:
    """Name -> shape of all tensors that `i3d_params` needs, in PyTorch's layout."""
    clip = jax.ShapeDtypeStruct((1, FEWEST_FRAMES, SIDE, SIDE, 3), jnp.float32)
    boxed = jax.eval_shape(I3D().init, jax.random.key(0), clip)["params"]
    shapes: dict[str, tuple[int, ...]] = {}
    for name, layer in boxed.items():
        *sides, inputs, outputs = layer["kernel"].value.shape
        size = sides[0] if sides else 1
        shapes[f"{name}.conv3d.weight"] = (outputs, inputs // size, size, size, size)
        if name == "logits":
            shapes[f"{name}.conv3d.bias"] = (outputs,)
        else:
            shapes |= {f"{name}.bn.{kind}": (outputs,) for kind in NORM}
    return shapes


def i3d_params(
    tensors: Mapping[str, Float[np.ndarray, "..."]], source: str = "I3D weights"
) -> Tree:
    """The parameters of `I3D` from tensors under the names of pytorch-i3d.

    Args:
      tensors: Name -> array. Counters of batches are ignored.
      source: What the tensors are called in an error, say their file.

    Raises:
      InputError: A tensor is missing, not expected, has another shape, is complex or not
        finite, or a variance is negative; the message names it and `source`.
    """
    network = f"pytorch-i3d's InceptionI3d with {LOGITS} classes"
    arrays = checked_tensors(tensors, i3d_shapes(), network, source)
    params: Tree = {}
    for weight in [name for name in arrays if name.endswith(".conv3d.weight")]:
        name = weight.removesuffix(".conv3d.weight")
        kernel = arrays[weight].transpose(3, 4, 2, 1, 0)  # F C T Y X -> Y X T C F
        if name == "logits":
            bias = arrays[f"{name}.conv3d.bias"]
            flat = kernel.reshape(kernel.shape[-2:])
            params[name] = {"kernel": flat.astype(np.float32), "bias": bias.astype(np.float32)}
        else:
            kernel = kernel.reshape(*kernel.shape[:2], -1, kernel.shape[-1])
            params[name] = fold_batch_norm(kernel, f"{name}.bn", arrays, BATCH_NORM_EPSILON)
    return params


def i3d_features(
    params: Tree, clips: Shaped[np.ndarray, "N T Y X C"], batch_size: int = 4
) -> Float[np.ndarray, "N V"]:
    """The features of the Fréchet video distance, for `frechet_video_distance`.

    Args:
      params: What `i3d_params` returned.
      clips: Clips in [-1, 1], or bytes (uint8), of any size, grey ones (C = 1) with three equal
        channels.
      batch_size: Clips at a time, spread over the current mesh.

    Returns:
      Features [N, 400], float32.

    Raises:
      InputError: There are no clips, or they are not [N, T, Y, X, 1 or 3] with 10 frames or more,
        or not in about [-1, 1].
    """
    if clips.ndim != 5 or clips.shape[-1] not in (1, 3):
        raise InputError(
            f"clips have shape {list(clips.shape)}, expected [N, T, Y, X, C] with C of 1 or 3"
        )
    if clips.shape[1] < FEWEST_FRAMES:
        raise InputError(
            f"clips have {clips.shape[1]} frames, expected {FEWEST_FRAMES} or more, of which I3D "
            "leaves two in time"
        )
    some = max(batch_size, 1) * BATCHES_AT_ONCE
    pieces = [clips[start : start + some] for start in range(0, max(len(clips), 1), some)]
    return np.concatenate(
        [apply_in_batches(_forward, params, piece, batch_size) for piece in pieces]
    )


def _forward(params: Tree, clips_BTYXC: Float[Array, "B T Y X C"]) -> Float[Array, "B V"]:
    return I3D().apply({"params": params}, resize_for_i3d(clips_BTYXC))


def resize_for_i3d(clips_BTYXC: Float[Array, "B T Y X C"]) -> Float[Array, "B T 224 224 3"]:
    """Three channels and 224 x 224: bilinear, half-pixel centres, not antialiased."""
    batch, frames, _, _, channels = clips_BTYXC.shape
    shape = (batch, frames, SIDE, SIDE, channels)
    clips_BTYXC = jax.image.resize(clips_BTYXC, shape, "bilinear", antialias=False)
    return jnp.broadcast_to(clips_BTYXC, (*shape[:4], 3))
