"""What programs communicate on the mesh that is set: printed, written, and summed by mesh axes."""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from experiments.shared.launch import ExperimentConfig, open_workdir, report
from experiments.shared.output import write_text
from jaxgen.parallel import Communication, communication

Program = tuple[Callable[..., Any], tuple[Any, ...]]
"""A jitted function and the arguments to compile it for, abstract but for small tables."""

FILE = "communication.md"


def report_collectives(
    config: ExperimentConfig, programs: Mapping[str, Program], *, whole: bool
) -> dict[str, int]:
    """Compiles programs, writes what they communicate to the run's folder, and prints it.

    Args:
      config: the run's.
      programs: by name.
      whole: as for `write_collectives`.

    Returns:
      `bytes_by_program`.
    """
    listed = list_collectives(programs)
    write_collectives(open_workdir(config), listed, whole=whole)
    return bytes_by_program(listed)


def list_collectives(programs: Mapping[str, Program]) -> dict[str, Communication]:
    """Compiles programs by name and lists the collectives of each."""
    return {
        name: communication(program, *arguments) for name, (program, arguments) in programs.items()
    }


def bytes_by_program(listed: Mapping[str, Communication]) -> dict[str, int]:
    """Bytes per device and call by program and mesh axes, ``"training step/data"`` say."""
    return {
        f"{name}/{axes}": size
        for name, found in listed.items()
        for axes, size in found.bytes_by_axes().items()
    }


def write_collectives(
    folder: pathlib.Path, listed: Mapping[str, Communication], *, whole: bool
) -> None:
    """Writes the tables to ``communication.md`` and prints them.

    Args:
      folder: the run's.
      listed: collectives by program.
      whole: whether every collective is printed, or the sums by mesh axes.
    """
    sections = {name: f"### {name}\n\n{found.table()}\n" for name, found in listed.items()}
    for name, found in listed.items():
        report(sections[name] if whole else f"### {name}\n\n{found.summary()}\n")
    write_text(folder / FILE, "\n".join(sections.values()))
