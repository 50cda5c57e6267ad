"""The working folder of a run: whose it is, which run it holds, and that refused runs leave none.

While a program runs, its folder has a file ``running.json`` that says which process uses it; a
second start is refused. Of several processes the first one writes the file, and all others must
find it: hosts that do not share the folder are told so at once.
"""

import contextlib
import dataclasses
import json
import math
import pathlib
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from experiments.shared.experiment_config import ExperimentConfig
from experiments.shared.locks import LOCK, read_holder, take_lock
from jaxgen.errors import InputError
from jaxgen.files import as_path, remove_leftovers, replacing
from jaxgen.parallel import all_succeed, gather_texts, is_main_process
from jaxgen.training import load_config
from jaxgen.training.saved_configs import config_differences, config_from_json, config_to_json
from jaxgen.training.saved_names import FIRST_FORMAT, saved_name

CONFIG = "config.json"

_VISIBLE_SECONDS = 3.0
"""After so long, a file that one host wrote is seen by all others that share its folder."""


def open_workdir(
    config: ExperimentConfig,
    may_differ: Sequence[str] = (),
    *,
    data: Mapping[str, str] | None = None,
    check: Callable[[pathlib.Path], object] = lambda folder: None,
) -> pathlib.Path:
    """The run's folder, made or found again, with ``config.json`` in it.

    To be called once all input has been looked at: until then nothing is written, and after a
    refusal here nothing is left. Within `launch.run` the folder is the run's own until its end.

    Args:
      config: the run's.
      may_differ: fields that may have changed since the folder was made, besides where and on what
        to run.
      data: digests of what the run reads, by the names that messages call it; a folder of a run on
        other data is refused.
      check: is called with the folder, which may not exist, and refuses what else does not fit,
        such as checkpoints of other networks (`check_checkpoints`).

    Raises:
      InputError: the folder is a file, is in use, is not shared by all processes, or holds a run of
        another configuration or other data (the message names what differs); or a number of the
        configuration is not finite.
    """
    check_finite(config)
    folder = as_path(config.launch.workdir)
    saved = {**config_to_json(config), "data": dict(data or {})}
    claim = Claim(folder, locked=_claims is not None)

    def look() -> None:
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{folder} is a file, expected a folder to work in")
        if is_main_process():
            claim.take()
        _check_same_run(folder, config, ("launch", *may_differ), saved["data"])
        check(folder)

    try:
        all_succeed(look)
        if claim.locked:
            _check_shared(claim)
    except BaseException:
        claim.give_up()
        raise
    _remember(claim)
    if is_main_process():
        remove_leftovers(folder)
        with replacing(folder / CONFIG) as handle:
            handle.write(json.dumps(saved, indent=2).encode() + b"\n")
    return folder


def saved_config(config: ExperimentConfig) -> Any:
    """The configuration that a run's folder holds, of the same program; None without one.

    Raises:
      InputError: where its ``config.json`` is none.
    """
    path = as_path(config.launch.workdir) / CONFIG
    saved = _read_saved(path)
    if saved is None or FIRST_FORMAT.get(saved["class"], saved["class"]) != saved_name(
        type(config)
    ):
        return None
    return _config_in(saved, path)


def saved_field(folder: pathlib.Path, name: str) -> Any:
    """A field of the configuration that a run's folder holds, of whatever program.

    Raises:
      InputError: where there is no such field.
    """
    saved = _read_saved(folder / CONFIG)
    fields = {} if saved is None else saved.get("fields", {})
    if name not in fields:
        raise InputError(f"{folder / CONFIG}: no {name}, expected the configuration of a run")
    return fields[name]


def check_finite(config: Any) -> None:
    """Refuses numbers of a configuration, however deep, that are not finite.

    Raises:
      InputError: naming the field.
    """
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            check_finite(value)
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, float) and not math.isfinite(number):
                raise InputError(f"{field.name} is {value}, expected finite numbers")


def check_checkpoints(folder: pathlib.Path, config: Any, may_differ: Sequence[str] = ()) -> None:
    """Refuses a run's folder with checkpoints of another model; without any there is nothing wrong.

    Args:
      folder: the run's, which has the checkpoints in ``checkpoints``.
      config: the model's configuration.
      may_differ: fields of it that may have changed.

    Raises:
      InputError: naming the fields that differ.
    """
    saved = folder / "checkpoints"
    if saved.is_dir() and any(path.name.isdecimal() for path in saved.iterdir()):
        differing = config_differences(load_config(saved, "intact"), config)
        _refuse(saved, {name: v for name, v in differing.items() if name not in may_differ})


@contextlib.contextmanager
def keeping_folders() -> Iterator[None]:
    """Folders opened in the block are its own to the end; those of a refused run are removed."""
    global _claims
    _claims = []
    try:
        yield
    except (InputError, OSError):
        for claim in reversed(_claims):
            claim.refuse()
        raise
    finally:
        let_go()
        _claims = None


@contextlib.contextmanager
def using_folder(folder: pathlib.Path) -> Iterator[None]:
    """Has a folder besides the run's own for itself in the block; makes it if need be.

    Raises:
      InputError: another process uses it.
    """
    claim = Claim(folder, locked=_claims is not None)
    try:
        all_succeed(lambda: claim.take() if is_main_process() else None)
        yield
    finally:
        claim.release()


def let_go() -> None:
    """Lets other runs have the folders that this one uses."""
    for claim in _claims or ():
        claim.release()


def last_opened() -> pathlib.Path | None:
    """The folder that this program opened last, or None."""
    return _last


class Claim:
    """What a run has made of its working folder, to be let go or undone."""

    def __init__(self, folder: pathlib.Path, *, locked: bool):
        self.folder, self.locked = folder, locked
        self.lock = folder / LOCK
        self.token = ""
        self._owner = self._new = False
        self._made: list[pathlib.Path] = []

    def take(self) -> None:
        """Makes the folder and says in it that it is in use.

        Raises:
          InputError: another process uses it.
        """
        if isinstance(self.folder, pathlib.Path):  # a bucket has no folders to make
            self._made = [path for path in (self.folder, *self.folder.parents) if not path.exists()]
        self._new = not (self.folder / CONFIG).exists()
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.locked:
            self.token, self._owner = take_lock(self.folder)

    def release(self) -> None:
        """Lets another run have the folder."""
        if self._owner:
            self._owner = False
            self.lock.unlink(missing_ok=True)

    def give_up(self) -> None:
        """Releases the folder, and removes it if it was made here and is empty."""
        self.release()
        with contextlib.suppress(OSError):  # not empty
            for path in self._made:
                path.rmdir()

    def refuse(self) -> None:
        """Undoes a run that was refused after all, unless it has written more than its flags."""
        others = [p for p in self.folder.iterdir() if p.name not in (CONFIG, LOCK)]
        if self._new and not any(p.is_file() or any(p.iterdir()) for p in others):
            for path in others:
                path.rmdir()
            (self.folder / CONFIG).unlink(missing_ok=True)
        self.give_up()


_claims: list[Claim] | None = None
"""Of the folders opened in `keeping_folders`; None outside of it, where nothing is locked."""

_last: pathlib.Path | None = None


def _remember(claim: Claim) -> None:
    global _last
    _last = claim.folder
    if _claims is not None:
        _claims.append(claim)


def _check_shared(claim: Claim) -> None:
    """Refuses a folder that is not one and the same for all processes."""
    token = gather_texts(claim.token)[0]

    def look() -> None:
        end = time.monotonic() + _VISIBLE_SECONDS
        while not is_main_process() and getattr(read_holder(claim.lock), "token", "") != token:
            if time.monotonic() > end:
                raise InputError(
                    f"{claim.folder} on {socket.gethostname()} is not the folder that process 0 "
                    "writes, expected one --workdir that all processes share"
                )
            time.sleep(0.1)

    all_succeed(look)


def _check_same_run(
    folder: pathlib.Path,
    config: ExperimentConfig,
    may_differ: Sequence[str],
    data: Mapping[str, str],
) -> None:
    """Refuses a folder whose ``config.json`` is of another run; without one it is nobody's."""
    saved = _read_saved(folder / CONFIG)
    if saved is None:
        return
    program = saved.get("class")
    if FIRST_FORMAT.get(program, program) != saved_name(type(config)):
        raise InputError(f"{folder} holds a run of {program}; choose another --workdir")
    found, earlier = _config_in(saved, folder / CONFIG), saved.get("data") or {}
    now = {name: getattr(config, name) for name in may_differ}
    _refuse(folder, config_differences(dataclasses.replace(found, **now), config))
    for name, digest in data.items():
        if earlier.get(name, digest) != digest:
            raise InputError(
                f"{name} has changed since {folder} was made from it (digest {earlier[name]}, "
                f"expected {digest}); choose another --workdir"
            )


def _read_saved(path: pathlib.Path) -> dict[str, Any] | None:
    """What a ``config.json`` holds: a saved configuration, and digests of the data by name."""
    if not path.exists():
        return None
    try:
        saved = json.loads(path.read_bytes())
    except ValueError as error:
        raise InputError(f"{path}: {error}, expected the configuration of a run") from None
    if not (
        isinstance(saved, dict)
        and isinstance(saved.get("class"), str)
        and isinstance(saved.get("data", {}), dict)
    ):
        raise InputError(f"{path} holds other JSON, expected the configuration of a run")
    return saved


def _config_in(saved: Mapping[str, Any], path: pathlib.Path) -> Any:
    try:
        return config_from_json(saved, str(path))
    except Exception as error:  # classes check their own fields, and expect the right types
        named = isinstance(error, InputError) and str(path) in str(error)
        line = str(error) if named else f"{path}: {error}, expected the configuration of a run"
        raise InputError(line) from None


def _refuse(folder: pathlib.Path, differing: Mapping[str, tuple[Any, Any]]) -> None:
    """Refuses a folder of another configuration, if there are differences."""
    if differing:
        lines = [f"{name}: {was!r}, expected {is_!r}" for name, (was, is_) in differing.items()]
        raise InputError(
            f"{folder} holds a run of another configuration ({'; '.join(lines)}); "
            "choose another --workdir"
        )
