"""Frames that are shown at given times, against a search through all of them."""

import re
from fractions import Fraction

import numpy as np
import pytest

from jaxgen.data.video.frame_index import FrameIndex, as_rate, index_of_times
from jaxgen.errors import InputError


def make_index(ticks, end, tick) -> FrameIndex:
    return FrameIndex(np.array(ticks, np.int64), end, tick, np.zeros(1, np.int64))


def shown(index: FrameIndex, fps: Fraction) -> list[int]:
    """The last frame that has begun, for every output time before the end."""
    found, k = [], 0
    while k / fps < (index.end - int(index.starts[0])) * index.tick:
        begun = [
            n for n, s in enumerate(index.starts - index.starts[0]) if s * index.tick <= k / fps
        ]
        found.append(begun[-1])
        k += 1
    return found


def test_frames_at_any_rate_are_those_shown_then():
    generator = np.random.default_rng(0)
    tick = Fraction(1, 30000)
    for _ in range(4):
        starts = 2002 + np.cumsum(generator.integers(300, 9000, 25))
        index = make_index(starts, int(starts[-1]) + 1000, tick)
        for fps in (Fraction(3), Fraction(10), Fraction(30000, 1001), Fraction(120)):
            # Within half a tick of 1/30000 s the two may differ: no such ties are in these numbers.
            assert index.frames_at(fps, "a").tolist() == shown(index, fps)


def test_own_rate_gives_each_frame_once_also_where_time_stamps_are_rounded():
    for ticks_a_second in (100, 1000, 90000):
        for fps in (Fraction(24), Fraction(30), Fraction(30000, 1001), Fraction(25, 2)):
            exact = [ticks_a_second * k / fps for k in range(102)]
            for rounding in (round, lambda x: int(x + Fraction(1, 2))):
                ticks = [rounding(x) for x in exact]
                index = make_index(ticks[:-1], ticks[-1], Fraction(1, ticks_a_second))
                assert index.frames_at(fps, "a").tolist() == list(range(101))
    coarse = make_index(range(25), 25, Fraction(1, 25))
    assert coarse.frames_at(25, "a").tolist() == list(range(25))
    assert coarse.frames_at(50, "a").tolist() == [k // 2 for k in range(50)]
    assert coarse.frames_at(5, "a").tolist() == [0, 5, 10, 15, 20]
    assert coarse.kept(5, 2, "a").tolist() == [0, 10, 20]
    assert coarse.kept(None, 7, "a").tolist() == [0, 7, 14, 21]


def test_a_span_has_its_own_times():
    index = make_index([0, 10, 40, 50], 70, Fraction(1, 10))
    span = index.span(1, 2)
    assert (span.starts.tolist(), span.end) == ([10, 40], 50)
    assert span.seconds("a") == 4
    assert span.fps("a") == 0.5
    assert index.span(2, 2).end == 70
    assert span.frames_at(1, "a").tolist() == [0, 0, 0, 1]


def test_times_that_are_partly_known():
    third = Fraction(1, 3)
    index = index_of_times([(n * third, None) for n in range(4)])
    assert index.fps("a") == pytest.approx(3)
    index = index_of_times([(None, Fraction(1, 4))] * 6)
    assert (len(index), index.fps("a")) == (6, 4)
    index = index_of_times([(Fraction(0), third), (third, 2 * third)])
    assert index.seconds("a") == 1
    index = index_of_times([(Fraction(5), None)])
    with pytest.raises(InputError, match=r"a: the time of its frames is missing, expected time"):
        index.fps("a")


def test_bad_rates():
    for fps in (0, -3, float("nan"), float("inf"), 10_001, "24", None):
        with pytest.raises(
            InputError, match=re.escape(f"fps is {fps!r}, expected more than 0, up to 10,000")
        ):
            as_rate(fps)
    index = make_index([0, 0], 0, Fraction(1, 10))
    with pytest.raises(InputError, match=r"x: its frames take 0 seconds, expected a frame"):
        index.fps("x")
    assert as_rate(29.97) == Fraction(2997, 100)
