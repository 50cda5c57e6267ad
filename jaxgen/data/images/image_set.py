"""Image sets in memory, and deterministic batches.

Everything that reads images gives uint8; models see float32 in [-1, 1]. The two are tied by
`jaxgen.pixels.to_unit` and `from_unit`.

An *example* is a dict with ``"image"`` and, where the set has labels, ``"label"``; a *batch* is the
same dict with a leading axis B. Sets that fit in memory are batched by `batch_at`, records that are
read one by one by `jaxgen.data.pipeline.make_batches` with `make_transform`. In both, whether an
example is flipped depends on the seed and on its place in the global order alone: not on the batch
size, nor on how many processes share the batch.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Int, Int32, Integer, Shaped, UInt8

from jaxgen.data.archives import describe_left_out
from jaxgen.data.batch_plan import BatchPlan, permute
from jaxgen.data.text.corpus import PARTS, Spans
from jaxgen.data.text.tfds_text import VALIDATION_SHARE
from jaxgen.errors import InputError
from jaxgen.pixels import to_unit

RecordsT = TypeVar("RecordsT", bound=Any)


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images of one shape in memory, with labels where there are any, and named parts.

    Attributes:
      name: What the set is called in tables and errors, often its path.
      images: uint8 [N, Y, X, C], C = 1 (grey) or 3 (red, green, blue).
      labels: int32 [N], indices into `classes`; or None.
      classes: The names of the classes; empty where there are no labels.
      parts: "train" and where there are any "validation" and "test" -> (start, stop) in N.
      left_out: Names of the files beside the images that were not read.
      unreadable: Names of images that were skipped because nothing could read them.
    """

    name: str
    images: UInt8[np.ndarray, "N Y X C"]
    labels: Int32[np.ndarray, "N"] | None
    classes: tuple[str, ...]
    parts: Spans
    left_out: tuple[str, ...] = ()
    unreadable: tuple[str, ...] = ()

    def __post_init__(self):
        shape, dtype = self.images.shape, self.images.dtype
        if dtype != np.uint8 or len(shape) != 4 or shape[-1] not in (1, 3) or not np.prod(shape):
            raise InputError(
                f"{self.name}: images are {dtype} {list(shape)}, expected uint8 [N, Y, X, C] with"
                " N, Y and X of 1 or more and C of 1 or 3"
            )
        check_labels(self.name, self.labels, len(self), self.classes)
        check_parts(self.name, self.parts, len(self))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int, /) -> dict[str, Any]:
        """Example `index`: uint8 [Y, X, C], and an int32 label where there are labels."""
        return make_example(self.images[index], None if self.labels is None else self.labels[index])

    def part(self, name: str) -> "ImageSet":
        """One part as a set of its own, with that part alone; a view of the same memory.

        Raises:
          InputError: There is no part of this name.
        """
        return one_part(self, name, "images")

    def describe(self) -> str:
        """Name, sizes, shape and files left out on one line, for a log."""
        parts = ", ".join(f"{name} {stop - start:,}" for name, (start, stop) in self.parts.items())
        shape = "x".join(map(str, self.images.shape[1:]))
        classes = f", {len(self.classes)} classes" if self.classes else ""
        line = f"{self.name}: {len(self):,} images of {shape} ({parts}){classes}"
        line += describe_left_out(self.left_out)
        if self.unreadable:
            line += f"; {len(self.unreadable)} unreadable, skipped: {', '.join(self.unreadable)}"
        return line


def batch_at(
    images: ImageSet,
    plan: BatchPlan,
    step: int,
    *,
    flip: bool = False,
    rows: Integer[np.ndarray, "rows"] | None = None,
) -> dict[str, np.ndarray]:
    """The batch that a training step sees, from the step's number alone.

    Args:
      images: The set.
      plan: Which positions of it a step sees; ``BatchPlan(*images.parts["train"], B)``.
      step: The step's number, 0 for the first one.
      flip: Whether each image is mirrored (left and right) with probability 1/2.
      rows: The rows of the global batch to give, as `jaxgen.parallel.process_rows` says for this
        process. None gives all.

    Returns:
      ``"image"``: float32 [rows, Y, X, C] in [-1, 1]; ``"label"``: int32 [rows], where the set has
      labels.

    Raises:
      InputError: `step` is negative or the plan reaches beyond the set.
    """
    if plan.stop > len(images):
        raise InputError(
            f"{images.name}: positions {plan.start} to {plan.stop} of {len(images)} images"
        )
    positions = plan.positions(step)
    places = step * plan.batch_size + np.arange(len(positions))
    if rows is not None:
        positions, places = positions[rows], places[rows]
    chosen = images.images[positions]
    if flip:
        mirrored = [_mirrors(np.random.default_rng((plan.seed, int(place)))) for place in places]
        chosen = np.where(np.array(mirrored)[:, None, None, None], chosen[:, :, ::-1], chosen)
    return make_example(
        to_unit(chosen), None if images.labels is None else images.labels[positions]
    )


def make_transform(
    flip: bool = False,
) -> Callable[[Mapping[str, Any], np.random.Generator], dict[str, Any]]:
    """What `jaxgen.data.pipeline.make_batches` applies to records with a uint8 ``"image"``.

    Args:
      flip: Whether each image is mirrored (left and right) with probability 1/2.

    Returns:
      A transform to examples in which ``"image"`` is float32 [Y, X, C] in [-1, 1] and all other
      entries are as they were.
    """

    def transform(record: Mapping[str, Any], generator: np.random.Generator) -> dict[str, Any]:
        image = record["image"]
        if flip and _mirrors(generator):
            image = image[:, ::-1]
        return {**record, "image": to_unit(image)}

    return transform


def _mirrors(generator: np.random.Generator) -> bool:
    return bool(generator.random() < 0.5)


def make_example(
    image: Shaped[np.ndarray, "*shape"], label: Integer[np.ndarray, "*rows"] | np.integer | None
) -> dict[str, Any]:
    """An example, or a batch of them, as a dict; without a label where there is none."""
    return {"image": image} if label is None else {"image": image, "label": label}


def shuffled_parts(
    total: int, held_out: Sequence[str] = PARTS[1:]
) -> tuple[Int[np.ndarray, "N"], Spans]:
    """A fixed random division of N images: a tenth for each part that is held out of training.

    Args:
      total: N.
      held_out: The parts: validation and test, or one of them.

    Returns:
      The images' numbers in their new order, int64 [N], the same on every machine (`permute` with
      seed 0); and the parts as spans of it: train first, then the others of ``N // 10`` images
      each, left out where that is 0. Within a part the old order is kept.
    """
    order = permute(np.arange(total), total, seed=0, epoch=0)
    tenth = total // VALIDATION_SHARE
    sizes = {"train": total - len(held_out) * tenth, **dict.fromkeys(held_out, tenth)}
    pieces = np.split(order, np.cumsum(list(sizes.values()))[:-1])
    return np.concatenate([np.sort(piece) for piece in pieces]), consecutive_parts(sizes)


def published_parts(sizes: Mapping[str, int]) -> Spans:
    """Parts as they were published; the last tenth of training is for validation if none is.

    Args:
      sizes: Part -> images, in the order of the images: train, validation, test.
    """
    sizes = {part: sizes.get(part, 0) for part in PARTS}
    if not sizes["validation"]:
        sizes["validation"] = sizes["train"] // VALIDATION_SHARE
        sizes["train"] -= sizes["validation"]
    return consecutive_parts(sizes)


def consecutive_parts(sizes: Mapping[str, int]) -> Spans:
    """Spans of parts that follow each other; empty ones are left out."""
    parts: dict[str, tuple[int, int]] = {}
    start = 0
    for part, size in sizes.items():
        if size:
            parts[part] = (start, start + size)
        start += size
    return parts


def one_part(records: RecordsT, name: str, field: str) -> RecordsT:
    """One part of a set as a set of its own, with that part alone.

    Args:
      records: A dataclass with `name`, `parts`, and `labels` or None.
      name: The part.
      field: Which of its fields, beside labels, has an entry for each record.

    Raises:
      InputError: There is no part of this name.
    """
    start, stop = part_span(records.name, records.parts, name)
    labels = None if records.labels is None else records.labels[start:stop]
    kept = {field: getattr(records, field)[start:stop]}
    return replace(records, **kept, labels=labels, parts={name: (0, stop - start)})


def parts_by_name(part_of: Sequence[str]) -> tuple[np.ndarray, Spans]:
    """The order of files that lie in folders of parts, and the parts as spans of it.

    Files stand class by class, so a validation part is taken out of training at random.

    Args:
      part_of: The part of each file.
    """
    places = {part: np.flatnonzero(np.array(part_of) == part) for part in PARTS}
    train = places["train"]
    if not places["validation"].size and train.size:
        order, parts = shuffled_parts(len(train), ["validation"])
        places |= {part: train[order[slice(*span)]] for part, span in parts.items()}
    sizes = {part: len(found) for part, found in places.items()}
    return np.concatenate(list(places.values())), consecutive_parts(sizes)


def part_span(name: str, parts: Spans, part: str) -> tuple[int, int]:
    """Where a part lies.

    Raises:
      InputError: There is no part of this name.
    """
    if part not in parts:
        raise InputError(f"{name}: no part {part!r}; it has {', '.join(parts)}")
    return parts[part]


def check_labels(
    name: str, labels: Int32[np.ndarray, "N"] | None, total: int, classes: tuple[str, ...]
) -> None:
    """Refuses labels that are not one index into the classes for each of `total` images.

    Raises:
      InputError: Names the set and the fault.
    """
    if labels is None:
        if classes:
            raise InputError(f"{name}: {len(classes)} classes, but no labels")
        return
    if labels.shape != (total,) or labels.dtype != np.int32:
        raise InputError(
            f"{name}: labels are {labels.dtype} {list(labels.shape)}, expected int32 [{total}], one"
            " for each image"
        )
    if not 0 <= labels.min() <= labels.max() < len(classes):
        raise InputError(
            f"{name}: labels from {labels.min()} to {labels.max()}, expected them in"
            f" [0, {len(classes)}), the number of classes"
        )


def check_parts(name: str, parts: Spans, total: int) -> None:
    """Refuses parts that are empty or reach outside a set of `total` images.

    Raises:
      InputError: Names the set, the part and the fault.
    """
    for part, (start, stop) in parts.items():
        if not 0 <= start < stop <= total:
            raise InputError(
                f"{name}: part {part!r} is {start} to {stop} of {total} images, expected a part"
                " that is not empty"
            )
