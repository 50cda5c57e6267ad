"""Where along rays a field is evaluated.

A ray is cut into S intervals by S + 1 rising edges. Edges are first spread evenly; then placed by
the weights of a first pass (Mildenhall et al. 2020, section 5.2): with the weights as a density
that is constant on each interval, and F its cumulative sum from 0 to 1, a new edge is F^-1(u).
Distances are constants: no gradient passes through them.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

PADDING = 1e-2
"""Added to each weight before intervals are placed, so that no part of a ray is left unseen."""


def even_edges(
    near: Float[Array, "*B"], far: Float[Array, "*B"], samples: int
) -> Float[Array, "*B S1"]:
    """S + 1 edges, evenly spaced from near to far."""
    share = jnp.linspace(0.0, 1.0, samples + 1)
    return jax.lax.stop_gradient(near[..., None] + (far - near)[..., None] * share)


def stratified_distances(
    edges: Float[Array, "*B S1"], jitter: Float[Array, "*B S"] | None = None
) -> Float[Array, "*B S"]:
    """One distance in each interval: ``edge_k + (edge_{k+1} - edge_k) jitter``.

    Args:
      edges: S + 1 rising edges of each ray.
      jitter: numbers in [0, 1), uniform for a stratified sample; None: midpoints.
    """
    share = 0.5 if jitter is None else jitter
    return edges[..., :-1] + jnp.diff(edges, axis=-1) * share


def resampled_edges(
    edges: Float[Array, "*B S1"],
    weights: Float[Array, "*B S"],
    samples: int,
    jitter: Float[Array, "*B M0"] | None = None,
    padding: float = PADDING,
) -> Float[Array, "*B M1"]:
    """New edges such that all intervals hold the same share of the weights.

    ``u_k = (k + jitter_k - 1/2) / M`` for k = 1 ... M - 1; the first and the last edge are kept, so
    that the new intervals cover what the old ones did.

    Args:
      edges: S + 1 rising edges of each ray.
      weights: of the S intervals, 0 or more.
      samples: M, the number of new intervals.
      jitter: M - 1 uniform numbers in [0, 1) for each ray; None: 1/2.
      padding: added to the weights.
    """
    share = jnp.arange(1, samples)
    share = share if jitter is None else share + jitter - 0.5
    share = jnp.broadcast_to(share / samples, (*edges.shape[:-1], samples - 1))
    inner = inverse_cdf(edges, weights + padding, share)
    ends = jax.lax.stop_gradient((edges[..., :1], edges[..., -1:]))
    return jnp.concatenate([ends[0], inner, ends[1]], axis=-1)


def jittered_edges(
    edges: Float[Array, "*B S1"], jitter: Float[Array, "*B S"]
) -> Float[Array, "*B S1"]:
    """Even edges, each inner one moved by up to half an interval; the ends stay.

    Args:
      edges: S + 1 even edges of each ray.
      jitter: uniform numbers in [0, 1), of which the last is not used.
    """
    moved = edges[..., 1:-1] + (jitter[..., :-1] - 0.5) * jnp.diff(edges, axis=-1)[..., :-1]
    return jnp.concatenate([edges[..., :1], moved, edges[..., -1:]], axis=-1)


def blurred_weights(weights: Float[Array, "*B S"]) -> Float[Array, "*B S"]:
    """``(max(w_(i-1), w_i) + max(w_i, w_(i+1))) / 2``: a wide bound of where weight may be.

    Barron et al. 2021, "Mip-NeRF", equation 18, with which coarse weights place fine intervals.
    """
    padded = jnp.concatenate([weights[..., :1], weights, weights[..., -1:]], axis=-1)
    largest = jnp.maximum(padded[..., :-1], padded[..., 1:])
    return (largest[..., :-1] + largest[..., 1:]) / 2


def inverse_cdf(
    edges: Float[Array, "*B S1"], weights: Float[Array, "*B S"], u: Float[Array, "*B M"]
) -> Float[Array, "*B M"]:
    """``F^-1(u)`` of a density that is constant on each interval; piecewise linear in u.

    Args:
      edges: S + 1 rising edges of each ray.
      weights: of the S intervals, 0 or more; they need not sum to 1. All 0: even weights.
      u: in [0, 1].
    """
    edges, weights, u = jax.lax.stop_gradient((edges, weights, u))
    total = weights.sum(axis=-1, keepdims=True)
    weights = jnp.where(total > 0, weights, 1.0)
    cumulative = jnp.cumsum(weights, axis=-1)
    cumulative = cumulative / cumulative[..., -1:]
    cumulative = jnp.concatenate([jnp.zeros_like(total), cumulative], axis=-1)
    flat = [x.reshape(-1, x.shape[-1]) for x in (u, cumulative, edges)]
    return jax.vmap(_interpolate)(*flat).reshape(u.shape)


def _interpolate(u_M: Array, cumulative_S: Array, edges_S: Array) -> Array:
    """F^-1 of one ray; a bin without weight is never entered."""
    bins = cumulative_S.shape[0] - 1
    above_M = jnp.searchsorted(cumulative_S, u_M, side="right", method="compare_all")
    bin_M = jnp.clip(above_M - 1, 0, bins - 1)
    low_M, high_M = cumulative_S[bin_M], cumulative_S[bin_M + 1]
    share_M = jnp.clip((u_M - low_M) / jnp.maximum(high_M - low_M, 1e-30), 0, 1)
    return edges_S[bin_M] + share_M * (edges_S[bin_M + 1] - edges_S[bin_M])


def ray_jitter(key: Key[Array, ""], rays: Array, samples: int) -> Float[Array, "R S"]:
    """Uniform numbers of rays, that depend on the key and on a ray's number alone.

    Args:
      key: a key.
      rays: the numbers of the rays, [R] integers.
      samples: S.
    """
    keys_R = jax.vmap(jax.random.fold_in, (None, 0))(key, rays)
    return jax.vmap(lambda key: jax.random.uniform(key, (samples,)))(keys_R)
