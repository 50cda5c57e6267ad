"""Models of other programs with random parameters."""

import pytest

torch = pytest.importorskip("torch", reason="torch (the [parity] extra) is not installed")


def randomised(model, seed=0):
    """Every parameter random, norms' and biases' too, at a size that keeps the signal alive."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 4
            parameter.normal_(0, fan_in**-0.5, generator=generator)
            if "norm" in name and name.endswith("weight"):
                parameter += 1
    return model.eval()
