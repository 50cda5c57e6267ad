"""Tables of radiance fields: rows, files, resuming, faults."""

import dataclasses
import json
import math

import numpy as np
import pytest
from picture_folder import run_here

from experiments.nerf import compare
from jaxgen.data import load_scene

SCENE = load_scene("shapes", size=16)


@pytest.mark.parametrize("table", compare.TABLES)
def test_every_row_is_a_field_of_its_own(table):
    rows = compare.TABLES[table]
    assert len({row.name for row in rows}) == len(rows) > 1
    made = [(compare.model_of(compare.Config(), row, SCENE), row) for row in rows]
    for i, (config, row) in enumerate(made):
        for other, other_row in made[:i]:
            changes = "training", "undistorted", "pose_noise"
            same = all(getattr(row, name) == getattr(other_row, name) for name in changes)
            assert not (same and config == other), (row.name, other_row.name)


def test_cameras_without_distortion_are_pinholes():
    plain = compare.without_distortion(SCENE)
    lens = plain.part("train").intrinsics
    assert lens.model == "PINHOLE"
    assert lens.distortion.shape == (60, 0)
    np.testing.assert_array_equal(lens.focal, SCENE.part("train").intrinsics.focal)


@pytest.mark.slow
def test_a_table_is_trained_and_kept(tmp_path, monkeypatch):
    small = {"levels": 3, "log2_table_size": 10, "finest_resolution": 32}
    small |= {"candidates": 4096, "samples": 2048}
    of_poses = [
        dataclasses.replace(row, field={**row.field, **small}, training={"rays": 64})
        for row in compare.TABLES["poses"]
    ]
    monkeypatch.setattr(compare, "TABLES", {**compare.TABLES, "poses": of_poses})
    rows = ("disturbed poses, refined",)
    flags = ["--table", "poses", "--size", "16", "--minutes", "0.01", "--views", "2"]
    flags += ["--workdir", str(tmp_path), "--rows", *rows]
    assert run_here("compare", flags, monkeypatch, "data=1", 1, family="nerf") == 0
    found = json.loads((tmp_path / "metrics.json").read_text())
    assert set(rows) <= set(found)
    for row in rows:
        assert found[row]["updates"] >= 8
        assert math.isfinite(found[row]["PSNR"])
    refined = found["disturbed poses, refined"]
    assert 0 < refined["camera angle error, degrees"] < 4
    table = (tmp_path / "table.md").read_text()
    assert all(row in table for row in rows)
    before = (tmp_path / "rows" / "disturbed_poses_refined" / "metrics.jsonl").read_bytes()
    assert run_here("compare", flags, monkeypatch, "data=1", 1, family="nerf") == 0
    assert (tmp_path / "rows" / "disturbed_poses_refined" / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--minutes", "0"], "minutes is 0.0, expected a finite number > 0"),
        (["--views", "0"], "views is 0, expected 1 or more"),
        (["--rows", "magic"], "rows has 'magic', expected some of ngp, "),
        (["--table", "scales", "--size", "20"], "shapes: images have 20 pixels, expected a mult"),
        (["--data", "nowhere"], "nowhere: no such scene or folder"),
    ],
)
def test_faults_end_in_one_line(arguments, message, tmp_path, monkeypatch, capfd):
    flags = ["--workdir", str(tmp_path / "run"), *arguments]
    assert run_here("compare", flags, monkeypatch, "data=1", 1, family="nerf") == 2
    err = capfd.readouterr()[1]
    assert err.count("\n") == 1
    assert message in err
    assert not (tmp_path / "run").exists()
