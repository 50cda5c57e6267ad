"""Image-to-image tasks: what is left of an image, in numpy, and how it reaches the network."""

import jax
import numpy as np
import pytest

from jaxgen.diffusion.conditioning.guidance import guide_network, twice
from jaxgen.diffusion.conditioning.image_to_image import (
    Colorize,
    Inpaint,
    Uncrop,
    Upsample,
    downsample,
    upsample,
    with_condition,
    with_known,
)
from jaxgen.diffusion.denoiser import make_denoiser
from jaxgen.diffusion.objectives.losses import denoiser_loss, draw_noised
from jaxgen.diffusion.process.levels import Level
from jaxgen.diffusion.process.schedules import CosineSchedule
from jaxgen.diffusion.process.step_levels import make_steps
from jaxgen.diffusion.samplers import DDIM
from jaxgen.diffusion.samplers.sampling import sample_with_table
from jaxgen.errors import InputError

TASKS = [Colorize(), Inpaint(), Inpaint("strokes"), Inpaint("boxes"), Uncrop(), Upsample(4)]
KEYS = jax.jit(lambda: jax.random.split(jax.random.key(1), 16))()


def images(count=16, size=(16, 24), channels=3):
    x = np.random.default_rng(0).uniform(-1, 1, (count, *size, channels))
    return x.astype(np.float32)


def keys_of(index_B):
    return jax.random.wrap_key_data(np.asarray(jax.random.key_data(KEYS))[index_B])


run_task = jax.jit(lambda task, x, keys_B: task(x, keys_B), static_argnums=0)


@pytest.mark.parametrize("task", TASKS, ids=str)
def test_a_task_is_a_function_of_image_and_key(task):
    x = images()
    given = jax.device_get(run_task(task, x, KEYS))
    assert given.condition_BYXC.shape == (16, 16, 24, task.condition_channels(3))
    assert given.known_BYX1.shape == (16, 16, 24, 1)
    other = np.random.default_rng(1).integers(0, 16, 16)
    again = run_task(task, x[other], keys_of(other))
    np.testing.assert_allclose(again.condition_BYXC, given.condition_BYXC[other], atol=1e-6)
    np.testing.assert_array_equal(again.known_BYX1, given.known_BYX1[other])


@pytest.mark.parametrize(
    "task", [Inpaint(), Inpaint("strokes"), Inpaint("boxes"), Uncrop()], ids=str
)
def test_known_pixels_are_the_images_and_holes_are_standard_noise(task):
    x = 0.9 + 0 * images()
    condition, known = map(np.asarray, run_task(task, x, KEYS))
    known = np.broadcast_to(known, x.shape) == 1
    np.testing.assert_array_equal(condition[known], np.float32(0.9))
    noise = condition[~known]
    assert abs(noise.mean()) < 4 / noise.size**0.5
    assert abs(noise.var() - 1) < 4 * (2 / noise.size) ** 0.5
    assert np.unique(noise).size > 0.99 * noise.size, "no two examples share their noise"


def test_both_kinds_of_holes_occur():
    known = np.asarray(run_task(Inpaint(), images(), KEYS).known_BYX1)[..., 0]

    def is_box(hole_YX):
        rows, columns = (np.flatnonzero(hole_YX.any(axis)) for axis in (1, 0))
        return hole_YX.sum() == rows.size * columns.size

    boxes = sum(is_box(mask == 0) for mask in known)
    assert 3 <= boxes <= 13


def test_luma():
    x = images()
    x[0, 0, :3] = [1.0, 1.0, 1.0], [1.0, -1.0, -1.0], [-1.0, 1.0, -1.0]
    given = jax.device_get(run_task(Colorize(), x, KEYS))
    found = given.condition_BYXC[0, 0, :3, 0]
    np.testing.assert_allclose(found, [1.0, -0.402, 0.174], atol=1e-6)
    assert given.known_BYX1.max() == 0


def test_downsampling_takes_block_means():
    x = images(2, (4, 6))
    video = np.stack([x, 2 * x], 1)
    small, of_video = jax.jit(lambda *of: [downsample(v, 2) for v in of])(x, video)
    small = np.asarray(small)
    for y in range(2):
        for column in range(3):
            block = x[:, 2 * y : 2 * y + 2, 2 * column : 2 * column + 2]
            np.testing.assert_allclose(
                small[:, y, column], block.mean((1, 2)), rtol=1e-5, atol=1e-6
            )
    np.testing.assert_allclose(np.asarray(of_video)[:, 1], 2 * small, rtol=1e-5, atol=1e-6)


def test_upsampling_is_bilinear():
    """Halfway between pixel centres: weights 3/4 and 1/4 for a factor of 2, edges repeated."""
    row = np.array([0.0, 4.0, -8.0], np.float32)
    ramp = np.broadcast_to(np.arange(8, dtype=np.float32)[None, :, None, None], (1, 8, 8, 1))
    enlarge = jax.jit(lambda row, ramp: (upsample(row, 2), upsample(ramp, 4)))
    large, inner = map(np.asarray, enlarge(row[None, None, :, None], ramp))
    np.testing.assert_allclose(large[0, 0, :, 0], [0, 1, 3, 1, -5, -8], atol=1e-5)
    np.testing.assert_allclose(np.diff(inner[0, 4:-4, 5, 0]), 0.25, atol=1e-5)


def test_a_condition_that_is_constant_stays_when_shrunk_and_enlarged():
    x = np.broadcast_to(images()[:, :1, :1], (16, 16, 24, 3))
    np.testing.assert_allclose(run_task(Upsample(4), x, KEYS).condition_BYXC, x, atol=1e-6)


def test_the_network_sees_the_condition_beside_the_latent():
    z, condition, time = images(4), images(4, channels=1), np.arange(4.0)
    seen = with_condition(lambda z, time, extra: (z, time, extra), condition)(z, time, "label")
    np.testing.assert_array_equal(seen[0], np.concatenate([z, condition], -1))
    assert seen[1] is time
    assert seen[2] == "label"


def test_conditions_go_with_guidance():
    """A condition for a doubled batch: example b keeps its own."""
    z, condition, labels = images(4), images(4, channels=1), np.array([0, 1, 2, 1])
    level = Level(*(np.float32(value) for value in CosineSchedule().at(0.5)))

    def network(z, time, labels):
        return z[..., :3] * z[..., 3:] * (1.0 + labels[:, None, None, None])

    @jax.jit
    def run(z, condition):
        conditioned = with_condition(network, twice(condition))
        return guide_network(conditioned, labels, 3, 2.0, target="e")(z, level)

    guided = run(z, condition)
    e_c, e_u = ((1.0 + k) * z * condition for k in (labels[:, None, None, None], 3))
    np.testing.assert_allclose(guided.e, 3 * e_c - 2 * e_u, rtol=1e-5, atol=1e-5)


def test_the_loss_is_on_what_is_to_be_made():
    """Palette, section 4: the v loss over the unknown pixels, in numpy, and its gradient."""
    x, key, schedule = images(4), jax.random.key(7), CosineSchedule()
    known = np.asarray(run_task(Uncrop(), images(), KEYS).known_BYX1)[:4]
    shift = np.random.default_rng(8).normal(size=x.shape).astype(np.float32)

    @jax.jit
    def run(shift):
        def loss(shift):
            denoiser = with_known(make_denoiser(lambda z, time: 0.1 * z + shift, "v"), known, x)
            found = denoiser_loss(denoiser, x, key, schedule=schedule)[0]
            return found.sum(), found

        gradient, found = jax.grad(loss, has_aux=True)(shift)
        return draw_noised(x, key, schedule=schedule), found, gradient

    noised, found, gradient = jax.device_get(run(shift))
    a, s = (np.asarray(value)[:, None, None, None] for value in noised.level[2:])
    error = a * noised.e - s * x - 0.1 * noised.z - shift
    expected = (error**2 * (1 - known)).mean((1, 2, 3))
    np.testing.assert_allclose(found, expected, rtol=1e-3)
    assert np.abs(gradient * known).max() == 0
    assert np.abs(gradient * (1 - known)).max() > 0


def test_known_pixels_come_out_as_they_are():
    x, sampler = images(4), DDIM()
    known = np.asarray(run_task(Uncrop(), images(), KEYS).known_BYX1)[:4]
    spoilt = np.where(known == 1, x, np.float32(np.nan))
    denoiser = with_known(make_denoiser(lambda z, time: 0.1 * z, "v"), known, spoilt)
    table = sampler.table(make_steps(CosineSchedule(), 4))
    run = jax.jit(lambda z: sample_with_table(sampler, denoiser, z, table, jax.random.key(0)))
    made = np.asarray(run(images(4) * 2))
    np.testing.assert_allclose(made * known, x * known, atol=1e-5)
    assert np.isfinite(made).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Inpaint("circles"), "masks is 'circles', expected one of strokes, boxes, both"),
        (lambda: Uncrop(0.0), r"share is 0\.0, expected 0 < share < 1"),
        (lambda: Upsample(1), "factor is 1, expected at least 2"),
        (lambda: Colorize()(images(channels=1), KEYS), r"expected three channels, RGB"),
        (lambda: Inpaint()(images()[None], KEYS), r"expected \[B, Y, X, C\]"),
        (
            lambda: Uncrop()(images()[None], KEYS),
            r"images have shape \(1, .*expected \[B, Y, X, C\]",
        ),
        (lambda: Upsample(5)(images(), KEYS), "factor is 5, expected a divisor of both 16 and 24"),
        (
            lambda: with_condition(lambda z, time: z, images(4))(images(3), None),
            r"condition has shape \(4, 16, 24, 3\) for latents of shape \(3, 16, 24, 3\)",
        ),
    ],
)
def test_tasks_that_cannot_be_done(make, message):
    with pytest.raises(InputError, match=message):
        make()
