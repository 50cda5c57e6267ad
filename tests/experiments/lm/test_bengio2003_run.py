"""The table of Bengio et al. (2003) on a small text in the form of the Brown corpus."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from matplotlib.image import imread
from random_text import write_brown

from experiments.lm import bengio2003
from experiments.lm.bengio2003 import Config, main
from experiments.lm.support.bengio2003_rows import (
    CHECKS,
    CLASSES,
    KNESER_NEY,
    NETWORK,
    ROWS,
    TABLE_1,
    Row,
    check_table,
    highest_order,
    most_classes,
    ratios,
    selected_rows,
    table,
)
from experiments.lm.support.recipes import RecipeFlags, WordNetworkFlags
from experiments.shared.launch import LaunchConfig
from jaxgen.data import load_corpus
from jaxgen.errors import InputError
from jaxgen.lm import perplexity
from jaxgen.lm.ngram import count_ngrams, fit_interpolated, fit_kneser_ney
from jaxgen.parallel import make_mesh
from jaxgen.training import load_model

SPLIT = (4000, 800)


def test_the_21_rows_of_the_paper():
    assert len(TABLE_1) == 21
    assert [row.name for row in TABLE_1[:10]] == [f"MLP{i}" for i in range(1, 11)]
    assert sum(row.model == NETWORK for row in TABLE_1) == 5
    assert [row.order for row in TABLE_1 if row.model == KNESER_NEY] == [3, 4, 5]
    assert [(row.classes, row.order) for row in TABLE_1 if row.model == CLASSES] == [
        *((classes, 3) for classes in (150, 200, 500, 1000, 2000)),
        *((500, order) for order in (4, 5)),
    ]
    # Sums over the column of test perplexities, a guard against typos.
    assert sum(row.paper[2] for row in TABLE_1) == 6292
    assert sum(row.paper[1] for row in TABLE_1) == 6589
    assert ROWS["MLP9"].network.hidden == 100
    assert not ROWS["MLP9"].network.direct


def test_rows_are_chosen_by_name():
    assert [row.name for row in selected_rows(["MLP9,MLP10", "KN3"])] == ["MLP9", "MLP10", "KN3"]
    assert selected_rows([]) == tuple(ROWS.values())
    with pytest.raises(InputError, match="there is no row 'MLP11', expected some of MLP1, "):
        selected_rows(["MLP11"])


def test_checks_hold_of_the_papers_own_figures_but_two():
    """The limits on MLP9 and MLP10 are ours: the paper has 276/336 and 252/336."""
    paper = {row.name: {"test": row.paper[2]} for row in TABLE_1}
    verdicts = {check.claim: check.verdict(paper) for check in CHECKS}
    assert verdicts.pop("the best model against the interpolated trigram") == "not run"
    assert verdicts.pop("mixture against interpolated trigram") == "FAIL"
    assert set(verdicts.values()) == {"pass"}
    ratios = {check.row + check.by[0]: check.ratio(paper) for check in CHECKS[:-1]}
    assert ratios["MLP9trigram"] == pytest.approx(276 / 336)
    assert ratios["MLP10trigram"] == pytest.approx(252 / 336)
    assert ratios["MLP10classes150-3"] == pytest.approx(252 / 312)


def test_the_kneser_ney_check_is_on_the_gain():
    check = next(check for check in CHECKS if check.row == "KN3")
    assert check.verdict({"KN3": {"test": 100.0}, "KN5": {"test": 99.01}}) == "pass"
    assert check.verdict({"KN3": {"test": 100.0}, "KN5": {"test": 98.99}}) == "FAIL"
    assert check.verdict({"KN3": {"test": 100.0}}) == "not run"


@pytest.fixture(scope="module")
def brown(tmp_path_factory):
    return write_brown(tmp_path_factory.mktemp("brown") / "brown.zip")


def run(brown, folder, *rows):
    config = Config(
        launch=LaunchConfig(workdir=str(folder)),
        corpus=str(brown),
        split=SPLIT,
        rows=rows,
        training=RecipeFlags(batch_size=64, epochs=1, learning_rate=0.05),
    )
    with jax.set_mesh(make_mesh("data=1", jax.devices()[:1])):
        return main(config)


@pytest.fixture(scope="module")
def finished(brown, tmp_path_factory):
    folder = tmp_path_factory.mktemp("table")
    return folder, run(brown, folder, "MLP8,KN3", "backoff3", "classes150-3")


def test_rows_are_what_the_models_give(brown, finished):
    _, figures = finished
    corpus = load_corpus(brown, split=SPLIT)
    counts = count_ngrams(corpus.split("train"), 3, len(corpus.vocabulary))
    spans = corpus.spans
    models = {
        "trigram": fit_interpolated(counts, corpus.tokens, *spans["validation"]),
        "KN3": fit_kneser_ney(counts),
        "backoff3": fit_kneser_ney(counts, interpolated=False, minimum_counts=(1, 1, 2)),
    }
    for name, model in models.items():
        for part in ("validation", "test"):
            expected = perplexity(model, corpus.tokens, *spans[part])
            assert figures[name][part] == pytest.approx(expected, rel=1e-9)
    assert figures["MLP7"]["train"] < len(corpus.vocabulary)
    assert figures["MLP8"]["validation"] < figures["MLP7"]["validation"]
    assert figures["MLP8"]["validation"] <= figures["trigram"]["validation"] * (1 + 1e-6)
    members = figures["MLP7"]["seconds"] + figures["trigram"]["seconds"]
    assert members <= figures["MLP8"]["seconds"] < members + 5


def test_rows_asked_for_and_what_they_are_made_from(finished):
    folder, figures = finished
    names = [name for name in figures if name != "checks"]
    assert names == ["MLP7", "MLP8", "trigram", "KN3", "classes150-3", "backoff3"]
    assert figures["checks"]["MLP8: the mixture beats its network"] in ("pass", "FAIL")
    assert figures["checks"]["50 hidden units beat none"] == "not run"
    rows = json.loads((folder / "table.json").read_text())["rows"]
    assert [row["name"] for row in rows] == names
    assert rows[0]["paper"] == {"train": 210, "validation": 309, "test": 293}
    assert rows[0]["network"]["order"] == 3
    assert rows[0]["ours"]["test"] == figures["MLP7"]["test"]
    results = {name: figures[name] for name in names}
    assert (folder / "table.md").read_text() == f"{table(results)}\n\n{check_table(results)}\n"
    line = next(line for line in table(results).splitlines() if line.startswith("| KN3"))
    assert f" {figures['KN3']['test'] / figures['trigram']['test']:.3f} " in line
    assert " 323 " in line


def test_pictures(finished):
    folder, figures = finished
    ours, paper = ratios({name: row for name, row in figures.items() if name != "checks"})
    assert ours["KN3"] == figures["KN3"]["test"] / figures["trigram"]["test"]
    assert paper["MLP7"] == pytest.approx(293 / 336)
    assert ratios({"KN3": {"test": 1.0}}) == ({}, {})
    for name in ("ratios.png", "curves.png"):
        pixels = imread(folder / name)[..., :3]
        assert min(pixels.shape[:2]) > 200
        assert 0.01 < (pixels < 0.9).any(-1).mean() < 0.5


def test_finished_rows_are_kept_and_others_added(brown, finished, tmp_path, monkeypatch):
    folder, figures = finished
    files = {p: p.stat().st_mtime_ns for p in (folder / "rows").iterdir() if p.is_file()}
    monkeypatch.setattr(bengio2003, "train_network", lambda *_, **__: pytest.fail("trained"))
    again = run(brown, folder, "KN3", "MLP8")
    assert {k: v for k, v in again.items() if k != "checks"} == {
        k: v for k, v in figures.items() if k != "checks"
    }
    assert all(path.stat().st_mtime_ns == time for path, time in files.items())
    more = run(brown, folder, "KN4")
    assert set(more) - set(figures) == {"KN4"}


def test_a_mixture_alone(brown, finished):
    """Its members say which order the text must have."""
    folder, figures = finished
    assert run(brown, folder, "MLP8")["MLP8"] == figures["MLP8"]
    assert [highest_order(ROWS[name]) for name in ("best", "MLP8", "KN4")] == [16, 3, 4]


def test_a_network_with_a_short_list(brown, finished, monkeypatch):
    """Its outputs are the most frequent words; a trigram tells the others apart."""
    flags = WordNetworkFlags(order=3, features=4, hidden=4)
    row = Row("short", NETWORK, order=3, network=flags, short_list=50, seed=3)
    monkeypatch.setitem(ROWS, "short", row)
    folder, figures = finished
    found = run(brown, folder, "short")["short"]
    assert found["test"] < 1.2 * figures["MLP7"]["test"]
    saved = load_model(folder / "rows" / "short" / "checkpoints", "best")
    assert saved.config == row.network_config(218)
    assert saved.params["b"].shape == (51,)
    assert row.network_config(50) == flags.config(50)


def test_a_row_that_was_cut_off_is_computed_again(brown, finished):
    """The figures are written last: without them, the probabilities do not count."""
    folder, figures = finished
    (folder / "rows" / "KN3.json").unlink()
    np.savez(folder / "rows" / "KN3.npz", validation=np.zeros(3), test=np.zeros(3))
    assert run(brown, folder, "KN3")["KN3"]["test"] == figures["KN3"]["test"]


def test_another_recipe_wants_another_folder(brown, finished):
    folder, _ = finished
    config = Config(
        launch=LaunchConfig(workdir=str(folder)),
        corpus=str(brown),
        split=SPLIT,
        rows=("MLP7",),
        training=RecipeFlags(recipe="paper", batch_size=64, epochs=1),
    )
    with (
        jax.set_mesh(make_mesh("data=1", jax.devices()[:1])),
        pytest.raises(InputError, match=r"training\.recipe: 'modern', expected 'paper'"),
    ):
        main(config)


def test_bad_input_writes_nothing(brown, tmp_path):
    good = Config(
        launch=LaunchConfig(workdir=str(tmp_path / "run")),
        corpus=str(brown),
        split=SPLIT,
        rows=("MLP7",),
    )
    for change, message in (
        ({"rows": ("MLP0",)}, "no row 'MLP0'"),
        ({"split": None}, "are too few for 800000"),
        ({"corpus": str(tmp_path / "brown.zip")}, "brown.zip: no such file"),
        ({"training": RecipeFlags(batch_size=10**6)}, "batch_size is 1000000"),
    ):
        with (
            jax.set_mesh(make_mesh("data=1", jax.devices()[:1])),
            pytest.raises((InputError, FileNotFoundError), match=message),
        ):
            main(dataclasses.replace(good, **change))
    assert not any(tmp_path.iterdir())


def test_other_corpora_are_not_judged_by_the_papers_figures(tmp_path, capfd):
    words = np.random.default_rng(0).choice(["a", "b", "c", "d"], 3000)
    (tmp_path / "story.txt").write_text(" ".join(words))
    config = Config(
        launch=LaunchConfig(workdir=str(tmp_path / "run")),
        corpus=str(tmp_path / "story.txt"),
        rows=("KN3", "trigram", "KN5"),
    )
    with jax.set_mesh(make_mesh("data=1", jax.devices()[:1])):
        with pytest.warns(UserWarning, match="Kneser-Ney discounts"):
            figures = main(config)
        with pytest.raises(InputError, match=r"classes150-3 has 150 classes of words, .* the 5 wo"):
            main(dataclasses.replace(config, rows=("classes150-3",)))
    assert "not the Brown corpus: the paper's figures" in capfd.readouterr().out
    assert set(figures) == {"trigram", "KN3", "KN5", "checks"}
    assert figures["checks"] == {}
    written = json.loads((tmp_path / "run" / "table.json").read_text())
    assert [row["paper"] for row in written["rows"]] == [None] * 3
    page = (tmp_path / "run" / "table.md").read_text()
    assert "paper" not in page
    for figure in ("352", "336", "334", "323", "332", "321", "0.961", "1.010"):
        assert f" {figure} " not in page
    assert page == table({k: v for k, v in figures.items() if k != "checks"}, is_brown=False) + "\n"
    assert (tmp_path / "run" / "ratios.png").exists()


def test_the_classes_of_a_row_and_of_its_members():
    assert [most_classes(ROWS[name]) for name in ("classes500-4", "best", "MLP2")] == [500, 1000, 0]
