"""The discriminator of compressors: a convolutional network with a logit for every patch.

Isola et al. 2017 ("PatchGAN"): convolutions of 4 x 4 with stride 2, twice the channels each time,
then two with stride 1; leaky ReLU of slope 0.2. For videos kernels have three frames and time keeps
its resolution. Norms are group norms: batch norms would make the logit of an example depend on the
others.
"""

import dataclasses

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxgen.errors import InputError
from jaxgen.nn.convolutions import conv, group_norm
from jaxgen.nn.dense import Dtype

SLOPE, GROUPS, EPSILON = 0.2, 8, 1e-6


@dataclasses.dataclass(frozen=True)
class PatchDiscriminatorConfig:
    """Options of a discriminator.

    Attributes:
      axes: 2 for images, 3 for videos.
      width: channels of the first layer, a multiple of 8.
      layers: strided convolutions after the first: 3 gives a reach of 70 pixels.
      dtype: compute dtype of convolutions.
    """

    axes: int = 2
    width: int = 64
    layers: int = 3
    dtype: Dtype = "float32"

    def __post_init__(self) -> None:
        if self.axes not in (2, 3):
            raise InputError(f"axes is {self.axes}, expected 2 (images) or 3 (videos)")
        if self.width < GROUPS or self.width % GROUPS:
            raise InputError(f"width is {self.width}, expected a multiple of {GROUPS}")
        if self.layers < 1:
            raise InputError(f"layers is {self.layers}, expected 1 or more")

    def make_model(self) -> "PatchDiscriminator":
        """The network."""
        return PatchDiscriminator(self)


class PatchDiscriminator(nn.Module):
    """Logits of patches: high where they look real.

    Attributes:
      config: the options.
    """

    config: PatchDiscriminatorConfig

    @nn.compact
    def __call__(self, x: Float[Array, "B ..."]) -> Float[Array, "B ..."]:
        """[B, sides..., C] to logits [B, smaller sides...], in float32."""
        c = self.config
        for i in range(c.layers):
            x = self._conv(x, c.width * 2 ** min(i, 3), 2, f"conv{i}")
            x = nn.leaky_relu(x if i == 0 else self._norm(x, f"norm{i}"), SLOPE)
        x = self._conv(x, c.width * 2 ** min(c.layers, 3), 1, "last")
        x = nn.leaky_relu(self._norm(x, "last_norm"), SLOPE)
        return self._conv(x, 1, 1, "logits")[..., 0]

    def _conv(self, x: Array, features: int, stride: int, name: str) -> Array:
        c = self.config
        time = c.axes - 2
        layer = conv(
            features,
            ("embed", "hidden"),
            c.dtype,
            name=name,
            size=(3,) * time + (4, 4),
            stride=(1,) * time + (stride, stride),
            padding=((1, 1),) * c.axes,
        )
        return layer(x).astype(jnp.float32)

    def _norm(self, x: Array, name: str) -> Array:
        return group_norm(GROUPS, EPSILON, name=name)(x)
