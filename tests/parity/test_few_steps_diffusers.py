"""Samplers of models that need few steps against diffusers' schedulers: consistency, LCM, TCD."""

import importlib
import math

import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.diffusion.denoiser import Estimate, clip_x, threshold_x
from jaxgen.diffusion.distillation.consistency import (
    ConsistencySampler,
    hold_boundary,
    make_consistency_function,
)
from jaxgen.diffusion.process.schedules import CosineSchedule, KarrasSchedule, RectifiedFlow
from jaxgen.diffusion.process.step_levels import steps_at
from jaxgen.diffusion.process.table_schedules import CustomTable
from jaxgen.diffusion.samplers import DDIM, TCD

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
torch = pytest.importorskip("torch", reason="torch (the [parity] extra) is not installed")
diffusers = pytest.importorskip("diffusers", reason="diffusers (the [parity] extra) is missing")

from diffusers_steps import (  # noqa: E402
    TABLES,
    TARGETS,
    assert_same_steps,
    latents,
    loop,
    make,
    network,
    ours,
    rounded,
    scheduler_of,
    swap,
    table_of,
    theirs,
)


def levels_of(scheduler, final="clean"):
    """Theirs: some of the fifty steps of the teacher."""
    times = (scheduler.timesteps.numpy() + 1) / scheduler.config.num_train_timesteps
    return steps_at(table_of(scheduler), times, final=final)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("kind", TABLES)
@pytest.mark.parametrize("count", [1, 4, 8])
def test_lcm(prediction, kind, count):
    scheduler = scheduler_of("LCMScheduler", kind, prediction_type=prediction)
    scheduler.set_timesteps(count)
    denoiser = hold_boundary(
        make(TARGETS[prediction]), time_input=lambda level: 10 * rounded(level)
    )
    found, noises = ours(ConsistencySampler(), denoiser, latents(), levels_of(scheduler))
    assert_same_steps(found, theirs(scheduler, latents(), noises))


@pytest.mark.parametrize("change", ["clip", "threshold", "slow"])
def test_lcm_options(change):
    """Where x^ is changed first; and a boundary that is felt in the last step."""
    scheduler = diffusers.LCMScheduler(
        clip_sample=change == "clip",
        clip_sample_range=1.2,
        thresholding=change == "threshold",
        sample_max_value=1.7,
        timestep_scaling=0.001 if change == "slow" else 10.0,
    )
    scheduler.set_timesteps(4)
    scale, denoiser = scheduler.config.timestep_scaling, make()
    if change == "clip":
        denoiser = clip_x(denoiser, -1.2, 1.2)
    if change == "threshold":
        denoiser = threshold_x(denoiser, limit=1.7)
    denoiser = hold_boundary(denoiser, time_input=lambda level: scale * rounded(level))
    found, noises = ours(ConsistencySampler(), denoiser, latents(), levels_of(scheduler))
    assert_same_steps(found, theirs(scheduler, latents(), noises))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("gamma", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("count", [1, 4, 10])
def test_tcd(prediction, gamma, count):
    """(They round (1 - gamma) t down, which changes nothing here.)"""
    scheduler = diffusers.TCDScheduler(prediction_type=prediction)
    scheduler.set_timesteps(count)
    sampler = TCD(table_of(scheduler), gamma)
    found, noises = ours(
        sampler, make(TARGETS[prediction]), latents(), levels_of(scheduler, "first")
    )
    assert_same_steps(found, theirs(scheduler, latents(), noises, eta=gamma))


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize(
    "config",
    [{}, {"use_karras_sigmas": True}, {"use_exponential_sigmas": True}, {"shift_terminal": 0.1}],
    ids=str,
)
def test_flow_matching_lcm(config, shift):
    """x^ with new noise, as in `test_flow_matching_stochastic`."""
    scheduler = diffusers.FlowMatchLCMScheduler(shift=shift, **config)
    scheduler.set_timesteps(6)
    levels = steps_at(RectifiedFlow(), scheduler.sigmas.double().numpy()[:-1])
    denoiser = make("flow", lambda level: 1000 * level.s)
    for sampler in (ConsistencySampler(), DDIM(1e9)):
        scheduler.set_timesteps(6)
        found, noises = ours(sampler, denoiser, latents(), levels)
        assert_same_steps(found, theirs(scheduler, latents(), noises))


def helios_dmd(count, stages=1, stage=0, **config):
    """The scheduler, and its levels: those of a stage lie between the stage's own ends."""
    module = importlib.import_module("diffusers.schedulers.scheduling_helios_dmd")
    ranges = np.linspace(0, 1, stages + 1).tolist()
    scheduler = module.HeliosDMDScheduler(stages=stages, stage_range=ranges, **config)
    mu = 2.5 if config.get("use_dynamic_shifting") else None
    scheduler.set_timesteps(count, stage_index=stage, mu=mu)
    sigmas = scheduler.sigmas.double().numpy()
    assert sigmas[-1] == 0
    return scheduler, steps_at(RectifiedFlow(), sigmas[:-1])


def helios_dmd_steps(scheduler, noises):
    """Their latents after every step, with the noise of each; theirs have an axis of frames."""
    times = scheduler.timesteps

    def step(i, output, t, sample):
        noise = torch.from_numpy(swap(noises[i]).copy())
        output, sample, noise = (array[:, :, None] for array in (output, sample, noise))
        return scheduler.step(
            output,
            t,
            sample,
            cur_sampling_step=i,
            dmd_noisy_tensor=noise,
            dmd_sigmas=scheduler.sigmas,
            dmd_timesteps=times,
            all_timesteps=times,
        ).prev_sample[:, :, 0]

    return loop(scheduler, latents(), times, step)


HELIOS_DMD = [
    {},
    {"shift": 3.0},
    {"use_dynamic_shifting": True},
    {"use_dynamic_shifting": True, "time_shift_type": "exponential"},
    {"stages": 3},
    {"stages": 3, "stage": 1},
    {"stages": 3, "stage": 2, "use_dynamic_shifting": True},
]


@pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")
@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("config", HELIOS_DMD, ids=str)
def test_helios_dmd(config, count):
    """x^ with new noise, or in the pipeline with the noise that the stage began with, each time."""
    scheduler, levels = helios_dmd(count, **config)
    times = jnp.asarray(scheduler.timesteps.numpy(), jnp.float32)

    def time_input(level):
        return times[jnp.abs(levels.s - level.s[:, None]).argmin(axis=1)]

    denoiser = make("flow", time_input)
    found, noises = ours(ConsistencySampler(), denoiser, latents(), levels)
    assert_same_steps(found, helios_dmd_steps(scheduler, noises))

    def from_the_beginning(z, level):
        return Estimate(denoiser(z, level).x, jnp.asarray(latents()))

    found, _ = ours(DDIM(), from_the_beginning, latents(), levels)
    assert_same_steps(found, helios_dmd_steps(scheduler, [latents()] * count))


@pytest.mark.parametrize("s_noise", [1.0, 0.8])
@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_consistency_model(count, clip, s_noise):
    scheduler = diffusers.CMStochasticIterativeScheduler(clip_denoised=clip, s_noise=s_noise)
    scheduler.set_timesteps(count)
    schedule = KarrasSchedule(0.002, 80.0)
    times = schedule.time(-2 * np.log(scheduler.sigmas.double().numpy()[:-1]))
    levels = steps_at(schedule, times, final="first")
    denoiser = make_consistency_function(
        network, sigma_min=0.002, time_input=lambda level: 250 * jnp.log(level.s)
    )
    denoiser = clip_x(denoiser) if clip else denoiser
    sampler = ConsistencySampler(0.002)
    table = sampler.table(levels)
    table = table._replace(noise=s_noise * table.noise)
    found, noises = ours(sampler, denoiser, latents(80.0), levels, table)
    assert_same_steps(found, theirs(scheduler, latents(80.0), noises))


def test_consistency_decoder():
    """The scales of consistency models for latents that preserve variance."""
    from diffusers.schedulers.scheduling_consistency_decoder import ConsistencyDecoderScheduler

    scheduler = ConsistencyDecoderScheduler()
    scheduler.set_timesteps(2)
    a = scheduler.sqrt_alphas_cumprod.double().numpy()
    table = CustomTable(tuple((2 * np.log(a) - np.log1p(-(a**2))).tolist()))
    levels = steps_at(table, (scheduler.timesteps.numpy() + 1) / 1024)
    denoiser = make_consistency_function(
        network, time_input=lambda level: jnp.round(1024 * level.t - 1)
    )
    found, noises = ours(ConsistencySampler(), denoiser, latents(), levels)
    assert_same_steps(found, theirs(scheduler, latents(), noises))


@pytest.mark.parametrize("count", [1, 2, 4])
def test_trigflow(count):
    """Latents cos(t) x + sin(t) e in units of the data's deviation; the network predicts v."""
    scheduler = diffusers.SCMScheduler(sigma_data=0.5)
    scheduler.set_timesteps(count, intermediate_timesteps=1.3 if count == 2 else None)
    angles = scheduler.timesteps.double().numpy()[:-1]
    # Theirs begin beyond the quarter of the circle, by 4e-6.
    times = np.minimum(angles / (math.pi / 2), 1.0)
    levels = steps_at(CosineSchedule(-math.inf, math.inf), times)
    denoiser = make("v", lambda level: level.t * math.pi / 2)
    found, noises = ours(ConsistencySampler(), denoiser, latents(), levels)
    wanted = theirs(
        scheduler,
        latents(0.5),
        noises,
        lambda z, time: 0.5 * network(2 * z, time),
        times=scheduler.timesteps[:-1],
    )
    assert_same_steps(found, wanted, [2.0] * count)
