"""The SSIM for training against the exact one, and the gradient of its filter."""

import jax
import numpy as np
import pytest

from jaxgen.evaluation import ssim
from jaxgen.evaluation.similarity_loss import _filter, differentiable_ssim


def test_values_are_those_of_ssim():
    rng = np.random.default_rng(0)
    a = rng.uniform(size=(2, 14, 12, 3)).astype(np.float32)
    b = (0.6 * a + 0.4 * rng.uniform(size=a.shape)).astype(np.float32)
    found = jax.jit(differentiable_ssim)
    np.testing.assert_allclose(found(a, b), ssim(a, b), atol=1e-5)
    np.testing.assert_allclose(found(a, a), 1, atol=1e-5)


@pytest.mark.parametrize("axis", [0, 1])
def test_the_gradient_of_the_filter_is_its_transpose(axis):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(14, 12)).astype(np.float32)
    out, pull = jax.vjp(lambda x: _filter(axis, x), x)
    y = rng.normal(size=out.shape).astype(np.float32)
    (back,) = pull(y)
    assert float((out * y).sum()) == pytest.approx(float((x * back).sum()), rel=1e-4)
    corner = np.zeros_like(y)
    corner[0, 0] = 1
    assert np.argmax(np.asarray(pull(corner)[0])) == np.ravel_multi_index(
        (5, 0) if axis == 0 else (0, 5), x.shape
    )
