"""N-gram models: counting, smoothing, interpolation, back-off tables, pruning, classes."""

from jaxgen.lm.ngram.backoff import BackoffModel, BackoffTables
from jaxgen.lm.ngram.class_based import ClassModel, fit_class_model
from jaxgen.lm.ngram.counts import NgramCounts, count_ngrams
from jaxgen.lm.ngram.interpolated import InterpolatedModel, fit_interpolated
from jaxgen.lm.ngram.kneser_ney import fit_kneser_ney, modified_discounts
from jaxgen.lm.ngram.pruning import prune
from jaxgen.lm.ngram.smoothing import fit_absolute_discounting, fit_add_k, fit_witten_bell

__all__ = [
    "BackoffModel",
    "BackoffTables",
    "ClassModel",
    "InterpolatedModel",
    "NgramCounts",
    "count_ngrams",
    "fit_absolute_discounting",
    "fit_add_k",
    "fit_class_model",
    "fit_interpolated",
    "fit_kneser_ney",
    "fit_witten_bell",
    "modified_discounts",
    "prune",
]
