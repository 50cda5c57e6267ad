"""LPIPS against its definition in torch, with torchvision's networks and random weights."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.errors import InputError
from jaxgen.evaluation.lpips import SMALLEST, lpips, lpips_params

torch = pytest.importorskip("torch", reason="extra parity: torch is not installed")
nn = torch.nn

VGG = (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M")
ENDS = {"alex": (1, 4, 7, 9, 11), "vgg": (3, 8, 15, 22, 29)}
"""The modules behind which features are compared, as the authors slice torchvision's."""


def make_network(backbone):
    """torchvision's ``features``, with its numbering of the modules."""
    if backbone == "alex":
        return nn.Sequential(
            *(nn.Conv2d(3, 64, 11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2)),
        )
    modules, width = [], 3
    for step in VGG:
        if step == "M":
            modules.append(nn.MaxPool2d(2, 2))
        else:
            modules += [nn.Conv2d(width, step, 3, padding=1), nn.ReLU()]
            width = step
    return nn.Sequential(*modules)


def widths(backbone, network):
    ends = itertools.pairwise((0, *ENDS[backbone]))
    return [
        next(m for m in reversed(network[a : b + 1]) if isinstance(m, nn.Conv2d)).out_channels
        for a, b in ends
    ]


@pytest.fixture(scope="module", params=["alex", "vgg"])
def case(request):
    """Backbone, torch's network, its linear weights, and the same for jaxgen."""
    torch.manual_seed(0)
    network = make_network(request.param).eval()
    for module in network:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            nn.init.normal_(module.bias, std=0.1)
    linear = [torch.rand(1, width, 1, 1) for width in widths(request.param, network)]
    tensors = {f"features.{name}": x.numpy() for name, x in network.state_dict().items()}
    tensors["classifier.1.weight"] = np.zeros((4, 4), np.float32)
    lines = {f"lin{i}.model.1.weight": x.numpy() for i, x in enumerate(linear)}
    return request.param, network, linear, tensors, lines


def reference(backbone, network, linear, a, b):
    """The authors' ``LPIPS.forward``, version 0.1, for images in [-1, 1], [N, 3, Y, X]."""
    shift = torch.tensor([-0.030, -0.088, -0.188])[None, :, None, None]
    scale = torch.tensor([0.458, 0.448, 0.450])[None, :, None, None]
    pair = [(a - shift) / scale, (b - shift) / scale]
    total, begin = 0, 0
    for end, weight in zip(ENDS[backbone], linear, strict=True):
        pair = [network[begin : end + 1](x) for x in pair]
        one, other = (x / (torch.sqrt((x**2).sum(dim=1, keepdim=True)) + 1e-10) for x in pair)
        total += nn.functional.conv2d((one - other) ** 2, weight).mean(dim=(1, 2, 3))
        begin = end + 1
    return total


def test_the_distance_is_that_of_torch(case):
    backbone, network, linear, tensors, lines = case
    params = lpips_params(backbone, tensors, lines)
    rng = np.random.default_rng(0)
    a, b = rng.uniform(size=(2, 2, 33, 38, 3)).astype(np.float32)
    given = [torch.tensor(x).permute(0, 3, 1, 2) * 2 - 1 for x in (a, b)]
    with torch.no_grad():
        expected = reference(backbone, network, linear, *given).numpy()
    found = lpips(params, a, b)
    assert expected.min() > 0.05
    np.testing.assert_allclose(found, expected, rtol=2e-4)
    np.testing.assert_allclose(lpips(params, 255 * a, 255 * b, 255), expected, rtol=2e-4)
    found = lpips(params, a[:, None], b[:, None])
    np.testing.assert_allclose(found, expected[:, None], rtol=2e-4)
    np.testing.assert_array_equal(lpips(params, a, a), 0)


def test_gradients_are_finite_for_black_images_and_the_smallest(case):
    backbone, _, _, tensors, lines = case
    params = lpips_params(backbone, tensors, lines)
    side = SMALLEST[backbone]
    a, b = jnp.zeros((side, side, 3)), jnp.ones((side, side, 3))
    with pytest.raises(InputError, match=f"expected .*, Y and X of {side} or more"):
        lpips(params, a[1:], b[1:])
    if backbone == "vgg":  # the same code, which takes longer to compile
        return
    # No feature is active anywhere.
    params = {
        name: layer if name == "linear" else layer | {"bias": layer["bias"] - 1e6}
        for name, layer in params.items()
    }
    gradient = jax.grad(lambda a, b: lpips(params, a, b))
    assert np.isfinite(gradient(a, b)).all()


def test_what_cannot_be_compared(case):
    backbone, _, _, tensors, lines = case
    image = np.zeros((40, 40, 3), np.float32)
    params = lpips_params(backbone, tensors, lines)
    for a, b, fault in (
        (image, image[:35], "images have shapes .* and .*, expected one shape"),
        (image[..., :1], image[..., :1], r"images have shape \[40, 40, 1\], expected"),
    ):
        with pytest.raises(InputError, match=fault):
            lpips(params, a, b)
    with pytest.raises(InputError, match="backbone is 'squeeze', expected one of alex, vgg"):
        lpips_params("squeeze", tensors, lines)
    lacking = {name: x for name, x in lines.items() if not name.startswith("lin2")}
    with pytest.raises(InputError, match=r"LPIPS weights: lin2.model.1.weight is missing"):
        lpips_params(backbone, tensors, lacking)
