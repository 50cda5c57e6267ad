"""N-gram models of one's own text: estimate, score, mix, prune; and text from any model.

``python -m experiments.lm.ngrams estimate --text train.txt --order 3 --output model.arpa``

Texts have a sentence a line, words between white space; plain or gzip. Models are ARPA files
(.arpa, .arpa.gz), files of `jaxgen.lm.TextModel.save` under any other name, and, where a model is
read, folders of `experiments.lm.nplm`.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from experiments.lm.support.model_files import (
    check_can_be_written,
    check_folder_of,
    is_arpa,
    read_language_model,
    write_language_model,
)
from experiments.shared.launch import report, run_tool
from jaxgen.data import UNKNOWN, Vocabulary, read_sentences, sentence_vocabulary
from jaxgen.data.text.sentence_files import encode_sentences
from jaxgen.errors import InputError
from jaxgen.files import Path
from jaxgen.lm import (
    LanguageModel,
    SentenceMarks,
    TextModel,
    TextScore,
    perplexity_of,
    score_sentences,
    score_stream,
)
from jaxgen.lm.generate import generate
from jaxgen.lm.merging import merge_backoff_models
from jaxgen.lm.mixture import fixed_mixture, learn_weights
from jaxgen.lm.ngram import (
    BackoffModel,
    NgramCounts,
    count_ngrams,
    fit_absolute_discounting,
    fit_add_k,
    fit_kneser_ney,
    fit_witten_bell,
    prune,
)
from jaxgen.lm.protocol import least_context
from jaxgen.text_rules import SENTENCE_END, SENTENCE_START, split_words

FITS: dict[str, Callable[..., BackoffModel]] = {
    "kneser-ney": fit_kneser_ney,
    "witten-bell": fit_witten_bell,
    "absolute": fit_absolute_discounting,
}


@dataclass(frozen=True, kw_only=True)
class EstimateFlags:
    """Text to a model.

    Attributes:
      text: the files of the training text, a sentence a line.
      output: the model's file.
      order: n; the n - 1 words before predict the next.
      smoothing: modified Kneser-Ney, Witten-Bell, absolute discounting, or a constant added to
        every count.
      back_off: back off to lower orders for unseen words alone, rather than interpolate.
      k: what "add-k" adds.
      minimum_counts: for each order the least count of an n-gram that is listed; none: 1 each.
      cutoff: words of at most this frequency are <unk>.
      vocabulary: a file of words, one a line; words of the text that it lacks are <unk>.
      vocabulary_size: the most words, <unk> and the marks of sentences among them.
      stream: count one stream, over the ends of sentences, rather than by sentence.
      encoding: of the text.
    """

    text: tuple[str, ...]
    output: str
    order: int = 3
    smoothing: Literal["kneser-ney", "witten-bell", "absolute", "add-k"] = "kneser-ney"
    back_off: bool = False
    k: float = 1.0
    minimum_counts: tuple[int, ...] = ()
    cutoff: int = 0
    vocabulary: str | None = None
    vocabulary_size: int | None = None
    stream: bool = False
    encoding: str = "utf-8"


def estimate(flags: EstimateFlags) -> TextModel:
    """Counts, smooths, writes."""
    check_folder_of(flags.output)
    sentences = read_texts(flags.text, flags.encoding)
    vocabulary = _vocabulary(flags, sentences)
    marks = SentenceMarks(*(vocabulary.words.index(w) for w in (SENTENCE_START, SENTENCE_END)))
    tokens = encode_sentences(sentences, vocabulary)
    counts = count_ngrams(tokens, flags.order, len(vocabulary), None if flags.stream else marks)
    model = TextModel(_fit(flags, counts), vocabulary.words)
    write_language_model(flags.output, model)
    share = np.mean(tokens == vocabulary.unknown) * len(tokens) / (len(tokens) - len(sentences))
    report(
        f"{len(sentences):,} sentences, {len(tokens) - len(sentences):,} words, "
        f"|V| = {len(vocabulary):,}, {share:.1%} unknown\n{describe_model(model)}: {flags.output}"
    )
    return model


def _vocabulary(flags: EstimateFlags, sentences: Sequence[Sequence[str]]) -> Vocabulary:
    if flags.vocabulary is None:
        return sentence_vocabulary(sentences, flags.cutoff, flags.vocabulary_size)
    if flags.cutoff or flags.vocabulary_size is not None:
        raise InputError("vocabulary is given, expected no cutoff and no vocabulary size with it")
    special = (UNKNOWN, SENTENCE_START, SENTENCE_END)
    words = [word for word in Vocabulary.load(flags.vocabulary).words if word not in special]
    return Vocabulary((*special, *words), 0)


def _fit(flags: EstimateFlags, counts: NgramCounts) -> BackoffModel:
    if flags.smoothing != "add-k":
        minimum = flags.minimum_counts or None
        return FITS[flags.smoothing](counts, not flags.back_off, minimum)
    if flags.back_off or flags.minimum_counts:
        raise InputError("smoothing is add-k, expected no --back-off and no minimum counts")
    return fit_add_k(counts, flags.k)


@dataclass(frozen=True, kw_only=True)
class ScoreFlags:
    """Text against a model: log-probabilities, perplexities, hits by order.

    Attributes:
      model: the model.
      text: the files of the text.
      words: print every word with its log10 probability and the length of its n-gram.
      open_vocabulary: how many different words the language has: a word outside the model's gets
        an equal share of <unk>.
      encoding: of the text.
    """

    model: str
    text: tuple[str, ...]
    words: bool = False
    open_vocabulary: int | None = None
    encoding: str = "utf-8"


def score_files(flags: ScoreFlags) -> TextScore:
    """Scores a text: by sentence, or as one stream where the model lacks the marks of sentences."""
    model = read_language_model(flags.model)
    sentences = read_texts(flags.text, flags.encoding)
    context = least_context(model.model)
    scores = scores_by_line(model, sentences, context, flags.open_vocabulary)
    if flags.words:
        for of_sentence in scores:
            report("\n".join(map(_line, of_sentence.words)) + f"\n{of_sentence.log10:.6f} total\n")
    total = TextScore.join(scores)
    if model.marks is None:
        start = f", its first {context} words context alone" if context else ""
        report(f"the model has no <s> and </s>: the text is one stream{start}")
    report(summary(total))
    return total


def scores_by_line(
    model: TextModel,
    sentences: Sequence[Sequence[str]],
    context: int = 0,
    open_vocabulary: int | None = None,
) -> list[TextScore]:
    """The scores of sentences, or, of a model without the marks of sentences, of their stream.

    Args:
      model: the model.
      sentences: the text.
      context: the words at the start of a stream that have no score.
      open_vocabulary: as for `jaxgen.lm.score`.
    """
    if model.marks is None:
        return score_stream(model, sentences, open_vocabulary, context)
    return score_sentences(model, sentences, open_vocabulary=open_vocabulary)


def _line(word: Any) -> str:
    length = "" if word.ngram_length is None else f" {word.ngram_length}"
    return f"{word.word} {word.log10:.6f}{length}" + (" OOV" if word.is_unknown else "")


def summary(total: TextScore) -> str:
    """What a text's scores come to, in SRILM's terms and in KenLM's."""
    words = len(total.words) - total.ends
    lines = [
        f"{total.ends} sentences, {words} words, {total.unknown} OOVs, {total.zero} zeroprobs",
        f"logprob {total.log10:.6g}  ppl {total.ppl:.6g}  ppl1 {total.ppl1:.6g}  "
        f"perplexity with OOVs {total.perplexity:.6g}",
    ]
    hits = total.hits
    rates = "  ".join(f"{n}: {hits[n]} ({hits[n] / len(total.words):.1%})" for n in hits)
    return "\n".join(lines + ([f"n-gram hits by order  {rates}"] if hits else []))


@dataclass(frozen=True, kw_only=True)
class MixFlags:
    """Weights of several models by EM on a text, and their mixture.

    Attributes:
      models: the models. Words that not all of them have are left to those that have them; a model
        other than n-grams has to have them all, in any order.
      text: the files of the text that weights are fitted to; none of the training text.
      output: the mixture's file. Under a name in .arpa the models, which must be n-grams, become
        one back-off model; under another one the mixture is kept as it is.
      weights: the weights, instead of those that EM finds.
      encoding: of the text.
    """

    models: tuple[str, ...]
    text: tuple[str, ...] = ()
    output: str | None = None
    weights: tuple[float, ...] = ()
    encoding: str = "utf-8"


def mix_models(flags: MixFlags) -> list[float]:
    """Finds the weights, prints them, writes the mixture."""
    if bool(flags.text) == bool(flags.weights):
        raise InputError("text and weights are both given or both missing, expected one of them")
    if flags.output is not None:
        check_folder_of(flags.output)
    models = onto_one_vocabulary([read_language_model(path) for path in flags.models])
    if flags.text:
        sentences = read_texts(flags.text, flags.encoding)
        context = max(least_context(model.model) for model in models)
        scores = [TextScore.join(scores_by_line(m, sentences, context)) for m in models]
        log10_NJ = np.array([[word.log10 for word in of.words] for of in scores]).T
        weights = learn_weights(10.0**log10_NJ)[0].tolist()
        for path, weight, of in zip(flags.models, weights, scores, strict=True):
            report(f"{weight:.6f}  {path}  perplexity {of.perplexity:.6g}")
        mixed_N = 10.0**log10_NJ @ np.array(weights)
        report(f"perplexity of the mixture {perplexity_of(mixed_N):.6g}")
    else:
        weights = list(flags.weights)
    if flags.output is not None:
        model = TextModel(_mixture(flags.output, models, weights), models[0].words)
        write_language_model(flags.output, model)
        report(f"{describe_model(model)}: {flags.output}")
    return weights


def _mixture(output: str, models: Sequence[TextModel], weights: Sequence[float]) -> LanguageModel:
    members = [model.model for model in models]
    if not is_arpa(output):
        return fixed_mixture(members, weights)
    for model in models:
        check_can_be_written(output, model)
    return merge_backoff_models([m for m in members if isinstance(m, BackoffModel)], weights)


def onto_one_vocabulary(models: Sequence[TextModel]) -> list[TextModel]:
    """The models with one list of words, in one order.

    N-gram models get the words of all of them, with probability zero for those that they lack, in
    the order of the others where there are others.

    Raises:
      InputError: for other models whose words differ, or that lack words of an n-gram model.
    """
    fixed = [model for model in models if not isinstance(model.model, BackoffModel)]
    words = tuple(dict.fromkeys(word for model in (*fixed, *models) for word in model.words))
    for model in fixed:
        if model.words != words:
            raise InputError(
                f"models have different words, and one of them is a {type(model.model).__name__}, "
                "expected n-gram models, or no words but those of the others"
            )
    return [_with_words(model, words) for model in models]


def _with_words(model: TextModel, words: tuple[str, ...]) -> TextModel:
    """An n-gram model with its words in another order, and among others."""
    if model.words == words or not isinstance(model.model, BackoffModel):
        return model
    new_id = {word: i for i, word in enumerate(words)}
    ids = np.array([new_id[word] for word in model.words])
    tables = model.model.tables()
    ngrams = [ids[words_Nk] for words_Nk in tables.ngrams]
    moved = BackoffModel.from_tables(
        ngrams, tables.log10_probabilities, tables.log10_backoffs, len(words)
    )
    return TextModel(moved, words)


@dataclass(frozen=True, kw_only=True)
class PruneFlags:
    """A smaller n-gram model, by relative entropy (Stolcke 1998).

    Attributes:
      model: the model, an ARPA file or a saved back-off model.
      output: the smaller one's file.
      threshold: by how much, in parts of it, the perplexity may rise for an n-gram to go.
    """

    model: str
    output: str
    threshold: float = 1e-8


def prune_model(flags: PruneFlags) -> TextModel:
    """Prunes, writes."""
    check_folder_of(flags.output)
    model = read_language_model(flags.model)
    if not isinstance(model.model, BackoffModel):
        raise InputError(
            f"{flags.model}: a {type(model.model).__name__}, expected an n-gram model to prune"
        )
    smaller = TextModel(prune(model.model, flags.threshold, model.marks), model.words)
    write_language_model(flags.output, smaller)
    report(f"{describe_model(model)}\n{describe_model(smaller)}: {flags.output}")
    return smaller


@dataclass(frozen=True, kw_only=True)
class GenerateFlags:
    """Text from a model, n-gram or network.

    Attributes:
      model: the model.
      count: sentences, or texts of a model without marks of sentences.
      length: the most words of each.
      prompt: words that each begins with. Where a network without marks of sentences wants more
        of them, each begins as after so many <unk>.
      seed: the same seed writes the same text.
      temperature: 0 takes the likeliest word each time.
      top_k: keep the k likeliest words.
      top_p: keep the smallest set of likeliest words with this much probability.
    """

    model: str
    count: int = 10
    length: int = 50
    prompt: str = ""
    seed: int = 0
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None


def generate_texts(flags: GenerateFlags) -> list[str]:
    """Writes sentences, without <unk>."""
    if flags.count < 1:
        raise InputError(f"count is {flags.count}, expected 1 or more")
    model = read_language_model(flags.model)
    prompt = split_words(flags.prompt)
    for word in prompt:
        if word not in model.ids:
            raise InputError(f"prompt has the word {word!r}, which the model does not have")
    ids = model.encode(prompt).tolist()
    forbid = [model.unknown] if model.unknown is not None else []
    if model.marks is not None:
        ids = [model.marks.start] * (model.model.order - 1) + ids
        forbid.append(model.marks.start)
    ids = _unknown_words(model, len(ids)) + ids
    texts = []
    for number in range(flags.count):
        written = generate(
            model.model,
            ids,
            flags.length,
            # Of several seeds, no two give the same sentences in another order.
            int(np.random.SeedSequence([flags.seed, number]).generate_state(1)[0]),
            temperature=flags.temperature,
            top_k=flags.top_k,
            top_p=flags.top_p,
            forbid=forbid,
            stop=None if model.marks is None else model.marks.end,
        )
        words = [word for word in model.decode(written.tolist()) if word != SENTENCE_END]
        texts.append(" ".join([*prompt, *words]))
        report(texts[-1])
    return texts


def _unknown_words(model: TextModel, known: int) -> list[int]:
    """What stands for the words that a network wants before the known ones; says so."""
    missing = least_context(model.model) - known
    if missing <= 0:
        return []
    if model.unknown is None:
        raise InputError(
            f"prompt has {known} words, expected {known + missing} or more for a network of order "
            f"{model.model.order} that has neither <s> nor <unk>"
        )
    warnings.warn(
        f"the prompt has {known} of the {known + missing} words that the network looks at; "
        "<unk> stands for the others",
        stacklevel=2,
    )
    return [model.unknown] * missing


def read_texts(paths: Sequence[Path], encoding: str) -> list[list[str]]:
    """The sentences of several files."""
    return [words for path in paths for words in read_sentences(path, encoding)]


def describe_model(model: TextModel) -> str:
    """The size of a model, on one line."""
    if not isinstance(model.model, BackoffModel):
        return f"{type(model.model).__name__} of order {model.model.order}"
    sizes = ", ".join(f"{len(index):,}" for index in model.model.indexes)
    return f"n-grams of orders 1 to {model.model.order}: {sizes}"


COMMANDS = {
    "estimate": (EstimateFlags, estimate),
    "score": (ScoreFlags, score_files),
    "mix": (MixFlags, mix_models),
    "prune": (PruneFlags, prune_model),
    "generate": (GenerateFlags, generate_texts),
}

if __name__ == "__main__":
    run_tool(COMMANDS)
