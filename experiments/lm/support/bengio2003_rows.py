"""Table 1 of Bengio et al. (2003): its rows, what the paper reports, and what must hold of them.

A row names a model and the rows that it is made from; `experiments.lm.bengio2003` computes them.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.lm.support.recipes import WordNetworkFlags
from experiments.shared.output import format_table
from jaxgen.errors import InputError
from jaxgen.lm.nplm import NPLMConfig
from jaxgen.lm.outputs.short_list import ShortListConfig

Perplexities = Mapping[str, float | None]
"""Training, validation and test perplexity by part; None or left out where there is none."""


@dataclass(frozen=True)
class Row:
    """A model of the table.

    Attributes:
      name: what it is called in files and on the command line.
      model: what kind of model it is, in words.
      paper: what the paper reports on the training, validation and test parts.
      order: n, where the model is no mixture.
      classes: word classes, of a class-based model.
      network: of a network.
      short_list: words with an output unit of their own, of a network that leaves the others to a
        Kneser-Ney trigram (`jaxgen.lm.outputs.short_list`); 0: all have one, as they have where
        there are no more words.
      seed: of a network, added to the run's.
      members: names of the rows that a mixture mixes, a network first.
    """

    name: str
    model: str
    paper: tuple[int | None, int | None, int | None] = (None, None, None)
    order: int | None = None
    classes: int | None = None
    network: WordNetworkFlags | None = None
    short_list: int = 0
    seed: int = 0
    members: tuple[str, ...] = ()

    @property
    def paper_ratio(self) -> float | None:
        """The paper's test perplexity divided by that of its interpolated trigram."""
        test = self.paper[2]
        return test and test / ROWS["trigram"].paper[2]

    def network_config(self, vocabulary_size: int) -> NPLMConfig:
        """The configuration of a network of this row."""
        assert self.network is not None
        config = self.network.config(vocabulary_size)
        if not 0 < self.short_list < vocabulary_size:
            return config
        return ShortListConfig(**dataclasses.asdict(config), short_list=self.short_list)


NETWORK, MIXTURE, TRIGRAM = "network", "mixture", "deleted interpolation"
KNESER_NEY, BACK_OFF, CLASSES = "Kneser-Ney", "Kneser-Ney back-off", "class-based"

SHORT_LIST = 4_000
"""Output units of the best mixture's networks. Validation perplexity of a network with n = 6,
h = 200, m = 100 and dropout of 0.4: 271.7, with all 17,906 words 273.1 in six times as long."""


def _network(name: str, *paper: int, **options: Any) -> Row:
    network = WordNetworkFlags(**options)
    return Row(name, NETWORK, paper, order=network.order, network=network)


def _best_network(number: int, order: int, dropout: float) -> Row:
    """A network of the best mixture, larger and with dropout; the numbers are seeds too."""
    network = WordNetworkFlags(order=order, features=100, hidden=200, dropout=dropout)
    name = f"best-network-{number}"
    return Row(name, NETWORK, order=order, network=network, short_list=SHORT_LIST, seed=number)


def _mixture(name: str, validation: int | None, test: int | None, *members: str) -> Row:
    return Row(name, MIXTURE, (None, validation, test), members=members)


def _ngram(name: str, model: str, order: int, validation: int, test: int) -> Row:
    return Row(name, model, (None, validation, test), order=order)


def _classes(classes: int, order: int, validation: int, test: int) -> Row:
    paper = (None, validation, test)
    return Row(f"classes{classes}-{order}", CLASSES, paper, order=order, classes=classes)


TABLE_1 = (
    _network("MLP1", 182, 284, 268, order=5, hidden=50, features=60, direct=True),
    _mixture("MLP2", 275, 257, "MLP1", "trigram"),
    _network("MLP3", 201, 327, 310, order=5, hidden=0, features=60, direct=True),
    _mixture("MLP4", 286, 272, "MLP3", "trigram"),
    _network("MLP5", 209, 296, 279, order=5, hidden=50, features=30, direct=True),
    _mixture("MLP6", 273, 259, "MLP5", "trigram"),
    _network("MLP7", 210, 309, 293, order=3, hidden=50, features=30, direct=True),
    _mixture("MLP8", 284, 270, "MLP7", "trigram"),
    _network("MLP9", 175, 280, 276, order=5, hidden=100, features=30, direct=False),
    _mixture("MLP10", 265, 252, "MLP9", "trigram"),
    Row("trigram", TRIGRAM, (31, 352, 336), order=3),
    _ngram("KN3", KNESER_NEY, 3, 334, 323),
    _ngram("KN4", KNESER_NEY, 4, 332, 321),
    _ngram("KN5", KNESER_NEY, 5, 332, 321),
    _classes(150, 3, 348, 334),
    _classes(200, 3, 354, 340),
    _classes(500, 3, 326, 312),
    _classes(1000, 3, 335, 319),
    _classes(2000, 3, 343, 326),
    _classes(500, 4, 327, 312),
    _classes(500, 5, 327, 312),
)
"""The 21 rows, in the paper's order."""

BEST_NETWORKS = (
    _best_network(1, order=16, dropout=0.3),
    _best_network(2, order=10, dropout=0.4),
    _best_network(3, order=5, dropout=0.3),
    _best_network(4, order=12, dropout=0.2),
)
"""Networks that differ in how far they look back and how much they leave out. Validation perplexity
of the mixture with the n-grams: 234.5 with the second alone, 227.9 with the first and third, 227.3
with the first three, 225.2 with all. Five more of n = 5 to 8 bring nothing."""

MORE_ROWS = (
    _ngram("backoff3", BACK_OFF, 3, 334, 323),
    _ngram("backoff4", BACK_OFF, 4, 332, 321),
    _ngram("backoff5", BACK_OFF, 5, 332, 321),
    *BEST_NETWORKS,
    _mixture(
        *("best", None, None, *(row.name for row in BEST_NETWORKS), "trigram", "KN5"),
        *("classes200-3", "classes500-5", "classes1000-3"),
    ),
)
"""Kneser-Ney models as the paper's authors are likely to have estimated them, and our own best."""

ROWS = {row.name: row for row in TABLE_1 + MORE_ROWS}


def selected_rows(names: Sequence[str]) -> tuple[Row, ...]:
    """Rows by name, separated by spaces or commas; all of them where none is named.

    Raises:
      InputError: for a name that no row has.
    """
    wanted = [name for several in names for name in several.split(",") if name]
    for name in wanted:
        if name not in ROWS:
            raise InputError(f"rows: there is no row {name!r}, expected some of {', '.join(ROWS)}")
    return tuple(ROWS[name] for name in wanted or ROWS)


def highest_order(row: Row) -> int:
    """n of a row's model, the largest of its members' where it is a mixture."""
    return row.order or max(highest_order(ROWS[name]) for name in row.members)


def most_classes(row: Row) -> int:
    """Word classes that a row's model, or a member of it, is made of; 0 for none."""
    return max(row.classes or 0, *(most_classes(ROWS[name]) for name in row.members), 0)


HEADER = (
    *("row", "model", "n", "c", "h", "m", "direct"),
    *("train", "valid.", "test", "/ trigram"),
)
PAPER_HEADER = ("paper: train", "valid.", "test", "/ trigram")


def table(results: Mapping[str, Mapping[str, Any]], *, is_brown: bool = True) -> str:
    """The table in Markdown: our perplexities, then the paper's.

    The columns "/ trigram" hold test perplexities divided by that of the interpolated trigram.

    Args:
      results: by row, perplexities by part and "seconds".
      is_brown: whether the text is the paper's, so that the paper's figures belong beside ours.
    """
    ours, _ = ratios(results)
    rows = [_cells(ROWS[name], results[name], ours.get(name), is_brown) for name in results]
    return format_table((*HEADER, *(PAPER_HEADER if is_brown else ()), "seconds"), rows)


def json_rows(
    results: Mapping[str, Perplexities], *, is_brown: bool = True
) -> list[dict[str, Any]]:
    """The table for programs: what each row is, "ours" and the "paper"'s figures by name.

    "paper" is None where the text is not the paper's.
    """
    parts = ("train", "validation", "test")
    return [
        {
            **dataclasses.asdict(row),
            "paper": dict(zip(parts, row.paper, strict=True)) if is_brown else None,
            "ours": results[row.name],
        }
        for row in map(ROWS.__getitem__, results)
    ]


def ratios(results: Mapping[str, Perplexities]) -> tuple[dict[str, float], dict[str, float]]:
    """Test perplexities divided by the interpolated trigram's, by row: ours, and the paper's.

    Empty without the trigram.
    """
    trigram = results.get("trigram", {}).get("test")
    if not trigram:
        return {}, {}
    ours = {name: result["test"] / trigram for name, result in results.items()}
    paper = {name: ROWS[name].paper_ratio for name in results}
    return ours, {name: ratio for name, ratio in paper.items() if ratio}


def _cells(row: Row, result: Mapping[str, Any], ratio: float | None, is_brown: bool) -> list[Any]:
    paper = (*row.paper, row.paper_ratio and f"{row.paper_ratio:.3f}")
    network = row.network
    model = " + ".join(row.members) if row.members else row.model
    if row.short_list:
        model += f", {row.short_list:,} outputs"
    return [
        *(row.name, model, row.order, row.classes),
        *((network.hidden, network.features, network.direct) if network else (None,) * 3),
        *(result.get(part) for part in ("train", "validation", "test")),
        ratio and f"{ratio:.3f}",
        *(paper if is_brown else ()),
        round(result["seconds"]),
    ]


@dataclass(frozen=True)
class Check:
    """Something that Table 1 shows and ours must too: a ratio of test perplexities under a limit.

    Attributes:
      claim: what it says.
      row: the row whose test perplexity is divided.
      by: the rows by whose least test perplexity it is divided.
      limit: what the ratio must be under.
    """

    claim: str
    row: str
    by: tuple[str, ...]
    limit: float = 1.0

    @property
    def paper(self) -> float | None:
        """The ratio in the paper."""
        return self.ratio({name: {"test": row.paper[2]} for name, row in ROWS.items()})

    def ratio(self, results: Mapping[str, Perplexities]) -> float | None:
        """The ratio, or None where one of the rows is missing."""
        tests = [results.get(name, {}).get("test") for name in (self.row, *self.by)]
        known = [test for test in tests if test is not None]
        return known[0] / min(known[1:]) if len(known) == len(tests) else None

    def verdict(self, results: Mapping[str, Perplexities]) -> str:
        """ "pass", "FAIL" or "not run"."""
        ratio = self.ratio(results)
        if ratio is None:
            return "not run"
        return "pass" if ratio < self.limit else "FAIL"


CLASS_ROWS = tuple(row.name for row in TABLE_1 if row.model == CLASSES)

CHECKS = (
    *(
        Check(f"{row.name}: the mixture beats its network", row.name, row.members[:1])
        for row in TABLE_1
        if row.members
    ),
    Check("50 hidden units beat none", "MLP1", ("MLP3",)),
    Check("n=5 beats n=3 for the network", "MLP5", ("MLP7",)),
    Check("Kneser-Ney gains under 1 % from n=3 to n=5", "KN3", ("KN5",), 1 / 0.99),
    Check("network against interpolated trigram", "MLP9", ("trigram",), 0.84),
    Check("mixture against interpolated trigram", "MLP10", ("trigram",), 0.735),
    Check("mixture against the best class-based model", "MLP10", CLASS_ROWS, 0.81),
    Check("the best model against the interpolated trigram", "best", ("trigram",), 0.63),
)


def check_table(results: Mapping[str, Perplexities]) -> str:
    """The checks in Markdown, with their numbers."""
    header = ("check", "ratio of test perplexities", "must be under", "paper", "result")
    return format_table(header, [_check_cells(check, results) for check in CHECKS])


def _check_cells(check: Check, results: Mapping[str, Perplexities]) -> list[Any]:
    numbers = (check.ratio(results), check.limit, check.paper)
    return [check.claim, *(n and f"{n:.3f}" for n in numbers), check.verdict(results)]
