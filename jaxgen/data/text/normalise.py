"""Fewer, larger classes of words: the normalisation that Bengio et al. (2003) apply to AP News.

The paper (section 4.1) keeps the most frequent words, maps upper case to lower case, numeric forms
to special symbols, rare words to one symbol and proper nouns to another. Here each of these is a
function from `TokenStream` to `TokenStream` that keeps the number of words, and with it spans and
tags; `ap_news_style` applies them in an order in which they do not disturb each other.
"""

import dataclasses
import functools
import re
from collections import Counter
from collections.abc import Callable, Sequence

from jaxgen.data.text.corpus import TokenStream
from jaxgen.data.text.vocabulary import UNKNOWN
from jaxgen.errors import InputError

NUMBER = "<num>"
PROPER_NOUN = "<name>"

Step = Callable[[TokenStream], TokenStream]

_is_mark = re.compile(r"<[^<>\s]+>").fullmatch
_is_number = re.compile(r"[^\w\s]*\d(?:[\d\W_]*\d)?(?:[^\w\s]*|st|nd|rd|th|s|'s)").fullmatch
_is_proper_tag = re.compile(r"(?:fw-)?nps?\$?(?:[-+*].*)?|nnps?", re.IGNORECASE).fullmatch

_SENTENCE_ENDS = frozenset({".", "!", "?", "...", ":", ";"})
_OPENING_SIGNS = frozenset({'"', "'", "``", "`", "“", "‘", "(", "[", "{", "«", "--", "-", "*", "—"})


def compose(*steps: Step) -> Step:
    """The function that applies `steps` one after another, the first one first."""
    return lambda stream: functools.reduce(lambda value, step: step(value), steps, stream)


def lower_case(stream: TokenStream) -> TokenStream:
    """Every word in lower case."""
    return _with_tokens(stream, [token.lower() for token in stream.tokens])


def merge_numbers(stream: TokenStream, symbol: str = NUMBER) -> TokenStream:
    """Numeric forms become `symbol`.

    A numeric form has digits and signs but no letters (``1,000``, ``$3.50``, ``1960-61``), save for
    an ordinal or plural ending (``19th``, ``1960s``).
    """
    return _with_tokens(stream, [symbol if _is_number(t) else t for t in stream.tokens])


def merge_proper_nouns(stream: TokenStream, symbol: str = PROPER_NOUN) -> TokenStream:
    """Proper nouns become `symbol`: by tag where the stream has tags, else by `guess_proper_nouns`.

    Tags that count are Brown's NP family (``np``, ``nps``, ``np$``, ``np-tl``, ``fw-np``) and the
    Penn Treebank's ``NNP`` and ``NNPS``.
    """
    if stream.tags is not None:
        merged = [bool(_is_proper_tag(tag)) for tag in stream.tags]
    else:
        names = guess_proper_nouns(stream.tokens)
        merged = [token in names for token in stream.tokens]
    pairs = zip(stream.tokens, merged, strict=True)
    return _with_tokens(stream, [symbol if is_name else token for token, is_name in pairs])


def merge_rare_words(stream: TokenStream, frequency: int = 3, symbol: str = UNKNOWN) -> TokenStream:
    """Words of at most this frequency in the whole stream become `symbol`.

    Raises:
      InputError: `frequency` is negative.
    """
    if frequency < 0:
        raise InputError(f"frequency is {frequency}, expected 0 or more")
    counts = Counter(stream.tokens)
    return _with_tokens(stream, [symbol if counts[t] <= frequency else t for t in stream.tokens])


def join_tags(stream: TokenStream, separator: str = "/") -> TokenStream:
    """Words with their tags, ``run/vb``: a text in which homographs are different words.

    Raises:
      InputError: The stream has no tags.
    """
    if stream.tags is None:
        raise InputError(f"{stream.name}: no part-of-speech tags to join to its words")
    pairs = zip(stream.tokens, stream.tags, strict=True)
    return _with_tokens(
        stream, [word if _is_mark(word) else word + separator + tag for word, tag in pairs]
    )


def ap_news_style(stream: TokenStream, rare_frequency: int = 3) -> TokenStream:
    """Proper nouns and numbers to a symbol each, the rest to lower case, then rare words to one."""
    steps = compose(
        merge_proper_nouns,
        merge_numbers,
        lower_case,
        functools.partial(merge_rare_words, frequency=rare_frequency),
    )
    return steps(stream)


def guess_proper_nouns(tokens: Sequence[str]) -> frozenset[str]:
    """The words of an untagged text that are taken for proper nouns.

    A word is one if it begins with a capital, occurs inside a sentence, and never occurs in lower
    case. (Inside: not after the text's start, a mark such as ``<p>``, one of ``. ! ? ... : ;``, or
    an opening sign that follows one of these.) "I" and its contractions are none.
    """
    seen = frozenset(tokens)
    inside: set[str] = set()
    at_start = True
    for token in tokens:
        if token in _SENTENCE_ENDS or _is_mark(token):
            at_start = True
        elif token in _OPENING_SIGNS:
            continue
        else:
            if not at_start and token[0].isupper():
                inside.add(token)
            at_start = False
    return frozenset(
        word for word in inside if word.lower() not in seen and re.split("['’]", word)[0] != "I"
    )


def _with_tokens(stream: TokenStream, tokens: list[str]) -> TokenStream:
    return dataclasses.replace(stream, tokens=tokens)
