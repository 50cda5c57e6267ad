"""SDEdit, encoding and interpolation where the data are Gaussian, so that all of it is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.diffusion.conditioning.editing import (
    decode,
    encode,
    interpolate,
    last_steps,
    sdedit,
    slerp,
    translate,
)
from jaxgen.diffusion.conditioning.inpainting import Replacement
from jaxgen.diffusion.exact import gaussian_denoiser, gaussian_mixture_denoiser
from jaxgen.diffusion.process.schedules import CosineSchedule, KarrasSchedule, RectifiedFlow
from jaxgen.diffusion.process.step_levels import make_steps
from jaxgen.diffusion.samplers import DDIM
from jaxgen.errors import InputError

SCHEDULE = CosineSchedule()
MEAN = np.array([1.0, -0.5])
COVARIANCE = np.array([[0.5, 0.3], [0.3, 0.4]])
DENOISER = gaussian_denoiser(MEAN, COVARIANCE)


def test_last_steps():
    levels = make_steps(SCHEDULE, 10)
    part = last_steps(levels, 0.5)
    np.testing.assert_allclose(part.t, [0.5, 0.4, 0.3, 0.2, 0.1, 0.0], atol=1e-12)
    np.testing.assert_array_equal(part.a, levels.a[5:])
    assert len(last_steps(levels, 1.0).t) == 11
    assert len(last_steps(levels, 0.1).t) == 2
    np.testing.assert_allclose(last_steps(levels, 0.57).t[0], 0.5)


@pytest.mark.parametrize("strength", [0.3, 0.7, 1.0])
def test_sdedit_of_gaussian_data_is_the_posterior_predictive(strength):
    """z = a x + s e, then x' from p(x | z): mean and covariance in closed form."""
    x, sampler = jnp.broadcast_to(jnp.array([-1.0, 1.0]), (4096, 2)), DDIM(eta=1.0)
    levels = last_steps(make_steps(SCHEDULE, 200), strength)
    table = sampler.table(levels)
    samples = jax.jit(lambda x, key: sdedit(sampler, DENOISER, x, table, key))(x, jax.random.key(0))
    a, s = levels.a[0], levels.s[0]
    gain = a * COVARIANCE @ np.linalg.inv(a * a * COVARIANCE + s * s * np.eye(2))
    mean = MEAN + gain @ (a * np.array([-1.0, 1.0]) - a * MEAN)
    covariance = COVARIANCE - a * gain @ COVARIANCE + s * s * gain @ gain.T
    np.testing.assert_allclose(samples.mean(0), mean, atol=4 * 0.7 / 64 + 0.01)
    np.testing.assert_allclose(np.cov(np.asarray(samples).T), covariance, atol=0.05)


def test_little_strength_keeps_the_image_and_much_forgets_it():
    x, levels, sampler = (
        jax.random.normal(jax.random.key(3), (8, 2)),
        make_steps(SCHEDULE, 50),
        DDIM(),
    )
    distances = []
    for strength in (0.04, 0.4, 1.0):
        table = sampler.table(last_steps(levels, strength))
        edited = [sdedit(sampler, DENOISER, y, table, jax.random.key(0)) for y in (x, 3 - x)]
        distances.append(float(jnp.abs(edited[0] - x).mean()))
        kept = jnp.abs(edited[0] - edited[1]).mean() / jnp.abs(2 * x - 3).mean()
    assert distances[0] < 0.1 < distances[1] < distances[2]
    assert kept < 1e-3


def test_sdedit_within_a_mask_leaves_the_rest():
    x = jax.random.normal(jax.random.key(3), (8, 2))
    sampler = Replacement(DDIM(), jnp.array([1.0, 0.0]), x)
    table = sampler.table(last_steps(make_steps(SCHEDULE, 20), 0.5))
    edited = sdedit(sampler, DENOISER, x, table, jax.random.key(0))
    np.testing.assert_array_equal(edited[:, 0], x[:, 0])
    assert float(jnp.abs(edited[:, 1] - x[:, 1]).min()) > 0


def test_sdedit_of_an_example_depends_on_its_index_alone():
    x, sampler = jax.random.normal(jax.random.key(3), (8, 2)), DDIM(eta=1.0)
    table = sampler.table(last_steps(make_steps(SCHEDULE, 6), 0.5))
    many = sdedit(sampler, DENOISER, x, table, jax.random.key(0))
    few = sdedit(sampler, DENOISER, x[3:5], table, jax.random.key(0), jnp.array([3, 4]))
    np.testing.assert_allclose(many[3:5], few, rtol=1e-4, atol=1e-5)


MIXTURE = gaussian_mixture_denoiser(
    np.array([0.5, 0.5]), np.array([[1.0, 0.0], [-1.0, 0.5]]), np.array([0.4, 0.6])
)


@pytest.mark.parametrize("schedule", [SCHEDULE, KarrasSchedule(), RectifiedFlow()], ids=str)
def test_images_come_back_and_codes_are_noise(schedule):
    spacing = "karras" if isinstance(schedule, KarrasSchedule) else "uniform"
    x = jnp.array([1.0, 0.0]) + 0.4 * jax.random.normal(jax.random.key(0), (512, 2))
    x = x.at[::2].set(jnp.array([-1.0, 0.5]) + 0.6 * jax.random.normal(jax.random.key(1), (256, 2)))
    errors = []
    for steps in (64, 128):
        levels = make_steps(schedule, steps, spacing)
        z = jax.jit(lambda x, levels=levels: encode(MIXTURE, x, levels))(x)
        again = jax.jit(lambda z, levels=levels: decode(MIXTURE, z, levels))(z)
        errors.append(float(jnp.abs(again - x).mean()))
    assert errors[1] < 0.05
    assert 1.6 < errors[0] / errors[1] < 2.6, "first order"
    scale = float(np.hypot(levels.a[0], levels.s[0]))
    z = np.asarray(z) / scale
    np.testing.assert_allclose(z.mean(0), 0, atol=4 / 512**0.5)
    np.testing.assert_allclose(np.cov(z.T), np.eye(2), atol=0.3)


def test_translation_of_gaussians_is_the_map_between_them():
    """From N(m, c^2 I) to N(n, d^2 I) by codes: n + (d / c) (x - m)."""
    source = gaussian_denoiser(np.array([1.0, 2.0]), 0.25 * np.eye(2))
    target = gaussian_denoiser(np.array([-1.0, 0.0]), 1.44 * np.eye(2))
    x = jax.random.normal(jax.random.key(0), (16, 2)) * 0.5 + jnp.array([1.0, 2.0])
    levels = make_steps(SCHEDULE, 400)
    moved = jax.jit(lambda x: translate(source, target, x, levels))(x)
    expected = np.array([-1.0, 0.0]) + 1.2 / 0.5 * (np.asarray(x) - np.array([1.0, 2.0]))
    np.testing.assert_allclose(moved, expected, atol=0.03)


def test_interpolation_ends_at_the_images():
    first, second = jax.random.normal(jax.random.key(0), (2, 4, 2)) * 0.6 + MEAN
    levels = make_steps(SCHEDULE, 200)
    between = jax.jit(
        lambda first, second: interpolate(
            DENOISER, first, second, jnp.array([0.0, 0.5, 1.0]), levels
        )
    )(first, second)
    assert between.shape == (3, 4, 2)
    np.testing.assert_allclose(between[0], first, atol=0.05)
    np.testing.assert_allclose(between[2], second, atol=0.05)


def test_slerp_follows_the_great_circle():
    """In the plane it is a rotation by equal angles; lengths of equal ends are kept."""
    angles = np.array([0.1, 1.0, 2.0, 3.0])
    first = np.stack([np.ones(4), np.zeros(4)], -1) * 2
    second = np.stack([np.cos(angles), np.sin(angles)], -1) * 2
    for share in (0.0, 0.25, 0.5, 1.0):
        expected = 2 * np.stack([np.cos(share * angles), np.sin(share * angles)], -1)
        np.testing.assert_allclose(slerp(first, second, share), expected, atol=1e-5)
    shares = jnp.array([0.0, 0.2, 0.9, 1.0])
    found = slerp(first, second, shares)
    expected = 2 * np.stack([np.cos(shares * angles), np.sin(shares * angles)], -1)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_slerp_of_noise_keeps_its_length():
    first, second = jax.random.normal(jax.random.key(0), (2, 3, 32, 32, 4))
    lengths = jnp.linalg.norm(slerp(first, second, 0.5).reshape(3, -1), axis=1)
    np.testing.assert_allclose(lengths, 64, rtol=0.03)


@pytest.mark.parametrize("other", [1.0, 2.0, -1.0])
def test_slerp_is_finite_where_the_angle_is_not_defined(other):
    z = jnp.array([[1.0, 2.0, 2.0]])
    total = lambda first, second: slerp(first, second, 0.3).sum()  # noqa: E731
    value, gradients = jax.value_and_grad(total, (0, 1))(z, other * z)
    assert bool(jnp.isfinite(value))
    assert all(bool(jnp.isfinite(gradient).all()) for gradient in gradients)
    np.testing.assert_allclose(value, (0.7 + 0.3 * other) * 5, rtol=1e-5)


def test_bad_input_is_named():
    levels = make_steps(SCHEDULE, 10)
    for strength in (0.0, 1.1):
        with pytest.raises(InputError, match=f"strength is {strength}, expected 0 < strength <= 1"):
            last_steps(levels, strength)
    with pytest.raises(InputError, match=r"strength is 0\.05: the last step begins at t=0\.1"):
        last_steps(levels, 0.05)
