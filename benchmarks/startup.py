"""Seconds from the command to the first step of `experiments.images.train`, by part.

    python -m benchmarks.startup --workdir runs/startup
    python -m benchmarks.startup --workdir runs/startup --compilation-cache runs/programs   # twice

Flags are those of the program. Parts are seconds of CPU, which other programs on the machine change
less than those of a clock: importing JAX, importing the rest, what is done before training (data,
parameters, optimizer), and the first call of the step (several updates), compilation included. How
much of it is tracing and compiling is JAX's own count, in seconds of a clock.
"""

import sys
import time
from typing import Any, NoReturn

COUNTED = {
    "/jax/core/compile/jaxpr_trace_duration": "tracing",
    "/jax/core/compile/backend_compile_duration": "compiling, or reading what was compiled",
}


def main() -> NoReturn:
    """Runs the program up to the first call of its step, and prints the table."""
    marks = {"": time.process_time()}
    started = time.monotonic()
    import jax

    marks["importing JAX"] = time.process_time()
    seconds = dict.fromkeys(COUNTED.values(), 0.0)

    def count(event: str, duration: float, **_: Any) -> None:
        if event in COUNTED:
            seconds[COUNTED[event]] += duration

    jax.monitoring.register_event_duration_secs_listener(count)
    from experiments.images import train
    from experiments.shared import launch, training_runs

    marks["importing the program"] = time.process_time()
    fit = training_runs.fit

    def fit_one_call(step: Any, *arguments: Any, **options: Any) -> Any:
        marks["data, parameters, optimizer"] = time.process_time()

        def one_call(*given: Any) -> NoReturn:
            jax.block_until_ready(step(*given))
            marks["first call of the step"] = time.process_time()
            show(marks, seconds, time.monotonic() - started)
            raise SystemExit(0)

        return fit(one_call, *arguments, **options)

    training_runs.fit = fit_one_call
    sys.argv += ["--evaluate", "0"]
    launch.run(train.main, train.Config)


def show(marks: dict[str, float], seconds: dict[str, float], wall: float) -> None:
    """Prints the table; `marks` are readings of the process's clock at the end of each part."""
    print("| part | seconds |\n|---|---:|")
    names, readings = list(marks)[1:], list(marks.values())
    for name, before, after in zip(names, readings, readings[1:], strict=False):
        print(f"| {name} | {after - before:.2f} |")
    print(f"| **all, of CPU** | {readings[-1] - readings[0]:.2f} |")
    for name, duration in seconds.items():
        print(f"| {name}, by the clock | {duration:.2f} |")
    print(f"| all, by the clock | {wall:.2f} |", flush=True)


if __name__ == "__main__":
    main()
