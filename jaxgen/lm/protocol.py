"""What every language model offers, whatever is inside: n-grams, mixtures, wrapped networks."""

from typing import Protocol

import numpy as np
from jaxtyping import Float64, Integer


class LanguageModel(Protocol):
    """P(w_t | w_{t-n+1}, ..., w_{t-1}) over a vocabulary of ids, numpy in and out.

    Contexts are integer [N, L] with the nearest word last and L >= order - 1: a model uses the last
    ``order - 1`` columns, so that models of several orders can be given the same contexts. The id
    -1 stands for "no word" (`jaxgen.lm.contexts.NO_WORD`).
    """

    @property
    def order(self) -> int:
        """n: the words of a context plus one."""
        ...

    @property
    def vocabulary_size(self) -> int:
        """V: the number of words that can be predicted."""
        ...

    def probabilities(
        self, contexts_NL: Integer[np.ndarray, "N L"], targets_N: Integer[np.ndarray, "N"]
    ) -> Float64[np.ndarray, "N"]:
        """P(target | context) of each pair, in [0, 1]."""
        ...

    def distributions(self, contexts_NL: Integer[np.ndarray, "N L"]) -> Float64[np.ndarray, "N V"]:
        """P(w | context) for every word w; each row sums to one."""
        ...


def least_context(model: LanguageModel) -> int:
    """The words before a position that must not be missing: n - 1 of networks, none of n-grams.

    N-grams take a shorter context where words are missing; a network has features for words alone.
    """
    return getattr(model, "least_context", 0)
