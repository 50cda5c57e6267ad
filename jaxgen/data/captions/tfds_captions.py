"""Captioned pictures of TensorFlow Datasets (see `jaxgen.data.text.tfds_text`)."""

from jaxgen.data.archives import Path, decode_text
from jaxgen.data.captions.captioned_set import Attributes, CaptionedSet
from jaxgen.data.captions.class_captions import CLASS, caption_classes
from jaxgen.data.images.tfds_images import read_tfds_images
from jaxgen.data.text.tfds_text import is_text, open_builder, open_split, splits_of_parts
from jaxgen.errors import InputError


def read_tfds_captions(
    name: str,
    *,
    size: int | None = None,
    channels: int | None = None,
    caption_feature: str | None = None,
    data_dir: Path | None = None,
) -> CaptionedSet:
    """Reads a set of pictures of TensorFlow Datasets with captions, into memory.

    Args:
      name: The set, as `read_tfds_images`.
      size: As `read_tfds_images`.
      channels: As `read_tfds_images`.
      caption_feature: Which text feature of a record is the caption; needed only if there are
        several.
      data_dir: Where the prepared set lies; by default where tfds keeps its sets.

    Returns:
      The pictures with the texts of their records; of a set without texts with captions of its
      classes (`caption_classes`).

    Raises:
      InputError: As `read_tfds_images`; there are several texts, or neither a text nor labels; or
        captions are empty.
    """
    images = read_tfds_images(name, size=size, channels=channels, data_dir=data_dir)
    builder = open_builder(name, data_dir)
    texts = [key for key, feature in builder.info.features.items() if is_text(feature)]
    if caption_feature is None and not texts:
        return caption_classes(images)
    feature = caption_feature or texts[0]
    if feature not in texts or (caption_feature is None and len(texts) > 1):
        raise InputError(
            f"tfds:{name}: caption_feature is {caption_feature!r}, expected one of its texts,"
            f" {', '.join(texts) or 'of which there are none'}"
        )
    captions: list[str] = []
    for split in splits_of_parts(name, builder.info.splits).values():
        records = open_split(name, builder, split)
        for i in range(len(records)):
            text = records[i][feature]
            where = f"tfds:{name}: {split} record {i}"
            captions.append(decode_text(text, where).strip() if text else "")
    labels = images.labels
    return CaptionedSet(
        images.name,
        images.images,
        tuple(captions),
        tuple(captions),
        None if labels is None else Attributes({CLASS: images.classes}, labels[:, None]),
        images.parts,
    )
