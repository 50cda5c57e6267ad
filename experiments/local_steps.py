"""What it costs to average seldom (Bengio et al. 2003, section 3.1, in the form of a mesh).

``python -m experiments.local_steps``

The paper's processors update shared parameters without waiting for each other. On a mesh each data
shard takes k steps on its own copy of the parameters before the copies are averaged: between two
averages nothing travels along ``data``. This trains the same network with several k, on the same
batches and for as many updates, beside the synchronous run that averages every gradient, and shows
the validation perplexity that each reaches and the bytes that each sends.

In the working folder: table.md, metrics.json, local_steps.png, and a folder for each run.
"""

import dataclasses
import math
import pathlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from experiments.language_modelling import (
    Training,
    describe,
    model_probabilities,
    perplexities,
    plan_batches,
    prepare_training,
    train_network,
)
from experiments.launch import ExperimentConfig, LaunchConfig, open_workdir, report, run
from experiments.output import (
    format_table,
    write_text,
)
from experiments.plots import Curve, plot_perplexity
from experiments.recipes import METRIC, NetworkFlags, Recipe, RecipeFlags
from jaxgen.axes import DATA
from jaxgen.data import Corpus, load_corpus
from jaxgen.errors import InputError
from jaxgen.lm.nplm import NPLMConfig
from jaxgen.parallel import communication, current_mesh, put_batch

HELD_OUT = ("validation", "test")
SYNCHRONOUS = "every gradient"
"""The name of the run that averages gradients rather than parameters."""


@dataclass(frozen=True, kw_only=True)
class Config(ExperimentConfig):
    """Flags of this experiment.

    Attributes:
      launch: where to run and on what.
      corpus: "builtin", "tfds:NAME", or a path to a text.
      steps: the values of k, steps between two averages.
      network: the network.
      training: how it is trained.
    """

    launch: LaunchConfig = LaunchConfig(workdir="runs/local_steps", devices=4)
    corpus: str = "builtin"
    steps: tuple[int, ...] = (1, 4, 16, 64)
    network: NetworkFlags = NetworkFlags()
    training: RecipeFlags = RecipeFlags(epochs=8)


def main(config: Config) -> dict[str, Any]:
    """Trains once for each k."""
    if not config.steps or min(config.steps) < 1:
        raise InputError(f"steps is {config.steps}, expected numbers of 1 or more")
    corpus = load_corpus(config.corpus)
    model = config.network.config(len(corpus.vocabulary))
    recipe = whole_rounds(config, corpus)
    folder = open_workdir(config)
    shards = current_mesh().shape[DATA]
    report(f"{describe(corpus)}\n{shards} data shards of {recipe.batch_size // shards} examples")
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
    name = f"k{k}" if k else "synchronous"
    report(f"training: {name}")
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
    plot_perplexity(
        folder / "local_steps.png",
        {name: curve for name, (_, curve) in results.items()},
        {},
        f"Validation perplexity where {shards} data shards average every k updates",
    )


def whole_rounds(config: Config, corpus: Corpus) -> Recipe:
    """The recipe for a number of updates that every k divides, so that all runs have as many."""
    recipe = config.training.chosen()
    per_epoch = plan_batches(config.network.order, corpus, recipe).steps_per_epoch
    unit = math.lcm(*config.steps)
    rounds = max(1, round(recipe.epochs * per_epoch / unit))
    return dataclasses.replace(recipe, epochs=rounds * unit / per_epoch)


if __name__ == "__main__":
    run(main, Config)
