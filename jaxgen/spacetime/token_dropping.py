"""Training on a part of an example's tokens (Dehghani et al. 2023, "Patch n' Pack", section 2.3).

A rate is the share of tokens that are dropped: constant; drawn for each example, a normal
distribution cut off at [0, most]; or scheduled, falling from one rate to another as a sigmoid of
the step. What is kept is drawn from the example's own key, so it depends on no batch and no pack.
"""

import math

import numpy as np
from jaxtyping import Int

from jaxgen.errors import InputError


def check_drop_rate(rate: float, name: str = "rate") -> None:
    """Refuses a rate that would leave nothing.

    Raises:
      InputError: unless 0 <= rate < 1.
    """
    if not 0 <= rate < 1:
        raise InputError(f"{name} is {rate}, expected 0 or more, and below 1")


def kept_tokens(length: int, rate: float, generator: np.random.Generator) -> Int[np.ndarray, "L2"]:
    """Which tokens of an example are kept, in their order; one at least.

    Args:
      length: tokens of the example.
      rate: the share that is dropped; how many are kept is rounded.
      generator: the example's own randomness.

    Raises:
      InputError: for a rate outside [0, 1) or an example without tokens.
    """
    check_drop_rate(rate)
    if length < 1:
        raise InputError(f"length is {length}, expected 1 token or more")
    kept = kept_length(length, rate)
    return np.sort(generator.permutation(length)[:kept]).astype(np.int32)


def kept_length(length: int, rate: float) -> int:
    """How many of so many tokens are kept: known before any is drawn, as packing needs it."""
    return max(1, round(length * (1 - rate)))


def drawn_rate(
    generator: np.random.Generator, mean: float = 0.5, deviation: float = 0.2, most: float = 0.9
) -> float:
    """A rate of an example's own, normal and cut off at [0, most].

    Args:
      generator: the example's own randomness.
      mean: of the normal distribution.
      deviation: its standard deviation.
      most: the greatest rate.

    Raises:
      InputError: for rates outside [0, 1), or a deviation below 0.
    """
    check_drop_rate(most, "most")
    check_drop_rate(mean, "mean")
    if deviation < 0:
        raise InputError(f"deviation is {deviation}, expected 0 or more")
    for _ in range(100):
        rate = generator.normal(mean, deviation)
        if 0 <= rate <= most:
            return float(rate)
    return min(mean, most)


def scheduled_rate(step: int, steps: int, first: float, last: float, slope: float = 10.0) -> float:
    """A rate that goes from one to another as a sigmoid of the step.

    Args:
      step: 0 to steps.
      steps: of the whole training.
      first: the rate at the first step.
      last: the rate at the last.
      slope: of the sigmoid; its argument runs from -slope / 2 to slope / 2.

    Raises:
      InputError: for rates outside [0, 1) or no steps.
    """
    check_drop_rate(first, "first")
    check_drop_rate(last, "last")
    if steps < 1 or slope <= 0:
        raise InputError(f"steps are {steps} and slope is {slope}, expected positive numbers")
    low, high = (1 / (1 + math.exp(slope * side)) for side in (0.5, -0.5))
    at = 1 / (1 + math.exp(-slope * (min(max(step / steps, 0.0), 1.0) - 0.5)))
    return first + (last - first) * (at - low) / (high - low)
