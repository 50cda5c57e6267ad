"""The one module that imports trimesh."""

from typing import Any

from jaxgen.errors import InputError


def import_trimesh() -> Any:
    """The package trimesh.

    Raises:
      InputError: It is not installed.
    """
    try:
        import trimesh
        import trimesh.visual.material
    except ImportError as error:
        raise InputError(
            "files of meshes need the package trimesh, extra jaxgen[experiments] or jaxgen[data] "
            f"({error})"
        ) from error
    return trimesh
