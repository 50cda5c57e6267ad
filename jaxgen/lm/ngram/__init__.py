"""N-gram models: counting, deleted interpolation, modified Kneser-Ney, back-off tables."""

from jaxgen.lm.ngram.backoff import BackoffModel, BackoffTables
from jaxgen.lm.ngram.counts import NgramCounts, count_ngrams
from jaxgen.lm.ngram.interpolated import InterpolatedModel, fit_interpolated
from jaxgen.lm.ngram.kneser_ney import fit_kneser_ney, modified_discounts

__all__ = [
    "BackoffModel",
    "BackoffTables",
    "InterpolatedModel",
    "NgramCounts",
    "count_ngrams",
    "fit_interpolated",
    "fit_kneser_ney",
    "modified_discounts",
]
