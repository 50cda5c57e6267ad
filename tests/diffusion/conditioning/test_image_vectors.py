"""Image vectors: the closest of several, and those that a text changes."""

import numpy as np
import pytest

from jaxgen.diffusion.conditioning.image_vectors import closest_to_text, text_difference
from jaxgen.errors import InputError


def vectors(*shape, length=3.0, seed=0):
    x = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return length * x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_the_vector_with_the_largest_product_is_kept():
    several, text = vectors(4, 10, 6), vectors(10, 6, seed=1)
    found = np.asarray(closest_to_text(several, text))
    for b in range(10):
        np.testing.assert_array_equal(found[b], several[(several[:, b] @ text[b]).argmax(), b])
    with pytest.raises(InputError, match=r"image vectors have shape \(4, 10, 6\) and text vectors"):
        closest_to_text(several, text[1:])


def test_a_text_difference_goes_along_the_sphere():
    image, text, before = vectors(5, 6), vectors(5, 6, seed=1), vectors(5, 6, seed=2)
    direction = (text - before) / np.linalg.norm(text - before, axis=1, keepdims=True)
    whole = np.arccos((image * direction).sum(axis=1) / 3)
    for share in (0.0, 0.25, 0.5, 1.0):
        found = np.asarray(text_difference(image, text, before, share))
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 3, rtol=1e-5)
        angle = np.arccos(np.clip((found * image).sum(axis=1) / 9, -1, 1))
        np.testing.assert_allclose(angle, share * whole, atol=2e-3)
    np.testing.assert_allclose(found, 3 * direction, atol=1e-5)


def test_texts_that_say_the_same_shrink_nothing_at_share_0():
    image, text = vectors(5, 6), vectors(5, 6, seed=1)
    np.testing.assert_allclose(text_difference(image, text, text, 0.0), image, atol=1e-6)
