"""Guidance against score arithmetic and Bayes' rule, where exact denoisers are formulas."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxgen.diffusion.conditioning.guidance import (
    classifier_free_guidance,
    classifier_guidance,
    compose_conditions,
    guide_network,
    oscillating,
    power_cosine,
    twice,
    within,
)
from jaxgen.diffusion.denoiser import Estimate, make_denoiser
from jaxgen.diffusion.exact import (
    gaussian_denoiser,
    gaussian_mixture_denoiser,
    gaussian_mixture_log_density,
)
from jaxgen.diffusion.process.levels import Level
from jaxgen.diffusion.process.predictions import to_x_and_e
from jaxgen.diffusion.process.schedules import CosineSchedule, KarrasSchedule, RectifiedFlow
from jaxgen.diffusion.process.step_levels import make_steps
from jaxgen.errors import InputError
from jaxgen.parallel import make_mesh

WEIGHTS = np.array([0.2, 0.5, 0.3], np.float32)
MEANS = np.array([[1.0, 0.5], [-1.0, 0.3], [0.2, -1.2]], np.float32)
DEVIATIONS = np.array([0.3, 0.5, 0.2], np.float32)
SCHEDULES = {"vp": CosineSchedule(), "ve": KarrasSchedule(), "flow": RectifiedFlow()}
EVERYTHING = jax.jit(gaussian_mixture_denoiser(WEIGHTS, MEANS, DEVIATIONS))


@functools.cache
def component(k):
    """The denoiser of class k: one round Gaussian."""
    one = slice(k, k + 1)
    return jax.jit(gaussian_mixture_denoiser(np.ones(1), MEANS[one], DEVIATIONS[one]))


def level_at(schedule, t):
    return Level(*(np.float32(value) for value in schedule.at(np.asarray(t))))


def latents(count=6, seed=0, width=2):
    return np.random.default_rng(seed).normal(0, 1.5, (count, width)).astype(np.float32)


def log_likelihood(z, level, k):
    """log p(y = k | z) by Bayes' rule."""
    joint = gaussian_mixture_log_density(
        z, level, np.ones(1), MEANS[k : k + 1], DEVIATIONS[k : k + 1]
    ) + np.log(WEIGHTS[k])
    return joint - gaussian_mixture_log_density(z, level, WEIGHTS, MEANS, DEVIATIONS)


def assert_same(found, wanted, **tolerance):
    np.testing.assert_allclose(found.x, wanted.x, **tolerance)
    np.testing.assert_allclose(found.e, wanted.e, **tolerance)


@pytest.mark.parametrize("scaling", SCHEDULES)
def test_guidance_mixes_scores(scaling):
    """grad log p~ = (1 + w) grad log p(z | y) - w grad log p(z), from the densities themselves."""
    level, z, w = level_at(SCHEDULES[scaling], [0.3, 0.7] * 3), latents(), 2.5

    def log_density(z, kinds):
        arrays = WEIGHTS[kinds] / WEIGHTS[kinds].sum(), MEANS[kinds], DEVIATIONS[kinds]
        return gaussian_mixture_log_density(z, level, *arrays).sum()

    conditional, everything = (
        jax.jit(jax.grad(functools.partial(log_density, kinds=kinds)))(z)
        for kinds in (slice(1, 2), slice(0, 3))
    )
    guided = classifier_free_guidance(component(1), EVERYTHING, w)(z, level)
    score = -guided.e / level.s[:, None]
    expected = (1 + w) * conditional - w * everything
    np.testing.assert_allclose(score, expected, rtol=1e-4, atol=1e-4)
    again = level.a[:, None] * guided.x + level.s[:, None] * guided.e
    np.testing.assert_allclose(again, z, rtol=1e-4, atol=1e-4)


def test_w_0_is_conditional_and_w_minus_1_unconditional():
    level, z = level_at(CosineSchedule(), [0.5] * 6), latents()
    for w, plain in ((0.0, component(0)), (-1.0, EVERYTHING)):
        guided = classifier_free_guidance(component(0), EVERYTHING, w)(z, level)
        assert_same(guided, plain(z, level), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scaling", SCHEDULES)
@pytest.mark.parametrize("t", [0.02, 0.3, 0.6, 0.95])
def test_the_exact_classifier_makes_the_exact_conditional_denoiser(scaling, t):
    level, z = level_at(SCHEDULES[scaling], t), latents()
    z = z * level.a + level.s * latents(seed=1)
    for k in range(3):
        assert_same(by_classifier(k)(z, level), component(k)(z, level), rtol=2e-3, atol=2e-3)


@functools.cache
def by_classifier(k):
    """The denoiser of all, guided to class k by the exact classifier."""
    return jax.jit(classifier_guidance(EVERYTHING, functools.partial(log_likelihood, k=k)))


def test_classifier_guidance_with_scale_w_is_classifier_free_guidance_with_w_minus_1():
    level, z = level_at(CosineSchedule(), 0.5), latents()
    guided = classifier_guidance(EVERYTHING, functools.partial(log_likelihood, k=2), 3.0)
    free = classifier_free_guidance(component(2), EVERYTHING, 2.0)
    assert_same(*jax.jit(lambda z: (guided(z, level), free(z, level)))(z), rtol=1e-3, atol=1e-3)


def test_composition_multiplies_densities():
    """Gaussian y_1, y_2 that are independent given x: the composition is the product exactly."""
    level, z = level_at(CosineSchedule(), [0.4] * 6), latents()
    prior = gaussian_denoiser(np.zeros(2), np.eye(2))
    given = [
        gaussian_denoiser(np.array([0.8, 0.0]), np.diag([0.5, 1.0])),
        gaussian_denoiser(np.array([0.0, -0.6]), np.diag([1.0, 0.3])),
    ]
    both = gaussian_denoiser(np.array([0.8, -0.6]), np.diag([0.5, 0.3]))
    composed = compose_conditions(prior, given, [1.0, 1.0])
    assert_same(composed(z, level), both(z, level), rtol=1e-5, atol=1e-6)
    one = compose_conditions(prior, given[:1], [3.0])
    free = classifier_free_guidance(given[0], prior, 2.0)
    assert_same(one(z, level), free(z, level), rtol=1e-5, atol=1e-5)
    away = compose_conditions(prior, given[:1], [-1.0])(z, level)
    np.testing.assert_allclose(away.e + given[0](z, level).e, 2 * prior(z, level).e, atol=1e-5)


def test_an_interval_of_noise_levels():
    level, z = level_at(KarrasSchedule(), [0.1, 0.5, 0.9]), latents(3)
    sigma = np.asarray(level.s / level.a)
    w = within(4.0, float(sigma[:2].mean()), float(sigma[1:].mean()))
    one, three = component(1), EVERYTHING
    plain, strong, guided = jax.device_get(
        jax.jit(
            lambda z: (
                one(z, level),
                *(classifier_free_guidance(one, three, v)(z, level) for v in (4.0, w)),
            )
        )(z)
    )
    np.testing.assert_array_equal(guided.e[::2], plain.e[::2])
    np.testing.assert_array_equal(guided.e[1], strong.e[1])
    assert not np.allclose(strong.e, plain.e)


def test_guidance_weights_by_level_and_by_example():
    level, z = level_at(CosineSchedule(), [0.0, 0.25, 1.0]), latents(3)
    np.testing.assert_allclose(
        power_cosine(3.0, 2.0)(level),
        1.5 * (1 - np.cos(np.pi * np.array([1, 0.5625, 0]))),
        rtol=1e-5,
    )
    w = jnp.array([0.0, 1.0, 5.0])
    together = classifier_free_guidance(component(0), EVERYTHING, w)(z, level)
    for b in range(3):
        one = jax.tree.map(lambda value, b=b: value[b : b + 1], (z, level))
        alone = classifier_free_guidance(component(0), EVERYTHING, float(w[b]))(*one)
        np.testing.assert_allclose(together.x[b], alone.x[0], rtol=1e-5, atol=1e-6)


def test_oscillating_weights_are_those_of_the_steps():
    """High for so many steps, then high and low by turns; of levels between two the nearer one."""
    schedule = CosineSchedule()
    levels = make_steps(schedule, 6)
    w = oscillating(levels, 14.0, 0.5, constant=2)
    found = w(level_at(schedule, [1.0, 0.99, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]))
    np.testing.assert_array_equal(found, [14, 14, 14, 14, 0.5, 14, 0.5])
    np.testing.assert_array_equal(w(jax.tree.map(lambda v: jnp.float32(v[3]), levels)), 0.5)
    with pytest.raises(InputError, match="constant is -1, expected 0 or more steps"):
        oscillating(levels, 1.0, constant=-1)


def test_the_guidance_weight_is_traced():
    """Another w, phi or interval does not recompile."""
    traces = []

    @jax.jit
    def guided(z, level, w, phi, low):
        traces.append(w)
        guidance_weight = within(w, low)
        return classifier_free_guidance(component(0), EVERYTHING, guidance_weight, rescale=phi)(
            z, level
        )

    level, z = level_at(CosineSchedule(), [0.5] * 6), latents()
    outputs = [
        guided(z, level, w, phi, low).x for w, phi, low in ((1.0, 0.1, 0.0), (9.0, 0.7, 0.2))
    ]
    assert len(traces) == 1
    assert not np.allclose(*outputs)


def test_rescaling_is_the_papers():
    """Lin et al. 2024, equations 15 and 16, in numpy on v."""
    level, w, phi = level_at(CosineSchedule(), [0.6] * 3), 6.0, 0.7
    z, v_c, v_u = np.random.default_rng(3).normal(size=(3, 3, 4, 4, 2))
    a, s = float(level.a[0]), float(level.s[0])
    say = lambda v: lambda z, level: Estimate(a * z - s * v, s * z + a * v)  # noqa: E731
    guided = classifier_free_guidance(say(v_c), say(v_u), w, rescale=phi)(z, level)
    v = v_c + w * (v_c - v_u)
    axes = (1, 2, 3)
    v = phi * v * v_c.std(axes, keepdims=True) / v.std(axes, keepdims=True) + (1 - phi) * v
    np.testing.assert_allclose(guided.x, a * z - s * v, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(guided.e, s * z + a * v, rtol=1e-5, atol=1e-5)
    full = classifier_free_guidance(say(v_c), say(v_u), w, rescale=1.0)(z, level)
    found = (a * np.asarray(full.e) - s * np.asarray(full.x)).std(axes)
    np.testing.assert_allclose(found, v_c.std(axes), rtol=1e-5)


def test_frames_with_levels_of_their_own_are_rescaled_one_by_one():
    """[B, T] levels: what is guided of a video is what would be guided of its frames."""
    z, v_c, v_u = np.random.default_rng(4).normal(size=(3, 2, 3, 4, 4, 1)).astype(np.float32)
    level = jax.tree.map(np.float32, CosineSchedule().at(np.linspace(0.1, 0.9, 6).reshape(2, 3)))

    def say(v):
        return lambda z, level: Estimate(*to_x_and_e(v, z, level, "v"))

    @jax.jit
    def guided(v_c, v_u, z, level):
        return classifier_free_guidance(say(v_c), say(v_u), 4.0, rescale=0.7)(z, level)

    found = jax.device_get(guided(v_c, v_u, z, level))
    for t in range(3):
        level_of_frame = Level(*(value[:, t] for value in level))
        wanted = guided(v_c[:, t], v_u[:, t], z[:, t], level_of_frame)
        np.testing.assert_allclose(found.x[:, t], wanted.x, rtol=1e-5, atol=1e-5)


def labelled_network(z, time, labels):
    """Any function of all three, with different channels of the output."""
    place = labels.astype(jnp.float32)[:, None, None, None]
    return jnp.sin(z * (1 + place)) + time[:, None, None, None] / 1000 * place


def image_latents(count=4, channels=4):
    return np.random.default_rng(5).normal(size=(count, 2, 3, channels)).astype(np.float32)


@pytest.mark.parametrize("target", ["x", "e", "v", "flow"])
def test_one_call_on_twice_the_batch_is_two_denoisers(target):
    z, level = image_latents(), level_at(CosineSchedule(), [0.2, 0.5, 0.7, 0.9])
    labels = jnp.array([0, 3, 2, 9])
    calls = []

    def network(z, time, labels):
        calls.append(z.shape)
        return labelled_network(z, time, labels)

    guided = guide_network(network, labels, 10, 1.5, target=target, rescale=0.3, channels=3)
    single = jax.jit(guided)(z, level)
    assert calls == [(8, 2, 3, 4)]
    pair = [
        make_denoiser(lambda z, time, label=label: labelled_network(z, time, label), target)
        for label in (labels, jnp.full(4, 10))
    ]
    wanted = classifier_free_guidance(*pair, 1.5, rescale=0.3, rescale_target=target, channels=3)
    assert_same(single, jax.jit(wanted)(z, level), rtol=1e-5, atol=1e-5)


def test_guided_channels_are_those_of_the_public_dit_code():
    """e of the first three channels is guided; the others are the conditional half's."""
    z, level = image_latents(), level_at(CosineSchedule(), [0.5] * 4)
    labels = np.array([1, 2, 3, 4])

    @jax.jit
    def run(z):
        guided = guide_network(labelled_network, labels, 7, 3.0, target="e", channels=3)(z, level)
        e_c, e_u = (labelled_network(z, 1000 * level.t, v) for v in (labels, np.full(4, 7)))
        return guided.e, e_c, e_u

    e, e_c, e_u = map(np.asarray, run(z))
    np.testing.assert_allclose(e[..., :3], (e_u + 4 * (e_c - e_u))[..., :3], rtol=1e-5)
    np.testing.assert_array_equal(e[..., 3], e_c[..., 3])


def test_learned_variances_are_the_conditional_ones():
    z, level = image_latents(channels=2), level_at(CosineSchedule(), [0.5] * 4)

    def network(z, time, labels):
        place = labels.astype(jnp.float32)[:, None, None, None]
        return jnp.concatenate([z * place, jnp.ones_like(z) * place / 10], -1)

    labels = np.array([1, 2, 3, 4])
    guide = guide_network(network, labels, 5, 2.0, target="v", learned_variance=True)
    guided = jax.jit(guide)(z, level)
    expected = np.broadcast_to(((labels / 10 + 1) / 2)[:, None, None, None], z.shape)
    np.testing.assert_allclose(guided.fraction, expected, rtol=1e-6)


def test_twice_keeps_examples_together():
    np.testing.assert_array_equal(twice(jnp.array([1, 2, 3])), [1, 1, 2, 2, 3, 3])


def test_sharded_guidance_is_the_unsharded_one():
    z, level = image_latents(16), level_at(CosineSchedule(), 0.5)
    labels = np.arange(16) % 10

    @jax.jit
    def guided(z, labels):
        return guide_network(labelled_network, labels, 10, 2.0, target="v")(z, level)

    expected = guided(z, labels)
    mesh = make_mesh("data=4,fsdp=2")
    with jax.set_mesh(mesh):
        spread = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
        compiled = guided.lower(*jax.device_put((z, labels), spread)).compile()
        found = compiled(*jax.device_put((z, labels), spread))
    assert not any(word in compiled.as_text() for word in ("all-gather", "all-to-all", "permute"))
    assert_same(found, expected, rtol=1e-6, atol=1e-6)


def test_values_and_gradients_are_finite_at_both_ends():
    """a = 0 and s = 0 exactly, with rescaling, an interval and huge weights."""
    z, labels = image_latents(), np.arange(4)

    def total(z, w, level, by_classifier):
        guided = guide_network(labelled_network, labels, 5, within(w), target="v", rescale=0.5)
        if by_classifier:
            guided = classifier_guidance(
                guided, lambda z, level: -(z**2).sum((1, 2, 3)) * level.a, w
            )
        estimate = guided(z, level)
        return (estimate.x**2).sum() + (estimate.e**2).sum()

    run = jax.jit(jax.value_and_grad(total, (0, 1)), static_argnums=3)
    for t in (0.0, 1.0):
        for by_classifier in (False, True):
            for w in (0.0, 1e4):
                values = run(z, w, level_at(RectifiedFlow(), [t] * 4), by_classifier)
                assert all(np.isfinite(value).all() for value in jax.tree.leaves(values)), t


def test_a_constant_prediction_can_be_rescaled():
    level, z = level_at(CosineSchedule(), [0.5] * 2), np.zeros((2, 3), np.float32)
    nothing = lambda z, level: Estimate(0 * z, 0 * z)  # noqa: E731

    def total(z):
        return classifier_free_guidance(nothing, nothing, 2.0, rescale=1.0)(z, level).x.sum()

    value, gradient = jax.jit(jax.value_and_grad(total))(z)
    assert value == 0
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize(
    ("labels", "null_label", "message"),
    [
        (None, 10, "labels are None, expected the class"),
        ([1, 2], None, "null_label is None, expected the id of the null class"),
        ([1, 10], 10, r"labels\[1\] is 10, expected a class, 0 to 9"),
        ([-1, 2], 10, r"labels\[0\] is -1, expected a class, 0 to 9"),
        ([[1, 2]], 10, r"labels have shape \(1, 2\) and type int.*expected \[B\] integers"),
        ([0.5, 1.0], 10, "type float.*expected \\[B\\] integers"),
        ([1, 2, 3], 10, r"conditions have shape \(3,\), expected \[2, ...\]"),
    ],
)
def test_guidance_without_a_null_class_is_refused(labels, null_label, message):
    level, z = level_at(CosineSchedule(), 0.5), image_latents(2)
    for array in (np.asarray, jnp.asarray):
        given = None if labels is None else array(labels)
        with pytest.raises(InputError, match=message):
            guide_network(labelled_network, given, null_label, 1.0, target="v")(z, level)


def test_options_that_cannot_be_meant():
    with pytest.raises(InputError, match=r"rescale is 1\.5, expected 0 <= rescale <= 1"):
        classifier_free_guidance(component(0), EVERYTHING, 1.0, rescale=1.5)
    with pytest.raises(InputError, match="target is 'velocity', expected one of"):
        classifier_free_guidance(component(0), EVERYTHING, 1.0, rescale_target="velocity")
    with pytest.raises(InputError, match="channels is 0, expected at least 1"):
        classifier_free_guidance(component(0), EVERYTHING, 1.0, channels=0)
    level, z = level_at(CosineSchedule(), 0.5), latents()
    with pytest.raises(InputError, match="channels is 3, expected at most the latents' 2"):
        classifier_free_guidance(component(0), EVERYTHING, 1.0, channels=3)(z, level)
    with pytest.raises(InputError, match="low is 2, high is 1, expected 0 <= low < high"):
        within(1.0, 2, 1)
    with pytest.raises(InputError, match="2 weights for 1 conditions"):
        compose_conditions(EVERYTHING, [component(0)], [1.0, 2.0])
