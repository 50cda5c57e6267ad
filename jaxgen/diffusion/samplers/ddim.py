"""DDIM (Song et al. 2021, "Denoising diffusion implicit models"), also as a rotation.

Symbols: z = a x + s e now, a' and s' at the next level, h = lambda' - lambda. In any scaling
(equations 12 and 16) ::

    z' = a' x^ + sqrt(s'^2 - d^2) e^ + d noise,        d = eta s' sqrt(1 - exp(-h))

d at eta = 1 is the deviation of z' given z and x. Without noise the same line goes from data to
noise and encodes; it is the exponential Euler step of the probability-flow ODE (Lu et al. 2022).
"""

from dataclasses import dataclass

import numpy as np

from jaxgen.diffusion.process.levels import Level
from jaxgen.diffusion.process.step_levels import pair_levels
from jaxgen.diffusion.samplers.linear import (
    LinearRow,
    LinearSampler,
    Term,
    from_noise_to_data,
    make_table,
)
from jaxgen.errors import InputError, check_not_negative, check_share


@dataclass(frozen=True)
class DDIM(LinearSampler):
    """The sampler of Song et al. (2021).

    Handed levels that go from data to noise (`reverse_steps`), with eta = 0, it encodes: the
    latents that it ends with decode to where it began. Its first row, where the data have no noise
    that could be estimated, evaluates at the first level that has some. (The network is conditioned
    on the level that the latents are at, in diffusers' inverse scheduler on the next one.)

    Attributes:
      eta: how much of the noise is resampled: 0 none, 1 as much as in ancestral sampling with the
        posterior variance; more than that up to d = s', where z' = a' x^ + s' noise keeps nothing
        of the old noise (as in the multistep sampling of consistency models).

    Raises:
      InputError: for an eta that is negative or infinite.
    """

    eta: float = 0.0

    def __post_init__(self) -> None:
        check_not_negative("eta", self.eta)

    @property
    def terms(self) -> tuple[Term, ...]:
        """See `LinearSampler`; z only for encoding."""
        return ("z", 0), ("x", 0), ("e", 0)

    @property
    def noisy(self) -> bool:
        """Whatever eta is, so that changing it does not recompile."""
        return True

    def table(self, levels: Level) -> LinearRow:
        """See `jaxgen.diffusion.samplers.sampling.Sampler`.

        Raises:
          InputError: for levels that are not in order, or noise where the levels encode.
        """
        now, after = pair_levels(levels)
        encodes = now.log_snr[0] > after.log_snr[0]
        if encodes and self.eta:
            raise InputError(f"eta is {self.eta} for levels from data to noise, expected eta=0")
        share = 0.0 if encodes else np.minimum(self.eta * posterior_share(now, after), 1.0)
        d, e = after.s * share, after.s * np.sqrt(1 - share**2)
        clean = now.s == 0
        evaluated = Level(
            *(np.where(clean, there, here) for here, there in zip(now, after, strict=True))
        )
        weights = [np.where(clean, after.a, 0.0), np.where(clean, 0.0, after.a), e]
        return make_table(evaluated, after, weights, d)


@dataclass(frozen=True)
class BlendedDDIM(LinearSampler):
    """Between DDIM and ancestral sampling by the mean, where `DDIM` is by the deviation.

    The mean of z' is (1 - c) times DDIM's plus c times the posterior's, and the noise is what is
    then missing of s' (as ``DDIMStep(stoch_coeff=c)`` of hackable_diffusion)::

        z' = a' x^ + k s' e^ + sqrt(1 - k^2) s' noise,        k = 1 - c + c exp(-h / 2)

    Attributes:
      share: c; 0 is `DDIM` with eta = 0, 1 the same with eta = 1.

    Raises:
      InputError: unless 0 <= share <= 1.
    """

    share: float = 0.5

    def __post_init__(self) -> None:
        check_share("share", self.share)

    @property
    def terms(self) -> tuple[Term, ...]:
        """See `LinearSampler`."""
        return ("x", 0), ("e", 0)

    @property
    def noisy(self) -> bool:
        """Whatever the share is, so that changing it does not recompile."""
        return True

    def table(self, levels: Level) -> LinearRow:
        """See `jaxgen.diffusion.samplers.sampling.Sampler`."""
        now, after = from_noise_to_data(levels)
        rest = -self.share * np.expm1((now.log_snr - after.log_snr) / 2)  # 1 - k
        return make_table(
            now, after, [after.a, (1 - rest) * after.s], after.s * np.sqrt(rest * (2 - rest))
        )


@dataclass(frozen=True)
class AngularDDIM(LinearSampler):
    """DDIM without noise as a rotation (Salimans & Ho 2022, appendix D).

    With phi = atan(s/a), d = phi - phi' and v = a e - s x, in the scaling "vp" ::

        z' = cos(d) z - sin(d) v^

    and in other scalings the same of z / sqrt(a^2 + s^2). It is `DDIM` with eta = 0 wherever
    ``z = a x^ + s e^``; it divides by nothing, and encodes as well.
    """

    @property
    def terms(self) -> tuple[Term, ...]:
        """See `LinearSampler`."""
        return ("z", 0), ("x", 0), ("e", 0)

    def table(self, levels: Level) -> LinearRow:
        """See `jaxgen.diffusion.samplers.sampling.Sampler`."""
        now, after = pair_levels(levels)
        d = np.arctan2(now.s, now.a) - np.arctan2(after.s, after.a)
        r, r_after = np.hypot(now.a, now.s), np.hypot(after.a, after.s)
        turn = np.sin(d) * r_after / r
        return make_table(now, after, [np.cos(d) * r_after / r, turn * now.s, -turn * now.a])


def posterior_share(now: Level, after: Level) -> np.ndarray:
    """sqrt(1 - exp(-h)): the deviation of z' given z and x, in units of s'; [N]."""
    return np.sqrt(-np.expm1(now.log_snr - after.log_snr))
