"""Noise on the condition of a super-resolver: moments, ends, and the level as an input."""

import jax
import numpy as np
import pytest

from jaxgen.diffusion.conditioning.image_to_image import upsample
from jaxgen.diffusion.conditioning.noise_augmentation import Augmentation
from jaxgen.diffusion.process.schedules import CosineSchedule, KarrasSchedule, RectifiedFlow
from jaxgen.errors import InputError

SCHEDULES = {"vp": CosineSchedule(), "ve": KarrasSchedule(), "flow": RectifiedFlow()}
KEYS = jax.jit(lambda: jax.random.split(jax.random.key(1), 256))()


def small_images(count=256):
    return np.random.default_rng(0).normal(1, 1, (count, 4, 4, 2)).astype(np.float32)


@pytest.mark.parametrize("scaling", SCHEDULES)
def test_the_condition_is_the_noisy_image_of_unit_scale(scaling):
    """E and var over noise of (a y + s e) / r, with y known; factor 1 keeps pixels apart."""
    augmentation, t = Augmentation(SCHEDULES[scaling], 1), 0.4
    y = np.broadcast_to(small_images(1), (256, 4, 4, 2))
    level = SCHEDULES[scaling].at(t)
    r = np.hypot(level.a, level.s)
    condition = np.asarray(jax.jit(augmentation.at)(y, t, KEYS))
    assert condition.shape == (256, 4, 4, augmentation.condition_channels(2))
    rest = condition[..., :2] - level.a / r * y
    wanted = (level.s / r) ** 2
    assert abs(rest.mean()) < 4 * (wanted / rest.size) ** 0.5
    assert abs(rest.var() / wanted - 1) < 4 * (2 / rest.size) ** 0.5
    np.testing.assert_allclose(condition[..., 2], 2 * t - 1, rtol=1e-6)


def test_no_noise_leaves_the_enlarged_image():
    """And all noise hides it."""
    y, augmentation = small_images(3), Augmentation(RectifiedFlow(), 4)

    @jax.jit
    def run(y, t):
        return augmentation.at(y, t, KEYS[:3]), upsample(y, 4)

    condition, enlarged = map(np.asarray, run(y, 0.0))
    assert condition.shape == (3, 16, 16, 3)
    np.testing.assert_allclose(condition[..., :2], enlarged, rtol=1e-5, atol=1e-6)
    assert condition[..., 2].max() == -1
    first, second = (run(images, 1.0)[0] for images in (y, 5 - y))
    np.testing.assert_array_equal(first, second)


def test_training_draws_a_level_for_each_example():
    augmentation = Augmentation(CosineSchedule(), 2, lowest=0.1, highest=0.6)
    y = small_images()
    draw = jax.jit(augmentation.at_random)
    condition, other = np.asarray(draw(y, KEYS)), np.arange(256)[::-1]
    t_B = (condition[:, 0, 0, 2] + 1) / 2
    assert 0.1 <= t_B.min() < 0.12
    assert 0.58 < t_B.max() <= 0.6
    assert abs(t_B.mean() - 0.35) < 4 * 0.5 / 12**0.5 / 16
    # The same level given by hand: the noise is the same too.
    again = jax.jit(augmentation.at)(y, t_B, KEYS)
    np.testing.assert_allclose(again, condition, atol=1e-4)
    # An example's own key is all that matters.
    keys = jax.random.wrap_key_data(np.asarray(jax.random.key_data(KEYS))[other])
    np.testing.assert_allclose(draw(y[other], keys), condition[other], atol=1e-5)


def test_videos_are_enlarged_in_space_and_time():
    """Each frame as an image is, one after the other; what was large is what it is made from."""
    x = np.random.default_rng(0).uniform(-1, 1, (2, 6, 4, 4, 3)).astype(np.float32)
    augmentation = Augmentation(CosineSchedule(), 2, frames=3)
    small = np.asarray(augmentation.small_of(x))
    wanted = x[:, ::3].reshape(2, 2, 2, 2, 2, 2, 3).mean(axis=(3, 5))
    np.testing.assert_allclose(small, wanted, atol=1e-6)
    condition = np.asarray(augmentation.at(small, 0.0, KEYS[:2]))
    assert condition.shape == (2, 6, 4, 4, 4)
    image = np.asarray(Augmentation(CosineSchedule(), 2).at(small[:, 1], 0.0, KEYS[:2]))
    for frame in range(3, 6):
        np.testing.assert_allclose(condition[:, frame], image, atol=1e-3)
    np.testing.assert_array_equal(augmentation.small_of(condition[..., :3]).shape, small.shape)
    with pytest.raises(InputError, match=r"shape \(2, 5, 4, 4, 3\), expected .* a multiple of 3"):
        augmentation.small_of(x[:, :5])


def test_the_level_is_traced():
    traces = []

    @jax.jit
    def condition(t):
        traces.append(t)
        return Augmentation(CosineSchedule(), 2).at(small_images(2), t, KEYS[:2])

    assert not np.allclose(condition(0.1), condition(0.3))
    assert len(traces) == 1


@pytest.mark.parametrize("scaling", SCHEDULES)
def test_finite_at_both_ends(scaling):
    augmentation = Augmentation(SCHEDULES[scaling], 2)
    total = lambda y, t: (augmentation.at(y, t, KEYS[:2]) ** 2).sum()  # noqa: E731
    value_and_gradient = jax.jit(jax.value_and_grad(total))
    for t in (0.0, 1.0):
        value, gradient = value_and_gradient(small_images(2), t)
        assert np.isfinite(value)
        assert np.isfinite(gradient).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"factor": 0}, "factor is 0, expected 1 or more"),
        ({"frames": 0}, "frames is 0, expected 1 or more"),
        ({"lowest": 0.5, "highest": 0.2}, r"lowest is 0\.5, highest is 0\.2, expected 0 <= lowest"),
        ({"highest": 1.5}, r"highest is 1\.5, expected"),
    ],
)
def test_options_that_cannot_be_meant(changes, message):
    with pytest.raises(InputError, match=message):
        Augmentation(CosineSchedule(), **{"factor": 2, **changes})
