"""Gaussian diffusion as mathematics: schedules, predictions, denoisers, losses, samplers, guidance.

The network comes in as a callable (`jaxgen.diffusion.denoiser`). Sampling in short::

    denoiser = make_denoiser(lambda z, time: model.apply(params, z, time, labels), "v")
    levels = make_steps(CosineSchedule(), 50)
    sampler = DDIM()
    z = initial_noise(key, index_B, shape, levels)
    x = sample(sampler, clip_x(denoiser), z, sampler.table(levels), key, index_B)
"""

from jaxgen.diffusion.classification import classify
from jaxgen.diffusion.denoiser import Denoiser, Estimate, clip_x, make_denoiser, threshold_x
from jaxgen.diffusion.derived_schedules import Blended, Bounded, Reframed, Shifted
from jaxgen.diffusion.discrete import CustomTable, DiscreteSchedule, TableSchedule
from jaxgen.diffusion.distillation import distillation_loss, every_second, halving_plan
from jaxgen.diffusion.guidance import (
    classifier_free_guidance,
    classifier_guidance,
    guide_network,
)
from jaxgen.diffusion.inpainting import RePaint, Replacement
from jaxgen.diffusion.levels import Level
from jaxgen.diffusion.losses import denoiser_loss, diffusion_loss
from jaxgen.diffusion.predictions import Target, convert, make_target
from jaxgen.diffusion.reconstruction import moment_guidance, reconstruction_guidance
from jaxgen.diffusion.samplers import (
    DDIM,
    Ancestral,
    AngularDDIM,
    DPMSolver,
    Euler,
    Heun,
    StochasticKarras,
)
from jaxgen.diffusion.sampling import Sampler, initial_noise, sample
from jaxgen.diffusion.schedules import (
    CosineSchedule,
    InverseCosineSchedule,
    KarrasSchedule,
    RectifiedFlow,
    Schedule,
    SigmoidSchedule,
)
from jaxgen.diffusion.sde_schedules import GeometricSchedule, LinearBetaSchedule
from jaxgen.diffusion.steps import make_steps

__all__ = [
    "DDIM",
    "Ancestral",
    "AngularDDIM",
    "Blended",
    "Bounded",
    "CosineSchedule",
    "CustomTable",
    "DPMSolver",
    "Denoiser",
    "DiscreteSchedule",
    "Estimate",
    "Euler",
    "GeometricSchedule",
    "Heun",
    "InverseCosineSchedule",
    "KarrasSchedule",
    "Level",
    "LinearBetaSchedule",
    "RePaint",
    "RectifiedFlow",
    "Reframed",
    "Replacement",
    "Sampler",
    "Schedule",
    "Shifted",
    "SigmoidSchedule",
    "StochasticKarras",
    "TableSchedule",
    "Target",
    "classifier_free_guidance",
    "classifier_guidance",
    "classify",
    "clip_x",
    "convert",
    "denoiser_loss",
    "diffusion_loss",
    "distillation_loss",
    "every_second",
    "guide_network",
    "halving_plan",
    "initial_noise",
    "make_denoiser",
    "make_steps",
    "make_target",
    "moment_guidance",
    "reconstruction_guidance",
    "sample",
    "threshold_x",
]
