"""What a training step takes of every device of a mesh, before there is such a mesh.

    python -m experiments.plan DiT-XL/2 --mesh data=16,fsdp=16 --batch-size 512

Compiles the training step of a published network for as many simulated devices as the mesh has
places, from shapes alone: no array is allocated, so a mesh may be larger than the machine, and so
may be what its devices hold. Prints, and writes to ``plan.md``, the bytes that a device holds of
parameters, optimizer, average and batch, those of activations as the compiler plans them, the
collectives of a step, and every array's shape, the mesh axes that it is cut along, and the shape of
a device's part. MODEL is a network of images (DiT-S/2, U-ViT-S/2, MDT-S/2, ADM-64, ...), of latents
and texts ("stable-diffusion-1", -2 or -xl, on stored states of texts), "video-dit" (on packs of
clips), "nplm", or a radiance field: "ngp", "nerfacto", "nerf", "mipnerf", "mipnerf360", "neus".

The program is the one that XLA makes for CPUs. For accelerators it fuses more and keeps products in
other layouts, so activations are an estimate there; the rest is exact.
"""

import dataclasses
import re
from collections import Counter
from dataclasses import dataclass
from typing import Any, cast

import jax

from experiments.shared.collectives import Program
from experiments.shared.launch import (
    ExperimentConfig,
    LaunchConfig,
    Positional,
    open_workdir,
    report,
    run,
)
from experiments.shared.output import format_table, write_text
from jaxgen.errors import InputError
from jaxgen.nn.counting import parameter_count
from jaxgen.parallel import (
    Communication,
    bytes_per_device,
    check_batch_size,
    communication,
    current_mesh,
    mesh_places,
)
from jaxgen.training.saved_names import register_config
from jaxgen.training.state import TrainState
from jaxgen.typing import Tree

FAMILIES = ("DiT-", "U-ViT-", "MDT-", "DiffiT-", "ADM-")
EXAMPLES = ("DiT-S/2", "U-ViT-S/2", "MDT-S/2", "DiffiT-XL/2", "ADM-64")
LATENTS = ("stable-diffusion-1", "stable-diffusion-2", "stable-diffusion-xl")
FIELDS = ("ngp", "nerfacto", "nerf", "mipnerf", "mipnerf360", "neus")
OTHERS = (*LATENTS, "video-dit", "nplm", *FIELDS)
STEP = "training step"
_NUMBER = re.compile(r"_\d+(?=/)")


@register_config("plan")
@dataclass(frozen=True, kw_only=True)
class Config(ExperimentConfig):
    """What to plan.

    Attributes:
      launch: where to run; its mesh is the one that is planned for.
      model: a published network.
      batch_size: examples (rays of a field) of one update, over all devices.
      image_size: height and width of images (or latents) of 4 channels; of no other networks.
      remat: whether activations are recomputed in the backward pass; not for "nplm" and fields.
    """

    launch: LaunchConfig = LaunchConfig(workdir="runs/plan", mesh="data=16,fsdp=16")
    model: Positional[str] = "DiT-S/2"
    batch_size: int = 256
    image_size: int = 32
    remat: bool = False

    def __post_init__(self) -> None:
        if not self.model.startswith(FAMILIES) and self.model not in OTHERS:
            raise InputError(
                f"model is {self.model!r}, expected a published network such as "
                f"{', '.join(EXAMPLES)}, or one of {', '.join(OTHERS)}"
            )
        if self.remat and self.model in ("nplm", *FIELDS):
            raise InputError(f"remat is True of {self.model}, expected False")
        devices = self.launch.devices or mesh_places(self.launch.mesh)
        launch = dataclasses.replace(self.launch, devices=devices)
        object.__setattr__(self, "launch", launch)


def main(config: Config) -> dict[str, int]:
    """Prints and writes the tables; the figures are numbers and bytes of a device."""
    check_batch_size(config.batch_size, current_mesh())
    program, arguments = training_step_of(config)
    report(f"compiling the training step of {config.model} for {config.launch.devices} devices ...")
    compiled = program.lower(*arguments).compile()
    figures = held_by_each_device(arguments[0], arguments[1], compiled)
    sent = communication(compiled)
    folder = open_workdir(config)
    text = plan_text(config, figures, sent, arguments[0].params)
    report(text)
    write_text(folder / "plan.md", text + "\n")
    report(f"the plan is in {folder / 'plan.md'}")
    by_axes = {f"sent along {axes}": size for axes, size in sent.bytes_by_axes().items()}
    return {**figures, **by_axes}


def training_step_of(config: Config) -> Program:
    """The step, with the abstract state, batch and key that it is compiled for."""
    # Imported here: a plan for one family needs no other.
    common: dict[str, Any] = {"batch_size": config.batch_size, "launch": config.launch}
    if config.model == "nplm":
        from experiments.lm import communication as words

        return words.language_programs(words.Config(**common))[STEP]
    if config.model in FIELDS:
        from experiments.nerf import communication as fields

        return fields.field_program(cast("fields.FieldName", config.model), config.batch_size)
    common["remat"] = config.remat
    if config.model in LATENTS:
        from experiments.text_to_image import communication as texts

        sizes = {"model": config.model, "image_size": config.image_size}
        return texts.text_programs(texts.Config(**common, **sizes))[STEP]
    if config.model == "video-dit":
        from experiments.video import communication as clips

        return clips.video_programs(clips.Config(**common))[f"{STEP} on packs"]
    from experiments.images import communication as images

    sizes = {"model": config.model, "image_size": config.image_size}
    return images.image_programs(images.Config(**common, **sizes))[STEP]


def held_by_each_device(
    state: TrainState, batch: Tree, compiled: jax.stages.Compiled
) -> dict[str, int]:
    """Numbers, and bytes of a device."""
    memory = compiled.memory_analysis()
    figures = {
        "devices": current_mesh().size,
        "parameters": parameter_count(state.params),
        "bytes of parameters": bytes_per_device(state.params),
        "bytes of the optimizer": bytes_per_device(state.opt_state),
        "bytes of the average": bytes_per_device(state.ema),
        "bytes of the batch": bytes_per_device(batch),
    }
    held = sum(size for name, size in figures.items() if name.startswith("bytes"))
    activations = int(memory.temp_size_in_bytes)
    return figures | {
        "bytes of activations and other temporaries": activations,
        "bytes in all": held + activations,
    }


def plan_text(config: Config, figures: dict[str, int], sent: Communication, params: Tree) -> str:
    """All tables."""
    head = (
        f"# {config.model} on {config.launch.mesh}\n\nA training step of {config.batch_size:,} "
        f"examples{', activations recomputed' * config.remat}; bytes are those of one device."
    )
    rows = [(name, f"{value:,}") for name, value in figures.items()]
    return "\n\n".join(
        [
            head,
            format_table(("", "number"), rows),
            "## Collectives of a step",
            sent.summary(),
            "## Parameters",
            format_table(("array", "times", "shape", "over", "of a device"), grouped_rows(params)),
        ]
    )


def grouped_rows(params: Tree) -> list[tuple[str, ...]]:
    """Every parameter; those that blocks repeat in one row, with ``*`` for their numbers."""
    counted: Counter[tuple[str, ...]] = Counter()
    for path, x in jax.tree_util.tree_leaves_with_path(params):
        name = _NUMBER.sub("_*", jax.tree_util.keystr(path, simple=True, separator="/"))
        axes = ", ".join(_axes_text(axis) for axis in x.sharding.spec)
        shapes = [", ".join(map(str, s)) for s in (x.shape, x.sharding.shard_shape(x.shape))]
        counted[name, shapes[0], axes or "-", shapes[1]] += 1
    return [(name, str(times), *rest) for (name, *rest), times in counted.items()]


def _axes_text(axis: str | tuple[str, ...] | None) -> str:
    return "-" if axis is None else axis if isinstance(axis, str) else "+".join(axis)


if __name__ == "__main__":
    run(main, Config)
