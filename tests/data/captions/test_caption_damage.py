"""Damaged captions: exact shares, other values, the same for the same seed."""

import numpy as np
import pytest

from jaxgen.data.captions.caption_damage import damage_attributes, with_damaged_captions
from jaxgen.data.captions.captioned_shapes import make_captioned_shapes
from jaxgen.data.captions.shape_captions import caption_accuracy, read_captions
from jaxgen.data.captions.shape_combinations import draw_attributes
from jaxgen.data.captions.shape_vocabulary import ShapeVocabulary
from jaxgen.errors import InputError

VOCABULARY = ShapeVocabulary(objects=(1, 2))


def test_half_is_missing_and_a_fifth_wrong():
    code_NF = draw_attributes(VOCABULARY, 500, seed=3)
    damaged_NF = damage_attributes(VOCABULARY, code_NF, seed=4)
    names = list(VOCABULARY.values)
    constant = [names.index(name) for name in ("objects", "background")]
    np.testing.assert_array_equal(damaged_NF[:, constant], code_NF[:, constant])
    said_NF = code_NF >= 0
    said_NF[:, constant] = False
    assert (damaged_NF[code_NF < 0] == -1).all()  # what was not there is not there
    total = said_NF.sum()
    assert (damaged_NF[said_NF] == -1).sum() == round(total / 2)
    assert ((damaged_NF != code_NF) & (damaged_NF >= 0)).sum() == round(0.7 * total) - round(
        0.5 * total
    )
    for column, values in enumerate(VOCABULARY.values.values()):
        if len(values) > 2:  # every other value is as likely as any
            wrong_N = (damaged_NF[:, column] >= 0) & (damaged_NF[:, column] != code_NF[:, column])
            steps = (damaged_NF - code_NF)[wrong_N, column] % len(values)
            assert set(steps) == set(range(1, len(values)))
    again, other = (damage_attributes(VOCABULARY, code_NF, seed=seed) for seed in (4, 5))
    np.testing.assert_array_equal(damaged_NF, again)
    assert (damaged_NF != other).any()


def test_nothing_and_everything():
    code_NF = draw_attributes(VOCABULARY, 50)
    same = damage_attributes(VOCABULARY, code_NF, missing=0, wrong=0)
    np.testing.assert_array_equal(same, code_NF)
    gone = damage_attributes(VOCABULARY, code_NF, missing=1, wrong=0)
    assert (gone[:, [1, 2, 3, 4]] == -1).all()


def test_captions_say_what_is_left():
    shapes = make_captioned_shapes(VOCABULARY, parts={"train": 200}, side=16)
    damaged = with_damaged_captions(shapes, VOCABULARY, seed=1)
    np.testing.assert_array_equal(damaged.images, shapes.images)
    np.testing.assert_array_equal(damaged.attributes.codes, shapes.attributes.codes)
    expected = damage_attributes(VOCABULARY, shapes.attributes.codes, seed=1)
    np.testing.assert_array_equal(read_captions(VOCABULARY, damaged.descriptive), expected)
    right = caption_accuracy(VOCABULARY, damaged.descriptive, shapes.attributes)
    counts = {name: (shapes.attribute_of(name) >= 0).sum() for name in right if name != "objects"}
    mean = sum(right[name] * n for name, n in counts.items()) / sum(counts.values())
    assert abs(mean - 0.3) < 1e-3
    assert right["objects"] == 1


def test_shares_and_vocabularies_that_cannot_be():
    code_NF = draw_attributes(VOCABULARY, 5)
    with pytest.raises(InputError, match=r"missing is 0\.8 and wrong 0\.5, expected 1 or less tog"):
        damage_attributes(VOCABULARY, code_NF, missing=0.8, wrong=0.5)
    with pytest.raises(InputError, match=r"wrong is -1, expected 0 <= wrong <= 1"):
        damage_attributes(VOCABULARY, code_NF, wrong=-1)
    shapes = make_captioned_shapes(parts={"train": 5}, side=16)
    with pytest.raises(InputError, match="captioned shapes: other attributes than the vocabulary"):
        with_damaged_captions(shapes, VOCABULARY)
