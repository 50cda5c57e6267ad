"""One program per experiment: `python -m experiments.NAME --help`."""

import os
import signal
import sys

if sys.argv[:1] == ["-m"]:  # Python is looking for the program; its imports take seconds
    for _number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(_number, lambda number, _: os._exit(128 + number))
