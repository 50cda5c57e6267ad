# ruff: noqa: E501
"""Reading programs as GPU and TPU compilers print them, which no CPU can make."""

import itertools
from textwrap import dedent

import numpy as np
import pytest
from jax.sharding import AbstractMesh

from jaxgen.errors import InputError
from jaxgen.parallel import Communication, communication_of_text
from jaxgen.parallel.collectives.hlo import Operand, device_groups, parse_module

MESH = AbstractMesh((2, 2, 2), ("data", "fsdp", "model"))

GPU = """\
    HloModule jit_step, is_scheduled=true, entry_computation_layout={(f32[1024]{0})->f32[]}, num_partitions=8

    %add (x: f32[], y: f32[]) -> f32[] {
      %x = f32[] parameter(0)
      %y = f32[] parameter(1)
      ROOT %add.1 = f32[] add(f32[] %x, f32[] %y)
    }

    %wrapped_scatter (p: f32[1024]) -> f32[512] {
      %p = f32[1024]{0} parameter(0)
      ROOT %reduce-scatter.1 = f32[512]{0} reduce-scatter(f32[1024]{0} %p), channel_id=4, replica_groups={{0,2},{4,6},{1,3},{5,7}}, use_global_device_ids=true, dimensions={0}, to_apply=%add, metadata={op_name="jit(step)/scatter, a=b"}
    }

    ENTRY %main.1_spmd (param: f32[1024], param.1: bf16[3,5]) -> f32[] {
      %param = f32[1024]{0} parameter(0), metadata={op_name="x"}
      %param.1 = bf16[3,5]{1,0} parameter(1)
      %all-reduce-start = f32[1024]{0} all-reduce-start(f32[1024]{0} %param), channel_id=1, replica_groups=[4,2]<=[8], use_global_device_ids=true, to_apply=%add, metadata={op_name="jit(step)/psum" source_file="a.py" source_line=3}, backend_config={"operation_queue_id":"0","collective_backend_config":{"is_sync":false}}
      %all-reduce-done = f32[1024]{0} all-reduce-done(f32[1024]{0} %all-reduce-start)
      %all-gather-start = ((f32[1024]{0}, bf16[3,5]{1,0}), (f32[2048]{0}, bf16[6,5]{1,0})) all-gather-start(f32[1024]{0} %param, bf16[3,5]{1,0} %param.1), channel_id=2, replica_groups=[4,2]<=[4,2]T(1,0), dimensions={0}, use_global_device_ids=true
      %all-gather-done = (f32[2048]{0}, bf16[6,5]{1,0}) all-gather-done(((f32[1024]{0}, bf16[3,5]{1,0}), (f32[2048]{0}, bf16[6,5]{1,0})) %all-gather-start)
      %collective-permute-start = (f32[1024]{0}, f32[1024]{0}, u32[], u32[]) collective-permute-start(f32[1024]{0} %all-reduce-done), channel_id=3, source_target_pairs={{0,4},{4,0},{1,5},{5,1}}
      %collective-permute-done = f32[1024]{0} collective-permute-done(%collective-permute-start)
      %async-start = ((f32[1024]{0}), f32[512]{0}, s32[]) async-start(f32[1024]{0} %param), calls=%wrapped_scatter
      %async-update = ((f32[1024]{0}), f32[512]{0}, s32[]) async-update(%async-start), calls=%wrapped_scatter
      %async-done = f32[512]{0} async-done(%async-update), calls=%wrapped_scatter
      ROOT %result = f32[] custom-call(%async-done, %collective-permute-done), custom_call_target="all-reduce(x)"
    }
    """

TPU = """\
    HloModule jit_step, entry_computation_layout={(bf16[8,128]{1,0:T(8,128)(2,1)})->(bf16[8,128]{1,0:T(8,128)(2,1)S(1)})}, num_partitions=8

    %fused (param.0: bf16[8,128]) -> bf16[8,128] {
      %param.0 = bf16[8,128]{1,0:T(8,128)(2,1)} parameter(0)
      ROOT %all-reduce.7 = bf16[8,128]{1,0:T(8,128)(2,1)S(1)} all-reduce(%param.0), channel_id=7, replica_groups=[2,4]<=[2,2,2]T(1,0,2), use_global_device_ids=true, to_apply=%sum
    }

    %all-reduce-scatter.3 (input: f32[8,128]) -> f32[4,128] {
      %input = f32[8,128]{1,0:T(8,128)S(1)} parameter(0)
      %all-reduce.8 = f32[8,128]{1,0:T(8,128)} all-reduce(%input), channel_id=9, replica_groups={{0,2},{4,6},{1,3},{5,7}}, use_global_device_ids=true, to_apply=%sum
      %start = s32[] constant(0)
      ROOT %part = f32[4,128]{1,0:T(8,128)} dynamic-slice(%all-reduce.8, %start, %start), dynamic_slice_sizes={4,128}
    }

    %body (state: (s32[], bf16[8,128])) -> (s32[], bf16[8,128]) {
      %state = (s32[]{:T(128)}, bf16[8,128]{1,0:T(8,128)(2,1)}) parameter(0)
      %i = s32[]{:T(128)} get-tuple-element(%state), index=0
      %h = bf16[8,128]{1,0:T(8,128)(2,1)} get-tuple-element(%state), index=1
      %reduced = bf16[8,128]{1,0:T(8,128)(2,1)} fusion(%h), kind=kOutput, calls=%fused
      %permuted = bf16[8,128]{1,0} collective-permute(%reduced), channel_id=8, source_target_pairs={{0,1},{1,0},{2,3},{3,2},{4,5},{5,4},{6,7},{7,6}}
      ROOT %next = (s32[], bf16[8,128]{1,0:T(8,128)(2,1)}) tuple(%i, /*index=1*/%permuted)
    }

    %condition (state.1: (s32[], bf16[8,128])) -> pred[] {
      %state.1 = (s32[]{:T(128)}, bf16[8,128]{1,0:T(8,128)(2,1)}) parameter(0)
      ROOT %less = pred[]{:T(512)} constant(true)
    }

    ENTRY %main (x: bf16[8,128]) -> bf16[8,128] {
      %x = bf16[8,128]{1,0:T(8,128)(2,1)} parameter(0)
      %gradient = f32[8,128]{1,0:T(8,128)} convert(%x)
      %kept = f32[4,128]{1,0:T(8,128)} fusion(%gradient), kind=kCustom, calls=%all-reduce-scatter.3
      %zero = s32[] constant(0)
      %init = (s32[], bf16[8,128]{1,0}) tuple(%zero, %x)
      %loop = (s32[], bf16[8,128]{1,0}) while(%init), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"24"},"estimated_cycles":"12"}, metadata={op_name="jit(step)/while"}
      ROOT %out = bf16[8,128]{1,0} get-tuple-element(%loop), index=1
    }
    """


def rows(report: Communication) -> list[tuple]:
    return [(c.kind, c.axes_label, c.group_size, c.times, c.bytes) for c in report]


def test_asynchronous_pairs_of_a_gpu_count_once() -> None:
    report = communication_of_text(dedent(GPU), MESH)
    assert rows(report) == [
        ("all-reduce", "model", 2, 1, 4096),
        ("all-gather", "fsdp", 2, 1, 4096 + 30),
        ("collective-permute", "data", 2, 1, 4096),
        ("reduce-scatter", "fsdp", 2, 1, 4096),
    ]
    assert report.collectives[0].op_name == "jit(step)/psum"
    assert report.collectives[3].op_name == "jit(step)/scatter, a=b"
    assert report.collectives[1].operands == (Operand("f32", (1024,)), Operand("bf16", (3, 5)))


def test_indented_text_reads_the_same() -> None:
    assert communication_of_text(GPU, MESH) == communication_of_text(dedent(GPU), MESH)


def test_layouts_fusions_and_loops_of_a_tpu() -> None:
    assert rows(communication_of_text(dedent(TPU), MESH)) == [
        ("reduce-scatter", "fsdp", 2, 1, 8 * 128 * 4),
        ("all-reduce", "data+model", 4, 24, 24 * 8 * 128 * 2),
        ("collective-permute", "model", 2, 24, 24 * 8 * 128 * 2),
    ]


def one(instruction: str, mesh: AbstractMesh = MESH) -> Communication:
    """A program of one instruction that reads %x, f32[4,8], and %n, s32[2]."""
    text = f"""\
    HloModule m, num_partitions={mesh.size}
    ENTRY %main (x: f32[4,8], n: s32[2]) -> f32[4,8] {{
      %x = f32[4,8]{{1,0}} parameter(0)
      %n = s32[2]{{0}} parameter(1)
      ROOT %r = {instruction}
    }}
    """
    return communication_of_text(dedent(text), mesh)


@pytest.mark.parametrize(
    ("groups", "label"),
    [
        ("{{0,1},{2,3},{4,5},{6,7}}", "model"),
        ("{{6,7},{3,2},{5,4},{1,0}}", "model"),  # in any order
        ("{{0,4},{1,5},{2,6},{3,7}}", "data"),
        ("{{0,2,4,6},{1,3,5,7}}", "data+fsdp"),
        ("{{0,1,2,3,4,5,6,7}}", "data+fsdp+model"),
        ("{{0,1},{2,3}}", "model"),
        ("{{0,3},{1,2},{4,7},{5,6}}", "fsdp+model (part)"),
        ("{{0,1,2},{3}}", "fsdp+model (part)"),
        ("{{0,9}}", "?"),
        ("{}", "data+fsdp+model"),
        ("[4,2]<=[8]", "model"),
        ("[4,2]<=[4,2]T(1,0)", "fsdp"),
        ("[4,2]<=[2,4]T(1,0)", "data"),
        ("[4,2]<=[2,2,2]T(0,2,1)", "fsdp"),
        ("[2,4]<=[4,2]T(1,0)", "data+fsdp"),
        ("[1,8]<=[8]", "data+fsdp+model"),
        ("mesh['data'=2,'fsdp'=2,'model'=2] {'fsdp'}", "fsdp"),
        ("mesh['data'=2,'fsdp'=2,'model'=2] {'data','model'}", "data+model"),
        ("mesh['a'=4,'b'=2] {'a'}", "data+fsdp"),
        ("mesh['x'=8] {'x':(1)2}", "data"),
        ("mesh['x'=8] {'x':(2)2}", "fsdp"),
        ("mesh['x'=8] {'x':(4)2}", "model"),
        ("mesh['x'=8] {'x':(2)4}", "fsdp+model"),
        ("mesh['x'=8] {'x':(1)2,'x':(4)2}", "data+model"),
        ("mesh['a'=4,'b'=2], device_ids=([4,2]<=[2,4]T(1,0)) {'b'}", "data"),
        ("mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'b'}", "data"),
        ("mesh['a'=4,'b'=2], device_ids=(0,4,1,5,2,6,3,7) {'b'}", "data"),
        ("mesh['a'=4,'b'=2], device_ids=([4,2]0,4,1,5,2,6,3,7) {'a'}", "fsdp+model"),
    ],
)
def test_axes_of_groups_in_every_notation(groups: str, label: str) -> None:
    report = one(
        f"f32[4,8]{{1,0}} all-reduce(%x), channel_id=1, replica_groups={groups}, "
        'use_global_device_ids=true, to_apply=%add, metadata={op_name="f[replica_groups={{0}}]"}'
    )
    assert [collective.axes_label for collective in report] == [label]
    assert report.bytes == 128


@pytest.mark.parametrize("groups", ["{{0},{1},{2}}", "[8,1]<=[8]", "mesh['a'=1,'b'=8] {'a'}"])
def test_groups_of_one_device_exchange_nothing(groups: str) -> None:
    assert len(one(f"f32[4,8] all-reduce(%x), replica_groups={groups}, to_apply=%add")) == 0


def test_replicas_are_not_devices() -> None:
    # Without use_global_device_ids the lists count replicas, of which there is one.
    report = one("f32[4,8] all-reduce(%x), channel_id=1, replica_groups={{0}}, to_apply=%add")
    assert [c.axes_label for c in report] == ["data+fsdp+model"]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_iota_groups_are_what_numpy_says(order: tuple[int, ...]) -> None:
    text = f"[4,6]<=[2,3,4]T({','.join(map(str, order))})"
    module = parse_module(
        "ENTRY %e (x: f32[]) -> f32[] {\n"
        f"  ROOT %r = f32[] all-reduce(%x), replica_groups={text}\n}}\n"
    )
    expected = np.arange(24).reshape(2, 3, 4).transpose(order).reshape(4, 6)
    found = device_groups(module.computations["e"]["r"], 24)
    assert found == frozenset(map(frozenset, expected.tolist()))


@pytest.mark.parametrize(
    ("instruction", "kind", "size"),
    [
        (
            "f32[4,8] ragged-all-to-all(%x, %x, %n, %n, %n, %n), replica_groups={{0,1},{2,3}}",
            "ragged-all-to-all",
            128,
        ),
        ("f32[4,8] collective-broadcast(%x), replica_groups={{0,1}}", "collective-broadcast", 128),
        ("(f32[4,8], s32[2]) all-to-all(%x, %n), replica_groups={{0,1}}", "all-to-all", 136),
        (
            "(f32[4,8]{1,0}, u32[], token[]) send(%x, token[] %token), channel_id=3, "
            'frontend_attributes={_xla_send_recv_source_target_pairs="{{0,1},{2,3}}"}',
            "send",
            128,
        ),
        ("((f32[4,8]), f32[2,8]) reduce-scatter-start(%x), replica_groups={{0,1}}",
         "reduce-scatter", 128),
        ("s4[3] collective-permute(s4[3] %y), source_target_pairs={{0,1}}",
         "collective-permute", 2),
        ("f8e4m3fn[<=4,8] collective-permute(f8e4m3fn[<=4,8] %y), source_target_pairs={{1,0}}",
         "collective-permute", 32),
    ],
)  # fmt: skip
def test_the_rarer_kinds(instruction: str, kind: str, size: int) -> None:
    assert rows(one(instruction)) == [(kind, "model", 2, 1, size)]


@pytest.mark.parametrize(
    "instruction",
    [
        "(f32[4,8], u32[], token[]) send(%x, %token), channel_id=3, is_host_transfer=true",
        "(f32[4,8], token[]) recv-done(%x), channel_id=3",
        'f32[4,8] custom-call(%x), custom_call_target="all-reduce(%x), replica_groups={{0,1}}"',
        "f32[4,8] add(%x, %all-reduce)",
    ],
)
def test_what_is_no_communication_between_devices(instruction: str) -> None:
    assert len(one(instruction)) == 0


def test_branches_in_both_notations() -> None:
    text = """\
    HloModule m, num_partitions=8
    %a (x: f32[2]) -> f32[2] {
      %x = f32[2]{0} parameter(0)
      ROOT %r = f32[2]{0} all-reduce(%x), replica_groups=[4,2]<=[8], to_apply=%add
    }
    %b (y: f32[2]) -> f32[2] {
      ROOT %y = f32[2]{0} parameter(0)
    }
    ENTRY %main (p: pred[], z: f32[2]) -> f32[2] {
      %p = pred[] parameter(0)
      %z = f32[2]{0} parameter(1)
      %c = f32[2]{0} conditional(%p, %z, %z), true_computation=%a, false_computation=%b
      ROOT %d = f32[2]{0} conditional(%p, %c, %c), branch_computations={%b, %a}
    }
    """
    report = communication_of_text(text, MESH)
    assert [(c.conditional, c.bytes) for c in report] == [(True, 8), (True, 8)]
    assert "1*" in report.table()
    assert report.table().endswith("* in a branch, counted as if taken")


def test_text_that_cannot_be_read() -> None:
    with pytest.raises(InputError, match="no ENTRY computation"):
        communication_of_text("stablehlo.all_reduce", MESH)
    with pytest.raises(InputError, match="compiled for 16 devices, expected 8"):
        communication_of_text(dedent(GPU).replace("partitions=8", "partitions=16"), MESH)
    with pytest.raises(InputError, match="unknown notation of replica groups"):
        one("f32[4,8] all-reduce(%x), replica_groups=<0,1>")
