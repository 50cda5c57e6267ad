"""Videos of any length, frame after frame: each frame has a noise level of its own.

The frames of a moving window stand at levels that rise from the first, nearly data, to the last,
nearly noise (Ruhe et al. 2024, "Rolling diffusion"; Kim et al. 2024, "FIFO-diffusion", with one
step a frame). In each round all frames take n steps down, the first one becomes data and leaves the
window, and a frame of noise enters at its end. With N = W n levels 0 .. N from noise to data, frame
f is at

    level clip(g - f n, 0, N)        after g steps

so frames before it are clearer and those after it noisier, and what is drawn next to the front is
decided while what lies ahead is still open. `context` frames stay in sight, clean, after they have
left. For this the denoiser takes levels [B, T], as one trained with levels of frames does
(``level_axes=2`` of `jaxgen.diffusion.objectives.losses.diffusion_loss`; Chen et al. 2024,
"Diffusion forcing"). With the exact denoiser of data that are Markov in time, such as AR(1), and
one frame of context, samples have the right distribution in the limit of many steps: frames at pure
noise say nothing of the others, nor do clean ones behind the context.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Int32, Key, Shaped

from jaxgen.diffusion.denoiser import Denoiser, visiting
from jaxgen.diffusion.process.example_keys import example_keys, normal, step_keys
from jaxgen.diffusion.process.levels import Level
from jaxgen.diffusion.samplers.linear import LinearRow, LinearSampler
from jaxgen.errors import InputError
from jaxgen.pixels import as_data


class RollingPlan(NamedTuple):
    """Which step each frame of the window takes.

    Attributes:
      row_RNT: in round r and step n the row of the sampler's table for each frame of the window.
      moves_RNT: whether the frame moves, or rests at the row's level.
    """

    row_RNT: Int32[np.ndarray, "R N T"]
    moves_RNT: Bool[np.ndarray, "R N T"]


def plan_rolling(
    frames: int, span: int, steps: int, context: int = 1, known: int = 0
) -> RollingPlan:
    """The steps of all frames: of frame ``r - span + 1 - context + i`` in row [r, n, i].

    Args:
      frames: to be made.
      span: W, frames on their way at once.
      steps: n, steps of a round.
      context: clean frames that stay in sight.
      known: frames that are given before the first; those before them rest at pure noise.

    Returns:
      ``frames + span - 1`` rounds. The rows of the table are 0 .. W n - 1; W n stands for rest at
      the noisiest level and W n + 1 for rest at the last one.
    """
    rounds, count = frames + span - 1, span * steps
    r_R11, n_N1 = np.arange(rounds)[:, None, None], np.arange(steps)[:, None]
    frame_R1T = r_R11 - span + 1 - context + np.arange(context + span)
    step_RNT = (r_R11 - frame_R1T) * steps + n_N1
    moves_RNT = (frame_R1T >= 0) & (step_RNT < count)
    clean_RNT = (frame_R1T >= -known) & (step_RNT >= 0)
    rest_RNT = np.where(clean_RNT, count + 1, count)
    return RollingPlan(np.where(moves_RNT, step_RNT, rest_RNT).astype(np.int32), moves_RNT)


def sample_rolling(
    sampler: LinearSampler,
    denoiser: Denoiser,
    levels: Level,
    shape: tuple[int, ...],
    frames: int,
    span: int,
    key: Key[Array, ""],
    index_B: Int[Array, "B"],
    *,
    context: int = 1,
    start: Shaped[Array, "B T ..."] | None = None,
) -> Float[Array, "B T ..."]:
    """A video of any length, whose frames become data one after the other.

    Args:
      sampler: takes the steps; one that evaluates once per step and has no memory, such as `DDIM`.
      denoiser: of videos of ``context + span`` frames at levels [B, T].
      levels: [N + 1] that each frame goes through, N a multiple of the span.
      shape: of a frame, such as Y, X, C.
      frames: to be made, any number; memory grows with the result alone.
      span: W, frames on their way at once.
      key: randomness.
      index_B: which example each is.
      context: clean frames that stay in sight.
      start: known frames that the video continues, of which ``context + span - 1`` at most are
        seen; None: what lies before the first frame is pure noise to the denoiser.

    Returns:
      [B, frames, *shape], without the start. The first frames do not depend on how many follow, nor
      an example on the others.

    Raises:
      InputError: for numbers below 1, steps that the span does not divide, a sampler with memory or
        with several rows per step, and a start of another shape.
    """
    for name, value, least in (("frames", frames, 1), ("span", span, 1), ("context", context, 0)):
        if value < least:
            raise InputError(f"{name} is {value}, expected {least} or more")
    table = _check_table(sampler, levels, span)
    steps = len(table.noise) // span
    before = _frames_before(start, shape, len(index_B), context + span - 1)
    plan = plan_rolling(frames, span, steps, context, before.shape[1])
    rows = _with_rest(table, levels)
    keys_B = example_keys(key, index_B)
    frame_keys_B, round_keys_B, past_keys_B = (step_keys(keys_B, i) for i in range(3))
    deviation = np.float32(np.hypot(*(np.ravel(np.asarray(v))[0] for v in (levels.a, levels.s))))

    def fresh(keys_B: Key[Array, "B"], frame: Int[Array, ""] | int) -> Float[Array, "B 1 ..."]:
        return deviation * normal(step_keys(keys_B, frame), (1, *shape))

    def step(
        z: Float[Array, "B T ..."], numbered: tuple[Array, Array, Array]
    ) -> tuple[Float[Array, "B T ..."], None]:
        number, row_T, moves_T = numbered
        row = _rows_of_frames(rows, row_T, z)
        after = sampler.step(denoiser, sampler.start(z), row, step_keys(round_keys_B, number)).z
        return jnp.where(_as_frames(moves_T, z), after, z), None

    def roll(
        z: Float[Array, "B T ..."], numbered: tuple[Array, Array, Array]
    ) -> tuple[Float[Array, "B T ..."], Float[Array, "B ..."]]:
        number, row_NT, moves_NT = numbered
        steps_N = number * steps + jnp.arange(steps)
        z, _ = jax.lax.scan(step, z, (steps_N, row_NT, moves_NT))
        return jnp.concatenate([z[:, 1:], fresh(frame_keys_B, number + 1)], axis=1), z[:, context]

    unknown = context + span - 1 - before.shape[1]
    noise = [fresh(past_keys_B, i) for i in range(unknown)]
    z = jnp.concatenate([*noise, before, fresh(frame_keys_B, 0)], axis=1)
    with visiting(levels):
        rows_R = jnp.arange(len(plan.row_RNT)), jnp.asarray(plan[0]), jnp.asarray(plan[1])
        _, made_RB = jax.lax.scan(roll, z, rows_R)
    return jnp.moveaxis(made_RB[span - 1 :], 0, 1)


def _check_table(sampler: LinearSampler, levels: Level, span: int) -> LinearRow:
    """The sampler's rows, if each is a step by itself."""
    table = sampler.table(levels)
    count = len(np.asarray(levels.t)) - 1
    if count % span:
        raise InputError(f"levels have {count} steps, expected a multiple of the span, {span}")
    if not isinstance(table, LinearRow) or len(table.noise) != count:
        raise InputError(
            f"{type(sampler).__name__} has several rows per step, expected a sampler that "
            "evaluates once per step and has no memory, such as DDIM"
        )
    if any(lag for _, lag in sampler.terms):
        raise InputError(
            f"{type(sampler).__name__} remembers earlier steps, expected a sampler without memory, "
            "such as DDIM"
        )
    return table


def _frames_before(
    start: Array | None, shape: tuple[int, ...], batch: int, most: int
) -> Float[Array, "B T ..."]:
    """The last of the known frames, as many as are seen."""
    if start is None:
        return jnp.zeros((batch, 0, *shape))
    if (start.shape[0], *start.shape[2:]) != (batch, *shape):
        raise InputError(
            f"start has shape {start.shape}, expected [{batch}, T] frames of shape {shape}"
        )
    start = jnp.asarray(as_data(start, "start"), jnp.float32)
    return start[:, max(start.shape[1] - most, 0) :]


def _with_rest(table: LinearRow, levels: Level) -> LinearRow:
    """The rows, and two more for frames that rest: at the first level, and at the last one."""
    ends = [jax.tree.map(lambda value, i=i: np.asarray(value)[[i]], levels) for i in (0, -1)]
    none = jax.tree.map(lambda value: np.zeros_like(value[:1]), table)
    rest = [none._replace(now=end, next=end) for end in ends]
    return jax.tree.map(
        lambda *parts: jnp.asarray(np.concatenate(parts), jnp.float32), table, *rest
    )


def _rows_of_frames(rows: LinearRow, row_T: Int[Array, "T"], z: Array) -> LinearRow:
    """A row for each frame as one that the sampler takes, with levels [B, T]."""
    row: Any = jax.tree.map(lambda value: value[row_T], rows)
    spread = lambda value: jnp.broadcast_to(value, z.shape[:2])  # noqa: E731
    return LinearRow(
        jax.tree.map(spread, row.now),
        jax.tree.map(spread, row.next),
        [_as_frames(row.weights[:, i], z) for i in range(row.weights.shape[1])],
        _as_frames(row.noise, z),
    )


def _as_frames(value_T: Shaped[Array, "T"], z: Array) -> Shaped[Array, "1 T ..."]:
    """One number for each frame, [1, T, 1, ...]."""
    return value_T.reshape(1, -1, *(1,) * (z.ndim - 2))
