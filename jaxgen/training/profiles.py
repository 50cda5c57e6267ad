"""Traces of some steps of a run, as JAX's profiler writes them (for TensorBoard or Perfetto)."""

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax

from jaxgen.errors import InputError


@dataclass(frozen=True)
class Profile:
    """Which steps to trace, from `start` up to and without `stop`, and where to write the trace.

    Steps are traced by whole calls: where a call takes several, those that it has of these.

    Raises:
      InputError: unless 0 <= start < stop.
    """

    start: int
    stop: int
    folder: str | os.PathLike[str]

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.stop:
            raise InputError(
                f"profile is {self.start}:{self.stop}, expected a step and a later one"
            )


def parse_profile(description: str, folder: str | os.PathLike[str]) -> Profile:
    """The profile that a description such as ``"100:105"`` stands for.

    Raises:
      InputError: for anything else.
    """
    if not re.fullmatch(r"\d+:\d+", description):
        raise InputError(f"profile is {description!r}, expected two steps, such as '100:105'")
    start, stop = map(int, description.split(":"))
    return Profile(start, stop, folder)


@contextlib.contextmanager
def tracing(profile: Profile | None) -> Iterator[Callable[[int, Any], None]]:
    """A function to call before each step, with its number and the results of the one before.

    It starts and stops the trace; one that is under way where the block ends is stopped there.
    """
    on = False

    def before(step: int, results: Any) -> None:
        nonlocal on
        if profile is None:
            return
        if on and step >= profile.stop:
            jax.block_until_ready(results)
            jax.profiler.stop_trace()
            on = False
        elif not on and profile.start <= step < profile.stop:
            jax.profiler.start_trace(profile.folder)
            on = True

    try:
        yield before
    finally:
        if on:
            jax.profiler.stop_trace()
