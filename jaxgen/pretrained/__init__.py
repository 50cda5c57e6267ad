"""Models of other programs and of own runs, opened in one call: networks, schedulers, pipelines."""

from jaxgen.pretrained.autoencoder_folders import load_autoencoder, save_autoencoder
from jaxgen.pretrained.denoisers import adapt_to_data, open_decoder, open_denoiser
from jaxgen.pretrained.encoder_folders import (
    load_clip,
    load_coca,
    load_t5,
    save_clip,
    save_coca,
    save_t5,
)
from jaxgen.pretrained.networks import (
    LoadedNetwork,
    load_dit,
    load_mdt,
    load_unet,
    load_uvit,
    save_dit,
    save_unet,
)
from jaxgen.pretrained.pipeline_adapters import load_adapters
from jaxgen.pretrained.pipeline_folders import load_pipeline, save_pipeline
from jaxgen.pretrained.pipelines import TextToImagePipeline
from jaxgen.pretrained.prior_folders import image_vectors, load_prior, save_prior
from jaxgen.pretrained.schedulers import SchedulerRecipe, from_diffusers_scheduler
from jaxgen.pretrained.two_encoder_pipelines import TwoEncoderPipeline

__all__ = [
    "LoadedNetwork",
    "SchedulerRecipe",
    "TextToImagePipeline",
    "TwoEncoderPipeline",
    "adapt_to_data",
    "from_diffusers_scheduler",
    "image_vectors",
    "load_adapters",
    "load_autoencoder",
    "load_clip",
    "load_coca",
    "load_dit",
    "load_mdt",
    "load_pipeline",
    "load_prior",
    "load_t5",
    "load_unet",
    "load_uvit",
    "open_decoder",
    "open_denoiser",
    "save_autoencoder",
    "save_clip",
    "save_coca",
    "save_dit",
    "save_pipeline",
    "save_prior",
    "save_t5",
    "save_unet",
]
