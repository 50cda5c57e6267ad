"""Weights of the loss, written for every target so that nothing is divided by zero.

Symbols: z = a x + s e, r = a^2 + s^2, and the shares of data and noise ``A = a^2 / r`` and
``S = s^2 / r``, with A + S = 1 and SNR = A / S in every scaling. A weighting w(SNR) is what
multiplies |x - x^|^2; in terms of what the network predicts that is (z being given) ::

    |x - x^|^2  =  S / A  |e - e^|^2                 e
                =  S / r  |v - v^|^2                 v
                =  S r / (a + s)^2  |flow - flow^|^2
                =  S^2 r / A  |score - score^|^2
                =  S  |sqrt(S) (x - x~) - sqrt(A) (e - e~)|^2       both

Each weighting has the form ``w = A^m g / S^n`` with a bounded g, so that exponents of A and S are
added before anything is computed: SNR under the target e is exactly one, at zero and at infinite
SNR too. What remains infinite is so by nature: SNR under the target x without noise, for instance.
"""

import abc
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from jaxtyping import Array, Float

from jaxgen.diffusion.process.levels import Level, namespace, sigmoid, softplus
from jaxgen.diffusion.process.predictions import Target, check_target
from jaxgen.errors import InputError, check_not_negative, check_positive


class Form(NamedTuple):
    """A weighting as ``A^data g / S^noise``.

    Attributes:
      data: m, the power of A.
      noise: n, the power of 1 / S.
      factor: g, bounded.
    """

    data: float
    noise: float
    factor: Any


class Weighting(abc.ABC):
    """w(SNR), the weight of |x - x^|^2; sub-classes define `form`."""

    @abc.abstractmethod
    def form(self, data: Any, noise: Any) -> Form:
        """The powers and the factor, from the shares A and S."""

    def weight(self, level: Level, target: Target = "x") -> Float[Array, "..."]:
        """What multiplies |target - prediction|^2, so that it is w |x - x^|^2.

        Args:
          level: the noise level, of any shape.
          target: what is predicted; for "both", what multiplies the square of `both_error`.

        Returns:
          Of the shape of the level.

        Raises:
          InputError: for an unknown target.
        """
        log_snr = level.log_snr
        form = self.form(sigmoid(log_snr), sigmoid(-log_snr))
        data, noise, factor = _form_of_target(check_target(target), level)
        return (
            _power(-softplus(-log_snr), form.data - data)
            * _power(-softplus(log_snr), noise - form.noise)
            * (form.factor * factor)
        )


@dataclass(frozen=True)
class Constant(Weighting):
    """w = 1: the plain x loss."""

    def form(self, data: Any, noise: Any) -> Form:
        """See `Weighting.form`."""
        return Form(0, 0, 1.0)


@dataclass(frozen=True)
class SNR(Weighting):
    """w = SNR: the plain e loss (Ho et al. 2020, equation 14)."""

    def form(self, data: Any, noise: Any) -> Form:
        """See `Weighting.form`."""
        return Form(1, 1, 1.0)


@dataclass(frozen=True)
class TruncatedSNR(Weighting):
    """w = max(SNR, floor) (Salimans & Ho 2022, equation 9, with a floor of one).

    Raises:
      InputError: unless floor > 0.
    """

    floor: float = 1.0

    def __post_init__(self) -> None:
        check_positive("floor", self.floor)

    def form(self, data: Any, noise: Any) -> Form:
        """See `Weighting.form`."""
        return Form(0, 1, namespace(data, noise).maximum(data, self.floor * noise))


@dataclass(frozen=True)
class SNRPlus(Weighting):
    """w = SNR + added: with one, the plain v loss (Salimans & Ho 2022, section 4).

    With ``added = 1 / sigma_data^2`` it is the weight of Karras et al. (2022, table 1), for data of
    standard deviation sigma_data.

    Raises:
      InputError: unless added > 0.
    """

    added: float = 1.0

    def __post_init__(self) -> None:
        check_positive("added", self.added)

    def form(self, data: Any, noise: Any) -> Form:
        """See `Weighting.form`."""
        return Form(0, 1, data + self.added * noise)


@dataclass(frozen=True)
class FlowLoss(Weighting):
    """w = (sqrt(SNR) + 1)^2: the plain loss of the flow velocity in its own scaling."""

    def form(self, data: Any, noise: Any) -> Form:
        """See `Weighting.form`."""
        return Form(0, 1, (data**0.5 + noise**0.5) ** 2)


@dataclass(frozen=True)
class MinSNR(Weighting):
    """w = min(SNR, gamma) (Hang et al. 2023, section 3.4).

    Under the target e that is min(1, gamma / SNR), under v (vp) min(SNR, gamma) / (SNR + 1).

    Raises:
      InputError: unless gamma > 0.
    """

    gamma: float = 5.0

    def __post_init__(self) -> None:
        check_positive("gamma", self.gamma)

    def form(self, data: Any, noise: Any) -> Form:
        """See `Weighting.form`."""
        return Form(1, 0, 1 / namespace(data, noise).maximum(noise, data / self.gamma))


@dataclass(frozen=True)
class SoftMinSNR(Weighting):
    """w = SNR gamma / (SNR + gamma): MinSNR without its corner.

    It is the e loss times sigmoid(log(gamma) - lambda), the sigmoid weighting of Hoogeboom et al.
    (2024, "Simpler diffusion") with bias log(gamma). Their loss is a mean over log-SNRs: with times
    `UniformLogSNR`.

    Raises:
      InputError: unless gamma > 0.
    """

    gamma: float = 5.0

    def __post_init__(self) -> None:
        check_positive("gamma", self.gamma)

    def form(self, data: Any, noise: Any) -> Form:
        """See `Weighting.form`."""
        return Form(1, 0, 1 / (noise + data / self.gamma))


@dataclass(frozen=True)
class P2(Weighting):
    """w = SNR / (k + SNR)^gamma: the e loss, times 1 / (k + SNR)^gamma (Choi et al. 2022, eq. 8).

    Raises:
      InputError: unless k > 0 and gamma >= 0.
    """

    k: float = 1.0
    gamma: float = 1.0

    def __post_init__(self) -> None:
        check_positive("k", self.k)
        check_not_negative("gamma", self.gamma)

    def form(self, data: Any, noise: Any) -> Form:
        """See `Weighting.form`."""
        return Form(1, 1 - self.gamma, (self.k * noise + data) ** -self.gamma)


WEIGHTINGS: Mapping[str, Weighting] = {
    "constant": Constant(),
    "snr": SNR(),
    "truncated_snr": TruncatedSNR(),
    "snr_plus_one": SNRPlus(),
    "flow": FlowLoss(),
    "min_snr": MinSNR(),
    "soft_min_snr": SoftMinSNR(),
    "p2": P2(),
}
"""The weightings by name, as published."""


def weighting_named(name: str) -> Weighting:
    """A weighting of `WEIGHTINGS`.

    Raises:
      InputError: for an unknown name.
    """
    if name not in WEIGHTINGS:
        raise InputError(f"weighting is {name!r}, expected one of {', '.join(WEIGHTINGS)}")
    return WEIGHTINGS[name]


def _form_of_target(target: Target, level: Level) -> tuple[float, float, Any]:
    """|x - x^|^2 as ``S^noise factor / A^data`` times the square of the target's error."""
    a, s = level.a, level.s
    r = a * a + s * s
    match target:
        case "x":
            return 0, 0, 1.0
        case "e":
            return 1, 1, 1.0
        case "v":
            return 0, 1, 1 / r
        case "score":
            return 1, 2, r
        case "flow":
            return 0, 1, r / (a + s) ** 2
        case "both":
            return 0, 1, 1.0


def _power(log_share: Any, exponent: float) -> Any:
    """A share to a power, from its logarithm; one where the exponent is zero."""
    xp = namespace(log_share)
    return xp.exp(exponent * log_share) if exponent else xp.ones_like(log_share)
