"""The set of captioned pictures or clips: parts, stills, labels, and what it refuses."""

from dataclasses import replace

import numpy as np
import pytest
from image_files import random_images

from jaxgen.data.captions.captioned_set import Attributes, CaptionedSet
from jaxgen.errors import InputError

CLASSES = {"kind": ("oak", "elm"), "age": ("old", "new", "odd")}


def small_set(*shape, **fields):
    codes = np.array([[0, 1], [1, -1], [-1, 2], [1, 0]], np.int32)
    given = {
        "name": "trees",
        "images": random_images(4, *(shape or (5, 6, 3))),
        "short": ("an oak", "an elm", "a tree", "an elm"),
        "descriptive": ("a new oak", "an elm", "an odd tree", "an old elm"),
        "attributes": Attributes(CLASSES, codes),
        "parts": {"train": (0, 3), "test": (3, 4)},
    }
    return CaptionedSet(**given | fields)


def test_examples_and_parts():
    trees = small_set()
    assert len(trees) == 4
    assert trees.describe() == (
        "trees: 4 images of 5x6x3 (train 3, test 1), 3 short and 4 descriptive captions"
    )
    assert trees.distinct("short") == ("a tree", "an elm", "an oak")
    np.testing.assert_array_equal(trees[2]["image"], trees.images[2])
    assert (trees[2]["short"], trees[2]["caption"]) == ("a tree", "an odd tree")
    test = trees.part("test")
    assert (len(test), test.parts, test.short) == (1, {"test": (0, 1)}, ("an elm",))
    np.testing.assert_array_equal(test.attributes.codes, [[1, 0]])
    np.testing.assert_array_equal(trees.attribute_of("age"), [1, -1, 2, 0])
    other = trees.with_captions(["a", "b", "c", "d"])
    assert other.short == other.descriptive == ("a", "b", "c", "d")


def test_another_order():
    trees = small_set()
    found = trees.reordered(np.array([2, 0, 1, 3]))
    assert found.short == ("a tree", "an oak", "an elm", "an elm")
    assert found.descriptive == ("an odd tree", "a new oak", "an elm", "an old elm")
    assert found.parts == trees.parts
    np.testing.assert_array_equal(found.images, trees.images[[2, 0, 1, 3]])
    np.testing.assert_array_equal(found.attribute_of("age"), [2, 1, -1, 0])
    with pytest.raises(InputError, match="trees: no order of 4 examples, expected each once"):
        trees.reordered(np.array([2, 0, 0, 3]))


def test_clips_and_their_stills():
    clips = small_set(7, 5, 6, 1, attributes=None)
    assert (clips.frames, clips.pixel_key) == (7, "video")
    assert clips[0]["video"].shape == (7, 5, 6, 1)
    assert clips.describe().startswith("trees: 4 clips of 7x5x6x1 (")
    stills = clips.stills()
    np.testing.assert_array_equal(stills.images, clips.images[:, 3])
    assert stills.stills() is stills
    assert stills.frames is None


def test_a_set_of_labels_for_a_classifier():
    labelled = small_set().labelled_by("kind")
    assert labelled.classes == ("oak", "elm")
    np.testing.assert_array_equal(labelled.labels, [0, 1, 1])
    assert labelled.parts == {"train": (0, 2), "test": (2, 3)}
    np.testing.assert_array_equal(labelled.images, small_set().images[[0, 1, 3]])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"images": np.zeros((4, 5, 6, 3))}, r"trees: images are float64 \[4, 5, 6, 3\], expected"),
        ({"images": np.zeros((4, 5, 6, 2), np.uint8)}, r"uint8 \[4, 5, 6, 2\], expected uint8"),
        ({"images": np.zeros((0, 5, 6, 3), np.uint8)}, "expected one or more"),
        ({"short": ("a", "b")}, "trees: short captions are 2 for 4 images, expected one for each"),
        (
            {"descriptive": ("a", " ", "c", "")},
            r"trees: descriptive captions: 2 of 4 are empty \(of image 1, 3\), expected a text",
        ),
        ({"parts": {"train": (0, 9)}}, "part 'train' is 0 to 9 of 4 images"),
        (
            {"attributes": Attributes({"kind": ("a",)}, np.zeros((3, 1), np.int32))},
            "trees: attributes of 3 examples for 4 images, expected as many",
        ),
    ],
)
def test_sets_that_cannot_be(fields, message):
    with pytest.raises(InputError, match=message):
        replace(small_set(), **fields)


def test_attributes_that_cannot_be():
    with pytest.raises(InputError, match=r"codes are int32 \[4, 1\], expected int32 \[N, 2\], a"):
        Attributes(CLASSES, np.zeros((4, 1), np.int32))
    with pytest.raises(InputError, match=r"codes of age are 0 to 3, expected them in \[-1, 3\)"):
        Attributes(CLASSES, np.array([[0, 0], [1, 3]], np.int32))
    trees = small_set()
    with pytest.raises(InputError, match="no attribute 'size'; there are kind, age"):
        trees.attribute_of("size")
    with pytest.raises(InputError, match="trees: no attribute 'size', it has none"):
        replace(trees, attributes=None).attribute_of("size")
    with pytest.raises(InputError, match="trees: clips of 2 frames, expected pictures"):
        small_set(2, 5, 6, 3).labelled_by("kind")
    with pytest.raises(InputError, match="kind is 'long', expected short or descriptive"):
        trees.captions("long")
    with pytest.raises(InputError, match="trees: no part 'dev'; it has train, test"):
        trees.part("dev")
