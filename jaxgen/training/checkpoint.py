"""Checkpoints: the state of a run, its configuration and its small files, together in one folder.

The only module that knows Orbax, which is imported when first needed. A run has one folder of
checkpoints; each is a sub-folder named by its step, written under another name first and renamed
when complete, so that a process killed at any moment leaves the last complete one as it was::

    checkpoints/
      1200/ state/      arrays of the TrainState, by path
            run/        JSON: the configuration (`jaxgen.training.saved_configs`), small text files
            by
                        name, what the loop keeps on the host, which figure says what is best
            metrics/    JSON: figures of that step

Arrays are saved by path (``params/hidden/kernel``), whatever containers held them, and are loaded
into a tree of `jax.ShapeDtypeStruct` with shardings: on any mesh and any number of devices and
processes. Before anything is loaded, paths, shapes and dtypes are compared with what was saved.
"""

import contextlib
import logging
import math
import os
import pathlib
import textwrap
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
from jax.sharding import Mesh

from jaxgen.errors import InputError
from jaxgen.parallel import current_mesh, replicated
from jaxgen.training.saved_configs import Json, config_differences, config_from_json, config_to_json
from jaxgen.training.saved_trees import (
    Names,
    Padding,
    by_path,
    differences,
    flat,
    nested,
    padded_sizes,
)
from jaxgen.training.state import TrainState
from jaxgen.typing import Tree

Path = str | os.PathLike[str]
Mode = Literal["min", "max"]
Which = Literal["latest", "best"] | int

_STATE, _RUN = "state", "run"


@dataclass(frozen=True)
class LoadedModel:
    """What a checkpoint holds about a model.

    Attributes:
      config: the configuration that it was saved with.
      params: the parameters: the moving average where one was kept.
      files: the small files, name -> text.
      step: the step at which it was saved.
    """

    config: Any
    params: Tree
    files: Mapping[str, str]
    step: int


class Checkpoints:
    """The checkpoints of one run, for saving and resuming. Use it in a ``with`` block.

    Saving continues in the background; leaving the block waits for it. All processes of a run make
    the same calls.
    """

    def __init__(
        self,
        folder: Path,
        *,
        config: Any = None,
        may_differ: Collection[str] = (),
        files: Mapping[str, str] | None = None,
        keep: int = 3,
        metric: str | None = None,
        mode: Mode = "min",
    ):
        """Opens the folder, made if it does not exist.

        Args:
          folder: the run's checkpoints.
          config: the configuration to save; a dataclass. `load_model` gives it back.
          may_differ: fields of it that may differ from those of the checkpoints in the folder, by
            dotted name (``model.output_blocks``).
          files: small text files to save along, name -> content (a vocabulary).
          keep: how many of the latest checkpoints to keep, at least 1.
          metric: the figure by which the best checkpoint is known, which is kept besides.
          mode: whether the best is the smallest or the largest.

        Raises:
          InputError: for values out of range, for a folder that is a file, and where the folder
            holds checkpoints of another configuration, naming the fields that differ.
        """
        if keep < 1:
            raise InputError(f"keep is {keep}, expected at least 1 checkpoint")
        if mode not in ("min", "max"):
            raise InputError(f"mode is {mode!r}, expected one of min, max")
        self.folder = pathlib.Path(folder).absolute()
        if self.folder.exists() and not self.folder.is_dir():
            raise InputError(f"{self.folder} is a file, expected a folder for checkpoints")
        self._metric, self._mode, self._keep = metric, mode, keep
        self._run = {
            "config": config_to_json(config),
            "files": dict(files or {}),
            "metric": metric,
            "mode": mode,
        }
        self._checkpointer = _open(self.folder, preservation_policy=self)
        if config is not None and self.latest is not None:
            _check_same_config(self.folder / str(self.latest), config, may_differ)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def latest(self) -> int | None:
        """The step of the latest checkpoint, or None."""
        return max(_figures(self._checkpointer), default=None)

    @property
    def best(self) -> int | None:
        """The step of the best checkpoint, the earliest of equals, or None."""
        return _best(_figures(self._checkpointer), self._metric, self._mode)

    def save(
        self,
        state: TrainState,
        *,
        metrics: Mapping[str, float] | None = None,
        progress: Json = None,
    ) -> None:
        """Saves a state under its step; a step that is saved already is left alone.

        Returns when the arrays are copied, so the state may be donated to the next step.

        Args:
          state: the state.
          metrics: figures of this step. One that is not finite is never the best.
          progress: what else a resumed run needs, as JSON can hold it.
        """
        step = int(state.step)
        if step in _figures(self._checkpointer):
            return
        self._checkpointer.save_checkpointables_async(
            step,
            {_STATE: nested(by_path(state)), _RUN: {**self._run, "progress": progress}},
            force=True,
            metrics=dict(metrics or {}),
        )

    def restore(
        self, abstract: TrainState, which: Which = "latest", padding: Padding | None = None
    ) -> tuple[TrainState, Json]:
        """Loads a state.

        Args:
          abstract: shapes, dtypes and shardings of the state (`abstract_state`).
          which: which checkpoint.
          padding: which axes may have another length than they were saved with.

        Returns:
          The state, and the `progress` that was saved with it.

        Raises:
          FileNotFoundError: where there is no such checkpoint.
          InputError: where it cannot be read, and where it does not fit `abstract`, naming the
            first path, found and expected.
        """
        self.wait()
        folder = _choose(self.folder, _figures(self._checkpointer), which, self._metric, self._mode)
        return _load_tree(folder, abstract, (), padding), _load_run(folder)["progress"]

    def wait(self) -> None:
        """Waits until all that was saved is on disk."""
        self._checkpointer.wait()

    def close(self) -> None:
        """Waits, and lets go of the folder."""
        self._checkpointer.close()

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Orbax asks this: whether to keep each of its checkpoints, given in order of step."""
        best = _best({c.step: c.metrics or {} for c in checkpoints}, self._metric, self._mode)
        latest = [c.step for c in checkpoints][-self._keep :]
        return [c.step == best or c.step in latest for c in checkpoints]


def load_model(
    path: Path, which: Which = "latest", *, averaged: bool = True, mesh: Mesh | None = None
) -> LoadedModel:
    """Loads all that is needed to use a model; ``loaded.config.make_model()`` makes the module.

    Args:
      path: a run's folder of checkpoints, or one checkpoint of it.
      which: which one of the run's, where `path` is a run's folder.
      averaged: whether to load the moving average of the parameters where one was kept.
      mesh: every device of it gets the parameters whole; by default the current mesh. (To lay them
        out otherwise: `load_config`, then `load_params` with the layout's abstract parameters.)

    Raises:
      FileNotFoundError: where there is no such folder or no such checkpoint.
      InputError: where it cannot be read, or its configuration's class is gone or has other fields.
    """
    folder = _find(path, which)
    return LoadedModel(
        config=load_config(folder),
        params=load_params(folder, averaged=averaged, mesh=mesh),
        files=_load_run(folder)["files"],
        step=int(folder.name),
    )


def load_config(path: Path, which: Which = "latest") -> Any:
    """The configuration of a checkpoint; arguments and errors as for `load_model`."""
    folder = _find(path, which)
    data = _load_run(folder)["config"]
    if data is None:
        raise InputError(f"{folder} was saved without a configuration")
    return config_from_json(data, f"{folder}: configuration")


def load_params(
    path: Path,
    abstract: Tree | None = None,
    *,
    which: Which = "latest",
    averaged: bool = True,
    padding: Padding | None = None,
    mesh: Mesh | None = None,
) -> Tree:
    """The parameters of a checkpoint.

    Args:
      path: a run's folder of checkpoints, or one checkpoint of it.
      abstract: their shapes, dtypes and shardings (`Layout.abstract`); None: as they were saved,
        whole on every device of `mesh`.
      which: which one of the run's, where `path` is a run's folder.
      averaged: whether to load the moving average where one was kept.
      padding: which axes may have another length than they were saved with.
      mesh: see `abstract`; by default the current mesh.

    Raises:
      FileNotFoundError, InputError: as `Checkpoints.restore`.
    """
    folder = _find(path, which)
    saved = _saved_arrays(folder)
    part = "ema" if averaged and any(names[0] == "ema" for names in saved) else "params"
    if abstract is None:
        whole = replicated(mesh or current_mesh())
        abstract = nested(
            {
                names[1:]: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=whole)
                for names, array in saved.items()
                if names[0] == part
            }
        )
    return _load_tree(folder, abstract, (part,), padding)


def _orbax() -> Any:
    """Orbax, imported here: it takes longer than all the rest of this package."""
    from orbax.checkpoint import v1

    return v1


def _context(*, padding: bool = False) -> Any:
    """Orbax's options: small things as JSON, parts of a tree may be loaded."""
    ocp = _orbax()
    registry = ocp.handlers.local_registry()
    registry.add(ocp.handlers.JsonHandler, checkpointable_name=_RUN)
    context = ocp.Context()
    context.checkpointables.registry = registry
    context.pytree.loading.partial_load = True
    context.array.loading.enable_padding_and_truncation = padding
    return context


def _open(folder: pathlib.Path, **options: Any) -> Any:
    with _reading(folder, "its checkpoints"):
        return _orbax().training.Checkpointer(
            folder, context=_context(), cleanup_tmp_directories=bool(options), **options
        )


@contextlib.contextmanager
def _reading(folder: pathlib.Path, what: str) -> Iterator[None]:
    """Turns whatever goes wrong inside into one line that names the folder and what is read."""
    logger = logging.getLogger("absl")  # Orbax's; it warns at length of what is raised anyway
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        reason = textwrap.shorten(f"{type(error).__name__}: {error}", 160)
        raise InputError(f"{folder}: cannot read {what} ({reason})") from error
    finally:
        logger.setLevel(level)


def _figures(checkpointer: Any) -> dict[int, Mapping[str, float]]:
    """Step -> the figures saved with it."""
    return {c.step: c.metrics or {} for c in checkpointer.checkpoints}


def _best(figures: Mapping[int, Mapping[str, float]], metric: str | None, mode: Mode) -> int | None:
    """The step with the best finite value, the earliest of equals."""
    sign = 1 if mode == "min" else -1
    ranked = [
        (sign * values[metric], step)
        for step, values in figures.items()
        if metric is not None and math.isfinite(values.get(metric, math.nan))
    ]
    return min(ranked)[1] if ranked else None


def _find(path: Path, which: Which) -> pathlib.Path:
    """The folder of one checkpoint, from its own path or its run's."""
    folder = pathlib.Path(path).absolute()
    if not folder.exists():
        raise FileNotFoundError(f"{folder}: no such folder of checkpoints")
    if not folder.is_dir():
        raise InputError(f"{folder} is a file, expected a folder of checkpoints")
    if folder.name.isdecimal() and (folder / _STATE).is_dir():
        return folder
    with _open(folder) as checkpointer:
        figures = _figures(checkpointer)
    if not figures:
        raise InputError(f"{folder} holds no checkpoint, expected a folder of checkpoints")
    run = _load_run(folder / str(max(figures))) if which == "best" else {}
    return _choose(folder, figures, which, run.get("metric"), run.get("mode", "min"))


def _choose(
    folder: pathlib.Path,
    figures: Mapping[int, Mapping[str, float]],
    which: Which,
    metric: str | None,
    mode: Mode,
) -> pathlib.Path:
    """The folder of the checkpoint that is asked for."""
    steps = ", ".join(map(str, sorted(figures))) or "none"
    step = max(figures, default=None) if which == "latest" else which
    if which == "best":
        step = _best(figures, metric, mode)
        if step is None:
            raise FileNotFoundError(f"{folder}: no checkpoint is the best by {metric!r}")
    if step not in figures:
        raise FileNotFoundError(f"{folder}: no checkpoint {which!r}; there are: {steps}")
    return folder / str(step)


def _load_run(folder: pathlib.Path) -> Json:
    """The JSON beside the arrays."""
    with _reading(folder, "its configuration"), _context():
        return _orbax().load_checkpointables(folder, {_RUN: None})[_RUN]


def _check_same_config(folder: pathlib.Path, config: Any, may_differ: Collection[str]) -> None:
    differing = config_differences(load_config(folder), config)
    lines = [
        f"{name}: {found!r}, expected {expected!r}"
        for name, (found, expected) in differing.items()
        if name not in may_differ
    ]
    if lines:
        raise InputError(f"{folder} was saved by another configuration: {'; '.join(lines)}")


def _saved_arrays(folder: pathlib.Path) -> dict[Names, Any]:
    """Path -> shape and dtype of every array of a checkpoint."""
    with _reading(folder, "its arrays"), _context():
        metadata = _orbax().checkpointables_metadata(folder).metadata[_STATE]
        if metadata is None:
            raise InputError(f"{folder}: cannot read its arrays (damaged files)")
        return flat(metadata)


def _load_tree(
    folder: pathlib.Path, abstract: Tree, prefix: Names, padding: Padding | None
) -> Tree:
    """The arrays below a path, as a tree like `abstract`."""
    expected = {prefix + names: leaf for names, leaf in by_path(abstract).items()}
    saved = {n: array for n, array in _saved_arrays(folder).items() if n[: len(prefix)] == prefix}
    problems = differences(saved, expected, padded_sizes(expected, abstract, padding))
    if problems:
        more = f" (and {len(problems) - 1} more differences)" if len(problems) > 1 else ""
        raise InputError(f"{folder}: {problems[0]}{more}")
    with _reading(folder, "its arrays"), _context(padding=padding is not None):
        loaded = _orbax().load_checkpointables(folder, {_STATE: nested(expected)})[_STATE]
    arrays = flat(loaded)
    return jax.tree.unflatten(jax.tree.structure(abstract), [arrays[n] for n in expected])
