"""Gaussian videos that are AR(1) in time: their exact denoiser at a level for each frame."""

import jax.numpy as jnp
import numpy as np

from jaxgen.diffusion.denoiser import Estimate

CORRELATION = 0.8


def ar1_denoiser(z, level):
    """E[x | z] of stationary AR(1) pixels of variance 1 in [B, T, C], at levels [], [B] or [B, T].

    Levels are those of the first example. ``z = A x + S e`` with A and S diagonal in time, so that
    ``E[x | z] = C A (A C A + S^2)^-1 z`` and ``E[e | z] = S (A C A + S^2)^-1 z``.
    """
    frames = jnp.arange(z.shape[1])
    a, s = (jnp.broadcast_to(jnp.asarray(v), z.shape[:1] + jnp.shape(v)[1:])[0] for v in level[2:])
    a, s = (jnp.broadcast_to(value, frames.shape) for value in (a, s))
    covariance = CORRELATION ** jnp.abs(frames[:, None] - frames)
    total = a[:, None] * covariance * a + jnp.diag(s**2)
    rest = jnp.einsum("ij,bjc->bic", jnp.linalg.inv(total), z)
    return Estimate(jnp.einsum("ij,bjc->bic", covariance * a, rest), s[:, None] * rest)


def correlations(x_BT, lags=(1, 2)):
    """The variance of all frames, and correlations of frames so far apart."""
    x_BT = np.asarray(x_BT, np.float64)
    variance = (x_BT**2).mean()
    return variance, *((x_BT[:, :-lag] * x_BT[:, lag:]).mean() / variance for lag in lags)
