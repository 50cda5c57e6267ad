"""What captioned shapes can be: shapes, colours, sizes, places, relations, motion.

Lengths are shares of a picture's side, places (y, x) from the upper left corner.
"""

import functools
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int32

from jaxgen.errors import InputError

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "diamond")
COLOURS: Mapping[str, tuple[int, int, int]] = {
    "red": (255, 0, 0),
    "green": (0, 160, 0),
    "blue": (0, 0, 255),
    "yellow": (255, 255, 0),
    "orange": (255, 128, 0),
    "magenta": (255, 0, 255),
    "cyan": (0, 255, 255),
    "white": (255, 255, 255),
    "grey": (128, 128, 128),
    "black": (0, 0, 0),
}
"""Red, green and blue of objects and backgrounds."""
SIZES: Mapping[str, float] = {"small": 0.13, "medium": 0.17, "large": 0.21}
"""Radius of the circle about a shape, before it varies."""
NEAR, MIDDLE, FAR = 0.25, 0.5, 0.75
PLACES: Mapping[str, tuple[float, float]] = {
    "top left": (NEAR, NEAR),
    "top": (NEAR, MIDDLE),
    "top right": (NEAR, FAR),
    "left": (MIDDLE, NEAR),
    "centre": (MIDDLE, MIDDLE),
    "right": (MIDDLE, FAR),
    "bottom left": (FAR, NEAR),
    "bottom": (FAR, MIDDLE),
    "bottom right": (FAR, FAR),
}
RELATIONS: Mapping[str, tuple[float, float]] = {
    "left of": (0.0, 0.5),
    "right of": (0.0, -0.5),
    "above": (0.5, 0.0),
    "below": (-0.5, 0.0),
}
"""Where the second object is, seen from the first: always on the opposite side of the picture."""
DIRECTIONS: Mapping[str, tuple[float, float]] = {
    "left": (0.0, -1.0),
    "right": (0.0, 1.0),
    "up": (-1.0, 0.0),
    "down": (1.0, 0.0),
}
SPEEDS: Mapping[str, float] = {"slowly": 0.2, "quickly": 0.4}
"""The way from the first frame of a clip to its last."""
COUNTS: Mapping[int, str] = {1: "one", 2: "two"}

OF_OBJECT = ("shape", "colour", "size", "place")
"""Attributes of each object; those of the second are called ``second_shape`` and so on."""
SECOND = "second_"


@dataclass(frozen=True)
class ShapeVocabulary:
    """Which values the attributes of captioned shapes have.

    One object of the values that are the default has 4 x 8 x 2 x 5 = 320 descriptive captions, and
    4 x 8 = 32 short ones. An attribute with one value is not said in captions, but shapes are.

    Attributes:
      shapes: Of `SHAPES`.
      colours: Of `COLOURS`.
      sizes: Of `SIZES`.
      places: Of `PLACES`. Two objects stand on opposite sides, one beside or above the other.
      backgrounds: Of `COLOURS`; an object never has the colour of its background.
      objects: How many there are in a picture: (1,), (2,), or (1, 2) for both. Two differ in shape
        or in colour.
      directions: Of `DIRECTIONS`, for clips; in one of two objects both move.
      speeds: Of `SPEEDS`, for clips.

    Raises:
      InputError: A value is not known or there twice, or there are none; or two objects have no
        places, or only one of directions and speeds is there.
    """

    shapes: tuple[str, ...] = ("circle", "square", "triangle", "star")
    colours: tuple[str, ...] = tuple(COLOURS)[:8]
    sizes: tuple[str, ...] = ("small", "large")
    places: tuple[str, ...] = ("centre", "top left", "top right", "bottom left", "bottom right")
    backgrounds: tuple[str, ...] = ("black",)
    objects: tuple[int, ...] = (1,)
    directions: tuple[str, ...] = ()
    speeds: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        known = {
            "shapes": SHAPES,
            "colours": COLOURS,
            "sizes": SIZES,
            "places": PLACES,
            "backgrounds": COLOURS,
            "directions": DIRECTIONS,
            "speeds": SPEEDS,
        }
        for field, expected in known.items():
            _check_values(field, getattr(self, field), tuple(expected))
        if self.objects not in ((1,), (2,), (1, 2)):
            raise InputError(f"objects is {self.objects}, expected (1,), (2,) or (1, 2)")
        for field in ("shapes", "colours", "sizes", "places", "backgrounds"):
            if not getattr(self, field):
                raise InputError(f"{field} is empty, expected one or more")
        if bool(self.directions) != bool(self.speeds):
            raise InputError(
                f"directions are {self.directions} and speeds {self.speeds}, expected both or none"
            )
        if 2 in self.objects and not self.pairs:
            raise InputError(
                f"places are {', '.join(self.places)}, expected two on opposite sides for two"
                " objects"
            )

    @functools.cached_property
    def values(self) -> dict[str, tuple[str, ...]]:
        """Name of an attribute -> the names of its values."""
        first = dict(
            zip(OF_OBJECT, (self.shapes, self.colours, self.sizes, self.places), strict=True)
        )
        found: dict[str, tuple[str, ...]] = {}
        if 2 in self.objects:
            found["objects"] = tuple(COUNTS[count] for count in self.objects)
        found |= first
        if 2 in self.objects:
            found["relation"] = tuple(dict.fromkeys(relation for _, relation, _ in self.pairs))
            found |= {SECOND + name: values for name, values in first.items()}
        found["background"] = self.backgrounds
        if self.directions:
            found |= {"direction": self.directions, "speed": self.speeds}
        return found

    @functools.cached_property
    def columns(self) -> dict[str, int]:
        """Name of an attribute -> its column."""
        return {name: column for column, name in enumerate(self.values)}

    @functools.cached_property
    def pairs(self) -> tuple[tuple[str, str, str], ...]:
        """Places of two objects and their relation: ``("top left", "above", "bottom left")``."""
        return tuple(
            (first, relation, second)
            for relation, step in RELATIONS.items()
            for first, second in itertools.product(self.places, repeat=2)
            if np.allclose(np.subtract(PLACES[second], PLACES[first]), step)
        )

    def moving(self) -> "ShapeVocabulary":
        """The same with all directions and speeds."""
        return replace(self, directions=tuple(DIRECTIONS), speeds=tuple(SPEEDS))

    def is_said(self, name: str) -> bool:
        """Whether a descriptive caption says an attribute (`objects` by what it names)."""
        return name.endswith("shape") or len(self.values.get(name, ())) > 1

    def named(self, code_F: Int32[np.ndarray, "F"]) -> dict[str, str]:
        """The values of the attributes of one picture, without those that it does not have."""
        codes = zip(self.values.items(), code_F.tolist(), strict=True)
        return {name: values[code] for (name, values), code in codes if code >= 0}

    def code(self, name: str, value: str | None) -> int:
        """The code of a value; -1 for None or one that is not in the vocabulary."""
        values = self.values.get(name, ())
        return values.index(value) if value in values else -1


def _check_values(field: str, values: Sequence[str], known: tuple[str, ...]) -> None:
    if isinstance(values, str) or len(set(values)) != len(values) or not set(values) <= set(known):
        raise InputError(
            f"{field} is {values!r}, expected a tuple of different ones of {', '.join(known)}"
        )
