"""The viewer's page: what it holds, its mathematics against numpy, and pictures in a browser."""

import base64
import dataclasses
import html
import io
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image
from test_mesh_files import tetrahedron
from viewer_pages import in_browser, in_node, scene_of, script_of

from jaxgen.errors import InputError
from jaxgen.interop.mesh_files import Mesh
from jaxgen.interop.scene_viewer import notebook_viewer, viewer_html, write_viewer
from jaxgen.interop.viewer_scenes import ColouredPoints, GaussianSplats, covariances

RNG = np.random.default_rng(0)
ORBIT = RNG.integers(0, 256, (3, 8, 10, 3)).astype(np.uint8)
POINTS = ColouredPoints(RNG.normal(size=(5, 3)), RNG.integers(0, 256, (5, 3)).astype(np.uint8))
FOV_Y = np.pi / 4


def some_splats(count=40, seed=0):
    rng = np.random.default_rng(seed)
    return GaussianSplats(
        rng.normal(size=(count, 3)),
        rng.uniform(size=(count, 3)),
        rng.uniform(0.2, 1, count),
        scales_N3=rng.uniform(0.05, 0.4, (count, 3)),
        quaternions_N4=rng.normal(size=(count, 4)),
    )


def textured(mesh, uv, texture):
    """A mesh with a texture, of the names that the viewer looks for."""
    kind = dataclasses.make_dataclass(
        "TexturedMesh",
        [("uv_V2", object), ("texture", object)],
        bases=(Mesh,),
        frozen=True,
        kw_only=True,
    )
    own = {field.name: getattr(mesh, field.name) for field in dataclasses.fields(Mesh)}
    return kind(**own | {"uv_V2": uv, "texture": texture})


def decoded(scene, name):
    array = scene["arrays"][name]
    data = np.frombuffer(
        base64.b64decode(array["data"]), np.dtype(array["dtype"]).newbyteorder("<")
    )
    return data.reshape(array["shape"])


def picture(uri):
    assert uri.startswith("data:image/png;base64,")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))


def test_a_page_holds_its_mesh_and_orbit(tmp_path):
    mesh = tetrahedron()
    write_viewer(tmp_path / "a.html", mesh=mesh, orbit=ORBIT, title="<b> & {{scene}}")
    page = (tmp_path / "a.html").read_text("utf-8")
    assert "<title>&lt;b&gt; &amp; {{scene}}</title>" in page
    scene = scene_of(page)
    assert (scene["kind"], scene["count"]) == ("mesh", 4)
    np.testing.assert_array_equal(decoded(scene, "positions"), mesh.vertices_V3)
    np.testing.assert_array_equal(decoded(scene, "faces"), mesh.faces_F3)
    np.testing.assert_array_equal(decoded(scene, "colours"), mesh.colours_V3)
    np.testing.assert_array_equal([picture(uri) for uri in scene["orbit"]], ORBIT)
    distance = np.linalg.norm(mesh.vertices_V3 - scene["centre"], axis=1)
    assert 0.999 * distance.max() <= scene["radius"] <= 1.8 * distance.max()
    write_viewer(tmp_path / "b.html", mesh=mesh, orbit=ORBIT, title="<b> & {{scene}}")
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_a_page_holds_its_texture_points_and_splats():
    uv = RNG.uniform(size=(4, 2)).astype(np.float32)
    scene = scene_of(viewer_html(mesh=textured(tetrahedron(), uv, ORBIT[0])))
    np.testing.assert_array_equal(decoded(scene, "uv"), uv)
    np.testing.assert_array_equal(picture(scene["texture"]), ORBIT[0])
    scene = scene_of(viewer_html(points=POINTS))
    np.testing.assert_array_equal(
        decoded(scene, "positions"), POINTS.positions_N3.astype(np.float32)
    )
    np.testing.assert_array_equal(decoded(scene, "colours"), POINTS.colours_N3)
    splats = some_splats()
    scene = scene_of(viewer_html(splats=splats))
    assert (scene["kind"], scene["count"]) == ("splats", 40)
    expected = covariances(splats)
    xx, _, xz, yy, _, _ = decoded(scene, "covariances").T
    np.testing.assert_allclose(
        [xx, xz, yy], [expected[:, 0, 0], expected[:, 0, 2], expected[:, 1, 1]], rtol=1e-6
    )
    colours = decoded(scene, "colours") / 255
    np.testing.assert_allclose(colours[:, :3], splats.colours_N3, atol=0.5 / 255)
    np.testing.assert_allclose(colours[:, 3], splats.opacities_N, atol=0.5 / 255)


def test_scales_and_quaternions_are_covariances():
    """A half turn about x + y swaps these axes."""
    given = {
        "positions_N3": np.zeros((1, 3)),
        "colours_N3": np.zeros((1, 3)),
        "opacities_N": np.ones(1),
    }
    splats = GaussianSplats(
        **given, scales_N3=np.array([[1.0, 2, 3]]), quaternions_N4=np.array([[0.0, 5, 5, 0]])
    )
    np.testing.assert_allclose(covariances(splats)[0], np.diag([4, 1, 9]), atol=1e-12)
    eigenvalues = np.linalg.eigvalsh(covariances(some_splats()))
    np.testing.assert_allclose(
        eigenvalues, np.sort(some_splats().scales_N3 ** 2, axis=1), rtol=1e-9
    )


def test_a_page_loads_nothing():
    page = viewer_html(mesh=tetrahedron(), orbit=ORBIT)
    assert not re.search(r"https?:|//[\w.]+\.\w+/|\bimport\b|@import|url\(", page)
    assert "default-src 'none'" in page
    for source in re.findall(r"\b(?:src|href)=\"([^\"]*)\"", page):
        assert source == "data:,"


def test_a_notebook_shows_the_page_in_a_frame():
    shown = notebook_viewer(points=POINTS, height=300, title="A")
    text = shown._repr_html_()
    found = re.fullmatch(r'<iframe srcdoc="([^"]*)" sandbox="allow-scripts" .*height="300".*', text)
    assert html.unescape(found[1]) == viewer_html(points=POINTS, title="A")


BAD_MESH = dataclasses.replace(tetrahedron(), vertices_V3=np.full((4, 3), np.nan, np.float32))
NO_FACES = dataclasses.replace(tetrahedron(), faces_F3=np.zeros((0, 3), np.int32))
NO_POINTS = ColouredPoints(np.zeros((0, 3)), np.zeros((0, 3), np.uint8))


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ({"mesh": BAD_MESH}, r"mesh: vertices: number 0 is \[nan, nan, nan\], expected finite"),
        ({"mesh": NO_FACES}, "mesh has 4 vertices and 0 faces, expected one or more"),
        (
            {"points": NO_POINTS},
            r"points: positions have shape \[0, 3\], expected \[0, 3\], 1 or m",
        ),
        ({}, "a viewer is given nothing, expected one of mesh, points and splats, or an orbit"),
        ({"points": POINTS, "mesh": tetrahedron()}, "a viewer is given mesh and points, expected"),
        ({"orbit": ORBIT[:0]}, r"orbit is uint8 \[0, 8, 10, 3\], expected uint8 \[T, Y, X, 3\]"),
        ({"points": POINTS, "background": (0, 0, 2)}, r"background is \(0, 0, 2\), expected three"),
        (
            {"splats": dataclasses.replace(some_splats(2), opacities_N=np.array([0, 1.5]))},
            r"splats: opacities are in \[0, 1.5\], expected them in \[0, 1\]",
        ),
        (
            {
                "splats": dataclasses.replace(
                    some_splats(2), quaternions_N4=np.eye(2, 4, 1)[::-1] * 0
                )
            },
            "splats: quaternion 0 is 0, expected a length above 0",
        ),
        (
            {"splats": dataclasses.replace(some_splats(2), scales_N3=None)},
            "splats have no covariances, expected them, or scales and quaternions",
        ),
        (
            {
                "splats": dataclasses.replace(
                    some_splats(2), positions_N3=np.array([[0, 0, 0], [0, np.inf, 0]])
                )
            },
            r"splats: positions: number 1 is \[0.0, inf, 0.0\], expected finite numbers",
        ),
    ],
    ids=range(11),
)
def test_what_cannot_be_shown(tmp_path, given, fault):
    with pytest.raises(InputError, match=fault):
        write_viewer(tmp_path / "a.html", **given)
    assert not list(tmp_path.iterdir())


def test_the_programs_are_valid(tmp_path):
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    page = viewer_html(points=POINTS)
    for name in ("mathematics", "drawing"):
        (tmp_path / f"{name}.js").write_text(script_of(page, name))
        done = subprocess.run(["node", "--check", tmp_path / f"{name}.js"], capture_output=True)
        assert done.returncode == 0, done.stderr


def look_at(eye, target, up):
    back = (eye - target) / np.linalg.norm(eye - target)
    right = np.cross(up, back)
    right /= np.linalg.norm(right)
    turn = np.stack([right, np.cross(back, right), back])
    return turn, -turn @ eye


def projected(points, turn, move, focal):
    own = points @ turn.T + move
    return focal * own[..., :2] / -own[..., 2:]


def test_the_mathematics_is_that_of_numpy():
    """Matrices; the projection and its derivative by differences; the order; the axes."""
    rng = np.random.default_rng(3)
    eye, target, up = rng.normal(size=3) * 4, rng.normal(size=3), np.array([0.0, 0, 1])
    turn, move = look_at(eye, target, up)
    half = rng.normal(size=(3, 3)) * 0.2
    S, p, focal = half @ half.T, rng.normal(size=3) * 0.3 + target, 300.0
    depths = rng.uniform(0.1, 100, 3000).astype(np.float32)
    depths[1000:1500] = depths[:500]
    given = {
        "eye": eye.tolist(),
        "target": target.tolist(),
        "up": up.tolist(),
        "p": p.tolist(),
        "S": S[np.triu_indices(3)].tolist(),
        "depths": depths.tolist(),
    }
    program = """
      const view = lookAt(given.eye, given.target, given.up);
      const seen = [];
      projectSplat(seen, 0, given.p, given.S, 0, view, 300, 5, 5);
      return {view, seen, axes: ellipseAxes(...seen.slice(3)),
        order: Array.from(farToNear(Float32Array.from(given.depths))),
        clip: perspective(Math.PI / 4, 1.5, 0.5, 9),
        eyes: ["y", "z"].map((up) => orbitEye([1, 2, 3], 0.3, 0.5, 2, up))};
    """
    found = in_node(viewer_html(points=POINTS), program, given)
    view = np.reshape(found["view"], (4, 4)).T
    np.testing.assert_allclose(view[:3], np.c_[turn, move], atol=1e-12)
    np.testing.assert_allclose(found["seen"][:2], projected(p, turn, move, focal), rtol=1e-9)
    assert found["seen"][2] == pytest.approx(-(turn @ p + move)[2])
    steps = np.eye(3) * 1e-5
    jacobian = (
        projected(p + steps, turn, move, focal) - projected(p - steps, turn, move, focal)
    ).T / 2e-5
    expected = jacobian @ S @ jacobian.T + 0.3 * np.eye(2)
    np.testing.assert_allclose(found["seen"][3:], expected[np.triu_indices(2)], rtol=1e-6)
    axes = np.reshape(found["axes"], (2, 2))
    np.testing.assert_allclose(axes.T @ axes, expected, rtol=1e-6)
    assert abs(axes[0] @ axes[1]) < 1e-6 * (axes**2).sum()
    np.testing.assert_array_equal(found["order"], np.argsort(-depths, kind="stable"))
    clip = np.reshape(found["clip"], (4, 4)).T
    corner = np.array([0.5 * 1.5 * np.tan(FOV_Y / 2), 0.5 * np.tan(FOV_Y / 2), -0.5, 1])
    np.testing.assert_allclose(clip @ corner, [0.5, 0.5, -0.5, 0.5], rtol=1e-9)
    np.testing.assert_allclose((clip @ [0, 0, -9, 1])[2:], [9, 9], rtol=1e-9)
    offsets = np.array(found["eyes"]) - [1, 2, 3]
    np.testing.assert_allclose(np.linalg.norm(offsets, axis=1), 2)
    np.testing.assert_allclose([offsets[0, 1], offsets[1, 2]], 2 * np.sin(0.5))


def test_the_nearest_splat_comes_last():
    """Three on the line of sight, one behind the camera."""
    given = {
        "positions": [0, 0, -3, 0, 0, -1, 0, 0, 2, 0, 0, -2],
        "covariances": [0.01, 0, 0, 0.01, 0, 0.01] * 4,
    }
    program = """
      const splats = {positions: Float32Array.from(given.positions),
        covariances: Float32Array.from(given.covariances),
        colours: Uint8Array.from({length: 16}, (_, i) => i)};
      const view = [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1];
      const {data, count} = splatInstances(splats, view, Math.PI / 2, 200, 100, 0.1);
      const bytes = new Uint8Array(data.buffer);
      return {count, data: Array.from(data), order: [0, 1, 2].map((i) => bytes[28 * i + 24] / 4)};
    """
    found = in_node(viewer_html(points=POINTS), program, given)
    assert found["count"] == 3
    assert found["order"] == [0, 3, 1]
    # At depth 1 the focal length is 50 pixels: 0.1 is 5 pixels of 100 half widths, 50 half heights.
    sides = np.abs(found["data"][2 * 7 + 2 : 2 * 7 + 6])
    np.testing.assert_allclose(np.sort(sides)[2:], np.sqrt(25.3) / np.array([100, 50]), rtol=1e-4)


def two_squares():
    """Red at x = 1, blue at x = -1, side 2."""
    corners = [[x, y, z] for x in (1, -1) for y in (-1, 1) for z in (-1, 1)]
    faces = [[0, 1, 2], [1, 3, 2], [4, 5, 6], [5, 7, 6]]
    colours = np.repeat([[255, 0, 0], [0, 0, 255]], 4, axis=0)
    return Mesh(
        np.array(corners, np.float32), np.array(faces, np.int32), None, colours.astype(np.uint8)
    )


DRIVE = """
  const canvas = document.getElementById("canvas");
  canvas.setPointerCapture = () => {};
  const middle = () => jaxgenViewer.pixel(canvas.width >> 1, canvas.height >> 1);
  const point = (name, x, y, more) => canvas.dispatchEvent(
    new PointerEvent(name, {pointerId: 1, clientX: x, clientY: y, buttons: 1, ...more}));
  const drag = (dx, dy, more) => {
    point("pointerdown", 50, 50, more);
    point("pointermove", 50 + dx, 50 + dy, more);
    point("pointerup", 0, 0);
  };
  const slider = document.getElementById("slider");
  const found = {kind: jaxgenViewer.kind, error: jaxgenViewer.error, front: middle(),
    corner: jaxgenViewer.pixel(2, 2)};
  drag(Math.PI / 0.01, 0);
  found.back = middle();
  canvas.dispatchEvent(new WheelEvent("wheel", {deltaY: 200}));
  found.distance = jaxgenViewer.camera.distance;
  drag(600, 0, {shiftKey: true});
  found.aside = middle();
  canvas.dispatchEvent(new MouseEvent("dblclick"));
  found.reset = middle();
  slider.value = 2;
  slider.dispatchEvent(new Event("input"));
  found.frame = document.getElementById("frame").src;
  return found;
"""


def test_a_mesh_turns_moves_and_is_reset_in_a_browser(tmp_path):
    page = viewer_html(mesh=two_squares(), orbit=ORBIT, background=(0, 1, 0))
    found = in_browser(page, DRIVE, tmp_path)
    assert (found["kind"], found["error"]) == ("mesh", None)
    assert found["front"] == found["reset"] == [255, 0, 0, 255]
    assert found["back"] == [0, 0, 255, 255]
    assert found["corner"] == found["aside"] == [0, 255, 0, 255]
    radius = scene_of(page)["radius"]
    assert found["distance"] == pytest.approx(radius / np.sin(FOV_Y / 2) * np.exp(0.2))
    assert found["frame"] == scene_of(page)["orbit"][2]


def test_a_texture_begins_at_its_upper_left_corner(tmp_path):
    """v is 0 at the upper edge of the image: upper left red, upper right green, lower ones blue."""
    uv = np.tile([[0, 1], [0, 0], [1, 1], [1, 0]], (2, 1)).astype(np.float32)
    image = np.zeros((2, 2, 3), np.uint8)
    image[0, 0, 0] = image[0, 1, 1] = 255
    image[1, :, 2] = 255
    program = """
      const {width, height} = document.getElementById("canvas"), step = height / 8;
      jaxgenViewer.camera.elevation = 0;
      const at = (x, y) => jaxgenViewer.pixel(width / 2 + x * step, height / 2 + y * step);
      return [at(-1, -1), at(1, -1), at(-1, 1), at(1, 1)];
    """
    found = in_browser(viewer_html(mesh=textured(two_squares(), uv, image)), program, tmp_path)
    strongest = np.argmax(np.array(found)[:, :3], axis=1)
    np.testing.assert_array_equal(strongest, [0, 1, 2, 2])


def test_splats_in_a_browser_are_those_of_numpy(tmp_path):
    """Every fortieth pixel of a row and a column, composited from far to near in float64."""
    splats = some_splats()
    page = viewer_html(splats=splats, background=(0.2, 0.4, 0.6))
    program = """
      const {width, height} = document.getElementById("canvas"), pixels = [];
      for (let y = 0; y < height; y += 40)
        for (let x = 0; x < width; x += 40) pixels.push([x, y, ...jaxgenViewer.pixel(x, y)]);
      return {width, height, pixels, error: jaxgenViewer.error};
    """
    found = in_browser(page, program, tmp_path)
    assert found["error"] is None
    width, height, scene = found["width"], found["height"], scene_of(page)
    focal, up = height / 2 / np.tan(FOV_Y / 2), scene["elevation"]
    distance = scene["radius"] / np.sin(FOV_Y / 2)
    eye = np.array(scene["centre"]) + distance * np.array([np.cos(up), 0, np.sin(up)])
    turn, move = look_at(eye, np.array(scene["centre"]), np.array([0.0, 0, 1]))
    pixels = np.array(found["pixels"], float)
    place = pixels[:, :2] + 0.5 - [width / 2, height / 2]
    own = splats.positions_N3 @ turn.T + move
    colour = np.broadcast_to([0.2, 0.4, 0.6], (len(pixels), 3))
    for n in np.argsort(own[:, 2]):
        x, y, z = own[n]
        jacobian = focal / -z * np.array([[1, 0, -x / z], [0, 1, -y / z]]) @ turn
        S = jacobian @ covariances(splats)[n] @ jacobian.T + 0.3 * np.eye(2)
        offset = place * [1, -1] - focal / -z * own[n, :2]
        power = np.einsum("pi,ij,pj->p", offset, np.linalg.inv(S), offset)
        alpha = np.minimum(0.99, splats.opacities_N[n] * np.exp(-power / 2))[:, None]
        alpha = np.where(alpha < 1 / 255, 0, alpha)
        colour = colour * (1 - alpha) + alpha * splats.colours_N3[n]
    error = np.abs(pixels[:, 2:5] - 255 * colour)
    assert np.ptp(255 * colour, axis=0).min() > 50
    # Every splat is rounded to bytes where it is blended.
    assert error.mean() < 2
    assert error.max() < 12
