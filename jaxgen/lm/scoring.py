"""Sentences under a language model: log-probabilities word by word, perplexities, hits by order.

A sentence w_1 ... w_m is scored as SRILM and KenLM do: its first word after ``<s>``, and ``</s>``
after its last one. A word outside the vocabulary (out of vocabulary, OOV) is scored as ``<unk>``.
With OOV the words outside, T the other words, S the sentences, all logarithms to base 10:

    perplexity       10^(-sum of all / (T + OOV + S))          KenLM's "including OOVs"
    ppl              10^(-sum without OOV / (T + S))           SRILM's ppl, KenLM's "excluding OOVs"
    ppl1             10^(-sum without OOV / T)                 SRILM's ppl1: without </s>

Words of probability zero that are in the vocabulary are left out of ppl and ppl1 too, as in SRILM.

``<unk>`` is the event "any word outside": a model with fewer words gives it more probability, and
its perplexity is not to be compared. With the size M of an open vocabulary, the number of different
words that a text may have, each word outside gets an equal share of it,

    P(w | c) = P(<unk> | c) / (M - (words of the model but <s> and <unk>)),

and models of different vocabularies give probabilities of the same events. ``</s>`` counts in M.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32

from jaxgen.errors import InputError
from jaxgen.ids import check_not_string
from jaxgen.lm.contexts import NO_WORD
from jaxgen.lm.protocol import least_context
from jaxgen.lm.text_model import UNKNOWN_WORDS, TextModel
from jaxgen.text_rules import SENTENCE_END, SENTENCE_START, split_words

_BATCH = 4096
"""Positions that are evaluated at a time, at least."""


class WordScore(NamedTuple):
    """A word of a sentence.

    Attributes:
      word: the word, or ``</s>``.
      log10: the logarithm to base 10 of its probability; minus infinity for zero.
      ngram_length: words of the longest n-gram that the model lists of it and its context; None
        of models that list none.
      is_unknown: whether it is outside the vocabulary.
    """

    word: str
    log10: float
    ngram_length: int | None
    is_unknown: bool


@dataclasses.dataclass(frozen=True)
class TextScore:
    """What scores of words come to, of a sentence or of a text.

    Attributes:
      words: the scores, in order, ``</s>`` among them.
    """

    words: tuple[WordScore, ...]

    @classmethod
    def join(cls, scores: Iterable["TextScore"]) -> "TextScore":
        """What scores of sentences, one after the other, come to."""
        return cls(tuple(word for of_sentence in scores for word in of_sentence.words))

    @property
    def log10(self) -> float:
        """The logarithm to base 10 of the probability of everything."""
        return math.fsum(word.log10 for word in self.words) if self.words else 0.0

    @property
    def ends(self) -> int:
        """Ends of sentences."""
        return sum(word.word == SENTENCE_END for word in self.words)

    @property
    def unknown(self) -> int:
        """Words outside the vocabulary."""
        return sum(word.is_unknown for word in self.words)

    @property
    def zero(self) -> int:
        """Words of the vocabulary that have probability zero."""
        return sum(not word.is_unknown and word.log10 == -math.inf for word in self.words)

    @property
    def perplexity(self) -> float:
        """With all words and ends; infinite where one has probability zero."""
        return _perplexity(self.log10, len(self.words))

    @property
    def ppl(self) -> float:
        """SRILM's ppl: without words outside the vocabulary, with ends of sentences."""
        return _perplexity(self._log10_of_known, len(self.words) - self.unknown - self.zero)

    @property
    def ppl1(self) -> float:
        """SRILM's ppl1: the same probability, by the number of words without ends of sentences."""
        return _perplexity(
            self._log10_of_known, len(self.words) - self.unknown - self.zero - self.ends
        )

    @property
    def hits(self) -> Mapping[int, int]:
        """Length of n-gram -> how many words were found in one; empty without n-grams."""
        lengths = Counter(w.ngram_length for w in self.words if w.ngram_length is not None)
        return dict(sorted(lengths.items()))

    @property
    def _log10_of_known(self) -> float:
        return math.fsum(
            word.log10 for word in self.words if not word.is_unknown and word.log10 != -math.inf
        )


def score(
    model: TextModel,
    sentence: str | Sequence[str],
    *,
    start: bool = True,
    end: bool = True,
    open_vocabulary: int | None = None,
) -> TextScore:
    """The log-probability of each word of a sentence, and of its end.

    Args:
      model: the model. One that was trained on a stream has no ``<s>``: its n-grams then begin with
        less context.
      sentence: words, or text in which ASCII white space separates them.
      start: whether ``<s>`` is the first word's context; False: it has none.
      end: whether ``</s>`` is scored after the last word.
      open_vocabulary: M, the different words that the language has, ``</s>`` among them; None: a
        word outside the vocabulary gets the whole probability of ``<unk>``.

    Raises:
      InputError: if a word is one of the marks, the model has no mark that is asked for, or
        M is not greater than the words of the model.
    """
    sentences = [sentence]
    return next(iter(score_sentences(model, sentences, start, end, open_vocabulary)))


def score_text(
    model: TextModel, sentences: Iterable[str | Sequence[str]], open_vocabulary: int | None = None
) -> TextScore:
    """All words of a text of sentences together; arguments and errors as for `score`."""
    return TextScore.join(score_sentences(model, sentences, open_vocabulary=open_vocabulary))


def score_sentences(
    model: TextModel,
    sentences: Iterable[str | Sequence[str]],
    start: bool = True,
    end: bool = True,
    open_vocabulary: int | None = None,
) -> list[TextScore]:
    """The scores of several sentences, which are evaluated together; as `score`."""
    share = _share_of_unknown(model, open_vocabulary)
    scores: list[TextScore] = []
    waiting: list[list[str]] = []
    for sentence in sentences:
        waiting.append(_words_of(model, sentence, start, end))
        if sum(map(len, waiting)) >= _BATCH:
            scores += _evaluate(model, waiting, start, share)
            waiting = []
    return scores + _evaluate(model, waiting, start, share)


def score_stream(
    model: TextModel,
    sentences: Iterable[str | Sequence[str]],
    open_vocabulary: int | None = None,
    context: int | None = None,
) -> list[TextScore]:
    """The scores of a text as one stream (Bengio et al. 2003): nothing marks where sentences end.

    Args:
      model: the model, such as one without ``<s>`` and ``</s>``.
      sentences: the parts of the text, in order; contexts reach over their ends.
      open_vocabulary: as for `score`.
      context: the words at the start of the text that are context alone and get no score. None: as
        many as the model needs (`jaxgen.lm.protocol.least_context`).

    Returns:
      The scores of each part.

    Raises:
      InputError: as `score`; or there are no words but those of the first context.
    """
    share = _share_of_unknown(model, open_vocabulary)
    parts = [_words_of(model, sentence, False, False) for sentence in sentences]
    context = left = least_context(model.model) if context is None else context
    ids_N = _encode(model, [word for words in parts for word in words])
    if len(ids_N) <= context:
        raise InputError(f"text has {len(ids_N)} words, expected more than {context}, the context")
    contexts_NL = _contexts(model, ids_N, False)
    scored = []
    for words in parts:
        scored.append(words[left:])
        left = max(0, left - len(words))
    return _scores_at(model, scored, contexts_NL[context:], ids_N[context:], share)


def _words_of(model: TextModel, sentence: str | Sequence[str], start: bool, end: bool) -> list[str]:
    words = split_words(sentence) if isinstance(sentence, str) else list(sentence)
    check_not_string(words, "sentence")
    for mark in (SENTENCE_START, SENTENCE_END):
        if mark in words:
            raise InputError(f"sentence has the word {mark}, expected words between the marks")
    if end and SENTENCE_END not in model.ids:
        raise InputError(f"model has no word {SENTENCE_END}, expected a model of sentences")
    if start and SENTENCE_START not in model.ids:
        raise InputError(f"model has no word {SENTENCE_START}, expected a model of sentences")
    return [*words, SENTENCE_END] if end else words


def _share_of_unknown(model: TextModel, open_vocabulary: int | None) -> float:
    if open_vocabulary is None:
        return 1.0
    known = len(set(model.words) - {SENTENCE_START, *UNKNOWN_WORDS})
    if open_vocabulary <= known:
        raise InputError(
            f"open_vocabulary is {open_vocabulary}, expected more than the {known} words of the "
            "model"
        )
    return 1.0 / (open_vocabulary - known)


def _evaluate(
    model: TextModel, sentences: Sequence[list[str]], start: bool, share: float
) -> list[TextScore]:
    """The scores of some sentences, whose words are not empty together."""
    if not any(sentences):
        return [TextScore(()) for _ in sentences]
    ids = [_encode(model, words) for words in sentences]
    contexts_NL = np.concatenate([_contexts(model, ids_N, start) for ids_N in ids])
    return _scores_at(model, sentences, contexts_NL, np.concatenate(ids), share)


def _encode(model: TextModel, words: Sequence[str]) -> Int32[np.ndarray, "N"]:
    """Ids, -1 for words that the model lacks; an InputError where it cannot have such a context."""
    ids_N = model.encode(words)
    if least_context(model.model) and np.any(ids_N == NO_WORD):
        raise InputError(
            f"text has the word {words[int(np.argmin(ids_N))]!r}, expected words of the model, "
            f"which has no {UNKNOWN_WORDS[0]}"
        )
    return ids_N


def _scores_at(
    model: TextModel,
    sentences: Sequence[list[str]],
    contexts_NL: Int32[np.ndarray, "N L"],
    ids_N: Int32[np.ndarray, "N"],
    share: float,
) -> list[TextScore]:
    """The scores of the words of some sentences, N together, after their contexts."""
    words = [word for of_sentence in sentences for word in of_sentence]
    unknown_N = np.array(
        [word not in model.ids or i == model.unknown for word, i in zip(words, ids_N, strict=True)]
    )
    target_N = np.maximum(ids_N, 0)
    probability_N = model.model.probabilities(contexts_NL, target_N)
    probability_N = np.where(ids_N < 0, 0.0, probability_N * np.where(unknown_N, share, 1.0))
    with np.errstate(divide="ignore"):
        log10_N = np.log10(probability_N)
    lengths = _lengths(model, contexts_NL, target_N)
    scores = [
        WordScore(*fields)
        for fields in zip(words, log10_N.tolist(), lengths, unknown_N.tolist(), strict=True)
    ]
    stops = np.cumsum([len(of_sentence) for of_sentence in sentences]).tolist()
    starts = [0, *stops[:-1]]
    return [TextScore(tuple(scores[i:j])) for i, j in zip(starts, stops, strict=True)]


def _contexts(
    model: TextModel, ids_N: Int32[np.ndarray, "N"], start: bool
) -> Int32[np.ndarray, "N L"]:
    before = model.model.order - 1
    padding = np.full(before, model.ids[SENTENCE_START] if start else NO_WORD, np.int32)
    text = np.concatenate([padding, ids_N])
    return text[np.arange(len(ids_N))[:, None] + np.arange(before)]


def _lengths(
    model: TextModel, contexts_NL: Int32[np.ndarray, "N L"], target_N: Int32[np.ndarray, "N"]
) -> Sequence[int | None]:
    find_lengths = getattr(model.model, "ngram_lengths", None)
    if find_lengths is None:
        return [None] * len(target_N)
    return find_lengths(contexts_NL, target_N).tolist()


def _perplexity(log10: float, words: int) -> float:
    if not words:
        return math.nan
    return float(np.float64(10.0) ** (-log10 / words))
