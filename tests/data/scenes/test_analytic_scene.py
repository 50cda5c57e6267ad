"""The scene that needs no download, against signed distances and differences."""

import numpy as np
import pytest

from jaxgen.data.scenes import analytic_scene, traced_views
from jaxgen.data.scenes.analytic_scene import SOLIDS, first_hits, make_analytic_scene
from jaxgen.data.scenes.solids import Ball, Block
from jaxgen.data.scenes.views import Scene
from jaxgen.errors import InputError

NAMES = ("slab", "ball", "box", "cylinder", "banded ball")


@pytest.fixture(scope="module")
def scene() -> Scene:
    return make_analytic_scene(48, (10, 2, 3))


def signed_distance(solid, points: np.ndarray) -> np.ndarray:
    """Exact distances (Quilez), negative inside; nothing shared with the intersections."""
    local = points - solid.centre
    if isinstance(solid, Ball):
        return np.linalg.norm(local, axis=-1) - solid.radius
    if isinstance(solid, Block):
        c, s = np.cos(-solid.turn), np.sin(-solid.turn)
        x, y = c * local[..., 0] - s * local[..., 1], s * local[..., 0] + c * local[..., 1]
        beyond = np.abs(np.stack([x, y, local[..., 2]], -1)) - solid.half
    else:
        round_ = np.linalg.norm(local[..., :2], axis=-1) - solid.radius
        beyond = np.stack([round_, np.abs(local[..., 2]) - solid.half_height], -1)
    return np.linalg.norm(np.maximum(beyond, 0), axis=-1) + np.minimum(beyond.max(-1), 0)


def nearest(points: np.ndarray) -> np.ndarray:
    return np.stack([signed_distance(solid, points) for solid in SOLIDS], -1)


def rays(views) -> tuple[np.ndarray, np.ndarray]:
    """Origins and unit directions [N, Y, X, 3] by the formula of the module `views`."""
    y, x = np.indices(views.images.shape[1:3]) + 0.5
    (fx, fy), (cx, cy) = views.intrinsics.focal[0], views.intrinsics.centre[0]
    local = np.stack([(x - cx) / fx, -(y - cy) / fy, -np.ones_like(x)], -1)
    local /= np.linalg.norm(local, axis=-1, keepdims=True)
    poses = views.camera_to_world.astype(float)
    directions = np.einsum("nij,yxj->nyxi", poses[:, :, :3], local)
    return np.broadcast_to(poses[:, None, None, :, 3], directions.shape), directions


def sphere_trace(origins: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """Steps of the distance to all solids, until it is 1e-9 or the ray has left."""
    t = np.full(origins.shape[:-1], 2.0)
    for _ in range(1500):
        distance = nearest(origins + t[..., None] * directions).min(-1)
        if ((distance < 1e-9) | (t > 7)).all():
            break
        t = np.where((distance < 1e-9) | (t > 7), t, t + distance)
    return np.where(t > 7, np.inf, t)


def test_depth_is_where_sphere_tracing_ends(scene):
    test = scene.parts["test"]
    origins, directions = rays(test)
    traced = sphere_trace(origins, directions)
    seen = np.isfinite(test.depth)
    # Rays that graze an edge may end on either side of it.
    assert (np.isfinite(traced) != seen).mean() < 1e-3
    both = seen & np.isfinite(traced)
    assert 0.2 < both.mean() < 0.6
    error = np.abs(traced[both] - test.depth[both])
    assert np.quantile(error, 0.999) < 1e-6
    assert error.max() < 1e-3
    assert test.depth.min() > scene.near
    assert test.depth[seen].max() < scene.far


def test_normals_are_gradients_of_the_distance(scene):
    """And by differences of depth itself, on the sphere, where it is smooth."""
    test = scene.parts["test"]
    origins, directions = rays(test)
    seen = np.isfinite(test.depth)
    points = (origins + np.where(seen, test.depth, 0)[..., None] * directions)[seen]
    normals = test.normals[seen]
    np.testing.assert_allclose(np.linalg.norm(normals, axis=-1), 1, atol=1e-6)
    assert ((normals * directions[seen]).sum(-1) < 1e-6).all()
    steps = 1e-4 * np.eye(3)
    gradient = [nearest(points + s).min(-1) - nearest(points - s).min(-1) for s in steps]
    gradient = np.stack(gradient, -1) / 2e-4
    wrong = np.abs(gradient - normals).max(-1) > 1e-3
    assert wrong.mean() < 0.01  # at edges the distance has no gradient
    assert not test.normals[~seen].any()


def test_normals_are_differences_of_depth():
    views = make_analytic_scene(160, (1, 0, 0)).parts["train"]
    origins, directions = rays(views)
    depth = np.where(np.isfinite(views.depth), views.depth, np.nan).astype(float)
    points = (origins + depth[..., None] * directions)[0]
    across = points[1:-1, 2:] - points[1:-1, :-2]
    down = points[2:, 1:-1] - points[:-2, 1:-1]
    normals = np.cross(down, across)
    finite = np.isfinite(normals).all(-1)
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    cosine = (normals * views.normals[0, 1:-1, 1:-1]).sum(-1)[finite]
    assert finite.sum() > 5000
    assert np.median(cosine) > 1 - 1e-4
    assert (cosine > 0.999).mean() > 0.85  # the rest is at edges


def test_every_solid_is_seen_and_is_where_it_should_be(scene):
    for views in scene.parts.values():
        origins, directions = rays(views)
        seen = np.isfinite(views.depth)
        points = (origins + np.where(seen, views.depth, 0)[..., None] * directions)[seen]
        distances = np.abs(nearest(points))
        assert distances.min(-1).max() < 1e-5
        assert (np.abs(points) < 1.5).all()
        counts = np.bincount(distances.argmin(-1), minlength=len(SOLIDS))
        assert len(NAMES) == len(SOLIDS)
        assert (counts > 50).all(), dict(zip(NAMES, counts, strict=True))


def test_solids_stand_on_the_slab_and_apart():
    grid = np.stack(np.meshgrid(*[np.linspace(-1.2, 1.2, 97)] * 3, indexing="ij"), -1)
    inside = nearest(grid.reshape(-1, 3)) < -1e-9
    assert inside.any(0).all()
    assert inside.sum(-1).max() == 1


def test_alpha_is_the_share_of_rays_that_hit(scene):
    views = scene.parts["validation"]
    alpha = views.images[..., 3]
    seen = np.isfinite(views.depth)
    assert set(np.unique(alpha)) <= {round(255 * hits / 9) for hits in range(10)}
    assert (alpha[seen] > 0).all()
    assert (alpha[~seen] < 255).all()
    assert not views.images[alpha == 0].any()
    for border in (alpha[:, 0], alpha[:, -1], alpha[:, :, 0], alpha[:, :, -1]):
        assert not border.any()
    partly = (alpha > 0) & (alpha < 255)
    assert 0.01 < partly.mean() < 0.1
    assert views.images[alpha == 255][:, :3].std(0).min() > 30  # colours differ


def test_pixels_are_means_of_smaller_ones():
    """Three times the size has the rays of this size, through the middles of its pixels."""
    small, large = (make_analytic_scene(s, (1, 0, 0)).parts["train"] for s in (20, 60))
    np.testing.assert_allclose(large.intrinsics.focal, 3 * small.intrinsics.focal, rtol=1e-14)
    middle = large.depth[0, 1::3, 1::3]
    np.testing.assert_allclose(small.depth[0], middle, rtol=1e-6)
    hits = np.isfinite(large.depth[0]).reshape(20, 3, 20, 3).mean((1, 3))
    np.testing.assert_array_equal(small.images[0, ..., 3], np.rint(255 * hits))


def test_highlights_move_with_the_camera():
    """Light that comes back from one point of the large ball depends on where the camera is."""
    ball = SOLIDS[1]
    normal = traced_views.LIGHT_3[None]
    point = ball.centre + ball.radius * normal
    ways = {"mirrored": -traced_views.LIGHT_3[None], "aside": np.array([[0.0, 0.0, -1.0]])}
    color = {
        name: analytic_scene._shade(np.array([1]), point, way)[0][0] for name, way in ways.items()
    }
    assert (color["mirrored"] > color["aside"] + [0.01, 0.2, 0.2]).all()
    linear = np.array(ball.color) * (
        traced_views.AMBIENT + traced_views.AMBIENT_UP * normal[0, 2] + traced_views.DIFFUSE
    )
    for name, cosine in (("mirrored", 1.0), ("aside", traced_views.LIGHT_3[2])):
        gloss = ball.specular * cosine**ball.shininess
        encoded = 1.055 * np.minimum(linear + gloss, 1) ** (1 / 2.4) - 0.055
        np.testing.assert_allclose(color[name], encoded, rtol=1e-12)


def test_under_a_solid_is_shadow():
    """A point of the slab beside the ball, away from the light, has ambient light alone."""
    ball, top = SOLIDS[1], analytic_scene.FLOOR_TOP
    light = traced_views.LIGHT_3
    below = np.array(ball.centre) - light * (ball.centre[2] - top) / light[2]
    points = np.array([below, [0.85, -0.85, top]])
    colors, normals = analytic_scene._shade(np.zeros(2, int), points, np.array([[0, 0, -1.0]] * 2))
    np.testing.assert_array_equal(normals, [[0, 0, 1]] * 2)
    albedo = SOLIDS[0].albedo(points)
    ambient = albedo[0] * (traced_views.AMBIENT + traced_views.AMBIENT_UP)
    np.testing.assert_allclose(colors[0], 1.055 * ambient ** (1 / 2.4) - 0.055, rtol=1e-9)
    bright = albedo[1] * (traced_views.AMBIENT + traced_views.AMBIENT_UP)
    assert (colors[1] > 1.055 * bright ** (1 / 2.4) - 0.055 + 0.05).all()


def test_rays_along_axes_and_faces():
    """No division by zero, along a cylinder, along planes and through centres."""
    down, across = np.array([0.0, 0.0, -1.0]), np.array([1.0, 0.0, 0.0])
    drum, top = SOLIDS[3], analytic_scene.FLOOR_TOP
    origins = np.array(
        [
            (drum.centre[0], drum.centre[1], 2.0),  # on the axis
            (drum.centre[0] + drum.radius + 0.05, drum.centre[1], 2.0),  # beside it
            (-2.0, 0.0, top + 1e-3),  # just over the slab
            (-2.0, -0.85, top - 0.05),  # into its side
        ]
    )
    hits = first_hits(origins, np.array([down, down, across, across]))
    upper = drum.centre[2] + drum.half_height
    np.testing.assert_allclose(hits.distance_R[[0, 1, 3]], [2 - upper, 2 - top, 2 - 0.86])
    np.testing.assert_array_equal(hits.solid_R[[0, 1, 3]], [3, 0, 0])
    assert hits.distance_R[2] > 1.0
    assert np.isinf(first_hits(np.array([[0.0, 0.0, 3.0]]), -down[None]).distance_R).all()
    assert np.isinf(first_hits(np.array([[0.0, 0.0, 3.0]]), across[None]).distance_R).all()


def test_cameras_look_at_the_centre_from_different_places(scene):
    places = np.concatenate([views.camera_to_world[:, :, 3] for views in scene.parts.values()])
    np.testing.assert_allclose(np.linalg.norm(places, axis=1), 4, atol=1e-6)
    assert (places[:, 2] > 0.5).all()
    apart = np.linalg.norm(places[:, None] - places, axis=-1)[np.triu_indices(len(places), 1)]
    assert apart.min() > 0.1
    for views in scene.parts.values():
        back, up = views.camera_to_world[:, :, 2], views.camera_to_world[:, :, 1]
        np.testing.assert_allclose(4 * back, views.camera_to_world[:, :, 3], atol=1e-6)
        assert (up[:, 2] > 0).all()
    train = scene.parts["train"].camera_to_world[:, :, 3]
    assert (np.abs(train[:, :2].mean(0)) < 1).all()  # from all sides


def test_held_out_cameras_are_far_from_those_of_training():
    for seed in range(5):
        turn = np.random.default_rng(seed).uniform(0, 2 * np.pi)
        train, *others = (poses[:, :, 3] for poses in traced_views._place((60, 8, 12), turn))
        for places in others:
            apart = np.linalg.norm(places[:, None] - train, axis=-1)
            assert apart.min() > 0.3
            assert apart.min(1).max() < 1.2  # and each is near some of them


def test_the_same_seed_makes_the_same_scene(scene):
    again = make_analytic_scene(48, (10, 2, 3))
    for part, views in scene.parts.items():
        np.testing.assert_array_equal(again.parts[part].images, views.images)
        np.testing.assert_array_equal(again.parts[part].depth, views.depth)
    other = make_analytic_scene(8, (10, 0, 3), seed=1)
    assert set(other.parts) == {"train", "test"}
    poses = (s.parts["test"].camera_to_world for s in (scene, other))
    assert np.abs(np.subtract(*poses)).max() > 0.1
    assert (scene.near, scene.far) == (2.0, 6.0)


def test_faults():
    with pytest.raises(InputError, match="size is 0, expected 1 or more"):
        make_analytic_scene(0)
    with pytest.raises(InputError, match="seed is -1, expected 0 or more"):
        make_analytic_scene(4, seed=-1)
    for views in ((0, 1, 1), (1, 1), (1, -1, 1), ()):
        with pytest.raises(InputError, match=r"views is \(.*expected 3 numbers, for train"):
            make_analytic_scene(4, views)
