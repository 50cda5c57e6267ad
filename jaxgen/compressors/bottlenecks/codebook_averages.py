"""A codebook that is the moving average of what is quantised to it (EMA).

Without gradients (van den Oord et al. 2017, appendix A.1): with n_k positions of a batch at code k
and s_k the sum of their vectors, d the decay and K codes::

    N_k <- d N_k + (1 - d) n_k,   M_k <- d M_k + (1 - d) s_k
    e_k = M_k / N~_k,             N~_k = (N_k + eps) / (sum N + K eps) sum N,   eps = 1e-5

A code is dead when N_k falls below a threshold. It becomes the vector of a random position of the
batch, with N_k at the threshold, so that it has time to be used.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxgen.compressors.bottlenecks.codebook_usage import code_counts
from jaxgen.errors import InputError

EPSILON = 1e-5


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class CodebookStatistics:
    """What is averaged, float32.

    Attributes:
      count_K: N.
      total_KD: M.
    """

    count_K: Float[Array, "K"]
    total_KD: Float[Array, "K D"]

    @property
    def codebook_KD(self) -> Float[Array, "K D"]:
        """e."""
        return self.total_KD / _smoothed(self.count_K)[:, None]


def _smoothed(count_K: Float[Array, "K"]) -> Float[Array, "K"]:
    """N~ of the module's equation: no code has a count of 0."""
    total = count_K.sum()
    return (count_K + EPSILON) / (total + len(count_K) * EPSILON) * total


def update_codebook(
    statistics: CodebookStatistics,
    z: Float[Array, "*N D"],
    codes: Int[Array, "*N"],
    key: Array | None = None,
    *,
    decay: float = 0.99,
    revive_below: float = 0.0,
) -> CodebookStatistics:
    """The statistics after a batch; of one that is sharded, those of the whole batch.

    Args:
      statistics: those before.
      z: what was quantised.
      codes: to which codes.
      key: of the positions that dead codes become.
      decay: d.
      revive_below: the threshold, in positions per batch; 0: no code is revived.

    Raises:
      InputError: where codes are to be revived: without a key, or where codes that are used equally
        would be dead in a batch of this size.
    """
    codes_N, z_ND = codes.ravel(), jax.lax.stop_gradient(z).reshape(-1, z.shape[-1])
    size = len(statistics.count_K)
    count_K = code_counts(codes_N, size).astype(jnp.float32)
    total_KD = jax.ops.segment_sum(z_ND, codes_N, size)
    count_K = decay * statistics.count_K + (1 - decay) * count_K
    total_KD = decay * statistics.total_KD + (1 - decay) * total_KD
    if not revive_below:
        return CodebookStatistics(count_K, total_KD)
    if key is None:
        raise InputError("key is None, expected a key: dead codes become random positions")
    if len(z_ND) < revive_below * size:
        raise InputError(
            f"revive_below is {revive_below}, expected at most {len(z_ND) / size:.3g}: a batch has "
            f"{len(z_ND)} positions for {size} codes"
        )
    rows_K = jax.random.choice(key, len(z_ND), (size,), replace=len(z_ND) < size)
    dead_K = count_K < revive_below
    return CodebookStatistics(
        jnp.where(dead_K, revive_below, count_K),
        jnp.where(dead_K[:, None], revive_below * z_ND[rows_K], total_KD),
    )
