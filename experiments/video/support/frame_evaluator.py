"""What single frames of samples show: a classifier of frames, trained on real ones and kept.

A frame is laid in the middle of a black square as large as the largest frame of all. Two figures
say how good clips of a class are: the share of frames that show the class asked for, and the share
of clips that keep their digit, those whose frames are all taken for one class, whichever it is.
"""

import pathlib
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, UInt8

from experiments.shared.classifiers import train_classifier
from experiments.shared.digests import images_digest
from experiments.shared.workdir import using_folder
from jaxgen.data import ImageSet
from jaxgen.data.video.moving_digits import MovingDigits, Size
from jaxgen.evaluation import ClassifierConfig, apply_classifier
from jaxgen.typing import Tree

TRAINING_FRAMES, TEST_FRAMES = 8000, 2000
RIGHT_FRAMES, RIGHT_CLIPS = "frames of the class", "clips that keep their digit"
FRAME_ACCURACY = "evaluator's accuracy on real frames"


@dataclass(frozen=True)
class FrameEvaluator:
    """A classifier of frames.

    Attributes:
      classifier: its configuration and parameters.
      side: of the square that frames are laid in.
      accuracy: on frames of digits that it has not seen.
    """

    classifier: tuple[ClassifierConfig, Tree]
    side: int
    accuracy: float

    def figures(
        self, videos: UInt8[np.ndarray, "N T Y X C"], label_N: Int[np.ndarray, "N"]
    ) -> dict[str, float]:
        """Shares of frames and of clips.

        Args:
          videos: bytes.
          label_N: the classes asked for.
        """
        count, frames = videos.shape[:2]
        framed = laid_in_square(videos.reshape(-1, *videos.shape[2:]), self.side)
        _, p_NV = apply_classifier(*self.classifier, framed)
        class_NT = p_NV.argmax(axis=1).reshape(count, frames)
        return {
            RIGHT_FRAMES: float((class_NT == label_N[:, None]).mean()),
            RIGHT_CLIPS: float((class_NT == class_NT[:, :1]).all(axis=1).mean()),
        }


def make_frame_evaluator(
    digits: ImageSet, sizes: tuple[Size, ...], folder: pathlib.Path, seed: int = 0
) -> FrameEvaluator:
    """Trains the classifier of frames of moving digits, or opens the one that `folder` holds.

    Args:
      digits: the digits, with parts.
      sizes: of all videos that it will see.
      folder: where it is kept, in a folder of its own for every set of frames.
      seed: of its training.
    """
    side = max(max(size[1:]) for size in sizes)
    stills = tuple(dict.fromkeys((1, *size[1:]) for size in sizes))
    parts = [
        _frames(digits, part, stills, count, side)
        for part, count in (("train", TRAINING_FRAMES), ("test", TEST_FRAMES))
    ]
    images, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    spans = {"train": (0, TRAINING_FRAMES), "test": (TRAINING_FRAMES, len(images))}
    frames = ImageSet("frames", images, labels, digits.classes, spans)
    folder = folder / images_digest(frames)
    with using_folder(folder):
        classifier = train_classifier(frames, folder, seed)
    test = frames.part("test")
    _, p_NV = apply_classifier(*classifier, test.images)
    return FrameEvaluator(classifier, side, float((p_NV.argmax(axis=1) == test.labels).mean()))


def _frames(
    digits: ImageSet, part: str, stills: tuple[Size, ...], count: int, side: int
) -> tuple[UInt8[np.ndarray, "N Y X C"], Int[np.ndarray, "N"]]:
    """Frames of moving digits of all sizes, and their classes."""
    stream = MovingDigits(digits.part(part), stills, seed=1)
    examples = [stream[index] for index in range(count)]
    images = [laid_in_square(example["video"], side) for example in examples]
    return np.concatenate(images), np.array([example["label"] for example in examples], np.int32)


def laid_in_square(
    images: UInt8[np.ndarray, "N Y X C"], side: int
) -> UInt8[np.ndarray, "N Y2 Y2 C"]:
    """Images in the middle of black squares, which are no smaller."""
    count, height, width, channels = images.shape
    square = np.zeros((count, side, side, channels), np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    square[:, top : top + height, left : left + width] = images
    return square
