"""How far samples are from real clips as a whole: a Fréchet distance by a network trained here.

The network is a classifier of clips of the data (`jaxgen.evaluation.Classifier`, `temporal`).
Half of its clips have their frames in another order, and it says the class and whether they have:
so its features hold what is seen and how it moves. Clips are laid in the middle of a black square
as large as the largest frame of all.

Trained on moving digits of 8 frames (500 updates, right on 89 % of test clips), 100 clips of
8x12x12 are 0.85 from as many other real ones; with noise of standard deviation 15 of 255 0.88,
still 3.0, with another digit from the middle on 4.1, ten different ones alone 7.4, blurred 12,
shuffled 22.
"""

import pathlib
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, UInt8

from experiments.shared.classifiers import train_classifier
from experiments.shared.digests import images_digest
from experiments.shared.workdir import using_folder
from experiments.video.support.frame_evaluator import laid_in_square
from experiments.video.support.video_streams import Size, VideoData
from jaxgen.data import ImageSet
from jaxgen.data.images.image_set import check_labels, check_parts
from jaxgen.errors import InputError
from jaxgen.evaluation import ClassifierConfig, apply_classifier
from jaxgen.evaluation.frechet_video import ClipProtocol, frechet_video_distance
from jaxgen.evaluation.i3d import SIDE, i3d_features, i3d_params
from jaxgen.interop.safetensors import TensorFile
from jaxgen.interop.tensors import without_prefix
from jaxgen.typing import Tree

TRAINING_CLIPS, TEST_CLIPS = 3200, 600
CLIP_DISTANCE = "Fréchet distance of clips"
OF_CLASS, IN_ORDER = "clips of the class", "clips in order"
CLIP_ACCURACY = "evaluator's accuracy on real clips, class and order of frames"


@dataclass(frozen=True, eq=False)
class ClipSet(ImageSet):
    """Clips of one shape as a set of images that have one axis more: uint8 [N, T, Y, X, C].

    `batch_at` and `train_classifier` take it as they take images; nothing is mirrored.
    """

    images: UInt8[np.ndarray, "N T Y X C"]

    def __post_init__(self) -> None:
        if self.images.dtype != np.uint8 or self.images.ndim != 5 or not self.images.size:
            raise InputError(
                f"{self.name}: clips are {self.images.dtype} {list(self.images.shape)}, expected "
                "uint8 [N, T, Y, X, C]"
            )
        check_labels(self.name, self.labels, len(self), self.classes)
        check_parts(self.name, self.parts, len(self))


@dataclass(frozen=True, eq=False)
class ClipEvaluator:
    """A classifier of clips, whose features are compared.

    Attributes:
      classifier: its configuration and parameters.
      data: where real clips come from.
      side: of the square that frames are laid in.
      accuracy: on clips that it was not trained on.
    """

    classifier: tuple[ClassifierConfig, Tree]
    data: VideoData
    side: int
    accuracy: float

    def figures(
        self, videos: UInt8[np.ndarray, "N T Y X C"], label_N: Int[np.ndarray, "N"] | None = None
    ) -> dict[str, float]:
        """The distance from as many real clips of the same size; nothing for images.

        With classes also the shares of clips that are taken for clips of theirs, in whatever order,
        and for clips whose frames are in order.

        Args:
          videos: bytes, none larger than the square.
          label_N: the classes asked for.
        """
        count, *size = videos.shape[:4]
        if size[0] == 1:
            return {}
        real = self.data.reference_clips(tuple(size), count)
        (real_ND, _), (videos_ND, p_NV) = (
            apply_classifier(*self.classifier, clips_in_square(clips, self.side), 64)
            for clips in (real, videos)
        )
        protocol = self.protocol(count, videos.shape[1])
        found = {CLIP_DISTANCE: frechet_video_distance(real_ND, videos_ND, protocol)}
        if label_N is not None:
            p_N2V = p_NV.reshape(count, 2, -1)  # in order, in another one
            found[OF_CLASS] = float((p_N2V.sum(axis=1).argmax(axis=1) == label_N).mean())
            found[IN_ORDER] = float((p_N2V.sum(axis=2).argmax(axis=1) == 0).mean())
        return found

    def protocol(self, count: int, length: int) -> ClipProtocol:
        """What belongs to a distance as its caption.

        Args:
          count: clips of each set.
          length: frames of a clip.
        """
        config = self.classifier[0]
        return ClipProtocol(
            f"classifier of clips, {config.widths[-1]}",
            count,
            length,
            resize=f"none, in the middle of {self.side} x {self.side}",
        )


def make_clip_evaluator(
    data: VideoData, sizes: tuple[Size, ...], folder: pathlib.Path, seed: int = 0
) -> ClipEvaluator:
    """Trains the classifier of clips of a set, or opens the one that `folder` holds.

    Args:
      data: the set.
      sizes: of all videos that it will see; those of one frame are passed over. It is trained on
        clips as long as the shortest, for its parameters do not depend on the length.
      folder: where it is kept, in a folder of its own for every set of clips.
      seed: of its training.

    Raises:
      InputError: for sizes of one frame alone.
    """
    sizes = tuple(size for size in sizes if size[0] > 1)
    if not sizes:
        raise InputError("sizes have one frame each, expected one size of 2 frames or more")
    frames, side = min(size[0] for size in sizes), max(max(size[1:]) for size in sizes)
    trained = tuple(dict.fromkeys((frames, *size[1:]) for size in sizes))
    clips = _labelled_clips(data, trained, side)
    folder = folder / images_digest(clips)
    with using_folder(folder):
        classifier = train_classifier(clips, folder, seed)
    test = clips.part("test")
    _, p_NV = apply_classifier(*classifier, test.images, 64)
    accuracy = float((p_NV.argmax(axis=1) == test.labels).mean())
    return ClipEvaluator(classifier, data, side, accuracy)


def open_i3d(path: str | None) -> Tree | None:
    """I3D's parameters from a weight file (safetensors); None without one.

    A prefix that all its names have ("module.") is left out.

    Args:
      path: of the file, with the names of pytorch-i3d.

    Raises:
      InputError: for a file that is not I3D's; the message names it.
    """
    if path is None:
        return None
    return i3d_params(without_prefix(TensorFile(path), ["Conv3d_1a_7x7.conv3d.weight"]), path)


def i3d_distance(
    i3d: Tree,
    real: UInt8[np.ndarray, "N T Y X C"],
    generated: UInt8[np.ndarray, "N T Y2 X2 C"],
    stride: int = 1,
) -> tuple[float, ClipProtocol]:
    """The Fréchet video distance by I3D, and what belongs to it as its caption.

    Args:
      i3d: its parameters.
      real: bytes, 10 frames or more.
      generated: as many clips, of the same length.
      stride: of the frames of real clips in their videos.

    Raises:
      InputError: for other numbers of clips, or too few frames.
    """
    protocol = i3d_protocol(len(real), real.shape[1], stride)
    features = [i3d_features(i3d, clips) for clips in (real, generated)]
    return frechet_video_distance(*features, protocol), protocol


def i3d_protocol(count: int, length: int, stride: int = 1) -> ClipProtocol:
    """What belongs to a distance by I3D.

    Args:
      count: clips of each set.
      length: frames of a clip.
      stride: of the frames of real clips in their videos.
    """
    return ClipProtocol("logits of I3D", count, length, stride, f"{SIDE} x {SIDE}, bilinear")


def clips_in_square(
    clips: UInt8[np.ndarray, "N T Y X C"], side: int
) -> UInt8[np.ndarray, "N T Y2 Y2 C"]:
    """Clips in the middle of black squares, which are no smaller."""
    framed = laid_in_square(clips.reshape(-1, *clips.shape[2:]), side)
    return framed.reshape(*clips.shape[:2], *framed.shape[1:])


def frames_in_another_order(
    clip_TYXC: UInt8[np.ndarray, "T Y X C"], generator: np.random.Generator
) -> UInt8[np.ndarray, "T Y X C"]:
    """The frames of a clip in an order that is neither theirs nor its reverse, if there is one."""
    order = np.arange(len(clip_TYXC))
    while len(order) > 2 and (np.abs(np.diff(order)) == 1).all():
        order = generator.permutation(order)
    return clip_TYXC[order]


def _labelled_clips(data: VideoData, sizes: tuple[Size, ...], side: int) -> ClipSet:
    """Clips of all sizes; their classes (or one), and the same once more for another order."""
    classes = data.classes or ("clip",)
    images, labels = [], []
    for part, count in (("train", TRAINING_CLIPS), ("test", TEST_CLIPS)):
        stream = data.streams(part, sizes, 1)
        for index in range(count):
            generator = np.random.default_rng((1, index, count))
            example = stream[index]
            clip, label = example["video"], int(example.get("label", 0))
            if generator.random() < 0.5:
                clip, label = frames_in_another_order(clip, generator), label + len(classes)
            images.append(laid_in_square(clip, side))
            labels.append(label)
    names = (*classes, *(f"{name}, another order" for name in classes))
    spans = {"train": (0, TRAINING_CLIPS), "test": (TRAINING_CLIPS, len(images))}
    return ClipSet("clips", np.stack(images), np.array(labels, np.int32), names, spans)
