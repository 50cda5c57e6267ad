"""Surfaces of densities against closed forms: spheres, ellipsoids, planes."""

import sys

import numpy as np
import pytest
import scipy.spatial
import skimage.measure

from jaxgen.errors import InputError
from jaxgen.interop.marching_cubes import distance_surface, marching_cubes, solid_threshold

BOX = (-1.2,) * 3, (1.2,) * 3


def grid(*counts, low=BOX[0], high=BOX[1]):
    """The coordinates of the points [X, Y, Z] of a grid, faces of the box included."""
    axes = [np.linspace(a, b, n) for a, b, n in zip(low, high, counts, strict=True)]
    return np.meshgrid(*axes, indexing="ij")


def ball(count, radius=0.8):
    """Radius less the distance to the centre: positive inside."""
    return radius - np.sqrt(sum(x**2 for x in grid(count, count, count)))


def triangles(mesh):
    return mesh.vertices_V3.astype(np.float64)[mesh.faces_F3]


def area(mesh):
    a, b, c = np.moveaxis(triangles(mesh), 1, 0)
    return np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2


def volume(mesh):
    """Signed: positive where faces are counter-clockwise from outside."""
    a, b, c = np.moveaxis(triangles(mesh), 1, 0)
    return np.sum(a * np.cross(b, c)) / 6


def is_closed(mesh):
    """Every edge is in two faces, once in each direction."""
    pairs = np.concatenate([mesh.faces_F3[:, [i, (i + 1) % 3]] for i in range(3)])
    _, counts = np.unique(np.sort(pairs, axis=1), axis=0, return_counts=True)
    return (counts == 2).all() and len(np.unique(pairs, axis=0)) == len(pairs)


@pytest.mark.parametrize(
    ("count", "area_error", "volume_error"), [(32, -0.0029, -0.0055), (64, -0.0007, -0.0013)]
)
def test_a_sphere(count, area_error, volume_error):
    mesh = marching_cubes(ball(count), *BOX, threshold=0.0)
    assert area(mesh) / (4 * np.pi * 0.8**2) - 1 == pytest.approx(area_error, abs=6e-5)
    assert volume(mesh) / (4 / 3 * np.pi * 0.8**3) - 1 == pytest.approx(volume_error, abs=6e-5)
    assert is_closed(mesh)
    distance = np.linalg.norm(mesh.vertices_V3, axis=1)
    assert np.abs(distance - 0.8).max() < 0.6 * (2.4 / (count - 1)) ** 2
    outwards = np.sum(mesh.normals_V3 * mesh.vertices_V3, axis=1) / distance
    assert outwards.min() > 0.99
    assert mesh.colours_V3 is None


def test_a_plane_is_where_it_belongs_in_any_box():
    """A linear density is interpolated exactly; the other two axes end at the box's faces."""
    low, high = (1.0, -4.0, 10.0), (3.0, 5.0, 10.5)
    points = grid(5, 8, 11, low=low, high=high)
    for axis, at in [(0, 1.9), (1, 3.3), (2, 10.31)]:
        mesh = marching_cubes(-points[axis], low, high, -at)
        np.testing.assert_allclose(mesh.vertices_V3[:, axis], at, rtol=1e-6)
        for other in {0, 1, 2} - {axis}:
            along = mesh.vertices_V3[:, other]
            assert (along.min(), along.max()) == pytest.approx((low[other], high[other]))
        np.testing.assert_allclose(
            mesh.normals_V3, np.tile(np.eye(3)[axis], (len(along), 1)), 0, 1e-6
        )
        a, b, c = np.moveaxis(triangles(mesh), 1, 0)
        assert np.cross(b - a, c - a)[:, axis].min() >= 0
        assert area(mesh) == pytest.approx(
            np.prod(np.delete(np.subtract(high, low), axis)), rel=1e-5
        )


def test_vertices_and_faces_are_scikit_images():
    """Which the implementation uses: so this holds axes, steps and the box's corner alone."""
    low, high = (-1.0, -3.0, 0.5), (1.4, 2.0, 4.0)
    x, y, z = grid(17, 24, 30, low=low, high=high)
    values = 1.1 - np.sqrt(x**2 + (y / 2) ** 2 + (z - 2.2) ** 2) + 0.1 * np.sin(4 * x + y - 3 * z)
    mesh = marching_cubes(values, low, high, 0.03)
    steps = np.subtract(high, low) / (16, 23, 29)
    vertices, faces, _, _ = skimage.measure.marching_cubes(values, 0.03, spacing=tuple(steps))
    vertices += low
    assert (len(mesh.vertices_V3), len(mesh.faces_F3)) == (len(vertices), len(faces))
    assert len(faces) > 1000
    for found, expected in (
        (mesh.vertices_V3, vertices),
        (triangles(mesh).mean(axis=1), vertices[faces].mean(axis=1)),
    ):
        for one, other in ((found, expected), (expected, found)):
            distance, _ = scipy.spatial.cKDTree(one).query(other)
            assert distance.max() < 1e-5


def test_an_ellipsoid_in_a_box_of_other_steps_along_each_axis():
    low, high, radii = (-2.0, -1.0, 0.0), (4.0, 1.5, 20.0), np.asarray([2.0, 0.9, 7.0])
    centre = np.asarray([1.0, 0.2, 9.0])
    points = np.stack(grid(48, 60, 40, low=low, high=high), axis=-1)
    mesh = marching_cubes(1 - np.sum(((points - centre) / radii) ** 2, axis=-1), low, high, 0.0)
    assert is_closed(mesh)
    assert volume(mesh) == pytest.approx(4 / 3 * np.pi * radii.prod(), rel=0.01)
    scaled = (mesh.vertices_V3 - centre) / radii
    np.testing.assert_allclose(np.linalg.norm(scaled, axis=1), 1, atol=0.01)
    expected = scaled / radii
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert np.sum(mesh.normals_V3 * expected, axis=1).min() > 0.99
    np.testing.assert_allclose(np.linalg.norm(mesh.normals_V3, axis=1), 1, atol=1e-6)


def test_values_that_equal_the_threshold_leave_no_holes():
    """Whole numbers, many of them at the threshold; scikit-image alone leaves some edges open."""
    for seed in range(4):
        values = np.zeros((12, 12, 12))
        values[1:-1, 1:-1, 1:-1] = np.random.default_rng(seed).integers(0, 4, size=(10, 10, 10))
        for shift in (0, -2, 0.1, 1e6):
            mesh = marching_cubes(values + shift, *BOX, 2.0 + shift)
            assert is_closed(mesh)
            assert np.isfinite(mesh.normals_V3).all()
            assert volume(mesh) > 0


def test_the_unit_of_densities_does_not_matter():
    expected = marching_cubes(ball(16) + 0.6, *BOX, 0.6)
    for unit in (1e-20, 1e-9, 1e9, 1e30):
        mesh = marching_cubes(unit * (ball(16) + 0.6), *BOX, 0.6 * unit)
        np.testing.assert_allclose(mesh.vertices_V3, expected.vertices_V3, atol=1e-5)
        np.testing.assert_array_equal(mesh.faces_F3, expected.faces_F3)
    steep = marching_cubes(np.where(ball(16) > 0, 1e38, 0), *BOX, 1e-30)
    assert is_closed(steep)
    assert np.isfinite([steep.vertices_V3, steep.normals_V3]).all()


@pytest.mark.parametrize("density", [50.0, 1e3, 1e5])
def test_a_solid_in_noise_is_found(density):
    noise = np.random.default_rng(0).uniform(0, 0.5, size=(40, 40, 40))
    inside = ball(40) > 0
    values = np.where(inside, density, noise)
    threshold = solid_threshold(values)
    assert 0.5 < threshold < density
    np.testing.assert_array_equal(values > threshold, inside)
    mesh = marching_cubes(values, *BOX)
    assert is_closed(mesh)
    step = 2.4 / 39
    distance = np.linalg.norm(mesh.vertices_V3, axis=1)
    assert 0.8 - step < distance.min() < distance.max() < 0.8 + step
    same = marching_cubes(values, *BOX, threshold)
    np.testing.assert_array_equal(mesh.vertices_V3, same.vertices_V3)


def test_thresholds_between_two_groups():
    # The middle of both in log(1 + density): sqrt(11 * 101) - 1, to the width of a bin.
    assert solid_threshold(np.asarray([10.0] * 5 + [100.0])) == pytest.approx(32.3, rel=0.01)
    # Negative densities are empty space; what is solid may vary by orders of magnitude.
    rng = np.random.default_rng(0)
    values = np.where(rng.random(5000) < 0.1, 10 ** rng.uniform(1, 3, 5000), -rng.random(5000))
    assert 0 < solid_threshold(values) < 10
    # Against the definition, over all thresholds.
    logs = np.log1p(rng.gamma(2, size=500))
    ordered = np.sort(logs)
    between = [
        n * (500 - n) * (ordered[:n].mean() - ordered[n:].mean()) ** 2 for n in range(1, 500)
    ]
    best = ordered[np.argmax(between)]
    assert np.log1p(solid_threshold(np.expm1(logs))) == pytest.approx(best, abs=0.05)


def test_a_solid_of_few_places_in_empty_space_is_found():
    values = np.full((60, 60, 60), 1e-4)
    values[30:33, 30:33, 30:33] = 80
    mesh = marching_cubes(values, *BOX)
    assert is_closed(mesh)
    assert len(mesh.vertices_V3) == 6 * 9  # an edge from each outer face of each outer cell


def test_what_leaves_the_box_is_closed_at_it():
    """Half of a space, a corner of it, a ball cut by all six faces; by areas and volumes."""
    low, high = (1.0, -4.0, 10.0), (3.0, 5.0, 10.5)
    x, y, z = grid(9, 10, 11, low=low, high=high)
    half = marching_cubes(1.9 - x, low, high, 0.0, closed=True)
    assert is_closed_at_places(half)
    assert volume(half) == pytest.approx(0.9 * 9 * 0.5, rel=1e-6)
    assert area(half) == pytest.approx(2 * (0.9 * 9 + 0.9 * 0.5 + 9 * 0.5), rel=1e-6)
    np.testing.assert_allclose(half.vertices_V3.min(axis=0), low, rtol=1e-6)
    corner = np.minimum(np.minimum(1.9 - x, (y - 2.5) / 9), (10.2 - z) * 4)  # in about cells
    block = marching_cubes(corner, low, high, 0.0, closed=True)
    assert is_closed_at_places(block)
    assert volume(block) == pytest.approx(0.9 * 2.5 * 0.2, rel=0.2)  # its edges are cut
    wide = marching_cubes(1e5 * ball(40, 1.3), *BOX, 0.0, closed=True)
    assert is_closed_at_places(wide)
    assert not is_closed(marching_cubes(ball(40, 1.3), *BOX, 0.0))
    cap = np.pi * 0.1**2 * (3 * 1.3 - 0.1) / 3
    assert volume(wide) == pytest.approx(4 / 3 * np.pi * 1.3**3 - 6 * cap, rel=0.003)
    assert np.abs(wide.vertices_V3).max() == np.float32(1.2)
    # Where the surface stays inside of the box nothing changes.
    inside, same = (marching_cubes(ball(16), *BOX, 0.0, closed=c) for c in (False, True))
    np.testing.assert_allclose(same.vertices_V3, inside.vertices_V3, atol=1e-6)
    np.testing.assert_allclose(same.normals_V3, inside.normals_V3, atol=1e-6)


def is_closed_at_places(mesh):
    """Closed, where vertices at one place are one."""
    _, place = np.unique(mesh.vertices_V3, axis=0, return_inverse=True)
    faces = place.ravel()[mesh.faces_F3]
    pairs = np.concatenate([faces[:, [i, (i + 1) % 3]] for i in range(3)])
    forth, back = (np.sort(p[:, 0] * len(place) + p[:, 1]) for p in (pairs, pairs[:, ::-1]))
    return (forth == back).all()


def test_a_signed_distance_is_negative_inside():
    expected = marching_cubes(ball(32), *BOX, 0.0)
    found = distance_surface(-ball(32), *BOX)
    np.testing.assert_array_equal(found.vertices_V3, expected.vertices_V3)
    np.testing.assert_array_equal(found.faces_F3, expected.faces_F3)
    np.testing.assert_array_equal(found.normals_V3, expected.normals_V3)
    assert volume(found) == pytest.approx(4 / 3 * np.pi * 0.8**3, rel=0.006)
    assert is_closed_at_places(distance_surface(-ball(20, 1.4), *BOX, closed=True))
    for distance, text in ((ball(8, 0.01), "-2.06846 to -0.286923"), (np.ones((3, 3, 3)), "1")):
        with pytest.raises(
            InputError, match=f"distance is {text} everywhere, expected numbers below 0 inside"
        ):
            distance_surface(distance, *BOX)
    with pytest.raises(InputError, match="distance has 2 of 512 values that are NaN"):
        distance_surface(SPOILT, *BOX)
    with pytest.raises(InputError, match=r"distance has shape \[8, 8\]"):
        distance_surface(ball(8)[0], *BOX)


SPOILT = ball(8)
SPOILT[1, 2, 3], SPOILT[2, 2, 2] = np.nan, np.inf


@pytest.mark.parametrize(
    ("density", "threshold", "fault"),
    [
        (ball(8), 1.0, r"threshold is 1, expected .* least density, -1\.\d*, and the largest, 0\."),
        (ball(8), -9, "threshold is -9, expected"),
        (ball(8), np.nan, "threshold is nan, expected"),
        (np.zeros((4, 4, 4)), 0.0, "threshold is 0, .* least density, 0, and the largest, 0"),
        (np.zeros((4, 4, 4)), None, "density is 0 everywhere, expected a solid in empty space"),
        (np.full((4, 4, 4), 7.0), None, "density is 7 everywhere"),
        (-np.arange(8.0).reshape(2, 2, 2), None, "density is -7 to 0 everywhere"),
        (SPOILT, 0.0, "density has 2 of 512 values that are NaN or infinite"),
        (SPOILT, None, "density has 2 of 512 values"),
        (np.full((2, 2, 2), 1e39), 0.0, "density has 8 of 8 values"),
        (ball(8)[0], 0.0, r"density has shape \[8, 8\], expected \[X, Y, Z\] of 2 or more each"),
        (ball(8)[:1], 0.0, r"density has shape \[1, 8, 8\]"),
        (ball(8) > 0, 0.5, "density has type bool, expected real numbers"),
    ],
    ids=range(13),
)
def test_densities_without_a_surface(density, threshold, fault):
    with pytest.raises(InputError, match=fault):
        marching_cubes(density, *BOX, threshold)


@pytest.mark.parametrize(
    ("low", "high", "fault"),
    [
        ((0, 0, 0), (1, 0, 1), r"box from \[0.0, 0.0, 0.0\] to \[1.0, 0.0, 1.0\], expected finite"),
        ((0, 0, 0), (1, np.inf, 1), "expected finite corners"),
        ((0, 0), (1, 1), "expected two corners of three coordinates"),
    ],
    ids=range(3),
)
def test_boxes_without_room(low, high, fault):
    with pytest.raises(InputError, match=fault):
        marching_cubes(ball(8), low, high, 0.0)


def test_without_scikit_image(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage.measure", None)
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(InputError, match=r"package scikit-image, extra jaxgen\[experiments\]"):
        marching_cubes(ball(8), *BOX, 0.0)
