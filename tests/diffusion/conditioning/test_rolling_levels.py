"""Levels of frames that roll: the statistics of long AR(1) videos, plans, independence."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ar1_videos import CORRELATION, ar1_denoiser, correlations

from jaxgen.diffusion.conditioning.rolling_levels import plan_rolling, sample_rolling
from jaxgen.diffusion.denoiser import make_denoiser
from jaxgen.diffusion.process.schedules import CosineSchedule
from jaxgen.diffusion.process.step_levels import make_steps
from jaxgen.diffusion.samplers import DDIM, DPMSolver, Heun
from jaxgen.errors import InputError
from jaxgen.parallel import make_mesh

KEY, DDIM_ = jax.random.key(0), DDIM()


@functools.partial(jax.jit, static_argnames=("frames", "span", "steps", "context", "eta"))
def rolled(index_B, frames=30, span=4, steps=32, context=1, eta=0.0, start=None):
    levels = make_steps(CosineSchedule(), span * steps)
    return sample_rolling(
        *(DDIM(eta), ar1_denoiser, levels, (1,), frames, span, KEY, index_B),
        context=context,
        start=start,
    )


def roll(*arguments, **options):
    return np.asarray(rolled(*arguments, **options))


def test_a_long_video_has_the_variance_and_the_correlations_of_the_truth():
    """AR(1): 1,000 videos of 30 frames, from a window of 5; without context they forget."""
    for eta, lowest in ((0.0, 0.97), (1.0, 0.93)):
        found = correlations(roll(np.arange(1000), eta=eta)[..., 0])
        assert lowest < found[0] < 1.03
        np.testing.assert_allclose(found[1:], [CORRELATION, CORRELATION**2], atol=0.02)
    # Two frames on their way, none in sight behind them.
    found = correlations(roll(np.arange(1000), span=2, context=0)[..., 0])
    assert found[1] < CORRELATION - 0.15


def test_one_step_a_frame_is_fifo():
    """Correlations are right; the variance is that of a sampler of few steps."""
    coarse, fine = (correlations(roll(np.arange(1000), span=n, steps=1)[..., 0]) for n in (8, 32))
    assert coarse[0] < fine[0] - 0.1 < fine[0] < 1
    np.testing.assert_allclose(fine[1:], [CORRELATION, CORRELATION**2], atol=0.02)


def test_a_start_is_continued():
    """E[x_t | x_-1] = r^(t + 1) x_-1, variance 1 - r^(2 t + 2), whatever lies behind x_-1."""
    start = np.broadcast_to(np.float32([-5, -5, -5, 2])[None, :, None], (1000, 4, 1))
    x = roll(np.arange(1000), frames=4, start=start)[..., 0]
    gain = CORRELATION ** np.arange(1, 5)
    np.testing.assert_allclose(x.mean(0), 2 * gain, atol=0.12)
    np.testing.assert_allclose(x.var(0), 1 - gain**2, rtol=0.15)


def test_a_video_is_the_beginning_of_longer_ones_and_examples_are_independent():
    options, order = {"steps": 4, "eta": 1.0}, np.array([6, 1, 7, 7, 0, 2, 3, 5])
    whole = roll(np.arange(8), frames=9, **options)
    np.testing.assert_allclose(roll(np.arange(8), frames=5, **options), whole[:, :5], atol=1e-5)
    np.testing.assert_allclose(roll(order, frames=9, **options), whole[order], atol=1e-5)
    with jax.set_mesh(make_mesh("data=4,fsdp=2")):
        found = roll(np.arange(8), frames=9, **options)
    np.testing.assert_allclose(found, whole, atol=1e-5)


def test_each_frame_goes_through_all_rows_once_and_then_rests():
    frames, span, steps, context = 5, 3, 2, 2
    plan = plan_rolling(frames, span, steps, context, known=1)
    assert plan.row_RNT.shape == (7, 2, 5)
    by_frame = {}
    for r in range(7):
        for n in range(steps):
            for i in range(context + span):
                row = int(plan.row_RNT[r, n, i])
                assert plan.moves_RNT[r, n, i] == (row < span * steps)
                by_frame.setdefault(r - span + 1 - context + i, []).append(row)
    for frame in range(4):
        assert by_frame[frame][:6] == [0, 1, 2, 3, 4, 5]
        assert set(by_frame[frame][6:]) <= {7}
    assert set(by_frame[-1]) == {7}, "known"
    assert set(by_frame[-2]) == {6}, "noise"
    # The window at any time: data, then ever more noise.
    np.testing.assert_array_equal(plan.row_RNT[6, 0], [7, 7, 4, 2, 0])


def test_the_network_sees_a_time_for_each_frame():
    seen = []

    def network(z, time):
        seen.append((z.shape, time.shape))
        return 0.0 * z

    levels = make_steps(CosineSchedule(), 6)
    arguments = DDIM(), make_denoiser(network, "v"), levels, (4, 4, 1), 2, 3, KEY
    x = jax.eval_shape(lambda index_B: sample_rolling(*arguments, index_B, context=2), np.arange(2))
    assert x.shape == (2, 2, 4, 4, 1)
    assert set(seen) == {((2, 5, 4, 4, 1), (2, 5))}


def test_bad_input_is_named():
    def run(sampler=DDIM_, count=6, frames=2, span=3, context=1, start=None):
        levels, index_B = make_steps(CosineSchedule(), count), jnp.arange(2)
        arguments = sampler, ar1_denoiser, levels, (1,), frames, span, KEY, index_B
        return sample_rolling(*arguments, context=context, start=start)

    for options, message in (
        ({"frames": 0}, "frames is 0, expected 1 or more"),
        ({"span": 0}, "span is 0, expected 1 or more"),
        ({"context": -1}, "context is -1, expected 0 or more"),
        ({"count": 7}, "levels have 7 steps, expected a multiple of the span, 3"),
        ({"sampler": Heun()}, "Heun has several rows per step"),
        ({"sampler": DPMSolver()}, "DPMSolver remembers earlier steps"),
        ({"start": jnp.zeros((2, 3, 2))}, r"start has shape \(2, 3, 2\), expected \[2, T\] frames"),
    ):
        with pytest.raises(InputError, match=message):
            run(**options)
