"""The experiment on CLIP from end to end, on a small folder of pictures with captions."""

import json
import pathlib

import pytest
from matplotlib.image import imread
from picture_folder import CLASSES, run_here, write_pictures
from run_records import assert_same_losses

from experiments.text_to_image.clip import ClipTrainingFlags
from jaxgen.data.tokenizers import open_tokenizer
from jaxgen.encoders import CLIPConfig
from jaxgen.errors import InputError
from jaxgen.training import load_model

STEPS = 48
FLAGS = [
    *("--training-steps", STEPS, "--batch-size", 16, "--width", 32, "--depth", 1),
    *("--patch", 4, "--projection", 16),
]


@pytest.fixture(scope="module")
def captioned(tmp_path_factory) -> pathlib.Path:
    """The pictures of four classes, with ``NAME.txt`` beside each."""
    folder = write_pictures(tmp_path_factory.mktemp("captioned"))
    for name in CLASSES:
        for path in (folder / name).glob("*.png"):
            path.with_suffix(".txt").write_text(f"a picture of a {name}\n")
    return folder


def test_pictures_and_captions_find_each_other(captioned, tmp_path, monkeypatch, capfd):
    folder = tmp_path / "run"
    arguments = [*FLAGS, "--data", captioned, "--workdir", folder]
    assert run_here("clip", arguments, monkeypatch, family="text_to_image") == 0
    assert f"Results are in {folder}" in capfd.readouterr()[0]
    figures = json.loads((folder / "metrics.json").read_text())
    for name in ("text of image, at 1", "image of text, at 1", "caption among all 4"):
        assert figures[name] >= 0.75, name  # by chance 0.25
    assert 0 < figures["CLIP score"] <= 1
    assert "R-precision" in (folder / "table.md").read_text()
    for name in ("retrieval.png", "curves.png"):
        assert imread(folder / name).std() > 0.02

    tokenizer, model = open_tokenizer(folder / "tokenizer"), load_model(folder / "checkpoints")
    assert isinstance(model.config, CLIPConfig)
    assert model.config.text.vocabulary == tokenizer.size == 4 + 4 + len(CLASSES) - 1
    assert tokenizer.length == 7  # start, five words, end

    other = tmp_path / "mesh"
    arguments[-1] = other
    mesh = {"mesh": "data=2,fsdp=2", "devices": 4}
    assert run_here("clip", arguments, monkeypatch, family="text_to_image", **mesh) == 0
    assert_same_losses(other, folder, rtol=1e-3)


def test_pictures_of_classes_are_classified_without_labels(tmp_path, monkeypatch):
    """The digits of scikit-learn; a few updates are far better than chance."""
    folder = tmp_path / "run"
    arguments = [*FLAGS, "--training-steps", 160, "--data", "digits", "--workdir", folder]
    assert run_here("clip", arguments, monkeypatch, family="text_to_image") == 0
    figures = json.loads((folder / "metrics.json").read_text())
    assert figures["zero-shot accuracy"] > 0.4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--patch", "3"], "size is 8, expected a multiple of patch=3"),
        (["--width", "40"], "width is 40, expected a multiple of 32"),
        (["--batch-size", "80"], "80"),
        (["--captions", "long"], "captions"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    arguments, message, captioned, tmp_path, monkeypatch, capfd
):
    folder = tmp_path / "run"
    arguments = [*FLAGS, "--data", captioned, "--workdir", folder, *arguments]
    assert run_here("clip", arguments, monkeypatch, family="text_to_image") == 2
    assert message in capfd.readouterr()[1]
    assert not folder.exists()


def test_the_loss_wants_whole_batches():
    with pytest.raises(InputError, match="accumulate is 2, expected 1"):
        ClipTrainingFlags(accumulate=2)
