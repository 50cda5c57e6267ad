"""Which tokens of an edited prompt stand for which of the original (Hertz et al. 2023).

Prompt-to-Prompt gives the pixels of an edited image the attention that those of the original paid
to its prompt. With M the weights [pixels, N] of the original's N tokens, and M* the edited one's::

    swap           M A              as many words, some of them other ones; a word's tokens are
                                    shared out in equal parts
    refinement     M[:, n(m)] where token m is one of the original's, else M*[:, m]
    re-weighting   c[m] times either

`jaxgen.diffusion.conditioning.prompt_to_prompt` applies them.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Integer

from jaxgen.data.tokenizers.tokenized import Tokenized
from jaxgen.errors import InputError


class PromptMap(NamedTuple):
    """How the weights of an edited prompt's tokens come from those of the original's.

    Attributes:
      map_NM: A of the module's text: of the original's tokens, for each of the edited one's.
      kept_M: 1 where they do, 0 where a token keeps its own weights.
      factor_M: What they are multiplied by then.
    """

    map_NM: Float32[np.ndarray, "N M"]
    kept_M: Float32[np.ndarray, "M"]
    factor_M: Float32[np.ndarray, "M"]


def swap_map(prompts: Tokenized, original: int = 0, edited: int = 1) -> PromptMap:
    """The map of a prompt with other words in the places of some.

    Args:
      prompts: Both, as tokens.
      original: Its row.
      edited: That of the other one.

    Raises:
      InputError: They have different numbers of words; both are shown.
    """
    words, others = prompts.words(original), prompts.words(edited)
    if len(words) != len(others):
        raise InputError(
            f"a swap of {' '.join(words)!r}, {len(words)} words, for {' '.join(others)!r}, "
            f"{len(others)}, expected as many"
        )
    from_N, to_M = (_places(prompts, row) for row in (original, edited))
    map_NM = (from_N[:, None] == to_M).astype(np.float32)
    for word, (old, new) in enumerate(zip(words, others, strict=True)):
        is_N, is_M = from_N == word, to_M == word
        if old == new or is_N.sum() == is_M.sum():
            # Token by token, in order.
            map_NM[np.ix_(is_N, is_M)] = np.eye(is_N.sum(), is_M.sum(), dtype=np.float32)
        else:
            map_NM[np.ix_(is_N, is_M)] = 1 / is_M.sum()
    length = map_NM.shape[1]
    return PromptMap(map_NM, np.ones(length, np.float32), np.ones(length, np.float32))


def _places(prompts: Tokenized, row: int) -> Integer[np.ndarray, "L"]:
    """The word of each token; start, end and each padding have numbers of their own below zero."""
    word_L = prompts.word_indices[row].astype(np.int64)
    marks = np.flatnonzero(word_L < 0)
    word_L[marks] = -1 - np.arange(len(marks))
    return word_L


def refinement_map(prompts: Tokenized, original: int = 0, edited: int = 1) -> PromptMap:
    """The map of a prompt with words more or less: what is left of the original keeps its place.

    Args:
      prompts: Both, as tokens.
      original: Its row.
      edited: That of the other one.
    """
    from_N, to_M = prompts.ids[original], prompts.ids[edited]
    index_M = align_tokens(from_N[prompts.mask[original]], to_M[prompts.mask[edited]])
    map_NM = np.zeros((len(from_N), len(to_M)), np.float32)
    kept_M = np.zeros(len(to_M), np.float32)
    found = np.flatnonzero(index_M >= 0)
    map_NM[index_M[found], found] = 1
    kept_M[found] = 1
    return PromptMap(map_NM, kept_M, np.ones_like(kept_M))


def align_tokens(
    from_N: Integer[np.ndarray, "N"], to_M: Integer[np.ndarray, "M"]
) -> Integer[np.ndarray, "M"]:
    """The global alignment of two rows of ids: match 1, mismatch -1, gap 0.

    (Needleman & Wunsch 1970; a mismatch is never better than two gaps, so it is the longest common
    subsequence.)

    Returns:
      For each of the second row the index of its partner in the first, or -1.
    """
    score = np.zeros((len(from_N) + 1, len(to_M) + 1), int)
    for n, a in enumerate(from_N.tolist(), 1):
        for m, b in enumerate(to_M.tolist(), 1):
            best = max(score[n - 1, m], score[n, m - 1])
            score[n, m] = max(best, score[n - 1, m - 1] + 1) if a == b else best
    index_M = np.full(len(to_M), -1)
    n, m = len(from_N), len(to_M)
    while n and m:
        if score[n, m] == score[n, m - 1]:
            m -= 1
        elif score[n, m] == score[n - 1, m]:
            n -= 1
        else:
            n, m = n - 1, m - 1
            index_M[m] = n
    return index_M


def reweighted(
    found: PromptMap, prompts: Tokenized, factors: Mapping[str, float], edited: int = 1
) -> PromptMap:
    """A map with the weights of some words of the edited prompt multiplied.

    Args:
      found: A map.
      prompts: Both, as tokens.
      factors: By word or phrase, the factor; between -2 and 2 in the paper.
      edited: The row of the edited prompt.

    Raises:
      InputError: The prompt does not hold a word.
    """
    factor_M = found.factor_M.copy()
    for phrase, factor in factors.items():
        factor_M[prompts.positions(edited, phrase)] = factor
    return found._replace(factor_M=factor_M)
