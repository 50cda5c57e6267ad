"""N-gram models: counting, interpolation, modified Kneser-Ney, back-off tables, classes."""

from jaxgen.lm.ngram.backoff import BackoffModel, BackoffTables
from jaxgen.lm.ngram.class_based import ClassModel, fit_class_model
from jaxgen.lm.ngram.counts import NgramCounts, count_ngrams
from jaxgen.lm.ngram.interpolated import InterpolatedModel, fit_interpolated
from jaxgen.lm.ngram.kneser_ney import fit_kneser_ney, modified_discounts

__all__ = [
    "BackoffModel",
    "BackoffTables",
    "ClassModel",
    "InterpolatedModel",
    "NgramCounts",
    "count_ngrams",
    "fit_class_model",
    "fit_interpolated",
    "fit_kneser_ney",
    "modified_discounts",
]
