"""Analytic-DPM: the variance of a step from the denoiser itself (Bao et al. 2022).

Symbols: z = a x + s e now, a' and s' next, and v = E |x - E[x | z]|^2 / D, what is not known of the
data at a level, averaged over latents and the D numbers of an example. A step that draws noise of
deviation d when x is known (`DDIM`) has, when x is only estimated, the best variance (theorem 1) ::

    d^2 + (a' - sqrt(s'^2 - d^2) a / s)^2 v

v is estimated once from data and a denoiser, by either of two equal means (lemma 7 there is the
first) of which the one is taken that does not cancel::

    v = (s/a)^2 (1 - E |e^|^2 / D)     where a > s
    v = (E |x|^2 - E |x^|^2) / D       elsewhere
"""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64, Key

from jaxgen.diffusion.denoiser import Denoiser
from jaxgen.diffusion.process.example_keys import example_keys, normal, step_keys
from jaxgen.diffusion.process.levels import Level, broadcast_level
from jaxgen.diffusion.samplers.ancestral import deviations
from jaxgen.diffusion.samplers.linear import (
    LinearRow,
    LinearSampler,
    Term,
    from_noise_to_data,
    make_table,
)
from jaxgen.errors import InputError, check_share


def unknown_variance(
    denoiser: Denoiser, x: Float[Array, "B ..."], levels: Level, key: Key[Array, ""]
) -> Float64[np.ndarray, "N"]:
    """v at each level that a sampler evaluates; estimated from B examples with one noise each.

    Args:
      denoiser: the denoiser.
      x: data, [B, ...].
      levels: those of the sampler, [N + 1].
      key: randomness of the noise.

    Returns:
      [N], never negative; for `AnalyticDPM`.
    """
    now, _ = from_noise_to_data(levels)
    keys_B = example_keys(key, jnp.arange(len(x)))

    def squares(i: Array, level: Level) -> tuple[Array, Array]:
        """Means of |e^|^2 and |x^|^2."""
        z = level.a * x + level.s * normal(step_keys(keys_B, i), x.shape[1:])
        estimate = denoiser(z, broadcast_level(level, len(x)))
        return jnp.mean(estimate.e**2), jnp.mean(estimate.x**2)

    rows = jax.tree.map(lambda value: jnp.asarray(value, jnp.float32), now)
    scan = jax.jit(lambda rows: jax.lax.map(lambda row: squares(*row), rows))
    e2_N, x2_N = (np.asarray(value, np.float64) for value in scan((jnp.arange(len(now.t)), rows)))
    with np.errstate(divide="ignore", invalid="ignore"):
        v_N = np.where(
            now.a > now.s, (now.s / now.a) ** 2 * (1 - e2_N), float(jnp.mean(x**2)) - x2_N
        )
    return np.maximum(v_N, 0.0)


@dataclass(frozen=True)
class AnalyticDPM(LinearSampler):
    """Ancestral sampling or DDIM with the variance of Bao et al. (2022).

    Attributes:
      unknown: v of each level, from `unknown_variance` for the same levels (``tuple(v_N)``).
      eta: 1 for ancestral steps (Analytic-DDPM), 0 for those of DDIM (Analytic-DDIM).

    Raises:
      InputError: for a negative or infinite v, or unless 0 <= eta <= 1.
    """

    unknown: tuple[float, ...]
    eta: float = 1.0

    def __post_init__(self) -> None:
        if not all(0 <= v < math.inf for v in self.unknown):
            raise InputError("unknown is negative or infinite, expected finite variances >= 0")
        check_share("eta", self.eta)

    @property
    def terms(self) -> tuple[Term, ...]:
        """See `LinearSampler`."""
        return ("x", 0), ("e", 0)

    @property
    def noisy(self) -> bool:
        """Always."""
        return True

    def table(self, levels: Level) -> LinearRow:
        """See `jaxgen.diffusion.samplers.sampling.Sampler`; a step to clean data returns its mean.

        Raises:
          InputError: where the levels are not as many as the variances.
        """
        now, after = from_noise_to_data(levels)
        if len(self.unknown) != len(now.t):
            raise InputError(
                f"{len(self.unknown)} variances for {len(now.t)} steps, expected one for each, "
                "estimated at the same levels"
            )
        d = self.eta * deviations(now, after)[0]
        e = np.sqrt(after.s**2 - d**2)
        variance = d**2 + (after.a - e * now.a / now.s) ** 2 * np.array(self.unknown)
        return make_table(now, after, [after.a, e], np.where(after.s == 0, 0, np.sqrt(variance)))
