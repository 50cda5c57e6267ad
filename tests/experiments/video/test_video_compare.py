"""The tables of video trainings: rows, budgets, padded losses, restarts, bad input."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from matplotlib.image import imread
from picture_folder import run_here

from experiments.shared.training_runs import plan_layout_of
from experiments.video import compare
from experiments.video.compare import Config
from experiments.video.support import comparison_rows, update_seconds
from experiments.video.support.comparison_rows import plan_rows
from experiments.video.support.comparison_table import mean_cell, mean_curve, seconds_until
from experiments.video.support.padded_batches import pad_examples
from experiments.video.support.sample_evaluation import COLUMNS
from experiments.video.support.video_networks import VideoNetworkFlags, video_model
from experiments.video.support.video_streams import as_tokens, make_clip_batches, open_videos
from experiments.video.support.video_training import VideoTrainingFlags, make_video_loss
from jaxgen.data.packing import pack_arrays
from jaxgen.parallel import make_mesh

PATCH = (1, 4, 4)
MIXED = ((2, 8, 8), (1, 8, 8), (2, 8, 12), (1, 8, 12))
FLAGS = [
    *("--width", "32", "--depth", "1", "--packs", "2", "--pack-length", "24", "--clips", "2"),
    *("--pack-examples", "6", "--updates", "8", "--evaluate", "10", "--steps", "2"),
    *("--unet-width", "64", "--unet-depth", "1"),
]


class Evaluator:
    """Says of clips how bright they are."""

    def notes(self, *_):
        return []

    def accuracies(self):
        return {"accuracy": 0.5}

    def figures(self, videos, label_N):
        assert len(videos) == len(label_N) == 10
        return {COLUMNS[0]: float(videos.mean()) / 255}


def compare_here(arguments, monkeypatch) -> int:
    monkeypatch.setattr(compare, "make_sample_evaluator", lambda *_: Evaluator())
    monkeypatch.setattr(update_seconds, "ROUNDS", 1)
    monkeypatch.setattr(update_seconds, "EXAMPLES", 64)
    return run_here("compare", [*FLAGS, *arguments], monkeypatch, family="video")


def keep_rows(monkeypatch, *kept):
    """A table with some of its rows only."""
    rows_of = comparison_rows.rows_of_table

    def some(*arguments):
        rows = rows_of(*arguments)
        return [rows[i] for i in kept]

    monkeypatch.setattr(compare, "rows_of_table", some)


def test_rows_are_trained_once_and_the_table_has_them(tmp_path, monkeypatch):
    keep_rows(monkeypatch, 0, 1)
    seconds = {"packs": 0.5, "padded to the longest": 0.75}
    monkeypatch.setattr(compare, "measure_updates", lambda rows: seconds)
    arguments = ["--table", "packing", "--sizes", *("x".join(map(str, s)) for s in MIXED)]
    arguments += ["--workdir", tmp_path]
    assert compare_here(arguments, monkeypatch) == 0
    found = json.loads((tmp_path / "metrics.json").read_text())
    packs, padded = (found[n]["seed 0"] for n in ("packs", "padded to the longest"))
    assert packs["updates"] == 8
    assert packs["examples"] == padded["examples"]
    assert packs["padding"] < 0.4
    assert (packs["seconds"], padded["seconds"]) == (4.0, padded["updates"] * 0.75)
    assert found["seconds at equal loss"]["held-out loss"] == max(
        row["validation/loss"] for row in (packs, padded)
    )
    table = (tmp_path / "table.md").read_text().splitlines()
    assert [line.split("|")[1].strip() for line in table[2:5]] == [
        *("packs", "padded to the longest", "real clips")
    ]
    assert imread(tmp_path / "curves.png").std() > 0.01

    def fail(*_, **__):
        raise AssertionError("trained again")

    monkeypatch.setattr(compare, "train_video_denoiser", fail)
    monkeypatch.setattr(compare, "measure_updates", fail)
    assert compare_here(arguments, monkeypatch) == 0
    assert json.loads((tmp_path / "metrics.json").read_text()) == found
    assert (tmp_path / "table.md").read_text().splitlines() == table


@pytest.mark.slow
@pytest.mark.parametrize(
    ("table", "sizes", "kept", "seeds"),
    [
        ("sizes", ["2x8x8", "2x8x12", "2x12x8"], (0, 1), [0, 1]),
        ("image_frames", ["3x8x8"], (1,), [0]),
    ],
)
def test_other_tables(table, sizes, kept, seeds, tmp_path, monkeypatch):
    keep_rows(monkeypatch, *kept)
    arguments = ["--table", table, "--sizes", *sizes, "--workdir", tmp_path, "--seeds", *seeds]
    assert compare_here(arguments, monkeypatch) == 0
    found = json.loads((tmp_path / "metrics.json").read_text())
    text = (tmp_path / "table.md").read_text()
    names = set(found["seconds of an update"])
    assert len(names) == len(kept)
    for name in names:
        assert set(found[name]) == {f"seed {seed}" for seed in seeds}
        losses = [own["validation/loss"] for own in found[name].values()]
        assert len(set(losses)) == len(seeds)
        assert np.isfinite(losses).all()
        assert all(own["skipped updates"] == 0 for own in found[name].values())
        assert f"{np.mean(losses):,.4f}" in text
    assert ("±" in text) == (len(seeds) > 1)
    if table == "sizes":
        assert set(found["real clips"]) == set(sizes)
        assert all(set(sizes) < set(found[name]["seed 0"]) for name in names)


def small_model(backbone="dit", width=32, size=(2, 8, 8)):
    flags = VideoNetworkFlags(backbone=backbone, width=width, depth=1)
    return video_model(flags, tuple("0123456789"), 1, size)


def test_padded_and_packed_losses_of_the_same_examples_are_equal():
    stream, model = open_videos("digits", MIXED[:2], 0).train, small_model()
    with jax.set_mesh(make_mesh("data=1", jax.devices()[:1])):
        params = jax.jit(model.make_init())(jax.random.key(1))
        params = jax.tree.map(lambda x: x + 0.02, params)  # what starts at zero is seen too
        layout = plan_layout_of(model)
        loss = jax.jit(make_video_loss(model, layout))
        examples = [as_tokens(stream, index, PATCH) for index in range(8)]
        packed = pack_arrays([examples[:4], examples[4:]], 28, 6)
        found, metrics = loss(params, packed, jax.random.key(0))
        batches = pad_examples(stream, PATCH, 8, 4, powers=True)
        assert {(batch.length, batch.rows) for batch in batches.plan} == {(8, 3), (4, 6)}
        each = [loss(params, batches(t), jax.random.key(0)) for t in range(len(batches))]
    weights = [float(of["weight"]) for _, of in each]
    assert sum(weights) == float(metrics["weight"]) == 8
    mean = np.average([float(of) for of, _ in each], weights=weights)
    np.testing.assert_allclose(mean, found, rtol=1e-5)


def test_padded_batches_have_every_example_once_and_about_as_many_in_each():
    stream = open_videos("digits", MIXED, 0).train  # of 8, 4, 12 and 6 tokens
    longest = pad_examples(stream, PATCH, 100, 5, powers=False)
    assert len(longest) == 20
    assert longest.seen == (100, 750, 1200)
    assert longest.seen.padding == 0.375
    powers = pad_examples(stream, PATCH, 400, 5, powers=True)
    assert sorted(index for batch in powers.plan for index in batch.examples) == list(range(400))
    assert {(b.length, b.rows) for b in powers.plan} == {(4, 10), (8, 5), (12, 3)}
    assert len(powers) == 10 + 40 + 34
    batch = powers(len(powers) - 1)
    assert set(batch["segment"].max(axis=1)) == {0, 1}


def test_rows_get_as_much_as_the_first():
    def planned(table, sizes, **options):
        config = Config(table=table, sizes=sizes, pack_length=24, packs=2, **options)
        rows = config.rows(open_videos("digits", config.parsed_sizes(), 0))
        seconds = {row.name: 1.0 + i for i, row in enumerate(rows)}
        return rows, plan_rows(table, rows, seconds, 60)

    rows, found = planned("packing", ("2x8x8", "1x8x8", "2x8x12", "1x8x12"))
    assert len({plan.seen.examples for plan in found.values()}) == 1
    padding = [found[row.name].seen.padding for row in rows]
    assert padding[0] < padding[2] < padding[1] == pytest.approx(0.375, abs=0.01)
    assert all(abs(plan.updates - 60) < 12 for plan in found.values())
    rows, found = planned("networks", ("2x8x8",))
    assert [found[row.name].updates for row in rows] == [60, 30, 20, 15, 12, 10]
    rows, found = planned("image_frames", ("2x8x8",))
    assert [(found[row.name].updates, row.training.image_frames) for row in rows] == [
        *((60, 0), (60, 4), (60, 8))
    ]
    rows, found = planned("sizes", ("2x8x8", "2x8x12", "2x12x8"))
    crops = rows[1].data.train
    assert crops.sizes == ((2, 8, 8),)
    for index in range(3):
        whole = rows[0].data.train[index]["video"]
        top, left = (whole.shape[1] - 8) // 2, (whole.shape[2] - 8) // 2
        np.testing.assert_array_equal(
            crops[index]["video"], whole[:, top : top + 8, left : left + 8]
        )
    assert rows[1].data.held_out.sizes == rows[0].data.train.sizes


def test_images_beside_clips_are_frames_of_others_with_their_labels():
    stream = open_videos("digits", ((3, 8, 8), (2, 8, 12)), 0).train
    plain, joint = make_clip_batches(stream, 4), make_clip_batches(stream, 4, 2)
    for step in range(3):
        alone, both = plain(step), joint(step)
        np.testing.assert_array_equal(both["video"], alone["video"])
        np.testing.assert_array_equal(both["label"][:, 0], alone["label"])
        assert both["images"].shape == (4, 2, *alone["video"].shape[2:])
        assert both["label"].shape == (4, 3)
        assert alone["label"].shape == (4,)


@pytest.mark.slow
def test_the_loss_with_images_is_their_mean_and_labels_are_dropped_together():
    model = small_model("unet", 64, (3, 8, 8))
    batches = make_clip_batches(open_videos("digits", ((3, 8, 8),), 0).train, 4, 2)
    network = dataclasses.replace(model.network, channels=(64,), attention_levels=())
    model = dataclasses.replace(model, network=network)
    with jax.set_mesh(make_mesh("data=1", jax.devices()[:1])):
        params = jax.jit(model.make_init())(jax.random.key(1))
        layout = plan_layout_of(model)
        loss = jax.jit(make_video_loss(model, layout))
        found, _ = loss(params, batches(0), jax.random.key(0))
        # The network starts at zero: v's own mean square, whatever frames are.
        other = dict(batches(0))
        other["images"] = other["video"][:, :2]
        near, _ = loss(params, other, jax.random.key(0))
    assert 0.3 < float(found) < 1.5
    assert abs(float(found - near)) < 0.3


def test_image_frames_are_refused_of_a_transformer():
    flags = VideoTrainingFlags(image_frames=2)
    data = open_videos("digits", ((2, 8, 8),), 0)
    with (
        jax.set_mesh(make_mesh("data=1", jax.devices()[:1])),
        pytest.raises(ValueError, match="image_frames is 2, expected 0 of a network other than"),
    ):
        compare.check_batches(small_model(), data, flags)


def test_seconds_at_a_loss_are_those_of_a_straight_line_between_points():
    curve = [1.0, 2.0, 3.0], [0.8, 0.4, 0.2]
    assert seconds_until(curve, 0.6) == pytest.approx(1.5)
    assert seconds_until(curve, 0.2) == pytest.approx(3.0)
    assert seconds_until(curve, 0.9) == 1.0
    assert seconds_until(curve, 0.1) is None
    assert mean_curve([curve, ([1.0, 2.0], [0.6, 0.2])]) == ([1.0, 2.0], pytest.approx([0.7, 0.3]))


def test_cells_have_the_standard_error_over_seeds():
    assert mean_cell([1.0, 2.0, 3.0], 2) == "2.00 ± 0.58"
    assert mean_cell([4400, 4400], 0) == "4,400"
    assert mean_cell([0.5, None], 3) == "0.500"
    assert mean_cell([None], 3) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--table", "colours"], "invalid choice 'colours' for argument '--table'"),
        (["--seconds", "0"], "seconds is 0.0, expected"),
        (["--updates", "0"], "updates is 0, expected 1 or more"),
        (["--seeds", "1", "1"], "seeds is (1, 1), expected one or more, each once"),
        (["--evaluate", "1"], "evaluate is 1, expected 2 or more"),
        (["--backbone", "unet", "--width", "64"], "backbone is 'unet'"),
        (["--table", "networks", "--attention", "factorised"], "attention is factorised, expected"),
        (["--table", "networks", "--sizes", "2x8x8", "2x8x12"], "expected one size of the table"),
        (["--table", "sizes", "--sizes", "2x8x8"], "sizes has 2x8x8, expected sizes that differ"),
        (["--sizes", "2x9x8"], "sizes has 2x9x8, expected multiples of the patch 1x4x4"),
        (["--sizes", "9x8x8"], "has 36 tokens, expected 1 to 24, the length of a pack"),
        (["--packs", "0"], "packs is 0, expected a multiple of 1"),
        (["--table", "image_frames", "--clips", "0"], "clips is 0, expected a multiple of 1"),
        (["--unet-width", "32", "--table", "image_frames"], "width is 32, expected a multiple of"),
    ],
)
def test_bad_flags_end_in_one_line_and_code_2(arguments, message, tmp_path, monkeypatch, capfd):
    workdir = tmp_path / "run"
    if "--sizes" not in arguments and "--table" not in arguments:
        arguments = [*arguments, "--sizes", "2x8x8"]
    assert compare_here(["--workdir", workdir, *arguments], monkeypatch) == 2
    _, err = capfd.readouterr()
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err
    assert not workdir.exists()
