"""An image autoencoder whose decoder knows of time (Stable Video Diffusion, Blattmann et al. 2023).

The encoder codes every frame alone, see `jaxgen.compressors.frame_autoencoder`. In the decoder a
block in time follows every residual block and is mixed with it (`jaxgen.compressors.frame_blocks`),
and a convolution over three frames follows the last layer, on the image's channels. It looks
forward as well as backward, so it cannot decode chunk by chunk. Latents keep their frame rate.

All of it starts as the identity: with the weights of an image autoencoder in the parts that it has,
the decoder gives that autoencoder's own frames. `jaxgen.interop.autoencoder_weights` reads and
writes the weights of diffusers' ``AutoencoderKLTemporalDecoder``.
"""

import dataclasses

from flax import linen as nn
from jaxtyping import Array

from jaxgen.compressors.frame_autoencoder import (
    FrameAutoencoder,
    FrameAutoencoderConfig,
    FrameDecoder,
)
from jaxgen.compressors.frame_blocks import MixedBlock, along_time


@dataclasses.dataclass(frozen=True)
class TemporalDecoderConfig(FrameAutoencoderConfig):
    """Options of an autoencoder with a decoder of videos; defaults as in Stable Video Diffusion.

    Attributes: those of `FrameAutoencoderConfig`; there is no convolution before the decoder.
    """

    use_post_quant_conv: bool = False

    def make_model(self) -> "TemporalAutoencoder":
        """The network."""
        return TemporalAutoencoder(self)


class TemporalDecoder(FrameDecoder):
    """Latents of videos to frames.

    Attributes:
      config: the options.
    """

    def _block(self, features: int, name: str, x: Array, frames: int) -> Array:
        """One residual block of the frames and one in time."""
        return MixedBlock(features, self.config.groups, self.config.dtype, name=name)(x, frames)

    def _finished(self, x: Array, frames: int) -> Array:
        """The convolution over three frames."""
        videos = x.reshape(-1, frames, *x.shape[1:])
        layer = along_time(self.config.out_channels, self.config.dtype, "time_conv_out")
        return layer(videos).reshape(x.shape)


class TemporalAutoencoder(FrameAutoencoder):
    """Images or videos to latents and back; the frames of a video are decoded together.

    Attributes:
      config: the options.
    """

    def _make_decoder(self) -> nn.Module:
        """The second half."""
        return TemporalDecoder(self.config)
