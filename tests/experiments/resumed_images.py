"""A small run of a denoiser of images, for tests in this process and, as a program, in others.

python resumed_images.py FOLDER MESH
"""

import pathlib
import sys

import jax
import numpy as np

from experiments.images.support.image_networks import DenoiserConfig, make_loss
from experiments.images.support.image_training import TrainingFlags, train_denoiser
from experiments.shared.denoiser_sampling import even_labels, make_draw
from jaxgen.data import ImageSet
from jaxgen.diffusion.objectives.weightings import SNRPlus
from jaxgen.diffusion.process.step_levels import make_steps
from jaxgen.diffusion.samplers import Ancestral
from jaxgen.parallel import barrier, is_main_process, make_mesh, start
from jaxgen.spacetime import DiTConfig

CLASSES = ("dark", "bright")
MODEL = DenoiserConfig(
    DiTConfig(in_channels=1, out_channels=1, patch=4, width=16, depth=1, heads=4, num_classes=2),
    (8, 8, 1),
    CLASSES,
)
FLAGS = TrainingFlags(training_steps=16, batch_size=16, learning_rate=0.01)


def images() -> ImageSet:
    """Noise, darker or brighter."""
    rng = np.random.default_rng(0)
    labels = np.arange(80, dtype=np.int32) % 2
    pixels = rng.integers(0, 128, (80, 8, 8, 1)) + 127 * labels[:, None, None, None]
    parts = {"train": (0, 64), "validation": (64, 80)}
    return ImageSet("noise", pixels.astype(np.uint8), labels, CLASSES, parts)


def train_and_draw(folder: pathlib.Path):
    """Trains on the current mesh, or resumes; what was logged, and guided samples [8, Y, X, C]."""
    make_loss_fn = lambda layout: make_loss(MODEL, SNRPlus(), layout)  # noqa: E731
    trained = train_denoiser(MODEL, images(), folder, FLAGS, make_loss_fn, progress=False)
    draw = make_draw(MODEL, trained.layout)
    levels = make_steps(MODEL.schedule, 3)
    samples = draw(
        trained.params, Ancestral(0.3), levels, even_labels(8, 2), jax.random.key(1), guidance=1.0
    )
    return trained.records, samples


def main() -> None:
    folder, mesh = pathlib.Path(sys.argv[1]), sys.argv[2]
    start(timeout_s=120)
    with jax.set_mesh(make_mesh(mesh)):
        _, samples = train_and_draw(folder)
    if is_main_process():
        np.save(folder / "samples.npy", samples)
    barrier("written")


if __name__ == "__main__":
    main()
