"""Triangle meshes and their files: PLY and binary glTF. The one module that imports trimesh.

PLY is written binary, little-endian, in the mesh's own coordinates. GLB (glTF 2.0, the "Binary
glTF" section of its specification) has the axis +Y up, where scenes of radiance fields have +Z up,
as in Blender: points (x, y, z) are written as (x, z, -y), a rotation, so that viewers show them
upright.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, Int32, UInt8

from jaxgen.errors import InputError
from jaxgen.files import Path, replacing
from jaxgen.text_rules import has_suffix

Z_UP_TO_Y_UP = np.asarray([[1, 0, 0], [0, 0, 1], [0, -1, 0]], np.float32)
"""The rotation to glTF's axes, for columns: (x, y, z) to (x, z, -y)."""


@dataclass(frozen=True, eq=False)
class Mesh:
    """Triangles with common vertices.

    Attributes:
      vertices_V3: positions (x, y, z).
      faces_F3: the vertices of each triangle, counter-clockwise as seen from outside.
      normals_V3: unit vectors outwards, or None.
      colours_V3: red, green, blue of 0 to 255 in sRGB, as in images, or None.
    """

    vertices_V3: Float32[np.ndarray, "V 3"]
    faces_F3: Int32[np.ndarray, "F 3"]
    normals_V3: Float32[np.ndarray, "V 3"] | None = None
    colours_V3: UInt8[np.ndarray, "V 3"] | None = None


def check_surface(mesh: Mesh, name: str = "mesh") -> None:
    """Refuses a mesh that no file should hold.

    Args:
      mesh: the mesh.
      name: what it is called in an error.

    Raises:
      InputError: There are no faces or no vertices, a face names a vertex that is not there, a
        number is not finite, or a shape or type is not that of `Mesh`.
    """
    _check_array(f"{name}: vertices", mesh.vertices_V3, np.float32)
    _check_array(f"{name}: faces", mesh.faces_F3, np.int32)
    count = len(mesh.vertices_V3)
    if not count or not len(mesh.faces_F3):
        raise InputError(
            f"{name} has {count} vertices and {len(mesh.faces_F3)} faces, expected one or more"
        )
    low, high = mesh.faces_F3.min(), mesh.faces_F3.max()
    if low < 0 or high >= count:
        raise InputError(
            f"{name}: faces have vertices {low} to {high}, expected them in [0, {count})"
        )
    if mesh.normals_V3 is not None:
        _check_array(f"{name}: normals", mesh.normals_V3, np.float32, count)
    if mesh.colours_V3 is not None:
        _check_array(f"{name}: colours", mesh.colours_V3, np.uint8, count)


def _check_array(name: str, values: Any, dtype: Any, rows: int | None = None) -> None:
    kind, shape = getattr(values, "dtype", type(values).__name__), list(np.shape(values))
    if kind != dtype or len(shape) != 2 or shape[1] != 3 or rows not in (None, shape[0]):
        expected = "N" if rows is None else rows
        raise InputError(f"{name} are {kind} {shape}, expected {np.dtype(dtype)} [{expected}, 3]")
    finite_N = np.isfinite(values).all(axis=1)
    if not finite_N.all():
        raise InputError(
            f"{name}: number {finite_N.argmin()} is {values[finite_N.argmin()].tolist()}, "
            "expected finite numbers"
        )


def write_mesh(path: Path, mesh: Mesh) -> None:
    """Writes a mesh, whole or not at all; equal meshes give equal files.

    A ``.ply`` has the mesh's coordinates; in a ``.glb`` +Z is turned to +Y, which is up there. Both
    have the colours' bytes as they are, and an opacity of 255. (glTF takes vertex colours as linear
    in light, so that viewers that keep to it show sRGB bytes paler.) The material of a ``.glb`` is
    not metallic, which is glTF's default, and has both sides.

    Args:
      path: the file, ``.ply`` or ``.glb``; its folder must exist.
      mesh: what is written.

    Raises:
      InputError: The suffix is another, `check_surface` refuses the mesh, or trimesh is not
        installed. Nothing is written then.
    """
    encode = next(
        (_ENCODERS[suffix] for suffix in _ENCODERS if has_suffix(str(path), suffix)), None
    )
    if encode is None:
        raise InputError(f"{path}: the suffix is unknown, expected {' or '.join(_ENCODERS)}")
    check_surface(mesh, f"{path}: mesh")
    content = encode(mesh)
    with replacing(path) as handle:
        handle.write(content)


def _ply(mesh: Mesh) -> bytes:
    return _as_trimesh(mesh).export(file_type="ply", encoding="binary")


def _glb(mesh: Mesh) -> bytes:
    turned = Mesh(
        mesh.vertices_V3 @ Z_UP_TO_Y_UP.T,
        mesh.faces_F3,
        None if mesh.normals_V3 is None else mesh.normals_V3 @ Z_UP_TO_Y_UP.T,
        mesh.colours_V3,
    )
    return _as_trimesh(turned).export(file_type="glb", tree_postprocessor=_add_material)


_ENCODERS: Mapping[str, Callable[[Mesh], bytes]] = {".ply": _ply, ".glb": _glb}


def _add_material(tree: dict[str, Any]) -> None:
    """The material of the only mesh of a glTF file: glTF's default is a metal."""
    surface = {"metallicFactor": 0.0, "roughnessFactor": 1.0}
    tree["materials"] = [{"pbrMetallicRoughness": surface, "doubleSided": True}]
    tree["meshes"][0]["primitives"][0]["material"] = 0


def _as_trimesh(mesh: Mesh) -> Any:
    """A `trimesh.Trimesh` of the same vertices in the same order."""
    return _import_trimesh().Trimesh(
        mesh.vertices_V3,
        mesh.faces_F3,
        vertex_normals=mesh.normals_V3,
        vertex_colors=mesh.colours_V3,
        process=False,
    )


def largest_component(mesh: Mesh) -> Mesh:
    """The connected piece with the most faces, without the floating pieces around it.

    Faces are connected that have a vertex in common; vertices of no face go as well. Of pieces of
    the same size it is the one with the first face.

    Raises:
      InputError: As for `check_surface`, or trimesh is not installed.
    """
    check_surface(mesh)
    edges_N2 = np.concatenate([mesh.faces_F3[:, :2], mesh.faces_F3[:, 1:]])
    piece_V = np.zeros(len(mesh.vertices_V3), np.int64)
    for piece, vertices in enumerate(_import_trimesh().graph.connected_components(edges_N2)):
        piece_V[vertices] = piece
    piece_F = piece_V[mesh.faces_F3[:, 0]]
    sizes = np.bincount(piece_F)
    chosen = piece_F[np.argmax(sizes[piece_F])]
    return _with_faces(mesh, mesh.faces_F3[piece_F == chosen])


def _with_faces(mesh: Mesh, faces_F3: Int32[np.ndarray, "F 3"]) -> Mesh:
    """Some of a mesh's faces, and the vertices that they need, in the same order."""
    used, corners = np.unique(faces_F3, return_inverse=True)
    return Mesh(
        mesh.vertices_V3[used],
        corners.reshape(faces_F3.shape).astype(np.int32),
        None if mesh.normals_V3 is None else mesh.normals_V3[used],
        None if mesh.colours_V3 is None else mesh.colours_V3[used],
    )


def _import_trimesh() -> Any:
    try:
        import trimesh
        import trimesh.graph
    except ImportError as error:
        raise InputError(
            f"files of meshes need the package trimesh, extra jaxgen[experiments] ({error})"
        ) from error
    return trimesh
