"""Fields that are one network of a point's encoding.

The original (Mildenhall et al. 2020, section 5 and appendix A), with waves of a point. With the
integrated encoding, that of mip-NeRF (Barron et al. 2021), of a sample's Gaussian; with that, the
contraction of space and waves along the directions of an icosahedron, that of mip-NeRF 360 (Barron
et al. 2022).
"""

from dataclasses import dataclass
from typing import Literal, get_args

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxgen.errors import InputError, check_sizes
from jaxgen.nerf.cameras import Box, check_box
from jaxgen.nerf.contraction import contract, contract_gaussian
from jaxgen.nerf.encodings import Basis, encode_position, integrated_encoding
from jaxgen.nerf.fields import (
    NO_CONTEXT,
    FieldOutput,
    SampleContext,
    appearance,
    density_within,
    level_weights,
    mlp_layer,
)
from jaxgen.nn.dense import Dense

Activation = Literal["relu", "softplus"]


@dataclass(frozen=True)
class NeRFFieldConfig:
    """Options of the network; the defaults are those of the original.

    Attributes:
      depth: layers before density.
      width: their units.
      skip: the encoded position joins the output of this layer, counted from 0; -1: of none.
      position_octaves: L of positions; 0 for the position alone, without waves.
      direction_octaves: L of directions; 0 for the direction alone.
      colour_width: units of the layer after the direction.
      activation: of the density: "relu" as published, or "softplus" of its input minus 1 (Barron
        et al. 2021), with which no run begins, and stays, at density 0.
      bottleneck_relu: whether what joins the direction has a ReLU before.
      box: where there is density, lower and upper corner; None: anywhere.
      integrated: whether the encoding is that of a sample's Gaussian (`integrated_encoding`).
      basis: directions of its waves.
      contracted: whether there is density everywhere: the largest ball in the box stays as it is,
        and all space around it is contracted.
      view_dependent: whether colour depends on the direction.
      code_size: numbers of an image's code, which joins the direction.
      coarse_to_fine: share of the training in which octaves are faded in, one after the other.

    Raises:
      InputError: for options that make no network.
    """

    depth: int = 8
    width: int = 256
    skip: int = 4
    position_octaves: int = 10
    direction_octaves: int = 4
    colour_width: int = 128
    activation: Activation = "softplus"
    bottleneck_relu: bool = False
    box: Box | None = None
    integrated: bool = False
    basis: Basis = "axes"
    contracted: bool = False
    view_dependent: bool = True
    code_size: int = 0
    coarse_to_fine: float = 0.0

    def __post_init__(self) -> None:
        check_sizes(self, "depth", "width", "colour_width")
        check_sizes(self, "position_octaves", "direction_octaves", "code_size", least=0)
        if not -1 <= self.skip < self.depth - 1:
            raise InputError(f"skip is {self.skip}, expected -1 to {self.depth - 2}")
        for name, kind in (("activation", Activation), ("basis", Basis)):
            if getattr(self, name) not in get_args(kind):
                expected = " or ".join(map(repr, get_args(kind)))
                raise InputError(f"{name} is {getattr(self, name)!r}, expected {expected}")
        if self.integrated and not self.position_octaves:
            raise InputError("position_octaves is 0 with integrated, expected 1 or more")
        if self.contracted and self.box is None:
            raise InputError("box is None with contracted, expected what is not contracted")
        if self.box is not None:
            check_box("box", self.box)

    @property
    def bounds(self) -> Box | None:
        """Where there is density; None: everywhere."""
        return None if self.contracted else self.box

    @property
    def uses_covariance(self) -> bool:
        """Whether samples are Gaussians."""
        return self.integrated

    def make_model(self) -> "NeRFField":
        """The network as a Flax module."""
        return NeRFField(self)


class NeRFField(nn.Module):
    """The network.

    Attributes:
      config: the options.
    """

    config: NeRFFieldConfig

    def setup(self) -> None:
        """The layers."""
        config = self.config
        self.layers = [
            # Widths of encoded input divide by no mesh axis.
            mlp_layer(config.width, "embed" if 0 < i != config.skip + 1 else None)
            for i in range(config.depth)
        ]
        self.density_layer = Dense((1,), ("embed", None))
        self.bottleneck = mlp_layer(config.width, "embed")
        self.colour_layer = mlp_layer(config.colour_width, None)
        self.output = Dense((3,), ("embed", None))

    def __call__(
        self,
        x: Float[Array, "*B 3"],
        direction: Float[Array, "*B 3"],
        context: SampleContext = NO_CONTEXT,
    ) -> FieldOutput:
        """Density and colour of points in world coordinates, seen along unit directions."""
        hidden = self._hidden(x, context)
        features = self.bottleneck(hidden)
        features = nn.relu(features) if self.config.bottleneck_relu else features
        inputs = [features, *appearance(self.config, context, hidden)]
        if self.config.view_dependent:
            inputs.insert(1, encode_position(direction, self.config.direction_octaves))
        joined = jnp.concatenate(inputs, axis=-1)
        colour = nn.sigmoid(self.output(nn.relu(self.colour_layer(joined))))
        return FieldOutput(self._density(x, hidden), colour)

    def density(
        self, x: Float[Array, "*B 3"], context: SampleContext = NO_CONTEXT
    ) -> Float[Array, "*B"]:
        """Density alone."""
        return self._density(x, self._hidden(x, context))

    def _hidden(self, x: Array, context: SampleContext) -> Array:
        encoded = hidden = self._encoded(x, context)
        for i, layer in enumerate(self.layers):
            hidden = nn.relu(layer(hidden))
            if i == self.config.skip:
                hidden = jnp.concatenate([encoded, hidden], axis=-1)
        return hidden

    def _encoded(self, x: Array, context: SampleContext) -> Array:
        config, covariance = self.config, context.covariance
        if config.contracted:
            assert config.box is not None
            low, high = (jnp.asarray(corner) for corner in config.box)
            scale = 2 / (high - low).min()
            x = (x - (low + high) / 2) * scale
            if covariance is None:
                x = contract(x, "euclidean")
            else:
                x, covariance = contract_gaussian(x, covariance * scale**2)
        octaves = config.position_octaves
        if config.integrated:
            covariance = jnp.zeros((*x.shape, 3)) if covariance is None else covariance
            waves = integrated_encoding(x, covariance, octaves, config.basis)
        else:
            waves = encode_position(x, octaves, include_input=False)
        if config.coarse_to_fine and octaves:
            weight_L = level_weights(context.progress, octaves, config.coarse_to_fine)
            waves = waves * jnp.repeat(weight_L, waves.shape[-1] // octaves)
        return waves if config.integrated else jnp.concatenate([x, waves], axis=-1)

    def _density(self, x: Array, hidden: Array) -> Array:
        raw = self.density_layer(hidden)[..., 0]
        relu = self.config.activation == "relu"
        return density_within(self.config.bounds, x, nn.relu(raw) if relu else nn.softplus(raw - 1))
