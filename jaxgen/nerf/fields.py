"""Fields: density and colour of points of space.

    density = sigma(x) >= 0, per unit of length         colour = c(x, direction) in [0, 1]^3

Two networks: that of the original (Mildenhall et al. 2020, section 5 and appendix A), and the small
one over a hash grid (Müller et al. 2022, section 5.4).
"""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxgen.errors import InputError
from jaxgen.nerf.cameras import Box, check_box
from jaxgen.nerf.encodings import encode_position, spherical_harmonics
from jaxgen.nerf.hash_grid import HashGridConfig
from jaxgen.nn.dense import Dense

MAX_LOG_DENSITY = 15.0
"""Where the exponential is clipped."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class FieldOutput:
    """What a field is at points.

    Attributes:
      density: sigma, [...].
      colour: c, [..., 3].
    """

    density: Float[Array, "*B"]
    colour: Float[Array, "*B 3"]


@dataclass(frozen=True)
class NeRFFieldConfig:
    """Options of the original's network; the defaults are the published ones.

    Attributes:
      depth: layers before density.
      width: their units.
      skip: the encoded position joins the output of this layer, counted from 0; -1: of none.
      position_octaves: L of positions.
      direction_octaves: L of directions.
      colour_width: units of the layer after the direction.
      activation: of the density: "relu" as published, or "softplus" of its input minus 1 (Barron
        et al. 2021), with which no run begins, and stays, at density 0.
      box: where there is density, lower and upper corner; None: anywhere.

    Raises:
      InputError: for options that make no network.
    """

    depth: int = 8
    width: int = 256
    skip: int = 4
    position_octaves: int = 10
    direction_octaves: int = 4
    colour_width: int = 128
    activation: Literal["relu", "softplus"] = "softplus"
    box: Box | None = None

    def __post_init__(self) -> None:
        _check_sizes(
            self, "depth", "width", "position_octaves", "direction_octaves", "colour_width"
        )
        if not -1 <= self.skip < self.depth - 1:
            raise InputError(f"skip is {self.skip}, expected -1 to {self.depth - 2}")
        if self.activation not in ("relu", "softplus"):
            raise InputError(f"activation is {self.activation!r}, expected 'relu' or 'softplus'")
        if self.box is not None:
            check_box("box", self.box)

    @property
    def bounds(self) -> Box | None:
        """Where there is density."""
        return self.box

    def make_model(self) -> "NeRFField":
        """The network as a Flax module."""
        return NeRFField(self)


class NeRFField(nn.Module):
    """The original's network.

    Attributes:
      config: the options.
    """

    config: NeRFFieldConfig

    def setup(self) -> None:
        """The layers."""
        config = self.config
        self.layers = [
            # Widths of encoded input divide by no mesh axis.
            _layer(config.width, "embed" if 0 < i != config.skip + 1 else None)
            for i in range(config.depth)
        ]
        self.density_layer = Dense((1,), ("embed", None))
        self.bottleneck = _layer(config.width, "embed")
        self.colour_layer = _layer(config.colour_width, None)
        self.output = Dense((3,), ("embed", None))

    def __call__(self, x: Float[Array, "*B 3"], direction: Float[Array, "*B 3"]) -> FieldOutput:
        """Density and colour of points in world coordinates, seen along unit directions."""
        hidden = self._hidden(x)
        encoded = encode_position(direction, self.config.direction_octaves)
        joined = jnp.concatenate([self.bottleneck(hidden), encoded], axis=-1)
        colour = nn.sigmoid(self.output(nn.relu(self.colour_layer(joined))))
        return FieldOutput(self._density(x, hidden), colour)

    def density(self, x: Float[Array, "*B 3"]) -> Float[Array, "*B"]:
        """Density alone."""
        return self._density(x, self._hidden(x))

    def _hidden(self, x: Array) -> Array:
        encoded = hidden = encode_position(x, self.config.position_octaves)
        for i, layer in enumerate(self.layers):
            hidden = nn.relu(layer(hidden))
            if i == self.config.skip:
                hidden = jnp.concatenate([encoded, hidden], axis=-1)
        return hidden

    def _density(self, x: Array, hidden: Array) -> Array:
        raw = self.density_layer(hidden)[..., 0]
        relu = self.config.activation == "relu"
        return _within(self.config.box, x, nn.relu(raw) if relu else nn.softplus(raw - 1))


@dataclass(frozen=True)
class HashFieldConfig:
    """Options of a field over a hash grid.

    Attributes:
      grid: the hash grid.
      width: units of hidden layers.
      geometry_features: outputs of the density's MLP; the first is the density's logarithm.
      colour_layers: hidden layers of the colour's MLP.
      box: where there is density, lower and upper corner; becomes the grid's unit cube.
      contracted: whether there is density everywhere: the box becomes the middle of the unit cube,
        half as wide, and all space around it the rest (`contract`).

    Raises:
      InputError: for options that make no network.
    """

    grid: HashGridConfig = HashGridConfig()
    width: int = 64
    geometry_features: int = 16
    colour_layers: int = 2
    box: Box = ((-1.5, -1.5, -1.5), (1.5, 1.5, 1.5))
    contracted: bool = False

    def __post_init__(self) -> None:
        _check_sizes(self, "width", "geometry_features", "colour_layers")
        check_box("box", self.box)

    @property
    def bounds(self) -> Box | None:
        """Where there is density; None: everywhere."""
        return None if self.contracted else self.box

    def make_model(self) -> "HashField":
        """The network as a Flax module."""
        return HashField(self)


class HashField(nn.Module):
    """A hash grid and two small MLPs without biases.

    Attributes:
      config: the options.
    """

    config: HashFieldConfig

    def setup(self) -> None:
        """The layers."""
        config = self.config
        self.grid = config.grid.make_model()
        self.density_hidden = _layer(config.width, None, bias=False)
        self.density_output = Dense((config.geometry_features,), ("embed", None), bias=False)
        self.colour_hidden = [
            _layer(config.width, "embed" if i else None, bias=False)
            for i in range(config.colour_layers)
        ]
        self.colour_output = Dense((3,), ("embed", None), bias=False)

    def __call__(self, x: Float[Array, "*B 3"], direction: Float[Array, "*B 3"]) -> FieldOutput:
        """Density and colour of points in world coordinates, seen along unit directions."""
        geometry = self._geometry(x)
        hidden = jnp.concatenate([spherical_harmonics(direction), geometry], axis=-1)
        for layer in self.colour_hidden:
            hidden = nn.relu(layer(hidden))
        return FieldOutput(self._density(x, geometry), nn.sigmoid(self.colour_output(hidden)))

    def density(self, x: Float[Array, "*B 3"]) -> Float[Array, "*B"]:
        """Density alone."""
        return self._density(x, self._geometry(x))

    def _geometry(self, x: Array) -> Array:
        low, high = (jnp.asarray(corner) for corner in self.config.box)
        x = (x - low) / (high - low)
        features = self.grid((contract(2 * x - 1) + 2) / 4 if self.config.contracted else x)
        return self.density_output(nn.relu(self.density_hidden(features)))

    def _density(self, x: Array, geometry: Array) -> Array:
        density = jnp.exp(jnp.minimum(geometry[..., 0], MAX_LOG_DENSITY))
        return _within(self.config.bounds, x, density)


def contract(x: Float[Array, "*B 3"]) -> Float[Array, "*B 3"]:
    """All of space in [-2, 2]^3: ``x`` where |x| <= 1, ``(2 - 1 / |x|) x / |x|`` beyond.

    Barron et al. 2022, equation 10, with the largest coordinate as the norm |x|, which fills a
    cube, as in nerfacto (Tancik et al. 2023).
    """
    size = jnp.abs(x).max(axis=-1, keepdims=True)
    beyond = size > 1
    size = jnp.where(beyond, size, 1)
    return jnp.where(beyond, (2 - 1 / size) / size * x, x)


def _layer(units: int, inputs: str | None, bias: bool = True) -> Dense:
    return Dense((units,), (inputs, "mlp"), bias=bias)


def _within(box: Box | None, x: Array, density: Array) -> Array:
    """The density, 0 outside of the box."""
    if box is None:
        return density
    low, high = (jnp.asarray(corner) for corner in box)
    return jnp.where(((x >= low) & (x <= high)).all(axis=-1), density, 0.0)


def _check_sizes(config: NeRFFieldConfig | HashFieldConfig, *names: str) -> None:
    for name in names:
        if getattr(config, name) < 1:
            raise InputError(f"{name} is {getattr(config, name)}, expected 1 or more")
