"""Trained Gaussians as files, and in the page that shows scenes."""

import math
import pathlib

import numpy as np

from experiments.shared.training_runs import TrainedModel
from jaxgen.data import Scene
from jaxgen.interop.splat_files import write_splats
from jaxgen.interop.viewer_scenes import GaussianSplats
from jaxgen.nerf import move_splats
from jaxgen.nerf.splat_projection import (
    HARMONICS,
    LEAST_ALPHA,
    LOG_SCALES,
    MEANS,
    OPACITY_LOGITS,
    QUATERNIONS,
)
from jaxgen.nerf.splat_rendering import FIRST_HARMONIC
from jaxgen.parallel import is_main_process


def write_gaussians(
    path: pathlib.Path, trained: TrainedModel, scene: Scene
) -> tuple[GaussianSplats, dict[str, float]]:
    """The Gaussians that are opaque enough to be seen, as PLY in the units of the scene's files.

    Returns:
      The same for the viewer, in the scene's world and with their mean colours; and how many.
    """
    params = {name: np.asarray(array) for name, array in trained.params.items()}
    seen_G = params[OPACITY_LOGITS] > math.log(LEAST_ALPHA / (1 - LEAST_ALPHA))
    seen = {name: array[seen_G] for name, array in params.items()}
    move = scene.to_files
    if is_main_process():
        write_splats(path, move_splats(seen, move.scale, move.rotation, move.translation))
    shown = GaussianSplats(
        seen[MEANS],
        seen[HARMONICS][:, 0] * FIRST_HARMONIC + 0.5,
        1 / (1 + np.exp(-seen[OPACITY_LOGITS])),
        scales_N3=np.exp(seen[LOG_SCALES]),
        quaternions_N4=seen[QUATERNIONS],
    )
    return shown, {"Gaussians seen": float(seen_G.sum())}
