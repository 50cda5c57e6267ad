"""Language models: n-grams, neural networks, their mixtures, and how they are evaluated."""

from jaxgen.lm.contexts import NO_WORD, windows
from jaxgen.lm.evaluation import perplexity, perplexity_of, span_probabilities
from jaxgen.lm.protocol import LanguageModel

__all__ = [
    "NO_WORD",
    "LanguageModel",
    "perplexity",
    "perplexity_of",
    "span_probabilities",
    "windows",
]
