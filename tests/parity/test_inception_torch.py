"""Inception's features against torchvision's network with the blocks of pytorch-fid."""

import types

import jax
import numpy as np
import pytest

from jaxgen.evaluation.inception import (
    Inception,
    inception_features,
    inception_params,
    resize_for_inception,
)

torch = pytest.importorskip("torch", reason="extra parity: torch is not installed")


def import_torchvision():
    """torchvision; built for a GPU, its operators are missing beside a torch for CPUs.

    The network needs none of them, so that the two which torchvision refuses to start without are
    declared here.
    """
    try:
        return pytest.importorskip("torchvision", reason="extra parity: no torchvision")
    except RuntimeError:
        for name in ("nms", "qnms"):
            torch.library.define(f"torchvision::{name}", "(Tensor a, Tensor b, float c) -> Tensor")
        return pytest.importorskip("torchvision", reason="extra parity: no torchvision")


@pytest.fixture(scope="module")
def network():
    """torchvision's Inception-v3 with random weights and pytorch-fid's pools, without ``fc``."""
    inception = import_torchvision().models.inception
    functional = torch.nn.functional
    pools = {"last": False}

    def average_pool(x, kernel_size, stride, padding):
        if pools["last"]:
            return functional.max_pool2d(x, kernel_size, stride, padding)
        return functional.avg_pool2d(x, kernel_size, stride, padding, count_include_pad=False)

    names = {name: getattr(functional, name) for name in ("relu", "max_pool2d")}
    inception.F = types.SimpleNamespace(avg_pool2d=average_pool, **names)
    torch.manual_seed(0)
    model = inception.Inception3(1008, aux_logits=False, init_weights=False).eval()
    model.fc = torch.nn.Identity()
    model.Mixed_7c.register_forward_pre_hook(lambda *_: pools.update(last=True))
    model.Mixed_7c.register_forward_hook(lambda *_: pools.update(last=False))
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.uniform_(-0.3, 0.3)
                module.running_var.uniform_(0.5, 2)
                module.weight.uniform_(0.7, 1.3)
                module.bias.uniform_(-0.2, 0.2)
    yield model
    inception.F = functional


def params_of(model):
    return inception_params({name: value.numpy() for name, value in model.state_dict().items()})


def theirs(model, images_NYXC):
    with torch.no_grad():
        return model(torch.from_numpy(images_NYXC).permute(0, 3, 1, 2)).numpy()


def relative(ours, expected):
    return np.abs(np.asarray(ours) - expected).max() / np.abs(expected).max()


def test_features_of_small_images(network):
    images = np.random.default_rng(0).uniform(-1, 1, (2, 107, 91, 3)).astype("f4")
    ours = jax.jit(Inception().apply)({"params": params_of(network)}, images)
    expected = theirs(network, images)
    assert expected.std() > 0.01
    assert relative(ours, expected) < 1e-5


@pytest.mark.parametrize("shape", [(32, 32, 3), (28, 28, 1), (310, 400, 3)])
def test_resizing(shape):
    images = np.random.default_rng(0).uniform(-1, 1, (2, *shape)).astype("f4")
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(images).permute(0, 3, 1, 2), (299, 299), mode="bilinear"
    )
    expected = expected.permute(0, 2, 3, 1).numpy()
    ours = resize_for_inception(images)
    assert ours.shape == (2, 299, 299, 3)
    np.testing.assert_allclose(ours, np.broadcast_to(expected, ours.shape), atol=2e-6)


def test_from_images_to_features(network):
    images = np.random.default_rng(0).uniform(-1, 1, (1, 32, 32, 3)).astype("f4")
    resized = np.array(resize_for_inception(images))
    ours = inception_features(params_of(network), images)
    assert relative(ours, theirs(network, resized)) < 1e-5
