"""Waves against numpy, spherical harmonics against scipy."""

import jax
import numpy as np

from jaxgen import nerf

encode_position = jax.jit(nerf.encode_position, static_argnums=1, static_argnames="include_input")
spherical_harmonics = jax.jit(nerf.spherical_harmonics)


def directions(count=200):
    d = np.random.default_rng(0).normal(size=(count, 3))
    return (d / np.linalg.norm(d, axis=1, keepdims=True)).astype(np.float32)


def test_waves_octave_by_octave():
    x = np.random.default_rng(0).uniform(-1, 1, size=(4, 5, 3)).astype(np.float32)
    parts = [x]
    for k in range(6):
        parts += [np.sin(2.0**k * x), np.cos(2.0**k * x)]
    expected = np.concatenate(parts, axis=-1)
    np.testing.assert_allclose(encode_position(x, 6), expected, atol=1e-5)
    found = encode_position(x, 6, include_input=False)
    np.testing.assert_allclose(found, expected[..., 3:], atol=1e-5)


def test_harmonics_are_those_of_scipy():
    """Real ones from its complex ones: sqrt(2) times the real and imaginary part."""
    from scipy.special import sph_harm_y

    d = directions()
    polar, around = np.arccos(d[:, 2].astype(np.float64)), np.arctan2(d[:, 1], d[:, 0])
    expected = []
    for degree in range(4):
        for order in range(-degree, degree + 1):
            value = sph_harm_y(degree, abs(order), polar, around)
            part = value.imag if order < 0 else value.real
            expected.append(part * (np.sqrt(2) if order else 1))
    found = spherical_harmonics(d)
    assert found.shape == (200, 16)
    np.testing.assert_allclose(found, np.stack(expected, axis=-1), atol=1e-5)


def test_harmonics_are_orthonormal_on_the_sphere():
    """By Gauss-Legendre in z and even steps around: exact for these polynomials."""
    z, weight = np.polynomial.legendre.leggauss(8)
    around = 2 * np.pi * np.arange(16) / 16
    flat = np.sqrt(1 - z**2)[:, None]
    d = np.stack([flat * np.cos(around), flat * np.sin(around), z[:, None] + 0 * around], axis=-1)
    found = np.asarray(spherical_harmonics(d.reshape(-1, 3).astype(np.float32)), np.float64)
    weights = np.repeat(weight, 16) * 2 * np.pi / 16
    np.testing.assert_allclose((found * weights[:, None]).T @ found, np.eye(16), atol=1e-5)
