"""How good samples are: distances between sets of features, coverage, and classifiers.

Measures compare a real set and a generated one through features [N, D] of each: those of a small
classifier that an experiment trains (`Classifier`), or Inception's (`jaxgen.evaluation.inception`)
where a user has its weights. Values under different features are not comparable. PSNR and SSIM
compare images with references instead (`jaxgen.evaluation.image_similarity`), the chamfer distance
surfaces (`jaxgen.evaluation.surface_distance`), and CLIP's vectors images with texts
(`jaxgen.evaluation.text_image`).
"""

from jaxgen.evaluation.attributes import attribute_accuracy, attribute_codes, attribute_loss
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
from jaxgen.evaluation.text_image import (
    Retrieval,
    class_vectors,
    clip_score,
    r_precision,
    text_image_retrieval,
    zero_shot_probabilities,
)

__all__ = [
    "Classifier",
    "ClassifierConfig",
    "Coverage",
    "Moments",
    "Retrieval",
    "SurfaceDistance",
    "apply_classifier",
    "attribute_accuracy",
    "attribute_codes",
    "attribute_loss",
    "class_accuracy",
    "class_vectors",
    "classifier_loss",
    "clip_score",
    "feature_moments",
    "frechet_distance",
    "inception_score",
    "merge_moments",
    "precision_recall",
    "psnr",
    "r_precision",
    "ssim",
    "surface_distance",
    "text_image_retrieval",
    "zero_shot_probabilities",
]
