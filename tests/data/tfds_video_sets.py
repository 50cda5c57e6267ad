"""Builds small tfds video sets in a folder, reads them, and prints what came out as JSON.

Run as a script by `test_tfds_videos`, so that the modules it imports are its own.
"""

import contextlib
import json
import sys
from types import SimpleNamespace

import numpy as np
import tensorflow_datasets as tfds
from tfds_builders import Numbered, png

from jaxgen.data.video.load_videos import load_videos
from jaxgen.data.video.tfds_videos import open_tfds_videos
from jaxgen.errors import InputError

CLASSES = ["run", "walk"]


def video(i: int) -> np.ndarray:
    """Frame t of record i is of value 20 i + t; it has i + 4 frames."""
    values = (20 * i + np.arange(i + 4)).astype(np.uint8)
    return np.broadcast_to(values[:, None, None, None], (i + 4, 6, 8, 3))


class Sequences(Numbered):
    """Images one after another, and their class."""

    PARTS = {"train": 3, "test": 2}  # noqa: RUF012
    FEATURES = {  # noqa: RUF012
        "video": tfds.features.Sequence(tfds.features.Image(shape=(6, 8, 3))),
        "label": tfds.features.ClassLabel(names=CLASSES),
    }

    def record(self, i):
        return {"video": [png(frame) for frame in video(i)], "label": i % 2}


class Actions(Sequences):
    """As ucf101: a Video and its class."""

    @property
    def FEATURES(self):
        return {**Sequences.FEATURES, "video": tfds.features.Video(shape=(None, 6, 8, 3))}


class Tensors(Numbered):
    PARTS = {"train": 10}  # noqa: RUF012
    FEATURES = {  # noqa: RUF012
        name: tfds.features.Tensor(shape=(4, 6, 8, 3), dtype=np.uint8) for name in ("a", "b")
    }

    def record(self, i):
        return {"a": video(i)[:4], "b": video(i)[:4] + np.uint8(1)}


def fault_of(name: str, **arguments) -> str:
    try:
        open_tfds_videos(name, **arguments)
    except InputError as error:
        return str(error)
    return ""


def summary(clips) -> dict:
    found = [clips[i] for i in range(len(clips))]
    return {
        "name": clips.name,
        "values": [record["video"][:, 0, 0, 0].tolist() for record in found],
        "labels": [int(record["label"]) for record in found if "label" in record],
        "classes": list(clips.classes),
        "parts": clips.parts,
        "shape": found[0]["video"].shape,
    }


@contextlib.contextmanager
def data_types_alone():
    """In the place of TensorFlow what the Video feature needs of it: names of data types."""
    modules = [sys.modules[kind.__module__] for kind in tfds.features.Video.__mro__[0:4:3]]
    whole = modules[0].tf
    types = {"uint8": np.uint8, "uint16": np.uint16}
    for module in modules:
        module.tf = SimpleNamespace(dtypes=SimpleNamespace(as_dtype=np.dtype), **types)
    try:
        yield
    finally:
        for module in modules:
            module.tf = whole


def main(folder: str) -> None:
    for builder in (Sequences, Tensors):
        builder(data_dir=folder, file_format="array_record").download_and_prepare()
    options = {"frames": 2, "size": (3, 4), "channels": 1, "data_dir": folder}
    with data_types_alone():
        Actions(data_dir=folder, file_format="array_record").download_and_prepare()
        videos = summary(open_tfds_videos("actions", **options))
    clips = load_videos("tfds:sequences", **options)
    answer = {
        "clips": summary(clips),
        "test": summary(clips.part("test")),
        "videos": videos,
        "whole": summary(open_tfds_videos("sequences", stride=2, data_dir=folder)),
        "tensors": summary(open_tfds_videos("tensors", feature="b", data_dir=folder)),
        "faults": {
            "several": fault_of("tensors", data_dir=folder),
            "unknown": fault_of("sequences", feature="x", data_dir=folder),
            "long": fault_of("sequences", frames=9, data_dir=folder),
            "video": fault_of("actions", data_dir=folder),
            "set": fault_of("no_such_set", data_dir=folder),
            "frames": fault_of("sequences", frames=0, data_dir=folder),
        },
        "tensorflow": "tensorflow" in sys.modules,
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    main(sys.argv[1])
