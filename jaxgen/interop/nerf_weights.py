"""Weights of the original radiance field from PyTorch: two common names of its layers.

==========================  ================================  =====================================
here                        yenchenlin/nerf-pytorch           krrish94/nerf-pytorch
==========================  ================================  =====================================
layers_i                    pts_linears.i                     layers_xyz.i, after layer1
density_layer               alpha_linear                      fc_alpha
bottleneck                  feature_linear                    fc_feat, with a ReLU
colour_layer                views_linears.0                   layers_dir.0
output                      rgb_linear                        fc_rgb
==========================  ================================  =====================================

The second has no activation between ``layer1`` and ``layers_xyz.0``: the two are one affine map,
and become one layer here. Where the encoded position joins a hidden layer, it comes first here and
in the first, and last in the second.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxgen.errors import InputError
from jaxgen.interop.tensors import Tree, name_of

FIRST = {
    "density_layer": "alpha_linear",
    "bottleneck": "feature_linear",
    "colour_layer": "views_linears.0",
    "output": "rgb_linear",
}
SECOND = {
    "density_layer": "fc_alpha",
    "bottleneck": "fc_feat",
    "colour_layer": "layers_dir.0",
    "output": "fc_rgb",
}
Tensors = Mapping[str, np.ndarray]


def nerf_from_tensors(
    tensors: Tensors, prefix: str = "", name: str | None = None
) -> tuple[dict[str, Any], Tree]:
    """The network of tensors in either naming.

    Args:
      tensors: by name.
      prefix: of the names of one network, say "fine." where a file holds two.
      name: what errors call them; None: the path of a `TensorFile`, else "checkpoint".

    Returns:
      The fields of `jaxgen.nerf.NeRFFieldConfig`, and its parameters.

    Raises:
      InputError: If these are no weights of such a network.
    """
    where = name_of(tensors, name)
    own = {key.removeprefix(prefix): tensors[key] for key in tensors if key.startswith(prefix)}
    first = "pts_linears.0.weight" in own
    if not first and "layer1.weight" not in own:
        raise InputError(
            f"{where}: neither {prefix}pts_linears.0.weight nor {prefix}layer1.weight is there, "
            "expected the weights of a radiance field"
        )
    stem, names = ("pts_linears", FIRST) if first else ("layers_xyz", SECOND)
    count = len([key for key in own if re.fullmatch(rf"{stem}\.\d+\.weight", key)])
    layers = [_affine(own, f"{stem}.{i}", where, prefix) for i in range(count)]
    if not layers:
        raise InputError(f"{where}: {prefix}{stem}.0.weight is missing")
    if not first:
        kernel, bias = _affine(own, "layer1", where, prefix)
        layers[0] = kernel @ layers[0][0], bias @ layers[0][0] + layers[0][1]
    encoded, width = layers[0][0].shape
    skip = -1
    for i, (kernel, _) in enumerate(layers[1:], start=1):
        if kernel.shape == (width + encoded, width):
            skip = i - 1
            if not first:
                layers[i] = np.concatenate([kernel[width:], kernel[:width]]), layers[i][1]
        elif kernel.shape != (width, width):
            raise InputError(
                f"{where}: {prefix}{stem}.{i} has {kernel.shape[0]} inputs, expected {width} or "
                f"{width + encoded}"
            )
    heads = {ours: _affine(own, theirs, where, prefix) for ours, theirs in names.items()}
    colour_inputs, colour_width = heads["colour_layer"][0].shape
    fields = {
        "depth": count,
        "width": width,
        "skip": skip,
        "position_octaves": _octaves(encoded, where, "positions"),
        "direction_octaves": _octaves(colour_inputs - width, where, "directions"),
        "colour_width": colour_width,
        "activation": "relu",
        "bottleneck_relu": not first,
    }
    named = {**{f"layers_{i}": layer for i, layer in enumerate(layers)}, **heads}
    return fields, {k: {"kernel": kernel, "bias": bias} for k, (kernel, bias) in named.items()}


def _affine(
    own: Tensors, layer: str, where: str, prefix: str
) -> tuple[Float[np.ndarray, "I O"], Float[np.ndarray, "O"]]:
    """The kernel, inputs first, and the bias of a linear layer."""
    found = []
    for part, rank in (("weight", 2), ("bias", 1)):
        key = f"{layer}.{part}"
        if key not in own:
            raise InputError(f"{where}: {prefix}{key} is missing")
        array = np.asarray(own[key], np.float32)
        if array.ndim != rank:
            raise InputError(
                f"{where}: {prefix}{key} has shape {list(array.shape)}, expected {rank} axes"
            )
        found.append(array)
    return found[0].T, found[1]


def _octaves(width: int, where: str, what: str) -> int:
    """L of ``3 + 6 L`` numbers."""
    if width < 3 or (width - 3) % 6:
        raise InputError(f"{where}: {width} numbers of encoded {what}, expected 3 + 6 L")
    return (width - 3) // 6
