"""Captions of shapes, written from their attributes and read back.

::

    a red circle
    a red circle left of a blue square moving right
    a small red circle at the top left on a grey background moving right slowly
    a small red circle at the top left, above a large blue square at the bottom left, both moving up
      quickly

Of attributes that are not known (`NOT_APPLICABLE`) nothing is said, of an unknown shape "shape", of
an unknown relation "and". Reading is the inverse of writing, and takes from any other text what it
says in these words.
"""

import functools
import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Int32

from jaxgen.data.captions.captioned_set import NOT_APPLICABLE, Attributes
from jaxgen.data.captions.shape_vocabulary import COUNTS, RELATIONS, SECOND, ShapeVocabulary
from jaxgen.errors import InputError

ANY_SHAPE = "shape"
CENTRE = "centre"
_OF_PICTURE = {
    "background": r"an? ({}) background",
    "direction": r"moving(?: \w+)?? ({})",
    "speed": r"moving(?: \w+)?? ({})",
}


def write_caption(
    vocabulary: ShapeVocabulary, code_F: Int32[np.ndarray, "F"], short: bool = False
) -> str:
    """The caption of one picture or clip.

    Args:
      vocabulary: What the codes mean.
      code_F: A code for each of ``vocabulary.values``.
      short: Whether to say shape, colour, relation and direction alone.
    """

    values = vocabulary.named(code_F)
    said = {name: value for name, value in values.items() if vocabulary.is_said(name)}
    if short:
        said = {name: value for name, value in said.items() if _is_short(name)}
    two = 2 in vocabulary.objects and values.get("objects") != COUNTS[1]
    caption = _describe_object(said, "")
    if two:
        relation = values.get("relation")
        comma = "," if relation and not short else ""
        caption += f"{comma} {relation or 'and'} {_describe_object(said, SECOND)}"
    if "background" in said:
        caption += f" on {with_article(said['background'])} background"
    motion = [said[name] for name in ("direction", "speed") if name in said]
    if motion:
        both = ", both" if two and not short else ""
        caption += f"{both} moving {' '.join(motion)}"
    return caption


def _is_short(name: str) -> bool:
    """Whether short captions say an attribute."""
    return name in ("relation", "direction") or name.endswith(("shape", "colour"))


def _describe_object(said: Mapping[str, str], prefix: str) -> str:
    """An object with what is said of it: "a small red circle at the top left"."""
    words = [said.get(prefix + name, "") for name in ("size", "colour", "shape")]
    phrase = with_article(" ".join(filter(None, (*words[:2], words[2] or ANY_SHAPE))))
    place = said.get(prefix + "place")
    if place is None:
        return phrase
    return f"{phrase} {'in' if place == CENTRE else 'at'} the {place}"


def write_captions(
    vocabulary: ShapeVocabulary, code_NF: Int32[np.ndarray, "N F"], short: bool = False
) -> tuple[str, ...]:
    """The captions of many; see `write_caption`."""
    rows, row_N = np.unique(code_NF, axis=0, return_inverse=True)
    captions = [write_caption(vocabulary, code_F, short) for code_F in rows]
    return tuple(captions[row] for row in row_N.reshape(-1).tolist())


def with_article(words: str) -> str:
    """A noun with its article: "an orange square"."""
    return f"{'an' if words[0].lower() in 'aeiou' else 'a'} {words}"


def read_caption(vocabulary: ShapeVocabulary, caption: str) -> Int32[np.ndarray, "F"]:
    """What a caption says, `NOT_APPLICABLE` for what it does not.

    A value that is the only one of its attribute is never said, and read as if it were.

    Args:
      vocabulary: What the codes mean.
      caption: Any text; of a third object and further ones nothing is read.
    """
    caption = " ".join(caption.lower().split())
    nouns = list(_noun_phrase(vocabulary).finditer(caption))[:2]
    read: dict[str, str | None] = {}
    for name, values in vocabulary.values.items():
        of_second = name == "relation" or name.startswith(SECOND)
        if not vocabulary.is_said(name) and (len(nouns) > 1 or not of_second):
            read[name] = values[0]
    if nouns:
        read["objects"] = COUNTS[len(nouns)]
    ends = [noun.start() for noun in nouns[1:]] + [len(caption)]
    for prefix, noun, end in zip(("", SECOND), nouns, ends, strict=False):
        after = caption[noun.end() : end]
        place = _first(r"(?:at|in) the ({})", vocabulary.places, after)
        found = {**noun.groupdict(), "place": place}
        said = {prefix + name: value for name, value in found.items()}
        read |= {name: value for name, value in said.items() if vocabulary.is_said(name)}
    if len(nouns) > 1:
        between = caption[nouns[0].end() : ends[0]]
        read["relation"] = _first(r"({})", tuple(RELATIONS), between)
    for name, pattern in _OF_PICTURE.items():
        if vocabulary.is_said(name):
            read[name] = _first(pattern, vocabulary.values[name], caption)
    codes = [vocabulary.code(name, read.get(name)) for name in vocabulary.values]
    return np.array(codes, np.int32)


def read_captions(vocabulary: ShapeVocabulary, captions: Iterable[str]) -> Int32[np.ndarray, "N F"]:
    """What many captions say; see `read_caption`."""
    codes = [read_caption(vocabulary, caption) for caption in captions]
    return np.array(codes, np.int32).reshape(-1, len(vocabulary.values))


@functools.lru_cache(maxsize=16)
def _noun_phrase(vocabulary: ShapeVocabulary) -> re.Pattern[str]:
    size, colour, shape = (
        "|".join(words)
        for words in (vocabulary.sizes, vocabulary.colours, (*vocabulary.shapes, ANY_SHAPE))
    )
    return re.compile(rf"\b(?:(?P<size>{size}) )?(?:(?P<colour>{colour}) )?(?P<shape>{shape})\b")


def _first(pattern: str, values: Sequence[str], text: str) -> str | None:
    """The first of some values that stands where the pattern says; "top left" before "top"."""
    longest = "|".join(sorted(values, key=len, reverse=True))
    found = re.search(rf"\b{pattern.format(longest)}\b", text)
    return found[1] if found else None


def caption_accuracy(
    vocabulary: ShapeVocabulary, captions: Sequence[str], attributes: Attributes
) -> dict[str, float]:
    """How often captions say the right value of each attribute.

    Args:
      vocabulary: What the codes mean.
      captions: A caption for each example.
      attributes: What is there.

    Returns:
      Name of each attribute that captions say -> the share of right values among the examples that
      have it; what a caption does not say is wrong.

    Raises:
      InputError: Captions and examples are not as many, or other attributes are there.
    """
    if dict(attributes.values) != vocabulary.values or len(captions) != len(attributes.codes):
        raise InputError(
            f"{len(captions)} captions for {len(attributes.codes)} examples with"
            f" {', '.join(attributes.values)}, expected as many, with"
            f" {', '.join(vocabulary.values)}"
        )
    read_NF = read_captions(vocabulary, captions)
    shares = {}
    for name, column in vocabulary.columns.items():
        true_N = attributes.codes[:, column]
        has_N = true_N != NOT_APPLICABLE
        if has_N.any() and vocabulary.is_said(name):
            shares[name] = float((read_NF[has_N, column] == true_N[has_N]).mean())
    return shares
