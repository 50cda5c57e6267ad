"""Every experiment that trains refuses a folder of other data or networks, and writes nothing."""

import dataclasses
import importlib

import jax
import jax.numpy as jnp
import pytest
from picture_folder import write_pictures
from random_text import write_text

from experiments.images.support.image_networks import NetworkFlags
from experiments.images.support.image_training import TrainingFlags
from experiments.lm.support.recipes import RecipeFlags, WordNetworkFlags
from experiments.shared.launch import LaunchConfig, open_workdir
from jaxgen.data import load_images
from jaxgen.errors import InputError
from jaxgen.parallel import make_mesh
from jaxgen.training import Checkpoints, OptimizerConfig, create_state, make_optimizer

pytestmark = pytest.mark.filterwarnings("ignore:Kneser-Ney discounts")

NETWORK = WordNetworkFlags(order=3, features=4, hidden=5)
RECIPE = RecipeFlags(batch_size=32, epochs=1)
TEXTS = {
    "lm.nplm": ({"network": NETWORK, "training": RECIPE, "kneser_ney_order": 2}, ("", "plane")),
    "lm.local_steps": ({"network": NETWORK, "batch_size": 32}, ("synchronous", "k4")),
    "lm.bengio2003": (
        {"training": RECIPE, "split": (2000, 500), "rows": ("MLP7",)},
        ("rows/MLP7",),
    ),
}
PICTURES = {"images.train": ("",), "images.targets_and_weightings": ("x-snr", "both-snr_plus_one")}


@pytest.fixture(autouse=True)
def one_device():
    with jax.set_mesh(make_mesh("data=1", jax.devices()[:1])):
        yield


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return write_text(tmp_path_factory.mktemp("text") / "a.txt")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("pictures"), 20)


@pytest.fixture
def configs(text, pictures, tmp_path):
    """By experiment, a configuration and the name that its data are called by."""
    launch = LaunchConfig(workdir=str(tmp_path / "run"))
    found = {
        name: (load(name).Config(launch=launch, corpus=str(text), **options), str(text))
        for name, (options, _) in TEXTS.items()
    }
    flags = {"network": NetworkFlags(width=32, depth=1), "training": TrainingFlags(batch_size=16)}
    for name in PICTURES:
        config = load(name).Config(launch=launch, data=str(pictures), **flags)
        found[name] = config, load_images(str(pictures)).name
    return found


def load(name):
    return importlib.import_module(f"experiments.{name}")


def save_checkpoint(folder, config):
    tx = make_optimizer(OptimizerConfig("sgd", 1.0))
    state, _ = create_state(lambda: {"w": jnp.zeros(2)}, tx=tx)
    with Checkpoints(folder / "checkpoints", config=config) as checkpoints:
        checkpoints.save(state)


@pytest.mark.parametrize("name", [*TEXTS, *PICTURES])
def test_other_data_are_refused_by_name(name, configs, tmp_path):
    config, data = configs[name]
    folder = open_workdir(config, data={data: "of another time"})
    before = (folder / "config.json").read_bytes()
    with pytest.raises(InputError, match="has changed since") as caught:
        load(name).main(config)
    assert str(caught.value).startswith(data)
    assert [path.name for path in folder.iterdir()] == ["config.json"]
    assert (folder / "config.json").read_bytes() == before


@pytest.mark.parametrize("name", [*TEXTS, *PICTURES])
def test_checkpoints_of_another_network_are_refused(name, configs, tmp_path):
    config, _ = configs[name]
    for i, place in enumerate(TEXTS[name][1] if name in TEXTS else PICTURES[name]):
        folder = tmp_path / str(i)
        other = dataclasses.replace(NETWORK, hidden=77).config(9) if name in TEXTS else None
        save_checkpoint(folder / place, other or OptimizerConfig("adamw", 0.125))
        launch = LaunchConfig(workdir=str(folder))
        with pytest.raises(InputError, match="holds a run of another configuration") as caught:
            load(name).main(dataclasses.replace(config, launch=launch))
        assert str(folder / place / "checkpoints") in str(caught.value)
        assert not (folder / "config.json").exists()
