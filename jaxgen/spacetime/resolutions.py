"""Sizes of images and videos that keep the aspect ratio: as large as fits, or drawn.

Dehghani et al. 2023, "Patch n' Pack", section 2: examples of one training have many resolutions.
Their best for images draws a *side*, not an area: ``u ~ N(-0.5, 1)`` cut off at [-1, 1] and mapped
linearly to 64 ... 384 pixels.
"""

import math
from fractions import Fraction

import numpy as np

from jaxgen.errors import InputError


def fitting_sizes(height: int, width: int, patch: int, max_tokens: int) -> tuple[int, int]:
    """The largest size of at most so many tokens that keeps the aspect ratio, in whole patches.

    With a scale s, an image has ``ceil(s height / patch)`` rows of patches and so many columns (as
    big_vision's NaFlex preprocessing, which bisects s). The largest scale that fits fills the last
    row or column: so those are tried, in whole numbers.

    Args:
      height: of the image.
      width: of the image.
      patch: pixels along the side of a patch.
      max_tokens: patches at most.

    Returns:
      Height and width.

    Raises:
      InputError: for numbers below 1.
    """
    if min(height, width, patch, max_tokens) < 1:
        raise InputError(
            f"size is {height} x {width} with patch {patch} and max_tokens {max_tokens}, expected "
            "1 or more of each"
        )
    best = Fraction(0), 0, 0
    for count in range(1, max_tokens + 1):
        across, down = -(-count * width // height), -(-count * height // width)
        for scale, rows, columns in (
            (Fraction(count, height), count, across),
            (Fraction(count, width), down, count),
        ):
            if rows * columns <= max_tokens:
                best = max(best, (scale, rows, columns))
    return best[1] * patch, best[2] * patch


def drawn_side(
    generator: np.random.Generator,
    least: float = 64.0,
    most: float = 384.0,
    mean: float = -0.5,
    deviation: float = 1.0,
) -> float:
    """A side for an example: ``u ~ N(mean, deviation)`` cut off at [-1, 1], mapped linearly.

    NaViT's best for images; the area is the square of the side, `side_sizes` gives the sizes.

    Args:
      generator: the example's own randomness.
      least: pixels at u = -1.
      most: pixels at u = 1.
      mean: of u before it is cut off.
      deviation: its standard deviation.

    Raises:
      InputError: for sides that are not positive or out of order, or a deviation of 0 or less.
    """
    if not 0 < least <= most or deviation <= 0:
        raise InputError(
            f"least is {least}, most {most} and deviation {deviation}, expected positive numbers "
            "in order"
        )
    u = 2.0
    while not -1 <= u <= 1:
        u = generator.normal(mean, deviation)
    return float(least + (u + 1) / 2 * (most - least))


def side_sizes(height: float, width: float, side: float, patch: int) -> tuple[int, int]:
    """The size with the area side^2 and the aspect ratio of an image, in whole patches.

    Args:
      height: of the image.
      width: of the image.
      side: the square root of the area.
      patch: pixels along the side of a patch.

    Raises:
      InputError: for sizes that are not positive.
    """
    if min(height, width, side, patch) <= 0:
        raise InputError(
            f"size is {height} x {width} with side {side} and patch {patch}, expected positive "
            "numbers"
        )
    ratio = math.sqrt(height / width)
    rows, columns = (max(1, round(x / patch)) for x in (side * ratio, side / ratio))
    return rows * patch, columns * patch
