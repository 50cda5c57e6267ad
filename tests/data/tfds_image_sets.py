"""Builds small tfds image sets in a folder, reads them, and prints what came out as JSON.

Run as a script by `test_images_tfds`, so that the modules it imports are its own.
"""

import json
import sys

import numpy as np
import tensorflow_datasets as tfds
from tfds_builders import Numbered, png

from jaxgen.data import load_captioned, load_images
from jaxgen.data.captions.tfds_captions import read_tfds_captions
from jaxgen.data.images.tfds_images import read_tfds_images
from jaxgen.errors import InputError

CLASSES = ["oak", "elm", "fir"]


def pixels(i: int, height: int = 5) -> np.ndarray:
    return np.random.default_rng(i).integers(256, size=(height, 6, 3), dtype=np.uint8)


PARTS = {"train": 20, "test": 4}


class Tensors(Numbered):
    """Record i is ``pixels(i)`` with label i % 3."""

    PARTS = PARTS
    FEATURES = {  # noqa: RUF012
        "picture": tfds.features.Tensor(shape=(5, 6, 3), dtype=np.uint8),
        "kind": tfds.features.ClassLabel(names=CLASSES),
    }

    def record(self, i):
        return {"picture": pixels(i), "kind": i % 3}


class Images(Numbered):
    PARTS = {"train": 7, "validation": 3}  # noqa: RUF012
    FEATURES = {  # noqa: RUF012
        "image": tfds.features.Image(shape=(None, None, 3)),
        "id": tfds.features.Scalar(np.int32),
    }

    def record(self, i):
        return {"image": png(pixels(i)), "id": i}


class Uneven(Images):
    def record(self, i):
        return {"image": png(pixels(i, height=6 - i % 2)), "id": i}


class TwoPictures(Numbered):
    PARTS = PARTS
    FEATURES = {  # noqa: RUF012
        name: tfds.features.Tensor(shape=(5, 6, 3), dtype=np.uint8) for name in ("left", "right")
    }

    def record(self, i):
        return {"left": pixels(i), "right": pixels(100 + i)}


class Captioned(Numbered):
    PARTS = {"train": 12, "test": 2}  # noqa: RUF012
    FEATURES = {  # noqa: RUF012
        "image": tfds.features.Tensor(shape=(5, 6, 3), dtype=np.uint8),
        "caption": tfds.features.Text(),
        "title": tfds.features.Text(),
        "kind": tfds.features.ClassLabel(names=CLASSES),
    }

    def record(self, i):
        text = f"tree {int(pixels(i).sum())}"
        return {"image": pixels(i), "caption": text, "title": "" if i else "x", "kind": i % 3}


def captions_of(name: str, **arguments) -> dict:
    found = load_captioned(f"tfds:{name}", **arguments)
    return {
        "name": found.name,
        "captions": found.descriptive,
        "sums": found.images.sum((1, 2, 3)).tolist(),
        "classes": [CLASSES[code] for code in found.attribute_of("class")],
        "parts": found.parts,
    }


def fault_of(name: str, read=read_tfds_images, **arguments) -> str:
    try:
        read(name, **arguments)
    except InputError as error:
        return str(error)
    return ""


def summary(images) -> dict:
    known = {pixels(i).tobytes(): i for i in [*range(20), *range(100, 120)]}
    return {
        "name": images.name,
        "numbers": [known.get(image.tobytes()) for image in images.images],
        "labels": None if images.labels is None else images.labels.tolist(),
        "classes": list(images.classes),
        "parts": images.parts,
        "shape": images.images.shape[1:],
    }


def main(folder: str) -> None:
    for builder in (Tensors, Images, Uneven, TwoPictures, Captioned):
        builder(data_dir=folder, file_format="array_record").download_and_prepare()
    answer = {
        "tensors": summary(load_images("tfds:tensors", data_dir=folder)),
        "images": summary(load_images("tfds:images", data_dir=folder)),
        "uneven": summary(load_images("tfds:uneven", size=4, channels=1, data_dir=folder)),
        "right": summary(read_tfds_images("two_pictures", feature="right", data_dir=folder)),
        "captioned": captions_of("tensors", data_dir=folder),
        "of_texts": {
            "captions": read_tfds_captions(
                "captioned", caption_feature="caption", data_dir=folder
            ).short,
            "sums": read_tfds_images("captioned", data_dir=folder).images.sum((1, 2, 3)).tolist(),
        },
        "faults": {
            "texts": fault_of("captioned", read_tfds_captions, data_dir=folder),
            "empty": fault_of(
                "captioned", read_tfds_captions, caption_feature="title", data_dir=folder
            ),
            "several": fault_of("two_pictures", data_dir=folder),
            "unknown": fault_of("tensors", feature="x", data_dir=folder),
            "uneven": fault_of("uneven", data_dir=folder),
            "set": fault_of("no_such_set", data_dir=folder),
        },
        "tensorflow": "tensorflow" in sys.modules,
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    main(sys.argv[1])
