"""The experiment on radiance fields with Gaussians: files, restarts, flags."""

import dataclasses
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from picture_folder import run_here
from run_records import assert_same_losses, losses
from small_fields import load, make_smaller

from experiments.nerf.support.field_flags import FieldFlags
from experiments.nerf.support.splat_flags import SplatFlags
from experiments.nerf.support.splat_training import (
    make_after_step,
    make_splat_optimizer,
    means_schedule,
    random_part,
)
from experiments.shared import training_runs
from jaxgen.interop.splat_files import read_splats
from jaxgen.nerf import SplatConfig, orbit_cameras
from jaxgen.training import create_state, load_model

STEPS = 16
FLAGS = [
    *("--field", "splats", "--gaussians", "80", "--harmonics-degree", "1", "--size", "16"),
    *("--training-steps", STEPS, "--orbit-side", "16", "--checkpoint-every", "8"),
]
NO_RESULTS = ["--orbit-side", "0", "--test-views", "1"]


def run(arguments, monkeypatch, mesh="data=1", devices=1, flags=FLAGS) -> int:
    make_smaller(monkeypatch.setattr)
    return run_here("train", [*flags, *arguments], monkeypatch, mesh, devices, family="nerf")


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """The folder of a run on one device that nothing disturbed."""
    folder = tmp_path_factory.mktemp("reference")
    with pytest.MonkeyPatch.context() as monkeypatch:
        assert run(["--workdir", folder], monkeypatch) == 0
    return folder


def test_everything_is_written_and_opens(reference):
    found = json.loads((reference / "metrics.json").read_text())
    assert found["updates"] == STEPS
    assert found["test PSNR"] > 8
    assert "rays" not in found
    for name in ("comparison.png", "orbit.mp4", "curves.png", "viewer.html"):
        assert (reference / name).exists()
    assert not (reference / "mesh.ply").exists()
    splats = read_splats(reference / "splats.ply")
    assert len(splats["means"]) == found["Gaussians seen"] > 40
    model = load_model(reference / "checkpoints")
    assert isinstance(model.config, SplatConfig)
    np.testing.assert_allclose(splats["harmonics"][:1], model.params["harmonics"][:1], atol=1e-5)
    first, *_, last = (value for _, name, value in losses(reference) if name == "validation/loss")
    assert last < first


def test_a_run_that_was_interrupted_resumes_bit_for_bit(reference, tmp_path, monkeypatch):
    fit = training_runs.fit

    def stop(record, state):
        if record["step"] >= 12:  # after the checkpoint of the eighth
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(training_runs, "fit", lambda *a, **k: fit(*a, **k, callbacks=[stop]))
        assert run(["--workdir", tmp_path], patched) == 130
    assert run(["--workdir", tmp_path, *NO_RESULTS], monkeypatch) == 0
    assert losses(tmp_path) == losses(reference)
    assert (tmp_path / "splats.ply").read_bytes() == (reference / "splats.ply").read_bytes()


@pytest.mark.slow
def test_over_devices_it_is_the_same_run(reference, tmp_path, monkeypatch):
    assert run(["--workdir", tmp_path, *NO_RESULTS], monkeypatch, "data=2,fsdp=2", 4) == 0
    assert_same_losses(tmp_path, reference, 1e-3)


def test_minutes_in_place_of_updates(tmp_path, monkeypatch):
    flags = ["--minutes", "0.001", *NO_RESULTS, "--workdir", tmp_path]
    assert run(flags, monkeypatch) == 0
    found = json.loads((tmp_path / "metrics.json").read_text())
    known = json.loads((tmp_path / "updates.json").read_text())
    assert found["updates"] == known["updates"] >= 8


def test_the_dead_are_moved_and_forgotten_by_the_optimizer():
    """At the step that is due alone; noise never reaches what is opaque."""
    config = SplatConfig(20, degree=1)
    tx = make_splat_optimizer(config, means_schedule(1e-3, 1000), 1000)
    state, _ = create_state(config.make_init(), jax.random.key(0), tx=tx, ema=True)
    logits = jnp.full(20, 3.0).at[:5].set(-9)
    ones = jax.tree.map(jnp.ones_like, state.opt_state)
    state = dataclasses.replace(
        state, params={**state.params, "opacity_logits": logits}, opt_state=ones
    )
    after = jax.jit(make_after_step(tx, means_schedule(1e-3, 1000), 1000))
    for step, moved in ((499, False), (500, True), (900, False)):
        given = dataclasses.replace(state, step=jnp.int32(step))
        found = after(given, jax.random.key(1))
        alive = np.asarray(jax.nn.sigmoid(found.params["opacity_logits"])) >= 0.0149
        assert alive.all() == moved
        moments = np.asarray(
            found.opt_state.inner_states["log_scales"].inner_state[0].nu["log_scales"]
        )
        forgotten = (moments == 0).all(axis=1)
        assert forgotten[:5].all() == moved
        assert not forgotten.all()
        np.testing.assert_array_equal(moments[~forgotten], 1)
        still = ~forgotten & (np.arange(20) >= 5)
        means = np.asarray(found.params["means"])[still]
        np.testing.assert_allclose(means, np.asarray(state.params["means"])[still], atol=1e-6)
        jax.tree.map(np.testing.assert_array_equal, found.ema, found.params)


def test_a_part_of_an_image_is_what_its_camera_sees():
    """Pixels that hold their own row and column say where the part is."""
    config = SplatConfig(40, degree=0, initial_scale=0.6, tile=4)
    params = jax.jit(config.make_init())(jax.random.key(0))
    camera = orbit_cameras(1, radius=4, elevation=20, focal=20, height=21, width=27)
    pixels = jnp.stack([*jnp.mgrid[:21, :27], jnp.zeros((21, 27), int)], axis=-1).astype(jnp.uint8)
    part, seen, mask = random_part(jax.random.key(3), 11, camera, pixels, pixels[..., 0] > 9)
    row, column, _ = map(int, seen[0, 0])
    assert row + column > 0
    np.testing.assert_array_equal(mask, seen[..., 0] > 9)
    render = config.make_render()
    whole, cut = (np.asarray(jax.jit(render)(params, c).colour[0]) for c in (camera, part))
    assert whole.std() > 0.02
    np.testing.assert_allclose(cut, whole[row : row + 11, column : column + 11], atol=2e-3)


def test_distorted_cameras_are_not_refused():
    scene = load("shapes", size=16)
    lens = dataclasses.replace(
        scene.part("train").intrinsics, model="SIMPLE_RADIAL", distortion=np.full((60, 1), 0.1)
    )
    bent = {"train": dataclasses.replace(scene.part("train"), intrinsics=lens)}
    config = SplatFlags(gaussians=80).config(
        dataclasses.replace(scene, parts=bent), FieldFlags(field="splats")
    )
    assert config.gaussians == 80


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["--levels", "3"], "levels is 3 with field 'splats', which has none"),
        (["--code-size", "3"], "code_size is 3 with field 'splats', which has none"),
        (["--rays", "3"], "rays is 3 with field 'splats', which has none"),
        (["--crop", "8"], "crop is 8, expected 11 or more, the window of SSIM"),
        (["--crop", "17"], "images have sides of 16 pixels, expected 17 or more"),
        (["--field", "ngp"], "flags of Gaussians are .*, expected field 'splats' with them"),
    ],
)
def test_flags_that_do_not_fit(arguments, fault, monkeypatch, capfd, tmp_path):
    folder = tmp_path / "none"
    assert run(["--workdir", folder, *arguments], monkeypatch) == 2
    assert re.search(fault, capfd.readouterr().err)
    assert not folder.exists()
