"""Files of meshes, read: what was written, what others write, what cannot be."""

import dataclasses

import numpy as np
import pytest
import trimesh
from mesh_shapes import ball_mesh, red_over_blue, square_mesh
from PIL import Image

from jaxgen.errors import InputError
from jaxgen.geometry.triangle_mesh import enclosed_volume, is_closed
from jaxgen.interop.mesh_files import write_mesh
from jaxgen.interop.mesh_reading import read_mesh


def coloured_ball():
    """Red where z > 0, with normals; no two of its coordinates have the same range."""
    ball = ball_mesh(2)
    colours = np.where(ball.vertices_V3[:, 2:] > 0, np.uint8([[255, 0, 0]]), np.uint8([[0, 9, 0]]))
    stretched = (ball.vertices_V3 * [1, 2, 3] + [5, 0, 1]).astype(np.float32)
    normals = ball.vertices_V3 / np.float32([1, 2, 3])
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    return dataclasses.replace(ball, vertices_V3=stretched, normals_V3=normals, colours_V3=colours)


@pytest.mark.parametrize("suffix", ["ply", "obj", "glb"])
def test_what_is_written_comes_back(suffix, tmp_path):
    ball = coloured_ball()
    write_mesh(tmp_path / f"ball.{suffix}", ball)
    found = read_mesh(tmp_path / f"ball.{suffix}")
    np.testing.assert_array_equal(found.vertices_V3, ball.vertices_V3)
    np.testing.assert_array_equal(found.faces_F3, ball.faces_F3)
    np.testing.assert_allclose(found.normals_V3, ball.normals_V3, atol=1e-6)
    np.testing.assert_array_equal(found.colours_V3, ball.colours_V3)
    assert found.texture is None
    write_mesh(tmp_path / f"bare.{suffix}", ball_mesh(1))
    bare = read_mesh(tmp_path / f"bare.{suffix}")
    assert bare.colours_V3 is bare.texture is bare.uv_V2 is bare.normals_V3 is None


@pytest.mark.parametrize("suffix", ["obj", "glb"])
def test_textures_come_back(suffix, tmp_path):
    mesh = dataclasses.replace(square_mesh(), texture=red_over_blue(8))
    write_mesh(tmp_path / f"a square.{suffix}", mesh)
    found = read_mesh(tmp_path / f"a square.{suffix}")
    np.testing.assert_array_equal(found.vertices_V3, mesh.vertices_V3)
    np.testing.assert_allclose(found.uv_V2, mesh.uv_V2, atol=1e-6)
    np.testing.assert_array_equal(found.texture, mesh.texture)
    assert found.colours_V3 is None


def test_scenes_are_joined_where_their_transforms_bring_them(tmp_path):
    """One geometry twice, moved, turned and mirrored; a line beside them; two textures."""
    box = trimesh.creation.box((1, 2, 3))
    scene = trimesh.Scene()
    moves = [trimesh.transformations.translation_matrix((10, 0, 0)), np.diag([-2, 1, 1, 1])]
    moves.append(trimesh.transformations.rotation_matrix(np.pi / 2, (0, 0, 1), (9, 9, 0)))
    for i, move in enumerate(moves):
        scene.add_geometry(box, node_name=f"n{i}", geom_name="box", transform=move)
    scene.add_geometry(trimesh.load_path(np.array([[0, 0, 0], [50.0, 0, 0]])))
    scene.export(tmp_path / "scene.glb")
    found = read_mesh(tmp_path / "scene.glb")
    assert len(found.faces_F3) == 36
    assert enclosed_volume(found) == pytest.approx(6 + 12 + 6, rel=1e-5)  # none is inside out
    assert is_closed(found)
    corners = np.concatenate([trimesh.transform_points(box.vertices, move) for move in moves])
    x, y, z = corners.T
    low, high = found.vertices_V3.min(axis=0), found.vertices_V3.max(axis=0)
    np.testing.assert_allclose(low, [x.min(), -z.max(), y.min()], atol=1e-5)
    np.testing.assert_allclose(high, [x.max(), -z.min(), y.max()], atol=1e-5)

    def textured(colour):
        image = Image.fromarray(np.full((4, 4, 3), colour, np.uint8))
        material = trimesh.visual.material.PBRMaterial(baseColorTexture=image)
        visual = trimesh.visual.TextureVisuals(uv=square_mesh().uv_V2, material=material)
        mesh = square_mesh()
        return trimesh.Trimesh(mesh.vertices_V3, mesh.faces_F3, visual=visual, process=False)

    for colours in ([200, 200], [200, 90]):
        scene = trimesh.Scene({f"m{i}": textured(colour) for i, colour in enumerate(colours)})
        scene.export(tmp_path / "two.glb")
        found = read_mesh(tmp_path / "two.glb")
        assert (found.texture is None) == (colours[0] != colours[1])
        if found.texture is None:  # of several textures the vertices get the colours
            assert sorted(found.colours_V3[:, 0]) == [90] * 4 + [200] * 4
        else:
            assert (found.texture == 200).all()


OBJ = """v 0 0 0
v 1 0 0
v 1 0 1
v 0 0 1
v 0.5 3 0.5
"""


def test_awkward_lines(tmp_path):
    """Polygons, negative numbers, an image that is missing, lone vertices, blank lines."""
    path = tmp_path / "m.obj"
    for faces, count in (
        ("f 1 2 3 4\n", 2),
        ("\n# a note\nf -5 -4 -3\n\no two\nf 1/ 2/ 5/\n", 2),
        ("v 9 9 9\nv nan 0 0\nf 1 2 3 4 5\n", 3),
    ):
        path.write_text(OBJ + faces)
        found = read_mesh(path)
        assert len(found.faces_F3) == count
        assert found.vertices_V3.max() <= 3
    np.testing.assert_array_equal(found.vertices_V3[4], [0.5, -0.5, 3])  # y is up in the file
    (tmp_path / "m.mtl").write_text("newmtl a\nKd 1 0 0.2\nmap_Kd nowhere.png\n")
    path.write_text("mtllib m.mtl\n" + OBJ + "vt 0 0\nusemtl a\nf 1/1 2/1 5/1\n")
    found = read_mesh(path)
    assert found.texture is None
    np.testing.assert_array_equal(found.colours_V3, np.tile([[255, 0, 51]], (3, 1)))


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("m.obj", b"", "m.obj has no triangles, expected one or more|no mesh could be read"),
        ("m.obj", OBJ.encode(), "m.obj has no triangles, expected one or more"),
        ("m.obj", OBJ.encode() + b"v nan 0 0\nf 1 2 6\n", r"m.obj: vertices: number 2 is \[nan"),
        ("m.obj", OBJ.encode() + b"f 1 2 9\n", "m.obj: no mesh could be read from it"),
        ("m.glb", b"glTF and nothing more", "m.glb: no mesh could be read from it"),
        ("m.ply", b"ply\nformat ascii 1.0\n", "m.ply: no mesh could be read from it"),
        ("m.txt", b"", "m.txt: the suffix is unknown, expected .ply, .obj, .glb"),
    ],
    ids=range(7),
)
def test_files_that_are_refused(name, content, fault, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=fault) as caught:
        read_mesh(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"m\.ply: no such file"):
        read_mesh(tmp_path / "m.ply")
    (tmp_path / "f.obj").mkdir()
    with pytest.raises(InputError, match=r"f\.obj: a folder"):
        read_mesh(tmp_path / "f.obj")


def test_files_of_others(data_folder):
    """Textured, coloured, with nodes and materials, and some without a triangle."""
    folder = data_folder / "mesh_formats"
    found = {path.name: read_mesh(path) for path in folder.glob("*.glb")}
    assert found["Duck.glb"].texture.shape == (512, 512, 3)
    assert len(found["Duck.glb"].faces_F3) == 4212
    assert len(found["CesiumMilkTruck.glb"].faces_F3) == 3624
    np.testing.assert_array_equal(found["BoxInterleaved.glb"].colours_V3[0], [231, 0, 0])
    high = found["Duck.glb"].vertices_V3.max(axis=0) - found["Duck.glb"].vertices_V3.min(axis=0)
    assert high[2] == pytest.approx(1.54, abs=0.02)  # its height, upwards
    for name in ("fuze.obj", "fuze.ply", "fuze_ascii.ply"):
        assert read_mesh(folder / name).texture.shape == (1024, 1024, 3)
    assert len(read_mesh(folder / "polygonfaces.obj").faces_F3) == 3
    assert len(read_mesh(folder / "negative_indices.obj").faces_F3) == 12
    assert read_mesh(folder / "noimg.obj").texture is None
    for name in ("empty.obj", "empty.ply", "points_bin.ply", "points_emptyface.ply"):
        with pytest.raises(InputError, match=f"{name} has no triangles, expected one or more"):
            read_mesh(folder / name)
