"""Which tokens of a video attend to each other, on clips and on packs.

================ =================================================== ============== =============
pattern          blocks                                              Latte          ViViT
================ =================================================== ============== =============
joint            all tokens of a video                                              model 1
factorised       in each block in space, then in time                variant 3      model 3
interleaved      in space, in time, in space, ...                    variant 1
space_then_time  the first half in space, the second in time         variant 2      (model 2)
split_heads      half of the heads in space, the others in time      variant 4      model 4
================ =================================================== ============== =============

Latte: Ma et al. 2024; ViViT: Arnab et al. 2021, whose model 2 pools frames before it attends in
time. *In space* tokens see their own frame, *in time* their own place in all frames. Of clips,
frames or places become examples (`jaxgen.nn.visibility.View`). In packs the same is said by segment
ids, one for each (example, frame) or each (example, row, column). Causal attention and windows are
limits on what attends in time, or jointly.
"""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Real

from jaxgen.nn.visibility import Over, Reach, View

AttentionPattern = Literal["joint", "factorised", "interleaved", "space_then_time", "split_heads"]

Views = Mapping[Over, View]
"""How tokens are laid out to attend over everything, their own frame, or their own place."""


class BlockPattern(NamedTuple):
    """What a block attends over.

    Attributes:
      over: by its attention; heads are shared out.
      then_in_time: whether there is a second attention, in time.
    """

    over: tuple[Over, ...] = ("all",)
    then_in_time: bool = False

    @property
    def is_temporal(self) -> bool:
        """Whether the whole block attends in time alone."""
        return self.over == ("time",)

    @property
    def sees_time(self) -> bool:
        """Whether tokens see other frames."""
        return self.then_in_time or self.over != ("space",)


def block_patterns(pattern: AttentionPattern, depth: int) -> list[BlockPattern]:
    """What each block of a network attends over."""
    space, time = BlockPattern(("space",)), BlockPattern(("time",))
    if pattern == "interleaved":
        return [(space, time)[i % 2] for i in range(depth)]
    if pattern == "space_then_time":
        first = (depth + 1) // 2
        return [space] * first + [time] * (depth - first)
    if pattern == "factorised":
        return [BlockPattern(("space",), then_in_time=True)] * depth
    if pattern == "split_heads":
        return [BlockPattern(("space", "time"))] * depth
    return [BlockPattern()] * depth


def time_limits(causal: bool, window: int | None) -> tuple[int | None, int | None] | None:
    """Frames that are seen before and after one's own; None where all are."""
    if not causal and window is None:
        return None
    return window, 0 if causal else window


def clip_views(grid: tuple[int, ...], causal: bool = False, window: int | None = None) -> Views:
    """The views of clips of one size.

    Args:
      grid: T, Y, X in patches.
      causal: whether no later frame is seen.
      window: frames seen on either side; None for all.
    """
    frames, places = grid[0], grid[1] * grid[2]
    limits = time_limits(causal, window)
    over_all = in_time = None
    if limits is not None:
        # Behind a barrier, or the compiler works out all pairs when it folds constants.
        at_T = jax.lax.optimization_barrier(jnp.arange(frames, dtype=jnp.int32))
        at_1T, at_1L = at_T[None], jnp.repeat(at_T, places)[None]
        in_time, over_all = Reach(at_1T, at_1T, *limits), Reach(at_1L, at_1L, *limits)
    folded = frames, places
    return {
        "all": View(reach=over_all),
        "space": View("space", folded),
        "time": View("time", folded, reach=in_time),
    }


def pack_views(
    place_BLA: Real[Array, "B L 3"],
    segment_BL: Int[Array, "B L"],
    causal: bool = False,
    window: int | None = None,
) -> Views:
    """The views of packed examples, whose ids grow along the pack where places do.

    Args:
      place_BLA: frame, row and column of each token.
      segment_BL: e + 1 where a token is of example e, 0 for padding.
      causal: whether no later frame is seen.
      window: frames seen on either side; None for all.
    """
    at_BLA = jnp.floor(jnp.asarray(place_BLA)).astype(jnp.int32)
    t_BL, y_BL, x_BL = (at_BLA[..., i] - at_BLA[..., i].min() for i in range(3))
    own_BL = attention_ids(segment_BL)
    limits = time_limits(causal, window)
    reach = None if limits is None else Reach(t_BL, t_BL, *limits)
    in_space = joined_ids(own_BL, t_BL)
    in_time = joined_ids(joined_ids(own_BL, y_BL), x_BL)
    return {
        "all": View(segments_BL=own_BL, reach=reach),
        "space": View(segments_BL=in_space),
        "time": View(segments_BL=in_time, reach=reach),
    }


def attention_ids(segment_BL: Int[Array, "B L"]) -> Int[Array, "B L"]:
    """Segment ids with padding as the last segment, so that ids grow along a pack."""
    return jnp.where(segment_BL == 0, segment_BL.shape[1] + 1, segment_BL)


def joined_ids(major: Int[Any, "B L"], minor: Int[Any, "B L"]) -> Int[Array, "B L"]:
    """One id for each pair; minor ones are 0 or more."""
    return major * (minor.max() + 1) + minor
