"""What it costs to average seldom (Bengio et al. 2003, section 3.1, in the form of a mesh).

``python -m experiments.lm.local_steps``

The paper's processors update shared parameters without waiting for each other. On a mesh each data
shard takes k steps on its own copy of the parameters before the copies are averaged: between two
averages there is no collective along ``data``. This trains the same network with several k, on the
same batches and for as many updates, beside the synchronous run that averages every gradient, and
shows the validation perplexity that each reaches and the bytes that each sends.

The optimizer is plain gradient descent as in the paper, with which k = 1 is the synchronous run.
With Adagrad each shard accumulates squares of gradients of its own small batch, R times as large
where noise prevails, R being the number of shards: its local runs get the learning rate times
sqrt(R). (Without, they end 16 % higher in perplexity on the built-in text with R = 4 and learning
rate 0.05, whatever k.)

In the working folder: table.md, metrics.json, local_steps.png, and a folder for each run.
"""

import dataclasses
import math
import pathlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import jax
import numpy as np

from experiments.lm.support.language_modelling import (
    MAY_DIFFER,
    Training,
    model_probabilities,
    perplexities,
    plan_text_batches,
    prepare_training,
    train_network,
)
from experiments.lm.support.recipes import (
    METRIC,
    MODERN,
    MOST_STEPS_PER_CALL,
    Recipe,
    WordNetworkFlags,
)
from experiments.shared.digests import corpus_digest
from experiments.shared.launch import ExperimentConfig, LaunchConfig, open_workdir, report, run
from experiments.shared.output import (
    format_table,
    write_text,
)
from experiments.shared.plots import Curve, plot_cost
from experiments.shared.workdir import check_checkpoints
from jaxgen.axes import DATA
from jaxgen.data import Corpus, load_corpus
from jaxgen.errors import InputError
from jaxgen.lm.nplm import NPLMConfig
from jaxgen.parallel import communication, current_mesh, put_batch
from jaxgen.training import OptimizerConfig
from jaxgen.training.saved_names import register_config

HELD_OUT = ("validation", "test")
SYNCHRONOUS = "every gradient"
"""The name of the run that averages gradients rather than parameters."""


@register_config("lm.local_steps", first_format=["experiments.local_steps:Config"])
@dataclass(frozen=True, kw_only=True)
class Config(ExperimentConfig):
    """Flags of this experiment.

    Attributes:
      launch: where to run and on what.
      corpus: "builtin", "tfds:NAME", or a path to a text.
      steps: the values of k, steps between two averages.
      optimizer: plain gradient descent, or the modern recipe's Adagrad.
      learning_rate: the highest one; None: 4 for gradient descent, the recipe's for Adagrad.
      batch_size: examples per update, over all shards.
      epochs: passes over the training part.
      network: the network.
    """

    launch: LaunchConfig = LaunchConfig(workdir="runs/lm_local_steps", devices=4)
    corpus: str = "builtin"
    steps: tuple[int, ...] = (1, 4, 16, 64)
    optimizer: Literal["sgd", "adagrad"] = "sgd"
    learning_rate: float | None = None
    batch_size: int = 256
    epochs: float = 10
    network: WordNetworkFlags = WordNetworkFlags()


def main(config: Config) -> dict[str, Any]:
    """Trains once for each k."""
    if not config.steps or min(config.steps) < 1:
        raise InputError(f"steps is {config.steps}, expected numbers of 1 or more")
    corpus = load_corpus(config.corpus)
    model = config.network.config(len(corpus.vocabulary))
    shards = current_mesh().shape[DATA]
    recipe = make_recipe(config, corpus)

    def check(folder: pathlib.Path) -> None:
        for k in (None, *config.steps):
            check_checkpoints(folder / folder_name(k), model, MAY_DIFFER)

    folder = open_workdir(config, data={corpus.name: corpus_digest(corpus)}, check=check)
    report(f"{corpus.describe()}\n{shards} data shards of {recipe.batch_size // shards} examples")
    results = {
        f"k = {k}" if k else SYNCHRONOUS: train(config, corpus, model, recipe, folder, k)
        for k in (None, *config.steps)
    }
    show(folder, results, shards)
    return {name: dataclasses.asdict(result) for name, (result, _) in results.items()}


@dataclass(frozen=True)
class Result:
    """What a run came to.

    Attributes:
      validation: the best validation perplexity.
      test: the test perplexity of the same parameters.
      bytes_per_update: what each device sends along ``data``, per update.
      seconds: training time; on simulated devices it says nothing about real ones.
    """

    validation: float
    test: float
    bytes_per_update: float
    seconds: float


def train(
    config: Config,
    corpus: Corpus,
    model: NPLMConfig,
    recipe: Recipe,
    folder: pathlib.Path,
    k: int | None,
) -> tuple[Result, Curve]:
    """Trains with one k, None for the synchronous run; also its validation curve."""
    name = folder_name(k)
    report(f"training: {name}")
    if k and config.optimizer == "adagrad":
        recipe = faster(recipe, math.sqrt(current_mesh().shape[DATA]))
    network = train_network(
        model,
        corpus,
        folder / name,
        recipe,
        seed=config.seed,
        tensorboard=config.launch.tensorboard,
        local_steps=k,
    )
    figures = perplexities(model_probabilities(network.model, corpus, model.order, HELD_OUT))
    ready = prepare_training(model, corpus, recipe, seed=config.seed, local_steps=k)
    return (
        Result(**figures, bytes_per_update=bytes_sent(ready), seconds=network.seconds),
        network.curve(METRIC),
    )


def folder_name(k: int | None) -> str:
    """The folder of the run with one k, None for the synchronous run."""
    return f"k{k}" if k else "synchronous"


def bytes_sent(ready: Training) -> float:
    """What the compiled step sends along ``data``, in bytes per device and update."""
    mesh, count = current_mesh(), ready.loop.steps_per_call
    batches = [ready.data(index) for index in range(count)]
    batch = jax.tree.map(lambda *x: np.stack(x), *batches) if count > 1 else batches[0]
    arguments = (ready.state, put_batch(batch, mesh, leading=int(count > 1)), jax.random.key(0))
    return communication(ready.step, *arguments, mesh=mesh).along(DATA).bytes / count


def show(folder: pathlib.Path, results: Mapping[str, tuple[Result, Curve]], shards: int) -> None:
    """The table, in the terminal and as a file, and the figure."""
    reference = results[SYNCHRONOUS][0]
    header = ("averaged", "validation", "test", "test / synchronous", "bytes per update")
    rows = [
        (
            name,
            result.validation,
            result.test,
            f"{result.test / reference.test:.4f}",
            f"{result.bytes_per_update:,.0f}",
        )
        for name, (result, _) in results.items()
    ]
    table = format_table(header, rows)
    report(f"\n{table}")
    write_text(folder / "table.md", table)
    plot_cost(
        folder / "local_steps.png",
        {name: curve for name, (_, curve) in results.items()},
        SYNCHRONOUS,
        f"Validation perplexity where {shards} data shards average every k updates",
    )


def make_recipe(config: Config, corpus: Corpus) -> Recipe:
    """The recipe for as many updates, looked at as often, as all runs can make in whole calls."""
    recipe = dataclasses.replace(MODERN, batch_size=config.batch_size, epochs=config.epochs)
    if config.optimizer == "sgd":
        recipe = dataclasses.replace(recipe, optimizer=OptimizerConfig("sgd", learning_rate=4.0))
    if config.learning_rate is not None:
        recipe = faster(recipe, config.learning_rate / recipe.optimizer.learning_rate)
    per_epoch = plan_text_batches(config.network.order, corpus, recipe).steps_per_epoch
    unit = math.lcm(MOST_STEPS_PER_CALL, *config.steps)
    updates = unit * max(1, round(recipe.epochs * per_epoch / unit))
    between = unit * max(1, round(per_epoch / recipe.evaluations_per_epoch / unit))
    return dataclasses.replace(
        recipe, epochs=updates / per_epoch, evaluations_per_epoch=per_epoch / between
    )


def faster(recipe: Recipe, factor: float) -> Recipe:
    """The recipe with its learning rate multiplied."""
    rate = recipe.optimizer.learning_rate * factor
    return dataclasses.replace(
        recipe, optimizer=dataclasses.replace(recipe.optimizer, learning_rate=rate)
    )


if __name__ == "__main__":
    run(main, Config)
