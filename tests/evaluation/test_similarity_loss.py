"""The SSIM for training against the exact one, and its gradient against differences of it."""

import jax
import numpy as np
import pytest

from jaxgen.evaluation import ssim
from jaxgen.evaluation.similarity_loss import differentiable_ssim


def test_values_and_gradients_are_those_of_ssim():
    rng = np.random.default_rng(0)
    a = rng.uniform(0.2, 0.8, (2, 14, 12, 3)).astype(np.float32)
    b = (0.6 * a + 0.4 * rng.uniform(size=a.shape)).astype(np.float32)
    found = jax.jit(differentiable_ssim)
    np.testing.assert_allclose(found(a, b), ssim(a, b), atol=1e-5)
    np.testing.assert_allclose(found(a, a), 1, atol=1e-5)
    gradient = np.asarray(jax.jit(jax.grad(lambda a: differentiable_ssim(a, b).sum()))(a))
    way = rng.normal(size=a.shape).astype(np.float32)
    slope = float((ssim(a + 5e-3 * way, b) - ssim(a - 5e-3 * way, b)).sum()) / 1e-2
    assert (gradient * way).sum() == pytest.approx(slope, rel=1e-2)
