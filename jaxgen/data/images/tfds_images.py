"""Image sets of TensorFlow Datasets, read without TensorFlow (see `jaxgen.data.text.tfds_text`)."""

from typing import Any

import numpy as np
from jaxtyping import UInt8

from jaxgen.data.archives import Path
from jaxgen.data.images.image_files import check_same_shape
from jaxgen.data.images.image_set import ImageSet, published_parts
from jaxgen.data.images.resizing import fit_array
from jaxgen.data.text.tfds_text import (
    label_feature,
    open_builder,
    open_split,
    single_feature,
    splits_of_parts,
)
from jaxgen.errors import InputError


def read_tfds_images(
    name: str,
    *,
    size: int | None = None,
    channels: int | None = None,
    feature: str | None = None,
    data_dir: Path | None = None,
) -> ImageSet:
    """Reads an image set of TensorFlow Datasets into memory.

    Args:
      name: The set, with configuration and version where it has them: ``"mnist"``,
        ``"cifar10:3.0.2"``.
      size: Y and X to resize and crop the images to, or None.
      channels: 1 or 3 to convert the images to, or None.
      feature: Which feature of a record is the image: an Image, or a Tensor of uint8 [Y, X, C].
        Needed only if there are several.
      data_dir: Where the prepared set lies; by default where tfds keeps its sets.

    Returns:
      The images of train, validation and test, one part after another; the last tenth of train is
      for validation if the set has no such part. Labels are those of the only ClassLabel feature;
      a set without one, or with several, has no labels.

    Raises:
      InputError: The packages or the set are not there, the set is not in the array_record format,
        has no training part or no single image feature, or its images differ in shape.
    """
    builder = open_builder(name, data_dir)
    feature = single_feature(name, builder.info.features, feature, "image", _is_image)
    label = label_feature(builder.info.features)
    images: list[np.ndarray] = []
    labels: list[int] = []
    sources: list[str] = []
    sizes: dict[str, int] = {}
    for part, split in splits_of_parts(name, builder.info.splits).items():
        records = open_split(name, builder, split)
        sizes[part] = len(records)
        for i in range(len(records)):
            record = records[i]
            sources.append(f"tfds:{name}: {split} record {i}")
            images.append(fit_array(_as_image(sources[-1], record[feature]), size, channels, name))
            labels += [int(record[label])] if label else []
    check_same_shape(sources, images)
    return ImageSet(
        f"tfds:{name}",
        np.stack(images),
        np.array(labels, np.int32) if label else None,
        tuple(builder.info.features[label].names) if label else (),
        published_parts(sizes),
    )


def _is_image(feature: Any) -> bool:
    if type(feature).__name__ == "Image":
        return True
    is_bytes = type(feature).__name__ == "Tensor" and feature.np_dtype == np.uint8
    return bool(is_bytes and len(feature.shape) == 3 and feature.shape[-1] in (1, 3))


def _as_image(source: str, value: Any) -> UInt8[np.ndarray, "Y X C"]:
    image = np.asarray(value)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] not in (1, 3):
        raise InputError(
            f"{source}: an image of {image.dtype} {list(image.shape)}, expected uint8 [Y, X, C]"
            " with C of 1 or 3"
        )
    return image
