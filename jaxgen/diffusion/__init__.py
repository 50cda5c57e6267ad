"""Gaussian diffusion as mathematics: schedules, predictions, denoisers, losses, samplers, guidance.

The network comes in as a callable (`jaxgen.diffusion.denoiser`). Sampling in short::

    denoiser = make_denoiser(lambda z, time: model.apply(params, z, time, labels), "v")
    levels = make_steps(CosineSchedule(), 50)
    z = initial_noise(key, index_B, shape, levels)
    x = sample(DDIM(), clip_x(denoiser), z, levels, key, index_B)
"""

from jaxgen.diffusion.conditioning.diffusion_classifier import classify
from jaxgen.diffusion.conditioning.guidance import (
    classifier_free_guidance,
    classifier_guidance,
    guide_network,
)
from jaxgen.diffusion.conditioning.inpainting import RePaint, Replacement
from jaxgen.diffusion.conditioning.reconstruction import moment_guidance, reconstruction_guidance
from jaxgen.diffusion.denoiser import Denoiser, Estimate, clip_x, make_denoiser, threshold_x
from jaxgen.diffusion.distillation.progressive import distillation_loss, every_second, halving_plan
from jaxgen.diffusion.edm import EDM
from jaxgen.diffusion.model_sampling import sample_model
from jaxgen.diffusion.named_samplers import sampler_named
from jaxgen.diffusion.objectives.losses import denoiser_loss, diffusion_loss
from jaxgen.diffusion.process.derived_schedules import Blended, Bounded, Rescaled, Shifted
from jaxgen.diffusion.process.level_lists import (
    repeat_last,
    scale_noise,
    skip_steps,
    start_from,
    with_times,
)
from jaxgen.diffusion.process.levels import Level
from jaxgen.diffusion.process.predictions import Target, TargetName, convert, make_target
from jaxgen.diffusion.process.schedules import (
    CosineSchedule,
    InverseCosineSchedule,
    KarrasSchedule,
    RectifiedFlow,
    Schedule,
    SigmoidSchedule,
)
from jaxgen.diffusion.process.sde_schedules import GeometricSchedule, LinearBetaSchedule
from jaxgen.diffusion.process.step_levels import make_steps
from jaxgen.diffusion.process.table_schedules import CustomTable, DiscreteSchedule, TableSchedule
from jaxgen.diffusion.samplers import (
    DDIM,
    Ancestral,
    AngularDDIM,
    DPMSolver,
    Euler,
    Heun,
    StochasticKarras,
)
from jaxgen.diffusion.samplers.sampling import Sampler, initial_noise, sample, sample_with_table

__all__ = [
    "DDIM",
    "EDM",
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
    "Replacement",
    "Rescaled",
    "Sampler",
    "Schedule",
    "Shifted",
    "SigmoidSchedule",
    "StochasticKarras",
    "TableSchedule",
    "Target",
    "TargetName",
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
    "repeat_last",
    "sample",
    "sample_model",
    "sample_with_table",
    "sampler_named",
    "scale_noise",
    "skip_steps",
    "start_from",
    "threshold_x",
    "with_times",
]
