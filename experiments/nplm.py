"""A neural probabilistic language model and its rivals (Bengio et al. 2003), in a few minutes.

``python -m experiments.nplm``

Trains the network on a text, by default the prose of Python's language reference, which CPython
carries along; compares it with an interpolated trigram, Kneser-Ney and their mixture; and shows
what it has learnt: neighbours of words, maps of the words, generated text. In the working folder:

  table.md           perplexities of the four models
  metrics.json       the same and more, by name
  curves.png         perplexity in the course of training
  weights.png        the mixture's weights by frequency of the context
  word_map.png       word features, projected on two principal components
  word_map_2d.png    word features of a network with m = 2
  features.txt       word features as word2vec text
  neighbours.txt     nearest words
  generated.txt      text written by the network
  checkpoints/       the network (jaxgen.training.load_model opens it)
"""

from dataclasses import dataclass
from typing import Any

from experiments.language_modelling import (
    PARTS,
    NetworkFlags,
    RecipeFlags,
    format_table,
    network_probabilities,
    perplexities,
    train_network,
    write_text,
)
from experiments.launch import ExperimentConfig, LaunchConfig, open_workdir, report
from experiments.plots import plot_perplexity
from jaxgen.data import Corpus, load_corpus
from jaxgen.lm.ngram import count_ngrams

TRIGRAM, KNESER_NEY, NETWORK, MIXTURE = (
    "interpolated trigram",
    "Kneser-Ney",
    "network",
    "mixture",
)


@dataclass(frozen=True, kw_only=True)
class Config(ExperimentConfig):
    """Flags of this experiment.

    Attributes:
      launch: where to run and on what.
      corpus: "builtin", "tfds:NAME", a text file, or a folder or zip archive with the Brown corpus,
        token files or text files.
      kneser_ney_order: n of the Kneser-Ney model.
      words: whose neighbours to show; none: some frequent ones.
      network: the network.
      training: how it is trained.
    """

    launch: LaunchConfig = LaunchConfig(workdir="runs/nplm")
    corpus: str = "builtin"
    kneser_ney_order: int = 5
    words: tuple[str, ...] = ()
    network: NetworkFlags = NetworkFlags(features=60, hidden=200, dropout=0.3)
    training: RecipeFlags = RecipeFlags(epochs=12)


def main(config: Config) -> dict[str, Any]:
    """Trains, compares, shows."""
    corpus = load_corpus(config.corpus)
    model = config.network.config(len(corpus.vocabulary))
    words = chosen_words(corpus, config.words)
    folder = open_workdir(config)
    report(describe(corpus))
    trigrams = count_ngrams(corpus.split("train"), 3, len(corpus.vocabulary))
    order = max(model.order, config.kneser_ney_order)
    by_model = rival_probabilities(corpus, trigrams, config.kneser_ney_order, order)
    report(f"training the network: {model.parameter_count:,} parameters")
    network = train_network(model, corpus, folder, config.training.chosen(), seed=config.seed)
    by_model[NETWORK] = network_probabilities(network, corpus, order)
    by_model[MIXTURE] = mixture(folder, corpus, trigrams, by_model, order)
    figures = {name: perplexities(by_part) for name, by_part in by_model.items()}
    table = format_table(("model", *PARTS), [(n, *figures[n].values()) for n in figures])
    report(f"\n{table}\n")
    write_text(folder / "table.md", table)
    plot_perplexity(
        folder / "curves.png",
        curves(network),
        {name: figures[name]["validation"] for name in (TRIGRAM, KNESER_NEY, MIXTURE)},
        f"Perplexity on {corpus.name}; dashed: validation part",
    )
    show_features(folder, corpus, network, words)
    show_text(folder, corpus, network, config.seed)
    show_plane(config, folder, corpus)
    return {
        **figures,
        "parameters": model.parameter_count,
        "updates": network.steps,
        "best update": network.best_step,
        "training seconds": network.seconds,
    }


def describe(corpus: Corpus) -> str:
    """One line: name, size of the vocabulary, sizes of the parts."""
    sizes = ", ".join(f"{len(corpus.split(part)):,} {part}" for part in PARTS)
    return f"{corpus.name}: {len(corpus.vocabulary):,} words; tokens: {sizes}"
