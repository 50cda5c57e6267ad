"""Files of tensors: against the reference implementation, and what a bad file is told."""

import json
import zipfile

import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.errors import InputError
from jaxgen.interop.safetensors import DTYPES, TensorFile, read_safetensors, write_safetensors


def some_tensors(seed=0):
    """One tensor of every type that the format has, and the shapes that are easily got wrong."""
    rng = np.random.default_rng(seed)
    tensors = {
        name.lower(): rng.integers(0, 2, (3, 5)).astype(dtype) for name, dtype in DTYPES.items()
    }
    for name in ("f64", "f32", "f16", "bf16"):
        tensors[name] = rng.normal(size=(3, 5)).astype(tensors[name].dtype)
    return tensors | {
        "scalar": np.full((), 1.5, np.float32),
        "nothing": np.zeros((0, 7), np.int64),
        "späte Namen": np.arange(6, dtype=np.int16).reshape(1, 2, 3),
    }


def assert_equal(found, expected):
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert found[name].dtype == value.dtype, name
        assert found[name].shape == value.shape, name
        assert found[name].tobytes() == value.tobytes(), name


def test_what_is_written_is_read_bit_by_bit(tmp_path):
    tensors = some_tensors()
    assert write_safetensors(tmp_path / "m.safetensors", tensors, {"format": "pt"}) == [
        tmp_path / "m.safetensors"
    ]
    assert_equal(read_safetensors(tmp_path / "m.safetensors"), tensors)
    assert TensorFile(tmp_path / "m.safetensors").metadata == {"format": "pt"}
    assert [file.name for file in tmp_path.iterdir()] == ["m.safetensors"]


def reference_types(tensors):
    """Those whose types the reference implementation knows in numpy (BF16 in new versions only)."""
    return {name: value for name, value in tensors.items() if not name.startswith("f8")}


def test_files_of_the_reference_implementation(tmp_path):
    reference = pytest.importorskip("safetensors.numpy", reason="safetensors (extra test)")
    tensors = reference_types(some_tensors(1))
    reference.save_file(tensors, tmp_path / "theirs.safetensors", metadata={"a": "b"})
    assert_equal(read_safetensors(tmp_path / "theirs.safetensors"), tensors)
    write_safetensors(tmp_path / "ours.safetensors", tensors, {"a": "b"})
    assert_equal(reference.load_file(tmp_path / "ours.safetensors"), tensors)


def test_jax_arrays_views_and_the_other_byte_order_are_written_by_value(tmp_path):
    square = np.arange(12, dtype=np.float32).reshape(3, 4)
    given = {"jax": jnp.asarray(square), "view": square.T[::2], "big": square.astype(">f4")}
    write_safetensors(tmp_path / "m.safetensors", given)
    found = read_safetensors(tmp_path / "m.safetensors")
    np.testing.assert_array_equal(found["jax"], square)
    np.testing.assert_array_equal(found["view"], square.T[::2])
    np.testing.assert_array_equal(found["big"], square)


def test_tensors_are_aligned_to_their_elements(tmp_path):
    write_safetensors(tmp_path / "m.safetensors", some_tensors())
    for tensor in TensorFile(tmp_path / "m.safetensors").tensors.values():
        assert tensor.begin % tensor.dtype.itemsize == 0


def test_a_tensor_is_read_when_it_is_asked_for(tmp_path):
    path = tmp_path / "m.safetensors"
    write_safetensors(path, {"a": np.zeros(1000, np.float32), "b": np.ones(2, np.float32)})
    file = TensorFile(path)
    assert file.tensors["a"].shape == (1000,)
    whole = path.read_bytes()
    path.write_bytes(whole[:-8] + np.array([5, 6], "<f4").tobytes())
    np.testing.assert_array_equal(file["b"], [5, 6])
    path.write_bytes(whole[:-1])
    with pytest.raises(InputError, match="cut off in tensor 'b' since it was opened"):
        file["b"]
    with pytest.raises(InputError, match=r"m\.safetensors: no tensor 'c'"):
        file["c"]


@pytest.fixture
def shards(tmp_path):
    """A folder with a set of three shards (two of one tensor each, the last of two)."""
    sizes = {"a": 8, "b": 8, "c": 3, "d": 4}
    tensors = {name: np.full(size, size, np.float32) for name, size in sizes.items()}
    files = write_safetensors(tmp_path / "m.safetensors", tensors, max_bytes=32)
    return tmp_path, tensors, files


def test_shards(shards):
    folder, tensors, files = shards
    names = [f"m-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    assert [file.name for file in files] == ["m.safetensors.index.json", *names]
    assert {file.name for file in folder.iterdir()} == {file.name for file in files}
    assert_equal(read_safetensors(files[0]), tensors)
    assert_equal(read_safetensors(folder), tensors)
    index = json.loads(files[0].read_text())
    assert index["metadata"] == {"total_size": 4 * 23}
    assert index["weight_map"] == {"a": names[0], "b": names[1], "c": names[2], "d": names[2]}


def test_a_tensor_larger_than_a_shard_gets_one_of_its_own(tmp_path):
    tensors = {name: np.zeros(9, np.float32) for name in "ab"}
    files = write_safetensors(tmp_path / "m.safetensors", tensors, max_bytes=4)
    assert [list(read_safetensors(file)) for file in files[1:]] == [["a"], ["b"]]


def test_shards_that_do_not_fit_their_index(shards):
    folder, tensors, (index, _, second, _) = shards
    kept = second.read_bytes()
    second.unlink()
    with pytest.raises(InputError, match=r"names the shard m-00002-of-00003.*, which is missing"):
        TensorFile(index)
    write_safetensors(second, {"z": tensors["b"]})
    with pytest.raises(InputError, match=r"m-00002-of-00003.safetensors: has no tensor 'b'"):
        TensorFile(index)
    write_safetensors(second, {"b": tensors["b"], "z": tensors["b"]})
    with pytest.raises(InputError, match=r"has a tensor 'z' that m\.safetensors\.index"):
        TensorFile(index)
    write_safetensors(second, {"b": tensors["b"], "a": tensors["a"]})
    with pytest.raises(InputError, match=r"m-00002.*: tensor 'a' is also in m-00001"):
        TensorFile(index)
    second.write_bytes(kept[:-1])
    with pytest.raises(InputError, match=r"m-00002-of-00003.safetensors: truncated"):
        TensorFile(index)
    second.write_bytes(kept)
    assert len(TensorFile(index)) == 4
    (folder / "other.safetensors.index.json").write_text("{}")
    with pytest.raises(InputError, match="expected one safetensors file or index in it"):
        TensorFile(folder)


@pytest.mark.parametrize(
    "text",
    [
        "no json",
        "[]",
        "{}",
        '{"weight_map": []}',
        '{"weight_map": {"a": "../m.safetensors"}}',
        '{"weight_map": {"a": 3}}',
        '{"weight_map": {"a": "x", "a": "y"}}',
    ],
)
def test_an_index_that_is_none(tmp_path, text):
    (tmp_path / "m.safetensors.index.json").write_text(text)
    with pytest.raises(InputError, match=r"m.safetensors.index.json is no index of shards"):
        TensorFile(tmp_path)


def file_of(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def line(begin, end, shape=(2,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "not a safetensors file"),
        (b"\x10\0\0", "not a safetensors file"),
        (b"PK\x03\x04 a zip file, as torch.save writes it", "not a safetensors file"),
        (b"\x80\x02}q\x00(X\x06\x00\x00\x00weight", "not a safetensors file"),
        (b"\x89HDF\r\n\x1a\n" + bytes(90), "not a safetensors file"),
        (b"\xff" * 7 + b"\x7f{}", "not a safetensors file"),
        (file_of({"a": line(0, 8)}, bytes(8))[:20], "truncated in its header: 20 bytes of"),
        (file_of({"a": line(0, 8)}, bytes(7)), "truncated: .* tensor 'a' ends at byte"),
        (file_of({"a": line(0, 8)}, bytes(9)), "1 bytes after its last tensor"),
        (file_of({"a": line(4, 12)}, bytes(12)), "tensor 'a' begins at byte .*, expected"),
        (file_of({"a": line(0, 8), "b": line(4, 12)}, bytes(12)), "tensor 'b' begins at byte"),
        (file_of({"a": line(0, 4)}, bytes(4)), r"'a': 4 bytes for F32 of shape \(2,\), expected 8"),
        (file_of({"a": line(0, 8, (-2,))}, bytes(8)), "'a': shape .* expected counts"),
        (file_of({"a": line(0, 8, (2.0,))}, bytes(8)), "'a': shape .* expected counts"),
        (file_of({"a": line(0, 8, dtype="F31")}, bytes(8)), "'a': unknown dtype 'F31'"),
        (
            file_of({"a": {"dtype": "F32"}}),
            "'a' lacks a field, expected dtype, shape and two data_offsets",
        ),
        (file_of({"a": 3}), "'a' lacks a field, expected dtype, shape and two data_offsets"),
        (file_of({"__metadata__": 3}), "__metadata__ is 3, expected texts"),
        (file_of(b'{"a": '), "its header is no JSON object"),
        (file_of(b'{"\xff": 1}'), "its header is no JSON object"),
        (file_of(b'{"a": 1, "a": 2}'), "its header is no JSON object .*'a' occurs twice"),
        (file_of(b'{"a":' + b"[" * 99999), "its header is no JSON object"),
    ],
)
def test_a_bad_file_is_named_with_its_fault(tmp_path, content, fault):
    (tmp_path / "m.safetensors").write_bytes(content)
    with pytest.raises(InputError, match=fault) as error:
        read_safetensors(tmp_path / "m.safetensors")
    assert str(error.value).startswith(str(tmp_path / "m.safetensors"))
    assert "\n" not in str(error.value)


def test_every_truncation_is_noticed(tmp_path):
    path = tmp_path / "m.safetensors"
    write_safetensors(path, {"a": np.ones((2, 3), np.float32), "b": np.ones(1, np.int8)})
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(InputError, match=r"truncated|not a safetensors file"):
            TensorFile(path)


def test_other_formats_and_missing_files(tmp_path):
    with zipfile.ZipFile(tmp_path / "m.safetensors", "w") as archive:
        archive.writestr("data.pkl", b"x" * 99)
    with pytest.raises(InputError, match=r"not a safetensors file \(it begins with b'PK"):
        read_safetensors(tmp_path / "m.safetensors")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_safetensors(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty holds no weights, expected one safetensors file"):
        read_safetensors(tmp_path / "empty")


class Unreadable:
    """An array whose values cannot be had: writing fails half-way."""

    dtype, shape, nbytes = np.dtype(np.float32), (8,), 32

    def __array__(self, *args, **kwargs):
        raise OSError("no values")


@pytest.mark.parametrize("max_bytes", [None, 32])
def test_nothing_is_half_written(tmp_path, max_bytes):
    path = tmp_path / "m.safetensors"
    write_safetensors(path, {"a": np.ones(8, np.float32)})
    with pytest.raises(OSError, match="no values"):
        write_safetensors(path, {"a": np.zeros(8, np.float32), "z": Unreadable()}, None, max_bytes)
    assert [file.name for file in tmp_path.iterdir()] == ["m.safetensors"]
    np.testing.assert_array_equal(read_safetensors(path)["a"], np.ones(8))


@pytest.mark.parametrize(
    ("name", "tensors", "options", "fault"),
    [
        ("m.bin", {}, {}, "m.bin, expected one that ends in .safetensors"),
        ("m.safetensors", {"a": [1.0]}, {}, "tensor 'a' is list, expected an array"),
        ("m.safetensors", {"a": np.array(["x"])}, {}, "tensor 'a' is of type <U1, expected"),
        ("m.safetensors", {"a": np.zeros(1, complex)}, {}, "tensor 'a' is of type complex128"),
        ("m.safetensors", {"__metadata__": np.zeros(1)}, {}, "the format keeps for itself"),
        ("m.safetensors", {}, {"metadata": {"step": 3}}, "metadata is .*, expected texts"),
        ("m.safetensors", {}, {"max_bytes": 0}, "max_bytes is 0, expected 1 or more"),
    ],
)
def test_what_cannot_be_written(tmp_path, name, tensors, options, fault):
    with pytest.raises(InputError, match=fault):
        write_safetensors(tmp_path / name, tensors, **options)
    assert not list(tmp_path.iterdir())
