"""Convolutional denoisers of images."""

from jaxgen.unet.unet import UNet, UNetConfig

__all__ = ["UNet", "UNetConfig"]
