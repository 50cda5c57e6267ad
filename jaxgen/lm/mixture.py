"""Mixtures of language models: P(w | context) = sum_j a_j P_j(w | context).

Bengio et al. (2003), section 4: the weights a are fixed, learnt once, or learnt for each bin of the
context's frequency (bins ceil(-log((1 + f) / T)), `jaxgen.lm.ngram.interpolation_weights`), by EM
on validation text. To evaluate a network is dear, so everything is done on arrays of probabilities
that may have been computed once: :func:`learn_weights` and :func:`mix`. :class:`Mixture` wraps them
into a `LanguageModel`.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float, Float64, Int, Int64, Integer

from jaxgen.errors import InputError
from jaxgen.ids import as_integers
from jaxgen.lm.contexts import windows
from jaxgen.lm.evaluation import span_probabilities
from jaxgen.lm.ngram.interpolation_weights import fit_weights, frequency_bin_count, frequency_bins
from jaxgen.lm.protocol import LanguageModel, least_context

EM_ITERATIONS = 20_000
EM_TOLERANCE = 1e-10
"""When EM ends: where better weights could gain no more than this, in nats a word."""


@dataclasses.dataclass(frozen=True)
class FrequencyBins:
    """The bin of a context by how often the training text has it.

    Attributes:
      frequencies: from contexts [N, L] to their frequencies [N], such as
        `NgramCounts.context_frequencies` of trigram counts, which looks at the last two words.
      tokens: T, the size of the text that was counted.
      order: the words that `frequencies` looks at, plus one. None: the order of the object whose
        method it is (that of the counts), and 1 for a plain function, which is given the
        contexts that the mixture's members need.
    """

    frequencies: Callable[[Int[np.ndarray, "N L"]], Int[np.ndarray, "N"]]
    tokens: int
    order: int | None = None

    def __post_init__(self) -> None:
        """Finds the order where none is given."""
        if self.order is None:
            counts = getattr(self.frequencies, "__self__", None)
            object.__setattr__(self, "order", getattr(counts, "order", 1))

    @property
    def size(self) -> int:
        """The number of bins."""
        return frequency_bin_count(self.tokens)

    def __call__(self, contexts_NL: Integer[np.ndarray, "N L"]) -> Int64[np.ndarray, "N"]:
        """The bin of each context, in [0, size)."""
        return frequency_bins(self.frequencies(contexts_NL), self.tokens)


def learn_weights(
    probability_NJ: Float[np.ndarray, "N J"],
    bin_N: Integer[np.ndarray, "N"] | None = None,
    size: int = 1,
    iterations: int = EM_ITERATIONS,
) -> Float64[np.ndarray, "bins J"]:
    """Weights that maximise the likelihood of held-out words, by EM from equal weights.

    Args:
      probability_NJ: P_j(word | context) of each held-out word under each model.
      bin_N: the bin of each context, in [0, size); None for one weight vector.
      size: the number of bins.
      iterations: EM iterations, at most; none of them lowers the likelihood, and they end where
        the logarithm of it is within `EM_TOLERANCE` a word of the greatest one.

    Returns:
      float64 [size, J]; rows are at least zero and sum to one. A bin without words takes the
      weights of the nearest bin that has some
      (`jaxgen.lm.ngram.interpolation_weights.fit_weights`).

    Raises:
      InputError: if there are no words, a probability is not in [0, 1], or a bin is out of range.
    """
    probability_NJ = _checked_probabilities(probability_NJ)
    bin_N = _checked_bins(bin_N, len(probability_NJ), size)
    return fit_weights(probability_NJ, bin_N, size, iterations, EM_TOLERANCE)


def mix(
    probability_NJ: Float[np.ndarray, "N J"],
    weight_CJ: ArrayLike,
    bin_N: ArrayLike | None = None,
) -> Float64[np.ndarray, "N"]:
    """The mixture's probability of each word from those of its members.

    `jaxgen.lm.evaluation.perplexity_of` of the result is the mixture's perplexity.

    Args:
      probability_NJ: P_j(word | context) of each word under each model.
      weight_CJ: a weight vector for each bin.
      bin_N: the bin of each context; None where there is one weight vector.

    Raises:
      InputError: if shapes disagree, a probability or weight is not in [0, 1], the weights of a
        bin do not sum to one, or a bin is out of range.
    """
    weight_CJ = _checked_weights(weight_CJ)
    probability_NJ = _checked_probabilities(probability_NJ)
    if probability_NJ.shape[1] != weight_CJ.shape[1]:
        raise InputError(
            f"probabilities of {probability_NJ.shape[1]} models and weights of "
            f"{weight_CJ.shape[1]}, expected the same number"
        )
    bin_N = _checked_bins(bin_N, len(probability_NJ), len(weight_CJ))
    return np.einsum("NJ,NJ->N", weight_CJ[bin_N], probability_NJ)


@dataclasses.dataclass(frozen=True, eq=False)
class Mixture:
    """A weighted mean of language models over one vocabulary; itself a `LanguageModel`.

    Attributes:
      members: the models, J of them.
      weight_CJ: [bins, J] weights, in [0, 1], each row summing to one.
      bins: the bin of a context; None where there is one weight vector. It is given contexts of
        the mixture's width.

    Raises:
      InputError: if there are no members, their vocabularies differ in size, or the weights do
        not fit (a weight outside [0, 1], rows that do not sum to one, a wrong shape).
    """

    members: tuple[LanguageModel, ...]
    weight_CJ: Float64[np.ndarray, "bins J"]
    bins: FrequencyBins | None = None

    def __post_init__(self) -> None:
        _check_members(self.members)
        expected = (self.bins.size if self.bins else 1, len(self.members))
        if np.shape(self.weight_CJ) != expected:
            raise InputError(
                f"weights have shape {np.shape(self.weight_CJ)}, expected {expected} (bins, models)"
            )
        object.__setattr__(self, "weight_CJ", _checked_weights(self.weight_CJ))

    @property
    def order(self) -> int:
        """n of what looks furthest back: a member, or the bins."""
        return _order(self.members, self.bins)

    @property
    def vocabulary_size(self) -> int:
        """V."""
        return self.members[0].vocabulary_size

    @property
    def least_context(self) -> int:
        """That of the member that needs most."""
        return max(map(least_context, self.members))

    def probabilities(
        self, contexts_NL: Integer[np.ndarray, "N L"], targets_N: Integer[np.ndarray, "N"]
    ) -> Float64[np.ndarray, "N"]:
        """P(target | context) of each pair; see `jaxgen.lm.protocol.LanguageModel`."""
        weight_NJ = self._weights(contexts_NL)
        return sum(
            weight_NJ[:, j] * member.probabilities(contexts_NL, targets_N)
            for j, member in enumerate(self.members)
        )

    def distributions(self, contexts_NL: Integer[np.ndarray, "N L"]) -> Float64[np.ndarray, "N V"]:
        """P(w | context) for every word w; each row sums to one."""
        weight_NJ = self._weights(contexts_NL)
        return sum(
            weight_NJ[:, j, None] * member.distributions(contexts_NL)
            for j, member in enumerate(self.members)
        )

    def _weights(self, contexts_NL: Integer[np.ndarray, "N L"]) -> Float64[np.ndarray, "N J"]:
        if self.bins is None:
            return np.broadcast_to(self.weight_CJ, (len(contexts_NL), len(self.members)))
        return self.weight_CJ[self.bins(contexts_NL)]


def fixed_mixture(
    members: Sequence[LanguageModel], weights: Sequence[float] | None = None
) -> Mixture:
    """A mixture with the given weights, equal ones by default (0.5 each for two models).

    Raises:
      InputError: see :class:`Mixture`.
    """
    if weights is None:
        weights = [1.0 / max(len(members), 1)] * len(members)
    return Mixture(tuple(members), np.array([weights], np.float64))


def fit_mixture(
    members: Sequence[LanguageModel],
    tokens_N: Integer[np.ndarray, "N"],
    start: int,
    stop: int,
    bins: FrequencyBins | None = None,
    iterations: int = EM_ITERATIONS,
    batch: int = 1024,
    progress: Callable[[int], None] | None = None,
) -> Mixture:
    """A mixture whose weights are learnt by EM on a validation span.

    Args:
      members: the models; none of them may have been trained on the span.
      tokens_N: the whole stream, ids in [0, V).
      start: first position of the validation span.
      stop: one past the last position of the validation span.
      bins: learn a weight vector for each bin of context frequency; None for one in all.
      iterations: EM iterations, at most.
      batch: positions evaluated at a time.
      progress: called after each batch of each member with the number of positions just done.

    Raises:
      InputError: if there are no members, their vocabularies differ in size, or the span is empty
        or outside the stream.
    """
    members = tuple(members)
    _check_members(members)
    probability_NJ = np.stack(
        [span_probabilities(member, tokens_N, start, stop, batch, progress) for member in members],
        axis=1,
    )
    if bins is None:
        return Mixture(members, learn_weights(probability_NJ, iterations=iterations))
    bin_N = bins(windows(tokens_N, _order(members, bins), start, stop))
    return Mixture(members, learn_weights(probability_NJ, bin_N, bins.size, iterations), bins)


def _order(members: Sequence[LanguageModel], bins: FrequencyBins | None) -> int:
    orders = [member.order for member in members]
    return max(orders if bins is None or bins.order is None else [*orders, bins.order])


def _check_members(members: Sequence[LanguageModel]) -> None:
    if not members:
        raise InputError("mixture of no models, expected at least one")
    sizes = [member.vocabulary_size for member in members]
    if len(set(sizes)) > 1:
        raise InputError(f"members have vocabularies of {sizes} words, expected the same size")


def _checked_weights(weight_CJ: ArrayLike) -> Float64[np.ndarray, "bins J"]:
    weight_CJ = np.asarray(weight_CJ, np.float64)
    if weight_CJ.ndim != 2:
        raise InputError(f"weights have shape {weight_CJ.shape}, expected [bins, models]")
    if not ((weight_CJ >= 0) & (weight_CJ <= 1)).all():
        raise InputError(f"weights are {weight_CJ.tolist()}, expected numbers from 0 to 1")
    if not np.allclose(weight_CJ.sum(axis=1), 1.0, rtol=0, atol=1e-9):
        raise InputError(f"weights sum to {weight_CJ.sum(axis=1).tolist()}, expected 1 in each bin")
    return weight_CJ


def _checked_probabilities(
    probability_NJ: Float[np.ndarray, "N J"],
) -> Float64[np.ndarray, "N J"]:
    probability_NJ = np.asarray(probability_NJ, np.float64)
    if probability_NJ.ndim != 2 or probability_NJ.size == 0:
        raise InputError(
            f"probabilities have shape {probability_NJ.shape}, expected [words, models], not empty"
        )
    # A float32 softmax may exceed one by its rounding.
    if not ((probability_NJ >= 0) & (probability_NJ <= 1 + 1e-6)).all():
        raise InputError("probabilities are not all within [0, 1]")
    return probability_NJ


def _checked_bins(bin_N: ArrayLike | None, words: int, size: int) -> Int[np.ndarray, "N"]:
    if bin_N is None:
        if size != 1:
            raise InputError(f"{size} bins but no bin for each word, expected both or neither")
        return np.zeros(words, np.int64)
    bin_N = np.asarray(bin_N)
    if bin_N.shape != (words,) or not np.issubdtype(bin_N.dtype, np.integer):
        raise InputError(
            f"bins have shape {bin_N.shape} and type {bin_N.dtype}, expected ({words},) integers"
        )
    if bin_N.min() < 0 or bin_N.max() >= size:
        raise InputError(f"bins reach from {bin_N.min()} to {bin_N.max()}, expected [0, {size})")
    return as_integers(bin_N, "bins")
