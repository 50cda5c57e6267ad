"""The experiment on radiance fields from end to end: files, restarts, meshes, processes, faults."""

import dataclasses
import json
import pathlib
import signal

import jax
import numpy as np
import pytest
import trimesh
from matplotlib.image import imread
from picture_folder import run_here
from processes import end_processes, run_processes
from run_records import assert_same_losses, losses
from small_fields import make_smaller

from experiments.nerf.support.field_training import annealed
from experiments.shared import training_runs
from jaxgen.data import Scene, load_scene, read_video
from jaxgen.data.scenes.blender import write_blender
from jaxgen.data.scenes.nerfstudio import write_nerfstudio
from jaxgen.geometry.triangle_mesh import is_closed
from jaxgen.interop.mesh_reading import read_mesh
from jaxgen.training import load_model

STEPS = 40
ROUNDING = 1e-3
"""Adam without epsilon turns rounding of rare gradients into whole steps."""
COMMON = [
    *("--training-steps", STEPS, "--rays", "64", "--size", "16"),
    *("--mesh-resolution", "20", "--orbit-side", "16"),
]
SMALL_GRID = ["--levels", "3", "--log2-table-size", "10", "--finest-resolution", "32"]
FEW = ["--coarse-samples", "16", "--fine-samples", "8"]
PROPOSED = ["--proposal-samples", "16", "12", "--fine-samples", "8"]
PROPOSALS = {"fine", "proposal_0", "proposal_1"}
FLAGS = [*COMMON, *SMALL_GRID, "--candidates", "4096", "--samples", "2048"]
TEXTURED = ["--texture-size", "32", "--mesh-faces", "100"]
NO_RESULTS = ["--mesh-resolution", "0", "--orbit-side", "0", "--test-views", "1"]


def run(arguments, monkeypatch, mesh="data=1", devices=1, flags=FLAGS) -> int:
    make_smaller(monkeypatch.setattr)
    return run_here("train", [*flags, *arguments], monkeypatch, mesh, devices, family="nerf")


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> pathlib.Path:
    """The folder of a run on one device that nothing disturbed."""
    folder = tmp_path_factory.mktemp("reference")
    with pytest.MonkeyPatch.context() as monkeypatch:
        assert run(["--workdir", folder, *TEXTURED], monkeypatch) == 0
    return folder


def test_everything_is_written(reference):
    assert imread(reference / "comparison.png")[..., :3].std() > 0.1
    orbit = read_video(reference / "orbit.mp4")
    assert orbit.frames.shape == (48, 320, 320, 3)
    assert orbit.fps == pytest.approx(24)
    for name in ("mesh.ply", "mesh.glb", "mesh.obj"):
        assert 20 < len(trimesh.load(reference / name, force="mesh", process=False).faces) < 150
        mesh = read_mesh(reference / name)
        assert np.abs(mesh.vertices_V3).max() <= 1.5
        assert is_closed(mesh)  # at the box's border as well
        if name == "mesh.ply":
            assert mesh.colours_V3 is not None
        else:
            assert mesh.texture.shape == (32, 32, 3)
    page = (reference / "viewer.html").read_text("utf-8")
    assert '{"kind": "mesh", "count": ' + str(len(mesh.faces_F3)) in page
    assert page.count("data:image/png;base64,") == 49  # frames of the orbit, and the texture
    assert len(list((reference / "views").glob("*.png"))) == 12
    view = np.load(reference / "views" / "test_000.npz")
    assert view["depth"].shape == view["opacity"].shape == (16, 16)
    found = json.loads((reference / "metrics.json").read_text())
    assert found["updates"] == STEPS
    assert found["test PSNR"] > 10
    first, *_, last = (value for _, name, value in losses(reference) if name == "train/loss")
    assert last < first


def test_a_run_that_was_interrupted_resumes_bit_for_bit(reference, tmp_path, monkeypatch):
    fit = training_runs.fit

    def stop(record, state):
        if record["step"] >= 8:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(training_runs, "fit", lambda *a, **k: fit(*a, **k, callbacks=[stop]))
        assert run(["--workdir", tmp_path], patched) == 130
    assert len(losses(tmp_path)) < len(losses(reference))
    assert run(["--workdir", tmp_path, *NO_RESULTS], monkeypatch) == 0
    assert losses(tmp_path) == losses(reference)
    found, expected = (load_model(folder / "checkpoints") for folder in (tmp_path, reference))
    assert found.config == expected.config
    jax.tree.map(np.testing.assert_array_equal, found.params, expected.params)


@pytest.mark.slow
def test_a_run_that_was_killed_resumes_bit_for_bit(tmp_path):
    """Parameters and occupancy grid, of a process that no signal handler helped."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    program = pathlib.Path(__file__).parents[1] / "small_fields.py"
    common = [*map(str, FLAGS), *NO_RESULTS, "--checkpoint-every", "8", "--mesh", "data=1"]

    def end_of(folder: pathlib.Path, *first: str) -> tuple[int, str]:
        flags = [*first, *common, "--workdir", str(folder)]
        codes, texts = end_processes(program, flags, num_processes=1, devices_per_process=1)
        return codes[0], texts[0]

    code, err = end_of(killed, "--kill-at", "12")
    assert code == -signal.SIGKILL, err
    assert 0 < losses(killed)[-1][0] < STEPS
    for folder in (killed, whole):
        code, err = end_of(folder)
        assert code == 0, err
    assert losses(killed) == losses(whole)
    found, expected = (load_model(folder / "checkpoints") for folder in (killed, whole))
    assert found.step == expected.step == STEPS
    assert np.ptp(expected.variables["occupancy"]["density"]) > 0
    for part in ("params", "variables"):
        jax.tree.map(np.testing.assert_array_equal, getattr(found, part), getattr(expected, part))


@pytest.mark.slow
def test_a_mesh_changes_nothing(reference, tmp_path, monkeypatch):
    assert run(["--workdir", tmp_path, *NO_RESULTS], monkeypatch, "data=2,fsdp=2", 4) == 0
    assert_same_losses(tmp_path, reference, ROUNDING)


@pytest.mark.slow
def test_nor_do_two_processes(reference, tmp_path):
    """Parameters cut over the devices of both, which no process holds whole."""
    flags = [*map(str, FLAGS), "--workdir", str(tmp_path), "--coordinator", "auto"]
    flags += ["--mesh", "data=1,fsdp=4", *NO_RESULTS]
    program = pathlib.Path(__file__).parents[1] / "small_fields.py"
    run_processes(program, flags, devices_per_process=2)
    assert_same_losses(tmp_path, reference, ROUNDING)


def test_the_original_network_on_a_folder_of_photographs(tmp_path, monkeypatch):
    scene = load_scene("shapes", size=16)
    parts = {part: scene.part(part) for part in ("train", "test")}  # validation may be missing
    write_blender(tmp_path / "scene", Scene("shapes", parts, scene.near, scene.far, scene.box))
    flags = ["--field", "nerf", "--width", "16", "--depth", "2", "--learning-rate", "1e-3"]
    flags += ["--training-steps", "8"]
    arguments = [*flags, "--data", tmp_path / "scene", "--workdir", tmp_path / "run"]
    arguments += [*FEW, "--mesh-resolution", "0", "--orbit-side", "0"]
    arguments += ["--test-views", "2", "--no-normals"]
    assert run(arguments, monkeypatch, flags=COMMON) == 0
    views = sorted((tmp_path / "run" / "views").glob("*.npz"))
    assert [set(np.load(view)) for view in views] == 2 * [{"depth", "depth_along", "opacity"}]
    params = load_model(tmp_path / "run" / "checkpoints").params
    assert set(params) == {"coarse", "fine"}
    assert not (tmp_path / "run" / "mesh.ply").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("field", "sizes", "names"),
    [
        ("mipnerf", ["--width", "16", "--depth", "2", *FEW], {"fine"}),
        ("mipnerf360", ["--width", "16", "--depth", "2", *PROPOSED], PROPOSALS),
        ("nerfacto", [*SMALL_GRID, *PROPOSED], PROPOSALS),
    ],
)
def test_fields_of_cones_and_with_proposals_learn(field, sizes, names, tmp_path, monkeypatch):
    """With the losses between proposals and field, and weights that are annealed."""
    arguments = ["--field", field, *sizes, *NO_RESULTS, "--no-normals", "--workdir", tmp_path]
    assert run(arguments, monkeypatch, flags=COMMON) == 0
    found = [value for _, name, value in losses(tmp_path) if name == "validation/loss"]
    assert np.all(np.isfinite(found))
    assert found[-1] < found[0]
    assert set(load_model(tmp_path / "checkpoints").params) == names


def test_annealing_rises_to_all_of_the_weights():
    """10 x / (9 x + 1) of the share x of the annealed updates (Barron et al. 2022, equation 18)."""
    found = [annealed(share) for share in (0.0, 0.1, 0.5, 1.0, 2.0)]
    np.testing.assert_allclose(found, [0, 1 / 1.9, 5 / 5.5, 1, 1], rtol=1e-12)


def test_a_signed_distance(tmp_path, monkeypatch):
    """Its eikonal loss stays small, and its mesh is closed and where the distance is 0."""
    arguments = ["--field", "neus", "--orbit-side", "0", "--workdir", tmp_path]
    arguments += ["--test-views", "1"]
    assert run(arguments, monkeypatch, flags=[*COMMON, *SMALL_GRID, *FEW]) == 0
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    eikonal = [record["train/eikonal"] for record in records if "train/eikonal" in record]
    assert 0 < eikonal[-1] < 0.2
    mesh = trimesh.load(tmp_path / "mesh.ply", force="mesh")
    assert mesh.is_watertight
    assert mesh.volume > 0.1
    model = load_model(tmp_path / "checkpoints")
    distance_N = model.config.make_distance(model.params)(np.asarray(mesh.vertices, np.float32))
    assert np.abs(distance_N).max() < 0.03


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rays", "0"], "rays is 0, expected a multiple of 1"),
        (["--field", "nerf"], "levels is 3 with field 'nerf', which has none"),
        (["--width", "64"], "width is 64 with field 'ngp', which has none"),
        (["--code-size", "-1"], "code_size is -1, expected 0 or more"),
        (["--encoding", "waves"], "encoding is 'waves' with field 'ngp', expected one of 'hash',"),
        (["--eikonal", "-1"], "eikonal is -1.0, expected a finite number >= 0"),
        (["--near", "7"], "near is 7.0 with far=6.0"),
        (["--size", "8"], "shapes: test views have 8 x 8 pixels, expected 11 or more"),
        (["--box", "0"], "box is 0.0, expected a number > 0"),
        (["--field", "plenoxels"], "invalid choice 'plenoxels' for argument '--field'"),
        (["--levels", "0"], "levels is 0, expected 1 or more"),
        (["--coarse-samples", "8"], "coarse_samples is 8 with occupancy, expected no-occupancy"),
        (["--no-occupancy", "--coarse-samples", "0"], "coarse_samples is 0, expected 1 or more"),
        (["--minutes", "0"], "minutes is 0.0, expected a finite number > 0"),
        (["--distortion", "-1"], "distortion is -1.0, expected a finite number >= 0"),
        (["--pose-noise", "2", "nan"], "pose_noise is (2.0, nan), expected two finite numbers"),
        (["--mesh-resolution", "1"], "mesh_resolution is 1, expected 0, or 2 or more"),
        (["--mesh-faces", "3"], "mesh_faces is 3, expected 4 or more"),
        (["--texture-size", "-1"], "texture_size is -1, expected 0 or more"),
        (["--size", "0"], "size is 0"),
        (["--ndc"], "ndc is True with field 'ngp', which has none"),
        (["--test-views", "0"], "test_views is 0, expected 1 or more"),
        (["--data", "nowhere"], "nowhere: no such scene or folder"),
        (["--learning-rate", "-1"], "learning_rate"),
    ],
)
def test_bad_input_ends_in_one_line_and_code_2(arguments, message, tmp_path, monkeypatch, capfd):
    workdir = tmp_path / "run"
    assert run(["--workdir", workdir, *arguments], monkeypatch) == 2
    _, err = capfd.readouterr()
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err
    assert not workdir.exists()


def test_faults_of_a_scene_are_named(tmp_path, monkeypatch, capfd):
    def end_of_run(folder: pathlib.Path) -> str:
        workdir = tmp_path / "run"
        assert run(["--data", folder, "--workdir", workdir], monkeypatch) == 2
        err = capfd.readouterr()[1]
        assert err.count("\n") == 1
        assert not workdir.exists()
        return err

    scene = load_scene("shapes", size=16)
    write_blender(folder := tmp_path / "scene", scene)
    poses = folder / "transforms_train.json"
    content = json.loads(poses.read_text())
    tests = json.loads((folder / "transforms_test.json").read_text())["frames"]
    gone = folder / f"{tests[3]['file_path'].removeprefix('./')}.png"
    picture = gone.read_bytes()
    gone.unlink()
    assert pathlib.Path(gone).name in end_of_run(folder)
    gone.write_bytes(picture)
    content["frames"][5]["transform_matrix"][0][0] += 0.5
    poses.write_text(json.dumps(content))
    assert "transforms_train.json" in (err := end_of_run(folder))
    assert "rotation" in err
    (folder / "transforms_test.json").unlink()
    assert "transforms_test.json" in end_of_run(folder)
    train = dataclasses.replace(scene, parts={"train": scene.part("train")})
    write_nerfstudio(other := tmp_path / "other", train)
    assert "other: no test views, expected 1 or more" in end_of_run(other)
