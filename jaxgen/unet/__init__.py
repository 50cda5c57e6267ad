"""Convolutional denoisers of images and videos."""

from jaxgen.unet.image_to_video import unet_video_params
from jaxgen.unet.unet import UNet, UNetConfig

__all__ = ["UNet", "UNetConfig", "unet_video_params"]
