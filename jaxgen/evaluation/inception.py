"""The features of the Fréchet inception distance: Inception-v3 up to its global average pool.

The network of Szegedy et al. 2016, "Rethinking the Inception architecture", as the TensorFlow graph
``inception-2015-12-05`` has it, with which published FIDs are taken (Heusel et al. 2017). It
differs from the usual Inception-v3 in two ways, which the PyTorch port (pytorch-fid) documents:
average pools do not count the padding, and the last block takes a maximum where others average.

Weights come from a file that the user has, as a flat dict of arrays under PyTorch's names
(``Mixed_5b.branch1x1.conv.weight``, ``Mixed_5b.branch1x1.bn.running_var``, ...): pytorch-fid's
``pt_inception-2015-12-05`` for numbers that compare with published ones. torchvision's own weights
have the same names and give other numbers. At inference a batch norm is linear, and is folded into
its convolution in float64::

    w' = w g / sqrt(var + 0.001)        b' = beta - mean g / sqrt(var + 0.001)

Images in [-1, 1] are resized to 299 x 299 (bilinear, half-pixel centres, not antialiased), as
pytorch-fid does.
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

SIDE = 299
SMALLEST_SIDE = 75
FEATURES = 2048
BATCH_NORM_EPSILON = 1e-3

_IGNORED = ("fc.", "AuxLogits.")
"""Tensors of the classifiers, which have no part in the features."""

Conv = Callable[..., Array]
"""``conv(x, name, width, kernel=(1, 1), stride=1, same=True)``: convolution and rectifier."""


class Inception(nn.Module):
    """The network from images to features; a convolution is called by its name in PyTorch."""

    @nn.compact
    def __call__(self, x_BYXC: Float[Array, "B Y X 3"]) -> Float[Array, "B D"]:
        """Features [B, 2048] of images in [-1, 1] of any size from 75 x 75; FID has 299 x 299."""

        def conv(
            x: Array,
            name: str,
            width: int,
            kernel: tuple[int, int] = (1, 1),
            stride: int = 1,
            same: bool = True,
        ) -> Array:
            named = nn.with_logical_partitioning
            axes = (None, None, None, "mlp")
            layer = nn.Conv(
                width,
                kernel,
                stride,
                padding="SAME" if same else "VALID",
                precision=jax.lax.Precision.HIGHEST,
                kernel_init=named(nn.initializers.he_normal(), axes),
                bias_init=named(nn.initializers.zeros, axes[-1:]),
                name=name,
            )
            return nn.relu(layer(x))

        x = conv(x_BYXC, "Conv2d_1a_3x3", 32, (3, 3), 2, same=False)
        x = conv(x, "Conv2d_2a_3x3", 32, (3, 3), same=False)
        x = conv(x, "Conv2d_2b_3x3", 64, (3, 3))
        x = nn.max_pool(x, (3, 3), (2, 2))
        x = conv(x, "Conv2d_3b_1x1", 80)
        x = conv(x, "Conv2d_4a_3x3", 192, (3, 3), same=False)
        x = nn.max_pool(x, (3, 3), (2, 2))
        for name, pooled in (("Mixed_5b", 32), ("Mixed_5c", 64), ("Mixed_5d", 64)):
            x = _block_a(_inside(conv, name), x, pooled)
        x = _block_b(_inside(conv, "Mixed_6a"), x)
        for name, narrow in zip("bcde", (128, 160, 160, 192), strict=True):
            x = _block_c(_inside(conv, f"Mixed_6{name}"), x, narrow)
        x = _block_d(_inside(conv, "Mixed_7a"), x)
        x = _block_e(_inside(conv, "Mixed_7b"), x, _average_pool)
        x = _block_e(_inside(conv, "Mixed_7c"), x, _same_max_pool)
        return jnp.mean(x, axis=(1, 2))


def _inside(conv: Conv, block: str) -> Conv:
    """The convolutions of a block, under the block's name."""
    return lambda x, name, *args, **options: conv(x, f"{block}.{name}", *args, **options)


def _average_pool(x: Array) -> Array:
    return nn.avg_pool(x, (3, 3), (1, 1), "SAME", count_include_pad=False)


def _same_max_pool(x: Array) -> Array:
    return nn.max_pool(x, (3, 3), (1, 1), "SAME")


def _join(*branches: Array) -> Array:
    return jnp.concatenate(branches, axis=-1)


def _block_a(conv: Conv, x: Array, pooled: int) -> Array:
    """5 x 5 and double 3 x 3, at 35 x 35."""
    five = conv(conv(x, "branch5x5_1", 48), "branch5x5_2", 64, (5, 5))
    double = conv(conv(x, "branch3x3dbl_1", 64), "branch3x3dbl_2", 96, (3, 3))
    double = conv(double, "branch3x3dbl_3", 96, (3, 3))
    pool = conv(_average_pool(x), "branch_pool", pooled)
    return _join(conv(x, "branch1x1", 64), five, double, pool)


def _block_b(conv: Conv, x: Array) -> Array:
    """Down to 17 x 17."""
    three = conv(x, "branch3x3", 384, (3, 3), 2, same=False)
    double = conv(conv(x, "branch3x3dbl_1", 64), "branch3x3dbl_2", 96, (3, 3))
    double = conv(double, "branch3x3dbl_3", 96, (3, 3), 2, same=False)
    return _join(three, double, nn.max_pool(x, (3, 3), (2, 2)))


def _block_c(conv: Conv, x: Array, narrow: int) -> Array:
    """7 x 7 as 1 x 7 and 7 x 1, once and twice."""
    seven = conv(conv(x, "branch7x7_1", narrow), "branch7x7_2", narrow, (1, 7))
    seven = conv(seven, "branch7x7_3", 192, (7, 1))
    double = conv(conv(x, "branch7x7dbl_1", narrow), "branch7x7dbl_2", narrow, (7, 1))
    double = conv(conv(double, "branch7x7dbl_3", narrow, (1, 7)), "branch7x7dbl_4", narrow, (7, 1))
    double = conv(double, "branch7x7dbl_5", 192, (1, 7))
    pool = conv(_average_pool(x), "branch_pool", 192)
    return _join(conv(x, "branch1x1", 192), seven, double, pool)


def _block_d(conv: Conv, x: Array) -> Array:
    """Down to 8 x 8."""
    three = conv(conv(x, "branch3x3_1", 192), "branch3x3_2", 320, (3, 3), 2, same=False)
    seven = conv(conv(x, "branch7x7x3_1", 192), "branch7x7x3_2", 192, (1, 7))
    seven = conv(seven, "branch7x7x3_3", 192, (7, 1))
    seven = conv(seven, "branch7x7x3_4", 192, (3, 3), 2, same=False)
    return _join(three, seven, nn.max_pool(x, (3, 3), (2, 2)))


def _block_e(conv: Conv, x: Array, pool: Callable[[Array], Array]) -> Array:
    """3 x 3 as 1 x 3 beside 3 x 1."""

    def fork(x: Array, name: str) -> Array:
        return _join(conv(x, f"{name}a", 384, (1, 3)), conv(x, f"{name}b", 384, (3, 1)))

    three = fork(conv(x, "branch3x3_1", 384), "branch3x3_2")
    double = conv(conv(x, "branch3x3dbl_1", 448), "branch3x3dbl_2", 384, (3, 3))
    double = fork(double, "branch3x3dbl_3")
    return _join(conv(x, "branch1x1", 320), three, double, conv(pool(x), "branch_pool", 192))


def inception_shapes() -> dict[str, tuple[int, ...]]:
    """Name -> shape of all tensors that `inception_params` needs, in PyTorch's layout."""
    image = jax.ShapeDtypeStruct((1, SMALLEST_SIDE, SMALLEST_SIDE, 3), jnp.float32)
    boxed = jax.eval_shape(Inception().init, jax.random.key(0), image)["params"]
    shapes: dict[str, tuple[int, ...]] = {}
    for name, layer in boxed.items():
        height, width, inputs, outputs = layer["kernel"].value.shape
        shapes[f"{name}.conv.weight"] = (outputs, inputs, height, width)
        shapes |= {f"{name}.bn.{kind}": (outputs,) for kind in NORM}
    return shapes


def inception_params(
    tensors: Mapping[str, Float[np.ndarray, "..."]], source: str = "Inception weights"
) -> Tree:
    """The parameters of `Inception` from tensors under PyTorch's names.

    Args:
      tensors: Name -> array, those of pytorch-fid or torchvision. Classifiers (``fc``,
        ``AuxLogits``) and counters of batches are ignored.
      source: What the tensors are called in an error, say their file.

    Raises:
      InputError: A tensor is missing, not expected, has another shape, is complex or not
        finite, or a variance is negative; the message names it and `source`.
    """
    kept = {name: x for name, x in tensors.items() if not name.startswith(_IGNORED)}
    arrays = checked_tensors(kept, inception_shapes(), "Inception-v3", source)
    names = [name.removesuffix(".conv.weight") for name in arrays if name.endswith(".conv.weight")]
    return {
        name: fold_batch_norm(
            arrays[f"{name}.conv.weight"].transpose(2, 3, 1, 0),
            f"{name}.bn",
            arrays,
            BATCH_NORM_EPSILON,
        )
        for name in names
    }


def inception_features(
    params: Tree, images: Shaped[np.ndarray, "N Y X C"], batch_size: int = 32
) -> Float[np.ndarray, "N D"]:
    """The features of FID, for `jaxgen.evaluation.feature_moments`.

    Args:
      params: What `inception_params` returned.
      images: Images in [-1, 1], or bytes (uint8), of any size, grey ones (C = 1) with three equal
        channels.
      batch_size: Images at a time, spread over the current mesh.

    Returns:
      Features [N, 2048], float32.

    Raises:
      InputError: There are no images, or they are not [N, Y, X, 1 or 3], or not in about [-1, 1].
    """
    if images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise InputError(
            f"images have shape {list(images.shape)}, expected [N, Y, X, C] with C of 1 or 3"
        )
    return apply_in_batches(_forward, params, images, batch_size)


def _forward(params: Tree, images_BYXC: Float[Array, "B Y X C"]) -> Float[Array, "B D"]:
    return Inception().apply({"params": params}, resize_for_inception(images_BYXC))


def resize_for_inception(images_BYXC: Float[Array, "B Y X C"]) -> Float[Array, "B 299 299 3"]:
    """Three channels and 299 x 299: bilinear, half-pixel centres, not antialiased."""
    batch, _, _, channels = images_BYXC.shape
    shape = (batch, SIDE, SIDE, channels)
    images_BYXC = jax.image.resize(images_BYXC, shape, "bilinear", antialias=False)
    return jnp.broadcast_to(images_BYXC, (*shape[:3], 3))
