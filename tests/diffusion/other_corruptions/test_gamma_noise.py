"""Gamma noise: moments by drawing against closed forms, steps that add up, loss and sampler."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxgen.diffusion import CosineSchedule, DiscreteSchedule, KarrasSchedule, Level, RectifiedFlow
from jaxgen.diffusion.exact import gaussian_denoiser
from jaxgen.diffusion.objectives.time_distributions import Uniform
from jaxgen.diffusion.objectives.weightings import SNR
from jaxgen.diffusion.other_corruptions.gamma_noise import (
    GammaAncestral,
    add_gamma_step,
    draw_gamma_noised,
    gamma_noise,
    gamma_noise_loss,
    gamma_shape,
    initial_gamma_noise,
)
from jaxgen.diffusion.process.example_keys import example_keys, step_keys
from jaxgen.diffusion.process.step_levels import make_steps
from jaxgen.diffusion.samplers import Ancestral
from jaxgen.diffusion.samplers.sampling import initial_noise, sample_with_table
from jaxgen.errors import InputError
from jaxgen.parallel import make_mesh

COUNT = 100_000


def level_at(schedule, t):
    return Level(*(np.float32(value) for value in schedule.at(np.asarray(t))))


def keys(count, seed=0):
    return example_keys(jax.random.key(seed), jnp.arange(count))


@jax.jit
def many(k):
    """Numbers of one gamma shape."""
    return gamma_noise(keys(COUNT // 100), (100,), jnp.full((COUNT // 100,), k)).ravel()


def moments(e):
    """Mean, variance, skewness and excess kurtosis, in float64."""
    e = np.asarray(e, np.float64).ravel()
    centred = e - e.mean()
    variance = (centred**2).mean()
    skewness, kurtosis = ((centred**p).mean() / variance ** (p / 2) for p in (3, 4))
    return e.mean(), variance, skewness, kurtosis - 3


@pytest.mark.parametrize("k", [0.5, 4.0, 300.0, 9e3, 1.1e4, 1e7, 1e20])
def test_moments_of_the_noise(k):
    mean, variance, skewness, kurtosis = moments(many(k))
    assert abs(mean) < 0.012
    assert abs(variance - 1) < 0.02 + 0.05 / k
    assert abs(skewness - 2 / np.sqrt(k)) < 0.03 + 0.3 / k
    assert abs(kurtosis - 6 / k) < 0.06 + 2 / k


def test_both_ways_of_drawing_agree_where_they_meet():
    """Quantiles of shape 10^4 from below and from above."""
    quantiles = np.linspace(0.02, 0.98, 25)
    below, above = (np.quantile(np.asarray(many(k)), quantiles) for k in (9999.0, 10001.0))
    np.testing.assert_allclose(below, above, atol=0.025)


@pytest.mark.parametrize("k", [2e4, 1e9])
def test_the_transform_of_large_shapes(k):
    """Marsaglia & Tsang's cube in float64, less the mean."""
    n = np.asarray(jax.jit(lambda: jax.random.normal(keys(1)[0], (100,)))())
    found = many(k)[:100]  # of example 0
    d = k - 1 / 3
    expected = (d * (1 + n.astype(np.float64) / np.sqrt(9 * d)) ** 3 - k) / np.sqrt(k)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("k", [1e-12, 1e-6, 1e4, 1e30])
def test_finite_for_all_shapes(k):
    e = np.asarray(many(k))
    assert np.isfinite(e).all()
    assert e.min() >= -np.sqrt(k) * 1.001 if k < 1 else e.std() > 0.9


@pytest.mark.parametrize("theta", [0.001, 0.3])
def test_shapes_are_those_of_the_papers_table(theta):
    """k_t = beta_t / (theta^2 prod alpha), summed over steps."""
    schedule = DiscreteSchedule("linear", 1000)
    alphas = np.cumprod(1 - schedule.betas)
    summed = np.cumsum(schedule.betas / (theta**2 * alphas))
    found = gamma_shape(level_at(schedule, (np.arange(1000) + 1) / 1000), theta)
    np.testing.assert_allclose(found, summed, rtol=1e-3)


@functools.partial(jax.jit, static_argnums=1)
def walk(z, count, now, after, theta):
    """Steps of the forward process, one after the other."""
    keys_B = keys(count)

    def step(z, numbered):
        i, now, after = numbered
        return add_gamma_step(z, step_keys(keys_B, i), now, after, theta), None

    return jax.lax.scan(step, z, (jnp.arange(len(now.t)), now, after))[0]


@pytest.mark.parametrize(
    "schedule", [CosineSchedule(), KarrasSchedule(0.01, 10.0), RectifiedFlow()], ids=str
)
def test_steps_of_the_forward_process_add_up(schedule):
    """Six steps have the mean, variance, skewness and kurtosis of one."""
    theta, x, count = 0.5, 0.7, COUNT // 200
    path = np.linspace(0, 0.6, 7)
    now, after = level_at(schedule, path[:-1]), level_at(schedule, path[1:])
    clean = Level(np.zeros(1), np.full(1, np.inf), np.ones(1), np.zeros(1))
    if schedule.at(0.0).s > 0:  # then the first step is that from clean data
        after = jax.tree.map(lambda *v: np.concatenate(v), level_at(schedule, path[:1]), after)
        now = jax.tree.map(lambda *v: np.concatenate(v), clean, level_at(schedule, path[:-1]))
    z = walk(np.full((count, 100), x, np.float32), count, now, after, theta)
    level = schedule.at(path[-1])
    k = (level.s / (level.a * theta)) ** 2
    mean, variance, skewness, kurtosis = moments(z)
    assert abs(mean - level.a * x) < 0.01 * level.s
    assert abs(variance / level.s**2 - 1) < 0.02
    assert abs(skewness - 2 / np.sqrt(k)) < 0.05
    assert abs(kurtosis - 6 / k) < 0.3


# --- the loss ---


def test_the_loss_by_hand():
    x = np.random.default_rng(2).normal(size=(6, 3)).astype(np.float32)
    network = lambda z, time: 0.5 * z + time[:, None] / 1000  # noqa: E731
    options = {"schedule": CosineSchedule(), "theta": 0.2, "times": Uniform(0.1, 0.9)}

    @jax.jit
    def run(x):
        key = jax.random.key(0)
        noised = draw_gamma_noised(x, key, **options)
        k = gamma_shape(noised.level, 0.2)
        drawn = gamma_noise(example_keys(jax.random.split(key)[1], jnp.arange(6)), (3,), k)
        found = gamma_noise_loss(network, x, key, target="e", weighting=SNR(), **options)
        return noised, drawn, found

    noised, drawn, (loss_B, level) = jax.device_get(run(x))
    np.testing.assert_array_equal(noised.e, drawn)
    a, s = noised.level.a[:, None], noised.level.s[:, None]
    np.testing.assert_allclose(noised.z, a * x + s * noised.e, rtol=1e-5)
    error = noised.e - (0.5 * noised.z + level.t[:, None])
    np.testing.assert_allclose(loss_B, (error**2).mean(1), rtol=1e-5)


def test_the_best_linear_network_is_the_gaussian_one():
    """Two moments are enough for a linear denoiser: the gradient of its loss vanishes there."""
    deviation = 0.6
    x = np.random.default_rng(4).normal(size=(COUNT, 1), scale=deviation).astype(np.float32)

    @jax.jit
    @jax.grad
    def gradient(change, key):
        network = lambda z, time: (0.7 * deviation**2 / (0.49 * deviation**2 + 0.51) + change) * z  # noqa: E731
        options = {"schedule": fixed, "theta": 0.5, "target": "x", "weighting": SNR()}
        return gamma_noise_loss(network, x, key, **options)[0].mean()

    schedule = CosineSchedule()
    t = float(schedule.time(np.log(0.49 / 0.51)))
    fixed = AtOneTime(t)
    assert abs(gradient(0.0, jax.random.key(0))) < 0.01
    assert abs(gradient(0.1, jax.random.key(0))) > 0.05


class AtOneTime(CosineSchedule):
    """A schedule that is always at one time."""

    def __init__(self, time):
        super().__init__()
        object.__setattr__(self, "fixed", time)

    def at(self, t):
        return CosineSchedule().at(0 * t + self.fixed)


# --- the sampler ---

MEAN, DEVIATION = np.array([0.4]), np.array([0.7])
LINEAR = gaussian_denoiser(jnp.asarray(MEAN), jnp.diag(jnp.asarray(DEVIATION**2)))


def cumulants(levels, theta):
    """Mean, variance and third cumulant of samples by a linear denoiser, step by step in numpy."""
    a, s = levels.a, levels.s
    start = np.hypot(a[0], s[0])
    mean, variance, third = 0.0, start**2, start**3 * 2 * theta * a[0] / s[0]
    for i in range(len(a) - 1):
        ratio, h = a[i] / a[i + 1], levels.log_snr[i + 1] - levels.log_snr[i]
        keep, move = ratio * (s[i + 1] / s[i]) ** 2, -a[i + 1] * np.expm1(-h)
        gain = a[i] * DEVIATION[0] ** 2 / (a[i] ** 2 * DEVIATION[0] ** 2 + s[i] ** 2)
        slope, shift = keep + move * gain, move * (MEAN[0] - gain * a[i] * MEAN[0])
        noise = s[i + 1] * np.sqrt(-np.expm1(-h))
        skewness = 0.0 if s[i + 1] == 0 else 2 * theta * a[i + 1] / s[i + 1]
        mean, variance = slope * mean + shift, slope**2 * variance + noise**2
        third = slope**3 * third + noise**3 * skewness
    return mean, variance, third


@functools.partial(jax.jit, static_argnums=0)
def run(sampler, table, levels, key):
    index_B = jnp.arange(COUNT // 4)
    if isinstance(sampler, GammaAncestral):
        z = initial_gamma_noise(key, index_B, (1,), levels, sampler.theta)
    else:
        z = initial_noise(key, index_B, (1,), levels)
    return sample_with_table(sampler, LINEAR, z, table, jax.random.fold_in(key, 1))


@pytest.mark.parametrize("theta", [0.5, 0.001])
def test_moments_of_samples(theta):
    levels = make_steps(CosineSchedule(-6.0, 6.0), 8)
    sampler = GammaAncestral(theta=theta)
    x = run(sampler, sampler.table(levels), levels, jax.random.key(0))
    mean, variance, third = cumulants(levels, theta)
    found = moments(x)
    assert abs(found[0] - mean) < 0.01
    assert abs(found[1] / variance - 1) < 0.02
    assert abs(found[2] - third / variance**1.5) < 0.06
    # Mean and variance are those of the Gaussian sampler; the third moment is not.
    normal = moments(run(Ancestral(), Ancestral().table(levels), levels, jax.random.key(0)))
    assert abs(normal[1] / variance - 1) < 0.02
    assert abs(normal[2]) < 0.05
    assert theta < 0.1 or found[2] > 0.2


def test_the_initial_noise():
    levels = make_steps(KarrasSchedule(0.01, 3.0), 4)
    draw = jax.jit(lambda key: initial_gamma_noise(key, jnp.arange(2000), (50,), levels, 2.0))
    z = draw(jax.random.key(0))
    _, variance, skewness, _ = moments(z)
    assert abs(variance / 10 - 1) < 0.05
    assert abs(skewness - 2 / 1.5) < 0.1


# --- ends, devices, bad input ---


@pytest.mark.parametrize("schedule", [RectifiedFlow(), CosineSchedule()], ids=str)
def test_finite_at_both_ends(schedule):
    x, sampler = np.ones((4, 2), np.float32), GammaAncestral(theta=0.1)
    table, clean = sampler.table(make_steps(schedule, 1)), level_at(schedule, 0.0)

    @jax.jit
    def run(t, level):
        key = jax.random.key(0)
        e = gamma_noise(keys(4), (2,), jnp.broadcast_to(gamma_shape(level, 0.1), (4,)))
        later = add_gamma_step(level.a * x, keys(4), clean, level, 0.1)

        @jax.value_and_grad
        def loss(gain):
            network = lambda z, time: gain * z  # noqa: E731
            return gamma_noise_loss(network, x, key, schedule=schedule, times=At(t))[0].sum()

        return e, later, sample_with_table(sampler, LINEAR, x[:, :1], table, key), loss(0.5)

    for t in (0.0, 1e-7, 1 - 1e-7, 1.0):
        for value in jax.tree.leaves(run(np.float32(t), level_at(schedule, t))):
            assert np.isfinite(value).all(), t


class At(Uniform):
    """All times are one."""

    def __init__(self, t):
        super().__init__()
        object.__setattr__(self, "t", t)

    def draw(self, key, index_B, parts=()):
        return jnp.full((*index_B.shape, *parts), self.t)


def test_an_example_depends_on_its_index_alone_and_not_on_devices():
    find = jax.jit(
        lambda x, index_B: (
            draw_gamma_noised(
                x, jax.random.key(0), schedule=CosineSchedule(), theta=0.3, index_B=index_B
            ).z
        )
    )
    x, index_B = np.ones((16, 3), np.float32), np.arange(16)
    whole = np.asarray(find(x, index_B))
    mesh = make_mesh("data=4", devices=jax.devices()[:4])
    with jax.set_mesh(mesh):
        shards = NamedSharding(mesh, PartitionSpec("data"))
        some = find(*jax.device_put((x[3:7], index_B[3:7]), shards))
    np.testing.assert_allclose(some, whole[3:7], rtol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: GammaAncestral(theta=0.0), "theta is 0.0, expected a finite number > 0"),
        (lambda: GammaAncestral(gamma=2.0), "gamma is 2.0, expected 0 <= gamma <= 1"),
        (
            lambda: draw_gamma_noised(
                jnp.ones((2, 2)), jax.random.key(0), schedule=CosineSchedule(), theta=-1.0
            ),
            "theta is -1.0, expected a finite number > 0",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call()
