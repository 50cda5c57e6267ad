"""Denoisers that are formulas: for Gaussian data and mixtures, E[x | z] is known exactly.

With them samplers, bounds, guidance and distillation can be checked, and explained, without any
trained network. Symbols: z = a x + s e; component k of the data has weight w_k, mean m_k and
covariance c_k^2 I (or any covariance, for a single Gaussian)::

    z | k ~ N(a m_k, (a^2 c_k^2 + s^2) I)
    E[x | z, k] = m_k + a c_k^2 / (a^2 c_k^2 + s^2) (z - a m_k)
    P(k | z) ~ w_k N(z; a m_k, (a^2 c_k^2 + s^2) I)
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgen.diffusion.denoiser import Denoiser, Estimate
from jaxgen.diffusion.process.levels import Level, broadcast_level, expand
from jaxgen.errors import InputError


def gaussian_denoiser(mean_D: Float[Array, "D"], covariance_DD: Float[Array, "D D"]) -> Denoiser:
    """The optimal denoiser of data ~ N(mean, covariance), for latents [B, D].

    ``E[e | z] = s (a^2 C + s^2 I)^-1 (z - a m)`` and ``E[x | z] = m + a C (...)^-1 (z - a m)``,
    through the eigenvectors of C; C may be singular.

    Raises:
      InputError: where the shapes do not fit.

    Example:
      >>> from jaxgen.diffusion import CosineSchedule
      >>> denoiser = gaussian_denoiser(np.array([2.0]), np.array([[1.0]]))
      >>> level = CosineSchedule().at(np.array([0.5]))  # a = s
      >>> x, e = denoiser(level.a * 2 + np.zeros((1, 1)), level)[:2]
      >>> round(float(x[0, 0]), 5), round(abs(float(e[0, 0])), 5)
      (2.0, 0.0)
    """
    mean_D, covariance_DD = jnp.asarray(mean_D), jnp.asarray(covariance_DD)
    if covariance_DD.shape != mean_D.shape * 2:
        raise InputError(
            f"covariance has shape {covariance_DD.shape}, expected {mean_D.shape * 2} for a mean "
            f"of shape {mean_D.shape}"
        )
    variance_D, axes_DD = jnp.linalg.eigh(covariance_DD)
    variance_D = jnp.maximum(variance_D, 0.0)

    def denoiser(z_BD: Float[Array, "B ... D"], level: Level) -> Estimate:
        a, s = (expand(value, z_BD) for value in broadcast_level(level, len(z_BD))[2:])
        total_BD = a * a * variance_D + s * s
        rest_BD = (z_BD - a * mean_D) @ axes_DD / jnp.where(total_BD > 0, total_BD, 1.0)
        return Estimate(mean_D + (a * variance_D * rest_BD) @ axes_DD.T, (s * rest_BD) @ axes_DD.T)

    return denoiser


def gaussian_mixture_denoiser(
    weights_K: Float[Array, "K"],
    means_KD: Float[Array, "K D"],
    deviations_K: Float[Array, "K"],
) -> Denoiser:
    """The optimal denoiser of a mixture of round Gaussians, for latents [B, D].

    Args:
      weights_K: w, summing to one.
      means_KD: m.
      deviations_K: c; zero for a component that is a point (then a set of points is meant, and the
        denoiser is that of an empirical distribution).
    """
    weights_K, means_KD, deviations_K = map(jnp.asarray, (weights_K, means_KD, deviations_K))

    def denoiser(z_BD: Float[Array, "B D"], level: Level) -> Estimate:
        a_B, s_B = broadcast_level(level, len(z_BD))[2:]
        share_BK = jax.nn.softmax(_log_joint(z_BD, a_B, s_B, weights_K, means_KD, deviations_K))
        total_BK = _variances(a_B, s_B, deviations_K)
        rest_BKD = (z_BD[:, None] - a_B[:, None, None] * means_KD) / total_BK[..., None]
        e_BD = s_B[:, None] * jnp.einsum("BK,BKD->BD", share_BK, rest_BKD)
        gain_BK = a_B[:, None] * deviations_K**2
        x_BKD = means_KD + gain_BK[..., None] * rest_BKD
        return Estimate(jnp.einsum("BK,BKD->BD", share_BK, x_BKD), e_BD)

    return denoiser


def gaussian_mixture_log_density(
    z_BD: Float[Array, "B D"],
    level: Level,
    weights_K: Float[Array, "K"],
    means_KD: Float[Array, "K D"],
    deviations_K: Float[Array, "K"],
) -> Float[Array, "B"]:
    """log p(z) in nats of latents at a level; at a = 1, s = 0 the density of the data."""
    a_B, s_B = broadcast_level(level, len(z_BD))[2:]
    joint_BK = _log_joint(z_BD, a_B, s_B, weights_K, means_KD, deviations_K)
    return jax.nn.logsumexp(joint_BK, axis=-1)


def _variances(a_B: Array, s_B: Array, deviations_K: Array) -> Float[Array, "B K"]:
    """a^2 c^2 + s^2, kept away from zero."""
    total_BK = (a_B[:, None] * deviations_K) ** 2 + s_B[:, None] ** 2
    return jnp.maximum(total_BK, 1e-30)


def _log_joint(
    z_BD: Array, a_B: Array, s_B: Array, weights_K: Array, means_KD: Array, deviations_K: Array
) -> Float[Array, "B K"]:
    """log w_k N(z; a m_k, a^2 c_k^2 + s^2)."""
    total_BK = _variances(a_B, s_B, jnp.asarray(deviations_K))
    distance_BK = ((z_BD[:, None] - a_B[:, None, None] * means_KD) ** 2).sum(-1)
    width = z_BD.shape[-1]
    normaliser_BK = width / 2 * (math.log(2 * math.pi) + jnp.log(total_BK))
    return jnp.log(weights_K) - distance_BK / (2 * total_BK) - normaliser_BK
