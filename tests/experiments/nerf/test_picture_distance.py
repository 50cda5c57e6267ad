"""LPIPS of views, from files with random weights."""

import numpy as np
import pytest

from experiments.nerf.support.field_results import RenderedView, view_figures
from experiments.nerf.support.picture_distance import load_lpips
from jaxgen.errors import InputError
from jaxgen.evaluation.lpips import LAYERS
from jaxgen.interop.safetensors import write_safetensors


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Those of AlexNet and of its linear layers."""
    rng = np.random.default_rng(0)
    network, linear, before = {}, {}, 3
    for i, layer in enumerate(LAYERS["alex"]):
        shape = layer.width, before, layer.kernel, layer.kernel
        network[f"{layer.name}.weight"] = 0.1 * rng.normal(size=shape).astype(np.float32)
        network[f"{layer.name}.bias"] = np.zeros(layer.width, np.float32)
        linear[f"lin{i}.model.1.weight"] = np.full((1, layer.width, 1, 1), 0.1, np.float32)
        before = layer.width
    folder = tmp_path_factory.mktemp("lpips")
    write_safetensors(folder / "alex.safetensors", network)
    write_safetensors(folder / "linear.safetensors", linear)
    return folder / "alex.safetensors", folder / "linear.safetensors"


def test_lpips_joins_the_figures_of_a_view(files):
    """0 of equal pictures, more of more noise; a pixel that a mask leaves out does not count."""
    distance = load_lpips(*files)
    rng = np.random.default_rng(1)
    truth, noise = rng.uniform(size=(2, 40, 40, 3))
    found = []
    for share in (0.0, 0.1, 0.5):
        colour = (1 - share) * truth + share * noise
        view = RenderedView(truth, colour, np.ones((40, 40)), np.ones((40, 40)))
        found.append(view_figures(view, distance)["LPIPS"])
    assert found[0] == pytest.approx(0, abs=1e-6)
    assert 1e-4 < found[1] < found[2]
    outside = np.ones((40, 40), bool)
    outside[5:30] = False
    colour = np.where(outside[..., None], truth, noise)
    view = RenderedView(truth, colour, np.ones((40, 40)), np.ones((40, 40)), mask=outside)
    assert view_figures(view, distance)["LPIPS"] == pytest.approx(0, abs=1e-6)


def test_another_network_is_refused_by_name(files):
    with pytest.raises(InputError, match=r"linear\.safetensors: no tensor features\.2"):
        load_lpips(files[1], files[1])
