"""Views of meshes: against the exact sphere, textures the right way up, what is lit."""

import dataclasses
import sys

import numpy as np
import pytest
from mesh_shapes import ball_mesh, red_over_blue, square_mesh

from jaxgen.data.scenes.load_scene import load_scene
from jaxgen.data.scenes.mesh_scene import (
    RADIUS,
    make_mesh_scene,
    make_mesh_tracer,
    moved_mesh,
)
from jaxgen.data.scenes.traced_views import AMBIENT, AMBIENT_UP, DIFFUSE, LIGHT_3
from jaxgen.errors import InputError
from jaxgen.geometry.mesh_rays import make_ray_caster
from jaxgen.interop.mesh_files import write_mesh
from jaxgen.interop.mesh_reading import read_mesh


@pytest.fixture(scope="module")
def ball_file(tmp_path_factory):
    """A fine ball of radius 5, red above and blue below, far from the origin."""
    ball = ball_mesh(6, 5.0, (30, -10, 4))
    above = ball.vertices_V3[:, 2:] > 4
    colours = np.where(above, np.uint8([[255, 0, 0]]), np.uint8([[0, 0, 255]]))
    path = tmp_path_factory.mktemp("ball") / "ball.ply"
    write_mesh(path, dataclasses.replace(ball, colours_V3=colours))
    return path


@pytest.fixture(scope="module")
def scene(ball_file):
    return make_mesh_scene(ball_file, size=40, views=(6, 1, 2))


def rays(views, i):
    """From the definition of a camera: origins and unit directions [Y, X, 3] in float64."""
    height, width = views.images.shape[1:3]
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    (fx, fy), (cx, cy) = views.intrinsics.focal[i], views.intrinsics.centre[i]
    local = np.stack([(x - cx) / fx, -(y - cy) / fy, -np.ones_like(x)], axis=-1)
    pose = views.camera_to_world[i].astype(float)
    world = local @ pose[:, :3].T
    return np.broadcast_to(pose[:, 3], world.shape), world / np.linalg.norm(
        world, axis=-1, keepdims=True
    )


def test_depth_and_normals_of_the_exact_sphere(scene):
    """81,920 triangles are within 2e-4 of it, and their normals within a degree."""
    for views in scene.parts.values():
        for i in range(len(views)):
            origin, direction = rays(views, i)
            half = np.sum(origin * direction, axis=-1)
            root = half**2 - np.sum(origin**2, axis=-1) + RADIUS**2
            sure = np.abs(root) > 0.02  # not at the outline
            np.testing.assert_array_equal(np.isfinite(views.depth[i])[sure], (root > 0)[sure])
            inside = sure & (root > 0)
            exact = (-half - np.sqrt(np.maximum(root, 0)))[inside]
            np.testing.assert_allclose(views.depth[i][inside], exact, atol=1e-3)
            assert np.abs(views.depth[i][inside] - exact).mean() < 2e-4
            points = origin[inside] + exact[:, None] * direction[inside]
            cosine = np.sum(views.normals[i][inside] * points, axis=-1) / RADIUS
            assert cosine.min() > np.cos(np.radians(2))
            assert not views.normals[i][~np.isfinite(views.depth[i])].any()
            assert (views.images[i][root > 0.4][:, 3] == 255).all()
            assert not views.images[i][root < -0.4][:, 3].any()


def test_depth_is_that_of_the_triangles(ball_file, scene):
    """What Embree's float32 says is made exact."""
    mesh = moved_mesh(read_mesh(ball_file), scene.to_files.inverse())
    views = scene.part("test")
    origin, direction = (values.reshape(-1, 3) for values in rays(views, 1))
    hits = make_ray_caster(mesh)(origin, direction)
    np.testing.assert_allclose(views.depth[1].ravel(), hits.distance_R, rtol=1e-6)


def test_colours_are_where_they_belong(scene):
    """Red above and blue below, from all sides; only the surface counts."""
    for views in scene.parts.values():
        for i in range(len(views)):
            origin, direction = rays(views, i)
            seen = (views.images[i][..., 3] == 255) & np.isfinite(views.depth[i])
            height = (origin + views.depth[i][..., None] * direction)[seen][:, 2]
            colour = views.images[i][seen].astype(int)
            clear = np.abs(height) > 0.1
            np.testing.assert_array_equal((colour[:, 0] > colour[:, 2])[clear], (height > 0)[clear])
    lowest = scene.part("train").camera_to_world[:, 2, 3].min()
    assert lowest < -2  # some cameras look from below


def test_the_way_back_to_the_file(ball_file, scene):
    assert scene.to_files.scale == pytest.approx(5 / RADIUS, rel=1e-3)
    np.testing.assert_allclose(scene.to_files.translation, [30, -10, 4], atol=1e-2)
    moved = moved_mesh(read_mesh(ball_file), scene.to_files.inverse())
    np.testing.assert_allclose(np.linalg.norm(moved.vertices_V3, axis=1), RADIUS, rtol=1e-4)
    back = moved_mesh(moved, scene.to_files)
    np.testing.assert_allclose(back.vertices_V3, read_mesh(ball_file).vertices_V3, atol=1e-4)


def seen_from(tracer, place):
    """Rays from around a place to the origin: of one pixel."""
    place = np.asarray(place, float)
    return tracer(place[None], -place[None] / np.linalg.norm(place))


def test_light_shadow_and_both_sides():
    """A grey square, by the formula; under another one it has no light but the ambient."""
    grey = np.full((4, 3), 128, np.uint8)
    square = dataclasses.replace(square_mesh(), colours_V3=grey)
    albedo = ((128 / 255 + 0.055) / 1.055) ** 2.4

    def stored(light):
        return 1.055 * (albedo * light) ** (1 / 2.4) - 0.055

    seen = seen_from(make_mesh_tracer(square), (1.8, -1.4, 2.0))  # no highlight there
    np.testing.assert_allclose(seen.distance_R, np.sqrt(1.8**2 + 1.4**2 + 4))
    np.testing.assert_array_equal(seen.normal_R3, [[0, 0, 1]])
    bright = stored(AMBIENT + AMBIENT_UP + DIFFUSE * LIGHT_3[2])
    np.testing.assert_allclose(seen.color_R3, np.full((1, 3), bright), atol=5e-3)
    below = seen_from(make_mesh_tracer(square), (0, 0.1, -2.0))
    np.testing.assert_allclose(below.normal_R3, [[0, 0, -1]])
    np.testing.assert_allclose(below.color_R3, np.full((1, 3), stored(AMBIENT - AMBIENT_UP)))
    roof = dataclasses.replace(
        square,
        vertices_V3=np.concatenate([square.vertices_V3, square.vertices_V3 + np.float32(0.5)]),
        faces_F3=np.concatenate([square.faces_F3, square.faces_F3 + 4]).astype(np.int32),
        colours_V3=np.concatenate([grey, grey]),
        uv_V2=None,
    )
    dark = seen_from(make_mesh_tracer(roof), (-1.8, 1.4, 0.5))
    np.testing.assert_allclose(dark.color_R3, np.full((1, 3), stored(AMBIENT + AMBIENT_UP)))


def test_textures_are_the_right_way_up(tmp_path):
    """Of an OBJ whose square lies on the ground: red at +y, which is -z in the file."""
    mesh = dataclasses.replace(square_mesh(), texture=red_over_blue())
    for suffix in ("obj", "glb"):
        write_mesh(tmp_path / f"m.{suffix}", mesh)
        tracer = make_mesh_tracer(read_mesh(tmp_path / f"m.{suffix}"))
        places = np.array([[0.2, 0.7, 2.0], [0.2, -0.7, 2.0]])
        seen = tracer(places, np.tile([[0, 0, -1.0]], (2, 1)))
        red, blue = seen.color_R3
        assert red[0] > red[2] + 0.5
        assert blue[2] > blue[0] + 0.5
    plain = make_mesh_tracer(dataclasses.replace(mesh, texture=None))
    across = np.stack([np.linspace(-0.9, 0.9, 50), np.zeros(50), np.full(50, 2.0)], axis=1)
    shades = plain(across, np.tile([[0, 0, -1.0]], (50, 1))).color_R3
    assert len(np.unique(np.round(shades[:, 0], 1))) == 2  # something to recognise


def test_by_its_path(ball_file):
    scene = load_scene(ball_file, size=9)
    assert {part: len(views) for part, views in scene.parts.items()} == {
        **{"train": 60, "validation": 8, "test": 12}
    }
    assert scene.part("train").images.shape == (60, 9, 9, 4)
    assert scene.bounded
    again = load_scene(str(ball_file), size=9)
    np.testing.assert_array_equal(again.part("test").images, scene.part("test").images)


def test_faults(ball_file, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="size is 0, expected 1 or more"):
        make_mesh_scene(ball_file, size=0)
    with pytest.raises(FileNotFoundError, match=r"no\.ply: no such scene or folder; scenes are"):
        load_scene(tmp_path / "no.ply")
    (tmp_path / "m.obj").write_text("v 1 1 1\nv 1 1 1\nv 1 1 1\nf 1 2 3\n")
    with pytest.raises(InputError, match=r"m\.obj: all vertices are at one place"):
        make_mesh_scene(tmp_path / "m.obj")
    monkeypatch.setitem(sys.modules, "embreex.rtcore_scene", None)
    with pytest.raises(InputError, match=r"need the package embreex, extra jaxgen\[data\]"):
        load_scene(ball_file)


def test_a_mesh_of_others(data_folder):
    """Spot, seen from all sides: upright, in the middle, on its feet."""
    scene = make_mesh_scene(data_folder / "mesh" / "spot.obj", size=32, views=(4, 0, 0))
    mesh = moved_mesh(read_mesh(scene.name), scene.to_files.inverse())
    assert np.linalg.norm(mesh.vertices_V3, axis=1).max() == pytest.approx(RADIUS, rel=1e-5)
    sides = mesh.vertices_V3.max(axis=0) - mesh.vertices_V3.min(axis=0)
    assert sides[0] < 0.8 * sides[2]
    horns = mesh.vertices_V3[mesh.vertices_V3[:, 2] > mesh.vertices_V3[:, 2].max() - 0.1]
    assert np.ptp(horns[:, 0]) > 0.2
    alpha = scene.part("train").images[..., 3] / 255
    assert (alpha.mean(axis=(1, 2)) > 0.1).all()
    assert not alpha[:, 0].any()
    assert not alpha[:, :, 0].any()
