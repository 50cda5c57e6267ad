"""Captions of sets with labels, by templates: "a photo of the digit three", "a photo of a cat".

A template has one ``{}`` for the noun phrase of a class. The same templates make the texts of
zero-shot classification, which averages over all of them (Radford et al. 2021, section 3.1.4).
"""

from collections.abc import Sequence

import numpy as np

from jaxgen.data.captions.captioned_set import Attributes, CaptionedSet
from jaxgen.data.captions.shape_captions import with_article
from jaxgen.data.images.image_set import ImageSet
from jaxgen.errors import InputError
from jaxgen.ids import check_not_string

TEMPLATES = ("a photo of {}", "a small photo of {}", "a picture of {}", "an image of {}")
DIGIT_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
CLASS = "class"
"""The name of the attribute that a label becomes."""


def class_phrases(classes: Sequence[str]) -> tuple[str, ...]:
    """The noun phrases of classes.

    Args:
      classes: Their names.

    Returns:
      "the digit three" for "3"; for other names with their article, underscores as blanks.

    Raises:
      InputError: The names are one string, or one of them is empty.
    """
    check_not_string(classes, "classes", "a list of names")
    if not all(name.strip() for name in classes):
        raise InputError(f"classes are {list(classes)}, expected a name each")
    digits = dict(zip(map(str, range(10)), DIGIT_WORDS, strict=True))
    return tuple(
        f"the digit {digits[name]}" if name in digits else with_article(name.replace("_", " "))
        for name in classes
    )


def class_prompts(
    classes: Sequence[str], templates: Sequence[str] = TEMPLATES
) -> tuple[tuple[str, ...], ...]:
    """The texts of each class: a row for each, by every template.

    Args:
      classes: Their names.
      templates: With one ``{}`` each.

    Raises:
      InputError: There are no templates, or one has no ``{}``; and as `class_phrases`.
    """
    check_not_string(templates, "templates", "a list of texts with one {} each")
    if not templates:
        raise InputError("templates are empty, expected one or more, such as 'a photo of {}'")
    for template in templates:
        if template.count("{}") != 1:
            raise InputError(f"template is {template!r}, expected one {{}}, as 'a photo of {{}}'")
    return tuple(
        tuple(template.replace("{}", phrase) for template in templates)
        for phrase in class_phrases(classes)
    )


def caption_classes(
    images: ImageSet, templates: Sequence[str] = TEMPLATES, seed: int = 0
) -> CaptionedSet:
    """A set with labels as one with captions.

    Args:
      images: The set.
      templates: With one ``{}`` each, of which each image gets one for its descriptive caption.
        The short one is the noun phrase alone.
      seed: Of which template an image gets.

    Returns:
      The set; its attribute "class" is the label.

    Raises:
      InputError: The set has no labels, or a template has no ``{}``.
    """
    if images.labels is None:
        raise InputError(f"{images.name}: no labels, expected classes to name in captions")
    prompts = class_prompts(images.classes, templates)
    chosen_N = np.random.default_rng(seed).integers(len(templates), size=len(images))
    labels, phrases = images.labels.tolist(), class_phrases(images.classes)
    return CaptionedSet(
        images.name,
        images.images,
        tuple(phrases[label] for label in labels),
        tuple(prompts[label][i] for label, i in zip(labels, chosen_N.tolist(), strict=True)),
        Attributes({CLASS: images.classes}, images.labels[:, None]),
        images.parts,
        images.left_out,
    )
