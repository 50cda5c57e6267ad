"""What is behind a field, as a function of the direction: a model of the background."""

from dataclasses import dataclass

from flax import linen as nn
from jaxtyping import Array, Float

from jaxgen.errors import check_sizes
from jaxgen.nerf.encodings import spherical_harmonics
from jaxgen.nerf.fields import mlp_layer
from jaxgen.nn.dense import Dense


@dataclass(frozen=True)
class SurroundingsConfig:
    """Options of a small MLP on the direction's spherical harmonics.

    Attributes:
      width: units of hidden layers.
      depth: hidden layers.

    Raises:
      InputError: for sizes below 1.
    """

    width: int = 32
    depth: int = 2

    def __post_init__(self) -> None:
        check_sizes(self, "width", "depth")

    def make_model(self) -> "Surroundings":
        """The network as a Flax module."""
        return Surroundings(self)


class Surroundings(nn.Module):
    """The network.

    Attributes:
      config: the options.
    """

    config: SurroundingsConfig

    def setup(self) -> None:
        """The layers."""
        config = self.config
        self.layers = [mlp_layer(config.width, "embed" if i else None) for i in range(config.depth)]
        self.output = Dense((3,), ("embed", None))

    def __call__(self, direction: Float[Array, "*B 3"]) -> Float[Array, "*B 3"]:
        """The colour of unit directions, in [0, 1]."""
        hidden: Array = spherical_harmonics(direction)
        for layer in self.layers:
            hidden = nn.relu(layer(hidden))
        return nn.sigmoid(self.output(hidden))
