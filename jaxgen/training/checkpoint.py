"""Checkpoints: the state of a run, its configuration and its small files, together in one folder.

A run has one folder of checkpoints; each is a sub-folder named by its step, written under another
name first and renamed when complete (in a bucket: marked when complete), so that a process killed
at any moment leaves the last complete one as it was::

    checkpoints/
      1200/ state/      arrays of the TrainState, by path
            run/        JSON: the configuration (`jaxgen.training.saved_configs`), small text files
            by
                        name, what the loop keeps on the host, which figure says what is best,
                        and digests of the arrays and of this file
            metrics/    JSON: figures of that step

Arrays are saved by path (``params/hidden/kernel``), whatever containers held them, and are loaded
into a tree of `jax.ShapeDtypeStruct` with shardings: on any mesh and any number of devices and
processes. Before anything is loaded, paths, shapes and dtypes are compared with what was saved;
afterwards the digests (`jaxgen.training.array_digests`) are, so that damage of the files is not
taken for numbers. Checkpoints of before there were digests open without that.
"""

import math
import os
import pathlib
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import jax
from jax.sharding import Mesh

from jaxgen.errors import InputError
from jaxgen.files import as_path, is_remote
from jaxgen.parallel import current_mesh, is_main_process, replicated
from jaxgen.training.checkpoint_files import (
    RUN,
    STATE,
    DamagedError,
    Figures,
    errors_in_one_line,
    figures_of,
    newest_intact,
    open_checkpointer,
    read_run,
    read_tree,
    saved_arrays,
    verify_figures,
    write,
)
from jaxgen.training.saved_configs import Json, config_differences, config_from_json, config_to_json
from jaxgen.training.saved_trees import Padding, nested
from jaxgen.training.state import TrainState
from jaxgen.typing import Tree

T = TypeVar("T")
Path = str | os.PathLike[str]
Mode = Literal["min", "max"]
Which = Literal["latest", "best", "intact"] | int
"""A checkpoint of a run: the latest, the best, the newest undamaged one, or that of a step."""


@dataclass(frozen=True)
class LoadedModel:
    """What a checkpoint holds about a model.

    Attributes:
      config: the configuration that it was saved with.
      params: the parameters: the moving average where one was kept.
      files: the small files, name -> text.
      step: the step at which it was saved.
      variables: the state's variables, or None where it had none; with Flax
        ``apply({"params": params, **variables}, ...)``.
    """

    config: Any
    params: Tree
    files: Mapping[str, str]
    step: int
    variables: Tree | None = None


class Checkpoints:
    """The checkpoints of one run, for saving and resuming. Use it in a ``with`` block.

    Saving continues in the background; leaving the block waits for it. All processes of a run make
    the same calls. What cannot be written (a full disk) is an `OSError` that names the folder, of
    the call that finds it: the next `save`, `wait` or `close`.

    Attributes:
      folder: where they are, an absolute path.
      metric: the figure by which the best is known, or None.
      mode: whether the best is the smallest or the largest.
    """

    def __init__(
        self,
        folder: Path,
        *,
        config: Any = None,
        may_differ: Collection[str] = (),
        files: Mapping[str, str] | None = None,
        keep: int = 3,
        keep_every: int = 0,
        metric: str | None = None,
        mode: Mode = "min",
    ):
        """Opens the folder, made if it does not exist.

        Args:
          folder: the run's checkpoints; local, or ``gs://BUCKET/...``.
          config: the configuration to save; a dataclass. `load_model` gives it back.
          may_differ: fields of it that may differ from those of the checkpoints in the folder, by
            dotted name (``model.output_blocks``).
          files: small text files to save along, name -> content (a vocabulary).
          keep: how many of the latest checkpoints to keep, at least 1.
          keep_every: checkpoints of multiples of so many steps are kept besides; 0 for none.
          metric: the figure by which the best checkpoint is known, which is kept besides.
          mode: whether the best is the smallest or the largest.

        Raises:
          InputError: for values out of range, for a folder that is a file, and where the folder
            holds checkpoints of another configuration, naming the fields that differ.
        """
        if keep < 1:
            raise InputError(f"keep is {keep}, expected at least 1 checkpoint")
        if keep_every < 0:
            raise InputError(f"keep_every is {keep_every}, expected 0 or more")
        if mode not in ("min", "max"):
            raise InputError(f"mode is {mode!r}, expected one of min, max")
        self.folder = _folder(folder)
        if self.folder.exists() and not self.folder.is_dir():
            raise InputError(f"{self.folder} is a file, expected a folder for checkpoints")
        self.metric, self.mode, self._keep, self._keep_every = metric, mode, keep, keep_every
        self._damaged: set[int] = set()
        self._run = {
            "config": config_to_json(config),
            "files": dict(files or {}),
            "metric": metric,
            "mode": mode,
        }
        self._checkpointer = open_checkpointer(self.folder, preservation_policy=self)
        if metric is not None:
            _verify_figures(self.folder, figures_of(self._checkpointer))
        if config is not None and self.latest is not None:
            _check_same_config(self.folder, config, may_differ)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def latest(self) -> int | None:
        """The step of the latest checkpoint, or None."""
        return max(figures_of(self._checkpointer), default=None)

    @property
    def best(self) -> int | None:
        """The step of the best checkpoint, the earliest of equals, or None."""
        return _best(figures_of(self._checkpointer), self.metric, self.mode)

    def save(
        self,
        state: TrainState,
        *,
        metrics: Mapping[str, float] | None = None,
        progress: Json = None,
    ) -> None:
        """Saves a state under its step.

        A step that is saved already is left alone, unless it was found damaged or there are figures
        now that it lacks: then it is rewritten. Returns when the arrays are copied, so the state
        may be donated to the next step.

        Args:
          state: the state.
          metrics: figures of this step. One that is not finite is never the best.
          progress: what else a resumed run needs, as JSON can hold it.
        """
        figures, saved = metrics or {}, figures_of(self._checkpointer).get(int(state.step))
        damaged = int(state.step) in self._damaged
        if saved is not None and set(figures) <= set(saved) and not damaged:
            return
        self._damaged.discard(int(state.step))
        run = {**self._run, "progress": progress}
        with errors_in_one_line(self.folder):
            write(self._checkpointer, state, run, figures, overwrite=saved is not None)

    def restore(
        self, abstract: TrainState, which: Which = "latest", padding: Padding | None = None
    ) -> tuple[TrainState, Json]:
        """Loads a state.

        Args:
          abstract: shapes, dtypes and shardings of the state (`abstract_state`).
          which: which checkpoint. Those that "intact" passes over, with a warning for each, are
            replaced or removed as others are saved.
          padding: which axes may have another length than they were saved with.

        Returns:
          The state, and the `progress` that was saved with it.

        Raises:
          FileNotFoundError: where there is no such checkpoint.
          InputError: where it cannot be read or is damaged, naming the newest that is not; and
            where it does not fit `abstract`, naming the first path, found and expected.
        """

        def read(folder: pathlib.Path) -> tuple[TrainState, Json]:
            return read_tree(folder, abstract, (), padding), read_run(folder)["progress"]

        self.wait()
        figures = figures_of(self._checkpointer)
        if which == "intact" and figures:
            found, damaged = _newest_intact(self.folder, figures, read)
            self._damaged |= damaged
            return found
        return _read(_choose(self.folder, figures, which, self.metric, self.mode), read)

    def wait(self) -> None:
        """Waits until all that was saved is on disk."""
        with errors_in_one_line(self.folder):
            self._checkpointer.wait()

    def close(self) -> None:
        """Waits, and lets go of the folder."""
        with errors_in_one_line(self.folder):
            self._checkpointer.close()

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Orbax asks this: whether to keep each of its checkpoints, given in order of step."""
        best = _best({c.step: c.metrics or {} for c in checkpoints}, self.metric, self.mode)
        intact = [c.step for c in checkpoints if c.step not in self._damaged]
        every = self._keep_every
        kept = {best, *intact[-self._keep :], *(s for s in intact if every and s % every == 0)}
        return [c.step in kept for c in checkpoints]


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
      InputError: where it cannot be read or is damaged, naming the newest that is not, or where its
        configuration's class is gone or has other fields.
    """
    return _load(
        path,
        which,
        lambda folder: LoadedModel(
            config=_read_config(folder),
            params=_read_params(folder, None, averaged, None, mesh),
            files=read_run(folder)["files"],
            step=int(folder.name),
            variables=_read_variables(folder, mesh),
        ),
    )


def load_config(path: Path, which: Which = "latest") -> Any:
    """The configuration of a checkpoint; arguments and errors as for `load_model`."""
    return _load(path, which, _read_config)


def _read_config(folder: pathlib.Path) -> Any:
    data = read_run(folder)["config"]
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
    return _load(
        path, which, lambda folder: _read_params(folder, abstract, averaged, padding, mesh)
    )


def load_variables(path: Path, which: Which = "latest", *, mesh: Mesh | None = None) -> Tree | None:
    """The state's variables, as `LoadedModel` has them: for parameters that `load_params` lays out.

    Arguments and errors as for `load_model`.
    """
    return _load(path, which, lambda folder: _read_variables(folder, mesh))


def _read_params(
    folder: pathlib.Path,
    abstract: Tree | None,
    averaged: bool,
    padding: Padding | None,
    mesh: Mesh | None,
) -> Tree:
    part = (
        "ema" if averaged and any(names[0] == "ema" for names in saved_arrays(folder)) else "params"
    )
    if abstract is None:
        abstract = _as_it_was_saved(folder, part, mesh)
    return read_tree(folder, abstract, (part,), padding)


def _read_variables(folder: pathlib.Path, mesh: Mesh | None) -> Tree | None:
    abstract = _as_it_was_saved(folder, "variables", mesh)
    return read_tree(folder, abstract, ("variables",), None) if abstract else None


def _as_it_was_saved(folder: pathlib.Path, part: str, mesh: Mesh | None) -> Tree:
    """Shapes and dtypes of a part of the state, whole on every device; {} where there is none."""
    whole = replicated(mesh or current_mesh())
    return nested(
        {
            names[1:]: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=whole)
            for names, array in saved_arrays(folder).items()
            if names[0] == part
        }
    )


def _load(path: Path, which: Which, read: Callable[[pathlib.Path], T]) -> T:
    """What is in the checkpoint that is asked for, from its own path or its run's."""
    folder = _find(path, "latest" if which == "intact" else which)
    if which != "intact" or folder == _folder(path):
        return _read(folder, read)
    with open_checkpointer(folder.parent) as checkpointer:
        figures = figures_of(checkpointer)
    return _newest_intact(folder.parent, figures, read)[0]


def _newest_intact(
    folder: pathlib.Path, figures: Figures, read: Callable[[pathlib.Path], T]
) -> tuple[T, set[int]]:
    """What is in the newest checkpoint that can be read, and which newer ones are damaged."""
    damaged: dict[int, DamagedError] = {}
    for step in sorted(figures, reverse=True):
        try:
            found = read(folder / str(step))
        except DamagedError as error:
            damaged[step] = error
            continue
        if is_main_process():
            for fault in damaged.values():
                print(f"warning: {fault}; using step {step}", file=sys.stderr, flush=True)
        return found, {*damaged}
    raise InputError(f"{damaged[max(damaged)]}; no other checkpoint of the run is intact")


def _read(folder: pathlib.Path, read: Callable[[pathlib.Path], T]) -> T:
    """What is in a checkpoint; one that is damaged is never passed over, but another is named."""
    try:
        return read(folder)
    except DamagedError as error:
        raise InputError(f"{error}; {newest_intact(folder, read)}") from error


def _best(figures: Figures, metric: str | None, mode: Mode) -> int | None:
    """The step with the best finite value, the earliest of equals."""
    sign = 1 if mode == "min" else -1
    ranked = [
        (sign * values[metric], step)
        for step, values in figures.items()
        if metric is not None and math.isfinite(values.get(metric, math.nan))
    ]
    return min(ranked)[1] if ranked else None


def _folder(path: Path) -> pathlib.Path:
    """A folder as Orbax wants it: absolute, and nowhere that it would take for a local one."""
    folder = as_path(path)
    if not is_remote(folder):
        return folder.absolute()
    if os.fspath(folder).startswith("s3://"):
        raise InputError(
            f"{folder}: Orbax writes no arrays to s3://, expected gs:// or a local path"
        )
    return folder


def _find(path: Path, which: Which) -> pathlib.Path:
    """The folder of one checkpoint, from its own path or its run's."""
    folder = _folder(path)
    if not folder.exists():
        raise FileNotFoundError(f"{folder}: no such folder of checkpoints")
    if not folder.is_dir():
        raise InputError(f"{folder} is a file, expected a folder of checkpoints")
    if folder.name.isdecimal() and (folder / STATE).is_dir():
        return folder
    with open_checkpointer(folder) as checkpointer:
        figures = figures_of(checkpointer)
    if not any((folder / str(step) / part).is_dir() for step in figures for part in (STATE, RUN)):
        raise InputError(f"{folder} holds no checkpoint, expected a folder of checkpoints")
    run = read_run(folder / str(max(figures))) if which == "best" else {}
    return _choose(folder, figures, which, run.get("metric"), run.get("mode", "min"))


def _verify_figures(folder: pathlib.Path, figures: Figures) -> None:
    for step in sorted(figures, reverse=True):
        _read(folder / str(step), lambda f: verify_figures(f, figures))


def _choose(
    folder: pathlib.Path,
    figures: Figures,
    which: Which,
    metric: str | None,
    mode: Mode,
) -> pathlib.Path:
    """The folder of the checkpoint that is asked for."""
    steps = ", ".join(map(str, sorted(figures))) or "none"
    step = max(figures, default=None) if which == "latest" else which
    if which == "best":
        _verify_figures(folder, figures)
        step = _best(figures, metric, mode)
        if step is None:
            raise FileNotFoundError(f"{folder}: no checkpoint is the best by {metric!r}")
    if step not in figures:
        raise FileNotFoundError(f"{folder}: no checkpoint {which!r}; there are: {steps}")
    return folder / str(step)


def _check_same_config(folder: pathlib.Path, config: Any, may_differ: Collection[str]) -> None:
    differing = config_differences(load_config(folder, "intact"), config)
    lines = [
        f"{name}: {found!r}, expected {expected!r}"
        for name, (found, expected) in differing.items()
        if name not in may_differ
    ]
    if lines:
        raise InputError(f"{folder} was saved by another configuration: {'; '.join(lines)}")
