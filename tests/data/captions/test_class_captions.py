"""Captions of classes by templates."""

import numpy as np
import pytest
from image_files import random_images

from jaxgen.data import ImageSet
from jaxgen.data.captions.class_captions import caption_classes, class_phrases, class_prompts
from jaxgen.errors import InputError


def image_set(classes, labels):
    labels = None if labels is None else np.array(labels, np.int32)
    count = 6 if labels is None else len(labels)
    return ImageSet("some", random_images(count, 4, 4, 1), labels, classes, {"train": (0, count)})


def test_nouns_of_classes():
    phrases = class_phrases(("3", "0", "airplane", "cat", "ice_cream", "Abyssinian"))
    assert phrases == (
        *("the digit three", "the digit zero", "an airplane", "a cat", "an ice cream"),
        "an Abyssinian",
    )
    assert class_prompts(("7", "oak"), ("a photo of {}", "{}!")) == (
        ("a photo of the digit seven", "the digit seven!"),
        ("a photo of an oak", "an oak!"),
    )


def test_a_set_with_labels():
    labels = np.arange(200) % 2
    images = image_set(("3", "cat"), labels)
    found = caption_classes(images, ("a photo of {}", "a drawing of {}"), seed=1)
    assert found.short == ("the digit three", "a cat") * 100
    for label, caption in zip(labels, found.descriptive, strict=True):
        assert (
            caption.removeprefix("a photo of ").removeprefix("a drawing of ")
            == (found.short[label])
        )
    assert 60 < sum(caption.startswith("a photo") for caption in found.descriptive) < 140
    np.testing.assert_array_equal(found.attribute_of("class"), images.labels)
    assert found.parts == images.parts
    same, other = (
        caption_classes(images, ("a photo of {}", "a drawing of {}"), seed=seed).descriptive
        for seed in (1, 2)
    )
    assert same == found.descriptive
    assert other != found.descriptive


def test_what_has_no_captions():
    with pytest.raises(InputError, match="some: no labels, expected classes to name in captions"):
        caption_classes(image_set((), None))
    with pytest.raises(InputError, match=r"template is 'a photo', expected one \{\}"):
        class_prompts(("a",), ("a photo",))
    with pytest.raises(InputError, match="templates are empty"):
        class_prompts(("a",), ())
    with pytest.raises(InputError, match="classes are the string 'cat', expected a list of names"):
        class_prompts("cat")
    with pytest.raises(InputError, match=r"templates are the string 'a \{\}', expected a list"):
        class_prompts(("cat",), "a {}")
    with pytest.raises(InputError, match=r"classes are \['cat', ''\], expected a name each"):
        class_phrases(("cat", ""))
