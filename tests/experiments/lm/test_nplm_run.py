"""The main experiment from end to end, as a program, on a small text."""

import json
import math
import os
import pathlib
import subprocess
import sys
import time

import numpy as np
import pytest
from matplotlib.image import imread
from processes import run_processes, without_gloo, xla_flags
from random_text import write_text

from jaxgen.interop.word_vectors import read_word_vectors
from jaxgen.lm.network import NetworkModel
from jaxgen.training import load_model, read_records

ROOT = pathlib.Path(__file__).parents[3]
FLAGS = [
    *("--order", "4", "--features", "12", "--hidden", "16", "--kneser-ney-order", "3"),
    *("--batch-size", "64", "--epochs", "3"),
]
MODELS = ("interpolated trigram", "Kneser-Ney", "network", "mixture")
PICTURES = ("curves.png", "weights.png", "word_map.png", "word_map_2d.png")


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return write_text(tmp_path_factory.mktemp("text") / "text.txt")


def start(text, folder, *arguments):
    environment = {**os.environ, "XLA_FLAGS": xla_flags()}
    command = [sys.executable, "-m", "experiments.lm.nplm", *FLAGS]
    return subprocess.Popen(
        [*command, "--corpus", str(text), "--workdir", str(folder), *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out


def figures(folder):
    """Final figures but for times."""
    found = json.loads((folder / "metrics.json").read_text())
    found.pop("training seconds")
    return found


def losses(folder):
    """Training losses and validation perplexities by update."""
    records = read_records(folder / "metrics.jsonl")
    return [
        (record["step"], name, record[name])
        for record in records
        for name in ("train/loss", "validation/perplexity")
        if name in record
    ]


@pytest.fixture(scope="module")
def reference(text, tmp_path_factory):
    """The folder and the output of a run on one device that nothing disturbed."""
    folder = tmp_path_factory.mktemp("reference")
    return folder, finish(start(text, folder))


def test_figures_are_sensible(reference):
    found = figures(reference[0])
    assert [name for name in found if isinstance(found[name], dict)] == list(MODELS)
    vocabulary = len(load_model(reference[0] / "checkpoints").files["vocabulary.txt"].splitlines())
    for name in MODELS:
        assert list(found[name]) == ["train", "validation", "test"]
        assert all(1 < value < vocabulary for value in found[name].values())
        assert found[name]["train"] < found[name]["validation"]
    # The mixture's weights are those that suit the validation part best.
    assert found["mixture"]["validation"] < found["network"]["validation"]
    assert found["mixture"]["validation"] < found["Kneser-Ney"]["validation"]
    # m = 12, n = 4, h = 16, no direct connections: |V|(1 + m + h) + h(1 + (n-1)m)
    assert found["parameters"] == vocabulary * 29 + 16 * 37
    assert 0 < found["best update"] <= found["updates"]


def test_files_and_terminal_tell_the_same(reference):
    folder, out = reference
    table = (folder / "table.md").read_text()
    assert table in out
    for name, by_part in figures(folder).items():
        if name in MODELS:
            line = next(line for line in table.splitlines() if line.startswith(f"| {name} "))
            assert [float(cell) for cell in line.split("|")[2:5]] == [
                pytest.approx(value, abs=0.051) for value in by_part.values()
            ]
    for name in ("neighbours.txt", "generated.txt"):
        for line in (folder / name).read_text().splitlines():
            assert line in out


def test_pictures_show_something(reference):
    for name in PICTURES:
        pixels_YXC = imread(reference[0] / name)
        assert min(pixels_YXC.shape[:2]) > 400
        assert 0.005 < (pixels_YXC[..., :3] < 0.95).any(axis=2).mean() < 0.9


def test_features_neighbours_and_text(reference, text):
    folder, _ = reference
    loaded = load_model(folder / "checkpoints", which="best")
    words, features_VD = read_word_vectors(folder / "features.txt")
    assert "\n".join(words) + "\n" == loaded.files["vocabulary.txt"]
    assert (folder / "vocabulary.txt").read_text() == loaded.files["vocabulary.txt"]
    np.testing.assert_allclose(features_VD, loaded.params["context"]["C"], rtol=1e-6)
    first = (folder / "neighbours.txt").read_text().splitlines()[0]
    word, _, listed = first.partition(": ")
    unit_VD = features_VD / np.linalg.norm(features_VD, axis=1, keepdims=True)
    cosine_V = unit_VD @ unit_VD[words.index(word)]
    cosine_V[words.index(word)] = -1
    # Words are in the order of their frequency; of the rare ones nothing is shown.
    tokens = text.read_text().split()
    rare = [i for i, w in enumerate(words) if w[0] == "w" and tokens.count(w) < 10]
    cosine_V[rare] = -1
    assert listed.split(", ")[0] == words[int(cosine_V.argmax())]
    _, *written = (folder / "generated.txt").read_text().split("\n\n")
    assert len(written) == 3
    assert all("<unk>" not in page and len(page.split()) > 40 for page in written)
    assert len(set(written)) == 3


def test_a_checkpoint_suffices_to_load_the_network(reference, text):
    folder, _ = reference
    loaded = load_model(folder / "checkpoints", which="best")
    assert loaded.step == figures(folder)["best update"]
    model = NetworkModel(loaded.config.make_model(), loaded.params)
    p_1V = model.distributions(np.array([[3, 1, 2]]))
    assert p_1V.shape == (1, len(loaded.files["vocabulary.txt"].splitlines()))
    assert p_1V.sum() == pytest.approx(1)


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_to_the_same_figures(reference, text, tmp_path):
    process = start(text, tmp_path)
    checkpoints = tmp_path / "checkpoints"
    while not checkpoints.is_dir() or not any(p.name.isdecimal() for p in checkpoints.iterdir()):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert (tmp_path / "config.json").exists()
    assert not (tmp_path / "metrics.json").exists()
    assert len(losses(tmp_path)) < len(losses(reference[0]))
    finish(start(text, tmp_path))
    assert figures(tmp_path) == figures(reference[0])
    assert losses(tmp_path) == losses(reference[0])


def assert_same_losses(folder, reference):
    assert [point[:2] for point in losses(folder)] == [point[:2] for point in losses(reference)]
    np.testing.assert_allclose(
        [value for _, name, value in losses(folder)],
        [value for _, name, value in losses(reference)],
        rtol=1e-5,
    )
    ours, theirs = figures(folder), figures(reference)
    for name in MODELS:
        assert ours[name] == pytest.approx(theirs[name], rel=1e-5)


@pytest.mark.slow
def test_the_same_losses_on_a_mesh(reference, text, tmp_path):
    finish(start(text, tmp_path, "--devices", "8", "--mesh", "data=2,model=4"))
    assert load_model(tmp_path / "checkpoints").config.output_blocks == 4
    assert_same_losses(tmp_path, reference[0])


@pytest.mark.slow
def test_the_same_losses_as_two_processes(reference, text, tmp_path):
    arguments = [*FLAGS, "--corpus", str(text), "--workdir", str(tmp_path)]
    mesh = ["--mesh", "data=2,model=2", "--num-processes", "2", "--process-id", "{process}"]
    main, other = run_processes(
        "experiments.lm.nplm", [*arguments, *mesh], devices_per_process=2, timeout=300
    )
    assert "| mixture" in main
    assert without_gloo(other) == ""
    assert_same_losses(tmp_path, reference[0])
    assert math.isfinite(figures(tmp_path)["network"]["test"])
