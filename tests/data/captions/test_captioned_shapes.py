"""Captioned shapes: pixels of the colour, at the place and of the size that the attributes say."""

import itertools
import math

import numpy as np
import pytest
from PIL import Image, ImageDraw

from jaxgen.data.captions.captioned_shapes import draw_shapes, make_captioned_shapes
from jaxgen.data.captions.shape_captions import read_captions
from jaxgen.data.captions.shape_combinations import divide_combinations, draw_attributes
from jaxgen.data.captions.shape_drawing import INSIDE, paint
from jaxgen.data.captions.shape_vocabulary import (
    COLOURS,
    PLACES,
    SHAPES,
    SIZES,
    ShapeVocabulary,
)
from jaxgen.errors import InputError

WHITE = np.full((1, 3), 255, np.uint8)
TIPS = [(-math.cos(a), math.sin(a)) for a in 2 * math.pi * np.arange(10) / 10]
INNER = math.cos(2 * math.pi / 5) / math.cos(math.pi / 5)
THIRD = 1 / 3
CORNERS = {  # (y, x), as one writes them down
    "square": [(-0.8, -0.8), (-0.8, 0.8), (0.8, 0.8), (0.8, -0.8)],
    "triangle": [(-1, 0), (0.5, math.sqrt(0.75)), (0.5, -math.sqrt(0.75))],
    "star": [(y * r, x * r) for (y, x), r in zip(TIPS, itertools.cycle((1, INNER)), strict=False)],
    "cross": [
        *((-1, -THIRD), (-1, THIRD), (-THIRD, THIRD), (-THIRD, 1), (THIRD, 1), (THIRD, THIRD)),
        *((1, THIRD), (1, -THIRD), (THIRD, -THIRD), (THIRD, -1), (-THIRD, -1), (-THIRD, -THIRD)),
    ],
    "diamond": [(-1, 0), (0, 1), (1, 0), (0, -1)],
}


def area(shape):
    """Of a shape of radius 1."""
    if shape in ("circle", "ring"):
        return math.pi * (0.7 if shape == "ring" else 1)
    y, x = np.array(CORNERS[shape]).T
    return abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2


def drawn_by_pillow(shape, side, centre, radius, scale=16):
    picture = Image.new("L", (side * scale, side * scale))
    draw, (y, x) = ImageDraw.Draw(picture), np.array(centre)

    def ellipse(r, fill):
        box = np.array([x - r, y - r, x + r, y + r]) * scale - 0.5
        draw.ellipse(box.tolist(), fill=fill)

    if shape in CORNERS:
        points = np.array([(x + radius * u, y + radius * v) for v, u in CORNERS[shape]])
        draw.polygon([tuple(p) for p in (points * scale - 0.5).tolist()], fill=255)
    else:
        ellipse(radius, 255)
        if shape == "ring":
            ellipse(radius * math.sqrt(0.3), 0)
    pixels = np.asarray(picture, np.float64).reshape(side, scale, side, scale)
    return pixels.mean((1, 3))


def coverage(images, vocabulary, code_NF):
    """Of a picture with one object: solves each pixel for colour over background; and how far
    pixels are from any mixture of both."""
    colour, behind = (
        np.array([COLOURS[vocabulary.named(code_F)[name]] for code_F in code_NF], np.float64)
        for name in ("colour", "background")
    )
    way = (colour - behind)[:, None, None]
    seen = images - behind[:, None, None]
    share = (seen * way).sum(-1) / (way**2).sum(-1)
    return share, np.abs(seen - share[..., None] * way).max()


def centroids(share_NYX):
    """Row and column of the middle of mass, as shares of the side."""
    side = share_NYX.shape[-1]
    at = (np.arange(side) + 0.5) / side
    mass_N = share_NYX.sum((1, 2))
    return np.stack([share_NYX.sum(2) @ at / mass_N, share_NYX.sum(1) @ at / mass_N], -1)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_is_the_one_that_pillow_draws(shape):
    assert set(SHAPES) == set(INSIDE)
    for centre, radius in (((16.3, 15.1), 11.7), ((9.0, 21.5), 5.2)):
        images = np.zeros((1, 32, 32, 3), np.uint8)
        paint(images, np.arange(1), shape, np.array([centre]), np.array([radius]), WHITE)
        expected = drawn_by_pillow(shape, 32, centre, radius)
        difference = np.abs(images[0, ..., 0] - expected)
        assert difference.max() < 40  # sides lie between samples
        assert difference.mean() < 1.5
        total = images[0, ..., 0].sum() / 255
        np.testing.assert_allclose(total, area(shape) * radius**2, rtol=0.04)


def test_a_shape_over_the_border_is_cut_off():
    whole, cut = np.zeros((1, 40, 40, 3), np.uint8), np.zeros((1, 20, 20, 3), np.uint8)
    for images, shift in ((whole, 10.0), (cut, 0.0)):
        centre = np.array([[1.5 + shift, 19.0 + shift]])
        paint(images, np.arange(1), "circle", centre, np.array([6.2]), WHITE)
    np.testing.assert_array_equal(cut, whole[:, 10:30, 10:30])


def test_pixels_have_the_colour_the_place_and_the_size_of_the_attributes():
    vocabulary = ShapeVocabulary(
        shapes=SHAPES, sizes=tuple(SIZES), places=tuple(PLACES), backgrounds=("black", "grey")
    )
    code_NF = draw_attributes(vocabulary, 600, seed=3)
    images = draw_shapes(vocabulary, code_NF, side=48, seed=3)
    share_NYX, off = coverage(images, vocabulary, code_NF)
    assert off <= 0.5 * math.sqrt(3)  # bytes are rounded
    assert share_NYX.min() > -0.01
    assert share_NYX.max() < 1.01
    found_N2 = centroids(share_NYX)
    named = [vocabulary.named(code_F) for code_F in code_NF]
    place_N2 = np.array([PLACES[values["place"]] for values in named])
    offset_N2 = found_N2 - place_N2
    assert np.abs(offset_N2).max() < 0.02 + 0.01
    assert np.abs(offset_N2).max(0).min() > 0.015  # no two pictures are alike
    radius_N = np.array([SIZES[values["size"]] for values in named])
    area_N = np.array([area(values["shape"]) for values in named])
    ratio_N = np.sqrt(share_NYX.mean((1, 2)) / area_N) / radius_N
    assert 0.9 < ratio_N.min() < 0.97
    assert 1.03 < ratio_N.max() < 1.1
    assert abs(ratio_N.mean() - 1) < 0.005


def test_two_objects_stand_as_their_relation_says():
    vocabulary = ShapeVocabulary(objects=(2,), colours=("red", "blue"))
    code_NF = draw_attributes(vocabulary, 300, seed=1)
    differ = vocabulary.columns["colour"], vocabulary.columns["second_colour"]
    code_NF = code_NF[code_NF[:, differ[0]] != code_NF[:, differ[1]]]
    assert len(code_NF) > 100
    images = draw_shapes(vocabulary, code_NF, side=32).astype(np.float64)
    red_N2, blue_N2 = (centroids(images[..., channel]) for channel in (0, 2))
    for code_F, red_2, blue_2 in zip(code_NF, red_N2, blue_N2, strict=True):
        first, second, values = red_2, blue_2, vocabulary.named(code_F)
        if values["colour"] == "blue":
            first, second = second, first
        down, right = second - first
        seen = {
            "left of": right > 0.4 and abs(down) < 0.1,
            "right of": right < -0.4 and abs(down) < 0.1,
            "above": down > 0.4 and abs(right) < 0.1,
            "below": down < -0.4 and abs(right) < 0.1,
        }
        assert seen[values["relation"]]
        np.testing.assert_allclose(first, PLACES[values["place"]], atol=0.04)


def test_clips_move_in_the_direction_said_and_their_middle_does_not_show_it():
    vocabulary = ShapeVocabulary(places=("centre",)).moving()
    code_NF = draw_attributes(vocabulary, 60, seed=2)
    clips = draw_shapes(vocabulary, code_NF, side=32, frames=8, seed=4)
    assert clips.shape == (60, 8, 32, 32, 3)
    words = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}
    for code_F, clip in zip(code_NF, clips, strict=True):
        values = vocabulary.named(code_F)
        share_TYX, _ = coverage(clip, vocabulary, np.repeat(code_F[None], 8, axis=0))
        moved = np.diff(centroids(share_TYX), axis=0)
        way = {"slowly": 0.2, "quickly": 0.4}[values["speed"]]
        step = np.array(words[values["direction"]]) * way / 7
        np.testing.assert_allclose(moved, np.tile(step, (7, 1)), atol=0.008)
    other_NF = code_NF.copy()
    other_NF[:, vocabulary.columns["direction"]] ^= 1
    other_NF[:, vocabulary.columns["speed"]] ^= 1
    others = draw_shapes(vocabulary, other_NF, side=32, frames=8, seed=4)
    np.testing.assert_array_equal(clips[:, 4], others[:, 4])
    assert (clips[:, 0] != others[:, 0]).any((1, 2, 3)).all()


def test_combinations_of_the_parts_differ_and_every_value_is_seen():
    parts = {"train": 1000, "validation": 80, "test": 80}
    for vocabulary, combination in (
        (ShapeVocabulary(), ("shape", "colour", "size", "place")),
        (ShapeVocabulary(objects=(1, 2)), ("shape", "colour")),
        (ShapeVocabulary().moving(), ("direction", "shape")),
    ):
        frames = 2 if vocabulary.directions else None
        found = make_captioned_shapes(
            vocabulary, side=16, frames=frames, parts=parts, combination=combination
        )
        seen = {}
        for part, size in parts.items():
            one = found.part(part)
            assert len(one) == size
            codes = [one.attribute_of(name) for name in combination]
            seen[part] = set(zip(*map(np.ndarray.tolist, codes), strict=True))
            if "objects" in vocabulary.values:
                two_N = one.attribute_of("objects") == 1
                assert 0.35 < two_N.mean() < 0.65
                codes = [one.attribute_of(f"second_{name}")[two_N] for name in combination]
                seen[part] |= set(zip(*map(np.ndarray.tolist, codes), strict=True))
        for first, second in itertools.combinations(parts, 2):
            assert not seen[first] & seen[second]
        for place, name in enumerate(combination):
            values = {codes[place] for codes in seen["train"]}
            assert len(values) == len(vocabulary.values[name])
    with pytest.raises(InputError, match=r"combination is \('shape', 'hue'\), expected different"):
        divide_combinations(ShapeVocabulary(), ("shape", "hue"))
    with pytest.raises(InputError, match=r"combination is \('shape',\) with 4 combinations, too"):
        divide_combinations(ShapeVocabulary(), ("shape",))


def test_the_same_seed_gives_the_same_bytes_and_longer_sets_begin_as_shorter_ones():
    vocabulary = ShapeVocabulary(objects=(1, 2))
    parts = {"train": 150, "test": 20}
    first, again = (make_captioned_shapes(vocabulary, parts=parts, seed=7) for _ in range(2))
    assert first.images.tobytes() == again.images.tobytes()
    assert first.descriptive == again.descriptive
    longer = make_captioned_shapes(vocabulary, parts=parts | {"train": 200}, seed=7)
    assert first.part("train").descriptive == longer.descriptive[:150]
    np.testing.assert_array_equal(first.part("train").images, longer.images[:150])
    np.testing.assert_array_equal(first.part("test").images, longer.part("test").images)
    other = make_captioned_shapes(vocabulary, parts=parts, seed=8)
    assert first.descriptive != other.descriptive


def test_a_whole_set():
    vocabulary = ShapeVocabulary(objects=(1, 2), backgrounds=("black", "red"))
    found = make_captioned_shapes(vocabulary, parts={"test": 20, "train": 180}, side=16)
    assert found.describe().startswith(
        "captioned shapes: 200 images of 16x16x3 (train 180, test 20), "
    )
    np.testing.assert_array_equal(
        read_captions(vocabulary, found.descriptive), found.attributes.codes
    )
    for name in ("colour", "second_colour"):  # no object is invisible
        is_red_N = found.attribute_of(name) == vocabulary.code("colour", "red")
        assert not (is_red_N & (found.attribute_of("background") == 1)).any()
    # A classifier takes the pictures that an attribute applies to.
    labelled = found.labelled_by("relation")
    two_N = found.attribute_of("objects") == 1
    assert len(labelled) == two_N.sum()
    assert labelled.parts["train"] == (0, two_N[:180].sum())
    np.testing.assert_array_equal(labelled.labels, found.attribute_of("relation")[two_N])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"side": 8}, "side is 8, expected 16 to 64"),
        ({"side": 65}, "side is 65, expected 16 to 64"),
        ({"parts": {"train": 0}}, "parts have 'train' of 0, expected train, validation, test of 1"),
        ({"parts": {"dev": 3}}, "parts have 'dev' of 3"),
        ({"parts": {}}, "parts are empty"),
        ({"frames": 1}, "frames is 1 with 4 directions, expected 2 or more"),
        ({"vocabulary": ShapeVocabulary(), "frames": 4}, "frames is 4 with 0 directions"),
        ({"vocabulary": ShapeVocabulary().moving()}, "frames is None with 4 directions"),
        ({"share": 2.0}, "share is 2.0, expected 0 <= share <= 1"),
        ({"share": 0.5}, "too few to hold 0.5 of them out twice"),
    ],
)
def test_arguments_that_cannot_be(arguments, message):
    with pytest.raises(InputError, match=message):
        make_captioned_shapes(**{"parts": {"train": 4}, **arguments})
