"""The small classifier that tells what samples show, trained on real images and kept."""

import pathlib

import jax

from experiments.shared.launch import report
from jaxgen.data import BatchPlan, ImageSet, batch_at, to_unit
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
from jaxgen.typing import Tree

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
    start, stop = images.parts["train"]
    shards = num_batch_shards(current_mesh())
    batch_size = 64 if stop - start < 5000 else 128
    batch_size = max(1, min(batch_size, stop - start) // shards) * shards
    steps = CLASSIFIER_EPOCHS * (stop - start) // batch_size
    steps = min(max(steps, FEWEST_STEPS), MOST_STEPS)
    config = ClassifierConfig.for_images(images.images.shape[1:], len(images.classes))
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
    example = to_unit(images.images[:1])
    state, _ = create_state(
        lambda key: config.make_model().init(key, example)["params"], jax.random.key(seed), tx=tx
    )
    plan = BatchPlan(start, stop, batch_size, seed=seed)
    report(f"training the classifier that evaluates samples: {steps} updates")
    with Checkpoints(folder / "checkpoints", config=config, keep=1) as checkpoints:
        result = fit(
            compile_step(make_train_step(classifier_loss(config), tx), state),
            state,
            lambda index: batch_at(images, plan, index),
            jax.random.key(seed),
            LoopConfig(steps=steps, log_every=50),
            checkpoints=checkpoints,
            log=MetricsLog(folder),
            progress=progress,
        )
    return config, result.state.params
