"""Captioned shapes, still or moving: a set that needs no download, with exact captions.

One or two objects of a `ShapeVocabulary` on a plain background. Centres and radii vary a little,
so that no two pictures of one caption are alike. A moving object crosses its place on a straight
line, which it reaches in frame ``T // 2``: that frame shows nothing of the direction, so it is what
a model that sees no motion can be compared on. Objects that move may leave the frame in part.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Int32, UInt8

from jaxgen.data.captions.captioned_set import Attributes, CaptionedSet
from jaxgen.data.captions.shape_captions import write_captions
from jaxgen.data.captions.shape_combinations import (
    are_in_part,
    divide_combinations,
    draw_attributes,
    is_of_two,
)
from jaxgen.data.captions.shape_drawing import paint
from jaxgen.data.captions.shape_vocabulary import (
    COLOURS,
    DIRECTIONS,
    OF_OBJECT,
    PLACES,
    SECOND,
    SIZES,
    SPEEDS,
    ShapeVocabulary,
)
from jaxgen.data.images.image_set import consecutive_parts
from jaxgen.data.text.corpus import PARTS
from jaxgen.errors import InputError

LEAST_SIDE, MOST_SIDE = 16, 64
OFFSET = 0.02
"""How far a centre is from its place at most, along each axis."""
SPREAD = 0.05
"""How much radii vary, as a share of themselves."""
DEFAULT_PARTS: Mapping[str, int] = {"train": 8000, "validation": 1000, "test": 1000}


def make_captioned_shapes(
    vocabulary: ShapeVocabulary | None = None,
    *,
    side: int = 32,
    frames: int | None = None,
    parts: Mapping[str, int] = DEFAULT_PARTS,
    combination: Sequence[str] = OF_OBJECT,
    share: float = 0.1,
    seed: int = 0,
) -> CaptionedSet:
    """Draws shapes with their captions and attributes.

    Args:
      vocabulary: What they can be; None: the default one, for clips with motion.
      side: Y and X, 16 to 64. (In 16 pixels small shapes of a kind are hard to tell apart.)
      frames: T of clips; None for pictures.
      parts: Part -> examples.
      combination: The attributes whose combinations are divided among the parts
        (`divide_combinations`); empty: any part has any.
      share: Of the combinations, for validation and again for test.
      seed: Of which combinations, with all their values, come in which order and where exactly.
        Which of them are held out does not depend on it.

    Raises:
      InputError: An argument is outside of what is said here.
    """
    if vocabulary is None:
        vocabulary = ShapeVocabulary() if frames is None else ShapeVocabulary().moving()
    _check_part_sizes(parts)
    part_of = divide_combinations(vocabulary, combination, share) if combination else None
    sizes = {part: parts[part] for part in PARTS if part in parts}
    codes, images = [], []
    for part, count in sizes.items():
        allowed = None
        if part_of is not None:
            allowed = are_in_part(vocabulary, combination, part_of, part)
        seeds = (seed, PARTS.index(part))
        codes.append(draw_attributes(vocabulary, count, seeds, allowed))
        drawn = draw_shapes(vocabulary, codes[-1], side=side, frames=frames, seed=(*seeds, 2))
        images.append(drawn)
    code_NF = np.concatenate(codes)
    return CaptionedSet(
        "captioned shapes",
        np.concatenate(images),
        write_captions(vocabulary, code_NF, short=True),
        write_captions(vocabulary, code_NF),
        Attributes(vocabulary.values, code_NF),
        consecutive_parts(sizes),
    )


def draw_shapes(
    vocabulary: ShapeVocabulary,
    code_NF: Int32[np.ndarray, "N F"],
    *,
    side: int = 32,
    frames: int | None = None,
    seed: int | Sequence[int] = 0,
) -> UInt8[np.ndarray, "N *shape"]:
    """Pictures or clips of given attributes.

    Args:
      vocabulary: What the codes mean.
      code_NF: The attributes, all known.
      side: Y and X.
      frames: T of clips; None for pictures.
      seed: Of where exactly objects are, and how large.

    Returns:
      uint8 [N, Y, X, 3], or [N, T, Y, X, 3].

    Raises:
      InputError: For another side, and where frames and directions are not both there.
    """
    if not LEAST_SIDE <= side <= MOST_SIDE:
        raise InputError(f"side is {side}, expected {LEAST_SIDE} to {MOST_SIDE}")
    if (frames is not None) != bool(vocabulary.directions) or frames == 1:
        raise InputError(
            f"frames is {frames} with {len(vocabulary.directions)} directions, expected 2 or more"
            " with directions and speeds, or neither"
        )
    length, count = frames or 1, len(code_NF)
    background_N3 = _numbers(vocabulary, code_NF, "background", COLOURS).astype(np.uint8)
    images = np.empty((count, length, side, side, 3), np.uint8)
    images[:] = background_N3[:, None, None, None]
    varied_N23 = np.random.default_rng(seed).uniform(-1, 1, (count, 2, 3))
    moved_NT2 = _way(vocabulary, code_NF, length)
    objects = {"": np.arange(count)}
    if 2 in vocabulary.objects:
        objects[SECOND] = np.flatnonzero(is_of_two(vocabulary, code_NF))
    for number, (prefix, which_M) in enumerate(objects.items()):
        _paint_objects(
            images,
            which_M,
            vocabulary,
            code_NF[which_M],
            prefix,
            varied_N23[which_M, number],
            moved_NT2[which_M],
        )
    return images[:, 0] if frames is None else images


def _paint_objects(
    images_NTYXC: UInt8[np.ndarray, "N T Y X 3"],
    which_M: Int[np.ndarray, "M"],
    vocabulary: ShapeVocabulary,
    code_MF: Int32[np.ndarray, "M F"],
    prefix: str,
    varied_M3: Float[np.ndarray, "M 3"],
    moved_MT2: Float[np.ndarray, "M T 2"],
) -> None:
    """Paints one object into some of the clips, in place.

    Args:
      images_NTYXC: All clips.
      which_M: Those to paint into.
      vocabulary: What the codes mean.
      code_MF: Their attributes.
      prefix: Of the object's attributes.
      varied_M3: How its place and radius vary, in [-1, 1].
      moved_MT2: How far it is from its place in each frame.
    """
    length, side = images_NTYXC.shape[1:3]
    place_M2, size_M, colour_M3 = (
        _numbers(vocabulary, code_MF, prefix + name, numbers)
        for name, numbers in (("place", PLACES), ("size", SIZES), ("colour", COLOURS))
    )
    centre_MT2 = side * ((place_M2 + OFFSET * varied_M3[:, :2])[:, None] + moved_MT2)
    radius_M = side * size_M * (1 + SPREAD * varied_M3[:, 2])
    shape_M = code_MF[:, vocabulary.columns[f"{prefix}shape"]]
    for code, shape in enumerate(vocabulary.shapes):
        has_M = shape_M == code
        index_MT = which_M[has_M, None] * length + np.arange(length)
        paint(
            images_NTYXC.reshape(-1, side, side, 3),
            index_MT.reshape(-1),
            shape,
            centre_MT2[has_M].reshape(-1, 2),
            np.repeat(radius_M[has_M], length),
            np.repeat(colour_M3[has_M], length, axis=0).astype(np.uint8),
        )


def _numbers(
    vocabulary: ShapeVocabulary, code_NF: Int32[np.ndarray, "N F"], name: str, of: Mapping[str, Any]
) -> Float[np.ndarray, "N *shape"]:
    """The numbers that stand for the values of an attribute."""
    values = np.array([of[value] for value in vocabulary.values[name]], np.float64)
    return values[code_NF[:, vocabulary.columns[name]]]


def _way(
    vocabulary: ShapeVocabulary, code_NF: Int32[np.ndarray, "N F"], length: int
) -> Float[np.ndarray, "N T 2"]:
    """How far objects are from their places in each frame, as shares of the side."""
    if length == 1:
        return np.zeros((len(code_NF), 1, 2))
    direction_N2 = _numbers(vocabulary, code_NF, "direction", DIRECTIONS)
    way_N = _numbers(vocabulary, code_NF, "speed", SPEEDS)
    share_T = (np.arange(length) - length // 2) / (length - 1)
    return direction_N2[:, None] * way_N[:, None, None] * share_T[:, None]


def _check_part_sizes(sizes: Mapping[str, int]) -> None:
    for part, size in sizes.items():
        if part not in PARTS or size < 1:
            raise InputError(
                f"parts have {part!r} of {size}, expected {', '.join(PARTS)} of 1 or more each"
            )
    if not sizes:
        raise InputError(f"parts are empty, expected one or more of {', '.join(PARTS)}")
