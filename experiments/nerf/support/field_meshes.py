"""The surface of a trained field, and its files with colours or with a texture."""

import pathlib
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from experiments.nerf.support.field_results import as_bytes
from experiments.shared.output import progress_bar
from experiments.shared.training_runs import TrainedModel
from jaxgen.data import Scene
from jaxgen.data.scenes.mesh_scene import moved_mesh
from jaxgen.geometry.mesh_cleaning import count_pieces, decimate, drop_small_pieces
from jaxgen.geometry.texture_baking import bake_texture
from jaxgen.geometry.triangle_mesh import Mesh
from jaxgen.interop.marching_cubes import distance_surface, marching_cubes
from jaxgen.interop.mesh_files import write_mesh
from jaxgen.nerf import RadianceConfig
from jaxgen.parallel import is_main_process, replicated

POINTS_AT_A_TIME = 2**16


def make_meshes(
    folder: pathlib.Path,
    trained: TrainedModel,
    scene: Scene,
    resolution: int,
    *,
    faces: int | None = None,
    smallest_piece: float = 0.01,
    texture_size: int = 0,
) -> tuple[Mesh, dict[str, int]]:
    """Writes ``mesh.ply``, and ``mesh.glb`` and ``mesh.obj`` with a texture where it has a size.

    They are in the units of the scene's files.

    Args:
      folder: where they go.
      trained: the field.
      scene: what it was trained on.
      resolution: as for `extract_mesh`, and so are the next two.
      faces: see there.
      smallest_piece: see there.
      texture_size: texels of each side of the texture; 0 for none.

    Returns:
      The mesh in the field's world, with its texture, and figures of it by name.

    Raises:
      InputError: where no surface separates solid from empty space.
    """
    mesh = extract_mesh(trained, scene, resolution, faces=faces, smallest_piece=smallest_piece)
    shown = bake_field(trained, mesh, texture_size) if texture_size else mesh
    if is_main_process():
        for name, one in (("mesh.ply", mesh), ("mesh.glb", shown), ("mesh.obj", shown)):
            write_mesh(folder / name, moved_mesh(one, scene.to_files))
    return shown, {
        "mesh vertices": len(mesh.vertices_V3),
        "mesh faces": len(mesh.faces_F3),
        "mesh pieces": count_pieces(mesh),
    }


def extract_mesh(
    trained: TrainedModel,
    scene: Scene,
    resolution: int,
    *,
    faces: int | None = None,
    smallest_piece: float = 0.01,
) -> Mesh:
    """The surface of the field in its own world, with the colour seen from in front of it.

    Where all that is seen is in the box, what is solid at its border is closed there.

    Args:
      trained: the field.
      scene: what it was trained on.
      resolution: points of the grid along each axis of the box.
      faces: how many to decimate it to; None for all.
      smallest_piece: pieces of less than this share of the largest one's area are left out.

    Raises:
      InputError: where no surface separates solid from empty space.
    """
    config: RadianceConfig = trained.config
    low, high = (np.asarray(corner) for corner in config.field.box)
    axes = [np.linspace(low[i], high[i], resolution) for i in range(3)]
    grid_XYZ3 = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).astype(np.float32)
    signed = config.make_distance(trained.params) is not None
    values_N = _in_parts(
        trained,
        lambda params, x: (config.make_distance(params) or config.make_density(params))(x),
        f"{'distance' if signed else 'density'} of the grid",
        grid_XYZ3.reshape(-1, 3),
    )
    surface = distance_surface if signed else marching_cubes
    found = surface(values_N.reshape((resolution,) * 3), low, high, closed=scene.bounded)
    mesh = drop_small_pieces(found, smallest_piece)
    if faces is not None:
        mesh = decimate(mesh, faces)
    colours_V3 = _colours(trained, "colours of the mesh", mesh.vertices_V3, mesh.normals_V3)
    return replace(mesh, colours_V3=as_bytes(colours_V3))


def bake_field(trained: TrainedModel, mesh: Mesh, size: int) -> Mesh:
    """A mesh of `extract_mesh` with a texture of the field's colours, ``size`` texels a side."""
    return bake_texture(
        mesh,
        lambda points, normals: _colours(trained, "colours of the texture", points, normals),
        size,
    )


def _colours(
    trained: TrainedModel, name: str, points_N3: np.ndarray, normals_N3: np.ndarray
) -> np.ndarray:
    """The field's, in [0, 1], as seen along the normals."""
    config: RadianceConfig = trained.config
    return _in_parts(
        trained,
        lambda params, x, direction: config.make_field(params)(x, direction).colour,
        name,
        points_N3,
        -normals_N3,
    )


def _in_parts(trained: TrainedModel, function: Any, name: str, *arrays: np.ndarray) -> np.ndarray:
    """A function of parameters and points, part by part: one program, the last part filled up."""
    compiled = jax.jit(function, out_shardings=replicated(trained.layout.mesh))
    parts, count = [], len(arrays[0])
    with progress_bar(name, "point", count) as advance:
        for start in range(0, count, POINTS_AT_A_TIME):
            index = np.minimum(np.arange(start, start + POINTS_AT_A_TIME), count - 1)
            parts.append(np.asarray(compiled(trained.params, *(array[index] for array in arrays))))
            advance(min(POINTS_AT_A_TIME, count - start))
    return np.concatenate(parts)[:count]
