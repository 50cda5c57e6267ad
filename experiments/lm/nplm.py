"""A neural probabilistic language model and its baselines (Bengio et al. 2003), in a few minutes.

``python -m experiments.lm.nplm``

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
  probabilities/     those of every word by the models, kept for a second start
  checkpoints/       the network (jaxgen.training.load_model opens it)

Started again with the same working folder it resumes. ``--sampling-seed`` may then be another one,
and with more ``--epochs`` a finished run is trained further: the learning rate's cosine is then the
one for the new length, from the step on that was reached.
"""

import dataclasses
import functools
import math
import pathlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Float64, Int

from experiments.lm.support.language_modelling import (
    MAY_DIFFER,
    PARTS,
    TrainedNetwork,
    check_text_batches,
    frequency_bins_of,
    mix_by_frequency,
    model_probabilities,
    perplexities,
    plan_text_batches,
    train_network,
)
from experiments.lm.support.recipes import METRIC, RecipeFlags, WordNetworkFlags
from experiments.shared.digests import corpus_digest, params_digest
from experiments.shared.launch import LaunchConfig, open_workdir, report, run
from experiments.shared.output import cached_arrays, format_table, write_text
from experiments.shared.plots import plot_perplexity, plot_weights, plot_words
from experiments.shared.restarts import (
    SampledConfig,
    check_not_shorter,
    keep_training_seed,
    may_train_longer,
)
from experiments.shared.workdir import check_checkpoints
from jaxgen.data import UNKNOWN, Corpus, load_corpus
from jaxgen.errors import InputError
from jaxgen.files import as_path
from jaxgen.interop.word_vectors import write_word_vectors
from jaxgen.lm import LanguageModel, windows
from jaxgen.lm.generate import make_generator
from jaxgen.lm.ngram import NgramCounts, count_ngrams, fit_interpolated, fit_kneser_ney
from jaxgen.lm.nplm import NPLMConfig
from jaxgen.lm.word_maps import nearest_words, word_features, word_map
from jaxgen.parallel import current_mesh, is_main_process, replicated
from jaxgen.training.saved_names import register_config

TRIGRAM, KNESER_NEY = "interpolated trigram", "Kneser-Ney"
NETWORK, MIXTURE = "network", "mixture"

NEIGHBOURS, MAPPED_WORDS, WRITTEN_WORDS = 8, 400, 100
LEARNED_FREQUENCY = 10
"""How often a word must occur to be shown as a neighbour: rare words have learnt little."""

SAMPLING: dict[str, dict[str, Any]] = {
    "temperature 1": {},
    "temperature 0.8, top-p 0.9": {"temperature": 0.8, "top_p": 0.9},
    "temperature 0.7, top-k 20": {"temperature": 0.7, "top_k": 20},
}

PLANE = WordNetworkFlags(features=2, hidden=30)
"""The small network whose words are points of a plane."""

PLANE_FOLDER = "plane"


@register_config("lm.nplm", first_format=["experiments.nplm:Config"])
@dataclass(frozen=True, kw_only=True)
class Config(SampledConfig):
    """Flags of this experiment.

    Attributes:
      launch: where to run and on what.
      seed: of training, and of texts without a seed of their own. Where the folder holds a run
        already, that keeps its seed, and another one is for texts alone.
      sampling_seed: of the texts that the network writes; may differ when the run is started again.
      corpus: "builtin", "tfds:NAME", a text file, or a folder or zip archive with the Brown corpus,
        token files or text files.
      kneser_ney_order: n of the Kneser-Ney model.
      words: whose neighbours to show; none: some frequent ones.
      network: the network.
      training: how it is trained.
    """

    launch: LaunchConfig = LaunchConfig(workdir="runs/lm_nplm")
    corpus: str = "builtin"
    kneser_ney_order: int = 5
    words: tuple[str, ...] = ()
    network: WordNetworkFlags = WordNetworkFlags(features=100, hidden=300, dropout=0.4)
    training: RecipeFlags = RecipeFlags(epochs=12, learning_rate=0.05)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kneser_ney_order < 1:
            raise InputError(f"kneser_ney_order is {self.kneser_ney_order}, expected 1 or more")


def main(config: Config) -> dict[str, Any]:
    """Trains, compares, shows."""
    config = keep_training_seed(config)
    corpus = load_corpus(config.corpus)
    model = config.network.config(len(corpus.vocabulary))
    words, recipe = chosen_words(corpus, config.words), config.training.chosen()
    order = max(model.order, config.kneser_ney_order)
    counts = count_ngrams(
        corpus.split("train"), max(3, config.kneser_ney_order), len(corpus.vocabulary)
    )
    baselines = {
        TRIGRAM: fit_interpolated(counts.up_to(3), corpus.tokens, *corpus.spans["validation"]),
        KNESER_NEY: fit_kneser_ney(counts.up_to(config.kneser_ney_order)),
    }
    check_text_batches(order, corpus, recipe)
    per_epoch = plan_text_batches(model.order, corpus, recipe).steps_per_epoch
    check_not_shorter(
        as_path(config.launch.workdir),
        recipe.loop_for(per_epoch).steps,
        f"epochs is {recipe.epochs:g}",
    )
    digest = corpus_digest(corpus)
    folder = open_workdir(
        config,
        ("sampling_seed", *may_train_longer(config, "epochs")),
        data={corpus.name: digest},
        check=functools.partial(check_nplm_networks, config, corpus),
    )
    report(corpus.describe())

    def probabilities(
        name: str, model: LanguageModel, made_of: Any
    ) -> dict[str, Float64[np.ndarray, "N"]]:
        return cached_arrays(
            folder / "probabilities" / f"{name}.npz",
            lambda: model_probabilities(model, corpus, order, name=name),
            made_of=(digest, order, name, made_of),
        )

    by_model = {
        name: probabilities(name, baseline, config.kneser_ney_order)
        for name, baseline in baselines.items()
    }
    report(f"training the network: {model.parameter_count:,} parameters")
    network = train_network(
        model, corpus, folder, recipe, seed=config.seed, tensorboard=config.launch.tensorboard
    )
    by_model[NETWORK] = probabilities(NETWORK, network.model, params_digest(network.params))
    by_model[MIXTURE] = mixture(folder, corpus, counts.up_to(3), by_model, order)
    figures = {name: perplexities(by_part) for name, by_part in by_model.items()}
    table = format_table(("model", *PARTS), [(n, *figures[n].values()) for n in figures])
    report(f"\n{table}\n")
    write_text(folder / "table.md", table)
    plot_perplexity(
        folder / "curves.png",
        curves(network),
        {name: figures[name]["validation"] for name in (TRIGRAM, KNESER_NEY, MIXTURE)},
        f"Perplexity on {corpus.name} (dashed: other models, validation part)",
    )
    show_features(folder, corpus, network, words)
    show_generated_text(folder, corpus, network, config.seed_of_samples)
    show_plane(config, folder, corpus)
    return {
        **figures,
        "parameters": model.parameter_count,
        "updates": network.steps,
        "best update": network.best_step,
        "training seconds": network.seconds,
    }


def mixture(
    folder: pathlib.Path,
    corpus: Corpus,
    trigrams: NgramCounts,
    by_model: Mapping[str, Mapping[str, Float64[np.ndarray, "N"]]],
    order: int,
) -> dict[str, Float64[np.ndarray, "N"]]:
    """Mixes network and Kneser-Ney by context frequency; plots the weights."""
    bins, size = frequency_bins_of(trigrams, corpus, order)
    members = (NETWORK, KNESER_NEY)
    mixed, weight_CJ = mix_by_frequency([by_model[name] for name in members], bins, size)
    context_NL = windows(corpus.tokens, 3, *corpus.spans["test"])
    frequency_N = trigrams.context_frequencies(context_NL)
    used = [c for c in reversed(range(size)) if (bins["test"] == c).any()]
    plot_weights(
        folder / "weights.png",
        {name: weight_CJ[used, j] for j, name in enumerate(members)},
        np.array([(bins["test"] == c).mean() for c in used]),
        [_range_of(frequency_N[bins["test"] == c]) for c in used],
        "Weights of the mixture, learnt on the validation part",
    )
    return mixed


def _range_of(values: Int[np.ndarray, "N"]) -> str:
    low, high = values.min(), values.max()
    return str(low) if low == high else f"{low}-{high}"


def curves(network: TrainedNetwork) -> dict[str, tuple[list[int], list[float]]]:
    """Training and validation perplexity by update."""
    steps, losses = network.curve("train/loss")
    perplexity = [math.exp(min(loss, 100)) for loss in losses]
    return {"training batches": (steps, perplexity), "validation": network.curve(METRIC)}


def chosen_words(corpus: Corpus, words: Sequence[str]) -> list[str]:
    """The words asked for, or some frequent ones that say something.

    Raises:
      InputError: for a word that the vocabulary does not have.
    """
    for word in words:
        if word not in corpus.vocabulary:
            raise InputError(f"words: {word!r} is not in the vocabulary of {corpus.name}")
    known = [word for word in corpus.vocabulary.words if word != UNKNOWN]
    long_ones = [word for word in known if word.isalpha() and len(word) > 4]
    return list(words) or long_ones[5:65:5] or known[:12]


def show_features(
    folder: pathlib.Path, corpus: Corpus, network: TrainedNetwork, words: Sequence[str]
) -> None:
    """Word features as text, nearest neighbours, and a map of two principal components."""
    vocabulary, features_VD = corpus.vocabulary, features_of(network)
    if is_main_process():
        write_word_vectors(folder / "features.txt", vocabulary.words, features_VD)
    lines = [
        f"{word}: {', '.join(near)}"
        for word, near in zip(words, nearest(corpus, features_VD, words), strict=True)
    ]
    report("nearest words\n  " + "\n  ".join(lines))
    write_text(folder / "neighbours.txt", "\n".join(lines))
    draw_words(folder / "word_map.png", corpus, features_VD)


def nearest(
    corpus: Corpus, features_VD: Float[np.ndarray, "V D"], words: Sequence[str]
) -> list[list[str]]:
    """The nearest neighbours of words among those frequent enough to have learnt something."""
    vocabulary = corpus.vocabulary
    frequency_V = np.bincount(corpus.tokens, minlength=len(vocabulary))
    known = max(int((frequency_V >= LEARNED_FREQUENCY).sum()), NEIGHBOURS + 1)
    query_Q = vocabulary.encode(words)
    count = min(NEIGHBOURS + 1, len(vocabulary))
    _, ids_QK = nearest_words(features_VD[:known], features_VD[query_Q], count)
    return [
        vocabulary.decode([i for i in ids if i != query][:NEIGHBOURS])
        for query, ids in zip(query_Q, ids_QK, strict=True)
    ]


def show_generated_text(
    folder: pathlib.Path, corpus: Corpus, network: TrainedNetwork, seed: int
) -> None:
    """Text that the network writes, after the first words of the test part."""
    start = corpus.spans["test"][0]
    prompt_1L = corpus.tokens[None, start : start + network.config.order - 1]
    unknown = corpus.vocabulary.unknown
    texts = [f"[the text before] {readable(corpus.vocabulary.decode(prompt_1L[0]))}"]
    for name, options in SAMPLING.items():
        write = make_generator(
            network.config.make_model(),
            network.params,
            WRITTEN_WORDS,
            forbid=() if unknown is None else (unknown,),
            **options,
        )
        ids = write(prompt_1L, jax.random.key(seed))[0]
        texts.append(f"[{name}]\n{readable(corpus.vocabulary.decode(ids))}")
    report("\n" + "\n\n".join(texts))
    write_text(folder / "generated.txt", "\n\n".join(texts))


def show_plane(config: Config, folder: pathlib.Path, corpus: Corpus) -> None:
    """Trains a small network whose words have two features, and plots them as they are."""
    report("\ntraining a small network with 2 features a word")
    network = train_network(
        plane_config(config, corpus),
        corpus,
        folder / PLANE_FOLDER,
        config.training.chosen(),
        seed=config.seed,
        tensorboard=config.launch.tensorboard,
    )
    draw_words(folder / "word_map_2d.png", corpus, features_of(network))


def plane_config(config: Config, corpus: Corpus) -> NPLMConfig:
    """The small network for a text."""
    flags = dataclasses.replace(PLANE, order=config.network.order)
    return flags.config(len(corpus.vocabulary))


def check_nplm_networks(config: Config, corpus: Corpus, folder: pathlib.Path) -> None:
    """Refuses a folder that has other networks.

    Raises:
      InputError: naming the fields that differ.
    """
    check_checkpoints(folder, config.network.config(len(corpus.vocabulary)), MAY_DIFFER)
    check_checkpoints(folder / PLANE_FOLDER, plane_config(config, corpus), MAY_DIFFER)


def features_of(network: TrainedNetwork) -> Float[np.ndarray, "V D"]:
    """The word features, gathered from all devices."""
    gather = jax.jit(lambda tree: tree, out_shardings=replicated(current_mesh()))
    return word_features(gather(network.params), network.config.vocabulary_size)


def draw_words(path: pathlib.Path, corpus: Corpus, features_VD: Float[np.ndarray, "V D"]) -> None:
    """A map of the most frequent words."""
    names = corpus.vocabulary.words
    signs = [i for i, name in enumerate(names) if not name[0].isalpha()]
    mapped = word_map(features_VD, names, MAPPED_WORDS, exclude=signs)
    width = features_VD.shape[1]
    how = "as they are" if width == 2 else f"on two principal axes ({mapped.share:.0%} of variance)"
    plot_words(path, mapped.words, mapped.points_N2, f"{width} features of frequent words, {how}")


def readable(words: Sequence[str]) -> str:
    """Words as text: paragraph marks become line breaks, signs join the word before."""
    text = " ".join("\n" if word in ("<p>", "<eos>") else word for word in words)
    text = re.sub(r" (?=[.,;:?!)\]])|(?<=[(\[]) ", "", text)
    return re.sub(r"\s*\n\s*", "\n", text).strip()


if __name__ == "__main__":
    run(main, Config)
