"""The residual network for CIFAR-10 (He et al. 2016, section 4.2): features, classes of samples.

A convolution of 16 channels, three stages of n blocks with 16, 32 and 64 channels, the second and
third beginning with stride 2, and the mean over the positions that are left, the *feature*; 6n + 2
layers with the logits, which are linear in it. A block is two convolutions around a rectifier, and
what enters it is added; where the number of channels grows, every second pixel of that, with zeros
as the new channels (the paper's option A)::

    h <- relu(W_2 relu(W_1 h) + shortcut(h))        shortcut: h, or [0, h[::2, ::2], 0]

Batch norms are folded into the convolutions before them. Weights come from a file that the user
has, under the names of the PyTorch network most used, akamaster/pytorch_resnet_cifar10
(``conv1.weight``, ``layer2.0.bn1.weight``, ..., ``linear.bias``), which takes images with
ImageNet's mean and deviation.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from jaxgen.evaluation.features import apply_in_batches
from jaxgen.evaluation.torch_layers import NORM, Tensors, checked_tensors, fold_batch_norm
from jaxgen.typing import Tree

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's colours in [0, 1]."""
WIDTHS = 16, 32, 64
EPSILON = 1e-5


def cifar_resnet_params(tensors: Tensors, source: str = "ResNet weights") -> Tree:
    """What `apply_cifar_resnet` needs, from tensors under PyTorch's names.

    Args:
      tensors: Name -> array; how many blocks and classes there are follows from them.
      source: What the tensors are called in an error, say their file.

    Raises:
      InputError: A tensor is missing, not expected, or has another shape or numbers that are not
        finite; the message names it and `source`.
    """
    blocks = sum(name.startswith("layer1.") and name.endswith("conv1.weight") for name in tensors)
    bias = tensors.get("linear.bias")
    classes = len(bias) if bias is not None and np.ndim(bias) == 1 else 10
    layers = _layers(max(blocks, 1))
    shapes: dict[str, tuple[int, ...]] = {
        "linear.weight": (classes, WIDTHS[-1]),
        "linear.bias": (classes,),
    }
    for conv, norm, (before, width) in layers:
        shapes[f"{conv}.weight"] = (width, before, 3, 3)
        shapes |= {f"{norm}.{kind}": (width,) for kind in NORM}
    network = f"a ResNet of {6 * max(blocks, 1) + 2} layers for CIFAR"
    arrays = checked_tensors(tensors, shapes, network, source)
    params = {
        conv: fold_batch_norm(arrays[f"{conv}.weight"].transpose(2, 3, 1, 0), norm, arrays, EPSILON)
        for conv, norm, _ in layers
    }
    linear = {
        "kernel": arrays["linear.weight"].T.astype(np.float32),
        "bias": arrays["linear.bias"].astype(np.float32),
    }
    return params | {"linear": linear}


def apply_cifar_resnet(
    params: Tree, images: Shaped[np.ndarray, "N Y X 3"], batch_size: int = 256
) -> tuple[Float[np.ndarray, "N D"], Float[np.ndarray, "N V"]]:
    """Features and class probabilities of images, batch by batch over the current mesh.

    Args:
      params: What `cifar_resnet_params` returned.
      images: In [-1, 1], or bytes (uint8); the network was made for 32 x 32 pixels.
      batch_size: Images at a time.

    Returns:
      Features [N, 64] and probabilities [N, V], float32 in the memory of every process.

    Raises:
      InputError: There are no images, or they are not in about [-1, 1].
    """
    return apply_in_batches(_forward, params, images, batch_size)


def _layers(blocks: int) -> list[tuple[str, str, tuple[int, int]]]:
    """Names of each convolution and its norm, and channels before and after."""
    found = [("conv1", "bn1", (3, WIDTHS[0]))]
    before = WIDTHS[0]
    for stage, width in enumerate(WIDTHS, start=1):
        for block in range(blocks):
            name = f"layer{stage}.{block}"
            found.append((f"{name}.conv1", f"{name}.bn1", (before, width)))
            found.append((f"{name}.conv2", f"{name}.bn2", (width, width)))
            before = width
    return found


def _forward(params: Tree, z_BYXC: Float[Array, "B Y X 3"]) -> tuple[Array, Array]:
    unit = (z_BYXC + 1) / 2
    h = jax.nn.relu(_convolve(params["conv1"], (unit - jnp.array(MEAN)) / jnp.array(DEVIATION)))
    for conv, _, (before, width) in _layers(len(params) // 6):
        if not conv.endswith(".conv1"):
            continue
        stride = width // before
        inner = jax.nn.relu(_convolve(params[conv], h, stride))
        inner = _convolve(params[conv.removesuffix("1") + "2"], inner)
        missing = (width - before) // 2
        shortcut = jnp.pad(h[:, ::stride, ::stride], ((0, 0), (0, 0), (0, 0), (missing, missing)))
        h = jax.nn.relu(inner + shortcut)
    features_BD = h.mean(axis=(1, 2))
    logits = features_BD @ params["linear"]["kernel"] + params["linear"]["bias"]
    return features_BD, jax.nn.softmax(logits)


def _convolve(layer: Any, x: Array, stride: int = 1) -> Array:
    found = jax.lax.conv_general_dilated(
        x,
        layer["kernel"],
        (stride, stride),
        ((1, 1), (1, 1)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=jax.lax.Precision.HIGHEST,
    )
    return found + layer["bias"]
