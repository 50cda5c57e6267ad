"""Views' images as PNG, of 8 or of 16 bits as they are, by the names of the views."""

import pathlib
import posixpath

import numpy as np

from jaxgen.data.images.deep_png import encode_deep_png
from jaxgen.data.images.image_files import SUFFIXES
from jaxgen.data.images.resizing import import_pillow
from jaxgen.data.scenes.views import Scene, Views
from jaxgen.errors import InputError
from jaxgen.text_rules import has_suffix


def check_view_names(scene: Scene) -> None:
    """Refuses names that are no paths inside a folder, without a suffix, each once.

    Raises:
      InputError: naming the view.
    """
    names = [name for views in scene.parts.values() for name in views.names]
    for i, name in enumerate(names):
        inside = name == posixpath.normpath(name) and name.split("/")[0] not in ("", "..", ".")
        if not inside or "\0" in name or has_suffix(name, *SUFFIXES):
            raise InputError(
                f"{scene.name}: a view is named {name!r}, expected a path inside the folder,"
                " without a suffix"
            )
        if name in names[:i]:
            raise InputError(f"{scene.name}: two views are named {name}, expected different names")


def write_images(folder: pathlib.Path, views: Views) -> list[str]:
    """Writes ``NAME.png`` of every view into a folder; their paths in it."""
    pil, paths = import_pillow("writing images"), [f"{name}.png" for name in views.names]
    for path, image in zip(paths, views.images, strict=True):
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        if image.dtype == np.uint16:
            file.write_bytes(encode_deep_png(image))
        else:
            pil.Image.fromarray(image).save(file)
    return paths
