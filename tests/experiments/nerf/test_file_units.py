"""What leaves a run is in the units and axes of the scene's files."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from captures import moved, random_scene
from flax import linen as nn
from scipy.spatial.transform import Rotation

from experiments.nerf.support.field_flags import FieldFlags
from experiments.nerf.support.field_meshes import make_meshes
from experiments.nerf.support.field_results import RenderedView
from experiments.nerf.support.splat_results import write_gaussians
from experiments.nerf.train import ResultFlags, show_test_views, write_place, write_view
from experiments.shared.training_runs import TrainedModel
from jaxgen.data import Scene, load_scene
from jaxgen.data.scenes.analytic_scene import make_analytic_scene
from jaxgen.data.scenes.nerfstudio import read_nerfstudio, write_nerfstudio
from jaxgen.data.scenes.similarity import Similarity
from jaxgen.interop.mesh_reading import read_mesh
from jaxgen.interop.splat_files import read_splats
from jaxgen.parallel import make_mesh, plan_layout

CENTRE, SCALE = np.array([3.0, -1.0, 0.5]), 10.0
"""Of `moved` scenes: where the cameras look, and how far the farthest one is."""
APPLIED = Similarity(0.5, np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]]), np.array([1.0, 2, 3]))


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


@pytest.fixture(scope="module")
def capture(tmp_path_factory):
    """A folder of the traced scene, in another place, position and size."""
    folder = tmp_path_factory.mktemp("capture") / "scene"
    scene = moved(make_analytic_scene(12, (4, 0, 2)))
    write_nerfstudio(folder, dataclasses.replace(scene, applied=APPLIED))
    return folder


def sphere(scene: Scene) -> TrainedModel:
    """A signed distance as it starts: to a sphere of half the radius that fits the box."""
    flags = FieldFlags(
        field="neus", levels=2, log2_table_size=8, finest_resolution=16, coarse_samples=32
    )
    config, mesh = flags.config(scene), make_mesh("data=1", jax.devices()[:1])
    with jax.set_mesh(mesh):
        layout = plan_layout(config.make_init(), jax.random.key(0), mesh=mesh)
        params = nn.meta.unbox(jax.jit(config.make_init())(jax.random.key(0)))
    return TrainedModel(config, params, layout, [], 0, 0, 0.0)


def assert_on_sphere(points_P3: np.ndarray) -> None:
    length_P = np.linalg.norm(points_P3 - CENTRE, axis=-1)
    assert len(length_P) > 50
    np.testing.assert_allclose(length_P, SCALE / 2, rtol=0.05)


def test_a_field_of_a_recentred_capture(capture, tmp_path):
    """Mesh, depths and normals are those of a sphere where the files have it, 10 times as large."""
    scene = load_scene(capture)
    trained = sphere(scene)
    with jax.set_mesh(trained.layout.mesh):
        show_test_views(tmp_path, trained, scene, ResultFlags())
        make_meshes(tmp_path, trained, scene, 16)
    assert_on_sphere(read_mesh(tmp_path / "mesh.ply").vertices_V3)
    test = read_nerfstudio(capture).part("test")
    y, x = np.mgrid[:12, :12] + 0.5
    for i in range(2):
        pose, (fx, fy) = test.camera_to_world[i], test.intrinsics.focal[i]
        ray_YX3 = np.stack([(x - 6) / fx, (6 - y) / fy, -np.ones_like(x)], axis=-1)
        ray_YX3 /= np.linalg.norm(ray_YX3, axis=-1, keepdims=True)
        found = np.load(tmp_path / "views" / f"test_{i:03d}.npz")
        solid_YX = found["opacity"] > 0.95
        seen_YX3 = pose[:, 3] + found["depth"][..., None] * (ray_YX3 @ pose[:, :3].T)
        assert_on_sphere(seen_YX3[solid_YX])
        out, normals = (seen_YX3 - CENTRE)[solid_YX], found["normals"][solid_YX]
        lengths = np.linalg.norm(out, axis=-1) * np.linalg.norm(normals, axis=-1)
        assert ((normals * out).sum(axis=-1) / lengths).min() > 0.99


def test_the_place_of_a_recentred_capture(capture, tmp_path):
    """Where the field's origin is in the files, and in the world that those were made of."""
    write_place(tmp_path / "scene.json", load_scene(capture))
    place = json.loads((tmp_path / "scene.json").read_text())
    assert place["scale"] == pytest.approx(SCALE)
    np.testing.assert_allclose(place["translation"], CENTRE, atol=1e-5)
    assert place["to_original"]["scale"] == pytest.approx(SCALE / 0.5)
    x, y, z = (CENTRE - (1, 2, 3)) / 0.5
    np.testing.assert_allclose(place["to_original"]["translation"], (x, -z, y), atol=1e-5)


def test_gaussians_of_a_recentred_capture(capture, tmp_path):
    """Means and covariances are turned as the cameras are, and 10 times as large."""
    scene, generator = load_scene(capture), np.random.default_rng(0)
    shapes = {"means": (3,), "log_scales": (3,), "quaternions": (4,), "harmonics": (1, 3)}
    params = {k: generator.normal(size=(7, *v)).astype(np.float32) for k, v in shapes.items()}
    params["opacity_logits"] = np.zeros(7, np.float32)
    write_gaussians(tmp_path / "s.ply", TrainedModel(None, params, None, [], 0, 0, 0.0), scene)
    found = read_splats(tmp_path / "s.ply")
    there, here = (
        one.part("test").camera_to_world[0, :, :3] for one in (read_nerfstudio(capture), scene)
    )
    turn = there @ here.T
    assert np.abs(turn - np.eye(3)).max() > 0.1
    expected = CENTRE + SCALE * params["means"] @ turn.T
    np.testing.assert_allclose(found["means"], expected, atol=1e-4)
    before, after = map(covariances, (params, found))
    np.testing.assert_allclose(after, SCALE**2 * turn @ before @ turn.T, rtol=1e-3, atol=1e-2)


def covariances(params: dict) -> np.ndarray:
    axes = Rotation.from_quat(params["quaternions"], scalar_first=True).as_matrix()
    axes *= np.exp(params["log_scales"])[:, None]
    return axes @ axes.swapaxes(1, 2)
