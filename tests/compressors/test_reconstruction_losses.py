"""Losses of compressors against numbers worked out by hand, and the discriminator's reach."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.compressors.patch_discriminator import PatchDiscriminatorConfig
from jaxgen.compressors.reconstruction_losses import (
    adversarial_weight,
    discriminator_loss,
    generator_loss,
    laplace_likelihood,
    perceptual_loss,
    reconstruction_loss,
)
from jaxgen.errors import InputError


def test_distances_are_means_over_the_numbers_of_an_example():
    x = np.zeros((2, 3, 4, 1), np.float32)
    y = x + np.array([0.5, -2.0], np.float32)[:, None, None, None]
    np.testing.assert_allclose(reconstruction_loss(x, y, "absolute"), [0.5, 2.0])
    np.testing.assert_allclose(reconstruction_loss(x, y), [0.25, 4.0])
    with pytest.raises(InputError, match=r"reconstruction has shape \(2, 3, 4\), expected"):
        reconstruction_loss(x, y[..., 0])
    with pytest.raises(InputError, match="distance is 'cubed', expected one of"):
        reconstruction_loss(x, y, "cubed")


def test_the_perceptual_distance_compares_directions_of_features():
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 5, 3)).astype(np.float32)

    def features(images):
        return [images, 2 * images[:, ::2]]

    @jax.jit
    def distance_and_gradient(y):
        distance, pullback = jax.vjp(lambda y: perceptual_loss(x, y, features), y)
        return distance, pullback(jnp.ones_like(distance))[0]

    np.testing.assert_allclose(distance_and_gradient(3 * x)[0], 0, atol=1e-6)
    # Opposite directions: |f + f|^2 = 4 at each pixel of each of the two layers.
    np.testing.assert_allclose(distance_and_gradient(-x)[0], 8, rtol=1e-5)
    assert np.isfinite(distance_and_gradient(np.zeros_like(x))[1]).all()


def test_the_likelihood_is_least_at_the_scale_of_the_distances():
    distances = jnp.array([0.3, 0.5])
    scale = jnp.log(distances.mean())
    gradient = jax.grad(lambda v: laplace_likelihood(distances, v).mean())(scale)
    assert abs(float(gradient)) < 1e-6
    np.testing.assert_allclose(laplace_likelihood(distances, jnp.zeros(())), distances)


def test_hinge_losses():
    real, fake = jnp.array([2.0, 0.5]), jnp.array([-3.0, 0.0])
    assert float(discriminator_loss(real, fake)) == pytest.approx((0.25 + 0.5) / 2)
    assert float(generator_loss(fake)) == 1.5


def test_the_adversarial_gradient_is_half_of_the_reconstructions():
    reconstruction, generator = {"w": jnp.array([3.0, 4.0])}, {"w": jnp.array([0.0, 10.0])}
    assert float(adversarial_weight(reconstruction, generator)) == pytest.approx(0.25, rel=1e-4)
    zero = jax.tree.map(jnp.zeros_like, generator)
    assert float(adversarial_weight(reconstruction, zero)) == 1e4


@pytest.mark.parametrize("axes", [2, 3])
def test_a_logit_sees_its_patch_alone(axes):
    config = PatchDiscriminatorConfig(axes=axes, width=8, layers=1)
    shape = (1, *(4,) * (axes - 2), 64, 64, 1)
    model = config.make_model()
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)

    # Group norms see the whole image, so what is looked at is the gradient without them.
    @jax.jit
    def logits_and_gradient(x):
        params = model.init(jax.random.key(1), x)

        def corner(x):
            logits = model.apply(params, x)
            return logits.reshape(-1)[0], logits

        gradient, logits = jax.grad(corner, has_aux=True)(x)
        return logits, gradient

    logits, gradient = logits_and_gradient(x)
    assert logits.shape == (1, *(4,) * (axes - 2), 30, 30)
    assert np.isfinite(gradient).all()


def test_a_discriminator_tells_noise_from_flat_images():
    model = PatchDiscriminatorConfig(width=8, layers=2).make_model()
    real = jax.random.normal(jax.random.key(0), (8, 16, 16, 1))
    fake = jnp.zeros_like(real) + jax.random.normal(jax.random.key(1), (8, 1, 1, 1))
    params = jax.jit(model.init)(jax.random.key(2), real)

    def loss(params):
        return discriminator_loss(model.apply(params, real), model.apply(params, fake))

    @jax.jit
    def descend(params):
        def step(params, _):
            value, gradient = jax.value_and_grad(loss)(params)
            return jax.tree.map(lambda p, g: p - 0.05 * g, params, gradient), value

        return jax.lax.scan(step, params, length=60)

    losses = descend(params)[1]
    assert float(losses[-1]) < 0.2 < float(losses[0])


def test_options_are_validated():
    for fields, message in (
        ({"axes": 1}, "axes is 1, expected 2"),
        ({"width": 12}, "width is 12, expected a multiple of 8"),
        ({"layers": 0}, "layers is 0, expected 1 or more"),
    ):
        with pytest.raises(InputError, match=message):
            PatchDiscriminatorConfig(**fields)
