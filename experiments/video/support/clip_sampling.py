"""Samples of a trained denoiser of videos, whose classes take turns."""

import jax
import numpy as np
from jaxtyping import Float, Int

from experiments.shared.denoiser_sampling import SamplingFlags, even_labels, make_draw
from experiments.shared.training_runs import OpenedModel

CLIPS_PER_CALL = 20


def sample_clips(
    model: OpenedModel,
    flags: SamplingFlags,
    shape: tuple[int, int, int, int],
    count: int,
    *,
    seed: int,
    name: str,
    clip: bool = True,
) -> tuple[Int[np.ndarray, "N"] | None, Float[np.ndarray, "N T Y X C"]]:
    """Labels (None without classes), and clips in about [-1, 1].

    Args:
      model: the denoiser.
      flags: how it is sampled.
      shape: T, Y, X, C of a clip.
      count: N.
      seed: of the samples.
      name: of the progress bar.
      clip: whether estimates may be kept within the range of pixels, where the flags ask for it.
    """
    label_N = even_labels(count, len(model.config.classes))
    clip = clip and flags.clip
    draw = make_draw(model.config, model.layout, clip=clip, shape=shape, per_call=CLIPS_PER_CALL)
    videos = draw(
        model.params,
        flags.method(model.config),
        flags.levels(model.config),
        label_N,
        jax.random.key(seed),
        guidance=flags.guidance,
        count=count,
        name=name,
    )
    return label_N, videos
