"""Samplers against diffusers' schedulers, latents after every step: the classical ones.

Schedulers that keep latents in the scaling "ve" (Euler and its kin) are compared after scaling by
a.
"""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.diffusion.denoiser import clip_x, make_denoiser, threshold_x
from jaxgen.diffusion.process.derived_schedules import Shifted
from jaxgen.diffusion.process.example_keys import example_keys, normal, step_keys
from jaxgen.diffusion.process.levels import Level
from jaxgen.diffusion.process.schedules import KarrasSchedule, RectifiedFlow
from jaxgen.diffusion.process.step_levels import make_steps, steps_at
from jaxgen.diffusion.process.table_schedules import DiscreteSchedule
from jaxgen.diffusion.samplers import (
    DDIM,
    Ancestral,
    DPMSolver,
    Euler,
    Heun,
    LangevinCorrector,
    LearnedAncestral,
    StochasticKarras,
)

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
torch = pytest.importorskip("torch", reason="torch (the [parity] extra) is not installed")
diffusers = pytest.importorskip("diffusers", reason="diffusers (the [parity] extra) is missing")

from diffusers_steps import (  # noqa: E402
    KEY,
    SIGMAS,
    TABLES,
    TARGETS,
    TOLERANCE,
    assert_same_steps,
    edm_denoiser,
    fractional,
    given_noise,
    in_ve,
    latents,
    make,
    network,
    ours,
    rounded,
    scheduler_of,
    table_of,
    theirs,
    twice,
)


@pytest.mark.parametrize("kind", TABLES)
@pytest.mark.parametrize("zero", [False, True])
def test_tables(kind, zero):
    scheduler = scheduler_of("DDIMScheduler", kind, rescale_betas_zero_snr=zero)
    table = TABLES[kind]
    table = DiscreteSchedule(table.kind, 1000, table.beta_first, table.beta_last, zero)
    a2 = np.array([table.at_index(i).a ** 2 for i in range(1000)])
    np.testing.assert_allclose(a2, scheduler.alphas_cumprod, rtol=1e-4, atol=3e-7)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("kind", TABLES)
@pytest.mark.parametrize("eta", [0.0, 0.7, 1.0])
def test_ddim(prediction, kind, eta):
    scheduler = scheduler_of(
        "DDIMScheduler", kind, prediction_type=prediction, clip_sample=False, steps_offset=1
    )
    scheduler.set_timesteps(10)
    levels = make_steps(table_of(scheduler), 10, "leading", offset=1)
    found, noises = ours(DDIM(eta), make(TARGETS[prediction]), latents(), levels)
    assert_same_steps(found, theirs(scheduler, latents(), noises, eta=eta))


@pytest.mark.parametrize("set_alpha_to_one", [True, False])
@pytest.mark.parametrize(
    ("spacing", "count"), [("leading", 10), ("leading", 7), ("trailing", 8), ("trailing", 10)]
)
def test_ddim_spacings(spacing, count, set_alpha_to_one):
    """With an offset of one the first entry of the table lies below the last step."""
    scheduler = diffusers.DDIMScheduler(
        timestep_spacing=spacing,
        clip_sample=False,
        set_alpha_to_one=set_alpha_to_one,
        steps_offset=1,
    )
    scheduler.set_timesteps(count)
    final = "clean" if set_alpha_to_one else "first"
    levels = make_steps(table_of(scheduler), count, spacing, offset=1, final=final)
    assert list(np.round(1000 * levels.t[:-1] - 1)) == scheduler.timesteps.tolist()
    found, _ = ours(DDIM(), make(), latents(), levels)
    assert_same_steps(found, theirs(scheduler, latents()))


def test_ddim_linspace():
    """There diffusers steps to t - 1000 // N rather than to the next t; here pairs can say so."""
    scheduler = diffusers.DDIMScheduler(timestep_spacing="linspace", clip_sample=False)
    scheduler.set_timesteps(10)
    table = table_of(scheduler)
    levels = make_steps(table, 10, "linspace")
    assert list(np.round(1000 * levels.t[:-1] - 1)) == scheduler.timesteps.tolist()
    steps = [DDIM().table(steps_at(table, [t, t - 0.1] if t > 0.1 else [t])) for t in levels.t[:-1]]
    rows = jax.tree.map(lambda *values: np.stack([value[0] for value in values]), *steps)
    found, _ = ours(DDIM(), make(), latents(), levels, rows)
    assert_same_steps(found, theirs(scheduler, latents()))


@pytest.mark.parametrize("prediction", ["v_prediction", "sample"])
def test_ddim_with_zero_terminal_snr(prediction):
    scheduler = diffusers.DDIMScheduler(
        rescale_betas_zero_snr=True,
        prediction_type=prediction,
        timestep_spacing="trailing",
        clip_sample=False,
    )
    scheduler.set_timesteps(10)
    levels = make_steps(table_of(scheduler), 10, "trailing")
    assert levels.a[0] == 0
    # With eta = 1 they take the root of 1 - a^2 - (1 - a^2), which is 0 or 2e-4 by rounding.
    for eta in (0.0, 0.5):
        found, noises = ours(DDIM(eta), make(TARGETS[prediction]), latents(), levels)
        assert_same_steps(found, theirs(scheduler, latents(), noises, eta=eta))


@pytest.mark.parametrize("recompute_e", [False, True])
@pytest.mark.parametrize("change", ["clip", "threshold"])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_ddim_clipping(recompute_e, change, prediction):
    scheduler = diffusers.DDIMScheduler(
        prediction_type=prediction,
        clip_sample=change == "clip",
        clip_sample_range=1.2,
        thresholding=change == "threshold",
        dynamic_thresholding_ratio=0.9,
        sample_max_value=1.7,
    )
    scheduler.set_timesteps(10)
    levels = make_steps(table_of(scheduler), 10, "leading")
    denoiser = make(TARGETS[prediction])
    if change == "clip":
        denoiser = clip_x(denoiser, -1.2, 1.2, recompute_e=recompute_e)
    else:
        denoiser = threshold_x(denoiser, 0.9, 1.7, recompute_e=recompute_e)
    found, noises = ours(DDIM(0.5), denoiser, latents(), levels)
    wanted = theirs(scheduler, latents(), noises, eta=0.5, use_clipped_model_output=recompute_e)
    assert_same_steps(found, wanted)


def quiet_end(noises):
    """Without the noise that diffusers adds in the last step, but where that begins at index 0."""
    return [*noises[:-1], np.zeros_like(noises[-1])]


VARIANCES = {"fixed_small": 0.0, "fixed_large": 1.0}


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("variance", VARIANCES)
@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_ddpm(prediction, variance, clip, spacing):
    scheduler = diffusers.DDPMScheduler(
        prediction_type=prediction,
        variance_type=variance,
        clip_sample=clip,
        timestep_spacing=spacing,
    )
    scheduler.set_timesteps(10)
    levels = make_steps(table_of(scheduler), 10, spacing)
    denoiser = make(TARGETS[prediction])
    denoiser = clip_x(denoiser, recompute_e=False) if clip else denoiser
    found, noises = ours(Ancestral(VARIANCES[variance]), denoiser, latents(), levels)
    assert_same_steps(found, theirs(scheduler, latents(), quiet_end(noises)))


def test_ddpm_fixed_small_log():
    scheduler = diffusers.DDPMScheduler(variance_type="fixed_small_log", clip_sample=False)
    scheduler.set_timesteps(10)
    levels = make_steps(table_of(scheduler), 10, "leading")
    found, noises = ours(Ancestral(), make(), latents(), levels)
    assert_same_steps(found, theirs(scheduler, latents(), noises))


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_ddpm_learned_range(spacing):
    scheduler = diffusers.DDPMScheduler(
        variance_type="learned_range", clip_sample=False, timestep_spacing=spacing
    )
    scheduler.set_timesteps(10)
    levels = make_steps(table_of(scheduler), 10, spacing)
    denoiser = make_denoiser(twice, "e", time_input=rounded, learned_variance=True)
    found, noises = ours(LearnedAncestral(), denoiser, latents(), levels)
    assert_same_steps(found, theirs(scheduler, latents(), quiet_end(noises), twice))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("kind", TABLES)
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_euler(prediction, kind, spacing):
    scheduler = scheduler_of(
        "EulerDiscreteScheduler", kind, prediction_type=prediction, timestep_spacing=spacing
    )
    scheduler.set_timesteps(10)
    levels = make_steps(table_of(scheduler), 10, spacing)
    wanted = theirs(scheduler, latents() / np.float32(levels.a[0]))
    # From s/a = 20,000 they come down by cancellation, in float32.
    cancels = kind == "squaredcos_cap_v2" and spacing != "leading"
    tolerance = 1e-3 if cancels and prediction == "v_prediction" else TOLERANCE
    for sampler in (Euler("ve"), DDIM()):
        found, _ = ours(sampler, make(TARGETS[prediction]), latents(), levels)
        assert_same_steps(found, wanted, in_ve(levels), tolerance)


@pytest.mark.parametrize(("config", "spacing"), SIGMAS)
@pytest.mark.parametrize("final", ["clean", "first"])
def test_euler_sigmas(config, spacing, final):
    scheduler = diffusers.EulerDiscreteScheduler(
        final_sigmas_type="zero" if final == "clean" else "sigma_min",
        prediction_type="v_prediction",
        # So that both ends of the table are among what the sigmas are spaced between.
        timestep_spacing="linspace",
        **config,
    )
    scheduler.set_timesteps(10)
    levels = make_steps(table_of(scheduler), 10, spacing)
    if final == "first":
        # diffusers takes the last step from the first level to itself.
        levels = Level(*(value[:-1] for value in levels))
        scheduler.timesteps = scheduler.timesteps[:-1]
    found, _ = ours(Euler("ve"), make("v", fractional), latents(), levels)
    wanted = theirs(scheduler, latents() / np.float32(levels.a[0]))
    assert_same_steps(found, wanted, in_ve(levels))


@pytest.mark.parametrize("times", ["discrete", "continuous"])
def test_euler_log_linear_sigmas(times):
    """Even in log-SNR: N steps down to the first level, or one more from there to clean data."""
    scheduler = diffusers.EulerDiscreteScheduler(
        interpolation_type="log_linear",
        prediction_type="v_prediction",
        timestep_type=times,
        timestep_spacing="linspace",
    )
    scheduler.set_timesteps(10)
    count, final = {"discrete": (10, "first"), "continuous": (11, "clean")}[times]
    levels = make_steps(table_of(scheduler), count, "uniform_log_snr", final=final)
    their_times = jnp.asarray(scheduler.timesteps.numpy())

    def time_input(level):
        """Discrete times are even where the levels are not: those of other levels."""
        return their_times[jnp.abs(levels.log_snr[:-1] - level.log_snr[:, None]).argmin(axis=1)]

    if times == "continuous":
        np.testing.assert_allclose(their_times, -levels.log_snr[:-1] / 8, rtol=1e-5, atol=1e-6)
    found, _ = ours(Euler("ve"), make("v", time_input), latents(), levels)
    wanted = theirs(scheduler, latents() / np.float32(levels.a[0]))
    assert_same_steps(found, wanted, in_ve(levels))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_euler_ancestral(prediction, spacing):
    """It is DDIM with eta = 1, and ancestral sampling with the posterior's variance."""
    scheduler = diffusers.EulerAncestralDiscreteScheduler(
        prediction_type=prediction, timestep_spacing=spacing
    )
    scheduler.set_timesteps(10)
    levels = make_steps(table_of(scheduler), 10, spacing)
    for sampler in (DDIM(1.0), Ancestral()):
        found, noises = ours(sampler, make(TARGETS[prediction]), latents(), levels)
        wanted = theirs(scheduler, latents() / np.float32(levels.a[0]), noises)
        assert_same_steps(found, wanted, in_ve(levels))
        scheduler.set_timesteps(10)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace", "karras"])
@pytest.mark.parametrize("clip", [False, True])
def test_heun(prediction, spacing, clip):
    karras = spacing == "karras"
    scheduler = diffusers.HeunDiscreteScheduler(
        prediction_type=prediction,
        timestep_spacing="linspace" if karras else spacing,
        use_karras_sigmas=karras,
        clip_sample=clip,
    )
    scheduler.set_timesteps(10)
    levels = make_steps(table_of(scheduler), 10, spacing)
    denoiser = make(TARGETS[prediction], fractional if karras else rounded)
    denoiser = clip_x(denoiser) if clip else denoiser
    found, _ = ours(Heun("ve"), denoiser, latents(), levels)
    wanted = theirs(scheduler, latents() / np.float32(levels.a[0]))
    assert len(found) == 19
    assert_same_steps(found, wanted, in_ve(levels, 2))


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("name", ["Euler", "Heun"])
def test_flow_matching(shift, name):
    scheduler = getattr(diffusers, f"FlowMatch{name}DiscreteScheduler")(shift=shift)
    scheduler.set_timesteps(10)
    # diffusers spaces its times down to the table's last one, which it has shifted already.
    times = np.linspace(1, scheduler.sigma_min, 10)
    levels = steps_at(Shifted(RectifiedFlow(), 1 / shift), times)
    np.testing.assert_allclose(np.unique(levels.s), np.unique(scheduler.sigmas), rtol=1e-6)
    denoiser = make("flow", lambda level: 1000 * level.s)
    samplers = (Heun(),) if name == "Heun" else (Euler(), DDIM())
    for sampler in samplers:
        found, _ = ours(sampler, denoiser, latents(), levels)
        scheduler.set_timesteps(10)
        assert_same_steps(found, theirs(scheduler, latents()))


def test_flow_matching_stochastic():
    """x^ with new noise: DDIM with as large an eta as there is."""
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(stochastic_sampling=True)
    scheduler.set_timesteps(10)
    levels = steps_at(RectifiedFlow(), np.linspace(1, scheduler.sigma_min, 10))
    denoiser = make("flow", lambda level: 1000 * level.s)
    found, noises = ours(DDIM(1e9), denoiser, latents(), levels)
    assert_same_steps(found, theirs(scheduler, latents(), noises))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("spacing", ["karras", "exponential"])
@pytest.mark.parametrize(
    ("name", "sampler", "config"),
    [
        ("EDMEuler", Euler(), {}),
        ("EDMDPMSolverMultistep", DPMSolver(2), {"solver_order": 2}),
        (
            "EDMDPMSolverMultistep",
            DPMSolver(2, "exact"),
            {"solver_order": 2, "solver_type": "heun"},
        ),
        ("EDMDPMSolverMultistep", DPMSolver(3, halve_curvature=True), {"solver_order": 3}),
        (
            "EDMDPMSolverMultistep",
            DPMSolver(2, stochastic=True),
            {"solver_order": 2, "algorithm_type": "sde-dpmsolver++"},
        ),
    ],
)
def test_edm(name, sampler, config, spacing, prediction):
    scheduler = getattr(diffusers, f"{name}Scheduler")(
        prediction_type=prediction, sigma_schedule=spacing, **config
    )
    scheduler.set_timesteps(10)
    levels = make_steps(
        KarrasSchedule(), 10, {"exponential": "uniform_log_snr"}.get(spacing, spacing)
    )
    found, noises = ours(sampler, edm_denoiser(0.5, prediction), latents(80.0), levels)
    assert_same_steps(found, theirs(scheduler, latents(80.0), noises))


def test_karras_ve():
    """Algorithm 2 with churn, where the network sees the churned latents as in the paper."""
    from diffusers.schedulers.deprecated import KarrasVeScheduler

    scheduler = KarrasVeScheduler(sigma_min=0.3, sigma_max=4, s_churn=3, s_min=0.5, s_max=10)
    scheduler.set_timesteps(8)
    sigmas = scheduler.schedule.flip(0).numpy().astype(np.float64)
    schedule = KarrasSchedule(float(sigmas[-1]), float(sigmas[0]))
    levels = steps_at(schedule, schedule.time(-2 * np.log(sigmas)))
    sampler = StochasticKarras(schedule, 3, 0.5, 10, scheduler.config.s_noise)
    denoiser = make_denoiser(lambda z, s: network(z, s), "e", time_input=lambda level: level.s)
    z = latents(float(sigmas[0]))
    found, noises = ours(sampler, denoiser, z, levels)

    def output(sample, sigma):
        time = np.full(len(z), float(sigma), np.float32)
        return -torch.from_numpy(np.asarray(network(sample.float().numpy(), time)).copy())

    # In float64, since they subtract latents of deviation 16 from each other.
    sample, wanted = torch.from_numpy(z).double(), []
    module = importlib.import_module(KarrasVeScheduler.__module__)
    original = module.randn_tensor
    ends = [*scheduler.schedule.flip(0).tolist()[1:], 0.0]
    try:
        for i, t in enumerate(scheduler.timesteps):
            noise = torch.from_numpy(noises[2 * i].copy())
            module.randn_tensor = lambda *_, noise=noise, **__: noise
            hat, sigma_hat = scheduler.add_noise_to_input(sample, scheduler.schedule[t])
            step = scheduler.step(output(hat, sigma_hat), sigma_hat, ends[i], hat)
            sample = step.prev_sample
            wanted.append(sample.numpy())
            if ends[i]:
                sample = scheduler.step_correct(
                    output(sample, ends[i]), sigma_hat, ends[i], hat, sample, step.derivative
                ).prev_sample
                wanted.append(sample.numpy())
    finally:
        module.randn_tensor = original
    assert_same_steps(found, wanted)


def test_score_sde_ve():
    """Langevin corrector and reverse diffusion; one example, since they take means over batches."""
    scheduler = diffusers.ScoreSdeVeScheduler(8, 0.15, sigma_min=0.1, sigma_max=4.0)
    levels = make_steps(KarrasSchedule(0.1, 4.0), 8, "uniform_log_snr")
    sampler = LangevinCorrector(Ancestral(1.0), 0.15, count=2)
    denoiser = make("e", lambda level: level.s)
    z = latents(4.0)[:1]
    found, noises = ours(sampler, denoiser, z, levels)

    def score(sample, i):
        time = np.full(1, levels.s[i], np.float32)
        output = np.asarray(network(sample.numpy(), time)) / np.float32(-levels.s[i])
        return torch.from_numpy(output)

    sample, wanted = torch.from_numpy(z.copy()), []
    keys_B = example_keys(KEY, jnp.arange(1))
    for i, t in enumerate(scheduler.timesteps):
        keys = step_keys(keys_B, jnp.asarray(i))
        drawn = [normal(step_keys(keys, jnp.asarray(j)), z.shape[1:]) for j in range(2)]
        with given_noise(
            scheduler, [np.moveaxis(np.asarray(n), 1, -1) for n in (*drawn, noises[i])]
        ):
            for _ in range(2):
                sample = scheduler.step_correct(score(sample, i), sample).prev_sample
            step = scheduler.step_pred(score(sample, i), t, sample)
        sample = step.prev_sample
        wanted.append((sample if i < 7 else step.prev_sample_mean).numpy())
    assert_same_steps(found, wanted)


def test_beta_spaced_sigmas():
    """Sigmas at the quantiles of a beta distribution (Lee et al. 2024), as steps of one's own."""
    scheduler = diffusers.EulerDiscreteScheduler(use_beta_sigmas=True)
    scheduler.set_timesteps(10)
    table = table_of(scheduler)
    sigmas = np.asarray(scheduler.sigmas, np.float64)[:-1]
    levels = steps_at(table, table.time(-2 * np.log(sigmas)))
    found, _ = ours(DDIM(), make("e", fractional), latents(), levels)
    wanted = theirs(scheduler, latents() / np.float32(levels.a[0]))
    assert_same_steps(found, wanted, in_ve(levels))
