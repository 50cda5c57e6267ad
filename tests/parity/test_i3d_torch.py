"""I3D's logits against a torch network written from the paper's table, with pytorch-i3d's names."""

import jax
import numpy as np
import pytest

from jaxgen.evaluation.i3d import (
    I3D,
    frames_as_channels,
    i3d_features,
    i3d_params,
    i3d_shapes,
    resize_for_i3d,
)

torch = pytest.importorskip("torch", reason="extra parity: torch is not installed")


@pytest.fixture(scope="module")
def tensors():
    """Random weights that keep the size of activations."""
    rng, found = np.random.default_rng(0), {}
    for name, shape in i3d_shapes().items():
        if name.endswith("conv3d.weight"):
            found[name] = rng.normal(size=shape) * np.sqrt(2 / np.prod(shape[1:]))
        else:
            found[name] = rng.uniform(0.5, 1.5, shape) - name.endswith(("bias", "mean"))
    return {name: value.astype("f4") for name, value in found.items()}


def padded_as_tensorflow(x, size, stride):
    """Zeros around x [B, C, T, Y, X]: half of what is missing before, the rest behind."""
    pads = []
    for side, k, step in zip(x.shape[2:], size, stride, strict=True):
        missing = max((-(-side // step) - 1) * step + k - side, 0)
        pads = [missing // 2, missing - missing // 2, *pads]  # torch lists the last axis first
    return torch.nn.functional.pad(x, pads)


def pool(x, size, stride):
    return torch.nn.functional.max_pool3d(padded_as_tensorflow(x, size, stride), size, stride)


def unit(tensors, x, name, stride=1):
    """Convolution, batch norm, rectifier."""
    given = {
        key.removeprefix(f"{name}."): torch.from_numpy(value)
        for key, value in tensors.items()
        if key.startswith(f"{name}.")
    }
    weight = given["conv3d.weight"]
    x = padded_as_tensorflow(x, weight.shape[2:], (stride,) * 3)
    x = torch.nn.functional.conv3d(x, weight, stride=stride)
    kinds = ("running_mean", "running_var", "weight", "bias")
    norm = [given[f"bn.{kind}"] for kind in kinds]
    return torch.relu(torch.nn.functional.batch_norm(x, *norm, eps=1e-3))


def block(tensors, x, name):
    """Four branches, side by side."""
    branches = [unit(tensors, x, f"{name}.b0")]
    for n in (1, 2):
        branches.append(unit(tensors, unit(tensors, x, f"{name}.b{n}a"), f"{name}.b{n}b"))
    branches.append(unit(tensors, pool(x, (3, 3, 3), (1, 1, 1)), f"{name}.b3b"))
    return torch.cat(branches, dim=1)


def theirs(tensors, clips):
    """Logits of clips [B, T, Y, X, 3]."""
    with torch.no_grad():
        x = torch.from_numpy(clips).permute(0, 4, 1, 2, 3)
        x = pool(unit(tensors, x, "Conv3d_1a_7x7", 2), (1, 3, 3), (1, 2, 2))
        x = unit(tensors, unit(tensors, x, "Conv3d_2b_1x1"), "Conv3d_2c_3x3")
        x = pool(x, (1, 3, 3), (1, 2, 2))
        for name in ("Mixed_3b", "Mixed_3c"):
            x = block(tensors, x, name)
        x = pool(x, (3, 3, 3), (2, 2, 2))
        for letter in "bcdef":
            x = block(tensors, x, f"Mixed_4{letter}")
        x = pool(x, (2, 2, 2), (2, 2, 2))
        for name in ("Mixed_5b", "Mixed_5c"):
            x = block(tensors, x, name)
        x = torch.nn.functional.avg_pool3d(x, (2, 7, 7), 1)
        weight = torch.from_numpy(tensors["logits.conv3d.weight"])
        bias = torch.from_numpy(tensors["logits.conv3d.bias"])
        return torch.nn.functional.conv3d(x, weight, bias).mean(dim=(2, 3, 4)).numpy()


def relative(ours, expected):
    return np.abs(np.asarray(ours) - expected).max() / np.abs(expected).max()


def test_logits_of_the_smallest_clips_that_it_takes(tensors):
    """Odd sides at every pool: 11, 6, 3, 2 frames, 193 to 7 rows, 200 to 7 columns."""
    clips = np.random.default_rng(0).uniform(-1, 1, (1, 11, 193, 200, 3)).astype("f4")
    expected = theirs(tensors, clips)
    assert expected.shape == (1, 400)
    assert expected.std() > 0.01
    ours = jax.jit(I3D().apply)({"params": i3d_params(tensors)}, clips)
    assert relative(ours, expected) < 1e-4


@pytest.mark.slow
def test_from_bytes_to_features(tensors):
    clips = np.random.default_rng(0).integers(0, 256, (1, 16, 24, 32, 1), dtype=np.uint8)
    unit_clips = clips.astype("f4") / 127.5 - 1
    resized = np.array(resize_for_i3d(unit_clips))
    ours = i3d_features(i3d_params(tensors), clips)
    assert relative(ours, theirs(tensors, resized)) < 1e-4


@pytest.mark.parametrize("shape", [(32, 40, 3), (28, 28, 1), (240, 300, 3)])
def test_clips_are_resized_as_torch_does(shape):
    clips = np.random.default_rng(0).uniform(-1, 1, (1, 2, *shape)).astype("f4")
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(clips[0]).permute(0, 3, 1, 2), (224, 224), mode="bilinear"
    )
    expected = np.broadcast_to(expected.permute(0, 2, 3, 1).numpy(), (2, 224, 224, 3))
    np.testing.assert_allclose(resize_for_i3d(clips)[0], expected, atol=3e-6)


@pytest.mark.parametrize(("size", "stride"), [(1, 1), (3, 1), (7, 2)])
def test_frames_side_by_side_are_a_convolution_in_time(size, stride):
    rng = np.random.default_rng(size)
    for frames in (1, 2, 5, 8):
        x = rng.normal(size=(2, frames, 2, 3, 4)).astype("f4")
        kernel = rng.normal(size=(5, 4, size, 1, 1)).astype("f4")
        given = padded_as_tensorflow(
            torch.from_numpy(x).permute(0, 4, 1, 2, 3), (size, 1, 1), (stride, 1, 1)
        )
        expected = torch.nn.functional.conv3d(
            given, torch.from_numpy(kernel), stride=(stride, 1, 1)
        ).permute(0, 2, 3, 4, 1)
        flat = kernel[..., 0, 0].transpose(2, 1, 0).reshape(-1, 5)
        ours = np.asarray(frames_as_channels(x, size, stride)) @ flat
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)
