"""The tables that the experiment prints and writes."""

import json

import jax
import pytest

from experiments.images import communication as experiment
from experiments.images.support.image_networks import DenoiserConfig
from experiments.lm import communication as language_experiment
from experiments.shared.launch import LaunchConfig
from jaxgen.errors import InputError
from jaxgen.parallel import make_mesh
from jaxgen.spacetime import DiTConfig


def config(folder, **options):
    launch = LaunchConfig(workdir=str(folder), devices=8)
    return experiment.Config(launch=launch, batch_size=16, **options)


@pytest.fixture
def small(monkeypatch):
    """A network of one block in the place of a published one."""

    def published_model(name, shape, classes, **changes):
        assert (name, shape, classes) == ("DiT-S/2", (8, 8, 4), 1000)
        network = DiTConfig(
            out_channels=4, width=16, depth=1, heads=2, num_classes=classes, **changes
        )
        return DenoiserConfig(network, shape, tuple(map(str, range(classes))))

    monkeypatch.setattr(experiment, "published_model", published_model)


def test_tables_of_a_diffusion_transformer(small, tmp_path, capsys):
    with jax.set_mesh(make_mesh("data=4,model=2")):
        figures = experiment.main(
            config(tmp_path, model="DiT-S/2", image_size=8, steps=3, sampler="heun")
        )
    # Heun evaluates 2 * 3 - 1 times, each with two sums of [2 x 4, 16, 16] along `model`.
    name = "guided samples, heun, 3 steps"
    assert figures[f"{name}/model"] == 5 * 2 * 4 * 8 * 16 * 16
    assert figures[f"{name}/data"] == 4 * 4 * 8 * 8 * 4
    assert set(figures) == {
        f"{n}/{axis}" for n in ("training step", name) for axis in ("data", "model")
    }
    printed, written = capsys.readouterr().out, (tmp_path / "communication.md").read_text()
    for text in (printed, written):
        assert text.count("### ") == 2
        assert f"model: {figures[f'{name}/model']:,}" in text
    assert "| 10         | 10 x f32[128,16]    | 81,920           |" in printed
    assert json.loads((tmp_path / "config.json").read_text())


def test_input_that_cannot_be_compiled_is_refused(tmp_path):
    with jax.set_mesh(make_mesh("data=8")):
        with pytest.raises(
            InputError, match="model 'DiT' is unknown, expected a published DiT, U-V"
        ):
            experiment.main(config(tmp_path / "run", model="DiT"))
        with pytest.raises(InputError, match="batch_size is 12, expected a multiple of 8"):
            language_experiment.main(
                language_experiment.Config(
                    launch=LaunchConfig(workdir=str(tmp_path / "run")), batch_size=12
                )
            )
    assert not (tmp_path / "run").exists()
