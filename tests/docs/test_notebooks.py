"""The notebooks run from top to bottom, on a small part of their work."""

import pathlib
import re

import nbformat
import pytest
from nbclient import NotebookClient
from processes import xla_flags

ROOT = pathlib.Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
NUMBER = r"-?[\d.]+(?:e[-+]?\d+)?"


def read_notebook(name: str) -> nbformat.NotebookNode:
    return nbformat.read(ROOT / "docs" / "notebooks" / f"{name}.ipynb", as_version=4)


def printed(notebook: nbformat.NotebookNode, *, pictures: int) -> str:
    """What its cells printed, after a look at what else they put out."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not [o for o in outputs if o.get("name") == "stderr" or o.output_type == "error"]
    assert sum("image/png" in o.get("data", {}) for o in outputs) == pictures
    return "".join(output.get("text", "") for output in outputs)


def numbers_after(text: str, name: str) -> list[float]:
    """The numbers of the first line that begins with a name and continues with numbers."""
    line = re.search(rf"^{re.escape(name)}((?: +{NUMBER}%?)+)", text, re.MULTILINE)
    assert line is not None, f"no numbers after {name!r}"
    return [float(number) for number in re.findall(NUMBER, line[1])]


@pytest.fixture
def run_notebook(monkeypatch):
    """``(name, pictures) -> printed text``: executes it as a reader would, with fewer epochs."""

    def run(name: str, *, pictures: int, epochs: float) -> str:
        monkeypatch.setenv("JAXGEN_NOTEBOOK_EPOCHS", str(epochs))
        monkeypatch.setenv("PYTHONPATH", str(ROOT))
        monkeypatch.setenv("XLA_FLAGS", xla_flags())  # it asks for its devices itself
        notebook = read_notebook(name)
        resources = {"metadata": {"path": str(ROOT / "docs" / "notebooks")}}
        NotebookClient(notebook, timeout=300, resources=resources).execute()
        return printed(notebook, pictures=pictures)

    return run


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the Jupyter client
def test_neural_language_model(run_notebook):
    text = run_notebook("neural_language_model", pictures=2, epochs=0.3)
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


def check_executed_once(notebook):
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1)), "executed once, from top to bottom"


DIFFUSION_PICTURES = 12


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_diffusion(run_notebook):
    text = run_notebook("diffusion", pictures=DIFFUSION_PICTURES, epochs=1)
    check_formulas(text)
    check_devices(text)
    first, last = map(float, re.search(r"loss (\S+) at first, (\S+) at last", text).groups())
    assert last < 0.95 * first


def test_diffusion_as_committed():
    """What the prose says of the trained network is what the outputs beside it show."""
    notebook = read_notebook("diffusion")
    check_executed_once(notebook)
    text = printed(notebook, pictures=DIFFUSION_PICTURES)
    check_formulas(text)
    check_devices(text)
    accuracy = {w: numbers_after(text, f"w = {w}")[0] for w in (-1, 0, 1, 4)}
    assert accuracy[-1] < 25  # ten classes, and none is asked for
    assert 80 < accuracy[0] <= accuracy[1] <= accuracy[4]
    distance = {w: numbers_after(text, f"w = {w}")[1] for w in (0, 1, 4)}
    assert distance[0] < distance[4]


SPACETIME_PICTURES = 7


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_spacetime(run_notebook):
    text = run_notebook("spacetime", pictures=SPACETIME_PICTURES, epochs=1)
    check_videos(text)
    first, last = map(float, re.search(r"loss (\S+) at first, (\S+) at last", text).groups())
    assert last < 0.7 * first


def test_spacetime_as_committed():
    """What the prose says of the trained networks is what the outputs beside it show."""
    notebook = read_notebook("spacetime")
    check_executed_once(notebook)
    text = printed(notebook, pictures=SPACETIME_PICTURES)
    check_videos(text)
    transform, trained = (
        numbers_after(text, name)[0] for name in ("linear transform", "trained network")
    )
    assert trained > transform + 1


RADIANCE_PICTURES = 8


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_radiance_fields(run_notebook):
    text = run_notebook("radiance_fields", pictures=RADIANCE_PICTURES, epochs=1)
    check_rays(text)
    first, last = map(float, re.search(r"loss (\S+) at first, (\S+) at last", text).groups())
    assert last < 0.5 * first


def test_radiance_fields_as_committed():
    """What the prose says of the trained field is what the outputs beside it show."""
    notebook = read_notebook("radiance_fields")
    check_executed_once(notebook)
    text = printed(notebook, pictures=RADIANCE_PICTURES)
    check_rays(text)
    decibels = [numbers_after(text, f"octaves {L}, PSNR")[0] for L in (0, 2, 5)]
    assert decibels == sorted(decibels)
    assert min(numbers_after(text, "PSNR of new views")) > 26
    assert numbers_after(text, "median relative depth error")[0] < 0.01
    assert numbers_after(text, "mean opacity where nothing is")[0] < 0.01
    assert "srcdoc" in notebook.cells[-2].outputs[-1].data["text/html"]


TEXT_PICTURES = 5


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_text_to_image(run_notebook):
    text = run_notebook("text_to_image", pictures=TEXT_PICTURES, epochs=1)
    check_words(text)
    first, last = numbers_after(text, "loss")
    assert last < first < 1.5


def test_text_to_image_as_committed():
    """The trained model tells captions apart that it was not trained on."""
    notebook = read_notebook("text_to_image")
    check_executed_once(notebook)
    text = printed(notebook, pictures=TEXT_PICTURES)
    check_words(text)
    first, last = numbers_after(text, "loss")
    assert last < 0.1 * first
    assert numbers_after(text, "captions found")[0] > 0.9


def check_words(text: str) -> None:
    """Captions are held out; the weights of attention add up."""
    assert numbers_after(text, "captions to train on") == [28]
    assert len(re.findall(r"^  a \w+ \w+ at the", text, re.MULTILINE)) == 4
    assert numbers_after(text, "weights of a pixel add up to") == [1.0]


def check_rays(text: str) -> None:
    """Closed forms: directions, the slab's opacity and distance, the cloud, placed intervals."""
    assert numbers_after(text, "directions and the formula differ by")[0] < 1e-6
    assert numbers_after(text, "projected back, pixels differ by")[0] < 1e-4
    rows = [numbers_after(text, f"{samples:9d}") for samples in (4, 8, 16, 32)]
    assert max(row[0] for row in rows) < 1e-6
    assert all(row[2] == pytest.approx(2, abs=0.05) for row in rows[1:])
    cloud = [
        numbers_after(text, f"cloud, {samples:2d} intervals, largest error")[0]
        for samples in (2, 4, 8, 16)
    ]
    assert cloud[0] > 0.1 > cloud[1] > 1e-3 > cloud[2] > 1e-5 > cloud[3]
    even, placed = (
        numbers_after(text, f"{name}, error of the distance")[0]
        for name in ("even intervals", "intervals by weights")
    )
    assert placed < even / 3


def check_videos(text: str) -> None:
    """What holds before training too: causal coding, packs, known frames."""
    differences = list(map(float, re.findall(r"by +(\d\S+)$", text, re.MULTILINE)))
    assert len(differences) == 6
    assert max(differences) < 1e-5
    assert "put together again, the same: True" in text
    packed, padded = map(float, re.findall(r"([\d.]+)%", text))
    assert packed < 12 < 30 < padded
    assert numbers_after(text, "rms error of known frames")[0] < 1e-3


def check_formulas(text: str) -> None:
    """The part without a network: orders, predictions, guidance."""
    for name, order in {"DDIM": 1, "Euler": 1, "Heun": 2, "DPM-Solver++ 2M": 2}.items():
        assert numbers_after(text, name)[0] == pytest.approx(order, abs=0.1)
    posterior, forward = (
        numbers_after(text, f"ancestral, {variance} variance")
        for variance in ("posterior", "forward")
    )
    assert posterior == sorted(posterior)
    assert forward == sorted(forward, reverse=True)
    assert posterior[-1] < 0.5 < forward[-1]
    factors, errors = text.split("root mean square error")
    for target, largest in {"x": (1, 2.203e4), "e": (2.203e4, 1), "v": (1, 1)}.items():
        assert numbers_after(factors, target) == pytest.approx(largest, rel=1e-3)
    decoding, encoding = zip(*(numbers_after(errors, target) for target in "xev"), strict=True)
    assert decoding[1] > 100 * decoding[2]
    assert encoding[0] > 100 * encoding[2]
    recognised = [numbers_after(text, f"{w:4.0f}") for w in (-1, 0, 1, 4)]
    assert [row[0] for row in recognised] == sorted(row[0] for row in recognised)
    assert [row[1] for row in recognised] == sorted((row[1] for row in recognised), reverse=True)
    mean, variance = numbers_after(text, "moments")
    assert mean == pytest.approx(1.6, abs=0.04)
    assert variance == pytest.approx(0.36, abs=0.04)
    assert numbers_after(text, "replacement")[0] < 1.1


def check_devices(text: str) -> None:
    """A sample depends on its key and number alone."""
    assert "images are on 8 devices" in text
    on_devices, in_batches = map(
        float, re.findall(r"(?:and one: pixels differ|of 200:) by (\S+) at most", text)
    )
    assert on_devices < 1e-3
    assert in_batches < 1e-3


def test_every_notebook_is_tested():
    assert [path.stem for path in NOTEBOOKS] == [
        *("diffusion", "neural_language_model", "radiance_fields", "spacetime", "text_to_image")
    ]


INSTALL = "import importlib.util\nimport pathlib\n\n# Installs jaxgen from a clone"
BADGE = "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"


@pytest.mark.parametrize("name", [path.stem for path in NOTEBOOKS])
def test_notebooks_begin_with_their_installation_and_are_small(name):
    notebook = read_notebook(name)
    title, first = notebook.cells[:2]
    assert BADGE in title.source
    assert first.source.startswith(INSTALL)
    assert first.source == read_notebook("diffusion").cells[1].source
    outputs = [
        output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", [])
    ]
    assert all(len(data.get("text/plain", "")) < 2000 for data in outputs)
    assert sum(len(data.get("image/png", "")) for data in outputs) < 350_000
    assert (ROOT / "docs" / "notebooks" / f"{name}.ipynb").stat().st_size < 500_000


def test_the_first_cell_finds_the_clone(tmp_path, monkeypatch):
    """In the notebook's own folder, and in a folder that holds the clone, as Colab's does."""
    cell = read_notebook("diffusion").cells[1].source
    lines = cell.replace("%pip install --quiet", "installed = ").replace('"{', 'f"{')
    lines = lines.replace('importlib.util.find_spec("jaxgen")', "None")
    (tmp_path / "clone" / "jaxgen").mkdir(parents=True)
    (tmp_path / "clone" / "jaxgen" / "__init__.py").touch()
    for folder, clone in ((ROOT / "docs" / "notebooks", ROOT), (tmp_path, tmp_path / "clone")):
        monkeypatch.chdir(folder)
        names: dict = {}
        exec(lines, names)
        assert names["installed"] == f"{clone}[notebooks]"
