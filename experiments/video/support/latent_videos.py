"""Videos as latents of a trained compressor: what is trained on, and samples back to pixels."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from experiments.shared.digests import params_digest
from experiments.video.support.video_streams import Size, Stream, VideoData
from jaxgen.compressors.compressor import STATISTICS, Compressor, CompressorConfig
from jaxgen.data import to_unit
from jaxgen.errors import InputError
from jaxgen.files import as_path
from jaxgen.training import load_model

DECODED_AT_ONCE = 20


@dataclass(frozen=True, eq=False)
class LatentStream:
    """A stream of videos, each as its latents, float32.

    Attributes:
      stream: the videos.
      encode: ``[1, T, Y, X, C] -> latents``, compiled for each size.
      sizes: of the latents.
    """

    stream: Stream
    encode: Callable[[Any], Any]
    sizes: tuple[Size, ...]

    def __getitem__(self, index: int, /) -> dict[str, Any]:
        example = self.stream[index]
        latents = self.encode(to_unit(example["video"])[None])
        return {**example, "video": np.asarray(latents, np.float32)[0]}


@dataclass(frozen=True)
class VideoLatents:
    """A compressor of videos, opened.

    Attributes:
      compressor: it.
      channels: of the videos.
      digest: of its parameters.
    """

    compressor: Compressor
    channels: int
    digest: str

    def size(self, size: Size) -> Size:
        """The size of the latents of videos of a size.

        Raises:
          InputError: for a size that it does not take.
        """
        frames, height, width = self.compressor.grid(size)
        return frames, height, width

    def data(self, data: VideoData) -> VideoData:
        """The streams as latents.

        Raises:
          InputError: for videos of other channels, or a size that the compressor does not take.
        """
        if data.channels != self.channels:
            raise InputError(
                f"{data.name}: videos have {data.channels} channels, expected {self.channels}, "
                "those that the compressor was trained on"
            )
        encode = jax.jit(self.compressor.encode)

        def latents(stream: Stream) -> LatentStream:
            return LatentStream(stream, encode, tuple(map(self.size, stream.sizes)))

        held_out = None if data.held_out is None else latents(data.held_out)
        changes = {"train": latents(data.train), "held_out": held_out}
        return dataclasses.replace(data, channels=self.compressor.channels, **changes)

    @functools.cached_property
    def _decode(self) -> Callable[[Any], Any]:
        return jax.jit(self.compressor.decode)

    def decode(self, latents: Float[np.ndarray, "N T Y X C"]) -> Float[np.ndarray, "N T2 Y2 X2 C2"]:
        """Videos in about [-1, 1]."""
        parts = np.split(latents, range(DECODED_AT_ONCE, len(latents), DECODED_AT_ONCE))
        return np.concatenate([np.asarray(self._decode(part)) for part in parts])


def open_latents(path: str) -> VideoLatents:
    """The compressor of a run of experiments.video.compressor.

    Args:
      path: its folder ``compressor``.

    Raises:
      FileNotFoundError: where there is no such folder.
      InputError: where it holds something else.
    """
    folder: pathlib.Path = as_path(path)
    model = load_model(folder)
    if not isinstance(model.config, CompressorConfig) or STATISTICS not in model.params:
        raise InputError(
            f"{path} holds {type(model.config).__name__}, expected a compressor with statistics of "
            "its latents: the folder compressor/ of a run of experiments.video.compressor"
        )
    compressor = model.config.make_compressor(model.params)
    return VideoLatents(compressor, model.config.shape[-1], params_digest(model.params))
