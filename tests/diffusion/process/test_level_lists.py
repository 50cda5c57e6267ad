"""Levels after a number of steps, with other times, with a repeated end; noise of one's own."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.diffusion import repeat_last, sample, skip_steps, start_from, with_times
from jaxgen.diffusion.denoiser import make_denoiser
from jaxgen.diffusion.process.example_keys import example_keys, normal, step_keys
from jaxgen.diffusion.process.schedules import CosineSchedule
from jaxgen.diffusion.process.step_levels import make_steps
from jaxgen.diffusion.samplers import (
    DDIM,
    Adams,
    Ancestral,
    DPMSolver,
    Euler,
    Heun,
    LangevinCorrector,
    UniPC,
)
from jaxgen.diffusion.samplers.sampling import sample_with_table
from jaxgen.errors import InputError

LEVELS = make_steps(CosineSchedule(-8.0, 8.0), 8)
KEY = jax.random.key(0)
Z = np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32)


def denoiser():
    return make_denoiser(lambda z, time: 0.5 * jnp.tanh(z) + 0.1 * time[:, None] / 1000, "v")


@functools.partial(jax.jit, static_argnums=0)
def drawn(sampler, table, noise=None):
    return sample_with_table(sampler, denoiser(), Z, table, KEY, noise=noise)


def test_starting_after_steps():
    """The rest of a whole run, where one started from what it was after so many steps."""
    part, later = type(LEVELS)(*(value[:4] for value in LEVELS)), skip_steps(LEVELS, 3)

    @jax.jit
    def run():
        end, xs = sample(DDIM(), denoiser(), Z, LEVELS, KEY, previews=True)
        middle = sample(DDIM(), denoiser(), Z, part, KEY)
        return end, xs, sample(DDIM(), denoiser(), middle, later, KEY)

    end, xs, of_two_parts = run()
    np.testing.assert_allclose(of_two_parts, end, atol=1e-6)
    x, noise = np.asarray(xs[2]), np.ones_like(Z)
    found = start_from(x, noise, later)
    np.testing.assert_allclose(found, LEVELS.a[3] * x + LEVELS.s[3] * noise, rtol=1e-6)
    for count in (-1, 8):
        with pytest.raises(InputError, match=f"skipping {count} of 8 steps, expected 0 to 7"):
            skip_steps(LEVELS, count)
    with pytest.raises(InputError, match=r"noise has shape \(2,\), expected \(3, 2\)"):
        start_from(Z, np.ones(2), later)


def test_other_times():
    """The network sees them, and what the levels do to latents stays."""
    times, seen = np.linspace(0.9, 0.2, 8), []

    def network(z, time):
        jax.debug.callback(lambda t: seen.append(float(t[0])), time, ordered=True)
        return 0.5 * jnp.tanh(z)

    jax.block_until_ready(
        sample(DDIM(), make_denoiser(network, "v"), Z, with_times(LEVELS, times), KEY)
    )
    jax.effects_barrier()
    np.testing.assert_allclose(seen, 1000 * times, rtol=1e-6)
    with pytest.raises(InputError, match=r"times have shape \(3,\), expected \(8,\) or \(9,\)"):
        with_times(LEVELS, times[:3])


@pytest.mark.parametrize(
    "sampler",
    [DDIM(0.5), Euler("ve"), Heun("ve"), DPMSolver(2), Adams(), UniPC(), Ancestral()],
    ids=lambda sampler: type(sampler).__name__,
)
def test_a_repeated_last_level(sampler):
    shorter = type(LEVELS)(*(value[:-1] for value in LEVELS))
    repeated = repeat_last(LEVELS)
    assert len(repeated.t) == len(LEVELS.t)
    assert repeated.log_snr[-1] == repeated.log_snr[-2]
    wanted, found = (drawn(sampler, sampler.table(levels)) for levels in (shorter, repeated))
    np.testing.assert_array_equal(found, wanted)


def test_noise_of_ones_own():
    """The noise that would have been drawn gives the same samples; other noise others."""
    of_step = lambda i: normal(step_keys(example_keys(KEY, jnp.arange(3)), i), (2,))  # noqa: E731
    noise, table = np.asarray(jax.jit(jax.vmap(of_step))(np.arange(8))), Ancestral().table(LEVELS)
    wanted, found, other = (
        np.asarray(drawn(Ancestral(), table, own)) for own in (None, noise, -noise)
    )
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert np.abs(other - wanted).min() > 1e-4
    with pytest.raises(InputError, match=r"noise has shape \(7, 3, 2\), expected \(8, 3, 2\)"):
        sample(Ancestral(), denoiser(), Z, LEVELS, KEY, noise=noise[1:])
    with pytest.raises(InputError, match="draws several times a step"):
        sample(LangevinCorrector(Ancestral()), denoiser(), Z, LEVELS, KEY, noise=noise)
