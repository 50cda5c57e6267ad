"""What diffusers has schedulers of its own for, and which here is a sampler on other levels.

Encoders, tables of video models, SDE solvers with Brownian motion, upsamplers' posteriors, flows.
"""

import importlib
import math
import sys
import types

import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.diffusion.conditioning import inpainting
from jaxgen.diffusion.denoiser import clip_x, make_denoiser
from jaxgen.diffusion.process.example_keys import example_keys, normal, step_keys
from jaxgen.diffusion.process.levels import Level, log_snr_of
from jaxgen.diffusion.process.schedules import CosineSchedule, KarrasSchedule, RectifiedFlow
from jaxgen.diffusion.process.sde_schedules import LinearBetaSchedule
from jaxgen.diffusion.process.step_levels import insert_middles, make_steps, reverse_steps, steps_at
from jaxgen.diffusion.samplers import (
    DDIM,
    Adams,
    Ancestral,
    DPMSolver,
    Euler,
    EulerMaruyama,
    FlowAncestral,
    LearnedAncestral,
    SingleStepDPMSolver,
    UniPC,
)

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
torch = pytest.importorskip("torch", reason="torch (the [parity] extra) is not installed")
diffusers = pytest.importorskip("diffusers", reason="diffusers (the [parity] extra) is missing")

from diffusers_steps import (  # noqa: E402
    KEY,
    SHAPE,
    TABLES,
    TARGETS,
    assert_same_steps,
    edm_denoiser,
    fractional,
    given_noise,
    in_float64,
    latents,
    loop,
    make,
    network,
    ours,
    rounded,
    swap,
    table_of,
    theirs,
    twice,
)

# --- encoders ---


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_ddim_inverse(prediction, spacing):
    """Their network sees the next level; their first step leads from the first entry to it."""
    scheduler = diffusers.DDIMInverseScheduler(
        prediction_type=prediction,
        timestep_spacing=spacing,
        set_alpha_to_one=False,
        clip_sample=False,
    )
    scheduler.set_timesteps(10)
    steps = scheduler.timesteps.numpy()
    table = table_of(scheduler)
    visited = steps if spacing == "leading" else np.append(0, steps)
    levels = reverse_steps(steps_at(table, (visited[:0:-1] + 1) / 1000, final="first"))

    def time_input(level):
        index = rounded(level)
        return jnp.where(index == 0, visited[1], index + 100)

    found, _ = ours(DDIM(), make(TARGETS[prediction], time_input), latents(), levels)
    wanted = theirs(scheduler, latents())
    if spacing == "leading":
        np.testing.assert_allclose(wanted[0], latents(), rtol=1e-3, atol=1e-6)
        wanted = theirs(scheduler, latents(), times=scheduler.timesteps[1:])
    assert_same_steps(found, wanted)


SPACINGS = ("leading", "trailing")
INVERSE = [
    {"solver_order": 1},
    {"solver_order": 2},
    {"solver_order": 2, "solver_type": "heun"},
    {"solver_order": 3},
    {"solver_order": 2, "algorithm_type": "dpmsolver"},
    {"solver_order": 3, "algorithm_type": "dpmsolver"},
    {"solver_order": 2, "lambda_min_clipped": -2.0},
]


@pytest.mark.filterwarnings("ignore:.algorithm_type:FutureWarning")
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("config", INVERSE, ids=lambda config: "-".join(map(str, config.values())))
def test_dpm_solver_inverse(config, spacing):
    """The solvers of the ODE with levels from data to noise (the noisiest may be left out)."""
    scheduler = diffusers.DPMSolverMultistepInverseScheduler(timestep_spacing=spacing, **config)
    scheduler.set_timesteps(10)
    index = scheduler.timesteps.numpy()
    if index[-1] != scheduler.noisiest_timestep:  # else their last step goes nowhere
        index = np.append(index, scheduler.noisiest_timestep)
    levels = Level(*(np.asarray(value) for value in table_of(scheduler).at_index(index)))
    sampler = DPMSolver(
        config["solver_order"],
        "exact" if config.get("solver_type") == "heun" else "midpoint",
        predicts="e" if "algorithm_type" in config else "x",
        halve_curvature=True,
        lower_order_final=True,
    )
    found, _ = ours(sampler, make(), latents(), levels)
    wanted = theirs(in_float64(scheduler), latents())
    # Where theirs go nowhere in the last step, it is that step whose order is lowered.
    kept = slice(0, len(found) - 2) if spacing == "trailing" else slice(None)
    assert_same_steps(found[kept], wanted[: len(found)][kept])


# --- tables of video models ---


@pytest.mark.parametrize(
    ("prediction", "spacing", "zero"),
    [
        *((p, s, False) for p in ("epsilon", "v_prediction", "sample") for s in SPACINGS),
        ("v_prediction", "trailing", True),
        ("sample", "trailing", True),
    ],
)
def test_cogvideox_ddim(prediction, spacing, zero):
    """DDIM; the table's SNR is that of the usual one divided by three."""
    scheduler = diffusers.CogVideoXDDIMScheduler(
        prediction_type=prediction, timestep_spacing=spacing, rescale_betas_zero_snr=zero
    )
    scheduler.set_timesteps(10)
    table = table_of(scheduler)
    if not zero:
        wanted = TABLES["scaled_linear"].table - math.log(3)
        np.testing.assert_allclose(table.table, wanted, rtol=1e-5)
    levels = make_steps(table, 10, spacing)
    found, _ = ours(DDIM(), make(TARGETS[prediction]), latents(), levels)
    assert_same_steps(found, theirs(scheduler, latents()))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("count", [1, 10, 20])
def test_cogvideox_dpm(prediction, spacing, count):
    """2M of the SDE. (They draw noise twice in steps of second order, and use the second.)"""
    scheduler = diffusers.CogVideoXDPMScheduler(
        prediction_type=prediction, timestep_spacing=spacing
    )
    scheduler.set_timesteps(count)
    levels = make_steps(table_of(scheduler), count, spacing)
    sampler = DPMSolver(2, stochastic=True, lower_order_final=False)
    found, noises = ours(sampler, make(TARGETS[prediction]), latents(), levels)
    drawn = [n for i, n in enumerate(noises) for _ in range(1 + (0 < i < count - 1))]
    times, old = scheduler.timesteps, [None]

    def step(i, output, t, sample):
        back = times[i - 1] if i else None
        sample, old[0] = scheduler.step(output, old[0], t, back, sample, return_dict=False)
        return sample

    assert_same_steps(found, loop(scheduler, latents(), times, step, drawn))


# --- posteriors ---


@pytest.mark.parametrize("prediction", ["epsilon", "sample"])
@pytest.mark.parametrize("variance", ["fixed_small_log", "learned_range"])
@pytest.mark.parametrize("clip", [False, True])
def test_unclip(prediction, variance, clip):
    scheduler = diffusers.UnCLIPScheduler(
        prediction_type=prediction, variance_type=variance, clip_sample=clip
    )
    scheduler.set_timesteps(10)
    levels = make_steps(table_of(scheduler), 10, "linspace")
    # Betas from the table as rounded, in float64: 1 - beta is 6e-8 at the noisy end.
    a2 = scheduler.alphas_cumprod.double()
    scheduler.alphas_cumprod, scheduler.one = a2, torch.ones(()).double()
    scheduler.alphas = a2 / torch.cat([scheduler.one[None], a2[:-1]])
    scheduler.betas = 1 - scheduler.alphas
    learned = variance == "learned_range"
    net = twice if learned else network
    denoiser = make_denoiser(net, TARGETS[prediction], time_input=rounded, learned_variance=learned)
    denoiser = clip_x(denoiser, recompute_e=False) if clip else denoiser
    sampler = LearnedAncestral() if learned else Ancestral()
    found, noises = ours(sampler, denoiser, latents(), levels)
    times = scheduler.timesteps

    def step(i, output, t, sample):
        after = times[i + 1] if i + 1 < len(times) else None
        return scheduler.step(output, t, sample, prev_timestep=after).prev_sample

    assert_same_steps(found, loop(scheduler, latents(), times, step, noises, net))


@pytest.mark.parametrize("scaler", [0.7, 1.0, 2.0])
def test_ddpm_wuerstchen(scaler):
    """Ancestral steps at any times of a cosine; no noise in the last, which ends at some."""
    scheduler = diffusers.DDPMWuerstchenScheduler(scaler=scaler)
    scheduler.set_timesteps(10)
    times = scheduler.timesteps
    a2 = scheduler._alpha_cumprod(times, "cpu").double().numpy()
    a, s = np.sqrt(a2), np.sqrt(1 - a2)
    levels = Level(times.numpy(), log_snr_of(a, s), a, s)
    sampler = Ancestral()
    table = sampler.table(levels)
    table = table._replace(noise=np.append(table.noise[:-1], np.float32(0)))
    denoiser = make("e", lambda level: level.t)
    found, noises = ours(sampler, denoiser, latents(), levels, table)

    def step(i, output, t, sample):
        return scheduler.step(output, t.expand(len(sample)), sample).prev_sample

    assert_same_steps(found, loop(scheduler, latents(), times[:-1], step, noises))


def test_score_sde_vp():
    """Euler-Maruyama. (Their steps are 1 / N long, whatever lies between their times.)"""
    from diffusers.schedulers.deprecated import ScoreSdeVpScheduler

    scheduler = ScoreSdeVpScheduler(sampling_eps=1 / 8)
    scheduler.set_timesteps(8)
    levels = steps_at(LinearBetaSchedule(), scheduler.timesteps.double().numpy())
    denoiser = make("e", lambda level: level.t)
    found, noises = ours(EulerMaruyama(LinearBetaSchedule()), denoiser, latents(), levels)

    def step(i, output, t, sample):
        return scheduler.step_pred(output, sample, t)[i == 7]

    assert_same_steps(found, loop(scheduler, latents(), scheduler.timesteps, step, noises))


# --- the SDE along a Brownian path: noises are given, so that it is not needed ---


@pytest.fixture
def brownian(monkeypatch):
    """Schedulers that import torchsde, with given noises instead of its."""
    monkeypatch.setitem(sys.modules, "torchsde", types.ModuleType("torchsde"))

    def load(file, name, noises):
        module = importlib.import_module(f"diffusers.schedulers.{file}")
        rest = iter(noises)
        monkeypatch.setattr(
            module,
            "BrownianTreeNoiseSampler",
            lambda *_, **__: lambda *_: torch.from_numpy(swap(next(rest)).copy()),
        )
        return getattr(module, name)

    return load


@pytest.mark.parametrize("s_noise", [1.0, 0.8])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace", "karras"])
def test_dpm_solver_sde(prediction, spacing, s_noise, brownian):
    """Single steps of second order that evaluate half way. (Their two noises are of one path.)"""
    noises: list[np.ndarray] = []
    kind = brownian("scheduling_dpmsolver_sde", "DPMSolverSDEScheduler", noises)
    karras = spacing == "karras"
    scheduler = kind(
        prediction_type=prediction,
        timestep_spacing="linspace" if karras else spacing,
        use_karras_sigmas=karras,
    )
    scheduler.set_timesteps(10)
    table = table_of(scheduler)
    whole = make_steps(table, 10, spacing)
    levels = insert_middles(whole, table)
    if not karras and spacing == "linspace":
        # Their times are not rounded.
        whole = steps_at(table, (np.linspace(0, 999, 10)[::-1] + 1) / 1000)
        levels = insert_middles(whole, table)
    sampler = SingleStepDPMSolver(2, stochastic=True)
    rows = sampler.table(levels)
    rows = rows._replace(noise=s_noise * rows.noise)
    found, drawn = ours(sampler, make(TARGETS[prediction], fractional), latents(), levels, rows)
    noises += drawn
    wanted = theirs(scheduler, latents() / np.float32(levels.a[0]), s_noise=s_noise)
    assert_same_steps(found, wanted, levels.a[1:])


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("spacing", ["exponential", "karras"])
@pytest.mark.parametrize("solver", ["midpoint", "heun"])
def test_cosine_dpm_solver(prediction, spacing, solver, brownian):
    """2M of the SDE with scaled inputs, conditioned on atan(sigma)."""
    noises: list[np.ndarray] = []
    kind = brownian(
        "scheduling_cosine_dpmsolver_multistep", "CosineDPMSolverMultistepScheduler", noises
    )
    scheduler = kind(prediction_type=prediction, sigma_schedule=spacing, solver_type=solver)
    scheduler.set_timesteps(10)
    levels = make_steps(
        KarrasSchedule(0.3, 500.0), 10, "karras" if spacing == "karras" else "uniform_log_snr"
    )
    denoiser = edm_denoiser(1.0, prediction, lambda level: jnp.arctan(level.s) * 2 / math.pi)
    sampler = DPMSolver(2, "exact" if solver == "heun" else "midpoint", stochastic=True)
    found, drawn = ours(sampler, denoiser, latents(500.0), levels)
    noises += drawn
    assert_same_steps(found, theirs(scheduler, latents(500.0)))


# --- multistep and flows ---


@pytest.mark.parametrize("count", [1, 3, 10])
def test_ipndm(count):
    """From a level with some data: at pure noise they take zero for it."""
    angles = np.linspace(1.4, 0, count + 1)
    scheduler = diffusers.IPNDMScheduler(trained_betas=np.sin(angles))
    scheduler.set_timesteps(count)
    levels = steps_at(CosineSchedule(-math.inf, math.inf), angles[:-1] / (math.pi / 2))
    found, _ = ours(Adams(4, "steps"), make("v", lambda level: level.t), latents(), levels)
    assert_same_steps(found, theirs(scheduler, latents()))


@pytest.mark.parametrize("s_noise", [1.0, 0.7, 1.2])
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_ancestral_flow(eta, s_noise):
    """A factor on the noise is one on the table's, whatever the sampler."""
    scheduler = diffusers.LTXEulerAncestralRFScheduler(eta=eta, s_noise=s_noise)
    scheduler.set_timesteps(sigmas=[1.0, 0.95, 0.8, 0.6, 0.3, 0.1, 0.0])
    levels = steps_at(RectifiedFlow(), scheduler.sigmas.double().numpy()[:-1])
    denoiser = make("flow", lambda level: 1000 * level.s)
    sampler = FlowAncestral(eta)
    table = sampler.table(levels)
    table = table._replace(noise=s_noise * table.noise)
    found, noises = ours(sampler, denoiser, latents(), levels, table)
    assert_same_steps(found, theirs(scheduler, latents(), noises, times=scheduler.timesteps[:-1]))


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("name", ["FlowMapEulerDiscrete", "MiniMaxH3"])
def test_flows_in_other_words(name, shift):
    """Times of both ends, for networks conditioned on them; times and velocities turned around."""
    turned = name == "MiniMaxH3"
    module = importlib.import_module(
        "diffusers.schedulers.scheduling_" + ("minimax_h3" if turned else "flow_map_euler_discrete")
    )
    scheduler = getattr(module, f"{name}Scheduler")(shift=shift)
    scheduler.set_timesteps(10)
    levels = steps_at(RectifiedFlow(), scheduler.sigmas.double().numpy()[:-1])
    denoiser = make("flow", lambda level: level.a if turned else 1000 * level.s)
    wanted = theirs(
        scheduler, latents(), net=lambda z, time: -network(z, time) if turned else network(z, time)
    )
    for sampler in (Euler(), DDIM()):
        found, _ = ours(sampler, denoiser, latents(), levels)
        assert_same_steps(found, wanted)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_inverted_sigmas(shift):
    """As Mochi is made: times are the share of the data, velocities lead to them."""
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift, invert_sigmas=True)
    scheduler.set_timesteps(10)
    levels = steps_at(RectifiedFlow(), 1 - scheduler.sigmas.double().numpy()[:-1])
    denoiser = make_denoiser(
        lambda z, time: -network(z, time), "flow", time_input=lambda level: 1000 * level.a
    )
    wanted = theirs(scheduler, latents())
    for sampler in (Euler(), DDIM()):
        found, _ = ours(sampler, denoiser, latents(), levels)
        assert_same_steps(found, wanted)


@pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")
@pytest.mark.parametrize("kind", ["euler", "unipc"])
def test_helios_in_one_stage(kind):
    """(Its stages of growing images are the pipeline's.)"""
    module = importlib.import_module("diffusers.schedulers.scheduling_helios")
    scheduler = module.HeliosScheduler(stages=1, stage_range=[0, 1], scheduler_type=kind)
    scheduler.set_timesteps(10)
    levels = steps_at(RectifiedFlow(), scheduler.sigmas.double().numpy()[:-1])
    denoiser = make("flow", lambda level: 1000 * level.s)
    sampler = {"euler": Euler(), "unipc": UniPC(2)}[kind]
    found, _ = ours(sampler, denoiser, latents(), levels)
    assert_same_steps(found, theirs(scheduler, latents()))


# --- inpainting ---


@pytest.mark.parametrize("eta", [0.0, 0.6])
@pytest.mark.parametrize("resamplings", [1, 3])
def test_repaint(eta, resamplings, monkeypatch):
    """In their order of steps, which goes back one level later than the paper's.

    They go back step by step and share one noise between what is known and what is not; here the
    noises are given such that the same comes of it.
    """
    scheduler = diffusers.RePaintScheduler(
        num_train_timesteps=12, beta_end=0.3, eta=eta, clip_sample=False
    )
    scheduler.set_timesteps(12, jump_length=3, jump_n_sample=resamplings)
    times = scheduler.timesteps.tolist()
    downs = [t for before, t in zip([12, *times], times, strict=False) if t < before]
    monkeypatch.setattr(inpainting, "visits", lambda *_: [11 - t for t in downs])
    known = np.zeros(SHAPE[1:], np.float32)
    known[:2] = 1
    x = np.tanh(latents(0.7))
    levels = make_steps(table_of(scheduler), 12, "leading")
    sampler = inpainting.RePaint(DDIM(eta), known, x, 3, resamplings)
    denoiser = make("e", lambda level: jnp.round(12 * level.t - 1))
    found, noises = ours(sampler, denoiser, latents(), levels)

    rows = sampler.table(levels)
    sample, wanted = torch.from_numpy(swap(latents()).copy()), []
    keys_B = example_keys(KEY, jnp.arange(len(x)))
    before, row = 12, 0
    for t in times:
        keys = step_keys(keys_B, jnp.asarray(row))
        if t > before:
            # Only the last of the single steps back draws noise, and all of it.
            back = normal(step_keys(keys, inpainting.BACK), SHAPE[1:])
            whole = rows.noise[row] / math.sqrt(float(scheduler.betas[before]))
            last = t - 1 == downs[row]
            with given_noise(scheduler, [np.asarray(back) * (whole if last else 0)]):
                sample = scheduler.undo_step(sample, before)
        else:
            replaced = normal(step_keys(keys, inpainting.REPLACED), SHAPE[1:])
            noise = known * np.asarray(replaced) + (1 - known) * noises[row]
            now = np.moveaxis(sample.numpy(), 1, -1)
            output = np.asarray(network(now, np.full(len(x), float(t), np.float32)))
            with given_noise(scheduler, [noise]):
                sample = scheduler.step(
                    torch.from_numpy(swap(output).copy()),
                    t,
                    sample,
                    torch.from_numpy(swap(x).copy()),
                    torch.from_numpy(swap(known[None]).copy()),
                ).prev_sample
            wanted.append(np.moveaxis(sample.numpy(), 1, -1))
            row += 1
        before = t
    assert_same_steps(found, wanted)
