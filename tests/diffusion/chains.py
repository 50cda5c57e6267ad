"""What tests of samplers share: problems with known answers, and loops over the rows of a table."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.diffusion.exact import gaussian_denoiser, gaussian_mixture_denoiser
from jaxgen.diffusion.process.derived_schedules import Rescaled
from jaxgen.diffusion.process.example_keys import example_keys, step_keys
from jaxgen.diffusion.process.levels import Level
from jaxgen.diffusion.process.schedules import CosineSchedule
from jaxgen.diffusion.samplers.sampling import initial_noise, sample_with_table

COSINE = CosineSchedule(-12, 12)
SCALINGS = {scaling: Rescaled(COSINE, scaling) for scaling in ("vp", "ve", "flow")}
MIXTURE = gaussian_mixture_denoiser(
    np.array([0.3, 0.7]), np.array([[1.0, -0.5], [-1.0, 0.8]]), np.array([0.2, 0.4])
)
KEY = jax.random.key(11)
MEAN, VARIANCE = 0.6, 0.3


def one_gaussian():
    """The denoiser of data N(MEAN, VARIANCE), of one number."""
    return gaussian_denoiser(np.array([MEAN]), np.array([[VARIANCE]]))


def level_at(levels, i):
    return Level(*(np.float32(value[i]) for value in levels))


def start(levels, batch=6, width=2):
    return initial_noise(KEY, jnp.arange(batch), (width,), levels)


def run(sampler, levels, denoiser=MIXTURE, z=None, batch=6, width=2):
    """A few steps, without compiling anything (`test_sampling` tests the scan)."""
    return np.asarray(chain(sampler, levels, denoiser, z, batch, width))


def chain(sampler, levels, denoiser=MIXTURE, z=None, batch=6, width=2):
    """The same for what is to be differentiated."""
    table = sampler.table(levels)
    state = sampler.start(start(levels, batch, width) if z is None else jnp.asarray(z))
    keys_B = example_keys(KEY, jnp.arange(len(state.z)))
    for i in range(len(table.now.t)):
        row = jax.tree.map(lambda value, i=i: jnp.asarray(value[i]), table)
        state = sampler.step(denoiser, state, row, step_keys(keys_B, jnp.asarray(i)))
    return state.z


def run_many(sampler, levels, denoiser, batch, width):
    """Many examples or steps, compiled."""

    @jax.jit
    def draw(table):
        z = start(levels, batch, width)
        return sample_with_table(sampler, denoiser, z, table, KEY)

    return np.asarray(draw(sampler.table(levels)))


@functools.partial(jax.jit, static_argnums=(0, 1))
def through(sampler, denoiser, z, table):
    """From given latents through many steps: one program for all levels of as many."""
    return sample_with_table(sampler, denoiser, z, table, KEY)


def true_moments(level):
    """Mean and variance of latents at a level."""
    return level.a * MEAN, level.a**2 * VARIANCE + level.s**2


def moments_through(sampler, levels):
    """Mean and variance of the latents at the end, exactly: every row is affine in z.

    For samplers without memory, and data N(MEAN, VARIANCE); starts from the exact latents.
    """
    table = jax.tree.map(lambda value: np.asarray(value, np.float64), sampler.table(levels))
    mean, variance = true_moments(Level(*(value[0] for value in levels)))
    for i in range(len(table.now.t)):
        a, s = table.now.a[i], table.now.s[i]
        total = a * a * VARIANCE + s * s
        slopes = {"z": 1.0, "x": a * VARIANCE / total, "e": s / total}
        off = mean - a * MEAN
        values = {"z": mean, "x": MEAN + slopes["x"] * off, "e": slopes["e"] * off}
        terms = list(zip(table.weights[i], sampler.terms, strict=True))
        mean = sum(w * values[name] for w, (name, _) in terms)
        slope = sum(w * slopes[name] for w, (name, _) in terms)
        variance = slope**2 * variance + table.noise[i] ** 2
    return mean, variance
