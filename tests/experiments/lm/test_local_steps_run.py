"""The experiment on local steps, on a small text."""

import dataclasses

import jax
import pytest
from random_text import write_text

from experiments.lm.local_steps import Config, main, make_recipe
from experiments.lm.support.language_modelling import plan_batches
from experiments.lm.support.recipes import MODERN, NetworkFlags
from experiments.shared.launch import LaunchConfig
from jaxgen.data import load_corpus
from jaxgen.errors import InputError
from jaxgen.parallel import make_mesh


@pytest.fixture
def four_shards():
    with jax.set_mesh(make_mesh("data=4", jax.devices()[:4])):
        yield


@pytest.fixture
def config(tmp_path):
    return Config(
        launch=LaunchConfig(workdir=str(tmp_path / "run")),
        corpus=str(write_text(tmp_path / "text.txt", 200)),
        steps=(1, 4),
        network=NetworkFlags(order=3, features=6, hidden=8),
        optimizer="adagrad",
        batch_size=32,
        epochs=1,
    )


def test_fewer_averages_send_fewer_bytes(config, tmp_path, four_shards):
    figures = main(config)
    assert list(figures) == ["every gradient", "k = 1", "k = 4"]
    vocabulary = len(load_corpus(config.corpus).vocabulary)
    for result in figures.values():
        assert 1 < result["validation"] < vocabulary
        assert 1 < result["test"] < vocabulary
    synchronous, one, four = (result["bytes_per_update"] for result in figures.values())
    parameters = vocabulary * (1 + 6 + 8) + 8 * (1 + 2 * 6)
    # The synchronous step sends the gradient and a few scalars; a round sends the parameters and
    # Adagrad's accumulators.
    assert 4 * parameters <= synchronous < 4 * parameters + 200
    assert 8 * parameters <= one < 8 * parameters + 200
    assert four == pytest.approx(one / 4, rel=0.02)
    folder = tmp_path / "run"
    assert {"table.md", "local_steps.png"} <= {path.name for path in folder.iterdir()}
    assert "| k = 4 " in (folder / "table.md").read_text()


def test_every_run_makes_as_many_updates(config, four_shards):
    corpus = load_corpus(config.corpus)
    config = dataclasses.replace(config, steps=(3, 4, 8))
    recipe = make_recipe(config, corpus)
    per_epoch = plan_batches(3, corpus, recipe).steps_per_epoch
    loops = [recipe.loop_for(per_epoch, k) for k in (3, 4, 8, None)]
    assert {loop.steps for loop in loops} == {max(1, round(per_epoch / 48)) * 48}
    assert {loop.evaluate_every for loop in loops} == {48}


def test_bad_steps_are_refused(config, tmp_path, four_shards):
    with pytest.raises(InputError, match=r"steps is \(4, 0\), expected numbers of 1 or more"):
        main(dataclasses.replace(config, steps=(4, 0)))
    assert not (tmp_path / "run").exists()


def test_one_local_step_is_the_synchronous_run_with_plain_gradients(config, four_shards):
    figures = main(dataclasses.replace(config, optimizer="sgd", steps=(1,)))
    for part in ("validation", "test"):
        expected = figures["every gradient"][part]
        assert figures["k = 1"][part] == pytest.approx(expected, rel=1e-5)


def test_learning_rates(config, four_shards):
    corpus = load_corpus(config.corpus)
    recipe = make_recipe(dataclasses.replace(config, learning_rate=0.25), corpus)
    assert recipe.optimizer.learning_rate == pytest.approx(0.25)
    assert make_recipe(config, corpus).optimizer == MODERN.optimizer
    assert MODERN.optimizer.learning_rate == 0.1
    plain = make_recipe(dataclasses.replace(config, optimizer="sgd"), corpus)
    assert (plain.optimizer.name, plain.optimizer.learning_rate) == ("sgd", 4.0)
