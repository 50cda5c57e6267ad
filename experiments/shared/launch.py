"""Where an experiment meets its surroundings: flags, processes, devices.

The only module that reads flags, starts `jax.distributed`, sets `jax.config` or makes the mesh. Its
folder is the matter of `experiments.shared.workdir`, its end that of `experiments.shared.endings`.
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
diverged or a full disk; 128 + the signal's number after SIGINT or SIGTERM, which lose nothing that
was saved.
"""

import contextlib
import functools
import importlib.util
import io
import operator
import pathlib
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Annotated, Any, NoReturn, TypeVar

import jax
import tyro
from tyro.conf import Positional

from experiments.shared.endings import ending_well, watching_peers
from experiments.shared.experiment_config import ExperimentConfig, LaunchConfig
from experiments.shared.program_cache import cache_folder
from experiments.shared.workdir import (
    check_finite,
    keeping_folders,
    last_opened,
    let_go,
    open_workdir,
)
from jaxgen.errors import InputError
from jaxgen.files import as_path
from jaxgen.parallel import (
    is_main_process,
    keep_freed_memory,
    make_mesh,
    parse_rules,
    start,
    using_rules,
)
from jaxgen.training.metrics import write_figures

__all__ = [
    "ExperimentConfig",
    "LaunchConfig",
    "Positional",
    "launch_options",
    "open_workdir",
    "parse_flags",
    "report",
    "run",
    "run_tool",
]

ConfigT = TypeVar("ConfigT", bound=ExperimentConfig)

SEEDS = 2**31
"""How many seeds there are: numpy takes none below zero, JAX cuts them to 32 bits."""


def run(main: Callable[[ConfigT], Mapping[str, Any]], config_class: type[ConfigT]) -> NoReturn:
    """Runs an experiment as a program: flags in, ``metrics.json`` and an exit code out.

    The last line that it prints says where its results are.

    Args:
      main: the experiment, called with the mesh set; its final figures by name are written at the
        end, nested as `write_figures` allows.
      config_class: its configuration; flags, their help and defaults are those of the class.
    """
    # Started with -m, the process is the program's own; a script may catch what is raised here.
    program = main.__module__ == "__main__" and sys.modules["__main__"].__spec__ is not None
    with ending_well(program, last_opened, let_go), keeping_folders():
        config = parse_flags(config_class)
        _check_packages(config.launch)
        with jax.set_mesh(_start(config.launch)), watching_peers(), _options(config.launch):
            figures = main(config)
            write_figures(as_path(config.launch.workdir) / "metrics.json", figures)
            report(f"Results are in {config.launch.workdir}")
    sys.exit(0)


Commands = Mapping[str, tuple[type, Callable[[Any], object]]]
"""Name of a command -> (dataclass of its flags, the function that is given them)."""


def run_tool(commands: Commands, arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs a program of several commands, ``python -m PROGRAM COMMAND --flags``, without a folder.

    Args:
      commands: what the program can do; flags, their help and defaults are those of the classes.
      arguments: the command and its flags; by default those of the process.
    """
    kind, work = next(iter(commands.values()))
    program = work.__module__ == "__main__" and sys.modules["__main__"].__spec__ is not None
    with ending_well(program):
        documentation = sys.modules[kind.__module__].__doc__ or ""
        flags = _parse(command_line(commands), arguments, documentation)
        check_finite(flags)
        next(work for kind, work in commands.values() if isinstance(flags, kind))(flags)
    sys.exit(0)


def command_line(commands: Commands) -> Any:
    """What tyro makes flags of several commands from."""
    kinds = [
        Annotated[kind, tyro.conf.subcommand(name, description=(kind.__doc__ or "").split("\n")[0])]
        for name, (kind, _) in commands.items()
    ]
    return functools.reduce(operator.or_, kinds)


def parse_flags(config_class: type[ConfigT], arguments: Sequence[str] | None = None) -> ConfigT:
    """The configuration that flags ask for; ``--help`` prints them and exits with 0.

    Args:
      config_class: a dataclass, of dataclasses whose fields become flags without a prefix.
      arguments: the flags; by default those of the process.

    Raises:
      InputError: for an unknown flag or a bad value, in one line; infinities and NaN are bad values
        of every flag.
    """
    config = _parse(config_class, arguments, sys.modules[config_class.__module__].__doc__ or "")
    check_finite(config)
    if not 0 <= config.seed < SEEDS:
        raise InputError(f"seed is {config.seed}, expected 0 to {SEEDS - 1:,}")
    return config


def _parse(config_class: Any, arguments: Sequence[str] | None, documentation: str) -> Any:
    """What tyro makes of flags; its box of complaints becomes one line."""
    program = sys.modules["__main__"]
    captured = io.StringIO()
    start = _recipe(config_class, sys.argv[1:] if arguments is None else arguments)
    try:
        with contextlib.redirect_stderr(captured):
            return tyro.cli(
                config_class,
                args=arguments,
                **({} if start is None else {"default": start}),
                prog=_program_name(program),
                description=documentation.strip(),
                config=(tyro.conf.OmitArgPrefixes,),
            )
    except SystemExit as stopped:
        if not stopped.code:
            raise
        raise InputError(_message_of_box(captured.getvalue())) from None


def _recipe(config_class: type[ConfigT], arguments: Sequence[str]) -> ConfigT | None:
    """What flags change where ``--recipe NAME`` is among them; None without, or without recipes.

    A class that has recipes has a method ``recipes(name)``, which gives fields by name.
    """
    recipes = getattr(config_class, "recipes", None)
    joined = " ".join(map(str, arguments))
    found = re.search(r"(?:^|\s)--recipe[= ]([\w-]+)", joined)
    return None if recipes is None or found is None else config_class(**recipes(found[1]))


_launched = LaunchConfig()


def launch_options() -> LaunchConfig:
    """How the program was launched that this process runs; the defaults outside of `run`.

    What may change when a run is started again (how many checkpoints are kept, what is traced) is
    the same for all that a program trains.
    """
    return _launched


@contextlib.contextmanager
def _options(launch: LaunchConfig) -> Iterator[None]:
    global _launched
    _launched = launch
    try:
        with using_rules(parse_rules(launch.rules)):
            yield
    finally:
        _launched = LaunchConfig()


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
    jax.config.update("jax_compilation_cache_dir", cache_folder(launch.compilation_cache))
    ids = launch.device_ids
    if launch.coordinator == "auto":
        start(local_device_ids=ids)
    elif (launch.coordinator, launch.num_processes, launch.process_id) != (None, None, None):
        start(launch.coordinator, launch.num_processes, launch.process_id, local_device_ids=ids)
    return make_mesh(launch.mesh)


def _check_packages(launch: LaunchConfig) -> None:
    if launch.tensorboard and importlib.util.find_spec("tensorboardX") is None:
        raise InputError("tensorboard is on, expected the package tensorboardX for it")


def _program_name(program: ModuleType) -> str:
    spec = getattr(program, "__spec__", None)
    return f"python -m {spec.name}" if spec else pathlib.Path(sys.argv[0]).name


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
