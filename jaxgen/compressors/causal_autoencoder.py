"""Causal video autoencoders: 1 + r k frames become 1 + k latent frames, an image is one frame.

The family of Wan 2.1's (Wan et al. 2025, section 4.1, and its code), which the defaults are::

    encoder   tubelets, conv_in; levels 0 to last of: blocks, then half the resolution (and frames)
              but at the last; middle blocks with attention between them; norm, silu, conv_out
    decoder   conv_in, middle blocks, levels last to 0 of: blocks, then twice the resolution (and
              frames); norm, silu, conv_out, tubelets put back

Blocks are those of `jaxgen.compressors.causal_layers`: convolutions look back in time only, norms
are over the channels of a pixel. So the latents of an image are those of the first frame of any
video that begins with it, latents depend on no later frame, and a video can be encoded and decoded
in chunks (`jaxgen.compressors.streaming`). Without attention in the middle every output also has a
finite reach in space, and tiles with halos are exact (`jaxgen.compressors.tiling`).

Small compressors are other settings: `CausalAutoencoderConfig.patch_first` cuts the video into
tubelets of (4, 8, 8) pixels and works at the resolution of the latents alone.

Videos are [B, T, Y, X, C]; images [B, Y, X, C] are taken as videos of one frame.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

from flax import linen as nn
from jaxtyping import Array, Float

from jaxgen.compressors.causal_layers import (
    STREAM,
    CausalBlock,
    CausalConv,
    CausalDown,
    CausalUp,
    PerFrameAttention,
    PixelNorm,
)
from jaxgen.compressors.linear_shortcut import LinearShortcut, equalised
from jaxgen.compressors.tubelets import Video, from_tubelets, latent_frames, to_tubelets
from jaxgen.errors import InputError, check_not_negative
from jaxgen.nn.dense import Dtype, check_dtype, zeros

Padding = Literal["zeros", "first_frame"]


@dataclasses.dataclass(frozen=True)
class CausalAutoencoderConfig:
    """Options of a causal video autoencoder; the defaults are Wan 2.1's, 126,892,531 parameters.

    Attributes:
      channels: C of the data.
      latent_channels: of what is decoded.
      encoder_channels: of what the encoder gives; twice as many where these are means and
        log-variances.
      width: channels of the first level, times its multiplier.
      decoder_width: the same for the decoder; None: as ``width``.
      multipliers: of the width, for each level; every level but the last halves the resolution.
      blocks: residual blocks of a level of the encoder.
      decoder_blocks: the same for the decoder; None: one more.
      middle_blocks: residual blocks after the encoder's last level and before the decoder's first.
      middle_attention: whether there is attention over each frame between these blocks. With it
        every latent sees its whole frame.
      temporal_down: for each level but the last, whether it halves the frames, too.
      patch: (P_t, P_y, P_x), blocks of pixels that are cut out before the first convolution and put
        back after the last.
      padding: what is in front of a video in time: "zeros", or the "first_frame" repeated.
      data_kernel: size of the first convolution of the encoder and the last of the decoder.
      latent_convolutions: whether there is a 1x1x1 convolution on either side of the latents.
      norm_epsilon: added to the mean of squares; 0: as in Wan's.
      shortcut: whether a linear transform of blocks is added on both ways, and the network starts
        as it (`jaxgen.compressors.linear_shortcut`).
      dtype: compute dtype of convolutions and products; all else is float32.
      joint_kernels: whether XLA is given 3-D convolutions, see `jaxgen.compressors.causal_layers`.
      remat: whether the activations of blocks are computed again in the backward pass, not stored.
    """

    channels: int = 3
    latent_channels: int = 16
    encoder_channels: int = 32
    width: int = 96
    decoder_width: int | None = None
    multipliers: tuple[int, ...] = (1, 2, 4, 4)
    blocks: int = 2
    decoder_blocks: int | None = None
    middle_blocks: int = 2
    middle_attention: bool = True
    temporal_down: tuple[bool, ...] = (False, True, True)
    patch: tuple[int, int, int] = (1, 1, 1)
    padding: Padding = "zeros"
    data_kernel: tuple[int, int, int] = (3, 3, 3)
    latent_convolutions: bool = True
    norm_epsilon: float = 0.0
    shortcut: bool = False
    dtype: Dtype = "float32"
    joint_kernels: bool = False
    remat: bool = False

    def __post_init__(self) -> None:
        """Validates the fields."""
        counts = ("channels", "latent_channels", "encoder_channels", "width")
        for name in (*counts, *(("decoder_width",) if self.decoder_width is not None else ())):
            _check_count(name, getattr(self, name), 1)
        for name in ("blocks", "middle_blocks"):
            _check_count(name, getattr(self, name), 0)
        if self.decoder_blocks is not None:
            _check_count("decoder_blocks", self.decoder_blocks, 0)
        if not self.multipliers or any(m < 1 for m in self.multipliers):
            raise InputError(f"multipliers are {self.multipliers}, expected some of 1 or more")
        if len(self.temporal_down) != len(self.multipliers) - 1:
            raise InputError(
                f"temporal_down is {self.temporal_down}, expected {len(self.multipliers) - 1} "
                f"entries, one for each of the {len(self.multipliers)} levels but the last"
            )
        for name in ("patch", "data_kernel"):
            sides = getattr(self, name)
            if len(sides) != 3 or any(side < 1 for side in sides):
                raise InputError(f"{name} is {sides}, expected three sides of 1 or more")
        if self.middle_attention and self.middle_blocks < 2:
            raise InputError(
                f"middle_blocks is {self.middle_blocks}, expected 2 or more around "
                "middle_attention, or middle_attention=False"
            )
        if self.padding not in get_args(Padding):
            raise InputError(f"padding is {self.padding!r}, expected 'zeros' or 'first_frame'")
        check_not_negative("norm_epsilon", self.norm_epsilon)
        check_dtype(self.dtype)
        if self.shortcut and self.encoder_channels not in (
            self.latent_channels,
            2 * self.latent_channels,
        ):
            raise InputError(
                f"encoder_channels is {self.encoder_channels}, expected {self.latent_channels} or "
                "twice as many with a shortcut"
            )
        for width in self.decoder_widths[1:]:
            if width % 2:
                raise InputError(
                    f"a level of the decoder has {width} channels, expected an even number, half "
                    "of which leave it"
                )

    @classmethod
    def patch_first(cls, **fields: Any) -> "CausalAutoencoderConfig":
        """A small, fast compressor: tubelets of (4, 8, 8), then blocks at one resolution.

        Args:
          **fields: what is to be otherwise.
        """
        small: dict[str, Any] = {
            "encoder_channels": 2 * fields.get("latent_channels", cls.latent_channels),
            "width": 192,
            "multipliers": (1,),
            "temporal_down": (),
            "blocks": 3,
            "decoder_blocks": 3,
            "middle_blocks": 0,
            "middle_attention": False,
            "patch": (4, 8, 8),
            "padding": "first_frame",
            "data_kernel": (1, 1, 1),
            "latent_convolutions": False,
            "norm_epsilon": 1e-6,
            "shortcut": True,
        }
        return cls(**{**small, **fields})

    @property
    def encoder_widths(self) -> tuple[int, ...]:
        """Channels of the encoder at each level."""
        return tuple(self.width * each for each in self.multipliers)

    @property
    def decoder_widths(self) -> tuple[int, ...]:
        """Channels of the decoder at each level."""
        width = self.width if self.decoder_width is None else self.decoder_width
        return tuple(width * each for each in self.multipliers)

    @property
    def strides(self) -> tuple[int, int, int]:
        """Frames, rows and columns of the data for one of the latents: (r, s_y, s_x)."""
        space = 2 ** (len(self.multipliers) - 1)
        steps, rows, columns = self.patch
        return steps * 2 ** sum(self.temporal_down), rows * space, columns * space

    def latent_grid(self, grid: Sequence[int]) -> tuple[int, ...]:
        """The sides of the latents of data.

        Args:
          grid: (T, Y, X) of videos, (Y, X) of images.

        Raises:
          InputError: for frames that are not 1 + r k, or sides that the strides do not divide.
        """
        if len(grid) not in (2, 3):
            raise InputError(f"grid is {tuple(grid)}, expected (T, Y, X), or (Y, X) of images")
        ratio, *strides = self.strides
        sides = tuple(grid[-2:])
        if any(not side or side % each for side, each in zip(sides, strides, strict=True)):
            raise InputError(
                f"frames have {sides[0]} x {sides[1]} pixels, expected multiples of "
                f"{strides[0]} x {strides[1]}"
            )
        space = tuple(side // each for side, each in zip(sides, strides, strict=True))
        if len(grid) == 2:
            return space
        return (latent_frames(grid[0], ratio), *space)

    def data_grid(self, grid: Sequence[int]) -> tuple[int, ...]:
        """The sides of the data of latents, (T, Y, X) or (Y, X): the inverse of `latent_grid`."""
        ratio, *strides = self.strides
        space = tuple(side * each for side, each in zip(grid[-2:], strides, strict=True))
        return space if len(grid) == 2 else (1 + ratio * (grid[0] - 1), *space)

    def make_model(self) -> "CausalAutoencoder":
        """The network."""
        return CausalAutoencoder(self)


class _Stack(nn.Module):
    """What encoder and decoder have in common."""

    config: CausalAutoencoderConfig

    def _blocks(self, x: Array, features: int, count: int, name: str) -> Array:
        for i in range(count):
            x = self._block(features, f"{name}_{i}")(x)
        return x

    def _block(self, features: int, name: str) -> CausalBlock:
        c = self.config
        block = nn.remat(CausalBlock) if c.remat else CausalBlock
        first = c.padding == "first_frame"
        return block(features, c.norm_epsilon, first, c.dtype, c.joint_kernels, name=name)

    def _middle(self, x: Array) -> Array:
        c = self.config
        for i in range(c.middle_blocks):
            if c.middle_attention and i > 0:
                name = f"middle_attention_{i - 1}"
                x = PerFrameAttention(c.norm_epsilon, c.dtype, name=name)(x)
            x = self._block(x.shape[-1], f"middle_block_{i}")(x)
        return x

    def _conv(
        self, x: Array, features: int, size: tuple[int, int, int], name: str, axes: Any, **more: Any
    ) -> Array:
        c = self.config
        first = c.padding == "first_frame"
        more |= {"dtype": c.dtype, "joint_kernels": c.joint_kernels, "name": name}
        return CausalConv(features, size, axes, first, **more)(x)

    def _end(self, x: Array, features: int, size: tuple[int, int, int]) -> Array:
        x = nn.silu(PixelNorm(self.config.norm_epsilon, name="norm_out")(x))
        if not self.config.shortcut:
            return self._conv(x, features, size, "conv_out", ("embed", None))
        x = x * equalised(math.prod(size) * x.shape[-1])
        return self._conv(x, features, size, "conv_out", ("embed", None), kernel_init=zeros)


class CausalEncoder(_Stack):
    """The way down, from tubelets."""

    @nn.compact
    def __call__(self, x: Video) -> Float[Array, "B T2 Y2 X2 F"]:
        """[B, T, Y, X, C] to [B, T', Y', X', encoder_channels]."""
        c = self.config
        x = self._conv(x, c.width, c.data_kernel, "conv_in", (None, "embed"))
        last = len(c.multipliers) - 1
        for level, width in enumerate(c.encoder_widths):
            x = self._blocks(x, width, c.blocks, f"down_{level}_block")
            if level < last:
                x = CausalDown(
                    c.temporal_down[level], c.dtype, c.joint_kernels, name=f"down_{level}_resample"
                )(x)
        return self._end(self._middle(x), c.encoder_channels, (3, 3, 3))


class CausalDecoder(_Stack):
    """The way up, to tubelets."""

    @nn.compact
    def __call__(self, x: Video) -> Float[Array, "B T2 Y2 X2 F"]:
        """[B, T', Y', X', latent_channels] to [B, T, Y, X, P_t P_y P_x C]."""
        c = self.config
        blocks = c.blocks + 1 if c.decoder_blocks is None else c.decoder_blocks
        x = self._conv(x, c.decoder_widths[-1], (3, 3, 3), "conv_in", (None, "embed"))
        x = self._middle(x)
        for level in reversed(range(len(c.multipliers))):
            x = self._blocks(x, c.decoder_widths[level], blocks, f"up_{level}_block")
            if level > 0:
                x = CausalUp(
                    x.shape[-1] // 2,
                    c.temporal_down[level - 1],
                    c.padding == "first_frame",
                    c.dtype,
                    c.joint_kernels,
                    name=f"up_{level}_resample",
                )(x)
        return self._end(x, math.prod(c.patch) * c.channels, c.data_kernel)


class CausalAutoencoder(nn.Module):
    """A causal video autoencoder: ``encode`` and ``decode``.

    Where the collection `STREAM` is given, what comes is a later chunk of a video, of r k frames.

    Attributes:
      config: its options.
    """

    config: CausalAutoencoderConfig

    def setup(self) -> None:
        """Names the parts."""
        c = self.config
        self.encoder = CausalEncoder(c)
        self.decoder = CausalDecoder(c)
        if c.latent_convolutions:
            both = {"size": (1, 1, 1), "axes": (None, None), "dtype": c.dtype}
            self.quant_conv = CausalConv(c.encoder_channels, **both)
            self.post_quant_conv = CausalConv(c.latent_channels, **both)
        if c.shortcut:
            block = math.prod(c.strides) * c.channels
            first = c.padding == "first_frame"
            self.shortcut = LinearShortcut(block, c.latent_channels, c.encoder_channels, first)

    def __call__(self, x: Float[Array, "B *T Y X C"]) -> Float[Array, "B *T Y X C"]:
        """Data, encoded and decoded; of what the encoder gives, the first channels are decoded."""
        return self.decode(self.encode(x)[..., : self.config.latent_channels])

    def encode(self, x: Float[Array, "B *T Y X C"]) -> Float[Array, "B *T2 Y2 X2 F"]:
        """Data to what the bottleneck takes.

        Args:
          x: videos [B, 1 + r k, Y, X, C] or images [B, Y, X, C].

        Returns:
          [B, 1 + k, Y / s, X / s, encoder_channels], without frames for images.

        Raises:
          InputError: for other shapes.
        """
        c, begins, image = self.config, self._begins("encoder"), x.ndim == 4
        x = _as_video("data", x, c.channels)
        if begins:
            c.latent_grid(x.shape[1:-1])
        else:
            _check_chunk(c, x.shape[1:-1])
        first = c.padding == "first_frame"
        h = self.encoder(to_tubelets(x, c.patch, first, begins))
        h = self.quant_conv(h) if c.latent_convolutions else h
        if c.shortcut:
            h = h + self.shortcut.analyse(to_tubelets(x, c.strides, first, begins))
        return h[:, 0] if image else h

    def decode(self, z: Float[Array, "B *T Y X C"]) -> Float[Array, "B *T2 Y2 X2 F"]:
        """Latents to data.

        Args:
          z: [B, 1 + k, Y', X', latent_channels], or [B, Y', X', latent_channels] of images.

        Returns:
          videos [B, 1 + r k, Y, X, C], or images.

        Raises:
          InputError: for other shapes.
        """
        c, begins, image = self.config, self._begins("decoder"), z.ndim == 4
        z = _as_video("latents", z, c.latent_channels)
        h = self.decoder(self.post_quant_conv(z) if c.latent_convolutions else z)
        x = from_tubelets(h, c.patch, begins)
        if c.shortcut:
            x = x + from_tubelets(self.shortcut.synthesise(z), c.strides, begins)
        return x[:, 0] if image else x

    def _begins(self, part: str) -> bool:
        """Whether the input of a part is the beginning of a video."""
        return part not in self.variables.get(STREAM, {})


def _as_video(what: str, x: Array, channels: int) -> Array:
    """Data of videos; an image is a video of one frame."""
    if x.ndim not in (4, 5) or x.shape[-1] != channels:
        raise InputError(
            f"{what} have shape {x.shape}, expected [B, T, Y, X, {channels}] of videos or "
            f"[B, Y, X, {channels}] of images"
        )
    return x[:, None] if x.ndim == 4 else x


def _check_chunk(config: CausalAutoencoderConfig, grid: Sequence[int]) -> None:
    """Refuses a later chunk of a video that is no r k frames."""
    ratio = config.strides[0]
    if grid[0] < 1 or grid[0] % ratio:
        raise InputError(f"a later chunk has {grid[0]} frames, expected a multiple of {ratio}")
    config.latent_grid(grid[1:])


def _check_count(name: str, value: int, least: int) -> None:
    if value < least:
        raise InputError(f"{name} is {value}, expected {least} or more")
