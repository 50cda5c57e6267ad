"""The bar of a run, with what its last record says."""

import contextlib
import sys
from collections.abc import Callable, Iterator

from jaxgen.parallel.distributed import is_main_process
from jaxgen.training.metrics import Record

_GIB = 2**30


def _shown(record: Record) -> Record:
    """Of a record: losses, learning rate, examples a second, memory of a device, share of peak."""
    found = {name: x for name, x in record.items() if name.endswith("loss")}
    if "train/learning_rate" in record:
        found["rate"] = f"{record['train/learning_rate']:.2g}"
    for name, x in record.items():
        if name.startswith("speed/") and name.endswith("_per_second") and "/steps_" not in name:
            found[f"{name[6:-11]}/s"] = f"{x:.4g}"
    if "speed/device_bytes" in record:
        found["GiB"] = f"{record['speed/device_bytes'] / _GIB:.2f}"
    if "speed/share_of_peak" in record:
        found["of peak"] = f"{record['speed/share_of_peak']:.1%}"
    return found


@contextlib.contextmanager
def training_bar(show: bool, done: int, total: int) -> Iterator[Callable[[int, Record], None]]:
    """A progress bar on the main process, as a function ``advance(steps, last record)``.

    In a log file, a line every ten seconds.
    """
    if not (show and is_main_process()):
        yield lambda count, record: None
        return
    from tqdm.auto import tqdm

    shown: Record = {}
    seconds = 0.1 if sys.stderr.isatty() else 10
    with tqdm(
        total=total, initial=done, unit="step", dynamic_ncols=True, mininterval=seconds
    ) as bar:

        def advance(count: int, record: Record) -> None:
            shown.update(_shown(record))
            bar.set_postfix(shown, refresh=False)
            bar.update(count)

        yield advance
