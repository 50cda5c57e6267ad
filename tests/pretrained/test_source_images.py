"""Images that pipelines start from: what stays, what is made, and what does not fit."""

import jax
import numpy as np
import pytest
from tiny_pipelines import KEY, pipeline

from jaxgen.errors import InputError

PROMPTS = ["a red cube", "a ball"]
STEPS = 4


def image(seed=0):
    return np.random.default_rng(seed).integers(256, size=(2, 8, 8, 3), dtype=np.uint8)


def noise():
    return np.random.default_rng(3).normal(size=(2, 4, 4, 4)).astype(np.float32)


def latents(of=None, **options):
    made = pipeline(4) if of is None else of
    texts = made.encode(PROMPTS), made.encode(["", ""])
    source = made.source_of(**{"image": image(), **options})
    return np.asarray(made.sample_latents(*texts, KEY, noise(), steps=STEPS, source=source))


def half_known(columns):
    known_YX1 = np.zeros((8, 8, 1), np.float32)
    known_YX1[:, :columns] = 1
    return known_YX1


def test_known_latents_stay_and_the_others_are_made():
    """A latent with one pixel to be made is made; what is not known is as without an image."""
    z = np.asarray(pipeline().latents_of(image() / np.float32(127.5) - 1))
    assert z.shape == (2, 4, 4, 4)
    found = latents(known=half_known(5))
    np.testing.assert_allclose(found[:, :, :2], z[:, :, :2], atol=1e-6)
    assert (np.abs(found[:, :, 2:] - z[:, :, 2:]).max((-1, -2)) > 1e-3).all()
    np.testing.assert_allclose(latents(known=np.ones((1, 1, 1))), z, atol=1e-6)
    nothing = latents(known=np.zeros((2, 8, 8, 1), bool))
    np.testing.assert_allclose(nothing, latents(image=None), atol=1e-6)


def test_strength_is_a_share_of_the_steps():
    """An image whose latents get noise of the level after the steps that are left out."""
    z = np.asarray(pipeline().latents_of(image() / np.float32(127.5) - 1))
    levels = pipeline().scheduler.levels(STEPS)
    source = pipeline().source_of(image(), strength=0.25)
    alone = pipeline()
    texts = alone.encode(PROMPTS), alone.encode(["", ""])
    # The last of four steps; the network is called once, at the last level but one.
    found = alone.sample_latents(*texts, KEY, noise(), guidance_scale=1.0, steps=4, source=source)
    a, s = (np.asarray(value, np.float64) for value in (levels.a, levels.s))
    start = a[3] * z + s[3] * noise()
    config, params = alone.network
    time = np.asarray(alone.scheduler.time_input(type(levels)(*(v[3] for v in levels))))
    e = jax.jit(config.make_model().apply)(
        {"params": params},
        start.astype(np.float32),
        np.full(2, time, np.float32),
        text_BNC=texts[0],
    )
    expected = a[4] * (start - s[3] * np.asarray(e)) / a[3] + s[4] * np.asarray(e)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_channels_beside_the_latents():
    """Mask and masked image, of pixels known above a half; a latent by its first pixel."""
    nine = pipeline(9)
    known_BYX1 = np.random.default_rng(1).uniform(size=(2, 8, 8, 1)).astype(np.float32)
    source = nine.source_of(image(), known=known_BYX1)
    is_known = known_BYX1 > 0.5
    grey = np.where(is_known, image() / np.float32(127.5) - 1, 0)
    np.testing.assert_array_equal(source.beside[..., :1], 1 - is_known[:, ::2, ::2])
    np.testing.assert_allclose(source.beside[..., 1:], nine.latents_of(grey), atol=1e-6)
    assert source.known is None
    other = known_BYX1[:, ::-1]
    assert np.abs(latents(nine, known=known_BYX1) - latents(nine, known=other)).max() > 1e-4


def test_other_images_and_masks_compile_nothing():
    made = pipeline()
    for seed in range(2):
        found = made(
            PROMPTS, KEY, steps=2, image=image(seed), known=half_known(4 + seed), strength=0.5
        )
        assert found.shape == (2, 8, 8, 3)
        programs = made._sampling._cache_size(), made._encoding._cache_size()
        if seed == 0:
            first = programs
    assert programs == first


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ({"strength": 1.5}, "strength is 1.5, expected 0 to 1, a share of the steps"),
        ({"strength": 0.1}, "strength is 0.1 of 4 steps, which leaves none, expected at least 0.2"),
        ({"known": np.ones((3, 8, 1))}, r"known has shape \(3, 8, 1\) for data of shape \(2, 8, 8"),
        ({"known": np.full((8, 8, 1), 2.0)}, "known has values from 2 to 2, expected a mask"),
        ({"image": image()[:1]}, r"image has shape \(1, 8, 8, 3\), expected \[2, Y, X, 3\]"),
        ({"image": image()[:, :7]}, "height is 7, expected a whole number, a multiple of 4"),
        ({"height": 4}, "height is 4, expected None or 8, that of the image"),
        ({"image": image() * 1.0}, "image"),
        ({"image": None, "strength": 0.5}, "strength is given without an image, expected image="),
        ({"image": None, "known": half_known(4)}, "known is given without an image"),
        ({"noise": np.zeros((2, 4, 4, 3))}, r"noise has shape .*, expected latents \[2, 4, 4, 4\]"),
    ],
    ids=str,
)
def test_images_that_do_not_fit(given, fault):
    with pytest.raises(InputError, match=fault):
        pipeline()(PROMPTS, KEY, steps=STEPS, **{"image": image(), **given})


def test_networks_that_fill_in_need_images_and_masks():
    for given, fault in (
        ({}, "image is None, expected images and a mask: the network fills in parts"),
        ({"image": image()}, "known is None, expected a mask: the network fills in parts"),
    ):
        with pytest.raises(InputError, match=fault):
            pipeline(9)(PROMPTS, KEY, **given)
