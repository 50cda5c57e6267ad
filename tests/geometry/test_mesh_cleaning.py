"""Pieces and decimation against closed forms."""

import dataclasses
import sys

import numpy as np
import pytest
import trimesh
from mesh_shapes import ball_mesh, joined, red_over_blue, square_mesh

from jaxgen.errors import InputError
from jaxgen.geometry.mesh_cleaning import (
    count_pieces,
    decimate,
    drop_small_pieces,
    largest_component,
    without_seams,
)
from jaxgen.geometry.triangle_mesh import enclosed_volume, face_areas, is_closed, smooth_normals


def test_specks_go_and_large_pieces_stay():
    large, middle = ball_mesh(2), ball_mesh(3, 0.5, (3, 0, 0))  # 4:1 in area, 1:4 in faces
    speck = ball_mesh(0, 0.01, (0, 3, 0))
    everything = joined(speck, large, speck, middle)
    assert count_pieces(everything) == 3  # the specks are at the same places
    found = drop_small_pieces(everything)
    expected = joined(large, middle)
    np.testing.assert_array_equal(found.vertices_V3, expected.vertices_V3)
    np.testing.assert_array_equal(found.faces_F3, expected.faces_F3)
    for share, count in ((0, 3), (0.2, 2), (0.3, 1), (1, 1)):
        assert count_pieces(drop_small_pieces(everything, share)) == count
    one = drop_small_pieces(everything, 1)
    np.testing.assert_array_equal(one.vertices_V3, large.vertices_V3)
    np.testing.assert_array_equal(largest_component(everything).vertices_V3, middle.vertices_V3)
    with pytest.raises(InputError, match=r"share is 1\.5, expected 0 <= share <= 1"):
        drop_small_pieces(everything, 1.5)


def test_a_texture_s_seams_do_not_part_a_mesh():
    left, right = square_mesh(), square_mesh()
    right = dataclasses.replace(right, vertices_V3=right.vertices_V3 + np.float32([2, 0, 0]))
    both = dataclasses.replace(joined(left, right), texture=red_over_blue())
    assert count_pieces(both) == 1
    kept = drop_small_pieces(both)
    np.testing.assert_array_equal(kept.uv_V2, both.uv_V2)
    assert kept.texture is both.texture
    whole = without_seams(both)
    assert len(whole.vertices_V3) == 6
    assert len(whole.faces_F3) == 4
    assert whole.uv_V2 is whole.texture is None


def test_folds_and_slivers_go():
    """Faces back to back, turned in any way, and faces with two corners at one place."""
    ball = ball_mesh(1)
    a, b, c = ball.faces_F3[7]
    extra = np.asarray([[a, b, 20], [20, b, a], [a, b, 30], [30, a, b], [a, a, c]], np.int32)
    spoilt = dataclasses.replace(ball, faces_F3=np.concatenate([extra, ball.faces_F3]))
    found = without_seams(spoilt)
    np.testing.assert_array_equal(found.faces_F3, np.concatenate([extra[2:4], ball.faces_F3]))
    empty = dataclasses.replace(ball, faces_F3=extra[:2])
    with pytest.raises(InputError, match="expected one or more"):
        without_seams(empty)


def test_a_decimated_ball_keeps_its_measures():
    """A sixteenth of the faces; area and volume of the sphere, closed, normals and colours."""
    ball = ball_mesh(5)
    colours = np.where(ball.vertices_V3[:, 2:] > 0, np.uint8([[255, 0, 0]]), np.uint8([[0, 0, 9]]))
    normals = ball.vertices_V3
    fewer = decimate(dataclasses.replace(ball, normals_V3=normals, colours_V3=colours), 1280)
    assert 1280 <= len(fewer.faces_F3) <= 1300
    assert is_closed(fewer)
    assert trimesh.Trimesh(fewer.vertices_V3, fewer.faces_F3, process=False).is_watertight
    assert face_areas(fewer).sum() == pytest.approx(4 * np.pi, rel=0.01)
    assert enclosed_volume(fewer) == pytest.approx(4 / 3 * np.pi, rel=0.01)
    assert np.sum(fewer.normals_V3 * fewer.vertices_V3, axis=1).min() > 0.99
    assert np.sum(smooth_normals(fewer) * fewer.vertices_V3, axis=1).min() > 0.98
    clear = np.abs(fewer.vertices_V3[:, 2]) > 0.05
    np.testing.assert_array_equal(
        fewer.colours_V3[clear, 0] == 255, fewer.vertices_V3[clear, 2] > 0
    )
    assert decimate(ball, 20480) is ball
    plain = decimate(ball, 100)
    assert plain.normals_V3 is plain.colours_V3 is None
    assert np.abs(plain.vertices_V3).max() <= 1  # not out of the ball's box


def test_a_plane_stays_where_it_is():
    """And its border, whose 80 edges need 78 faces or more."""
    fewer = decimate(square_mesh(steps=20), 40)
    assert 78 <= len(fewer.faces_F3) <= 160
    np.testing.assert_allclose(fewer.vertices_V3[:, 2], 0, atol=1e-6)
    assert face_areas(fewer).sum() == pytest.approx(4, rel=1e-5)


def test_faults(monkeypatch):
    ball = ball_mesh(1)
    with pytest.raises(InputError, match="faces is 3, expected 4 or more"):
        decimate(ball, 3)
    flat = dataclasses.replace(ball, vertices_V3=np.zeros_like(ball.vertices_V3))
    with pytest.raises(InputError, match="mesh has no face with corners at three places"):
        decimate(flat, 10)
    monkeypatch.setitem(sys.modules, "fast_simplification", None)
    with pytest.raises(InputError, match=r"package fast-simplification, extra jaxgen\[experim"):
        decimate(ball, 10)
