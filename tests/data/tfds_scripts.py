"""Runs a script that builds tfds sets, reads them, and prints what came out as JSON.

It is a process of its own, so that the modules that the script imports are its own.
"""

import json
import os
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).parent


def answer_of(script: str, folder: pathlib.Path) -> dict:
    """What a script of this folder prints of the sets that it builds in another."""
    process = subprocess.run(
        [sys.executable, str(HERE / script), str(folder)],
        env={**os.environ, "PYTHONPATH": str(HERE.parents[1])},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout.splitlines()[-1])
