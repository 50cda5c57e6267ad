"""Gaussian diffusion as mathematics: schedules, predictions, denoisers, losses, samplers, guidance.

The network comes in as a callable; see `jaxgen.diffusion.denoiser`.
"""

from jaxgen.diffusion.denoiser import Denoiser, Estimate, clip_x, make_denoiser, threshold_x
from jaxgen.diffusion.discrete import CustomTable, DiscreteSchedule, TableSchedule
from jaxgen.diffusion.levels import Level
from jaxgen.diffusion.predictions import Target, convert, make_target
from jaxgen.diffusion.schedules import (
    CosineSchedule,
    KarrasSchedule,
    RectifiedFlow,
    Reframed,
    Schedule,
    Shifted,
    SigmoidSchedule,
)

__all__ = [
    "CosineSchedule",
    "CustomTable",
    "Denoiser",
    "DiscreteSchedule",
    "Estimate",
    "KarrasSchedule",
    "Level",
    "RectifiedFlow",
    "Reframed",
    "Schedule",
    "Shifted",
    "SigmoidSchedule",
    "TableSchedule",
    "Target",
    "clip_x",
    "convert",
    "make_denoiser",
    "make_target",
    "threshold_x",
]
