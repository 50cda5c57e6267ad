"""Files of 3-D Gaussians: PLY in the layout of the original (Kerbl et al. 2023), as viewers open.

A text header, then one record of little-endian float32 for each Gaussian::

    x y z                   mean
    nx ny nz                not used, 0
    f_dc_0 .. f_dc_2        first harmonic of red, green, blue
    f_rest_0 ..             the other harmonics: all of red, then of green, then of blue
    opacity                 logit
    scale_0 .. scale_2      logarithms
    rot_0 .. rot_3          quaternion w, x, y, z, of any length

These are the parameters of `jaxgen.nerf.SplatConfig` in another order, bit for bit. The signs of
the harmonics are those of `jaxgen.nerf.spherical_harmonics`.
"""

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float32

from jaxgen.errors import InputError
from jaxgen.files import Path, as_path, replacing

TYPES = {
    **dict.fromkeys(("char", "int8"), "i1"),
    **dict.fromkeys(("uchar", "uint8"), "u1"),
    **dict.fromkeys(("short", "int16"), "<i2"),
    **dict.fromkeys(("ushort", "uint16"), "<u2"),
    **dict.fromkeys(("int", "int32"), "<i4"),
    **dict.fromkeys(("uint", "uint32"), "<u4"),
    **dict.fromkeys(("float", "float32"), "<f4"),
    **dict.fromkeys(("double", "float64"), "<f8"),
}
"""The format's names of types."""

HARMONICS = (1, 4, 9, 16)
"""How many a colour may have: degrees 0 to 3."""

FIELDS = {"means": (3,), "log_scales": (3,), "quaternions": (4,), "opacity_logits": ()}
"""Names of the arrays but the harmonics, and their shapes for one Gaussian."""

LONGEST_HEADER = 100_000
HEADER_END = b"end_header"

Splats = dict[str, Float32[np.ndarray, "G ..."]]
"""``means`` [G, 3], ``log_scales`` [G, 3], ``quaternions`` [G, 4], ``opacity_logits`` [G] and
``harmonics`` [G, K, 3]."""


def splat_properties(harmonics: int) -> list[str]:
    """Names of a record's numbers, in the order of the original."""
    return [
        *("x", "y", "z", "nx", "ny", "nz"),
        *(f"f_dc_{i}" for i in range(3)),
        *(f"f_rest_{i}" for i in range(3 * (harmonics - 1))),
        "opacity",
        *(f"scale_{i}" for i in range(3)),
        *(f"rot_{i}" for i in range(4)),
    ]


def write_splats(path: Path, splats: Mapping[str, Any]) -> None:
    """Writes Gaussians, whole or not at all; equal ones give equal files.

    Args:
      path: the file; its folder must exist.
      splats: see `Splats`; parameters of `jaxgen.nerf.SplatConfig`.

    Raises:
      InputError: for arrays of other shapes, or numbers that are not finite.
    """
    arrays = {name: np.asarray(value, np.float32) for name, value in splats.items()}
    _check(f"{path}", arrays)
    count, harmonics, _ = arrays["harmonics"].shape
    names = splat_properties(harmonics)
    rest = arrays["harmonics"][:, 1:].transpose(0, 2, 1).reshape(count, -1)
    columns = (
        *(arrays["means"], np.zeros((count, 3)), arrays["harmonics"][:, 0], rest),
        *(arrays["opacity_logits"][:, None], arrays["log_scales"], arrays["quaternions"]),
    )
    header = [
        *("ply", "format binary_little_endian 1.0", f"element vertex {count}"),
        *(f"property float {name}" for name in names),
    ]
    with replacing(path) as handle:
        handle.write("\n".join(header).encode() + b"\n" + HEADER_END + b"\n")
        handle.write(np.concatenate(columns, axis=1).astype("<f4").tobytes())


def _check(path: str, arrays: Mapping[str, np.ndarray]) -> None:
    expected = {*FIELDS, "harmonics"}
    if set(arrays) != expected:
        raise InputError(f"{path}: arrays are {sorted(arrays)}, expected {sorted(expected)}")
    count = len(arrays["means"])
    shapes = {name: [count, *shape] for name, shape in FIELDS.items()}
    found = arrays["harmonics"].shape
    if len(found) != 3 or found[0] != count or found[1] not in HARMONICS or found[2] != 3:
        raise InputError(
            f"{path}: harmonics has {list(found)}, expected [{count}, 1, 4, 9 or 16, 3]"
        )
    for name, shape in shapes.items():
        array = arrays[name]
        if list(array.shape) != shape:
            raise InputError(f"{path}: {name} has {list(array.shape)}, expected {shape}")
    for name, array in arrays.items():
        finite_G = np.isfinite(array.reshape(count, -1)).all(axis=1)
        if not finite_G.all():
            raise InputError(f"{path}: {name}[{finite_G.argmin()}] is not finite, expected numbers")


def read_splats(path: Path) -> Splats:
    """The Gaussians of a PLY file, in float32.

    Properties may be in any order, of any type and more than are needed; elements after the
    Gaussians are passed over.

    Raises:
      InputError: for a file of another format, one in text or big-endian, missing properties, a
        number of harmonics that is none of 1, 4, 9 and 16, a truncated file, or numbers that are
        not finite.
    """
    with as_path(path).open("rb") as handle:
        head = handle.read(LONGEST_HEADER)
        end = head.find(HEADER_END)
        start = head.find(b"\n", end) + 1
        if not head.startswith(b"ply") or end < 0 or not start:
            raise InputError(f"{path} is no PLY file, expected 'ply' and a header up to end_header")
        count, dtype = _record(f"{path}", head[:end].decode("latin-1"))
        handle.seek(start)
        content = handle.read(count * dtype.itemsize)
    if len(content) < count * dtype.itemsize:
        raise InputError(
            f"{path} ends after {len(content):,} bytes of Gaussians, expected "
            f"{count * dtype.itemsize:,} for {count:,} of them"
        )
    splats = _arrays(f"{path}", np.frombuffer(content, dtype, count))
    _check(f"{path}", splats)
    return splats


def _record(path: str, header: str) -> tuple[int, np.dtype[Any]]:
    """How many Gaussians there are, and the type of one."""
    lines = [line.split() for line in header.splitlines()[1:] if line.strip()]
    lines = [line for line in lines if line[0] not in ("comment", "obj_info")]
    if not lines or lines[0][:2] != ["format", "binary_little_endian"]:
        found = " ".join(lines[0]) if lines else "missing"
        raise InputError(f"{path}: format is {found!r}, expected binary_little_endian")
    if len(lines) < 2 or lines[1][:2] != ["element", "vertex"] or not lines[1][-1].isdecimal():
        found = " ".join(lines[1]) if len(lines) > 1 else "missing"
        raise InputError(f"{path}: first element is {found!r}, expected 'element vertex COUNT'")
    own = itertools.takewhile(lambda line: line[0] == "property", lines[2:])
    fields = []
    for line in own:
        if len(line) != 3 or line[1] not in TYPES:
            raise InputError(f"{path}: property is {' '.join(line)!r}, expected 'property float X'")
        fields.append((line[2], TYPES[line[1]]))
    names = [name for name, _ in fields]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise InputError(f"{path}: property {repeated[0]} is there twice, expected it once")
    return int(lines[1][-1]), np.dtype(fields)


def _arrays(path: str, records: np.ndarray) -> Splats:
    names = records.dtype.names or ()
    rest = sum(name.startswith("f_rest_") for name in names)
    if rest % 3 or rest // 3 + 1 not in HARMONICS:
        raise InputError(f"{path}: properties f_rest_* are {rest}, expected 0, 9, 24 or 45")
    needed = splat_properties(rest // 3 + 1)
    missing = [n for n in needed if n not in names and n not in ("nx", "ny", "nz")]
    if missing:
        raise InputError(f"{path}: properties {', '.join(missing)} are missing, expected them all")

    def columns(*wanted: str) -> Float32[np.ndarray, "G K"]:
        return np.stack([records[name].astype(np.float32) for name in wanted], axis=1)

    first = columns(*(f"f_dc_{i}" for i in range(3)))[:, None]
    harmonics = first
    if rest:
        others = columns(*(f"f_rest_{i}" for i in range(rest)))
        others = others.reshape(len(records), 3, -1).transpose(0, 2, 1)
        harmonics = np.concatenate([first, others], axis=1)
    return {
        "means": columns("x", "y", "z"),
        "log_scales": columns(*(f"scale_{i}" for i in range(3))),
        "quaternions": columns(*(f"rot_{i}" for i in range(4))),
        "opacity_logits": columns("opacity")[:, 0],
        "harmonics": np.ascontiguousarray(harmonics),
    }
