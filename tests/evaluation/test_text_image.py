"""Zero-shot classes, retrieval, CLIP score and R-precision against plain loops."""

import numpy as np
import pytest

from jaxgen.errors import InputError
from jaxgen.evaluation import class_accuracy
from jaxgen.evaluation.text_image import (
    class_vectors,
    clip_score,
    r_precision,
    text_image_retrieval,
    zero_shot_probabilities,
)

D = 6


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def vectors(seed, *shape):
    return unit(np.random.default_rng(seed).normal(size=(*shape, D)))


def test_classes_are_the_mean_of_their_templates():
    text_CTD = vectors(0, 4, 3)
    found = class_vectors(text_CTD)
    for c in range(4):
        mean = text_CTD[c].sum(0) / 3
        np.testing.assert_allclose(found[c], mean / np.sqrt((mean**2).sum()))
    image_ND = vectors(1, 5)
    p_NC = zero_shot_probabilities(image_ND, found, 20.0)
    for n in range(5):
        odds = [np.exp(20.0 * image_ND[n] @ found[c]) for c in range(4)]
        np.testing.assert_allclose(p_NC[n], np.array(odds) / sum(odds))
    near_ND = unit(found + 0.1 * vectors(2, 4))
    assert class_accuracy(zero_shot_probabilities(near_ND, found), np.arange(4)) == 1


def brute_retrieval(own, other, own_ids, other_ids, k):
    """Sorted, those that mean something else before hits of the same similarity."""
    found = 0
    for n in range(len(own)):
        order = sorted(
            (-round(own[n] @ other[m], 12), own_ids[n] == other_ids[m]) for m in range(len(other))
        )
        found += any(hit for _, hit in order[:k])
    return found / len(own)


def test_retrieval_both_ways():
    """Seven texts of five meanings, nine images, and one that is there twice."""
    image_ids, text_ids = np.array([0, 0, 1, 2, 3, 4, 4, 4, 1]), np.array([4, 3, 3, 2, 1, 0, 0])
    centre = vectors(0, 5)
    image, text = (
        unit(centre[i] + 0.9 * vectors(1 + len(i), len(i))) for i in (image_ids, text_ids)
    )
    text[2] = text[3]
    found = text_image_retrieval(image, text, image_ids, text_ids, at=(1, 2, 7))
    for k in (1, 2, 7):
        assert found.text_of_image[k] == brute_retrieval(image, text, image_ids, text_ids, k)
        assert found.image_of_text[k] == brute_retrieval(text, image, text_ids, image_ids, k)
    assert 0 < found.text_of_image[1] < found.text_of_image[7] == 1


def test_equal_captions_are_hits_and_equal_vectors_find_nothing():
    image_ND = vectors(0, 8)
    assert text_image_retrieval(image_ND, image_ND).text_of_image[1] == 1
    twice = np.repeat(vectors(1, 4), 2, axis=0)
    ids = np.arange(8) // 2
    assert text_image_retrieval(twice, twice, ids, ids).image_of_text == {1: 1, 5: 1, 10: 1}
    assert text_image_retrieval(twice, twice).image_of_text == {1: 0, 5: 1, 10: 1}
    same = np.repeat(vectors(2, 1), 8, axis=0)
    assert text_image_retrieval(same, same).text_of_image == {1: 0, 5: 0, 10: 1}
    assert r_precision(same, same, others=3) == 0


def test_the_score_is_the_mean_of_positive_similarities():
    first = vectors(0, 2)
    second = np.stack([unit(first[0] + first[1]), -first[1]])
    expected = max(first[0] @ second[0], 0) / 2
    assert clip_score(first, second) == pytest.approx(expected)
    assert clip_score(first, second, 2.5) == pytest.approx(2.5 * expected)
    assert clip_score(first, first, 100) == pytest.approx(100)


def test_r_precision():
    """All others at hand: it is recall at 1; fewer of them, and it is easier; a draw repeats."""
    image_ND = vectors(0, 60)
    text_ND = unit(image_ND + 0.8 * vectors(1, 60))
    every = r_precision(image_ND, text_ND, others=59)
    assert every == text_image_retrieval(image_ND, text_ND).text_of_image[1]
    few = [r_precision(image_ND, text_ND, others=3, seed=seed) for seed in (0, 0, 1)]
    assert 0.2 < every < few[0] == few[1]
    pairs = np.repeat(text_ND[:30], 2, axis=0)
    ids = np.arange(60) // 2
    assert r_precision(pairs, pairs, ids, others=58) == 1
    assert r_precision(pairs, pairs, others=59) == 0


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda v: clip_score(v, 2 * v), "vectors of texts: number 0 has the length 2, expected u"),
        (lambda v: clip_score(v, v[:1]), "there are 3 images and 1 texts, expected one text for e"),
        (lambda v: clip_score(v, v[:, :2] * np.nan), "3 of 3 samples are not finite"),
        (lambda v: text_image_retrieval(v, v[:2]), "there are 3 images and 2 texts, expected one"),
        (lambda v: text_image_retrieval(v, v, at=()), r"at is \(\), expected one or more numbers"),
        (lambda v: text_image_retrieval(v, v, np.arange(3)), "ids of meaning are object"),
        (
            lambda v: text_image_retrieval(v, v, np.arange(3), np.zeros(3, int)),
            "id 1 is that of a text or image alone",
        ),
        (lambda v: r_precision(v, v), "others is 99, expected 1 to 2, the texts that mean"),
        (lambda v: class_vectors(v), r"texts have vectors \(3, 6\), expected \[classes, templ"),
        (lambda v: class_vectors(np.stack([v, -v], 1)), "texts of class 0 have the mean 0"),
    ],
)
def test_invalid_input(run, message):
    with pytest.raises(InputError, match=message):
        run(vectors(0, 3))
