"""Files of named tensors in the safetensors format, whole, lazily, or in shards; without torch.

A file is, in this order (https://github.com/huggingface/safetensors, "Format")::

    8 bytes    length n of the header, unsigned, little-endian
    n bytes    JSON: {"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [begin, end]}, ...},
               optionally "__metadata__": {text: text}
    the rest   the tensors, row-major and little-endian, without holes; offsets count from here

A sharded set is several such files and a ``*.safetensors.index.json`` whose ``weight_map`` says
which file holds which tensor. A reader that is our own keeps the library free of a dependency,
tells a truncated file from one of another format, and names the tensor at fault.
"""

import contextlib
import functools
import json
import math
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxgen.errors import InputError
from jaxgen.files import replacing
from jaxgen.interop.foreign_files import PICKLE, describe_foreign, pickles_in
from jaxgen.interop.model_configs import read_model_config
from jaxgen.text_rules import unique_names

Path = str | os.PathLike[str]

INDEX = ".safetensors.index.json"
"""What the name of a sharded set's index ends with."""

METADATA = "__metadata__"
LARGEST_HEADER = 100_000_000
"""Bytes; the format's own limit."""

DTYPES: Mapping[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    **{f"{kind.upper()}{8 * n}": np.dtype(f"{kind}{n}") for kind in "iu" for n in (1, 2, 4, 8)},
    **{f"F{8 * n}": np.dtype(f"f{n}") for n in (2, 4, 8)},
    "C64": np.dtype(np.complex64),
    "BF16": np.dtype(jnp.bfloat16),
    "F8_E4M3": np.dtype(jnp.float8_e4m3fn),
    "F8_E5M2": np.dtype(jnp.float8_e5m2),
}
"""The format's names of element types."""

DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


class Tensor(NamedTuple):
    """Where a tensor lies: its type and shape, and the bytes ``[begin, end)`` of its file."""

    file: pathlib.Path
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    begin: int
    end: int


class TensorFile(Mapping[str, np.ndarray]):
    """The tensors of a file or of a sharded set, by name; each is read when it is asked for.

    Only headers are read (and checked, all of them) when this is made. No file is kept open.

    Attributes:
      path: What it was made from: the file, or the index of a sharded set.
      tensors: Where each tensor lies, with its type and shape; in the files' order.
      metadata: The texts that the files carry; of shards, all of them together.
    """

    def __init__(self, path: Path) -> None:
        """Reads and checks the headers.

        Args:
          path: A ``.safetensors`` file, the ``.safetensors.index.json`` of a sharded set, or a
            folder that holds one of the two.

        Raises:
          FileNotFoundError: If there is no such file.
          InputError: If a file is truncated or is no safetensors file, if its header is wrong,
            if a shard or a tensor of the index is missing, or if a tensor occurs twice. The
            message names the file, and the tensor where it is about one; of PyTorch's pickles
            and other foreign files it says what they are.
        """
        self.path = _file_in(pathlib.Path(path))
        self.tensors: dict[str, Tensor] = {}
        self.metadata: dict[str, str] = {}
        if self.path.name.endswith(".json"):
            for shard, names in _read_index(self.path).items():
                self._add_shard(shard, names)
        else:
            self.tensors, self.metadata = _read_header(self.path)

    @functools.cached_property
    def config(self) -> dict[str, Any] | None:
        """The fields of a ``config.json`` beside the file, as other programs leave it; or None.

        Raises:
          InputError: If it is no JSON object.
        """
        return read_model_config(self.path.parent)

    def _add_shard(self, file: pathlib.Path, names: set[str]) -> None:
        """Takes a shard's tensors, which must be those that the index says."""
        if not file.is_file():
            raise InputError(f"{self.path}: names the shard {file.name}, which is missing")
        tensors, metadata = _read_header(file)
        for name in names - tensors.keys():
            raise InputError(f"{file}: has no tensor {name!r}, expected by {self.path.name}")
        for name in tensors:
            if name in self.tensors:
                other = self.tensors[name].file.name
                raise InputError(f"{file}: tensor {name!r} is also in {other}, expected it once")
            if name not in names:
                raise InputError(f"{file}: has a tensor {name!r} that {self.path.name} has not")
        self.tensors |= tensors
        self.metadata |= metadata

    def __getitem__(self, name: str) -> np.ndarray:
        """Reads one tensor; BF16 and F8 come with the types of `ml_dtypes`."""
        if name not in self.tensors:
            raise InputError(f"{self.path}: no tensor {name!r}")
        tensor = self.tensors[name]
        with tensor.file.open("rb") as handle:
            handle.seek(tensor.begin)
            data = np.fromfile(handle, np.uint8, tensor.end - tensor.begin)
        if data.size != tensor.end - tensor.begin:
            raise InputError(f"{tensor.file}: cut off in tensor {name!r} since it was opened")
        return data.view(tensor.dtype.newbyteorder("<")).reshape(tensor.shape)

    def __contains__(self, name: object) -> bool:
        """Whether there is a tensor of that name; reads nothing."""
        return name in self.tensors

    def __iter__(self) -> Iterator[str]:
        """The names."""
        return iter(self.tensors)

    def __len__(self) -> int:
        """How many tensors there are."""
        return len(self.tensors)


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """All tensors of a file, of a sharded set, or of a folder that holds one of the two.

    Args:
      path: See `TensorFile`, which reads tensors one by one.

    Returns:
      Arrays by name; BF16 and F8 with the types of `ml_dtypes`.

    Raises:
      FileNotFoundError: If there is no such file.
      InputError: See `TensorFile`.
    """
    return dict(TensorFile(path))


def write_safetensors(
    path: Path,
    tensors: Mapping[str, Any],
    metadata: Mapping[str, str] | None = None,
    max_bytes: int | None = None,
) -> list[pathlib.Path]:
    """Writes named arrays, whole or not at all, in one file or in shards.

    Args:
      path: ``NAME.safetensors``; its folder must exist. Shards are called
        ``NAME-00001-of-00003.safetensors`` and their index ``NAME.safetensors.index.json``.
      tensors: Arrays (numpy or JAX) by name.
      metadata: Texts to go with them.
      max_bytes: The size above which the tensors of one file are cut into shards, in bytes; a
        larger tensor gets a shard of its own. None: one file.

    Returns:
      The files written; the index, if there is one, comes first.

    Raises:
      InputError: On a path that does not end in ``.safetensors``, an element type that the format
        has not, a name that it keeps for itself, or metadata that is not text.
    """
    target = pathlib.Path(path)
    if target.suffix != ".safetensors":
        raise InputError(f"the name is {target}, expected one that ends in .safetensors")
    if max_bytes is not None and max_bytes < 1:
        raise InputError(f"max_bytes is {max_bytes}, expected 1 or more")
    for name, value in tensors.items():
        _check_writable(target, name, value)
    texts = dict(metadata or {})
    if not all(isinstance(text, str) for pair in texts.items() for text in pair):
        raise InputError(f"{target}: metadata is {texts}, expected texts by text")
    # Wide elements first, as the reference implementation does: every tensor is then aligned.
    order = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    groups = _cut(tensors, order, max_bytes)
    if len(groups) == 1:
        with replacing(target) as handle:
            _write_file(handle, tensors, order, texts)
        return [target]
    return _write_shards(target, tensors, groups, texts)


def _file_in(path: pathlib.Path) -> pathlib.Path:
    """The path itself, or the one set of tensors that a folder holds."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    if not path.is_dir():
        return path
    found = sorted(path.glob(f"*{INDEX}")) or sorted(path.glob("*.safetensors"))
    if len(found) != 1:
        what = ", ".join(file.name for file in found) or "no weights"
        if not found and (pickles := pickles_in(path)):
            what = f"{', '.join(pickles)}, by the name {PICKLE}"
        raise InputError(f"{path} holds {what}, expected one safetensors file or index in it")
    return found[0]


def _read_index(path: pathlib.Path) -> dict[pathlib.Path, set[str]]:
    """The names that an index puts into each of its shards."""
    try:
        index = json.loads(path.read_text("utf-8"), object_pairs_hook=unique_names)
        weight_map = index["weight_map"]
        shards: dict[pathlib.Path, set[str]] = {}
        for name, file in weight_map.items():
            shards.setdefault(path.with_name(file), set()).add(name)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f"{path} is no index of shards ({error}), expected JSON with a weight_map from "
            "tensor to file name"
        ) from error
    return shards


def _read_header(path: pathlib.Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata that a file's header describes, checked against its size."""
    size = path.stat().st_size
    with path.open("rb") as handle:
        start = handle.read(9)
        length = int.from_bytes(start[:8], "little")
        if len(start) < 9 or start[8:] != b"{":
            foreign = describe_foreign(path, start)
            raise InputError(
                f"{path}: not a safetensors file (it begins with {start!r}"
                + (
                    f") but {foreign}"
                    if foreign
                    else ", expected the length of a header in 8 bytes and then a JSON object)"
                )
            )
        if length > LARGEST_HEADER:
            raise InputError(
                f"{path}: not a safetensors file (its header would have {length:,} bytes, expected "
                f"at most {LARGEST_HEADER:,}, the format's limit)"
            )
        if 8 + length > size:
            raise InputError(f"{path}: truncated in its header: {size} bytes of {8 + length}")
        handle.seek(8)
        text = handle.read(length)
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=unique_names)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: its header is no JSON object of tensors ({error})") from error
    metadata = header.pop(METADATA, {})
    if not isinstance(metadata, dict):
        raise InputError(f"{path}: {METADATA} is {metadata!r}, expected texts by text")
    for key, value in metadata.items():
        if not isinstance(value, str):
            raise InputError(f"{path}: {METADATA} has {key!r}: {value!r}, expected a text")
    tensors = {name: _entry(path, name, entry, 8 + length) for name, entry in header.items()}
    _check_cover(path, tensors, 8 + length, size)
    return tensors, metadata


def _entry(path: pathlib.Path, name: str, entry: Any, start: int) -> Tensor:
    """A tensor's line of the header, checked; `start` is where the data begin."""
    where = f"{path}: tensor {name!r}"
    try:
        kind, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
    except (TypeError, KeyError, ValueError) as error:
        raise InputError(
            f"{where} lacks a field, expected dtype, shape and two data_offsets"
        ) from error
    if kind not in DTYPES:
        raise InputError(f"{where}: unknown dtype {kind!r}, expected one of {', '.join(DTYPES)}")
    if not all(type(n) is int and n >= 0 for n in (*shape, begin, end)):
        raise InputError(f"{where}: shape {shape} and offsets {begin}, {end}, expected counts")
    expected = math.prod(shape) * DTYPES[kind].itemsize
    if end - begin != expected:
        raise InputError(
            f"{where}: {end - begin} bytes for {kind} of shape {shape}, expected {expected}"
        )
    return Tensor(path, DTYPES[kind], shape, start + begin, start + end)


def _check_cover(path: pathlib.Path, tensors: dict[str, Tensor], start: int, size: int) -> None:
    """Refuses data with holes or overlaps, and a file that is shorter or longer than its data."""
    position = start
    for name, tensor in sorted(tensors.items(), key=lambda item: item[1][3:]):
        if tensor.begin != position:
            raise InputError(
                f"{path}: tensor {name!r} begins at byte {tensor.begin}, expected {position}, "
                "where the tensor before it ends"
            )
        if tensor.end > size:
            raise InputError(
                f"{path}: truncated: {size} bytes, tensor {name!r} ends at byte {tensor.end}"
            )
        position = tensor.end
    if position != size:
        raise InputError(f"{path}: {size - position} bytes after its last tensor, expected none")


def _check_writable(path: pathlib.Path, name: str, value: Any) -> None:
    if name == METADATA:
        raise InputError(f"{path}: tensor {name!r} has the name that the format keeps for itself")
    dtype = getattr(value, "dtype", None)
    if dtype is None or np.dtype(dtype).newbyteorder("=") not in DTYPE_NAMES:
        what = type(value).__name__ if dtype is None else f"of type {dtype}"
        raise InputError(
            f"{path}: tensor {name!r} is {what}, expected an array of {', '.join(DTYPES)}"
        )


def _cut(
    tensors: Mapping[str, Any], order: Sequence[str], max_bytes: int | None
) -> list[list[str]]:
    """The names in groups whose tensors together have at most `max_bytes`."""
    groups: list[list[str]] = [[]]
    used = 0
    for name in order:
        size = tensors[name].nbytes
        if groups[-1] and max_bytes is not None and used + size > max_bytes:
            groups.append([])
            used = 0
        groups[-1].append(name)
        used += size
    return groups


def _write_shards(
    target: pathlib.Path,
    tensors: Mapping[str, Any],
    groups: list[list[str]],
    metadata: dict[str, str],
) -> list[pathlib.Path]:
    """Writes the shards and their index beside the target's name; all of them or none."""
    count = len(groups)
    names = [f"{target.stem}-{i + 1:05}-of-{count:05}.safetensors" for i in range(count)]
    weight_map = {name: file for file, group in zip(names, groups, strict=True) for name in group}
    total = sum(tensors[name].nbytes for name in weight_map)
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    index_file = target.with_name(target.stem + INDEX)
    # Files appear when the block ends, the last opened first: the index when all shards are there.
    with contextlib.ExitStack() as stack:
        stack.enter_context(replacing(index_file)).write(json.dumps(index, indent=2).encode())
        for file, group in zip(names, groups, strict=True):
            handle = stack.enter_context(replacing(target.with_name(file)))
            _write_file(handle, tensors, group, metadata)
    return [index_file, *(target.with_name(file) for file in names)]


def _write_file(
    handle: BinaryIO, tensors: Mapping[str, Any], order: Sequence[str], metadata: dict[str, str]
) -> None:
    """Writes one file's header and tensors."""
    header: dict[str, Any] = {METADATA: metadata} if metadata else {}
    position = 0
    for name in order:
        value = tensors[name]
        header[name] = {
            "dtype": DTYPE_NAMES[np.dtype(value.dtype).newbyteorder("=")],
            "shape": list(value.shape),
            "data_offsets": [position, position + value.nbytes],
        }
        position += value.nbytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % 8)
    if len(text) > LARGEST_HEADER:
        raise InputError(
            f"{handle.name}: names and metadata make a header of {len(text):,} bytes, expected at "
            f"most {LARGEST_HEADER:,}, the format's limit"
        )
    handle.write(len(text).to_bytes(8, "little") + text)
    for name in order:
        array = np.ascontiguousarray(np.asarray(tensors[name]))
        handle.write(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
