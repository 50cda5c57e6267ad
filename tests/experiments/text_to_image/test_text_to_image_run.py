"""Text-to-image training from end to end, on a small folder of pictures with captions."""

import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
from matplotlib.image import imread
from picture_folder import CLASSES, run_here, write_pictures
from run_records import assert_same_losses

from experiments.text_to_image.support import text_samples
from experiments.text_to_image.support.text_samples import as_texts
from jaxgen.data.tokenizers import open_tokenizer
from jaxgen.diffusion.text_to_image import TextToImageConfig
from jaxgen.training import load_model

FLAGS = [
    *("--training-steps", 24, "--batch-size", 16, "--width", 32, "--depth", 1, "--patch", 4),
    *("--text-width", 32, "--text-depth", 1, "--steps", 2, "--evaluate", 4, "--weights", 0, 2),
    *("--checkpoint-every", 24),
]
FAMILY = {"family": "text_to_image"}


@pytest.fixture(scope="module")
def captioned(tmp_path_factory) -> pathlib.Path:
    """The pictures of four classes, with ``NAME.txt`` beside each."""
    folder = write_pictures(tmp_path_factory.mktemp("pictures"))
    for name in CLASSES:
        for path in (folder / name).glob("*.png"):
            path.with_suffix(".txt").write_text(f"a picture of a {name}\n")
    return folder


@pytest.fixture(scope="module")
def reference(captioned, tmp_path_factory) -> pathlib.Path:
    """The folder of a run on one device that nothing disturbed."""
    folder = tmp_path_factory.mktemp("reference")
    with pytest.MonkeyPatch.context() as monkeypatch:
        arguments = [*FLAGS, "--data", captioned, "--workdir", folder]
        assert run_here("train", arguments, monkeypatch, **FAMILY) == 0
    return folder


def test_the_run_leaves_a_model_that_can_be_sampled(reference):
    figures = json.loads((reference / "metrics.json").read_text())
    assert figures["updates"] == 24
    assert 0 < figures["train/loss"] < 1.5
    assert 0 < figures["test loss at t = 0.9"] < figures["test loss at t = 0.1"] < 2
    for name in ("samples.png", "curves.png"):
        assert imread(reference / name).std() > 0.02
    model = load_model(reference / "checkpoints")
    tokenizer = open_tokenizer(reference / "tokenizer")
    assert isinstance(model.config, TextToImageConfig)
    assert model.config.encoder.vocabulary == tokenizer.size
    texts = as_texts(tokenizer, ["a picture of a dot", "a picture of a circle"])
    denoiser = model.config.make_denoiser(model.params, texts, guidance=1.0)
    level = jax.tree.map(np.float32, model.config.schedule.at(0.5))
    z = np.random.default_rng(0).normal(size=(2, *model.config.image_shape)).astype(np.float32)
    x = np.asarray(jax.jit(denoiser)(z, level).x)
    assert np.isfinite(x).all()
    assert abs(x).max() <= 1


def test_devices_equal_one(reference, captioned, tmp_path, monkeypatch):
    arguments = [*FLAGS, "--data", captioned, "--workdir", tmp_path / "mesh", "--evaluate", 0]
    mesh = {"mesh": "data=2,fsdp=2", "devices": 4}
    assert run_here("train", arguments, monkeypatch, **FAMILY, **mesh) == 0
    assert_same_losses(tmp_path / "mesh", reference, rtol=1e-3)


def test_another_guidance_in_the_same_folder_does_not_retrain(
    reference, captioned, tmp_path, monkeypatch
):
    folder = tmp_path / "again"
    shutil.copytree(reference, folder)
    before = (folder / "metrics.jsonl").read_text()
    arguments = [*FLAGS, "--data", captioned, "--workdir", folder, "--guidance", 4, "--evaluate", 0]
    assert run_here("train", arguments, monkeypatch, **FAMILY) == 0
    assert (folder / "metrics.jsonl").read_text() == before


def test_a_given_encoder_stays_as_it_is(captioned, tmp_path, monkeypatch):
    clip = tmp_path / "clip"
    sizes = ["--width", 32, "--depth", 1, "--patch", 4, "--projection", 16, "--batch-size", 16]
    arguments = [*sizes, "--training-steps", 8, "--data", captioned, "--workdir", clip]
    assert run_here("clip", arguments, monkeypatch, **FAMILY) == 0
    folder = tmp_path / "run"
    arguments = [*FLAGS, "--data", captioned, "--workdir", folder, "--encoder", clip]
    assert run_here("train", [*arguments, "--clip-model", clip], monkeypatch, **FAMILY) == 0
    given, kept = (load_model(path / "checkpoints").params for path in (clip, folder))
    jax.tree.map(np.testing.assert_array_equal, given["text"], kept["encoder"])
    table = (folder / "table.md").read_text()
    assert "CLIP score" in table
    assert "guidance 2" in table
    # The same losses from states that were stored; the model is sampled with its encoder.
    stored = tmp_path / "stored"
    arguments = [*FLAGS, "--data", captioned, "--workdir", stored, "--encoder", clip]
    arguments += ["--cached-states", tmp_path / "states", "--evaluate", 0]
    assert run_here("train", arguments, monkeypatch, **FAMILY) == 0
    assert_same_losses(stored, folder, rtol=1e-4)
    model = load_model(stored / "checkpoints")
    assert model.config.encoder is None
    assert set(model.params) == {"denoiser"}
    arguments = ["--run", stored, "--count", 1, "--steps", 2, "--workdir", tmp_path / "sampled"]
    arguments += ["--prompts", "a picture of a dot"]
    assert run_here("sample", arguments, monkeypatch, **FAMILY) == 0
    assert imread(tmp_path / "sampled" / "sheet.png").std() > 0.02


def test_pictures_of_prompts(reference, tmp_path, monkeypatch, capfd):
    folder = tmp_path / "sampled"
    prompts = ["a picture of a dot", "a picture of a giraffe"]
    arguments = ["--run", reference, "--count", 2, "--steps", 2, "--workdir", folder]
    assert run_here("sample", [*arguments, "--prompts", *prompts], monkeypatch, **FAMILY) == 0
    assert "not in the vocabulary of the model: giraffe" in capfd.readouterr()[0]
    names = sorted(path.name for path in (folder / "images").glob("*.png"))
    assert names[0] == "00000_a-picture-of-a-dot.png"
    assert len(names) == 4
    assert imread(folder / "sheet.png").std() > 0.02


def test_what_short_captions_do_not_ask_for_is_not_plotted(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(text_samples, "save_figure", lambda figure, path: drawn.append(figure))
    rows = {w: {"shape": 0.5, "all": 0.5 - w / 10, "distance": 3.0 + w} for w in (0.0, 2.0)}
    text_samples.plot_guidance(tmp_path / "g.png", rows, ("shape", "size", "all"), "distance")
    left, right = drawn[0].axes
    assert [line.get_label() for line in left.get_lines()] == ["shape", "all"]
    np.testing.assert_allclose(left.get_lines()[1].get_ydata(), [0.5, 0.3])
    np.testing.assert_allclose(right.get_lines()[0].get_ydata(), [3.0, 5.0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--patch", "3"], "patch is 3, expected a divisor of both sides of the images (8 x 8)"),
        (["--width", "40"], "width is 40, expected a multiple of 32"),
        (["--text-dropout", "2"], "text_dropout is 2.0, expected 0 <= text_dropout <= 1"),
        (["--preconditioning", "edm"], "preconditioning is 'edm', expected none"),
        (["--expander", "x"], "expander of descriptive prompts, expected --prompts short"),
        (["--cached-states", "x"], "cached_states without an encoder, expected --encoder FOLDER"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    arguments, message, captioned, tmp_path, monkeypatch, capfd
):
    folder = tmp_path / "run"
    arguments = [*FLAGS, "--data", captioned, "--workdir", folder, *arguments]
    assert run_here("train", arguments, monkeypatch, **FAMILY) == 2
    assert message in capfd.readouterr()[1]
    assert not folder.exists()
