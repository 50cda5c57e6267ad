"""Meshes from descriptions."""

import jax
import numpy as np
import pytest
from jax.sharding import AxisType

from jaxgen.errors import InputError
from jaxgen.parallel import (
    abstract_mesh,
    current_mesh,
    make_mesh,
    on_abstract_mesh,
    parse_mesh,
)


@pytest.mark.parametrize(
    ("description", "sizes"),
    [
        ("data=-1", (8, 1, 1, 1)),
        ("data=8", (8, 1, 1, 1)),
        ("data=2,model=4", (2, 1, 1, 4)),
        ("model=4,data=2", (2, 1, 1, 4)),
        (" data = 2 , fsdp = 2 , model = -1 ", (2, 2, 1, 2)),
        ("fsdp=-1,model=2", (1, 4, 1, 2)),
        ("model=2,sequence=2,data=-1", (2, 1, 2, 2)),
        ("data=-1,fsdp=2,model=4", (1, 2, 1, 4)),
        ("data=08", (8, 1, 1, 1)),
    ],
)
def test_sizes_of_a_description(description: str, sizes: tuple[int, ...]) -> None:
    parsed = parse_mesh(description, 8)
    assert list(parsed) == ["data", "fsdp", "sequence", "model"]
    assert tuple(parsed.values()) == sizes
    assert tuple(make_mesh(description).shape.values()) == sizes


@pytest.mark.parametrize(
    ("description", "fault"),
    [
        ("", "has no '='"),
        ("data", "'data' has no '='"),
        ("data=2,,model=4", "'' has no '='"),
        ("data=2;model=4", "size '2;model=4' of axis 'data'"),
        ("batch=2", "unknown axis 'batch', expected one of data, fsdp, sequence, model"),
        ("Data=8", "unknown axis 'Data'"),
        ("data=2,data=4", "axis 'data' is given twice"),
        ("data=0", "size '0' of axis 'data' is neither a positive integer nor -1"),
        ("data=-2", "size '-2'"),
        ("data=2.0", "size '2.0'"),
        ("data=1_0", "size '1_0'"),
        ("data=", "size ''"),
        ("data=-1,model=-1", "data and model both have size -1"),
        ("data=-1,model=3", "multiply to 3, which does not divide the number of devices, 8"),
        ("data=-1,model=16", "multiply to 16, which does not divide the number of devices, 8"),
        ("data=2,model=2", "has 4 places but there are 8 devices"),
        ("model=4", "has 4 places but there are 8 devices"),
        ("data=4,model=4", "has 16 places but there are 8 devices"),
    ],
)
def test_what_a_description_may_not_be(description: str, fault: str) -> None:
    with pytest.raises(InputError) as error:
        make_mesh(description)
    message = str(error.value)
    assert fault in message
    assert repr(description) in message
    assert "\n" not in message


def test_a_mesh_has_four_auto_axes_and_data_outermost() -> None:
    mesh = make_mesh("data=2,fsdp=2,model=2")
    assert mesh.axis_names == ("data", "fsdp", "sequence", "model")
    assert mesh.axis_types == (AxisType.Auto,) * 4
    ids = [device.id for device in mesh.devices.flat]
    assert ids == [device.id for device in jax.devices()]


def test_fewer_devices_only_when_they_are_named() -> None:
    mesh = make_mesh("data=2,model=2", devices=jax.devices()[4:])
    assert [device.id for device in mesh.devices.flat] == [4, 5, 6, 7]
    alone = make_mesh("data=-1", devices=jax.devices()[:1])
    assert dict(alone.shape) == {"data": 1, "fsdp": 1, "sequence": 1, "model": 1}


def test_the_current_mesh_is_the_one_that_was_set_or_one_device() -> None:
    assert current_mesh().size == 1
    mesh = make_mesh("data=2,model=4")
    with jax.set_mesh(mesh):
        assert current_mesh() == mesh
    assert np.prod(current_mesh().devices.shape) == 1


def test_an_abstract_mesh_takes_the_place_of_the_one_that_is_set() -> None:
    mesh = abstract_mesh("fsdp=16,sequence=4,model=-1", 256)
    assert dict(mesh.shape) == {"data": 1, "fsdp": 16, "sequence": 4, "model": 4}
    with pytest.raises(InputError, match="has 16 places but there are 256 devices"):
        abstract_mesh("model=16", 256)
    with jax.set_mesh(make_mesh("data=8")):
        with on_abstract_mesh(mesh):
            assert jax.sharding.get_abstract_mesh() == mesh
        assert jax.sharding.get_abstract_mesh().shape["data"] == 8
