"""A tiny autoencoder of images: TAESD, distilled from large ones (madebyollin/taesd).

Everything is 3 x 3 convolutions of one width, R(x) = relu(conv(relu(conv(relu(conv(x))))) + x)::

    encode: x = R(conv((images + 1) / 2))
            S times:   x = blocks x R, after a convolution with stride 2 and without bias
            h = conv(x)
    decode: x = relu(conv(3 tanh(z / 3)))
            S times:   x = blocks x R; pixels repeated; a convolution without bias
            images = 2 conv(R(x)) - 1

Where ``pooled``, the blocks of lowest resolution add a branch first, the only layer that sees the
whole frame: ``x <- x + conv1x1(relu(GN(conv1x1(x))))`` with four times the channels, 4 groups. The
tanh keeps latents that are far off from making colours that are. There is no Gaussian: latents are
what the encoder gives. The encoder and the decoder of TAESD have 1.2 million parameters each, those
for FLUX.2 (latents of 32 channels, ``pooled``) 1.3. `jaxgen.interop.tiny_autoencoder_weights` reads
and writes them.
"""

import dataclasses

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxgen.compressors.frame_autoencoder import check_images_or_videos, frame_latent_grid
from jaxgen.errors import check_sizes
from jaxgen.nn.convolutions import conv, group_norm, repeat_pixels, uniform
from jaxgen.nn.dense import Dtype, check_dtype

BOUND = 3.0
"""How large latents become at most."""

POOL_GROUPS = 4
POOL_WIDTH = 4
"""Groups of the norm, and channels in the branch for each channel outside."""

EPSILON = 1e-5
"""Added to variances."""


@dataclasses.dataclass(frozen=True)
class TinyAutoencoderConfig:
    """Options of a tiny autoencoder; the defaults are those for the latents of FLUX.2.

    Attributes:
      image_channels: channels of images.
      latent_channels: channels of latents.
      width: channels of all layers between.
      blocks: residual blocks of a resolution but the highest, which has one.
      halvings: S, how often the resolution is halved.
      pooled: whether blocks of lowest resolution have a branch that sees the whole frame.
      dtype: compute dtype of convolutions.
    """

    image_channels: int = 3
    latent_channels: int = 32
    width: int = 64
    blocks: int = 3
    halvings: int = 3
    pooled: bool = True
    dtype: Dtype = "float32"

    def __post_init__(self) -> None:
        """Validates the fields."""
        check_dtype(self.dtype)
        check_sizes(self, "image_channels", "latent_channels", "width", "blocks", "halvings")

    @property
    def factor(self) -> int:
        """Pixels along a side for each latent."""
        return 2**self.halvings

    @property
    def encoder_channels(self) -> int:
        """Channels of what the encoder gives: the latents' own."""
        return self.latent_channels

    def latent_grid(self, grid: tuple[int, ...]) -> tuple[int, ...]:
        """The sides of the latents of images [Y, X], or of videos [T, Y, X].

        Raises:
          InputError: for sides that the autoencoder does not divide.
        """
        return frame_latent_grid(grid, self.factor)

    def make_model(self) -> "TinyAutoencoder":
        """The network."""
        return TinyAutoencoder(self)


class TinyBlock(nn.Module):
    """R of the equations above.

    Attributes:
      width: channels.
      pooled: whether it has the branch that sees the whole frame.
      dtype: compute dtype of convolutions.
    """

    width: int
    pooled: bool = False
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, x_BYXC: Float[Array, "B Y X C"]) -> Float[Array, "B Y X C"]:
        """[B, Y, X, C] to the same shape."""
        x = x_BYXC
        if self.pooled:
            wide = POOL_WIDTH * self.width
            h = _without_bias(wide, self.dtype, "pool_in", size=1)(x)
            h = nn.relu(group_norm(POOL_GROUPS, EPSILON, name="pool_norm", axis="mlp")(h))
            x = x + _without_bias(self.width, self.dtype, "pool_out", size=1)(h)
        h = nn.relu(conv(self.width, ("embed", "mlp"), self.dtype, name="conv_0")(x))
        h = nn.relu(conv(self.width, ("mlp", "embed"), self.dtype, name="conv_1")(h))
        h = conv(self.width, ("embed", "hidden"), self.dtype, name="conv_2")(h)
        return nn.relu(h + x)


class TinyEncoder(nn.Module):
    """Frames in [-1, 1] to latents.

    Attributes:
      config: the options.
    """

    config: TinyAutoencoderConfig

    @nn.compact
    def __call__(self, x_NYXC: Float[Array, "N Y X C"]) -> Float[Array, "N Y2 X2 C2"]:
        """Frames [N, Y, X, image_channels] to [N, Y', X', latent_channels] in float32."""
        c = self.config
        x = conv(c.width, (None, "embed"), c.dtype, name="conv_in")((x_NYXC + 1) / 2)
        x = TinyBlock(c.width, dtype=c.dtype, name="down_0_block_0")(x)
        for level in range(1, c.halvings + 1):
            x = _without_bias(c.width, c.dtype, f"down_{level}_resample", stride=2)(x)
            pooled = c.pooled and level == c.halvings
            for i in range(c.blocks):
                x = TinyBlock(c.width, pooled, c.dtype, name=f"down_{level}_block_{i}")(x)
        h = conv(c.latent_channels, ("embed", None), c.dtype, name="conv_out")(x)
        return h.astype(jnp.float32)


class TinyDecoder(nn.Module):
    """Latents to frames.

    Attributes:
      config: the options.
    """

    config: TinyAutoencoderConfig

    @nn.compact
    def __call__(self, z_NYXC: Float[Array, "N Y X C"]) -> Float[Array, "N Y2 X2 C2"]:
        """Latents [N, Y', X', latent_channels] to [N, Y, X, image_channels] in float32."""
        c = self.config
        z = BOUND * jnp.tanh(z_NYXC / BOUND)
        x = nn.relu(conv(c.width, (None, "embed"), c.dtype, name="conv_in")(z))
        for step in range(c.halvings):
            for i in range(c.blocks):
                pooled = c.pooled and step == 0
                x = TinyBlock(c.width, pooled, c.dtype, name=f"up_{step}_block_{i}")(x)
            x = _without_bias(c.width, c.dtype, f"up_{step}_resample")(repeat_pixels(x))
        x = TinyBlock(c.width, dtype=c.dtype, name=f"up_{c.halvings}_block_0")(x)
        x = conv(c.image_channels, ("embed", None), c.dtype, name="conv_out")(x)
        return 2 * x.astype(jnp.float32) - 1


def _without_bias(
    features: int, dtype: Dtype, name: str, size: int = 3, stride: int = 1
) -> nn.Conv:
    """As `jaxgen.nn.convolutions.conv`, without a bias."""
    return nn.Conv(
        features,
        (size, size),
        strides=stride,
        padding=size // 2,
        use_bias=False,
        dtype=dtype,
        kernel_init=nn.with_logical_partitioning(uniform, (None, None, "embed", "hidden")),
        name=name,
    )


class TinyAutoencoder(nn.Module):
    """Images or videos to latents and back, every frame alone.

    Attributes:
      config: the options.
    """

    config: TinyAutoencoderConfig

    def setup(self) -> None:
        """Makes both halves."""
        self.encoder = TinyEncoder(self.config)
        self.decoder = TinyDecoder(self.config)

    def __call__(self, x: Float[Array, "*B Y X C"]) -> Float[Array, "*B Y X C"]:
        """What the decoder makes of the latents; for images or videos as in `encode`."""
        return self.decode(self.encode(x))

    def encode(self, x: Float[Array, "*B Y X C"]) -> Float[Array, "*B Y2 X2 C2"]:
        """Images or videos to latents.

        Args:
          x: [B, Y, X, image_channels] or [B, T, Y, X, image_channels] in [-1, 1].

        Raises:
          InputError: for other shapes, or sides that the autoencoder does not divide.
        """
        check_images_or_videos("images", x.shape, self.config.image_channels)
        self.config.latent_grid(x.shape[1:-1])
        z_NYXC = self.encoder(x.reshape(-1, *x.shape[-3:]))
        return z_NYXC.reshape(*x.shape[:-3], *z_NYXC.shape[1:])

    def decode(self, z: Float[Array, "*B Y X C"]) -> Float[Array, "*B Y2 X2 C2"]:
        """Latents to images or videos, about in [-1, 1].

        Args:
          z: [B, Y', X', latent_channels] or [B, T, Y', X', latent_channels].

        Raises:
          InputError: for other shapes.
        """
        check_images_or_videos("latents", z.shape, self.config.latent_channels)
        x_NYXC = self.decoder(z.reshape(-1, *z.shape[-3:]))
        return x_NYXC.reshape(*z.shape[:-3], *x_NYXC.shape[1:])
