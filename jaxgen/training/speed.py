"""Figures of speed: steps and examples a second, memory of a device, share of its peak.

They are in records under ``speed/``, and are, with ``seconds``, what two equal runs do not share.
A window of time goes from one record to the next, without compilation, evaluation and saving. Where
a call compiles (the first one, and the first with batches of another shape) it begins after that
call; a record that ends there has no figures.
"""

import os
import pathlib
import time

import jax

from jaxgen.typing import Batch, Tree

PEAKS = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
    "NVIDIA A100": 312e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
}
"""Start of a device's kind -> its peak, floating-point operations a second, of dense products in
bfloat16, as its maker states it; the longest that fits counts."""

_UNITS = {"image": "images", "video": "clips", "targets": "tokens"}
"""A batch's array -> what its rows are called; others are examples."""


def peak_of(kind: str) -> float | None:
    """The peak of a device of a kind (``device_kind``), in operations a second; None: unknown."""
    found = [name for name in PEAKS if kind.startswith(name)]
    return PEAKS[max(found, key=len)] if found else None


def units_of(batch: Batch, leading: int) -> tuple[str, int]:
    """What a step processes: name and number, all devices together.

    Args:
      batch: arrays [B, ...], or [K, B, ...] of K steps; "tokens" [B, L, ...] count each.
      leading: dimensions before B.
    """
    name = next((name for name in (*_UNITS, "tokens") if name in batch), None)
    shape = jax.tree.leaves(batch if name is None else batch[name])[0].shape[leading:]
    if name == "tokens":
        return "tokens", shape[0] * shape[1]
    return _UNITS.get(name or "", "examples"), shape[0]


def device_bytes() -> int:
    """Bytes in use on this process's first device; on CPU, of the process's resident memory."""
    stats = jax.local_devices()[0].memory_stats()
    if stats:
        return int(stats["bytes_in_use"])
    pages = pathlib.Path("/proc/self/statm")
    if not pages.exists():  # not Linux
        return 0
    return int(pages.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Speed:
    """The clock of a run.

    Attributes:
      multiply_adds: of a step, over all devices; None: not known, so no share of the peak.
    """

    def __init__(self, multiply_adds: int | None = None):
        self.multiply_adds = multiply_adds
        self._started: tuple[int, float] | None = None
        self._units: tuple[str, int] | None = None
        self._compiled: set[tuple[tuple[int, ...], ...]] = set()

    def restart(self, step: int) -> None:
        """A window begins after this step."""
        self._started = step, time.monotonic()

    def after_call(self, step: int, batch: Batch, leading: int, metrics: Tree = None) -> None:
        """Takes in a call. One with shapes not seen before has compiled: a window begins after it.

        Args:
          step: the steps done, those of the call included.
          batch: what it was given.
          leading: as for `units_of`.
          metrics: what it gave, which is waited for where a window begins.
        """
        self._units = self._units or units_of(batch, leading)
        shapes = tuple(x.shape for x in jax.tree.leaves(batch))
        if shapes not in self._compiled:
            self._compiled.add(shapes)
            jax.block_until_ready(metrics)
            self.restart(step)

    def figures(self, step: int) -> dict[str, float]:
        """The figures of the window that ends here, once its steps are done; {} where it is empty.

        ``share_of_peak`` is 2 multiply-adds a step over the peak of all devices in that time.
        """
        if self._started is None or self._units is None or step == self._started[0]:
            return {}
        rate = (step - self._started[0]) / max(time.monotonic() - self._started[1], 1e-9)
        name, count = self._units
        found = {
            "steps_per_second": rate,
            f"{name}_per_second": rate * count,
            "device_bytes": float(device_bytes()),
        }
        peak = peak_of(jax.devices()[0].device_kind)
        if peak is not None and self.multiply_adds is not None:
            found["share_of_peak"] = 2 * self.multiply_adds * rate / (peak * jax.device_count())
        return {f"speed/{name}": value for name, value in found.items()}
