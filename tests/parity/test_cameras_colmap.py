"""Cameras and reconstructions against COLMAP's own code, and lenses against OpenCV's."""

import jax
import numpy as np
import pytest
from image_files import write_image

from jaxgen.camera_models import CAMERA_MODELS
from jaxgen.data.scenes.colmap import read_colmap, write_colmap
from jaxgen.data.scenes.colmap_model import read_colmap_model
from jaxgen.data.scenes.intrinsics import Intrinsics, from_parameters
from jaxgen.data.scenes.similarity import Similarity
from jaxgen.data.scenes.views import Scene, Views
from jaxgen.nerf import make_cameras, project
from jaxgen.nerf.projection import from_plane

pycolmap = pytest.importorskip("pycolmap", reason="pycolmap (the [parity] extra) is not installed")
cv2 = pytest.importorskip("cv2", reason="OpenCV (the [parity] extra) is not installed")

WIDTH, HEIGHT = 640, 480
DISTORTIONS = {
    "SIMPLE_RADIAL": [-0.07],
    "RADIAL": [0.1, -0.04],
    "OPENCV": [0.08, -0.03, 0.004, -0.006],
    "OPENCV_FISHEYE": [0.02, -0.005, 0.002, -0.0003],
    "FULL_OPENCV": [0.08, -0.03, 0.004, -0.006, 0.01, 0.05, -0.01, 0.004],
    "FOV": [0.9],
    "SIMPLE_RADIAL_FISHEYE": [-0.02],
    "RADIAL_FISHEYE": [0.02, 0.003],
    "THIN_PRISM_FISHEYE": [0.02, -0.005, 0.002, -0.003, 0.001, 0.0002, 0.004, -0.003],
    "RAD_TAN_THIN_PRISM_FISHEYE": [
        *(0.02, -0.005, 0.002, 0.0003, -0.0001, 0.00001),
        *(0.002, -0.003, 0.004, 0.0003, -0.003, 0.0002),
    ],
    "SIMPLE_DIVISION": [-0.2],
    "DIVISION": [0.15],
    "EUCM": [0.6, 1.1],
}
MODELS = [name for name, model in CAMERA_MODELS.items() if model.id is not None]
WIDE = {name for name in MODELS if "FISHEYE" in name or name in ("EQUIRECTANGULAR", "EUCM")}


def parameters_of(model: str) -> list[float]:
    if model == "EQUIRECTANGULAR":
        return [WIDTH, HEIGHT]
    focals = [310.0, 290.0][: CAMERA_MODELS[model].focals]
    return [*focals, 325.5, 236.0, *DISTORTIONS.get(model, [])]


def some_points(model: str, count: int = 50) -> np.ndarray:
    """In front of the camera, the first one on its axis; of spheres all around."""
    rng = np.random.default_rng(0)
    limit = 3.0 if model == "EQUIRECTANGULAR" else 1.4 if model in WIDE else 0.7
    around, theta = rng.uniform(0, 2 * np.pi, count), rng.uniform(0, limit, count)
    theta[0] = 0
    ways = [np.sin(theta) * np.cos(around), np.sin(theta) * np.sin(around), np.cos(theta)]
    return np.stack(ways, axis=-1) * rng.uniform(0.5, 4, (count, 1))


def cameras_at_origin(lens: Intrinsics):
    """That look along +z with y down: so axes of the world are OpenCV's."""
    pose = np.diag([1.0, -1, -1, 1])[None]
    return make_cameras(
        pose, lens.focal, lens.centre, height=HEIGHT, width=WIDTH, model=lens.model,
        distortion=lens.distortion,
    )  # fmt: skip


def places(lens: Intrinsics, points: np.ndarray) -> np.ndarray:
    found = jax.jit(project)(cameras_at_origin(lens), points)
    assert np.all(found.valid)
    np.testing.assert_allclose(found.depth[0], points[:, 2])
    return np.asarray(found.place)[0]


def test_all_models_are_there():
    theirs = {name for name in dir(pycolmap.CameraModelId) if name.isupper()} - {"INVALID"}
    assert set(MODELS) == theirs
    for name in MODELS:
        assert int(getattr(pycolmap.CameraModelId, name)) == CAMERA_MODELS[name].id


def test_places_and_directions_are_colmaps():
    """To 1e-6 pixel, directions too, by COLMAP's projection: its inverse is not as exact."""
    for model in MODELS:
        values, points = parameters_of(model), some_points(model)
        camera = pycolmap.Camera(model=model, width=WIDTH, height=HEIGHT, params=values)
        lens = from_parameters(model, values)
        assert len(camera.params) == len(lens.parameters(0))
        np.testing.assert_allclose(lens.parameters(0), values, rtol=1e-15)
        with jax.enable_x64(True):
            found = places(lens, points)
            expected = np.array([camera.img_from_cam(point) for point in points])
            np.testing.assert_allclose(found, expected, atol=1e-6, err_msg=model)
            direction, valid = jax.jit(from_plane, static_argnums=0)(
                model, (expected - lens.centre) / lens.focal, lens.distortion
            )
        assert np.all(valid)
        back = np.array([camera.img_from_cam(way) for way in np.asarray(direction)])
        np.testing.assert_allclose(back, expected, atol=1e-6, err_msg=model)
        ray = np.array([camera.cam_ray_from_img(place) for place in expected])
        direction = np.asarray(direction)
        direction = direction / np.linalg.norm(direction, axis=-1, keepdims=True)
        ray /= np.linalg.norm(ray, axis=-1, keepdims=True)
        np.testing.assert_allclose(direction, ray, atol=1e-6, err_msg=model)
        if model not in WIDE:
            flat = np.array([camera.cam_from_img(place) for place in expected])
            np.testing.assert_allclose(
                direction[:, :2] / direction[:, 2:], flat, atol=1e-6, err_msg=model
            )


def test_lenses_are_opencvs():
    """OpenCV counts from the centre of the first pixel, but only in what cx and cy mean.

    Both ways, to 1e-6 pixel.
    """
    until = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 500, 1e-15)
    for model in ("OPENCV", "FULL_OPENCV", "OPENCV_FISHEYE"):
        points, (fx, fy, cx, cy, *k) = some_points(model), parameters_of(model)
        matrix = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
        still = np.zeros((3, 1))
        if model == "OPENCV_FISHEYE":
            expected, _ = cv2.fisheye.projectPoints(
                points[:, None], still, still, matrix, np.array(k)
            )
        else:
            expected, _ = cv2.projectPoints(points[:, None], still, still, matrix, np.array(k))
        with jax.enable_x64(True):
            found = places(from_parameters(model, [fx, fy, cx, cy, *k]), points)
        expected = expected.reshape(-1, 2)
        np.testing.assert_allclose(found, expected, atol=1e-6, err_msg=model)
        if model == "OPENCV_FISHEYE":
            flat = cv2.fisheye.undistortPoints(
                expected[:, None], matrix, np.array(k), criteria=until
            )
        else:
            flat = cv2.undistortPoints(
                expected[:, None], matrix, np.array(k), None, None, None, until
            )
        with jax.enable_x64(True):
            direction, valid = jax.jit(from_plane, static_argnums=0)(
                model, (expected - (cx, cy)) / (fx, fy), np.array(k)
            )
        assert np.all(valid)
        direction = np.asarray(direction)
        miss = direction[:, :2] / direction[:, 2:] - flat.reshape(-1, 2)
        np.testing.assert_allclose(miss * (fx, fy), 0, atol=1e-6, err_msg=model)


@pytest.fixture(scope="module")
def made() -> "pycolmap.Reconstruction":
    options = pycolmap.SyntheticDatasetOptions()
    options.num_rigs, options.num_frames_per_rig, options.num_points3D = 2, 4, 60
    options.camera_model_id = pycolmap.CameraModelId.OPENCV
    options.camera_params = [1280.0, 1250.0, 512.0, 384.0, 0.05, -0.02, 0.001, -0.002]
    pycolmap.set_random_seed(0)
    return pycolmap.synthesize_dataset(options)


def test_what_colmap_writes_is_read_as_binary_and_as_text(made, tmp_path):
    """Its points project to its observations."""
    for kind in ("binary", "text"):
        (tmp_path / kind).mkdir()
        getattr(made, f"write_{kind}")(str(tmp_path / kind))
    assert (tmp_path / "binary" / "rigs.bin").is_file()
    models = [read_colmap_model(tmp_path / kind) for kind in ("binary", "text")]
    left, right = models
    assert len(left.images) == made.num_images() == 8
    assert [image[:2] for image in left.images] == [image[:2] for image in right.images]
    for one, other in zip(left.images, right.images, strict=True):
        np.testing.assert_allclose(one.camera_to_world, other.camera_to_world, atol=1e-12)
    assert left.cameras.keys() == right.cameras.keys() == set(made.cameras)
    for number, camera in left.cameras.items():
        assert camera.shape == right.cameras[number].shape == (768, 1024)
        for other in (right.cameras[number].intrinsics.parameters(0), made.cameras[number].params):
            np.testing.assert_allclose(camera.intrinsics.parameters(0), other, rtol=1e-14)
    points = {tuple(point.xyz.astype(np.float32)): point.color for point in made.points3D.values()}
    for model in models:
        assert model.points.shape == (60, 3)
        for place, color in zip(model.points, model.colors, strict=True):
            assert tuple(points[tuple(place)]) == tuple(color)
    assert_observations(left, made)


def assert_observations(model, made):
    images = {image.name: image for image in made.images.values()}
    for image in model.images:
        seen = [p for p in images[image.name].points2D if p.has_point3D()]
        assert len(seen) > 10
        lens = model.cameras[image.camera].intrinsics
        with jax.enable_x64(True):
            cameras = make_cameras(
                image.camera_to_world[None], lens.focal, lens.centre, height=768, width=1024,
                model=lens.model, distortion=lens.distortion,
            )  # fmt: skip
            points = np.array([made.points3D[p.point3D_id].xyz for p in seen])
            every = np.concatenate([points, np.tile(points[:1], (60 - len(points), 1))])
            found = jax.jit(project)(cameras, every).place[0]
        np.testing.assert_allclose(found[: len(seen)], [p.xy for p in seen], atol=1e-6)


def test_a_model_of_colmap_with_photographs_is_a_scene(made, tmp_path):
    (tmp_path / "sparse" / "0").mkdir(parents=True)
    made.write_binary(str(tmp_path / "sparse" / "0"))
    for image in made.images.values():
        write_image(tmp_path / "images" / image.name, np.full((768, 1024, 3), 7, np.uint8))
    scene = read_colmap(tmp_path, size=128)
    assert {part: len(views) for part, views in scene.parts.items()} == {"train": 7, "test": 1}
    expected = np.array([1280, 1250]) / 8
    np.testing.assert_allclose(scene.parts["train"].intrinsics.focal, [expected] * 7, rtol=1e-12)
    by_name = {image.name: image for image in made.images.values()}
    for views in scene.parts.values():
        for name, pose in zip(views.names, views.camera_to_world, strict=True):
            image = by_name[f"{name}.png"]
            np.testing.assert_allclose(pose[:, 3], image.projection_center(), atol=1e-6)
            np.testing.assert_allclose(-pose[:, 2], image.viewing_direction(), atol=1e-6)


def random_scene(model: str) -> Scene:
    rng = np.random.default_rng(0)
    turn, _ = np.linalg.qr(rng.normal(size=(4, 3, 3)))
    turn *= np.linalg.det(turn)[:, None, None]
    poses = np.concatenate([turn, rng.normal(size=(4, 3, 1))], -1).astype(np.float32)
    one = from_parameters(model, parameters_of(model))
    lens = Intrinsics(
        np.tile(one.focal, (4, 1)),
        np.tile(one.centre, (4, 1)),
        np.tile(one.distortion, (4, 1)),
        model,
    )
    if model != "EQUIRECTANGULAR":
        lens.focal[2] *= 2  # another camera
    images = rng.integers(256, size=(4, HEIGHT, WIDTH, 3), dtype=np.uint8)
    views = Views(("a", "b", "c/d", "e"), images, poses, lens)
    parts = {"train": views.take([0, 1, 2]), "test": views.take([3])}
    box = ((-1.0,) * 3, (1.0,) * 3)
    move = Similarity(3.0, turn[0], np.array([1.0, 2, 3]))
    return Scene("random", parts, 0.1, 9.0, box, to_files=move)


def test_what_is_written_opens_in_colmap(tmp_path):
    for model in MODELS:
        scene = random_scene(model)
        small = {
            part: Views(v.names, v.images[:, ::20, ::20], v.camera_to_world, v.intrinsics)
            for part, v in scene.parts.items()
        }
        scene = Scene(scene.name, small, 0.1, 9.0, scene.box, scene.to_files)
        write_colmap(tmp_path / model, scene)
        found = pycolmap.Reconstruction(str(tmp_path / model / "sparse" / "0"))
        assert found.num_images() == 4
        assert found.num_cameras() == (1 if model == "EQUIRECTANGULAR" else 2)
        images = {image.name: image for image in found.images.values()}
        for views in scene.parts.values():
            poses = scene.to_files.poses(views.camera_to_world.astype(np.float64))
            for i, name in enumerate(views.names):
                image = images[f"{name}.png"]
                assert image.camera.model_name == model
                np.testing.assert_allclose(
                    image.camera.params, views.intrinsics.parameters(i), rtol=1e-14
                )
                turn = image.cam_from_world().rotation.matrix().T * (1, -1, -1)
                np.testing.assert_allclose(turn, poses[i, :, :3], atol=1e-6)
                np.testing.assert_allclose(image.projection_center(), poses[i, :, 3], atol=1e-6)
