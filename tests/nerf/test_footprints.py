"""Moments of frustums against exact integrals and samples; finite at points and at the camera."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import nerf

frustum_moments = jax.jit(nerf.frustum_moments)
frustum_gaussian = jax.jit(nerf.frustum_gaussian)


def exact_moments(t0, t1, radius):
    """Integrals of t^k over a frustum, whose section at t has an area as t^2, in float64.

    The section is a disc of radius r t: a coordinate across has the variance r^2 t^2 / 4 in it.
    """
    volume, first, second, fourth = ((t1**k - t0**k) / k for k in (3, 4, 5, 5))
    mean = first / volume
    return mean, second / volume - mean**2, radius**2 / 4 * fourth / volume


def test_moments_are_the_integrals_over_the_frustum():
    rng = np.random.default_rng(0)
    t0 = rng.uniform(0, 5, (6, 30))
    t0[:, 0] = 0
    t1 = t0 + 10 ** rng.uniform(-1.5, 1.5, t0.shape)
    radius = rng.uniform(1e-3, 1, (6, 1))
    expected = exact_moments(t0, t1, radius)
    found = frustum_moments(*(jnp.asarray(x, jnp.float32) for x in (t0, t1, radius)))
    for one, other in zip(found, expected, strict=True):
        assert one.shape == (6, 30)
        np.testing.assert_allclose(one, other, rtol=2e-4)


def test_short_intervals_far_away_lose_no_digits():
    """t_mean^2 is 1e9 times the variance there."""
    t0 = jnp.float32(1000.0)
    t1 = t0 + jnp.float32(0.0625)
    t_mean, t_var, r_var = frustum_moments(t0[None], t1[None], 0.5)
    assert float(t_mean[0]) == pytest.approx(1000.03125, abs=1e-4)
    assert float(t_var[0]) == pytest.approx(0.0625**2 / 12, rel=1e-5)
    assert float(r_var[0]) == pytest.approx(0.25 * 1000.03125**2 / 4, rel=1e-5)


def test_a_gaussian_has_the_moments_of_samples():
    rng = np.random.default_rng(1)
    count, t0, t1, radius = 400_000, 0.5, 3.0, 0.4
    # Uniform in the volume: t^3 is uniform, and the place in the disc.
    t = rng.uniform(t0**3, t1**3, count) ** (1 / 3)
    length, angle = radius * t * np.sqrt(rng.uniform(size=count)), rng.uniform(0, 2 * np.pi, count)
    axes, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    local = np.stack([t, length * np.cos(angle), length * np.sin(angle)], axis=-1)
    origin = np.array([1.0, -2, 0.5])
    points = origin + local @ axes.T
    arrays = (origin[None], axes[None, :, 0], [[t0]], [[t1]], [[radius]])
    mean, covariance = frustum_gaussian(*(jnp.asarray(x, jnp.float32) for x in arrays))
    assert mean.shape == (1, 1, 3)
    assert covariance.shape == (1, 1, 3, 3)
    np.testing.assert_allclose(mean[0, 0], points.mean(axis=0), atol=5e-3)
    np.testing.assert_allclose(covariance[0, 0], np.cov(points.T), atol=3e-3)
    assert np.linalg.eigvalsh(covariance[0, 0]).min() > 0.1


def test_values_and_gradients_are_finite_at_points_and_at_the_camera():
    ends = np.array([[0, 0, 1, 0, 1e-20, 1e-13, 1e3], [0, 1, 1, 1e-6, 1e-20, 2e-13, 1e3]])
    t0, t1 = jnp.asarray(ends, jnp.float32)
    origin, direction = jnp.zeros(3), jnp.array([0.0, 0.6, 0.8])

    def total(t0, t1, radius, direction):
        mean, covariance = nerf.frustum_gaussian(origin, direction, t0, t1, radius)
        return mean.sum() + covariance.sum(), (mean, covariance)

    gradient = jax.jit(jax.grad(total, argnums=(0, 1, 2, 3), has_aux=True))
    gradients, values = gradient(t0, t1, jnp.full(1, 0.1), direction)
    assert all(np.isfinite(x).all() for x in (*gradients, *values))
    t_mean, t_var, r_var = frustum_moments(t0, t1, 0.1)
    np.testing.assert_allclose(t_mean[jnp.array([0, 2, 6])], [0, 1, 1000])
    np.testing.assert_allclose(t_var[jnp.array([0, 2, 6])], 0, atol=1e-6)
    # A cone: 3/4 of its height from the tip, 3/80 of its square, 3/20 of the squared radius.
    np.testing.assert_allclose([t_mean[1], t_var[1], r_var[1]], [3 / 4, 3 / 80, 0.0015], rtol=1e-6)


def test_a_cylinder():
    t0, t1 = jnp.array([[1.0, 2.0]]), jnp.array([[2.0, 2.0]])
    t_mean, t_var, r_var = jax.jit(nerf.cylinder_moments)(t0, t1, jnp.array([[0.5]]))
    np.testing.assert_allclose(t_mean, [[1.5, 2]])
    np.testing.assert_allclose(t_var, [[1 / 12, 0]])
    np.testing.assert_allclose(r_var, [[1 / 16, 1 / 16]])
