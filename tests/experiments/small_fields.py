"""The program of radiance fields with a coarse occupancy grid, and fewer rays and points at a time.

python small_fields.py FLAGS
"""

import functools
from collections.abc import Callable
from typing import Any

from experiments.nerf import train
from experiments.nerf.support import field_flags, field_meshes, field_training
from experiments.shared import launch
from jaxgen.data import Scene, load_scene
from jaxgen.nerf import OccupancyConfig

traced = functools.cache(load_scene)


def load(name: str, **options: Any) -> Scene:
    """A scene; the one that is traced, once."""
    return (traced if name == "shapes" else load_scene)(name, **options)


def make_smaller(change: Callable[[Any, str, Any], None] = setattr) -> None:
    """Changes what no flag says: rays of an evaluation, points of a mesh, cells and steps."""
    change(train, "load_scene", load)
    small = functools.partial(OccupancyConfig, resolution=16, steps=64)
    change(field_training, "VALIDATION_RAYS", 256)
    change(field_meshes, "POINTS_AT_A_TIME", 2**12)
    change(field_flags, "OccupancyConfig", small)


if __name__ == "__main__":
    make_smaller()
    launch.run(train.main, train.Config)
