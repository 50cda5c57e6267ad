"""Samplers against closed forms and each other: where they coincide, both ends, and encoding."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chains import (
    COSINE,
    KEY,
    MEAN,
    MIXTURE,
    SCALINGS,
    VARIANCE,
    chain,
    level_at,
    one_gaussian,
    run,
    start,
    through,
    true_moments,
)

from jaxgen.diffusion.denoiser import clip_x, make_denoiser
from jaxgen.diffusion.exact import gaussian_denoiser
from jaxgen.diffusion.process.example_keys import example_keys
from jaxgen.diffusion.process.levels import Level
from jaxgen.diffusion.process.schedules import CosineSchedule, RectifiedFlow
from jaxgen.diffusion.process.step_levels import make_steps, reverse_steps, steps_at
from jaxgen.diffusion.process.table_schedules import DiscreteSchedule
from jaxgen.diffusion.samplers import (
    DDIM,
    Adams,
    AnalyticDPM,
    Ancestral,
    AngularDDIM,
    DPMSolver,
    Euler,
    Heun,
    LangevinCorrector,
    Midpoint,
    SASolver,
    SingleStepDPMSolver,
    StochasticKarras,
    UniPC,
)
from jaxgen.errors import InputError

SAME = {
    "eta 0": (DDIM(0.0), AngularDDIM()),
    "eta 1": (DDIM(1.0), Ancestral(0.0)),
    "first order": (DDIM(0.0), DPMSolver(1)),
    "first order of e": (DDIM(0.0), DPMSolver(1, predicts="e")),
    "single steps of first order": (DDIM(0.0), SingleStepDPMSolver(1)),
    "first order of the SDE": (DDIM(1.0), DPMSolver(1, stochastic=True)),
    "Euler, ve": (DDIM(0.0), Euler("ve")),
    "Euler, flow": (DDIM(0.0), Euler("flow")),
    "no churn": (Heun("ve"), StochasticKarras(COSINE, churn=0.0)),
    "no churn, Euler": (Euler("ve"), StochasticKarras(COSINE, churn=0.0, second_order=False)),
    "Adams of first order": (DDIM(0.0), Adams(1)),
    "midpoint, one row": (DDIM(1e9), Midpoint(COSINE, eta=1e9)),
}


@pytest.mark.parametrize("name", SAME)
@pytest.mark.parametrize("scaling", SCALINGS)
def test_samplers_that_are_the_same(name, scaling):
    one, other = SAME[name]
    levels = make_steps(SCALINGS[scaling], 7, "uniform_log_snr", final="first")
    np.testing.assert_allclose(run(one, levels), run(other, levels), rtol=3e-4, atol=3e-5)


def test_euler_for_flow_matching_is_euler():
    """z + dt u, with the velocity that the network predicts, to the last bit or so."""

    def velocity(z, t):
        return jnp.sin(3 * z) + t[:, None] / 1000

    levels = make_steps(RectifiedFlow(), 8)
    z = wanted = np.asarray(start(levels, 4))
    for t in np.arange(8, 0, -1) / 8:
        wanted = wanted - np.asarray(velocity(wanted, jnp.full(4, 1000 * t))) / 8
    for sampler in (Euler(), DDIM()):
        found = run(sampler, levels, make_denoiser(velocity, "flow"), z=jnp.asarray(z))
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_euler_in_the_scaling_vp_follows_the_circle():
    """z - d v^ (the first order of cos(d) z - sin(d) v^)."""
    levels = make_steps(COSINE, 5, "uniform_angle")
    table = Euler().table(levels)
    d = np.diff(np.arctan2(levels.s, levels.a))
    wanted = np.stack([np.ones(5), -d * levels.s[:-1], d * levels.a[:-1]], -1)
    np.testing.assert_allclose(table.weights, wanted, rtol=1e-5, atol=1e-7)


FIXED = {
    "ddim": DDIM(),
    "angular": AngularDDIM(),
    "eta": DDIM(0.7),
    "ancestral": Ancestral(),
    "euler": Euler("vp"),
    "heun": Heun("flow"),
    "2m": DPMSolver(2),
    "3m": DPMSolver(3),
    "2m of e": DPMSolver(2, predicts="e"),
    "sde": DPMSolver(2, stochastic=True),
    "sde of e": DPMSolver(2, predicts="e", stochastic=True),
    "2s": SingleStepDPMSolver(2),
    "3s": SingleStepDPMSolver(3, "exact"),
    "churn": StochasticKarras(COSINE, churn=4.0, low=0.01, high=99.0),
    "langevin": LangevinCorrector(Ancestral(), 0.1, rule="fixed"),
    "lms": Adams(),
    "plms": Adams(4, "steps", repeat_first=True),
    "pndm": Adams(4, "steps", runge_kutta=COSINE),
    "lms after Runge-Kutta": Adams(3, runge_kutta=COSINE),
    "midpoint": Midpoint(COSINE, eta=0.5),
    "unipc": UniPC(3),
    "unipc of e": UniPC(2, "bh1", "e"),
    "sa": SASolver(3, 3),
}


@pytest.mark.parametrize("name", FIXED)
def test_the_scaling_does_not_matter(name):
    """The same problem in other units gives the same sample, in those units."""
    final = "first" if name.endswith("of e") else "clean"
    # Churn goes up again in noise, and more than the tolerance is lost to rounding in float32.
    precise = name == "churn"
    results = {}
    for scaling, schedule in SCALINGS.items():
        levels = make_steps(schedule, 6, "uniform_angle", final=final)
        vp = make_steps(COSINE, 6, "uniform_angle", final=final)
        with jax.enable_x64(precise):
            z = np.asarray(start(vp, 4), np.float64 if precise else np.float32)
            z = run(FIXED[name], levels, z=z * float(levels.s[0] / vp.s[0]))
        results[scaling] = z / levels.a[-1]
    for scaling in ("ve", "flow"):
        # In ve latents of deviation 400 come down to 1, in float32.
        loose = (scaling == "ve" and not precise) or name in ("plms", "pndm")
        size = max(1.0, np.abs(results["vp"]).max())  # Adams' methods overshoot in so few steps
        tolerance = (2e-3 if loose else 2e-4) * size
        np.testing.assert_allclose(results[scaling], results["vp"], atol=tolerance)


NOISIEST = {
    "cosine": CosineSchedule(-math.inf, math.inf),
    "zero terminal SNR": DiscreteSchedule(zero_terminal_snr=True),
    "flow": RectifiedFlow(),
}


def refuses_pure_noise(name):
    adams = ("lms", "plms", "pndm", "lms after Runge-Kutta")
    return name in ("churn", "midpoint", *adams) or name.endswith("of e")


@pytest.mark.parametrize("name", FIXED)
@pytest.mark.parametrize("schedule", NOISIEST)
def test_tables_between_pure_noise_and_clean_data(name, schedule):
    """Finite numbers from a = 0 to s = 0, or one clear error."""
    for count in (1, 2, 3, 12):
        levels = make_steps(NOISIEST[schedule], count)
        assert (levels.a[0], levels.s[-1]) == (0, 0)
        if refuses_pure_noise(name):
            with pytest.raises(InputError, match="cannot begin at infinite s / a"):
                FIXED[name].table(levels)
            continue
        table = FIXED[name].table(levels)
        table = table.row if name == "langevin" else table
        assert all(np.isfinite(column).all() for column in table[2:])
        assert max(np.abs(column).max() for column in table[2:]) < 10


@pytest.mark.parametrize("name", [name for name in FIXED if not refuses_pure_noise(name)])
def test_from_pure_noise_to_clean_data(name):
    """The samples are the data's, and their gradients finite and right."""
    levels = make_steps(NOISIEST["zero terminal SNR"], 16, "uniform_angle")

    def total(z, mean):
        x = chain(FIXED[name], levels, gaussian_denoiser(mean, np.eye(2) * VARIANCE), z)
        return x.sum(), x

    mean = jnp.array([0.6, -0.4])
    slopes, x = jax.grad(total, argnums=(0, 1), has_aux=True)(start(levels, 1_000), mean)
    assert all(np.isfinite(slope).all() for slope in slopes)
    np.testing.assert_allclose(x.mean(0), mean, atol=0.1)
    np.testing.assert_allclose(np.cov(x.T), np.eye(2) * VARIANCE, atol=0.1)
    np.testing.assert_allclose(slopes[1], 1_000, rtol=0.05)  # samples move as their mean does


@pytest.mark.parametrize("target", ["x", "v", "flow"])
def test_a_network_at_both_ends(target):
    """The first step from pure noise is to the network's estimate of the data, whatever it is."""
    levels = make_steps(DiscreteSchedule(zero_terminal_snr=True), 4, "trailing")
    denoiser = make_denoiser(lambda z, t: jnp.tanh(z) + t[:, None] / 1e4, target)
    z = np.asarray(start(levels, 4))
    estimate, keys_B = denoiser(z, level_at(levels, 0)), example_keys(KEY, jnp.arange(4))
    for name in ("ddim", "angular", "2m", "2s"):
        row = jax.tree.map(lambda v: jnp.asarray(v[0]), FIXED[name].table(levels))
        found = FIXED[name].step(denoiser, FIXED[name].start(z), row, keys_B).z
        wanted = levels.a[1] * estimate.x + levels.s[1] * z
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
        assert np.isfinite(run(FIXED[name], levels, denoiser, z=z)).all()


def test_inversion_against_the_closed_form():
    """Data become latents by (a' m + sqrt(a'^2 c^2 + s'^2) / c (x - m)), ever more exactly."""
    denoiser = one_gaussian()
    x = np.linspace(-1, 2, 7, dtype=np.float32)[:, None]
    errors = []
    for count in (20, 40, 80):
        levels = make_steps(COSINE, count)
        z = np.asarray(through(DDIM(), denoiser, x, DDIM().table(reverse_steps(levels))))
        first = level_at(levels, 0)
        wanted = first.a * MEAN + np.sqrt(true_moments(first)[1] / VARIANCE) * (x - MEAN)
        errors.append(np.abs(z - wanted).max())
        back = through(DDIM(), denoiser, z, DDIM().table(levels))
        assert np.abs(back - x).max() < 8 / count
    ratios = np.array(errors[:-1]) / errors[1:]
    np.testing.assert_allclose(ratios, 2, atol=0.4)


@pytest.mark.parametrize("scaling", SCALINGS)
def test_round_trip(scaling):
    """Encode, then decode, on a mixture; by the rotation too, from the first level with noise."""
    x = np.float32([[1.1, -0.3], [-0.8, 0.9], [-1.5, 0.6]])

    def there_and_back(sampler, levels):
        z = through(sampler, MIXTURE, x, sampler.table(reverse_steps(levels)))
        return through(sampler, MIXTURE, z, sampler.table(levels))

    levels = make_steps(SCALINGS[scaling], 60, "uniform_angle")
    np.testing.assert_allclose(there_and_back(DDIM(), levels), x, atol=0.15)
    levels = make_steps(SCALINGS[scaling], 40, "uniform_angle", final="first")
    for sampler in (AngularDDIM(), Heun(), DPMSolver(2)):
        tolerance = 0.2 if sampler == AngularDDIM() else 0.05
        np.testing.assert_allclose(there_and_back(sampler, levels), x, atol=tolerance)


def test_what_cannot_encode_says_so():
    rising = reverse_steps(make_steps(COSINE, 5))
    for sampler in (Heun(), Euler(), DPMSolver(2), SingleStepDPMSolver(2), UniPC(), Adams()):
        with pytest.raises(InputError, match="levels from clean data: no noise"):
            sampler.table(rising)
    one_way = (Ancestral(), StochasticKarras(COSINE), Midpoint(COSINE), SASolver())
    for sampler in (*one_way, DPMSolver(2, stochastic=True)):
        with pytest.raises(InputError, match="levels from data to noise"):
            sampler.table(rising)
    with pytest.raises(InputError, match="eta is 0\\.5 for levels from data to noise"):
        DDIM(0.5).table(rising)


def test_clipping_keeps_samples_in_range():
    """With and without recomputing e^, which differ."""
    levels = make_steps(COSINE, 20)
    clipped = (clip_x(MIXTURE, -0.6, 0.6, recompute_e=flag) for flag in (True, False))
    both = [run(DDIM(), levels, denoiser) for denoiser in clipped]
    assert all(np.abs(x).max() <= 0.6 + 1e-5 for x in both)
    assert np.abs(both[0] - both[1]).max() > 1e-3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: DDIM(-0.1), "eta is -0.1, expected a finite number >= 0"),
        (lambda: DDIM(math.nan), "eta is nan"),
        (lambda: Ancestral(1.5), "gamma is 1.5, expected 0 <= gamma <= 1"),
        (lambda: Euler("sub-vp"), "scaling is 'sub-vp', expected vp, ve, flow or None"),
        (lambda: DPMSolver(4), "order is 4, expected 1, 2 or 3"),
        (lambda: DPMSolver(2, "heun"), "variant is 'heun', expected exact or midpoint"),
        (lambda: SingleStepDPMSolver(2, predicts="v"), "predicts is 'v', expected x or e"),
        (lambda: StochasticKarras(COSINE, churn=-1), "churn is -1, expected a finite number >= 0"),
        (
            lambda: StochasticKarras(COSINE, low=2, high=1),
            "low is 2, high is 1, expected low <= high",
        ),
        (lambda: LangevinCorrector(DDIM(), 0), "size is 0, expected a finite number > 0"),
        (lambda: LangevinCorrector(DDIM(), count=0), "count is 0, expected at least 1"),
        (lambda: LangevinCorrector(Heun()), "predictor is Heun, expected one without memory"),
        (lambda: LangevinCorrector(DDIM(), rule="ald"), "rule is 'ald', expected snr or fixed"),
        (lambda: Adams(5), "order is 5, expected 1 to 4"),
        (lambda: Adams(2, "t"), "variable is 't', expected sigma or steps"),
        (lambda: Adams(1, repeat_first=True), "repeat_first with order=1"),
        (lambda: Adams(1, runge_kutta=COSINE), "runge_kutta with order=1"),
        (lambda: Adams(2, "steps", True, COSINE), "repeat_first with runge_kutta, expected one"),
        (
            lambda: Adams().table(
                reverse_steps(Level(*(v[:-1] for v in make_steps(RectifiedFlow(), 4))))
            ),
            "Adams cannot end at infinite s / a",
        ),
        (lambda: Midpoint(COSINE, eta=-1), "eta is -1, expected a finite number >= 0"),
        (lambda: UniPC(4), "order is 4, expected 1 to 3"),
        (lambda: UniPC(2, "bh3"), "variant is 'bh3', expected bh1 or bh2"),
        (lambda: SASolver(2, 5), "corrector_order is 5, expected 1 to 4"),
        (lambda: SASolver(tau=-1), "tau is -1, expected a finite number >= 0"),
        (lambda: SASolver(predicts="v"), "predicts is 'v', expected x or e"),
        (
            lambda: AnalyticDPM((-1.0,)),
            "unknown is negative or infinite, expected finite variances",
        ),
        (lambda: AnalyticDPM((0.1,)).table(make_steps(COSINE, 3)), "1 variances for 3 steps"),
        (lambda: AnalyticDPM((0.1,), eta=2), "eta is 2, expected 0 <= eta <= 1"),
        (
            lambda: DPMSolver(2, predicts="e").table(make_steps(COSINE, 3)),
            "predicts is 'e' with a last step to clean data",
        ),
        (
            lambda: Heun("ve").table(make_steps(RectifiedFlow(), 3)),
            "Heun cannot begin at infinite s / a",
        ),
        (
            lambda: Euler().table(Level(*np.array([[0.5, 0.1], [0, 1], [0.4, 0.9], [0.4, 0.1]]))),
            "levels have none of the scalings",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_first_step_of_a_single_step_solver_from_pure_noise():
    """It is of first order, so that no step of second order spans an infinite log-SNR."""
    levels = steps_at(RectifiedFlow(), [1.0, 0.8, 0.5, 0.3, 0.1])
    table = SingleStepDPMSolver(2).table(levels)
    of_z = table.weights[:, :2]
    assert (of_z[0, 1], of_z[2, 0]) == (0, 0)
    assert np.isfinite(table.weights).all()
