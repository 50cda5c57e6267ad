"""Progressive distillation, where the teacher is exact and students are known in closed form."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxgen.diffusion import (
    CosineSchedule,
    DiscreteSchedule,
    Estimate,
    KarrasSchedule,
    Level,
    RectifiedFlow,
    clip_x,
    make_denoiser,
)
from jaxgen.diffusion.conditioning.guidance import classifier_free_guidance
from jaxgen.diffusion.denoiser import noise_given
from jaxgen.diffusion.distillation.progressive import (
    distillation_loss,
    distillation_steps,
    distillation_target,
    draw_guidance_weights,
    every_second,
    guided_distillation_loss,
    halving_plan,
    matching_loss,
    with_guidance_weight,
)
from jaxgen.diffusion.exact import gaussian_denoiser, gaussian_mixture_denoiser
from jaxgen.diffusion.objectives.time_distributions import LowDiscrepancy
from jaxgen.diffusion.objectives.weightings import SNR, TruncatedSNR
from jaxgen.diffusion.process.forward import add_noise
from jaxgen.diffusion.process.levels import expand
from jaxgen.diffusion.process.predictions import make_target
from jaxgen.diffusion.process.step_levels import make_steps
from jaxgen.diffusion.samplers import DDIM, DPMSolver, Heun
from jaxgen.diffusion.samplers.sampling import sample, sample_with_table
from jaxgen.diffusion.samplers.single_steps import draw_steps, rows_at, single_steps, take_step
from jaxgen.errors import InputError
from jaxgen.parallel import make_mesh

MEAN = np.array([0.5, -1.0, 0.2])
DEVIATION = np.array([0.5, 1.3, 0.05])
EXACT = gaussian_denoiser(MEAN, np.diag(DEVIATION**2))
MIXTURE = gaussian_mixture_denoiser(
    np.array([0.3, 0.7]), np.array([[1.0, 0.5, 0.0], [-1.0, 0.3, 1.0]]), np.array([0.3, 0.6])
)
SCHEDULES = {
    "cosine": CosineSchedule(),
    "zero terminal snr": DiscreteSchedule(count=64, zero_terminal_snr=True),
    "karras": KarrasSchedule(),
    "flow": RectifiedFlow(),
}
COSINE = SCHEDULES["cosine"]


def examples(count=64, seed=0):
    x = MEAN + DEVIATION * np.random.default_rng(seed).normal(size=(count, 3))
    return np.float32(x)


def picked(tree, n):
    """As `rows_at`, in numpy."""
    return jax.tree.map(lambda value: np.asarray(value)[n], tree)


def level_of(step, n):
    """Level n of steps, as numbers."""
    return Level(*(value[n] for value in step))


# --- the target ---


@jax.jit
def target_of_mixture(z, step):
    return distillation_target(MIXTURE, z, step)


@jax.jit
def answer_of_mixture(z, level):
    return MIXTURE(z, level).x


def level32(level):
    return jax.tree.map(lambda value: np.float32(value[:, 0]), level)


@jax.jit
def sample_mixture(z, table):
    return sample_with_table(DDIM(), MIXTURE, z, table, jax.random.key(0))


@jax.jit
def sample_exact(z, table):
    return sample_with_table(DDIM(), EXACT, z, table, jax.random.key(0))


def ddim(x, z, now, after):
    """One DDIM step with an estimate, in float64."""
    return after.a * x + after.s / now.s * (z - now.a * x)


@jax.jit
def noisy(x, e, level):
    return add_noise(x, e, level)


@pytest.mark.parametrize("name", SCHEDULES)
def test_one_step_with_the_target_ends_where_two_steps_of_the_teacher_do(name):
    for count in (1, 5):
        levels = make_steps(SCHEDULES[name], 2 * count)
        steps = distillation_steps(levels)
        n = np.arange(count).repeat(20 // count)
        z = np.asarray(noisy(examples(20), 2 * examples(20, 1), picked(steps.now, n)))
        x = np.asarray(target_of_mixture(z, picked(steps, n)), np.float64)
        for i in range(count):
            path = Level(*(value[2 * i : 2 * i + 3] for value in levels))
            end = np.asarray(sample_mixture(z, DDIM().table(path)))[n == i]
            now, _, after = (level_of(path, k) for k in range(3))
            z_i = z[n == i]
            found = ddim(x[n == i], np.asarray(z_i, np.float64), now, after)
            scale = np.abs(z_i).max() + 1
            np.testing.assert_allclose(found, end, atol=3e-6 * scale, err_msg=f"{count}, {i}")


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_target_is_a_mean_of_the_teachers_two_answers(name):
    """((R' - R) x1 + (R'' - R') x2) / (R'' - R) with R = a/s; where t'' = 0 it is x2."""
    levels = make_steps(SCHEDULES[name], 8)
    steps = distillation_steps(levels)
    n = np.arange(4)
    z = noisy(examples(4), examples(4, 1), picked(steps.now, n))
    found = np.asarray(target_of_mixture(z, picked(steps, n)))
    now, middle, after = (Level(*(v[k : k + 7 : 2, None] for v in levels)) for k in range(3))
    x1 = np.asarray(answer_of_mixture(z, level32(now)), np.float64)
    z_middle = ddim(x1, np.asarray(z, np.float64), now, middle)
    x2 = np.asarray(answer_of_mixture(np.float32(z_middle), level32(middle)), np.float64)
    r, r1, r2 = (level.a[:3] / level.s[:3] for level in (now, middle, after))
    mean = ((r1 - r) * x1[:3] + (r2 - r1) * x2[:3]) / (r2 - r)
    assert after.s[3] == 0
    np.testing.assert_allclose(found, np.concatenate([mean, x2[3:]]), atol=2e-5)


@pytest.mark.parametrize("recompute_e", [True, False])
def test_a_clipped_teacher_is_followed_as_it_samples(recompute_e):
    teacher = clip_x(MIXTURE, -0.4, 0.4, recompute_e=recompute_e)
    levels = make_steps(COSINE, 2)
    steps = distillation_steps(levels)
    z = 2 * examples(6)
    student = Level(*(value[::2] for value in levels))

    @jax.jit
    def run(z):
        x, key = (
            distillation_target(teacher, z, rows_at(steps, np.zeros(6, int))),
            jax.random.key(0),
        )
        one = sample(DDIM(), lambda z, level: Estimate(x, z), z, student, key)
        return x, one, sample(DDIM(), teacher, z, levels, key)

    x, one, end = run(z)
    np.testing.assert_allclose(x, end, atol=1e-5)
    np.testing.assert_allclose(one, end, atol=1e-5)


def test_many_steps_lose_few_digits():
    levels = make_steps(COSINE, 2048)
    steps = distillation_steps(levels)
    n = np.arange(0, 1024, 16)
    z, found = latents_and_targets(None, picked(steps, n))
    wanted = jax.jit(lambda z, level: EXACT(z, level).x)(z, picked(steps.now, n))
    np.testing.assert_allclose(found, wanted, atol=5e-3)


# --- the loss ---


def affine_student(params, count):
    """x^ = gain_n z + offset_n in step n of N: all that exact students of Gaussian data can be."""

    def denoiser(z, level):
        n = jnp.clip(jnp.rint((1 - jnp.asarray(level.t)) * count).astype(int), 0, count - 1)
        n = jnp.broadcast_to(n, (len(z),))
        x = params["gain"][n] * z + params["offset"][n]
        return Estimate(x, noise_given(x, z, level))

    return denoiser


def exact_student(levels):
    """Gain and offset of the exact denoiser at levels [N + 1], numpy float64."""
    a, s = levels.a[:-1, None], levels.s[:-1, None]
    gain = a * DEVIATION**2 / (a * a * DEVIATION**2 + s * s)
    return {"gain": gain, "offset": MEAN - gain * a * MEAN}


def halved(params, levels):
    """The student of an affine teacher in closed form: DDIM twice, solved for x~."""
    a, s = levels.a[:, None], levels.s[:, None]
    gain, offset = params["gain"], params["offset"]
    keep = s[1:] / s[:-1]
    move = a[1:] - keep * a[:-1]
    slope, shift = keep + move * gain, move * offset
    slope2, shift2 = slope[1::2] * slope[::2], slope[1::2] * shift[::2] + shift[1::2]
    keep2 = s[2::2] / s[:-1:2]
    move2 = a[2::2] - keep2 * a[:-1:2]
    return {"gain": (slope2 - keep2) / move2, "offset": shift2 / move2}


def as_float32(params):
    return {name: np.float32(value) for name, value in params.items()}


def test_the_loss_vanishes_with_its_gradient_at_the_closed_form_student():
    levels = make_steps(COSINE, 8)
    params = as_float32(halved(exact_student(levels), levels))

    @jax.jit
    @jax.value_and_grad
    def loss(params, key):
        return distillation_loss(affine_student(params, 4), EXACT, examples(512), key, levels)[
            0
        ].mean()

    value, gradient = loss(params, jax.random.key(0))
    other, slope = loss({k: v + 0.1 for k, v in params.items()}, jax.random.key(0))
    assert value < 1e-9 < 1e-3 < other
    for name in params:
        assert np.abs(gradient[name]).max() < 1e-5
        assert np.abs(slope[name]).min() > 1e-3


@pytest.mark.parametrize("name", ["cosine", "karras", "flow"])
def test_a_chain_of_students_does_in_one_step_what_the_teacher_does_in_sixteen(name):
    """Each student is fitted by least squares to the targets, then teaches the next one."""
    levels = make_steps(SCHEDULES[name], 16)
    z = np.hypot(levels.a[0], levels.s[0]) * examples(128, 3)
    wanted = sample_exact(z, DDIM().table(levels))
    teacher, closed = None, exact_student(levels)
    for count in halving_plan(16)[1:]:
        steps = distillation_steps(levels)
        n = np.arange(count).repeat(512 // count)
        latents, x = latents_and_targets(teacher, picked(steps, n))
        fitted = fit(np.asarray(latents, np.float64), np.asarray(x, np.float64), count)
        closed, levels = halved(closed, levels), every_second(levels)
        for part in fitted:
            np.testing.assert_allclose(fitted[part], closed[part], rtol=2e-3, atol=2e-4)
        teacher = as_float32(fitted)
    one = sample_affine(teacher, z, DDIM().table(levels))
    np.testing.assert_allclose(one, wanted, atol=2e-3)
    assert levels.t.tolist() == [1, 0]


def latents_and_targets(params, rows):
    """Noisy examples at some steps, and what a student is to say of them.

    The teacher is the affine one of these parameters, or else the exact one.
    """
    count = len(rows.now.t)
    return targets_of(params, rows, examples(count), examples(count, 1))


@jax.jit
def targets_of(params, rows, x, e):
    teacher = EXACT if params is None else affine_student(params, len(params["gain"]))
    z = add_noise(x, e, rows.now)
    return z, distillation_target(teacher, z, rows)


@jax.jit
def sample_affine(params, z, table):
    teacher = affine_student(params, len(params["gain"]))
    return sample_with_table(DDIM(), teacher, z, table, jax.random.key(0))


def fit(z, x, count):
    """Gain and offset of each step and number by least squares."""
    found = {"gain": np.zeros((count, 3)), "offset": np.zeros((count, 3))}
    for n, (z_n, x_n) in enumerate(zip(np.split(z, count), np.split(x, count), strict=True)):
        for d in range(3):
            found["gain"][n, d], found["offset"][n, d] = np.polyfit(z_n[:, d], x_n[:, d], 1)
    return found


@pytest.mark.parametrize("weighting", [TruncatedSNR(), SNR()], ids=str)
def test_all_targets_weigh_the_same_error(weighting):
    levels = make_steps(COSINE, 8)

    @jax.jit
    def losses(x):
        find = functools.partial(
            distillation_loss, clip_x(EXACT), EXACT, x, jax.random.key(1), levels
        )
        return {
            target: find(target=target, weighting=weighting)
            for target in ("x", "e", "v", "flow", "both")
        }

    found = losses(examples())
    for target, (loss_B, level) in found.items():
        first = np.isclose(level.t, 1)  # an e there is worth 5e8 of an x, and float32 has 7 digits
        tolerance = 1e-3 if target != "e" else 2e-2
        np.testing.assert_allclose(
            loss_B[~first], found["x"][0][~first], rtol=tolerance, atol=1e-6, err_msg=target
        )
        assert np.isfinite(loss_B).all(), target


def test_the_loss_by_hand():
    """Truncated SNR on |x~ - x^|^2, from the latents that the keys draw."""
    levels, key = make_steps(RectifiedFlow(), 8), jax.random.key(7)
    x = examples(16)
    found, level = jax.jit(
        lambda x: distillation_loss(
            clip_x(EXACT), EXACT, x, key, levels, target="x", weighting=TruncatedSNR()
        )
    )(x)
    answer = jax.jit(lambda z, level: clip_x(EXACT)(z, level).x)
    assert set(np.round(np.asarray(level.t) * 4, 5)) <= {1.0, 2.0, 3.0, 4.0}
    assert len(set(np.asarray(level.t))) == 4
    noise = lambda b: jax.random.normal(jax.random.fold_in(jax.random.split(key)[1], b), (3,))  # noqa: E731
    e = np.asarray(jax.jit(jax.vmap(noise))(np.arange(16)))
    found = np.asarray(found)
    for b in range(16):
        n = round(4 - 4 * float(level.t[b]))
        path = Level(*(value[2 * n : 2 * n + 3] for value in levels))
        z = np.float32(path.a[0] * x[b] + path.s[0] * e[b])[None]
        end = np.asarray(sample_exact(z, DDIM().table(path)))
        ratio = path.s[2] / path.s[0]
        wanted = (end - ratio * z) / (path.a[2] - ratio * path.a[0])
        now = jax.tree.map(np.float32, level_of(path, 0))
        error = ((wanted - np.asarray(answer(z, now))) ** 2).mean()
        weight = max((path.a[0] / path.s[0]) ** 2, 1)
        np.testing.assert_allclose(found[b], weight * error, rtol=1e-3, atol=1e-5)


def test_the_teacher_gets_no_gradient():
    def loss(share):
        teacher = lambda z, level: EXACT(share * z, level)  # noqa: E731
        return distillation_loss(
            MIXTURE, teacher, examples(8), jax.random.key(0), make_steps(COSINE, 4)
        )[0].sum()

    assert jax.jit(jax.grad(loss))(1.0) == 0


@pytest.mark.parametrize(
    ("target", "name"),
    [
        ("x", "karras"),
        ("v", "zero terminal snr"),
        ("v", "flow"),
        ("flow", "flow"),
        ("both", "cosine"),
    ],
)
def test_finite_at_both_ends(name, target):
    """One step, from where z is noise to clean data: values and gradients."""
    levels = make_steps(SCHEDULES[name], 2)

    def loss(gain):
        def network(z, time):
            x, e = gain * z, 0.5 * z
            return make_target(target, x, e, jax.tree.map(jnp.float32, level_of(levels, 0)))

        student = make_denoiser(network, target)
        return distillation_loss(
            student, MIXTURE, examples(8), jax.random.key(0), levels, target=target
        )[0].sum()

    value, gradient = jax.jit(jax.value_and_grad(loss))(0.3)
    assert np.isfinite(value)
    assert np.isfinite(gradient)


def test_an_example_depends_on_its_index_alone_and_not_on_devices():
    levels = make_steps(COSINE, 8)
    find = jax.jit(
        lambda x, index_B: distillation_loss(
            MIXTURE, EXACT, x, jax.random.key(0), levels, index_B=index_B
        )[0]
    )
    x, index_B = examples(16), np.arange(16)
    whole = np.asarray(find(x, index_B))
    mesh = make_mesh("data=4", devices=jax.devices()[:4])
    with jax.set_mesh(mesh):
        shards = NamedSharding(mesh, PartitionSpec("data"))
        some = find(*jax.device_put((x[3:7], index_B[3:7]), shards))
    np.testing.assert_allclose(some, whole[3:7], rtol=1e-5)


# --- guidance ---


def gaussian(mean, deviation):
    return gaussian_mixture_denoiser(np.ones(1), np.array([mean]), np.array([deviation]))


CONDITIONAL, UNCONDITIONAL = gaussian([1.0, 0.0, 0.3], 0.4), gaussian([0.2, -0.1, 0.0], 1.0)


def guided_teacher(w_B):
    return classifier_free_guidance(CONDITIONAL, UNCONDITIONAL, w_B)


def linear_in_w(params):
    """A student conditioned on w: x^ = x(z, y) + (slope w + offset) (x(z, y) - x(z))."""

    def student(w_B):
        def denoiser(z, level):
            first, second = CONDITIONAL(z, level), UNCONDITIONAL(z, level)
            share = expand(params["slope"] * w_B + params["offset"], z)
            parts = zip(first[:2], second[:2], strict=True)
            return Estimate(*(a + share * (a - b) for a, b in parts))

        return denoiser

    return student


def test_stage_one_is_least_at_the_guided_teacher():
    @jax.jit
    @jax.value_and_grad
    def loss(params):
        found = matching_loss(
            linear_in_w(params), guided_teacher, examples(256), jax.random.key(0), schedule=COSINE
        )
        return found[0].mean()

    value, gradient = loss({"slope": 1.0, "offset": 0.0})
    other, slope = loss({"slope": 0.9, "offset": 0.1})
    assert value < 1e-10
    assert max(map(abs, jax.tree.leaves(gradient))) < 1e-5
    assert other > 1e-4
    assert min(map(abs, jax.tree.leaves(slope))) > 1e-4


def test_stage_two_follows_the_same_weight_through_both_steps():
    """At a teacher of one w, guided distillation is distillation of the teacher guided so."""
    levels, key = make_steps(COSINE, 8), jax.random.key(5)
    student, weighting = linear_in_w({"slope": 0.5, "offset": 0.0}), TruncatedSNR()

    @jax.jit
    def losses(x):
        found, _ = guided_distillation_loss(
            student,
            guided_teacher,
            x,
            key,
            levels,
            guidance_weights=(2.0, 2.0),
            weighting=weighting,
        )
        one, two = (guided_teacher(jnp.float32(w)) for w in (1.0, 2.0))
        expected, _ = distillation_loss(
            one, two, x, jax.random.split(key)[1], levels, weighting=weighting
        )
        return found, expected

    found, expected = losses(examples())
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-7)


def test_guidance_weights():
    draw = lambda index_B: draw_guidance_weights(jax.random.key(0), 4000, (1.0, 3.0), index_B)  # noqa: E731
    w_B, other = np.asarray(jax.jit(draw)(np.arange(4000))), np.arange(4000)[::-1]
    assert abs(float(w_B.mean()) - 2) < 0.05
    assert abs(float(w_B.var()) - 4 / 12) < 0.02
    assert w_B.min() >= 1
    assert w_B.max() < 3
    np.testing.assert_array_equal(jax.jit(draw)(other), w_B[other])


def test_a_network_conditioned_on_the_guidance_weight():
    seen = {}

    def network(z, time_B, label_B):
        seen.update(z=z, time=time_B, label=label_B)
        return z[..., :3]

    @jax.jit
    def run(z, w_B, label_B):
        return with_guidance_weight(network, 4)(z, jnp.ones(2), w_B, label_B), seen

    z = np.ones((2, 4, 4, 3), np.float32)
    out, seen = jax.device_get(run(z, np.float32([0, 2]), np.array([5, 6])))
    np.testing.assert_array_equal(out, z)
    assert seen["z"].shape == (2, 4, 4, 7)
    np.testing.assert_array_equal(seen["label"], [5, 6])
    np.testing.assert_allclose(seen["z"][0, ..., 3:], np.tile([1, 1, 0, 0], (4, 4, 1)))
    waves = [np.cos(2), np.cos(0.2), np.sin(2), np.sin(0.2)]
    np.testing.assert_allclose(seen["z"][1, ..., 3:], np.tile(waves, (4, 4, 1)), rtol=1e-5)


# --- steps ---


@pytest.mark.parametrize("sampler", [DDIM(), Heun(), Heun("vp")], ids=str)
@pytest.mark.parametrize(
    ("name", "final"), [("cosine", "clean"), ("karras", "first"), ("flow", "clean")]
)
def test_single_steps_make_up_the_sampler(sampler, name, final):
    levels = make_steps(SCHEDULES[name], 5, final=final)
    z = np.float32(np.hypot(levels.a[0], levels.s[0]) * examples(4))
    wanted = all_steps(sampler, z, sampler.table(levels))
    steps = single_steps(sampler, levels)
    for n in range(5):
        z = one_step(sampler, z, picked(steps, np.full(4, n)))
    np.testing.assert_allclose(z, wanted, rtol=1e-5, atol=1e-5)


@functools.partial(jax.jit, static_argnums=0)
def all_steps(sampler, z, table):
    return sample_with_table(sampler, MIXTURE, z, table, jax.random.key(0))


@functools.partial(jax.jit, static_argnums=0)
def one_step(sampler, z, rows):
    return take_step(sampler, MIXTURE, z, rows)


def test_which_step_a_time_means():
    @jax.jit
    def run(u):
        even = LowDiscrepancy().draw(jax.random.key(0), jnp.arange(8))
        return draw_steps(u, 4), draw_steps(even, 4)

    steps, even = run(np.float32([0.0, 0.24, 0.25, 0.5, 0.99, 1.0]))
    np.testing.assert_array_equal(steps, [3, 3, 2, 1, 0, 0])
    np.testing.assert_array_equal(np.bincount(even), [2, 2, 2, 2])


def test_plans():
    assert halving_plan(16) == (16, 8, 4, 2, 1)
    assert halving_plan(24, 3) == (24, 12, 6, 3)
    assert halving_plan(4, 4) == (4,)
    levels = make_steps(COSINE, 16)
    np.testing.assert_array_equal(every_second(levels).t, make_steps(COSINE, 8).t)


# --- bad input ---


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: halving_plan(12, 4), "start is 12, stop is 4, expected start to be stop times"),
        (lambda: halving_plan(6, 4), "expected start to be stop times a power of two"),
        (lambda: halving_plan(2, 4), "start is 2, stop is 4, expected start >= stop >= 1"),
        (lambda: halving_plan(4, 0), "expected start >= stop >= 1"),
        (lambda: every_second(make_steps(COSINE, 3)), "levels of 3 steps, expected an even number"),
        (lambda: distillation_steps(make_steps(COSINE, 5)), "levels of 5 steps, expected an even"),
        (
            lambda: distillation_steps(Level(*(v[::-1] for v in make_steps(COSINE, 4)))),
            "levels from data to noise",
        ),
        (lambda: single_steps(DDIM(eta=0.5), make_steps(COSINE, 4)), "adds no noise"),
        (lambda: single_steps(DPMSolver(), make_steps(COSINE, 4)), "is DPMSolver, expected"),
        (lambda: draw_guidance_weights(jax.random.key(0), 2, (2.0, 1.0)), "expected low <= high"),
        (lambda: with_guidance_weight(lambda z, time: z, 3), "channels is 3, expected an even"),
    ],
)  # fmt: skip
def test_bad_input_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call()


@pytest.mark.parametrize(
    ("schedule", "target", "message"),
    [
        (COSINE, "noise", "target is 'noise', expected one of"),
        (RectifiedFlow(), "e", "target is 'e' from zero SNR: the noise says nothing of the data"),
    ],
)
def test_targets_that_will_not_do_are_named(schedule, target, message):
    levels = make_steps(schedule, 4)
    with pytest.raises(InputError, match=message):
        distillation_loss(EXACT, EXACT, examples(4), jax.random.key(0), levels, target=target)
