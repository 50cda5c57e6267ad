"""CLIP guidance against its closed form for a linear image tower, in numpy and float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.diffusion.conditioning.clip_guidance import clip_guidance
from jaxgen.diffusion.conditioning.guidance import within
from jaxgen.diffusion.denoiser import Estimate
from jaxgen.diffusion.process.levels import Level, expand
from jaxgen.diffusion.process.schedules import CosineSchedule
from jaxgen.encoders import to_unit_length
from jaxgen.errors import InputError

B, SHAPE, D, SCALE = 5, (2, 3, 1), 4, 20.0
RNG = np.random.default_rng(0)
Z = RNG.normal(size=(B, *SHAPE)).astype(np.float32)
TOWER = RNG.normal(size=(6, D)).astype(np.float32)
TEXT = np.asarray(to_unit_length(jnp.asarray(RNG.normal(size=(B, D)), jnp.float32)))
LEVEL = Level(*(np.float32(v) for v in CosineSchedule().at(np.array([0.05, 0.3, 0.5, 0.7, 0.95]))))


def image_vectors(z, level):
    """A linear tower that the level shifts."""
    shift = expand(jnp.asarray(level.t), z[:, :1].reshape(len(z), -1))
    return to_unit_length(z.reshape(len(z), -1) @ TOWER + shift)


def denoiser(z, level):
    x = 0.3 * z
    return Estimate(x, (z - expand(level.a, z) * x) / expand(level.s, z))


def similarity_gradient(z, text, t):
    """Of l <u / |u|, c>, u = z W + t: l W (c - <i, c> i) / |u|."""
    u_BD = z.reshape(len(z), -1).astype(np.float64) @ TOWER + t[:, None]
    length_B1 = np.linalg.norm(u_BD, axis=1, keepdims=True)
    i_BD = u_BD / length_B1
    along_B1 = (i_BD * text).sum(1, keepdims=True)
    return (SCALE * (text - along_B1 * i_BD) / length_B1 @ TOWER.T).reshape(z.shape)


def over(value_B):
    return np.asarray(value_B, np.float64).reshape(-1, 1, 1, 1)


def test_a_linear_tower_gives_the_closed_form():
    """Weights of each example; e~ = e - w s g, x~ = x + w s^2 / a g, and z = a x~ + s e~."""
    w = np.array([0.0, 0.5, 1.0, 2.0, -1.0], np.float32)
    found = clip_guidance(denoiser, image_vectors, TEXT, w, scale=SCALE)(Z, LEVEL)
    g = over(w) * similarity_gradient(Z, TEXT, LEVEL.t)
    plain, a, s = denoiser(Z, LEVEL), over(LEVEL.a), over(LEVEL.s)
    np.testing.assert_allclose(found.e, plain.e - s * g, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found.x, plain.x + s**2 / a * g, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(a * found.x + s * found.e, Z, rtol=1e-4, atol=1e-4)
    assert abs(found.e - plain.e)[1:].max(axis=(1, 2, 3)).min() > 0.05


def test_examples_do_not_depend_on_each_other_nor_texts_and_weights_on_what_is_compiled():
    traces = []

    @jax.jit
    def guided(z, level, text_BD, w, scale):
        traces.append(z.shape)
        weight = within(w, 0.0, 5.0)
        return clip_guidance(denoiser, image_vectors, text_BD, weight, scale=scale)(z, level)

    whole = guided(Z, LEVEL, TEXT, 1.5, SCALE)
    other = guided(Z, LEVEL, TEXT[::-1], 3.0, 2 * SCALE)
    assert len(traces) == 1
    assert abs(whole.e - other.e)[1:4].max(axis=(1, 2, 3)).min() > 1e-2
    for b in (0, 3):
        one = jax.tree.map(lambda value, b=b: value[b : b + 1], (Z, LEVEL, TEXT))
        alone = guided(*one, 1.5, SCALE)
        np.testing.assert_allclose(alone.x[0], whole.x[b], rtol=1e-5, atol=1e-5)
    assert traces == [Z.shape, (1, *SHAPE)]


def test_guidance_raises_the_similarity():
    """x^ follows the gradient of what CLIP finds, at every level."""
    found = clip_guidance(denoiser, image_vectors, TEXT, 0.01, scale=SCALE)(Z, LEVEL)
    change = found.x - denoiser(Z, LEVEL).x
    rise_B = (change * similarity_gradient(Z, TEXT, LEVEL.t)).sum((1, 2, 3))
    assert (np.asarray(rise_B) > 0).all()


def test_texts_of_another_batch_are_refused():
    message = r"vectors of shape \(5, 4\) and texts \(1, 4\), expected \[B, D\] both"
    with pytest.raises(InputError, match=message):
        clip_guidance(denoiser, image_vectors, TEXT[:1], 1.0)(Z, LEVEL)
