"""Meshes of devices, made in one place.

Every mesh of this library has the four axes of `jaxgen.axes.MESH_AXES` in the same order,
``data``, ``fsdp``, ``sequence``, ``model``; an axis that nobody asked for has size one. So one
device in a notebook and a pod run the same code, and a rule or a `PartitionSpec` may always name
any of the four.

The axes have type *Auto*: the compiler spreads what is not written down. `jax.make_mesh` alone
would give *Explicit* axes, on which Linen's Dense, Embed and Dropout fail.
"""

import contextlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh

from jaxgen.axes import BATCH_MESH_AXES, DATA, FSDP, MESH_AXES
from jaxgen.errors import InputError

_FORM = "expected sizes by axis such as 'data=2,model=4', with -1 for the rest"


def parse_mesh(description: str, num_devices: int) -> dict[str, int]:
    """Sizes of all mesh axes from a short description.

    Args:
      description: Comma-separated ``axis=size``; the axes are ``data``, ``fsdp``, ``sequence`` and
        ``model`` in any order. At most one size may be -1: it takes all devices that the others
        leave. An axis that is not named has size 1.
      num_devices: How many devices the mesh is made of; the sizes multiply to it.

    Returns:
      Axis -> size, for all four axes in the order of `MESH_AXES`.

    Raises:
      InputError: For anything else, naming the part of the description that is wrong.

    Example:
      >>> parse_mesh("data=-1,model=2", 8)
      {'data': 4, 'fsdp': 1, 'sequence': 1, 'model': 2}
    """
    sizes = _written_sizes(description)
    free = [axis for axis, size in sizes.items() if size == -1]
    if len(free) > 1:
        raise InputError(
            f"mesh {description!r}: {' and '.join(free)} both have size -1, "
            "expected at most one axis that takes the rest of the devices"
        )
    product = math.prod(size for size in sizes.values() if size != -1)
    if free and num_devices % product == 0:
        sizes[free[0]] = num_devices // product
    elif free:
        raise InputError(
            f"mesh {description!r}: the sizes given multiply to {product}, which does not divide "
            f"the number of devices, {num_devices}"
        )
    elif product != num_devices:
        raise InputError(
            f"mesh {description!r} has {product} places but there are {num_devices} devices, "
            "expected equal numbers (-1 as one size takes all that the other axes leave)"
        )
    return {axis: sizes.get(axis, 1) for axis in MESH_AXES}


def mesh_places(description: str) -> int:
    """How many devices a mesh takes whose sizes are all written down.

    Raises:
      InputError: as `parse_mesh`, and for a size of -1.
    """
    sizes = _written_sizes(description)
    if -1 in sizes.values():
        raise InputError(
            f"mesh {description!r}: -1 stands for the rest of the devices, expected a number here"
        )
    return math.prod(sizes.values())


def _written_sizes(description: str) -> dict[str, int]:
    """The axes and sizes that a description names, -1 kept."""
    sizes: dict[str, int] = {}
    for part in description.split(","):
        axis, equals, size = (piece.strip() for piece in part.partition("="))
        if not equals:
            raise InputError(f"mesh {description!r}: {part.strip()!r} has no '='; {_FORM}")
        if axis not in MESH_AXES:
            raise InputError(
                f"mesh {description!r}: unknown axis {axis!r}, "
                f"expected one of {', '.join(MESH_AXES)}"
            )
        if axis in sizes:
            raise InputError(f"mesh {description!r}: axis {axis!r} is given twice; {_FORM}")
        if not re.fullmatch(r"-1|0*[1-9][0-9]*", size):
            raise InputError(
                f"mesh {description!r}: size {size!r} of axis {axis!r} is neither a positive "
                "integer nor -1"
            )
        sizes[axis] = int(size)
    return sizes


def make_mesh(description: str = "data=-1", devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh with the axes ``data``, ``fsdp``, ``sequence``, ``model``, all of type Auto.

    All devices of all processes are used. A smaller mesh has to be asked for, by passing `devices`:
    a mesh that leaves devices idle is far more often a typo. On TPU, JAX places the axes
    to suit the wiring; on several slices, which a slower network connects, `data` is spread over
    the slices, or else `fsdp`; elsewhere `data` is the outermost axis over devices ordered by
    process, so each process's devices are contiguous and `model`, the axis that talks most, stays
    inside a process as far as its size allows.

    Args:
      description: See `parse_mesh`. The default is plain data parallelism.
      devices: Which devices to use; by default every device there is.

    Returns:
      The mesh, to be set with ``jax.set_mesh(mesh)`` or passed on.

    Raises:
      InputError: If the description is malformed or does not fit the number of devices, or if
        neither `data` nor `fsdp` is a multiple of the number of slices.
    """
    if devices is None:
        devices = jax.devices()
    sizes = parse_mesh(description, len(devices))
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices > 1:
        placed = _place_on_slices(sizes, slices, devices)
        return Mesh(placed, tuple(sizes), axis_types=(AxisType.Auto,) * len(sizes))
    return jax.make_mesh(
        tuple(sizes.values()),
        tuple(sizes),
        axis_types=(AxisType.Auto,) * len(sizes),
        devices=devices,
    )


def _place_on_slices(
    sizes: Mapping[str, int], slices: int, devices: Sequence[jax.Device]
) -> np.ndarray:
    """Devices by place on the mesh, each slice in one part of ``data`` or ``fsdp``."""
    axis = next((axis for axis in BATCH_MESH_AXES if sizes[axis] % slices == 0), None)
    if axis is None:
        raise InputError(
            f"mesh has data={sizes[DATA]},fsdp={sizes[FSDP]}, expected one of the two to be a "
            f"multiple of {slices}, the number of slices that the devices are in"
        )
    between = {name: slices if name == axis else 1 for name in sizes}
    within = [size // between[name] for name, size in sizes.items()]
    return mesh_utils.create_hybrid_device_mesh(within, tuple(between.values()), devices)


def abstract_mesh(description: str, num_devices: int) -> AbstractMesh:
    """A mesh without devices: for shapes, shardings and sizes of programs too large to run here.

    Args:
      description: See `parse_mesh`.
      num_devices: How many devices it stands for.

    Raises:
      InputError: As `parse_mesh`.
    """
    sizes = parse_mesh(description, num_devices)
    axis_types = (AxisType.Auto,) * len(sizes)
    return AbstractMesh(tuple(sizes.values()), tuple(sizes), axis_types=axis_types)


@contextlib.contextmanager
def on_abstract_mesh(mesh: AbstractMesh) -> Iterator[None]:
    """Programs are followed (`jax.eval_shape`) as on a mesh, in place of the one that is set."""
    with jax.set_mesh(None), jax.sharding.use_abstract_mesh(mesh):
        yield


def current_mesh() -> Mesh:
    """The mesh set by ``jax.set_mesh``, or a mesh of the first local device where none is set.

    To be called outside of jit, where a concrete mesh exists.
    """
    mesh = jax.sharding.get_mesh()
    if isinstance(mesh, Mesh) and not mesh.empty:
        return mesh
    return make_mesh("data=1", devices=jax.local_devices()[:1])
