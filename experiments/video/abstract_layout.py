"""A video transformer on devices that are not there: shapes, shardings, bytes per device.

Nothing is allocated or computed: shapes of the state of training and of the training step are
followed over an abstract mesh. Tables are in ``layout.md``.

    python -m experiments.video.abstract_layout
    python -m experiments.video.abstract_layout --places fsdp=16,model=16
"""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from experiments.shared.launch import ExperimentConfig, LaunchConfig, open_workdir, report, run
from experiments.shared.output import format_table, write_text
from experiments.shared.training_runs import OptimizationFlags
from experiments.video.support.video_streams import parse_size, parse_sizes
from jaxgen.parallel import (
    Layout,
    abstract_mesh,
    bytes_per_device,
    check_batch_size,
    gather_fsdp,
    on_abstract_mesh,
    plan_layout,
)
from jaxgen.spacetime import VideoDiTConfig
from jaxgen.spacetime.attention_patterns import AttentionPattern
from jaxgen.training import make_optimizer
from jaxgen.training.saved_names import register_config
from jaxgen.training.state import abstract_state

PATCH, CHANNELS, TEXT_WIDTH, TEXT_LENGTH = (1, 2, 2), 16, 4096, 512


@register_config("video.abstract_layout")
@dataclass(frozen=True, kw_only=True)
class Config(ExperimentConfig):
    """What to lay out.

    Attributes:
      launch: where to run; its mesh is not used.
      places: sizes of the mesh axes.
      count: how many devices there are.
      width: of a token.
      depth: transformer blocks.
      heads: of attention.
      attention_pattern: which tokens attend to each other.
      batch_size: clips of one update, over all devices.
      size: frames, height and width of clips of latents, 16 numbers each.
    """

    launch: LaunchConfig = LaunchConfig(workdir="runs/video_abstract_layout")
    places: str = "fsdp=16,sequence=4,model=4"
    count: int = 256
    width: int = 2048
    depth: int = 16
    heads: int = 16
    attention_pattern: AttentionPattern = "joint"
    batch_size: int = 16
    size: str = "20x60x104"


def main(config: Config) -> dict[str, int]:
    """Prints and writes the tables; the figures are numbers and bytes."""
    mesh = abstract_mesh(config.places, config.count)
    check_batch_size(config.batch_size, mesh)
    network = large_transformer(config)
    with on_abstract_mesh(mesh):
        given = abstract_clips(config)
        layout = plan_layout(make_init(network, given), jax.random.key(0), mesh=mesh)
        loss, outputs, gradients = follow_step(network, layout, given)
    figures = held_by_a_device(config, layout, gradients)
    shapes = [
        (name, by_comma(x.shape), "", "") for name, x in (("loss", loss), ("prediction", outputs))
    ]
    arrays = [*shapes, *parameter_rows(layout)]
    folder = open_workdir(config)
    text = "\n\n".join(
        [
            f"{config.places}: {config.count} devices",
            format_table(("", "number"), [(k, f"{v:,}") for k, v in figures.items()]),
            format_table(("array", "shape", "over", "of a device"), arrays),
        ]
    )
    report(text)
    write_text(folder / "layout.md", text + "\n")
    return figures


def large_transformer(config: Config) -> VideoDiTConfig:
    """The network: as Wan's, shared adaLN and cross-attention to texts, in bfloat16."""
    return VideoDiTConfig(
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        patch=PATCH,
        width=config.width,
        depth=config.depth,
        heads=config.heads,
        num_classes=0,
        dtype="bfloat16",
        qk_norm=True,
        remat=True,
        positions="rotary",
        conditioning="adaln_shared",
        attention_pattern=config.attention_pattern,
        text_width=TEXT_WIDTH,
    )


def abstract_clips(config: Config) -> dict[str, Any]:
    """Noisy clips, times and texts."""
    (size,) = parse_sizes([config.size], parse_size("1x2x2", "patch"), "size")
    shapes = {
        "z_BTYXC": (*size, CHANNELS),
        "time_B": (),
        "text_BNC": (TEXT_LENGTH, TEXT_WIDTH),
    }
    return {
        name: jax.ShapeDtypeStruct((config.batch_size, *shape), jnp.float32)
        for name, shape in shapes.items()
    }


def make_init(network: VideoDiTConfig, given: dict[str, Any]) -> Any:
    """``key -> initial parameters``."""

    def init(key: Any) -> Any:
        zeros = {name: jnp.zeros((1, *x.shape[1:]), x.dtype) for name, x in given.items()}
        return network.make_model().init(key, **zeros)["params"]

    return init


def follow_step(network: VideoDiTConfig, layout: Layout, given: dict[str, Any]) -> Any:
    """The shapes of a loss, of what is predicted, and of the gradients."""

    def loss(params: Any, given: dict[str, Any]) -> Any:
        variables = {"params": gather_fsdp(params, layout)}
        outputs = network.make_model().apply(variables, **given)
        return jnp.square(outputs).mean(), outputs

    step = jax.value_and_grad(loss, has_aux=True)
    (value, outputs), gradients = jax.eval_shape(step, layout.abstract, given)
    return value, outputs, gradients


def held_by_a_device(config: Config, layout: Layout, gradients: Any) -> dict[str, int]:
    """Numbers of parameters, and bytes of a device."""
    state = abstract_state(layout, make_optimizer(OptimizationFlags().optimizer()), ema=True)
    (size,) = parse_sizes([config.size], PATCH, "size")
    tokens = math.prod(side // part for side, part in zip(size, PATCH, strict=True))
    shape = dict(layout.mesh.shape)
    clips = config.batch_size // (shape["data"] * shape["fsdp"])
    own = clips * -(-tokens // shape["sequence"])
    leaves = jax.tree.leaves(layout.abstract)
    cut = [x for x in leaves if any(x.sharding.spec)]
    whole = [x.size // (shape["model"] if "model" in x.sharding.spec else 1) for x in leaves]
    return {
        "parameters": sum(x.size for x in jax.tree.leaves(gradients)),
        "parameters in parts": sum(x.size for x in cut),
        "bytes of parameters": bytes_per_device(layout.abstract),
        "bytes of parameters, gathered along fsdp": 4 * sum(whole),
        "bytes of gradients": bytes_per_device(layout.abstract),
        "bytes of moments and average": bytes_per_device((state.opt_state, state.ema)),
        "tokens of a clip": tokens,
        "tokens of a device": own,
        "bytes of the tokens between blocks": 4 * own * config.width * config.depth,
    }


def parameter_rows(layout: Layout) -> list[tuple[str, ...]]:
    """Those of one block and of the ends of the network: shape, mesh axes, shape of a part."""
    rows = []
    for path, x in jax.tree_util.tree_leaves_with_path(layout.abstract):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if not name.startswith("blocks_") or name.startswith("blocks_0/"):
            axes = ", ".join(str(axis or "-") for axis in x.sharding.spec) or "-"
            part = x.sharding.shard_shape(x.shape)
            rows.append((name, by_comma(x.shape), axes, by_comma(part)))
    return rows


def by_comma(shape: tuple[int, ...]) -> str:
    """Such as "2048, 16"."""
    return ", ".join(map(str, shape))


if __name__ == "__main__":
    run(main, Config)
