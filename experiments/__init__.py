"""One program per experiment: `python -m experiments.NAME --help`."""
