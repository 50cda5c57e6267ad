"""Layers that several families share and Flax does not have."""

from jaxgen.nn.attention import CrossAttention, SelfAttention, attention
from jaxgen.nn.dense import Dense
from jaxgen.nn.embeddings import Condition, LabelEmbedding, TimeEmbedding, time_frequencies
from jaxgen.nn.mlp import MLP
from jaxgen.nn.norms import (
    LayerNorm,
    RMSNorm,
    layer_norm,
    modulate,
    modulation,
    modulation_parts,
)
from jaxgen.nn.positions import relative_index, relative_offsets, sincos, sincos_grid

__all__ = [
    "MLP",
    "Condition",
    "CrossAttention",
    "Dense",
    "LabelEmbedding",
    "LayerNorm",
    "RMSNorm",
    "SelfAttention",
    "TimeEmbedding",
    "attention",
    "layer_norm",
    "modulate",
    "modulation",
    "modulation_parts",
    "relative_index",
    "relative_offsets",
    "sincos",
    "sincos_grid",
    "time_frequencies",
]
