"""Losses: shapes, closed forms for exact denoisers, independence of batch and mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxgen.diffusion.denoiser import clip_x, make_denoiser
from jaxgen.diffusion.exact import gaussian_mixture_denoiser
from jaxgen.diffusion.objectives.losses import (
    denoiser_loss,
    diffusion_loss,
    draw_noised,
    loss_by_level,
    prediction_loss,
)
from jaxgen.diffusion.objectives.time_distributions import LowDiscrepancy, Uniform
from jaxgen.diffusion.objectives.weightings import SNR, Constant, SNRPlus, TruncatedSNR
from jaxgen.diffusion.process.example_keys import example_keys, normal
from jaxgen.diffusion.process.forward import add_noise
from jaxgen.diffusion.process.levels import Level
from jaxgen.diffusion.process.predictions import TARGETS, make_target
from jaxgen.diffusion.process.schedules import CosineSchedule, KarrasSchedule, RectifiedFlow
from jaxgen.diffusion.process.table_schedules import DiscreteSchedule
from jaxgen.errors import InputError
from jaxgen.parallel import make_mesh

KEY = jax.random.key(3)
COSINE = CosineSchedule()
SCHEDULES = {"vp": COSINE, "ve": KarrasSchedule(), "flow": RectifiedFlow()}


def echo(target):
    """A network that returns what it is given, as often as the target wants it."""
    return lambda z, time: jnp.concatenate([z, z], -1) if target == "both" else z


@pytest.mark.parametrize("shape", [(4, 3), (4, 5, 6, 2), (4, 2, 5, 6, 2)])
def test_examples_of_any_shape(shape):
    """One number per example, which does not depend on the others: examples one by one agree."""
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)

    @jax.jit
    def losses(x):
        noised, found = draw_noised(x, KEY, schedule=COSINE), {}
        for target in TARGETS:
            weight = {"target": target, "weighting": SNR()}
            options = {"schedule": COSINE, **weight}
            one, _ = diffusion_loss(echo(target), x[2:3], KEY, index_B=jnp.array([2]), **options)
            prediction = echo(target)(noised.z, None)
            want = prediction_loss(prediction, x, noised.e, noised.level, **weight)
            found[target] = diffusion_loss(echo(target), x, KEY, **options), one, want
        return found

    for (loss_B, level), one_B, want in losses(x).values():
        assert loss_B.shape == level.t.shape == (4,)
        assert loss_B.dtype == jnp.float32
        np.testing.assert_allclose(one_B[0], loss_B[2], rtol=1e-5)
        np.testing.assert_allclose(loss_B, want, rtol=1e-6)


def test_the_losses_of_several_predictions_are_added():
    x = np.random.default_rng(0).normal(size=(4, 3, 2)).astype(np.float32)

    @jax.jit
    def losses(x):
        first, second = lambda z, time: 0.3 * z, lambda z, time: 0.1 * z
        networks = first, second, lambda z, time: (first(z, time), second(z, time))
        return [diffusion_loss(network, x, KEY, schedule=COSINE)[0] for network in networks]

    one, other, both = map(np.asarray, losses(x))
    np.testing.assert_allclose(both, one + other, rtol=1e-6)


def test_the_v_loss_by_hand():
    x = np.random.default_rng(0).normal(size=(5, 3, 2)).astype(np.float32)

    @jax.jit
    def run(x):
        time_key, noise_key = jax.random.split(KEY)
        t = Uniform().draw(time_key, jnp.arange(5))
        e = normal(example_keys(noise_key, jnp.arange(5)), (3, 2))
        return t, e, diffusion_loss(lambda z, time: 0.3 * z, x, KEY, schedule=COSINE)

    t, e, (loss_B, level) = jax.device_get(run(x))
    e = e.astype(np.float64)
    a, s = (np.asarray(v)[:, None, None] for v in COSINE.at(t)[2:])
    want = ((a * e - s * x - 0.3 * (a * x + s * e)) ** 2).mean((1, 2))
    np.testing.assert_allclose(loss_B, want, rtol=1e-4)
    np.testing.assert_array_equal(level.t, t)


def test_the_network_gets_its_time_input():
    @jax.jit
    def run(x):
        inputs = []
        network = lambda z, time: inputs.append(time) or z  # noqa: E731
        options = {"schedule": COSINE, "time_input": lambda level: level.log_snr}
        return diffusion_loss(network, x, KEY, **options)[1], inputs[0]

    level, found = run(np.zeros((3, 2), np.float32))
    np.testing.assert_array_equal(found, level.log_snr)


@pytest.mark.parametrize("scaling", SCHEDULES)
def test_no_loss_for_the_truth(scaling):
    x = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)

    @jax.jit
    def losses(x):
        _, e, level = draw_noised(x, KEY, schedule=SCHEDULES[scaling])
        truth = {target: make_target(target, x, e, level) for target in TARGETS}
        return {
            target: prediction_loss(value, x, e, level, target=target, weighting=SNRPlus())
            for target, value in truth.items()
        }

    for target, loss_B in losses(x).items():
        np.testing.assert_array_equal(loss_B, np.zeros(6), err_msg=target)


@pytest.mark.parametrize("scaling", SCHEDULES)
def test_a_denoiser_has_the_same_loss_in_the_terms_of_every_target(scaling):
    x = np.random.default_rng(0).normal(size=(16, 2)).astype(np.float32)
    denoiser = gaussian_mixture_denoiser(np.array([0.5, 0.5]), np.eye(2), np.array([0.3, 0.9]))
    options = {
        "schedule": SCHEDULES[scaling],
        "weighting": TruncatedSNR(),
        "times": Uniform(0.2, 0.8),
    }

    @jax.jit
    def losses(x):
        return {
            target: denoiser_loss(denoiser, x, KEY, target=target, **options)[0]
            for target in TARGETS
        }

    found = losses(x)
    for target in TARGETS:
        np.testing.assert_allclose(found[target], found["x"], rtol=2e-2, err_msg=target)


@pytest.mark.parametrize("scaling", SCHEDULES)
def test_the_least_possible_loss_of_gaussian_data(scaling):
    """E|e - e^|^2 = a^2 c^2 / (a^2 c^2 + s^2) for data N(0, c^2) and the exact denoiser."""
    c, schedule = 0.5, SCHEDULES[scaling]
    denoiser = gaussian_mixture_denoiser(np.ones(1), np.zeros((1, 1)), np.array([c]))

    @jax.jit
    def loss():
        x = c * normal(example_keys(jax.random.key(1), jnp.arange(20000)), (1,))
        options = {"target": "v", "weighting": SNR(), "times": Uniform(0.1, 0.9)}
        return denoiser_loss(denoiser, x, KEY, schedule=schedule, **options)

    loss_B, level = loss()
    a, s = np.asarray(level.a), np.asarray(level.s)
    want = ((a * c) ** 2 / ((a * c) ** 2 + s**2)).mean()
    assert loss_B.mean() == pytest.approx(float(want), rel=0.05)


@pytest.mark.parametrize("target", ["x", "v", "flow", "both"])
def test_both_ends_have_finite_losses_and_gradients(target):
    @jax.jit
    def value_and_gradient(level):
        x, e = jnp.full((2, 3), 0.5), jnp.full((2, 3), -1.5)
        prediction = echo(target)(add_noise(x, e, level), None)

        def loss(scale):
            return prediction_loss(
                scale * prediction, x, e, level, target=target, weighting=Constant()
            ).sum()

        return jax.value_and_grad(loss)(0.7)

    for schedule in (CosineSchedule(-np.inf, np.inf), RectifiedFlow()):
        for t in (0.0, 1.0):
            level = jax.tree.map(np.float32, schedule.at(np.full(2, t)))
            assert np.isfinite(value_and_gradient(level)).all(), (schedule, t)


def test_noise_is_added_with_the_scales_of_the_level():
    x, e = np.ones((2, 3), np.float32), np.full((2, 3), 2, np.float32)
    level, single = (jax.tree.map(np.float32, COSINE.at(np.array(t))) for t in ([0.2, 0.7], 0.2))
    want = level.a[:, None] * 1 + level.s[:, None] * 2
    found, of_one = jax.jit(lambda *levels: [add_noise(x, e, at) for at in levels])(level, single)
    np.testing.assert_allclose(found, np.broadcast_to(want, (2, 3)), rtol=2e-7)
    np.testing.assert_allclose(of_one[1], np.full(3, want[0]), rtol=1e-6)


def test_low_precision_data_and_predictions():
    x = jax.ShapeDtypeStruct((4, 3), jnp.bfloat16)
    network = lambda z, time: z.astype(jnp.bfloat16)  # noqa: E731
    loss_B, _ = jax.eval_shape(lambda x: diffusion_loss(network, x, KEY, schedule=COSINE), x)
    assert loss_B.dtype == jnp.float32
    noised = jax.eval_shape(lambda x: draw_noised(x, KEY, schedule=COSINE), x)
    assert noised.z.dtype == jnp.float32


def test_contributions_of_levels_add_up():
    x = np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32)

    @jax.jit
    def run(x):
        loss_B, level = diffusion_loss(echo("v"), x, KEY, schedule=COSINE)
        ends = Level(*np.broadcast_to(np.float32([-np.inf, np.inf]), (4, 2)))
        of_ends = loss_by_level(jnp.ones(2), ends)
        return loss_B, level, loss_by_level(loss_B, level, (-2.0, 1.0)), of_ends

    loss_B, level, metrics, ends = jax.device_get(run(x))
    assert sorted(metrics) == sorted(f"{k}_snr_{i}" for k in ("loss", "share") for i in range(3))
    parts = [float(metrics[f"loss_snr_{i}"]) for i in range(3)]
    assert sum(parts) == pytest.approx(float(loss_B.mean()), rel=1e-5)
    log_snr = np.asarray(level.log_snr)
    inside = (log_snr > -2) & (log_snr <= 1)
    assert parts[1] == pytest.approx(float(np.where(inside, loss_B, 0).mean()), rel=1e-5)
    assert float(metrics["share_snr_1"]) == pytest.approx(inside.mean())
    assert (ends["share_snr_0"], ends["share_snr_3"]) == (0.5, 0.5)


@pytest.mark.parametrize("times", [Uniform(), LowDiscrepancy()], ids=str)
def test_the_loss_and_its_gradient_do_not_depend_on_the_mesh(times):
    x = np.random.default_rng(0).normal(size=(16, 4)).astype(np.float32)

    @jax.jit
    @jax.value_and_grad
    def mean_loss(scale, x):
        loss_B, _ = diffusion_loss(lambda z, time: scale * z, x, KEY, schedule=COSINE, times=times)
        return loss_B.mean()

    mesh = make_mesh("data=4,model=2")
    spread = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
    np.testing.assert_allclose(mean_loss(0.5, spread), mean_loss(0.5, x), rtol=1e-5)


def test_frames_with_levels_of_their_own():
    """The loss of a video is the mean of its frames' losses, each at the level that it has."""
    x = np.random.default_rng(0).normal(size=(4, 3, 2, 2)).astype(np.float32)
    inputs = []

    def frame_loss(t, x, noised, prediction, **options):
        level = Level(*(value[:, t] for value in noised.level))
        return prediction_loss(prediction[:, t], x[:, t], noised.e[:, t], level, **options)

    @jax.jit
    def losses(x):
        noised, found = draw_noised(x, KEY, schedule=COSINE, level_axes=2), {}
        for target in TARGETS:
            options = {"target": target, "weighting": TruncatedSNR()}

            def network(z, time, target=target):
                inputs.append(time.shape)
                return echo(target)(z, time)

            whole = diffusion_loss(network, x, KEY, schedule=COSINE, level_axes=2, **options)
            prediction = echo(target)(noised.z, None)
            frames = [frame_loss(t, x, noised, prediction, **options) for t in range(3)]
            found[target] = whole, frames
        return noised, found

    noised, found = losses(x)
    assert noised.level.t.shape == (4, 3)
    assert len(np.unique(noised.level.t)) == 12
    a, s = (np.asarray(value)[..., None, None] for value in noised.level[2:])
    np.testing.assert_allclose(noised.z, a * x + s * np.asarray(noised.e), rtol=1e-5, atol=1e-6)
    assert set(inputs) == {(4, 3)}
    for (loss_B, level), frames in found.values():
        np.testing.assert_array_equal(level.t, noised.level.t)
        np.testing.assert_allclose(loss_B, np.mean(frames, 0), rtol=1e-5)


def test_levels_of_frames_depend_on_key_and_index_alone():
    x = np.zeros((6, 3, 2), np.float32)
    index = np.array([4, 1])

    @jax.jit
    def times(x):
        options = {"schedule": COSINE, "level_axes": 2}
        some = draw_noised(x[:2], KEY, index_B=index, **options)
        low = draw_noised(x, KEY, times=LowDiscrepancy(), **options)
        return draw_noised(x, KEY, **options).level.t, some.level.t, low.level.t

    whole, some, low = map(np.asarray, times(x))
    np.testing.assert_array_equal(some, whole[index])
    np.testing.assert_allclose(np.diff(np.sort(low, 0), axis=0), 1 / 6, atol=1e-6)


def test_a_denoiser_is_evaluated_frame_by_frame():
    """`make_denoiser`, clipping and conversion take the levels of frames as those of examples."""
    x = np.random.default_rng(0).normal(size=(4, 3, 2)).astype(np.float32)
    denoiser = clip_x(make_denoiser(lambda z, time: z * jnp.cos(time)[..., None], "v"))

    @jax.jit
    def run(x):
        z, _, level = draw_noised(x, KEY, schedule=COSINE, level_axes=2)
        of_frames = [(z[:, t], Level(*(value[:, t] for value in level))) for t in range(3)]
        return denoiser(z, level), [denoiser(*frame) for frame in of_frames]

    found, frames = jax.device_get(run(x))
    for t, wanted in enumerate(frames):
        np.testing.assert_allclose(found.x[:, t], wanted.x, rtol=1e-6)
        np.testing.assert_allclose(found.e[:, t], wanted.e, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("axes", [0, 4])
def test_axes_that_the_data_do_not_have_are_refused(axes):
    with pytest.raises(InputError, match=rf"level_axes is {axes} for data of shape \(2, 3, 4\)"):
        diffusion_loss(echo("v"), jnp.zeros((2, 3, 4)), KEY, schedule=COSINE, level_axes=axes)


def test_contributions_of_frames_are_rejected():
    loss_B, level = diffusion_loss(
        echo("v"), jnp.zeros((2, 3, 4)), KEY, schedule=COSINE, level_axes=2
    )
    with pytest.raises(InputError, match=r"shape \(2, 3\) for losses of shape \(2,\)"):
        loss_by_level(loss_B, level)


def test_noise_is_no_target_at_zero_snr():
    for schedule in (RectifiedFlow(), DiscreteSchedule(zero_terminal_snr=True)):
        with pytest.raises(InputError, match=r"target is 'e' with .*zero SNR"):
            diffusion_loss(echo("e"), jnp.zeros((2, 3)), KEY, schedule=schedule, target="e")


def test_predictions_of_another_shape_are_refused():
    with pytest.raises(InputError, match=r"shape \(2, 3\) for data of shape \(2, 3\), .*\(2, 6\)"):
        diffusion_loss(echo("v"), jnp.zeros((2, 3)), KEY, schedule=COSINE, target="both")
    with pytest.raises(InputError, match="target is 'eps'"):
        diffusion_loss(echo("v"), jnp.zeros((2, 3)), KEY, schedule=COSINE, target="eps")
