"""Where the tokens of a video are, as what is added to tokens or turns queries and keys.

========== =====================================================================================
sincos     waves of row and column, as DiT's, and of the frame
rotary     queries and keys are turned (`jaxgen.nn.video_rotary`)
learned    a row of a table for every place of a grid (Dosovitskiy et al. 2021)
absolute   a row of a table for each axis, added up: ``phi(t) + phi(y) + phi(x)`` (NaViT)
fractional the same at the share p / side of an example's side, linear between the rows (NaViT)
========== =====================================================================================

NaViT: Dehghani et al. 2023, section 2. Of waves, those of the frame are the temporal part; they can
be given to the tokens (``waves(t) - waves(0)``, nothing at frame 0), as in Latte to the stream
before the first block that attends in time, or to attention in time alone. The last leaves frames
alone where attention in time starts as nothing, so it is what factorised networks do by default.
"""

import functools
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Real

from jaxgen.nn.attention import Angle
from jaxgen.nn.positions import sincos, sincos_places
from jaxgen.nn.video_rotary import RotaryForm, video_angles

Positions = Literal["sincos", "rotary", "learned", "absolute", "fractional"]
TimeWaves = Literal["auto", "tokens", "first_time_block", "time_attention"]

normal = nn.initializers.normal(0.02)


class Placed(NamedTuple):
    """What places give.

    Attributes:
      added: to the tokens, [..., L, D] or None.
      angle: that turns queries and keys, or None.
      time_waves: of the frame, [..., L, D], where they are not given to the tokens; or None.
    """

    added: Any = None
    angle: Angle | None = None
    time_waves: Any = None


class VideoPositions(nn.Module):
    """From the places of tokens to what is done with them.

    Attributes:
      width: D.
      heads: H.
      positions: see the table above.
      rotary: the form of rotary positions.
      max_grid: frames, rows and columns of the tables.
      waves_to_tokens: whether the frame's waves are given to the tokens.
    """

    width: int
    heads: int
    positions: Positions = "sincos"
    rotary: RotaryForm = "wan"
    max_grid: tuple[int, int, int] = (16, 32, 32)
    waves_to_tokens: bool = True

    @nn.compact
    def __call__(self, place: Real[Any, "*B L 3"], side: Real[Any, "... 3"]) -> Placed:
        """What the places give.

        Args:
          place: frame, row and column of each token.
          side: frames, rows and columns of the example that it is of.
        """
        if self.positions == "rotary":
            head_size = self.width // self.heads
            return Placed(angle=video_angles(place, self.rotary, self.heads, head_size))
        if self.positions == "sincos" and self.waves_to_tokens:
            return Placed(added=video_waves(place, self.width))
        if self.positions == "sincos":
            added = sincos_places(place[..., 1:], self.width).astype(jnp.float32)
            return Placed(added, None, sincos(place[..., 0], self.width).astype(jnp.float32))
        if self.positions == "learned":
            _, rows, columns = self.max_grid
            at = jnp.asarray(place, jnp.int32)
            number = (at[..., 0] * rows + at[..., 1]) * columns + at[..., 2]
            return Placed(added=self._table("table", int(np.prod(self.max_grid)))[number])
        share = None if self.positions == "absolute" else side
        return Placed(added=self._of_axes(place, share))

    def _of_axes(self, place: Array, side: Array | None) -> Float[Array, "*B L D"]:
        """Rows of the tables of the axes, added up."""
        total: Any = 0.0
        for axis, (name, size) in enumerate(zip(("t", "y", "x"), self.max_grid, strict=True)):
            table_ND = self._table(name, size)
            if side is None:
                total = total + table_ND[jnp.asarray(place[..., axis], jnp.int32)]
            else:
                at = jnp.asarray(place[..., axis] / side[..., axis], jnp.float32) * (size - 1)
                below = jnp.clip(jnp.floor(at).astype(jnp.int32), 0, size - 1)
                part = (at - below)[..., None]
                above = jnp.minimum(below + 1, size - 1)
                total = total + table_ND[below] * (1 - part) + table_ND[above] * part
        return total

    def _table(self, name: str, rows: int) -> Array:
        named = nn.with_logical_partitioning(normal, ("positions", "embed"))
        return jnp.asarray(self.param(name, named, (rows, self.width)))


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
