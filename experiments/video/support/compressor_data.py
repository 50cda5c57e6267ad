"""Whole clips for compressors: some to train on, some held out; random crops of the former."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from experiments.shared.digests import digest_of
from experiments.shared.output import progress_bar
from jaxgen.data.images.load_images import read_digits
from jaxgen.data.video.moving_digits import MovingDigits, Size
from jaxgen.data.video.video_folder import open_video_folder
from jaxgen.errors import InputError
from jaxgen.typing import Batch

Clips = dict[str, UInt8[np.ndarray, "T Y X C"]]
"""Videos by name, in one height, width and number of channels."""

EACH = "each"
DIGIT_SIZE, DIGIT_CLIPS = (33, 32, 32), {"train": 256, "test": 8}
MOST_BYTES = 2**32
"""Of the frames that are kept in memory."""


@dataclass(frozen=True)
class ClipData:
    """Clips in memory, and which of them are held out, one division for each training.

    Attributes:
      name: of the set.
      clips: all of them.
      divisions: name of a division -> names of the clips that are held out in it.
      description: a line for the log.
    """

    name: str
    clips: Clips
    divisions: dict[str, tuple[str, ...]]
    description: str

    @property
    def digest(self) -> str:
        """Of all clips."""
        return digest_of(list(self.clips.items()))

    @property
    def channels(self) -> int:
        """1 or 3."""
        return next(iter(self.clips.values())).shape[-1]

    def training(self, division: str) -> Clips:
        """What is trained on."""
        held = self.divisions[division]
        return {name: clip for name, clip in self.clips.items() if name not in held}

    def held_out(self, division: str) -> Clips:
        """What is not."""
        return {name: self.clips[name] for name in self.divisions[division]}


def open_clips(name: str, side: int, held_out: str, seed: int) -> ClipData:
    """The clips of a set.

    Args:
      name: "digits" (moving ones), or a folder of video files.
      side: height and width of the clips of a folder, in pixels.
      held_out: "test", the part of that name; "each", every file of the folder in turn; or the name
        of a file.
      seed: of the motion of digits.

    Raises:
      InputError: for a folder without clips to hold out, or too large for memory.
      FileNotFoundError: where there is no such folder.
    """
    if name == "digits":
        if held_out != "test":
            raise InputError(f"held_out is {held_out!r}, expected 'test' of moving digits")
        return _digits(seed)
    folder = open_video_folder(name, size=(side, side))
    if 3 * side * side * len(folder) > MOST_BYTES:
        raise InputError(
            f"{name}: has {len(folder)} clips of {side} x {side} pixels, expected fewer than "
            f"{MOST_BYTES // 2**30} GiB of frames"
        )
    clips, total = {}, 0
    with progress_bar("reading videos", "clip", len(folder)) as advance:
        for index, (file, *_) in enumerate(folder.clips.tolist()):
            clip = folder[index]["video"]
            total += clip.nbytes
            if total > MOST_BYTES:
                raise InputError(
                    f"{name}: the first {index + 1} clips have {total:,} bytes at {side} x {side} "
                    f"pixels, expected {MOST_BYTES:,} at most"
                )
            clips[folder.files[file].stem] = clip
            advance(1)
    divisions = _divisions(name, tuple(clips), folder.parts.get("test"), held_out)
    frames = sum(map(len, clips.values()))
    line = f"{name}: {len(clips)} clips, {frames:,} frames of {side} x {side} pixels"
    return ClipData(name, clips, divisions, line)


def _divisions(
    folder: str, names: tuple[str, ...], test: tuple[int, int] | None, held_out: str
) -> dict[str, tuple[str, ...]]:
    if len(names) < 2:
        raise InputError(f"{folder}: has {len(names)} clip, expected 2 or more: one is held out")
    if held_out == EACH:
        return {name: (name,) for name in names}
    if held_out in names:
        return {held_out: (held_out,)}
    if held_out == "test" and test is not None and test[1] > test[0]:
        return {"test": names[slice(*test)]}
    raise InputError(
        f"held_out is {held_out!r}, expected 'each' or the name of a clip of {folder}, such as "
        f"{names[0]!r}" + ("" if test is None else ", or 'test'")
    )


def _digits(seed: int) -> ClipData:
    digits, clips, held = read_digits(), {}, []
    for part, count in DIGIT_CLIPS.items():
        stream = MovingDigits(digits.part(part), (DIGIT_SIZE,), seed=seed)
        for index in range(count):
            clips[f"{part}_{index}"] = stream[index]["video"]
            held += [f"{part}_{index}"] if part == "test" else []
    line = f"digits: {len(clips)} clips of {DIGIT_SIZE[0]} frames, {len(held)} of other digits"
    return ClipData("digits", clips, {"test": tuple(held)}, line)


def make_crops(clips: Clips, size: Size, batch_size: int, seed: int) -> Callable[[int], Batch]:
    """Update t -> its batch of random crops, ``"video"`` uint8 [B, T, Y, X, C].

    Clips are drawn by their number of frames; half of the crops are mirrored, half run backwards.

    Args:
      clips: what is cropped.
      size: frames, height and width of a crop.
      batch_size: B.
      seed: with t, all that the batch depends on.

    Raises:
      InputError: for a clip that is smaller than a crop.
    """
    for name, clip in clips.items():
        if any(have < want for have, want in zip(clip.shape, size, strict=False)):
            raise InputError(
                f"crop is {'x'.join(map(str, size))}, expected no more than clip {name} has, "
                f"{'x'.join(map(str, clip.shape[:3]))}"
            )
    arrays = list(clips.values())
    share = np.array([len(clip) for clip in arrays]) / sum(map(len, arrays))

    def crop(generator: np.random.Generator) -> UInt8[np.ndarray, "T Y X C"]:
        clip = arrays[generator.choice(len(arrays), p=share)]
        corner = [
            generator.integers(have - want + 1)
            for have, want in zip(clip.shape, size, strict=False)
        ]
        t, y, x = (slice(start, start + side) for start, side in zip(corner, size, strict=True))
        mirrored, backwards = generator.random(2) < 0.5
        return clip[t, y, x][:: -1 if backwards else 1, :, :: -1 if mirrored else 1]

    def batch(step: int) -> Batch:
        generator = np.random.default_rng((seed, step))
        return {"video": np.stack([crop(generator) for _ in range(batch_size)])}

    return batch
