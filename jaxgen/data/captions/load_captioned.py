"""One front door for captioned pictures and clips: a name or a path in, a `CaptionedSet` out."""

import os
import pathlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from jaxgen.data.archives import Path
from jaxgen.data.captions.captioned_folder import read_captioned_clips, read_captioned_images
from jaxgen.data.captions.captioned_set import CaptionedSet
from jaxgen.data.captions.captioned_shapes import make_captioned_shapes
from jaxgen.data.captions.class_captions import caption_classes
from jaxgen.data.captions.tfds_captions import read_tfds_captions
from jaxgen.data.images.load_images import DATA_VARIABLE, load_images
from jaxgen.errors import InputError

OF_CLASSES = ("digits", "mnist", "cifar10")
"""Sets of `load_images` whose captions are made of their classes."""


@dataclass(frozen=True)
class NamedSet:
    """A published set in a folder of data sets.

    Attributes:
      folder: What its folder is called.
      fields: Fields of its entries that become attributes, and part of descriptive captions.
      clips: Whether it has clips rather than pictures.
    """

    folder: str
    fields: Sequence[str] = ()
    clips: bool = False


NAMED_SETS = {
    "tiles": NamedSet("tiles_dcss", ("group",)),
    "emoji": NamedSet("emoji_noto64", ("subcategory", "category")),
    "emoji_clips": NamedSet("emoji_animated", clips=True),
}
"""Tiles of Dungeon Crawl Stone Soup, Noto emoji, and the animated ones: archives of pictures or
clips with a ``captions.json`` beside each."""


def load_captioned(
    name: Path = "shapes",
    *,
    size: int | None = None,
    channels: int | None = None,
    frames: int | None = None,
    fps: float | Fraction | None = None,
    data_dir: Path | None = None,
) -> CaptionedSet:
    """Reads or draws a set of captioned pictures or clips, into memory.

    Args:
      name: "shapes" (`make_captioned_shapes` of the default vocabulary, needs no download);
        "digits", "mnist" or "cifar10" with captions of their classes (`caption_classes`);
        "tiles", "emoji" or "emoji_clips" (`NAMED_SETS`); "tfds:NAME" (`read_tfds_captions`); or a
        folder or zip archive (`read_captioned_images`, `read_captioned_clips`).
      size: Y and X; None: their own, of shapes 32.
      channels: 1 or 3, or None for what they have. Shapes have 3.
      frames: T of clips; None for pictures.
      fps: Frames a second of the videos of a folder, or None for all their frames.
      data_dir: Where named sets are looked for, by default the folder that the environment variable
        JAXGEN_DATA names; and where prepared tfds sets lie.

    Raises:
      FileNotFoundError: There is no such path.
      InputError: A set has pictures where frames are given, or the reverse; or as the function that
        reads it.
    """
    named = NAMED_SETS.get(str(name))
    still = name in OF_CLASSES or str(name).startswith("tfds:") or (named and not named.clips)
    if still and frames is not None:
        raise InputError(f"{name}: frames is {frames}, expected None, it has pictures")
    if named and named.clips and frames is None:
        raise InputError(f"{name}: frames is None, expected the frames of its clips, such as 16")
    if fps is not None and frames is None:
        raise InputError(f"{name}: fps is {fps}, expected None for pictures")
    if name == "shapes":
        if channels not in (None, 3):
            raise InputError(f"shapes: channels is {channels}, expected 3")
        return make_captioned_shapes(side=32 if size is None else size, frames=frames)
    if name in OF_CLASSES:
        images = load_images(name, size=size, channels=channels, data_dir=data_dir)
        return caption_classes(images)
    if isinstance(name, str) and name.startswith("tfds:"):
        return read_tfds_captions(
            name.removeprefix("tfds:"), size=size, channels=channels, data_dir=data_dir
        )
    path, fields = (name, ()) if named is None else (_folder_of(str(name), data_dir), named.fields)
    if path == name and not pathlib.Path(name).exists():
        known = ", ".join(("shapes", *OF_CLASSES, *NAMED_SETS))
        raise FileNotFoundError(
            f"{name}: no such folder or archive, and no set by name, of which there are {known} and"
            " tfds:NAME"
        )
    if frames is None:
        found = read_captioned_images(path, size=size, channels=channels, fields=fields)
    else:
        found = read_captioned_clips(
            path, frames=frames, size=size, channels=channels or 3, fps=fps
        )
    return found if named is None else replace(found, name=str(name))


def _folder_of(name: str, data_dir: Path | None) -> pathlib.Path:
    """The folder of a named set in a folder of data sets, or that one itself."""
    root = os.environ.get(DATA_VARIABLE) if data_dir is None else data_dir
    if not root:
        raise InputError(
            f"{name}: no folder to look in; give data_dir, or set the environment variable"
            f" {DATA_VARIABLE} to a folder with {NAMED_SETS[name].folder} in it"
        )
    folder = pathlib.Path(root) / NAMED_SETS[name].folder
    if not folder.is_dir():
        raise InputError(f"{name}: no folder {NAMED_SETS[name].folder} in {root}")
    return folder
