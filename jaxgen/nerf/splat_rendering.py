"""A scene of Gaussians as a configuration: how many, of which colours, how images are composited.

With it and parameters a scene is rendered as a radiance field is::

    render = jax.jit(config.make_render())
    rendering = render(params, cameras)

Gaussians are projected (`jaxgen.nerf.splat_projection`), listed tile by tile in depth order
(`splat_tiles`) and composited (`splat_compositing`). There is a fixed number of them, so that all
shapes are static; what is not needed elsewhere is moved (`splat_relocation`).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from jaxgen.errors import InputError, check_positive, check_share, check_sizes
from jaxgen.nerf.cameras import Box, Cameras, check_box
from jaxgen.nerf.rendering import Rendering
from jaxgen.nerf.splat_compositing import TileGroups, composite_tiles, splat_table
from jaxgen.nerf.splat_projection import (
    HARMONICS,
    LOG_SCALES,
    MEANS,
    OPACITY_LOGITS,
    QUATERNIONS,
    project_splats,
)
from jaxgen.nerf.splat_tiles import TileGrid, make_tile_lists, tile_grid
from jaxgen.nerf.volume_rendering import EPSILON
from jaxgen.typing import Tree

FIRST_HARMONIC = 0.28209479177387814
"""Y_0, so that a colour c has the coefficient (c - 1/2) / Y_0."""


class SplatStatistics(NamedTuple):
    """Of N images.

    Attributes:
      pairs: [N], of a Gaussian and a tile that it reaches.
      overflow: [N], pairs of the farthest Gaussians that had no place: 0, or the image lacks
        something.
      longest: [N], Gaussians of the tile that has most.
    """

    pairs: Int[Array, "N"]
    overflow: Int[Array, "N"]
    longest: Int[Array, "N"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SplatRendering(Rendering):
    """Images of Gaussians: weights are None, since every pixel has its own number of them.

    Attributes:
      statistics: what the images took; see ``statistics.overflow``.
    """

    statistics: SplatStatistics = field(kw_only=True)


@dataclass(frozen=True)
class SplatConfig:
    """A fixed number of 3-D Gaussians that can be rendered by cameras of any model.

    Attributes:
      gaussians: G.
      degree: of the spherical harmonics of the colour, 0 to 3.
      box: where Gaussians begin, in world coordinates; they may leave it.
      initial_opacity: of every Gaussian.
      initial_scale: deviation of every Gaussian, in units of the mean distance between them.
      background: the colour behind the scene, in [0, 1].
      near: Gaussians with a smaller depth are not seen (see `ProjectedSplats`).
      tile: side of a tile in pixels.
      group: tiles that are composited at a time: more keep more units of a GPU busy.
      pairs: capacity of an image's lists, pairs of a Gaussian and a tile, per Gaussian.

    Raises:
      InputError: for numbers that make no scene.
    """

    gaussians: int = 10_000
    degree: int = 3
    box: Box = ((-1.0, -1.0, -1.0), (1.0, 1.0, 1.0))
    initial_opacity: float = 0.1
    initial_scale: float = 0.3
    background: tuple[float, float, float] = (1.0, 1.0, 1.0)
    near: float = 0.01
    tile: int = 8
    group: int = 64
    pairs: int = 16

    def __post_init__(self) -> None:
        check_sizes(self, "gaussians", "tile", "group", "pairs")
        if not 0 <= self.degree <= 3:
            raise InputError(f"degree is {self.degree}, expected 0, 1, 2 or 3")
        if not 0 < self.initial_opacity < 1:
            raise InputError(
                f"initial_opacity is {self.initial_opacity}, expected a number between 0 and 1"
            )
        check_positive("initial_scale", self.initial_scale)
        check_positive("near", self.near)
        check_box("box", self.box)
        if len(self.background) != 3:
            raise InputError(f"background is {self.background}, expected 3 numbers in [0, 1]")
        for part in self.background:
            check_share("background", part)

    @property
    def spacing(self) -> float:
        """Mean distance between G points that are spread over the box."""
        low, high = np.asarray(self.box)
        return float(np.prod(high - low) / self.gaussians) ** (1 / 3)

    def make_init(self) -> Callable[[Array], Tree]:
        """``key -> parameters``: random points of the box, of random colours.

        ``means`` [G, 3], ``log_scales`` [G, 3], ``quaternions`` [G, 4] (w, x, y, z),
        ``opacity_logits`` [G], ``harmonics`` [G, (degree + 1)^2, 3]; all replicated.
        """

        def init(key: Array) -> Tree:
            place_key, colour_key = jax.random.split(key)
            low, high = (jnp.asarray(corner) for corner in self.box)
            shape = self.gaussians, 3
            return self.params_of_points(
                jax.random.uniform(place_key, shape, minval=low, maxval=high),
                jax.random.uniform(colour_key, shape),
            )

        return init

    def params_of_points(
        self,
        points: Float[Array, "G 3"],
        colour: Float[Array, "G 3"],
        spacing: Float[Array, "G"] | None = None,
    ) -> Tree:
        """Parameters of round Gaussians at given points, of one colour each.

        Args:
          points: in world coordinates.
          colour: in [0, 1].
          spacing: distance to neighbours; None: that of points spread over the box.

        Raises:
          InputError: for another number of points.
        """
        if points.shape != (self.gaussians, 3):
            raise InputError(f"points have {list(points.shape)}, expected [{self.gaussians}, 3]")
        each = jnp.float32(self.spacing) if spacing is None else spacing
        each = jnp.broadcast_to(each, (self.gaussians,))
        log_scale = jnp.log(self.initial_scale * jnp.maximum(each, 1e-7))
        logit = np.log(self.initial_opacity / (1 - self.initial_opacity))
        harmonics = jnp.zeros((self.gaussians, (self.degree + 1) ** 2, 3))
        return {
            MEANS: jnp.asarray(points, jnp.float32),
            LOG_SCALES: jnp.tile(log_scale[:, None], (1, 3)),
            QUATERNIONS: jnp.tile(jnp.asarray([1, 0, 0, 0], jnp.float32), (self.gaussians, 1)),
            OPACITY_LOGITS: jnp.full(self.gaussians, logit, jnp.float32),
            HARMONICS: harmonics.at[:, 0].set((colour - 0.5) / FIRST_HARMONIC),
        }

    def make_render(self, *, normals: bool = False) -> Callable[..., SplatRendering]:
        """A renderer ``(params, cameras, *, key=None, background=None) -> SplatRendering``.

        Pure and differentiable in parameters and cameras; one program for all cameras of one number
        and size of image. Depth is the expected distance along the ray, with that of a Gaussian the
        distance of its mean; the normal of a Gaussian is its shortest axis. Nothing is random: the
        key is not used. Tiles are sharded over the mesh axes of the batch, where a mesh is set.

        Args:
          normals: whether normals are rendered.
        """

        def render(
            params: Tree,
            cameras: Cameras,
            *,
            key: Key[Array, ""] | None = None,
            background: Float[Array, "3"] | None = None,
        ) -> SplatRendering:
            behind = jnp.asarray(self.background if background is None else background, float)
            return jax.lax.map(lambda one: self._image(params, one, behind, normals), cameras)

        return render

    def _image(
        self, params: Tree, camera: Cameras, background: Array, normals: bool
    ) -> SplatRendering:
        """What one camera sees."""
        grid = tile_grid(camera.height, camera.width, self.tile)
        splats = project_splats(params, camera, self.near)
        features = [
            splats.colour,
            splats.distance[:, None],
            jnp.ones_like(splats.distance)[:, None],
        ]
        if normals:
            features.append(splats.normal)
        table = splat_table(splats, jnp.concatenate(features, axis=-1))
        lists = make_tile_lists(splats, grid, self.pairs * len(table))
        groups = TileGroups(grid, min(self.group, grid.total))
        tiles = composite_tiles(groups, table, lists)
        image = _joined(tiles, grid)[: camera.height, : camera.width]
        opacity = image[..., 4]
        return SplatRendering(
            colour=image[..., :3] + (1 - opacity)[..., None] * background,
            opacity=opacity,
            depth=image[..., 3] / jnp.maximum(opacity, EPSILON),
            weights=None,
            normals=image[..., 5:] if normals else None,
            statistics=SplatStatistics(lists.count.sum(), lists.overflow, lists.count.max()),
        )


def _joined(tiles: Float[Array, "T C P"], grid: TileGrid) -> Float[Array, "Y X C"]:
    """An image of its tiles, with what leaves it below and at the right."""
    parts = tiles.reshape(grid.rows, grid.columns, -1, grid.side, grid.side)
    return parts.transpose(0, 3, 1, 4, 2).reshape(
        grid.rows * grid.side, grid.columns * grid.side, -1
    )
