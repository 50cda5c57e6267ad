"""Denoising networks on patches of images: transformers, and what they share."""

from jaxgen.spacetime.config import GridConfig, TransformerConfig
from jaxgen.spacetime.diffit import DiffiT, DiffiTConfig
from jaxgen.spacetime.dit import DiT, DiTConfig
from jaxgen.spacetime.mdt import MDT, MDTConfig
from jaxgen.spacetime.patches import patchify, unpatchify
from jaxgen.spacetime.unet import UNet
from jaxgen.spacetime.unet_config import UNetConfig
from jaxgen.spacetime.uvit import UViT, UViTConfig

__all__ = [
    "MDT",
    "DiT",
    "DiTConfig",
    "DiffiT",
    "DiffiTConfig",
    "GridConfig",
    "MDTConfig",
    "TransformerConfig",
    "UNet",
    "UNetConfig",
    "UViT",
    "UViTConfig",
    "patchify",
    "unpatchify",
]
