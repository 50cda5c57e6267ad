"""What is measured on meshes, against closed forms."""

import dataclasses

import numpy as np
import pytest
from mesh_shapes import ball_mesh, joined, red_over_blue, square_mesh

from jaxgen.errors import InputError
from jaxgen.geometry.triangle_mesh import (
    check_surface,
    enclosed_volume,
    face_areas,
    face_vectors,
    is_closed,
    merged_places,
    sample_surface,
    smooth_normals,
)


def test_area_and_volume_of_a_ball_far_from_the_origin():
    ball = ball_mesh(4, 0.5, (30.0, -20.0, 7.0))
    assert face_areas(ball).sum() == pytest.approx(4 * np.pi * 0.25, rel=2e-3)
    assert enclosed_volume(ball) == pytest.approx(4 / 3 * np.pi * 0.125, rel=4e-3)
    inside_out = dataclasses.replace(ball, faces_F3=ball.faces_F3[:, ::-1])
    assert enclosed_volume(inside_out) == pytest.approx(-enclosed_volume(ball))
    np.testing.assert_allclose(face_vectors(ball).sum(axis=0), 0, atol=1e-5)


def test_what_is_closed():
    ball = ball_mesh(2)
    assert is_closed(ball)
    assert not is_closed(dataclasses.replace(ball, faces_F3=ball.faces_F3[1:]))
    turned = ball.faces_F3.copy()
    turned[5] = turned[5, ::-1]
    assert not is_closed(dataclasses.replace(ball, faces_F3=turned))
    assert not is_closed(square_mesh())
    # A vertex for each corner: places count, not numbers.
    corners = np.arange(3 * len(ball.faces_F3), dtype=np.int32).reshape(-1, 3)
    apart = dataclasses.replace(
        ball, vertices_V3=ball.vertices_V3[ball.faces_F3].reshape(-1, 3), faces_F3=corners
    )
    assert is_closed(apart)
    assert len(np.unique(merged_places(apart))) == len(ball.vertices_V3)
    np.testing.assert_array_equal(
        apart.vertices_V3[merged_places(apart)], apart.vertices_V3 + np.float32(0)
    )
    np.testing.assert_array_equal(merged_places(ball), np.arange(len(ball.vertices_V3)))
    # And so do normals: all corners at a place have one.
    np.testing.assert_allclose(smooth_normals(apart), apart.vertices_V3, atol=0.03)


def test_normals_of_a_ball_and_of_a_vertex_without_faces():
    ball = ball_mesh(3, 2.0)
    np.testing.assert_allclose(smooth_normals(ball), ball.vertices_V3 / 2, atol=0.015)
    lone = dataclasses.replace(
        ball, vertices_V3=np.concatenate([ball.vertices_V3, np.full((1, 3), 9, np.float32)])
    )
    np.testing.assert_array_equal(smooth_normals(lone)[-1], [0, 0, 1])


def test_points_of_a_surface_are_uniform():
    """On a square, by quarters; on a large and a small square, by their areas."""
    points, faces = sample_surface(square_mesh(), 40_000, seed=1)
    assert (points[:, 2] == 0).all()
    assert np.abs(points[:, :2]).max() <= 1
    counts = np.histogram2d(points[:, 0], points[:, 1], bins=4, range=[[-1, 1]] * 2)[0]
    np.testing.assert_allclose(counts / 2500, 1, atol=0.08)
    assert 0.48 < (faces == 0).mean() < 0.52
    both = joined(square_mesh(3.0), square_mesh(1.0, height=1.0))
    assert (sample_surface(both, 40_000)[0][:, 2] == 1).mean() == pytest.approx(0.1, abs=0.005)
    np.testing.assert_array_equal(sample_surface(both, 9, 3)[0], sample_surface(both, 9, 3)[0])
    with pytest.raises(InputError, match="count is 0, expected 1 or more"):
        sample_surface(both, 0)
    flat = dataclasses.replace(both, vertices_V3=np.zeros_like(both.vertices_V3))
    with pytest.raises(InputError, match="mesh has no area"):
        sample_surface(flat, 9)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"uv_V2": None}, "texture coordinates are missing, expected some"),
        ({"uv_V2": np.zeros((4, 3), np.float32)}, r"are float32 \[4, 3\], expected .*\[4, 2\]"),
        ({"uv_V2": np.full((4, 2), np.nan, np.float32)}, "texture coordinates: number 0 is"),
        ({"texture": np.zeros((4, 4), np.uint8)}, r"texture is uint8 \[4, 4\], expected uint8"),
        ({"texture": np.zeros((4, 4, 3))}, r"texture is float64 \[4, 4, 3\]"),
        ({"texture": np.zeros((0, 4, 3), np.uint8)}, r"texture is uint8 \[0, 4, 3\]"),
    ],
    ids=range(6),
)
def test_textures_that_are_refused(change, fault):
    mesh = dataclasses.replace(square_mesh(), texture=red_over_blue())
    check_surface(mesh)
    with pytest.raises(InputError, match=fault):
        check_surface(dataclasses.replace(mesh, **change))
