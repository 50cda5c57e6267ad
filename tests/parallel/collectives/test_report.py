"""What hand-made programs communicate, in numbers worked out by hand."""

import re
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxgen.errors import InputError
from jaxgen.parallel import Collective, Operand, communication, make_mesh

FLOATS = jax.ShapeDtypeStruct((8, 16), jnp.float32)


def mesh_of(*sizes: int) -> Mesh:
    """A mesh of these sizes along data, fsdp and model."""
    devices = jax.devices()[: int(np.prod(sizes))]
    return make_mesh(",".join(map("{}={}".format, ("data", "fsdp", "model"), sizes)), devices)


def only(function: Callable, mesh: Mesh, spec: P, out: P, *shapes) -> Collective:
    """The only collective of a function that each device runs on its part."""
    mapped = jax.shard_map(function, mesh=mesh, in_specs=spec, out_specs=out, check_vma=False)
    (collective,) = communication(mapped, *(shapes or (FLOATS,)), mesh=mesh)
    return collective


MESHES = [(8, 1, 1), (2, 1, 4), (2, 2, 2), (1, 2, 2)]


@pytest.mark.parametrize("sizes", MESHES)
@pytest.mark.parametrize(
    "axes", [("data",), ("model",), ("data", "model"), ("fsdp", "data"), ("data", "fsdp", "model")]
)
def test_all_reduce_along_every_set_of_axes(sizes: tuple[int, ...], axes: tuple[str, ...]) -> None:
    mesh = mesh_of(*sizes)
    sum_along = jax.shard_map(
        lambda x: jax.lax.psum(x, axes), mesh=mesh, in_specs=P(), out_specs=P(), check_vma=False
    )
    report = communication(sum_along, FLOATS, mesh=mesh)
    real = tuple(axis for axis in mesh.axis_names if axis in axes and mesh.shape[axis] > 1)
    if not real:  # along axes of size one there is nobody to talk to
        assert len(report) == 0
        return
    (collective,) = report
    assert (collective.kind, collective.axes, collective.whole) == ("all-reduce", real, True)
    assert collective.group_size == np.prod([mesh.shape[axis] for axis in real])
    assert collective.operands == (Operand("f32", (8, 16)),)
    assert collective.bytes == 8 * 16 * 4
    assert collective.axes_label == "+".join(real)
    assert re.fullmatch(r"jit\(.*psum.*", collective.op_name)


@pytest.mark.parametrize("axis", ["data", "fsdp", "model"])
def test_all_gather_contributes_a_shard(axis: str) -> None:
    gather = partial(jax.lax.all_gather, axis_name=axis, tiled=True)
    collective = only(gather, mesh_of(2, 2, 2), P(axis), P())
    assert (collective.kind, collective.axes) == ("all-gather", (axis,))
    assert collective.operands == (Operand("f32", (4, 16)),)
    assert collective.bytes == 4 * 16 * 4


@pytest.mark.parametrize("axis", ["data", "fsdp", "model"])
def test_reduce_scatter_contributes_the_whole(axis: str) -> None:
    scatter = partial(jax.lax.psum_scatter, axis_name=axis, tiled=True)
    collective = only(scatter, mesh_of(2, 2, 2), P(), P(axis))
    assert (collective.kind, collective.axes) == ("reduce-scatter", (axis,))
    assert collective.bytes == 8 * 16 * 4


def test_all_to_all_contributes_its_part_however_it_is_cut() -> None:
    exchange = partial(
        jax.lax.all_to_all, axis_name="model", split_axis=1, concat_axis=0, tiled=True
    )
    collective = only(exchange, mesh_of(2, 1, 4), P("model"), P(None, "model"))
    assert (collective.kind, collective.axes, collective.group_size) == (
        "all-to-all",
        ("model",),
        4,
    )
    assert collective.bytes == 2 * 16 * 4
    assert sum(int(np.prod(operand.shape)) for operand in collective.operands) == 2 * 16


@pytest.mark.parametrize(
    ("axes", "pairs", "expected"),
    [
        ("model", [(0, 1), (1, 2), (2, 3), (3, 0)], ("model",)),
        ("model", [(0, 1)], ("model",)),
        ("data", [(0, 1), (1, 0)], ("data",)),
        (("data", "model"), [(i, (i + 1) % 8) for i in range(8)], ("data", "model")),
        (("data", "model"), [(0, 1), (2, 3)], ("model",)),
    ],
)
def test_permutations_by_the_axes_that_they_cross(axes, pairs, expected) -> None:
    collective = only(lambda x: jax.lax.ppermute(x, axes, pairs), mesh_of(2, 1, 4), P(), P())
    assert (collective.kind, collective.axes) == ("collective-permute", expected)
    assert (collective.whole, collective.group_size, collective.bytes) == (True, 2, 512)


def test_a_permutation_that_moves_nothing_is_no_communication() -> None:
    mesh = mesh_of(2, 1, 4)
    same = jax.shard_map(
        lambda x: jax.lax.ppermute(x, "data", [(0, 0), (1, 1)]),
        mesh=mesh, in_specs=P("data"), out_specs=P("data"),
    )  # fmt: skip
    assert len(communication(same, FLOATS, mesh=mesh)) == 0


@pytest.mark.parametrize(
    ("dtype", "name", "size"),
    [
        (jnp.float32, "f32", 4),
        (jnp.bfloat16, "f32", 4),  # a CPU has no bfloat16 to send; test_communication_text.py does
        (jnp.float16, "f16", 2),
        (jnp.int32, "s32", 4),
        (jnp.uint8, "u8", 1),
        (jnp.bool_, "pred", 1),
        (jnp.complex64, "c64", 8),
    ],
)
def test_bytes_by_type(dtype, name: str, size: int) -> None:
    array = jax.ShapeDtypeStruct((8, 3, 5), dtype)
    rotate = lambda x: jax.lax.ppermute(x, "data", [(i, (i + 1) % 8) for i in range(8)])  # noqa: E731
    collective = only(rotate, mesh_of(8, 1, 1), P("data"), P("data"), array)
    assert collective.operands == (Operand(name, (1, 3, 5)),)
    assert str(collective.operands[0]) == f"{name}[1,3,5]"
    assert collective.bytes == 15 * size


def test_operations_that_xla_joined_are_one_with_several_operands() -> None:
    def sums(x, y):
        return jax.lax.psum((x, y, x.sum()), "data")

    mesh = mesh_of(8, 1, 1)
    mapped = jax.shard_map(sums, mesh=mesh, in_specs=P("data"), out_specs=P())
    report = communication(mapped, FLOATS, jax.ShapeDtypeStruct((8,), jnp.float32), mesh=mesh)
    assert report.bytes == (16 + 1 + 1) * 4
    assert len(report) == 1
    assert sorted(operand.bytes for operand in report.collectives[0].operands) == [4, 4, 64]


def test_a_loop_counts_its_turns_and_a_loop_in_a_loop_multiplies() -> None:
    def add_up(x):
        body = lambda carry, _: (jax.lax.psum(carry, "model") * 0.5, None)  # noqa: E731
        outer = lambda carry, _: (jax.lax.scan(body, carry, None, length=5)[0] + 1, None)  # noqa: E731
        return jax.lax.scan(outer, x, None, length=3)[0]

    collective = only(add_up, mesh_of(2, 2, 2), P("data"), P("data"))
    assert (collective.times, collective.unknown_loop) == (15, False)
    assert collective.bytes == 15 * 4 * 16 * 4


def test_a_loop_of_unknown_length_counts_once_and_is_marked() -> None:
    def halve(x):
        step = lambda x: jax.lax.psum(x, "model") * 0.25  # noqa: E731
        return jax.lax.while_loop(lambda x: x[0, 0] > 1, step, x)

    mesh = mesh_of(2, 2, 2)
    collective = only(halve, mesh, P("data"), P("data"))
    assert (collective.times, collective.unknown_loop, collective.bytes) == (1, True, 256)
    mapped = jax.shard_map(halve, mesh=mesh, in_specs=P(), out_specs=P(), check_vma=False)
    table = communication(mapped, FLOATS, mesh=mesh).table()
    assert "| 1?    |" in table
    assert table.endswith("? in a loop of unknown length, counted as one turn")


def test_a_branch_is_marked() -> None:
    def choose(x):
        return jax.lax.cond(x[0, 0] > 0, lambda x: jax.lax.psum(x, "model"), lambda x: x, x)

    collective = only(choose, mesh_of(2, 2, 2), P("data"), P("data"))
    assert (collective.conditional, collective.times, collective.bytes) == (True, 1, 256)


def test_filters_and_totals() -> None:
    def several(x):
        x = jax.lax.psum(x, "model")
        x = jax.lax.all_gather(x, "fsdp", tiled=True)
        return jax.lax.pmax(x.sum(), ("data", "model"))

    mesh = mesh_of(2, 2, 2)
    mapped = jax.shard_map(several, mesh=mesh, in_specs=P("fsdp"), out_specs=P(), check_vma=False)
    report = communication(mapped, FLOATS, mesh=mesh)
    assert [collective.kind for collective in report] == ["all-reduce", "all-gather", "all-reduce"]
    assert report.bytes_by_axes() == {"model": 256, "fsdp": 256, "data+model": 4}
    assert report.bytes == 516
    assert report.along("model").bytes == 260
    assert report.along("data").bytes == 4
    assert len(report.along("data", "fsdp")) == 2
    assert report.of_kind("all-gather").bytes == 256
    assert len(report.along("model").of_kind("all-gather")) == 0
    lines = report.table().splitlines()
    assert lines[0].startswith("| kind       | axes       | operands per device | times |")
    assert lines[2].startswith("| all-reduce | model      | f32[4,16]           | 1     | 256 ")
    assert lines[-1] == "bytes per device and call: 516 (model: 256; fsdp: 256; data+model: 4)"
    assert str(report) == report.table()


def test_a_summary_has_one_row_for_a_kind_and_its_axes() -> None:
    def layers(x):
        def layer(x, _):
            x = jax.lax.psum(x, "model") / 2
            small = jax.lax.psum((x[:1], x[0, 0]), "model")
            return x + small[0] + small[1], None

        x = jax.lax.scan(layer, x, length=5)[0]
        gathered = [jax.lax.all_gather(x[:rows], "fsdp", tiled=True).sum() for rows in (1, 2, 3, 4)]
        return jax.lax.cond(x[0, 0] > 0, lambda x: jax.lax.psum(x, "data"), lambda x: x, x) + sum(
            gathered
        )

    mesh = mesh_of(2, 2, 2)
    mapped = jax.shard_map(layers, mesh=mesh, in_specs=P("data"), out_specs=P(), check_vma=False)
    lines = communication(mapped, FLOATS, mesh=mesh).summary().splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:5]]
    assert cells == [
        [
            *("all-reduce", "model", "10", "5 x f32[4,16], 5 x f32[1,16], 5 x f32[]"),
            f"{5 * 4 * (64 + 16 + 1):,}",
        ],
        ["all-gather", "fsdp", "4", "1 x f32[4,16], 1 x f32[3,16], 1 x f32[2,16], 1 others", "640"],
        ["all-reduce", "data", "1*", "1 x f32[4,16]", "256"],
    ]
    assert lines[0].startswith("| kind       | axes  | operations | operands per device ")
    assert lines[-2] == "bytes per device and call: 2,516 (model: 1,620; fsdp: 640; data: 256)"
    assert lines[-1] == "* in a branch, counted as if taken"


def sharded(mesh: Mesh, *spec) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((8, 16), jnp.float32, sharding=NamedSharding(mesh, P(*spec)))


def test_what_the_compiler_puts_in() -> None:
    mesh = mesh_of(2, 2, 2)
    (collective,) = communication(lambda x: x.sum(), sharded(mesh, ("data", "fsdp")), mesh=mesh)
    assert (collective.kind, collective.axes, collective.bytes) == (
        "all-reduce",
        ("data", "fsdp"),
        4,
    )
    whole = jax.jit(lambda x: x * 2, out_shardings=NamedSharding(mesh, P()))
    report = communication(whole, sharded(mesh, "model"), mesh=mesh)
    assert [(c.kind, c.axes, c.bytes) for c in report] == [("all-gather", ("model",), 256)]


def test_a_part_of_an_axis_is_said_to_be_one() -> None:
    mesh = mesh_of(8, 1, 1)

    def sum_by_fours(x):
        return x.reshape(2, 4, 16).sum(axis=1)

    report = communication(sum_by_fours, sharded(mesh, "data"), mesh=mesh)
    (collective,) = report.of_kind("all-reduce")
    assert (collective.axes, collective.group_size, collective.whole) == (("data",), 4, False)
    assert collective.axes_label == "data (part)"
    assert report.along("data").bytes == report.bytes


@pytest.mark.parametrize(
    "order", [(7, 6, 5, 4, 3, 2, 1, 0), (3, 1, 0, 2, 7, 6, 4, 5), (6, 2, 4, 0)]
)
def test_devices_count_by_position_in_any_order(order: tuple[int, ...]) -> None:
    devices = [jax.devices()[i] for i in order]
    mesh = make_mesh("data=-1,fsdp=2,model=2", devices=devices)
    for axis in ("fsdp", "model"):
        collective = only(lambda x, axis=axis: jax.lax.psum(x, axis), mesh, P(), P())
        assert (collective.axes, collective.whole) == ((axis,), True)
        assert {device.id for device in mesh.devices.flat} == set(order)
    report = communication(lambda x: x.sum(), sharded(mesh, "model"), mesh=mesh)
    assert [collective.axes for collective in report] == [("model",)]


def test_every_form_of_a_program_is_taken_and_the_current_mesh_is_the_default() -> None:
    mesh = mesh_of(2, 2, 2)
    array = sharded(mesh, "model")

    def total(x, scale=1.0):
        return (x * scale).sum()

    jitted = jax.jit(total)
    lowered = jitted.lower(array)
    with jax.set_mesh(mesh):
        reports = [
            communication(total, array),
            communication(total, array, scale=2.0),
            communication(jitted, array),
            communication(lowered),
            communication(lowered.compile()),
        ]
    assert [report.bytes for report in reports] == [4] * 5
    assert [report.collectives[0].axes for report in reports] == [("model",)] * 5


def test_one_device_talks_to_nobody() -> None:
    report = communication(lambda x: (x @ x.T).sum(), jnp.ones((4, 4)))
    assert len(report) == report.bytes == 0
    assert report.table() == report.summary() == "no communication between devices"


def test_a_program_for_another_number_of_devices_is_refused() -> None:
    compiled = jax.jit(lambda x: x.sum()).lower(sharded(mesh_of(2, 2, 2), "data")).compile()
    with pytest.raises(InputError, match="compiled for 8 devices, expected 4"):
        communication(compiled, mesh=mesh_of(1, 2, 2))
