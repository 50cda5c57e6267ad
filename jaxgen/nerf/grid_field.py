"""Fields over grids of features, with two small MLPs (Müller et al. 2022, section 5.4)."""

from dataclasses import dataclass

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxgen.errors import check_positive, check_sizes
from jaxgen.nerf.cameras import Box, check_box
from jaxgen.nerf.contraction import contract
from jaxgen.nerf.dense_grids import DenseGridConfig, TriPlaneConfig
from jaxgen.nerf.encodings import spherical_harmonics
from jaxgen.nerf.fields import (
    NO_CONTEXT,
    FieldOutput,
    SampleContext,
    appearance,
    density_within,
    level_weights,
    mlp_layer,
)
from jaxgen.nerf.hash_grid import HashGridConfig
from jaxgen.nn.dense import Dense

MAX_LOG_DENSITY = 15.0
"""Where the exponential is clipped."""

NORMAL_CELLS = 8
"""Cells of the finest level over which normals are differences."""

GridConfig = HashGridConfig | DenseGridConfig | TriPlaneConfig


@dataclass(frozen=True)
class HashFieldConfig:
    """Options of a field over a grid.

    Attributes:
      grid: the hash grid, or another one.
      width: units of hidden layers.
      geometry_features: outputs of the density's MLP; the first is the density's logarithm.
      colour_layers: hidden layers of the colour's MLP.
      box: where there is density, lower and upper corner; becomes the grid's unit cube.
      contracted: whether there is density everywhere: the box becomes the middle of the unit cube,
        half as wide, and all space around it the rest (`contract`).
      view_dependent: whether colour depends on the direction.
      code_size: numbers of an image's code, which joins the direction.
      coarse_to_fine: share of the training in which levels are faded in, one after the other.
      initial_density: what the density begins with, everywhere: the exponential's factor.

    Raises:
      InputError: for options that make no network.
    """

    grid: GridConfig = HashGridConfig()
    width: int = 64
    geometry_features: int = 16
    colour_layers: int = 2
    box: Box = ((-1.5, -1.5, -1.5), (1.5, 1.5, 1.5))
    contracted: bool = False
    view_dependent: bool = True
    code_size: int = 0
    coarse_to_fine: float = 0.0
    initial_density: float = 1.0

    def __post_init__(self) -> None:
        check_sizes(self, "width", "geometry_features", "colour_layers")
        check_sizes(self, "code_size", least=0)
        check_positive("initial_density", self.initial_density)
        check_box("box", self.box)

    @property
    def bounds(self) -> Box | None:
        """Where there is density; None: everywhere."""
        return None if self.contracted else self.box

    @property
    def uses_covariance(self) -> bool:
        """Whether samples are Gaussians."""
        return False

    @property
    def normal_step(self) -> float:
        """Over which distance normals are differences, in units of the world: some fine cells."""
        cells = max(self.grid.finest_resolution, NORMAL_CELLS)
        side = max(high - low for low, high in zip(*self.box, strict=True))
        return side * (2 if self.contracted else 1) * NORMAL_CELLS / cells

    def make_model(self) -> "HashField":
        """The network as a Flax module."""
        return HashField(self)


class HashField(nn.Module):
    """A grid and two small MLPs without biases.

    Attributes:
      config: the options.
    """

    config: HashFieldConfig

    def setup(self) -> None:
        """The layers."""
        config = self.config
        self.grid = config.grid.make_model()
        self.density_hidden = mlp_layer(config.width, None, bias=False)
        self.density_output = Dense((config.geometry_features,), ("embed", None), bias=False)
        self.colour_hidden = [
            mlp_layer(config.width, "embed" if i else None, bias=False)
            for i in range(config.colour_layers)
        ]
        self.colour_output = Dense((3,), ("embed", None), bias=False)

    def __call__(
        self,
        x: Float[Array, "*B 3"],
        direction: Float[Array, "*B 3"],
        context: SampleContext = NO_CONTEXT,
    ) -> FieldOutput:
        """Density and colour of points in world coordinates, seen along unit directions."""
        geometry = self._geometry(x, context)
        inputs = [geometry, *appearance(self.config, context, geometry)]
        if self.config.view_dependent:
            inputs.insert(0, spherical_harmonics(direction))
        hidden = jnp.concatenate(inputs, axis=-1)
        for layer in self.colour_hidden:
            hidden = nn.relu(layer(hidden))
        return FieldOutput(self._density(x, geometry), nn.sigmoid(self.colour_output(hidden)))

    def density(
        self, x: Float[Array, "*B 3"], context: SampleContext = NO_CONTEXT
    ) -> Float[Array, "*B"]:
        """Density alone."""
        return self._density(x, self._geometry(x, context))

    def _geometry(self, x: Array, context: SampleContext) -> Array:
        config = self.config
        low, high = (jnp.asarray(corner) for corner in config.box)
        x = (x - low) / (high - low)
        features = self.grid((contract(2 * x - 1) + 2) / 4 if config.contracted else x)
        levels = config.grid.levels
        if config.coarse_to_fine and levels > 1:
            weight_L = level_weights(context.progress, levels, config.coarse_to_fine)
            features = features * jnp.repeat(weight_L, config.grid.width // levels)
        return self.density_output(nn.relu(self.density_hidden(features)))

    def _density(self, x: Array, geometry: Array) -> Array:
        density = jnp.exp(jnp.minimum(geometry[..., 0], MAX_LOG_DENSITY))
        density = self.config.initial_density * density
        return density_within(self.config.bounds, x, density)
