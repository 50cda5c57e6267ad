"""Where compiled programs are kept, so that each is compiled once."""

import hashlib
import os
import pathlib
import platform

AUTO, NONE = "auto", "none"


def cache_folder(asked: str) -> str | None:
    """The folder that a value of ``--compilation-cache`` stands for; None to keep nothing.

    "auto" is a folder in the user's cache (``XDG_CACHE_HOME``, else ``~/.cache``), or, where
    ``JAX_COMPILATION_CACHE_DIR`` names another, that one. Its name has the number of cores and a
    digest of what the processor can do: JAX's key has neither, and a program that was compiled for
    one core does elementwise work on one for good, while one for another processor need not run.

    Args:
      asked: "auto", "none" or a folder.
    """
    if asked != AUTO:
        return None if asked == NONE else asked
    return os.environ.get("JAX_COMPILATION_CACHE_DIR") or str(user_folder())


def user_folder() -> pathlib.Path:
    """Where "auto" keeps the programs of this machine."""
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    digest = hashlib.sha256(_processor().encode()).hexdigest()[:8]
    return pathlib.Path(base) / "jaxgen" / f"programs_{_cores()}_cores_{digest}"


def _cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _processor() -> str:
    """What the processor is called and can do."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    keys = ("model name", "flags", "Features")
    return "\n".join(sorted({line for line in lines if line.startswith(keys)}))
