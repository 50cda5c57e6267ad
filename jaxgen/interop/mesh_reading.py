"""Files of triangle meshes, read: PLY, Wavefront OBJ and glTF, upright and as one mesh."""

from typing import Any

import numpy as np
from jaxtyping import UInt8

from jaxgen.errors import InputError
from jaxgen.files import Path, open_file
from jaxgen.geometry.texture_baking import sample_texture
from jaxgen.geometry.triangle_mesh import Mesh, check_surface, turned_mesh, with_faces
from jaxgen.interop.mesh_files import Z_UP_TO_Y_UP
from jaxgen.interop.trimesh_package import import_trimesh
from jaxgen.text_rules import has_suffix

MESH_SUFFIXES = (".ply", ".obj", ".glb", ".gltf", ".off", ".stl")
Y_UP_SUFFIXES = (".obj", ".glb", ".gltf")
PLAIN = 255
"""Colour of parts without one, where others have some."""
TRIMESH_GREY = (102, 102, 102)
"""What trimesh gives to materials without a colour."""
NO_IMAGE = 100
"""All bytes of the image of 2 x 2 texels that trimesh gives to coordinates without an image."""


def read_mesh(path: Path) -> Mesh:
    """Reads the triangles of a file as one mesh with +Z up.

    The parts of a scene are joined, each where its transforms bring it, and polygons are cut into
    triangles. Files of formats with +Y up (OBJ, glTF) are turned, (x, y, z) to (x, -z, y), as
    `write_mesh` turns them the other way; PLY, OFF and STL are not.

    A texture is kept where it is the only one, and its coordinates where all parts have some.
    Otherwise vertices have the colours that the file gives them, or those of textures and materials
    at the vertices. Points, lines and vertices of no face are left out.

    Args:
      path: The file. Textures and materials of OBJ and glTF are beside it; where an image is
        missing, there is none.

    Raises:
      FileNotFoundError: There is no such file.
      InputError: The suffix is another, the file cannot be read, has no triangles, or coordinates
        that are not finite; or trimesh is not installed. The message names the file.
    """
    if not has_suffix(str(path), *MESH_SUFFIXES):
        raise InputError(f"{path}: the suffix is unknown, expected {', '.join(MESH_SUFFIXES)}")
    open_file(path).close()
    parts = _load(path)
    if not parts:
        raise InputError(f"{path} has no triangles, expected one or more")
    mesh = _join(parts)
    mesh = with_faces(mesh, mesh.faces_F3)
    if has_suffix(str(path), *Y_UP_SUFFIXES):
        mesh = turned_mesh(mesh, Z_UP_TO_Y_UP.T)
    check_surface(mesh, str(path))
    return mesh


def _load(path: Path) -> list[tuple[Any, Any]]:
    """Meshes of trimesh that have faces, and the matrix of each."""
    trimesh = import_trimesh()
    try:
        scene = trimesh.load_scene(path, process=False)
        placed = [scene.graph[node] for node in scene.graph.nodes_geometry]
    except Exception as error:  # of many kinds, from damaged files
        fault = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(f"{path}: no mesh could be read from it ({fault})") from error
    parts = [(scene.geometry[name], matrix) for matrix, name in placed]
    return [(p, m) for p, m in parts if isinstance(p, trimesh.Trimesh) and len(p.faces)]


def _join(parts: list[tuple[Any, Any]]) -> Mesh:
    starts = np.cumsum([0, *(len(part.vertices) for part, _ in parts)])
    vertices = [part.vertices @ matrix[:3, :3].T + matrix[:3, 3] for part, matrix in parts]
    faces = [
        # A mirror image has its corners the other way round.
        (part.faces if np.linalg.det(matrix[:3, :3]) >= 0 else part.faces[:, ::-1]) + start
        for (part, matrix), start in zip(parts, starts[:-1], strict=True)
    ]
    normals = [_normals(part, matrix) for part, matrix in parts]
    uv = [getattr(part.visual, "uv", None) for part, _ in parts]
    images = [_image(part) for part, _ in parts]
    one = images[0] if _one_texture(uv, images) else None
    return Mesh(
        np.concatenate(vertices).astype(np.float32),
        np.concatenate(faces).astype(np.int32),
        _joined(normals),
        _colours([part for part, _ in parts], uv, images) if one is None else None,
        _joined([None if values is None else values[:, :2] for values in uv]),
        one,
    )


def _one_texture(uv: list[Any], images: list[Any]) -> bool:
    """Whether all parts have coordinates of one and the same image."""
    return all(
        image is not None and values is not None and np.array_equal(image, images[0])
        for values, image in zip(uv, images, strict=True)
    )


def _joined(values: list[Any]) -> Any:
    """Arrays of all parts as one in float32, None where a part has none."""
    if any(part is None for part in values):
        return None
    return np.concatenate(values).astype(np.float32)


def _normals(part: Any, matrix: Any) -> Any:
    """Those of the file, turned as the part is; None where it has none."""
    if "vertex_normals" not in part._cache:
        return None
    turned = part.vertex_normals @ np.linalg.pinv(matrix[:3, :3])
    length = np.linalg.norm(turned, axis=1, keepdims=True)
    return turned / length if np.isfinite(turned).all() and (length > 0).all() else None


def _image(part: Any) -> UInt8[np.ndarray, "Y X 3"] | None:
    """The texture of a part."""
    material = getattr(part.visual, "material", None)
    images = (getattr(material, name, None) for name in ("baseColorTexture", "image"))
    image = next((found for found in images if found is not None), None)
    texture = None if image is None else np.asarray(image.convert("RGB"))
    made_up = texture is not None and texture.shape == (2, 2, 3) and (texture == NO_IMAGE).all()
    return None if made_up else texture


def _colours(parts: list[Any], uv: list[Any], images: list[Any]) -> Any:
    """Of all vertices, or None where no part has any."""
    found = [_own_colours(*values) for values in zip(parts, uv, images, strict=True)]
    if all(colours is None for colours in found):
        return None
    return np.concatenate(
        [
            np.full((len(part.vertices), 3), PLAIN, np.uint8) if colours is None else colours
            for part, colours in zip(parts, found, strict=True)
        ]
    )


def _own_colours(part: Any, uv: Any, image: Any) -> UInt8[np.ndarray, "V 3"] | None:
    if image is not None and uv is not None:
        return np.rint(255 * sample_texture(image, uv[:, :2])).astype(np.uint8)
    if part.visual.kind in ("vertex", "face"):
        return np.asarray(part.visual.vertex_colors)[:, :3].astype(np.uint8)
    beside = getattr(part.visual, "vertex_attributes", {}).get("color")  # glTF's, with a material
    if beside is not None:
        top = 1 if beside.dtype.kind == "f" else np.iinfo(beside.dtype).max
        return np.rint(255 * np.clip(beside[:, :3] / top, 0, 1)).astype(np.uint8)
    plain = _plain_colour(getattr(part.visual, "material", None))
    return None if plain is None else np.tile(plain, (len(part.vertices), 1))


def _plain_colour(material: Any) -> UInt8[np.ndarray, "3"] | None:
    """The colour of a material as bytes in sRGB, None where the file gives none."""
    factor = getattr(material, "baseColorFactor", None)
    if factor is not None:  # glTF's, linear in light
        linear = np.asarray(factor, np.float64)[:3] / 255
        curve = 1.055 * np.maximum(linear, 0.0031308) ** (1 / 2.4) - 0.055
        return np.rint(255 * np.where(linear <= 0.0031308, 12.92 * linear, curve)).astype(np.uint8)
    diffuse = getattr(material, "diffuse", None)
    if diffuse is None or tuple(diffuse[:3]) == TRIMESH_GREY:
        return None
    return np.asarray(diffuse, np.uint8)[:3]
