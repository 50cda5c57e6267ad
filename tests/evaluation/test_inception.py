"""Inception's features without PyTorch: names, counts, folding, order of branches, resizing.

(`tests/parity/test_inception_torch.py` compares whole passes with torchvision's network.)
"""

import functools

import jax
import numpy as np
import pytest

from jaxgen.errors import InputError
from jaxgen.evaluation.inception import (
    FEATURES,
    Inception,
    _average_pool,
    inception_features,
    inception_params,
    inception_shapes,
    resize_for_inception,
)

SHAPES = inception_shapes()


@functools.cache
def tensors():
    """Random weights that keep the size of activations, with what is ignored beside them."""
    rng = np.random.default_rng(0)
    found = {"fc.weight": np.zeros(3), "Conv2d_1a_3x3.bn.num_batches_tracked": np.array(7)}
    for name, shape in SHAPES.items():
        if name.endswith("conv.weight"):
            found[name] = rng.normal(size=shape) * np.sqrt(2 / np.prod(shape[1:]))
        else:
            found[name] = rng.uniform(0.5, 1.5, shape) - name.endswith(("bias", "mean"))
    return {name: value.astype("f4") for name, value in found.items()}


def test_published_counts():
    """23,834,568 trained parameters with a classifier of 1,000 classes (torchvision's figure)."""
    trained = [
        s for name, s in SHAPES.items() if not name.endswith(("running_mean", "running_var"))
    ]
    classifier = (FEATURES + 1) * 1000
    assert sum(int(np.prod(shape)) for shape in trained) + classifier == 23_834_568
    assert len(SHAPES) == 5 * 94
    assert SHAPES["Conv2d_1a_3x3.conv.weight"] == (32, 3, 3, 3)
    assert SHAPES["Mixed_6c.branch7x7dbl_5.conv.weight"] == (192, 160, 1, 7)
    assert SHAPES["Mixed_7c.branch3x3dbl_3b.bn.running_var"] == (384,)


@pytest.fixture(scope="module")
def forward():
    return jax.jit(lambda params, images: Inception().apply({"params": params}, images))


def test_branches_stand_in_their_order(forward):
    """With kernels of 0 the features are the rectified biases of the last block's branches."""
    given = {name: 0 * value for name, value in tensors().items()}
    branches = {"1x1": 1, "3x3_2a": 2, "3x3_2b": 3, "3x3dbl_3a": 4, "3x3dbl_3b": 5, "_pool": 6}
    for name, value in branches.items():
        given[f"Mixed_7c.branch{name}.bn.bias"] = given[f"Mixed_7c.branch{name}.bn.bias"] + value
    features = forward(inception_params(given), np.ones((1, 75, 75, 3), "f4"))
    expected = np.repeat([1, 2, 3, 4, 5, 6], [320, 384, 384, 384, 384, 192])
    np.testing.assert_allclose(features[0], expected, rtol=1e-6)


def test_features_of_random_weights(forward):
    params = inception_params(tensors())
    images = np.random.default_rng(0).uniform(-1, 1, (3, 75, 75, 3)).astype("f4")
    features = np.asarray(forward(params, images))
    assert features.shape == (3, FEATURES)
    assert np.isfinite(features).all()
    assert (features.std(axis=0) > 0).mean() > 0.5
    np.testing.assert_allclose(forward(params, images[:1]), features[:1], rtol=1e-4, atol=1e-4)


def test_a_batch_norm_is_folded_into_its_convolution():
    given = tensors()
    layer = inception_params(given)["Conv2d_1a_3x3"]
    x = np.random.default_rng(1).normal(size=(3, 3, 3))  # one position of the first layer: Y X C
    weight, bias, mean, variance = (
        given[f"Conv2d_1a_3x3.bn.{kind}"]
        for kind in ("weight", "bias", "running_mean", "running_var")
    )
    y = np.einsum("fcyx,yxc->f", given["Conv2d_1a_3x3.conv.weight"], x)
    expected = (y - mean) / np.sqrt(variance + 1e-3) * weight + bias
    found = np.einsum("yxcf,yxc->f", layer["kernel"], x) + layer["bias"]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert layer["kernel"].dtype == np.float32


def test_average_pools_do_not_count_the_padding():
    x = np.arange(12, dtype="f4").reshape(1, 3, 4, 1)
    pooled = np.asarray(_average_pool(x))[0, :, :, 0]
    for i in range(3):
        for j in range(4):
            around = x[0, max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2, 0]
            assert pooled[i, j] == pytest.approx(around.mean())


@pytest.mark.parametrize("side", [8, 32, 299, 400])
def test_resizing_is_bilinear_between_the_centres_of_pixels(side):
    ramp = np.linspace(-1, 1, side, dtype="f4")
    images = np.broadcast_to(ramp[:, None, None], (1, side, side, 1))
    resized = np.asarray(resize_for_inception(images))
    assert resized.shape == (1, 299, 299, 3)
    centres = np.clip((np.arange(299) + 0.5) * side / 299 - 0.5, 0, side - 1)
    expected = np.broadcast_to(
        np.interp(centres, np.arange(side), ramp)[:, None, None], (299, 299, 3)
    )
    np.testing.assert_allclose(resized[0], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (
            {"Mixed_5b.branch1x1.bn.bias": None},
            "Mixed_5b.branch1x1.bn.bias is missing, expected the 470",
        ),
        ({"Mixed_9x.conv.weight": 1}, "Mixed_9x.conv.weight is not part of Inception-v3"),
        ({"Mixed_5b.branch1x1.bn.bias": np.zeros(3)}, r"bn.bias has shape \[3\], expected \[64\]"),
        ({"Mixed_5b.branch1x1.bn.bias": np.full(64, np.nan)}, "bn.bias holds numbers that are NaN"),
        (
            {"Mixed_5b.branch1x1.bn.bias": np.zeros(64, np.complex64)},
            "bias holds complex numbers, expected real ones",
        ),
        (
            {"Mixed_5b.branch1x1.bn.running_var": np.full(64, -1)},
            "running_var holds numbers .* out of",
        ),
    ],
    ids=range(6),
)
def test_weights_of_something_else(change, fault):
    given = {name: value for name, value in (tensors() | change).items() if value is not None}
    if "missing" in fault:
        with pytest.raises(InputError, match=f"Inception weights: .*{fault}"):
            inception_params(given)
    with pytest.raises(InputError, match=rf"^a\.safetensors: .*{fault}"):
        inception_params(given, "a.safetensors")


def test_tensors_of_torch_are_called_what_they_are():
    kind = type("Tensor", (), {"__module__": "torch"})
    given = {name: kind() for name in SHAPES}
    with pytest.raises(InputError, match=r"^f: .* is a torch\.Tensor, expected a numpy array"):
        inception_params(given, "f")


def test_bytes_are_the_same_images():
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    params = inception_params(tensors())
    wanted = inception_features(params, images.astype("f4") / 127.5 - 1)
    np.testing.assert_allclose(inception_features(params, images), wanted, rtol=1e-4, atol=1e-4)
    with pytest.raises(InputError, match="images have values from 0 to 25"):
        inception_features(params, images.astype("f4"))


def test_images_that_do_not_fit():
    with pytest.raises(
        InputError, match=r"shape \[2, 8, 8, 2\], expected \[N, Y, X, C\] with C of"
    ):
        inception_features({}, np.zeros((2, 8, 8, 2), "f4"))
