"""Textures: which texels a triangle has, colours of places, seams."""

import dataclasses
import sys
import time

import numpy as np
import pytest
from mesh_shapes import ball_mesh, red_over_blue, square_mesh

from jaxgen.errors import InputError
from jaxgen.geometry.texture_baking import bake_texture, rasterise, sample_texture, unwrap
from jaxgen.geometry.triangle_mesh import is_closed, sample_surface


def test_texels_of_triangles_against_a_loop():
    """Each texel's centre, in each triangle, by barycentric coordinates one by one."""
    rng, size = np.random.default_rng(0), 20
    uv = rng.uniform(-0.2, 1.2, size=(12, 3, 2))
    uv[3, 2] = uv[3, 0]  # no area
    texels = rasterise(uv, size)
    covered = np.zeros((size, size), bool)
    for row in range(size):
        for column in range(size):
            place = np.array([(column + 0.5) / size, 1 - (row + 0.5) / size, 1])
            for corners in np.delete(uv, 3, axis=0):
                matrix = np.concatenate([corners.T, np.ones((1, 3))])
                covered[row, column] |= (np.linalg.solve(matrix, place) >= 0).all()
    found = np.zeros(size * size, int)
    np.add.at(found, texels.index_N, 1)
    np.testing.assert_array_equal(found.reshape(size, size), covered)  # each of them once
    rows, columns = np.divmod(texels.index_N, size)
    places = np.einsum("nk,nka->na", texels.weights_N3, uv[texels.face_N])
    np.testing.assert_allclose(places[:, 0], (columns + 0.5) / size, atol=1e-12)
    np.testing.assert_allclose(places[:, 1], 1 - (rows + 0.5) / size, atol=1e-12)


def test_a_square_covers_its_texture_and_v_goes_up():
    mesh = square_mesh(steps=3)
    assert len(rasterise(mesh.uv_V2[mesh.faces_F3], 32).index_N) == 32 * 32
    seen = []

    def red_at_the_top(points, normals):
        seen.append((points, normals))
        return np.where(points[:, 1:2] > 0, [[1.0, 0, 0]], [[0, 0, 1.0]])

    baked = bake_texture(mesh, red_at_the_top, 16)
    np.testing.assert_array_equal(baked.texture, red_over_blue(16))
    np.testing.assert_array_equal(baked.uv_V2, mesh.uv_V2)  # its own coordinates stay
    ((points, normals),) = seen  # once, for all places
    np.testing.assert_allclose(normals, np.tile([[0, 0, 1]], (256, 1)), atol=1e-6)
    assert points[:, 0].min() == pytest.approx(-1 + 1 / 16)
    places = np.array([[0.3, 0.99], [0.3, 1.0], [-0.7, 4.1], [0.3, 0.5]])
    shown = sample_texture(baked.texture, places)
    np.testing.assert_allclose(shown, [[1, 0, 0], [1, 0, 0], [0, 0, 1], [0.5, 0, 0.5]])


def smooth_colours(points, normals):
    """Of places alone: no two charts may disagree at a seam."""
    return 0.5 + 0.4 * np.sin(2 * points[:, [2, 0, 1]] + [0, 1, 2])


def test_a_ball_is_cut_open_and_shows_the_same_colours():
    """Everywhere, at seams as well; the surface stays closed, its normals those of the sphere."""
    ball = ball_mesh(3)
    ball = dataclasses.replace(ball, normals_V3=ball.vertices_V3)
    seen = []

    def colours(points, normals):
        seen.append(normals)
        return smooth_colours(normals, normals)

    baked = bake_texture(ball, colours, 256)
    np.testing.assert_allclose(np.linalg.norm(seen[0], axis=1), 1, atol=1e-6)
    assert len(baked.vertices_V3) > len(ball.vertices_V3)
    assert len(baked.faces_F3) == len(ball.faces_F3)
    assert is_closed(baked)
    assert ((baked.uv_V2 >= 0) & (baked.uv_V2 <= 1)).all()
    points, faces = sample_surface(baked, 5000)
    a, b, c = np.moveaxis(baked.vertices_V3.astype(float)[baked.faces_F3[faces]], 1, 0)
    weights = np.linalg.solve(np.stack([a, b, c], axis=-1), points[..., None])
    uv = np.einsum("nk,nka->na", weights[..., 0], baked.uv_V2[baked.faces_F3[faces]])
    shown = sample_texture(baked.texture, uv)
    sphere = points / np.linalg.norm(points, axis=1, keepdims=True)
    error = np.abs(shown - smooth_colours(sphere, None)).max(axis=1)
    assert np.median(error) < 0.005
    assert error.max() < 0.06  # two texels: no black, no colour of another chart
    # And texels between charts have their neighbours' colours: none is left empty.
    assert baked.texture.min() > 0


def test_twenty_thousand_faces_are_fast():
    uv = square_mesh(steps=100)
    start = time.perf_counter()
    assert len(rasterise(uv.uv_V2[uv.faces_F3], 1024).index_N) == 1024**2
    assert time.perf_counter() - start < 10  # 1 s on a quiet core


def test_faults(monkeypatch):
    ball = ball_mesh(1)
    with pytest.raises(InputError, match="size is 0, expected 1 or more texels"):
        bake_texture(ball, smooth_colours, 0)
    tiny = square_mesh()
    tiny = dataclasses.replace(tiny, uv_V2=tiny.uv_V2 * np.float32(0.01))
    with pytest.raises(InputError, match="size is 4, expected more texels"):
        bake_texture(tiny, smooth_colours, 4)
    monkeypatch.setitem(sys.modules, "xatlas", None)
    with pytest.raises(InputError, match=r"need the package xatlas, extra jaxgen\[experiments\]"):
        unwrap(ball, 64)
