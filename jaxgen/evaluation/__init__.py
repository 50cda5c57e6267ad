"""How good samples are: distances between sets of features, coverage, and classifiers.

Measures compare a real set and a generated one through features [N, D] of each: those of a small
classifier that an experiment trains (`Classifier`), or Inception's (`jaxgen.evaluation.inception`)
where a user has its weights. Values under different features are not comparable. PSNR and SSIM
compare images with references instead (`jaxgen.evaluation.image_similarity`), and the chamfer
distance surfaces (`jaxgen.evaluation.surface_distance`).
"""

from jaxgen.evaluation.classifier import (
    Classifier,
    ClassifierConfig,
    apply_classifier,
    classifier_loss,
)
from jaxgen.evaluation.frechet import (
    Moments,
    feature_moments,
    frechet_distance,
    merge_moments,
)
from jaxgen.evaluation.image_similarity import psnr, ssim
from jaxgen.evaluation.precision_recall import Coverage, precision_recall
from jaxgen.evaluation.scores import class_accuracy, inception_score
from jaxgen.evaluation.surface_distance import SurfaceDistance, surface_distance

__all__ = [
    "Classifier",
    "ClassifierConfig",
    "Coverage",
    "Moments",
    "SurfaceDistance",
    "apply_classifier",
    "class_accuracy",
    "classifier_loss",
    "feature_moments",
    "frechet_distance",
    "inception_score",
    "merge_moments",
    "precision_recall",
    "psnr",
    "ssim",
    "surface_distance",
]
