"""Samplers against diffusers' schedulers, latents after every step.

The network is a smooth function of latents and time, the same on both sides; noise is drawn here
and handed to diffusers. Schedulers that keep latents in the frame "ve" (Euler and its kin) are
compared after scaling by a.
"""

import contextlib
import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.diffusion.denoiser import clip_x, make_denoiser, threshold_x
from jaxgen.diffusion.discrete import CustomTable, DiscreteSchedule
from jaxgen.diffusion.levels import Level
from jaxgen.diffusion.noise import example_keys, normal, step_keys
from jaxgen.diffusion.samplers import (
    DDIM,
    Ancestral,
    DPMSolver,
    Euler,
    Heun,
    LearntAncestral,
    SingleStepDPMSolver,
    StochasticKarras,
)
from jaxgen.diffusion.schedules import KarrasSchedule, RectifiedFlow, Shifted
from jaxgen.diffusion.steps import make_steps, steps_at

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
torch = pytest.importorskip("torch", reason="torch (the [parity] extra) is not installed")
diffusers = pytest.importorskip("diffusers", reason="diffusers (the [parity] extra) is missing")

TABLES = {
    "linear": DiscreteSchedule(),
    "scaled_linear": DiscreteSchedule("scaled_linear", beta_first=0.00085, beta_last=0.012),
    "squaredcos_cap_v2": DiscreteSchedule("squared_cosine"),
}
BETAS = {"scaled_linear": {"beta_start": 0.00085, "beta_end": 0.012}}
TARGETS = {"epsilon": "e", "v_prediction": "v", "sample": "x", "flow_prediction": "flow"}
SHAPE = (3, 4, 4, 2)
KEY = jax.random.key(5)
TOLERANCE = 1e-5


def network(z, time):
    """Smooth in both, and neither odd in z nor the same for all examples."""
    time = jnp.asarray(time, jnp.float32).reshape(-1, 1, 1, 1)
    return 0.7 * jnp.tanh(z + 0.3) + 0.2 * jnp.sin(3 * z) + 0.3 * jnp.cos(time / 150) + 0.1 * z


def twice(z, time):
    """A mean and an output in [-1, 1] for the variance."""
    return jnp.concatenate([network(z, time), jnp.sin(z + time.reshape(-1, 1, 1, 1))], -1)


def latents(scale=1.0):
    return scale * np.asarray(jax.random.normal(jax.random.key(3), SHAPE))


def ours(sampler, denoiser, z, levels, table=None):
    """Latents after every row, and the noise of every row."""
    table = sampler.table(levels) if table is None else table
    keys = example_keys(KEY, jnp.arange(len(z)))
    state, zs, noises = sampler.start(jnp.asarray(z)), [], []
    for i in range(len(table.now.t)):
        row = jax.tree.map(lambda value, i=i: jnp.asarray(value[i]), table)
        row_keys = step_keys(keys, jnp.asarray(i))
        state = sampler.step(denoiser, state, row, row_keys)
        zs.append(np.asarray(state.z))
        noises.append(np.asarray(normal(row_keys, z.shape[1:])))
    return zs, noises


def swap(array):
    """Channels last to channels first."""
    return np.moveaxis(np.asarray(array), -1, 1)


@contextlib.contextmanager
def given_noise(scheduler, noises):
    """The noises, one after the other, instead of random ones."""
    module = importlib.import_module(type(scheduler).__module__)
    if not hasattr(module, "randn_tensor"):
        yield
        return
    original, rest = module.randn_tensor, iter(noises)
    module.randn_tensor = lambda shape, **_: torch.from_numpy(np.moveaxis(next(rest), -1, 1).copy())
    try:
        yield
    finally:
        module.randn_tensor = original


def theirs(scheduler, z, noises=(), net=network, **step):
    """Latents after every step, channels last."""
    sample = torch.from_numpy(swap(z).copy())
    zs = []
    with given_noise(scheduler, noises):
        for t in scheduler.timesteps:
            scaled = getattr(scheduler, "scale_model_input", lambda z, _: z)(sample, t).numpy()
            time = np.full(len(z), float(t), np.float32)
            output = np.asarray(net(np.moveaxis(scaled, 1, -1), time))
            output = torch.from_numpy(swap(output).copy())
            sample = scheduler.step(output, t, sample, **step).prev_sample
            zs.append(np.moveaxis(sample.numpy(), 1, -1))
    return zs


def assert_same_steps(found, wanted, scales=None, tolerance=TOLERANCE):
    assert len(found) == len(wanted)
    for i, (a, b) in enumerate(zip(found, wanted, strict=True)):
        b = b if scales is None else b * scales[i]
        assert np.isfinite(b).all()
        assert np.abs(a - b).max() <= tolerance * np.abs(b).max(), (
            f"step {i}: {np.abs(a - b).max() / np.abs(b).max():.2e}"
        )


def rounded(level):
    return jnp.round(1000 * level.t - 1)


def fractional(level):
    return 1000 * level.t - 1


def make(target="e", time=rounded, **kwargs):
    return make_denoiser(network, target, time_input=time, **kwargs)


def table_of(scheduler):
    """The scheduler's table, as it is after rounding to float32 (`test_tables` compares with ours).

    Its last entries are what most of the difference would come from: 1 - 0.999 in float32 is off by
    5e-5, and latents in the frame "ve" are divided by what follows from it.
    """
    a2 = scheduler.alphas_cumprod.numpy().astype(np.float64)
    with np.errstate(divide="ignore"):
        return CustomTable(tuple((np.log(a2) - np.log1p(-a2)).tolist()))


def scheduler_of(name, beta_schedule="linear", **config):
    kind = getattr(diffusers, name)
    return kind(beta_schedule=beta_schedule, **BETAS.get(beta_schedule, {}), **config)


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
def test_ddpm_learnt_range(spacing):
    scheduler = diffusers.DDPMScheduler(
        variance_type="learned_range", clip_sample=False, timestep_spacing=spacing
    )
    scheduler.set_timesteps(10)
    levels = make_steps(table_of(scheduler), 10, spacing)
    denoiser = make_denoiser(twice, "e", time_input=rounded, learnt_variance=True)
    found, noises = ours(LearntAncestral(), denoiser, latents(), levels)
    assert_same_steps(found, theirs(scheduler, latents(), quiet_end(noises), twice))


def in_ve(levels, repeated=1):
    """What latents of the frame "ve" are multiplied by after each step."""
    ends = np.repeat(levels.a[1:], repeated)
    return ends if repeated == 1 else ends[: len(ends) - 1]


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


SIGMAS = [
    ({"use_karras_sigmas": True}, "karras"),
    ({"use_exponential_sigmas": True}, "uniform_log_snr"),
]


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


# Not among them: the third order of sde-dpmsolver++, whose last coefficient has the wrong sign in
# diffusers (it does not vanish with the step), and that of sde-dpmsolver, which they do not have.
MULTISTEP = [
    {"solver_order": 1},
    {"solver_order": 2},
    {"solver_order": 2, "solver_type": "heun"},
    {"solver_order": 3},
    {"solver_order": 2, "algorithm_type": "sde-dpmsolver++"},
    {"solver_order": 2, "solver_type": "heun", "algorithm_type": "sde-dpmsolver++"},
    {"solver_order": 1, "algorithm_type": "sde-dpmsolver++"},
    {"solver_order": 2, "algorithm_type": "dpmsolver"},
    {"solver_order": 2, "solver_type": "heun", "algorithm_type": "dpmsolver"},
    {"solver_order": 3, "algorithm_type": "dpmsolver"},
    {"solver_order": 2, "algorithm_type": "sde-dpmsolver"},
    {"solver_order": 2, "solver_type": "heun", "algorithm_type": "sde-dpmsolver"},
]


def solver_of(config, single=False):
    """Our sampler of a configuration of theirs."""
    algorithm = config.get("algorithm_type", "dpmsolver++")
    kind = {"midpoint": "midpoint", "heun": "exact"}[config.get("solver_type", "midpoint")]
    shared = {"predicts": "x" if algorithm.endswith("++") else "e"}
    shared["stochastic"] = algorithm.startswith("sde")
    if single:
        return functools.partial(SingleStepDPMSolver, config["solver_order"], kind, **shared)
    return functools.partial(
        DPMSolver, config["solver_order"], kind, **shared, halve_curvature=True
    )


@pytest.mark.filterwarnings("ignore:.algorithm_type:FutureWarning")
@pytest.mark.parametrize("count", [10, 16])
@pytest.mark.parametrize(
    "config", MULTISTEP, ids=lambda config: "-".join(map(str, config.values()))
)
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_dpm_solver_multistep(config, spacing, count):
    final = "sigma_min" if config.get("algorithm_type", "++").endswith("solver") else "zero"
    scheduler = diffusers.DPMSolverMultistepScheduler(
        timestep_spacing=spacing,
        final_sigmas_type=final,
        steps_offset=1,
        **config,
    )
    scheduler.set_timesteps(count)
    levels = make_steps(
        table_of(scheduler),
        count,
        spacing,
        offset=1,
        final={"zero": "clean", "sigma_min": "first"}[final],
        without_first=True,
    )
    assert list(np.round(1000 * levels.t[:-1] - 1)) == scheduler.timesteps.tolist()
    found, noises = ours(solver_of(config)(), make(), latents(), levels)
    assert_same_steps(found, theirs(scheduler, latents(), noises))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("kind", TABLES)
@pytest.mark.parametrize("thresholding", [False, True])
def test_dpm_solver_predictions(prediction, kind, thresholding):
    scheduler = scheduler_of(
        "DPMSolverMultistepScheduler",
        kind,
        prediction_type=prediction,
        thresholding=thresholding,
        sample_max_value=2.0,
    )
    scheduler.set_timesteps(10)
    levels = make_steps(table_of(scheduler), 10, "linspace", without_first=True)
    denoiser = make(TARGETS[prediction])
    denoiser = threshold_x(denoiser, limit=2.0) if thresholding else denoiser
    found, _ = ours(DPMSolver(), denoiser, latents(), levels)
    assert_same_steps(found, theirs(scheduler, latents()))


@pytest.mark.parametrize("flags", [(False, False), (True, False), (False, True)])
def test_dpm_solver_lower_order_at_the_end(flags):
    lower, euler = flags
    scheduler = diffusers.DPMSolverMultistepScheduler(
        solver_order=3,
        lower_order_final=lower,
        euler_at_final=euler,
        final_sigmas_type="sigma_min",
    )
    scheduler.set_timesteps(10)
    levels = make_steps(table_of(scheduler), 10, "linspace", without_first=True, final="first")
    sampler = DPMSolver(3, halve_curvature=True, lower_order_final=lower)
    found, _ = ours(sampler, make(), latents(), levels)
    wanted = theirs(scheduler, latents())
    kept = slice(0, -1) if euler else slice(None)
    assert_same_steps(found[kept], wanted[kept])


@pytest.mark.parametrize(
    ("config", "spacing"), [*SIGMAS, ({"use_lu_lambdas": True}, "uniform_log_snr")]
)
def test_dpm_solver_sigmas(config, spacing):
    scheduler = diffusers.DPMSolverMultistepScheduler(prediction_type="v_prediction", **config)
    scheduler.set_timesteps(10)
    levels = make_steps(table_of(scheduler), 10, spacing)

    def told(level):
        # Whole numbers are made of the times in diffusers: by rounding them, or by cutting.
        index = 1000 * level.t - 1
        return (
            jnp.floor(index + 1e-3)
            if spacing != "karras" and "lu" not in str(config)
            else (jnp.round(index))
        )

    found, _ = ours(DPMSolver(), make("v", told), latents(), levels)
    assert_same_steps(found, theirs(scheduler, latents()))


@pytest.mark.filterwarnings("ignore:.algorithm_type:FutureWarning")
@pytest.mark.parametrize("count", [9, 10, 11, 12])
@pytest.mark.parametrize(
    "config",
    [
        {"solver_order": 2},
        {"solver_order": 2, "solver_type": "heun"},
        {"solver_order": 3},
        {"solver_order": 3, "solver_type": "heun"},
        {"solver_order": 2, "algorithm_type": "sde-dpmsolver++"},
        {"solver_order": 2, "algorithm_type": "dpmsolver"},
        {"solver_order": 3, "solver_type": "heun", "algorithm_type": "dpmsolver"},
    ],
    ids=lambda config: "-".join(map(str, config.values())),
)
def test_dpm_solver_singlestep(config, count):
    final = "sigma_min" if config.get("algorithm_type", "++") == "dpmsolver" else "zero"
    scheduler = diffusers.DPMSolverSinglestepScheduler(
        prediction_type="v_prediction", final_sigmas_type=final, **config
    )
    scheduler.set_timesteps(count)
    levels = make_steps(
        table_of(scheduler),
        count,
        "linspace",
        without_first=True,
        final={"zero": "clean", "sigma_min": "first"}[final],
    )
    # diffusers turns it on where the number of steps, or an end at clean data, asks for it.
    sampler = solver_of(config, single=True)(lower_order_final=scheduler.config.lower_order_final)
    found, noises = ours(sampler, make("v"), latents(), levels)
    assert_same_steps(found, theirs(scheduler, latents(), noises))


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


def edm_denoiser(sigma_data, prediction):
    """The preconditioning of Karras et al. (2022, table 1), for latents in the frame "ve"."""

    def denoiser(z, level):
        sigma = level.s.reshape(-1, 1, 1, 1)
        total = jnp.sqrt(sigma**2 + sigma_data**2)
        sign = 1 if prediction == "epsilon" else -1
        output = network(z / total, jnp.log(level.s) / 4)
        x = sigma_data**2 / total**2 * z + sign * sigma * sigma_data / total * output
        return make_denoiser(lambda *_: x, "x")(z, level)

    return denoiser


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
