"""The ResNet for CIFAR-10 against its definition in torch with random weights."""

import numpy as np
import pytest

from jaxgen.errors import InputError
from jaxgen.evaluation.cifar_resnet import apply_cifar_resnet, cifar_resnet_params

torch = pytest.importorskip("torch", reason="extra parity: torch is not installed")
nn = torch.nn


class Block(nn.Module):
    """Two convolutions beside a shortcut without parameters."""

    def __init__(self, before, width):
        super().__init__()
        self.stride, self.missing = width // before, width - before
        self.conv1 = nn.Conv2d(before, width, 3, self.stride, 1, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)

    def forward(self, x):
        inner = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        half = self.missing // 2
        kept = x[:, :, :: self.stride, :: self.stride]
        return (inner + nn.functional.pad(kept, (0, 0, 0, 0, half, half))).relu()


class Network(nn.Module):
    """14 layers for 7 classes."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        for i, (before, width) in enumerate(((16, 16), (16, 32), (32, 64)), start=1):
            blocks = Block(before, width), Block(width, width)
            self.add_module(f"layer{i}", nn.Sequential(*blocks))
        self.linear = nn.Linear(64, 7)

    def forward(self, x):
        h = self.layer3(self.layer2(self.layer1(self.bn1(self.conv1(x)).relu())))
        features = h.mean(dim=(2, 3))
        return features, self.linear(features).softmax(dim=1)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    model = Network().eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.uniform_(-0.3, 0.3)
                module.running_var.uniform_(0.5, 2)
                module.weight.uniform_(0.7, 1.3)
                module.bias.uniform_(-0.2, 0.2)
    return model


def tensors(network):
    return {name: value.numpy() for name, value in network.state_dict().items()}


def test_features_and_probabilities_are_those_of_torch(network):
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)
    shift, scale = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    given = torch.tensor((images / 255 - shift) / scale, dtype=torch.float32)
    with torch.no_grad():
        expected = network(given.permute(0, 3, 1, 2))
    found = apply_cifar_resnet(cifar_resnet_params(tensors(network)), images, batch_size=2)
    for own, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(own, other.numpy(), atol=1e-5)
    np.testing.assert_allclose(found[1].sum(axis=1), 1, atol=1e-5)


def test_faults_are_named(network):
    good = tensors(network)
    short = {name: value for name, value in good.items() if name != "layer2.1.conv2.weight"}
    with pytest.raises(InputError, match=r"judge: layer2\.1\.conv2\.weight is missing, expected"):
        cifar_resnet_params(short, "judge")
    with pytest.raises(InputError, match=r"bn1\.bias is missing, .* 8 layers for CIFAR"):
        cifar_resnet_params({})
    bad = {**good, "linear.weight": np.zeros((7, 32), np.float32)}
    with pytest.raises(InputError, match=r"linear\.weight has shape \[7, 32\], expected \[7, 64\]"):
        cifar_resnet_params(bad)
