"""Where an experiment meets its surroundings: flags, processes, devices, its folder, its end.

The only module that reads flags, starts `jax.distributed`, sets `jax.config` or makes the mesh.
An experiment is a configuration class and a function that returns its final figures::

    @dataclass(frozen=True, kw_only=True)
    class Config(launch.ExperimentConfig):
        ...

    def main(config: Config) -> dict[str, float]:
        corpus = load_corpus(config.corpus)      # whatever can be refused comes first
        folder = launch.open_workdir(config)     # from here on, files are written
        ...
        return {"test/perplexity": 270.1}

    if __name__ == "__main__":
        launch.run(main, Config)

Exit codes: 0; 2 with one line on stderr for bad input; 1 with one line for a training that
diverged; 128 + the signal's number after SIGINT or SIGTERM, which lose nothing that was saved.
"""

import contextlib
import dataclasses
import io
import json
import pathlib
import re
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NoReturn, TypeVar

import jax
import tyro

from jaxgen.errors import InputError
from jaxgen.files import replacing
from jaxgen.parallel import is_main_process, keep_freed_memory, make_mesh, start
from jaxgen.training.loop import NonFiniteError
from jaxgen.training.metrics import write_figures
from jaxgen.training.saved_configs import config_differences, config_from_json, config_to_json
from jaxgen.training.saved_names import register_config


@register_config("launch", first_format=["experiments.launch:LaunchConfig"])
@dataclass(frozen=True, kw_only=True)
class LaunchConfig:
    """Where to run and on what; may change when a run is started again.

    Attributes:
      workdir: folder for all that the run writes; started again with it, the run resumes.
      mesh: sizes of the mesh axes data, fsdp and model, say "data=2,model=4"; -1 is the rest.
      devices: simulate so many CPU devices (in each process); 0 uses the devices there are.
      coordinator: HOST:PORT of process 0 of several; "auto" asks the cluster (TPU pod, Slurm).
      num_processes: how many processes run together.
      process_id: which of them this is, from 0.
      tensorboard: write event files for TensorBoard beside every ``metrics.jsonl``.
    """

    workdir: str = "runs/experiment"
    mesh: str = "data=-1"
    devices: int = 0
    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None
    tensorboard: bool = False

    def __post_init__(self) -> None:
        if self.devices < 0:
            raise InputError(f"devices is {self.devices}, expected 0 or more")


@dataclass(frozen=True, kw_only=True)
class ExperimentConfig:
    """What every experiment's configuration has.

    Attributes:
      launch: where to run and on what.
      seed: all randomness follows from it.
    """

    launch: LaunchConfig = LaunchConfig()
    seed: int = 0


ConfigT = TypeVar("ConfigT", bound=ExperimentConfig)

SEEDS = 2**31
"""How many seeds there are: numpy takes none below zero, JAX cuts them to 32 bits."""


def run(main: Callable[[ConfigT], Mapping[str, Any]], config_class: type[ConfigT]) -> NoReturn:
    """Runs an experiment as a program: flags in, ``metrics.json`` and an exit code out.

    Args:
      main: the experiment, called with the mesh set; its final figures by name are written at the
        end, nested as `write_figures` allows.
      config_class: its configuration; flags, their help and defaults are those of the class.
    """
    with _ending_well():
        config = parse_flags(config_class)
        with jax.set_mesh(_start(config.launch)):
            figures = main(config)
            write_figures(pathlib.Path(config.launch.workdir) / "metrics.json", figures)
    sys.exit(0)


def parse_flags(config_class: type[ConfigT], arguments: Sequence[str] | None = None) -> ConfigT:
    """The configuration that flags ask for; ``--help`` prints them and exits with 0.

    Args:
      config_class: a dataclass, of dataclasses whose fields become flags without a prefix.
      arguments: the flags; by default those of the process.

    Raises:
      InputError: for an unknown flag or a bad value, in one line.
    """
    config = _parse(config_class, arguments)
    if not 0 <= config.seed < SEEDS:
        raise InputError(f"seed is {config.seed}, expected 0 to {SEEDS - 1:,}")
    return config


def _parse(config_class: type[ConfigT], arguments: Sequence[str] | None) -> ConfigT:
    """What tyro makes of flags; its box of complaints becomes one line."""
    program = sys.modules["__main__"]
    captured = io.StringIO()
    try:
        with contextlib.redirect_stderr(captured):
            return tyro.cli(
                config_class,
                args=arguments,
                prog=_program_name(program),
                description=(sys.modules[config_class.__module__].__doc__ or "").strip(),
                config=(tyro.conf.OmitArgPrefixes,),
            )
    except SystemExit as stopped:
        if not stopped.code:
            raise
        raise InputError(_message_of_box(captured.getvalue())) from None


def open_workdir(config: ExperimentConfig, may_differ: Sequence[str] = ()) -> pathlib.Path:
    """The run's folder, made or found again, with ``config.json`` in it.

    To be called once all input has been looked at: until then nothing is written.

    Args:
      config: the run's.
      may_differ: fields that may have changed since the folder was made, besides where and on what
        to run.

    Raises:
      InputError: the folder is a file, or holds a run of another configuration (the message names
        the fields that differ).
    """
    folder = pathlib.Path(config.launch.workdir)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file, expected a folder to work in")
    path = folder / "config.json"
    if path.exists():
        _check_same_run(path, config, ("launch", *may_differ))
    if is_main_process():
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(path) as handle:
            handle.write(json.dumps(config_to_json(config), indent=2).encode() + b"\n")
    return folder


def report(text: str = "") -> None:
    """Prints on the main process."""
    if is_main_process():
        print(text, flush=True)


def _start(launch: LaunchConfig) -> jax.sharding.Mesh:
    """Memory, devices, processes and mesh, in the order in which they are reported."""
    keep_freed_memory()
    if launch.devices:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", launch.devices)
    if launch.coordinator == "auto":
        start()
    elif (launch.coordinator, launch.num_processes, launch.process_id) != (None, None, None):
        start(launch.coordinator, launch.num_processes, launch.process_id)
    return make_mesh(launch.mesh)


def _check_same_run(
    path: pathlib.Path, config: ExperimentConfig, may_differ: Sequence[str]
) -> None:
    try:
        found = config_from_json(json.loads(path.read_bytes()), str(path))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: {error}, expected the configuration of a run") from None
    if type(found) is not type(config):
        raise InputError(
            f"{path.parent} holds a run of {type(found).__module__}; choose another --workdir"
        )
    now = {name: getattr(config, name) for name in may_differ}
    differing = config_differences(dataclasses.replace(found, **now), config)
    if differing:
        lines = [f"{name}: {was!r}, expected {is_!r}" for name, (was, is_) in differing.items()]
        raise InputError(
            f"{path.parent} holds a run of another configuration ({'; '.join(lines)}); "
            "choose another --workdir"
        )


def _program_name(program: ModuleType) -> str:
    spec = getattr(program, "__spec__", None)
    return f"python -m {spec.name}" if spec else pathlib.Path(sys.argv[0]).name


@contextlib.contextmanager
def _ending_well() -> Iterator[None]:
    """Turns what a person can mend into one line and an exit code; SIGTERM into a clean exit."""
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        yield
    except InputError as error:
        _fail(str(error), 2)
    except OSError as error:
        if error.filename is None and not isinstance(error, FileNotFoundError):
            raise
        _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error), 2)
    except NonFiniteError as error:
        _fail(str(error), 1)
    except KeyboardInterrupt:
        _fail("interrupted", 128 + signal.SIGINT)
    finally:
        signal.signal(signal.SIGTERM, before)


def _fail(message: str, code: int) -> NoReturn:
    print("error:", " ".join(message.split()), file=sys.stderr, flush=True)
    raise SystemExit(code) from None


_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_FLAG = re.compile(r"--[a-z][a-z0-9-]*")


def _message_of_box(box: str) -> str:
    """What one of tyro's error boxes says: its first section, and what it thinks was meant."""
    sections: list[list[str]] = [[]]
    for line in box.splitlines()[1:]:  # the first line is a title
        words = _ANSI.sub("", line).strip(" │╭╮╰╯")
        if set(words) and set(words) <= set("─-"):
            sections.append([])
        elif words:
            sections[-1].append(words)
    message, *others = [" ".join(section) for section in sections if section]
    message = re.sub(r"^Error parsing (?:(--\S+: )|\S+: )", r"\1", message)
    message = message.split(" Got errors:")[0]
    if message.startswith("Missing from"):
        message = f"{' and '.join(_FLAG.findall(message))} missing"
    for other in others:
        if other.startswith("Perhaps you meant"):
            message += f" (perhaps {' or '.join(_FLAG.findall(other)[:2])})"
    return f"{message}; --help lists the flags"
