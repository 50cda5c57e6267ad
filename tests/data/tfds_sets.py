"""Builds small tfds sets in a folder, reads them, and prints what came out as JSON.

Run as a script by `test_tfds`, so that the modules it imports are its own.
"""

import json
import sys

import numpy as np
import tensorflow_datasets as tfds

from jaxgen.data import load_corpus, read_tfds
from jaxgen.errors import InputError


class _Lines(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Records ``{part} line. / Number i!`` in two paragraphs; record 0 is empty."""

    VERSION = tfds.core.Version("1.0.0")
    FEATURE = "text"
    PARTS: dict[str, int]

    def _info(self):
        features = {self.FEATURE: tfds.features.Text(), "label": tfds.features.Scalar(np.int32)}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, _):
        return {part: self._generate_examples(part, size) for part, size in self.PARTS.items()}

    def _generate_examples(self, part, size):
        for i in range(size):
            text = f"{part} line.\n\nNumber {i}!" if i else ""
            yield i, {self.FEATURE: text, "label": i}


class ThreeParts(_Lines):
    PARTS = {"train": 31, "validation": 4, "test": 3}  # noqa: RUF012


class TwoParts(_Lines):
    PARTS = {"train": 31, "test": 3}  # noqa: RUF012
    FEATURE = "line"


class OnePart(_Lines):
    PARTS = {"train": 31}  # noqa: RUF012


class Unprepared(_Lines):
    PARTS = {"train": 31}  # noqa: RUF012


def fault_of(folder: str, name: str, **arguments) -> str:
    try:
        read_tfds(name, data_dir=folder, **arguments)
    except InputError as error:
        return str(error)
    return ""


def main(folder: str) -> None:
    for builder in (ThreeParts, TwoParts, OnePart):
        builder(data_dir=folder, file_format="array_record").download_and_prepare()
    streams = {
        name: read_tfds(name, data_dir=folder) for name in ("three_parts", "two_parts", "one_part")
    }
    corpus = load_corpus("tfds:three_parts", data_dir=folder, rare_frequency=1, paragraph_mark=None)
    answer = {
        "streams": {name: [stream.tokens, stream.spans] for name, stream in streams.items()},
        "corpus": [corpus.name, len(corpus.tokens), list(corpus.vocabulary.words)],
        "faults": {
            "set": fault_of(folder, "no_such_set"),
            "feature": fault_of(folder, "one_part", feature="x"),
            "unprepared": fault_of(folder, "unprepared"),
            "version": fault_of(folder, "one_part:9.9.9"),
            "configuration": fault_of(folder, "one_part/bad"),
        },
        "tensorflow": "tensorflow" in sys.modules,
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    main(sys.argv[1])
