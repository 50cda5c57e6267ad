"""Clips with images: what is appended, the loss frame by frame, which examples are alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.diffusion.objectives.joint_frames import clip_with_images, draw_alone, joint_loss
from jaxgen.diffusion.objectives.losses import diffusion_loss
from jaxgen.diffusion.process.schedules import CosineSchedule
from jaxgen.errors import InputError

SCHEDULE = CosineSchedule()


def clips(count=5, frames=3):
    """Every frame has a number of its own: 10 clip + frame."""
    return [
        {
            "video": np.full((frames, 2, 2, 1), 10 * i, np.uint8)
            + np.arange(frames, dtype=np.uint8)[:, None, None, None],
            "label": i,
        }
        for i in range(count)
    ]


def test_images_are_frames_of_other_clips_by_index():
    found = [clip_with_images(clips(), i, 4, 5)["video"][:, 0, 0, 0] for i in range(5)]
    for index, numbers in enumerate(found):
        assert numbers[:3].tolist() == [10 * index, 10 * index + 1, 10 * index + 2]
        assert not (numbers[3:] // 10 == index).any()
        again = clip_with_images(clips(), index, 4, 5)
        np.testing.assert_array_equal(again["video"][:, 0, 0, 0], numbers)
        assert again["label"].tolist() == [index, *(numbers[3:] // 10)]
    other = clip_with_images(clips(), 0, 4, 5, seed=1)["video"][3:, 0, 0, 0]
    assert (other != found[0][3:]).any()
    # Every frame is taken as often.
    taken = clip_with_images(clips(2), 0, 400, 2)["video"][3:, 0, 0, 0]
    counts = np.bincount(taken)[10:]
    assert len(counts) == 3
    assert (np.abs(counts - 400 / 3) < 4 * np.sqrt(400 * 2 / 9)).all()


def test_no_images_and_no_labels():
    example = {"video": np.zeros((3, 2, 2, 1), np.uint8)}
    assert clip_with_images([example], 0, 0, 1)["video"] is example["video"]
    assert set(clip_with_images([example, example], 0, 1, 2)) == {"video"}


def test_the_loss_weighs_frames():
    """Against losses of single frames with the same noise, at weights 0, 1 and 2.5."""
    x = np.random.default_rng(0).uniform(-1, 1, (4, 5, 2, 2, 1)).astype(np.float32)
    key = jax.random.key(0)

    def network(z, time):
        return jnp.sin(3 * z) + time[:, None, None, None, None] / 1000

    def of_frames(weight_T):
        """The loss where errors of other frames are hidden: v is linear in the mean."""
        weight = np.asarray(weight_T, np.float32)[:, None, None, None]

        def hidden(z, time):
            # sum_f m_f l_f is the mean over frames of T m_f l_f: errors scaled by sqrt(T m_f).
            a, s = (expand(value) for value in (level.a, level.s))
            v = a * (z - a * x) / s - s * x
            return v + np.sqrt(weight * len(weight)) * (network(z, time) - v)

        return diffusion_loss(hidden, x, key, schedule=SCHEDULE)[0]

    def expand(value):
        return jnp.reshape(value, (-1, 1, 1, 1, 1))

    plain, level = jax.jit(lambda: diffusion_loss(network, x, key, schedule=SCHEDULE))()
    settings = (
        (0, 1.0, [0.2] * 5),
        (2, 1.0, [0.2] * 5),
        (2, 0.0, [1 / 3, 1 / 3, 1 / 3, 0, 0]),
        (2, 2.5, [1 / 8, 1 / 8, 1 / 8, 2.5 / 8, 2.5 / 8]),
    )
    rest = {"schedule": SCHEDULE}
    found = jax.jit(
        lambda: [
            joint_loss(network, x, key, image_frames=images, image_weight=weight, **rest)
            for images, weight, _ in settings
        ]
    )()
    expected = jax.jit(lambda: [of_frames(share_T) for *_, share_T in settings])()
    for (_, weight, _), (loss_B, levels), want_B in zip(settings, found, expected, strict=True):
        np.testing.assert_allclose(loss_B, want_B, rtol=2e-4)
        np.testing.assert_array_equal(levels.t, level.t)
        if weight == 1:
            np.testing.assert_allclose(loss_B, plain, rtol=1e-5)


def test_alone_by_the_examples_own_index():
    index = np.arange(4000)
    key = jax.random.key(0)
    alone = draw_alone(key, index, 0.25)
    assert abs(alone.mean() - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 4000)
    np.testing.assert_array_equal(draw_alone(key, index[7:30], 0.25), alone[7:30])
    assert not draw_alone(key, index, 0.0).any()
    assert draw_alone(key, index, 1.0).all()


def test_what_does_not_fit():
    small = [*clips(1), {"video": np.zeros((3, 4, 2, 1), np.uint8), "label": 0}]
    x = jnp.zeros((2, 3, 2, 2, 1))

    def loss(**rest):
        key = jax.random.key(0)
        return joint_loss(lambda z, time: z, x, key, schedule=SCHEDULE, **rest)

    for call, fault in (
        (lambda: clip_with_images(clips(), 0, -1, 5), "image_frames is -1, expected 0 or more"),
        (lambda: clip_with_images(clips(), 0, 1, 1), "count is 1, expected 2 clips or more"),
        (lambda: clip_with_images(small, 0, 1, 2), r"shape \(4, 2, 1\), expected \(2, 2, 1\)"),
        (lambda: loss(image_frames=3), "image_frames is 3 of 3 frames, expected 0 to 2"),
        (lambda: loss(image_frames=1, image_weight=-1), "image_weight is -1, expected 0 or more"),
    ):
        with pytest.raises(InputError, match=fault):
            call()
