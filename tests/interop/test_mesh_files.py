"""Mesh files, read back by trimesh and byte by byte."""

import dataclasses
import json
import struct
import sys

import numpy as np
import pytest
from mesh_shapes import joined, red_over_blue, square_mesh

from jaxgen.errors import InputError
from jaxgen.geometry.mesh_cleaning import largest_component
from jaxgen.geometry.triangle_mesh import Mesh
from jaxgen.interop.mesh_files import write_mesh


def tetrahedron(shift=0.0) -> Mesh:
    """Four points, none of whose numbers is a round one."""
    rng = np.random.default_rng(0)
    corners = np.eye(4, 3) + 0.1 * rng.normal(size=(4, 3)) + shift
    normals = rng.normal(size=(4, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    return Mesh(
        corners.astype(np.float32),
        np.asarray([[0, 1, 2], [0, 3, 1], [1, 3, 2], [2, 3, 0]], np.int32),
        normals.astype(np.float32),
        np.asarray([[255, 0, 0], [0, 127, 9], [1, 2, 3], [4, 255, 254]], np.uint8),
    )


def read_back(path):
    import trimesh

    if path.suffix.lower() == ".ply":
        return trimesh.load(path, process=False)
    # With its material trimesh would show a mesh in the material's colour.
    (mesh,) = trimesh.load(path, process=False, skip_materials=True).geometry.values()
    return mesh


def upright(vectors):
    """(x, y, z) in glTF's axes: z is up, y goes away from the viewer."""
    x, y, z = vectors.T
    return np.stack([x, z, -y], axis=1)


@pytest.mark.parametrize("name", ["mesh.ply", "MESH.PLY", "mesh.glb"])
def test_meshes_come_back_as_they_were(name, tmp_path):
    mesh = tetrahedron()
    write_mesh(tmp_path / name, mesh)
    found = read_back(tmp_path / name)
    turn = upright if name.endswith("glb") else np.asarray
    np.testing.assert_array_equal(found.vertices, turn(mesh.vertices_V3))
    np.testing.assert_array_equal(found.faces, mesh.faces_F3)
    colours = found.visual.vertex_colors
    np.testing.assert_array_equal(colours[:, :3], mesh.colours_V3)
    assert (colours[:, 3] == 255).all()
    before = (tmp_path / name).read_bytes()
    write_mesh(tmp_path / name, mesh)
    assert (tmp_path / name).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_normals_and_colours_may_be_missing(tmp_path):
    mesh = dataclasses.replace(tetrahedron(), normals_V3=None, colours_V3=None)
    for name in ("plain.ply", "plain.glb"):
        write_mesh(tmp_path / name, mesh)
        assert len(read_back(tmp_path / name).vertices) == 4
    header = (tmp_path / "plain.ply").read_bytes().split(b"end_header")[0]
    assert b"red" not in header
    assert b"nx" not in header
    assert set(
        glb_parts(tmp_path / "plain.glb")[0]["meshes"][0]["primitives"][0]["attributes"]
    ) == {"POSITION"}


def test_the_bytes_of_a_ply(tmp_path):
    mesh = tetrahedron()
    write_mesh(tmp_path / "mesh.ply", mesh)
    header, content = (tmp_path / "mesh.ply").read_bytes().split(b"end_header\n")
    lines = header.decode().splitlines()
    assert lines[:2] == ["ply", "format binary_little_endian 1.0"]
    assert "element vertex 4" in lines
    assert "element face 4" in lines
    vertex = np.dtype([("position", "<f4", 3), ("normal", "<f4", 3), ("colour", "u1", 4)])
    assert len(content) == 4 * vertex.itemsize + 4 * 13
    vertices = np.frombuffer(content, vertex, 4)
    np.testing.assert_array_equal(vertices["position"], mesh.vertices_V3)
    np.testing.assert_array_equal(vertices["normal"], mesh.normals_V3)
    np.testing.assert_array_equal(vertices["colour"][:, :3], mesh.colours_V3)


def glb_parts(path):
    """The JSON and the binary chunk, after the checks of the specification."""
    content = path.read_bytes()
    magic, version, length = struct.unpack_from("<III", content)
    assert (magic, version, length) == (0x46546C67, 2, len(content))
    chunks, start = [], 12
    while start < length:
        size, kind = struct.unpack_from("<II", content, start)
        assert size % 4 == 0
        chunks.append((kind, content[start + 8 : start + 8 + size]))
        start += 8 + size
    assert start == length
    assert [kind for kind, _ in chunks] == [0x4E4F534A, 0x004E4942]
    return json.loads(chunks[0][1]), chunks[1][1]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_bytes_of_a_glb(count, tmp_path):
    mesh = joined(*(tetrahedron(3 * i) for i in range(count)))
    write_mesh(tmp_path / "mesh.glb", mesh)
    tree, binary = glb_parts(tmp_path / "mesh.glb")
    assert tree["asset"]["version"] == "2.0"
    assert tree["buffers"][0]["byteLength"] <= len(binary)
    (primitive,) = tree["meshes"][0]["primitives"]

    def values(index, component, kind, numbers):
        accessor = tree["accessors"][index]
        assert (accessor["componentType"], accessor["type"]) == (component, kind)
        view = tree["bufferViews"][accessor["bufferView"]]
        start = view.get("byteOffset", 0) + accessor.get("byteOffset", 0)
        assert start % 4 == 0
        width = {"SCALAR": 1, "VEC3": 3, "VEC4": 4}[kind]
        found = np.frombuffer(binary, numbers, accessor["count"] * width, start)
        return found.reshape(accessor["count"], width), accessor

    positions, accessor = values(primitive["attributes"]["POSITION"], 5126, "VEC3", "<f4")
    np.testing.assert_array_equal(positions, upright(mesh.vertices_V3))
    np.testing.assert_allclose(accessor["min"], positions.min(axis=0), rtol=1e-7)
    np.testing.assert_allclose(accessor["max"], positions.max(axis=0), rtol=1e-7)
    indices, _ = values(primitive["indices"], 5125, "SCALAR", "<u4")
    np.testing.assert_array_equal(indices.reshape(-1, 3), mesh.faces_F3)
    colours, accessor = values(primitive["attributes"]["COLOR_0"], 5121, "VEC4", "u1")
    assert accessor["normalized"] is True
    np.testing.assert_array_equal(colours[:, :3], mesh.colours_V3)
    normals, _ = values(primitive["attributes"]["NORMAL"], 5126, "VEC3", "<f4")
    np.testing.assert_allclose(normals, upright(mesh.normals_V3), atol=1e-6)
    material = tree["materials"][primitive["material"]]
    assert material["pbrMetallicRoughness"]["metallicFactor"] == 0
    # No node turns or moves the mesh again.
    assert not any("rotation" in node or "scale" in node for node in tree["nodes"])
    for node in tree["nodes"]:
        np.testing.assert_array_equal(node.get("matrix", np.eye(4).ravel()), np.eye(4).ravel())


def test_the_rotation_of_a_glb_keeps_what_is_up_up_and_right_right(tmp_path):
    """A pole along +Z stands along +Y, +X stays, and nothing is mirrored."""
    mesh = tetrahedron()
    write_mesh(tmp_path / "mesh.glb", mesh)
    write_mesh(tmp_path / "mesh.ply", mesh)
    glb, ply = read_back(tmp_path / "mesh.glb"), read_back(tmp_path / "mesh.ply")
    np.testing.assert_array_equal(glb.vertices[:, 1], mesh.vertices_V3[:, 2])
    np.testing.assert_array_equal(glb.vertices[:, 0], mesh.vertices_V3[:, 0])
    assert abs(ply.volume) > 0.05
    assert glb.volume == pytest.approx(ply.volume, rel=1e-6)


TEXTURED = dataclasses.replace(
    square_mesh(),
    normals_V3=np.tile(np.float32([[0, 0, 1]]), (4, 1)),
    colours_V3=np.full((4, 3), 9, np.uint8),
    texture=red_over_blue(),
)
"""A square that lies on the ground, red in the half with larger y."""


def loaded(path):
    """As trimesh opens a file by itself, in one piece."""
    import trimesh

    (mesh,) = trimesh.load_scene(path, process=False).geometry.values()
    return mesh


@pytest.mark.parametrize("name", ["mesh.glb", "mesh.obj"])
def test_textures_are_the_right_way_up(name, tmp_path):
    """Through trimesh's own reader and its own look-up of colours."""
    write_mesh(tmp_path / name, TEXTURED)
    found = loaded(tmp_path / name)
    np.testing.assert_array_equal(found.vertices, upright(TEXTURED.vertices_V3))
    np.testing.assert_array_equal(found.faces, TEXTURED.faces_F3)
    np.testing.assert_allclose(found.visual.uv, TEXTURED.uv_V2, atol=1e-6)
    material = found.visual.material
    image = getattr(material, "baseColorTexture", None) or material.image
    np.testing.assert_array_equal(np.asarray(image.convert("RGB")), TEXTURED.texture)
    colours = found.visual.to_color().vertex_colors[:, :3]
    far = TEXTURED.vertices_V3[:, 1] > 0  # -z in both formats, and the texture's upper half
    assert 0 < far.sum() < 4
    np.testing.assert_array_equal(colours[far], np.tile([[255, 0, 0]], (far.sum(), 1)))
    np.testing.assert_array_equal(colours[~far], np.tile([[0, 0, 255]], ((~far).sum(), 1)))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    write_mesh(tmp_path / name, TEXTURED)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_textured_glb_byte_by_byte(tmp_path):
    """v is from the top there, and nothing but the texture has a colour."""
    write_mesh(tmp_path / "mesh.glb", TEXTURED)
    tree, binary = glb_parts(tmp_path / "mesh.glb")
    (primitive,) = tree["meshes"][0]["primitives"]
    assert set(primitive["attributes"]) == {"POSITION", "NORMAL", "TEXCOORD_0"}
    accessor = tree["accessors"][primitive["attributes"]["TEXCOORD_0"]]
    start = tree["bufferViews"][accessor["bufferView"]].get("byteOffset", 0)
    uv = np.frombuffer(binary, "<f4", 8, start).reshape(4, 2)
    np.testing.assert_array_equal(uv, TEXTURED.uv_V2 * [1, -1] + [0, 1])
    material = tree["materials"][primitive["material"]]
    surface = material["pbrMetallicRoughness"]
    assert surface["metallicFactor"] == 0
    assert surface["baseColorTexture"]["index"] == 0
    assert material["doubleSided"] is True
    assert tree["images"][0]["mimeType"] == "image/png"


def test_the_lines_of_an_obj(tmp_path):
    write_mesh(tmp_path / "a b.obj", TEXTURED)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a b.mtl", "a b.obj", "a b.png"]
    lines = (tmp_path / "a b.obj").read_text().splitlines()
    assert lines[:2] == ["mtllib a b.mtl", "usemtl surface"]
    assert lines[2:4] == ["v -1 0 1", "v 1 0 1"]
    assert lines[6:8] == ["vt 0 0", "vt 1 0"]
    assert lines[10] == "vn 0 1 0"
    assert lines[14:] == ["f 1/1/1 2/2/2 3/3/3", "f 2/2/2 4/4/4 3/3/3"]
    assert "map_Kd a b.png" in (tmp_path / "a b.mtl").read_text().splitlines()
    # Without a texture there is one file, with the vertices' colours.
    mesh = tetrahedron()
    write_mesh(tmp_path / "plain.obj", mesh)
    assert not (tmp_path / "plain.mtl").exists()
    found = loaded(tmp_path / "plain.obj")
    np.testing.assert_array_equal(found.vertices.astype("f4"), upright(mesh.vertices_V3))
    np.testing.assert_array_equal(found.faces, mesh.faces_F3)
    np.testing.assert_array_equal(found.visual.vertex_colors[:, :3], mesh.colours_V3)
    np.testing.assert_allclose(found.vertex_normals, upright(mesh.normals_V3), atol=1e-6)
    bare = Mesh(mesh.vertices_V3, mesh.faces_F3)
    write_mesh(tmp_path / "bare.obj", bare)
    assert (tmp_path / "bare.obj").read_text().splitlines()[-1] == "f 3 4 1"


def test_an_obj_is_written_last(tmp_path, monkeypatch):
    """When its texture cannot be, the old one stays."""
    (tmp_path / "mesh.obj").write_text("old")
    (tmp_path / "mesh.mtl").mkdir()
    with pytest.raises(OSError):
        write_mesh(tmp_path / "mesh.obj", TEXTURED)
    assert (tmp_path / "mesh.obj").read_text() == "old"
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(InputError, match=r"need the package pillow, extra jaxgen\[experiments\]"):
        write_mesh(tmp_path / "other.obj", TEXTURED)
    assert not (tmp_path / "other.png").exists()


def test_the_largest_piece():
    one, two = tetrahedron(), tetrahedron(5)
    extra = Mesh(
        np.asarray([[5, 5, 9]], np.float32),
        np.asarray([[4, 5, 8]], np.int32),
        np.asarray([[0, 0, 1]], np.float32),
        np.asarray([[9, 8, 7]], np.uint8),
    )
    lone = np.full((1, 3), 99)
    both = joined(one, two, extra)
    faces = np.concatenate([both.faces_F3[:-1], extra.faces_F3])  # 5 faces hang together with 4..8
    both = Mesh(
        np.concatenate([both.vertices_V3, lone.astype(np.float32)]),
        faces.astype(np.int32),
        np.concatenate([both.normals_V3, lone.astype(np.float32)]),
        np.concatenate([both.colours_V3, lone.astype(np.uint8)]),
    )
    found = largest_component(both)
    np.testing.assert_array_equal(found.vertices_V3, both.vertices_V3[4:9])
    np.testing.assert_array_equal(found.faces_F3, both.faces_F3[4:] - 4)
    np.testing.assert_array_equal(found.colours_V3, both.colours_V3[4:9])
    np.testing.assert_array_equal(found.normals_V3, both.normals_V3[4:9])
    # Of pieces of one size it is that of the first face; a mesh of one piece stays as it is.
    first = largest_component(joined(two, one))
    for mesh in (first, largest_component(two)):
        np.testing.assert_array_equal(mesh.vertices_V3, two.vertices_V3)
        np.testing.assert_array_equal(mesh.faces_F3, two.faces_F3)
    bare = largest_component(dataclasses.replace(two, normals_V3=None, colours_V3=None))
    assert bare.normals_V3 is None
    assert bare.colours_V3 is None


GOOD = tetrahedron()
SPOILT = GOOD.vertices_V3.copy()
SPOILT[2, 1] = np.nan


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"faces_F3": np.zeros((0, 3), np.int32)}, "has 4 vertices and 0 faces, expected one"),
        ({"vertices_V3": np.zeros((0, 3), np.float32)}, "has 0 vertices and 4 faces"),
        ({"faces_F3": GOOD.faces_F3 + 1}, r"vertices 1 to 4, expected them in \[0, 4\)"),
        ({"faces_F3": GOOD.faces_F3 - 1}, "vertices -1 to 2"),
        ({"faces_F3": GOOD.faces_F3.astype(np.int64)}, "faces are int64 .* expected int32"),
        ({"faces_F3": GOOD.faces_F3[:, :2]}, r"faces are int32 \[4, 2\]"),
        ({"vertices_V3": SPOILT}, r"vertices: number 2 is \[.*nan.*\], expected finite numbers"),
        ({"vertices_V3": GOOD.vertices_V3.astype(np.float64)}, "vertices are float64"),
        ({"normals_V3": SPOILT}, "normals: number 2"),
        ({"colours_V3": GOOD.colours_V3[:3]}, r"colours are uint8 \[3, 3\], expected .*\[4, 3\]"),
        ({"colours_V3": GOOD.colours_V3 / 255}, "colours are float64"),
    ],
    ids=range(11),
)
def test_meshes_that_are_not_written(change, fault, tmp_path):
    mesh = dataclasses.replace(GOOD, **change)
    for name in ("old.ply", "old.glb"):
        (tmp_path / name).write_text("old")
        with pytest.raises(InputError, match=fault) as caught:
            write_mesh(tmp_path / name, mesh)
        assert name in str(caught.value)
        assert (tmp_path / name).read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 2


def test_suffixes_that_are_unknown(tmp_path):
    for name in ("mesh.stl", "mesh", "ply", ".obj"):
        with pytest.raises(InputError, match=r"suffix is unknown, expected .ply, .obj, .glb"):
            write_mesh(tmp_path / name, GOOD)
    assert not list(tmp_path.iterdir())


def test_without_trimesh(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "trimesh", None)
    with pytest.raises(InputError, match=r"need the package trimesh, extra jaxgen\[experiments\]"):
        write_mesh(tmp_path / "mesh.ply", GOOD)
    assert not list(tmp_path.iterdir())
