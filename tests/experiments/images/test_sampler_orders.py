"""The experiment on the orders of samplers, with few steps."""

import pytest

from experiments.images.sampler_orders import Config, main
from experiments.shared.launch import LaunchConfig
from jaxgen.errors import InputError


def test_orders_are_measured_and_drawn(tmp_path):
    launch = LaunchConfig(workdir=str(tmp_path / "run"))
    orders = main(Config(launch=launch, counts=(16, 32, 64)))
    for name, order in {"DDIM": 1, "Euler": 1, "Heun": 2, "DPM-Solver++ 2M": 2}.items():
        assert orders[name] == pytest.approx(order, abs=0.15)
    assert {path.name for path in (tmp_path / "run").iterdir()} >= {"table.md", "convergence.png"}
    assert "DPM-Solver++ 3M" in (tmp_path / "run" / "table.md").read_text()


@pytest.mark.parametrize("counts", [(8,), (32, 16), (2, 8)])
def test_bad_counts_are_refused(counts):
    with pytest.raises(InputError, match="expected two or more rising, 4 at least"):
        Config(counts=counts)
