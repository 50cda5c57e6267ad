"""What a trained field shows: test views with their figures, an orbit."""

import functools
import pathlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, UInt8

from experiments.nerf.support.field_training import GRID
from experiments.nerf.support.flight_paths import FlightPath, flight_cameras
from experiments.nerf.support.picture_distance import PictureDistance
from experiments.nerf.support.view_rays import cameras_of
from experiments.shared.image_plots import plot_images
from experiments.shared.output import progress_bar
from experiments.shared.training_runs import TrainedModel
from jaxgen.data import Scene, Views, write_video
from jaxgen.data.scenes.views import over_background
from jaxgen.evaluation import psnr, ssim
from jaxgen.geometry.triangle_mesh import Mesh
from jaxgen.interop.scene_viewer import write_viewer
from jaxgen.interop.viewer_scenes import GaussianSplats
from jaxgen.nerf import Cameras, RadianceConfig, occupied_cells
from jaxgen.parallel import is_main_process, replicated
from jaxgen.typing import Tree

SHOWN, ORBIT_FPS = 4, 24
SOLID = 0.5
"""Pixels of at least this opacity are of an object."""


@dataclass(frozen=True)
class RenderedView:
    """A test view beside what the field shows from its camera, numpy arrays.

    Attributes:
      truth: [Y, X, 3], over the field's background.
      colour: [Y, X, 3].
      opacity: [Y, X].
      depth: [Y, X], along the ray.
      normals: [Y, X, 3], where they are wanted.
      mask: [Y, X], which pixels count; None: all.
    """

    truth: Float[np.ndarray, "Y X 3"]
    colour: Float[np.ndarray, "Y X 3"]
    opacity: Float[np.ndarray, "Y X"]
    depth: Float[np.ndarray, "Y X"]
    normals: Float[np.ndarray, "Y X 3"] | None = None
    mask: Bool[np.ndarray, "Y X"] | None = None


def make_view_renderer(trained: TrainedModel, *, normals: bool = False) -> Any:
    """``(cameras, i) -> images by name`` of camera i, whole in every process; compiled once."""
    config, whole = trained.config, replicated(trained.layout.mesh)
    guided = isinstance(config, RadianceConfig) and config.occupancy is not None
    options = {"to_the_end": True} if guided else {}
    render = config.make_render(normals=normals, **options)
    cells = _cells(trained) if guided else None

    def run(params: Tree, cameras: Cameras, cells: Array | None) -> dict[str, Array]:
        found = render(params, cameras, **({} if cells is None else {"cells": cells}))
        # The weights of the samples, by far the most numbers, are left out.
        kept = {"colour": found.colour, "opacity": found.opacity, "depth": found.depth}
        if normals:
            kept["normals"] = found.normals
        return {name: value[0] for name, value in kept.items()}

    compiled = jax.jit(run, out_shardings=whole)
    return lambda cameras, i: compiled(trained.params, cameras.take(slice(i, i + 1)), cells)


def _cells(trained: TrainedModel) -> Array:
    """The cells that were occupied at the end of the training."""
    config: RadianceConfig = trained.config
    assert config.occupancy is not None
    assert config.box is not None
    grid = trained.variables[GRID]
    occupancy, box = config.occupancy, config.box
    find = functools.partial(occupied_cells, occupancy, box=box)
    return jax.jit(find, out_shardings=replicated(trained.layout.mesh))(grid)


def render_views(
    trained: TrainedModel, views: Views, *, normals: bool = True
) -> Iterator[RenderedView]:
    """The views one by one, beside their renderings; with normals, which take as long again."""
    cameras, render = cameras_of(views), make_view_renderer(trained, normals=normals)
    truth = over_background(views.images, np.array(trained.config.background))
    with progress_bar("rendering test views", "view", len(views)) as advance:
        for i in range(len(views)):
            found = render(cameras, i)
            mask = None if views.masks is None else views.masks[i]
            yield RenderedView(truth[i], **{k: np.asarray(v) for k, v in found.items()}, mask=mask)
            advance(1)


def evenly_chosen(count: int, most: int) -> list[int]:
    """Indices of at most so many of a number of views, from the first to the last."""
    spread = np.linspace(0, count - 1, min(most, count))
    return np.unique(spread.round()).astype(int).tolist()


def view_figures(view: RenderedView, distance: PictureDistance | None = None) -> dict[str, float]:
    """PSNR and SSIM of a view, and its LPIPS where that is given.

    Of one with a mask the PSNR of the pixels that count, and the others with the photograph's
    pixels in place of all that do not, for which they have no definition.
    """
    colour, share = np.clip(view.colour, 0, 1), 1.0
    if view.mask is not None:
        colour, share = np.where(view.mask[..., None], colour, view.truth), view.mask.mean()
    # The mean over the pixels that count is that over all of them, divided by their share.
    counted = float(psnr(colour, view.truth)) + 10 * float(np.log10(share))
    figures = {"PSNR": counted, "SSIM": float(ssim(colour, view.truth))}
    return figures if distance is None else figures | {"LPIPS": distance(colour, view.truth)}


def geometry_figures(
    view: RenderedView,
    depth: Float[np.ndarray, "Y X"],
    normals: Float[np.ndarray, "Y X 3"],
    alpha: Float[np.ndarray, "Y X"],
) -> dict[str, float]:
    """Errors of depth and normals, where the exact ones are known.

    Pixels of an object are those that it covers whole: at its outline a pixel's depth is a mixture.

    Args:
      view: what the field shows.
      depth: exact distances along the ray.
      normals: exact unit normals.
      alpha: of the photograph, in [0, 1].
    """
    inside: Bool[np.ndarray, "Y X"] = np.isfinite(depth) & (alpha == 1)
    if not inside.any():
        return {}
    error = np.abs(view.depth - depth)[inside] / depth[inside]
    figures = {
        "mean relative depth error": float(error.mean()),
        "median relative depth error": float(np.median(error)),
    }
    if view.normals is None:
        return figures
    length = np.linalg.norm(view.normals, axis=-1)
    cosine = (view.normals * normals).sum(axis=-1) / np.maximum(length, 1e-6)
    angle = np.degrees(np.arccos(np.clip(cosine[inside], -1, 1)))
    return figures | {"median normal error, degrees": float(np.median(angle))}


def plot_views(path: pathlib.Path, views: list[RenderedView], names: list[str]) -> None:
    """A sheet: photograph, rendering, error, depth and normals of some views."""
    rows = []
    for view in views:
        error = np.abs(view.colour - view.truth).mean(axis=-1, keepdims=True)
        near = view.depth[view.opacity > SOLID]
        low, high = (near.min(), near.max()) if near.size else (0.0, 1.0)
        shade = 1 - 0.8 * (view.depth - low) / max(high - low, 1e-6)
        depth = np.where(view.opacity > SOLID, shade, 0.0)[..., None]
        pictures = [view.truth, view.colour, 1 - 4 * error, depth]
        if view.normals is not None:
            pictures.append(view.normals / 2 + 0.5)
        shown = [np.broadcast_to(picture, view.truth.shape) for picture in pictures]
        rows.append(np.stack(shown) * 2 - 1)
    columns = ("photograph", "rendering", "error x 4", "depth", "normals")[: rows[0].shape[0]]
    plot_images(path, np.stack(rows), "Test views", columns=columns, rows=names)


def write_orbit(
    path: pathlib.Path,
    trained: TrainedModel,
    scene: Scene,
    side: int,
    flight: FlightPath | None = None,
    progress: bool = True,
) -> UInt8[np.ndarray, "T Y X 3"]:
    """A flight around the scene or in front of it, as a video; its frames.

    Args:
      path: the file.
      trained: the field.
      scene: gives the cameras' distance and angle of view.
      side: height and width of the video.
      flight: the cameras' path, see `flight_cameras`.
      progress: whether to show a bar.
    """
    cameras = flight_cameras(scene, side, flight)
    render, frames = make_view_renderer(trained), []
    with progress_bar("rendering the orbit", "frame", len(cameras)) as advance:
        for i in range(len(cameras)):
            frames.append(as_bytes(np.asarray(render(cameras, i)["colour"])))
            advance(1)
    if is_main_process():
        write_video(path, np.stack(frames), ORBIT_FPS, scale=max(1, 320 // side))
    return np.stack(frames)


def as_bytes(colour: Float[np.ndarray, "*shape"]) -> UInt8[np.ndarray, "*shape"]:
    """Colours in [0, 1] as bytes."""
    return np.rint(np.clip(colour, 0, 1) * 255).astype(np.uint8)


def write_page(
    path: pathlib.Path,
    scene: Scene,
    mesh: Mesh | None,
    orbit: UInt8[np.ndarray, "T Y X 3"] | None,
    splats: GaussianSplats | None = None,
) -> None:
    """What there is of a mesh and an orbit, in a page for a browser without network.

    Args:
      path: the page.
      scene: gives the page its title.
      mesh: in the field's world, in which z is up.
      orbit: the frames of a flight.
      splats: in place of a mesh.
    """
    if is_main_process() and not (mesh is None and orbit is None and splats is None):
        write_viewer(path, mesh=mesh, splats=splats, orbit=orbit, title=scene.name)
