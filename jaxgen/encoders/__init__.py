"""Encoders of texts and images: CLIP and T5, whose states condition other networks."""

from jaxgen.encoders.clip_image import CLIPImageConfig, CLIPImageEncoder, resize_and_crop
from jaxgen.encoders.clip_model import CLIP, CLIPConfig, limit_logit_scale, to_unit_length
from jaxgen.encoders.clip_text import CLIPTextConfig, CLIPTextEncoder
from jaxgen.encoders.contrastive import clip_loss, contrastive_loss
from jaxgen.encoders.encoded import Encoded, make_encoder
from jaxgen.encoders.t5 import T5Config, T5Encoder

__all__ = [
    "CLIP",
    "CLIPConfig",
    "CLIPImageConfig",
    "CLIPImageEncoder",
    "CLIPTextConfig",
    "CLIPTextEncoder",
    "Encoded",
    "T5Config",
    "T5Encoder",
    "clip_loss",
    "contrastive_loss",
    "limit_logit_scale",
    "make_encoder",
    "resize_and_crop",
    "to_unit_length",
]
