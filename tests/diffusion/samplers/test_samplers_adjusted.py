"""Adjusted DDIM: by the letter of the algorithm, what it keeps, and what it is in the limit."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chains import COSINE, MIXTURE, SCALINGS, run, run_many, through

from jaxgen.diffusion.exact import gaussian_denoiser
from jaxgen.diffusion.process.derived_schedules import Rescaled
from jaxgen.diffusion.process.example_keys import example_keys, normal
from jaxgen.diffusion.process.levels import Level
from jaxgen.diffusion.process.schedules import CosineSchedule
from jaxgen.diffusion.process.step_levels import make_steps, reverse_steps
from jaxgen.diffusion.samplers import DDIM, AdjustedDDIM
from jaxgen.diffusion.samplers.orders import fitted_order, ode_errors
from jaxgen.errors import InputError

INFINITE = CosineSchedule(-np.inf, np.inf)


@pytest.mark.parametrize("scaling", SCALINGS)
def test_by_the_letter(scaling):
    """Algorithm 3 of Heek et al. (2024) in numpy, example by example."""
    levels = make_steps(SCALINGS[scaling], 5, "uniform_angle", final="first")
    z = np.array([[0.3, -1.2], [2.0, 0.1], [-0.5, 0.7]], np.float32)
    found = run(AdjustedDDIM(), levels, z=z)
    for i in range(5):
        a, s, a_next, s_next = levels.a[i], levels.s[i], levels.a[i + 1], levels.s[i + 1]
        level = Level(*(np.full(3, value[i], np.float32) for value in levels))
        x = np.asarray(MIXTURE(jnp.asarray(z), level).x, np.float64)
        e = (z - a * x) / s
        x_variance = 0.1 / (2 + a**2 / s**2)
        z_variance = (a_next - a * s_next / s) ** 2 * x_variance
        square = (e**2).sum(1, keepdims=True)
        z = (a_next * x + np.sqrt(s_next**2 + 2 / square * z_variance) * e).astype(np.float32)
    np.testing.assert_allclose(found, z, rtol=2e-4, atol=2e-5)


def test_without_a_share_it_is_ddim():
    levels = make_steps(COSINE, 7)
    np.testing.assert_allclose(
        run(AdjustedDDIM(0.0), levels), run(DDIM(), levels), rtol=1e-5, atol=1e-6
    )


def test_a_step_from_pure_noise_keeps_the_variance():
    """Of data N(0, 1/2), of which all is unknown there: a'^2 / 2 + s'^2, where DDIM has s'^2."""
    size = 2048
    denoiser = gaussian_denoiser(jnp.zeros(size), 0.5 * jnp.eye(size))
    levels = Level(*(value[:2] for value in make_steps(INFINITE, 4)))
    z = normal(example_keys(jax.random.key(0), jnp.arange(2)), (size,))
    a, s = levels.a[1], levels.s[1]
    z = z / jnp.sqrt(jnp.mean(z**2, 1, keepdims=True))
    found = (run(AdjustedDDIM(1.0), levels, denoiser, z=z) ** 2).mean(1)
    np.testing.assert_allclose(found, a**2 / 2 + s**2, rtol=1e-5)
    short = (run(DDIM(), levels, denoiser, z=z) ** 2).mean(1)
    np.testing.assert_allclose(short, s**2, rtol=1e-5)


def test_the_last_step_to_clean_data_returns_the_estimate():
    levels = make_steps(COSINE, 1)
    table = AdjustedDDIM().table(levels)
    assert table.lost[-1] == 0
    np.testing.assert_allclose(run(AdjustedDDIM(), levels), run(DDIM(), levels), rtol=1e-6)


def test_first_order_to_the_solution_of_the_ode():
    counts = (96, 192, 384)
    errors = ode_errors({"adjusted": AdjustedDDIM()}, Rescaled(CosineSchedule(-8, 8), "vp"), counts)
    assert fitted_order(counts, errors["adjusted"]) == pytest.approx(1, abs=0.15)


def test_an_example_does_not_depend_on_its_batch():
    levels = make_steps(COSINE, 5)
    many = run_many(AdjustedDDIM(), levels, MIXTURE, 6, 2)
    few = run_many(AdjustedDDIM(), levels, MIXTURE, 2, 2)
    np.testing.assert_array_equal(many[:2], few)


def test_gradients_through_all_steps():
    """Those of DDIM without a share; finite with one, also through the last step to clean data."""
    levels, z = make_steps(COSINE, 4), np.float32([[0.3, -1.2], [2.0, 0.1]])

    @functools.partial(jax.jit, static_argnums=0)
    def slopes(sampler, table):
        return jax.grad(lambda z: through(sampler, MIXTURE, z, table).sum())(z)

    adjusted = AdjustedDDIM()
    found, with_a_share = (slopes(adjusted, AdjustedDDIM(v).table(levels)) for v in (0.0, 0.1))
    assert np.isfinite(found).all()
    assert np.isfinite(with_a_share).all()
    assert np.abs(np.asarray(found) - with_a_share).max() > 1e-3
    np.testing.assert_allclose(found, slopes(DDIM(), DDIM().table(levels)), rtol=1e-4, atol=1e-6)


def test_no_noise_in_a_latent_is_no_division_by_zero():
    """Where e^ is zero there is nothing to make longer."""
    levels = make_steps(COSINE, 3, final="first")
    denoiser = gaussian_denoiser(np.zeros(2), np.eye(2))
    assert np.isfinite(run(AdjustedDDIM(), levels, denoiser, z=np.zeros((2, 2), np.float32))).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: AdjustedDDIM(-0.1), "share is -0.1, expected a finite number >= 0"),
        (
            lambda: AdjustedDDIM().table(reverse_steps(make_steps(COSINE, 3))),
            "levels from data to noise",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(InputError, match=message):
        call()
