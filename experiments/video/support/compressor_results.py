"""What compressors and transforms of the same rate make of held-out clips: figures and pictures."""

import pathlib
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from experiments.shared.image_plots import plot_images, tile_videos
from experiments.video.support.compressor_data import Clips
from jaxgen.compressors.compressor import NETWORK, CompressorConfig
from jaxgen.compressors.streaming import latent_chunks, stream_chunks, video_chunks
from jaxgen.compressors.tubelets import from_tubelets, to_tubelets
from jaxgen.data import from_unit, to_unit
from jaxgen.data.video.video_files import write_video
from jaxgen.evaluation.image_similarity import psnr, ssim
from jaxgen.evaluation.video_similarity import temporal_difference_error
from jaxgen.parallel import is_main_process
from jaxgen.typing import Tree

Video = Float[np.ndarray, "T Y X C"]
Reconstruct = Callable[[Video], Video]
"""A clip in [-1, 1] to what is left of it after compression."""

PSNR, SSIM, DIFFERENCE = "PSNR", "SSIM", "temporal difference"
LATENTS_PER_CHUNK, FRAMES_PER_CALL, SHOWN_FRAMES, FPS = 4, 16, 6, 10


@dataclass(frozen=True)
class Method:
    """A way to compress.

    Attributes:
      name: in tables.
      reconstruct: clips to what is left of them.
    """

    name: str
    reconstruct: Reconstruct


def transform_method(name: str, basis_PK: np.ndarray, patch: tuple[int, int, int]) -> Method:
    """Blocks projected onto some vectors; the first frame of a clip fills a block by itself."""

    def reconstruct(clip: Video) -> Video:
        blocks = np.asarray(to_tubelets(clip[None], patch, first_frame=True))
        kept = np.einsum("btyxp,pk,qk->btyxq", blocks, basis_PK, basis_PK, optimize=True)
        return np.asarray(from_tubelets(kept, patch))[0]

    return Method(name, reconstruct)


def compressor_method(name: str, config: CompressorConfig, params: Tree) -> Method:
    """A compressor: of videos in chunks, of frames some at a time."""
    squeeze = jax.jit(lambda params, h: config.squeeze(params, h).values)
    reconstruct = jax.jit(config.reconstruct)

    def of_video(clip: Video) -> Video:
        network = params[NETWORK]
        chunks = video_chunks(clip[None], config.network, LATENTS_PER_CHUNK)
        encoded = list(stream_chunks(config.network, network, chunks, "encode"))
        rest = {part: tree for part, tree in params.items() if part != NETWORK}
        latents = np.concatenate([np.asarray(squeeze(rest, h)) for h in encoded], axis=1)
        pieces = latent_chunks(latents, LATENTS_PER_CHUNK)
        decoded = stream_chunks(config.network, network, pieces, "decode")
        return np.concatenate([np.asarray(piece)[0] for piece in decoded])

    def of_frames(clip: Video) -> Video:
        missing = -len(clip) % FRAMES_PER_CALL
        padded = np.concatenate([clip, clip[-1:].repeat(missing, 0)])
        calls = padded.reshape(-1, FRAMES_PER_CALL, *clip.shape[1:])
        return np.concatenate([np.asarray(reconstruct(params, x)) for x in calls])[: len(clip)]

    return Method(name, of_video if config.axes == 3 else of_frames)


def whole_blocks(clip: UInt8[np.ndarray, "T Y X C"], patch: tuple[int, int, int]) -> Video:
    """A clip in [-1, 1], cut to 1 + k P_t frames and whole blocks."""
    steps, rows, columns = patch
    frames = 1 + (len(clip) - 1) // steps * steps
    y, x = clip.shape[1] // rows * rows, clip.shape[2] // columns * columns
    return to_unit(clip[:frames, :y, :x])


def clip_figures(clip: Video, reconstruction: Video) -> dict[str, float]:
    """Means over the frames of a clip; reconstructions are clipped to [-1, 1]."""
    clipped = np.clip(reconstruction, -1, 1)
    return {
        PSNR: float(jnp.mean(psnr(clip, clipped, 2.0))),
        SSIM: float(jnp.mean(ssim(clip, clipped, 2.0))),
        DIFFERENCE: temporal_difference_error(clip, clipped),
    }


def show_reconstructions(
    folder: pathlib.Path, name: str, clip: Video, made: dict[str, Video]
) -> None:
    """Writes some frames of a clip and of its reconstructions, and all of them side by side."""
    rows = {"original": clip, **made}
    index = np.linspace(0, len(clip) - 1, min(SHOWN_FRAMES, len(clip))).round().astype(int)
    plot_images(
        folder / f"{name}.png",
        np.stack([np.clip(video[index], -1, 1) for video in rows.values()]),
        f"{name}, held out: {', '.join(rows)}",
        columns=[f"frame {i}" for i in index],
        rows=list(rows),
    )
    if is_main_process():
        videos_QTYXC = from_unit(np.clip(np.stack(list(rows.values())), -1, 1))
        write_video(folder / f"{name}.mp4", tile_videos(videos_QTYXC[None]), FPS)


def evaluate_methods(
    held_out: Clips, methods: list[Method], patch: tuple[int, int, int], folder: pathlib.Path
) -> dict[str, dict[str, dict[str, float]]]:
    """Figures of every held-out clip and method; clips are shown too."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name, whole in held_out.items():
        clip = whole_blocks(whole, patch)
        made = {method.name: method.reconstruct(clip) for method in methods}
        found[name] = {method: clip_figures(clip, video) for method, video in made.items()}
        show_reconstructions(folder, name, clip, made)
    return found
