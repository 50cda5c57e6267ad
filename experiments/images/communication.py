"""What the programs of a diffusion transformer communicate: a table for each, on any mesh.

Compiles the training step and guided sampling of a published network on the mesh that `--mesh`
describes, and lists every collective with its kind, mesh axis, operands and bytes per call. Nothing
is trained: programs are compiled from shapes alone. Tables are in ``communication.md``.

    python -m experiments.images.communication --devices 8 --mesh data=2,fsdp=2,model=2 \\
        --model DiT-S/2 --batch-size 64
"""

from dataclasses import dataclass

import jax

from experiments.images.support.image_programs import published_model, training_program
from experiments.shared.collectives import Program, report_collectives
from experiments.shared.denoiser_programs import sampling_program
from experiments.shared.denoiser_sampling import SamplingFlags
from experiments.shared.launch import ExperimentConfig, LaunchConfig, run
from jaxgen.parallel import check_batch_size, current_mesh, plan_layout
from jaxgen.training.saved_names import register_config


@register_config("images.communication")
@dataclass(frozen=True, kw_only=True)
class Config(ExperimentConfig):
    """What to compile.

    Attributes:
      launch: where to run and on what.
      model: a published diffusion transformer ("DiT-S/2", "U-ViT-S/2", "MDT-S/2", ..) with 1000
        classes.
      batch_size: examples of one call, over all devices.
      image_size: height and width of images; they have 4 channels.
      remat: whether activations are recomputed in the backward pass.
      sampler: how images are sampled, with guidance.
      steps: steps of the sampler.
    """

    launch: LaunchConfig = LaunchConfig(
        workdir="runs/images_communication", mesh="data=2,fsdp=2,model=2", devices=8
    )
    model: str = "DiT-S/2"
    batch_size: int = 64
    image_size: int = 32
    remat: bool = False
    sampler: str = "ddim"
    steps: int = 50


def main(config: Config) -> dict[str, int]:
    """Prints and writes the tables; the figures are bytes per device and call, by mesh axes."""
    check_batch_size(config.batch_size, current_mesh())
    return report_collectives(config, image_programs(config), whole=False)


def image_programs(config: Config) -> dict[str, Program]:
    """The programs of a diffusion transformer."""
    size, flags = config.image_size, SamplingFlags(sampler=config.sampler, steps=config.steps)
    model = published_model(config.model, (size, size, 4), 1000, remat=config.remat)
    layout = plan_layout(model.make_init(), jax.random.key(0), mesh=current_mesh())
    return {
        "training step": training_program(model, layout, config.batch_size),
        f"guided samples, {config.sampler}, {config.steps} steps": sampling_program(
            model, layout, config.batch_size, flags
        ),
    }


if __name__ == "__main__":
    run(main, Config)
