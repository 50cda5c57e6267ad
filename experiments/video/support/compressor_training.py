"""The compressor that flags ask for, what it starts from, its loss and its training."""

import functools
import math
import pathlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import jax
import numpy as np
from jaxtyping import Array, Float

from experiments.shared.training_runs import (
    VALIDATION_LOSS,
    OptimizationFlags,
    TrainedModel,
    train_model,
)
from experiments.video.support.compressor_data import Clips, make_crops
from experiments.video.support.video_streams import Size, parse_size
from jaxgen.compressors.block_transforms import (
    least_squares_kernel,
    principal_basis,
    second_moments,
    zonal_basis,
)
from jaxgen.compressors.bottlenecks import FSQConfig, KLConfig, LFQConfig, VQConfig
from jaxgen.compressors.causal_autoencoder import CausalAutoencoderConfig
from jaxgen.compressors.compressor import CODEBOOK, NETWORK, CompressorConfig
from jaxgen.compressors.linear_shortcut import with_transform
from jaxgen.compressors.reconstruction_losses import Distance, reconstruction_loss
from jaxgen.compressors.tubelets import to_tubelets
from jaxgen.data import to_unit
from jaxgen.errors import InputError
from jaxgen.parallel import (
    Layout,
    check_batch_size,
    current_mesh,
    gather_fsdp,
    init_sharded,
    replicated,
)
from jaxgen.training import TrainState, averaged_params
from jaxgen.training.saved_names import register_config
from jaxgen.training.step import StatefulLossFn
from jaxgen.typing import Batch, Tree

Kind = Literal["causal", "frames"]
FRAMES_AT_ONCE = 16
VALIDATION_BATCHES = 4


@register_config("video.compressor_network")
@dataclass(frozen=True, kw_only=True)
class CompressorFlags:
    """The compressor: a causal one of videos, and one of frames to compare it with.

    Attributes:
      block: frames, height and width of the pixels that one latent position stands for; the
        compressor of frames has blocks of one frame and as many pixels, so the same rate.
      channels: numbers of a latent position; of "fsq" one for each of its levels, of "lfq" bits.
      bottleneck: "kl" (continuous), or codes: "vq", "fsq", "lfq".
      codebook_size: of "vq", a moving average.
      revive_below: codes of "vq" that fewer positions of a batch have become random positions.
      levels: of "fsq".
      width: channels of the network.
      blocks: residual blocks of the encoder, and of the decoder.
      dtype: the compute dtype of convolutions.
    """

    block: str = "4x8x8"
    channels: int = 16
    bottleneck: Literal["kl", "vq", "fsq", "lfq"] = "kl"
    codebook_size: int = 1024
    revive_below: float = 0.1
    levels: tuple[int, ...] = (8, 8, 8, 5, 5, 5)
    width: int = 128
    blocks: int = 2
    dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        for name in ("channels", "width", "blocks"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}, expected 1 or more")
        self.patch("causal")

    def patch(self, kind: Kind) -> Size:
        """The block of a kind of compressor.

        Raises:
          InputError: for a block that has no equal of one frame.
        """
        frames, height, width = parse_size(self.block, "block")
        if kind == "causal":
            return frames, height, width
        side = math.isqrt(frames)
        if side * side != frames:
            raise InputError(
                f"block is {self.block}, expected a square number of frames: the compressor of "
                "frames has as many pixels in one frame"
            )
        return 1, side * height, side * width

    def config(self, kind: Kind, size: Size, channels: int) -> CompressorConfig:
        """The compressor of data.

        Args:
          kind: of videos or of frames.
          size: of the crops that it is trained on.
          channels: of the data.

        Raises:
          InputError: for crops that the blocks do not divide.
        """
        bottleneck: Any = {
            "kl": KLConfig(self.channels),
            "vq": VQConfig(self.codebook_size, self.channels, revive_below=self.revive_below),
            "fsq": FSQConfig(self.levels),
            "lfq": LFQConfig(self.channels),
        }[self.bottleneck]
        network = CausalAutoencoderConfig.patch_first(
            channels=channels,
            latent_channels=bottleneck.latent_channels,
            encoder_channels=bottleneck.encoder_channels,
            patch=self.patch(kind),
            width=self.width,
            blocks=self.blocks,
            decoder_blocks=self.blocks,
            padding="first_frame" if kind == "causal" else "zeros",
            dtype=self.dtype,
        )
        shape = (*size, channels) if kind == "causal" else (*size[1:], channels)
        network.latent_grid(shape[:-1])
        return CompressorConfig(network, bottleneck, shape)


@register_config("video.compressor_training")
@dataclass(frozen=True, kw_only=True)
class CompressorTrainingFlags(OptimizationFlags):
    """How a compressor is trained: AdamW, linear warm-up, cosine to zero, average of parameters.

    Attributes:
      training_steps: updates.
      crop: frames, height and width of what it is trained on.
      batch_size: crops of an update.
      distance: "squared" (for PSNR) or "absolute".
      bottleneck_weight: of the bottleneck's loss, for each number of the data.
      start: the linear transform that training starts from, "cosine" (zonal) or "principal"
        (components), with decoding by least squares, all of the training clips; "random": none.
      learning_rate: the highest one.
      weight_decay: on weights, decoupled.
      ema_decay: of the moving average of the parameters, which is what compresses.
    """

    training_steps: int = 400
    crop: str = "9x32x32"
    batch_size: int = 4
    distance: Distance = "squared"
    bottleneck_weight: float = 1e-5
    start: Literal["cosine", "principal", "random"] = "cosine"
    learning_rate: float = 1e-3
    ema_decay: float = 0.98

    def crop_size(self) -> Size:
        """Frames, height and width.

        Raises:
          InputError: for anything else.
        """
        return parse_size(self.crop, "crop")


def block_grids(
    clips: Clips, patch: Size, most_frames: int
) -> Iterator[Float[np.ndarray, "T Y X P"]]:
    """The blocks of clips in [-1, 1], a stretch at a time; what fills no block is left.

    Args:
      clips: bytes.
      patch: sides of a block.
      most_frames: frames of a stretch, at most, a multiple of those of a block.
    """
    steps, *sides = patch
    for clip in clips.values():
        y, x = (have // side * side for have, side in zip(clip.shape[1:3], sides, strict=True))
        whole = clip[: len(clip) // steps * steps, :y, :x]
        for start in range(0, len(whole), most_frames):
            piece = to_unit(whole[None, start : start + most_frames])
            yield np.asarray(to_tubelets(piece, patch, begins=False))[0]


def block_moments(clips: Clips, config: CompressorConfig) -> Float[np.ndarray, "P P2"]:
    """The second moments of the blocks that a compressor's latents stand for."""
    patch = config.network.strides
    return second_moments(block_grids(clips, patch, FRAMES_AT_ONCE * patch[0]))


def transform_basis(
    moments: Float[np.ndarray, "P P2"], config: CompressorConfig, start: str
) -> tuple[Float[np.ndarray, "P K"], Float[np.ndarray, "K"]]:
    """The transform with a compressor's rate, and its coefficients' deviations.

    Args:
      moments: of blocks.
      config: the compressor.
      start: "cosine" or "principal".
    """
    network = config.network
    if start == "principal":
        basis = principal_basis(moments, network.latent_channels)
    else:
        kept = network.latent_channels
        basis = zonal_basis(moments, network.strides, network.channels, kept)
    return basis, np.sqrt(np.einsum("pk,pq,qk->k", basis, moments, basis))


def make_compressor_loss(
    config: CompressorConfig, flags: CompressorTrainingFlags, layout: Layout
) -> StatefulLossFn:
    """The mean over crops of reconstruction and bottleneck losses; it updates the codebook.

    Args:
      config: the compressor.
      flags: weights.
      layout: of its parameters.
    """

    def loss_fn(params: Tree, batch: Batch, key: Array, variables: Tree) -> Any:
        params = {**gather_fsdp(params, layout), **variables}
        x = to_unit(batch["video"])
        h = config.encode(params, x)
        latent, variables = config.squeeze(params, h, key, mutable=[CODEBOOK])
        distance_B = reconstruction_loss(x, config.decode(params, latent.values), flags.distance)
        numbers = math.prod(x.shape[1:])
        loss_B = distance_B + flags.bottleneck_weight * latent.loss / numbers
        metrics = {"distance": distance_B.mean(), **latent.metrics}
        return loss_B.mean(), (metrics, variables)

    return loss_fn


def train_compressor(
    config: CompressorConfig,
    clips: Clips,
    held_out: Clips,
    folder: pathlib.Path,
    flags: CompressorTrainingFlags,
    moments: Float[np.ndarray, "P P2"],
    *,
    seed: int = 0,
    tensorboard: bool = False,
) -> TrainedModel:
    """Trains a compressor, or resumes.

    Args:
      config: the compressor.
      clips: what it is trained on.
      held_out: what it is evaluated on in between, in crops.
      folder: the run's; ``metrics.jsonl`` and ``checkpoints/`` are written there.
      flags: how to train it.
      moments: of the clips' blocks (`block_moments`), for what training starts from.
      seed: of parameters, crops and noise.
      tensorboard: whether to write event files too.

    Raises:
      InputError: for clips smaller than a crop, or where `folder` has another run's checkpoints.
    """
    size = flags.crop_size()
    return train_model(
        config,
        make_crops(clips, size, flags.batch_size, seed),
        folder,
        flags,
        functools.partial(make_compressor_loss, config, flags),
        make_evaluation=lambda _: make_crop_evaluation(
            config, make_crops(held_out, size, flags.batch_size, seed)
        ),
        seed=seed,
        tensorboard=tensorboard,
        start=(
            None if flags.start == "random" else started(config, clips, moments, flags.start, seed)
        ),
        variables=config.make_variables(jax.random.key(seed)),
        single_steps=True,
    )


def started(
    config: CompressorConfig,
    clips: Clips,
    moments: Float[np.ndarray, "P P2"],
    start: str,
    seed: int,
) -> Tree:
    """New parameters, with the linear transform that training starts from."""
    params, _ = init_sharded(config.make_init(), jax.random.key(seed), mesh=current_mesh())
    basis, deviation = transform_basis(moments, config, start)
    # A compressor of frames codes each by itself.
    patch = config.network.strides
    frames = 1 if config.axes == 2 else FRAMES_AT_ONCE * patch[0]
    grids = block_grids(clips, patch, frames)
    kernel = least_squares_kernel(
        ((blocks @ (basis / deviation), blocks) for blocks in grids),
        first_frame=config.network.padding == "first_frame",
    )
    return {**params, NETWORK: with_transform(params[NETWORK], basis, deviation, kernel)}


def make_crop_evaluation(
    config: CompressorConfig, crops: Callable[[int], Batch]
) -> Callable[[TrainState], dict[str, float]]:
    """The mean squared error of some held-out crops, always the same, by averaged parameters."""
    batches = [crops(step) for step in range(VALIDATION_BATCHES)]

    @functools.partial(jax.jit, out_shardings=replicated(current_mesh()))
    def error(params: Tree, batch: Batch) -> Array:
        x = to_unit(batch["video"])
        return reconstruction_loss(x, config.reconstruct(params, x)).mean()

    def evaluate(state: TrainState) -> dict[str, float]:
        params = {**averaged_params(state), **(state.variables or {})}
        return {VALIDATION_LOSS: float(np.mean([error(params, batch) for batch in batches]))}

    return evaluate


def check_crops(flags: CompressorTrainingFlags) -> None:
    """Refuses, before anything is written, batches that the mesh cannot share equally.

    Raises:
      InputError: naming their size.
    """
    flags.crop_size()
    check_batch_size(flags.batch_size, current_mesh(), "batch_size")
