"""Long videos by windows: plans, the statistics of AR(1) videos, averages where windows overlap."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ar1_videos import CORRELATION, ar1_denoiser, correlations

from jaxgen.diffusion.conditioning.known_frames import (
    KnownFrames,
    complete_frames,
)
from jaxgen.diffusion.conditioning.video_windows import overlapped, plan_windows, sample_windows
from jaxgen.diffusion.process.levels import Level
from jaxgen.diffusion.process.schedules import CosineSchedule
from jaxgen.diffusion.process.step_levels import make_steps
from jaxgen.diffusion.samplers import DDIM, Heun
from jaxgen.diffusion.samplers.sampling import initial_noise, sample
from jaxgen.errors import InputError
from jaxgen.parallel import make_mesh

KEY = jax.random.key(0)


def test_which_frames_each_window_knows():
    plan = plan_windows(11, 4, 1)
    np.testing.assert_array_equal(plan.first_W, [0, 3, 6, 7])
    np.testing.assert_array_equal(
        plan.known_WT, [[0, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0], [1, 1, 1, 0]]
    )
    # The extension of a clip of five frames, with a frame that is given further on.
    known_T = np.array([1, 1, 1, 1, 1, 0, 0, 0, 1, 0], bool)
    plan = plan_windows(10, 4, 2, known_T)
    np.testing.assert_array_equal(plan.first_W, [2, 4, 6])
    np.testing.assert_array_equal(plan.known_WT, [[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 0]])
    assert len(plan_windows(4, 4, 0, np.ones(4, bool)).first_W) == 0
    # Every frame is made by the window that first holds it.
    for frames, window, overlap in ((7, 7, 3), (20, 6, 0), (19, 5, 4)):
        plan, made = plan_windows(frames, window, overlap), np.zeros(frames, int)
        for first, known in zip(*plan, strict=True):
            made[first : first + window] += known == 0
        assert (made == 1).all()


def windows_of(given, overlap):
    """Windows of four frames of given long videos."""
    levels = make_steps(CosineSchedule(), 24, "uniform_log_snr")

    def complete(part, key):
        return complete_frames(Heun(), ar1_denoiser, part, levels, key, iterations=4)

    run = jax.jit(lambda x, key: sample_windows(complete, given._replace(x=x), 4, overlap, key))
    return run(given.x, KEY)


def test_windows_one_after_the_other_have_the_right_correlations():
    """AR(1) is Markov: one frame of overlap is enough, and none is too little."""
    given = KnownFrames(np.full((1000, 16, 1), np.nan, np.float32), np.zeros((16, 1)))
    one, none = (np.asarray(windows_of(given, k))[..., 0] for k in (1, 0))
    found = correlations(one)
    np.testing.assert_allclose(found, [1, CORRELATION, CORRELATION**2], atol=0.04)
    assert abs((none[:, 3] * none[:, 4]).mean()) < 0.1


def test_a_clip_is_extended_and_stays():
    clip = np.broadcast_to(np.float32([0.0, 0.5, 2.0]), (1000, 3))[..., None]
    frames = np.concatenate([clip, np.zeros((1000, 7, 1), np.float32)], 1)
    given = KnownFrames(frames, np.float32([1] * 3 + [0] * 7)[:, None])
    x = np.asarray(windows_of(given, 2))[..., 0]
    np.testing.assert_array_equal(x[:, :3], clip[..., 0])
    gain = CORRELATION ** np.arange(1, 8)
    np.testing.assert_allclose(x[:, 3:].mean(0), 2 * gain, atol=0.15)
    np.testing.assert_allclose(x[:, 3:].var(0), 1 - gain**2, rtol=0.2)
    with jax.set_mesh(make_mesh("data=8")):
        found = windows_of(given._replace(x=given.x[:8]), 2)
    np.testing.assert_allclose(np.asarray(found)[..., 0], x[:8], atol=1e-4)


def test_estimates_are_averaged_where_windows_overlap():
    """Against a loop in numpy, at levels of examples and of frames; one window is itself."""
    z, exact = (
        np.random.default_rng(0).normal(size=(2, 9, 3)).astype(np.float32),
        jax.jit(ar1_denoiser),
    )
    t_BT = np.tile(np.linspace(0.2, 0.8, 9), (2, 1))
    for times in (np.full(2, 0.4), t_BT):
        level = Level(*(np.float32(v) for v in CosineSchedule().at(times)))
        found = jax.device_get(jax.jit(overlapped(ar1_denoiser, 4, 2))(z, level))
        total, count = np.zeros((2, 2, 9, 3)), np.zeros((9, 1))
        for first in (0, 2, 4, 5):
            inside = slice(first, first + 4)
            part = Level(*(v[:, inside] if np.ndim(v) == 2 else v for v in level))
            estimate = exact(z[:, inside], part)
            total[0, :, inside] += estimate.x
            total[1, :, inside] += estimate.e
            count[inside] += 1
        for value, expected in zip((found.x, found.e), total / count, strict=True):
            np.testing.assert_allclose(value, expected, atol=1e-5)
        a, s = (v.reshape(*np.shape(v), *(1,) * (3 - np.ndim(v))) for v in level[2:])
        np.testing.assert_allclose(a * found.x + s * found.e, z, atol=1e-5)
    level = Level(*(np.float32(v) for v in CosineSchedule().at(0.4)))
    alone = jax.jit(overlapped(ar1_denoiser, 9, 3))(z, level)
    np.testing.assert_allclose(alone.x, exact(z, level).x, atol=1e-6)


def test_joint_windows_agree_the_better_the_more_they_overlap():
    """The variance and the least correlation of neighbours; without overlap borders have none."""
    levels, found = make_steps(CosineSchedule(), 64), []
    for overlap in (0, 3, 5):

        @jax.jit
        def run(key, overlap=overlap):
            z = initial_noise(key, jnp.arange(1000), (18, 1), levels)
            return sample(DDIM(), overlapped(ar1_denoiser, 6, overlap), z, levels, key)

        x = np.asarray(run(KEY), np.float64)[..., 0]
        square_T = (x**2).mean(0)
        by_pair = (x[:, 1:] * x[:, :-1]).mean(0) / np.sqrt(square_T[1:] * square_T[:-1])
        found.append((square_T.mean(), by_pair.min()))
    assert abs(found[0][1]) < 0.1 < found[1][1] < found[2][1]


def test_bad_input_is_named():
    for arguments, message in (
        ((4, 5, 1), "window is 5, expected 1 to 4, the frames of the video"),
        ((4, 3, 3), "overlap is 3, expected 0 to 2, less than a window"),
        ((4, 3, 1, np.ones(3, bool)), r"known has shape \(3,\), expected \(4,\), the frames"),
    ):
        with pytest.raises(InputError, match=message):
            plan_windows(*arguments)
    given = KnownFrames(jnp.zeros((2, 4, 1)), jnp.zeros((2, 4, 1)))
    with pytest.raises(InputError, match="expected one number for each of 4 frames"):
        sample_windows(lambda given, key: given.x, given, 3, 1, KEY)
