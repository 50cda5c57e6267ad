"""The loss of a radiance field on random pixels, and its training."""

import dataclasses
import functools
import math
import pathlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from experiments.nerf.support.view_rays import cameras_of, draw_rays, resident_views
from experiments.shared.training_runs import (
    VALIDATION_LOSS,
    OptimizationFlags,
    TrainedModel,
    seconds_per_update,
    train_model,
    updates_in,
)
from jaxgen.data import Scene, Views
from jaxgen.data.scenes.views import over_background
from jaxgen.errors import check_not_negative, check_positive
from jaxgen.nerf import (
    HashFieldConfig,
    RadianceConfig,
    Rays,
    RenderedRays,
    distortion_loss,
    eikonal_loss,
    interlevel_loss,
    occupied_cells,
    pixel_rays,
    render_rays,
    update_grid,
)
from jaxgen.nerf.renderer import render_rays_to_the_end
from jaxgen.parallel import Layout, check_batch_size, current_mesh, gather_fsdp, replicated
from jaxgen.training import OptimizerConfig, TrainState, averaged_params
from jaxgen.training.saved_names import register_config
from jaxgen.training.step import LossFn, StatefulLossFn
from jaxgen.typing import Batch, Tree

VALIDATION_RAYS = 4096
PSNR = "validation/psnr"
ANNEALED, SLOPE = 1000, 10
"""In so many updates at most, and how fast, proposals come to count in full."""
INTERLEVEL = 1.0
"""Weight of the loss by which proposals learn."""
COARSE = 0.1
"""Weight of the coarse colour of one network (Barron et al. 2021); that of two networks is 1."""
GRID = "occupancy"
"""Of the occupancy grid among the variables of the training."""


@register_config("nerf.training")
@dataclass(frozen=True, kw_only=True)
class FieldTrainingFlags(OptimizationFlags):
    """How the field is trained: Adam, cosine to a hundredth, average of parameters.

    Attributes:
      training_steps: updates.
      minutes: train for about so long, with as many updates as fit, in place of `training_steps`.
      rays: random pixels of all training views, per update; None: 4096 of "ngp" with occupancy (of
        which those count whose samples fit into --candidates and --samples), 1536 of other fields
        with a grid, 512 of networks and of signed distances.
      learning_rate: the highest one, after a warm-up; None: 1e-2 of fields with a grid, 3e-3 of
        networks (published: 5e-4, of twice the width and a hundred times the updates).
      distortion: weight of the distortion loss, which keeps a ray's weights together (Barron et al.
        2022), for fields with proposals.
      eikonal: weight of the eikonal loss, (|gradient| - 1)^2 of the signed distance, for "neus".
      weight_decay: of the layers' kernels, coupled; never of the hash tables.
      ema_decay: of the moving average of the parameters, which is what is rendered.
    """

    training_steps: int = 2000
    minutes: float | None = None
    rays: int | None = None
    learning_rate: float | None = None
    weight_decay: float = 1e-6
    ema_decay: float = 0.95
    distortion: float = 2e-3
    eikonal: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("distortion", "eikonal"):
            check_not_negative(name, getattr(self, name))
        if self.minutes is not None:
            check_positive("minutes", self.minutes)

    def for_field(self, field: RadianceConfig) -> "FieldTrainingFlags":
        """The flags with what they leave to the field."""
        rate = 3e-3 if getattr(field.field, "grid", None) is None else 1e-2
        many = isinstance(field.field, HashFieldConfig)
        rays = 4096 if field.occupancy is not None else 1536 if many else 512
        return dataclasses.replace(
            self,
            rays=rays if self.rays is None else self.rays,
            learning_rate=rate if self.learning_rate is None else self.learning_rate,
        )

    def optimizer(self) -> OptimizerConfig:
        """Müller et al. 2022, section 4: b2 and epsilon for gradients that are rare and small."""
        return OptimizerConfig(
            "adam",
            1e-2 if self.learning_rate is None else self.learning_rate,
            schedule="cosine",
            warmup_steps=min(100, self.training_steps // 10),
            total_steps=self.training_steps,
            final_fraction=0.01,
            weight_decay=self.weight_decay,
            decay_pattern="kernel",
            b2=0.99,
            eps=1e-15,
        )


def make_pixel_loss(
    config: RadianceConfig, distortion: float, eikonal: float, layout: Layout
) -> LossFn | StatefulLossFn:
    """The mean squared error of colours at random pixels of the resident views (`draw_rays`).

    Pixels that a mask leaves out, where a distorted camera sees nothing, or whose samples do not
    fit in the budget, do not count.

    With an occupancy grid the loss is stateful: the grid is a variable.

    Args:
      config: the radiance field.
      distortion: weight of the distortion loss, of fields with proposals.
      eikonal: weight of the eikonal loss, of signed distances.
      layout: of its parameters.
    """

    def loss_fn(
        params: Tree, batch: Batch, key: Array, cells: Array | None = None
    ) -> tuple[Array, dict[str, Array]]:
        params = gather_fsdp(params, layout)
        drawn = draw_rays(config, params, batch["sizes"], batch["number"], key)
        found = render_rays(
            config,
            params,
            drawn.rays,
            jax.random.fold_in(key, 1),
            drawn.background,
            numbers=batch["number"],
            anneal=batch["anneal"],
            progress=batch["progress"][0],
            view=drawn.view,
            cells=cells,
        )
        counts_R = drawn.counts
        if found.rendering.left_out is not None:
            counts_R *= ~found.rendering.left_out

        def mean(value_R: Array) -> Array:
            return (value_R * counts_R).sum() / jnp.maximum(counts_R.sum(), 1)

        def error_of(colour_R3: Array) -> Array:
            return mean(jnp.square(colour_R3 - drawn.truth).mean(axis=-1))

        error = loss = error_of(found.rendering.colour)
        for earlier in found.earlier:
            if earlier.colour is not None:
                loss += (COARSE if config.coarse_colour else 1) * error_of(earlier.colour)
            else:
                between = interlevel_loss(*final_of(found), earlier.edges, earlier.weights)
                loss += INTERLEVEL * mean(between)
        if config.proposals and distortion:
            loss += distortion * mean(distortion_loss(*final_of(found)))
        metrics = {"mean_squared_error": error}
        if found.gradient is not None:
            edges = found.rendering.edges
            assert edges is not None
            metrics["eikonal"] = mean(eikonal_loss(found.gradient, jnp.diff(edges) > 0))
            loss += eikonal * metrics["eikonal"]
        if found.rendering.left_out is not None:
            assert found.samples is not None
            metrics["rays_left_out"] = found.rendering.left_out.mean()
            metrics["samples"] = found.samples
        return loss, metrics

    def stateful(
        params: Tree, batch: Batch, key: Array, variables: Tree
    ) -> tuple[Array, tuple[dict[str, Array], Tree]]:
        assert config.occupancy is not None
        assert config.box is not None
        density = config.make_density(jax.lax.stop_gradient(gather_fsdp(params, layout)))
        grid_key = jax.random.fold_in(key, 2)
        grid = update_grid(config.occupancy, variables[GRID], density, config.box, grid_key)
        cells = occupied_cells(config.occupancy, grid, config.box)
        loss, metrics = loss_fn(params, batch, key, cells)
        return loss, (metrics | {"occupied_cells": cells.mean()}, {GRID: grid})

    return loss_fn if config.occupancy is None else stateful


def final_of(found: RenderedRays) -> tuple[Array, Array]:
    """Edges and weights of the field's intervals."""
    assert found.final is not None
    return found.final.edges, found.final.weights


def annealed(share: float) -> float:
    """Power of the weights by which proposals place samples (Barron et al. 2022, equation 18)."""
    share = min(share, 1.0)
    return SLOPE * share / ((SLOPE - 1) * share + 1)


def train_field(
    config: RadianceConfig,
    scene: Scene,
    folder: pathlib.Path,
    flags: FieldTrainingFlags,
    *,
    seed: int = 0,
    tensorboard: bool = False,
    smaller: Sequence[Views] = (),
) -> TrainedModel:
    """Trains a field on the training views of a scene, or resumes.

    Args:
      config: the radiance field.
      scene: the scene.
      folder: the run's; ``metrics.jsonl`` and ``checkpoints/`` are written there.
      flags: how to train it.
      seed: of the parameters, the pixels and the samples.
      tensorboard: whether to write event files too.
      smaller: the training views in other sizes, which get as many rays each (Barron et al. 2021).

    Raises:
      InputError: where `folder` has another run's checkpoints.
    """
    assert flags.rays is not None
    number_R = np.arange(flags.rays, dtype=np.int32)
    resident = resident_views((scene.part("train"), *smaller))
    variables = None if config.occupancy is None else {GRID: config.occupancy.initial()}
    make_loss_fn = functools.partial(make_pixel_loss, config, flags.distortion, flags.eikonal)

    def batches_of(steps: int) -> Callable[[int], Batch]:
        def batches(step: int) -> Batch:
            anneal, progress = annealed(step / min(ANNEALED, steps)), step / steps
            shares = {"anneal": anneal, "progress": progress}
            every = {k: np.full(len(number_R), v, np.float32) for k, v in shares.items()}
            return {"number": number_R, **every}

        return batches

    if flags.minutes is not None:
        steps = updates_in(
            flags.minutes,
            folder,
            lambda: seconds_per_update(
                config, batches_of(1000), flags, make_loss_fn, resident, variables
            ),
        )
        flags = dataclasses.replace(flags, training_steps=steps)
    return train_model(
        config,
        batches_of(flags.training_steps),
        folder,
        flags,
        make_loss_fn,
        make_evaluation=lambda _: make_ray_evaluation(config, scene),
        seed=seed,
        tensorboard=tensorboard,
        resident=resident,
        variables=variables,
    )


def check_rays(flags: FieldTrainingFlags) -> None:
    """Refuses, before anything is written, rays that the mesh cannot share equally.

    Raises:
      InputError: naming their number.
    """
    assert flags.rays is not None  # `for_field` gives a number
    check_batch_size(flags.rays, current_mesh(), "rays")


def make_ray_evaluation(
    config: RadianceConfig, scene: Scene
) -> Callable[[TrainState], dict[str, float]] | None:
    """The error of the averaged parameters at some pixels of validation views, always the same.

    None for a scene without validation views.
    """
    if "validation" not in scene.parts:
        return None
    views = scene.part("validation")
    generator = np.random.default_rng(0)
    place_3R = generator.integers(
        np.array(views.images.shape[:3])[:, None], size=(3, VALIDATION_RAYS)
    )
    if views.masks is not None:
        place_3R = place_3R[:, views.masks[tuple(place_3R)]]
    truth_R3 = over_background(views.images[tuple(place_3R)], np.array(config.background))
    places = map(jnp.asarray, place_3R)
    rays = pixel_rays(cameras_of(views), *places, footprints=config.footprints)

    @functools.partial(jax.jit, out_shardings=replicated(current_mesh()))
    def error(params: Tree, rays: Rays, truth_R3: Array, variables: Tree) -> Array:
        if config.occupancy is None:
            rendering = render_rays(config, params, rays).rendering
        else:
            assert config.box is not None
            cells = occupied_cells(config.occupancy, variables[GRID], config.box)
            rendering = render_rays_to_the_end(config, params, rays, cells=cells)
        return jnp.mean(jnp.square(rendering.colour - truth_R3))

    def evaluate(state: TrainState) -> dict[str, float]:
        found = float(error(averaged_params(state), rays, truth_R3, state.variables))
        return {VALIDATION_LOSS: found, PSNR: -10 * math.log10(max(found, 1e-10))}

    return evaluate
