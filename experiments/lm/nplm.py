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
  vocabulary.txt     the words, one a line, in the order of the ids
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
from typing import Any, Literal

import jax
import numpy as np
from jaxtyping import Float, Float64, Int

from experiments.lm.support.language_modelling import (
    MAY_DIFFER,
    PARTS,
    TrainedNetwork,
    WordVectors,
    check_text_batches,
    frequency_bins_of,
    marks_of,
    mix_by_frequency,
    model_probabilities,
    own_contexts,
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
from jaxgen.data.text.sentence_files import load_sentences
from jaxgen.errors import InputError
from jaxgen.files import as_path
from jaxgen.interop.word_vectors import read_word_vectors, write_word_vectors
from jaxgen.lm import LanguageModel, SentenceMarks, windows
from jaxgen.lm.generate import generate, make_generator
from jaxgen.lm.initial_features import align_vectors
from jaxgen.lm.ngram import NgramCounts, count_ngrams, fit_interpolated, fit_kneser_ney
from jaxgen.lm.nplm import NPLMConfig
from jaxgen.lm.word_maps import nearest_words, word_features, word_map
from jaxgen.parallel import current_mesh, is_main_process, replicated
from jaxgen.training.saved_names import register_config

TRIGRAM, KNESER_NEY = "interpolated trigram", "Kneser-Ney"
NETWORK, MIXTURE = "network", "mixture"

NEIGHBOURS, MAPPED_WORDS, WRITTEN_WORDS, WRITTEN_SENTENCES = 8, 400, 100, 5
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
      encoding: of a text file, a codec of Python's.
      cutoff: words of at most this frequency are one symbol; None: the corpus' own (3 for text
        files).
      vocabulary_from: count the words of all parts, as the paper does, or of the training part.
      split: sizes of the training and validation parts, as words or as fractions, the rest is for
        test; None: the corpus' own parts.
      sentences: the text file has a sentence a line, words between white space; every sentence is
        trained on and evaluated by itself, after <s> and with </s>.
      kneser_ney_order: n of the Kneser-Ney model.
      vectors: a file of word vectors (word2vec, text or binary, or GloVe) that the network's word
        features start from; their width is the network's `features`.
      words: whose neighbours to show; none: some frequent ones.
      network: the network.
      training: how it is trained.
    """

    launch: LaunchConfig = LaunchConfig(workdir="runs/lm_nplm")
    corpus: str = "builtin"
    encoding: str = "utf-8"
    cutoff: int | None = None
    vocabulary_from: Literal["all", "train"] = "all"
    split: tuple[int, int] | tuple[float, float] | None = None
    sentences: bool = False
    kneser_ney_order: int = 5
    vectors: str | None = None
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
    corpus = read_corpus(config)
    model = config.network.config(len(corpus.vocabulary))
    words, recipe = chosen_words(corpus, config.words), config.training.chosen()
    vectors = chosen_vectors(config, corpus)
    order = max(model.order, config.kneser_ney_order)
    check_text_batches(order, corpus, recipe)
    per_epoch = plan_text_batches(model.order, corpus, recipe).steps_per_epoch
    check_not_shorter(
        as_path(config.launch.workdir),
        recipe.loop_for(per_epoch).steps,
        f"epochs is {recipe.epochs:g}",
    )
    counts = count_ngrams(
        corpus.split("train"),
        max(3, config.kneser_ney_order),
        len(corpus.vocabulary),
        marks_of(corpus),
    )
    baselines = {
        TRIGRAM: fit_interpolated(counts.up_to(3), corpus.tokens, *corpus.spans["validation"]),
        KNESER_NEY: fit_kneser_ney(counts.up_to(config.kneser_ney_order)),
    }
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
        model,
        corpus,
        folder,
        recipe,
        seed=config.seed,
        vectors=vectors,
        tensorboard=config.launch.tensorboard,
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


def read_corpus(config: Config) -> Corpus:
    """The text, as its flags say.

    Raises:
      InputError: for sentences of what is no text file; and as `load_corpus`, `load_sentences`.
    """
    if config.sentences and (
        config.corpus == "builtin"
        or config.corpus.startswith("tfds:")
        or pathlib.Path(config.corpus).is_dir()
    ):
        raise InputError(
            f"corpus is {config.corpus} with sentences on, expected a text file, a sentence a line"
        )
    options: dict[str, Any] = {
        "encoding": config.encoding,
        "vocabulary_from": config.vocabulary_from,
    }
    if not config.sentences:
        cutoff, split = config.cutoff, config.split
        return load_corpus(config.corpus, split=split, rare_frequency=cutoff, **options)
    if config.cutoff is not None:
        options["cutoff"] = config.cutoff
    if config.split is not None:
        options["split"] = config.split
    return load_sentences(config.corpus, **options)


def chosen_vectors(config: Config, corpus: Corpus) -> WordVectors | None:
    """The vectors that the word features start from, of those words that the text has.

    Raises:
      InputError: they have another width than the features, or none of the words.
    """
    if config.vectors is None:
        return None
    words, vectors_ND = read_word_vectors(config.vectors, repeated="first", invalid="skip")
    if vectors_ND.shape[1] != config.network.features:
        raise InputError(
            f"{config.vectors}: vectors of {vectors_ND.shape[1]} numbers, expected "
            f"{config.network.features}, the network's features"
        )
    table_VD, found_V = align_vectors(corpus.vocabulary.words, words, vectors_ND)
    report(f"{config.vectors}: vectors for {found_V.sum():,} of {len(found_V):,} words")
    return [corpus.vocabulary.words[i] for i in np.flatnonzero(found_V)], table_VD[found_V]


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
    context_NL = own_contexts(windows(corpus.tokens, 3, *corpus.spans["test"]), marks_of(corpus))
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
    marks = marks_of(corpus)
    if marks is not None:
        show_sentences(folder, corpus, network, marks, seed)
        return
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


def show_sentences(
    folder: pathlib.Path,
    corpus: Corpus,
    network: TrainedNetwork,
    marks: SentenceMarks,
    seed: int,
) -> None:
    """Sentences that the network writes."""
    forbid = [i for i in (corpus.vocabulary.unknown, marks.start) if i is not None]
    prompt = [marks.start] * (network.config.order - 1)
    lines = []
    for name, options in SAMPLING.items():
        lines.append(f"[{name}]")
        for number in range(WRITTEN_SENTENCES):
            ids = generate(
                network.model,
                prompt,
                WRITTEN_WORDS,
                WRITTEN_SENTENCES * seed + number,
                forbid=forbid,
                stop=marks.end,
                **options,
            )
            lines.append(" ".join(corpus.vocabulary.decode(ids[ids != marks.end])))
    report("\n" + "\n".join(lines))
    write_text(folder / "generated.txt", "\n".join(lines))


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
    few = len(names) - len(signs) < 2  # a text of numbers, say
    mapped = word_map(features_VD, names, MAPPED_WORDS, exclude=[] if few else signs)
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
