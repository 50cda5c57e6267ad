"""Flags that every experiment has."""

import re
from dataclasses import dataclass

from jaxgen.errors import InputError
from jaxgen.parallel.rules import parse_rules
from jaxgen.training.profiles import parse_profile
from jaxgen.training.saved_names import register_config


@register_config("launch", first_format=["experiments.launch:LaunchConfig"])
@dataclass(frozen=True, kw_only=True)
class LaunchConfig:
    """Where to run and on what; may change when a run is started again.

    Attributes:
      workdir: folder for all that the run writes, local or gs://BUCKET/...; started again with it,
        the run resumes.
      mesh: sizes of the device mesh's axes data, fsdp, sequence and model, say "data=2,model=4"; -1
        is the rest.
      devices: simulate so many CPU devices (in each process); 0 uses the devices there are.
      coordinator: HOST:PORT of process 0 of several; "auto" asks the cluster (TPU pod, Slurm).
      num_processes: how many processes run together.
      process_id: which of them this is, from 0.
      local_device_ids: which GPUs of its machine each process takes, say "0,1,2,3"; without it,
        all of them, or on Slurm the one of the process's number.
      rules: where logical axes go, on top of the library's rules, say "vocab=model,embed=none".
      compilation_cache: folder for compiled programs, so that a second start need not compile them;
        "auto" is one in the user's cache (~/.cache/jaxgen), "none" keeps nothing.
      keep: how many of the latest checkpoints to keep.
      keep_every: checkpoints of multiples of so many steps are kept besides; 0 for none.
      checkpoint_every: steps from one checkpoint to the next (rounded up to whole calls); 0 for ten
        in a run.
      prefetch: batches of so many calls are made and put on the devices ahead, in a thread; 0 for
        none.
      profile: steps to trace with JAX's profiler, say "100:105"; the trace is in ``profile/``.
      tensorboard: write event files for TensorBoard beside every ``metrics.jsonl``.
    """

    workdir: str = "runs/experiment"
    mesh: str = "data=-1"
    devices: int = 0
    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None
    local_device_ids: str | None = None
    rules: str = ""
    compilation_cache: str = "auto"
    keep: int = 2
    keep_every: int = 0
    checkpoint_every: int = 0
    prefetch: int = 2
    profile: str | None = None
    tensorboard: bool = False

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            if getattr(self, name) < least:
                raise InputError(f"{name} is {getattr(self, name)}, expected {least} or more")
        parse_rules(self.rules)
        if self.profile is not None:
            parse_profile(self.profile, "")
        if self.local_device_ids is not None and not _IDS.fullmatch(self.local_device_ids):
            raise InputError(
                f"local_device_ids is {self.local_device_ids!r}, expected numbers such as '0,1'"
            )

    @property
    def device_ids(self) -> list[int] | None:
        """The numbers in ``local_device_ids``."""
        ids = self.local_device_ids
        return None if ids is None else [int(number) for number in ids.split(",")]


_LEAST = {"devices": 0, "keep": 1, "keep_every": 0, "checkpoint_every": 0, "prefetch": 0}
_IDS = re.compile(r"\d+(,\d+)*")


@register_config("experiment")
@dataclass(frozen=True, kw_only=True)
class ExperimentConfig:
    """What every experiment's configuration has.

    Attributes:
      launch: where to run and on what.
      seed: all randomness follows from it.
    """

    launch: LaunchConfig = LaunchConfig()
    seed: int = 0
