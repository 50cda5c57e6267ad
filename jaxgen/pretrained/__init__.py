"""Models of other programs and of own runs, opened in one call: networks and schedulers."""

from jaxgen.pretrained.networks import (
    LoadedNetwork,
    load_dit,
    load_mdt,
    load_unet,
    load_uvit,
    save_dit,
    save_unet,
)

__all__ = [
    "LoadedNetwork",
    "load_dit",
    "load_mdt",
    "load_unet",
    "load_uvit",
    "save_dit",
    "save_unet",
]
