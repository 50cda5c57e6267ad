"""One front door for scenes: a name or a folder in, a `Scene` out."""

import os
import pathlib

from jaxgen.data.archives import Path
from jaxgen.data.images.resizing import check_size_and_channels
from jaxgen.data.scenes.analytic_scene import make_analytic_scene
from jaxgen.data.scenes.blender import FILES, read_blender
from jaxgen.data.scenes.views import Scene
from jaxgen.errors import InputError

ACCEPTED = f"'shapes', or a folder with {FILES['train']}"
SHAPES_SIZE = 100


def load_scene(name: Path = "shapes", *, size: int | None = None) -> Scene:
    """Reads or makes a scene.

    Args:
      name: "shapes" (`make_analytic_scene`, needs no download), or a folder in the format of
        NeRF's Blender scenes (`read_blender`).
      size: Y and X of the images. None is 100 for "shapes", and their own for images in files.

    Raises:
      FileNotFoundError: There is no such path.
      InputError: Nothing that is accepted is there, or a file of it is refused; the message names
        the file and the fault.
    """
    check_size_and_channels(size, None)
    if name == "shapes":
        return make_analytic_scene(SHAPES_SIZE if size is None else size)
    if not os.path.isdir(name):
        fault = "not a folder" if os.path.exists(name) else "no such scene or folder"
        raise FileNotFoundError(f"{name}: {fault}; scenes are {ACCEPTED}")
    if not (pathlib.Path(name) / FILES["train"]).exists():
        raise InputError(f"{name}: no {FILES['train']} in it; scenes are {ACCEPTED}")
    return read_blender(name, size=size)
