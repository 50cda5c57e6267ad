"""U-ViT: published sizes, long skips, what its tokens are."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import TINY, apply, inputs, params_of, shapes

from jaxgen.errors import InputError
from jaxgen.nn import parameter_count
from jaxgen.spacetime import UViTConfig

PIXELS = {"in_channels": 3, "out_channels": 3}


@pytest.mark.parametrize(
    ("name", "changes", "millions"),
    [
        ("U-ViT-S/2", {**PIXELS, "num_classes": 0}, 44),
        ("U-ViT-S-Deep/2", {}, 58),
        ("U-ViT-M/4", {**PIXELS, "input_size": (64, 64)}, 131),
        ("U-ViT-L/2", {}, 287),
        ("U-ViT-H/2", {}, 501),
    ],
)
def test_parameter_counts_are_the_published_ones(name, changes, millions):
    """Bao et al. 2023, table 1, in millions: CIFAR-10, latents, ImageNet 64 and latents."""
    config = UViTConfig.named(name, **changes)
    z = jax.ShapeDtypeStruct((1, *config.input_size, config.in_channels), jnp.float32)
    time = jax.ShapeDtypeStruct((1,), jnp.float32)
    label = jax.ShapeDtypeStruct((1,), jnp.int32) if config.num_classes else None
    assert round(parameter_count(shapes(config, z, time, label)) / 1e6) == millions


def zero(params, *path):
    """The same parameters with one leaf or branch zero."""
    if not path:
        return jax.tree.map(np.zeros_like, params)
    return {**params, path[0]: zero(params[path[0]], *path[1:])}


def test_the_long_skip_carries_what_the_middle_does_not():
    """With the way through the middle cut, the output still follows the input, through the skip."""
    config, (z, time, label) = TINY["uvit"], inputs()
    params = params_of(config)
    kernel = np.array(params["second_0"]["skip"]["kernel"])
    kernel[: config.width] = 0  # the half that reads the middle block
    skip = {**params["second_0"]["skip"], "kernel": kernel}
    params = {**params, "second_0": {**params["second_0"], "skip": skip}}
    found = apply(config, params, z, time, label)
    np.testing.assert_array_equal(apply(config, zero(params, "middle"), z, time, label), found)
    assert np.abs(apply(config, zero(params, "first_0"), z, time, label) - found).max() > 0.01
    assert np.abs(apply(config, params, z[::-1], time, label) - found).max() > 0.01


def test_skips_join_mirrors():
    """Depth 5: the second half reads the first one's outputs in reverse order."""
    config = dataclasses.replace(TINY["uvit"], depth=5)
    assert {"first_0", "first_1", "middle", "second_0", "second_1"} <= set(params_of(config))
    params = params_of(config)
    # second_1 mirrors first_0: cut everything else that reads the stream after first_0.
    kernel = np.array(params["second_1"]["skip"]["kernel"])
    kernel[: config.width] = 0
    skip = {**params["second_1"]["skip"], "kernel": kernel}
    params = {**params, "second_1": {**params["second_1"], "skip": skip}}
    found = apply(config, params, *inputs())
    for name in ("first_1", "middle", "second_0"):
        np.testing.assert_array_equal(apply(config, zero(params, name), *inputs()), found)
    assert np.abs(apply(config, zero(params, "first_0"), *inputs()) - found).max() > 0.01


def test_time_and_class_are_tokens_with_positions():
    config = TINY["uvit"]
    assert params_of(config)["positions"].shape == (2 + 8, 16)
    free = dataclasses.replace(config, num_classes=0)
    z, time, _ = inputs()
    assert shapes(free, z, time)["positions"].shape == (1 + 8, 16)
    assert set(params_of(config)["first_0"]["attention"]["qkv"]) == {"kernel"}


def test_the_last_convolution_sees_neighbouring_patches():
    """With attention cut, a pixel's influence ends where a 3 x 3 window around its patch does."""
    config, (z, time, label) = TINY["uvit"], inputs()
    params = params_of(config)
    for block in ("first_0", "middle", "second_0"):
        params = zero(params, block, "attention")
    changed = z.copy()
    changed[:, 0, 0] += 1
    difference = apply(config, params, changed, time, label) - apply(config, params, z, time, label)
    reached = np.abs(difference).max(axis=(0, 3)) > 0
    expected = np.zeros((4, 8), bool)
    expected[:3, :3] = True
    np.testing.assert_array_equal(reached, expected)


def test_an_even_depth_is_refused():
    with pytest.raises(InputError, match="depth is 4, expected an odd number"):
        dataclasses.replace(TINY["uvit"], depth=4)
