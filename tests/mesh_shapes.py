"""Meshes whose measures are known."""

import numpy as np
import trimesh

from jaxgen.geometry.triangle_mesh import Mesh


def as_mesh(made, **fields) -> Mesh:
    """A mesh of trimesh's."""
    places, faces = np.asarray(made.vertices), np.asarray(made.faces)
    return Mesh(places.astype(np.float32), faces.astype(np.int32), **fields)


def ball_mesh(subdivisions=3, radius=1.0, centre=(0.0, 0.0, 0.0), **fields) -> Mesh:
    """A sphere of 20 * 4**subdivisions triangles, its vertices on it."""
    made = trimesh.creation.icosphere(subdivisions, radius)
    made.apply_translation(centre)
    return as_mesh(made, **fields)


def joined(*meshes: Mesh) -> Mesh:
    """Several as one; of their arrays those that all have."""
    starts = np.cumsum([0, *(len(mesh.vertices_V3) for mesh in meshes)])
    numbered = zip(meshes, starts[:-1], strict=True)
    parts = {
        name: np.concatenate([getattr(mesh, name) for mesh in meshes])
        for name in ("vertices_V3", "normals_V3", "colours_V3", "uv_V2")
        if all(getattr(mesh, name) is not None for mesh in meshes)
    }
    faces = np.concatenate([mesh.faces_F3 + start for mesh, start in numbered])
    return Mesh(faces_F3=faces.astype(np.int32), **parts)


def square_mesh(side=2.0, height=0.0, steps=1) -> Mesh:
    """A square at a height, facing +Z, with a texture's coordinates from 0 to 1."""
    line = np.linspace(0, 1, steps + 1)
    v, u = (axis.ravel() for axis in np.meshgrid(line, line, indexing="ij"))
    places = np.stack([side * (u - 0.5), side * (v - 0.5), np.full_like(u, height)], axis=1)
    first = (np.arange(steps)[:, None] * (steps + 1) + np.arange(steps)).ravel()
    right, up = first + 1, first + steps + 1
    faces = np.concatenate(
        [np.stack([first, right, up], axis=1), np.stack([right, up + 1, up], axis=1)]
    )
    return Mesh(
        places.astype(np.float32),
        faces.astype(np.int32),
        uv_V2=np.stack([u, v], axis=1).astype(np.float32),
    )


def red_over_blue(size=16) -> np.ndarray:
    """A texture: the upper half red, the lower half blue."""
    texture = np.zeros((size, size, 3), np.uint8)
    texture[: size // 2, :, 0] = texture[size // 2 :, :, 2] = 255
    return texture
