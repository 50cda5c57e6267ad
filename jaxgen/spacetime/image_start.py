"""A network of images as the start of one of videos, which then leaves each frame to itself.

What attends in time starts as the identity. Behind a gate (adaLN-Zero) it is the gate that is zero,
as in a fresh network; elsewhere it is the output projection. Never both: with two zeros in a
product neither would ever get a gradient.
"""

from typing import Any

import jax.numpy as jnp
from flax import traverse_util
from jaxtyping import Array

from jaxgen.errors import InputError
from jaxgen.spacetime.attention_patterns import block_patterns
from jaxgen.spacetime.video_dit import VideoDiTConfig

TIME_PARTS = ("time_attention", "time_modulation", "time_norm")
TEXT_PARTS = ("text_attention", "text_norm", "text")
"""Parts that images need not have; attention to texts starts with a zero projection."""

Path = tuple[str, ...]


def video_from_image_params(params: Any, video_params: Any, config: VideoDiTConfig) -> Any:
    """The parameters of a network of images in the tree of one of videos.

    Its predictions for a clip are those of the image network for each frame. Joint attention is
    taken over as it is, and lets frames see each other from the start. Blocks in time alone
    (interleaved; space then time) stand between or behind those of the images.

    Args:
      params: of a `jaxgen.spacetime.DiT`, or of a `VideoDiT` with joint attention; unboxed.
      video_params: initial parameters of the video network, unboxed.
      config: its options.

    Returns:
      A tree like ``video_params``.

    Raises:
      InputError: for a pattern or positions that cannot leave frames to themselves, and where
        parameters of the images have no place or another shape.
    """
    _check_leaves_frames(config)
    patterns = block_patterns(config.attention_pattern, config.depth)
    spatial = [i for i, pattern in enumerate(patterns) if not pattern.is_temporal]
    blocks = {f"blocks_{i}": f"blocks_{n}" for n, i in enumerate(spatial)}
    temporal = {f"blocks_{i}" for i, pattern in enumerate(patterns) if pattern.is_temporal}
    of_images, started = _flat(params), {}
    for path, own in _flat(video_params).items():
        image_path = (blocks.get(path[0], path[0]), *path[1:])
        if path[0] in temporal or set(path) & set(TIME_PARTS):
            started[path] = _start(path, own, config)
        elif image_path in of_images:
            started[path] = _same_shape(image_path, of_images.pop(image_path), own)
        elif set(path) & set(TEXT_PARTS):
            started[path] = own
        else:
            raise InputError(
                f"{'/'.join(path)} is not among the parameters of the images, expected a network "
                f"with the same options and {len(spatial)} blocks"
            )
    if of_images:
        raise InputError(
            f"{'/'.join(min(of_images))} of the images has no place in the video network, expected "
            f"one with the same options and {len(spatial)} blocks"
        )
    return traverse_util.unflatten_dict(started)


def _check_leaves_frames(config: VideoDiTConfig) -> None:
    """Refuses what lets frames see each other, or changes them, whatever the parameters are."""
    if config.attention_pattern == "split_heads":
        raise InputError(
            "attention_pattern is 'split_heads', expected another: half of the heads would no "
            "longer see their own frame"
        )
    to_time = config.positions != "sincos" or config.waves_go_to == "time_attention"
    if config.attention_pattern != "joint" and not to_time:
        raise InputError(
            f"time_waves is {config.time_waves!r}, expected 'time_attention': what is added to "
            "the tokens changes the frames"
        )


def _flat(tree: Any) -> dict[Path, Array]:
    return dict(traverse_util.flatten_dict(tree))


def _start(path: Path, own: Array, config: VideoDiTConfig) -> Array:
    """A parameter of a temporal part; zero where that makes the part the identity."""
    of_gate = "modulation" in path or "time_modulation" in path
    zero = of_gate if config.conditioning == "adaln_zero" else "output" in path
    return jnp.zeros_like(own) if zero else own


def _same_shape(path: Path, value: Array, own: Array) -> Array:
    if value.shape != own.shape:
        raise InputError(
            f"{'/'.join(path)} has shape {value.shape}, expected {own.shape} as in the video "
            "network"
        )
    return value
