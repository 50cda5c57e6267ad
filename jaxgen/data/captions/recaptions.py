"""A set relabelled by a captioner (Betker et al. 2023): pictures, and a row of captions for each.

The folder has the pictures, or clips as GIF, and ``captions.jsonl``, so `load_captioned` opens it.
A row has the caption to train on, the original one, and what the captioner wrote. Of a share of the
pictures, 95 % in the paper, the caption is the captioner's; of the others the original one, which
keeps a model that is trained on them from knowing nothing but the captioner's habits.

Rows are added as they are written; a run that was interrupted resumes.
"""

import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxgen.data.captions.captioned_set import CaptionedSet
from jaxgen.data.images.resizing import import_pillow
from jaxgen.data.video.video_files import write_video
from jaxgen.errors import InputError, check_share
from jaxgen.files import append, replacing

ROWS = "captions.jsonl"
CLIP_RATE = 4
"""Frames a second of the clips that are written."""


class Recaption(NamedTuple):
    """A row.

    Attributes:
      file_name: of the picture or clip in the folder.
      caption: what is to be trained on: one of the others.
      original: what the picture was called.
      written: what the captioner wrote; where that is nothing, the caption is the original.
    """

    file_name: str
    caption: str
    original: str
    written: str


def recaption(
    folder: pathlib.Path,
    images: CaptionedSet,
    captioner: Callable[[np.ndarray, int], Sequence[str]],
    *,
    mix: float = 0.95,
    seed: int = 0,
    at_a_time: int = 256,
    write: bool = True,
) -> list[Recaption]:
    """Writes a relabelled set, or resumes.

    Args:
      folder: Its own; made if need be.
      images: The set; its descriptive captions are the original ones.
      captioner: ``captioner(images, first)``: captions of uint8 pictures or clips, at most
        ``at_a_time`` of them, and the number of the first in the set.
      mix: Share of the pictures whose caption is the captioner's.
      seed: Of which ones, each by its number.
      at_a_time: Pictures between two writes.
      write: Whether this process writes; of several that caption together one does.

    Returns:
      All rows, in the order of the pictures.

    Raises:
      InputError: A share outside of [0, 1]; or the folder has rows of other pictures.
    """
    check_share("mix", mix)
    rows = read_recaptions(folder)
    _check_same_set(folder, rows, images)
    if write:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_half_line(folder / ROWS)
    while len(rows) < len(images):
        numbers = range(len(rows), min(len(rows) + at_a_time, len(images)))
        names = [f"{number:06}{'.png' if images.frames is None else '.gif'}" for number in numbers]
        written = captioner(images.images[numbers.start : numbers.stop], numbers.start)
        new = []
        for number, name, text in zip(numbers, names, written, strict=True):
            original = images.descriptive[number]
            chosen = text if text and is_recaptioned(number, mix, seed) else original
            new.append(Recaption(name, chosen, original, text))
        rows += new
        if write:
            for number, name in zip(numbers, names, strict=True):
                _write(folder / name, images.images[number])
            lines = (json.dumps(row._asdict(), ensure_ascii=False) + "\n" for row in new)
            append(folder / ROWS, "".join(lines).encode())
    return rows


def is_recaptioned(number: int, mix: float, seed: int = 0) -> bool:
    """Whether the picture of a number has the captioner's caption."""
    return bool(np.random.default_rng((seed, number)).random() < mix)


def read_recaptions(folder: pathlib.Path) -> list[Recaption]:
    """The rows of a folder, without what was left half written; none where there is no file.

    Raises:
      InputError: For a line that is no row.
    """
    path = folder / ROWS
    lines = _whole_lines(path.read_bytes()).decode().splitlines() if path.exists() else []
    return [_row(path, i, line) for i, line in enumerate(lines, 1)]


def _whole_lines(content: bytes) -> bytes:
    return content[: content.rfind(b"\n") + 1]


def _remove_half_line(path: pathlib.Path) -> None:
    """Removes what was left half written."""
    content = path.read_bytes() if path.exists() else b""
    if content != _whole_lines(content):
        with replacing(path) as handle:
            handle.write(_whole_lines(content))


def _row(path: pathlib.Path, number: int, line: str) -> Recaption:
    try:
        fields: Any = json.loads(line)
        return Recaption(**fields)
    except (ValueError, TypeError):
        expected = ", ".join(Recaption._fields)
        raise InputError(f"{path}: line {number} is {line[:40]!r}, expected {expected}") from None


def _check_same_set(folder: pathlib.Path, rows: list[Recaption], images: CaptionedSet) -> None:
    known = images.descriptive[: len(rows)]
    for number, row in enumerate(rows):
        if number >= len(known) or row.original != known[number]:
            raise InputError(
                f"{folder / ROWS}: row {number} is of {row.original!r}, expected the captions of "
                f"{images.name}"
            )


def _write(path: pathlib.Path, pixels: np.ndarray) -> None:
    """Writes a picture, or a clip."""
    if pixels.ndim == 4:
        write_video(path, pixels, CLIP_RATE)
        return
    grey = pixels.shape[-1] == 1
    with replacing(path) as handle:
        image = import_pillow(str(path)).Image.fromarray(pixels[..., 0] if grey else pixels)
        image.save(handle, format="PNG")
