"""Likelihood and perplexity of a language model on a span of a text.

Every position of the span counts alike (sentence ends and merged rare words too), as in Bengio et
al. (2003), and contexts reach back over the span's start into the preceding text.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float64, Integer

from jaxgen.errors import InputError
from jaxgen.ids import as_ids
from jaxgen.lm.contexts import check_span, windows
from jaxgen.lm.protocol import LanguageModel


def span_probabilities(
    model: LanguageModel,
    tokens: Integer[np.ndarray, "tokens"],
    start: int,
    stop: int,
    batch: int = 1024,
    progress: Callable[[int], None] | None = None,
) -> Float64[np.ndarray, "N"]:
    """P(tokens[i] | tokens[i-n+1 : i]) at every position ``start <= i < stop``.

    Args:
      model: any language model.
      tokens: the whole stream, ids in [0, V) of any integer type.
      start: first position of the span.
      stop: one past the last position of the span.
      batch: positions evaluated at a time; bounds the memory of models that make [batch, V].
      progress: called after each batch with the number of positions just done.

    Returns:
      float64 [N] with N = stop - start: probabilities, in the order of the text.

    Raises:
      InputError: if the span is empty or outside the stream, or the batch is under 1.
    """
    tokens = np.asarray(tokens)
    check_span(tokens, start, stop)
    if start == stop:
        raise InputError(f"span [{start}, {stop}) is empty, expected at least one position")
    if batch < 1:
        raise InputError(f"batch is {batch}, expected 1 or more positions")
    probability_N = np.empty(stop - start)
    for first in range(start, stop, batch):
        last = min(first + batch, stop)
        contexts_BL = windows(tokens, model.order, first, last)
        probability_N[first - start : last - start] = model.probabilities(
            contexts_BL, as_ids(tokens[first:last])
        )
        if progress is not None:
            progress(last - first)
    return probability_N


def perplexity_of(probability_N: Float64[np.ndarray, "N"]) -> float:
    """exp(-mean log p), the perplexity of probabilities given to successive words.

    Infinite where one of them is zero.

    Example:
      >>> round(perplexity_of(np.array([0.5, 0.125])), 6)
      4.0
    """
    with np.errstate(divide="ignore"):
        return float(np.exp(-np.log(probability_N).mean()))


def perplexity(
    model: LanguageModel,
    tokens: Integer[np.ndarray, "tokens"],
    start: int,
    stop: int,
    batch: int = 1024,
    progress: Callable[[int], None] | None = None,
) -> float:
    """exp(-mean log P(tokens[i] | context)) over every position ``start <= i < stop``.

    Arguments and errors are those of :func:`span_probabilities`.
    """
    return perplexity_of(span_probabilities(model, tokens, start, stop, batch, progress))
