"""What the faster alternatives to the full softmax save, at which perplexity.

    python -m benchmarks.softmax_alternatives                          # built-in corpus, minutes
    python -m benchmarks.softmax_alternatives --corpus brown.zip --epochs 5 --batch 256 --out DIR

The contenders train the same network on the same batches with the same optimizer and schedule:

    full              the softmax over all words
    tree              tree-structured probabilities, the tree from exchange classes
    tree, features    ... from the word features that the full softmax has learnt; trained last
    short list        outputs for the most frequent words, the others by a Kneser-Ney trigram
    sampled 1         importance sampling from unigrams, samples shared by a minibatch
    sampled 2         ... from bigrams, samples of its own for each example; in both the mixture
                      weights of the proposal and k adapt

They take turns, one stretch of updates each, round after round, so that whatever else the machine
does falls on all of them. A contender's clock runs while it updates; compilation, evaluation and
set-up (classes, n-grams) are counted apart. Both wall-clock and processor seconds are kept: on a
machine that is shared, compare the latter.

The table says when each reaches a perplexity near the best that the full softmax reaches, on the
validation part, and how many times sooner than the full softmax itself gets there.
"""

import argparse
import dataclasses
import json
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from benchmarks.softmax_report import CLOCKS, Point, plot, to_markdown, to_row
from experiments.lm.support.language_modelling import (
    make_batch,
    make_nplm_init,
    make_nplm_loss,
    make_scorer,
    output_bias,
    unigram_bias,
)
from experiments.lm.support.recipes import MODERN
from jaxgen.data import BatchPlan, Corpus, load_corpus, trainable_span
from jaxgen.lm import windows
from jaxgen.lm.classes.clustering import exchange_clustering
from jaxgen.lm.ngram import count_ngrams, fit_kneser_ney
from jaxgen.lm.nplm import NPLMConfig, is_weight
from jaxgen.lm.outputs.importance_sampling import SampledNPLMConfig, SampleSizes
from jaxgen.lm.outputs.proposals import NgramProposal, make_proposal
from jaxgen.lm.outputs.short_list import ShortListConfig, tail_probabilities
from jaxgen.lm.outputs.tree_softmax import TreeCode, TreeNPLMConfig, node_log_odds
from jaxgen.lm.outputs.word_tree import BinaryTree, class_tree, feature_tree
from jaxgen.training.optimizers import make_optimizer
from jaxgen.training.state import TrainState, create_state
from jaxgen.training.step import LossFn, compile_step, make_train_step, scan_steps

CONTENDERS = ("full", "tree", "short list", "sampled 1", "sampled 2")
FROM_FEATURES = "tree, features"
INITIAL_ACCUMULATOR = 1e-3
ALL = 0
"""The k of contenders that do not sample."""


def main() -> None:
    """Runs the comparison, prints its table and writes it."""
    arguments = parse_arguments()
    corpus = load_corpus(arguments.corpus)
    contenders = run(corpus, arguments)
    report = to_report(corpus, contenders, arguments)
    table = to_markdown(report)
    print(table)
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        stem = arguments.out / "softmax_alternatives"
        stem.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
        stem.with_suffix(".md").write_text(table + "\n")
        plot(stem.with_suffix(".png"), report)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--corpus", default="builtin", help="as jaxgen.data.load_corpus takes it")
    parser.add_argument("--contenders", nargs="+", default=[*CONTENDERS, FROM_FEATURES])
    parser.add_argument("--order", type=int, default=5, help="n")
    parser.add_argument("--features", type=int, default=30, help="m")
    parser.add_argument("--hidden", type=int, default=100, help="h")
    parser.add_argument("--batch", type=int, default=128, help="B")
    parser.add_argument("--epochs", type=float, default=8)
    parser.add_argument("--learning-rate", type=float, default=0.1, help="of Adagrad, at its peak")
    parser.add_argument("--rounds", type=int, default=16, help="stretches, each with an evaluation")
    parser.add_argument("--validation", type=int, default=20_000, help="positions evaluated")
    parser.add_argument(
        "--classes", type=int, help="of words, for the tree (default: |V| / 4, 1000 at most)"
    )
    parser.add_argument("--short-list", type=int, help="s (default: |V| / 8)")
    parser.add_argument("--ess", type=float, default=128, help="target, samples shared")
    parser.add_argument("--ess-per-example", type=float, default=32, help="target, samples own")
    parser.add_argument("--within", type=float, nargs="+", default=[0.10, 0.05, 0.02])
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="of table and figure")
    parser.add_argument("--out", type=pathlib.Path, help="folder for .md, .json and .png")
    return parser.parse_args()


@dataclasses.dataclass
class Contender:
    """A model in training.

    Attributes:
      name: what the table calls it.
      config: the model.
      set_up: seconds for classes, trees, n-gram models.
      state: where training stands.
      compile_for: k -> the function of several updates.
      perplexity: of parameters, on the validation part.
      sizes: chooses k, or None.
      samples: k now.
      compiled: k -> what `compile_for` gave.
      curve: one point for each stretch.
    """

    name: str
    config: NPLMConfig
    set_up: float
    state: TrainState
    compile_for: Callable[[TrainState, Any, int], Callable]
    perplexity: Callable[[Any], float]
    sizes: SampleSizes | None
    samples: int
    compiled: dict[int, Callable] = dataclasses.field(default_factory=dict)
    curve: list[Point] = dataclasses.field(default_factory=list)

    def train(self, batches: Any, key: jax.Array) -> None:
        """One stretch of updates, and a point of the curve."""
        if self.samples not in self.compiled:
            self.compiled[self.samples] = self.compile_for(self.state, batches, self.samples)
        wall, processor = time.perf_counter(), time.process_time()
        self.state, metrics = self.compiled[self.samples](self.state, batches, key)
        jax.block_until_ready(self.state)
        wall, processor = time.perf_counter() - wall, time.process_time() - processor
        last = self.curve[-1] if self.curve else Point(0, 0, 0, 0, 0, 0, 0)
        ess = float(np.mean(metrics.get("ess", np.nan)))
        self.curve.append(
            Point(
                int(self.state.step),
                last.wall + wall,
                last.processor + processor,
                self.perplexity(self.state.params),
                self.samples,
                ess,
                float(np.mean(metrics.get("exact", np.nan))),
            )
        )
        if self.sizes is not None:
            self.samples = self.sizes.choose(self.samples, ess)


# Building the contenders.


@dataclasses.dataclass(frozen=True)
class Setting:
    """What all contenders share."""

    corpus: Corpus
    arguments: argparse.Namespace
    steps: int

    @property
    def network(self) -> Mapping[str, int]:
        """The options of every network."""
        names = ("order", "features", "hidden")
        options = {name: getattr(self.arguments, name) for name in names}
        return {"vocabulary_size": len(self.corpus.vocabulary), **options}

    @property
    def span(self) -> tuple[int, int]:
        """The validation positions that are looked at."""
        start, stop = self.corpus.spans["validation"]
        return start, min(stop, start + self.arguments.validation)


@dataclasses.dataclass(frozen=True)
class Parts:
    """What makes a contender: its model, the bias it starts from, and what some need besides."""

    config: NPLMConfig
    bias: np.ndarray
    proposal: NgramProposal | None = None
    tail_log_p: float = 0.0


def build(name: str, setting: Setting, features_VF: np.ndarray | None = None) -> Contender:
    """A contender before its first update."""
    makers = {
        "full": lambda: Parts(NPLMConfig(**setting.network), unigram_bias(setting.corpus)),
        "short list": lambda: make_short_list(setting),
        "tree": lambda: make_tree(setting, tree_of_classes(setting)),
        FROM_FEATURES: lambda: make_tree(setting, feature_tree(features_VF)),
        "sampled 1": lambda: make_sampled(setting, 1),
        "sampled 2": lambda: make_sampled(setting, 2),
    }
    if name not in makers:
        raise SystemExit(f"contender is {name!r}, expected one of {', '.join(makers)}")
    start = time.perf_counter()
    parts = makers[name]()
    set_up = time.perf_counter() - start
    # Squares start above zero: else the first visit of a rare node or word is a step in full.
    optimizer = dataclasses.replace(
        MODERN.optimizer,
        learning_rate=setting.arguments.learning_rate,
        initial_accumulator=INITIAL_ACCUMULATOR,
    )
    recipe = dataclasses.replace(MODERN, optimizer=optimizer)
    tx = make_optimizer(recipe.optimizer_for(setting.steps), lambda path, _: is_weight(path))
    state, layout = create_state(make_nplm_init(parts.config, parts.bias), jax.random.key(0), tx=tx)
    sizes = None if parts.proposal is None else sample_sizes(parts.proposal, setting.arguments)

    def compile_for(state: TrainState, batches: Any, samples: int) -> Callable:
        loss_fn = make_nplm_loss(parts.config, layout)
        if parts.proposal is not None:
            loss_fn = make_sampled_loss(parts.config, parts.proposal, samples, sizes.target / 10)
        step = compile_step(scan_steps(make_train_step(loss_fn, tx)), state)
        return step.lower(state, batches, jax.random.key(0)).compile()

    score = make_scorer(parts.config, layout)

    def perplexity(params: Any) -> float:
        mean = score(params, setting.corpus, setting.span).mean()
        return float(np.exp(-mean - parts.tail_log_p))

    samples = ALL if sizes is None else sizes.sizes[0]
    return Contender(name, parts.config, set_up, state, compile_for, perplexity, sizes, samples)


def make_tree(setting: Setting, tree: BinaryTree) -> Parts:
    config = TreeNPLMConfig(**setting.network, tree=TreeCode.of(tree))
    return Parts(config, node_log_odds(tree, np.exp(unigram_bias(setting.corpus))))


def tree_of_classes(setting: Setting) -> BinaryTree:
    tokens, size = setting.corpus.split("train"), len(setting.corpus.vocabulary)
    classes = setting.arguments.classes or min(size // 4, 1000)
    return class_tree(tokens, exchange_clustering(tokens, size, classes).classes_V)


def make_short_list(setting: Setting) -> Parts:
    """The tail has no parameters: its mean log-probability is found once."""
    corpus, size = setting.corpus, len(setting.corpus.vocabulary)
    short_list = setting.arguments.short_list or max(1, size // 8)
    tail = fit_kneser_ney(count_ngrams(corpus.split("train"), 3, size))
    start, stop = setting.span
    targets, contexts = corpus.tokens[start:stop], windows(corpus.tokens, 3, start, stop)
    outside = targets >= short_list
    tail_N = tail_probabilities(tail, short_list, contexts[outside], targets[outside])
    config = ShortListConfig(**setting.network, short_list=short_list)
    return Parts(
        config, output_bias(config, corpus), tail_log_p=float(np.log(tail_N).sum() / len(targets))
    )


def make_sampled(setting: Setting, order: int) -> Parts:
    counts = count_ngrams(setting.corpus.split("train"), order, len(setting.corpus.vocabulary))
    proposal = make_proposal(counts)
    config = SampledNPLMConfig(**setting.network, proposal_order=order, proposal_bins=proposal.bins)
    return Parts(config, unigram_bias(setting.corpus), proposal)


def sample_sizes(proposal: NgramProposal, arguments: argparse.Namespace) -> SampleSizes:
    """Errors of shared samples do not average out over a minibatch, so that takes a larger ESS."""
    shared = proposal.order == 1
    sizes = (256, 512, 1024, 2048, 4096) if shared else (16, 32, 64, 128)
    sizes = tuple(k for k in sizes if k < proposal.vocabulary_size) or sizes[:1]
    target = arguments.ess if shared else arguments.ess_per_example
    return SampleSizes(sizes, target=min(target, sizes[-1]))


def make_sampled_loss(
    config: SampledNPLMConfig, proposal: NgramProposal, samples: int, least: float
) -> LossFn:
    """The estimated loss; a minibatch of less than the least ESS takes the exact gradient."""
    model = config.make_model()

    def loss_fn(params: Any, batch: Any, key: jax.Array) -> tuple[jax.Array, dict]:
        loss, estimate = model.apply(
            {"params": params},
            batch["contexts"],
            batch["targets"],
            proposal,
            samples,
            least_ess=least,
            method="sampled_loss",
            rngs={"sample": key},
        )
        return loss, {"ess": estimate.ess, "exact": estimate.exact}

    return loss_fn


# Running them.


def run(corpus: Corpus, arguments: argparse.Namespace) -> list[Contender]:
    """All contenders in turn; the tree of learnt features afterwards, for it needs them."""
    plan = BatchPlan(*trainable_span(corpus.spans["train"], arguments.order), arguments.batch)
    stretch = max(1, round(arguments.epochs * plan.steps_per_epoch / arguments.rounds))
    setting = Setting(corpus, arguments, steps=stretch * arguments.rounds)

    def train(contenders: Sequence[Contender]) -> None:
        for number in range(arguments.rounds):
            steps = range(number * stretch, (number + 1) * stretch)
            batches = [make_batch(corpus.tokens, plan.positions(i), arguments.order) for i in steps]
            stacked = jax.tree.map(lambda *x: np.stack(x), *batches)
            turn = number % len(contenders)
            for contender in [*contenders[turn:], *contenders[:turn]]:
                contender.train(stacked, jax.random.key(1))
            print(progress_line(number + 1, arguments.rounds, contenders), flush=True)

    wanted = arguments.contenders
    contenders = [build(name, setting) for name in wanted if name != FROM_FEATURES]
    train(contenders)
    if FROM_FEATURES in wanted:
        learned = next(c for c in contenders if c.name == "full").state.params["context"]["C"]
        contenders.append(build(FROM_FEATURES, setting, np.asarray(learned)))
        train(contenders[-1:])
    return contenders


def progress_line(number: int, rounds: int, contenders: Sequence[Contender]) -> str:
    standing = [
        f"{c.name} {c.curve[-1].perplexity:.1f} in {c.curve[-1].wall:.0f} s"
        + (f" (k={c.curve[-1].samples}, ESS {c.curve[-1].ess:.0f})" if c.sizes else "")
        for c in contenders
    ]
    return f"[{number}/{rounds}] " + "; ".join(standing)


def to_report(
    corpus: Corpus, contenders: Sequence[Contender], arguments: argparse.Namespace
) -> dict:
    """Everything measured, and what it says, as JSON can hold it."""
    full = next(c for c in contenders if c.name == "full")
    best = min(point.perplexity for point in full.curve)
    within = arguments.within
    return {
        "corpus": corpus.name,
        "vocabulary_size": len(corpus.vocabulary),
        "arguments": {name: str(value) for name, value in vars(arguments).items()},
        "clock": arguments.clock,
        "within": within,
        "targets": [best * (1 + share) for share in within],
        "updates": full.curve[-1].updates,
        "rows": [
            to_row(c.name, c.config, c.set_up, c.curve, best, arguments.within) for c in contenders
        ],
    }


if __name__ == "__main__":
    main()
