"""The experiment on captioners from end to end: a small folder, captioned shapes, clips."""

import json
import pathlib
import re

import numpy as np
import pytest
from matplotlib.image import imread
from picture_folder import CLASSES, run_here, write_pictures

from experiments.text_to_image.recaption import DRAWS, Config, load_data
from experiments.text_to_image.support.captioned_data import make_tokenizer
from experiments.text_to_image.support.captioners import table_rows, texts_of
from experiments.text_to_image.support.prompt_expander import open_prompt_expander
from jaxgen.data import load_captioned
from jaxgen.data.captions.recaptions import ROWS, read_recaptions
from jaxgen.data.tokenizers import open_tokenizer
from jaxgen.encoders import CausalTextConfig, CoCaConfig
from jaxgen.training import load_model

FLAGS = [
    *("--batch-size", 16, "--width", 32, "--depth", 2, "--queries", 2, "--patch", 4),
    *("--expander-steps", 24, "--checkpoint-every", 1000),
]


@pytest.fixture(scope="module")
def described(tmp_path_factory) -> pathlib.Path:
    """Pictures of four classes, each with a short and a descriptive caption."""
    folder = write_pictures(tmp_path_factory.mktemp("described"))
    rows = [
        {
            "file": f"{name}/{path.name}",
            "captions": [f"a {name}", f"A picture, with a white {name}"],
        }
        for name in CLASSES
        for path in (folder / name).glob("*.png")
    ]
    (folder / "captions.json").write_text(json.dumps(rows))
    return folder


def test_a_set_is_captioned_and_relabelled(described, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    arguments = [*FLAGS, "--training-steps", 160, "--data", described, "--workdir", folder]
    assert run_here("recaption", arguments, monkeypatch, family="text_to_image") == 0
    figures = json.loads((folder / "metrics.json").read_text())
    assert figures["captioner: exact captions"] >= 0.75  # by chance 0.25
    assert figures["captioner, beams: exact captions"] >= 0.75
    assert 0.8 < figures["captions from the captioner"] <= 1
    assert "captioner: exact captions" in (folder / "table.md").read_text()
    for name in ("captions.png", "curves.png"):
        assert imread(folder / name).std() > 0.02
    assert "a circle" in (folder / "expanded.md").read_text()
    rows = read_recaptions(folder / "recaptioned")
    assert len(load_captioned(folder / "recaptioned")) == len(rows) == 32  # half of 64
    clean = load_data(Config(data=str(described))).clean.part("train").descriptive
    for half in (clean, [row.original for row in rows]):  # files lie class by class
        assert {text.split()[-1] for text in half} == set(CLASSES)
    assert {row.written for row in rows} <= {f"a picture, with a white {name}" for name in CLASSES}
    tokenizer, model = (
        open_tokenizer(folder / "tokenizer"),
        load_model(folder / "captioner" / "checkpoints"),
    )
    assert isinstance(model.config, CoCaConfig)
    assert model.config.text.vocabulary % 8 == 0
    assert model.config.text.vocabulary >= tokenizer.size
    assert isinstance(load_model(folder / "expander" / "checkpoints").config, CausalTextConfig)
    asked = [f"a {name}" for name in sorted(CLASSES) for _ in range(DRAWS)]
    again = open_prompt_expander(str(folder), seed=0)(asked)
    table = (folder / "expanded.md").read_text()
    for short, text in zip(asked[::DRAWS], again[::DRAWS], strict=True):
        assert re.search(rf"\| {short} +\| {text} +\|", table)

    before = (folder / "recaptioned" / ROWS).read_bytes()
    (folder / "recaptioned" / ROWS).write_bytes(before[: len(before) // 2])
    assert run_here("recaption", arguments, monkeypatch, family="text_to_image") == 0
    assert (folder / "recaptioned" / ROWS).read_bytes() == before
    again = json.loads((folder / "metrics.json").read_text())
    assert {k: v for k, v in again.items() if "seconds" not in k} == {
        k: v for k, v in figures.items() if "seconds" not in k
    }


@pytest.mark.slow
def test_captions_of_shapes_are_better_afterwards(tmp_path, monkeypatch):
    """A plain captioner, beams for relabelling, and nothing expanded."""
    folder = tmp_path / "run"
    arguments = [*FLAGS, "--training-steps", 400, "--size", 16, "--clean", 0.9, "--mix", 1]
    arguments += ["--contrastive-weight", 0, "--method", "beam", "--expander-steps", 0]
    arguments += ["--workdir", folder]
    assert run_here("recaption", arguments, monkeypatch, family="text_to_image") == 0
    figures = json.loads((folder / "metrics.json").read_text())
    assert abs(figures["original captions: attributes"] - 0.3) < 0.01
    assert figures["written captions: attributes"] > 0.5
    assert figures["mixed captions: attributes"] == figures["written captions: attributes"]
    assert not (folder / "expander").exists()


def test_rows_that_are_no_words_end_a_text():
    tokenizer = make_tokenizer(["a red cube"])
    known = tokenizer.encode(["a cube"]).ids
    strange = np.insert(known, 2, table_rows(tokenizer) - 1, axis=1)
    assert table_rows(tokenizer) > tokenizer.size
    assert texts_of(strange, tokenizer) == ["a"]


@pytest.mark.slow
def test_clips_have_a_captioner_of_stills_beside_theirs(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    arguments = [*FLAGS, "--training-steps", 16, "--size", 16, "--clean", 0.98]
    arguments += ["--expander-steps", 0]
    arguments += ["--data", "moving_shapes", "--workdir", folder]
    assert run_here("recaption", arguments, monkeypatch, family="text_to_image") == 0
    figures = json.loads((folder / "metrics.json").read_text())
    assert {"captioner: direction", "still_captioner: direction"} <= set(figures)
    assert load_model(folder / "captioner" / "checkpoints").config.image.frames == 3
    assert load_model(folder / "still_captioner" / "checkpoints").config.image.frames is None
    assert load_captioned(folder / "recaptioned", frames=3).images.shape[1:] == (3, 16, 16, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--patch", "3"], "size is 8, expected a multiple of patch=3"),
        (["--width", "40"], "width is 40, expected a multiple of 32"),
        (["--depth", "1"], "depth is 1, expected 2 or more, for both halves"),
        (["--batch-size", "80"], "batch_size is 80, expected at most the number of examples, 32"),
        (["--clean", "1"], "clean is 1.0 of 64 pictures, expected some to learn from and some"),
        (["--mix", "2"], "mix is 2.0, expected 0 <= mix <= 1"),
        (["--contrastive-weight", "-1"], "contrastive_weight is -1.0, expected a finite number"),
        (["--method", "best"], "best"),
        (["--top-p", "0"], "top_p is 0.0, expected 0 < top_p <= 1"),
        (["--data", "nowhere"], "nowhere"),
        (["--data", "moving_shapes", "--frames", "1"], "frames is 1 with 4 directions, expected 2"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    arguments, message, described, tmp_path, monkeypatch, capfd
):
    folder = tmp_path / "run"
    arguments = [*FLAGS, "--data", described, "--workdir", folder, *arguments]
    assert run_here("recaption", arguments, monkeypatch, family="text_to_image") == 2
    error = capfd.readouterr()[1]
    assert message in error
    assert len(error.strip().splitlines()) == 1
    assert not folder.exists()
