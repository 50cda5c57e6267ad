"""The notebooks run from top to bottom, on a small part of their work."""

import pathlib
import re

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = pathlib.Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


@pytest.fixture
def run_notebook(monkeypatch):
    """``name -> printed text``: executes a notebook as a reader would, but with fewer epochs."""

    def run(name: str) -> str:
        monkeypatch.setenv("JAXGEN_NOTEBOOK_EPOCHS", "0.3")
        monkeypatch.setenv("PYTHONPATH", str(ROOT))
        monkeypatch.delenv("XLA_FLAGS", raising=False)  # it asks for its devices itself
        path = ROOT / "docs" / "notebooks" / f"{name}.ipynb"
        notebook = nbformat.read(path, as_version=4)
        resources = {"metadata": {"path": str(path.parent)}}
        NotebookClient(notebook, timeout=300, resources=resources).execute()
        outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
        assert not [o for o in outputs if o.get("name") == "stderr"]
        assert sum("image/png" in o.get("data", {}) for o in outputs) == 2
        return "".join(output.get("text", "") for output in outputs)

    return run


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the Jupyter client
def test_neural_language_model(run_notebook):
    text = run_notebook("neural_language_model")
    on_eight, on_one = (
        float(re.search(rf"first loss on {devices}\s+(\S+)", text)[1])
        for devices in ("eight devices", "one device")
    )
    assert abs(on_eight - on_one) < 1e-5
    assert 5 < on_one < 8  # it starts as a unigram model
    perplexity = {
        name: float(re.search(rf"{re.escape(name)}\s+\S+\s+(\S+)", text)[1])
        for name in ("interpolated trigram", "network + Kneser-Ney")
    }
    assert perplexity["network + Kneser-Ney"] < perplexity["interpolated trigram"]


def test_every_notebook_is_tested():
    assert [path.stem for path in NOTEBOOKS] == ["neural_language_model"]
