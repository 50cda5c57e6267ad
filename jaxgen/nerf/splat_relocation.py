"""A fixed number of Gaussians that goes where it is needed (Kheradmand et al. 2024).

"3D Gaussian Splatting as Markov Chain Monte Carlo" takes Gaussians for samples of a distribution.
In place of splitting and pruning by rules, their number stays, and two things happen:

**Noise** (equation 7). The transparent ones explore: to a mean is added

    rate  sigmoid(-k (o - t))  Sigma  z,   z normal, k = 100, t = 0.005

which is nothing for opaque Gaussians, and has the Gaussian's own shape.

**Relocation** (equation 9). Those with an opacity below 0.005 are dead, and are moved onto living
ones, drawn in proportion to their opacity. The N Gaussians then in one place look as the one before
did, with

    o_new     = 1 - (1 - o)^(1 / N)
    Sigma_new = Sigma (o / sum_(i=1..N) sum_(k<i) binom(i-1, k) (-1)^k o_new^(k+1) / sqrt(k+1))^2

The first makes the middle of the N exactly as opaque as the one was; the second keeps the integral
of alpha along a line through it. By the sum of a column of Pascal's triangle the double sum is
``sum_(k<N) binom(N, k+1) (-1)^k o_new^(k+1) / sqrt(k+1)``.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from jaxgen.nerf.splat_projection import (
    LOG_SCALES,
    MEANS,
    OPACITY_LOGITS,
    QUATERNIONS,
    rotations,
)
from jaxgen.typing import Tree

LEAST_OPACITY = 0.005
"""Of a Gaussian that lives; t."""

SHARPNESS = 100.0
"""k."""

MOST = 51
"""At most so many in one place, counting the one before: more look as so many."""


def relocate(
    params: Tree, key: Key[Array, ""], least: float = LEAST_OPACITY
) -> tuple[Tree, Bool[Array, "G"]]:
    """Moves the dead Gaussians onto living ones.

    Args:
      params: of the scene, arrays [G, ...].
      key: which ones they are moved onto.
      least: opacity of a Gaussian that lives.

    Returns:
      The parameters, and which Gaussians have changed: those that were moved, and those that they
      were moved onto. An optimizer should forget what it knows of them.
    """
    opacity_G = jax.nn.sigmoid(params[OPACITY_LOGITS])
    dead_G = opacity_G < least
    dead_G &= ~dead_G.all()
    end_G = jnp.cumsum(jnp.where(dead_G, 0.0, opacity_G))
    uniform_G = jax.random.uniform(key, opacity_G.shape)
    onto_G = jnp.searchsorted(end_G, uniform_G * end_G[-1], side="right")
    onto_G = jnp.minimum(onto_G, len(end_G) - 1)
    # The last sum may be reached by rounding: then the last one that lives.
    onto_G = jnp.where(dead_G[onto_G], jnp.argmax(end_G), onto_G)
    together_G = 1 + jnp.zeros(len(end_G), jnp.int32).at[onto_G].add(dead_G.astype(jnp.int32))
    logits_G, growth_G = share_opacity(params[OPACITY_LOGITS], together_G, least)
    changed_G = together_G > 1
    shared = {
        **params,
        OPACITY_LOGITS: jnp.where(changed_G, logits_G, params[OPACITY_LOGITS]),
        LOG_SCALES: params[LOG_SCALES] + jnp.where(changed_G, jnp.log(growth_G), 0)[:, None],
    }
    source_G = jnp.where(dead_G, onto_G, jnp.arange(len(end_G)))
    return jax.tree.map(lambda x: x[source_G], shared), dead_G | changed_G


def share_opacity(
    logits: Float[Array, "G"], together: Int[Array, "G"], least: float = LEAST_OPACITY
) -> tuple[Float[Array, "G"], Float[Array, "G"]]:
    """Logits of the opacities of N Gaussians in place of one, and the factor of their scales.

    Args:
      logits: of the opacities before.
      together: N, 1 or more.
      least: no opacity becomes smaller.
    """
    together = jnp.clip(together, 1, MOST)
    opacity = jax.nn.sigmoid(logits)
    left = jax.nn.softplus(logits) / together  # -log(1 - o_new)
    share = -jnp.expm1(-left)
    powers = share[:, None] ** np.arange(1, MOST + 1)
    total = (jnp.asarray(_COEFFICIENTS, share.dtype)[together] * powers).sum(axis=-1)
    least_logit = math.log(least / (1 - least))
    return jnp.maximum(jnp.log(share) + left, least_logit), opacity / total


def _coefficients() -> np.ndarray:
    """``binom(N, k+1) (-1)^k / sqrt(k+1)``, N in rows from 0 on."""
    return np.array(
        [
            [math.comb(count, k + 1) * (-1) ** k / math.sqrt(k + 1) for k in range(MOST)]
            for count in range(MOST + 1)
        ]
    )


_COEFFICIENTS = _coefficients()


def add_noise_to_means(
    params: Tree, key: Key[Array, ""], rate: Array | float, least: float = LEAST_OPACITY
) -> Tree:
    """The parameters with noise on the means of transparent Gaussians.

    Args:
      params: of the scene.
      key: of the noise.
      rate: of the module's first formula; in the published code 5e5 times the learning rate of the
        means.
      least: t.
    """
    z_G3 = jax.random.normal(key, params[MEANS].shape)
    turned_G33 = rotations(params[QUATERNIONS])
    own_G3 = (turned_G33 * z_G3[:, :, None]).sum(axis=1) * jnp.exp(2 * params[LOG_SCALES])
    noise_G3 = (turned_G33 * own_G3[:, None, :]).sum(axis=-1)
    opacity_G = jax.nn.sigmoid(params[OPACITY_LOGITS])
    share_G = jax.nn.sigmoid(-SHARPNESS * (opacity_G - least))
    return {**params, MEANS: params[MEANS] + rate * share_G[:, None] * noise_G3}
