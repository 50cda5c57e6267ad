"""I3D without PyTorch: counts, names, folding, faults of weights and of clips.

(`tests/parity/test_i3d_torch.py` compares whole passes with a torch network.)
"""

import numpy as np
import pytest

from jaxgen.errors import InputError
from jaxgen.evaluation.i3d import i3d_features, i3d_params, i3d_shapes, resize_for_i3d

SHAPES = i3d_shapes()


@pytest.fixture(scope="module")
def tensors():
    """Small random weights, with a counter that is ignored beside them."""
    rng = np.random.default_rng(0)
    found = {name: rng.uniform(0.5, 1.5, shape).astype("f4") for name, shape in SHAPES.items()}
    return found | {"Mixed_3b.b0.bn.num_batches_tracked": np.array(7)}


def test_published_counts():
    """12,697,264 trained numbers in pytorch-i3d; 7,280 of them are scales of norms."""
    trained = {name: int(np.prod(shape)) for name, shape in SHAPES.items() if "running" not in name}
    assert sum(trained.values()) == 12_697_264
    assert sum(n for name, n in trained.items() if name.endswith("bn.weight")) == 7_280
    assert len(SHAPES) == 57 * 5 + 2
    assert SHAPES["Conv3d_1a_7x7.conv3d.weight"] == (64, 3, 7, 7, 7)
    assert SHAPES["Mixed_3b.b1b.conv3d.weight"] == (128, 96, 3, 3, 3)
    assert SHAPES["Mixed_5c.b2b.bn.running_var"] == (128,)
    assert SHAPES["logits.conv3d.weight"] == (400, 1024, 1, 1, 1)
    assert SHAPES["logits.conv3d.bias"] == (400,)


def test_a_batch_norm_is_folded_into_its_convolution(tensors):
    layer = i3d_params(tensors)["Conv3d_2c_3x3"]
    x = np.random.default_rng(1).normal(size=(3, 3, 3, 64))  # one position: T Y X C
    weight, bias, mean, variance = (
        tensors[f"Conv3d_2c_3x3.bn.{kind}"]
        for kind in ("weight", "bias", "running_mean", "running_var")
    )
    y = np.einsum("fctyx,tyxc->f", tensors["Conv3d_2c_3x3.conv3d.weight"], x)
    expected = (y - mean) / np.sqrt(variance + 1e-3) * weight + bias
    side_by_side = x.transpose(1, 2, 0, 3).reshape(3, 3, -1)
    found = np.einsum("yxcf,yxc->f", layer["kernel"], side_by_side) + layer["bias"]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)
    assert layer["kernel"].dtype == np.float32


BIAS = "Mixed_3b.b1a.bn.bias"


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({BIAS: None}, f"{BIAS} is missing, expected the 287 tensors of pytorch-i3d"),
        ({"Mixed_9x.conv3d.weight": 1}, "Mixed_9x.conv3d.weight is not part of pytorch-i3d"),
        ({BIAS: np.zeros(3)}, rf"{BIAS} has shape \[3\], expected \[96\]"),
        ({BIAS: np.full(96, np.nan)}, f"{BIAS} holds numbers that are NaN"),
        ({BIAS: np.zeros(96, np.complex64)}, f"{BIAS} holds complex numbers, expected real"),
        ({"Mixed_3b.b0.bn.running_var": np.full(64, -1.0)}, "running_var holds numbers .* out of"),
        ({"logits.conv3d.bias": np.zeros(157)}, r"bias has shape \[157\], expected \[400\]"),
        ({BIAS: [0.0] * 96}, f"{BIAS} is a builtins.list, expected a numpy array"),
    ],
    ids=range(8),
)
def test_weights_of_something_else(change, fault, tensors):
    given = {name: value for name, value in (tensors | change).items() if value is not None}
    with pytest.raises(InputError, match=rf"^i\.safetensors: .*{fault}"):
        i3d_params(given, "i.safetensors")


def test_clips_that_do_not_fit():
    for shape, fault in (
        (
            (2, 16, 8, 8, 2),
            r"shape \[2, 16, 8, 8, 2\], expected \[N, T, Y, X, C\] with C of 1 or 3",
        ),
        ((16, 8, 8, 3), r"shape \[16, 8, 8, 3\], expected \[N, T, Y, X, C\]"),
        ((2, 9, 8, 8, 3), "clips have 9 frames, expected 10 or more"),
        ((0, 16, 8, 8, 3), "batch_size is 4 for 0 images"),
    ):
        with pytest.raises(InputError, match=fault):
            i3d_features({}, np.zeros(shape, "f4"))
    with pytest.raises(InputError, match="values from 0 to 255"):
        i3d_features({}, np.full((1, 16, 8, 8, 3), 255, "f4"))


def test_resizing_is_bilinear_between_the_centres_of_pixels():
    ramp = np.linspace(-1, 1, 32, dtype="f4")
    clips = np.broadcast_to(ramp[:, None, None], (1, 2, 32, 32, 1))
    centres = np.clip((np.arange(224) + 0.5) * 32 / 224 - 0.5, 0, 31)
    expected = np.interp(centres, np.arange(32), ramp)[:, None, None]
    found = np.asarray(resize_for_i3d(clips))
    np.testing.assert_allclose(found, np.broadcast_to(expected, (1, 2, 224, 224, 3)), atol=1e-5)
