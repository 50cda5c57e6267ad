"""Denoising networks on patches of images: transformers, and what they share."""

from jaxgen.spacetime.diffit import DiffiT, DiffiTConfig
from jaxgen.spacetime.dit import DiT, DiTConfig
from jaxgen.spacetime.mdt import MDT, MDTConfig
from jaxgen.spacetime.patches import patchify, unpatchify
from jaxgen.spacetime.transformer_config import GridConfig, TransformerConfig
from jaxgen.spacetime.uvit import UViT, UViTConfig
from jaxgen.unet.unet import UNet, UNetConfig

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
