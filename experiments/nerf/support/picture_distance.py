"""LPIPS of rendered views, from files that the user has."""

from collections.abc import Callable

import numpy as np

from jaxgen.errors import InputError
from jaxgen.evaluation.lpips import LAYERS, lpips, lpips_params
from jaxgen.interop.safetensors import read_safetensors

PictureDistance = Callable[[np.ndarray, np.ndarray], float]
"""Of two images [Y, X, 3] in [0, 1]."""


def load_lpips(network: str, linear: str) -> PictureDistance:
    """LPIPS with the network of a file (Zhang et al. 2018).

    Args:
      network: a .safetensors file of torchvision's AlexNet or VGG-16.
      linear: one of the linear layers that were fitted for it.

    Raises:
      FileNotFoundError: where there is no such file.
      InputError: where its tensors are not those of such a network; names the file.
    """
    tensors = read_safetensors(network)
    backbone = next(
        (name for name, layers in LAYERS.items() if f"{layers[1].name}.weight" in tensors), None
    )
    if backbone is None:
        raise InputError(
            f"{network}: no tensor features.2.weight or features.3.weight, expected the tensors of "
            "torchvision's VGG-16 or AlexNet"
        )
    params = lpips_params(backbone, tensors, read_safetensors(linear), f"{network}, {linear}")
    return lambda a, b: float(lpips(params, a, b))
