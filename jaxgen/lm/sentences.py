"""A model of sentences as a model of the stream that they make: contexts end with the sentence."""

import dataclasses

import numpy as np
from jaxtyping import Float64, Int32, Integer

from jaxgen.lm.contexts import SentenceMarks, check_contexts, check_marks, within_sentences
from jaxgen.lm.protocol import LanguageModel


@dataclasses.dataclass(frozen=True, eq=False)
class SentenceModel:
    """A language model whose contexts do not reach into the sentence before; a `LanguageModel`.

    Evaluation, mixtures and training weights work on streams (`jaxgen.lm.evaluation`). A model that
    was trained by sentence is wrapped in this first: its contexts are then those of
    `jaxgen.lm.contexts.within_sentences`.

    Attributes:
      model: the model.
      marks: the ids of ``<s>`` and ``</s>``.
    """

    model: LanguageModel
    marks: SentenceMarks

    def __post_init__(self) -> None:
        """Checks the marks."""
        check_marks(self.marks, self.model.vocabulary_size)

    @property
    def order(self) -> int:
        """n."""
        return self.model.order

    @property
    def vocabulary_size(self) -> int:
        """V."""
        return self.model.vocabulary_size

    def probabilities(
        self, contexts_NL: Integer[np.ndarray, "N L"], targets_N: Integer[np.ndarray, "N"]
    ) -> Float64[np.ndarray, "N"]:
        """P(target | context) of each pair; see `jaxgen.lm.protocol.LanguageModel`."""
        return self.model.probabilities(self._contexts(contexts_NL), targets_N)

    def distributions(self, contexts_NL: Integer[np.ndarray, "N L"]) -> Float64[np.ndarray, "N V"]:
        """P(w | context) for every word w; each row sums to one."""
        return self.model.distributions(self._contexts(contexts_NL))

    def _contexts(self, contexts_NL: Integer[np.ndarray, "N L"]) -> Int32[np.ndarray, "N K"]:
        checked_NL = check_contexts(contexts_NL, self.order, self.vocabulary_size)
        return within_sentences(checked_NL, self.marks)
