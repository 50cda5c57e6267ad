"""What is measured with a trained model of images: distillation, targets, other uses; in small."""

import json
import pathlib
import shutil

import numpy as np
import pytest
from matplotlib.image import imread
from picture_folder import CLASSES, run_here, write_pictures
from untrained import save_untrained

from experiments.images import distil, edit, train
from experiments.images.support import image_quality
from experiments.images.support.image_quality import FRECHET, NOT_EVALUATED, Evaluator
from experiments.images.support.image_training import open_image_model
from experiments.shared.guided_distillation import widened
from jaxgen.parallel import make_mesh
from jaxgen.training import read_records

TRAINING = ("--training-steps", "8", "--batch-size", "8", "--checkpoint-every", "8")
REAL = ("real, held out", "images of real")
NETWORK = ("--width", "32", "--depth", "1", "--patch", "4")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> pathlib.Path:
    return write_pictures(tmp_path_factory.mktemp("pictures"))


def save_model(folder: pathlib.Path, **flags) -> pathlib.Path:
    network = train.NetworkFlags(width=32, depth=1, patch=4, **flags)
    save_untrained(train.make_config(network, (8, 8, 1), CLASSES, "v"), folder)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> pathlib.Path:
    """The folder of a model that is not trained."""
    return save_model(tmp_path_factory.mktemp("model"))


def figures(folder: pathlib.Path) -> dict:
    return json.loads((folder / "metrics.json").read_text())


def is_picture(path: pathlib.Path) -> bool:
    pixels_YXC = imread(path)
    return min(pixels_YXC.shape[:2]) > 100 and pixels_YXC[..., :3].std() > 0.05


@pytest.mark.slow
def test_distillation_halves_the_steps_and_evaluates_everyone(
    model, pictures, tmp_path, monkeypatch, short_classifiers
):
    arguments = ["--model", model, "--data", pictures, "--workdir", tmp_path, *TRAINING]
    arguments += ["--start", "4", "--evaluate", "16", "--methods", "ddim", "heun"]
    arguments += ["--nfe", "1", "2"]
    assert run_here("distil", arguments, monkeypatch) == 0
    found = figures(tmp_path)
    assert set(found["student"]) == {"2", "1"}
    # Heun evaluates twice a step.
    assert set(found["ddim"]) == {"1", "2"}
    assert set(found["heun"]) == {"2"}
    assert all(0 <= f["accuracy"] <= 1 for f in found["student"].values())
    assert is_picture(tmp_path / "students.png")
    assert is_picture(tmp_path / "steps.png")
    assert f"{found['student']['1']['Fréchet distance']:.3f}" in (tmp_path / "table.md").read_text()
    # Each student starts as its teacher and has moved away from it.
    import jax

    with jax.set_mesh(make_mesh("data=1", jax.devices()[:1])):
        teacher, student = (open_image_model(folder) for folder in (model, tmp_path / "2"))
    distance = jax.tree.map(lambda a, b: abs(a - b).max(), teacher.params, student.params)
    assert 0 < max(jax.tree.leaves(distance)) < 0.1
    # Run again, nothing is retrained.
    before = (tmp_path / "1" / "metrics.jsonl").read_bytes()
    assert run_here("distil", arguments, monkeypatch) == 0
    assert (tmp_path / "1" / "metrics.jsonl").read_bytes() == before
    assert figures(tmp_path)["student"] == found["student"]


@pytest.mark.slow
def test_one_student_for_every_guidance_weight(
    model, pictures, tmp_path, monkeypatch, short_classifiers
):
    arguments = ["--model", model, "--data", pictures, "--workdir", tmp_path, *TRAINING]
    arguments += ["--start", "4", "--stop", "2", "--guidance-weights", "0", "3", "--evaluate", "16"]
    assert run_here("distil_guided", arguments, monkeypatch) == 0
    found = figures(tmp_path)
    assert set(found) == {"real, held out", "images of real", "teacher", "matched", "2"}
    assert all(set(found[name]) == {"0", "3"} for name in ("teacher", "matched", "2"))
    assert is_picture(tmp_path / "weights.png")
    assert f"{found['2']['3']['Fréchet distance']:.3f}" in (tmp_path / "table.md").read_text()
    # The student of stage one is the teacher's network and has begun to listen to w.
    import jax

    with jax.set_mesh(make_mesh("data=1", jax.devices()[:1])):
        teacher, student = open_image_model(model), open_image_model(tmp_path / "matched")
        label_B, z = jax.numpy.array([0, 1]), jax.random.normal(jax.random.key(0), (2, 8, 8, 1))
        level = jax.tree.map(jax.numpy.float32, teacher.config.schedule.at(np.float64(0.5)))
        start = widened(teacher, student.config)
        ask = lambda config, params, w: config.make_denoiser(params, label_B, w)(z, level).x  # noqa: E731
        plain = ask(teacher.config, teacher.params, None)
        for w in (0.0, 3.0):
            np.testing.assert_allclose(ask(student.config, start, w), plain, atol=1e-6)
        heard = ask(student.config, student.params, 3.0) - ask(student.config, student.params, 0.0)
        assert abs(heard).max() > 1e-4
    before = (tmp_path / "2" / "metrics.jsonl").read_bytes()
    assert run_here("distil_guided", arguments, monkeypatch) == 0
    assert (tmp_path / "2" / "metrics.jsonl").read_bytes() == before
    assert figures(tmp_path) == found


@pytest.mark.slow
def test_targets_and_weightings_are_compared_run_by_run(
    pictures, tmp_path, monkeypatch, short_classifiers
):
    arguments = ["--data", pictures, "--workdir", tmp_path, *TRAINING, *NETWORK]
    arguments += ["--steps", "2", "--evaluate", "16", "--weightings", "snr_plus_one"]
    assert run_here("targets_and_weightings", [*arguments, "--targets", "v"], monkeypatch) == 0
    first = (tmp_path / "v-snr_plus_one" / "metrics.json").read_bytes()
    assert (
        run_here("targets_and_weightings", [*arguments, "--targets", "v", "both"], monkeypatch) == 0
    )
    assert (tmp_path / "v-snr_plus_one" / "metrics.json").read_bytes() == first
    found = figures(tmp_path)
    assert set(found) == {*REAL, "v-snr_plus_one", "both-snr_plus_one"}
    table = (tmp_path / "table.md").read_text()
    for target in ("v", "both"):
        distance = found[f"{target}-snr_plus_one"]["ancestral"]["Fréchet distance"]
        assert f"{distance:.3f}" in table
    losses = [
        read_records(tmp_path / f"{t}-snr_plus_one" / "metrics.jsonl")[0]["train/loss"]
        for t in ("v", "both")
    ]
    # Both start by predicting zero: |v|^2 is then about the same as SNR + 1 times |x - x^|^2.
    assert np.isfinite(losses).all()


def test_guided_classified_inpainted_upsampled(
    model, pictures, tmp_path, monkeypatch, short_classifiers
):
    monkeypatch.setattr(edit, "IMAGES_PER_CALL", 6)
    arguments = ["--model", model, "--data", pictures, "--workdir", tmp_path, "--steps", "3"]
    arguments += ["--evaluate", "12", "--guidances", "0", "2", "--classify", "6"]
    arguments += ["--levels", "8", "--inpaint", "6", "--resamplings", "2", "--upsampling", "2"]
    assert run_here("edit", arguments, monkeypatch) == 0
    found = figures(tmp_path)
    assert set(found["guidance"]) == {"0", "2"}
    assert found["diffusion classifier"]["images"] == 6
    assert set(found["inpainting"]) == {"replacement", "RePaint", "guidance", "moment guidance"}
    assert set(found["upsampling"]) == {"guidance", "moment guidance"}
    for name in ("guidance.png", "inpainting.png", "upsampling.png"):
        assert is_picture(tmp_path / name)


@pytest.mark.slow
def test_images_without_classes(pictures, tmp_path, monkeypatch, capfd):
    """What needs no class works, what needs one says so."""
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in pictures.glob("*/*.png"):
        (flat / f"{path.parent.name}-{path.name}").write_bytes(path.read_bytes())
    common = ["--data", flat]
    training = [*common, *TRAINING, *NETWORK, "--steps", "2", "--evaluate", "0"]
    training += ["--workdir", tmp_path / "model", "--guidance", "0"]
    assert run_here("train", training, monkeypatch) == 0
    common += ["--model", tmp_path / "model", "--workdir", tmp_path / "uses", "--steps", "2"]
    common += ["--evaluate", "4", "--inpaint", "2", "--resamplings", "1", "--upsampling", "2"]
    assert run_here("edit", [*common, "--guidances", "0"], monkeypatch) == 2
    assert "classify is 500, expected 0 for images without classes" in capfd.readouterr()[1]
    assert not (tmp_path / "uses").exists()
    common += ["--classify", "0"]
    assert run_here("edit", [*common, "--guidances", "1"], monkeypatch) == 2
    assert "the images have no labels" in capfd.readouterr()[1]
    assert run_here("edit", [*common, "--guidances", "0"], monkeypatch) == 0
    found = figures(tmp_path / "uses")
    assert "accuracy" not in found["guidance"]["0"]
    assert found["inpainting"] == {}
    said = (tmp_path / "uses" / "guidance.md").read_text()
    assert said.startswith(NOT_EVALUATED)
    assert said in capfd.readouterr()[0]
    assert is_picture(tmp_path / "uses" / "guidance.png")
    compared = ["--data", flat, "--workdir", tmp_path / "tables", *TRAINING, *NETWORK]
    assert run_here("targets_and_weightings", compared, monkeypatch) == 2
    assert f"{flat}: images of 0 classes, expected at least two" in capfd.readouterr()[1]
    assert not (tmp_path / "tables").exists()


def test_students_of_images_that_cannot_be_evaluated(tmp_path):
    """Without features there is a sentence, without held-out images a picture all the same."""
    config = distil.Config(model="none", methods=("ddim",), nfe=(1, 2))
    rows = {"ddim": {"1": {}, "2": {}}, "student": {"1": {}}}
    distil.show_figures(config, tmp_path, {"real, held out": {}, **rows})
    assert (tmp_path / "table.md").read_text() == f"{NOT_EVALUATED}.\n"
    assert not (tmp_path / "steps.png").exists()
    known = {name: {n: {FRECHET: 2.0 + int(n)} for n in row} for name, row in rows.items()}
    distil.show_figures(config, tmp_path, {"real, held out": {"accuracy": 1.0}, **known})
    assert "3.000" in (tmp_path / "table.md").read_text()
    assert is_picture(tmp_path / "steps.png")


def test_no_samples_are_drawn_that_cannot_be_evaluated(tmp_path):
    def draw(*_):
        raise AssertionError("drawn")

    config = distil.Config(model="none")
    evaluator = Evaluator(None, None, None, None)
    args = (10, None, "ddim", 4, 0.0, tmp_path)
    assert distil.evaluate_model(config, draw, evaluator, *args) == {}
    assert not any(tmp_path.iterdir())


def test_more_samples_than_real_images_are_compared_with_equally_many():
    """Means over blocks beside the figures of all; by a distance that is the count's inverse."""

    class Counted(Evaluator):
        def figures(self, images, labels):
            return {FRECHET: 1 / len(images), "accuracy": float(np.mean(labels == images[:, 0]))}

    evaluator = Counted(None, None, None, None)
    samples, labels = np.arange(10.0)[:, None], np.where(np.arange(10) < 4, np.arange(10), -1)
    found = image_quality.comparable_figures(evaluator, samples, labels, 4)
    assert found == {
        **{FRECHET: 0.1, "accuracy": 0.4},
        "4 images a row": {FRECHET: 0.25, "accuracy": 0.5},  # of two blocks: 4 and 0 of 4 each
    }
    assert set(image_quality.comparable_figures(evaluator, samples, labels, 10)) == {
        FRECHET,
        "accuracy",
    }


@pytest.mark.parametrize("name", ["edit", "distil", "distil_guided", "targets_and_weightings"])
def test_unreadable_images_are_skipped_where_that_is_asked_for(
    name, model, pictures, tmp_path, monkeypatch, capfd
):
    """The next complaint is of what comes after the data."""
    others = shutil.copytree(pictures, tmp_path / "others")
    (others / "wall" / "0.png").write_bytes(b"no image")
    arguments = ["--data", others, "--workdir", tmp_path / "run"]
    if name == "targets_and_weightings":
        arguments += ["--patch", "3"]
        expected = "expected a divisor of both sides"
    else:
        arguments += ["--model", tmp_path / "nowhere"]
        expected = "nowhere"
    assert run_here(name, arguments, monkeypatch) == 2
    assert "0.png: not a readable image" in capfd.readouterr()[1]
    assert run_here(name, [*arguments, "--skip-unreadable"], monkeypatch) == 2
    assert expected in capfd.readouterr()[1]


def test_targets_are_compared_on_images_of_one_size(pictures, tmp_path, monkeypatch, capfd):
    arguments = ["--data", pictures, "--workdir", tmp_path / "run", *NETWORK, "--size", "6"]
    assert run_here("targets_and_weightings", arguments, monkeypatch) == 2
    assert "expected a divisor of both sides of the images (6 x 6)" in capfd.readouterr()[1]
    assert not (tmp_path / "run").exists()


def test_no_inpainting_without_a_null_class(pictures, tmp_path, monkeypatch, capfd):
    save_model(tmp_path / "model", class_dropout=0.0)
    arguments = ["--data", pictures, "--model", tmp_path / "model", "--workdir", tmp_path / "uses"]
    arguments += ["--guidances", "0", "--inpaint", "5"]
    assert run_here("edit", arguments, monkeypatch) == 2
    assert "inpaint is 5, but the network has no null class" in capfd.readouterr()[1]
    assert not (tmp_path / "uses").exists()


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("distil", ["--start", "12"], "expected start to be stop times a power of two"),
        ("distil", ["--nfe", "0"], "expected numbers of at least 1"),
        (
            "distil_guided",
            ["--max-guidance-weight", "0"],
            "max_guidance_weight is 0.0, expected more than 0",
        ),
        ("distil_guided", ["--start", "6"], "expected start to be stop times a power of two"),
        ("edit", ["--upsampling", "3"], "expected a divisor of both sides of the images"),
        (
            "targets_and_weightings",
            ["--ema-decay", "1.5"],
            "ema_decay is 1.5, expected 0 <= ema_decay",
        ),
        ("edit", ["--levels", "0"], "levels is 0, expected 1 or more"),
        ("edit", ["--data", "digits"], "digits: images of (8, 8, 1) with 10 classes"),
        ("edit", ["--model", "nowhere"], "nowhere/checkpoints: no such folder"),
        ("targets_and_weightings", ["--targets", "y"], "target is 'y', expected one of"),
    ],
)
def test_bad_input_ends_in_one_line_and_code_2(
    name, arguments, message, model, pictures, tmp_path, monkeypatch, capfd
):
    given = ["--data", pictures, "--workdir", tmp_path / "run"]
    given += [] if name == "targets_and_weightings" else ["--model", model]
    assert run_here(name, [*given, *arguments], monkeypatch) == 2
    err = capfd.readouterr()[1]
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "run").exists()
