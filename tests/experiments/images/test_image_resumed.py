"""A run that resumes elsewhere: on another mesh, in two processes instead of one."""

import pathlib

import jax
import numpy as np
import pytest
from processes import run_processes
from resumed_images import train_and_draw

from experiments.images.support import image_training
from jaxgen.parallel import make_mesh
from jaxgen.training import read_records


class Interrupted(Exception):
    pass


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Records and samples of a run on one device."""
    with jax.set_mesh(make_mesh("data=1", jax.devices()[:1])):
        return train_and_draw(tmp_path_factory.mktemp("undisturbed"))


@pytest.mark.slow
def test_a_run_goes_on_in_two_processes_on_another_mesh(undisturbed, tmp_path, monkeypatch):
    """The same losses and samples as on one device."""
    batch_at = image_training.batch_at

    def eight_batches(images, plan, index, **options):
        if index == 8:
            raise Interrupted
        return batch_at(images, plan, index, **options)

    monkeypatch.setattr(image_training, "batch_at", eight_batches)
    with jax.set_mesh(make_mesh("data=2,fsdp=2,model=2")), pytest.raises(Interrupted):
        train_and_draw(tmp_path)
    assert max(int(p.name) for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit()) == 8
    worker = pathlib.Path(__file__).parents[1] / "resumed_images.py"
    run_processes(worker, [str(tmp_path), "data=2,model=4"])
    records, samples = undisturbed
    found = read_records(tmp_path / "metrics.jsonl")
    assert [record["step"] for record in found] == [record["step"] for record in records]
    for name in ("train/loss", "train/gradient_norm", "validation/loss"):
        curves = [[r[name] for r in run if name in r] for run in (found, records)]
        assert len(curves[0]) == 2
        np.testing.assert_allclose(*curves, rtol=1e-4, err_msg=name)
    np.testing.assert_allclose(np.load(tmp_path / "samples.npy"), samples, atol=1e-4)
