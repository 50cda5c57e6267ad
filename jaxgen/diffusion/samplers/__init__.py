"""Samplers: how estimates of a denoiser become samples. See `jaxgen.diffusion.sampling`."""

from jaxgen.diffusion.samplers.ddim import DDIM, AngularDDIM

__all__ = ["DDIM", "AngularDDIM"]
