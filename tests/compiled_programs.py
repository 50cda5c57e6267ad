"""A pytest plugin: the seconds and compiled programs of every folder of tests, and its budget.

Time in these tests is compilation. A count of programs does not depend on the machine, nor on the
programs that a persistent cache has kept: JAX's event is one for each program that is built or
read from it. What notebooks, scripts and other processes of a test compile is not counted. A
program that several files use is counted in every worker of pytest-xdist that runs one of them.
"""

from collections import Counter

import jax.monitoring
import pytest

EVENT = "/jax/core/compile/backend_compile_duration"

BUDGETS = {
    **{"data": 10, "diffusion": 3600, "docs": 210, "evaluation": 200, "experiments": 3000},
    **{
        "interop": 120,
        "lm": 700,
        "nn": 1450,
        "parallel": 520,
        "parity": 1100,
        "nerf": 1900,
        "spacetime": 1850,
    },
    **{"pretrained": 700, "encoders": 310},
    **{"tests": 300, "training": 750, "unet": 650, "compressors": 1400},
}
"""Folder of `tests` -> the most programs that its tests may compile, plain or slow.

Some 40 % above what two workers compile: of eight, each compiles for itself what files share.
"""

_compiled = Counter[str]()


def _count(event: str, duration: float, **_: object) -> None:
    _compiled[event] += 1


jax.monitoring.register_event_duration_secs_listener(_count)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item):
    """Writes into each report what was compiled since the last; xdist carries it along."""
    report = yield
    report.compiled_programs = _compiled.pop(EVENT, 0)
    return report


class Folders:
    """Sums the reports of a whole run, of all workers."""

    def __init__(self) -> None:
        self.tests, self.seconds, self.programs = Counter(), Counter(), Counter()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        parts = report.nodeid.split("::")[0].split("/")
        folder = parts[1] if len(parts) > 2 else "tests"
        self.tests[folder] += report.when == "call"
        self.seconds[folder] += report.duration
        self.programs[folder] += getattr(report, "compiled_programs", 0)  # none of a lost worker

    def exceeded(self) -> list[str]:
        return [
            f"tests/{folder} compiled {programs} programs, expected at most {BUDGETS[folder]}"
            for folder, programs in sorted(self.programs.items())
            if programs > BUDGETS.get(folder, programs)
        ]

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.exceeded() and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        terminalreporter.section("compiled programs")
        terminalreporter.write_line("folder          tests  seconds  programs  budget")
        for folder, tests in sorted(self.tests.items()):
            terminalreporter.write_line(
                f"{folder:<14}{tests:>7}{self.seconds[folder]:>9.1f}{self.programs[folder]:>10}"
                f"{BUDGETS.get(folder, '-'):>8}"
            )
        for line in self.exceeded():
            terminalreporter.write_line(line, red=True)


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # a worker's reports are summed where they arrive
        config.pluginmanager.register(Folders(), "folders")
