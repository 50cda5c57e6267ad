"""Waves against numpy, spherical harmonics against scipy."""

import jax
import numpy as np
import pytest

from jaxgen import nerf
from jaxgen.nerf.encodings import basis_directions, integrated_encoding

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


@pytest.mark.parametrize("basis", ["axes", "icosahedron"])
def test_integrated_waves_are_means_over_gaussians(basis):
    """Against 400,000 samples; and with no covariance, the waves of the mean."""
    rng = np.random.default_rng(0)
    root = rng.normal(size=(3, 3)) * 0.3
    mean = np.array([0.3, -0.7, 1.1])
    draws = (mean + rng.normal(size=(400_000, 3)) @ root.T).astype(np.float32)
    directions = basis_directions(basis)
    angles = draws @ directions
    expected = [f(angles * 2.0**octave).mean(0) for octave in range(4) for f in (np.sin, np.cos)]
    integrated = jax.jit(integrated_encoding, static_argnums=(2, 3))
    found = integrated(mean.astype(np.float32), (root @ root.T).astype(np.float32), 4, basis)
    np.testing.assert_allclose(found, np.concatenate(expected), atol=5e-3)
    sharp = integrated(mean.astype(np.float32), np.zeros((3, 3), np.float32), 4, basis)
    waves = [f(mean @ directions * 2.0**octave) for octave in range(4) for f in (np.sin, np.cos)]
    np.testing.assert_allclose(sharp, np.concatenate(waves), atol=1e-5)


def test_the_icosahedron_has_21_directions_spread_evenly():
    """Unit vectors, no two opposite, whose outer products average to a third of the identity."""
    directions = basis_directions("icosahedron")
    assert directions.shape == (3, 21)
    np.testing.assert_allclose(np.linalg.norm(directions, axis=0), 1)
    cosines = np.abs(directions.T @ directions)[~np.eye(21, dtype=bool)]
    assert cosines.max() < np.cos(np.radians(30))
    np.testing.assert_allclose(directions @ directions.T / 21, np.eye(3) / 3, atol=1e-9)
