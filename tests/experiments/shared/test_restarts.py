"""What may change when a run is started again, without training anything."""

import json

import pytest

from experiments.images import train
from experiments.images.support.image_training import TrainingFlags
from experiments.lm import nplm
from experiments.lm.support.recipes import RecipeFlags
from experiments.shared.launch import LaunchConfig, open_workdir
from experiments.shared.restarts import check_not_shorter, keep_training_seed, may_train_longer
from experiments.shared.workdir import saved_config
from jaxgen.errors import InputError


def test_a_run_keeps_its_seed_and_another_one_is_for_samples(tmp_path, capsys):
    for config_class in (train.Config, nplm.Config):
        launch = LaunchConfig(workdir=str(tmp_path / config_class.__module__))
        first = keep_training_seed(config_class(launch=launch, seed=3))
        assert (first.seed, first.seed_of_samples) == (3, 3)
        assert saved_config(first) is None
        open_workdir(first)
        for asked, seeds in [
            ({"seed": 3}, (3, 3)),
            ({"seed": 4}, (3, 4)),
            ({"seed": 3, "sampling_seed": 5}, (3, 5)),
            ({"seed": 4, "sampling_seed": 5}, (3, 5)),
            ({"seed": 3}, (3, 3)),
        ]:
            config = keep_training_seed(config_class(launch=launch, **asked))
            assert (config.seed, config.seed_of_samples) == seeds
            open_workdir(config, may_differ=("sampling_seed",))
            assert saved_config(config) == config
        assert capsys.readouterr().out.count("was trained with seed 3, which stays; samples") == 2
        with pytest.raises(InputError, match="sampling_seed is -1, expected 0 to 2,147,483,647"):
            config_class(sampling_seed=-1)


@pytest.mark.parametrize(
    ("config_class", "flags", "length", "value", "other"),
    [
        (train.Config, TrainingFlags, "training_steps", 2000, {"batch_size": 64}),
        (nplm.Config, RecipeFlags, "epochs", 20.0, {"learning_rate": 0.5}),
    ],
)
def test_training_may_be_longer_and_nothing_else(
    config_class, flags, length, value, other, tmp_path
):
    launch = LaunchConfig(workdir=str(tmp_path))
    begun = config_class(launch=launch, training=flags())
    assert may_train_longer(begun, length) == ()
    open_workdir(begun)
    longer = config_class(launch=launch, training=flags(**{length: value}))
    assert may_train_longer(longer, length) == ("training",)
    changed = config_class(launch=launch, training=flags(**{length: value}, **other))
    assert may_train_longer(changed, length) == ()
    with pytest.raises(InputError, match="holds a run of another configuration"):
        open_workdir(changed, may_differ=may_train_longer(changed, length))
    open_workdir(longer, may_differ=may_train_longer(longer, length))
    assert saved_config(longer) == longer


def test_fewer_updates_than_were_made_are_refused(tmp_path):
    check_not_shorter(tmp_path, 1, "training_steps is 1")
    for step in ("8", "16", "24.orbax-checkpoint-tmp"):
        (tmp_path / "checkpoints" / step).mkdir(parents=True)
    (tmp_path / "checkpoints" / "run.json").write_text(json.dumps({}))
    check_not_shorter(tmp_path, 16, "training_steps is 16")
    with pytest.raises(InputError, match=r"training_steps is 15, 15 updates, but .* has made 16"):
        check_not_shorter(tmp_path, 15, "training_steps is 15")
