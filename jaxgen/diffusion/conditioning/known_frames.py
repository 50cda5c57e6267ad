"""Videos of which some frames are known: extended, joined, filled in, closed to loops, animated.

Every task says which frames of the new video are known and what they are (`KnownFrames`); what
makes the others is the same for all of them (`complete_frames`)::

    given = extended_clip(clip_BTYXC, after=8)
    video = complete_frames(DDIM(), denoiser, given, levels, key, method="moments")

=================  ==================================================================
`extended_clip`    frames before and after a clip
`joined_clips`     frames between two clips
`filled_clip`      frames between all frames of a clip
`animated_image`   frames after an image
`closed_clip`      frames that lead from a clip's end back to its start: a loop
=================  ==================================================================

Methods, for a denoiser that was trained on nothing but whole videos (see
`jaxgen.diffusion.conditioning.reconstruction` for where each is exact)::

    "moments"      guidance by the denoiser's own covariance: exact for Gaussian videos
    "guidance"     Ho et al. 2022, section 3.1: the known frames replaced by noisy ones in every
                   step, the others guided by w a / 2 grad |x - x^|^2 on the known frames
    "replacement"  the known frames replaced alone, which samples another distribution

A denoiser that was trained with known frames (`jaxgen.diffusion.conditioning.frame_masks`) takes
them as its input and needs none of these.

**Loops.** A video of T + 1 frames is a loop of T where its last frame is its first. `closed_clip`
continues a clip so. Without a clip the condition ``x_0 - x_T = 0`` is an observation of a linear
function of the video (`looped`), exact for Gaussian videos. `Circular` rotates the frames in time
from step to step (the latent shift of Bi et al. 2025, "Mobius"), so that the seam is at another
place each time and no frame is first or last.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, Shaped

from jaxgen.diffusion.conditioning.editing import sdedit
from jaxgen.diffusion.conditioning.guidance import GuidanceWeight
from jaxgen.diffusion.conditioning.image_to_image import with_known
from jaxgen.diffusion.conditioning.inpainting import Replacement
from jaxgen.diffusion.conditioning.masks import keep_known, known_data
from jaxgen.diffusion.conditioning.reconstruction import (
    masked,
    moment_guidance,
    reconstruction_guidance,
)
from jaxgen.diffusion.denoiser import Denoiser, Estimate, clip_x
from jaxgen.diffusion.process.example_keys import example_indices
from jaxgen.diffusion.process.levels import Level
from jaxgen.diffusion.samplers.sampling import (
    Sampler,
    SampleState,
    initial_noise,
    sample,
)
from jaxgen.errors import InputError
from jaxgen.pixels import as_data

KnownFramesMethod = Literal["moments", "guidance", "replacement"]


class KnownFrames(NamedTuple):
    """What is known of videos.

    Attributes:
      x: the videos, [B, T, ...], bytes or real numbers in about [-1, 1]; frames that are not known
        may be anything, here zero.
      known: 1 for known frames, broadcasts against x: [T, 1, ...], or [B, T, 1, ...].
    """

    x: Any
    known: Any


def extended_clip(clip: Shaped[Array, "B T ..."], after: int = 0, before: int = 0) -> KnownFrames:
    """Extension in time: a clip with frames to be made after it, before it, or both.

    Args:
      clip: bytes, or real numbers in about [-1, 1].
      after: frames to be made behind it.
      before: frames to be made in front of it.

    Raises:
      InputError: for a negative number, or where there is nothing to make.
    """
    _check_count("before", before, 0)
    _check_count("after", after, 0)
    if not after + before:
        raise InputError("after is 0, before is 0, expected frames to be made")
    return _spread(clip, [before + t for t in range(clip.shape[1])], before + clip.shape[1] + after)


def joined_clips(
    first: Shaped[Array, "B T ..."], second: Shaped[Array, "B T2 ..."], gap: int
) -> KnownFrames:
    """Two clips with frames to be made between them.

    Args:
      first: what comes first.
      second: what comes last, of the same B and frame shape.
      gap: frames to be made.

    Raises:
      InputError: for no frames, or clips that do not belong together.
    """
    _check_count("gap", gap, 1)
    if (first.shape[:1], first.shape[2:]) != (second.shape[:1], second.shape[2:]):
        raise InputError(
            f"clips have shapes {first.shape} and {second.shape}, expected the same in all but the "
            "number of frames"
        )
    both = jnp.concatenate([as_data(first, "clip"), as_data(second, "clip")], axis=1)
    start = first.shape[1] + gap
    places = [*range(first.shape[1]), *range(start, start + second.shape[1])]
    return _spread(both, places, start + second.shape[1])


def filled_clip(clip: Shaped[Array, "B T ..."], between: int) -> KnownFrames:
    """Interpolation in time: so many frames to be made between every two of a clip.

    Args:
      clip: at least two frames.
      between: frames between two neighbours; 1 doubles the frame rate.

    Raises:
      InputError: for no frames between, or a clip of a single frame.
    """
    _check_count("between", between, 1)
    frames = clip.shape[1]
    if frames < 2:
        raise InputError(f"clip has shape {clip.shape}, expected two frames or more")
    places = [t * (between + 1) for t in range(frames)]
    return _spread(clip, places, places[-1] + 1)


def animated_image(image: Shaped[Array, "B ..."], frames: int) -> KnownFrames:
    """A video whose first frame is an image.

    Args:
      image: [B, Y, X, C].
      frames: of the video, its first included.

    Raises:
      InputError: for fewer than two frames.
    """
    _check_count("frames", frames, 2)
    return extended_clip(image[:, None], after=frames - 1)


def closed_clip(clip: Shaped[Array, "B T ..."], gap: int, again: int = 1) -> KnownFrames:
    """A clip, frames to be made, and the clip's first frames once more: a loop.

    Args:
      clip: [B, T, ...].
      gap: frames to be made; the loop has ``T + gap`` of them, and the last `again` frames of the
        video are to be left out of it.
      again: how many of the first frames are shown at the end; with two or more the motion fits
        too, not only the place.

    Raises:
      InputError: for no frames to be made, or more frames again than there are.
    """
    if not 1 <= again <= clip.shape[1]:
        raise InputError(f"again is {again}, expected 1 to {clip.shape[1]}, the clip's frames")
    return joined_clips(clip, clip[:, :again], gap)


def _check_count(name: str, value: int, least: int) -> None:
    if value < least:
        raise InputError(f"{name} is {value}, expected {least} or more")


def _spread(clip: Shaped[Array, "B T ..."], places: list[int], frames: int) -> KnownFrames:
    """The frames of a clip at their places in a longer one."""
    clip = jnp.asarray(as_data(clip, "clip"))
    x = jnp.zeros((len(clip), frames, *clip.shape[2:]), clip.dtype)
    known = np.zeros((frames, *(1,) * (clip.ndim - 2)), np.float32)
    known[places] = 1
    return KnownFrames(x.at[:, np.array(places)].set(clip), known)


def with_known_frames(
    sampler: Sampler,
    denoiser: Denoiser,
    given: KnownFrames,
    method: KnownFramesMethod = "moments",
    *,
    weight: GuidanceWeight = 1.0,
    iterations: int = 10,
    noise: float = 0.0,
    clip: bool = False,
) -> tuple[Sampler, Denoiser]:
    """The sampler and the denoiser that complete known frames, for `sample` and its kin.

    Args:
      sampler: the method of sampling.
      denoiser: of whole videos, not clipped, since clipping has no gradient.
      given: what is known.
      method: see the module.
      weight: w of "guidance"; how large it may be stands in
        `jaxgen.diffusion.conditioning.reconstruction`.
      iterations: of "moments", each a backward pass; for Gaussian videos as many as the known
        numbers have different variances given z.
      noise: of "moments", the deviation that known numbers may have. The derivative of a trained
        network is no covariance, only nearly one, and without noise large estimates follow from
        small eigenvalues: 0.3 and 2 iterations are a beginning.
      clip: whether x^ is kept within [-1, 1].

    Raises:
      InputError: for an unknown method.
    """
    if method not in get_args(KnownFramesMethod):
        raise InputError(
            f"method is {method!r}, expected one of {', '.join(get_args(KnownFramesMethod))}"
        )
    operator, x = masked(given.known), known_data(given.known, given.x)
    if method == "moments":
        denoiser = moment_guidance(
            denoiser, operator, operator(x), iterations=iterations, noise=noise
        )
        denoiser = with_known(denoiser, given.known, x)
    else:
        sampler = Replacement(sampler, given.known, x)
    if method == "guidance":
        denoiser = reconstruction_guidance(denoiser, operator, operator(x), weight)
    return sampler, clip_x(denoiser) if clip else denoiser


def complete_frames(
    sampler: Sampler,
    denoiser: Denoiser,
    given: KnownFrames,
    levels: Level,
    key: Key[Array, ""],
    index_B: Int[Array, "B"] | None = None,
    *,
    method: KnownFramesMethod = "moments",
    weight: GuidanceWeight = 1.0,
    iterations: int = 10,
    noise: float = 0.0,
    clip: bool = False,
    guide: Shaped[Array, "B T ..."] | None = None,
) -> Float[Array, "B T ..."]:
    """Videos whose known frames are those given.

    Args:
      sampler: as `with_known_frames`, and so the rest up to `clip`.
      denoiser: see there.
      given: see there.
      levels: [N + 1], from noise to data.
      key: randomness.
      index_B: which example each is; 0 .. B-1 if not given.
      method: see there.
      weight: see there.
      iterations: see there.
      noise: see there.
      clip: see there.
      guide: a video that the result is like, for SDEdit: the sampler starts at it with noise, at
        the first of the levels (`jaxgen.diffusion.conditioning.editing.last_steps`).

    Returns:
      [B, T, ...], known frames as they are given; example b depends on the key, its index, and what
      is given of it alone.
    """
    sampler, denoiser = with_known_frames(
        sampler,
        denoiser,
        given,
        method,
        weight=weight,
        iterations=iterations,
        noise=noise,
        clip=clip,
    )
    if guide is not None:
        made = sdedit(sampler, denoiser, guide, levels, key, index_B)
    else:
        index_B = example_indices(index_B, len(given.x))
        z = initial_noise(key, index_B, given.x.shape[1:], levels)
        made = sample(sampler, denoiser, z, levels, key, index_B)
    # The last level of some schedules is not quite clean data.
    return keep_known(given.known, known_data(given.known, given.x), made)


def looped(denoiser: Denoiser, iterations: int = 10) -> Denoiser:
    """A denoiser of videos whose last frame is their first, by moment guidance.

    Args:
      denoiser: of videos [B, T + 1, ...], not clipped.
      iterations: conjugate gradient steps, as in `moment_guidance`.

    Returns:
      The guided denoiser; the loop is the first T frames of its samples.
    """

    def guided(z: Float[Array, "B T ..."], level: Level) -> Estimate:
        observed = jnp.zeros_like(first_less_last(z))
        return moment_guidance(denoiser, first_less_last, observed, iterations=iterations)(z, level)

    return guided


def first_less_last(x: Float[Array, "B T ..."]) -> Float[Array, "B ..."]:
    """The first frame less the last one."""
    return x[:, 0] - x[:, -1]


class CircularRow(NamedTuple):
    """A row of a sampler's table, and where the video begins in it.

    Attributes:
      now: where the denoiser is evaluated.
      next: where the row ends.
      row: the sampler's row.
      offset: which frame the denoiser sees first, modulo T.
    """

    now: Level
    next: Level
    row: Any
    offset: Any


@dataclasses.dataclass(frozen=True)
class Circular:
    """A sampler of loops: in row i the denoiser sees the frames from frame ``i shift`` on.

    Attributes:
      sampler: makes the steps.
      shift: by how many frames the start moves from row to row; without a common divisor with T,
        so that every frame comes first.

    Raises:
      InputError: for a shift below 1.
    """

    sampler: Sampler
    shift: int = 1

    def __post_init__(self) -> None:
        _check_count("shift", self.shift, 1)

    def table(self, levels: Level) -> CircularRow:
        """The sampler's rows, numbered."""
        rows = self.sampler.table(levels)
        offset_N = self.shift * np.arange(len(jax.tree.leaves(rows)[0]), dtype=np.int32)
        return CircularRow(rows.now, rows.next, rows, offset_N)

    def start(self, z: Float[Array, "B ..."]) -> SampleState:
        """That of the sampler."""
        return self.sampler.start(z)

    def step(
        self, denoiser: Denoiser, state: SampleState, row: CircularRow, keys_B: Key[Array, "B"]
    ) -> SampleState:
        """A step of the sampler with a rotated denoiser."""
        return self.sampler.step(_rotated(denoiser, row.offset), state, row.row, keys_B)


def _rotated(denoiser: Denoiser, offset: Int[Array, ""]) -> Callable[[Array, Level], Estimate]:
    """The denoiser of videos that begin at another frame."""

    def rotated(z: Float[Array, "B T ..."], level: Level) -> Estimate:
        estimate = denoiser(jnp.roll(z, -offset, axis=1), level)
        return jax.tree.map(lambda value: jnp.roll(value, offset, axis=1), estimate)

    return rotated
