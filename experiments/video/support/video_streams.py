"""Streams of videos and images of several sizes, and batches of them as packs.

Example i of a stream is a function of i alone; the sizes of a stream take turns. A training run
reads its stream from 0 on, so that batch t is known from t alone.
"""

import hashlib
import pathlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from jaxtyping import UInt8

from experiments.shared.digests import digest_of, images_digest
from experiments.shared.output import progress_bar
from jaxgen.data import ImageSet
from jaxgen.data.batch_plan import permute
from jaxgen.data.images.load_images import read_digits
from jaxgen.data.packing import PackedExample, PackPlan, pack_arrays
from jaxgen.data.video.moving_digits import MovingDigits, Size, number_of_tokens
from jaxgen.data.video.video_folder import VideoFolder, open_video_folder
from jaxgen.errors import InputError
from jaxgen.nn.positions import grid_places
from jaxgen.spacetime.patches import patch_grid, patchify
from jaxgen.typing import Batch

HELD_OUT = "validation", "test"
MOST_BYTES = 2**31
"""Clips of a part that are kept in memory, in bytes, at most."""


class Stream(Protocol):
    """Videos without end; see `MovingDigits`."""

    @property
    def sizes(self) -> tuple[Size, ...]:
        """Sizes that take turns."""

    def __getitem__(self, index: int, /) -> dict[str, Any]:
        """``"video"`` uint8 [T, Y, X, C] and, where there are classes, ``"label"``."""


@dataclass(frozen=True, eq=False)
class FolderStream:
    """Clips of video files without end, in a new order every epoch.

    Attributes:
      clips: of one part, as long, high and wide as the longest, highest and widest of the sizes.
      sizes: what clips are cut to: their first frames, the middle of each.
      seed: of the order.
    """

    clips: VideoFolder | list[dict[str, Any]]
    sizes: tuple[Size, ...]
    seed: int = 0

    def __getitem__(self, index: int, /) -> dict[str, Any]:
        epoch, place = divmod(index, len(self.clips))
        number = int(permute(np.int64(place), len(self.clips), self.seed, epoch))
        example = self.clips[number]
        video_TYXC = middle_of(example["video"], self.sizes[index % len(self.sizes)])
        return {**example, "video": video_TYXC}


def middle_of(
    video_TYXC: UInt8[np.ndarray, "T Y X C"], size: Size
) -> UInt8[np.ndarray, "T2 Y2 X2 C"]:
    """The first frames of a video, cut to their middle."""
    frames, height, width = size
    top, left = (video_TYXC.shape[1] - height) // 2, (video_TYXC.shape[2] - width) // 2
    return video_TYXC[:frames, top : top + height, left : left + width]


@dataclass(frozen=True)
class VideoData:
    """The streams of a data set.

    Attributes:
      name: of the set.
      classes: names of the classes; empty without labels.
      channels: 1 or 3.
      train: what is trained on.
      held_out: of other digits, or other files; None where there are too few.
      digest: of what the streams are made of.
      description: a line for the log.
      digits: the digits that move, for an evaluator; None for video files.
    """

    name: str
    classes: tuple[str, ...]
    channels: int
    train: Stream
    held_out: Stream | None
    digest: str
    description: str
    digits: ImageSet | None = None


def open_videos(name: str, sizes: tuple[Size, ...], seed: int) -> VideoData:
    """The streams of a set.

    Args:
      name: "digits", moving digits made from the built-in ones, or a folder of video files whose
        subfolders are classes.
      sizes: frames, height and width of the examples; they take turns.
      seed: of the order and of motions.

    Raises:
      InputError: for sizes that hold no digit, or a folder without videos that are long enough.
      FileNotFoundError: where there is no such folder.
    """
    if name == "digits":
        digits = read_digits()
        streams = [
            MovingDigits(digits.part(part), sizes, seed=seed) for part in ("train", "validation")
        ]
        line = f"digits: {len(digits):,} that move, {len(digits.classes)} classes, {names(sizes)}"
        return VideoData(
            name, digits.classes, 1, *streams, images_digest(digits), line, digits=digits
        )
    largest = tuple(max(size[axis] for size in sizes) for axis in range(3))
    folder = open_video_folder(name, size=largest[1:], frames=largest[0])
    held = next((part for part in HELD_OUT if part in folder.parts), None)
    return VideoData(
        folder.name,
        folder.classes,
        folder.channels,
        FolderStream(_in_memory(folder.part("train")), sizes, seed),
        None if held is None else FolderStream(_in_memory(folder.part(held)), sizes, seed),
        digest_of([(str(file.relative_to(name)), _content(file)) for file in folder.files]),
        f"{folder.name}: {len(folder):,} clips of {len(folder.files)} files, {names(sizes)}",
    )


def _in_memory(part: VideoFolder) -> VideoFolder | list[dict[str, Any]]:
    """The clips of a part, each file decoded once; where they are too many, they stay files.

    Of a clip that stays in its file, the whole file is decoded in most updates that see it.
    """
    if len(part) * part[0]["video"].nbytes > MOST_BYTES:
        return part
    with progress_bar("reading videos", "clip", len(part)) as advance:
        clips = []
        for index in range(len(part)):
            clips.append(part[index])
            advance(1)
    return clips


def _content(file: pathlib.Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def parse_sizes(texts: Sequence[str], patch: Size, flag: str) -> tuple[Size, ...]:
    """Sizes such as "8x16x16": frames, height and width.

    Raises:
      InputError: for anything else, and for a size that the patch does not divide.
    """
    sizes = []
    for text in texts:
        size = parse_size(text, flag)
        if any(side % part for side, part in zip(size, patch, strict=True)):
            raise InputError(
                f"{flag} has {text}, expected multiples of the patch {'x'.join(map(str, patch))}"
            )
        sizes.append(size)
    if not sizes:
        raise InputError(f"{flag} is empty, expected one size or more")
    if len(set(sizes)) < len(sizes) and flag != "sizes":
        raise InputError(f"{flag} has {' '.join(texts)}, expected each size once")
    return tuple(sizes)


def parse_size(text: str, flag: str) -> Size:
    """Frames, height and width of a text such as "8x16x16".

    Raises:
      InputError: for anything else; the message names the flag.
    """
    sides = text.split("x")
    if len(sides) != 3 or not all(side.isascii() and side.isdigit() for side in sides):
        raise InputError(f"{flag} is {text!r}, expected frames x height x width, as 8x16x16")
    size = (int(sides[0]), int(sides[1]), int(sides[2]))
    if min(size) < 1:
        raise InputError(f"{flag} is {text!r}, expected sides of 1 or more")
    return size


def names(sizes: Sequence[Size]) -> str:
    """Sizes as text, each once."""
    return ", ".join(dict.fromkeys("x".join(map(str, size)) for size in sizes))


def make_pack_batches(
    stream: Stream, patch: Size, pack_length: int, max_examples: int, packs: int
) -> Callable[[int], Batch]:
    """Update t -> its batch of packs, numpy arrays (`pack_arrays`).

    Args:
      stream: the examples.
      patch: P_t, P_y, P_x.
      pack_length: tokens of a pack.
      max_examples: examples of a pack, at most.
      packs: of a batch.

    Raises:
      InputError: for a size that no patch divides, or longer than a pack.
    """
    plan = PackPlan(
        lambda index_N: number_of_tokens(stream.sizes, patch, index_N), pack_length, max_examples
    )
    plan.pack(0)  # where an example is too long, it is known now

    def batch(step: int) -> Batch:
        chosen = [plan.pack(step * packs + row) for row in range(packs)]
        return pack_arrays(
            [[as_tokens(stream, index, patch) for index in pack] for pack in chosen],
            pack_length,
            max_examples,
        )

    return batch


def as_tokens(stream: Stream, index: int, patch: Size) -> PackedExample:
    """An example as patches, bytes still."""
    example = stream[index]
    video_1TYXC = example["video"][None]
    label = example.get("label")
    return PackedExample(
        index,
        patchify(video_1TYXC, patch)[0],
        grid_places(patch_grid(video_1TYXC.shape, patch)),
        None if label is None else int(label),
    )
