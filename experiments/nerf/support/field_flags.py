"""The radiance field that flags ask for."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from experiments.nerf.support.flight_paths import FORWARD, usual_path
from jaxgen.data import Scene
from jaxgen.errors import InputError, check_not_negative
from jaxgen.nerf import (
    Box,
    DenseGridConfig,
    DistanceFieldConfig,
    HashFieldConfig,
    HashGridConfig,
    NdcConfig,
    NeRFFieldConfig,
    OccupancyConfig,
    ProposalConfig,
    RadianceConfig,
    SurroundingsConfig,
    TriPlaneConfig,
    ViewConfig,
    average_pose,
)
from jaxgen.training.saved_names import register_config

FieldName = Literal["ngp", "nerfacto", "nerf", "mipnerf", "mipnerf360", "neus", "splats"]

GRID = ("encoding", "levels", "features", "log2_table_size", "finest_resolution")
NETWORK = ("width", "depth", "octaves")
START = 1.1
"""Density that a field with occupancy begins with, in units of an occupied cell's least: so all
cells are occupied until rays have seen that they are empty."""

OWN: Mapping[str, tuple[str, ...]] = {
    "ngp": (*GRID, "fine_samples", "coarse_samples", "occupancy", "candidates", "samples"),
    "nerfacto": (*GRID, "fine_samples", "proposal_samples"),
    "nerf": (*NETWORK, "coarse_samples", "fine_samples", "ndc"),
    "mipnerf": (*NETWORK, "coarse_samples", "fine_samples"),
    "mipnerf360": (*NETWORK, "fine_samples", "proposal_samples"),
    "neus": (*GRID, *NETWORK, "coarse_samples", "fine_samples"),
    "splats": (),
}
"""Flags that have a meaning for a field, of those that have none for some."""


@register_config("nerf.field")
@dataclass(frozen=True, kw_only=True)
class FieldFlags:
    """The field, and how rays are sampled.

    Attributes:
      field: "ngp", a hash grid with small MLPs in a box (Müller et al. 2022); "nerfacto", a hash
        grid over all of space, contracted, with proposals (Tancik et al. 2023); "nerf", the
        original network (Mildenhall et al. 2020), coarse and fine; "mipnerf", one network of the
        cones of pixels (Barron et al. 2021); "mipnerf360", the same over all of space, contracted,
        with proposals (Barron et al. 2022); "neus", a signed distance over a hash grid (Wang et al.
        2021; Li et al. 2023); "splats", Gaussians that are rasterised (Kerbl et al. 2023). None:
        "ngp", and "nerfacto" of captures, whose surroundings have no end.
      coarse_samples: samples per ray at even intervals; None: 64 of "ngp" with --no-occupancy, 48
        of "neus", 32 of networks.
      fine_samples: samples per ray placed by the weights of the even ones, or of the last proposal
        (importance sampling); None: 20 of "ngp" with --no-occupancy, 24 of fields with proposals,
        32 of others. 0: none.
      proposal_samples: samples per ray of each proposal network, for "nerfacto" and "mipnerf360".
      occupancy: for "ngp": sample only occupied cells of a grid that is updated in the course of
        training, in place of coarse and fine samples (Müller et al. 2022).
      candidates: for "ngp" with occupancy: at how many samples density is evaluated in an update,
        for all its rays together; rays whose samples do not fit do not count.
      samples: the same for density and colour, at those samples whose weight is not negligible.
      box: half the side of the cube around the origin that is modelled; of fields that are
        contracted the middle part, which is not. None: the scene's box.
      near: distance from the cameras at which rays begin, in the scene's units; None: the scene's
        (Blender scenes 2; LLFF that of its file; other captures 0.05, where the farthest camera is
        at distance 1).
      far: where they end; None: the scene's (Blender scenes 6; LLFF that of its file; other
        captures 100).
      encoding: of positions, for fields with a grid: "hash", a hash grid; "dense", one grid of the
        finest resolution; "planes", three planes of it (a tri-plane). Of "neus" only, "waves": a
        network of the positional encoding, as published, in place of the grid.
      levels: resolutions of the hash grid.
      features: width of the feature vectors of the grid.
      log2_table_size: base-2 logarithm of the rows of each level's hash table.
      finest_resolution: places along an axis of the finest level, or of a dense grid or plane.
      width: units of a layer, for "nerf", "mipnerf", "mipnerf360" and "neus"; the default is half
        of the published width, for two cores.
      depth: layers, for the same fields.
      octaves: frequencies of their positional encoding; 0: none. None: 10 of "nerf", 16 of
        "mipnerf", 12 of "mipnerf360", 6 of "neus".
      view_dependent: whether colour depends on the viewing direction.
      code_size: width of the appearance embedding of each photograph; 0: none.
      exposure: whether a scale of the colours is learned for each photograph.
      refine_poses: whether camera poses are learned along with the field.
      refine_intrinsics: whether focal lengths and principal points are.
      coarse_to_fine: share of the training in which levels, or octaves, are faded in; None: 0.5 of
        "neus" with a grid, 0 of others.
      surroundings: whether the background's colour is learned, as a network of the direction; for
        what is farther away than the field reaches.
      ndc: for "nerf": all there is from the near plane to infinity, in normalised device
        coordinates, in place of a box; for views that face forward (Mildenhall et al. 2020,
        appendix C).
    """

    field: FieldName | None = None
    coarse_samples: int | None = None
    fine_samples: int | None = None
    proposal_samples: tuple[int, ...] = (64, 32)
    occupancy: bool = True
    candidates: int = 2**16
    samples: int = 2**15
    box: float | None = None
    near: float | None = None
    far: float | None = None
    encoding: Literal["hash", "dense", "planes", "waves"] = "hash"
    levels: int = 8
    features: int = 4
    log2_table_size: int = 17
    finest_resolution: int = 512
    width: int = 128
    depth: int = 8
    octaves: int | None = None
    view_dependent: bool = True
    code_size: int = 0
    exposure: bool = False
    refine_poses: bool = False
    refine_intrinsics: bool = False
    coarse_to_fine: float | None = None
    surroundings: bool = False
    ndc: bool = False

    def __post_init__(self) -> None:
        if self.box is not None and self.box <= 0:
            raise InputError(f"box is {self.box}, expected a number > 0")
        check_not_negative("coarse_to_fine", self.coarse_to_fine or 0)
        if self.field is not None:
            self._check_flags(self.field)

    def _check_flags(self, field: str) -> None:
        own, default = OWN[field], type(self).__dataclass_fields__
        for name in dict.fromkeys(name for names in OWN.values() for name in names):
            if name not in own and getattr(self, name) != default[name].default:
                raise InputError(
                    f"{name} is {getattr(self, name)} with field {field!r}, which has none, "
                    "expected another field"
                )
        encodings = ("hash", "waves") if field == "neus" else ("hash", "dense", "planes")
        if self.encoding not in encodings:
            raise InputError(
                f"encoding is {self.encoding!r} with field {field!r}, expected one of "
                f"{', '.join(map(repr, encodings))}"
            )
        for name in ("coarse_samples", "fine_samples"):
            if field == "ngp" and self.occupancy and getattr(self, name) is not None:
                raise InputError(
                    f"{name} is {getattr(self, name)} with occupancy, expected no-occupancy"
                )

    def config(self, scene: Scene) -> RadianceConfig:
        """The radiance field of a scene.

        Raises:
          InputError: for sizes that make no field, or flags of another one.
        """
        self._check_flags(field := self.chosen(scene))
        box = scene.box
        if self.box is not None:
            box = (-self.box,) * 3, (self.box,) * 3
        common: dict[str, Any] = {
            "near": scene.near if self.near is None else self.near,
            "far": scene.far if self.far is None else self.far,
            "views": self._views(len(scene.part("train"))),
            "surroundings": SurroundingsConfig() if self.surroundings else None,
        }
        match field:
            case "nerf":
                samples = self._samples(32, 32)
                network = self._network(box, 10)
                hierarchy = samples["fine_samples"] > 0
                if self.ndc:
                    network = dataclasses.replace(network, box=None)
                    common["ndc"] = _cube(scene, common["near"])
                return RadianceConfig(network, **common, **samples, two_networks=hierarchy)
            case "mipnerf":
                samples = self._samples(32, 32)
                network = dataclasses.replace(self._network(box, 16), integrated=True)
                return RadianceConfig(
                    network, **common, **samples, coarse_colour=True, padding=0.01
                )
            case "mipnerf360":
                open_space = not scene.bounded
                network = dataclasses.replace(
                    self._network(box, 12),
                    integrated=True,
                    basis="icosahedron",
                    contracted=open_space,
                )
                small = dataclasses.replace(
                    network, depth=4, width=max(self.width // 4, 8), skip=-1
                )
                return RadianceConfig(
                    network,
                    **common,
                    **self._samples(1, 24),
                    padding=0.01,
                    spacing="inverse" if open_space else "linear",
                    proposals=tuple(ProposalConfig(small, n) for n in self.proposal_samples),
                )
            case "nerfacto":
                return RadianceConfig(
                    dataclasses.replace(self._gridded(box), contracted=True),
                    **common,
                    **self._samples(1, 24),
                    spacing="piecewise",
                    proposals=tuple(
                        ProposalConfig(_proposal(box, i), count)
                        for i, count in enumerate(self.proposal_samples)
                    ),
                )
            case "neus":
                return RadianceConfig(self._signed(box), **common, **self._samples(48, 24))
            case _:
                gridded, occupancy = self._gridded(box), None
                if self.occupancy:
                    occupancy = OccupancyConfig(candidates=self.candidates, samples=self.samples)
                    begin = START / occupancy.step_length(box) * occupancy.threshold
                    gridded = dataclasses.replace(gridded, initial_density=begin)
                samples = self._samples(64, 20)
                return RadianceConfig(gridded, **common, **samples, occupancy=occupancy)

    def chosen(self, scene: Scene) -> str:
        """The field of a scene."""
        return self.field or ("ngp" if scene.bounded else "nerfacto")

    def _samples(self, coarse: int, fine: int) -> dict[str, int]:
        own = {"coarse_samples": self.coarse_samples, "fine_samples": self.fine_samples}
        usual = {"coarse_samples": coarse, "fine_samples": fine}
        return {k: usual[k] if value is None else value for k, value in own.items()}

    def _views(self, count: int) -> ViewConfig | None:
        views = ViewConfig(
            count, self.code_size, self.exposure, self.refine_poses, self.refine_intrinsics
        )
        return views if views.learns else None

    def _network(self, box: Box, octaves: int) -> NeRFFieldConfig:
        return NeRFFieldConfig(
            depth=self.depth,
            width=self.width,
            skip=min(self.depth // 2, self.depth - 2),
            colour_width=max(self.width // 2, 1),
            position_octaves=octaves if self.octaves is None else self.octaves,
            box=box,
            view_dependent=self.view_dependent,
            code_size=self.code_size,
            coarse_to_fine=self.coarse_to_fine or 0.0,
        )

    def _gridded(self, box: Box) -> HashFieldConfig:
        grid: HashGridConfig | DenseGridConfig | TriPlaneConfig
        match self.encoding:
            case "dense":
                grid = DenseGridConfig(self.finest_resolution, self.features)
            case "planes":
                grid = TriPlaneConfig(self.finest_resolution, self.features)
            case _:
                grid = self._hash_grid()
        return HashFieldConfig(
            grid,
            box=box,
            view_dependent=self.view_dependent,
            code_size=self.code_size,
            coarse_to_fine=self.coarse_to_fine or 0.0,
        )

    def _signed(self, box: Box) -> DistanceFieldConfig:
        common: dict[str, Any] = {
            "box": box,
            "view_dependent": self.view_dependent,
            "code_size": self.code_size,
        }
        faded = self.coarse_to_fine
        if self.encoding == "waves":
            return DistanceFieldConfig(
                depth=self.depth,
                width=self.width,
                skip=min(self.depth // 2 - 1, self.depth - 2),
                octaves=6 if self.octaves is None else self.octaves,
                geometry_features=self.width,
                coarse_to_fine=faded or 0.0,
                **common,
            )
        return DistanceFieldConfig(
            self._hash_grid(),
            depth=1,
            width=64,
            skip=-1,
            geometry_features=15,
            colour_layers=2,
            coarse_to_fine=0.5 if faded is None else faded,
            sharpness_rate=1.0,
            **common,
        )

    def _hash_grid(self) -> HashGridConfig:
        return HashGridConfig(
            levels=self.levels,
            features=self.features,
            log2_table_size=self.log2_table_size,
            finest_resolution=self.finest_resolution,
        )


def _cube(scene: Scene, near: float) -> NdcConfig:
    """The cube of the mean camera that trains, which is in front of all others.

    Raises:
      InputError: where there is no such camera.
    """
    if usual_path(scene) != "spiral":
        raise InputError(
            f"{scene.name}: ndc is set, expected views within {FORWARD:.0f} degrees of their mean"
        )
    views = scene.part("train")
    height, width = views.images.shape[1:3]
    pose, focal = average_pose(views.camera_to_world), views.intrinsics.focal.mean(axis=0)
    rows = tuple(tuple(row) for row in pose.tolist())
    return NdcConfig(rows, (float(focal[0]), float(focal[1])), width, height, near)


def _proposal(box: Box, i: int) -> HashFieldConfig:
    """The density of proposal i: as nerfacto's, the first one coarser, with smaller tables."""
    grid = HashGridConfig(5, 2, log2_table_size=15, finest_resolution=128 * 2 ** min(i, 1))
    return HashFieldConfig(grid, width=16, geometry_features=1, box=box, contracted=True)
