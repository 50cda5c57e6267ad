"""The classifier of attributes: its loss against numpy, what it finds, shares of what was asked."""

import jax
import numpy as np
import pytest
from flax import linen as nn

from jaxgen.errors import InputError
from jaxgen.evaluation import (
    ClassifierConfig,
    apply_classifier,
    attribute_accuracy,
    attribute_codes,
    attribute_loss,
)
from jaxgen.evaluation.classifier import with_coordinates

SIZES = (3, 2)
CONFIG = ClassifierConfig(5, 1, (8, 8), dropout=0.0, coordinates=True)
CODES = np.array([[0, 1], [2, -1], [-1, 0], [1, 1]], np.int32)


@pytest.fixture(scope="module")
def made():
    """Parameters and images."""
    images = np.random.default_rng(0).uniform(-1, 1, (4, 8, 8, 1)).astype(np.float32)
    model = CONFIG.make_model()
    params = jax.jit(lambda key: model.init(key, images)["params"])(jax.random.key(0))
    return nn.meta.unbox(params), images


def test_the_loss_is_the_mean_of_what_is_known(made):
    params, images = made
    loss_fn = jax.jit(attribute_loss(CONFIG, SIZES))
    loss, metrics = loss_fn(params, {"image": images, "codes": CODES}, jax.random.key(0))
    _, p_NV = apply_classifier(CONFIG, params, images)
    # Softmax over all, renormalised within each attribute.
    first, second = np.split(p_NV, [3], axis=1)
    first, second = (p / p.sum(axis=1, keepdims=True) for p in (first, second))
    known = [first[0, 0], second[0, 1], first[1, 2], second[2, 0], first[3, 1], second[3, 1]]
    np.testing.assert_allclose(loss, -np.log(known).mean(), rtol=1e-5)
    found = attribute_codes(p_NV, SIZES)
    right = (found == CODES)[CODES >= 0]
    np.testing.assert_allclose(metrics["accuracy"], right.mean(), rtol=1e-6)


def test_codes_are_the_largest_of_each_attribute():
    p_NV = np.array([[0.1, 0.3, 0.2, 0.25, 0.15], [0.5, 0.0, 0.1, 0.1, 0.3]])
    np.testing.assert_array_equal(attribute_codes(p_NV, SIZES), [[1, 0], [0, 1]])


def test_shares_count_what_was_asked():
    found = np.array([[0, 1], [2, 0], [1, 0], [0, 1]])
    shares = attribute_accuracy(found, CODES, ("shape", "size"))
    assert shares == {"shape": 2 / 3, "size": 1.0, "all": 3 / 4}
    unasked = np.full((4, 2), -1)
    assert attribute_accuracy(found, unasked, ("shape", "size")) == {"all": 1.0}


def test_coordinates_are_rows_and_columns():
    x = np.zeros((2, 3, 5, 1), np.float32)
    found = np.asarray(with_coordinates(x))
    np.testing.assert_allclose(found[1, :, 2, 1], [-1, 0, 1])
    np.testing.assert_allclose(found[0, 1, :, 2], [-1, -0.5, 0, 0.5, 1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: attribute_loss(CONFIG, (3, 3)), "attributes have 6 values, expected 5"),
        (lambda: attribute_codes(np.zeros((1, 4)), SIZES), "attributes have 5 values, expected 4"),
        (
            lambda: attribute_accuracy(np.zeros((2, 2)), np.zeros((2, 1)), ("a", "b")),
            r"attributes have shapes \(2, 2\) and \(2, 1\), expected \[N, 2\] both",
        ),
    ],
)
def test_what_does_not_belong_together_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()
