"""Samplers: from estimates of a denoiser to samples (`jaxgen.diffusion.samplers.sampling`)."""

from jaxgen.diffusion.samplers.adams import Adams
from jaxgen.diffusion.samplers.adjusted import AdjustedDDIM
from jaxgen.diffusion.samplers.analytic import AnalyticDPM, unknown_variance
from jaxgen.diffusion.samplers.ancestral import Ancestral, LearnedAncestral
from jaxgen.diffusion.samplers.ddim import DDIM, AngularDDIM, BlendedDDIM
from jaxgen.diffusion.samplers.dpm_solver import DPMSolver, SingleStepDPMSolver
from jaxgen.diffusion.samplers.euler_maruyama import EulerMaruyama
from jaxgen.diffusion.samplers.langevin import LangevinCorrector
from jaxgen.diffusion.samplers.midpoint import Midpoint
from jaxgen.diffusion.samplers.ode import Euler, Heun
from jaxgen.diffusion.samplers.predictor_corrector import SASolver, UniPC
from jaxgen.diffusion.samplers.renoising import TCD, FlowAncestral
from jaxgen.diffusion.samplers.stochastic import StochasticKarras

__all__ = [
    "DDIM",
    "TCD",
    "Adams",
    "AdjustedDDIM",
    "AnalyticDPM",
    "Ancestral",
    "AngularDDIM",
    "BlendedDDIM",
    "DPMSolver",
    "Euler",
    "EulerMaruyama",
    "FlowAncestral",
    "Heun",
    "LangevinCorrector",
    "LearnedAncestral",
    "Midpoint",
    "SASolver",
    "SingleStepDPMSolver",
    "StochasticKarras",
    "UniPC",
    "unknown_variance",
]
