"""Linear compressors of blocks: the cosine transform with few coefficients, principal components.

A block of P_t x P_y x P_x pixels in C channels is a vector p of P numbers; with orthonormal vectors
U [P, K] of K < P vectors, ``z = p U`` and ``p^ = z U^T``. What such a transform reaches is what a
learnt compressor of the same rate has to beat.

* **Zonal coding** keeps the same K coefficients of the orthonormal cosine transform (DCT-II) in
  every block, those that vary most (Jain 1989, section 11.5). Colours are turned into grey and two
  differences first, also orthonormal.
* **Least squares** decodes a block from its own numbers and those of the blocks around it
  (`least_squares_kernel`): the best linear way to take away the seams that zonal coding leaves.
* **Principal components** (Karhunen-Loève) are the basis with the smallest squared error on the
  data that they are computed from.
"""

import itertools
import math
from collections.abc import Iterable

import numpy as np
from jaxtyping import Float, Float64

from jaxgen.errors import InputError

OPPONENT_COLOURS = np.array([[1, 1, 1], [1, 1, -2], [1, -1, 0]]) / np.sqrt([[3], [6], [2]])
"""Grey, yellow - blue and red - green of red, green, blue: orthonormal rows."""


def cosine_vectors(size: int) -> Float64[np.ndarray, "N N"]:
    """The orthonormal DCT-II of so many numbers: ``x @ result`` has frequency k at place k."""
    n = np.arange(size)
    vectors = np.cos(np.pi * (n[:, None] + 0.5) * n / size) * math.sqrt(2 / size)
    vectors[:, 0] /= math.sqrt(2)
    return vectors


def cosine_basis(patch: tuple[int, ...], channels: int) -> Float64[np.ndarray, "P P2"]:
    """All vectors of the cosine transform of a block, with opponent colours where there are three.

    Args:
      patch: sides of a block.
      channels: of the data; the last axis of a block.
    """
    basis = np.ones((1, 1))
    for side in patch:
        basis = np.kron(basis, cosine_vectors(side))
    return np.kron(basis, OPPONENT_COLOURS.T if channels == 3 else np.eye(channels))


def second_moments(batches: Iterable[Float[np.ndarray, "... P"]]) -> Float64[np.ndarray, "P P2"]:
    """``mean p^T p`` over all blocks.

    Raises:
      InputError: where there is no block.
    """
    total, count = np.zeros(()), 0
    for blocks in batches:
        flat = blocks.reshape(-1, blocks.shape[-1]).astype(np.float64)
        total, count = total + flat.T @ flat, count + len(flat)
    if not count:
        raise InputError("there are no blocks, expected one or more")
    return total / count


def zonal_basis(
    moments: Float[np.ndarray, "P P2"], patch: tuple[int, ...], channels: int, kept: int
) -> Float64[np.ndarray, "P K"]:
    """The vectors of the cosine transform whose coefficients are largest.

    Args:
      moments: `second_moments` of blocks.
      patch: sides of a block.
      channels: of the data.
      kept: K.

    Raises:
      InputError: for more vectors than numbers.
    """
    _check_kept(moments, kept)
    basis = cosine_basis(patch, channels)
    power = np.einsum("pk,pq,qk->k", basis, moments, basis)
    return basis[:, np.argsort(-power, kind="stable")[:kept]]


def principal_basis(moments: Float[np.ndarray, "P P2"], kept: int) -> Float64[np.ndarray, "P K"]:
    """The eigenvectors of the K largest second moments.

    Raises:
      InputError: for more vectors than numbers.
    """
    _check_kept(moments, kept)
    return np.linalg.eigh(moments)[1][:, ::-1][:, :kept]


def least_squares_kernel(
    pairs: Iterable[tuple[Float[np.ndarray, "T Y X K"], Float[np.ndarray, "T Y X P"]]],
    *,
    first_frame: bool = True,
    ridge: float = 1e-4,
) -> Float64[np.ndarray, "3 3 3 K P"]:
    """The causal kernel that predicts blocks from latents with the smallest squared error.

    A block is predicted from the latents of its own time and the two before, 3 x 3 positions of
    each; around frames there are zeros.

    Args:
      pairs: latents and blocks of videos.
      first_frame: whether the first latents are repeated in front of a video; False: zeros.
      ridge: added to the diagonal of the normal equations, in units of its mean.

    Raises:
      InputError: where there is no video.
    """
    inner: np.ndarray = np.zeros(())
    outer: np.ndarray = np.zeros(())
    count = 0
    for z, blocks in pairs:
        around = _neighbourhoods(z.astype(np.float64), first_frame).reshape(-1, 27 * z.shape[-1])
        inner = inner + around.T @ around
        outer = outer + around.T @ blocks.reshape(-1, blocks.shape[-1])
        count += 1
    if not count:
        raise InputError("there are no videos, expected one or more")
    shift = ridge * np.trace(inner) / len(inner) * np.eye(len(inner))
    return np.linalg.solve(inner + shift, outer).reshape(3, 3, 3, -1, outer.shape[-1])


def _neighbourhoods(
    z: Float[np.ndarray, "T Y X K"], first_frame: bool
) -> Float[np.ndarray, "T Y X 27 K"]:
    """The latents around each position, in the order of a kernel's time, row and column."""
    frames, height, width, _ = z.shape
    before = z[:1].repeat(2, 0) if first_frame else np.zeros_like(z[:1].repeat(2, 0))
    padded = np.pad(np.concatenate([before, z]), ((0, 0), (1, 1), (1, 1), (0, 0)))
    shifted = [
        padded[t : t + frames, y : y + height, x : x + width]
        for t, y, x in itertools.product(range(3), repeat=3)
    ]
    return np.stack(shifted, axis=-2)


def _check_kept(moments: np.ndarray, kept: int) -> None:
    if not 1 <= kept <= len(moments):
        raise InputError(f"kept is {kept}, expected 1 to {len(moments)}, the numbers of a block")
