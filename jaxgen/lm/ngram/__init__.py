"""N-gram models: counting, deleted interpolation, modified Kneser-Ney, back-off tables."""

from jaxgen.lm.ngram.backoff import BackoffModel, BackoffTables
from jaxgen.lm.ngram.counts import NgramCounts, count_ngrams
from jaxgen.lm.ngram.interpolated import InterpolatedModel, deleted_interpolation
from jaxgen.lm.ngram.kneser_ney import kneser_ney, modified_discounts

__all__ = [
    "BackoffModel",
    "BackoffTables",
    "InterpolatedModel",
    "NgramCounts",
    "count_ngrams",
    "deleted_interpolation",
    "kneser_ney",
    "modified_discounts",
]
