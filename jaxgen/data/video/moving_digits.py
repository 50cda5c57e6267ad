"""Videos of moving digits, made from the built-in ones: no download.

A digit moves along a straight line over black and is reflected by the borders, as in Moving MNIST
(Srivastava et al. 2015), but with one digit, so that a video has a class. Along each axis the
corner of the digit is at ``p(t) = |((p(0) + v t + m) mod 2 m) - m|``, m the room that the frame
leaves. Between whole pixels the digit is interpolated linearly, so that it moves as smoothly as
what a camera sees. Rounded to whole pixels it would jump, by 1 / sqrt(6) pixels rms off its path.
Example i is a function of the seed and of i alone, for any i.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8

from jaxgen.data.batch_plan import permute
from jaxgen.data.images.image_set import ImageSet
from jaxgen.errors import InputError

Size = tuple[int, int, int]
"""T, Y, X: frames, height and width of a video; T = 1 for an image."""

SPEED = 0.5, 1.5
"""Pixels a frame, from and to."""


@dataclass(frozen=True, eq=False)
class MovingDigits:
    """A stream of moving digits without end.

    Attributes:
      digits: the images that move, such as a part of `read_digits`; with labels.
      sizes: of the videos; they take turns.
      seed: all randomness follows from it.

    Raises:
      InputError: for images without labels, or sizes that do not hold a digit.
    """

    digits: ImageSet
    sizes: tuple[Size, ...]
    seed: int = 0

    def __post_init__(self) -> None:
        if self.digits.labels is None:
            raise InputError(f"{self.digits.name}: images without labels, expected digits")
        check_holds_digits(self.digits, self.sizes)
        if not self.sizes:
            raise InputError("sizes are empty, expected one or more")

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes."""
        return self.digits.classes

    def size(self, index: int) -> Size:
        """Frames, height and width of an example."""
        return self.sizes[index % len(self.sizes)]

    def label(self, index: int) -> int:
        """The class of an example."""
        assert self.digits.labels is not None
        return int(self.digits.labels[self._digit(index)])

    def _digit(self, index: int) -> int:
        """Which image moves: each once an epoch, in another order every time."""
        epoch, place = divmod(int(index), len(self.digits))
        return int(permute(np.int64(place), len(self.digits), self.seed, epoch))

    def corners(self, index: int) -> Float[np.ndarray, "T 2"]:
        """Row and column of the digit's upper left corner in each frame, in pixels."""
        frames, height, width = self.size(index)
        generator = np.random.default_rng((self.seed, index))
        room_2 = np.subtract((height, width), self.digits.images.shape[1:3]).astype(np.float64)
        start_2 = generator.uniform(0, room_2)
        angle, speed = generator.uniform(0, 2 * np.pi), generator.uniform(*SPEED)
        velocity_2 = speed * np.array([np.sin(angle), np.cos(angle)])
        return reflected(start_2 + np.arange(frames)[:, None] * velocity_2, room_2)

    def __getitem__(self, index: int, /) -> dict[str, Any]:
        """Example `index`: ``"video"`` uint8 [T, Y, X, C] and ``"label"`` int32."""
        video_TYXC = placed(
            self.digits.images[self._digit(index)], self.corners(index), self.size(index)[1:]
        )
        return {"video": video_TYXC, "label": np.int32(self.label(index))}


def check_holds_digits(digits: ImageSet, sizes: Sequence[Size]) -> None:
    """Refuses sizes in which a digit has no room.

    Raises:
      InputError: naming the first of them.
    """
    height, width = digits.images.shape[1:3]
    for size in sizes:
        if len(size) != 3 or size[0] < 1 or size[1] < height or size[2] < width:
            raise InputError(
                f"size is {size}, expected frames, height and width of 1, {height} and {width} or "
                "more, to hold a digit"
            )


def placed(
    image_YXC: UInt8[np.ndarray, "Y2 X2 C"],
    corner_T2: Float[np.ndarray, "T 2"],
    size: tuple[int, int],
) -> UInt8[np.ndarray, "T Y X C"]:
    """An image on black, at places of whole pixels and between them (linear interpolation).

    Args:
      image_YXC: bytes.
      corner_T2: row and column of its upper left corner in each frame, in pixels.
      size: height and width of the frames.
    """
    rows_TYI, columns_TXI = (
        np.maximum(
            1 - np.abs(np.arange(side)[:, None] - corner_T[:, None, None] - np.arange(own)), 0
        )
        for side, own, corner_T in zip(size, image_YXC.shape, corner_T2.T, strict=False)
    )
    video_CTYX = rows_TYI @ image_YXC.transpose(2, 0, 1)[:, None] @ columns_TXI.swapaxes(1, 2)
    return np.rint(video_CTYX.transpose(1, 2, 3, 0)).astype(np.uint8)


def reflected(
    position: Float[np.ndarray, "*N"], room: Float[np.ndarray, "*M"]
) -> Float[np.ndarray, "*N"]:
    """Positions that went past 0 or past the room, reflected there as often as need be.

    Args:
      position: any numbers.
      room: the largest position, 0 or more; broadcast.
    """
    period = np.maximum(2 * room, 1e-9)  # without room there is one position, 0
    return np.clip(np.abs((position + room) % period - room), 0, room)


def number_of_tokens(
    sizes: tuple[Size, ...], patch: Size, index_N: Int[np.ndarray, "N"]
) -> Int[np.ndarray, "N"]:
    """How many patches the examples of a stream have whose sizes take turns.

    Args:
      sizes: of the stream.
      patch: P_t, P_y, P_x.
      index_N: the examples.

    Raises:
      InputError: for a size that the patch does not divide.
    """
    for size in sizes:
        if any(side % part for side, part in zip(size, patch, strict=True)):
            raise InputError(f"size is {size}, expected multiples of the patch {patch}")
    lengths = np.prod(np.array(sizes) // np.array(patch), axis=1)
    return lengths[index_N % len(sizes)]
