"""The small classifier that tells what samples show, trained on real images and kept."""

import pathlib
from collections.abc import Callable

import jax

from experiments.shared.launch import report
from jaxgen.data import BatchPlan, ImageSet, batch_at
from jaxgen.evaluation import ClassifierConfig, classifier_loss
from jaxgen.parallel import current_mesh, num_batch_shards
from jaxgen.training import (
    Checkpoints,
    LoopConfig,
    MetricsLog,
    OptimizerConfig,
    compile_step,
    create_state,
    fit,
    make_optimizer,
    make_train_step,
)
from jaxgen.training.step import LossFn
from jaxgen.typing import Batch, Tree

CLASSIFIER_EPOCHS = 10
FEWEST_STEPS, MOST_STEPS = 150, 800
"""Updates in the training of the classifier."""


def train_classifier(
    images: ImageSet, folder: pathlib.Path, seed: int = 0, progress: bool = True
) -> tuple[ClassifierConfig, Tree]:
    """The classifier of a set, trained or gone on with or opened, and its parameters.

    Args:
      images: a labelled set.
      folder: its own; ``metrics.jsonl`` and ``checkpoints/`` are written there.
      seed: of parameters, order and dropout.
      progress: whether to show a bar.
    """
    config = ClassifierConfig.for_images(images.images.shape[1:], len(images.classes))
    params = fit_classifier(
        config,
        classifier_loss(config),
        lambda plan, step: batch_at(images, plan, step),
        images.parts["train"],
        folder,
        seed,
        progress,
    )
    return config, params


def fit_classifier(
    config: ClassifierConfig,
    loss_fn: LossFn,
    data: Callable[[BatchPlan, int], Batch],
    span: tuple[int, int],
    folder: pathlib.Path,
    seed: int = 0,
    progress: bool = True,
    *,
    updates: int | None = None,
) -> Tree:
    """The parameters of a classifier that is trained, or gone on with, or opened.

    Args:
      config: the classifier.
      loss_fn: its loss.
      data: (plan, update) -> the batch of it, with ``"image"``.
      span: where the training part of the set begins and ends.
      folder: its own; ``metrics.jsonl`` and ``checkpoints/`` are written there.
      seed: of parameters, order and dropout.
      progress: whether to show a bar.
      updates: None: those of some epochs.
    """
    start, stop = span
    shards = num_batch_shards(current_mesh())
    batch_size = 64 if stop - start < 5000 else 128
    batch_size = max(1, min(batch_size, stop - start) // shards) * shards
    usual = CLASSIFIER_EPOCHS * (stop - start) // batch_size
    steps = min(max(usual, FEWEST_STEPS), MOST_STEPS) if updates is None else updates
    tx = make_optimizer(
        OptimizerConfig(
            "adamw",
            5e-3,
            schedule="cosine",
            warmup_steps=steps // 20,
            total_steps=steps,
            weight_decay=0.05,
            clip_norm=1.0,
        )
    )
    plan = BatchPlan(start, stop, batch_size, seed=seed)
    example = data(plan, 0)["image"][:1]
    state, _ = create_state(
        lambda key: config.make_model().init(key, example)["params"], jax.random.key(seed), tx=tx
    )
    report(f"training the classifier that evaluates samples: {steps} updates")
    with Checkpoints(folder / "checkpoints", config=config, keep=1) as checkpoints:
        result = fit(
            compile_step(make_train_step(loss_fn, tx), state),
            state,
            lambda step: data(plan, step),
            jax.random.key(seed),
            LoopConfig(steps=steps, log_every=50),
            checkpoints=checkpoints,
            log=MetricsLog(folder),
            progress=progress,
        )
    return result.state.params
