"""The diffusion transformer of videos: all patches of all frames attend to each other.

DiT (Peebles & Xie 2023) on tubelets (P_t, P_y, P_x), with adaLN-Zero blocks and joint spacetime
attention (model 1 of Arnab et al. 2021, "ViViT"). An image is a video of one frame. Positions are
computed for the places at hand, so every network takes videos of any length and size that its patch
divides::

    sincos   tokens + waves(row, column) + waves(frame) - waves(0)     added once
    rotary   queries and keys are turned by (frame, row, column)       in every block

The frame's waves vanish at frame 0, so with "sincos" the network *is* DiT at one frame: the same
parameters, the same prediction.

**Packs** (Dehghani et al. 2023, "Patch n' Pack"). Examples of several sizes follow each other in
one sequence of fixed length (`jaxgen.data.packing` makes them). Tokens attend to those of their own
example, and each example has its own time and class: what is predicted of an example does not
depend on the others in its pack.
"""

import dataclasses
import functools
from typing import Any, ClassVar, Literal, get_args

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int, Real

from jaxgen.errors import InputError
from jaxgen.nn.dense import Dense
from jaxgen.nn.embeddings import Condition
from jaxgen.nn.positions import grid_places, sincos, sincos_places
from jaxgen.nn.rotary import rotary_angles, rotary_split
from jaxgen.spacetime.patches import Patch, patch_sides, patchify, unpatchify
from jaxgen.spacetime.transformer_blocks import DiTBlock, FinalLayer
from jaxgen.spacetime.transformer_config import TransformerConfig, check_wave_width

Positions = Literal["sincos", "rotary"]


@dataclasses.dataclass(frozen=True)
class VideoDiTConfig(TransformerConfig):
    """Options of a VideoDiT; the defaults are those of DiT-S/2, frame by frame.

    Attributes:
      patch: P_t, P_y, P_x: frames, rows and columns of a tubelet.
      positions: "sincos" or "rotary".
    """

    patch: Patch = (1, 2, 2)
    positions: Positions = "sincos"

    axes: ClassVar[int] = 3

    def __post_init__(self) -> None:
        """Validates the fields."""
        super().__post_init__()
        object.__setattr__(self, "patch", patch_sides(self.patch, self.axes))
        if self.positions not in get_args(Positions):
            raise InputError(
                f"positions is {self.positions!r}, expected one of {', '.join(get_args(Positions))}"
            )
        if self.positions == "sincos":
            check_wave_width(self.width)
        else:
            rotary_split(self.width // self.heads)

    def make_model(self) -> "VideoDiT":
        """The network."""
        return VideoDiT(self)


class VideoDiT(nn.Module):
    """A denoiser: noisy videos, times and labels to predictions.

    Attributes:
      config: the options.
    """

    config: VideoDiTConfig

    def setup(self) -> None:
        """Makes the embeddings, the blocks and the final layer, as DiT's."""
        c = self.config
        self.patch_embedding = Dense((c.width,), ("patch", "embed"), c.dtype)
        self.condition = Condition(c.width, c.num_classes, c.null_class, c.class_dropout)
        block = nn.remat(DiTBlock) if c.remat else DiTBlock
        self.blocks = [block(c) for _ in range(c.depth)]
        self.final = FinalLayer(c)

    def __call__(
        self,
        z_BTYXC: Float[Array, "B T Y X C"],
        time_B: Float[Array, "B"],
        label_B: Int[Array, "B"] | None = None,
        *,
        train: bool = False,
    ) -> Float[Array, "B T Y X C_out"]:
        """The per-pixel prediction, [B, T, Y, X, out_channels] in float32.

        Args:
          z_BTYXC: [B, T, Y, X, in_channels] noisy videos; of images T = 1.
          time_B: [B] times; the frequencies are made for 0 to 1000.
          label_B: [B] class ids, ``num_classes`` for the null class; None without classes.
          train: whether labels are dropped, which needs the random stream "dropout".

        Raises:
          InputError: for shapes that do not fit the network.
        """
        c = self.config
        grid = c.check_input(z_BTYXC, time_B, label_B)
        condition_BD = self.condition.sum(time_B, label_B, train=train)
        tokens_BLF = patchify(z_BTYXC, c.patch)
        outputs_BLF = self._predict(tokens_BLF, grid_places(grid), condition_BD)
        return unpatchify(outputs_BLF, grid, c.patch)

    def packed(
        self,
        tokens_BLF: Float[Array, "B L F"],
        place_BLA: Real[Array, "B L 3"],
        segment_BL: Int[Array, "B L"],
        time_BE: Float[Array, "B E"],
        label_BE: Int[Array, "B E"] | None = None,
    ) -> Float[Array, "B L F_out"]:
        """The prediction for the patches of packed examples, in float32.

        Args:
          tokens_BLF: noisy patches, [B, L, P_t P_y P_x in_channels].
          place_BLA: frame, row and column of each in its own example, in patches.
          segment_BL: e + 1 where a token is of example e of its pack, 0 for padding.
          time_BE: the time of each example.
          label_BE: the class of each, ``num_classes`` for the null class; None without classes.

        Returns:
          [B, L, P_t P_y P_x out_channels]; what is given for padding means nothing.

        Raises:
          InputError: for shapes that do not belong together or do not fit the network.
        """
        c = self.config
        _check_pack(c, tokens_BLF, place_BLA, segment_BL, time_BE, label_BE)
        batch, examples = time_BE.shape
        label_N = None if label_BE is None else label_BE.reshape(-1)
        condition_ND = self.condition.sum(time_BE.reshape(-1), label_N)
        condition_BED = condition_ND.reshape(batch, examples, c.width)
        return self._predict(tokens_BLF, place_BLA, condition_BED, segment_BL)

    def _predict(
        self, tokens_BLF: Array, place: Any, condition: Array, segment_BL: Array | None = None
    ) -> Float[Array, "B L F"]:
        """From noisy patches to predicted ones, whatever their places."""
        c = self.config
        x_BLD = self.patch_embedding(tokens_BLF).astype(jnp.float32)
        angle, example_BLE = None, None
        if c.positions == "sincos":
            x_BLD = x_BLD + video_waves(place, c.width)
        else:
            angle = rotary_angles(place, rotary_split(c.width // c.heads))
        if segment_BL is not None:
            example_BLE = example_of_tokens(segment_BL, condition.shape[1])
        rest = {"segments_BL": segment_BL, "angle": angle, "example_BLE": example_BLE}
        for block in self.blocks:
            x_BLD = block(x_BLD, condition, **rest)
        return self.final(x_BLD, condition, example_BLE)


def video_waves(place: Real[Any, "*B L 3"], width: int) -> Float[Any, "*B L D"]:
    """DiT's waves of row and column, and waves of the frame that vanish at frame 0, in float32.

    Args:
      place: [..., 3], frame, row and column.
      width: D, a multiple of 4.
    """
    waves = sincos_places(place[..., 1:], width) + (sincos(place[..., 0], width) - _at_zero(width))
    return waves.astype(jnp.float32)


@functools.cache
def _at_zero(width: int) -> Any:
    """``sincos(0)``: as many zeros as ones."""
    return sincos(np.zeros(()), width)


def example_of_tokens(segment_BL: Int[Array, "B L"], examples: int) -> Float[Array, "B L E"]:
    """1 where a token is of an example (segment e + 1 of example e), else 0; of padding all 0."""
    return (segment_BL[..., None] == jnp.arange(1, examples + 1)).astype(jnp.float32)


def _check_pack(
    c: VideoDiTConfig, tokens: Array, place: Array, segment: Array, time: Array, label: Array | None
) -> None:
    """Refuses arrays that make no pack for this network, naming the first."""
    numbers = c.patch_outputs // c.out_channels * c.in_channels
    if tokens.ndim != 3 or tokens.shape[-1] != numbers:
        raise InputError(
            f"tokens have shape {tokens.shape}, expected [B, L, {numbers}]: {c.in_channels} "
            f"channels of patches of {c.patch}"
        )
    if time.ndim != 2:
        raise InputError(f"times have shape {time.shape}, expected [{len(tokens)}, E]")
    for name, array, shape in (
        ("places", place, (*tokens.shape[:2], 3)),
        ("segment ids", segment, tokens.shape[:2]),
        ("times", time, (len(tokens), *time.shape[1:2])),
    ):
        if array.shape != shape:
            raise InputError(f"{name} have shape {array.shape}, expected {list(shape)}")
    if (label is None) != (c.num_classes == 0) or (label is not None and label.shape != time.shape):
        found = None if label is None else label.shape
        wanted = list(time.shape) if c.num_classes else None
        raise InputError(f"labels have shape {found}, expected {wanted}, as times")
