"""What runs of experiments logged, and whether two runs logged the same."""

import pathlib

import numpy as np

from jaxgen.training import read_records


def losses(folder: pathlib.Path) -> list:
    """Step, name and value of every loss that a run logged."""
    return [
        (record["step"], name, record[name])
        for record in read_records(folder / "metrics.jsonl")
        for name in ("train/loss", "validation/loss")
        if name in record
    ]


def assert_same_losses(folder: pathlib.Path, reference: pathlib.Path, rtol: float = 2e-5) -> None:
    assert [point[:2] for point in losses(folder)] == [point[:2] for point in losses(reference)]
    np.testing.assert_allclose(
        [value for *_, value in losses(folder)],
        [value for *_, value in losses(reference)],
        rtol=rtol,
    )
