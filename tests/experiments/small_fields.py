"""The program of radiance fields with a coarse occupancy grid, and fewer rays and points at a time.

python small_fields.py [--kill-at STEP] FLAGS

With --kill-at it ends by SIGKILL at the first record from that step on, as soon as there is a
checkpoint.
"""

import functools
import os
import pathlib
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from experiments.nerf import train
from experiments.nerf.support import field_flags, field_meshes, field_training
from experiments.shared import launch, training_runs
from jaxgen.data import Scene, load_scene
from jaxgen.nerf import OccupancyConfig
from jaxgen.training import Checkpoints

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


def make_deadly(step: int) -> None:
    """Lets the training be killed at a step, while or after it saves."""
    fit = training_runs.fit

    def kill(folder: pathlib.Path, record: dict[str, Any]) -> None:
        if record["step"] < step:
            return
        while not any(path.name.isdigit() for path in folder.iterdir()):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)

    def deadly(*arguments: Any, checkpoints: Checkpoints, **options: Any) -> Any:
        folder = pathlib.Path(str(checkpoints.folder))
        callbacks = [lambda record, state: kill(folder, record)]
        return fit(*arguments, checkpoints=checkpoints, callbacks=callbacks, **options)

    training_runs.fit = deadly


if __name__ == "__main__":
    make_smaller()
    if sys.argv[1:2] == ["--kill-at"]:
        make_deadly(int(sys.argv[2]))
        del sys.argv[1:3]
    launch.run(train.main, train.Config)
