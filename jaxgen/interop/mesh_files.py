"""Files of triangle meshes, written: PLY, Wavefront OBJ and binary glTF.

PLY is binary, little-endian, in the mesh's own coordinates, with +Z up, as scenes of radiance
fields have them and Blender does. GLB (glTF 2.0, the "Binary glTF" section of its specification)
and OBJ, as nearly all programs read it, have +Y up: points (x, y, z) are written as (x, z, -y), a
rotation, so that viewers show them upright. `jaxgen.interop.mesh_reading` turns them back.
"""

import io
import pathlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from jaxgen.errors import InputError
from jaxgen.files import Path, as_path, replacing
from jaxgen.geometry.triangle_mesh import Mesh, check_surface, turned_mesh
from jaxgen.interop.trimesh_package import import_trimesh
from jaxgen.text_rules import has_suffix

Z_UP_TO_Y_UP = np.asarray([[1, 0, 0], [0, 0, 1], [0, -1, 0]], np.float32)
"""The rotation to the axes of glTF and OBJ, for columns: (x, y, z) to (x, z, -y)."""

MATERIAL = "surface"
"""The name of the only material."""


def write_mesh(path: Path, mesh: Mesh) -> None:
    """Writes a mesh, whole or not at all; equal meshes give equal files.

    A ``.ply`` has the mesh's coordinates; in a ``.glb`` and an ``.obj`` +Z is turned to +Y, which
    is up there. Where the mesh has a texture, GLB and OBJ show that, else the vertices' colours,
    and PLY always the latter. Bytes of colours stay as they are, with an opacity of 255. (glTF
    takes vertex colours as linear in light, so that viewers that keep to it show sRGB bytes paler;
    textures are sRGB there.) The material of a ``.glb`` is not metallic, which is glTF's default,
    and has both sides.

    An ``.obj`` with a texture is three files: beside ``mesh.obj`` are ``mesh.png`` and
    ``mesh.mtl``, which are written before it.

    Args:
      path: the file, ``.ply``, ``.obj`` or ``.glb``; its folder must exist.
      mesh: what is written.

    Raises:
      InputError: The suffix is another, `check_surface` refuses the mesh, or a package is not
        installed: trimesh, or pillow for a texture. Nothing is written then.
    """
    target = as_path(path)
    encode = next(
        (_ENCODERS[suffix] for suffix in _ENCODERS if has_suffix(target.name, suffix)), None
    )
    if encode is None or not target.suffix:
        raise InputError(f"{path}: the suffix is unknown, expected {', '.join(_ENCODERS)}")
    check_surface(mesh, f"{path}: mesh")
    for file, content in encode(target, mesh).items():
        with replacing(file) as handle:
            handle.write(content)


def _ply(path: pathlib.Path, mesh: Mesh) -> dict[pathlib.Path, bytes]:
    bare = replace(mesh, uv_V2=None, texture=None)
    return {path: _as_trimesh(bare).export(file_type="ply", encoding="binary")}


def _glb(path: pathlib.Path, mesh: Mesh) -> dict[pathlib.Path, bytes]:
    add = None if mesh.texture is not None else _add_material
    return {
        path: _as_trimesh(turned_mesh(mesh, Z_UP_TO_Y_UP)).export(
            file_type="glb", tree_postprocessor=add
        )
    }


def _obj(path: pathlib.Path, mesh: Mesh) -> dict[pathlib.Path, bytes]:
    """The files, the one that names the others last."""
    turned, lines, found = turned_mesh(mesh, Z_UP_TO_Y_UP), [], {}
    if mesh.texture is not None:
        materials, image = path.with_suffix(".mtl"), path.with_suffix(".png")
        found = {
            image: _png(mesh.texture),
            materials: (
                f"newmtl {MATERIAL}\nKa 1 1 1\nKd 1 1 1\nKs 0 0 0\nd 1\nillum 1\n"
                f"map_Kd {image.name}\n"
            ).encode(),
        }
        lines += [f"mtllib {materials.name}\n", f"usemtl {MATERIAL}\n"]
    vertices = turned.vertices_V3
    if mesh.colours_V3 is not None and mesh.texture is None:  # as MeshLab and Blender read them
        vertices = np.concatenate([vertices, mesh.colours_V3 / np.float32(255)], axis=1)
    lines += [_rows("v", vertices)]
    corner = "%d"
    if mesh.uv_V2 is not None:
        lines += [_rows("vt", mesh.uv_V2)]
        corner += "/%d"
    if turned.normals_V3 is not None:
        lines += [_rows("vn", turned.normals_V3)]
        corner += "/%d" if mesh.uv_V2 is not None else "//%d"
    numbers = np.repeat(mesh.faces_F3.ravel() + 1, corner.count("%d"))
    row = f"f {corner} {corner} {corner}\n"
    lines += [(row * len(mesh.faces_F3)) % tuple(numbers.tolist())]
    return {**found, path: "".join(lines).encode()}


def _rows(word: str, values: Float32[np.ndarray, "N C"]) -> str:
    """Lines of numbers, of as many digits as float32 has."""
    row = f"{word} {' '.join(['%.9g'] * values.shape[1])}\n"
    return (row * len(values)) % tuple((values + np.float32(0)).ravel().tolist())


_ENCODERS: Mapping[str, Callable[[pathlib.Path, Mesh], dict[pathlib.Path, bytes]]] = {
    ".ply": _ply,
    ".obj": _obj,
    ".glb": _glb,
}


def _add_material(tree: dict[str, Any]) -> None:
    """The material of the only mesh of a glTF file: glTF's default is a metal."""
    surface = {"metallicFactor": 0.0, "roughnessFactor": 1.0}
    tree["materials"] = [{"pbrMetallicRoughness": surface, "doubleSided": True}]
    tree["meshes"][0]["primitives"][0]["material"] = 0


def _as_trimesh(mesh: Mesh) -> Any:
    """A `trimesh.Trimesh` of the same vertices in the same order."""
    trimesh = import_trimesh()
    made = trimesh.Trimesh(
        mesh.vertices_V3,
        mesh.faces_F3,
        vertex_normals=mesh.normals_V3,
        vertex_colors=mesh.colours_V3 if mesh.texture is None else None,
        process=False,
    )
    if mesh.texture is not None:
        material = trimesh.visual.material.PBRMaterial(
            name=MATERIAL,
            baseColorTexture=_import_image().fromarray(mesh.texture),
            metallicFactor=0.0,
            roughnessFactor=1.0,
            doubleSided=True,
        )
        made.visual = trimesh.visual.TextureVisuals(uv=mesh.uv_V2, material=material)
    return made


def _png(texture: UInt8[np.ndarray, "Y X 3"]) -> bytes:
    content = io.BytesIO()
    _import_image().fromarray(texture).save(content, format="PNG")
    return content.getvalue()


def _import_image() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise InputError(
            f"textures of meshes need the package pillow, extra jaxgen[experiments] ({error})"
        ) from error
    return Image
