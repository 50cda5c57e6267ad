"""Encoders of texts and images, whose states condition other networks; captioners.

CLIP and T5; CoCa, which also writes captions; a small language model; and the priors of unCLIP,
which make an image's vector of a text.
"""

from jaxgen.encoders.captioner import make_captioner, make_text_writer
from jaxgen.encoders.causal_text import CausalText, CausalTextConfig
from jaxgen.encoders.clip_image import CLIPImageConfig, CLIPImageEncoder, resize_and_crop
from jaxgen.encoders.clip_model import CLIP, CLIPConfig, limit_logit_scale
from jaxgen.encoders.clip_text import CLIPTextConfig, CLIPTextEncoder
from jaxgen.encoders.coca_image import CoCaImageConfig
from jaxgen.encoders.coca_loss import causal_text_loss, coca_loss
from jaxgen.encoders.coca_model import CoCa, CoCaConfig
from jaxgen.encoders.coca_text import CoCaTextConfig
from jaxgen.encoders.code_prior import CodePrior, CodePriorConfig
from jaxgen.encoders.contrastive import clip_loss, contrastive_loss
from jaxgen.encoders.encoded import Encoded, make_encoder
from jaxgen.encoders.image_prior import ImagePrior, ImagePriorConfig
from jaxgen.encoders.t5 import T5Config, T5Encoder
from jaxgen.encoders.text_to_vector import TextToVectorConfig, code_prior_loss, draw_vectors
from jaxgen.encoders.vector_codes import VectorCodes, fit_vector_codes
from jaxgen.nn.norms import to_unit_length

__all__ = [
    "CLIP",
    "CLIPConfig",
    "CLIPImageConfig",
    "CLIPImageEncoder",
    "CLIPTextConfig",
    "CLIPTextEncoder",
    "CausalText",
    "CausalTextConfig",
    "CoCa",
    "CoCaConfig",
    "CoCaImageConfig",
    "CoCaTextConfig",
    "CodePrior",
    "CodePriorConfig",
    "Encoded",
    "ImagePrior",
    "ImagePriorConfig",
    "T5Config",
    "T5Encoder",
    "TextToVectorConfig",
    "VectorCodes",
    "causal_text_loss",
    "clip_loss",
    "coca_loss",
    "code_prior_loss",
    "contrastive_loss",
    "draw_vectors",
    "fit_vector_codes",
    "limit_logit_scale",
    "make_captioner",
    "make_encoder",
    "make_text_writer",
    "resize_and_crop",
    "to_unit_length",
]
