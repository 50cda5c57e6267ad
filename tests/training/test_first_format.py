"""What commit 073f778 saved still opens: the first format, which named classes by module path.

``first_format/`` holds a tiny checkpoint of each kind (parameters drawn from -3/8 ... 3/8), what
its model answered then (``answers.npz``), and configurations as JSON.
"""

import importlib
import json
import pathlib
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.training import config_from_json, config_to_json, load_model

SAVED = pathlib.Path(__file__).parent / "first_format"
PROGRAMS = {
    "nplm": "lm.nplm",
    "bengio2003": "lm.bengio2003",
    "local_steps": "lm.local_steps",
    "image_diffusion": "images.train",
    "image_uses": "images.edit",
    "diffusion_tables": "images.targets_and_weightings",
    "distil_images": "images.distil",
    "distil_guided": "images.distil_guided",
    "sampler_convergence": "images.sampler_orders",
}
"""What each program was called -> what it is called now."""

IMAGES = np.random.default_rng(1).standard_normal((2, 8, 8, 1)).astype("f4")
LABELS = jnp.array([1, 3])


def network_answer(model):
    apply = jax.jit(model.config.make_model().apply)
    return apply({"params": model.params}, IMAGES, np.array([300.0, 600.0], np.float32), LABELS)


def student_answer(model):
    @jax.jit
    def clean(params, time_B):
        level = model.config.schedule.at(time_B)
        return model.config.make_denoiser(params, LABELS, 0.5)(IMAGES, level).x

    return clean(model.params, np.array([0.3, 0.6], np.float32))


def classifier_answer(model):
    apply = jax.jit(model.config.make_model().apply)  # traced pixels may have any values
    features, logits = apply({"params": model.params}, IMAGES)
    return np.concatenate([np.ravel(features), np.ravel(logits)])


def language_model_answer(model):
    assert model.files == {"vocabulary.txt": "a\nb\nc\nd\ne\nf\n<unk>\n"}
    contexts = np.array([[1, 2], [3, 4]], np.int32)
    apply = jax.jit(model.config.make_model().apply, static_argnums=2, static_argnames="method")
    return apply({"params": model.params}, contexts, 3, method="top_k")[0]


ANSWERS = {
    **dict.fromkeys(("dit", "uvit", "mdt", "diffit", "unet"), network_answer),
    "guided_student": student_answer,
    "classifier": classifier_answer,
    "nplm": language_model_answer,
}


@pytest.mark.parametrize("kind", ANSWERS)
def test_checkpoints_open_and_answer_as_they_did(kind, tmp_path):
    zipfile.ZipFile(SAVED / f"{kind}.zip").extractall(tmp_path)
    answer = ANSWERS[kind](load_model(tmp_path))
    expected = np.load(SAVED / "answers.npz")[kind]
    np.testing.assert_allclose(answer, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["schedules", "language_models"])
def test_configurations_open(name):
    for saved in json.loads((SAVED / f"{name}.json").read_text()):
        config = config_from_json(saved)
        assert config_from_json(config_to_json(config)) == config


@pytest.mark.parametrize("program", PROGRAMS)
def test_runs_of_experiments_are_known_again(program):
    config_class = importlib.import_module(f"experiments.{PROGRAMS[program]}").Config
    saved = json.loads((SAVED / "working_folders.json").read_text())[program]
    config = config_from_json(saved)
    assert type(config) is config_class
    assert config_from_json(config_to_json(config)) == config
