"""Language models: n-grams, neural networks, their mixtures, and how they are evaluated."""

from jaxgen.lm.contexts import NO_WORD, SentenceMarks, windows, within_sentences
from jaxgen.lm.evaluation import perplexity, perplexity_of, span_probabilities
from jaxgen.lm.protocol import LanguageModel
from jaxgen.lm.scoring import TextScore, WordScore, score, score_sentences, score_stream, score_text
from jaxgen.lm.sentences import SentenceModel
from jaxgen.lm.text_model import TextModel, open_model

__all__ = [
    "NO_WORD",
    "LanguageModel",
    "SentenceMarks",
    "SentenceModel",
    "TextModel",
    "TextScore",
    "WordScore",
    "open_model",
    "perplexity",
    "perplexity_of",
    "score",
    "score_sentences",
    "score_stream",
    "score_text",
    "span_probabilities",
    "windows",
    "within_sentences",
]
