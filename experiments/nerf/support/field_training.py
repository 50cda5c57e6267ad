"""The loss of a radiance field on random pixels, and its training."""

import dataclasses
import functools
import math
import pathlib
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from experiments.shared.training_runs import (
    VALIDATION_LOSS,
    OptimizationFlags,
    TrainedModel,
    seconds_per_update,
    train_model,
    updates_in,
)
from jaxgen.data import Scene, Views
from jaxgen.data.scenes.views import over_background, unit_colours
from jaxgen.errors import check_not_negative, check_positive
from jaxgen.nerf import (
    Cameras,
    HashFieldConfig,
    RadianceConfig,
    Rays,
    RenderedRays,
    distortion_loss,
    eikonal_loss,
    interlevel_loss,
    make_cameras,
    occupied_cells,
    pixel_rays,
    refine_cameras,
    render_rays,
    update_grid,
)
from jaxgen.nerf.renderer import VIEWS, render_rays_to_the_end
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
      rays: random pixels of all training views, per update; None: 1536 of grids, 512 of networks,
        4096 with occupancy, of which those count whose samples fit the budget.
      learning_rate: the highest one; None: 1e-2 of grids, 1e-3 of networks.
      distortion: weight of the loss that keeps a ray's samples together (Barron et al. 2022), of
        fields with proposals.
      eikonal: weight of the loss that makes a signed distance one, of "neus".
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
        grid = isinstance(field.field, HashFieldConfig)
        rate = 1e-2 if grid else 1e-3
        rays = 4096 if field.occupancy is not None else 1536 if grid else 512
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


def cameras_of(views: Views) -> Cameras:
    """The cameras of posed photographs."""
    _, height, width, _ = views.images.shape
    lens = views.intrinsics
    return make_cameras(
        views.camera_to_world,
        lens.focal,
        lens.centre,
        height=height,
        width=width,
        model=lens.model,
        distortion=lens.distortion,
    )


def resident_views(views: Views) -> Batch:
    """Pixels, masks where there are any, and cameras, on every device."""
    arrays = {"images": views.images, "cameras": cameras_of(views)}
    if views.masks is not None:
        arrays["masks"] = views.masks
    return jax.device_put(arrays, replicated(current_mesh()))


def make_pixel_loss(
    config: RadianceConfig, distortion: float, eikonal: float, layout: Layout
) -> LossFn | StatefulLossFn:
    """The mean squared error of colours at random pixels of the resident views.

    Ray r of update t is drawn from the update's key and r alone. Where views have an alpha, both
    the field and the view are laid over one random colour for each ray: over a fixed one, a field
    could paint the background instead of leaving it empty. Pixels that a mask leaves out, where a
    distorted camera sees nothing, or whose samples do not fit in the budget, do not count.

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
        images, number_R = batch["images"], batch["number"]
        params = gather_fsdp(params, layout)
        place_R3, background_R3 = random_pixels(key, number_R, images.shape[:3])
        cameras = batch["cameras"]
        if VIEWS in params:
            cameras = refine_cameras(params[VIEWS], cameras)
        rays = pixel_rays(cameras, *place_R3.T, footprints=config.footprints)
        camera_R, row_R, column_R = place_R3.T
        counts_R = jnp.ones(len(number_R)) if rays.valid is None else rays.valid.astype(float)
        if "masks" in batch:
            counts_R *= batch["masks"][camera_R, row_R, column_R]
        behind_R3 = None
        if images.shape[-1] == 4:
            behind_R3 = background_R3
        elif config.surroundings is None:
            behind_R3 = jnp.broadcast_to(jnp.asarray(config.background), background_R3.shape)
        truth_R3 = _over(images[camera_R, row_R, column_R], background_R3)
        found = render_rays(
            config,
            params,
            rays,
            jax.random.fold_in(key, 1),
            behind_R3,
            numbers=number_R,
            anneal=batch["anneal"],
            progress=batch["progress"][0],
            view=camera_R,
            cells=cells,
        )
        if found.rendering.left_out is not None:
            counts_R *= ~found.rendering.left_out

        def mean(value_R: Array) -> Array:
            return (value_R * counts_R).sum() / jnp.maximum(counts_R.sum(), 1)

        def error_of(colour_R3: Array) -> Array:
            return mean(jnp.square(colour_R3 - truth_R3).mean(axis=-1))

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


def random_pixels(key: Array, number_R: Array, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """View, row and column of each ray, int32 [R, 3], and a colour for it, [R, 3]."""

    def of_ray(number: Array) -> tuple[Array, Array]:
        place_key, colour_key = jax.random.split(jax.random.fold_in(key, number))
        place_3 = jax.random.randint(place_key, (3,), 0, jnp.asarray(shape))
        return place_3, jax.random.uniform(colour_key, (3,))

    return jax.vmap(of_ray)(number_R)


def _over(pixel_RC: Array, background_R3: Array) -> Array:
    """Pixels with straight alpha, or without any, over a background."""
    unit_RC = unit_colours(pixel_RC)
    if unit_RC.shape[-1] == 3:
        return unit_RC
    alpha_R1 = unit_RC[:, 3:]
    return unit_RC[:, :3] * alpha_R1 + background_R3 * (1 - alpha_R1)


def train_field(
    config: RadianceConfig,
    scene: Scene,
    folder: pathlib.Path,
    flags: FieldTrainingFlags,
    *,
    seed: int = 0,
    tensorboard: bool = False,
) -> TrainedModel:
    """Trains a field on the training views of a scene, or resumes.

    Args:
      config: the radiance field.
      scene: the scene.
      folder: the run's; ``metrics.jsonl`` and ``checkpoints/`` are written there.
      flags: how to train it.
      seed: of the parameters, the pixels and the samples.
      tensorboard: whether to write event files too.

    Raises:
      InputError: where `folder` has another run's checkpoints.
    """
    assert flags.rays is not None
    number_R = np.arange(flags.rays, dtype=np.int32)
    resident = resident_views(scene.part("train"))
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
