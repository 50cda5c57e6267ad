"""Flags that every experiment has."""

from dataclasses import dataclass

from jaxgen.errors import InputError
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
