"""Streams of videos and images of several sizes, and batches of them as packs.

Example i of a stream is a function of i alone; the sizes of a stream take turns. A training run
reads its stream from 0 on, so that batch t is known from t alone.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from jaxtyping import Int, UInt8

from experiments.shared.digests import digest_of, images_digest
from experiments.shared.output import progress_bar
from jaxgen.data import ImageSet
from jaxgen.data.batch_plan import permute
from jaxgen.data.images.load_images import read_digits
from jaxgen.data.packing import PackedExample, PackPlan, pack_arrays
from jaxgen.data.video import sprite_sheets
from jaxgen.data.video.load_videos import load_videos
from jaxgen.data.video.moving_digits import MovingDigits, Size, number_of_tokens
from jaxgen.data.video.sprite_sheets import SpriteClips, open_sprite_sheets
from jaxgen.data.video.tfds_videos import TfdsVideos
from jaxgen.data.video.video_folder import VideoFolder
from jaxgen.data.video.video_sources import content_digest
from jaxgen.diffusion.objectives.joint_frames import clip_with_images
from jaxgen.errors import InputError
from jaxgen.nn.patches import patch_grid, patchify
from jaxgen.nn.positions import grid_places
from jaxgen.typing import Batch

HELD_OUT = "validation", "test"
IMAGES_FROM = 4096
"""Clips of a size whose frames are images beside other clips."""
SPRITES = "sprites:"
MOST_BYTES = 2**31
"""Clips of a part that are kept in memory, in bytes, at most."""


VideoClips = VideoFolder | TfdsVideos


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

    clips: VideoClips | list[dict[str, Any]]
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


Streams = Callable[[str, tuple[Size, ...], int], Stream]
"""``(part, sizes, seed) -> stream`` of "train", "validation" or "test"; of files, where a part is
missing, of the one before it."""


LabelledClips = tuple[UInt8[np.ndarray, "N T Y X C"], Int[np.ndarray, "N"] | None]
"""Clips, and their classes where there are any."""


@dataclass(frozen=True)
class VideoData:
    """The streams of a data set.

    Attributes:
      name: of the set.
      classes: names of the classes; empty without labels.
      channels: 1 or 3.
      train: what is trained on.
      held_out: of other digits, or other files; None where there are too few.
      streams: of any part and sizes, for what evaluates samples.
      digest: of what the streams are made of.
      description: a line for the log.
      digits: the digits that move, for an evaluator; None for video files.
      largest: size of the streams, along each axis; None without bounds.
    """

    name: str
    classes: tuple[str, ...]
    channels: int
    train: Stream
    held_out: Stream | None
    streams: Streams
    digest: str
    description: str
    digits: ImageSet | None = None
    largest: Size | None = None

    def known(self, sizes: Sequence[Size]) -> tuple[Size, ...]:
        """Those of the sizes of which there are held-out clips."""
        if self.held_out is None:
            return ()
        return tuple(
            s for s in sizes if self.largest is None or all(np.less_equal(s, self.largest))
        )

    def unseen_clips(self, size: Size, count: int) -> LabelledClips:
        """Real clips that nothing was trained on, where there are some, and their classes."""
        return _first_clips(self.streams("test", (size,), 2), count)

    def reference_clips(self, size: Size, count: int) -> UInt8[np.ndarray, "N T Y X C"]:
        """Other real clips, from which distances are taken."""
        return _first_clips(self.streams("validation", (size,), 3), count)[0]


def open_videos(
    name: str, sizes: tuple[Size, ...], seed: int, fps: float | None = None
) -> VideoData:
    """The streams of a set.

    Args:
      name: "digits", moving digits made from the built-in ones; "sprites:FOLDER", animated
        characters of sprite sheets (`jaxgen.data.video.sprite_sheets`); else as `load_videos`: a
        folder or a zip archive of videos, a manifest, or "tfds:NAME".
      sizes: frames, height and width of the examples; they take turns.
      seed: of the order and of motions.
      fps: frames a second that files are resampled to; None takes each frame once.

    Raises:
      InputError: for sizes that hold no digit, or a set without videos that are long enough.
      FileNotFoundError: where there is no such folder.
    """
    sprites = name.startswith(SPRITES)
    if name != "digits" and not sprites:
        return _videos_of_files(name, sizes, seed, fps)
    if fps is not None:
        raise InputError(f"fps is {fps}, expected none of {name}, whose frames are made")
    made = _sprites(name) if sprites else _moving_digits()
    return VideoData(
        name,
        train=made.streams("train", sizes, seed),
        held_out=made.streams("validation", sizes, seed),
        **made._asdict() | {"description": f"{made.description}, {names(sizes)}"},
    )


class _Made(NamedTuple):
    """Fields of the `VideoData` of streams that are made; all of them have held-out parts."""

    classes: tuple[str, ...]
    channels: int
    streams: Streams
    digest: str
    description: str
    digits: ImageSet | None = None
    largest: Size | None = None


def _moving_digits() -> _Made:
    digits = read_digits()

    def streams(part: str, sizes: tuple[Size, ...], seed: int) -> Stream:
        return MovingDigits(digits.part(part), sizes, seed=seed)

    line = f"digits: {len(digits):,} that move, {len(digits.classes)} classes"
    return _Made(digits.classes, 1, streams, images_digest(digits), line, digits=digits)


def _sprites(name: str) -> _Made:
    sheets = open_sprite_sheets(name.removeprefix(SPRITES))
    classes, side = sprite_sheets.CLASSES, sprite_sheets.SIDE
    count = len(sheets.characters("train"))
    return _Made(
        classes,
        3,
        functools.partial(SpriteClips, sheets),
        digest_of(sheets.layers),
        f"{name}: {count:,} characters, {len(classes)} classes",
        largest=(sprite_sheets.FRAMES, side, side),
    )


def _videos_of_files(name: str, sizes: tuple[Size, ...], seed: int, fps: float | None) -> VideoData:
    largest = tuple(max(size[axis] for size in sizes) for axis in range(3))
    clips = load_videos(name, size=largest[1:], frames=largest[0], fps=fps)
    parts = {"train": _in_memory(clips.part("train"))}
    for part, other in (("validation", "train"), ("test", "validation")):
        parts[part] = _in_memory(clips.part(part)) if part in clips.parts else parts[other]

    def streams(part: str, sizes: tuple[Size, ...], seed: int) -> Stream:
        return FolderStream(parts[part], sizes, seed)

    held = next((part for part in HELD_OUT if part in clips.parts), None)
    return VideoData(
        clips.name,
        clips.classes,
        clips.channels,
        streams("train", sizes, seed),
        None if held is None else streams(held, sizes, seed),
        streams,
        clips_digest(clips),
        f"{clips.name}: {len(clips):,} clips{of_files(clips)}, {names(sizes)}",
        largest=largest,
    )


def clips_digest(clips: VideoClips) -> str:
    """A digest of the files of a set; of a tfds set, which has none, of its name and size."""
    if isinstance(clips, TfdsVideos):
        return digest_of([clips.name, len(clips)])
    return digest_of([(file.name, content_digest(file)) for file in clips.files])


def of_files(clips: VideoClips) -> str:
    """How many files clips are of, where they are of files."""
    return f" of {len(clips.files)} files" if isinstance(clips, VideoFolder) else ""


def _in_memory(part: VideoClips) -> VideoClips | list[dict[str, Any]]:
    """The clips of a part, each file decoded once; where they are too many, they stay files."""
    if len(part) * part[0]["video"].nbytes > MOST_BYTES:
        return part
    with progress_bar("reading videos", "clip", len(part)) as advance:
        clips = []
        for index in range(len(part)):
            clips.append(part[index])
            advance(1)
    return clips


def _first_clips(stream: Stream, count: int) -> LabelledClips:
    """The first clips of a stream of one size."""
    examples = [stream[index] for index in range(count)]
    labels = [example["label"] for example in examples if "label" in example]
    videos = np.stack([example["video"] for example in examples])
    return videos, np.array(labels, np.int32) if labels else None


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
    if len(set(sizes)) < len(sizes) and flag.startswith("sample_sizes"):
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
    plan = make_pack_plan(stream.sizes, patch, pack_length, max_examples)
    plan.pack(0)  # where an example is too long, it is known now

    def batch(step: int) -> Batch:
        chosen = [plan.pack(step * packs + row) for row in range(packs)]
        return pack_arrays(
            [[as_tokens(stream, index, patch) for index in pack] for pack in chosen],
            pack_length,
            max_examples,
        )

    return batch


def make_pack_plan(
    sizes: tuple[Size, ...], patch: Size, pack_length: int, max_examples: int
) -> PackPlan:
    """The packs of a stream without end whose sizes take turns; as `make_pack_batches`."""
    return PackPlan(
        lambda index_N: number_of_tokens(sizes, patch, index_N), pack_length, max_examples
    )


def make_clip_batches(stream: Stream, clips: int, image_frames: int = 0) -> Callable[[int], Batch]:
    """Update t -> its batch of clips of one size; sizes take turns.

    Args:
      stream: the examples.
      clips: of a batch.
      image_frames: I, independent images beside each clip (`clip_with_images`): then the batch has
        ``"images"`` [B, I, Y, X, C] too, and its labels are [B, 1 + I].

    Raises:
      InputError: for fewer images than none.
    """
    turns = len(stream.sizes)
    if image_frames < 0:
        raise InputError(f"image_frames is {image_frames}, expected 0 or more")

    def batch(step: int) -> Batch:
        turn, first = step % turns, step // turns * clips
        number_B = np.arange(first, first + clips)
        of_turn = _OneSize(stream, turn)
        examples = [
            clip_with_images(of_turn, int(number), image_frames, IMAGES_FROM) for number in number_B
        ]
        arrays = {
            name: np.stack([e[name] for e in examples])
            for name in ("video", "label")
            if name in examples[0]
        }
        if image_frames:
            video = arrays["video"]
            arrays |= {"video": video[:, :-image_frames], "images": video[:, -image_frames:]}
        elif "label" in arrays:
            arrays["label"] = arrays["label"][:, 0]
        return {**arrays, "index": (number_B * turns + turn).astype(np.int32)}

    return batch


@dataclass(frozen=True, eq=False)
class _OneSize:
    """The examples of a stream that have one of its sizes."""

    stream: Stream
    turn: int

    def __getitem__(self, index: int, /) -> dict[str, Any]:
        return self.stream[index * len(self.stream.sizes) + self.turn]


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
