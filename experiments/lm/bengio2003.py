"""Table 1 of Bengio, Ducharme, Vincent & Jauvin (2003): 21 models of the Brown corpus.

``python -m experiments.lm.bengio2003 --corpus PATH/brown.zip``

Estimates or trains every model of the table and prints the paper's perplexities beside ours. The
corpus is distributed with another tokenisation than the paper's (17,906 words, not 16,383), so
ratios and orderings are what to compare; the most telling ones are checked at the end. Of another
corpus the same models are computed, but the paper says nothing about it: no figures of the paper
stand in its table, and nothing is checked. Every row is
kept in files of its own, with its probabilities: a run started again does what is left.

The baselines are given their strongest form. Kneser-Ney models are modified and interpolated (Chen
& Goodman 1999), which beats the back-off form by 3 to 4 %; rows "backoff3" to "backoff5" are
back-off models without the n-grams of order 3 and more that occur once, SRILM's default and so, we
guess, the paper's. Class-based models are interpolated Kneser-Ney over classes that the exchange
algorithm finds. The row "best" is what the paper's ideas give today: four larger networks with
dropout and a short list, mixed with n-grams of words and of classes.
"""

import functools
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from jaxtyping import Float64

from experiments.lm.support.bengio2003_rows import (
    BACK_OFF,
    BEST_NETWORKS,
    CHECKS,
    CLASSES,
    KNESER_NEY,
    MIXTURE,
    NETWORK,
    ROWS,
    TRIGRAM,
    Perplexities,
    Row,
    check_table,
    highest_order,
    json_rows,
    most_classes,
    ratios,
    selected_rows,
    table,
)
from experiments.lm.support.language_modelling import (
    MAY_DIFFER,
    check_text_batches,
    curve_of,
    frequency_bins_of,
    mix_by_frequency,
    model_probabilities,
    perplexities,
    train_network,
)
from experiments.lm.support.recipes import METRIC, RecipeFlags
from experiments.shared.digests import corpus_digest
from experiments.shared.launch import ExperimentConfig, LaunchConfig, open_workdir, report, run
from experiments.shared.output import (
    cached_arrays,
    known_arrays,
    known_figures,
    progress_bar,
    save_arrays,
    save_figures,
    write_text,
)
from experiments.shared.plots import plot_perplexity, plot_ratios
from experiments.shared.workdir import check_checkpoints
from jaxgen.data import Corpus, load_corpus
from jaxgen.data.text.brown import TOKENS
from jaxgen.data.text.corpus import BROWN_TRAIN, BROWN_VALIDATION, spans_by_size
from jaxgen.data.text.load_corpus import recognise
from jaxgen.errors import InputError
from jaxgen.lm import LanguageModel
from jaxgen.lm.classes.clustering import exchange_clustering
from jaxgen.lm.ngram import (
    NgramCounts,
    count_ngrams,
    fit_class_model,
    fit_interpolated,
    fit_kneser_ney,
)
from jaxgen.lm.outputs.short_list import ShortListConfig, ShortListModel
from jaxgen.training import read_records
from jaxgen.training.metrics import write_figures
from jaxgen.training.saved_names import register_config

HELD_OUT = ("validation", "test")
SRILM_MINIMUM_COUNTS = (1, 1, 2, 2, 2)

Probabilities = Mapping[str, Float64[np.ndarray, "N"]]
"""Of every word, by part."""


@register_config("lm.bengio2003", first_format=["experiments.bengio2003:Config"])
@dataclass(frozen=True, kw_only=True)
class Config(ExperimentConfig):
    """Flags of this experiment.

    Attributes:
      launch: where to run and on what.
      corpus: the Brown corpus as NLTK distributes it, zip or folder; or any other corpus, which is
        not compared with the paper's figures.
      encoding: of a text file, a codec of Python's.
      cutoff: words of at most this frequency are one symbol; None for the paper's 3, and for
        another corpus' own.
      vocabulary_from: count the words of all parts, as the paper does, or of the training part.
      split: the training and the validation part, in words or as fractions, the rest is for test;
        None for the paper's 800,000 and 200,000 of Brown, and for another corpus' own parts.
      rows: names of the rows to compute, separated by spaces or commas; none for all. What they
        are made from is computed too.
      training: how the networks of Table 1 are trained.
    """

    launch: LaunchConfig = LaunchConfig(workdir="runs/lm_bengio2003")
    corpus: str
    encoding: str = "utf-8"
    cutoff: int | None = None
    vocabulary_from: Literal["all", "train"] = "all"
    split: tuple[int, int] | tuple[float, float] | None = None
    rows: tuple[str, ...] = ()
    training: RecipeFlags = RecipeFlags()


BEST_RECIPE = RecipeFlags(epochs=4)
"""How the networks of the row "best" are trained, whatever the recipe of the others. Validation
perplexity with n = 6 and all outputs: 273.1 with dropout of 0.4, 279.8 with 0.25 and 8 epochs,
after the second."""


def main(config: Config) -> dict[str, Any]:
    """Computes the rows that are asked for; prints the table and the checks."""
    rows = selected_rows(config.rows)
    corpus = load_corpus(
        config.corpus,
        split=config.split,
        rare_frequency=config.cutoff,
        vocabulary_from=config.vocabulary_from,
        encoding=config.encoding,
    )
    is_brown = recognise(config.corpus)[0] == "brown"
    _check_classes(rows, corpus)
    check_text_batches(max(map(highest_order, rows)), corpus, config.training.chosen())
    folder = open_workdir(
        config,
        may_differ=("rows",),
        data={corpus.name: corpus_digest(corpus)},
        check=functools.partial(check_paper_networks, corpus),
    )
    words_differ = config.cutoff not in (None, 3) or config.vocabulary_from != "all"
    report(f"{corpus.describe()}\n{_what_compares(corpus, is_brown, words_differ)}".rstrip())
    table_of_rows = Rows(config, corpus, folder)
    for row in rows:
        table_of_rows.compute(row)
    results = table_of_rows.finished()
    page = table(results, is_brown=is_brown)
    if is_brown:
        page += f"\n\n{check_table(results)}"
    report(f"\n{page}")
    write_text(folder / "table.md", page)
    draw_results(folder, results, corpus.name, is_brown)
    checks = {check.claim: check.verdict(results) for check in CHECKS} if is_brown else {}
    figures = {"rows": json_rows(results, is_brown=is_brown), "checks": checks}
    write_figures(folder / "table.json", figures)
    return {**results, "checks": checks}


def check_paper_networks(corpus: Corpus, folder: pathlib.Path) -> None:
    """Refuses a folder that has other networks.

    Raises:
      InputError: naming the fields that differ.
    """
    for row in ROWS.values():
        if row.network:
            network = row.network_config(len(corpus.vocabulary))
            check_checkpoints(folder / "rows" / row.name, network, MAY_DIFFER)


def _check_classes(rows: Sequence[Row], corpus: Corpus) -> None:
    for row in rows:
        if most_classes(row) > len(corpus.vocabulary):
            raise InputError(
                f"rows: {row.name} has {most_classes(row)} classes of words, expected at most the"
                f" {len(corpus.vocabulary)} words of {corpus.name}; name the rows to compute"
            )


def _what_compares(corpus: Corpus, is_brown: bool, words_differ: bool) -> str:
    """A line for corpora to which the paper's figures do not apply as they stand."""
    if not is_brown:
        return "not the Brown corpus: the paper's figures and what they show are left out"
    if words_differ:
        return "another vocabulary than the paper's: its figures stand for comparison only"
    papers = spans_by_size(TOKENS, BROWN_TRAIN, BROWN_VALIDATION)
    if len(corpus.tokens) == TOKENS and dict(corpus.spans) == papers:
        return ""
    return "other parts of Brown than the paper's: its figures stand for comparison only"


def draw_results(
    folder: pathlib.Path, results: Mapping[str, Perplexities], name: str, is_brown: bool
) -> None:
    """Ratios beside the paper's, and the networks' validation perplexity as they were trained."""
    ours, paper = ratios(results)
    if ours:
        title = "Table 1 of Bengio et al. (2003), and more" if is_brown else f"Models of {name}"
        paper = paper if is_brown else {}
        what = "test perplexity / that of the interpolated trigram"
        plot_ratios(folder / "ratios.png", ours, paper, title, what)
    records = {
        name: read_records(folder / "rows" / name / "metrics.jsonl")
        for name in results
        if ROWS[name].network
    }
    if records:
        plot_perplexity(
            folder / "curves.png",
            {name: curve_of(METRIC, of_row) for name, of_row in records.items()},
            {name: results[name]["validation"] for name in ("trigram", "KN5") if name in results},
            "Validation perplexity of the networks (dashed: n-grams)",
        )


@dataclass(frozen=True)
class Computed:
    """A row: probabilities of the held-out words by part, and figures by name."""

    probabilities: Probabilities
    figures: Mapping[str, float]


class Rows:
    """The rows of one run: computed once, kept in its folder.

    A row has two files, ``rows/NAME.npz`` with the probabilities of the words of the validation and
    test parts, and ``rows/NAME.json``, written after it, with perplexities by part and "seconds":
    how long it takes to train or estimate and to evaluate the model, its word classes and a
    mixture's members included. (N-grams are counted once, in the first row that needs them.) Files
    of another text or other settings count for nothing.
    """

    def __init__(self, config: Config, corpus: Corpus, folder: pathlib.Path):
        self.config, self.corpus, self.folder = config, corpus, folder / "rows"
        self._computed: dict[str, Computed] = {}
        self._digest = corpus_digest(corpus)

    def _made_of(self, row: Row) -> Any:
        return self._digest, self.config.training, self.config.seed, row

    def compute(self, row: Row) -> Computed:
        """What a row's model gives; its members are computed first."""
        if row.name not in self._computed:
            # Kept in memory too: several processes must agree on what is done already.
            self._computed[row.name] = self._load(row) or self._compute(row)
        return self._computed[row.name]

    def finished(self) -> dict[str, dict[str, Any]]:
        """By name, in the table's order, the figures of all rows that the folder has."""
        known = {
            name: known_figures(self.folder / f"{name}.json", self._made_of(row))
            for name, row in ROWS.items()
        }
        return {name: figures for name, figures in known.items() if figures is not None}

    def _load(self, row: Row) -> Computed | None:
        figures = known_figures(self.folder / f"{row.name}.json", self._made_of(row))
        arrays = known_arrays(self.folder / f"{row.name}.npz", self._made_of(row))
        return None if figures is None or arrays is None else Computed(arrays, figures)

    def _compute(self, row: Row) -> Computed:
        computed = METHODS[row.model](self, row)
        made_of = self._made_of(row)
        save_arrays(self.folder / f"{row.name}.npz", computed.probabilities, made_of=made_of)
        save_figures(self.folder / f"{row.name}.json", computed.figures, made_of=made_of)
        figures = "  ".join(f"{name} {value:.1f}" for name, value in computed.figures.items())
        report(f"{row.name:>12}  {figures}")
        return computed

    def network(self, row: Row) -> Computed:
        """Trains a network, or resumes its training."""
        assert row.order is not None
        report(f"{row.name}: training")
        flags = BEST_RECIPE if row in BEST_NETWORKS else self.config.training
        network = train_network(
            row.network_config(len(self.corpus.vocabulary)),
            self.corpus,
            self.folder / row.name,
            flags.chosen(),
            seed=self.config.seed + row.seed,
            tensorboard=self.config.launch.tensorboard,
        )
        started = time.monotonic()
        model: LanguageModel = network.model
        if isinstance(network.config, ShortListConfig):
            model = ShortListModel(network.model, self.tail)
        probabilities = model_probabilities(model, self.corpus, row.order, name=row.name)
        return _computed(probabilities, network.seconds + time.monotonic() - started)

    def mixture(self, row: Row) -> Computed:
        """Mixes its members with weights by context-frequency bin."""
        members = [self.compute(ROWS[name]) for name in row.members]
        started = time.monotonic() - sum(member.figures["seconds"] for member in members)
        bins, size = frequency_bins_of(self.counts.up_to(3), self.corpus, 3, HELD_OUT)
        probabilities, _ = mix_by_frequency([m.probabilities for m in members], bins, size)
        return _computed(probabilities, time.monotonic() - started)

    def trigram(self, row: Row) -> Computed:
        """Deleted interpolation; its perplexity on the training part is in the paper's table."""
        started = time.monotonic()
        model = fit_interpolated(
            self.counts.up_to(3), self.corpus.tokens, *self.corpus.spans["validation"]
        )
        probabilities = model_probabilities(model, self.corpus, 3, name=row.name)
        return _computed(probabilities, time.monotonic() - started)

    def kneser_ney(self, row: Row) -> Computed:
        """Modified Kneser-Ney: interpolated, or backing off without rare n-grams."""
        assert row.order is not None
        order, options = row.order, {}
        if row.model == BACK_OFF:
            minimum_counts = SRILM_MINIMUM_COUNTS[:order]
            options = {"interpolated": False, "minimum_counts": minimum_counts}
        return self._estimated(row, lambda: fit_kneser_ney(self.counts.up_to(order), **options))

    def class_based(self, row: Row) -> Computed:
        """Kneser-Ney over word classes."""
        assert row.classes is not None
        assert row.order is not None
        order, text = row.order, self.corpus.split("train")
        clusters = cached_arrays(
            self.folder / f"classes{row.classes}.npz",
            lambda: self._cluster(row.classes),
            made_of=(self._digest, row.classes),
        )
        earlier = float(clusters["seconds"])
        return self._estimated(
            row, lambda: fit_class_model(text, clusters["classes"], order), earlier
        )

    def _cluster(self, size: int) -> dict[str, np.ndarray]:
        started = time.monotonic()
        text, words = self.corpus.split("train"), len(self.corpus.vocabulary)
        with progress_bar(f"{size} classes", "sweep") as advance:
            clustering = exchange_clustering(text, words, size, progress=lambda *_: advance(1))
        return {"classes": clustering.classes_V, "seconds": np.array(time.monotonic() - started)}

    def _estimated(
        self, row: Row, estimate: Callable[[], LanguageModel], earlier: float = 0.0
    ) -> Computed:
        """Estimates and evaluates an n-gram model, after what took `earlier` seconds."""
        started = time.monotonic() - earlier
        probabilities = model_probabilities(
            estimate(), self.corpus, row.order, HELD_OUT, name=row.name
        )
        return _computed(probabilities, time.monotonic() - started)

    @cached_property
    def counts(self) -> NgramCounts:
        """Counts of the training part, up to the highest order of the table."""
        return count_ngrams(self.corpus.split("train"), 5, len(self.corpus.vocabulary))

    @cached_property
    def tail(self) -> LanguageModel:
        """The Kneser-Ney trigram that tells the words outside of a short list apart."""
        return fit_kneser_ney(self.counts.up_to(3))


def _computed(by_part: Probabilities, seconds: float) -> Computed:
    """A row from the probabilities by part; of those of the training part only the perplexity."""
    held_out = {part: by_part[part] for part in HELD_OUT}
    return Computed(held_out, {**perplexities(by_part), "seconds": round(seconds, 1)})


METHODS: dict[str, Callable[[Rows, Row], Computed]] = {
    NETWORK: Rows.network,
    MIXTURE: Rows.mixture,
    TRIGRAM: Rows.trigram,
    KNESER_NEY: Rows.kneser_ney,
    BACK_OFF: Rows.kneser_ney,
    CLASSES: Rows.class_based,
}


if __name__ == "__main__":
    run(main, Config)
