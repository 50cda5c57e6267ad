"""Video sets of TensorFlow Datasets (see `jaxgen.data.text.tfds_text`).

Sequences of images and tensors are read without TensorFlow; tfds itself imports it for sets with
its Video feature, such as ucf101.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int32, UInt8

from jaxgen.data.archives import Path
from jaxgen.data.images.image_set import (
    check_labels,
    check_parts,
    one_part,
    published_parts,
)
from jaxgen.data.text.corpus import Spans
from jaxgen.data.text.tfds_text import (
    label_feature,
    open_builder,
    open_split,
    single_feature,
    splits_of_parts,
)
from jaxgen.data.video.folder_files import check_clip_options
from jaxgen.data.video.video_folder import fit_frame
from jaxgen.errors import InputError


@dataclass(frozen=True, eq=False)
class TfdsVideos:
    """Clips of a video set, read when asked for: records for `jaxgen.data.pipeline`.

    Attributes:
      name: The set.
      splits: The records of each of its splits.
      feature: Which feature of a record is the video.
      clips: int32 [N, 3], of each clip: its split, its record, and its place in the record in
        clips.
      labels: int32 [N], indices into `classes`; or None.
      classes: The names of the classes; empty where there are no labels.
      parts: "train" and where there are any "validation" and "test" -> (start, stop) in N.
      size: Y and X of the clips, or None for the set's own.
      frames: T, or None for clips that are whole records.
      stride: Each how-manieth frame is kept.
      channels: 3 or 1.
    """

    name: str
    splits: tuple[Any, ...]
    feature: str
    clips: Int32[np.ndarray, "N 3"]
    labels: Int32[np.ndarray, "N"] | None
    classes: tuple[str, ...]
    parts: Spans
    size: tuple[int, int] | None = None
    frames: int | None = None
    stride: int = 1
    channels: int = 3

    def __post_init__(self) -> None:
        check_labels(self.name, self.labels, len(self), self.classes)
        check_parts(self.name, self.parts, len(self))

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int, /) -> dict[str, Any]:
        """Clip `index`: ``"video"``, uint8 [T, Y, X, C], and where there are labels ``"label"``."""
        split, record, place = self.clips[index].tolist()
        source = f"{self.name}: record {record}"
        video = _as_video(source, self.splits[split][record][self.feature])[:: self.stride]
        length = self.frames or len(video)
        kept = video[place * length : (place + 1) * length]
        frames = [fit_frame(frame, self.size, self.channels) for frame in kept]
        found: dict[str, Any] = {"video": np.stack(frames)}
        return found if self.labels is None else {**found, "label": self.labels[index]}

    def part(self, name: str) -> "TfdsVideos":
        """One part as a set of its own, with that part alone.

        Raises:
          InputError: There is no part of this name.
        """
        return one_part(self, name, "clips")


def open_tfds_videos(
    name: str,
    *,
    size: tuple[int, int] | None = None,
    frames: int | None = None,
    stride: int = 1,
    channels: int = 3,
    feature: str | None = None,
    data_dir: Path | None = None,
) -> TfdsVideos:
    """Finds the clips of a set of TensorFlow Datasets, which is read once to count their frames.

    Args:
      name: The set, with configuration and version where it has them: ``"ucf101:2.0.0"``.
      size: Y and X, as `open_video_folder`.
      frames: T, as `open_video_folder`.
      stride: As `open_video_folder`.
      channels: As `open_video_folder`.
      feature: Which feature of a record is the video: a Video, a Sequence of Image, or a Tensor of
        uint8 [T, Y, X, C]. Needed only if there are several.
      data_dir: Where the prepared set lies; by default where tfds keeps its sets.

    Returns:
      The clips of train, validation and test, one part after another; if the set has no part for
      validation, the clips of the last tenth of the records of train. Labels are those of the only
      ClassLabel feature.

    Raises:
      InputError: The packages (for a Video TensorFlow too) or the set are not there, the set is
        not in the array_record format, has no training part or no single video feature, or no
        record of it gives a clip.
    """
    check_clip_options(size, frames, stride, channels, None)
    try:
        builder = open_builder(name, data_dir)
    except ImportError as error:
        raise InputError(
            f"tfds:{name}: needs the package tensorflow, without which tfds opens no Video feature"
            f" ({error})"
        ) from error
    features = builder.info.features
    feature = single_feature(name, features, feature, "video", _is_video)
    label = label_feature(features)
    splits: list[Any] = []
    clips: list[tuple[int, int, int]] = []
    labels: list[int] = []
    counts: list[int] = []
    sizes: dict[str, int] = {}
    for part, split in splits_of_parts(name, builder.info.splits).items():
        records = open_split(name, builder, split)
        for number in range(len(records)):
            record = records[number]
            video = _as_video(f"tfds:{name}: {split} record {number}", record[feature])
            kept = -(-len(video) // stride)
            count = 1 if frames is None else kept // frames
            clips += [(len(splits), number, place) for place in range(count)]
            labels += [int(record[label])] * count if label else []
            counts.append(count)
        splits.append(records)
        sizes[part] = len(records)
    ends = [0, *np.cumsum(counts).tolist()]  # records, not clips, are divided into parts
    spans = {part: (ends[a], ends[b]) for part, (a, b) in published_parts(sizes).items()}
    parts = {part: span for part, span in spans.items() if span[0] < span[1]}
    if "train" not in parts:
        raise InputError(
            f"tfds:{name}: no record of train has {frames} frames at stride {stride}, expected one"
            " or more"
        )
    return TfdsVideos(
        f"tfds:{name}",
        tuple(splits),
        feature,
        np.array(clips, np.int32),
        np.array(labels, np.int32) if label else None,
        tuple(features[label].names) if label else (),
        parts,
        None if size is None else (size[0], size[1]),
        frames,
        stride,
        channels,
    )


def _is_video(feature: Any) -> bool:
    kinds = {kind.__name__ for kind in type(feature).__mro__}
    if "Sequence" in kinds and type(feature.feature).__name__ == "Image":
        return True
    is_bytes = type(feature).__name__ == "Tensor" and feature.np_dtype == np.uint8
    return bool(is_bytes and len(feature.shape) == 4 and feature.shape[-1] in (1, 3))


def _as_video(source: str, value: Any) -> UInt8[np.ndarray, "T Y X C"]:
    video = np.asarray(value) if isinstance(value, np.ndarray) else np.stack(list(value))
    if (
        video.dtype != np.uint8
        or video.ndim != 4
        or video.shape[-1] not in (1, 3)
        or not video.size
    ):
        raise InputError(
            f"{source}: a video of {video.dtype} {list(video.shape)}, expected uint8 [T, Y, X, C]"
            " with C of 1 or 3"
        )
    return video
