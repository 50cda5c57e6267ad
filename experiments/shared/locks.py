"""The file ``running.json`` of a working folder, which says what process uses it."""

import contextlib
import datetime
import json
import os
import pathlib
import secrets
import socket
import time
from dataclasses import asdict, dataclass

from jaxgen.errors import InputError

LOCK = "running.json"

_SETTLED_SECONDS = 0.2, 2.0
"""After so long, another process that replaced the same file has written its own: locally, and in a
bucket, where no file can be made on condition that there is none."""


def take_lock(folder: pathlib.Path) -> tuple[str, bool]:
    """Writes the file; one of a process that has ended is replaced.

    Returns:
      The token in the file, and whether it was written now: a file of this process stays.

    Raises:
      InputError: another process uses the folder, as far as is known here.
    """
    path, mine = folder / LOCK, Holder.this_process()
    bucket = not isinstance(path, pathlib.Path)
    unsure = bucket
    while not _write_new(path, json.dumps(asdict(mine), indent=2)):
        holder = read_holder(path)
        if holder is not None and holder.is_this_process:
            return holder.token, False
        if holder is not None and not holder.ended:
            raise _in_use(folder, holder)
        path.unlink(missing_ok=True)
        unsure = True
    if unsure:
        time.sleep(_SETTLED_SECONDS[bucket])
        holder = read_holder(path)
        if holder is not None and holder.token != mine.token:
            raise _in_use(folder, holder)
    return mine.token, True


@dataclass(frozen=True)
class Holder:
    """The process that uses a folder, as ``running.json`` has it.

    Attributes:
      host: the name of its machine.
      process: its number there.
      started: what tells it from another process that has the number later (`process_start`).
      since: when it opened the folder.
      token: letters that no other opening has.
    """

    host: str
    process: int
    started: str | None
    since: str
    token: str

    @classmethod
    def this_process(cls) -> "Holder":
        """This process, now, with a new token."""
        now = datetime.datetime.now(datetime.UTC).isoformat(sep=" ", timespec="seconds")
        started = process_start(os.getpid())
        return cls(socket.gethostname(), os.getpid(), started, now, secrets.token_hex(8))

    @property
    def here(self) -> bool:
        """Whether it runs, or ran, on this machine."""
        return self.host == socket.gethostname()

    @property
    def is_this_process(self) -> bool:
        """Whether it is the one that asks."""
        return self.here and self.process == os.getpid() and not self.ended

    @property
    def ended(self) -> bool:
        """Whether it is known to have ended; of other machines nothing is known."""
        return self.here and process_start(self.process) != self.started


def process_start(process: int) -> str | None:
    """When a process of this machine was started, in its own words; None if it is not running."""
    try:
        state, *fields = (
            pathlib.Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        )
        boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return None if state in "ZX" else f"{boot} {fields[18]}"  # ended, or field 22
    except FileNotFoundError:
        if pathlib.Path("/proc/self/stat").exists():
            return None
    try:  # no Linux: only whether it is running
        os.kill(process, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return "running"


def read_holder(path: pathlib.Path) -> Holder | None:
    """The process that a ``running.json`` names; None without one, or where it was not finished.

    Raises:
      InputError: for a file that is none.
    """
    for _ in range(10):
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        if content:
            break
        time.sleep(0.05)  # it is about to be written
    else:
        return None
    with contextlib.suppress(ValueError, TypeError):
        holder = Holder(**json.loads(content))
        texts = (holder.host, holder.since, holder.token)
        if isinstance(holder.process, int) and all(isinstance(text, str) for text in texts):
            return holder
    raise InputError(f"{path}, expected the process that uses the folder; remove it if none does")


def _write_new(path: pathlib.Path, text: str) -> bool:
    """Writes a file that does not exist yet; False if it does."""
    if not isinstance(path, pathlib.Path):
        if path.exists():
            return False
        path.write_bytes(text.encode() + b"\n")
        return True
    try:
        handle = path.open("xb")
    except FileExistsError:
        return False
    try:
        with handle:
            handle.write(text.encode() + b"\n")
    except OSError:
        path.unlink(missing_ok=True)
        raise
    return True


def _in_use(folder: pathlib.Path, holder: Holder) -> InputError:
    elsewhere = "" if holder.here else f" (remove {LOCK} in it if that process has ended)"
    return InputError(
        f"{folder} is in use by process {holder.process} on {holder.host} since {holder.since}, "
        f"expected a folder that no other run uses{elsewhere}"
    )
