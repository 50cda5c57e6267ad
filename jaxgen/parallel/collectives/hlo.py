"""Reading the text of a compiled program (HLO): instructions, shapes, who talks to whom.

XLA prints a module as named computations, one instruction per line::

    %sum = f32[4,8]{1,0} all-reduce(%x), channel_id=1, replica_groups={{0,1},{2,3}}, to_apply=%add

`parse_module` reads exactly as much of it as `jaxgen.parallel.collectives.report` asks for. Devices
are numbered by their position in the program's device order, which for a program on a mesh is the
position in ``mesh.devices.flat`` (not `jax.Device.id`). The groups of devices that exchange data
come in three notations, all of which are read: lists, ``{{0,2},{1,3}}``; a reshaped and transposed
iota, ``[2,2]<=[2,2]T(1,0)``; axes of a mesh, ``mesh['data'=2,'model'=2] {'data'}``, where
``'model':(1)2`` is a part of an axis.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from jaxgen.errors import InputError

Groups = frozenset[frozenset[int]]
"""Sets of device positions; the members of a set exchange data with each other."""

_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_HEADER = re.compile(r"\s*(ENTRY\s+)?%?([\w.\-]+)\s*(\(.*->.*)?\{\s*$")
_RESULT = re.compile(r"\s*(?:ROOT\s+)?%?([\w.\-]+) = ")
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,<=\s]*)\]")
_CALLED = re.compile(
    r"\b(?:calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-]+)"
    r"|\b(?:branch_computations|called_computations)=\{([^}]*)\}"
)
_LISTS = r"(\{\s*(?:\{[\d,\s]*\}[,\s]*)*\})"
_IOTA = re.compile(r"replica_groups=\[([\d,]+)\]<=(\[[\d,]+\](?:T\([\d,]+\))?)")
_MESH = re.compile(
    r"replica_groups=mesh\[([^\]]*)\](?:,\s*device_ids=\(((?:[^()]|\([^()]*\))*)\))?\s*\{([^}]*)\}"
)
_MESH_AXIS = re.compile(r"'([^']*)'(?:=(\d+)|:\((\d+)\)(\d+))?")


@dataclass(frozen=True)
class Operand:
    """One array that an instruction reads, as one device holds it.

    Attributes:
      dtype: XLA's name of the element type: ``f32``, ``bf16``, ``s32``, ``pred``.
      shape: Its dimensions.
    """

    dtype: str
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Size in bytes; types of less than eight bits count as packed."""
        digits = re.search(r"\d+", self.dtype)
        bits = 8 if self.dtype == "pred" else int(digits.group()) if digits else 0
        return math.ceil(math.prod(self.shape) * bits / 8)

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"


@dataclass(frozen=True)
class Instruction:
    """One line of a computation; `shape` and `operands` are as printed."""

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    attributes: str

    @property
    def bare(self) -> str:
        """The attributes with the contents of strings left out."""
        return _STRING.sub('""', self.attributes)

    def called(self) -> Iterator[str]:
        """Names of the computations that the instruction calls."""
        for single, several in _CALLED.findall(self.bare):
            yield from [single] if single else [name.strip(" %") for name in several.split(",")]


@dataclass(frozen=True)
class Module:
    """A compiled program.

    Attributes:
      entry: The name of the computation that runs first.
      computations: Computation -> instruction -> what it is, in program order.
      num_devices: For how many devices it was compiled, None where the text does not say.
    """

    entry: str
    computations: Mapping[str, Mapping[str, Instruction]]
    num_devices: int | None

    def operands(self, computation: str, instruction: Instruction) -> tuple[Operand, ...]:
        """The arrays that an instruction reads."""
        arrays: list[Operand] = []
        for written in instruction.operands:
            shape, _, name = written.rpartition(" ")
            known = self.computations[computation].get(name.lstrip("%"))
            arrays += _arrays(shape or (known.shape if known else name))
        return tuple(arrays)


def parse_module(text: str) -> Module:
    """Reads a module as `jax.stages.Compiled.as_text` prints it.

    Raises:
      InputError: If the text has no entry computation.
    """
    computations: dict[str, dict[str, Instruction]] = {}
    entry, current = None, None
    for line in re.sub(r"/\*.*?\*/", "", text).splitlines():
        result = _RESULT.match(line)
        if result and current is not None:
            instruction = _instruction(result.group(1), line[result.end() :])
            computations[current][instruction.name] = instruction
        elif header := _HEADER.match(line):
            current = header.group(2)
            computations[current] = {}
            entry = current if header.group(1) else entry
    if entry is None:
        raise InputError("the text of the program has no ENTRY computation, expected compiled HLO")
    sizes = re.findall(r"(?:num_partitions|replica_count)=(\d+)", text.partition("\n")[0])
    return Module(entry, computations, math.prod(map(int, sizes)) if sizes else None)


def _instruction(name: str, rest: str) -> Instruction:
    """Splits ``shape opcode(operands), attributes``; shape and operands may hold brackets."""
    cut = _closing(rest, 0) if rest.startswith("(") else rest.find(" ")
    shape, rest = rest[:cut], rest[cut:].lstrip()
    opcode, _, _ = rest.partition("(")
    end = _closing(rest, len(opcode))
    operands = _split(rest[len(opcode) + 1 : end - 1])
    return Instruction(name, shape, opcode, operands, rest[end:])


_BRACKETS = re.compile(_STRING.pattern + r"|[(){}\[\],]")


def _closing(text: str, start: int) -> int:
    """The index just after the bracket that closes the one at `start`."""
    depth = 0
    for found in _BRACKETS.finditer(text, start):
        depth += (found.group() in "([{") - (found.group() in ")]}")
        if depth == 0:
            return found.end()
    return len(text)


def _split(text: str) -> tuple[str, ...]:
    """Parts between the commas outside all brackets."""
    parts, depth, start = [], 0, 0
    for found in _BRACKETS.finditer(text):
        depth += (found.group() in "([{") - (found.group() in ")]}")
        if depth == 0 and found.group() == ",":
            parts.append(text[start : found.start()].strip())
            start = found.end()
    return tuple(part for part in [*parts, text[start:].strip()] if part)


def _arrays(shape: str) -> list[Operand]:
    """The arrays in a printed shape, which may be a tuple: ``(f32[2,3]{1,0}, u32[])``."""
    return [
        Operand(dtype, tuple(int(size.strip(" <=")) for size in sizes.split(",") if size.strip()))
        for dtype, sizes in _ARRAY.findall(re.sub(r"\{[^{}]*\}", "", shape))
        if dtype not in ("token", "opaque")
    ]


def source_target_pairs(instruction: Instruction) -> Groups | None:
    """The pairs of a permutation or a send, direction dropped; None if it prints none."""
    pairs = re.search("source_target_pairs=" + _LISTS, instruction.bare) or re.search(
        '_xla_send_recv_source_target_pairs="?' + _LISTS, instruction.attributes
    )
    return _lists(pairs.group(1)) if pairs else None


def device_groups(instruction: Instruction, num_devices: int) -> Groups:
    """The groups of devices that take part in a collective.

    Args:
      instruction: A collective other than a permutation.
      num_devices: How many devices there are: a collective that names no groups is among all.

    Raises:
      InputError: If the groups are printed in a notation that is not known.
    """
    attributes = instruction.bare
    everyone = frozenset([frozenset(range(num_devices))])
    if "replica_groups=" not in attributes:
        return everyone
    if lists := re.search("replica_groups=" + _LISTS, attributes):
        groups = _lists(lists.group(1))
        # Without global ids the lists count replicas, of which a partitioned program has just one.
        by_replica = "channel_id=" in attributes and "use_global_device_ids=true" not in attributes
        alone = groups == frozenset([frozenset([0])])
        return everyone if not groups or (by_replica and alone) else groups
    if iota := _IOTA.search(attributes):
        num_groups = int(iota.group(1).split(",")[0])
        ids = _iota(iota.group(2)).reshape(num_groups, -1)
        return frozenset(frozenset(group) for group in ids.tolist())
    if mesh := _MESH.search(attributes):
        return _mesh_groups(*mesh.groups())
    raise InputError(f"unknown notation of replica groups: {attributes.strip(', ')}")


def _lists(text: str) -> Groups:
    """Groups from ``{{0,1},{2,3}}``."""
    lists = re.findall(r"\{([\d,\s]*)\}", text)
    return frozenset(frozenset(map(int, group.split(","))) for group in lists if group.strip())


def _iota(text: str) -> np.ndarray:
    """Device positions from ``[2,4]T(1,0)``: numbered in that shape, then transposed."""
    sizes, _, order = text.strip("[)").partition("]")
    ids = np.arange(math.prod(map(int, sizes.split(",")))).reshape([*map(int, sizes.split(","))])
    return ids.transpose([*map(int, order[2:].split(","))]).ravel() if order else ids.ravel()


def _mesh_groups(axes: str, device_ids: str | None, grouped: str) -> Groups:
    """Groups from a mesh and the axes, or parts of axes, along which its devices are grouped.

    The part ``'x':(pre)size`` of axis x, of size n, is the digit of a coordinate c that
    ``c // (n / (pre size)) % size`` gives; devices that differ in nothing but grouped digits
    belong together.
    """
    sizes = {name: int(size) for name, size, _, _ in _MESH_AXIS.findall(axes)}
    rest = np.stack(np.unravel_index(np.arange(math.prod(sizes.values())), [*sizes.values()]), -1)
    for name, _, before, part in _MESH_AXIS.findall(grouped):
        column = list(sizes).index(name)
        size = int(part) if part else sizes[name]
        stride = sizes[name] // (size * int(before or 1))
        rest[:, column] -= rest[:, column] // stride % size * stride
    ids = _device_order(device_ids, len(rest))
    groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for device, key in zip(ids, map(tuple, rest.tolist()), strict=True):
        groups[key].append(device)
    return frozenset(map(frozenset, groups.values()))


def _device_order(text: str | None, count: int) -> Sequence[int]:
    """Device positions in the order of a printed mesh: plain, listed, or a transposed iota."""
    if text is None:
        return range(count)
    text = text.rpartition("<=")[2]
    if text.startswith("[") and not re.search(r"\]\s*\d", text):
        return _iota(text).tolist()
    return [int(number) for number in re.findall(r"\d+", text.rpartition("]")[2])]
