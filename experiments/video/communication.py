"""What the programs of a video transformer communicate: a table for each, on any mesh.

Compiles the training step on packs and guided sampling of clips on the mesh that `--mesh`
describes, and lists every collective with its kind, mesh axis, operands and bytes per call. Nothing
is trained: programs are compiled from shapes alone. Tables are in ``communication.md``.

    python -m experiments.video.communication --devices 8 --mesh data=2,sequence=2,model=2
"""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from experiments.shared.collectives import Program, report_collectives
from experiments.shared.denoiser_programs import abstract_arrays, sampling_program, update_program
from experiments.shared.denoiser_sampling import SamplingFlags
from experiments.shared.launch import ExperimentConfig, LaunchConfig, run
from experiments.video.support.video_streams import parse_size, parse_sizes
from experiments.video.support.video_training import VideoTrainingFlags, make_video_loss
from jaxgen.diffusion.model import DenoiserConfig
from jaxgen.parallel import check_batch_size, current_mesh, plan_layout
from jaxgen.spacetime import VideoDiTConfig
from jaxgen.spacetime.attention_patterns import AttentionPattern
from jaxgen.training.saved_names import register_config


@register_config("video.communication")
@dataclass(frozen=True, kw_only=True)
class Config(ExperimentConfig):
    """What to compile.

    Attributes:
      launch: where to run and on what.
      width: of a token.
      depth: transformer blocks.
      heads: of attention.
      patch: frames, height and width of a patch.
      attention_pattern: which tokens attend to each other; heads are shared out over `sequence` and
        `model`, except for attention of whole frames to themselves.
      batch_size: packs, or clips, of one call, over all devices.
      size: frames, height and width of clips; a pack has room for two. They have 4 channels.
      remat: whether activations are recomputed in the backward pass.
      sampler: how clips are sampled, with guidance.
      steps: steps of the sampler.
    """

    launch: LaunchConfig = LaunchConfig(
        workdir="runs/video_communication", mesh="data=2,sequence=2,model=2", devices=8
    )
    width: int = 384
    depth: int = 12
    heads: int = 8
    patch: str = "1x2x2"
    attention_pattern: AttentionPattern = "joint"
    batch_size: int = 8
    size: str = "8x32x32"
    remat: bool = False
    sampler: str = "ddim"
    steps: int = 50


CHANNELS, CLASSES, PACK_EXAMPLES = 4, 10, 16


def main(config: Config) -> dict[str, int]:
    """Prints and writes the tables; the figures are bytes per device and call, by mesh axes."""
    check_batch_size(config.batch_size, current_mesh())
    return report_collectives(config, video_programs(config), whole=False)


def video_programs(config: Config) -> dict[str, Program]:
    """The programs of a video transformer."""
    model = packed_transformer(config)
    layout = plan_layout(model.make_init(), jax.random.key(0), mesh=current_mesh())
    patch = model.network.patch
    length = 2 * math.prod(a // b for a, b in zip(model.image_shape, patch, strict=False))
    batch = abstract_arrays(
        layout,
        config.batch_size,
        tokens=((length, math.prod(patch) * CHANNELS), jnp.uint8),
        place=((length, len(patch)), jnp.int32),
        segment=((length,), jnp.int32),
        index=((PACK_EXAMPLES,), jnp.int32),
        label=((PACK_EXAMPLES,), jnp.int32),
    )
    loss_fn = make_video_loss(model, layout)
    flags = SamplingFlags(sampler=config.sampler, steps=config.steps)
    return {
        "training step on packs": update_program(loss_fn, layout, batch, VideoTrainingFlags()),
        f"guided samples, {config.sampler}, {config.steps} steps": sampling_program(
            model, layout, config.batch_size, flags
        ),
    }


def packed_transformer(config: Config) -> DenoiserConfig:
    """The model: rotary positions, adaLN-Zero, classes."""
    patch = parse_size(config.patch, "patch")
    (size,) = parse_sizes([config.size], patch, "size")
    network = VideoDiTConfig(
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        patch=patch,
        width=config.width,
        depth=config.depth,
        heads=config.heads,
        num_classes=CLASSES,
        positions="rotary",
        attention_pattern=config.attention_pattern,
        remat=config.remat,
    )
    return DenoiserConfig(network, (*size, CHANNELS), tuple(map(str, range(CLASSES))))


if __name__ == "__main__":
    run(main, Config)
