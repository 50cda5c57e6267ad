"""Pictures or clips of one shape in memory, each with a short and a descriptive caption.

An *example* is a dict with ``"image"`` uint8 [Y, X, C] or ``"video"`` uint8 [T, Y, X, C], and the
strings ``"short"`` and ``"caption"``, which is the descriptive one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Int, Int32, UInt8

from jaxgen.data.archives import describe_left_out
from jaxgen.data.captions.caption_files import name_some
from jaxgen.data.images.image_set import ImageSet, check_parts, part_span
from jaxgen.data.text.corpus import Spans
from jaxgen.errors import InputError

NOT_APPLICABLE = -1
"""The code of an attribute that an example does not have, or that a caption does not say."""

CaptionKind = Literal["short", "descriptive"]
CAPTION_KINDS: tuple[CaptionKind, ...] = ("short", "descriptive")


@dataclass(frozen=True, eq=False)
class Attributes:
    """What is known of each example, as numbers with names.

    Attributes:
      values: Name of an attribute -> the names of its values, in the order of the columns.
      codes: int32 [N, F], of each example and attribute an index into its values, or
        `NOT_APPLICABLE`.
    """

    values: Mapping[str, tuple[str, ...]]
    codes: Int32[np.ndarray, "N F"]

    def __post_init__(self) -> None:
        shape = self.codes.shape
        if self.codes.dtype != np.int32 or len(shape) != 2 or shape[1] != len(self.values):
            raise InputError(
                f"codes are {self.codes.dtype} {list(shape)}, expected int32 [N,"
                f" {len(self.values)}], a column for each of {', '.join(self.values)}"
            )
        for (name, values), code_N in zip(self.values.items(), self.codes.T, strict=True):
            low, high = code_N.min(initial=0), code_N.max(initial=-1)
            if low < NOT_APPLICABLE or high >= len(values):
                raise InputError(
                    f"codes of {name} are {low} to {high}, expected them in [-1, {len(values)})"
                )

    def column(self, name: str) -> int:
        """Where an attribute stands.

        Raises:
          InputError: There is none of this name.
        """
        if name not in self.values:
            raise InputError(f"no attribute {name!r}; there are {', '.join(self.values)}")
        return list(self.values).index(name)

    def of(self, name: str) -> Int32[np.ndarray, "N"]:
        """The codes of one attribute.

        Raises:
          InputError: There is none of this name.
        """
        return self.codes[:, self.column(name)]

    def rows(self, chosen: slice | Bool[np.ndarray, "N"] | Int[np.ndarray, "N"]) -> "Attributes":
        """The attributes of some examples."""
        return Attributes(self.values, self.codes[chosen])


@dataclass(frozen=True, eq=False)
class CaptionedSet:
    """Pictures or clips of one shape in memory with their captions, and named parts.

    Attributes:
      name: What the set is called in tables and errors, often its path.
      images: uint8 [N, Y, X, C], or clips [N, T, Y, X, C]; C = 1 (grey) or 3 (red, green, blue).
      short: A short caption for each.
      descriptive: A descriptive caption for each; the short one where there is one alone.
      attributes: What else is known of each, or None.
      parts: "train" and where there are any "validation" and "test" -> (start, stop) in N.
      left_out: Names of the files beside the images that were not read.
    """

    name: str
    images: UInt8[np.ndarray, "N *shape"]
    short: tuple[str, ...]
    descriptive: tuple[str, ...]
    attributes: Attributes | None
    parts: Spans
    left_out: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        shape, dtype = self.images.shape, self.images.dtype
        if dtype != np.uint8 or len(shape) not in (4, 5) or shape[-1] not in (1, 3):
            raise InputError(
                f"{self.name}: images are {dtype} {list(shape)}, expected uint8 [N, Y, X, C], or"
                " clips [N, T, Y, X, C], with C of 1 or 3"
            )
        if not self.images.size:
            raise InputError(f"{self.name}: images are {list(shape)}, expected one or more")
        for kind in CAPTION_KINDS:
            check_captions(f"{self.name}: {kind} captions", self.captions(kind), len(self))
        if self.attributes is not None and len(self.attributes.codes) != len(self):
            raise InputError(
                f"{self.name}: attributes of {len(self.attributes.codes)} examples for {len(self)}"
                " images, expected as many"
            )
        check_parts(self.name, self.parts, len(self))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int, /) -> dict[str, Any]:
        """Example `index`: ``"image"`` or ``"video"``, uint8; ``"short"`` and ``"caption"``."""
        return {
            self.pixel_key: self.images[index],
            "short": self.short[index],
            "caption": self.descriptive[index],
        }

    @property
    def frames(self) -> int | None:
        """T; None for pictures."""
        return self.images.shape[1] if self.images.ndim == 5 else None

    @property
    def pixel_key(self) -> str:
        """What an example calls its pixels."""
        return "image" if self.frames is None else "video"

    def captions(self, kind: CaptionKind) -> tuple[str, ...]:
        """The captions of one kind.

        Raises:
          InputError: There is no such kind.
        """
        if kind not in CAPTION_KINDS:
            raise InputError(f"kind is {kind!r}, expected {' or '.join(CAPTION_KINDS)}")
        return self.short if kind == "short" else self.descriptive

    def distinct(self, kind: CaptionKind) -> tuple[str, ...]:
        """The captions of one kind, each once, in alphabetical order."""
        return tuple(sorted(set(self.captions(kind))))

    def attribute_of(self, name: str) -> Int32[np.ndarray, "N"]:
        """The codes of one attribute.

        Raises:
          InputError: The set has none of this name.
        """
        if self.attributes is None:
            raise InputError(f"{self.name}: no attribute {name!r}, it has none")
        return self.attributes.of(name)

    def part(self, name: str) -> "CaptionedSet":
        """One part as a set of its own, with that part alone.

        Raises:
          InputError: There is no part of this name.
        """
        start, stop = part_span(self.name, self.parts, name)
        return replace(
            self,
            images=self.images[start:stop],
            short=self.short[start:stop],
            descriptive=self.descriptive[start:stop],
            attributes=self.attributes and self.attributes.rows(slice(start, stop)),
            parts={name: (0, stop - start)},
        )

    def reordered(self, order_N: Int[np.ndarray, "N"]) -> "CaptionedSet":
        """The same examples in another order; parts stay where they are.

        Args:
          order_N: Which example comes first, second, ...; each once.
        """
        if sorted(order_N.tolist()) != list(range(len(self))):
            raise InputError(f"{self.name}: no order of {len(self)} examples, expected each once")
        return replace(
            self,
            images=self.images[order_N],
            short=tuple(self.short[i] for i in order_N),
            descriptive=tuple(self.descriptive[i] for i in order_N),
            attributes=self.attributes and self.attributes.rows(order_N),
        )

    def with_captions(
        self, descriptive: Sequence[str], short: Sequence[str] | None = None
    ) -> "CaptionedSet":
        """The same images with other captions.

        Args:
          descriptive: One for each.
          short: One for each; None: the descriptive ones.

        Raises:
          InputError: They are not as many, or some are empty.
        """
        short = descriptive if short is None else short
        return replace(self, short=tuple(short), descriptive=tuple(descriptive))

    def stills(self) -> "CaptionedSet":
        """Frame ``T // 2`` of each clip as a picture, with the captions of the clip."""
        if self.frames is None:
            return self
        return replace(self, images=self.images[:, self.frames // 2])

    def labelled_by(self, name: str) -> ImageSet:
        """The pictures with one attribute as their label, for a classifier that evaluates samples.

        Pictures that the attribute does not apply to are left out.

        Args:
          name: The attribute.

        Raises:
          InputError: The set has no such attribute, or holds clips (see `stills`).
        """
        code_N = self.attribute_of(name)
        assert self.attributes is not None
        if self.frames is not None:
            raise InputError(f"{self.name}: clips of {self.frames} frames, expected pictures")
        chosen_N = code_N != NOT_APPLICABLE
        before = np.cumsum([0, *chosen_N])
        spans = {p: (int(before[a]), int(before[b])) for p, (a, b) in self.parts.items()}
        return ImageSet(
            f"{self.name}, {name}",
            self.images[chosen_N],
            code_N[chosen_N],
            self.attributes.values[name],
            {part: span for part, span in spans.items() if span[0] < span[1]},
        )

    def describe(self) -> str:
        """Name, sizes, shape, captions and files left out on one line, for a log."""
        parts = ", ".join(f"{name} {stop - start:,}" for name, (start, stop) in self.parts.items())
        shape = "x".join(map(str, self.images.shape[1:]))
        what = "images" if self.frames is None else "clips"
        short, long = (len(self.distinct(kind)) for kind in CAPTION_KINDS)
        return (
            f"{self.name}: {len(self):,} {what} of {shape} ({parts}), {short:,} short and {long:,}"
            f" descriptive captions{describe_left_out(self.left_out)}"
        )


def check_captions(what: str, captions: Sequence[str], total: int) -> None:
    """Refuses captions that are not one text for each of `total` images.

    Raises:
      InputError: Says how many there are, or how many are empty and which come first.
    """
    if len(captions) != total:
        raise InputError(f"{what} are {len(captions)} for {total} images, expected one for each")
    empty = [str(i) for i, caption in enumerate(captions) if not caption.strip()]
    if empty:
        raise InputError(
            f"{what}: {len(empty)} of {total} are empty (of image {name_some(empty)}), expected a"
            " text each"
        )
