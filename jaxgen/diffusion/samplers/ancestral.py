"""Ancestral sampling (Ho et al. 2020), with every variance that has been proposed for it.

Symbols: z = a x + s e now, a' and s' at the next level, h = lambda' - lambda, and
``a_ = a / a'``, ``s_^2 = s^2 - a_^2 s'^2`` for the noise between the two. In any scaling ::

    E[z' | z, x]  = a_ (s'/s)^2 z + a' (1 - exp(-h)) x      (Kingma et al. 2021, equations 23-26)
    V[z' | z, x]  = s'^2 (1 - exp(-h))                      posterior: right for one point of data
    V[z' | z]    <= s_^2 = s^2 (1 - exp(-h))                forward: right where x is noise too

Only the first is needed of x^; the variance lies between the two bounds (Sohl-Dickstein et al.
2015), and is interpolated in logarithms, by a number or as learnt (Nichol & Dhariwal 2021,
equation 15), or estimated from the denoiser (Bao et al. 2022, see `AnalyticDPM`). The last step, to
clean data, returns its mean, as in Ho et al. (2020, algorithm 2); diffusers adds noise there unless
the step begins at the table's first entry.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxgen.diffusion.denoiser import Estimate
from jaxgen.diffusion.process.levels import Level
from jaxgen.diffusion.samplers.linear import (
    LinearRow,
    LinearSampler,
    Term,
    from_noise_to_data,
    make_table,
)
from jaxgen.errors import InputError, check_share


@dataclass(frozen=True)
class Ancestral(LinearSampler):
    """Ancestral sampling with the log-variance ``gamma log s_^2 + (1 - gamma) log V[z' | z, x]``.

    The forward bound is that of the latents' own scaling: beta in "vp" (Ho et al. 2020), s^2 - s'^2
    in "ve" (the reverse diffusion of Song et al. 2021b), which are not the same in other units.

    Attributes:
      gamma: 0 is the posterior's variance (and then this is `DDIM` with eta = 1), 1 the forward
        process's.

    Raises:
      InputError: unless 0 <= gamma <= 1.
    """

    gamma: float = 0.0

    def __post_init__(self) -> None:
        check_share("gamma", self.gamma)

    @property
    def terms(self) -> tuple[Term, ...]:
        """See `LinearSampler`."""
        return ("z", 0), ("x", 0)

    @property
    def noisy(self) -> bool:
        """Always."""
        return True

    def table(self, levels: Level) -> LinearRow:
        """See `jaxgen.diffusion.samplers.sampling.Sampler`."""
        now, after = from_noise_to_data(levels)
        lower, upper = deviations(now, after)
        return make_table(
            now, after, posterior_mean(now, after), lower ** (1 - self.gamma) * upper**self.gamma
        )


class LearnedRow(NamedTuple):
    """A row of `LearnedAncestral`: as `LinearRow`, with the logarithms of both deviations' bounds.

    Attributes:
      now: where the denoiser is evaluated.
      next: where the row ends.
      weights: of z and x, [2].
      noise: 1, or 0 in a last step to clean data.
      log_bounds: of the posterior and the forward deviation, [2].
    """

    now: Level
    next: Level
    weights: Any
    noise: Any
    log_bounds: Any


@dataclass(frozen=True)
class LearnedAncestral(Ancestral):
    """Ancestral sampling with the fraction between the bounds that the denoiser estimates.

    The denoiser is to be made with ``learned_variance=True``; gamma does not matter.
    """

    def table(self, levels: Level) -> Any:
        """See `jaxgen.diffusion.samplers.sampling.Sampler`."""
        now, after = from_noise_to_data(levels)
        lower, upper = deviations(now, after)
        last = after.s == 0
        row = make_table(now, after, posterior_mean(now, after), np.where(last, 0.0, 1.0))
        bounds = np.log(np.where(last[:, None], 1.0, np.stack([lower, upper], -1)))
        return LearnedRow(*row, bounds.astype(np.float32))

    def deviation(self, row: Any, estimate: Estimate) -> Any:
        """exp of the interpolated logarithms, for each number.

        Raises:
          InputError: where the denoiser estimates no fraction.
        """
        if estimate.fraction is None:
            raise InputError(
                "LearnedAncestral with a denoiser that estimates no variance, expected one made "
                "with learned_variance=True"
            )
        low, high = row.log_bounds
        fraction = estimate.fraction.astype(jnp.float32)
        return row.noise * jnp.exp(low + fraction * (high - low))


def posterior_mean(now: Level, after: Level) -> list[np.ndarray]:
    """The weights of z and x in E[z' | z, x], [N] each."""
    return [
        now.a / after.a * (after.s / now.s) ** 2,
        -after.a * np.expm1(now.log_snr - after.log_snr),
    ]


def deviations(now: Level, after: Level) -> tuple[np.ndarray, np.ndarray]:
    """Of the posterior and the forward process, [N] each; both zero where clean data are next."""
    share = np.sqrt(-np.expm1(now.log_snr - after.log_snr))
    return after.s * share, np.where(after.s == 0, 0.0, now.s * share)
