"""One front door for scenes: a name or a folder in, a `Scene` out."""

import os
import pathlib

from jaxgen.data.archives import Path
from jaxgen.data.images.resizing import check_size_and_channels
from jaxgen.data.scenes import blender, colmap, llff, nerfstudio
from jaxgen.data.scenes.analytic_scene import make_analytic_scene
from jaxgen.data.scenes.mesh_scene import make_mesh_scene
from jaxgen.data.scenes.recentring import recentred
from jaxgen.data.scenes.views import Scene
from jaxgen.errors import InputError
from jaxgen.interop.mesh_reading import MESH_SUFFIXES
from jaxgen.text_rules import has_suffix

ACCEPTED = (
    f"'shapes', a mesh ({', '.join(MESH_SUFFIXES)}), or a folder with {blender.FILES['train']}"
    f" (Blender), {nerfstudio.FILE} (nerfstudio, instant-ngp), {llff.FILE} (LLFF), or a model of"
    " COLMAP"
)
RENDERED_SIZE = 100
"""Of images of "shapes" and of meshes."""
NEAR, FAR, HALF = 0.05, 100.0, 1.0
"""Of captures whose files do not say, where the farthest camera is at distance 1."""


def load_scene(
    name: Path = "shapes",
    *,
    size: int | None = None,
    images: str | None = None,
    skip_missing: bool = False,
) -> Scene:
    """Reads or makes a scene.

    Args:
      name: "shapes" (`make_analytic_scene`, needs no download); a file of a mesh, of which views
        are rendered (`make_mesh_scene`); or a folder: NeRF's Blender scenes
        (`read_blender`); or captures of nerfstudio and instant-ngp (`read_nerfstudio`), LLFF
        (`read_llff`) or COLMAP (`read_colmap`), which are recentred, so that the farthest camera is
        at distance 1, and of which every eighth image is for tests.
      size: What the longer side of images shrinks to. None is 100 for "shapes" and meshes, and
        their own for images in files.
      images: The folder of photographs of LLFF or COLMAP, where it is not the usual one; of other
        scenes None.
      skip_missing: Whether frames of nerfstudio and COLMAP whose image is missing are left out; of
        other scenes False.

    Raises:
      FileNotFoundError: There is no such path.
      InputError: Nothing that is accepted is there, or a file of it is refused; the message names
        the file and the fault. Or an option has no meaning for the scene's format.
    """
    check_size_and_channels(size, None)
    if name == "shapes":
        _refuse_options(name, images, skip_missing)
        return make_analytic_scene(RENDERED_SIZE if size is None else size)
    folder = pathlib.Path(name)
    if has_suffix(folder.name, *MESH_SUFFIXES) and folder.is_file():
        _refuse_options(name, images, skip_missing)
        return make_mesh_scene(name, size=RENDERED_SIZE if size is None else size)
    if folder.suffix == ".json" and folder.is_file():
        _refuse_options(name, images)
        scene = nerfstudio.read_nerfstudio(name, size=size, skip_missing=skip_missing)
        return recentred(scene, NEAR, FAR, HALF)
    if not os.path.isdir(name):
        fault = "not a folder" if os.path.exists(name) else "no such scene or folder"
        raise FileNotFoundError(f"{name}: {fault}; scenes are {ACCEPTED}")
    if (folder / blender.FILES["train"]).exists():
        _refuse_options(name, images, skip_missing)
        return blender.read_blender(name, size=size)
    if (folder / nerfstudio.FILE).exists():
        _refuse_options(name, images)
        scene = nerfstudio.read_nerfstudio(name, size=size, skip_missing=skip_missing)
        return recentred(scene, NEAR, FAR, HALF)
    if (folder / llff.FILE).exists():
        _refuse_options(name, None, skip_missing)
        return llff.recentred_capture(llff.read_llff(name, size=size, images=images))
    if colmap.find_model(name) is not None:
        scene = colmap.read_colmap(name, images=images, size=size, skip_missing=skip_missing)
        return recentred(scene, NEAR, FAR, HALF)
    raise InputError(
        f"{name}: none of {blender.FILES['train']}, {nerfstudio.FILE}, {llff.FILE} and a model of"
        f" COLMAP is in it; scenes are {ACCEPTED}"
    )


def _refuse_options(name: Path, images: str | None, skip_missing: bool = False) -> None:
    """Raises InputError if an option is set that has no meaning for a scene's format."""
    if images is not None:
        raise InputError(f"{name}: images is {images}, expected none (of LLFF and COLMAP alone)")
    if skip_missing:
        raise InputError(
            f"{name}: skip_missing is set, expected not (of nerfstudio, instant-ngp and COLMAP"
            " alone)"
        )
