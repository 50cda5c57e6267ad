"""Replacement and RePaint: the order of steps, marginals, and what resampling mends."""

import jax
import numpy as np
import pytest

from jaxgen.diffusion.conditioning.inpainting import RePaint, Replacement, visits
from jaxgen.diffusion.exact import gaussian_denoiser
from jaxgen.diffusion.process.levels import Level
from jaxgen.diffusion.process.schedules import CosineSchedule, KarrasSchedule, RectifiedFlow
from jaxgen.diffusion.process.step_levels import make_steps
from jaxgen.diffusion.samplers import DDIM
from jaxgen.diffusion.samplers.sampling import SampleState, sample, sample_with_table
from jaxgen.errors import InputError

PAIR = np.array([[1.0, 0.8], [0.8, 1.0]])
PRIOR = gaussian_denoiser(np.zeros(2), PAIR)
KNOWN = np.float32([1.0, 0.0])
ANCESTRAL = DDIM(eta=1.0)


def given(count=4096, value=2.0):
    return np.broadcast_to(np.float32([value, np.nan]), (count, 2))


@jax.jit
def drawn(sampler, z, table, index_B):
    return sample_with_table(sampler, PRIOR, z, table, jax.random.key(2), index_B)


def run(sampler, z, steps=64, index_B=None):
    table = sampler.table(make_steps(CosineSchedule(), steps))
    index_B = np.arange(len(z)) if index_B is None else index_B
    return np.asarray(drawn(sampler, z, table, index_B))


def noise(count=4096, width=2):
    return np.random.default_rng(1).normal(size=(count, width)).astype(np.float32)


@pytest.mark.parametrize(
    ("count", "jump_length", "resamplings", "expected"),
    [
        (4, 1, 1, [0, 1, 2, 3]),
        (4, 1, 2, [0, 0, 1, 1, 2, 2, 3]),
        (5, 2, 2, [0, 1, 0, 1, 2, 3, 2, 3, 4]),
        (4, 2, 3, [0, 1, 2, 1, 2, 1, 2, 3]),
        (3, 5, 9, [0, 1, 2]),
    ],
)
def test_the_order_of_steps(count, jump_length, resamplings, expected):
    assert visits(count, jump_length, resamplings) == expected


def test_the_papers_schedule():
    """N = 250, j = r = 10: 24 levels to go back from, nine times each."""
    order = np.array(visits(250, 10, 10))
    assert len(order) == 250 + 24 * 9 * 10
    ends = order[:-1] + 1
    back = ends[order[1:] != ends]
    np.testing.assert_array_equal(np.unique(back), np.arange(19, 250, 10))
    assert set(np.bincount(back)[19::10]) == {9}


@pytest.mark.parametrize("schedule", [CosineSchedule(), KarrasSchedule(), RectifiedFlow()], ids=str)
def test_ways_back_lead_to_the_level_that_they_say(schedule):
    """From a x + s e of one level to that of the other: scale and variance, in float64."""
    levels = make_steps(schedule, 12, "uniform")
    table = RePaint(ANCESTRAL, KNOWN, given(), 3, 2).table(levels)
    order = visits(12, 3, 2)
    left = [0, *(k + 1 for k in order[:-1])]
    assert len(table.keep) == len(order) == 12 + 3 * 3
    for i, (start, end) in enumerate(zip(left, order, strict=True)):
        a, s = (
            table.keep[i] * levels.a[start],
            np.hypot(table.keep[i] * levels.s[start], table.noise[i]),
        )
        np.testing.assert_allclose([a, s], [levels.a[end], levels.s[end]], rtol=1e-5, atol=1e-12)
        np.testing.assert_allclose(table.now.t[i], levels.t[end], rtol=1e-6)
        np.testing.assert_allclose(table.next.t[i], levels.t[end + 1], rtol=1e-6, atol=1e-12)


def test_without_resampling_repaint_is_replacement():
    one = run(Replacement(ANCESTRAL, KNOWN, given(64)), noise(64), 16)
    two = run(RePaint(ANCESTRAL, KNOWN, given(64), 3, 1), noise(64), 16)
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(one[:, 0], 2.0)


def test_nothing_known_is_the_sampler_alone():
    table, key = ANCESTRAL.table(make_steps(CosineSchedule(), 16)), jax.random.key(2)
    alone = jax.jit(lambda z: sample_with_table(ANCESTRAL, PRIOR, z, table, key))(noise(64))
    replaced = run(Replacement(ANCESTRAL, 0 * KNOWN, given(64)), noise(64), 16)
    np.testing.assert_array_equal(alone, replaced)


def test_resampling_with_nothing_known_keeps_the_distribution():
    """Going back and forth leaves the marginal of every level where it is."""
    covariance = np.cov(run(RePaint(ANCESTRAL, 0 * KNOWN, given(), 8, 3), noise(), 128).T)
    np.testing.assert_allclose(covariance, PAIR, atol=0.08)


def test_resampling_mends_what_replacement_breaks():
    """Correlation 0.8, the first number is 2: the other has mean 1.6. More passes come nearer."""
    errors = []
    for resamplings in (1, 3, 10):
        sampler = RePaint(ANCESTRAL, KNOWN, given(1024), 4, resamplings)
        samples = run(sampler, noise(1024))
        assert (samples[:, 0] == 2).all()
        errors.append(abs(samples[:, 1].mean() - 1.6))
    assert errors[0] > 0.15
    assert errors[1] < 0.7 * errors[0]
    assert errors[2] < 0.4 * errors[0]


def test_the_known_part_has_the_noise_of_every_level():
    """After each row the known number is N(a x, s^2), and x^ is a preview as always."""
    count = 4096
    sampler = Replacement(ANCESTRAL, KNOWN, given(count))
    levels = make_steps(CosineSchedule(), 8)
    table = sampler.table(levels)
    state = sampler.start(noise(count))
    assert isinstance(state, SampleState)

    @jax.jit
    def step(state, row, i):
        return sampler.step(PRIOR, state, row, jax.random.split(jax.random.key(i), count))

    for i in range(8):
        state = step(state, jax.tree.map(lambda value, i=i: value[i], table), i)
        known, a, s = np.asarray(state.z)[:, 0], levels.a[i + 1], levels.s[i + 1]
        assert abs(known.mean() - 2 * a) <= 4 * s / 64 + 1e-6
        assert abs(known.std() - s) <= 4 * s / 90 + 1e-6


def test_an_example_depends_on_its_index_alone():
    sampler, other = RePaint(ANCESTRAL, KNOWN, given(8), 2, 2), np.array([3, 4, 7, 7, 0, 1, 2, 6])
    whole = run(sampler, noise(8), 8)
    moved = run(sampler, noise(8)[other], 8, other)
    np.testing.assert_allclose(moved, whole[other], rtol=1e-4, atol=1e-5)


def test_the_sampler_is_an_argument_like_any_other():
    """Another mask, other data: nothing is recompiled."""
    levels, traces = make_steps(CosineSchedule(), 4), []

    @jax.jit
    def inpaint(sampler, table, z):
        traces.append(z)
        return sample_with_table(sampler, PRIOR, z, table, jax.random.key(0))

    for known, value in ((KNOWN, 2.0), (0 * KNOWN, 1.0)):
        sampler = RePaint(ANCESTRAL, known, given(4, value), 2, 2)
        z = inpaint(sampler, sampler.table(levels), noise(4))
    assert len(traces) == 1
    assert not (z[:, 0] == 1).any()


class Remembers(DDIM):
    terms = (("z", 0), ("x", 0), ("e", 0), ("x", 1))


class AsksTwice(DDIM):
    def table(self, levels: Level):
        return jax.tree.map(lambda value: np.repeat(value, 2, 0), super().table(levels))


def test_bad_input_is_named():
    levels = make_steps(CosineSchedule(), 4)
    for name in ("jump_length", "resamplings"):
        with pytest.raises(InputError, match=f"{name} is 0, expected at least 1"):
            RePaint(ANCESTRAL, KNOWN, given(), **{name: 0})
    with pytest.raises(InputError, match="Remembers remembers earlier steps"):
        RePaint(Remembers(), KNOWN, given()).start(noise())
    with pytest.raises(InputError, match="AsksTwice has several rows per step"):
        RePaint(AsksTwice(), KNOWN, given()).table(levels)
    sampler = Replacement(ANCESTRAL, KNOWN, given(3))
    with pytest.raises(InputError, match=r"x has shape \(3, 2\) for latents of shape \(4, 2\)"):
        sample(sampler, PRIOR, noise(4), levels, jax.random.key(0))
