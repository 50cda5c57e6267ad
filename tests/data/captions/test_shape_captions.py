"""Captions of shapes say exactly what the attributes are: writing and reading are inverses."""

import itertools

import numpy as np
import pytest

from jaxgen.data.captions.captioned_set import Attributes
from jaxgen.data.captions.shape_captions import (
    caption_accuracy,
    read_caption,
    read_captions,
    write_caption,
    write_captions,
)
from jaxgen.data.captions.shape_combinations import draw_attributes
from jaxgen.data.captions.shape_vocabulary import (
    PLACES,
    RELATIONS,
    SHAPES,
    SIZES,
    ShapeVocabulary,
)
from jaxgen.errors import InputError

LARGE = ShapeVocabulary(
    shapes=SHAPES,
    sizes=tuple(SIZES),
    places=tuple(PLACES),
    backgrounds=("black", "orange", "white"),
    objects=(1, 2),
).moving()


def codes_of(vocabulary, **values):
    return np.array([vocabulary.code(n, values.get(n)) for n in vocabulary.values], np.int32)


ONE = {"objects": "one", "shape": "circle", "colour": "red", "size": "small", "place": "top left"}
TWO = {
    **(ONE | {"objects": "two", "relation": "above"}),
    **{"second_shape": "star", "second_colour": "orange", "second_size": "large"},
    **{"second_place": "bottom left", "background": "orange"},
    **{"direction": "up", "speed": "quickly"},
}


@pytest.mark.parametrize(
    ("vocabulary", "values", "short", "descriptive"),
    [
        (ShapeVocabulary(), ONE, "a red circle", "a small red circle at the top left"),
        (
            ShapeVocabulary(backgrounds=("black", "grey")).moving(),
            TWO | {"colour": "orange", "place": "centre", "background": "grey"},
            "an orange circle moving up",
            "a small orange circle in the centre on a grey background moving up quickly",
        ),
        (
            LARGE,
            TWO,
            "a red circle above an orange star moving up",
            "a small red circle at the top left, above a large orange star at the bottom left on an"
            " orange background, both moving up quickly",
        ),
        (LARGE, {"objects": "two"}, "a shape and a shape", "a shape and a shape"),
        (LARGE, {"objects": "one", "speed": "slowly"}, "a shape", "a shape moving slowly"),
        (ShapeVocabulary(shapes=("ring",), colours=("cyan",)), ONE, "a shape", None),
    ],
)
def test_captions_in_words(vocabulary, values, short, descriptive):
    code_F = codes_of(vocabulary, **values)
    assert write_caption(vocabulary, code_F, short=True) == short
    if descriptive:
        assert write_caption(vocabulary, code_F) == descriptive


def test_all_320_captions_are_read_back_to_their_attributes():
    vocabulary = ShapeVocabulary()
    sizes = [len(values) for values in vocabulary.values.values()]
    code_NF = np.array(list(itertools.product(*map(range, sizes))), np.int32)
    captions = write_captions(vocabulary, code_NF)
    assert len(set(captions)) == len(captions) == 320
    np.testing.assert_array_equal(read_captions(vocabulary, captions), code_NF)
    assert len(set(write_captions(vocabulary, code_NF, short=True))) == 32


def test_captions_of_any_attributes_known_or_not_are_read_back():
    code_NF = draw_attributes(LARGE, 400, seed=5)
    captions = write_captions(LARGE, code_NF)
    np.testing.assert_array_equal(read_captions(LARGE, captions), code_NF)
    hidden_NF = np.random.default_rng(0).random(code_NF.shape) < 0.5
    hidden_NF[:, LARGE.columns["objects"]] = False
    code_NF[hidden_NF] = -1
    captions = write_captions(LARGE, code_NF)
    np.testing.assert_array_equal(read_captions(LARGE, captions), code_NF)


def test_short_captions_say_shape_colour_relation_and_direction():
    code_NF = draw_attributes(LARGE, 100, seed=1)
    read_NF = read_captions(LARGE, write_captions(LARGE, code_NF, short=True))
    for name, column in LARGE.columns.items():
        said = name in ("objects", "relation", "direction") or name.endswith(("shape", "colour"))
        expected_N = code_NF[:, column] if said else np.full(100, -1)
        np.testing.assert_array_equal(read_NF[:, column], expected_N, err_msg=name)


def test_any_text_can_be_read():
    vocabulary = ShapeVocabulary(backgrounds=("black", "white"))
    for text in ("", "nothing of the kind", "red", "at the top left"):
        assert (read_caption(vocabulary, text)[:3] == -1).all()
    code_F = read_caption(vocabulary, "the large blue square square at the bottom right, a star")
    expected = {"shape": "square", "colour": "blue", "size": "large"}
    assert expected.items() <= vocabulary.named(code_F).items()
    code_F = read_caption(vocabulary, "A Large  blue\tSQUARE")
    assert expected.items() <= vocabulary.named(code_F).items()


def test_a_place_is_above_when_it_says_so():
    """Relations are those of the places, in rows and columns of opposite sides."""
    for first, relation, second in LARGE.pairs:
        step = np.subtract(PLACES[second], PLACES[first])
        words = {(0, 1): "left of", (0, -1): "right of", (1, 0): "above", (-1, 0): "below"}
        assert words[tuple(np.sign(step))] == relation
    assert {relation for _, relation, _ in LARGE.pairs} == set(RELATIONS)
    assert len(LARGE.pairs) == 12


def test_accuracy_of_captions():
    vocabulary = ShapeVocabulary(objects=(1, 2))
    code_NF = draw_attributes(vocabulary, 100, seed=2)
    attributes = Attributes(vocabulary.values, code_NF)
    right = caption_accuracy(vocabulary, write_captions(vocabulary, code_NF), attributes)
    assert set(right) == set(vocabulary.values) - {"background"}
    assert set(right.values()) == {1.0}
    changed_NF = code_NF.copy()
    changed_NF[:25, 1] = (changed_NF[:25, 1] + 1) % 4
    found = caption_accuracy(vocabulary, write_captions(vocabulary, changed_NF), attributes)
    assert found == right | {"shape": 0.75}
    with pytest.raises(InputError, match="3 captions for 100 examples with objects, shape"):
        caption_accuracy(vocabulary, ["a"] * 3, attributes)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"shapes": ()}, "shapes is empty, expected one or more"),
        ({"shapes": ("circle", "blob")}, r"shapes is \('circle', 'blob'\), expected a tuple of"),
        ({"colours": ("red", "red")}, "colours is .* expected a tuple of different ones of red, "),
        ({"places": "centre"}, "places is 'centre', expected a tuple"),
        ({"objects": (3,)}, r"objects is \(3,\), expected \(1,\), \(2,\) or \(1, 2\)"),
        ({"objects": (2,), "places": ("centre", "top left")}, "places are centre, top left, exp"),
        ({"directions": ("up",)}, r"directions are \('up',\) and speeds \(\), expected both or"),
    ],
)
def test_vocabularies_that_cannot_be(fields, message):
    with pytest.raises(InputError, match=message):
        ShapeVocabulary(**fields)
