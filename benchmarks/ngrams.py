"""Time to estimate and evaluate n-gram models, against nltk.lm and KenLM.

    python -m benchmarks.ngrams                          # the built-in text
    python -m benchmarks.ngrams --corpus brown.zip

The same counts of the same tokens, taken in turns. nltk.lm has one discount and no back-off form,
and scores one word at a time: it is given a slice of the held-out text, and its time per word is
compared. KenLM's Python package only reads models; it is given ours, as an ARPA file, to score.
"""

import argparse
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable

import numpy as np

from jaxgen.data import Corpus, load_corpus
from jaxgen.interop.arpa import NgramTables, write_arpa
from jaxgen.lm import perplexity
from jaxgen.lm.ngram import count_ngrams, fit_kneser_ney


def main() -> None:
    """Prints a table of seconds and microseconds per word."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", default="builtin", help="a name or path of jaxgen.data")
    parser.add_argument("--order", type=int, default=5, help="n")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is timed")
    parser.add_argument("--nltk-words", type=int, default=300, help="held-out words for nltk")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    corpus = load_corpus(arguments.corpus)
    print(corpus.describe())
    contenders = [Ours(corpus, arguments.order)]
    for make in (Nltk, KenLM):
        try:
            contenders.append(make(corpus, arguments.order, arguments.nltk_words))
        except ImportError as error:
            print(f"{make.__name__}: {error}; left out")
    seconds: dict[tuple[str, str], list[float]] = {}
    for _ in range(arguments.rounds):
        for contender in contenders:
            name = type(contender).__name__
            seconds.setdefault((name, "estimate"), []).append(timed(contender.estimate))
            seconds.setdefault((name, "score"), []).append(timed(contender.score))
    print("\n| model | estimate, s | score, microseconds per word |\n|---|---|---|")
    for contender in contenders:
        name = type(contender).__name__
        estimate = statistics.median(seconds[name, "estimate"])
        score = statistics.median(seconds[name, "score"]) / contender.scored * 1e6
        print(f"| {name} | {estimate:.2f} | {score:.2f} |")


def timed(function: Callable[[], object]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


class Ours:
    """Modified Kneser-Ney, interpolated, evaluated on both held-out parts."""

    def __init__(self, corpus: Corpus, order: int):
        self.corpus, self.order = corpus, order
        self.scored = len(corpus.split("validation")) + len(corpus.split("test"))

    def estimate(self) -> None:
        """Counts the training part and estimates."""
        train, size = self.corpus.split("train"), len(self.corpus.vocabulary)
        self.model = fit_kneser_ney(count_ngrams(train, self.order, size))

    def score(self) -> None:
        """Both held-out parts."""
        for part in ("validation", "test"):
            perplexity(self.model, self.corpus.tokens, *self.corpus.spans[part])


class Nltk:
    """nltk.lm's interpolated Kneser-Ney on the same n-grams."""

    def __init__(self, corpus: Corpus, order: int, words: int):
        import nltk.lm  # noqa: F401

        self.corpus, self.order, self.scored = corpus, order, words
        self.tokens = [str(word) for word in corpus.tokens]

    def estimate(self) -> None:
        """Counts the training part (nltk estimates when asked)."""
        from nltk.lm import KneserNeyInterpolated
        from nltk.util import everygrams

        start, stop = self.corpus.spans["train"]
        self.model = KneserNeyInterpolated(self.order, discount=0.75)
        names = map(str, range(len(self.corpus.vocabulary)))
        self.model.fit([everygrams(self.tokens[start:stop], max_len=self.order)], names)

    def score(self) -> None:
        """The first words of the test part."""
        first = self.corpus.spans["test"][0]
        for i in range(first, first + self.scored):
            self.model.logscore(self.tokens[i], tuple(self.tokens[i - self.order + 1 : i]))


class KenLM:
    """KenLM scoring the model that `Ours` estimates; estimating here is loading the file."""

    def __init__(self, corpus: Corpus, order: int, words: int):
        import kenlm  # noqa: F401

        ours = Ours(corpus, order)
        ours.estimate()
        names = tuple(f"w{i}" for i in range(len(corpus.vocabulary)))
        self.folder = tempfile.TemporaryDirectory()
        self.path = f"{self.folder.name}/model.arpa"
        write_arpa(self.path, NgramTables(names, *ours.model.tables()), sentence_marks=True)
        start = corpus.spans["validation"][0]
        self.text = " ".join(names[word] for word in np.asarray(corpus.tokens[start:]))
        self.scored = len(corpus.tokens) - start

    def estimate(self) -> None:
        """Loads the ARPA file."""
        import kenlm

        self.model = kenlm.LanguageModel(self.path)

    def score(self) -> None:
        """Both held-out parts, in one call."""
        self.model.score(self.text, bos=False, eos=False)


if __name__ == "__main__":
    main()
