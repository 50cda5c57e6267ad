"""Gradient from a subset of the outputs: the short list.

Bengio et al. (2003), section 5.2; Schwenk & Gauvain (2002, 2005). The network has output units for
the s most frequent words and one more for "elsewhere"; only they are computed and trained. The
words outside share the probability of "elsewhere" as an n-gram model would::

    P(w | c) = P_net(w | c)                                                     w < s
    P(w | c) = P_net(elsewhere | c) P_tail(w | c) / sum_{v >= s} P_tail(v | c)  w >= s

which sums to one. Words are numbered by falling frequency (`jaxgen.data.Vocabulary`), so the short
list is the ids below s. (Schwenk & Gauvain have no unit for elsewhere and take that mass from the
n-gram model: the network then never learns when a rare word is due.)

The second factor has no parameters of the network, so it adds a constant to the loss: training
needs no n-gram model, and :class:`ShortListModel` takes any. In training the arithmetic of the
output units falls by V / (s + 1); evaluation pays for the tail's normaliser wherever the word that
came is outside the list.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64, Int, Integer

from jaxgen.errors import InputError
from jaxgen.ids import as_ids
from jaxgen.lm.contexts import check_contexts, check_targets
from jaxgen.lm.nplm import NPLM, NPLMConfig
from jaxgen.lm.protocol import LanguageModel, least_context

_ROWS = 1024
"""Contexts whose tail is summed at a time; bounds the memory of [rows, V] probabilities."""


@dataclasses.dataclass(frozen=True)
class ShortListConfig(NPLMConfig):
    """The network with output units for the most frequent words alone.

    Attributes:
      short_list: s, the words with an output unit of their own, 1 to |V| - 1.
    """

    short_list: int = 2000

    def __post_init__(self) -> None:
        """Refuses a list that is empty or has every word."""
        super().__post_init__()
        _check_list(self.short_list, self.vocabulary_size)

    @property
    def outputs(self) -> int:
        """s + 1: the last output is "elsewhere"."""
        return self.short_list + 1

    @property
    def predicted(self) -> int:
        """The outputs."""
        return self.outputs

    def make_model(self) -> "ShortListNPLM":
        """The network."""
        return ShortListNPLM(self)


class ShortListNPLM(NPLM):
    """The paper's network over the outputs 0 .. s, where s is "elsewhere".

    Contexts and targets are words in [0, |V|); every target outside the list counts as elsewhere.
    Logits, the likeliest outputs and samples are over the s + 1 outputs.

    Attributes:
      config: the options.
    """

    config: ShortListConfig

    def loss(
        self,
        contexts_BL: Int[Array, "B L"],
        targets_B: Int[Array, "B"],
        weights_B: Float[Array, "B"] | None = None,
        train: bool = True,
    ) -> tuple[Float[Array, ""], Float[Array, "B"]]:
        """Mean of ``-log P(output)`` in nats (differentiable), and that of each example [B].

        The tail's ``-log`` probability of words outside the list is not in it.
        """
        return super().loss(contexts_BL, self._outputs(targets_B), weights_B, train)

    def log_probabilities(
        self, contexts_BL: Int[Array, "B L"], targets_B: Int[Array, "B"]
    ) -> Float[Array, "B"]:
        """``log P(output | context)`` [B] in nats: of the target, or of elsewhere."""
        return super().log_probabilities(contexts_BL, self._outputs(targets_B))

    def _outputs(self, targets_B: Int[Array, "B"]) -> Int[Array, "B"]:
        return jnp.minimum(targets_B, self.config.short_list)


@dataclasses.dataclass(frozen=True, eq=False)
class ShortListModel:
    """The language model over all words that a short-list network and an n-gram model make.

    Attributes:
      network: a `LanguageModel` whose contexts are words in [0, V) and whose predictions are the
        s + 1 outputs (its ``vocabulary_size``), such as a wrapped `ShortListNPLM`.
      tail: any language model over the V words.
    """

    network: LanguageModel
    tail: LanguageModel

    def __post_init__(self) -> None:
        """Refuses a tail that has no words outside the list."""
        _check_list(self.short_list, self.tail.vocabulary_size)

    @property
    def order(self) -> int:
        """The wider of the two contexts plus one."""
        return max(self.network.order, self.tail.order)

    @property
    def vocabulary_size(self) -> int:
        """V."""
        return self.tail.vocabulary_size

    @property
    def least_context(self) -> int:
        """That of the network or the tail, whichever needs more."""
        return max(map(least_context, (self.network, self.tail)))

    @property
    def short_list(self) -> int:
        """s."""
        return self.network.vocabulary_size - 1

    def probabilities(
        self, contexts_NL: Integer[np.ndarray, "N L"], targets_N: Integer[np.ndarray, "N"]
    ) -> Float64[np.ndarray, "N"]:
        """P(target | context) of each pair; see `jaxgen.lm.protocol.LanguageModel`."""
        contexts_NL = check_contexts(contexts_NL, self.order, self.vocabulary_size)
        targets_N = check_targets(targets_N, len(contexts_NL), self.vocabulary_size)
        outputs_N = np.minimum(targets_N, self.short_list)
        probability_N = np.array(self.network.probabilities(contexts_NL, outputs_N))
        outside = np.flatnonzero(targets_N >= self.short_list)
        probability_N[outside] *= tail_probabilities(
            self.tail, self.short_list, contexts_NL[outside], targets_N[outside]
        )
        return probability_N

    def distributions(self, contexts_NL: Integer[np.ndarray, "N L"]) -> Float64[np.ndarray, "N V"]:
        """P(w | context) for every word w; each row sums to one."""
        contexts_NL = check_contexts(contexts_NL, self.order, self.vocabulary_size)
        outputs_NO = self.network.distributions(contexts_NL)
        tail_NW = _tail_distributions(self.tail, self.short_list, contexts_NL)
        return np.concatenate([outputs_NO[:, :-1], outputs_NO[:, -1:] * tail_NW], axis=1)


def tail_probabilities(
    tail: LanguageModel,
    short_list: int,
    contexts_NL: Integer[np.ndarray, "N L"],
    targets_N: Integer[np.ndarray, "N"],
) -> Float64[np.ndarray, "N"]:
    """P(target | context, the word is outside the list): what training cannot change.

    Args:
      tail: any language model over the V words.
      short_list: s.
      contexts_NL: ids, as many columns as the tail needs or more.
      targets_N: words in [s, V).

    Returns:
      float64 [N].
    """
    targets_N = as_ids(targets_N, "targets", short_list, tail.vocabulary_size)
    probability_N = np.empty(len(targets_N))
    for first in range(0, len(targets_N), _ROWS):
        rows = slice(first, first + _ROWS)
        tail_BW = _tail_distributions(tail, short_list, contexts_NL[rows])
        words_B = targets_N[rows] - short_list
        probability_N[rows] = tail_BW[np.arange(len(words_B)), words_B]
    return probability_N


def _tail_distributions(
    tail: LanguageModel, short_list: int, contexts_NL: Integer[np.ndarray, "N L"]
) -> Float64[np.ndarray, "N W"]:
    """The tail's distribution over the words s .. V-1; all equal where they have no probability."""
    tail_NW = np.array(tail.distributions(contexts_NL)[:, short_list:])
    mass_N1 = tail_NW.sum(axis=1, keepdims=True)
    tail_NW[mass_N1[:, 0] == 0] = 1.0
    return tail_NW / np.where(mass_N1 == 0, tail_NW.shape[1], mass_N1)


def _check_list(short_list: int, vocabulary_size: int) -> None:
    if not 1 <= short_list < vocabulary_size:
        raise InputError(
            f"short_list is {short_list}, expected 1 to |V| - 1 = {vocabulary_size - 1}"
        )
