"""When the frames of a video are shown, and which of them make a clip of another frame rate.

Frame n is shown from its time stamp s_n until the next frame's. At F frames a second, output frame
k is the one that is shown at s_0 + k / F,

  n(k) = max {n: s_n <= s_0 + k / F},  k = 0, 1, ... while s_0 + k / F < end,

so that frames are left out or repeated, never blended, also where the time between them varies.
Some files round time stamps to ticks (of 1 ms in webm, of 10 ms in GIF), where s_n <= t is then
s_n <= t + half a tick.
"""

import math
import numbers
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
from jaxtyping import Int, Int64

from jaxgen.errors import InputError

LARGEST_DENOMINATOR = 1001
"""Of frame rates, such as 30000/1001."""
HIGHEST_RATE = 10_000
"""Frames a second that a video is resampled to, at most."""
Times = tuple[Fraction | None, Fraction | None]
"""When a frame is shown first and how long, in seconds; None where the file does not say."""
ROUNDED_TICK = Fraction(1, 100)
"""Up to this many seconds a tick is what time stamps were rounded to; longer ones divide them."""


@dataclass(frozen=True, eq=False)
class FrameIndex:
    """The time stamps of a video's frames, in the order in which they are shown.

    Attributes:
      starts: int64 [T], when each frame is shown first, in ticks, ascending.
      end: When the last frame is gone, in ticks.
      tick: Seconds; None where the time of the frames is not known.
      keys: int64 [K], the frames at which a decoder can begin, ascending; 0 is the file's start.
      rate: Frames a second that the file declares and its time stamps agree with, or None.
      complete: Whether each time stamp is a frame's for certain, so that one that cannot be decoded
        is damage.
    """

    starts: Int64[np.ndarray, "T"]
    end: int
    tick: Fraction | None
    keys: Int64[np.ndarray, "K"]
    rate: Fraction | None = None
    complete: bool = False

    def __len__(self) -> int:
        return len(self.starts)

    def seconds(self, name: str) -> Fraction:
        """How long the frames are shown.

        Raises:
          InputError: The time of the frames is not known, or none passes; names the video.
        """
        if self.tick is None:
            raise InputError(f"{name}: the time of its frames is missing, expected time stamps")
        ticks = self.end - int(self.starts[0])
        if ticks <= 0 or self.tick <= 0:
            raise InputError(f"{name}: its frames take 0 seconds, expected a frame rate above 0")
        return ticks * self.tick

    def fps(self, name: str) -> float:
        """Frames a second: the average where the time between frames varies.

        Raises:
          InputError: As `seconds`.
        """
        seconds = self.seconds(name)
        return float(self.rate or len(self) / seconds)

    def span(self, first: int, count: int) -> "FrameIndex":
        """The index of `count` frames from frame `first` on."""
        stop = first + count
        end = int(self.starts[stop]) if stop < len(self) else self.end
        return replace(self, starts=self.starts[first:stop], end=end, keys=np.zeros(1, np.int64))

    def frames_at(self, fps: float | Fraction, name: str) -> Int64[np.ndarray, "N"]:
        """The numbers of the frames that are shown at F times a second, see the module.

        Args:
          fps: F, rounded to a fraction with a denominator of up to 1001.
          name: Of the video, for errors.

        Raises:
          InputError: `fps` is not above 0, or the time of the frames is not known.
        """
        rate, seconds = as_rate(fps), self.seconds(name)
        assert self.tick is not None
        slack = self.tick / 2 if self.tick <= ROUNDED_TICK else Fraction(0)
        count = max(1, math.ceil((seconds - slack) * rate))
        times_N = [math.floor((k / rate + slack) / self.tick) for k in range(count)]
        starts_T = self.starts - self.starts[0]
        return np.searchsorted(starts_T, np.array(times_N), side="right").astype(np.int64) - 1

    def kept(self, fps: float | Fraction | None, stride: int, name: str) -> Int64[np.ndarray, "N"]:
        """The numbers of every `stride`-th frame, of those at `fps` where it is given."""
        if fps is None:
            return np.arange(0, len(self), stride, dtype=np.int64)
        return self.frames_at(fps, name)[::stride]


def as_rate(fps: float | Fraction) -> Fraction:
    """Frames a second as a fraction.

    Raises:
      InputError: It is no number, not above 0, or above `HIGHEST_RATE`.
    """
    if not isinstance(fps, numbers.Real) or not 0 < fps <= HIGHEST_RATE:
        raise InputError(f"fps is {fps!r}, expected more than 0, up to {HIGHEST_RATE:,}")
    return max(
        Fraction(fps).limit_denominator(LARGEST_DENOMINATOR), Fraction(1, LARGEST_DENOMINATOR)
    )


def index_of_times(
    times: Sequence[Times],
    keys: Int[np.ndarray, "K"] | None = None,
    rate: Fraction | None = None,
) -> FrameIndex:
    """The index of frames whose start and duration are known in seconds, or partly known.

    Args:
      times: Start and duration of each frame, in the order in which they are shown.
      keys: See `FrameIndex`; by default the first frame alone.
      rate: Frames a second that the file declares.
    """
    starts = [start for start, _ in times if start is not None]
    durations = [duration for _, duration in times if duration]
    keys_K = np.zeros(1, np.int64) if keys is None else keys.astype(np.int64)
    if len(starts) < len(times):  # no time stamps: one frame after another
        step = sum(durations, Fraction(0)) / len(durations) if durations else None
        count = np.arange(len(times), dtype=np.int64)
        return FrameIndex(count, len(times), step, np.zeros(1, np.int64), rate)
    tick = _common_tick([*starts, *durations])
    # Where they are out of order (avi with B-frames), they are right but for it.
    starts_T = np.sort(np.array([int(start / tick) for start in starts], np.int64))
    if len(durations) == len(times):
        ends = [start + time[1] for start, time in zip(starts, times, strict=True) if time[1]]
        end = int(max(ends) / tick)
    elif len(times) > 1 and max(starts) > min(starts):
        step = (max(starts) - min(starts)) / (len(times) - 1)
        end = int(max(starts) / tick + round(step / tick))
    elif durations:
        end = int((max(starts) + durations[-1]) / tick)
    else:
        return FrameIndex(starts_T, int(starts_T.max()) + 1, None, keys_K, rate)
    return FrameIndex(starts_T, end, tick, keys_K, rate)


def _common_tick(times: Sequence[Fraction]) -> Fraction:
    """The largest fraction of a second of which all times are multiples."""
    denominator = math.lcm(*{time.denominator for time in times})
    return Fraction(1, denominator)
