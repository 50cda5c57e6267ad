"""Denoising networks on patches of images and videos: transformers, and what they share."""

from jaxgen.nn.patches import patchify, unpatchify
from jaxgen.spacetime.diffit import DiffiT, DiffiTConfig
from jaxgen.spacetime.dit import DiT, DiTConfig
from jaxgen.spacetime.image_start import video_from_image_params
from jaxgen.spacetime.mdt import MDT, MDTConfig
from jaxgen.spacetime.transformer_config import GridConfig, TransformerConfig
from jaxgen.spacetime.uvit import UViT, UViTConfig
from jaxgen.spacetime.video_dit import VideoDiT, VideoDiTConfig

__all__ = [
    "MDT",
    "DiT",
    "DiTConfig",
    "DiffiT",
    "DiffiTConfig",
    "GridConfig",
    "MDTConfig",
    "TransformerConfig",
    "UViT",
    "UViTConfig",
    "VideoDiT",
    "VideoDiTConfig",
    "patchify",
    "unpatchify",
    "video_from_image_params",
]
