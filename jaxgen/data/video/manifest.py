"""Manifests: which clips of which videos are to be used, a line of JSON for each.

  {"file": "walk/3.mp4", "start": 120, "frames": 64, "fps": 25.0, "size": [240, 320],
   "seconds": 2.56, "motion": 3.1, "class": "walk", "caption": "...", "part": "train"}

`file` is a path from the manifest's folder on, or an absolute one; `start` and `frames` count the
video's own frames; `class`, `caption` and `part` are there where they are known.
"""

import json
import pathlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jaxgen.data.archives import decode_text, read_bytes
from jaxgen.data.text.corpus import PARTS
from jaxgen.errors import InputError
from jaxgen.files import Path, replacing

_OPTIONAL = {"class": "class_name", "caption": "caption", "part": "part"}


@dataclass(frozen=True)
class ManifestClip:
    """A clip of a video.

    Attributes:
      file: The video, as in the manifest.
      start: The first frame.
      frames: How many.
      fps: Frames a second, the average.
      size: Y and X.
      seconds: How long it is.
      motion: Its motion score (`jaxgen.data.video.shots`).
      class_name: Of its class, or None.
      caption: Or None.
      part: "train", "validation" or "test", or None.
    """

    file: str
    start: int
    frames: int
    fps: float
    size: tuple[int, int]
    seconds: float
    motion: float
    class_name: str | None = None
    caption: str | None = None
    part: str | None = None

    def to_json(self) -> str:
        """The clip's line, without its end."""
        fields: dict[str, Any] = {
            "file": self.file,
            "start": self.start,
            "frames": self.frames,
            "fps": self.fps,
            "size": list(self.size),
            "seconds": self.seconds,
            "motion": self.motion,
        }
        known = {key: getattr(self, name) for key, name in _OPTIONAL.items()}
        fields |= {key: value for key, value in known.items() if value is not None}
        return json.dumps(fields, ensure_ascii=False)


def write_manifest(path: Path, clips: Sequence[ManifestClip]) -> None:
    """Writes a manifest, whole or not at all."""
    with replacing(path) as handle:
        handle.writelines(f"{clip.to_json()}\n".encode() for clip in clips)


def read_manifest(path: Path) -> list[ManifestClip]:
    """The clips of a manifest, in their order.

    Raises:
      FileNotFoundError: There is no such file.
      InputError: It is empty, or a line is no clip; names the line and the field.
    """
    text = decode_text(read_bytes(path), str(path))
    lines = [(n, line) for n, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not lines:
        raise InputError(f"{path}: has no clips, expected one or more")
    return [_clip(f"{path}: line {number}", line) for number, line in lines]


def _clip(where: str, line: str) -> ManifestClip:
    try:
        found = json.loads(line)
    except ValueError as error:
        raise InputError(f"{where}: not JSON ({error})") from error
    if not isinstance(found, dict):
        raise InputError(f"{where}: is {line[:40]}, expected an object")
    file, size = found.get("file"), found.get("size", (1, 1))
    if not isinstance(file, str) or not file:
        raise InputError(f"{where}: file is {file!r}, expected the path of a video")
    for key, least in (("start", 0), ("frames", 1)):
        if type(found.get(key)) is not int or found[key] < least:
            raise InputError(f"{where}: {key} is {found.get(key)!r}, expected {least} or more")
    numbers = {key: found.get(key, 0.0) for key in ("fps", "seconds", "motion")}
    if not all(isinstance(value, int | float) for value in numbers.values()):
        raise InputError(f"{where}: fps, seconds and motion are {numbers}, expected numbers")
    if not isinstance(size, list | tuple) or len(size) != 2:
        raise InputError(f"{where}: size is {size!r}, expected [Y, X]")
    if found.get("part") not in (None, *PARTS):
        raise InputError(f"{where}: part is {found['part']!r}, expected {', '.join(PARTS)}")
    texts: dict[str, Any] = {name: found.get(key) for key, name in _OPTIONAL.items()}
    return ManifestClip(
        file, found["start"], found["frames"], size=(size[0], size[1]), **numbers, **texts
    )


def path_in_manifest(manifest: Path, file: str) -> pathlib.Path:
    """Where a video of a manifest is."""
    return pathlib.Path(manifest).parent / file
