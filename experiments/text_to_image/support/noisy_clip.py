"""CLIP of noisy pictures (Nichol et al. 2022, GLIDE, section 2.3): its loss, retrieval by level."""

from collections.abc import Mapping, Sequence

import jax
import numpy as np
from jaxtyping import Array, Float, UInt8

from experiments.text_to_image.support.clip_scores import AT_A_TIME
from jaxgen.data import to_unit
from jaxgen.diffusion.conditioning.clip_guidance import NoisyImageVectors
from jaxgen.diffusion.denoiser import thousandths
from jaxgen.diffusion.objectives.losses import draw_noised
from jaxgen.diffusion.objectives.time_distributions import LowDiscrepancy
from jaxgen.diffusion.process.example_keys import example_keys, normal
from jaxgen.diffusion.process.forward import add_noise
from jaxgen.diffusion.process.levels import Level, broadcast_level
from jaxgen.diffusion.process.schedules import CosineSchedule
from jaxgen.encoders import CLIPConfig, CLIPImageConfig, clip_loss, to_unit_length
from jaxgen.evaluation.features import apply_to_rows
from jaxgen.training.step import LossFn
from jaxgen.typing import Batch, Tree

SCHEDULE = CosineSchedule()
"""The process of the pictures: that of `jaxgen.diffusion.model.DenoiserConfig` by default."""

TIMES = (0.1, 0.3, 0.5, 0.7, 0.9)
"""At which retrieval is reported."""


def noisy_clip_loss(config: CLIPConfig) -> LossFn:
    """The contrastive loss of noisy pictures, a time drawn for each.

    Args:
      config: both towers, that of images ``noisy``.

    Returns:
      ``loss_fn(params, batch, key)`` of batches as `jaxgen.encoders.clip_loss` has them.
    """
    of_pairs = clip_loss(config)

    def loss_fn(params: Tree, batch: Batch, key: Array) -> tuple[Array, Mapping[str, Array]]:
        noised = draw_noised(batch["image"], key, schedule=SCHEDULE, times=LowDiscrepancy())
        noisy = {"image": noised.z, "time": thousandths(noised.level)}
        return of_pairs(params, {**batch, **noisy}, key)

    return loss_fn


def noisy_vectors(config: CLIPImageConfig, params: Tree) -> NoisyImageVectors:
    """Unit vectors of noisy pictures by a tower and its parameters."""
    model = config.make_model()

    def vectors(z: Float[Array, "B Y X C"], level: Level) -> Float[Array, "B D"]:
        time_B = thousandths(broadcast_level(level, len(z)))
        return to_unit_length(model.apply({"params": params}, z, time_B).pooled_BD)

    return vectors


def vectors_by_time(
    config: CLIPImageConfig,
    params: Tree,
    images: UInt8[np.ndarray, "N Y X C"],
    times: Sequence[float],
) -> dict[float, Float[np.ndarray, "N D"]]:
    """Unit vectors of pictures with the noise of some times, the same noise at each.

    Args:
      config: of the tower.
      params: its parameters.
      images: clean pictures.
      times: 0 to 1.
    """

    def forward(params: Tree, given: tuple[Array, ...]) -> Array:
        x, index_B, time_B = given
        noise = normal(example_keys(jax.random.key(0), index_B), x.shape[1:])
        level = SCHEDULE.at(time_B)
        return noisy_vectors(config, params)(add_noise(x, noise, level), level)

    x, index_N = to_unit(images), np.arange(len(images), dtype=np.int32)

    def at(time: float) -> Float[np.ndarray, "N D"]:
        given = x, index_N, np.full(len(x), time, np.float32)
        return apply_to_rows(forward, params, given, AT_A_TIME)

    return {time: at(time) for time in times}
