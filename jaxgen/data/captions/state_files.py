"""States of texts, computed once and read in training: the encoder is then not in memory.

A folder holds a row for each text, in files in the array_record format, and ``states.json``, which
is written last: a folder without it is not finished, and `write_states` resumes it with the
files that are missing. A row is the bytes of the states [L, D], of the mask [L] and of the pooled
vector [P], numbers as they are (float16 and bfloat16 too)::

    states = write_states(folder, encode, tokens.ids, tokens.mask, digest)     or, later,
    states = open_states(folder, digest)
    batch = states.rows(batch["caption"])

The digest says of which encoder and texts the rows are; those of others are refused. Needs the
package array_record, which the extra ``jaxgen[data]`` installs. Folders are local.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Int, Integer, Shaped

from jaxgen.errors import InputError
from jaxgen.files import Path, replacing

INDEX_FILE = "states.json"
DTYPES = ("float32", "float16", "bfloat16")
"""Types of the numbers that are kept."""
FILE_ROWS = 1024
"""Rows of a file: what an interruption may lose."""


class StoredStates(NamedTuple):
    """Rows as they were stored.

    Attributes:
      states_BLD: a vector for each token.
      mask_BL: True where a token is no padding.
      pooled_BD: one vector for each text.
    """

    states_BLD: Shaped[np.ndarray, "B L D"]
    mask_BL: Bool[np.ndarray, "B L"]
    pooled_BD: Shaped[np.ndarray, "B P"]


@dataclasses.dataclass(frozen=True)
class StateFiles:
    """A finished folder; of it only the rows that are asked for are in memory.

    Attributes:
      folder: where it is.
      digest: of encoder and texts.
      count: rows.
      length: L.
      width: D.
      pooled_width: P.
      dtype: of the numbers.
      file_rows: rows of each file but the last.
    """

    folder: pathlib.Path
    digest: str
    count: int
    length: int
    width: int
    pooled_width: int
    dtype: str
    file_rows: int = FILE_ROWS

    def __post_init__(self) -> None:
        files = self.files
        missing = [file.name for file in files if not file.is_file()]
        if missing:
            raise InputError(f"{self.folder}: no {missing[0]}, expected {len(files)} files of rows")
        reader = _open_rows(files)
        if len(reader) != self.count:
            raise InputError(f"{self.folder}: {len(reader)} rows, expected {self.count}")
        object.__setattr__(self, "_reader", reader)
        self._check_first_row()

    @property
    def files(self) -> list[pathlib.Path]:
        """The files of rows."""
        return [
            self.folder / _file_name(self.digest, self.dtype, start)
            for start in range(0, self.count, self.file_rows)
        ]

    def rows(self, index_B: Integer[np.ndarray, "B"]) -> StoredStates:
        """Some rows.

        Args:
          index_B: their numbers.

        Raises:
          InputError: for a number that there is not.
        """
        index_B = np.asarray(index_B)
        if len(index_B) and not 0 <= index_B.min() <= index_B.max() < self.count:
            raise InputError(
                f"rows {index_B.min()} to {index_B.max()} of {self.folder}, expected 0 to "
                f"{self.count - 1}"
            )
        distinct, place_B = np.unique(index_B.astype(np.int64), return_inverse=True)
        content = b"".join(self._read(distinct.tolist()))
        dtype = jnp.dtype(self.dtype)
        bytes_KN = np.frombuffer(content, np.uint8).reshape(len(distinct), self._row_bytes)
        stop = self.length * self.width * dtype.itemsize
        parts = np.split(bytes_KN, [stop, stop + self.length], axis=1)
        states, pooled = (np.ascontiguousarray(part).view(dtype) for part in (parts[0], parts[2]))
        states_KLD = states.reshape(-1, self.length, self.width)
        return StoredStates(states_KLD[place_B], parts[1][place_B].astype(bool), pooled[place_B])

    @property
    def _row_bytes(self) -> int:
        numbers = self.length * self.width + self.pooled_width
        return numbers * jnp.dtype(self.dtype).itemsize + self.length

    def _read(self, numbers: list[int]) -> list[bytes]:
        """The bytes of rows."""
        if not numbers:  # which the package refuses
            return []
        try:
            return list(self._reader.__getitems__(numbers))  # type: ignore[attr-defined]
        except RuntimeError:
            for number in numbers:
                file = self.files[number // self.file_rows]
                with _naming(file):
                    self._reader.__getitems__([number])  # type: ignore[attr-defined]
            raise

    def _check_first_row(self) -> None:
        """Raises InputError where rows are not as long as the fields say."""
        found = len(self._read([0])[0])
        if found != self._row_bytes:
            raise InputError(
                f"{self.folder}: rows have {found} bytes, expected {self._row_bytes} for length "
                f"{self.length}, width {self.width}, pooled_width {self.pooled_width} and dtype "
                f"{self.dtype} of {INDEX_FILE}"
            )


def write_states(
    folder: Path,
    encode: Callable[..., Any],
    ids_NL: Int[np.ndarray, "N L"],
    mask_NL: Bool[np.ndarray, "N L"],
    digest: str,
    *,
    dtype: str = "float32",
    batch_size: int = 64,
    file_rows: int = FILE_ROWS,
    advance: Callable[[int], Any] = lambda rows: None,
) -> StateFiles:
    """Computes the states of texts, or resumes where a folder holds a part of them.

    Args:
      folder: made if it does not exist.
      encode: ``(ids, mask) -> states, mask, pooled`` of an encoder (`jaxgen.encoders`).
      ids_NL: ids of the texts.
      mask_NL: True where a token is.
      digest: of encoder and texts.
      dtype: of the numbers that are kept: "float32", "float16" or "bfloat16".
      batch_size: texts at a time, always so many, so that nothing is compiled again.
      file_rows: rows of a file.
      advance: is called with the rows of each file that is there, for a bar.

    Raises:
      InputError: where the folder has finished states of another encoder or other texts; for no
        texts, a mask or states of another shape than the ids; for another dtype, numbers that it
        does not hold, or a package that is missing.
    """
    _check_texts(np.shape(ids_NL), np.shape(mask_NL), dtype)
    root = pathlib.Path(folder)
    root.mkdir(parents=True, exist_ok=True)
    if (root / INDEX_FILE).is_file():
        found = open_states(root, digest)
        if found.dtype != dtype:
            raise InputError(f"{root}: states are {found.dtype}, expected {dtype}")
        return found
    shape = None
    for start in range(0, len(ids_NL), file_rows):
        target, count = root / _file_name(digest, dtype, start), min(len(ids_NL) - start, file_rows)
        written = target.is_file() and len(_open_rows([target])) == count
        if not written or shape is None:
            # The first rows of a file that is there are computed again, for their shape.
            stop = start + (1 if written else count)
            rows = _encoded_rows(encode, ids_NL[start:stop], mask_NL[start:stop], batch_size, dtype)
            shape = (*rows[0].shape[1:], rows[2].shape[1])
            if not written:
                _write_file(target, rows)
        advance(count)
    length, width, pooled_width = shape or (0, 0, 0)
    fields = {
        **{"digest": digest, "count": len(ids_NL), "length": length, "width": width},
        **{"pooled_width": pooled_width, "dtype": dtype, "file_rows": file_rows},
    }
    with replacing(root / INDEX_FILE) as handle:
        handle.write(json.dumps(fields, indent=2).encode() + b"\n")
    return open_states(root, digest)


def open_states(folder: Path, digest: str) -> StateFiles:
    """The states of a finished folder.

    Args:
      folder: the folder.
      digest: of the encoder and the texts that they have to be of.

    Raises:
      FileNotFoundError: for a folder that does not exist.
      InputError: for states that are not finished, or of another encoder or other texts; for a
        file that is missing or damaged, which is named.
    """
    root = pathlib.Path(folder)
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder")
    path = root / INDEX_FILE
    if not path.is_file():
        raise InputError(f"{root}: no {INDEX_FILE} in it, expected finished states")
    fields = _read_fields(path)
    if fields["digest"] != digest:
        raise InputError(
            f"{root}: states of another encoder or of other captions (digest {fields['digest']}, "
            f"expected {digest}), expected another folder, or this one removed"
        )
    return StateFiles(root, **fields)


def _check_texts(ids: tuple[int, ...], mask: tuple[int, ...], dtype: str) -> None:
    """Refuses what cannot be texts with their mask, and other types."""
    if dtype not in DTYPES:
        raise InputError(f"dtype is {dtype!r}, expected one of {', '.join(DTYPES)}")
    if len(ids) != 2 or not ids[0]:
        raise InputError(f"ids have shape {ids}, expected [N, L] of one text or more")
    if mask != ids:
        raise InputError(f"mask has shape {mask}, expected {ids}, that of the ids")


def _read_fields(path: pathlib.Path) -> dict[str, Any]:
    """The fields of a finished folder."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: damaged, expected JSON ({error})") from error
    found = found if isinstance(found, dict) else {}
    for field in dataclasses.fields(StateFiles)[1:]:
        value = found.get(field.name)
        least = 1 if field.name in ("count", "file_rows") else 0
        if field.name == "dtype":
            right, expected = value in DTYPES, f"one of {', '.join(DTYPES)}"
        elif field.name == "digest":
            right, expected = isinstance(value, str), "a text"
        else:
            right, expected = type(value) is int and value >= least, f"a number from {least}"
        if not right:
            raise InputError(f"{path}: {field.name} is {value!r}, expected {expected}")
    return {field.name: found[field.name] for field in dataclasses.fields(StateFiles)[1:]}


@contextlib.contextmanager
def _naming(file: pathlib.Path) -> Iterator[None]:
    """Says which file of rows the package cannot read."""
    try:
        yield
    except RuntimeError as error:
        raise InputError(
            f"{file}: damaged, expected rows of states ({error}); without it and {INDEX_FILE},"
            " write_states makes it again"
        ) from error


def _open_rows(files: Sequence[pathlib.Path]) -> Any:
    source = _array_record().ArrayRecordDataSource
    try:
        return source([str(file) for file in files])
    except RuntimeError:
        for file in files:
            with _naming(file):
                source([str(file)])
        raise


def _encoded_rows(
    encode: Callable[..., Any], ids_NL: Any, mask_NL: Any, batch_size: int, dtype: str
) -> StoredStates:
    """States of texts, in batches of one size, in the type that is kept."""
    found = []
    for start in range(0, len(ids_NL), batch_size):
        # The last batch repeats its last text.
        index_B = np.minimum(np.arange(start, start + batch_size), len(ids_NL) - 1)
        states, _, pooled = (np.asarray(part) for part in encode(ids_NL[index_B], mask_NL[index_B]))
        if states.shape[:2] != ids_NL[index_B].shape:
            raise InputError(
                f"states have shape {states.shape}, expected a vector for each of the ids"
                f" {ids_NL[index_B].shape}"
            )
        stop = len(ids_NL) - start
        with np.errstate(over="ignore"):  # of float16, which is refused
            kept = tuple(part[:stop].astype(jnp.dtype(dtype)) for part in (states, pooled))
        if not all(np.isfinite(part.astype(np.float32)).all() for part in kept):
            raise InputError(
                f"states are up to {np.abs(states).max():.4g}, expected finite {dtype}; bfloat16 "
                "has the range of float32"
            )
        found.append(kept)
    states_NLD, pooled_ND = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return StoredStates(states_NLD, np.asarray(mask_NL, bool), pooled_ND)


def _write_file(target: pathlib.Path, rows: StoredStates) -> None:
    """A file of rows, whole or not at all."""
    temporary = target.with_name(f".{target.name}.tmp")
    writer = _array_record().ArrayRecordWriter(str(temporary), "group_size:1")
    for row in zip(*rows, strict=True):
        writer.write(b"".join(np.ascontiguousarray(part).tobytes() for part in row))
    writer.close()
    os.replace(temporary, target)


def _file_name(digest: str, dtype: str, start: int) -> str:
    return f"{digest}-{dtype}-{start:08d}.array_record"


class _ArrayRecord(NamedTuple):
    ArrayRecordWriter: Any
    ArrayRecordDataSource: Any


def _array_record() -> _ArrayRecord:
    try:
        from array_record.python.array_record_data_source import ArrayRecordDataSource
        from array_record.python.array_record_module import ArrayRecordWriter
    except ImportError as error:
        raise InputError(
            "states in files need the package array_record, which the extra jaxgen[data] installs "
            f"({error})"
        ) from error
    return _ArrayRecord(ArrayRecordWriter, ArrayRecordDataSource)
