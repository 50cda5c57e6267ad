"""Memory of the host that a process keeps once it has it.

On CPU, XLA asks the C library for a program's temporary memory at every call and gives it back at
the end. glibc hands large blocks on to the system, so that each call writes to fresh pages, and
every page of 4 KiB is a fault.
"""

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
"""Names and numbers of glibc's ``malloc.h``."""

NEVER = -1
LARGEST_INT = 2**31 - 1


def keep_freed_memory() -> bool:
    """Lets malloc keep what is freed for the next call, rather than give it to the system.

    For programs, not for libraries, and before JAX has a device: a thread chooses its arena with
    its first allocation, and only the main arena can hold a large block. The process stays as big
    as it was at its peak. Blocks of 2 GiB and more still come and go.

    Returns:
      Whether the C library has these settings (glibc); without them nothing changes.
    """
    try:
        libc = ctypes.CDLL(None)
        mallopt, _ = libc.mallopt, libc.gnu_get_libc_version
    except (AttributeError, OSError, TypeError):
        return False
    settings = {M_ARENA_MAX: 1, M_MMAP_THRESHOLD: LARGEST_INT, M_TRIM_THRESHOLD: NEVER}
    return all([mallopt(name, value) == 1 for name, value in settings.items()])
