"""What the training loop keeps on the host, beside the state of the run."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from jaxgen.errors import InputError
from jaxgen.training.saved_configs import Json


@dataclass
class Progress:
    """What the loop keeps on the host; saved with every checkpoint.

    Attributes:
      seconds: time spent in `fit` so far, over all restarts.
      window: averages since the last record, as `RunningAverage.sums`.
      best: the best value of the metric; None before the first evaluation.
      best_step: where it was reached.
      worse: evaluations since then.
      evaluated: the step of the last evaluation.
    """

    seconds: float = 0.0
    window: dict[str, tuple[float, float]] = field(default_factory=dict)
    best: float | None = None
    best_step: int | None = None
    worse: int = 0
    evaluated: int | None = None

    @classmethod
    def from_json(cls, saved: Json, where: str) -> "Progress":
        """What `Checkpoints.restore` gives back of it.

        Raises:
          InputError: for what `fit` cannot have saved; `where` names it.
        """
        if not isinstance(saved, dict | None) or set(saved or {}) - set(_FITS):
            raise InputError(f"{where}: progress is {saved!r}, expected that of `fit`")
        for name, value in (saved or {}).items():
            if not _FITS[name](value):
                raise InputError(f"{where}: progress has {name}={value!r}, expected that of `fit`")
        return cls(**(saved or {}))


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_pair(value: Any) -> bool:
    return (
        isinstance(value, list | tuple) and [type(x) in (int, float) for x in value] == [True] * 2
    )


_FITS: dict[str, Callable[[Any], bool]] = {
    "seconds": lambda x: type(x) in (int, float),
    "window": lambda x: isinstance(x, dict) and all(map(_is_pair, x.values())),
    "best": lambda x: x is None or type(x) in (int, float),
    "best_step": lambda x: x is None or _is_count(x),
    "worse": _is_count,
    "evaluated": lambda x: x is None or _is_count(x),
}
"""Whether a value of a field of `Progress` can be one."""
