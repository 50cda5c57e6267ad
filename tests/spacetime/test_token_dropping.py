"""Rates of dropped tokens, and sizes that keep the aspect ratio."""

import math

import numpy as np
import pytest

from jaxgen.errors import InputError
from jaxgen.spacetime.resolutions import drawn_side, fitting_sizes, side_sizes
from jaxgen.spacetime.token_dropping import drawn_rate, kept_length, kept_tokens, scheduled_rate


def test_kept_tokens_are_distinct_in_order_and_as_many_as_promised():
    for length, rate in ((10, 0.0), (10, 0.5), (7, 0.9), (1, 0.9)):
        kept = kept_tokens(length, rate, np.random.default_rng(0))
        assert kept.dtype == np.int32
        assert len(kept) == kept_length(length, rate) == max(1, round(length * (1 - rate)))
        assert np.all(np.diff(kept) > 0)
        assert 0 <= kept.min() <= kept.max() < length


def test_all_tokens_are_kept_equally_often():
    counts = np.zeros(8)
    for seed in range(2000):
        counts[kept_tokens(8, 0.5, np.random.default_rng(seed))] += 1
    assert abs(counts / 2000 - 0.5).max() < 5 * math.sqrt(0.25 / 2000)


def test_drawn_rates_have_the_moments_of_the_cut_off_normal():
    """Against numerical integration of the density on [0, 0.9]."""
    generator = np.random.default_rng(1)
    found = np.array([drawn_rate(generator, 0.5, 0.3, 0.9) for _ in range(4000)])
    x = np.linspace(0, 0.9, 10_001)
    p = np.exp(-((x - 0.5) ** 2) / (2 * 0.3**2))
    p /= p.sum()
    mean = (p * x).sum()
    deviation = math.sqrt((p * (x - mean) ** 2).sum())
    assert 0 <= found.min() <= found.max() <= 0.9
    assert abs(found.mean() - mean) < 5 * deviation / math.sqrt(4000)
    assert found.std() == pytest.approx(deviation, rel=0.05)


def test_the_schedule_goes_from_one_rate_to_the_other():
    found = [scheduled_rate(step, 100, 0.8, 0.2) for step in (0, 25, 50, 75, 100, 200)]
    assert found[0] == pytest.approx(0.8)
    assert found[2] == pytest.approx(0.5)
    assert found[4] == pytest.approx(0.2)
    assert found[5] == found[4]
    assert found[1] - 0.5 == pytest.approx(0.5 - found[3])


@pytest.mark.parametrize(
    ("size", "patch", "tokens", "expected"),
    [
        ((256, 256), 16, 256, (256, 256)),
        ((100, 200), 16, 200, (160, 320)),
        ((256, 1), 16, 50, (800, 16)),
        ((1, 4000), 16, 50, (16, 800)),
        ((480, 640), 8, 1, (8, 8)),
    ],
)
def test_the_largest_size_that_fits(size, patch, tokens, expected):
    assert fitting_sizes(*size, patch, tokens) == expected


def test_fitting_sizes_are_what_bisection_finds():
    """The scale bisected as in big_vision, over odd sizes."""
    generator = np.random.default_rng(0)
    for _ in range(50):
        height, width = (int(x) for x in generator.integers(20, 900, 2))
        patch, tokens = int(generator.integers(4, 33)), int(generator.integers(20, 400))
        low, high = 1e-6, 100.0
        while high - low > 1e-9:
            middle = (low + high) / 2
            rows, columns = (math.ceil(side * middle / patch) for side in (height, width))
            low, high = (middle, high) if rows * columns <= tokens else (low, middle)
        rows, columns = (math.ceil(side * low / patch) for side in (height, width))
        assert fitting_sizes(height, width, patch, tokens) == (rows * patch, columns * patch)


def test_drawn_sides_follow_the_cut_off_normal_and_keep_the_ratio():
    generator = np.random.default_rng(0)
    side = np.array([drawn_side(generator) for _ in range(4000)])
    u = np.linspace(-1, 1, 10_001)
    p = np.exp(-((u + 0.5) ** 2) / 2)
    mean = 64 + ((p * u).sum() / p.sum() + 1) / 2 * 320
    assert 64 <= side.min() <= side.max() <= 384
    assert abs(side.mean() - mean) < 5 * side.std() / math.sqrt(4000)
    height, width = side_sizes(480, 640, 200.0, 4)
    assert (height, width) == (172, 232)
    assert height / width == pytest.approx(480 / 640, rel=0.02)
    assert side_sizes(10, 1000, 64.0, 16) == (16, 640)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda g: kept_tokens(4, 1.0, g), "rate is 1.0, expected 0 or more, and below 1"),
        (lambda g: kept_tokens(0, 0.5, g), "length is 0, expected 1 token or more"),
        (lambda g: drawn_rate(g, 0.5, -1.0), "deviation is -1.0, expected 0 or more"),
        (lambda g: scheduled_rate(0, 0, 0.5, 0.1), "steps are 0 and slope is 10.0, expected pos"),
        (lambda g: scheduled_rate(0, 9, 1.5, 0.1), "first is 1.5, expected 0 or more"),
        (lambda g: fitting_sizes(0, 4, 2, 9), "size is 0 x 4 with patch 2 and max_tokens 9"),
        (lambda g: drawn_side(g, 9.0, 3.0), "least is 9.0, most 3.0 and deviation 1.0, expected"),
        (lambda g: side_sizes(4, 4, 0.0, 1), "size is 4 x 4 with side 0.0 and patch 1, expected"),
    ],
)
def test_numbers_that_mean_nothing_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        change(np.random.default_rng(0))
