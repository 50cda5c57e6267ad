"""PSNR of a part of pictures."""

import numpy as np
from jaxtyping import Float, Shaped

EXACT = 1e-10
"""The least error that counts as one."""


def masked_psnr(
    a: Float[np.ndarray, "N Y X C"],
    b: Float[np.ndarray, "N Y X C"],
    mask: Shaped[np.ndarray, "N Y X 1"],
) -> Float[np.ndarray, "M"]:
    """PSNR in dB of the pixels where a mask is 1, of each pair of pictures that has any.

    Args:
      a: pictures in [-1, 1].
      b: others.
      mask: 1 or True where they are compared.
    """
    count_N = mask.sum((1, 2, 3)) * a.shape[-1]
    error_N = (np.square(a - b) * mask).sum((1, 2, 3))
    mean_M = error_N[count_N > 0] / count_N[count_N > 0]
    return 10 * np.log10(4 / np.maximum(mean_M, EXACT))
