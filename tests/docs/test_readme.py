"""What the README tells a person to type, and links between pages."""

import pathlib
import re
import zipfile

import jax
import numpy as np
import pytest

from jaxgen.diffusion import CosineSchedule

ROOT = pathlib.Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf8")
INDEX = (ROOT / "docs" / "index.md").read_text(encoding="utf8")
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


def python_in(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)


IMAGES, TEXT = python_in(README)
LANGUAGE, DIFFUSION, CHECKPOINT = python_in(INDEX)


def test_the_first_look_runs():
    # One device, as on a laptop; the tests have eight.
    code = LANGUAGE.replace('make_mesh("data=-1")', "make_mesh(devices=jax.devices()[:1])")
    names: dict = {}
    exec(compile(code, "index.md", "exec"), names)
    assert names["words"].shape == names["log_p"].shape == (8, 5)
    assert (names["log_p"][:, :-1] >= names["log_p"][:, 1:]).all()


def test_diffusion_without_a_network_samples_what_it_should():
    names: dict = {}
    exec(compile(DIFFUSION, "index.md", "exec"), names)
    x_BD = np.asarray(names["x"])
    assert x_BD.shape == (1000, 2)
    np.testing.assert_allclose(x_BD.mean(0), [1, 2], atol=0.15)
    np.testing.assert_allclose(np.cov(x_BD.T), [[1, 0.8], [0.8, 1]], atol=0.15)


def test_a_checkpoint_opens_in_three_lines(tmp_path):
    # Of a guidance-conditioned network, which is evaluated once: w is its input.
    saved = ROOT / "tests" / "training" / "first_format" / "guided_student.zip"
    zipfile.ZipFile(saved).extractall(tmp_path)
    names = {"folder": tmp_path, "labels": np.array([1, 3])}
    exec(compile(CHECKPOINT, "index.md", "exec"), names)
    z = np.random.default_rng(0).normal(size=(2, 8, 8, 1)).astype("f4")
    level = CosineSchedule().at(np.array([0.5, 0.5]))
    x, e = jax.jit(names["denoiser"])(z, level)[:2]
    z_again = level.a[:, None, None, None] * x + level.s[:, None, None, None] * e
    np.testing.assert_allclose(z_again, z, atol=1e-4)


def test_own_images_are_sampled_in_ten_lines(tmp_path):
    saved = ROOT / "tests" / "training" / "first_format" / "dit.zip"
    zipfile.ZipFile(saved).extractall(tmp_path)
    names: dict = {}
    code = IMAGES.replace("runs/mine/checkpoints", str(tmp_path)).replace("50)", "2)")
    exec(compile(code, "README.md", "exec"), names)
    assert names["images"].dtype == np.uint8
    assert names["images"].shape == (16, *names["model"].config.image_shape)
    assert len([line for line in IMAGES.splitlines() if line]) <= 11


@pytest.mark.filterwarnings("ignore:Kneser-Ney discounts")  # no word is rare here
def test_own_text_is_modelled_in_ten_lines(tmp_path, capsys):
    words = np.random.default_rng(0).choice(["a", "rose", "is", "red"], size=4000)
    (tmp_path / "text.txt").write_text(" ".join(words))
    code = TEXT.replace("FILE.txt", str(tmp_path / "text.txt"))
    exec(compile(code, "README.md", "exec"), {})
    perplexity, written = capsys.readouterr().out.splitlines()
    assert 3.9 < float(perplexity) < 5  # four words, equally likely
    assert len(written.split()) == 50
    assert len([line for line in TEXT.splitlines() if line]) <= 10


def headings(page: pathlib.Path) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf8"), flags=re.DOTALL | re.M)
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", page.read_text(encoding="utf8"))
    for target, anchor in links:
        linked = page.parent / target if target else page
        assert linked.exists(), f"{page.name} links to {target}"
        if anchor and linked.suffix == ".md":
            assert anchor in headings(linked), f"{page.name} links to {target}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tables_have_as_many_cells_in_every_row(page):
    tables = re.findall(r"(?:^\|.*\n)+", page.read_text(encoding="utf8"), re.MULTILINE)
    for table in tables:
        counts = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(counts) == 1, f"{page.name}: {table.splitlines()[0]}"


def test_every_picture_is_shown():
    shown = {
        (page.parent / target).resolve()
        for page in PAGES
        for target in re.findall(r"!\[[^]]*\]\(([^)]*)\)", page.read_text(encoding="utf8"))
    }
    assert set((ROOT / "docs" / "images").iterdir()) <= shown
