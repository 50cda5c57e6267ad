"""Distances of surfaces against closed forms."""

import dataclasses

import numpy as np
import pytest
from mesh_shapes import ball_mesh, square_mesh

from jaxgen.errors import InputError
from jaxgen.evaluation import surface_distance

N = 40_000


def test_concentric_spheres():
    """Everywhere the difference of the radii, which sideways distances of samples hardly add to."""
    small, large = ball_mesh(5), ball_mesh(5, 1.2)
    found = surface_distance(small, large, N)
    assert found.chamfer == pytest.approx(0.2, rel=5e-3)
    assert found.from_first == pytest.approx(0.2, rel=5e-3)
    assert found.from_second == pytest.approx(0.2, rel=5e-3)
    assert found.normal_degrees < 2
    assert found.points == N
    inside_out = dataclasses.replace(large, faces_F3=large.faces_F3[:, ::-1])
    assert surface_distance(small, inside_out, N).normal_degrees > 178


def test_a_shifted_plane_and_the_floor_of_sampling():
    square = square_mesh()
    found = surface_distance(square, square_mesh(height=0.3), N)
    assert found.chamfer == pytest.approx(0.3, rel=2e-3)
    assert found.normal_degrees == 0
    # Nearest of N random points on an area of 4: 1 / (2 sqrt(N / 4)).
    same = surface_distance(square, square, N)
    assert same.chamfer == pytest.approx(0.5 * np.sqrt(4 / N), rel=0.03)
    assert surface_distance(square, square, N, seed=1).chamfer != same.chamfer
    assert surface_distance(square, square, N) == same


def test_a_part_is_near_the_whole_but_not_the_other_way_round():
    """A square of side 1 on one of side 3: points at (x, y) are max(|x|, |y|) - 1/2 away, or at
    corners further."""
    part, whole = square_mesh(1.0), square_mesh(3.0)
    found = surface_distance(part, whole, N)
    assert found.from_first < 0.02
    grid = (np.arange(1000) + 0.5) / 1000 * 3 - 1.5
    outside = np.maximum(np.abs(grid) - 0.5, 0)
    expected = np.hypot(outside[:, None], outside).mean()
    assert found.from_second == pytest.approx(expected, rel=0.01)
    assert found.chamfer == (found.from_first + found.from_second) / 2


def test_tilted_planes():
    square = square_mesh()
    angle = np.radians(30)
    turn = np.array(
        [[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]]
    )
    tilted = dataclasses.replace(
        square, vertices_V3=(square.vertices_V3 @ turn.T).astype(np.float32)
    )
    assert surface_distance(square, tilted, N).normal_degrees == pytest.approx(30, abs=1e-3)
    with pytest.raises(InputError, match="count is 0"):
        surface_distance(square, tilted, 0)
