"""From a folder of videos to a manifest of the clips worth training on, in steps that resume.

Each video is decoded once: its shots are found and the motion in each is measured
(`jaxgen.data.video.shots`). A line of JSON with what was found is added to ``files.jsonl`` when a
video is done, so that a run that was killed, or is started again with other filters, decodes no
video twice, as long as its name, size and time of change and the thresholds of cuts are the same.
Filters then choose among the shots, and ``clips.jsonl`` (`jaxgen.data.video.manifest`) is written
whole.
"""

import functools
import json
import os
import pathlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from jaxgen.data.archives import describe_left_out
from jaxgen.data.video.container_frames import TimedFrame
from jaxgen.data.video.frame_index import FrameIndex, Times
from jaxgen.data.video.manifest import ManifestClip, write_manifest
from jaxgen.data.video.shots import (
    CutThresholds,
    find_cuts,
    frame_steps,
    motion_score,
    shots_of,
)
from jaxgen.data.video.video_listing import ListedVideo, VideoListing
from jaxgen.data.video.video_sources import decode_frames, index_of_decoded, version_of
from jaxgen.errors import InputError
from jaxgen.files import Path, append, as_path, replacing

LOG, MANIFEST = "files.jsonl", "clips.jsonl"

TOO_SHORT, TOO_SMALL, STILL = "too short", "too small", "still"


@dataclass(frozen=True)
class ClipFilters:
    """Which shots are left out.

    Attributes:
      min_frames: Those of fewer frames.
      min_seconds: Shorter ones.
      min_side: Those whose height or width is less, in pixels.
      min_motion: Still ones: with less motion (`jaxgen.data.video.shots`), in levels of 255 a
        frame. A slide has 0 to 0.1, a talking head 1 to 3, a moving camera 5 to 10.

    Raises:
      InputError: A number is out of its range.
    """

    min_frames: int = 16
    min_seconds: float = 0.0
    min_side: int = 1
    min_motion: float = 0.2

    def __post_init__(self) -> None:
        for name, least in (
            ("min_frames", 1),
            ("min_seconds", 0),
            ("min_side", 1),
            ("min_motion", 0),
        ):
            if not getattr(self, name) >= least:
                raise InputError(f"{name} is {getattr(self, name)}, expected {least} or more")

    def fault(self, clip: ManifestClip) -> str | None:
        """Why a clip is left out, or None."""
        if clip.frames < self.min_frames or clip.seconds < self.min_seconds:
            return TOO_SHORT
        if min(clip.size) < self.min_side:
            return TOO_SMALL
        return STILL if clip.motion < self.min_motion else None


@dataclass(frozen=True)
class CurationReport:
    """What a curation found, and what it kept.

    Attributes:
      videos: How many there are.
      unreadable: Name and fault of those that could not be decoded to their end.
      shots: How many the others have.
      clips: How many shots were kept.
      seconds: Of all shots.
      kept_seconds: Of the clips.
      left_out: How many shots were left out for each reason.
      decoded: How many videos were decoded in this run; the others were known.
      other_files: The names of the files that are no videos.
    """

    videos: int
    unreadable: Mapping[str, str]
    shots: int
    clips: int
    seconds: float
    kept_seconds: float
    left_out: Mapping[str, int]
    decoded: int
    other_files: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """The report in words, a line for each matter."""
        lines = [
            f"{self.videos:,} videos, {len(self.unreadable):,} unreadable;"
            f" {self.decoded:,} decoded now" + describe_left_out(self.other_files),
            f"{self.shots:,} shots of {self.seconds / 3600:.3f} hours,"
            f" kept {self.clips:,} of {self.kept_seconds / 3600:.3f} hours",
        ]
        lines += [f"left out, {reason}: {n:,} shots" for reason, n in self.left_out.items() if n]
        return lines + [f"unreadable: {fault}" for fault in self.unreadable.values()]

    def figures(self) -> dict[str, Any]:
        """The numbers by name."""
        return {
            "videos": self.videos,
            "unreadable": len(self.unreadable),
            "shots": self.shots,
            "clips": self.clips,
            "hours": self.seconds / 3600,
            "hours kept": self.kept_seconds / 3600,
            **{f"left out, {reason}": count for reason, count in self.left_out.items()},
        }


def curate(
    listing: VideoListing,
    folder: Path,
    *,
    thresholds: CutThresholds | None = None,
    filters: ClipFilters | None = None,
    advance: Callable[[int], object] = lambda count: None,
) -> CurationReport:
    """Decodes the videos that are not known yet, and writes the manifest.

    Args:
      listing: `list_videos` of a folder.
      folder: Where ``files.jsonl`` and ``clips.jsonl`` are written; made if it is not there.
      thresholds: What makes a cut.
      filters: Which shots are left out.
      advance: Called with 1 for each video that is done.

    Returns:
      The report.

    Raises:
      InputError: No clip is left; the manifest is not written then.
    """
    thresholds, filters = thresholds or CutThresholds(), filters or ClipFilters()
    out = as_path(folder)
    out.mkdir(parents=True, exist_ok=True)
    known = _read_log(out / LOG)
    found: list[tuple[ListedVideo, Mapping[str, Any]]] = []
    decoded = 0
    for video in listing.videos:
        key = _key(video, thresholds)
        record = known.get(json.dumps(key))
        if record is None:
            record = {**key, **_measure(video.path, thresholds)}
            append(out / LOG, f"{json.dumps(record, ensure_ascii=False)}\n".encode())
            decoded += 1
        found.append((video, record))
        advance(1)
    clips = [clip for video, record in found for clip in _clips(out, video, record)]
    faults = [filters.fault(clip) for clip in clips]
    kept = [clip for clip, fault in zip(clips, faults, strict=True) if fault is None]
    report = CurationReport(
        videos=len(found),
        unreadable={video.name: r["fault"] for video, r in found if "fault" in r},
        shots=len(clips),
        clips=len(kept),
        seconds=sum(clip.seconds for clip in clips),
        kept_seconds=sum(clip.seconds for clip in kept),
        left_out={reason: Counter(faults)[reason] for reason in (TOO_SHORT, TOO_SMALL, STILL)},
        decoded=decoded,
        other_files=listing.left_out,
    )
    if not kept:
        raise InputError(f"{out}: no clip is left ({'; '.join(report.lines())})".replace("\n", " "))
    write_manifest(out / MANIFEST, kept)
    return report


def _key(video: ListedVideo, thresholds: CutThresholds) -> dict[str, Any]:
    """What a line of the log must have to be that of a video as it is now."""
    changed, size = version_of(video.path)
    where = os.path.abspath(video.path)
    return {"file": where, "bytes": size, "changed_ns": changed, "cuts": asdict(thresholds)}


def _read_log(path: pathlib.Path) -> dict[str, Mapping[str, Any]]:
    """The lines of the log by their keys; a last line that was cut off is removed."""
    if not path.exists():
        return {}
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        with replacing(path) as handle:
            handle.write(whole)
    known = {}
    for number, line in enumerate(whole.decode(errors="replace").splitlines(), 1):
        try:
            record = json.loads(line)
            key = {name: record[name] for name in ("file", "bytes", "changed_ns", "cuts")}
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path}: line {number} is damaged, expected a video's; remove the file to begin"
                " from the start"
            ) from error
        known[json.dumps(key)] = record
    return known


def _measure(path: pathlib.Path, thresholds: CutThresholds) -> dict[str, Any]:
    """Length, size and shots of a video, decoded once; or its fault."""
    times: list[Times] = []
    sizes: set[tuple[int, int]] = set()
    try:
        steps = frame_steps(_pictures(decode_frames(path), times, sizes))
        index = index_of_decoded(path, times)
        fps = index.fps(str(path))
    except (InputError, FileNotFoundError) as error:
        return {"fault": str(error)}
    cuts = find_cuts(steps, thresholds)
    return {
        "frames": len(times),
        "fps": fps,
        "size": list(min(sizes)),
        "shots": [
            [first, count, _seconds(index, first, count), motion_score(steps, first, count)]
            for first, count in shots_of(cuts, len(times))
        ],
    }


def _pictures(
    frames: Iterator[TimedFrame], times: list[Times], sizes: set[tuple[int, int]]
) -> Iterator[np.ndarray]:
    """The pixels of frames; their times and sizes are added to the lists."""
    for frame in frames:
        picture = frame.pixels()
        times.append((frame.start, frame.duration))
        sizes.add((picture.shape[0], picture.shape[1]))
        yield picture


def _seconds(index: FrameIndex, first: int, count: int) -> float:
    return round(float(index.span(first, count).seconds("shot")), 6)


def _clips(
    out: pathlib.Path, video: ListedVideo, record: Mapping[str, Any]
) -> Iterator[ManifestClip]:
    """All shots of a video as clips of the manifest."""
    name = _name_in_manifest(out, record["file"])
    for first, count, seconds, motion in record.get("shots", ()):
        yield ManifestClip(
            name,
            first,
            count,
            fps=record["fps"],
            size=(record["size"][0], record["size"][1]),
            seconds=seconds,
            motion=round(motion, 4),
            class_name=video.class_name,
            caption=video.caption,
            part=video.part,
        )


@functools.lru_cache(maxsize=1)
def _absolute(out: pathlib.Path) -> pathlib.Path:
    return pathlib.Path(os.path.abspath(out))


def _name_in_manifest(out: pathlib.Path, file: str) -> str:
    """A path from the manifest's folder on where the video is in it, else the absolute one."""
    path, root = pathlib.PurePath(file), _absolute(out)
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else file
