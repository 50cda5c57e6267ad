"""Which keys a query sees, said without writing down all pairs.

* *Segment ids*: a query sees the keys with its own id. Packed examples have one each; so have the
  tokens of one frame, or of one place in all frames, where attention is factorised.
* *Reach*: on top of it, keys at most so far before and behind the query on an axis, the time:
  ``-before <= m - n <= after``. Causal attention has after = 0, a window both.
* *View*: a grid of tokens [T, S] (frames, places) read as T rows of S, or S rows of T: frames or
  places become examples, and no pair that may not see each other is computed.
"""

import dataclasses
import functools
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Bool, Int, Shaped

from jaxgen.errors import InputError

Segments = tuple[Int[Array, "B L"], Int[Array, "B N"]]
"""Segment ids of the queries and of the keys."""

Over = Literal["all", "space", "time"]
"""What tokens of a grid attend over: everything, their own frame, or their own place."""


class Reach(NamedTuple):
    """How far from a query keys may be on an axis: ``-before <= key - query <= after``.

    Attributes:
      of_queries_BL: where queries are, [B, L] or [1, L] for every example.
      of_keys_BN: where keys are.
      before: how far back a query sees; None without limit.
      after: how far ahead; 0 for causal attention.
    """

    of_queries_BL: Int[Any, "#B L"]
    of_keys_BN: Int[Any, "#B N"]
    before: Any = None
    after: Any = None


def causal_reach(length: int) -> Reach:
    """Tokens in their order, of which each sees itself and those before it."""
    place_1L = np.arange(length)[None]
    return Reach(place_1L, place_1L, after=0)


def visible(segments: Segments | None, reach: Reach | None) -> Bool[Array, "#B L N"] | None:
    """Whether a query sees a key, [B, L, N]; None where all see all."""
    seen_BLN = None
    if segments is not None:
        seen_BLN = segments[0][:, :, None] == segments[1][:, None, :]
    if reach is not None:
        ahead_BLN = reach.of_keys_BN[:, None, :] - reach.of_queries_BL[:, :, None]
        for limit, inside in ((reach.before, -ahead_BLN), (reach.after, ahead_BLN)):
            if limit is not None:
                near_BLN = inside <= limit
                seen_BLN = near_BLN if seen_BLN is None else seen_BLN & near_BLN
    return seen_BLN


def check_reach(reach: Reach | None, batch: int, length: int, keys: int) -> None:
    """Refuses positions that do not fit queries and keys.

    Raises:
      InputError: naming the shapes.
    """
    if reach is None:
        return
    shapes = reach.of_queries_BL.shape, reach.of_keys_BN.shape
    if any(s not in ((batch, n), (1, n)) for s, n in zip(shapes, (length, keys), strict=True)):
        raise InputError(
            f"positions of a reach have shapes {shapes}, expected [{batch}, {length}] of the "
            f"queries and [{batch}, {keys}] of the keys"
        )


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("segments_BL", "reach"),
    meta_fields=("over", "grid"),
)
@dataclasses.dataclass(frozen=True)
class View:
    """How tokens are laid out for one attention to each other.

    Attributes:
      over: what is attended over. Of packs "all": their segment ids say the rest.
      grid: T and S of clips that are folded; None where nothing is.
      segments_BL: segment ids.
      reach: a limit along time, of the tokens as they are after folding.
    """

    over: Over = "all"
    grid: tuple[int, int] | None = None
    segments_BL: Int[Array, "B L"] | None = None
    reach: Reach | None = None

    def fold(self, x_BLHK: Shaped[Array, "B L H K"]) -> Shaped[Array, "B2 L2 H K"]:
        """Frames, or places, as examples: [B, T S, ...] to [B T, S, ...] or [B S, T, ...]."""
        if self.over == "all" or self.grid is None:
            return x_BLHK
        (frames, places), rest = self.grid, x_BLHK.shape[2:]
        if self.over == "space":
            return x_BLHK.reshape(-1, places, *rest)
        x = x_BLHK.reshape(-1, frames, places, *rest).swapaxes(1, 2)
        return x.reshape(-1, frames, *rest)

    def unfold(self, x_BLHK: Shaped[Array, "B2 L2 H K"]) -> Shaped[Array, "B L H K"]:
        """The inverse of `fold`."""
        if self.over == "all" or self.grid is None:
            return x_BLHK
        (frames, places), rest = self.grid, x_BLHK.shape[2:]
        if self.over == "time":
            x_BLHK = x_BLHK.reshape(-1, places, frames, *rest).swapaxes(1, 2)
        return x_BLHK.reshape(-1, frames * places, *rest)
