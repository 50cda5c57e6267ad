"""Rays against meshes, compared with an independent search and with closed forms."""

import sys

import numpy as np
import pytest
from mesh_shapes import ball_mesh, square_mesh

from jaxgen.errors import InputError
from jaxgen.geometry.mesh_rays import make_ray_caster, mix_corners


def random_rays(count, seed=0):
    """From a sphere of radius 3 to points about the origin."""
    rng = np.random.default_rng(seed)
    origin = rng.normal(size=(count, 3))
    origin *= 3 / np.linalg.norm(origin, axis=1, keepdims=True)
    direction = rng.uniform(-0.8, 0.8, size=(count, 3)) - origin
    return origin, direction / np.linalg.norm(direction, axis=1, keepdims=True)


def all_distances(mesh, origin, direction):
    """To every triangle, by solving o + t d = a + u (b - a) + v (c - a); inf where none."""
    a, b, c = np.moveaxis(mesh.vertices_V3.astype(float)[mesh.faces_F3], 1, 0)
    found = np.full((len(origin), len(a)), np.inf)
    for i, (o, d) in enumerate(zip(origin, direction, strict=True)):
        matrix = np.stack([np.broadcast_to(-d, a.shape), b - a, c - a], axis=-1)
        t, u, v = np.linalg.solve(matrix, (o - a)[..., None])[..., 0].T
        inside = (u >= 0) & (v >= 0) & (u + v <= 1) & (t > 0)
        found[i, inside] = t[inside]
    return found


def test_the_first_of_all_triangles():
    ball = ball_mesh(2)
    origin, direction = random_rays(200)
    hits = make_ray_caster(ball)(origin, direction)
    expected = all_distances(ball, origin, direction).min(axis=1)
    np.testing.assert_array_equal(hits.met_R, np.isfinite(expected))
    assert 0.5 < hits.met_R.mean() < 1
    np.testing.assert_allclose(hits.distance_R, expected, rtol=1e-9)  # float64's, not float32's
    # Weights and faces say the same place.
    points = mix_corners(ball.vertices_V3.astype(float)[ball.faces_F3], hits)
    met = hits.met_R
    np.testing.assert_allclose(
        points, (origin + expected[:, None] * direction)[met], rtol=0, atol=1e-9
    )
    assert (hits.face_R[~met] == -1).all()
    assert not hits.weights_R3[~met].any()


@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
def test_any_unit_any_place_and_no_gaps(unit):
    """Rays through edges and vertices, from inside of a closed surface, all meet it."""
    ball = ball_mesh(3, unit, (5 * unit, 0, 0))
    centre = np.array([5 * unit, 0, 0])
    targets = ball.vertices_V3.astype(float)
    targets = np.concatenate([targets, targets[ball.faces_F3[:, :2]].mean(axis=1)])
    direction = targets - centre
    length = np.linalg.norm(direction, axis=1, keepdims=True)
    hits = make_ray_caster(ball)(np.broadcast_to(centre, targets.shape), direction / length)
    np.testing.assert_allclose(hits.distance_R, length[:, 0], rtol=1e-5)


def test_both_sides_and_nothing_behind():
    cast = make_ray_caster(square_mesh())
    origin = np.array([[0.1, 0.2, 3.0], [0.1, 0.2, -2.0], [0.1, 0.2, 3.0], [1.1, 0.2, 3.0]])
    direction = np.array([[0, 0, -1.0], [0, 0, 1.0], [0, 0, 1.0], [0, 0, -1.0]])
    np.testing.assert_array_equal(cast(origin, direction).distance_R, [3, 2, np.inf, np.inf])


def test_without_embreex(monkeypatch):
    monkeypatch.setitem(sys.modules, "embreex.rtcore_scene", None)
    with pytest.raises(InputError, match=r"need the package embreex, extra jaxgen\[data\]"):
        make_ray_caster(ball_mesh(1))
