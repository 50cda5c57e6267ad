"""A radiance field of one scene, from training to new views, an orbit and a mesh, in minutes.

``python -m experiments.nerf.train``

Trains a field on posed photographs, by default of a scene that is traced exactly and needs no
download, and renders the test views, which it has not seen. In the working folder:

  comparison.png    test views: photograph, rendering, error, depth and normals
  orbit.mp4         a flight around the scene
  mesh.ply          the surface, with colours
  splats.ply        in its place with --field splats: the Gaussians, for any viewer of them
  mesh.glb, .obj    the same, with a texture where --texture-size is not 0 (mesh.mtl, mesh.png)
  viewer.html       mesh or Gaussians, and orbit, in a page to turn, for a browser without network
  views/            test views as rendered (PNG); depth along the ray and normals (.npz), in units
                    and axes of the scene's files
  curves.png        the error in the course of training
  table.md          PSNR and SSIM of the test views; of the traced scene, depth and normals too
  metrics.json      means of the table, sizes and times, by name
  scene.json        how to get from the field's world to that of the scene's files
  checkpoints/      the field (jaxgen.training.load_model opens it)

Started again with the same working folder it resumes. With ``--data FOLDER`` it trains on a scene
of NeRF's Blender format, or on photographs with the cameras of nerfstudio, instant-ngp, LLFF or
COLMAP, every eighth of them held out. Those are recentred; ``scene.json`` says how to get back.
With ``--data FILE`` it trains on views of a mesh, which are rendered first.
"""

import io
import json
import math
import pathlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.nerf.support.field_flags import FieldFlags
from experiments.nerf.support.field_meshes import make_meshes
from experiments.nerf.support.field_results import (
    SHOWN,
    RenderedView,
    as_bytes,
    evenly_chosen,
    geometry_figures,
    plot_views,
    render_views,
    view_figures,
    write_orbit,
    write_page,
)
from experiments.nerf.support.field_training import (
    PSNR,
    FieldTrainingFlags,
    check_rays,
    train_field,
)
from experiments.nerf.support.flight_paths import FlightPath
from experiments.nerf.support.picture_distance import PictureDistance, load_lpips
from experiments.nerf.support.pose_refinement import disturb_poses, follow_refinement
from experiments.nerf.support.splat_flags import SplatFlags, check_no_splats, flags_of_splats
from experiments.nerf.support.splat_results import write_gaussians
from experiments.nerf.support.splat_training import train_splats
from experiments.shared.digests import digest_of
from experiments.shared.image_plots import write_png
from experiments.shared.launch import ExperimentConfig, LaunchConfig, open_workdir, report, run
from experiments.shared.output import format_table, three_decimals, write_text
from experiments.shared.plots import new_figure, save_figure
from experiments.shared.restarts import check_not_shorter, may_train_longer
from experiments.shared.training_runs import TrainedModel, check_layout
from experiments.shared.workdir import check_checkpoints
from jaxgen.data import Scene, load_scene
from jaxgen.data.scenes.similarity import Similarity
from jaxgen.data.scenes.views import unit_colours
from jaxgen.errors import InputError, check_share
from jaxgen.evaluation.image_similarity import WINDOW
from jaxgen.files import as_path, replacing
from jaxgen.geometry.mesh_cleaning import FEWEST
from jaxgen.nerf import RadianceConfig, SplatConfig
from jaxgen.nn.counting import parameter_count
from jaxgen.parallel import is_main_process
from jaxgen.training.metrics import write_figures
from jaxgen.training.saved_names import register_config


@register_config("nerf.results")
@dataclass(frozen=True, kw_only=True)
class ResultFlags:
    """What is made of the trained field; may differ when a run is started again.

    Attributes:
      mesh_resolution: points along each axis of the grid on which the surface is found (marching
        cubes); 0 for no triangle mesh.
      mesh_faces: how many faces the mesh is decimated to; None for as many as are found.
      smallest_piece: pieces of less than this share of the largest one's area are left out of the
        mesh; 0 keeps all.
      texture_size: texels of each side of the texture of mesh.glb and mesh.obj; 0 for colours of
        vertices alone.
      orbit_side: height and width of the frames of orbit.mp4 in pixels; 0 for none.
      path: of the cameras of orbit.mp4: "orbit", around the scene; "spiral", in front of it;
        "keys", through training views. None: a spiral where the training views face forward, else
        an orbit.
      test_views: at most so many test views are rendered, evenly chosen; None for all.
      normals: whether their normals are rendered too, which takes as long again or longer.
      lpips: two files (.safetensors) by which LPIPS joins the figures, torchvision's AlexNet or
        VGG-16 and the linear layers for it: see jaxgen.evaluation.lpips.
    """

    mesh_resolution: int = 128
    mesh_faces: int | None = None
    smallest_piece: float = 0.01
    texture_size: int = 0
    orbit_side: int = 128
    path: FlightPath | None = None
    test_views: int | None = None
    normals: bool = True
    lpips: tuple[str, str] | None = None

    def __post_init__(self) -> None:
        if self.test_views is not None and self.test_views < 1:
            raise InputError(f"test_views is {self.test_views}, expected 1 or more")
        for name in ("mesh_resolution", "orbit_side"):
            if getattr(self, name) < 0 or getattr(self, name) == 1:
                raise InputError(f"{name} is {getattr(self, name)}, expected 0, or 2 or more")
        if self.mesh_faces is not None and self.mesh_faces < FEWEST:
            raise InputError(f"mesh_faces is {self.mesh_faces}, expected {FEWEST} or more")
        if self.texture_size < 0:
            raise InputError(f"texture_size is {self.texture_size}, expected 0 or more")
        check_share("smallest_piece", self.smallest_piece)


@register_config("nerf.train")
@dataclass(frozen=True, kw_only=True)
class Config(ExperimentConfig):
    """Flags of this experiment.

    Attributes:
      launch: where to run and on what.
      seed: all randomness follows from it.
      data: "shapes" (traced, no download), a mesh (.ply, .obj, .glb), or a folder: with
        transforms_train.json and transforms_test.json (Blender), transforms.json (nerfstudio,
        instant-ngp), poses_bounds.npy (LLFF), or a model of COLMAP.
      size: shrink images to so many pixels on their longer side; None keeps those of files as they
        are, and renders "shapes" and meshes with 100.
      images: the folder of photographs in the --data folder, where it is not "images" (LLFF: nor
        "images_N"); of LLFF and COLMAP alone.
      skip_missing: leave out frames whose image is missing; of nerfstudio, instant-ngp and COLMAP
        alone.
      pose_noise: disturbs the poses that are trained on, to try their refinement: degrees by which
        each camera is turned, and the share of its distance by which it is moved.
      field: the field, and how rays are sampled.
      splats: the Gaussians, where they are the field.
      training: how it is trained.
      results: orbit and mesh; may differ when a run is started again.
    """

    launch: LaunchConfig = LaunchConfig(workdir="runs/nerf_train")
    data: str = "shapes"
    size: int | None = None
    images: str | None = None
    skip_missing: bool = False
    pose_noise: tuple[float, float] | None = None
    field: FieldFlags = FieldFlags()
    splats: SplatFlags = SplatFlags()
    training: FieldTrainingFlags = FieldTrainingFlags()
    results: ResultFlags = ResultFlags()

    def __post_init__(self) -> None:
        noise = self.pose_noise
        if noise is not None and not all(0 <= part < math.inf for part in noise):
            raise InputError(f"pose_noise is {noise}, expected two finite numbers >= 0")


def main(config: Config) -> dict[str, Any]:
    """Trains, renders, evaluates, shows."""
    distance = None if config.results.lpips is None else load_lpips(*config.results.lpips)
    scene = load_scene(
        config.data, size=config.size, images=config.images, skip_missing=config.skip_missing
    )
    check_large_enough(scene)
    if distance is not None:
        # Images may be too small for its network, which is better known before training.
        distance(*np.zeros((2, *scene.part("test").images.shape[1:3], 3)))
    field: RadianceConfig | SplatConfig
    if splats := config.field.field == "splats":
        field = config.splats.config(scene, config.field)
        training = flags_of_splats(config.training)
    else:
        check_no_splats(config.splats)
        field = config.field.config(scene)
        training = config.training.for_field(field)
        check_rays(training)
    check_layout(field)
    steps = config.training.training_steps
    check_not_shorter(as_path(config.launch.workdir), steps, f"training_steps is {steps}")
    folder = open_workdir(
        config,
        may_differ=("results", *may_train_longer(config, "training_steps")),
        data={scene.name: scene_digest(scene)},
        check=lambda folder: check_checkpoints(folder, field),
    )
    report(scene.describe())
    write_place(folder / "scene.json", scene)
    given = scene
    if config.pose_noise is not None:
        given = disturb_poses(scene, *config.pose_noise, config.seed)
    options: dict[str, Any] = {"seed": config.seed, "tensorboard": config.launch.tensorboard}
    if isinstance(field, SplatConfig):
        trained = train_splats(field, given, folder, training, config.splats, **options)
    else:
        trained = train_field(field, given, folder, training, **options)
    plot_error(folder / "curves.png", trained)
    figures = {
        "parameters": parameter_count(trained.params),
        "updates": trained.steps,
        "skipped updates": trained.skipped,
        "training seconds": trained.seconds,
    }
    if training.rays is not None:
        figures["rays"] = trained.steps * training.rays
    if config.field.refine_poses or config.field.refine_intrinsics:
        scene, errors = follow_refinement(scene, given, trained)
        figures |= errors
        write_place(folder / "scene.json", scene)
    figures |= show_test_views(folder, trained, scene, config.results, distance)
    orbit = mesh = gaussians = None
    if config.results.orbit_side:
        flags = config.results
        orbit = write_orbit(folder / "orbit.mp4", trained, scene, flags.orbit_side, flags.path)
    if splats:
        gaussians, found = write_gaussians(folder / "splats.ply", trained, scene)
        figures |= found
    elif config.results.mesh_resolution:
        # Without a surface this is an error; what there is by then is kept.
        write_figures(folder / "metrics.json", figures)
        mesh, found = make_meshes(
            folder,
            trained,
            scene,
            config.results.mesh_resolution,
            faces=config.results.mesh_faces,
            smallest_piece=config.results.smallest_piece,
            texture_size=config.results.texture_size,
        )
        figures |= found
    write_page(folder / "viewer.html", scene, mesh, orbit, gaussians)
    return figures


def check_large_enough(scene: Scene) -> None:
    """Refuses a scene without test views, or with some that are too small to be evaluated.

    Raises:
      InputError: naming the scene, or their size.
    """
    if "test" not in scene.parts:
        raise InputError(f"{scene.name}: no test views, expected 1 or more to be evaluated")
    height, width = scene.part("test").images.shape[1:3]
    if min(height, width) < WINDOW:
        raise InputError(
            f"{scene.name}: test views have {height} x {width} pixels, expected {WINDOW} or more, "
            "the window of SSIM"
        )


def write_place(path: pathlib.Path, scene: Scene) -> None:
    """Where the field's world is in that of the scene's files: x -> scale rotation x + translation.

    What else is written of the field (mesh, Gaussians, depths and normals) is in that of the files.
    ``to_original`` leads on to the world that those were made of, where they say how.
    """
    place = {
        **_numbers_of(scene.to_files),
        "near": scene.near,
        "far": scene.far,
        "box": scene.box,
    }
    if scene.applied is not None:
        place["to_original"] = _numbers_of(scene.applied.inverse().after(scene.to_files))
    write_text(path, json.dumps(place, indent=1))


def _numbers_of(move: Similarity) -> dict[str, Any]:
    return {
        "scale": float(move.scale),
        "rotation": move.rotation.tolist(),
        "translation": move.translation.tolist(),
    }


def scene_digest(scene: Scene) -> str:
    """A digest of all views of a scene."""
    return digest_of(
        [
            (
                *(part, list(views.names), views.images, views.camera_to_world),
                *(views.intrinsics.model, views.intrinsics.focal, views.intrinsics.centre),
                *(views.intrinsics.distortion, views.masks),
            )
            for part, views in scene.parts.items()
        ]
    )


def show_test_views(
    folder: pathlib.Path,
    trained: TrainedModel,
    scene: Scene,
    flags: ResultFlags,
    distance: PictureDistance | None = None,
) -> dict[str, float]:
    """Renders and evaluates test views; their mean figures."""
    views = scene.part("test")
    if flags.test_views is not None:
        views = views.take(evenly_chosen(len(views), flags.test_views))
    rows: list[dict[str, float]] = []
    shown: list[RenderedView] = []
    chosen = evenly_chosen(len(views), SHOWN)
    (folder / "views").mkdir(exist_ok=True)
    for i, view in enumerate(render_views(trained, views, normals=flags.normals)):
        row = view_figures(view, distance)
        if views.depth is not None and views.normals is not None:
            alpha = unit_colours(views.images[i, ..., -1])
            row |= geometry_figures(view, views.depth[i], views.normals[i], alpha)
        rows.append(row)
        write_view(folder / "views", f"test_{i:03d}", view, scene.to_files)
        if i in chosen:
            shown.append(view)
    plot_views(folder / "comparison.png", shown, [views.names[i] for i in chosen])
    known = list(dict.fromkeys(name for row in rows for name in row))
    means = {name: float(np.mean([row[name] for row in rows if name in row])) for name in known}
    table = format_table(
        ("test view", *means),
        [
            (name, *(three_decimals(row.get(column)) for column in means))
            for name, row in zip([*views.names, "mean"], [*rows, means], strict=True)
        ],
    )
    write_text(folder / "table.md", table)
    report("\n" + "\n".join([*table.splitlines()[:2], table.splitlines()[-1]]) + "\n")
    return {f"test {name}": value for name, value in means.items()}


def write_view(folder: pathlib.Path, name: str, view: RenderedView, to_files: Similarity) -> None:
    """A view as PNG, and its depth, opacity and normals as numbers in the world of the files.

    ``depth_along`` says that depth is along the ray.
    """
    if not is_main_process():
        return
    write_png(folder / f"{name}.png", as_bytes(view.colour))
    numbers: dict[str, Any] = {
        "depth": (to_files.scale * view.depth).astype(np.float32),
        "depth_along": "ray",
        "opacity": view.opacity,
    }
    if view.normals is not None:
        numbers["normals"] = to_files.directions(view.normals).astype(np.float32)
    content = io.BytesIO()
    np.savez_compressed(content, **numbers)
    with replacing(folder / f"{name}.npz") as handle:
        handle.write(content.getbuffer())


def plot_error(path: pathlib.Path, trained: TrainedModel) -> None:
    """PSNR of random training pixels and of validation pixels in the course of training."""
    figure, axes = new_figure("PSNR in the course of training", 8, 5)
    steps, errors = trained.curve("train/mean_squared_error")
    axes.plot(steps, -10 * np.log10(np.maximum(errors, 1e-10)), label="training pixels")
    steps, values = trained.curve(PSNR)
    if steps:
        axes.plot(steps, values, marker="o", label="validation pixels, averaged parameters")
    axes.set(xlabel="updates", ylabel="PSNR, dB")
    axes.legend(frameon=False)
    save_figure(figure, path)


if __name__ == "__main__":
    run(main, Config)
