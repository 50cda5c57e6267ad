"""Denoising networks on patches of images: transformers, and what they share."""

from jaxgen.spacetime.config import TransformerConfig
from jaxgen.spacetime.dit import DiT, DiTConfig
from jaxgen.spacetime.patches import patchify, unpatchify

__all__ = ["DiT", "DiTConfig", "TransformerConfig", "patchify", "unpatchify"]
