"""Rules of one's own, and devices in several slices."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import PartitionSpec as P

from jaxgen.axes import DEFAULT_RULES
from jaxgen.errors import InputError
from jaxgen.parallel import current_rules, make_mesh, parse_rules, plan_layout, using_rules
from jaxgen.parallel.mesh import _place_on_slices


def test_rules_change_those_of_the_library():
    rules = parse_rules("embed=none, mlp = model,vocab=model,hidden=fsdp+data")
    changed = {"embed": None, "hidden": ("fsdp", "data")}
    assert rules == {**DEFAULT_RULES, **changed}
    assert parse_rules("") == DEFAULT_RULES


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("embed", "'embed' has no '='"),
        ("embd=fsdp", "no logical axis 'embd', expected one of batch, length, vocab"),
        ("embed=fsdp,embed=none", "'embed' is given twice"),
        ("embed=device", "embed=device, expected one of data, fsdp, sequence, model"),
        ("embed=fsdp+fsdp", "several different ones"),
        ("embed=", "embed=, expected one of"),
    ],
)
def test_odd_rules_are_one_line(text, fault):
    with pytest.raises(InputError) as error:
        parse_rules(text)
    assert fault in str(error.value)
    assert "\n" not in str(error.value)


def test_layouts_follow_the_current_rules():
    def init():
        make = nn.with_logical_partitioning(lambda: jnp.zeros((8, 16)), ("embed", "mlp"))
        return {"kernel": make()}

    mesh = make_mesh("fsdp=4,model=2")
    spec = lambda: plan_layout(init, mesh=mesh).shardings["kernel"].spec  # noqa: E731
    assert spec() == P("fsdp", "model")
    with using_rules(parse_rules("embed=none,mlp=model+fsdp")):
        assert spec() == P(None, ("model", "fsdp"))
        assert current_rules()["embed"] is None
    assert current_rules() is DEFAULT_RULES
    with using_rules(parse_rules("embed=model")), pytest.raises(InputError, match="both 'embed'"):
        spec()


def slices_of(count, each):
    return [
        SimpleNamespace(
            **{"id": number, "slice_index": number // each, "process_index": number // 4},
            **{"platform": "cpu", "device_kind": "cpu"},
        )
        for number in range(count * each)
    ]


@pytest.mark.parametrize(
    ("sizes", "axis"), [((4, 2, 1, 2), 0), ((1, 4, 1, 4), 1), ((2, 2, 2, 2), 0), ((3, 2, 1, 4), 1)]
)
def test_slices_are_parts_of_data_or_else_of_fsdp(sizes, axis):
    """Devices that differ along another axis alone are in one slice, each exactly once."""
    named = dict(zip(("data", "fsdp", "sequence", "model"), sizes, strict=True))
    each = int(np.prod(sizes)) // 2
    placed = _place_on_slices(named, 2, slices_of(2, each))
    assert placed.shape == sizes
    assert sorted(device.id for device in placed.flat) == list(range(2 * each))
    index = np.vectorize(lambda device: device.slice_index)(placed)
    halves = np.split(index, 2, axis=axis)
    assert {tuple(np.unique(half)) for half in halves} == {(0,), (1,)}


def test_slices_that_no_axis_can_be_spread_over_are_refused():
    with pytest.raises(InputError, match=r"data=3,fsdp=1.* multiple of 2, the number of slices"):
        _place_on_slices({"data": 3, "fsdp": 1, "sequence": 1, "model": 4}, 2, slices_of(2, 6))
