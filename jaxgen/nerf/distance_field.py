"""Fields that are a signed distance, with the opacity of NeuS (Wang et al. 2021).

The distance f, negative inside, is an MLP of a point's waves, or of its place and its features in a
hash grid. It starts as the distance to a sphere (Atzmon and Lipman 2020, "SAL", theorem 1). With s
a learned sharpness, S the logistic function and g the gradient of f::

    f_0, f_1 = f - c a, f + c b     at the ends of an interval of length a + b; c = direction . g
    alpha    = (S(s f_0) - S(s f_1)) / S(s f_0)     the share of light that it absorbs
    density  = -log(1 - alpha) / (a + b)

(`jaxgen.nerf.distance_opacity`). So rendered weights are largest where f is 0. g is exact for the
MLP. A grid's trilinear features have a gradient that jumps from cell to cell, so g is a difference
there, over a step that is a cell of the finest level in use (Li et al. 2023, "Neuralangelo",
section 3.1). Weights of the grid's features start at 0 in f but not in the colour, which therefore
has a texture before the surface could imitate it.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from jaxgen.errors import InputError, check_not_negative, check_positive, check_sizes
from jaxgen.nerf.cameras import Box, check_box
from jaxgen.nerf.distance_opacity import SHORTEST, anneal_slope, interval_density
from jaxgen.nerf.encodings import encode_position, spherical_harmonics
from jaxgen.nerf.fields import (
    NO_CONTEXT,
    FieldOutput,
    SampleContext,
    appearance,
    density_within,
    level_weights,
    levels_in_use,
    mlp_layer,
    unit,
)
from jaxgen.nerf.geometric_start import even_directions, mean_length, rotation
from jaxgen.nerf.hash_grid import HashGridConfig
from jaxgen.nn.dense import Dense

BETA = 100.0
"""Of the softplus; with it layers are all but those of ReLU, and have second derivatives."""
LOG_SHARPNESS = 3.0
"""At the start."""
LEAST, MOST = 1e-6, 1e6
"""Sharpness is clipped to these."""
PLACING = 4.0
"""The largest sharpness times an interval's length with which intervals are placed."""


@dataclass(frozen=True)
class DistanceFieldConfig:
    """Options of a signed distance; the defaults are those of NeuS.

    Attributes:
      grid: a hash grid over the cube around the box, in place of the waves; None: an MLP of waves.
      depth: layers of the distance's MLP before its output: 8 of waves, 1 of a grid.
      width: their units.
      skip: what enters the MLP joins the output of this layer, counted from 0; -1: of none.
      octaves: of waves of the place, of which 2 is the side of the cube.
      geometry_features: outputs of the MLP that join the input of the colour's.
      colour_layers: hidden layers of the colour's MLP.
      radius: of the sphere that the surface starts as, as a share of half the cube's side.
      box: where there is density, lower and upper corner.
      view_dependent: whether colour depends on the direction.
      code_size: numbers of an image's code, which joins the input of colour.
      coarse_to_fine: share of the training in which levels, or octaves, are faded in.
      first_levels: how many of them are in use from the beginning.
      anneal: share of the training in which opacity comes to depend on the angle at which a ray
        meets the surface.
      taps: points of a difference, with a grid: 6, two along each axis; or 4, the corners of a
        tetrahedron.
      sharpness_rate: s is ``exp(rate v)``, with v a parameter: how fast it learns, beside the
        others. 10 as published, for a learning rate of 5e-4.

    Raises:
      InputError: for options that make no network.
    """

    grid: HashGridConfig | None = None
    depth: int = 8
    width: int = 256
    skip: int = 3
    octaves: int = 6
    geometry_features: int = 256
    colour_layers: int = 4
    radius: float = 0.5
    box: Box = ((-1.0, -1.0, -1.0), (1.0, 1.0, 1.0))
    view_dependent: bool = True
    code_size: int = 0
    coarse_to_fine: float = 0.0
    first_levels: int = 4
    anneal: float = 0.15
    taps: Literal[4, 6] = 4
    sharpness_rate: float = 10.0

    def __post_init__(self) -> None:
        sizes = ("depth", "width", "geometry_features", "colour_layers", "first_levels")
        check_sizes(self, *sizes)
        check_sizes(self, "octaves", "code_size", least=0)
        for name in ("radius", "sharpness_rate"):
            check_positive(name, getattr(self, name))
        for name in ("coarse_to_fine", "anneal"):
            check_not_negative(name, getattr(self, name))
        if not -1 <= self.skip < self.depth - 1:
            raise InputError(f"skip is {self.skip}, expected -1 to {self.depth - 2}")
        if self.taps not in (4, 6):
            raise InputError(f"taps is {self.taps}, expected 4 or 6")
        check_box("box", self.box)

    @property
    def bounds(self) -> Box:
        """Where there is density."""
        return self.box

    @property
    def uses_covariance(self) -> bool:
        """Whether samples are Gaussians."""
        return False

    @property
    def cube(self) -> tuple[np.ndarray, float]:
        """The middle of the cube around the box, and half its side."""
        low, high = np.array(self.box, np.float32)
        return (low + high) / 2, float((high - low).max() / 2)

    def make_model(self) -> "DistanceField":
        """The network as a Flax module."""
        return DistanceField(self)


class DistanceField(nn.Module):
    """The network.

    Attributes:
      config: the options.
    """

    config: DistanceFieldConfig

    def setup(self) -> None:
        """The layers."""
        config = self.config
        if config.grid is not None:
            self.grid = config.grid.make_model()
        width, skip = config.width, config.skip
        joined = [width if 0 < i == skip + 1 else 0 for i in range(config.depth)]
        self.layers = [
            Dense(
                (config.width,),
                ("embed" if 0 < i != config.skip + 1 else None, "mlp"),
                kernel_init=even_directions if i == 0 else functools.partial(rotation, joined[i]),
            )
            for i in range(config.depth)
        ]
        self.distance_output = Dense(
            (1,),
            ("embed", None),
            kernel_init=functools.partial(mean_length, config.depth),
            bias=False,
        )
        start = nn.with_logical_partitioning(nn.initializers.constant(-config.radius), (None,))
        self.distance_bias = self.param("distance_bias", start, (1,))
        self.feature_output = Dense((config.geometry_features,), ("embed", None))
        self.colour_hidden = [
            mlp_layer(config.width, "embed" if i else None) for i in range(config.colour_layers)
        ]
        self.colour_output = Dense((3,), ("embed", None))
        rate = config.sharpness_rate
        level = nn.with_logical_partitioning(nn.initializers.constant(LOG_SHARPNESS / rate), ())
        self.variance = self.param("variance", level, ())

    def __call__(
        self,
        x: Float[Array, "*B 3"],
        direction: Float[Array, "*B 3"],
        context: SampleContext = NO_CONTEXT,
    ) -> FieldOutput:
        """Density, colour and the distance's gradient, of points seen along unit directions."""
        config = self.config
        distance, (entering, hidden), gradient = self._with_gradient(x, context)
        seen = entering[..., :3] if config.grid is None else entering
        inputs = [seen, unit(gradient), self.feature_output(hidden)]
        inputs += appearance(config, context, hidden)
        if config.view_dependent:
            inputs.append(spherical_harmonics(direction))
        joined = jnp.concatenate(inputs, axis=-1)
        for layer in self.colour_hidden:
            joined = nn.relu(layer(joined))
        colour = nn.sigmoid(self.colour_output(joined))
        if context.length is None:
            return FieldOutput(self._isotropic(x, distance, None), colour, gradient)
        slope = anneal_slope((direction * gradient).sum(-1), context.progress, config.anneal)
        density = interval_density(
            distance, slope, context.length, context.offset, self.sharpness()
        )
        return FieldOutput(density_within(config.box, x, density), colour, gradient)

    def density(
        self, x: Float[Array, "*B 3"], context: SampleContext = NO_CONTEXT
    ) -> Float[Array, "*B"]:
        """Density without a direction, ``s S(-s f)``, with which intervals are placed.

        It is that of a ray that meets the surface frontally. Where samples have a length, s is at
        most `PLACING` over it: the samples on both sides of a surface shall see it.
        """
        return self._isotropic(x, self.distance(x, context), context.length)

    def distance(
        self, x: Float[Array, "*B 3"], context: SampleContext = NO_CONTEXT
    ) -> Float[Array, "*B"]:
        """The signed distance, in units of the world."""
        return self._distance(x, context)[0]

    def sharpness(self) -> Float[Array, ""]:
        """s, per unit of the world."""
        log = self.config.sharpness_rate * jnp.asarray(self.variance)
        return jnp.exp(jnp.clip(log, math.log(LEAST), math.log(MOST))) / self.config.cube[1]

    def _isotropic(self, x: Array, distance: Array, length: Array | None) -> Array:
        sharpness = self.sharpness()
        if length is not None:
            sharpness = jnp.minimum(sharpness, PLACING / jnp.maximum(length, SHORTEST))
        density = sharpness * nn.sigmoid(-sharpness * distance)
        return density_within(self.config.box, x, density)

    def _distance(self, x: Array, context: SampleContext) -> tuple[Array, tuple[Array, Array]]:
        """The distance, and of its MLP what enters it and the last hidden layer."""
        config = self.config
        middle, half = config.cube
        entering = hidden = self._encoded((x - middle) / half, context)
        for i, layer in enumerate(self.layers):
            hidden = layer(hidden)
            hidden = nn.softplus(BETA * hidden) / BETA
            if i == config.skip:
                hidden = jnp.concatenate([entering, hidden], axis=-1) / math.sqrt(2)
        found = self.distance_output(hidden) + jnp.asarray(self.distance_bias)
        return half * found[..., 0], (entering, hidden)

    def _encoded(self, place: Array, context: SampleContext) -> Array:
        """The place in [-1, 1]^3, and its features or waves."""
        config = self.config
        if config.grid is not None:
            features, levels = self.grid((place + 1) / 2), config.grid.levels
        else:
            features = encode_position(place, config.octaves, include_input=False)
            levels = config.octaves
        if config.coarse_to_fine and levels > 1:
            first = min(config.first_levels, levels)
            weight_L = level_weights(context.progress, levels, config.coarse_to_fine, first)
            features = features * jnp.repeat(weight_L, features.shape[-1] // levels)
        return jnp.concatenate([place, features], axis=-1)

    def _with_gradient(self, x: Array, context: SampleContext) -> tuple[Array, Any, Array]:
        """What `_distance` returns, and the gradient of the distance."""
        if self.config.grid is not None:
            distance, layers = self._distance(x, context)
            step = finest_cell(self.config, context.progress)
            found = difference(lambda x: self._distance(x, context)[0], x, step, self.config.taps)
            return distance, layers, found

        def total(module: DistanceField, x: Array) -> tuple[Array, Any]:
            distance, layers = module._distance(x, context)
            return distance.sum(), (distance, layers)

        (_, (distance, layers)), (gradient,) = nn.value_and_grad(total, self, x, has_aux=True)
        return distance, layers, gradient


def finest_cell(config: DistanceFieldConfig, progress: Float[Array, ""] | None) -> Array:
    """The side of a cell of the finest level in use, in units of the world.

    While a level is faded in it is between that one's and the one's before, on a logarithmic scale.
    """
    assert config.grid is not None
    table = config.grid.level_table
    first = min(config.first_levels, len(table))
    finest = levels_in_use(progress, len(table), config.coarse_to_fine, first) - 1
    # The coarsest grid of one place has no cell.
    logs_L = [-math.log(max(level.scale, 1.0)) for level in table]
    log = jnp.interp(jnp.asarray(finest, jnp.float32), jnp.arange(len(table)), jnp.array(logs_L))
    return 2 * config.cube[1] * jnp.exp(log)


def difference(
    function: Callable[[Array], Array], x: Float[Array, "*B 3"], step: Any, taps: int
) -> Float[Array, "*B 3"]:
    """The gradient of a function of points by its values at a distance of one step.

    Exact for linear functions; with 6 taps also for quadratic ones.

    Args:
      function: ``[..., 3] -> [...]``.
      x: the points.
      step: how far the taps are from them.
      taps: 6 or 4, see `DistanceFieldConfig`.
    """
    axes = np.eye(3)
    tetrahedron = np.array([(1, -1, -1), (-1, -1, 1), (-1, 1, -1), (1, 1, 1)]) / math.sqrt(3)
    taps_N3 = np.concatenate([axes, -axes]) if taps == 6 else tetrahedron
    taps_N3 = taps_N3.astype(np.float32)
    values = function(x[..., None, :] + step * taps_N3)
    return (3 / taps) * (values @ taps_N3) / step
