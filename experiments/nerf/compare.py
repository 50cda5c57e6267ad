"""Tables of radiance fields that are alike but for one choice, on one scene.

``python -m experiments.nerf.compare --table fields --data FOLDER --minutes 5``

Trains the fields of a table one after the other, each for as long, and evaluates them on test
views:

  fields      every field of experiments.nerf.train, and other encodings of a point
  scales      "nerf" and "mipnerf", trained on the photographs in four sizes (1, 1/2, 1/4, 1/8) and
              tested on all four (Barron et al. 2021, table 1)
  ablations   without waves, view dependence, hierarchy, distortion loss; fewer levels, smaller
              tables
  captures    "nerfacto" with and without the camera's distortion, codes of photographs, refined
              poses and intrinsics
  poses       exact poses; poses turned by 2 degrees and moved by 2 % of their distance; the same
              poses refined

In the working folder:

  table.md        the figures; written again after each row
  metrics.json    the same, by name
  curves.png      PSNR of validation pixels, where there are any, against seconds of training
  rows/           each training; one that is finished is not done again
"""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from experiments.nerf.support.field_flags import FieldFlags
from experiments.nerf.support.field_results import evenly_chosen, render_views, view_figures
from experiments.nerf.support.field_training import PSNR, FieldTrainingFlags, train_field
from experiments.nerf.support.pose_refinement import disturb_poses, follow_refinement
from experiments.nerf.support.splat_flags import SplatFlags, flags_of_splats
from experiments.nerf.support.splat_training import train_splats
from experiments.nerf.train import check_large_enough, scene_digest
from experiments.shared.launch import ExperimentConfig, LaunchConfig, open_workdir, report, run
from experiments.shared.output import cached_figures, format_table, three_decimals, write_text
from experiments.shared.plots import new_figure, save_figure
from experiments.shared.training_runs import check_layout
from jaxgen.data import Scene, Views, load_scene
from jaxgen.errors import InputError, check_positive
from jaxgen.nerf import RadianceConfig, SplatConfig
from jaxgen.nn.counting import parameter_count
from jaxgen.training.metrics import read_records
from jaxgen.training.saved_names import register_config

TableName = Literal["fields", "scales", "ablations", "captures", "poses"]
SCALES = (1, 2, 4, 8)
POSE_NOISE = (2.0, 0.02)
"""Degrees, and share of the distance."""


@dataclass(frozen=True)
class FieldRow:
    """A field of a table.

    Attributes:
      name: what it is called.
      field: the flags of the field that are not the defaults.
      training: the flags of the training that are not the defaults.
      undistorted: whether the camera's distortion is left out.
      pose_noise: whether the poses that are trained on are disturbed.
    """

    name: str
    field: Mapping[str, Any]
    training: Mapping[str, Any] = field(default_factory=dict)
    undistorted: bool = False
    pose_noise: bool = False

    @property
    def folder(self) -> str:
        """Its name as that of a folder."""
        return self.name.replace(" ", "_").replace(",", "")


NGP, NERF = {"field": "ngp"}, {"field": "nerf"}
NERFACTO, SPLATS = {"field": "nerfacto"}, {"field": "splats"}
REFINED = {"refine_poses": True, "coarse_to_fine": 0.5}
TABLES: Mapping[TableName, Sequence[FieldRow]] = {
    "fields": (
        FieldRow("ngp", NGP),
        FieldRow("ngp without occupancy", {**NGP, "occupancy": False}),
        FieldRow("ngp, dense grid", {**NGP, "encoding": "dense", "finest_resolution": 128}),
        FieldRow("ngp, three planes", {**NGP, "encoding": "planes", "features": 16}),
        FieldRow("nerfacto", NERFACTO),
        FieldRow("nerf", NERF),
        FieldRow("mipnerf", {"field": "mipnerf"}),
        FieldRow("mipnerf360", {"field": "mipnerf360"}),
        FieldRow("neus", {"field": "neus"}),
        FieldRow("splats", SPLATS),
    ),
    "scales": (FieldRow("nerf", NERF), FieldRow("mipnerf", {"field": "mipnerf"})),
    "ablations": (
        FieldRow("nerf", NERF),
        FieldRow("nerf without waves of positions", {**NERF, "octaves": 0}),
        FieldRow("nerf without view dependence", {**NERF, "view_dependent": False}),
        FieldRow("nerf without hierarchy", {**NERF, "coarse_samples": 64, "fine_samples": 0}),
        FieldRow("ngp", NGP),
        FieldRow("ngp without view dependence", {**NGP, "view_dependent": False}),
        FieldRow("ngp, 4 levels", {**NGP, "levels": 4}),
        FieldRow("ngp, tables of 2^14", {**NGP, "log2_table_size": 14}),
        FieldRow("ngp, tables of 2^19", {**NGP, "log2_table_size": 19}),
        FieldRow("nerfacto", NERFACTO),
        FieldRow("nerfacto without distortion loss", NERFACTO, {"distortion": 0.0}),
    ),
    "captures": (
        FieldRow("nerfacto", NERFACTO),
        FieldRow("without the camera's distortion", NERFACTO, undistorted=True),
        FieldRow("with codes of 8 numbers", {**NERFACTO, "code_size": 8}),
        FieldRow("with exposures", {**NERFACTO, "exposure": True}),
        FieldRow("with refined poses", {**NERFACTO, "refine_poses": True}),
        FieldRow(
            "with refined poses and intrinsics",
            {**NERFACTO, "refine_poses": True, "refine_intrinsics": True},
        ),
    ),
    "poses": (
        FieldRow("exact poses", NGP),
        FieldRow("disturbed poses", NGP, pose_noise=True),
        FieldRow("disturbed poses, refined", {**NGP, **REFINED}, pose_noise=True),
    ),
}


@register_config("nerf.compare")
@dataclass(frozen=True, kw_only=True)
class Config(ExperimentConfig):
    """Flags of this experiment.

    Attributes:
      launch: where to run and on what.
      table: which fields.
      data: "shapes", or a folder or mesh as experiments.nerf.train takes it.
      size: shrink images to so many pixels on their longer side; None keeps them as they are
        (shapes: 100).
      box: half the side of the cube that is modelled; None: the scene's box.
      minutes: of training, each row.
      views: at most so many test views are evaluated, evenly chosen.
      rows: names of the rows to train, in place of all of the table.
      seed: all randomness follows from it.
    """

    launch: LaunchConfig = LaunchConfig(workdir="runs/nerf_compare")
    table: TableName = "fields"
    data: str = "shapes"
    size: int | None = None
    box: float | None = None
    minutes: float = 2.0
    views: int = 8
    rows: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        check_positive("minutes", self.minutes)
        if self.views < 1:
            raise InputError(f"views is {self.views}, expected 1 or more")
        names = [row.name for row in TABLES[self.table]]
        for name in self.rows:
            if name not in names:
                raise InputError(f"rows has {name!r}, expected some of {', '.join(names)}")


def main(config: Config) -> dict[str, Any]:
    """Trains the rows that are missing, and writes the table."""
    scene = load_scene(config.data, size=config.size)
    check_large_enough(scene)
    smaller = [at_scale(config, scene, k) for k in SCALES[1:]] if config.table == "scales" else []
    chosen = [row for row in TABLES[config.table] if not config.rows or row.name in config.rows]
    for row in chosen:
        check_layout(model_of(config, row, scene))
    folder = open_workdir(
        config, may_differ=("rows", "views"), data={scene.name: scene_digest(scene)}
    )
    report(scene.describe())
    found: dict[str, dict[str, float]] = {}
    for row in chosen:
        place = folder / "rows" / row.folder
        made_of = [dataclasses.asdict(row), config.minutes, config.views, config.seed]
        compute = functools.partial(row_figures, config, row, scene, smaller, place)
        found[row.name] = cached_figures(place / "figures.json", compute, made_of=made_of)
        write_table(folder / "table.md", found)
    plot_psnr(folder, {row.name: row.folder for row in chosen})
    report("\n" + (folder / "table.md").read_text())
    return found


def at_scale(config: Config, scene: Scene, factor: int) -> Scene:
    """The scene with its images shrunk by a factor.

    Raises:
      InputError: where its longer side does not divide.
    """
    longer = max(scene.part("train").images.shape[1:3])
    if longer % factor:
        raise InputError(f"{scene.name}: images have {longer} pixels, expected a multiple of 8")
    return load_scene(config.data, size=longer // factor)


def field_flags(config: Config, row: FieldRow) -> FieldFlags:
    """The flags of a row's field."""
    return FieldFlags(**row.field, box=config.box)


def model_of(config: Config, row: FieldRow, scene: Scene) -> RadianceConfig | SplatConfig:
    """What a row trains on a scene."""
    flags = field_flags(config, row)
    if flags.field == "splats":
        return SplatFlags().config(scene, flags)
    return flags.config(scene)


def row_figures(
    config: Config, row: FieldRow, scene: Scene, smaller: Sequence[Scene], folder: pathlib.Path
) -> dict[str, float]:
    """Trains a field, or resumes, and evaluates it."""
    report(f"\n{row.name}")
    if row.undistorted:
        scene = without_distortion(scene)
    flags, model = field_flags(config, row), model_of(config, row, scene)
    training = FieldTrainingFlags(**row.training, minutes=config.minutes)
    given = disturb_poses(scene, *POSE_NOISE, config.seed) if row.pose_noise else scene
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(model, SplatConfig):
        of_splats = flags_of_splats(training)
        trained = train_splats(model, given, folder, of_splats, SplatFlags(), seed=config.seed)
    else:
        training = training.for_field(model)
        parts = [one.part("train") for one in smaller]
        trained = train_field(model, given, folder, training, seed=config.seed, smaller=parts)
    figures: dict[str, float] = {"updates": trained.steps, "seconds": trained.seconds}
    figures["parameters"] = parameter_count(trained.params)
    shown = scene
    if flags.refine_poses or flags.refine_intrinsics:
        shown, errors = follow_refinement(scene, given, trained)
        figures |= errors
    sizes = {"": shown} | {f" at 1/{k}": one for k, one in zip(SCALES[1:], smaller, strict=False)}
    for name, one in sizes.items():
        for figure, value in mean_figures(trained, one.part("test"), config.views).items():
            figures[figure + name] = value
    if smaller:
        figures["PSNR, mean"] = float(np.mean([figures["PSNR" + name] for name in sizes]))
    return figures


def mean_figures(trained: Any, views: Views, most: int) -> dict[str, float]:
    """Figures of test views, averaged over at most so many."""
    chosen = views.take(evenly_chosen(len(views), most))
    rows = [view_figures(view) for view in render_views(trained, chosen, normals=False)]
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def without_distortion(scene: Scene) -> Scene:
    """The scene as if its cameras were pinholes."""
    parts = {
        part: dataclasses.replace(
            views,
            intrinsics=dataclasses.replace(
                views.intrinsics, model="PINHOLE", distortion=np.zeros((len(views), 0))
            ),
        )
        for part, views in scene.parts.items()
    }
    return dataclasses.replace(scene, parts=parts)


def write_table(path: pathlib.Path, found: Mapping[str, Mapping[str, float]]) -> None:
    """The figures of the rows, those columns that any of them has."""
    columns = list(dict.fromkeys(name for figures in found.values() for name in figures))
    whole = ("updates", "parameters")

    def cell(figures: Mapping[str, float], name: str) -> str | None:
        value = figures.get(name)
        return f"{value:,.0f}" if value is not None and name in whole else three_decimals(value)

    rows = [(row, *(cell(figures, name) for name in columns)) for row, figures in found.items()]
    write_text(path, format_table(("field", *columns), rows))


def plot_psnr(folder: pathlib.Path, places: Mapping[str, str]) -> None:
    """PSNR of validation pixels against seconds of training."""
    figure, axes = new_figure("PSNR of validation pixels in the course of training", 10, 5)
    shown = False
    for name, place in places.items():
        records = read_records(folder / "rows" / place / "metrics.jsonl")
        points = [(record["seconds"], record[PSNR]) for record in records if PSNR in record]
        if points:
            shown = True
            axes.plot(*zip(*points, strict=True), label=name, marker="o", markersize=3)
    if shown:
        axes.set(xlabel="seconds of training", ylabel="PSNR, dB")
        figure.legend(frameon=False, loc="outside right center")
        save_figure(figure, folder / "curves.png")


if __name__ == "__main__":
    run(main, Config)
