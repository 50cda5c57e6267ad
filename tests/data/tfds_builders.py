"""What scripts that build tfds sets have in common; tests do not import it, for it imports tfds."""

import io

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image


def png(array: np.ndarray) -> io.BytesIO:
    """A file: tfds stores the bytes of one as they are, which needs no TensorFlow."""
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "png")
    stream.seek(0)
    return stream


class Numbered(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Parts of numbered records; classes below it have FEATURES and ``record(i)``."""

    VERSION = tfds.core.Version("1.0.0")
    PARTS: dict
    FEATURES: dict

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(self.FEATURES)
        )

    def _split_generators(self, _):
        return {part: self._generate_examples(size) for part, size in self.PARTS.items()}

    def _generate_examples(self, size):
        for i in range(size):
            yield i, self.record(i)
