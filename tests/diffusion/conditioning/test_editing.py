"""SDEdit, encoding and interpolation where the data are Gaussian, so that all of it is known."""

import jax
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


def normal(count, *shape):
    return np.random.default_rng(3).normal(size=(count, *(shape or (2,)))).astype(np.float32)


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
    x, sampler = np.broadcast_to(np.float32([-1.0, 1.0]), (4096, 2)), DDIM(eta=1.0)
    levels = last_steps(make_steps(SCHEDULE, 200), strength)
    run = jax.jit(lambda x, key: sdedit(sampler, DENOISER, x, levels, key))
    samples = np.asarray(run(x, jax.random.key(0)))
    a, s = levels.a[0], levels.s[0]
    gain = a * COVARIANCE @ np.linalg.inv(a * a * COVARIANCE + s * s * np.eye(2))
    mean = MEAN + gain @ (a * np.array([-1.0, 1.0]) - a * MEAN)
    covariance = COVARIANCE - a * gain @ COVARIANCE + s * s * gain @ gain.T
    np.testing.assert_allclose(samples.mean(0), mean, atol=4 * 0.7 / 64 + 0.01)
    np.testing.assert_allclose(np.cov(samples.T), covariance, atol=0.05)


def test_little_strength_keeps_the_image_and_much_forgets_it():
    x, levels = normal(8), make_steps(SCHEDULE, 50)
    distances = []
    for strength in (0.04, 0.4, 1.0):
        part = last_steps(levels, strength)
        run = jax.jit(lambda x, part=part: sdedit(DDIM(), DENOISER, x, part, jax.random.key(0)))
        edited = [np.asarray(run(y)) for y in (x, 3 - x)]
        distances.append(np.abs(edited[0] - x).mean())
        kept = np.abs(edited[0] - edited[1]).mean() / np.abs(2 * x - 3).mean()
    assert distances[0] < 0.1 < distances[1] < distances[2]
    assert kept < 1e-3


def test_sdedit_within_a_mask_leaves_the_rest():
    x = normal(8)
    sampler = Replacement(DDIM(), np.float32([1.0, 0.0]), x)
    levels = last_steps(make_steps(SCHEDULE, 20), 0.5)
    run = jax.jit(lambda x: sdedit(sampler, DENOISER, x, levels, jax.random.key(0)))
    edited = np.asarray(run(x))
    np.testing.assert_array_equal(edited[:, 0], x[:, 0])
    assert np.abs(edited[:, 1] - x[:, 1]).min() > 0


def test_sdedit_of_an_example_depends_on_its_index_alone():
    x, sampler, other = normal(8), DDIM(eta=1.0), np.array([3, 4, 4, 0, 7, 2, 1, 1])
    levels = last_steps(make_steps(SCHEDULE, 6), 0.5)
    run = jax.jit(lambda x, i: sdedit(sampler, DENOISER, x, levels, jax.random.key(0), i))
    whole = np.asarray(run(x, np.arange(8)))
    np.testing.assert_allclose(run(x[other], other), whole[other], rtol=1e-4, atol=1e-5)


MIXTURE = gaussian_mixture_denoiser(
    np.array([0.5, 0.5]), np.array([[1.0, 0.0], [-1.0, 0.5]]), np.array([0.4, 0.6])
)


@pytest.mark.parametrize("schedule", [SCHEDULE, KarrasSchedule(), RectifiedFlow()], ids=str)
def test_images_come_back_and_codes_are_noise(schedule):
    spacing = "karras" if isinstance(schedule, KarrasSchedule) else "uniform"
    x = np.float32([1.0, 0.0]) + 0.4 * normal(512)
    x[::2] = np.float32([-1.0, 0.5]) + 0.6 * normal(512)[::2]
    errors = []
    for steps in (64, 128):
        levels = make_steps(schedule, steps, spacing)
        z = jax.jit(lambda x, levels=levels: encode(MIXTURE, x, levels))(x)
        again = jax.jit(lambda z, levels=levels: decode(MIXTURE, z, levels))(z)
        errors.append(np.abs(again - x).mean())
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
    x = normal(16) * 0.5 + np.float32([1.0, 2.0])
    levels = make_steps(SCHEDULE, 400)
    moved = jax.jit(lambda x: translate(source, target, x, levels))(x)
    expected = np.array([-1.0, 0.0]) + 1.2 / 0.5 * (x - np.array([1.0, 2.0]))
    np.testing.assert_allclose(moved, expected, atol=0.03)


def test_interpolation_ends_at_the_images():
    first, second = np.float32(normal(2, 4, 2) * 0.6 + MEAN)
    levels, shares = make_steps(SCHEDULE, 200), np.float32([0.0, 0.5, 1.0])
    run = jax.jit(lambda first, second: interpolate(DENOISER, first, second, shares, levels))
    between = np.asarray(run(first, second))
    assert between.shape == (3, 4, 2)
    np.testing.assert_allclose(between[0], first, atol=0.05)
    np.testing.assert_allclose(between[2], second, atol=0.05)


def test_slerp_follows_the_great_circle():
    """In the plane it is a rotation by equal angles; lengths of equal ends are kept."""
    angles = np.array([0.1, 1.0, 2.0, 3.0])
    first = np.stack([np.ones(4), np.zeros(4)], -1) * 2
    second = np.stack([np.cos(angles), np.sin(angles)], -1) * 2
    between = jax.jit(slerp)
    for share in (0.0, 0.25, 0.5, 1.0):
        expected = 2 * np.stack([np.cos(share * angles), np.sin(share * angles)], -1)
        np.testing.assert_allclose(between(first, second, share), expected, atol=1e-5)
    shares = np.float32([0.0, 0.2, 0.9, 1.0])
    found = between(first, second, shares)
    expected = 2 * np.stack([np.cos(shares * angles), np.sin(shares * angles)], -1)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_slerp_of_noise_keeps_its_length():
    first, second = normal(2, 3, 32, 32, 4)
    between = np.asarray(jax.jit(slerp)(first, second, 0.5))
    lengths = np.linalg.norm(between.reshape(3, -1), axis=1)
    np.testing.assert_allclose(lengths, 64, rtol=0.03)


def test_slerp_is_finite_where_the_angle_is_not_defined():
    z = np.float32([[1.0, 2.0, 2.0]])
    total = lambda first, second: slerp(first, second, 0.3).sum()  # noqa: E731
    run = jax.jit(jax.value_and_grad(total, (0, 1)))
    for other in (1.0, 2.0, -1.0):
        value, gradients = run(z, np.float32(other * z))
        assert np.isfinite(value)
        assert np.isfinite(gradients).all()
        np.testing.assert_allclose(value, (0.7 + 0.3 * other) * 5, rtol=1e-5, err_msg=str(other))


def test_bad_input_is_named():
    levels = make_steps(SCHEDULE, 10)
    for strength in (0.0, 1.1):
        with pytest.raises(InputError, match=f"strength is {strength}, expected 0 < strength <= 1"):
            last_steps(levels, strength)
    with pytest.raises(InputError, match=r"strength is 0\.05: the last step begins at t=0\.1"):
        last_steps(levels, 0.05)
