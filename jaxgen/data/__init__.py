"""Text and other data: readers, vocabularies, splits and deterministic batches."""

from jaxgen.data.brown import read_brown
from jaxgen.data.corpus import (
    Corpus,
    Spans,
    TokenStream,
    make_corpus,
    spans_by_fraction,
    spans_by_size,
)
from jaxgen.data.vocabulary import UNKNOWN, Vocabulary, count_vocabulary

__all__ = [
    "UNKNOWN",
    "Corpus",
    "Spans",
    "TokenStream",
    "Vocabulary",
    "count_vocabulary",
    "make_corpus",
    "read_brown",
    "spans_by_fraction",
    "spans_by_size",
]
