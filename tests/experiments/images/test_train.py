"""The experiment on images from end to end, on a small folder of pictures."""

import dataclasses
import functools
import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.image import imread
from picture_folder import CLASSES, run_here, write_pictures
from run_records import assert_same_losses, losses

from experiments.images import train
from experiments.images.support import image_quality
from experiments.images.support.image_networks import NetworkFlags
from experiments.images.support.image_training import open_image_model
from experiments.shared import classifiers, launch, training_runs
from experiments.shared.denoiser_sampling import SamplingFlags, even_labels, make_draw
from experiments.shared.output import remove_table
from jaxgen.data import ImageSet, to_unit
from jaxgen.diffusion.objectives.weightings import weighting_named
from jaxgen.diffusion.process.schedules import CosineSchedule
from jaxgen.diffusion.process.step_levels import make_steps
from jaxgen.diffusion.samplers import DDIM, Ancestral, DPMSolver, Heun
from jaxgen.errors import InputError
from jaxgen.interop.safetensors import write_safetensors
from jaxgen.parallel import make_mesh
from jaxgen.training import read_records

STEPS = 16
FLAGS = [
    *("--training-steps", STEPS, "--batch-size", "8", "--width", "64", "--depth", "1"),
    *("--patch", "4", "--steps", "3", "--evaluate", "24", "--guidance", "1"),
]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> pathlib.Path:
    return write_pictures(tmp_path_factory.mktemp("pictures"))


def run(arguments, monkeypatch, mesh="data=1", devices=1) -> int:
    monkeypatch.setattr(classifiers, "FEWEST_STEPS", 60)
    return run_here("train", arguments, monkeypatch, mesh, devices)


@pytest.fixture(scope="module")
def reference(pictures, tmp_path_factory) -> pathlib.Path:
    """The folder of a run on one device that nothing disturbed."""
    folder = tmp_path_factory.mktemp("reference")
    with pytest.MonkeyPatch.context() as monkeypatch:
        assert run([*FLAGS, "--data", pictures, "--workdir", folder], monkeypatch) == 0
    return folder


def figures(folder: pathlib.Path) -> dict:
    found = json.loads((folder / "metrics.json").read_text())
    found.pop("training seconds")
    return found


def test_help_explains_the_flags(capsys):
    with pytest.raises(SystemExit) as stopped:
        launch.parse_flags(train.Config, ["--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    for flag in ("data", "network", "target", "weighting", "sampler", "steps", "guidance", "mesh"):
        explanation = shown.split(f" --{flag} ", 1)[1][:400]
        assert len(explanation.split()) > 8, flag


def test_figures_are_sensible(reference):
    found = figures(reference)
    assert found["updates"] == STEPS
    assert found["skipped updates"] == 0
    # DDIM evaluates once a step; guidance doubles the evaluations.
    assert found["NFE per sample"] == 6
    rows = ("real, held out", "samples, guidance 0", "samples, guidance 1")
    for row in rows:
        assert 0 <= found[row]["accuracy"] <= 1
        assert 0 <= found[row]["precision"] <= 1
        assert found[row]["Fréchet distance"] >= 0
    # The classifier tells such shapes apart; hardly trained samples are far from them.
    assert found["real, held out"]["accuracy"] > 0.9
    assert found["real, held out"]["Fréchet distance"] < found[rows[1]]["Fréchet distance"]
    table = (reference / "table.md").read_text()
    assert all(f"{found[row]['Fréchet distance']:.3f}" in table for row in rows)


def test_the_loss_falls_and_ranges_add_up_to_it(reference):
    records = [r for r in read_records(reference / "metrics.jsonl") if "train/loss" in r]
    assert records[-1]["train/loss"] < records[0]["train/loss"]
    for record in records:
        parts = [record[f"train/loss_snr_{i}"] for i in range(4)]
        assert sum(parts) == pytest.approx(record["train/loss"], rel=1e-5)


@pytest.mark.parametrize("name", ["samples.png", "denoising.png", "curves.png"])
def test_pictures_show_something(reference, name):
    pixels_YXC = imread(reference / name)
    assert min(pixels_YXC.shape[:2]) > 150
    assert pixels_YXC[..., :3].std() > 0.05


def test_a_checkpoint_suffices_to_sample_and_samples_hang_on_their_index_alone(reference):
    with jax.set_mesh(make_mesh("data=1", jax.devices()[:1])):
        model = open_image_model(reference)
        assert model.config.classes == CLASSES
        assert model.config.null_label == 4
        draw = make_draw(model.config, model.layout)
        levels, key = make_steps(model.config.schedule, 2), jax.random.key(0)
        many = draw(model.params, Ancestral(), levels, even_labels(7, 4), key)
        few = draw(model.params, Ancestral(), levels, even_labels(3, 4), key)
    assert many.shape == (7, 8, 8, 1)
    assert abs(many).max() <= 1
    np.testing.assert_allclose(few, many[:3], atol=1e-5)
    assert abs(many[0] - many[4]).max() > 0.1  # of one class, but another index


def test_a_run_that_was_interrupted_goes_on_to_the_same_figures(
    reference, pictures, tmp_path, monkeypatch
):
    arguments = [*FLAGS, "--data", pictures, "--workdir", tmp_path, "--evaluate", "0"]
    fit = training_runs.fit

    def stop(record, state):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(
            training_runs, "fit", lambda *a, **k: fit(*a, **k, callbacks=[_after(9, stop)])
        )
        assert run(arguments, patched) == 130
    assert not (tmp_path / "metrics.json").exists()
    assert len(losses(tmp_path)) < len(losses(reference))
    assert run(arguments, monkeypatch) == 0
    assert losses(tmp_path) == losses(reference)
    assert (tmp_path / "samples.png").read_bytes() == (reference / "samples.png").read_bytes()


def _after(step, function):
    return lambda record, state: function(record, state) if record["step"] >= step else None


def test_another_sampler_in_the_same_folder_does_not_retrain(
    reference, pictures, tmp_path, monkeypatch
):
    folder = shutil.copytree(reference, tmp_path / "copy")
    arguments = [*FLAGS, "--data", pictures, "--workdir", folder, "--sampler", "heun"]
    assert run([*arguments, "--evaluate", "0", "--guidance", "0"], monkeypatch) == 0
    assert losses(folder) == losses(reference)
    # Heun evaluates twice a step, but once in the last one.
    assert figures(folder)["NFE per sample"] == 5
    # Nothing was evaluated, and the old table is not of these samples.
    assert (folder / "samples.png").read_bytes() != (reference / "samples.png").read_bytes()
    assert not (folder / "table.md").exists()


def test_a_finished_run_is_trained_further_and_sampled_with_another_seed(
    reference, pictures, tmp_path, monkeypatch, capfd
):
    """The updates that were made stay, whatever seed is asked for; the learning rate is the new."""
    folder = shutil.copytree(reference, tmp_path / "copy")
    arguments = [*FLAGS, "--data", pictures, "--workdir", folder, "--evaluate", "0"]
    assert run([*arguments, "--seed", "1"], monkeypatch) == 0
    assert losses(folder) == losses(reference)
    other = (folder / "samples.png").read_bytes()
    assert other != (reference / "samples.png").read_bytes()
    assert run([*arguments, "--sampling-seed", "1"], monkeypatch) == 0
    assert (folder / "samples.png").read_bytes() == other
    capfd.readouterr()
    assert run([*arguments, "--training-steps", STEPS - 8], monkeypatch) == 2
    assert "training_steps is 8, 8 updates, but the run in" in capfd.readouterr().err
    assert run([*arguments, "--training-steps", STEPS + 8], monkeypatch) == 0
    assert losses(folder)[: len(losses(reference))] == losses(reference)
    assert figures(folder)["updates"] == STEPS + 8
    assert losses(folder)[-1][0] == STEPS + 8
    assert run([*arguments, "--training-steps", STEPS + 16, "--width", "128"], monkeypatch) == 2


@pytest.mark.slow
def test_the_same_losses_on_a_mesh(reference, pictures, tmp_path, monkeypatch):
    arguments = [*FLAGS, "--data", pictures, "--workdir", tmp_path, "--evaluate", "0"]
    assert run(arguments, monkeypatch, "data=2,fsdp=2,model=2", devices=8) == 0
    assert_same_losses(tmp_path, reference)
    ours, theirs = (imread(folder / "samples.png") for folder in (tmp_path, reference))
    np.testing.assert_allclose(ours, theirs, atol=0.02)


@pytest.mark.parametrize(("asked", "built"), [(6, 7), (5, 5)])
def test_a_u_vit_has_a_middle_block_whatever_is_asked_for(asked, built):
    config = NetworkFlags(network="uvit", depth=asked).config((8, 8, 1), 10, 1)
    assert config.depth == built


@pytest.mark.parametrize("network", ["uvit", "mdt", "diffit", "unet"])
def test_every_network_gives_a_model_that_can_be_trained(network):
    flags = train.NetworkFlags(
        network=network,
        width=64 if network == "unet" else 32,
        depth={"uvit": 1, "mdt": 3}.get(network, 1),
    )
    batch = {"image": jnp.zeros((2, 8, 8, 1)), "label": jnp.array([0, 1])}
    for target in ("v", "both"):
        model = train.make_config(flags, (8, 8, 1), CLASSES, target)
        assert model.network.out_channels == (2 if target == "both" else 1)
        layout = training_runs.plan_layout_of(model)
        assert jax.tree.leaves(layout.abstract)
        loss = train.make_loss(model, weighting_named("constant"), layout)
        gradients, _ = jax.eval_shape(
            jax.grad(loss, has_aux=True), layout.abstract, batch, jax.random.key(0)
        )
        assert jax.tree.structure(gradients) == jax.tree.structure(layout.abstract)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--patch", "3"], "patch is 3, expected a divisor of both sides of the images (8 x 8)"),
        (["--sampler", "magic"], "sampler is 'magic', expected one of DDIM"),
        (["--network", "mlp"], "invalid choice 'mlp' for argument '--network'"),
        (["--target", "y"], "target is 'y', expected one of v, e, x, both"),
        (["--weighting", "none"], "weighting is 'none', expected one of"),
        (["--class-dropout", "0"], "guidance is 1.0, but the network has no null class"),
        (["--network", "unet"], "patch is 4, but the network is a U-Net"),
        (["--batch-size", "1000"], "pictures0: batch_size is 1000, expected at most the number"),
        (["--steps", "0"], "steps is 0, expected 1 or more"),
        (["--evaluate", "-1"], "evaluate is -1, expected 0 or more"),
        (["--training-steps", "0"], "training_steps is 0, expected 1 or more"),
        (["--learning-rate", "-1"], "learning_rate"),
        (["--data", "nowhere"], "nowhere: no such set or folder"),
        (["--inception", "none.safetensors"], "none.safetensors"),
        (["--width", "63"], "width is 63"),
    ],
)
def test_bad_input_ends_in_one_line_and_code_2(
    arguments, message, pictures, tmp_path, monkeypatch, capfd
):
    workdir = tmp_path / "run"
    arguments = [*FLAGS, "--data", pictures, "--workdir", workdir, *arguments]
    assert run(arguments, monkeypatch) == 2
    _, err = capfd.readouterr()
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err
    assert not workdir.exists()


def test_images_without_labels_cannot_be_guided(pictures, tmp_path, monkeypatch, capfd):
    arguments = [*FLAGS, "--data", pictures / "dot", "--workdir", tmp_path / "run"]
    assert run(arguments, monkeypatch) == 2
    assert "an unconditional network cannot be guided" in capfd.readouterr()[1]


def test_an_unreadable_image_is_named(pictures, tmp_path, monkeypatch, capfd):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "broken.png").write_bytes(b"no picture")
    arguments = [*FLAGS, "--data", tmp_path, "--workdir", tmp_path / "run"]
    assert run(arguments, monkeypatch) == 2
    err = capfd.readouterr()[1]
    assert "broken.png" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a safetensors file"),
        (b"PK\x03\x04 as torch writes", "not a safetensors file"),
        (b"\x40\0\0\0\0\0\0\0{", "truncated in its header"),
        (None, "Conv2d_1a_3x3.bn.bias is missing, expected the 470 tensors of Inception-v3"),
    ],
    ids=["empty", "torch", "cut", "another network"],
)
def test_a_file_without_the_weights_of_inception_is_named(
    content, message, pictures, tmp_path, monkeypatch, capfd
):
    file = tmp_path / "weights.safetensors"
    if content is None:
        write_safetensors(file, {"blocks.0.weight": np.zeros(3, np.float32)})
    else:
        file.write_bytes(content)
    arguments = [*FLAGS, "--data", pictures, "--workdir", tmp_path / "run", "--inception", file]
    assert run(arguments, monkeypatch) == 2
    err = capfd.readouterr()[1]
    assert err.startswith(f"error: {file}: {message}")
    assert err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_folder_without_images_to_train_on_is_named(pictures, tmp_path, monkeypatch, capfd):
    shutil.copytree(pictures / "dot", tmp_path / "set" / "test")
    arguments = [*FLAGS, "--data", tmp_path / "set", "--guidance", "0"]
    assert run([*arguments, "--workdir", tmp_path / "run"], monkeypatch) == 2
    assert capfd.readouterr()[1] == f"error: {tmp_path / 'set'}: no part 'train'; it has test\n"


def test_why_images_of_one_class_are_not_evaluated_is_reported(
    pictures, tmp_path, monkeypatch, capfd
):
    shutil.copytree(pictures / "dot", tmp_path / "set" / "dot")
    arguments = [*FLAGS, "--data", tmp_path / "set", "--workdir", tmp_path / "run"]
    assert run(arguments, monkeypatch) == 0
    said = (tmp_path / "run" / "table.md").read_text()
    assert said.count("\n") == 1
    assert "at least two classes, or from Inception: --inception FILE." in said
    assert said in capfd.readouterr()[0]
    assert not any(name.startswith(("real", "samples")) for name in figures(tmp_path / "run"))
    assert run([*arguments, "--evaluate", "0"], monkeypatch) == 0
    assert not (tmp_path / "run" / "table.md").exists()


@pytest.mark.parametrize("classes", [(), ("dot",)])
def test_with_inception_images_need_no_classes(classes, tmp_path, monkeypatch):
    """Distances, precision and recall; a stand-in takes the features."""
    monkeypatch.setattr(
        image_quality, "inception_features", lambda params, x: x.reshape(len(x), -1)[:, :5]
    )
    bytes_NYXC = np.random.default_rng(0).integers(256, size=(30, 8, 8, 1), dtype=np.uint8)
    labels = np.zeros(30, np.int32) if classes else None
    parts = {"train": (0, 20), "test": (20, 30)}
    images = ImageSet("some", bytes_NYXC, labels, classes, parts)
    evaluator = image_quality.make_evaluator(images, tmp_path, inception={})
    found = image_quality.held_out_figures(evaluator, images, 10)
    assert set(found) == set(image_quality.COLUMNS) - {"accuracy"}
    alone = image_quality.make_evaluator(
        ImageSet("one", bytes_NYXC[:1], None, (), {"train": (0, 1)}), tmp_path / "1", inception={}
    )
    assert alone.figures(to_unit(bytes_NYXC), None) == {}


def test_features_of_other_weights_of_inception_are_recomputed(tmp_path, monkeypatch):
    """Kept features would be compared with samples' features of another network, in silence."""
    monkeypatch.setattr(
        image_quality,
        "inception_features",
        lambda params, x: params["stem"]["kernel"] * x.reshape(len(x), -1)[:, :5],
    )
    bytes_NYXC = np.random.default_rng(0).integers(256, size=(30, 8, 8, 1), dtype=np.uint8)
    images = ImageSet("some", bytes_NYXC, None, (), {"train": (0, 20), "test": (20, 30)})

    def distance(weight):
        params = {"stem": {"kernel": np.float32(weight)}}
        evaluator = image_quality.make_evaluator(images, tmp_path, inception=params)
        return image_quality.held_out_figures(evaluator, images, 10)["Fréchet distance"]

    once = distance(1)
    np.testing.assert_allclose(distance(3), 9 * once, rtol=1e-4)
    assert distance(1) == once
    assert len(list(tmp_path.glob("inception_*_features.npz"))) == 2


@pytest.mark.parametrize("text", ["| my | own |\n", "", "\n", "\xff\xfe notes"])
def test_no_table_is_removed_that_an_experiment_did_not_write(text, tmp_path):
    path = tmp_path / "table.md"
    path.write_bytes(text.encode("latin-1"))
    remove = functools.partial(
        remove_table, path, image_quality.COLUMNS, image_quality.NOT_EVALUATED
    )
    remove()
    assert path.read_bytes() == text.encode("latin-1")
    path.write_text(image_quality.quality_table("", {"real": {}, "a name, long": {}}))
    remove()
    remove()
    assert not path.exists()


def test_missing_data_is_said(tmp_path, monkeypatch, capfd):
    monkeypatch.delenv("JAXGEN_DATA", raising=False)
    assert run([*FLAGS, "--data", "mnist", "--workdir", tmp_path / "run"], monkeypatch) == 2
    assert "JAXGEN_DATA" in capfd.readouterr()[1]


def test_sampling_flags_say_what_is_wrong():
    with pytest.raises(train.InputError, match="sampler is 'magic', expected one of"):
        SamplingFlags(sampler="magic")


def test_samplers_of_other_programs_have_the_levels_of_their_names():
    schedule = CosineSchedule()
    for name, spacing, method, expected in (
        ("DPM++ 2M Karras", "uniform", DPMSolver(2), "karras"),
        ("Euler a", "uniform_log_snr", DDIM(1.0), "uniform_log_snr"),
        ("ancestral", "uniform", Ancestral(gamma=0.3), "uniform"),
        ("Heun", "uniform", Heun(), "uniform"),
        ("heun", "karras", Heun(), "karras"),
    ):
        named = SamplingFlags(sampler=name, spacing=spacing).named(schedule)
        assert (named.sampler, named.spacing) == (method, expected)


def test_a_residual_network_judges_in_place_of_the_classifier(tmp_path):
    """Nothing is trained; other classes or a grey set are refused by name."""
    rng = np.random.default_rng(0)
    tensors = {"linear.weight": rng.normal(size=(10, 64)), "linear.bias": np.zeros(10)}
    before, layers = 3, {"conv1": ("bn1", 16)}
    for stage, width in enumerate((16, 32, 64), start=1):
        for i in (1, 2):
            layers[f"layer{stage}.0.conv{i}"] = (f"layer{stage}.0.bn{i}", width)
    for conv, (norm, width) in layers.items():
        tensors[f"{conv}.weight"] = 0.1 * rng.normal(size=(width, before, 3, 3))
        for kind, value in (("weight", 1), ("bias", 0), ("running_mean", 0), ("running_var", 1)):
            tensors[f"{norm}.{kind}"] = np.full(width, value)
        before = width
    path = str(tmp_path / "resnet.safetensors")
    write_safetensors(path, {name: x.astype(np.float32) for name, x in tensors.items()})
    bytes_NYXC = rng.integers(256, size=(40, 8, 8, 3), dtype=np.uint8)
    classes = tuple("abcdefghij")
    parts = {"train": (0, 20), "test": (20, 40)}
    images = ImageSet("some", bytes_NYXC, np.arange(40, dtype=np.int32) % 10, classes, parts)
    params = image_quality.open_resnet(path, images)
    evaluator = image_quality.make_evaluator(images, tmp_path / "kept", resnet=params)
    found = image_quality.held_out_figures(evaluator, images, 20)
    assert set(found) == set(image_quality.COLUMNS)
    assert [file.suffix for file in (tmp_path / "kept").iterdir()] == [".npz"]
    few = dataclasses.replace(images, classes=classes[:3], labels=images.labels % 3)
    with pytest.raises(InputError, match=r"resnet\.safetensors: 10 classes .* expected the 3 of"):
        image_quality.open_resnet(path, few)
