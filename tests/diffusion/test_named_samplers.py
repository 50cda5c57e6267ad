"""Samplers by the names of other programs: each one ends where it should for Gaussian data."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.diffusion import initial_noise, sample, sampler_named
from jaxgen.diffusion.exact import gaussian_denoiser
from jaxgen.diffusion.named_samplers import METHODS
from jaxgen.diffusion.process.derived_schedules import Bounded
from jaxgen.diffusion.process.schedules import CosineSchedule
from jaxgen.diffusion.process.table_schedules import DiscreteSchedule
from jaxgen.diffusion.samplers import (
    DDIM,
    Ancestral,
    DPMSolver,
    Euler,
    Heun,
    Midpoint,
    SingleStepDPMSolver,
    UniPC,
)
from jaxgen.errors import InputError

SCHEDULE = Bounded(CosineSchedule(), -9.0, 9.0)
EXACT = gaussian_denoiser(np.full(1, 0.3), np.full((1, 1), 0.25))
NO_DENOISERS = ("LCM",)
"""Methods for models whose x^ is a sample, which the mean of Gaussian data is not."""


@pytest.mark.parametrize("name", [name for name in METHODS if name not in NO_DENOISERS])
def test_samples(name):
    """Mean 0.3 and deviation 0.5, to what 40 steps and 2,000 samples allow."""
    method, count = sampler_named(name, SCHEDULE), 40
    levels = method.levels(SCHEDULE, count)
    z = initial_noise(jax.random.key(0), jnp.arange(2000), (1,), levels)
    x = np.asarray(sample(method.sampler, EXACT, z, levels, jax.random.key(1)))
    assert abs(float(x.mean()) - 0.3) < 0.03
    # Posterior variances lose some of it in few steps; TCD's renoising adds to that.
    slack = {"DDPM": 0.1, "ancestral": 0.1, "Euler a": 0.1, "TCD": 0.1, "EDM": 0.05}.get(name, 0.04)
    assert abs(float(x.std()) - 0.5) < slack


@pytest.mark.parametrize(
    ("name", "sampler", "spacing"),
    [
        ("Euler a", DDIM(1.0), "uniform"),
        ("k_euler_ancestral", DDIM(1.0), "uniform"),
        ("sample_euler", Euler(), "uniform"),
        ("EulerAncestralDiscreteScheduler", DDIM(1.0), "uniform"),
        ("DPM++ 2M Karras", DPMSolver(2), "karras"),
        ("dpmpp_2m_karras", DPMSolver(2), "karras"),
        ("DPM++ 2M SDE Exponential", DPMSolver(2, stochastic=True), "uniform_log_snr"),
        ("dpmpp_2m_sde", DPMSolver(2, stochastic=True), "uniform"),
        ("DPM++ SDE Karras", SingleStepDPMSolver(2, stochastic=True), "karras"),
        ("DPMSolverMultistepScheduler", DPMSolver(2), "uniform"),
        ("DEIS", DPMSolver(2, "exact", predicts="e"), "uniform"),
        ("k_dpm_2", Midpoint(SCHEDULE), "uniform"),
        ("dpm2 a karras", Midpoint(SCHEDULE, 1.0), "karras"),
        ("euler sgm_uniform", Euler(), "trailing"),
        ("EDMEulerScheduler", Euler(), "uniform"),
        ("uni_pc_bh2", UniPC(variant="bh2"), "uniform"),
        ("sde-dpmsolver++", DPMSolver(2, stochastic=True), "uniform"),
        ("dpm_solver_sde", SingleStepDPMSolver(2, stochastic=True), "uniform"),
        ("DPMSolverSDEScheduler", SingleStepDPMSolver(2, stochastic=True), "uniform"),
        ("dpm_solver", DPMSolver(2), "uniform"),
        ("dpm_solver_3m", DPMSolver(3), "uniform"),
        ("dpm_solver_2s", SingleStepDPMSolver(2), "uniform"),
        ("Ancestral", Ancestral(gamma=0.3), "uniform"),
        ("DDPM", Ancestral(), "uniform"),
        ("DDIM", DDIM(), "uniform"),
    ],
)
def test_names(name, sampler, spacing):
    found = sampler_named(name, SCHEDULE)
    assert (found.sampler, found.spacing) == (sampler, spacing)


def test_euler_and_heun_step_as_the_schedule_allows():
    """In sigma of tables; where sigma ends at e^10, the second slope of Heun would be amplified."""
    table, cosine = DiscreteSchedule(), CosineSchedule()
    assert sampler_named("HeunDiscreteScheduler", table).sampler == Heun("ve")
    assert sampler_named("k_euler", table).sampler == Euler("ve")
    own = sampler_named("heun", cosine)
    assert own.sampler == Heun()
    levels = own.levels(cosine, 20)
    z = initial_noise(jax.random.key(0), jnp.arange(2000), (1,), levels)
    deviations = [
        float(sample(method, EXACT, z, levels, jax.random.key(1)).std())
        for method in (own.sampler, Heun("ve"))
    ]
    assert abs(deviations[0] - 0.5) < 0.03
    assert deviations[1] > 1


def test_levels_of_names():
    table = DiscreteSchedule()
    karras = sampler_named("DPM++ 2M Karras", table).levels(table, 10)
    roots = (karras.s[:-1] / karras.a[:-1]) ** (1 / 7)
    np.testing.assert_allclose(np.diff(roots), np.diff(roots)[0], rtol=1e-6)
    trailing = sampler_named("Euler SGM Uniform", table).levels(table, 10)
    assert round(table.index(trailing.t[0])) == 999
    cosine = CosineSchedule()
    own = sampler_named("Euler SGM Uniform", cosine).levels(cosine, 10)
    np.testing.assert_allclose(own.t, trailing.t, atol=1e-12)
    own = sampler_named("DDIM DDIM Uniform", cosine).levels(cosine, 4)
    np.testing.assert_allclose(own.t, [0.75, 0.5, 0.25, 0, 0])
    with_middles = sampler_named("DPM++ SDE", table).levels(table, 10)
    assert len(with_middles.t) == 11 + 9  # the step to clean data has no middle
    with pytest.raises(InputError, match="sampler is 'euler b', expected one of DDIM, DDPM, anc"):
        sampler_named("euler b", table)
