"""Files of Gaussians: the layout byte by byte, cycles, what others write, faults."""

import numpy as np
import pytest

from jaxgen.errors import InputError
from jaxgen.interop.splat_files import read_splats, splat_properties, write_splats


def splats_of(harmonics=16, count=5):
    rng = np.random.default_rng(0)
    shapes = {"means": (3,), "log_scales": (3,), "quaternions": (4,), "opacity_logits": ()}
    shapes["harmonics"] = harmonics, 3
    return {k: rng.normal(size=(count, *s)).astype(np.float32) for k, s in shapes.items()}


@pytest.mark.parametrize("harmonics", [1, 4, 9, 16])
def test_gaussians_come_back_bit_for_bit(harmonics, tmp_path):
    path, splats = tmp_path / "splats.ply", splats_of(harmonics)
    write_splats(path, splats)
    found = read_splats(path)
    assert set(found) == set(splats)
    for name, array in splats.items():
        assert found[name].dtype == np.float32
        np.testing.assert_array_equal(found[name], array)
    before = path.read_bytes()
    write_splats(path, found)
    assert path.read_bytes() == before


def test_the_layout_is_that_of_the_original(tmp_path):
    """62 numbers, with all harmonics of red before those of green."""
    path, splats = tmp_path / "splats.ply", splats_of()
    write_splats(path, splats)
    head, _, body = path.read_bytes().partition(b"end_header\n")
    lines = head.decode().splitlines()
    assert lines[:3] == ["ply", "format binary_little_endian 1.0", "element vertex 5"]
    names = [line.removeprefix("property float ") for line in lines[3:]]
    assert names[:10] == ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", "f_rest_0"]
    assert names[53:] == ["f_rest_44", "opacity", "scale_0", "scale_1", "scale_2", *names[58:]]
    assert names[58:] == ["rot_0", "rot_1", "rot_2", "rot_3"]
    numbers = dict(zip(names, np.frombuffer(body, "<f4").reshape(5, 62).T, strict=True))
    np.testing.assert_array_equal(numbers["f_dc_1"], splats["harmonics"][:, 0, 1])
    np.testing.assert_array_equal(numbers["f_rest_14"], splats["harmonics"][:, 15, 0])
    np.testing.assert_array_equal(numbers["f_rest_15"], splats["harmonics"][:, 1, 1])
    np.testing.assert_array_equal(numbers["rot_0"], splats["quaternions"][:, 0])
    np.testing.assert_array_equal(numbers["nx"], 0)


def test_other_orders_types_and_elements_are_read(tmp_path):
    """Properties backwards, as doubles, without normals, with more of them, lines of Windows."""
    splats, path = splats_of(1), tmp_path / "other.ply"
    write_splats(path, splats)
    body = path.read_bytes().partition(b"end_header\n")[2]
    numbers = np.frombuffer(body, "<f4").reshape(5, -1)
    kept = [n for n in reversed(splat_properties(1)) if n not in ("nx", "ny", "nz")]
    index = [splat_properties(1).index(name) for name in kept]
    records = np.zeros(5, [("label", "u1"), *((name, "<f8") for name in kept)])
    for name, i in zip(kept, index, strict=True):
        records[name] = numbers[:, i]
    header = ["ply", "comment as written elsewhere", "format binary_little_endian 1.0"]
    header = [header[0], header[2], header[1], "element vertex 5", "property uchar label"]
    header += [f"property double {name}" for name in kept]
    header += ["element face 1", "property list uchar int vertex_indices", "end_header\r\n"]
    path.write_bytes("\r\n".join(header).encode() + records.tobytes() + b"\x00")
    found = read_splats(path)
    for name, array in splats.items():
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda x: b"solid", "is no PLY file, expected 'ply'"),
        (lambda x: x.replace(b"little", b"big"), "format is 'format binary_big_endian 1.0', exp"),
        (
            lambda x: x.replace(b"vertex 5", b"face 5"),
            "first element is 'element face 5', expected",
        ),
        (lambda x: x[:-1], "ends after 339 bytes of Gaussians, expected 340 for 5 of them"),
        (
            lambda x: x.replace(b"rot_3", b"rot_x"),
            "properties rot_3 are missing, expected them all",
        ),
        (lambda x: x.replace(b"float rot_3", b"float rot_2"), "property rot_2 is there twice"),
        (lambda x: x.replace(b"float nx", b"float f_rest_0"), r"f_rest_\* are 1, expected 0, 9"),
        (lambda x: x.replace(b"float nx", b"list uchar int nx"), "property is 'property list"),
        (lambda x: x[:-4] + b"\xff" * 4, r"quaternions\[4\] is not finite"),
    ],
)
def test_faults_are_named(change, fault, tmp_path):
    path = tmp_path / "splats.ply"
    write_splats(path, splats_of(1))
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(InputError, match=fault):
        read_splats(path)


def test_what_is_not_written(tmp_path):
    splats = splats_of(4)
    for change, fault in (
        ({"means": splats["means"][:, :2]}, r"means has \[5, 2\], expected \[5, 3\]"),
        (
            {"harmonics": np.zeros((5, 5, 3))},
            r"harmonics has .*, expected \[5, 1, 4, 9 or 16, 3\]",
        ),
        ({"other": splats["means"]}, "arrays are .*, expected"),
        ({"log_scales": np.full((5, 3), np.inf)}, r"log_scales\[0\] is not finite"),
    ):
        with pytest.raises(InputError, match=fault):
            write_splats(tmp_path / "none.ply", {**splats, **change})
    assert not list(tmp_path.iterdir())
