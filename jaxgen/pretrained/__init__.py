"""Models of other programs and of own runs, opened in one call: networks and schedulers."""

from jaxgen.pretrained.denoisers import adapt_to_data, open_denoiser
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
from jaxgen.pretrained.schedulers import SchedulerRecipe, from_diffusers_scheduler

__all__ = [
    "LoadedNetwork",
    "SchedulerRecipe",
    "adapt_to_data",
    "from_diffusers_scheduler",
    "load_clip",
    "load_coca",
    "load_dit",
    "load_mdt",
    "load_t5",
    "load_unet",
    "load_uvit",
    "open_denoiser",
    "save_clip",
    "save_coca",
    "save_dit",
    "save_t5",
    "save_unet",
]
