"""Exponential integrators: what DPM-Solver, DEIS, UniPC and SA-Solver have in common.

Symbols: z = a x + s e now, a' and s' next, and, in this module, half of the log-SNR:
l = lambda / 2 = log(a/s) and h = l' - l. The probability-flow ODE (tau = 0) and the reverse-time
SDEs with the same marginals (tau > 0, tau = 1 the usual one), solved exactly but for how x^ or e^
moves on the way (Lu et al. 2022b, equation 8; 2022a, proposition 3.1; Xue et al. 2023, eq. 14)::

    z' = (s'/s) exp(-tau^2 h) z + a' int_0^H exp(-(H - u)) x^ du + d noise
    z' = (a'/a) z - (1 + tau^2) s' int_0^h exp(+(h - u)) e^ du + d noise

with H = (1 + tau^2) h, and d = s' sqrt(1 - exp(-2 tau^2 h)) in the first, in the second
d = tau s' sqrt(exp(2 h) - 1). What moves is replaced by a polynomial through values that are
known. With the moments ::

    m_j(h) = int_0^h exp(-(h - u)) (u/h)^j du:    m_0 = 1 - exp(-h),    m_j = 1 - (j/h) m_{j-1}

its integral is a weighted sum of these values; for e^, h becomes -h and a' becomes s'.
"""

import math
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float64

from jaxgen.diffusion.process.levels import Level
from jaxgen.diffusion.samplers.linear import check_finite_sigma
from jaxgen.errors import InputError

Predicts = Literal["x", "e"]


class Parts(NamedTuple):
    """What steps of all orders have in common, [N] each.

    Attributes:
      z: the weight of z.
      scale: what multiplies the integral.
      h: of its moments.
      noise: deviation of the noise.
    """

    z: np.ndarray
    scale: np.ndarray
    h: np.ndarray
    noise: np.ndarray


def step_parts(sampler: Any, now: Level, after: Level, tau: Any, predicts: Predicts) -> Parts:
    """The parts of steps from `now` to `after`; tau is a number or [N].

    Raises:
      InputError: where e is interpolated from pure noise or to clean data.
    """
    h = (after.log_snr - now.log_snr) / 2
    tau2 = np.broadcast_to(np.square(np.asarray(tau, np.float64)), h.shape)
    # Not inf times 0, where a step of the ODE begins or ends at infinity.
    tau2_h = np.where(tau2 > 0, np.where(tau2 > 0, tau2, 1.0) * h, 0.0)
    if predicts == "x":
        noise = after.s * np.sqrt(-np.expm1(-2 * tau2_h))
        return Parts(after.s / now.s * np.exp(-tau2_h), after.a, (1 + tau2) * h, noise)
    check_finite_sigma(now, sampler)
    if (after.s == 0).any():
        raise InputError(
            "predicts is 'e' with a last step to clean data, where s / a changes without bound in "
            "logarithms, expected final='first', or predicts='x'"
        )
    noise = after.s * np.sqrt(tau2 * np.maximum(np.expm1(2 * h), 0.0))
    return Parts(after.a / now.a, (1 + tau2) * after.s, -h, noise)


def moments(h: float, count: int = 3) -> Float64[np.ndarray, "count"]:
    """m_0 .. m_{count-1}; h may be negative, and +inf."""
    if abs(h) < 1:
        # j! sum_k (-h)^k h / (j + k + 1)!, without the recursion's cancellation.
        return np.array(
            [
                sum((-h) ** k * h / math.prod(range(j + 1, j + k + 2)) for k in range(20))
                for j in range(count)
            ]
        )
    m = [-math.expm1(-h)]
    for j in range(1, count):
        m.append(1 - j / h * m[-1])
    return np.array(m)


def polynomial_weights(
    nodes_K: Float64[np.ndarray, "K"], m: Float64[np.ndarray, "J"]
) -> Float64[np.ndarray, "K"]:
    """Weights of values at the nodes (in units of h) with ``sum_k w_k r_k^j = m_j``.

    Nodes at infinity, from steps that began at pure noise, get no weight, and the order is less.
    """
    finite = np.isfinite(nodes_K)
    powers = np.vander(nodes_K[finite], increasing=True).T
    weights_K = np.zeros(len(nodes_K))
    weights_K[finite] = np.linalg.solve(powers, m[: len(powers)])
    return weights_K


def earlier_nodes(log_snr_N: np.ndarray, i: int, order: int, step: float) -> np.ndarray:
    """Places of `order` steps i, i - 1, .., [K], in units of a step of log-SNR that begins at i."""
    with np.errstate(invalid="ignore"):
        nodes = (log_snr_N[i - np.arange(order)] - log_snr_N[i]) / step
    nodes[:1] = 0.0
    return nodes


def orders_of_steps(
    order: int, count: int, last_ones: tuple[int, ...], ends_clean: bool
) -> list[int]:
    """The order of each step: what the history allows, and lower at the end.

    Args:
      order: the highest.
      count: N.
      last_ones: what the orders of the last steps may be at most.
      ends_clean: whether the last step goes to clean data; then its order is one.
    """
    orders = [min(order, i + 1) for i in range(count)]
    last_ones = last_ones[-count:]
    start = count - len(last_ones)
    orders[start:] = [min(pair) for pair in zip(orders[start:], last_ones, strict=True)]
    return [*orders[:-1], 1] if ends_clean else orders
