"""Times of training: their distributions, densities, and what they depend on."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import NamedSharding, PartitionSpec

from jaxgen.diffusion.objectives.time_distributions import (
    LogitNormal,
    LowDiscrepancy,
    NormalLogSNR,
    Steps,
    Uniform,
    UniformLogSNR,
)
from jaxgen.diffusion.process.derived_schedules import Shifted
from jaxgen.diffusion.process.learned_schedule import (
    LearnedSchedule,
    LearnedScheduleConfig,
    MonotoneLogSNR,
)
from jaxgen.diffusion.process.schedules import CosineSchedule, KarrasSchedule, RectifiedFlow
from jaxgen.errors import InputError
from jaxgen.parallel import make_mesh

KEY = jax.random.key(0)
LEARNT = nn.meta.unbox(
    jax.eval_shape(MonotoneLogSNR(LearnedScheduleConfig()).init, KEY, np.float32(0.5))
)["params"]
WEIGHTED = Steps(4, (0.1, 0.2, 0.3, 0.4))
CONTINUOUS = {
    "uniform": Uniform(),
    "part": Uniform(0.2, 0.7),
    "logit normal": LogitNormal(-0.3, 1.2),
    "uniform log-SNR": UniformLogSNR(Shifted(CosineSchedule(-8, 8), 0.5)),
    "normal log-SNR": NormalLogSNR(RectifiedFlow(), 0.5, 2.0),
    "low discrepancy": LowDiscrepancy(LogitNormal()),
}
ALL = {**CONTINUOUS, "steps": Steps(10), "weighted steps": WEIGHTED}


@pytest.mark.parametrize("name", CONTINUOUS)
def test_the_density_is_that_of_the_quantiles(name):
    """p(q(u)) dq/du = 1, and the density integrates to one."""
    times = CONTINUOUS[name]
    edges = np.linspace(0, 1, 200001)

    @jax.jit
    def run(u, middle):
        t, slope = jax.vmap(jax.value_and_grad(times.quantile))(u)
        return times.density(t) * slope, times.density(middle).mean()

    middle = np.float32((edges[1:] + edges[:-1]) / 2)
    product, whole = run(np.linspace(0.02, 0.98, 33, dtype=np.float32), middle)
    np.testing.assert_allclose(product, 1, rtol=3e-3)
    np.testing.assert_allclose(whole, 1, rtol=2e-3)


@functools.partial(jax.jit, static_argnums=0)
def drawn(name, key, index_B):
    return ALL[name].draw(key, index_B)


@pytest.mark.parametrize("name", ALL)
def test_draws_follow_the_quantiles(name):
    t = np.sort(drawn(name, KEY, np.arange(8000)))
    assert t.dtype == np.float32
    assert t[0] >= 0
    assert t[-1] <= 1
    u = np.float32((np.arange(8000) + 0.5) / 8000)
    quantiles, density = jax.jit(lambda: (ALL[name].quantile(u), ALL[name].density(t)))()
    assert np.abs(t - np.asarray(quantiles)).mean() < 0.01
    # Divided by the density every mean is one over uniform times.
    weight = 1 / np.asarray(density)
    if name not in ("part", "logit normal", "low discrepancy"):  # whose weights have no variance
        np.testing.assert_allclose(weight.mean(), 1, atol=0.25)


@pytest.mark.parametrize("name", [name for name in ALL if name != "low discrepancy"])
def test_a_time_depends_on_key_and_index_alone(name):
    index = np.random.default_rng(0).integers(0, 8000, 8000)
    whole = np.asarray(drawn(name, KEY, np.arange(8000)))
    np.testing.assert_array_equal(drawn(name, KEY, index), whole[index])
    assert not np.array_equal(drawn(name, jax.random.key(1), index), whole[index])


@pytest.mark.parametrize("times", [Uniform(), LowDiscrepancy()], ids=["uniform", "low"])
def test_times_do_not_depend_on_the_mesh(times):
    index = np.arange(16)
    draw = jax.jit(times.draw)
    mesh = make_mesh("data=4,model=2")
    spread = jax.device_put(index, NamedSharding(mesh, PartitionSpec("data")))
    np.testing.assert_array_equal(draw(KEY, spread), draw(KEY, index))


def test_low_discrepancy_is_one_offset_and_even_steps():
    """Kingma et al. 2021: u_i = (u_0 + i / k) mod 1."""
    draw = jax.jit(lambda key: LowDiscrepancy().draw(key, jnp.arange(8)))
    t, u = np.asarray(draw(KEY)), float(jax.jit(jax.random.uniform)(KEY))
    np.testing.assert_allclose(t, (u + np.arange(8) / 8) % 1, atol=1e-6)
    np.testing.assert_allclose(np.diff(np.sort(t)), 1 / 8, atol=1e-6)
    firsts = jax.jit(jax.vmap(lambda i: draw(jax.random.key(i))[0]))(np.arange(300))
    assert abs(np.mean(firsts) - 0.5) < 0.06
    assert np.std(firsts) == pytest.approx(1 / math.sqrt(12), abs=0.03)


def test_logit_normal_moments():
    """Esser et al. 2024: the logit is normal."""
    t = np.asarray(drawn("logit normal", KEY, np.arange(8000)), np.float64)
    logit = np.log(t / (1 - t))
    assert logit.mean() == pytest.approx(-0.3, abs=0.03)
    assert logit.std() == pytest.approx(1.2, abs=0.03)


def test_normal_log_snr_is_the_log_normal_of_karras():
    """log s ~ N(-1.2, 1.2^2): Karras et al. 2022, table 1."""
    schedule = KarrasSchedule(1e-5, 1e3)
    t = jax.jit(NormalLogSNR(schedule, 2.4, 2.4).draw)(KEY, np.arange(8000))
    log_s = np.log(np.asarray(schedule.at(np.asarray(t)).s))
    assert log_s.mean() == pytest.approx(-1.2, abs=0.05)
    assert log_s.std() == pytest.approx(1.2, abs=0.05)


def test_a_uniform_log_snr():
    schedule = ALL["uniform log-SNR"].schedule
    t = np.asarray(drawn("uniform log-SNR", KEY, np.arange(8000)))
    log_snr = np.sort(np.asarray(schedule.log_snr(t)))
    first, last = float(schedule.log_snr(1.0)), float(schedule.log_snr(0.0))
    np.testing.assert_allclose(log_snr, np.linspace(first, last, 8000), atol=0.4)


def test_steps_are_times_of_a_table():
    t = np.asarray(drawn("steps", KEY, np.arange(8000)))
    i = np.asarray(Steps(10).index(t))
    np.testing.assert_allclose(t, (i + 1) / 10, rtol=1e-6)
    np.testing.assert_allclose(np.bincount(i, minlength=10) / 8000, 0.1, atol=0.02)
    t = np.asarray(drawn("weighted steps", KEY, np.arange(8000)))
    i = np.asarray(WEIGHTED.index(t))
    np.testing.assert_allclose(np.bincount(i) / 8000, WEIGHTED.probabilities, atol=0.02)
    np.testing.assert_allclose(
        WEIGHTED.density(jnp.array([0.25, 0.5, 0.75, 1.0])), [0.4, 0.8, 1.2, 1.6], rtol=1e-6
    )
    np.testing.assert_allclose(WEIGHTED.quantile(jnp.array([0.0, 0.99999994])), [0.25, 1])


def test_ends_of_the_quantiles_are_finite():
    @jax.jit
    def run(u):
        t = {name: times.quantile(u) for name, times in ALL.items()}
        return {name: (t[name], times.density(t[name])) for name, times in ALL.items()}

    for name, (t, density) in jax.device_get(run(np.float32([0, 1 - 2**-24]))).items():
        assert ((t >= 0) & (t <= 1)).all()
        assert np.isfinite(density).all() or isinstance(ALL[name], NormalLogSNR)


@pytest.mark.parametrize(
    ("make", "fault"),
    [
        (lambda: Uniform(0.5, 0.5), "low is 0.5, high is 0.5, expected 0 <= low < high <= 1"),
        (lambda: LogitNormal(0, 0), "deviation is 0, expected a finite number > 0"),
        (lambda: NormalLogSNR(CosineSchedule(), 0, math.nan), "deviation is nan"),
        (lambda: UniformLogSNR(RectifiedFlow()), "log-SNR from inf to -inf, expected finite ends"),
        (lambda: UniformLogSNR("cosine"), "schedule is 'cosine', expected a Schedule"),
        (
            lambda: jax.jit(lambda p: UniformLogSNR(LearnedSchedule(p)).quantile(0.5))(LEARNT),
            "of a schedule that is being learnt, expected known ends",
        ),
        (lambda: Steps(0), "count is 0, expected at least 1"),
        (lambda: Steps(3, (0.5, 0.5)), r"probabilities have shape \(2,\).*expected 3 numbers > 0"),
        (lambda: Steps(2, (1.0, 0.0)), "least 0, expected 2 numbers > 0"),
        (lambda: Steps(2, (0.5, 0.6)), "probabilities with sum 1.1, expected 1"),
    ],
)
def test_what_is_no_distribution_is_refused(make, fault):
    with pytest.raises(InputError, match=fault):
        make()
