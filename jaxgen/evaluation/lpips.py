"""LPIPS, the distance of images in the features of a trained network (Zhang et al. 2018), v0.1.

With phi_l the features of layer l of l = 1 ... 5, each pixel's divided by its length, and w_l >= 0
weights of channels that were fitted to what people find alike::

    LPIPS(a, b) = sum_l mean over pixels of sum_c w_lc (phi_lc(a) - phi_lc(b))^2

Features are those behind rectifiers of AlexNet (1 to 5) or VGG-16 (1_2, 2_2, 3_3, 4_3, 5_3), of
images in [-1, 1] minus a shift and over a scale for each colour. Smaller is closer; numbers of the
two networks cannot be compared, nor can those of images of other sizes.

Weights come from files that the user has, as flat dicts of arrays under PyTorch's names:
torchvision's ``alexnet`` or ``vgg16`` trained on ImageNet (``features.0.weight``, ...; classifiers
are ignored), and the linear layers of the authors' package (``lin0.model.1.weight``, ...). Such
``.pth`` files are converted once, ``{name: x.numpy() for name, x in torch.load(FILE).items()}``.
"""

import itertools
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32

from jaxgen.errors import InputError, check_positive
from jaxgen.evaluation.torch_layers import checked_tensors
from jaxgen.typing import Tree

SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
EPSILON = 1e-10
"""Added to lengths of features, as in the authors' code."""

Backbone = Literal["alex", "vgg"]


class Layer(NamedTuple):
    """A convolution, what comes before it, and whether its features count.

    Attributes:
      name: in torchvision's network.
      width: output channels.
      kernel: side.
      stride: of the convolution.
      padding: pixels of zeros on each side.
      pool: side of the maximum pool before it, of stride 2; 0: none.
      compared: whether its features are among the five.
    """

    name: str
    width: int
    kernel: int = 3
    stride: int = 1
    padding: int = 1
    pool: int = 0
    compared: bool = True


def _vgg() -> tuple[Layer, ...]:
    layers, place = [], 0
    for block, (width, count) in enumerate(((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))):
        for i in range(count):
            pool = 2 if block and not i else 0
            last = i == count - 1
            layers.append(Layer(f"features.{place}", width, pool=pool, compared=last))
            place += 2  # its rectifier lies between
        place += 1
    return tuple(layers)


LAYERS: Mapping[Backbone, tuple[Layer, ...]] = {
    "alex": (
        Layer("features.0", 64, kernel=11, stride=4, padding=2),
        Layer("features.3", 192, kernel=5, padding=2, pool=3),
        Layer("features.6", 384, pool=3),
        Layer("features.8", 256),
        Layer("features.10", 256),
    ),
    "vgg": _vgg(),
}
SMALLEST: Mapping[Backbone, int] = {"alex": 31, "vgg": 16}
"""Least side of an image that leaves a pixel to the last layer."""


def lpips_params(
    backbone: Backbone,
    network: Mapping[str, Any],
    linear: Mapping[str, Any],
    source: str = "LPIPS weights",
) -> Tree:
    """What `lpips` needs, from tensors under PyTorch's names.

    Args:
      backbone: "alex" or "vgg".
      network: Name -> array, torchvision's.
      linear: Name -> array, the linear layers for that network.
      source: What the tensors are called in an error, say their file.

    Raises:
      InputError: The backbone is another, or a tensor is missing, not expected, has another shape
        or numbers that are not finite; the message names it and `source`.
    """
    if backbone not in LAYERS:
        raise InputError(f"backbone is {backbone!r}, expected one of {', '.join(LAYERS)}")
    layers = LAYERS[backbone]
    shapes: dict[str, tuple[int, ...]] = {}
    for before, layer in itertools.pairwise((Layer("image", 3), *layers)):
        shapes[f"{layer.name}.weight"] = (layer.width, before.width, layer.kernel, layer.kernel)
        shapes[f"{layer.name}.bias"] = (layer.width,)
    kept = {name: x for name, x in network.items() if not name.startswith("classifier.")}
    arrays = checked_tensors(kept, shapes, f"the network {backbone}", source)
    compared = [layer for layer in layers if layer.compared]
    of_linear = {f"lin{i}.model.1.weight": (1, x.width, 1, 1) for i, x in enumerate(compared)}
    lines = checked_tensors(linear, of_linear, f"the linear layers of {backbone}", source)
    return {
        layer.name: {
            "kernel": arrays[f"{layer.name}.weight"].transpose(2, 3, 1, 0).astype(np.float32),
            "bias": arrays[f"{layer.name}.bias"].astype(np.float32),
        }
        for layer in layers
    } | {"linear": [line[0, :, 0, 0].astype(np.float32) for line in lines.values()]}


def lpips(
    params: Tree,
    a: Float[Any, "*N Y X 3"],
    b: Float[Any, "*N Y X 3"],
    data_range: float = 1.0,
) -> Float32[Array, "*N"]:
    """The distance of each image from another, 0 for equal ones; differentiable.

    Args:
      params: What `lpips_params` returned.
      a: Images in [0, `data_range`], of numpy or JAX.
      b: Those they are compared with, of the same shape.
      data_range: The distance from black to white.

    Raises:
      InputError: Shapes differ or are not [..., Y, X, 3], images are too small for the network (31
        pixels for AlexNet, 16 for VGG), or their type is not one of real numbers.
    """
    check_positive("data_range", data_range)
    backbone: Backbone = "alex" if "features.3" in params else "vgg"
    least, shapes = SMALLEST[backbone], [list(np.shape(images)) for images in (a, b)]
    if shapes[0] != shapes[1]:
        raise InputError(f"images have shapes {shapes[0]} and {shapes[1]}, expected one shape")
    if len(shapes[0]) < 3 or shapes[0][-1] != 3 or min(shapes[0][-3:-1]) < least:
        raise InputError(
            f"images have shape {shapes[0]}, expected [..., Y, X, 3], Y and X of {least} or more"
        )
    pair = [jnp.asarray(images) for images in (a, b)]
    for images in pair:
        if not jnp.issubdtype(images.dtype, jnp.floating):
            raise InputError(f"images have type {images.dtype}, expected real numbers")
    flat = [2 * x.reshape(-1, *x.shape[-3:]).astype(jnp.float32) / data_range - 1 for x in pair]
    return _lpips(params, *flat, layers=LAYERS[backbone]).reshape(pair[0].shape[:-3])


@jax.jit(static_argnames="layers")
def _lpips(params: Tree, a: Array, b: Array, *, layers: tuple[Layer, ...]) -> Array:
    distance = jnp.zeros(len(a))
    features = zip(_features(params, a, layers), _features(params, b, layers), strict=True)
    for weight_C, (one, other) in zip(params["linear"], features, strict=True):
        distance += (weight_C * (one - other) ** 2).sum(axis=-1).mean(axis=(1, 2))
    return distance


def _features(params: Tree, x: Array, layers: tuple[Layer, ...]) -> list[Array]:
    x = (x - jnp.array(SHIFT)) / jnp.array(SCALE)
    found = []
    for layer in layers:
        if layer.pool:
            window, strides = (1, layer.pool, layer.pool, 1), (1, 2, 2, 1)
            x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, strides, "VALID")
        x = jax.lax.conv_general_dilated(
            x,
            params[layer.name]["kernel"],
            (layer.stride,) * 2,
            ((layer.padding,) * 2,) * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision=jax.lax.Precision.HIGHEST,
        )
        x = jax.nn.relu(x + params[layer.name]["bias"])
        if layer.compared:
            square = (x**2).sum(axis=-1, keepdims=True)
            # The square root has no derivative at 0, where no feature is active.
            length = jnp.sqrt(jnp.where(square > 0, square, 1)) * (square > 0)
            found.append(x / (length + EPSILON))
    return found
