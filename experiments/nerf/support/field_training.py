"""The radiance field that flags ask for, its loss on random pixels, and its training."""

import dataclasses
import functools
import math
import pathlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from experiments.shared.training_runs import (
    VALIDATION_LOSS,
    OptimizationFlags,
    TrainedModel,
    train_model,
)
from jaxgen.data import Scene, Views
from jaxgen.data.scenes.views import over_background
from jaxgen.errors import InputError
from jaxgen.nerf import (
    Box,
    Cameras,
    HashFieldConfig,
    HashGridConfig,
    NeRFFieldConfig,
    ProposalConfig,
    RadianceConfig,
    distortion_loss,
    interlevel_loss,
    make_cameras,
    pixel_rays,
    render_rays,
)
from jaxgen.parallel import Layout, check_batch_size, current_mesh, gather_fsdp, replicated
from jaxgen.training import OptimizerConfig, TrainState, averaged_params
from jaxgen.training.saved_names import register_config
from jaxgen.training.step import LossFn
from jaxgen.typing import Batch, Tree

VALIDATION_RAYS = 4096
PSNR = "validation/psnr"
ANNEALED, SLOPE = 1000, 10
"""In so many updates at most, and how fast, proposals come to count in full."""
DISTORTION, INTERLEVEL = 2e-3, 1.0
"""Weights of the losses on the samples of "nerfacto"."""
OF_OTHER_FIELD = {
    "ngp": ("width", "depth", "proposal_samples"),
    "nerfacto": ("width", "depth", "coarse_samples"),
    "nerf": ("levels", "features", "log2_table_size", "finest_resolution", "proposal_samples"),
}
"""Flags that have no meaning for a field."""


@register_config("nerf.field")
@dataclass(frozen=True, kw_only=True)
class FieldFlags:
    """The field, and how rays are sampled.

    Attributes:
      field: "ngp", a hash grid with small MLPs in a box (Müller et al. 2022); "nerfacto", a hash
        grid over all of space, contracted, with proposals (Tancik et al. 2023); or "nerf", the
        original network (Mildenhall et al. 2020), coarse and fine. None: "ngp", and "nerfacto" of
        captures, whose surroundings have no end.
      coarse_samples: even intervals of a ray; None: 64 of "ngp", 32 of "nerf".
      fine_samples: intervals that follow the weights of the even ones, or of the last proposal;
        None: 20 of "ngp", 24 of "nerfacto", 32 of "nerf".
      proposal_samples: of "nerfacto", intervals of each proposal.
      box: half the side of the cube around the origin that is modelled, or of which the field
        is not contracted; None: the scene's box.
      near: distance from the cameras where rays begin; None: the scene's (2 for NeRF's format).
      far: where they end; None: the scene's (6 for NeRF's format).
      levels: of the hash grid.
      features: of a level of the hash grid.
      log2_table_size: of a level of the hash grid.
      finest_resolution: of the hash grid.
      width: of the original network; its default is half of the published width, for two cores.
      depth: layers of the original network.
    """

    field: Literal["ngp", "nerfacto", "nerf"] | None = None
    coarse_samples: int | None = None
    fine_samples: int | None = None
    proposal_samples: tuple[int, ...] = (64, 32)
    box: float | None = None
    near: float | None = None
    far: float | None = None
    levels: int = 8
    features: int = 4
    log2_table_size: int = 17
    finest_resolution: int = 512
    width: int = 128
    depth: int = 8

    def __post_init__(self) -> None:
        if self.box is not None and self.box <= 0:
            raise InputError(f"box is {self.box}, expected a number > 0")
        if self.field is not None:
            self._check_flags(self.field)

    def _check_flags(self, field: str) -> None:
        for name in OF_OTHER_FIELD[field]:
            if getattr(self, name) != type(self).__dataclass_fields__[name].default:
                raise InputError(
                    f"{name} is {getattr(self, name)} with field {field!r}, which has none, "
                    "expected another field"
                )

    def config(self, scene: Scene) -> RadianceConfig:
        """The radiance field of a scene.

        Raises:
          InputError: for sizes that make no field, or flags of another one.
        """
        self._check_flags(self.chosen(scene))
        box = scene.box
        if self.box is not None:
            box = (-self.box,) * 3, (self.box,) * 3
        near = scene.near if self.near is None else self.near
        far = scene.far if self.far is None else self.far

        def samples(coarse: int, fine: int) -> dict[str, int]:
            own = {"coarse_samples": self.coarse_samples, "fine_samples": self.fine_samples}
            usual = {"coarse_samples": coarse, "fine_samples": fine}
            return {k: usual[k] if value is None else value for k, value in own.items()}

        match self.chosen(scene):
            case "nerf":
                field = self._original(box)
                return RadianceConfig(field, near, far, **samples(32, 32), two_networks=True)
            case "nerfacto":
                return RadianceConfig(
                    dataclasses.replace(self._hashed(box), contracted=True),
                    *(near, far),
                    **samples(1, 24),
                    spacing="piecewise",
                    proposals=tuple(
                        ProposalConfig(_proposal(box, i), count)
                        for i, count in enumerate(self.proposal_samples)
                    ),
                )
            case _:
                return RadianceConfig(self._hashed(box), near, far, **samples(64, 20))

    def chosen(self, scene: Scene) -> str:
        """The field of a scene."""
        return self.field or ("ngp" if scene.bounded else "nerfacto")

    def _original(self, box: Box) -> NeRFFieldConfig:
        return NeRFFieldConfig(
            depth=self.depth,
            width=self.width,
            skip=min(self.depth // 2, self.depth - 2),
            colour_width=max(self.width // 2, 1),
            box=box,
        )

    def _hashed(self, box: Box) -> HashFieldConfig:
        grid = HashGridConfig(
            levels=self.levels,
            features=self.features,
            log2_table_size=self.log2_table_size,
            finest_resolution=self.finest_resolution,
        )
        return HashFieldConfig(grid, box=box)


@register_config("nerf.training")
@dataclass(frozen=True, kw_only=True)
class FieldTrainingFlags(OptimizationFlags):
    """How the field is trained: Adam, cosine to a hundredth, average of parameters.

    Attributes:
      training_steps: updates.
      rays: random pixels of all training views, per update; None: 1536 of hash grids, 512 of
        "nerf".
      learning_rate: the highest one; None: 1e-2 of hash grids, 1e-3 of "nerf".
      weight_decay: of the layers' kernels, coupled; never of the hash tables.
      ema_decay: of the moving average of the parameters, which is what is rendered.
    """

    training_steps: int = 2000
    rays: int | None = None
    learning_rate: float | None = None
    weight_decay: float = 1e-6
    ema_decay: float = 0.95

    def for_field(self, field: str) -> "FieldTrainingFlags":
        """The flags with what they leave to the field."""
        rays, rate = (512, 1e-3) if field == "nerf" else (1536, 1e-2)
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


def _proposal(box: Box, i: int) -> HashFieldConfig:
    """The density of proposal i: as nerfacto's, the first one coarser, with smaller tables."""
    grid = HashGridConfig(5, 2, log2_table_size=15, finest_resolution=128 * 2 ** min(i, 1))
    return HashFieldConfig(grid, width=16, geometry_features=1, box=box, contracted=True)


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


def make_pixel_loss(config: RadianceConfig, layout: Layout) -> LossFn:
    """The mean squared error of colours at random pixels of the resident views.

    Ray r of update t is drawn from the update's key and r alone. Where views have an alpha, both
    the field and the view are laid over one random colour for each ray: over a fixed one, a field
    could paint the background instead of leaving it empty. Pixels that a mask leaves out, or where
    a distorted camera sees nothing, do not count.

    Args:
      config: the radiance field.
      layout: of its parameters.
    """

    def loss_fn(params: Tree, batch: Batch, key: Array) -> tuple[Array, dict[str, Array]]:
        images, number_R = batch["images"], batch["number"]
        place_R3, background_R3 = random_pixels(key, number_R, images.shape[:3])
        rays = pixel_rays(batch["cameras"], *place_R3.T)
        camera_R, row_R, column_R = place_R3.T
        counts_R = jnp.ones(len(number_R)) if rays.valid is None else rays.valid.astype(float)
        if "masks" in batch:
            counts_R *= batch["masks"][camera_R, row_R, column_R]
        if images.shape[-1] == 3:
            background_R3 = jnp.broadcast_to(jnp.asarray(config.background), background_R3.shape)
        truth_R3 = _over(images[camera_R, row_R, column_R], background_R3)
        found = render_rays(
            config,
            gather_fsdp(params, layout),
            rays,
            jax.random.fold_in(key, 1),
            background_R3,
            numbers=number_R,
            anneal=batch["anneal"],
        )

        def mean(value_R: Array) -> Array:
            return (value_R * counts_R).sum() / jnp.maximum(counts_R.sum(), 1)

        def error_of(colour_R3: Array) -> Array:
            return mean(jnp.square(colour_R3 - truth_R3).mean(axis=-1))

        error = loss = error_of(found.rendering.colour)
        final = found.final.edges, found.final.weights
        for earlier in found.earlier:
            if earlier.colour is not None:
                loss += error_of(earlier.colour)
            else:
                between = interlevel_loss(*final, earlier.edges, earlier.weights)
                loss += INTERLEVEL * mean(between)
        if config.proposals:
            loss += DISTORTION * mean(distortion_loss(*final))
        return loss, {"mean_squared_error": error}

    return loss_fn


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
    """Bytes with straight alpha, or without any, over a background."""
    unit_RC = pixel_RC.astype(jnp.float32) / 255
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

    def batches(step: int) -> Batch:
        anneal = annealed(step / min(ANNEALED, flags.training_steps))
        return {"number": number_R, "anneal": np.full(flags.rays, anneal, np.float32)}

    return train_model(
        config,
        batches,
        folder,
        flags,
        functools.partial(make_pixel_loss, config),
        make_evaluation=lambda _: make_ray_evaluation(config, scene),
        seed=seed,
        tensorboard=tensorboard,
        resident=resident_views(scene.part("train")),
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
    rays = pixel_rays(cameras_of(views), *map(jnp.asarray, place_3R))

    @functools.partial(jax.jit, out_shardings=replicated(current_mesh()))
    def error(params: Tree, rays: Any, truth_R3: Array) -> Array:
        rendering = render_rays(config, params, rays).rendering
        return jnp.mean(jnp.square(rendering.colour - truth_R3))

    def evaluate(state: TrainState) -> dict[str, float]:
        found = float(error(averaged_params(state), rays, truth_R3))
        return {VALIDATION_LOSS: found, PSNR: -10 * math.log10(max(found, 1e-10))}

    return evaluate
