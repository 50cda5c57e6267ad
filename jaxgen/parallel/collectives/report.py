"""What does a compiled program communicate?

`communication` lists every collective operation of a compiled function: what it is, along which
mesh axes it runs, what each device puts into it, and how often it happens. It reads the program
that XLA made, after partitioning and optimisation, and so reports what happens, not what was
intended::

    report = communication(train_step, state, batch, mesh=mesh)
    print(report.table())
    assert report.along("model").bytes < 100_000

**The convention for bytes.** `bytes` is the size of the operands on one device, times how often the
operation runs per call: what each device contributes. What then crosses the wires depends on the
algorithm: a ring over n devices sends 2(n-1)/n times the operand for an all-reduce, n-1 times for
an all-gather, (n-1)/n times for a reduce-scatter or an all-to-all, once for a permutation.
Asynchronous pairs (``-start``, ``-done``) count once. A collective in a loop counts once per turn
where XLA states the number of turns, and once, marked, where it does not; one in a branch counts as
if taken, marked. Groups of a single device exchange nothing and are left out.

XLA may do otherwise than was written: on CPU it sends bfloat16 as float32, and an all-reduce where
a reduce-scatter would do; on every platform it joins small collectives into one with several
operands.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh

from jaxgen.errors import InputError
from jaxgen.parallel.collectives.hlo import (
    Groups,
    Instruction,
    Module,
    Operand,
    device_groups,
    parse_module,
    source_target_pairs,
)
from jaxgen.parallel.mesh import current_mesh

KINDS: tuple[str, ...] = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
    "send",
)
"""The operations that are listed, by XLA's names. (A `send` stands for its `recv` too.)"""

UNKNOWN_AXES: tuple[str, ...] = ("?",)
"""The axes of a collective among devices that are not on the mesh."""

_TURNS = r'"known_trip_count":\s*\{"n":\s*"?(\d+)'
_SCATTERED = "all-reduce-scatter"
"""The TPU compiler's fusion of an all-reduce with the slice that each device keeps."""

_OP_NAME = r'\bop_name="((?:[^"\\]|\\.)*)"'


@dataclass(frozen=True)
class Collective:
    """One collective operation of a program.

    Attributes:
      kind: One of `KINDS`.
      axes: The mesh axes along which its devices differ, in the order of the mesh; size-one axes
        never appear. `UNKNOWN_AXES` if devices that are not on the mesh take part.
      whole: Whether each group spans its axes entirely. False for a part of an axis, such as
        pairs along an axis of four; true for every permutation.
      operands: The arrays that each device puts in. (For ``ragged-all-to-all``, the data alone.)
      group_size: How many devices exchange data with each other; 2 for a permutation or a send.
      times: How often it runs per call of the program, a loop of unknown length counting as one.
      unknown_loop: Whether it is in a loop whose length XLA does not state.
      conditional: Whether it is in a branch that need not be taken.
      op_name: Where it comes from, as JAX named the operation: ``jit(step)/.../psum``.
    """

    kind: str
    axes: tuple[str, ...]
    whole: bool
    operands: tuple[Operand, ...]
    group_size: int
    times: int
    unknown_loop: bool
    conditional: bool
    op_name: str

    @property
    def bytes(self) -> int:
        """Bytes that each device contributes per call of the program."""
        return self.times * sum(operand.bytes for operand in self.operands)

    @property
    def axes_label(self) -> str:
        """The axes as a word: ``model``, ``data+fsdp``, ``model (part)``, ``?``."""
        return "+".join(self.axes) + ("" if self.whole else " (part)")


@dataclass(frozen=True)
class Communication:
    """Every collective of a program, in program order."""

    collectives: tuple[Collective, ...]

    def along(self, *axes: str) -> "Communication":
        """Those in which devices that differ along any of these mesh axes exchange data."""
        return self._where(lambda collective: not set(axes).isdisjoint(collective.axes))

    def of_kind(self, *kinds: str) -> "Communication":
        """Those of these kinds."""
        return self._where(lambda collective: collective.kind in kinds)

    def _where(self, condition: Callable[[Collective], bool]) -> "Communication":
        return Communication(tuple(filter(condition, self.collectives)))

    def __len__(self) -> int:
        return len(self.collectives)

    def __iter__(self) -> Iterator[Collective]:
        return iter(self.collectives)

    @property
    def bytes(self) -> int:
        """Bytes that each device contributes per call, all collectives together."""
        return sum(collective.bytes for collective in self.collectives)

    def bytes_by_axes(self) -> dict[str, int]:
        """Bytes per device and call by `Collective.axes_label`, the largest first."""
        totals: dict[str, int] = {}
        for collective in self.collectives:
            totals[collective.axes_label] = totals.get(collective.axes_label, 0) + collective.bytes
        return dict(sorted(totals.items(), key=lambda item: -item[1]))

    def table(self) -> str:
        """A Markdown table of the collectives, and the totals by axes below it."""
        header = ("kind", "axes", "operands per device", "times", "bytes per device", "operation")
        return self._with_totals(header, [*map(_row, self.collectives)])

    def summary(self) -> str:
        """`table` with one row for all collectives of a kind and the same axes.

        For programs of many layers, whose table has hundreds of rows.
        """
        groups: dict[tuple[str, str], list[Collective]] = {}
        for collective in self.collectives:
            groups.setdefault((collective.kind, collective.axes_label), []).append(collective)
        header = ("kind", "axes", "operations", "operands per device", "bytes per device")
        return self._with_totals(
            header, [(*names, *_sums(group)) for names, group in groups.items()]
        )

    def _with_totals(self, header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
        """Rows as a Markdown table, the totals by axes below, and what its marks mean."""
        if not rows:
            return "no communication between devices"
        widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
        rule = tuple("-" * width for width in widths)
        lines = [
            "| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in (header, rule, *rows)
        ]
        totals = [f"{label}: {size:,}" for label, size in self.bytes_by_axes().items()]
        notes = ["", f"bytes per device and call: {self.bytes:,} ({'; '.join(totals)})"]
        if any(collective.unknown_loop for collective in self.collectives):
            notes.append("? in a loop of unknown length, counted as one turn")
        if any(collective.conditional for collective in self.collectives):
            notes.append("* in a branch, counted as if taken")
        return "\n".join(lines + notes)

    def __str__(self) -> str:
        return self.table()


def _marks(*collectives: Collective) -> str:
    unknown, conditional = (
        any(getattr(collective, name) for collective in collectives)
        for name in ("unknown_loop", "conditional")
    )
    return "?" * unknown + "*" * conditional


def _row(collective: Collective) -> tuple[str, ...]:
    name = collective.op_name
    return (
        collective.kind,
        collective.axes_label,
        " ".join(map(str, collective.operands)),
        f"{collective.times:,}{_marks(collective)}",
        f"{collective.bytes:,}",
        (name if len(name) <= 60 else "..." + name[-57:]).replace("|", "\\|"),
    )


def _sums(group: list[Collective], most: int = 3) -> tuple[str, ...]:
    """How many, their operands by shape, and bytes: those shapes that make up most of the bytes."""
    counts: Counter[Operand] = Counter()
    for collective in group:
        for operand in collective.operands:
            counts[operand] += collective.times
    ranked = sorted(counts, key=lambda operand: -operand.bytes * counts[operand])
    shown = [f"{counts[operand]:,} x {operand}" for operand in ranked[:most]]
    others = sum(counts[operand] for operand in ranked[most:])
    return (
        f"{sum(collective.times for collective in group):,}{_marks(*group)}",
        ", ".join(shown) + (f", {others:,} others" if others else ""),
        f"{sum(collective.bytes for collective in group):,}",
    )


def communication(
    program: Any, *args: Any, mesh: Mesh | AbstractMesh | None = None, **kwargs: Any
) -> Communication:
    """Every collective operation of a compiled program.

    Args:
      program: A function, a jitted function, or what ``.lower`` or ``.compile`` returned. A plain
        function is jitted. Functions are compiled for the arguments, not run.
      *args: The function's arguments, arrays or `jax.ShapeDtypeStruct` with shardings; none for a
        compiled or lowered program.
      mesh: The mesh that the program runs on; the one set by ``jax.set_mesh`` by default.
      **kwargs: More arguments of the function.

    Raises:
      InputError: If the program was compiled for another number of devices than the mesh has.
    """
    if not isinstance(program, jax.stages.Compiled | jax.stages.Lowered):
        jitted = program if hasattr(program, "lower") else jax.jit(program)
        program = jitted.lower(*args, **kwargs)
    if isinstance(program, jax.stages.Lowered):
        program = program.compile()
    return communication_of_text(program.as_text(), current_mesh() if mesh is None else mesh)


def communication_of_text(text: str, mesh: Mesh | AbstractMesh) -> Communication:
    """Every collective operation of a compiled program, from its HLO text.

    Args:
      text: What `jax.stages.Compiled.as_text` or an XLA dump printed.
      mesh: The mesh that the program runs on; devices are matched by their position on it.

    Raises:
      InputError: If the text is no compiled program, or one for another number of devices.
    """
    module = parse_module(text)
    if module.num_devices not in (None, 1, mesh.size):
        raise InputError(
            f"the program was compiled for {module.num_devices} devices, "
            f"expected {mesh.size}, as many as the mesh has"
        )
    start = _Place(times=1, unknown_loop=False, conditional=False)
    return Communication(tuple(_collectives(module, module.entry, start, mesh)))


@dataclass(frozen=True)
class _Place:
    """How often a computation runs, and what that depends on."""

    times: int
    unknown_loop: bool
    conditional: bool

    def inside(self, instruction: Instruction) -> "_Place":
        """The place of the computations that an instruction calls."""
        loop = instruction.opcode == "while"
        turns = loop and re.search(_TURNS, instruction.attributes)
        return _Place(
            times=self.times * (int(turns.group(1)) if turns else 1),
            unknown_loop=self.unknown_loop or (loop and not turns),
            conditional=self.conditional or instruction.opcode == "conditional",
        )


def _collectives(
    module: Module, computation: str, place: _Place, mesh: Mesh | AbstractMesh
) -> Iterator[Collective]:
    """The collectives of a computation and of all that it calls, in program order."""
    for instruction in module.computations.get(computation, {}).values():
        if instruction.opcode.endswith(("-done", "-update")):
            continue
        kind = instruction.opcode.removesuffix("-start")
        if kind in KINDS:
            groups = _groups(instruction, mesh.size)
            if max(map(len, groups), default=1) > 1:
                if kind == "all-reduce" and computation.startswith(_SCATTERED):
                    kind = "reduce-scatter"
                operands = module.operands(computation, instruction)
                yield _collective(kind, operands, groups, instruction, place, mesh)
            continue
        inside = place.inside(instruction)
        for called in instruction.called():
            yield from _collectives(module, called, inside, mesh)


def _groups(instruction: Instruction, num_devices: int) -> Groups:
    pairs = source_target_pairs(instruction)
    if pairs is not None:
        return pairs
    if instruction.opcode == "send":  # to the host
        return frozenset()
    return device_groups(instruction, num_devices)


def _collective(
    kind: str,
    operands: tuple[Operand, ...],
    groups: Groups,
    instruction: Instruction,
    place: _Place,
    mesh: Mesh | AbstractMesh,
) -> Collective:
    permutation = source_target_pairs(instruction) is not None
    axes = _axes_spanned(groups, mesh)
    name = re.search(_OP_NAME, instruction.attributes)
    size = max(map(len, groups))
    span = math.prod(mesh.shape[axis] for axis in axes) if axes != UNKNOWN_AXES else size
    return Collective(
        kind=kind,
        axes=axes,
        whole=permutation or all(len(group) == span for group in groups),
        operands=operands[:1] if kind == "ragged-all-to-all" else operands,
        group_size=size,
        times=place.times,
        unknown_loop=place.unknown_loop,
        conditional=place.conditional,
        op_name=re.sub(r"\\(.)", r"\1", name.group(1)) if name else "",
    )


def _axes_spanned(groups: Groups, mesh: Mesh | AbstractMesh) -> tuple[str, ...]:
    """The mesh axes along which the devices of some group differ."""
    if max(map(max, groups)) >= mesh.size:
        return UNKNOWN_AXES
    sizes = tuple(mesh.shape.values())
    differ = np.zeros(len(sizes), bool)
    for group in groups:
        coordinates = np.stack(np.unravel_index(sorted(group), sizes))
        differ |= (coordinates != coordinates[:, :1]).any(axis=1)
    return tuple(axis for axis, along in zip(mesh.axis_names, differ, strict=True) if along)
