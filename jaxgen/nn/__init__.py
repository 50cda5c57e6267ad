"""Layers that several families share and Flax does not have."""

from jaxgen.nn.attention import CrossAttention, SelfAttention, attention
from jaxgen.nn.counting import multiply_adds, parameter_count
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
from jaxgen.nn.positions import grid_places, sincos, sincos_grid, sincos_places
from jaxgen.nn.relative import RelativeBias, relative_index
from jaxgen.nn.rotary import rotary_angles, rotary_split, rotate

__all__ = [
    "MLP",
    "Condition",
    "CrossAttention",
    "Dense",
    "LabelEmbedding",
    "LayerNorm",
    "RMSNorm",
    "RelativeBias",
    "SelfAttention",
    "TimeEmbedding",
    "attention",
    "grid_places",
    "layer_norm",
    "modulate",
    "modulation",
    "modulation_parts",
    "multiply_adds",
    "parameter_count",
    "relative_index",
    "rotary_angles",
    "rotary_split",
    "rotate",
    "sincos",
    "sincos_grid",
    "sincos_places",
    "time_frequencies",
]
