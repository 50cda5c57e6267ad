"""Videos of any length, encoded and decoded in chunks by a causal autoencoder.

Every layer that looks back in time keeps the last frames of its input; the next chunk finds them in
front of its own. What comes out is what the whole video would give, and memory depends on the size
of a chunk alone. The state between chunks is a tree of arrays of fixed shapes (the collection
`STREAM` of the layers), so all chunks but the first are one compiled program::

    state, latents = stream_step(config, params, None, videos[:, :1], "encode")
    for chunk in chunks:  # of r k frames
        state, latents = stream_step(config, params, state, chunk, "encode")

The first chunk has 1 + r k frames and later ones r k; of latents the first chunk has at least one.
"""

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxgen.compressors.causal_autoencoder import CausalAutoencoderConfig
from jaxgen.compressors.causal_layers import STREAM
from jaxgen.compressors.tubelets import latent_frames
from jaxgen.errors import InputError
from jaxgen.typing import Tree

Way = Literal["encode", "decode"]

PARTS = {"encode": "encoder", "decode": "decoder"}


def stream_step(
    config: CausalAutoencoderConfig,
    params: Tree,
    state: Tree | None,
    chunk: Float[Array, "B T Y X C"],
    way: Way,
) -> tuple[Tree, Float[Array, "B T2 Y2 X2 F"]]:
    """One chunk; a pure function.

    Args:
      config: of the autoencoder.
      params: its parameters.
      state: what the chunk before gave; None at the beginning of a video.
      chunk: frames to encode, or latents to decode.
      way: "encode" or "decode".

    Returns:
      The state after the chunk, and the latents or frames of the chunk.

    Raises:
      InputError: for a chunk of another length, or the state of the other way.
    """
    if way not in get_args(Way):
        raise InputError(f"way is {way!r}, expected 'encode' or 'decode'")
    if chunk.ndim != 5:
        raise InputError(f"a chunk has shape {chunk.shape}, expected [B, T, Y, X, C]")
    variables: dict[str, Any] = {"params": params}
    if state is not None:
        if PARTS[way] not in state:
            raise InputError(f"the state has {', '.join(state)}, expected {PARTS[way]}")
        variables[STREAM] = state
    model = config.make_model()
    result, changed = model.apply(variables, chunk, method=way, mutable=[STREAM])
    return changed[STREAM], result


def stream_chunks(
    config: CausalAutoencoderConfig,
    params: Tree,
    chunks: Iterable[Float[Array, "B T Y X C"] | np.ndarray],
    way: Way,
) -> Iterator[Float[Array, "B T2 Y2 X2 F"]]:
    """What each chunk of a video gives, one after another.

    Args:
      config: of the autoencoder.
      params: its parameters.
      chunks: of one video (or a batch of them), the first with 1 + r k frames, later ones with r k;
        or its latents. Each length is compiled once, so all but the first and the last should have
        the same.
      way: "encode" or "decode".

    Yields:
      latents or frames.

    Raises:
      InputError: for a chunk of another length.
    """
    step = jitted_stream_step(config, way)
    state = None
    for chunk in chunks:
        state, result = step(params, state, chunk)
        yield result


@functools.lru_cache(maxsize=32)
def jitted_stream_step(
    config: CausalAutoencoderConfig, way: Way
) -> Callable[[Tree, Tree | None, Any], tuple[Tree, Array]]:
    """``(params, state, chunk) -> (state, result)``, compiled once for each shape of chunk."""
    return jax.jit(functools.partial(_step, config, way))


def _step(
    config: CausalAutoencoderConfig, way: Way, params: Tree, state: Tree | None, chunk: Array
) -> tuple[Tree, Array]:
    return stream_step(config, params, state, chunk, way)


def video_chunks(
    videos: Float[np.ndarray, "B T Y X C"] | Float[Array, "B T Y X C"],
    config: CausalAutoencoderConfig,
    latents: int = 1,
) -> Iterator[Any]:
    """Cuts videos for `stream_chunks`: the first frame, then r frames for each latent frame.

    Args:
      videos: 1 + r k frames.
      config: of the autoencoder.
      latents: latent frames of a chunk; the last chunk may have fewer.

    Raises:
      InputError: for other lengths.
    """
    ratio = config.strides[0]
    latent_frames(videos.shape[1], ratio)
    return _cut(videos, ratio, latents)


def latent_chunks(
    latents: Float[np.ndarray, "B T Y X C"] | Float[Array, "B T Y X C"], size: int = 1
) -> Iterator[Any]:
    """Cuts latents for `stream_chunks`: the first frame, then ``size`` at a time."""
    return _cut(latents, 1, size)


def _cut(frames: Any, ratio: int, size: int) -> Iterator[Any]:
    if size < 1:
        raise InputError(f"a chunk has {size} latent frames, expected 1 or more")
    starts = range(1, frames.shape[1], ratio * size)
    parts = [frames[:, :1], *(frames[:, start : start + ratio * size] for start in starts)]
    return iter(parts)


class StreamBytes(NamedTuple):
    """Memory that compiled programs need, in bytes: parameters, inputs, outputs, temporaries.

    Attributes:
      whole: of the video at once; None where it was not asked for.
      chunk: of one later chunk, whatever the length of the video.
    """

    whole: int | None
    chunk: int


def stream_bytes(
    config: CausalAutoencoderConfig,
    grid: tuple[int, int, int],
    way: Way = "encode",
    *,
    latents: int = 1,
    whole: bool = True,
) -> StreamBytes:
    """How much memory a video needs in chunks and whole; nothing is computed, only compiled.

    Args:
      config: of the autoencoder.
      grid: (T, Y, X) of a video.
      way: "encode" or "decode".
      latents: latent frames of a chunk.
      whole: whether the program for the whole video is compiled, too.

    Raises:
      InputError: for frames that are not 1 + r k.
    """
    small = config.latent_grid(grid)
    ratio = config.strides[0]
    model, start = config.make_model(), jnp.zeros((1, 1, *grid[1:], config.channels))
    params = jax.eval_shape(model.init, jax.random.key(0), start)["params"]
    if way == "encode":
        (frames, *space), each, channels = grid, ratio, config.channels
    else:
        (frames, *space), each, channels = small, 1, config.latent_channels

    def data(count: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((1, count, *space, channels), jnp.float32)

    step = jitted_stream_step(config, way)
    state, _ = jax.eval_shape(step, params, None, data(1))
    chunk = program_bytes(step, params, state, data(each * latents))
    if not whole:
        return StreamBytes(None, chunk)

    def apply(params: Tree, x: Array) -> Array:
        return model.apply({"params": params}, x, method=way)

    return StreamBytes(program_bytes(jax.jit(apply), params, data(frames)), chunk)


def program_bytes(program: Any, *arguments: Any) -> int:
    """What a jitted function needs for such arguments, by XLA's own account.

    Args:
      program: what `jax.jit` returned.
      *arguments: arrays or their abstract values.
    """
    found = program.lower(*arguments).compile().memory_analysis()
    parts = "argument_size_in_bytes", "output_size_in_bytes", "temp_size_in_bytes"
    return sum(int(getattr(found, part)) for part in parts)
