"""Parameters of an image U-Net for the video U-Net with the same options.

Convolutions, norms and attention over pixels keep theirs; attention over frames, which the image
network has not, keeps its own initial ones, whose output is zero. So at first the video network
gives for every frame what the image network gives for it as an image.
"""

from typing import Any

import jax
from flax import linen as nn

from jaxgen.errors import InputError
from jaxgen.typing import Tree


def unet_video_params(params: Tree, initial: Tree) -> Tree:
    """The parameters of a video U-Net that starts as an image U-Net.

    Args:
      params: of the image network, whose config has ``temporal=False``.
      initial: initial parameters of the same network with ``temporal=True``, or any others, to take
        those of its attention over frames from.

    Returns:
      A tree like ``initial``, without boxes of axis names.

    Raises:
      InputError: where the networks differ in more than that, naming the first parameter.
    """
    given, wanted = _by_name(params), _by_name(initial)
    missing = [name for name in wanted if name not in given and "_temporal_" not in name]
    for name in (*missing, *(name for name in given if name not in wanted)):
        owner = "image" if name in wanted else "video"
        raise InputError(
            f"parameter {name} is not in the {owner} network, expected networks that differ in "
            "temporal alone"
        )
    for name, value in given.items():
        if value.shape != wanted[name].shape:
            raise InputError(
                f"parameter {name} has shape {value.shape}, expected {wanted[name].shape}, as in "
                "the video network"
            )
    leaves = [given.get(name, own) for name, own in wanted.items()]
    return jax.tree.unflatten(jax.tree.structure(nn.meta.unbox(initial)), leaves)


def _by_name(params: Tree) -> dict[str, Any]:
    """Arrays by the path of their names."""
    leaves = jax.tree.leaves_with_path(nn.meta.unbox(params))
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
