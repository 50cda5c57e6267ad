"""Solvers of higher order against diffusers' schedulers, latents after every step."""

import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.diffusion.denoiser import threshold_x
from jaxgen.diffusion.process.schedules import RectifiedFlow
from jaxgen.diffusion.process.step_levels import make_steps, steps_at
from jaxgen.diffusion.process.table_schedules import CustomTable
from jaxgen.diffusion.samplers import (
    Adams,
    DPMSolver,
    Midpoint,
    SASolver,
    SingleStepDPMSolver,
    UniPC,
)

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
torch = pytest.importorskip("torch", reason="torch (the [parity] extra) is not installed")
diffusers = pytest.importorskip("diffusers", reason="diffusers (the [parity] extra) is missing")

from diffusers_steps import (  # noqa: E402
    SIGMAS,
    TABLES,
    TARGETS,
    TOLERANCE,
    assert_same_steps,
    fractional,
    in_float64,
    in_ve,
    latents,
    make,
    ours,
    scheduler_of,
    table_of,
    theirs,
)

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


CLIPPED = {
    "DPMSolverMultistep": (DPMSolver(), "clean", {}),
    "DPMSolverSinglestep": (SingleStepDPMSolver(), "clean", {}),
    "SASolver": (
        SASolver(tau=0.6, low=0.0, high=1.0),
        "first",
        {"tau_func": lambda t: torch.tensor(0.6)},
    ),
}


@pytest.mark.parametrize("lowest", [-5.1, -2.0])
@pytest.mark.parametrize(
    ("name", "spacing"),
    [(name, "linspace") for name in CLIPPED]
    + [("DPMSolverMultistep", "leading"), ("DPMSolverMultistep", "trailing")],
)
def test_lambda_min_clipped(name, spacing, lowest):
    """The table without its noisiest entries; of the others each keeps its index."""
    sampler, final, config = CLIPPED[name]
    if spacing != "linspace":
        config = {**config, "timestep_spacing": spacing}
    scheduler = scheduler_of(
        f"{name}Scheduler",
        "squaredcos_cap_v2",
        prediction_type="v_prediction",
        lambda_min_clipped=lowest,
        **config,
    )
    scheduler.set_timesteps(10)
    log_snr = table_of(scheduler).table
    table = CustomTable(tuple(log_snr[log_snr >= 2 * lowest].tolist()))
    assert 500 < table.steps < 1000
    if spacing == "trailing":  # with steps as long as those of the whole table
        levels = steps_at(table, np.arange(table.steps, 0, -100) / table.steps)
    else:
        levels = make_steps(table, 10, spacing, without_first=True, final=final)
    assert list(np.round(table.index(levels.t[:-1]))) == scheduler.timesteps.tolist()
    denoiser = make("v", lambda level: jnp.round(table.index(level.t)))
    found, noises = ours(sampler, denoiser, latents(), levels)
    assert_same_steps(found, theirs(in_float64(scheduler), latents(), noises))


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

    def time_input(level):
        # Whole numbers are made of the times in diffusers: by rounding them, or by cutting.
        index = 1000 * level.t - 1
        return (
            jnp.floor(index + 1e-3)
            if spacing != "karras" and "lu" not in str(config)
            else (jnp.round(index))
        )

    found, _ = ours(DPMSolver(), make("v", time_input), latents(), levels)
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


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("spacing", ["linspace", "trailing"])
@pytest.mark.parametrize("count", [10, 16])
def test_deis(prediction, order, spacing, count, monkeypatch):
    """DEIS in log sigma is DPM-Solver with exact polynomials of e^."""
    scheduler = diffusers.DEISMultistepScheduler(
        prediction_type=prediction, solver_order=order, timestep_spacing=spacing
    )
    scheduler.set_timesteps(count)
    levels = make_steps(table_of(scheduler), count, spacing, without_first=True, final="first")
    found, _ = ours(
        DPMSolver(order, "exact", predicts="e"), make(TARGETS[prediction]), latents(), levels
    )
    # It takes logarithms of tensors with numpy, which numpy 2 no longer does.
    module = importlib.import_module(type(scheduler).__module__)
    monkeypatch.setattr(module, "np", torch)
    assert_same_steps(found, theirs(in_float64(scheduler), latents()))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_lms(prediction, spacing):
    scheduler = diffusers.LMSDiscreteScheduler(prediction_type=prediction, timestep_spacing=spacing)
    scheduler.set_timesteps(10)
    levels = make_steps(table_of(scheduler), 10, spacing)
    wanted = theirs(scheduler, latents() / np.float32(levels.a[0]))
    found, _ = ours(Adams(), make(TARGETS[prediction]), latents(), levels)
    # They integrate numerically, to 1e-4.
    assert_same_steps(found, wanted, in_ve(levels), 2e-5)


@pytest.mark.parametrize("one", [False, True])
def test_pndm(one):
    """PLMS. (With v they average v rather than e^, and convert it with one of the latents.)"""
    scheduler = diffusers.PNDMScheduler(skip_prk_steps=True, set_alpha_to_one=one, steps_offset=1)
    scheduler.set_timesteps(10)
    final = "clean" if one else "first"
    levels = make_steps(table_of(scheduler), 10, "leading", offset=1, final=final)
    wanted = theirs(scheduler, latents())
    found, _ = ours(Adams(4, "steps", repeat_first=True), make(), latents(), levels)
    assert len(found) == 11
    assert_same_steps(found, wanted)


@pytest.mark.parametrize("one", [False, True])
@pytest.mark.parametrize("count", [4, 10, 20])
@pytest.mark.parametrize("kind", TABLES)
def test_pndm_with_steps_of_runge_kutta(kind, count, one):
    """(Their middle is half of 1000 // N entries of the table away: whole numbers here.)"""
    scheduler = scheduler_of(
        "PNDMScheduler", kind, skip_prk_steps=False, set_alpha_to_one=one, steps_offset=1
    )
    scheduler.set_timesteps(count)
    table, final = table_of(scheduler), "clean" if one else "first"
    levels = make_steps(table, count, "leading", offset=1, final=final)
    found, _ = ours(Adams(4, "steps", runge_kutta=table), make(), latents(), levels)
    wanted = theirs(scheduler, latents())
    assert len(found) == count + 9
    assert_same_steps(found, wanted)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_midpoint(prediction, spacing, eta, monkeypatch):
    name = "KDPM2AncestralDiscreteScheduler" if eta else "KDPM2DiscreteScheduler"
    kind = getattr(diffusers, name)
    # Numpy 2 no longer takes logarithms of tensors.
    of_sigma = kind._sigma_to_t
    monkeypatch.setattr(
        kind, "_sigma_to_t", lambda self, *args: of_sigma(self, *map(np.asarray, args))
    )
    scheduler = kind(prediction_type=prediction, timestep_spacing=spacing)
    scheduler.set_timesteps(10)
    table = table_of(scheduler)
    levels = make_steps(table, 10, spacing)
    sampler = Midpoint(table, eta)
    rows = sampler.table(levels)
    found, noises = ours(sampler, make(TARGETS[prediction], fractional), latents(), levels)
    wanted = theirs(scheduler, latents() / np.float32(levels.a[0]), noises[1::2])
    assert_same_steps(found, wanted, rows.next.a)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize(
    ("variant", "predicts", "final"),
    [
        ("bh2", "x", "zero"),
        ("bh2", "x", "sigma_min"),
        ("bh1", "x", "sigma_min"),
        ("bh1", "e", "sigma_min"),
        ("bh2", "e", "sigma_min"),
    ],
)
def test_unipc(prediction, order, variant, predicts, final):
    """(bh1 ends in nan at clean data there.)"""
    scheduler = diffusers.UniPCMultistepScheduler(
        prediction_type=prediction,
        solver_order=order,
        solver_type=variant,
        predict_x0=predicts == "x",
        final_sigmas_type=final,
    )
    scheduler.set_timesteps(10)
    final = {"zero": "clean", "sigma_min": "first"}[final]
    levels = make_steps(table_of(scheduler), 10, "linspace", without_first=True, final=final)
    found, _ = ours(UniPC(order, variant, predicts), make(TARGETS[prediction]), latents(), levels)
    # Rounding of x^ is divided by a small s where e^ is made of it.
    tolerance = 1e-4 if predicts == "e" and prediction != "epsilon" else TOLERANCE
    wanted = theirs(in_float64(scheduler), latents())
    assert_same_steps(found, wanted, tolerance=tolerance)


@pytest.mark.parametrize("orders", [(1, 1), (2, 2), (2, 1), (3, 3), (1, 3), (3, 4)])
@pytest.mark.parametrize("tau", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("predicts", ["x", "e"])
def test_sa_solver(orders, tau, predicts):
    scheduler = diffusers.SASolverScheduler(
        predictor_order=orders[0],
        corrector_order=orders[1],
        tau_func=lambda t: torch.tensor(tau if 200 <= t <= 800 else 0.0),
        algorithm_type="data_prediction" if predicts == "x" else "noise_prediction",
    )
    scheduler.set_timesteps(10)
    levels = make_steps(table_of(scheduler), 10, "linspace", without_first=True, final="first")
    # Step i of the table is the time (i + 1) / 1000.
    sampler = SASolver(*orders, tau, 0.201, 0.801, predicts)
    z, denoiser = np.asarray(latents(), np.float64), make()
    with jax.enable_x64(True):  # steps in noise enlarge what was rounded before them
        found, noises = ours(sampler, denoiser, z, levels)
    assert_same_steps(found, theirs(in_float64(scheduler), z, noises))


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize(
    ("name", "sampler"),
    [
        ("DPMSolverMultistep", DPMSolver(2)),
        ("DPMSolverSinglestep", SingleStepDPMSolver(2)),
        ("UniPCMultistep", UniPC(2)),
    ],
)
def test_flow_matching(name, sampler, shift):
    """The same solvers for straight lines: another scaling, another table."""
    scheduler = getattr(diffusers, f"{name}Scheduler")(
        use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=shift
    )
    scheduler.set_timesteps(10)
    levels = steps_at(RectifiedFlow(), np.asarray(scheduler.sigmas, np.float64)[:-1])
    # Times are cut to whole numbers there.
    denoiser = make("flow", lambda level: jnp.floor(1000 * level.s + 1e-3))
    found, _ = ours(sampler, denoiser, latents(), levels)
    assert_same_steps(found, theirs(scheduler, latents()))
