"""What leaves a run is in the units and axes of the scene's files."""

import numpy as np
from captures import moved, random_scene

from experiments.nerf.support.field_results import RenderedView
from experiments.nerf.train import write_view


def test_depth_and_normals_of_a_view(tmp_path):
    generator, move = np.random.default_rng(0), moved(random_scene()).to_files
    colour, normals = generator.random((2, 5, 4, 3)).astype(np.float32)
    opacity, depth = generator.random((2, 5, 4)).astype(np.float32)
    view = RenderedView(colour, colour, opacity, depth, normals)
    write_view(tmp_path, "v", view, move)
    found = np.load(tmp_path / "v.npz")
    assert found["depth_along"] == "ray"
    np.testing.assert_allclose(found["depth"], 2.5 * depth, rtol=1e-6)
    turned = np.einsum("ij,yxj->yxi", move.rotation, normals)
    np.testing.assert_allclose(found["normals"], turned, atol=1e-6)
    np.testing.assert_array_equal(found["opacity"], opacity)
    assert {found[name].dtype for name in ("depth", "normals", "opacity")} == {np.dtype("f4")}
