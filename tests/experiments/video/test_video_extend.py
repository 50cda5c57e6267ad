"""Clips completed by a trained model: files, figures, every task and method, bad input."""

import json

import jax
import numpy as np
import pytest
from flax import linen as nn
from picture_folder import run_here
from untrained import save_untrained

from experiments.video.support.clip_tasks import (
    ClipTask,
    known_part,
    make_complete,
)
from experiments.video.support.completed_clips import KNOWN_ERROR, OFF_COURSE, ON_COURSE
from experiments.video.support.video_networks import VideoNetworkFlags, video_model
from jaxgen.data import read_video, to_unit
from jaxgen.data.images.load_images import read_digits
from jaxgen.data.video.moving_digits import MovingDigits
from jaxgen.diffusion.model import DenoiserConfig
from jaxgen.parallel import make_mesh, plan_layout
from jaxgen.spacetime import VideoDiTConfig

FLAGS = ["--clips", "3", "--steps", "2", "--known", "1", "--iterations", "1"]


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    """The folder of a model that is not trained."""
    folder = tmp_path_factory.mktemp("untrained")
    network = VideoNetworkFlags(width=32, depth=1)
    save_untrained(video_model(network, tuple("0123456789"), 1, (4, 8, 8)), folder)
    return folder


@pytest.fixture
def extend(untrained, monkeypatch):
    """Runs the program on the run's model, with an evaluator that has seen nothing."""

    class Evaluator:
        accuracy = 1.0

        def figures(self, videos, label_N):
            assert videos.dtype == np.uint8
            assert len(videos) == len(label_N)
            return {"frames of the class": 0.5, "clips that keep their digit": 0.25}

    monkeypatch.setattr(
        "experiments.video.extend.make_frame_evaluator", lambda *_, **__: Evaluator()
    )

    def run(workdir, arguments):
        flags = ["--model", untrained, "--workdir", workdir, *FLAGS, *arguments]
        return run_here("extend", flags, monkeypatch, family="video")

    return run


def test_clips_are_extended_and_shown(extend, tmp_path):
    """Known, made and real clips side by side; the known frames are those given."""
    for method in ("moments", "guidance"):
        assert extend(tmp_path / method, ["--method", method]) == 0
        found = json.loads((tmp_path / method / "metrics.json").read_text())
        assert found["known frames"] == 1
        assert found[KNOWN_ERROR] < 1e-4
        assert found["frames of the class"] == 0.5
        assert found[OFF_COURSE] > 0
        assert 0 <= found[ON_COURSE] <= 1
        video = read_video(tmp_path / method / "extend.mp4")
        assert video.frames.shape == (4, 5 * (3 * 10 - 2), 5 * (3 * 10 - 2), 3)
        assert (tmp_path / method / "extend.png").exists()


def test_a_long_clip_is_made_by_windows_of_the_length_trained_on(extend, tmp_path):
    arguments = ["--task", "long", "--method", "replacement", "--labels", "own", "--guidance", "1"]
    assert extend(tmp_path, arguments) == 0
    assert read_video(tmp_path / "long.mp4").frames.shape[0] == 8
    assert json.loads((tmp_path / "metrics.json").read_text())["known frames"] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "dance"], "invalid choice 'dance' for argument '--task'"),
        (["--method", "trained"], "method is 'trained', but the network takes no known frames"),
        (["--known", "4"], "known is 4 for clips of 4 frames, expected 1 to 3 for the task extend"),
        (["--task", "join", "--known", "2"], "expected 1 to 1 for the task join"),
        (["--task", "long", "--size", "4x8x8"], "expected more than those of a window, 4"),
        (["--size", "4x8x9"], "size has 4x8x9, expected multiples of the patch 1x4x4"),
        (["--size", "4x4x4"], "size is (4, 4, 4), expected frames, height and width of"),
        (
            ["--guidance", "2", "--labels", "null"],
            "guidance is 2.0 with labels null, expected labels own",
        ),
        (["--clips", "0"], "clips is 0, expected 1 or more"),
        (["--noise", "-1"], "noise is -1.0, expected 0 or more"),
        (["--eta", "2"], "eta is 2.0, expected 0 to 1"),
        (["--task", "sdedit", "--strength", "0"], "strength is 0.0, expected 0 < strength <= 1"),
        (["--model", "nowhere"], "nowhere/checkpoints"),
        (["--data", "nowhere"], "nowhere: no such folder"),
    ],
)
def test_bad_input_ends_in_one_line_and_code_2(arguments, message, extend, tmp_path, capfd):
    assert extend(tmp_path / "run", arguments) == 2
    err = capfd.readouterr()[1]
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err
    assert not (tmp_path / "run").exists()


def test_what_each_task_knows():
    clips = np.arange(2 * 6 * 2, dtype=np.float32).reshape(2, 6, 2, 1, 1) / 30
    wanted = {
        "extend": ("KK____", [0, 1]),
        "long": ("KK____", [0, 1]),
        "before": ("____KK", [4, 5]),
        "join": ("KK__KK", [0, 1, 4, 5]),
        "interpolate": ("K_K_K_", [0, 2, 4]),
        "loop": ("KK___K", [0, 1, 0]),
        "animate": ("K_____", [0]),
        "sdedit": ("______", []),
    }
    for task, (mask, places) in wanted.items():
        given = known_part(task, clips, 2)
        known_T = np.asarray(given.known).ravel() > 0
        assert "".join("_K"[m] for m in known_T.astype(int)) == mask
        np.testing.assert_array_equal(np.asarray(given.x)[:, known_T], clips[:, places])


@pytest.mark.slow
def test_every_task_by_a_network_that_takes_known_frames_on_any_mesh():
    """Samples hold what is known, whatever the devices; and depend on their own index alone."""
    network = VideoDiTConfig(
        in_channels=3, out_channels=1, patch=(1, 4, 4), width=32, depth=1, heads=1, num_classes=0
    )
    model = DenoiserConfig(network, (4, 8, 8, 1), (), known_frames=True)
    params = nn.unbox(jax.jit(model.make_init())(jax.random.key(0)))
    stream = MovingDigits(read_digits().part("test"), ((6, 8, 8),))
    clips = np.stack([stream[i]["video"] for i in range(4)])
    made = {}
    for text, devices in (("data=1", 1), ("data=2,fsdp=2", 4)):
        mesh = make_mesh(text, jax.devices()[:devices])
        with jax.set_mesh(mesh):
            layout = plan_layout(model.make_init(), jax.random.key(0), mesh=mesh)
            placed = jax.device_put(params, layout.shardings)
            for name in ("join", "long", "sdedit"):
                task = ClipTask(name, "trained", 1, 4, 2, 1.0, 1.0, 1, 0.1, 0.0, 0.6)
                task.check(6, model)
                found = make_complete(model, layout, task)(placed, clips, None, jax.random.key(1))
                known_T = np.asarray(known_part(name, clips, 1).known).ravel() > 0
                if name != "sdedit":
                    given = to_unit(clips)[:, known_T]
                    np.testing.assert_allclose(found[:, known_T], given, atol=1e-5)
                np.testing.assert_allclose(found, made.setdefault(name, found), atol=1e-4)
