"""Vectors as sequences of a few codes: principal components, each cut into equal buckets.

Ramesh et al. 2022, section 2.2: of CLIP's 1,024 numbers 319 principal components keep nearly all,
and are quantised in the order of their eigenvalues, the largest first. With m the mean, U the
components [K, C], a_k and b_k the least and largest of component k, and n buckets::

    code_k = floor(n (u_k (x - m) - a_k) / (b_k - a_k)),  kept within 0 .. n - 1
    x^     = m + sum_k u_k (a_k + (code_k + 1/2) (b_k - a_k) / n)

So a vector of those the codes were made of differs along a component by half a bucket at most.

The product of a text's and an image's vector is one more code, of buckets that are equally full:
codes in their upper half stand for images that fit their text better than the median.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxgen.errors import InputError


class VectorCodes(NamedTuple):
    """What codes mean.

    Attributes:
      mean_C: m.
      components_KC: U, rows of length one.
      least_K: a.
      largest_K: b.
      product_edges_P: where buckets of products meet, one fewer than there are buckets.
    """

    mean_C: Float[Array, "C"]
    components_KC: Float[Array, "K C"]
    least_K: Float[Array, "K"]
    largest_K: Float[Array, "K"]
    product_edges_P: Float[Array, "P"]

    @classmethod
    def empty(cls, channels: int, codes: int, products: int) -> "VectorCodes":
        """Zeros in the shapes of codes that are yet to be found."""
        shapes = (channels,), (codes, channels), (codes,), (codes,), (products - 1,)
        return cls(*(jnp.zeros(shape) for shape in shapes))

    def encode(self, vectors_BC: Float[Array, "B C"], buckets: int) -> Int[Array, "B K"]:
        """The codes of vectors.

        Args:
          vectors_BC: the vectors; what lies beyond the ends has the codes of the ends.
          buckets: n.
        """
        along_BK = (vectors_BC - self.mean_C) @ self.components_KC.T
        share_BK = (along_BK - self.least_K) / (self.largest_K - self.least_K)
        return jnp.clip(jnp.floor(share_BK * buckets), 0, buckets - 1).astype(jnp.int32)

    def decode(self, codes_BK: Int[Array, "B K"], buckets: int) -> Float[Array, "B C"]:
        """The vectors in the middle of buckets; the inverse of `encode`, to half a bucket."""
        share_BK = (codes_BK + 0.5) / buckets
        along_BK = self.least_K + share_BK * (self.largest_K - self.least_K)
        return self.mean_C + along_BK @ self.components_KC

    def encode_products(self, product_B: Float[Array, "B"]) -> Int[Array, "B"]:
        """The codes of products of vectors of texts and images, rising."""
        return jnp.searchsorted(self.product_edges_P, product_B).astype(jnp.int32)


def fit_vector_codes(
    vectors_NC: Float[np.ndarray, "N C"],
    product_N: Float[np.ndarray, "N"],
    codes: int,
    products: int,
) -> tuple[VectorCodes, float]:
    """Finds the components of vectors and the buckets of products.

    Args:
      vectors_NC: those of images that are trained on.
      product_N: of each with the vector of its text.
      codes: K, the components that are kept.
      products: buckets of products.

    Returns:
      What codes mean, and the share of the variance that the components keep.

    Raises:
      InputError: for more codes than components that differ between the vectors.
    """
    vectors = np.asarray(vectors_NC, np.float64)
    mean_C = vectors.mean(axis=0)
    variance_C, columns_CC = np.linalg.eigh(np.cov(vectors - mean_C, rowvar=False))
    variance_C, components_CC = variance_C[::-1], columns_CC.T[::-1]
    most = int((variance_C > 1e-10 * variance_C[0]).sum())
    if not 1 <= codes <= most:
        raise InputError(f"codes are {codes}, expected 1 to {most}, the components that differ")
    along_NK = (vectors - mean_C) @ components_CC[:codes].T
    edges_P = np.quantile(product_N, np.arange(1, products) / products)
    found = mean_C, components_CC[:codes], along_NK.min(axis=0), along_NK.max(axis=0), edges_P
    kept = float(variance_C[:codes].sum() / variance_C.sum())
    return VectorCodes(*(_float32(array) for array in found)), kept


def _float32(array: Any) -> Array:
    return jnp.asarray(np.ascontiguousarray(array), jnp.float32)
