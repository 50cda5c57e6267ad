"""Training of Gaussian splats on the views of a scene: one image, or a part of one, per update.

The loss and the rates are those of the papers (Kerbl et al. 2023; Kheradmand et al. 2024, as in
gsplat), but that all rates fall, since runs are short.
"""

import dataclasses
import functools
import math
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from experiments.nerf.support.field_training import PSNR, FieldTrainingFlags
from experiments.nerf.support.splat_flags import SplatFlags
from experiments.nerf.support.view_rays import cameras_of, laid_over, mask_unseen, resident_views
from experiments.shared.training_runs import (
    VALIDATION_LOSS,
    TrainedModel,
    seconds_per_update,
    train_model,
    updates_in,
)
from jaxgen.axes import BATCH_MESH_AXES
from jaxgen.data import Scene, Views
from jaxgen.data.scenes.views import over_background
from jaxgen.evaluation.similarity_loss import differentiable_ssim
from jaxgen.nerf import Cameras, SplatConfig, add_noise_to_means, relocate
from jaxgen.nerf.splat_projection import (
    HARMONICS,
    LOG_SCALES,
    MEANS,
    OPACITY_LOGITS,
    QUATERNIONS,
)
from jaxgen.parallel import Layout, current_mesh, replicated
from jaxgen.training import TrainState, averaged_params
from jaxgen.training.step import AfterStep, LossFn
from jaxgen.typing import Batch, Tree

VALIDATION_VIEWS = 8
RATES = {LOG_SCALES: 5e-3, QUATERNIONS: 1e-3, OPACITY_LOGITS: 5e-2, HARMONICS: 2.5e-3}
"""Learning rates; that of the means is a flag, in units of the extent of the cameras."""

MEANS_RATE = 5e-4
"""Learning rate of the means unless a flag says another: three times that of the papers."""

OF_HIGHER_HARMONICS = 1 / 20
LAST_MEANS, LAST_OTHERS = 0.01, 0.1
"""What is left of the rates at the end; they fall exponentially."""

SIMILARITY = 0.2
"""Weight of 1 - SSIM; the mean absolute error has the rest."""

OPACITIES, SCALES = 0.01, 0.01
"""Weights of the mean opacity and the mean scale."""

RELOCATE_EVERY, LAST_RELOCATION = 100, 0.85
"""In updates, and as a share of all."""

LEAST_OPACITY = 0.015
"""Of a Gaussian that is not moved. The papers' 0.005 is for runs ten times as long: Adam takes the
last steps down to it slowly, and most Gaussians of empty space would end just above it."""

NOISE = 1.6e5
"""Of the noise on means, in units of their learning rate; that of the paper for its rate."""


def train_splats(
    config: SplatConfig,
    scene: Scene,
    folder: pathlib.Path,
    flags: FieldTrainingFlags,
    splats: SplatFlags,
    *,
    seed: int = 0,
    tensorboard: bool = False,
) -> TrainedModel:
    """Trains Gaussians on the training views of a scene, or resumes.

    Args:
      config: the Gaussians.
      scene: the scene.
      folder: the run's; ``metrics.jsonl`` and ``checkpoints/`` are written there.
      flags: how long to train, and the learning rate of the means.
      splats: what an update sees.
      seed: of the parameters, the views and the noise.
      tensorboard: whether to write event files too.

    Raises:
      InputError: where `folder` has another run's checkpoints.
    """
    views = scene.part("train")
    rate = (flags.learning_rate or MEANS_RATE) * cameras_extent(views)
    # An update draws its view from its key; rows are there for the devices to share.
    mesh = current_mesh()
    row_B = np.arange(math.prod(mesh.shape[axis] for axis in BATCH_MESH_AXES), dtype=np.int32)
    resident = resident_views((mask_unseen(views),))

    def batches(step: int) -> Batch:
        return {"row": row_B}

    def make_loss_fn(layout: Layout) -> LossFn:
        return make_image_loss(config, splats.crop)

    def updating(steps: int) -> dict[str, Any]:
        schedule = means_schedule(rate, steps)
        tx = make_splat_optimizer(config, schedule, steps)
        return {
            "tx": tx,
            "after_step": make_after_step(tx, schedule, steps),
            "single_steps": True,
        }

    if flags.minutes is not None:
        steps = updates_in(
            flags.minutes,
            folder,
            lambda: seconds_per_update(
                config, batches, flags, make_loss_fn, resident, **updating(1000)
            ),
        )
        flags = dataclasses.replace(flags, training_steps=steps)
    return train_model(
        config,
        batches,
        folder,
        flags,
        make_loss_fn,
        make_evaluation=lambda _: make_view_evaluation(config, scene),
        seed=seed,
        tensorboard=tensorboard,
        resident=resident,
        **updating(flags.training_steps),
    )


def cameras_extent(views: Views) -> float:
    """1.1 times the distance of the farthest camera from the mean of all (as in the original)."""
    place_N3 = views.camera_to_world[:, :, 3]
    return 1.1 * float(np.linalg.norm(place_N3 - place_N3.mean(axis=0), axis=-1).max())


def means_schedule(rate: float, steps: int) -> Callable[[Any], Array]:
    """The learning rate of the means after so many updates."""
    return optax.exponential_decay(rate, steps, LAST_MEANS)


def make_splat_optimizer(
    config: SplatConfig, schedule: Callable[[Any], Array], steps: int
) -> optax.GradientTransformation:
    """Adam with rates by parameter."""

    def adam(rate: Any, *scaling: optax.GradientTransformation) -> optax.GradientTransformation:
        return optax.chain(
            optax.scale_by_adam(eps=1e-15), *scaling, optax.scale_by_learning_rate(rate)
        )

    others = {
        name: optax.exponential_decay(rate, steps, LAST_OTHERS) for name, rate in RATES.items()
    }
    share_K1 = np.full(((config.degree + 1) ** 2, 1), OF_HIGHER_HARMONICS, np.float32)
    share_K1[0] = 1
    by_degree = optax.stateless(
        lambda updates, _: jax.tree.map(lambda update: update * share_K1, updates)
    )
    transforms = {name: adam(rate) for name, rate in others.items() if name != HARMONICS}
    transforms |= {MEANS: adam(schedule), HARMONICS: adam(others[HARMONICS], by_degree)}
    return optax.partition(transforms, {name: name for name in transforms})


def make_after_step(
    tx: optax.GradientTransformation, schedule: Callable[[Any], Array], steps: int
) -> AfterStep:
    """Noise on the means after every update, relocation after every hundredth."""

    def moved(state: TrainState, key: Array) -> tuple[Tree, Tree]:
        params, changed_G = relocate(state.params, key, LEAST_OPACITY)

        def forget(moment: Array) -> Array:
            return jnp.where(changed_G.reshape(-1, *[1] * (moment.ndim - 1)), 0, moment)

        return params, optax.tree_utils.tree_map_params(tx, forget, state.opt_state)

    def after_step(state: TrainState, key: Array) -> TrainState:
        noise_key, key = jax.random.split(key)
        due = (state.step % RELOCATE_EVERY == 0) & (state.step <= LAST_RELOCATION * steps)
        params, opt_state = jax.lax.cond(
            due, moved, lambda state, _: (state.params, state.opt_state), state, key
        )
        params = add_noise_to_means(params, noise_key, NOISE * schedule(state.step), LEAST_OPACITY)
        ema = None if state.ema is None else params
        return dataclasses.replace(state, params=params, opt_state=opt_state, ema=ema)

    return after_step


def make_image_loss(config: SplatConfig, crop: int | None) -> LossFn:
    """0.8 of the mean absolute error and 0.2 of 1 - SSIM of one random view, or a part of it.

    Where views have an alpha, the Gaussians and the view are laid over one random colour. Pixels
    that a mask leaves out are taken from the rendering.

    Args:
      config: the Gaussians.
      crop: side of the part; None: the whole view.
    """
    render = config.make_render()

    def loss_fn(params: Tree, batch: Batch, key: Array) -> tuple[Array, dict[str, Array]]:
        (views,) = batch["sizes"]
        images = views["images"]
        view_key, place_key, colour_key = jax.random.split(key, 3)
        view = jax.random.randint(view_key, (1,), 0, len(images))
        camera, pixels = views["cameras"].take(view), images[view[0]]
        mask = views["masks"][view[0]] if "masks" in views else jnp.ones(pixels.shape[:2], bool)
        if crop is not None:
            camera, pixels, mask = random_part(place_key, crop, camera, pixels, mask)
        background = jnp.asarray(config.background)
        if images.shape[-1] == 4:
            background = jax.random.uniform(colour_key, (3,))
        truth = laid_over(pixels, background)
        rendering = render(params, camera, background=background)
        colour = jnp.where(mask[..., None], rendering.colour[0], truth)
        difference = colour - truth
        similarity = differentiable_ssim(colour, truth)
        loss = (1 - SIMILARITY) * jnp.abs(difference).mean() + SIMILARITY * (1 - similarity)
        opacity = jax.nn.sigmoid(params[OPACITY_LOGITS])
        loss += OPACITIES * opacity.mean() + SCALES * jnp.exp(params[LOG_SCALES]).mean()
        return loss, {
            "mean_squared_error": jnp.square(difference).mean(),
            "overflow": rendering.statistics.overflow[0].astype(jnp.float32),
            "pairs": rendering.statistics.pairs[0].astype(jnp.float32),
        }

    return loss_fn


def random_part(
    key: Array, side: int, camera: Cameras, pixels: Array, mask: Array
) -> tuple[Cameras, Array, Array]:
    """A square part of an image, and the camera that sees it."""
    room = jnp.asarray(pixels.shape[:2]) - side + 1
    row, column = jax.random.randint(key, (2,), 0, room)
    pixels = jax.lax.dynamic_slice(pixels, (row, column, 0), (side, side, pixels.shape[-1]))
    mask = jax.lax.dynamic_slice(mask, (row, column), (side, side))
    moved = camera.centre - jnp.stack([column, row])
    part = dataclasses.replace(camera, centre=moved, height=side, width=side)
    return part, pixels, mask


def make_view_evaluation(
    config: SplatConfig, scene: Scene
) -> Callable[[TrainState], dict[str, float]] | None:
    """The PSNR of some validation views, always the same; None for a scene without any."""
    if "validation" not in scene.parts:
        return None
    views = scene.part("validation")
    chosen = np.unique(np.linspace(0, len(views) - 1, VALIDATION_VIEWS).astype(int))
    views = mask_unseen(views.take(chosen.tolist()))
    truth = over_background(views.images, np.array(config.background))
    counts = np.ones(truth.shape[:3]) if views.masks is None else views.masks
    cameras, render = cameras_of(views), config.make_render()

    @functools.partial(jax.jit, out_shardings=replicated(current_mesh()))
    def errors(params: Tree, cameras: Cameras, truth: Array, counts: Array) -> Array:
        error = jnp.square(jnp.clip(render(params, cameras).colour, 0, 1) - truth).mean(axis=-1)
        return (error * counts).sum(axis=(1, 2)) / jnp.maximum(counts.sum(axis=(1, 2)), 1)

    def evaluate(state: TrainState) -> dict[str, float]:
        found = np.asarray(errors(averaged_params(state), cameras, truth, counts))
        mean_psnr = float(-10 * np.log10(np.maximum(found, 1e-10)).mean())
        return {VALIDATION_LOSS: float(found.mean()), PSNR: mean_psnr}

    return evaluate
