"""What may change when a run is started again: the seed of its samples, and longer training.

The seed of training may not: batches and noise follow from it, so a run that went on with another
one would be neither run. A learning rate that depends on the length of the run (a warm-up, a cosine
to zero) is the one for the new length from the step on that the run has reached.
"""

import dataclasses
import pathlib
from dataclasses import dataclass
from typing import Any, TypeVar

from experiments.shared.launch import SEEDS, ExperimentConfig, report
from experiments.shared.workdir import saved_config
from jaxgen.errors import InputError


@dataclass(frozen=True, kw_only=True)
class SampledConfig(ExperimentConfig):
    """Configuration of an experiment that samples what it has trained.

    Attributes:
      launch: where to run and on what.
      seed: all randomness of training follows from it, and that of samples where they have no seed
        of their own. Where the folder holds a run already, that keeps its seed, and another one is
        for samples alone.
      sampling_seed: of samples; may differ when a run is started again.
    """

    sampling_seed: int | None = None

    def __post_init__(self) -> None:
        if self.sampling_seed is not None and not 0 <= self.sampling_seed < SEEDS:
            raise InputError(f"sampling_seed is {self.sampling_seed}, expected 0 to {SEEDS - 1:,}")

    @property
    def seed_of_samples(self) -> int:
        """The seed of samples: their own, or that of training."""
        return self.seed if self.sampling_seed is None else self.sampling_seed


SampledT = TypeVar("SampledT", bound=SampledConfig)


def keep_training_seed(config: SampledT) -> SampledT:
    """The configuration with the seed of the run that its folder holds, if it holds one.

    Another seed that was asked for becomes that of samples, unless they have one of their own.

    Raises:
      InputError: where the folder's ``config.json`` is none.
    """
    found = saved_config(config)
    if found is None or found.seed == config.seed:
        return config
    report(
        f"{config.launch.workdir} was trained with seed {found.seed}, which stays; samples are "
        f"drawn with seed {config.seed_of_samples}"
    )
    return dataclasses.replace(config, seed=found.seed, sampling_seed=config.seed_of_samples)


def may_train_longer(config: Any, length: str) -> tuple[str, ...]:
    """``("training",)`` where the folder's run has the same training but for its length.

    Args:
      config: with a field ``training``; to be opened by `experiments.shared.launch.open_workdir`,
        whose ``may_differ`` this is for.
      length: the field of ``training`` that says how long it is.
    """
    found = saved_config(config)
    if found is None:
        return ()
    now = getattr(config.training, length)
    same = dataclasses.replace(found.training, **{length: now}) == config.training
    return ("training",) if same else ()


def check_not_shorter(folder: pathlib.Path, steps: int, what: str) -> None:
    """Refuses to train for fewer updates than a run has made already.

    Args:
      folder: the run's, whose ``checkpoints/`` are looked at.
      steps: updates that are asked for.
      what: how they were asked for, such as "training_steps is 100".

    Raises:
      InputError: naming both.
    """
    names = [path.name for path in (folder / "checkpoints").glob("*") if path.is_dir()]
    reached = max((int(name) for name in names if name.isdecimal()), default=0)
    if steps < reached:
        raise InputError(
            f"{what}, {steps:,} updates, but the run in {folder} has made {reached:,}, expected as "
            "many or more, or another --workdir"
        )
