"""Samples of a trained denoiser of images or videos: methods by name, in batches over the mesh.

Sample i depends on the key and on i alone: not on how many are made, on the mesh or the batches.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import numpy as np
from jaxtyping import Array, Float, Int, Key, Shaped

from experiments.shared.output import progress_bar
from jaxgen.diffusion import Denoiser, Level
from jaxgen.diffusion.named_samplers import NamedSampler, sampler_named
from jaxgen.diffusion.process.level_lists import first_level
from jaxgen.diffusion.process.schedules import CosineSchedule, Schedule
from jaxgen.diffusion.process.step_levels import Spacing
from jaxgen.diffusion.samplers.sampling import Sampler, initial_noise, sample_with_table
from jaxgen.errors import InputError
from jaxgen.parallel import (
    Layout,
    current_mesh,
    gather_fsdp,
    num_batch_shards,
    put_batch,
    replicated,
)
from jaxgen.training.saved_names import register_config
from jaxgen.typing import Batch, Tree

SAMPLES_PER_CALL = 256


class SampledModel(Protocol):
    """What can be sampled: a denoiser of classes or texts; see `jaxgen.diffusion.model`."""

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Of a sample."""

    @property
    def schedule(self) -> Schedule:
        """The noise schedule."""

    def make_denoiser(
        self, params: Tree, condition: Any, guidance: Any = None, *, clip: bool = True
    ) -> Denoiser:
        """The denoiser of samples of a condition: labels [B], texts, or None."""


@register_config("images.sampling", first_format=["experiments.image_sampling:SamplingFlags"])
@dataclass(frozen=True, kw_only=True)
class SamplingFlags:
    """How the trained network is sampled; may differ when a run is started again.

    Attributes:
      sampler: a name of `jaxgen.diffusion.named_samplers`, perhaps with how its levels are spaced:
        "ddim", "ancestral", "heun", "dpm_solver", "Euler a", "DPM++ 2M Karras", ...
      steps: steps of the sampler; Heun evaluates the network twice in each.
      spacing: how the noise levels are spaced: "uniform" in time, "uniform_angle",
        "uniform_log_snr", "karras", "trailing", "leading" or "linspace".
      guidance: w of classifier-free guidance, (1 + w) e(z, c) - w e(z); 0 is the conditional model.
      clip: keep the estimate of the data within the range of pixels.
      evaluate: samples to evaluate; 0 for none; pictures of some are drawn all the same.
    """

    sampler: str = "ddim"
    steps: int = 50
    spacing: Spacing = "uniform"
    guidance: float = 1.0
    clip: bool = True
    evaluate: int = 1000

    def __post_init__(self) -> None:
        self.named(CosineSchedule())
        if self.steps < 1:
            raise InputError(f"steps is {self.steps}, expected 1 or more")
        if self.evaluate < 0:
            raise InputError(f"evaluate is {self.evaluate}, expected 0 or more")
        if not math.isfinite(self.guidance):
            raise InputError(f"guidance is {self.guidance}, expected a finite number")

    def named(self, schedule: Schedule) -> NamedSampler:
        """The sampler and the spacing of its levels; a spacing in its name comes before the flag.

        Raises:
          InputError: for a name that is none.
        """
        named = sampler_named(self.sampler, schedule)
        return named._replace(spacing=self.spacing) if named.spacing == "uniform" else named

    def method(self, config: SampledModel) -> Sampler:
        """The sampler."""
        return self.named(config.schedule).sampler

    def levels(self, config: SampledModel) -> Level:
        """The noise levels that the sampler goes through."""
        return self.named(config.schedule).levels(config.schedule, self.steps)


class Draw(Protocol):
    """Draws samples; see `make_draw`."""

    def __call__(
        self,
        params: Tree,
        sampler: Sampler,
        levels: Level,
        condition: Any,
        key: Key[Array, ""],
        *,
        guidance: float = 0.0,
        count: int | None = None,
        name: str = "sampling",
    ) -> Float[np.ndarray, "N *sizes C"]:
        """Images, float32 [N, Y, X, C], or videos [N, T, Y, X, C]."""


def make_draw(
    config: SampledModel,
    layout: Layout,
    *,
    clip: bool = True,
    shape: tuple[int, ...] | None = None,
    per_call: int = SAMPLES_PER_CALL,
) -> Draw:
    """A function that samples a model, compiled once for each sampler and number of steps.

    Args:
      config: the model.
      layout: of its parameters.
      clip: whether x^ is kept within [-1, 1].
      shape: of a sample, for networks that take several; None: the model's.
      per_call: samples at a time.

    Returns:
      ``draw(params, sampler, levels, condition, key, guidance=0, count=None)``: images in about
      [-1, 1], numpy float32 [N, Y, X, C], the same in every process. The condition is what the
      model's ``make_denoiser`` takes of N samples, labels [N] or texts; N is `count` where it is
      None. Guidance 0 evaluates the network once per step, other weights twice and do not
      recompile.
    """
    run = compile_sampling(config, layout, clip=clip, shape=shape)
    unit = {1: "vector", 3: "image"}.get(len(config.image_shape), "video")

    def draw(params, sampler, levels, condition, key, *, guidance=0.0, count=None, name="sampling"):
        arrays = jax.tree.leaves(condition)
        total = len(arrays[0]) if arrays else int(count or 0)
        table, noisiest = sampler.table(levels), first_level(levels)
        weight = np.float32(guidance) if guidance else None

        def part(index_B):
            batch = put_samples(index_B, condition)
            return run(params, sampler, table, noisiest, batch, key, weight)

        return draw_in_parts(part, total, per_call, name, unit)

    return draw


def draw_in_parts(
    draw: Callable[[Int[np.ndarray, "B"]], Any],
    total: int,
    per_call: int,
    name: str,
    unit: str,
) -> Shaped[np.ndarray, "N ..."]:
    """What is drawn for N numbers, some at a time, under a bar.

    Args:
      draw: takes the numbers of a part, of always as many, so that one shape is compiled: the last
        part repeats the last number. Gives [B, ...].
      total: N.
      per_call: at most so many at a time, but for the batch's shards.
      name: of the bar.
      unit: what it counts.
    """
    shards = num_batch_shards(current_mesh())
    size = shards * math.ceil(min(per_call, total) / shards)
    parts = []
    with progress_bar(name, unit, total) as advance:
        for first in range(0, total, size):
            parts.append(np.asarray(draw(np.minimum(np.arange(first, first + size), total - 1))))
            advance(min(size, total - first))
    return np.concatenate(parts)[:total]


def draw_previews(
    config: SampledModel,
    layout: Layout,
    params: Tree,
    flags: SamplingFlags,
    condition: Any,
    key: Key[Array, ""],
    count: int,
) -> Float[np.ndarray, "S N Y X C"]:
    """x^ of every network evaluation while samples are made: [evaluations, N, Y, X, C]."""
    run = compile_sampling(config, layout, clip=flags.clip, previews=True)
    shards = num_batch_shards(current_mesh())
    index_B = np.minimum(np.arange(shards * math.ceil(count / shards)), count - 1)
    batch = put_samples(index_B, condition)
    levels, sampler = flags.levels(config), flags.method(config)
    guidance_weight = np.float32(flags.guidance) if flags.guidance else None
    _, xs = run(
        params, sampler, sampler.table(levels), first_level(levels), batch, key, guidance_weight
    )
    return np.asarray(xs)[:, :count]


def put_samples(index_B: Int[np.ndarray, "B"], condition: Any) -> Batch:
    """The samples of some indices, with their conditions if there are any, over the current mesh.

    Args:
      index_B: which samples.
      condition: labels [N], texts, or any tree of arrays [N, ...] of all samples; None.
    """

    def chosen(value: Any) -> np.ndarray:
        value_B = np.asarray(value)[index_B]
        whole = np.issubdtype(value_B.dtype, np.integer)
        return value_B.astype(np.int32) if whole else value_B

    batch = {"index": index_B.astype(np.int32)}
    if condition is not None:
        batch["condition"] = jax.tree.map(chosen, condition)
    return put_batch(batch, current_mesh())


def compile_sampling(
    config: SampledModel,
    layout: Layout,
    *,
    clip: bool = True,
    previews: bool = False,
    shape: tuple[int, ...] | None = None,
) -> Any:
    """The jitted sampling of a batch; its result is whole on every device.

    Args:
      config: the model.
      layout: of its parameters.
      clip: whether x^ is kept within [-1, 1].
      previews: whether x^ of every network evaluation is returned too.
      shape: of a sample, for networks that take several; None: the model's.

    Returns:
      ``run(params, sampler, table, noisiest, batch, key, guidance)``, where `batch` holds each
      sample's ``"index"`` and perhaps its ``"condition"``; guidance None evaluates the network once
      a step.
    """

    def run(params, sampler, table, noisiest, batch, key, guidance):
        denoiser = config.make_denoiser(
            gather_fsdp(params, layout), batch.get("condition"), guidance, clip=clip
        )
        z = initial_noise(key, batch["index"], shape or config.image_shape, noisiest)
        return sample_with_table(
            sampler, denoiser, z, table, key, batch["index"], previews=previews
        )

    return jax.jit(run, static_argnums=1, out_shardings=replicated(layout.mesh))


def even_labels(count: int, classes: int) -> Int[np.ndarray, "N"] | None:
    """Labels 0, 1, .., so that all classes are as frequent; None without classes."""
    return np.arange(count, dtype=np.int32) % classes if classes else None
