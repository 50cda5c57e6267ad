"""Reading and writing the files of one checkpoint, each fault one line that names the folder.

The only module that knows Orbax, which is imported when first needed.
"""

import contextlib
import errno
import json
import logging
import os
import pathlib
import re
import shutil
import textwrap
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array

from jaxgen.errors import InputError
from jaxgen.files import is_remote
from jaxgen.parallel import gather_texts, is_main_process
from jaxgen.training.array_digests import digests, mesh_of
from jaxgen.training.saved_configs import Json
from jaxgen.training.saved_trees import (
    Names,
    Padding,
    by_path,
    differences,
    flat,
    nested,
    padded_sizes,
)
from jaxgen.typing import Tree

STATE, RUN = "state", "run"

Figures = dict[int, Mapping[str, float]]
"""Step -> the figures saved with it."""


_UNFINISHED = re.compile(r"\d+\.orbax-checkpoint-tmp(-\d+)?")


class DamagedError(InputError):
    """A checkpoint that cannot be read, or is not what was saved."""


def open_checkpointer(folder: pathlib.Path, **options: Any) -> Any:
    """Orbax's view of a run's checkpoints; with options it is for writing."""
    if options:
        _remove_unfinished(folder)
    with _reading(folder, "its checkpoints"), _naming_bad_figures(folder):
        return _orbax().training.Checkpointer(
            folder, context=_context(), cleanup_tmp_directories=bool(options), **options
        )


def _remove_unfinished(folder: pathlib.Path) -> None:
    """Removes what killed runs were saving. Orbax does it too, but only in time for the next save.

    In a bucket Orbax alone does, where unfinished checkpoints have no name of their own.
    """
    if is_main_process() and not is_remote(folder) and folder.is_dir():
        for path in folder.iterdir():
            if _UNFINISHED.fullmatch(path.name):
                shutil.rmtree(path)


def figures_of(checkpointer: Any) -> Figures:
    """The figures of every checkpoint.

    Raises:
      InputError: for what is no figure, naming the checkpoint.
    """
    found = {c.step: {} if c.metrics is None else c.metrics for c in checkpointer.checkpoints}
    for step, figures in found.items():
        if not _is_mapping_of(_is_number)(figures):
            folder = checkpointer.directory / str(step)
            odd = f"{folder}/metrics: {_short(figures)}, expected numbers by name"
            raise InputError(f"{odd}; {newest_intact(folder, read_run)}")
    return found


def verify_figures(folder: pathlib.Path, figures: Figures) -> None:
    """Compares the figures of one checkpoint, by which the best is known, with those in its JSON.

    Raises:
      InputError: where they differ.
    """
    found = figures.get(int(folder.name), {})
    expected = read_run(folder).get("figures", found)
    if _digest_of_json(found) != _digest_of_json(expected):
        raise DamagedError(f"{folder / 'metrics'}: {_short(found)}, expected {_short(expected)}")


def write(
    checkpointer: Any,
    state: Tree,
    run: Mapping[str, Json],
    figures: Mapping[str, float],
    overwrite: bool,
) -> None:
    """Starts to save a state and the JSON beside it, with the digests of both."""
    arrays = by_path(state)
    found = digests(arrays.values())
    sums = {"/".join(names): digest for names, digest in zip(arrays, found, strict=True)}
    if overwrite:
        checkpointer.wait()  # it may be that step which is still being saved
    data = json.loads(json.dumps({**run, "figures": figures, "digests": sums}))
    checkpointer.save_checkpointables_async(
        int(state.step),
        {STATE: nested(arrays), RUN: {**data, "digest": _digest_of_json(data)}},
        force=True,
        overwrite=overwrite,
        metrics=dict(figures),
    )


def read_run(folder: pathlib.Path) -> dict[str, Json]:
    """The JSON beside the arrays: config, files, metric, mode, progress, figures, digests.

    Raises:
      InputError: where it cannot be read, or is not what was saved.
    """
    with _reading(folder, "its configuration"), _context():
        data = _orbax().load_checkpointables(folder, {RUN: None})[RUN]
    where = f"{folder / RUN}: "
    if not isinstance(data, dict):
        raise DamagedError(f"{where}{_short(data)}, expected a JSON object")
    saved_digest = data.pop("digest", None)  # neither this nor `digests` in the first format
    expected = _digest_of_json(data) if "digests" in data else None
    if saved_digest != expected:
        raise DamagedError(f"{where}digest is {_short(saved_digest)}, expected {expected}")
    for name, (fits, what) in _FIELDS.items():
        if not fits(data.get(name)):
            raise DamagedError(f"{where}{name} is {_short(data.get(name))}, expected {what}")
    return data


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_mapping_of(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, dict) and all(map(fits, value.values()))


_FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "config": (lambda x: x is None or isinstance(x, dict), "a JSON object"),
    "files": (_is_mapping_of(lambda x: isinstance(x, str)), "texts by name"),
    "metric": (lambda x: x is None or isinstance(x, str), "the name of a figure"),
    "mode": (lambda x: x in ("min", "max"), "min or max"),
    "digests": (lambda x: x is None or _is_mapping_of(_is_number)(x), "numbers by name"),
}
"""What `read_run` gives back besides ``progress``: whether a value fits, and what is expected."""


def _digest_of_json(data: Mapping[str, Json]) -> int:
    return zlib.crc32(json.dumps(data, sort_keys=True).encode())


def saved_arrays(folder: pathlib.Path) -> dict[Names, Any]:
    """Path -> shape and dtype of every array of a checkpoint."""
    with _reading(folder, "its arrays"), _context():
        metadata = _orbax().checkpointables_metadata(folder).metadata[STATE]
        if metadata is None:
            raise DamagedError(f"{folder}: cannot read its arrays (damaged files)")
        return flat(metadata)


def read_tree(folder: pathlib.Path, abstract: Tree, prefix: Names, padding: Padding | None) -> Tree:
    """The arrays below a path, as a tree like `abstract`; each verified by its digest.

    Raises:
      InputError: where they cannot be read, do not fit `abstract`, or are not what was saved.
    """
    sums = read_run(folder).get("digests")
    expected = {prefix + names: leaf for names, leaf in by_path(abstract).items()}
    saved = {n: array for n, array in saved_arrays(folder).items() if n[: len(prefix)] == prefix}
    problems = differences(saved, expected, padded_sizes(expected, abstract, padding))
    if problems:
        more = f" (and {len(problems) - 1} more differences)" if len(problems) > 1 else ""
        raise InputError(f"{folder}: {problems[0]}{more}")
    wanted = nested({names: _as_saved(saved[names], leaf) for names, leaf in expected.items()})
    shardings = [leaf.sharding for leaf in jax.tree.leaves(wanted)]
    shared = [s is not None and not s.is_fully_addressable for s in shardings]
    read = _read_together if any(shared) else _read_arrays
    arrays = read(folder, wanted)
    if sums is not None:
        _verify(folder, {names: arrays[names] for names in expected}, sums)
    leaves = [_resized(arrays[names], leaf) for names, leaf in expected.items()]
    return jax.tree.unflatten(jax.tree.structure(abstract), leaves)


def _read_arrays(folder: pathlib.Path, wanted: Tree) -> dict[Names, Array]:
    with _reading(folder, "its arrays"), _context():
        return flat(_orbax().load_checkpointables(folder, {STATE: wanted})[STATE])


def _read_together(folder: pathlib.Path, wanted: Tree) -> dict[Names, Array]:
    """What is read, or a `DamagedError` in all processes: what one cannot read all pass over."""
    fault: DamagedError | None = None
    arrays: dict[Names, Array] = {}
    try:
        arrays = _read_arrays(folder, wanted)
    except DamagedError as error:
        fault = error
    said = [text for text in gather_texts(str(fault or "")) if text]
    if said:
        raise fault or DamagedError(said[0])
    return arrays


def _verify(folder: pathlib.Path, arrays: Mapping[Names, Array], sums: Mapping[str, int]) -> None:
    for names, found in zip(arrays, digests(arrays.values()), strict=True):
        path = "/".join(names)
        if found != sums.get(path):
            raise DamagedError(
                f"{folder}: {path} is damaged: its digest is {found}, expected {sums.get(path)}"
            )


def _as_saved(saved: Any, leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    """What to load for a leaf: the saved length of an axis of padding, whole on every device."""
    shape, sharding = tuple(saved.shape), leaf.sharding
    if shape != leaf.shape and isinstance(sharding, NamedSharding):
        axes = zip(shape, leaf.shape, [*sharding.spec, *[None] * len(shape)], strict=False)
        spec = P(*(axis if length == asked else None for length, asked, axis in axes))
        sharding = NamedSharding(sharding.mesh, spec)
    return jax.ShapeDtypeStruct(shape, leaf.dtype, sharding=sharding)


def _resized(array: Array, leaf: jax.ShapeDtypeStruct) -> Array:
    """Cuts or pads with zeros at the ends of axes, until the shape is the one asked for."""
    if array.shape == leaf.shape:
        return array

    def resize(x: Array) -> Array:
        x = x[tuple(slice(length) for length in leaf.shape)]
        missing = [(0, asked - found) for asked, found in zip(leaf.shape, x.shape, strict=True)]
        return jnp.pad(x, missing)

    with jax.set_mesh(mesh_of(array.sharding)):
        return jax.jit(resize, out_shardings=leaf.sharding)(array)


def newest_intact(folder: pathlib.Path, read: Callable[[pathlib.Path], object]) -> str:
    """Of the other checkpoints of a run, the newest that can be read, in words.

    Args:
      folder: one that cannot.
      read: reads one, and raises InputError.
    """
    others = [f for f in folder.parent.iterdir() if f.name.isdecimal() and f.name != folder.name]
    for other in sorted(others, key=lambda f: -int(f.name)):
        if jax.process_count() > 1:  # reading takes all processes, and not all may come here
            return f"the newest other checkpoint is {other}; without {folder} a run resumes from it"
        with contextlib.suppress(InputError):
            read(other)
            return (
                f"the newest intact checkpoint is {other}; without {folder} a run resumes from it"
            )
    return "no other checkpoint of the run is intact"


@contextlib.contextmanager
def _naming_bad_figures(folder: pathlib.Path) -> Iterator[None]:
    """Orbax reads all figures when it opens a folder, and does not say which ones it cannot."""
    try:
        yield
    except ValueError as error:
        for path in sorted(folder.glob("*/metrics/metrics")):
            try:
                json.loads(path.read_bytes())
            except ValueError as fault:
                others = newest_intact(path.parents[1], read_run)
                raise InputError(f"{path}, expected JSON ({fault}); {others}") from error
        raise


def _orbax() -> Any:
    """Orbax, imported here: it takes longer than all the rest of this package."""
    from orbax.checkpoint import v1

    for name in ("absl", "asyncio"):
        logging.getLogger(name).addFilter(_is_not_raised_too)
    return v1


def _is_not_raised_too(record: logging.LogRecord) -> bool:
    """Orbax's threads log each exception, several times over, besides raising it."""
    text = f"{record.pathname} {record.msg}"
    return not (record.exc_info and ("/orbax/" in text or "tensorstore_spec" in text))


def _context() -> Any:
    """Orbax's options: small things as JSON, parts of a tree may be loaded."""
    ocp = _orbax()
    registry = ocp.handlers.local_registry()
    registry.add(ocp.handlers.JsonHandler, checkpointable_name=RUN)
    context = ocp.Context()
    context.checkpointables.registry = registry
    context.pytree.loading.partial_load = True
    return context


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
        reason = _short(f"{type(error).__name__}: {error}", str)
        raise DamagedError(f"{folder}: cannot read {what} ({reason})") from error
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def errors_in_one_line(folder: pathlib.Path) -> Iterator[None]:
    """Makes an OSError that names the folder of what goes wrong in writing (a full disk, say)."""
    try:
        yield
    except Exception as error:
        code = error.errno if isinstance(error, OSError) else _system_error(str(error))
        if code is None:
            raise
        raise OSError(code, os.strerror(code), os.fspath(folder)) from error


def _system_error(message: str) -> int | None:
    """The error number in what TensorStore says."""
    found = re.search(r"os_error_code='(\d+)'", message)
    if found:
        return int(found.group(1))
    return errno.ENOSPC if "RESOURCE_EXHAUSTED" in message else None


def _short(value: Any, text: Callable[[Any], str] = repr) -> str:
    return textwrap.shorten(text(value), 160)
