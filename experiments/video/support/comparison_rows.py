"""What the tables of `experiments.video.compare` are of: trainings alike but for one choice.

A table is a short list of rows: a network, how it is trained, on which stream.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from experiments.video.support.padded_batches import PaddedBatches, Seen, pad_examples
from experiments.video.support.video_networks import VideoNetworkFlags, video_model
from experiments.video.support.video_streams import (
    Size,
    Stream,
    VideoData,
    make_pack_plan,
    middle_of,
    names,
)
from experiments.video.support.video_training import VideoTrainingFlags
from jaxgen.diffusion.model import DenoiserConfig
from jaxgen.errors import InputError

TableName = Literal["packing", "sizes", "networks", "image_frames"]
PATTERNS = "joint", "factorised", "interleaved", "space_then_time", "split_heads"
IMAGE_FRAMES = 0, 4, 8

SOME_UPDATES = 256
"""How many updates say how many examples packs hold on average."""


class Planned(NamedTuple):
    """A row's training.

    Attributes:
      updates: how many.
      seen: what they see.
      batches: update t -> its batch, where it is not one of packs or clips; else None.
    """

    updates: int
    seen: Seen
    batches: PaddedBatches | None


@dataclass(frozen=True, eq=False, kw_only=True)
class ComparedRow:
    """A training.

    Attributes:
      name: what tables call it.
      network: flags of its network.
      training: how it is trained; its number of updates follows from that of the first row.
      data: its streams; the held-out one is the same for all rows of a table.
      powers: where examples are padded instead of packed, whether to powers of two; else None.
    """

    name: str
    network: VideoNetworkFlags
    training: VideoTrainingFlags
    data: VideoData
    powers: bool | None = None

    @property
    def model(self) -> DenoiserConfig:
        """The model; its own size is the first of the held-out stream."""
        data = self.data
        size = (data.held_out or data.train).sizes[0]
        return video_model(self.network, data.classes, data.channels, size)

    @property
    def slug(self) -> str:
        """The name as that of a folder."""
        return self.name.replace(" ", "_")

    def seen(self, updates: int) -> Seen:
        """What updates on packs or clips see."""
        flags, sizes = self.training, self.data.train.sizes
        patch = self.network.sides()
        tokens_S = np.prod(np.array(sizes) // np.array(patch), axis=1)
        if not flags.is_packed(self.model):
            tokens = flags.clips * int(tokens_S[np.arange(updates) % len(sizes)].sum())
            return Seen(flags.clips * updates, tokens, tokens)
        plan = make_pack_plan(sizes, patch, flags.pack_length, flags.pack_examples)
        packs = [plan.pack(number) for number in range(updates * flags.packs)]
        index_N = np.concatenate(packs)
        tokens = int(tokens_S[index_N % len(sizes)].sum())
        return Seen(len(index_N), tokens, len(packs) * flags.pack_length)

    def padded(self, examples: int) -> PaddedBatches:
        """The examples one by one, about as many in an update as packs of the same flags hold."""
        per_update = round(self.seen(SOME_UPDATES).examples / SOME_UPDATES)
        stream, patch = self.data.train, self.network.sides()
        return pad_examples(stream, patch, examples, per_update, powers=bool(self.powers))


@dataclass(frozen=True, eq=False)
class Cropped:
    """A stream whose videos are cut to the middle of their first frames.

    Attributes:
      stream: the videos, none of them smaller.
      size: what they are cut to.
    """

    stream: Stream
    size: Size

    @property
    def sizes(self) -> tuple[Size, ...]:
        """The one size."""
        return (self.size,)

    def __getitem__(self, index: int, /) -> dict[str, Any]:
        example = self.stream[index]
        return {**example, "video": middle_of(example["video"], self.size)}


def rows_of_table(
    table: TableName,
    data: VideoData,
    network: VideoNetworkFlags,
    training: VideoTrainingFlags,
    unet: VideoNetworkFlags,
    unet_training: VideoTrainingFlags,
) -> list[ComparedRow]:
    """The rows of a table; the first is what others are compared with.

    Args:
      table: its name.
      data: the streams.
      network: the transformer.
      training: how it is trained.
      unet: the 3-D U-Net.
      unet_training: how that is trained.

    Raises:
      InputError: for sizes that the table has no use for.
    """
    sizes = tuple(dict.fromkeys(data.train.sizes))
    if table == "packing":
        kinds = {"packs": None, "padded to the longest": False, "power-of-two buckets": True}
        return [
            ComparedRow(name=name, network=network, training=training, data=data, powers=powers)
            for name, powers in kinds.items()
        ]
    if table == "sizes":
        least = min(s[0] for s in sizes), min(s[1] for s in sizes), min(s[2] for s in sizes)
        if sizes == (least,):
            raise InputError(f"sizes has {names(sizes)}, expected sizes that differ, to be cropped")
        cropped = dataclasses.replace(data, train=Cropped(data.train, least))
        streams = {"native sizes": data, f"centre crops to {names([least])}": cropped}
        return [
            ComparedRow(name=name, network=network, training=training, data=of_row)
            for name, of_row in streams.items()
        ]
    if len(sizes) > 1:
        raise InputError(f"sizes has {names(sizes)}, expected one size of the table {table}")
    if table == "networks":
        clips = dataclasses.replace(training, packed=False)
        rows = [
            ComparedRow(
                name=pattern.replace("_", " "),
                network=dataclasses.replace(network, attention=pattern),
                training=clips,
                data=data,
            )
            for pattern in PATTERNS
        ]
        return [
            *rows,
            ComparedRow(name="3-D U-Net", network=unet, training=unet_training, data=data),
        ]
    return [
        ComparedRow(
            name=f"{count} image frames",
            network=unet,
            training=dataclasses.replace(unet_training, image_frames=count),
            data=data,
        )
        for count in IMAGE_FRAMES
    ]


def plan_rows(
    table: TableName, rows: list[ComparedRow], seconds: dict[str, float], updates: int
) -> dict[str, Planned]:
    """How long each row is trained: as many examples, as much compute, or as many updates.

    Args:
      table: its name.
      rows: its rows.
      seconds: of an update of each, by name.
      updates: of the first row.
    """
    first, planned = rows[0], {}
    for row in rows:
        own = updates
        if table == "networks":
            own = max(1, round(updates * seconds[first.name] / seconds[row.name]))
        if row.powers is None:
            planned[row.name] = Planned(own, row.seen(own), None)
        else:
            batches = row.padded(first.seen(updates).examples)
            planned[row.name] = Planned(len(batches), batches.seen, batches)
    return planned
