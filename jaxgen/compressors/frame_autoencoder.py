"""The image autoencoder of latent diffusion (Rombach et al. 2022; Stable Diffusion's "VAE").

Level l has ``channels[l]`` channels at ``1 / 2^l`` of the resolution, L levels, R(x) a residual
block and A attention over all pixels (`jaxgen.compressors.frame_blocks`)::

    encode: x = conv(images)
            level 0 to L - 1:   blocks x R;  then a convolution with stride 2 (but at the last)
            x = R(A(R(x)))
            h = conv1x1(conv(silu(GN(x))))
    decode: x = conv(conv1x1(z))
            x = R(A(R(x)))
            level L - 1 to 0:   (blocks + 1) x R;  then pixels repeated and a convolution (but at 0)
            images = conv(silu(GN(x)))

A convolution with stride 2 pads one row and one column of zeros after the last and none before the
first. h is the mean and the log-variance of a Gaussian. Every frame of a video is coded alone. The
norms and the attention see the whole frame, so tiles of it only approximate the whole.
`jaxgen.interop.autoencoder_weights` reads and writes the weights of diffusers' ``AutoencoderKL``.
"""

import dataclasses
from typing import get_args

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxgen.compressors.frame_blocks import EPSILON, FrameBlock, WholeFrameAttention
from jaxgen.errors import InputError, check_sizes
from jaxgen.nn.attention import Implementation
from jaxgen.nn.convolutions import conv, group_norm, repeat_pixels
from jaxgen.nn.dense import Dtype, check_dtype


@dataclasses.dataclass(frozen=True)
class FrameAutoencoderConfig:
    """Options of an autoencoder of single frames; the defaults are those of Stable Diffusion's.

    Attributes:
      in_channels: channels of the images that are encoded.
      out_channels: channels of those that are decoded.
      latent_channels: channels of the latents.
      channels: channels at each level, from the full resolution down.
      blocks: residual blocks of a level of the encoder; the decoder has one more.
      attention_levels: levels with attention after each residual block.
      middle_attention: whether there is attention between the two blocks in the middle.
      groups: channel groups of the norms.
      gaussian: whether the encoder gives the mean and the log-variance of the latents, twice their
        channels; False: as many channels as they have (for quantisation).
      use_quant_conv: whether a 1 x 1 convolution follows the encoder.
      use_post_quant_conv: whether one precedes the decoder.
      dtype: compute dtype of products and convolutions; parameters, norms, softmax, sums and the
        output stay float32.
      attention: implementation of attention, see `jaxgen.nn.attention`.
    """

    in_channels: int = 3
    out_channels: int = 3
    latent_channels: int = 4
    channels: tuple[int, ...] = (128, 256, 512, 512)
    blocks: int = 2
    attention_levels: tuple[int, ...] = ()
    middle_attention: bool = True
    groups: int = 32
    gaussian: bool = True
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True
    dtype: Dtype = "float32"
    attention: Implementation = "auto"

    def __post_init__(self) -> None:
        """Validates the fields."""
        check_dtype(self.dtype)
        if self.attention not in get_args(Implementation):
            expected = ", ".join(get_args(Implementation))
            raise InputError(f"attention is {self.attention!r}, expected one of {expected}")
        if not self.channels:
            raise InputError("channels is empty, expected the channels of each level")
        names = "in_channels", "out_channels", "latent_channels", "blocks", "groups"
        check_sizes(self, *names)
        for i, size in enumerate(self.channels):
            if size < 1 or size % self.groups:
                raise InputError(
                    f"channels[{i}] is {size}, expected a multiple of groups, {self.groups}"
                )
        for level in self.attention_levels:
            if level not in range(self.levels):
                raise InputError(
                    f"attention_levels has {level}, expected levels from 0 to {self.levels - 1}"
                )

    @property
    def levels(self) -> int:
        """How many resolutions there are."""
        return len(self.channels)

    @property
    def factor(self) -> int:
        """Pixels along a side for each latent."""
        return 2 ** (self.levels - 1)

    @property
    def encoder_channels(self) -> int:
        """Channels of what the encoder gives."""
        return (1 + self.gaussian) * self.latent_channels

    def latent_grid(self, grid: tuple[int, ...]) -> tuple[int, ...]:
        """The sides of the latents of images [Y, X], or of videos [T, Y, X].

        Raises:
          InputError: for sides that the autoencoder does not divide.
        """
        return frame_latent_grid(grid, self.factor)

    def make_model(self) -> "FrameAutoencoder":
        """The network."""
        return FrameAutoencoder(self)


def frame_latent_grid(grid: tuple[int, ...], factor: int) -> tuple[int, ...]:
    """The sides of latents where every frame is coded alone, at ``1 / factor`` of its sides.

    Args:
      grid: sides [Y, X] or [T, Y, X] of the data.
      factor: pixels along a side for each latent.

    Raises:
      InputError: for other sides, or those that the factor does not divide.
    """
    if len(grid) not in (2, 3) or any(side < 1 for side in grid):
        raise InputError(f"grid is {tuple(grid)}, expected sides (Y, X) or (T, Y, X) above 0")
    height, width = grid[-2:]
    if height % factor or width % factor:
        raise InputError(
            f"grid is {tuple(grid)}, expected height and width divisible by {factor}, the pixels "
            "for each latent"
        )
    return *grid[:-2], height // factor, width // factor


def check_images_or_videos(name: str, shape: tuple[int, ...], channels: int) -> None:
    """Refuses what are neither images nor videos of so many channels.

    Args:
      name: what errors call the array.
      shape: its shape.
      channels: how many it should have.

    Raises:
      InputError: naming the array and its shape.
    """
    if len(shape) not in (4, 5) or shape[-1] != channels or 0 in shape:
        raise InputError(
            f"{name} have shape {tuple(shape)}, expected [B, Y, X, {channels}] of images or "
            f"[B, T, Y, X, {channels}] of videos"
        )


class FrameEncoder(nn.Module):
    """Frames to moments, see `jaxgen.compressors.frame_autoencoder`.

    Attributes:
      config: the options.
    """

    config: FrameAutoencoderConfig

    @nn.compact
    def __call__(self, x_NYXC: Float[Array, "N Y X C"]) -> Float[Array, "N Y2 X2 C2"]:
        """Frames [N, Y, X, in_channels] to [N, Y', X', encoder_channels] in float32."""
        c = self.config
        x = conv(c.channels[0], (None, "embed"), c.dtype, name="conv_in")(x_NYXC)
        for level, features in enumerate(c.channels):
            for i in range(c.blocks):
                x = FrameBlock(features, c.groups, c.dtype, name=f"down_{level}_block_{i}")(x)
                if level in c.attention_levels:
                    x = attention_of(c, f"down_{level}_attention_{i}")(x)
            if level < c.levels - 1:
                name, axes, half = f"down_{level}_resample", ("embed", "hidden"), (0, 1)
                x = conv(features, axes, c.dtype, name=name, stride=2, padding=half)(x)
        x = FrameBlock(c.channels[-1], c.groups, c.dtype, name="middle_block_0")(x)
        if c.middle_attention:
            x = attention_of(c, "middle_attention_0")(x)
        x = FrameBlock(c.channels[-1], c.groups, c.dtype, name="middle_block_1")(x)
        h = conv_of_norm(c, x, c.encoder_channels)
        if c.use_quant_conv:
            h = conv(c.encoder_channels, (None, None), c.dtype, name="quant_conv", size=1)(h)
        return h.astype(jnp.float32)


class FrameDecoder(nn.Module):
    """Latents to frames, see `jaxgen.compressors.frame_autoencoder`.

    Attributes:
      config: the options.
    """

    config: FrameAutoencoderConfig

    @nn.compact
    def __call__(
        self, z_NYXC: Float[Array, "N Y X C"], frames: int = 1
    ) -> Float[Array, "N Y2 X2 C2"]:
        """Latents [N, Y', X', latent_channels] to [N, Y, X, out_channels] in float32.

        Args:
          z_NYXC: the latents of all frames of all videos.
          frames: T, of each video; only decoders of videos see which belong together.
        """
        c = self.config
        x = z_NYXC
        if c.use_post_quant_conv:
            x = conv(c.latent_channels, (None, None), c.dtype, name="post_quant_conv", size=1)(x)
        x = conv(c.channels[-1], (None, "embed"), c.dtype, name="conv_in")(x)
        x = self._block(c.channels[-1], "middle_block_0", x, frames)
        if c.middle_attention:
            x = attention_of(c, "middle_attention_0")(x)
        x = self._block(c.channels[-1], "middle_block_1", x, frames)
        for step, features in enumerate(reversed(c.channels)):
            level = c.levels - 1 - step
            for i in range(c.blocks + 1):
                x = self._block(features, f"up_{step}_block_{i}", x, frames)
                if level in c.attention_levels:
                    x = attention_of(c, f"up_{step}_attention_{i}")(x)
            if level:
                layer = conv(features, ("embed", "hidden"), c.dtype, name=f"up_{step}_resample")
                x = layer(repeat_pixels(x))
        x = conv_of_norm(c, x, c.out_channels)
        return self._finished(x, frames).astype(jnp.float32)

    def _block(self, features: int, name: str, x: Array, frames: int) -> Array:
        """One residual block."""
        del frames
        return FrameBlock(features, self.config.groups, self.config.dtype, name=name)(x)

    def _finished(self, x: Array, frames: int) -> Array:
        """What follows the last convolution of each frame."""
        del frames
        return x


def attention_of(config: FrameAutoencoderConfig, name: str) -> WholeFrameAttention:
    """A layer of attention with an autoencoder's options."""
    return WholeFrameAttention(config.groups, config.dtype, config.attention, name=name)


def conv_of_norm(config: FrameAutoencoderConfig, x_NYXC: Array, features: int) -> Array:
    """The last layers of both halves, ``conv(silu(GN(x)))``; called in a compact method."""
    h = nn.silu(group_norm(config.groups, EPSILON, name="norm_out")(x_NYXC))
    return conv(features, ("embed", None), config.dtype, name="conv_out")(h)


class FrameAutoencoder(nn.Module):
    """Images or videos to latents and back, every frame alone.

    Attributes:
      config: the options.
    """

    config: FrameAutoencoderConfig

    def setup(self) -> None:
        """Makes both halves."""
        self.encoder = FrameEncoder(self.config)
        self.decoder = self._make_decoder()

    def _make_decoder(self) -> nn.Module:
        """The second half."""
        return FrameDecoder(self.config)

    def __call__(self, x: Float[Array, "*B Y X C"]) -> Float[Array, "*B Y X C2"]:
        """What the decoder makes of the latents' means; for images or videos as in `encode`."""
        return self.decode(self.encode(x)[..., : self.config.latent_channels])

    def encode(self, x: Float[Array, "*B Y X C"]) -> Float[Array, "*B Y2 X2 C2"]:
        """Images or videos to what a bottleneck takes.

        Args:
          x: [B, Y, X, in_channels] or [B, T, Y, X, in_channels] in [-1, 1].

        Returns:
          [..., Y', X', encoder_channels]; of a Gaussian first the mean, then the log-variance.

        Raises:
          InputError: for other shapes, or sides that the autoencoder does not divide.
        """
        check_images_or_videos("images", x.shape, self.config.in_channels)
        self.config.latent_grid(x.shape[1:-1])
        h_NYXC = self.encoder(x.reshape(-1, *x.shape[-3:]))
        return h_NYXC.reshape(*x.shape[:-3], *h_NYXC.shape[1:])

    def decode(self, z: Float[Array, "*B Y X C"]) -> Float[Array, "*B Y2 X2 C2"]:
        """Latents to images or videos.

        Args:
          z: [B, Y', X', latent_channels] or [B, T, Y', X', latent_channels].

        Returns:
          [..., Y, X, out_channels], about in [-1, 1].

        Raises:
          InputError: for other shapes.
        """
        check_images_or_videos("latents", z.shape, self.config.latent_channels)
        frames = z.shape[1] if z.ndim == 5 else 1
        x_NYXC = self.decoder(z.reshape(-1, *z.shape[-3:]), frames)
        return x_NYXC.reshape(*z.shape[:-3], *x_NYXC.shape[1:])
