"""Consistency models, where the flow of the ODE is known: Gaussian data."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxgen.diffusion import (
    CosineSchedule,
    Estimate,
    KarrasSchedule,
    Level,
    RectifiedFlow,
    make_denoiser,
)
from jaxgen.diffusion.denoiser import noise_given
from jaxgen.diffusion.distillation.consistency import (
    ConsistencySampler,
    consistency_distillation_loss,
    consistency_training_loss,
    hold_boundary,
    inverse_gap,
    make_consistency_function,
    pseudo_huber,
    squared_distance,
    steps_in_training,
)
from jaxgen.diffusion.exact import gaussian_denoiser
from jaxgen.diffusion.process.levels import expand
from jaxgen.diffusion.process.step_levels import make_steps, reverse_steps, steps_at
from jaxgen.diffusion.samplers import DDIM, DPMSolver, Heun
from jaxgen.diffusion.samplers.orders import ode_solution
from jaxgen.diffusion.samplers.sampling import initial_noise, sample, sample_with_table
from jaxgen.errors import InputError
from jaxgen.parallel import make_mesh

MEAN = np.array([0.5, -1.0])
DEVIATION = np.array([0.5, 1.3])
EXACT = gaussian_denoiser(MEAN, np.diag(DEVIATION**2))
SCHEDULES = {"vp": CosineSchedule(), "ve": KarrasSchedule(), "flow": RectifiedFlow()}
COSINE = SCHEDULES["vp"]


def examples(count=64, seed=0):
    x = MEAN + DEVIATION * np.random.default_rng(seed).normal(size=(count, 2))
    return np.float32(x)


def level_at(schedule, t):
    return Level(*(np.float32(value) for value in schedule.at(np.asarray(t))))


def flow(z, level):
    """The exact consistency function: where the path through z ends, at clean data."""
    a, s = expand(level.a, z), expand(level.s, z)
    deviation, mean = jnp.asarray(DEVIATION, jnp.float32), jnp.asarray(MEAN, jnp.float32)
    x = mean + deviation / jnp.hypot(a * deviation, s) * (z - a * mean)
    return Estimate(x, noise_given(x, z, level))


# --- the boundary ---


@pytest.mark.parametrize(
    ("schedule", "sigma_min", "sigma_data"),
    [
        (COSINE, float(np.exp(-10.0)), 1.0),
        (SCHEDULES["ve"], 0.002, 0.5),
        (SCHEDULES["flow"], 0.0, 1.0),
        (CosineSchedule(-20.0, np.inf), 0.0, 0.5),
    ],
)
def test_the_boundary_condition_is_exact(schedule, sigma_min, sigma_data):
    network = lambda z, time: 5 * jnp.sin(9 * z) + time[:, None] + 3  # noqa: E731
    f = jax.jit(make_consistency_function(network, sigma_min=sigma_min, sigma_data=sigma_data))
    z, level = examples(8), level_at(schedule, 0.0)
    np.testing.assert_allclose(f(z, level).x, z / level.a, rtol=1e-6, atol=1e-6)
    beyond = f(z, level_at(schedule, 0.3)).x
    assert np.abs(beyond - z / schedule.at(0.3).a).min() > 1e-3


def test_the_scales_of_the_paper():
    """Song et al. 2023, appendix C, and Karras et al. 2022, table 1, in their own scaling."""
    d, least, t = 0.5, 0.002, np.array([0.1, 0.5, 0.9])
    level = level_at(SCHEDULES["ve"], t)
    sigma = np.asarray(level.s, np.float64)
    z = examples(3)

    @jax.jit
    def run(z):
        seen = []
        network = lambda inside, time: seen.append(inside) or jnp.ones_like(inside)  # noqa: E731
        f = make_consistency_function(network, sigma_min=least, sigma_data=d)
        return f(z, level).x, seen[0]

    found, inside = run(z)
    skip = d**2 / ((sigma - least) ** 2 + d**2)
    out = d * (sigma - least) / np.sqrt(sigma**2 + d**2)
    np.testing.assert_allclose(found, skip[:, None] * z + out[:, None], rtol=1e-5)
    np.testing.assert_allclose(inside, z / np.sqrt(sigma**2 + d**2)[:, None], rtol=1e-5)


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_boundary_held_by_time(name):
    """Latent consistency models: z itself where their time is zero, x^ where it is large."""
    z = examples(3)
    level, late = level_at(SCHEDULES[name], [0.0, 0.2, 1.0]), level_at(SCHEDULES[name], 0.5)
    found, x, e, by_default, exact = jax.device_get(held(z, level, late))
    skip = 0.25 / (9 * np.array([0.0, 0.04, 1.0]) + 0.25)[:, None]
    wanted = skip * np.asarray(z) + np.sqrt(1 - skip) * x
    np.testing.assert_allclose(found.x, wanted, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found.x[0], z[0])
    np.testing.assert_allclose(found.e, e, rtol=1e-5)
    # By default ten times the networks' time input: x^ after a few thousandths.
    np.testing.assert_allclose(by_default, exact, rtol=1e-5)


@jax.jit
def held(z, level, late):
    f = hold_boundary(EXACT, sigma_data=0.5, time_input=lambda level: 3 * level.t)
    found = f(z, level)
    e, by_default = noise_given(found.x, z, level), hold_boundary(EXACT)(z, late).x
    return found, EXACT(z, level).x, e, by_default, EXACT(z, late).x


def test_a_v_prediction_is_a_consistency_function():
    network = lambda z, time: jnp.sin(z) * time[:, None] / 1000  # noqa: E731
    f = make_consistency_function(lambda z, time: -network(z, time), sigma_data=1.0)
    z, level = examples(3), level_at(COSINE, [0.1, 0.5, 1.0])
    found, wanted = jax.jit(lambda z: (f(z, level), make_denoiser(network, "v")(z, level)))(z)
    np.testing.assert_allclose(found.x, wanted.x, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.e, wanted.e, rtol=1e-4, atol=1e-5)


def test_finite_at_both_ends():
    @jax.jit
    def values_and_gradients(z, level):
        def total(gain, z):
            f = make_consistency_function(lambda z, time: gain * jnp.tanh(z))
            estimate = f(z, level)
            return (estimate.x**2).sum() + 1e-6 * estimate.e.sum()

        return jax.value_and_grad(total, (0, 1))(0.3, z)

    for name, schedule in SCHEDULES.items():
        for t in (0.0, 1.0):
            found = values_and_gradients(examples(4), level_at(schedule, t))
            assert all(np.isfinite(value).all() for value in jax.tree.leaves(found)), (name, t)


# --- distillation ---


@functools.partial(jax.jit, static_argnames=("sampler", "count", "name"))
def distance_at_the_flow(key, sampler, count, name):
    """Root of the mean squared loss at the exact flow, with the exact teacher."""
    levels = make_steps(SCHEDULES[name], count)
    x = jnp.asarray(MEAN + DEVIATION * jax.random.normal(jax.random.key(9), (4096, 2)))
    loss_B, level = consistency_distillation_loss(
        flow, flow, EXACT, x, key, levels, sampler=sampler
    )
    inner = (level.t > 0.3) & (level.t < 0.8)  # the same part of the paths for every count
    return jnp.sqrt(jnp.where(inner, loss_B, 0).sum() / inner.sum())


@pytest.mark.parametrize(("sampler", "order"), [(DDIM(), 1), (Heun(), 2)], ids=str)
@pytest.mark.parametrize("name", ["vp", "flow"])
def test_the_loss_is_zero_at_the_flow_to_the_order_of_the_solver(sampler, order, name):
    """One step of a method of order p is wrong by h^(p + 1)."""
    counts = (12, 36)
    found = [distance_at_the_flow(jax.random.key(0), sampler, count, name) for count in counts]
    slope = np.polyfit(np.log(counts), np.log(np.array(found)), 1)[0]
    assert abs(slope + order + 1) < 0.3
    assert found[-1] < 3e-3


def test_the_flow_is_the_solution_of_the_ode():
    z, start = examples(8), COSINE.at(0.7)
    now = jax.tree.map(np.float32, start)
    wanted = ode_solution(np.asarray(z), start, Level(0.0, np.inf, 1.0, 0.0), MEAN, DEVIATION)
    np.testing.assert_allclose(jax.jit(flow)(z, now).x, wanted, rtol=1e-5)


def student_of_steps(levels):
    """What is consistent with DDIM to the last digit, in closed form: all its steps in one."""
    a, s = levels.a[:, None], levels.s[:, None]
    gain = a[:-1] * DEVIATION**2 / (a[:-1] ** 2 * DEVIATION**2 + s[:-1] ** 2)
    keep = s[1:] / s[:-1]
    move = a[1:] - keep * a[:-1]
    slope, shift = keep + move * gain, move * (MEAN - gain * a[:-1] * MEAN)
    gains, offsets = [np.ones(2)], [np.zeros(2)]
    for k in reversed(range(len(slope))):
        offsets.append(gains[-1] * shift[k] + offsets[-1])
        gains.append(gains[-1] * slope[k])
    return tuple(np.float32(v[::-1]) for v in (gains, offsets))


def affine_student(gains, offsets):
    gains, offsets = jnp.asarray(gains), jnp.asarray(offsets)

    def denoiser(z, level):
        n = jnp.rint((1 - jnp.asarray(level.t)) * (len(gains) - 1)).astype(int)
        n = jnp.broadcast_to(n, (len(z),))
        x = gains[n] * z + offsets[n]
        return Estimate(x, noise_given(x, z, level))

    return denoiser


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_consistent_student_does_in_one_step_what_the_teacher_does_in_eight(name):
    levels = make_steps(SCHEDULES[name], 8)
    z = np.float32(np.hypot(levels.a[0], levels.s[0]) * examples(8, 1))
    one = ConsistencySampler().table(steps_at(SCHEDULES[name], [1.0]))

    @jax.jit
    def run(z, key):
        student = affine_student(*student_of_steps(levels))
        loss_B, _ = consistency_distillation_loss(
            student, student, EXACT, examples(), key, levels, sampler=DDIM()
        )
        wanted = sample(DDIM(), EXACT, z, levels, key)
        return loss_B, wanted, sample_with_table(ConsistencySampler(), student, z, one, key)

    loss_B, wanted, found = run(z, jax.random.key(0))
    assert loss_B.max() < 1e-9
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


def scaled(share):
    return lambda z, level: Estimate(share * EXACT(z, level).x, z)


def both_losses(student, target, teacher=EXACT, levels=None, x=None, index_B=None, **options):
    levels = make_steps(COSINE, 4) if levels is None else levels
    x, key = examples(16) if x is None else x, jax.random.key(0)
    return (
        consistency_distillation_loss(
            student, target, teacher, x, key, levels, index_B=index_B, **options
        )[0],
        consistency_training_loss(student, target, x, key, levels, index_B=index_B, **options)[0],
    )


def test_only_the_student_gets_a_gradient():
    def total(student, target, teacher):
        return sum(map(jnp.sum, both_losses(*map(scaled, (student, target, teacher)))))

    student, target, teacher = jax.jit(jax.grad(total, (0, 1, 2)))(1.0, 1.0, 0.9)
    assert abs(student) > 1e-3
    assert target == 0
    assert teacher == 0


def test_training_by_hand():
    """The same data and noise at both levels, from the examples' keys."""
    levels, key, x = make_steps(RectifiedFlow(), 4), jax.random.key(3), examples(12)
    found, level = jax.jit(
        lambda x: consistency_training_loss(
            scaled(0.5), flow, x, key, levels, distance=squared_distance
        )
    )(x)
    answers = jax.jit(lambda z, now, z2, after: 0.5 * EXACT(z, now).x - flow(z2, after).x)
    noise = lambda b: jax.random.normal(jax.random.fold_in(jax.random.split(key)[1], b), (2,))  # noqa: E731
    e_BD, found = np.asarray(jax.jit(jax.vmap(noise))(np.arange(12))), np.asarray(found)
    for b in range(12):
        e = e_BD[b]
        n = round(4 - 4 * float(level.t[b]))
        (now, after) = (Level(*(np.float32(value[n + k]) for value in levels)) for k in (0, 1))
        z, z_after = ((p.a * np.asarray(x[b]) + p.s * e)[None] for p in (now, after))
        error = np.asarray(answers(z, now, z_after, after))
        gap = np.inf if now.a == 0 else now.s / now.a - after.s / after.a
        np.testing.assert_allclose(found[b], (error**2).mean() / gap, rtol=1e-4, atol=1e-7)


def test_training_needs_no_teacher_where_all_paths_meet():
    """Data that are one point: f is that point everywhere, and no noise is left in the loss."""
    point = np.float32([0.3, -0.7])
    f = lambda z, level: Estimate(jnp.broadcast_to(point, z.shape), z)  # noqa: E731
    x = np.broadcast_to(point, (16, 2))
    teacher = gaussian_denoiser(point, np.zeros((2, 2)))
    distillation, training = jax.jit(lambda x: both_losses(f, f, teacher, x=x))(x)
    assert distillation.max() == 0
    assert training.max() < 1e-9


def test_distances():
    x, y = examples(4), examples(4, 1)
    square = ((np.asarray(x, np.float64) - np.asarray(y)) ** 2).mean(1)

    @jax.jit
    def run(x, y):
        gradient = jax.grad(lambda x: pseudo_huber(x, y).sum())(y)
        return squared_distance(x, y), pseudo_huber(x, y, 0.5), pseudo_huber(x, y), gradient

    squared, wide, huber, gradient = map(np.asarray, run(x, y))
    np.testing.assert_allclose(squared, square, rtol=1e-5)
    np.testing.assert_allclose(wide, np.sqrt(square + 0.25) - 0.5, rtol=1e-5)
    # With sums, as in the paper, c and the distance are both larger by sqrt(D).
    paper = np.sqrt(2 * square + 2 * 0.00054**2) - np.sqrt(2) * 0.00054
    np.testing.assert_allclose(np.sqrt(2) * huber, paper, rtol=1e-5)
    np.testing.assert_array_equal(gradient, np.zeros((4, 2)))


def test_weights_of_pairs():
    levels = make_steps(KarrasSchedule(), 5, final="first")
    now, after = (Level(*(value[k : k + 5] for value in levels)) for k in (0, 1))
    np.testing.assert_allclose(inverse_gap(now, after), 1 / (now.s - after.s), rtol=1e-5)
    assert inverse_gap(RectifiedFlow().at(1.0), RectifiedFlow().at(0.5)) == 0


def test_numbers_of_steps_in_training():
    """Song & Dhariwal 2023: 10 to 1280 in 400,000 updates doubles every 50,000."""
    found = [steps_in_training(k, 400_000) for k in range(0, 400_000, 50_000)]
    assert found == [10 * 2**i for i in range(8)]
    assert steps_in_training(49_999, 400_000) == 10
    assert steps_in_training(400_000, 400_000) == 1280
    old = [steps_in_training(k, 800, 2, 150, "square_root") for k in range(801)]
    assert (old[0], old[-1]) == (1, 150)
    assert (np.diff(old) >= 0).all()
    assert old[400] == int(np.ceil(np.sqrt((151**2 - 4) / 2 + 4) - 1))


# --- sampling ---


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("times", [(1.0,), (1.0, 0.6), (1.0, 0.8, 0.5, 0.2)])
def test_samples_of_the_exact_function_have_the_datas_distribution(name, times):
    levels = steps_at(SCHEDULES[name], times)
    key, sampler = jax.random.key(1), ConsistencySampler()
    start = np.float32(levels.a[0] * MEAN)
    scale = np.hypot(levels.a[0] * DEVIATION, levels.s[0]) / np.hypot(levels.a[0], levels.s[0])

    @jax.jit
    def run(key):
        z = start + scale * initial_noise(key, jnp.arange(8192), (2,), levels)
        return sample(sampler, flow, z, levels, key)

    x = np.asarray(run(key))
    np.testing.assert_allclose(x.mean(0), MEAN, atol=0.05)
    np.testing.assert_allclose(x.std(0), DEVIATION, rtol=0.03)


def test_it_is_ddim_with_all_noise_resampled():
    levels, z = make_steps(COSINE, 3), examples(8)
    samplers, key = (ConsistencySampler(), DDIM(eta=1e9)), jax.random.key(0)
    run = jax.jit(lambda z: [sample(sampler, flow, z, levels, key) for sampler in samplers])
    found, wanted = run(z)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_noise_that_is_left_counts():
    """f ends at sigma_min: the latent's noise is what is left and what is added, together."""
    schedule = KarrasSchedule(0.2, 10.0)
    levels = make_steps(schedule, 4, final="first")
    table = ConsistencySampler(0.2).table(levels)
    np.testing.assert_allclose(np.hypot(table.noise, 0.2), levels.s[1:], rtol=1e-6)
    assert table.noise[-1] == 0


# --- randomness, devices, bad input ---


def test_an_example_depends_on_its_index_alone_and_not_on_devices():
    find = jax.jit(lambda x, index_B: both_losses(flow, EXACT, x=x, index_B=index_B))
    x, index_B = examples(16), np.arange(16)
    whole = find(x, index_B)
    mesh = make_mesh("data=4", devices=jax.devices()[:4])
    with jax.set_mesh(mesh):
        shards = NamedSharding(mesh, PartitionSpec("data"))
        parts = find(*jax.device_put((x[3:7], index_B[3:7]), shards))
    for some, all_B in zip(parts, whole, strict=True):
        np.testing.assert_allclose(some, np.asarray(all_B)[3:7], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: make_consistency_function(None, sigma_min=-1.0), "expected sigma_min >= 0"),
        (lambda: make_consistency_function(None, sigma_data=0.0), "sigma_data is 0.0, expected"),
        (lambda: hold_boundary(None, sigma_data=0.0), "sigma_data is 0.0, expected a finite"),
        (lambda: ConsistencySampler(-0.1), "sigma_min is -0.1, expected a finite number >= 0"),
        (lambda: steps_in_training(5, 4), "update is 5 of 4"),
        (lambda: steps_in_training(0, 4, 3, 2), "expected 0 <= update <= updates and 1 <= first"),
        (lambda: steps_in_training(0, 4, growth="linear"), "growth is 'linear', expected doubling"),
        (lambda: both_losses(flow, flow, sampler=DPMSolver()), "DPMSolver, expected one whose"),
        (
            lambda: both_losses(flow, flow, levels=reverse_steps(make_steps(COSINE, 4))),
            "levels from data to noise",
        ),
    ],
)  # fmt: skip
def test_bad_input_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call()
