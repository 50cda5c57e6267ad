"""What is known of clips by task, and samplers of the rest, in batches over the mesh."""

import math
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

import jax
import numpy as np
from jaxtyping import Array, Float, UInt8

from experiments.shared.output import progress_bar
from experiments.video.support.clip_sampling import CLIPS_PER_CALL
from jaxgen.diffusion import Denoiser, Level, clip_x
from jaxgen.diffusion.conditioning.editing import last_steps, sdedit
from jaxgen.diffusion.conditioning.image_to_image import with_known
from jaxgen.diffusion.conditioning.known_frames import (
    KnownFrames,
    animated_image,
    closed_clip,
    complete_frames,
    extended_clip,
    joined_clips,
)
from jaxgen.diffusion.conditioning.masks import frame_mask
from jaxgen.diffusion.conditioning.video_windows import sample_windows
from jaxgen.diffusion.model import DenoiserConfig
from jaxgen.diffusion.process.step_levels import make_steps
from jaxgen.diffusion.samplers import DDIM
from jaxgen.diffusion.samplers.sampling import initial_noise, sample
from jaxgen.errors import InputError
from jaxgen.parallel import (
    Layout,
    current_mesh,
    gather_fsdp,
    num_batch_shards,
    put_batch,
    replicated,
)
from jaxgen.typing import Batch, Tree

TaskName = Literal["extend", "before", "join", "interpolate", "loop", "animate", "sdedit", "long"]
MethodName = Literal["moments", "guidance", "replacement", "trained"]

FOLLOWS: tuple[TaskName, ...] = ("extend", "before", "join", "interpolate", "long")
"""Tasks whose known frames are of one clip and say how it moves, so that there is an answer."""


@dataclass(frozen=True)
class ClipTask:
    """A task and how it is done.

    Attributes:
      task: see `known_part`.
      method: see `jaxgen.diffusion.conditioning.known_frames`; "trained" is a network that takes
        known frames.
      known: frames that are known at an end.
      window: frames of a window of "long".
      steps: of the sampler.
      eta: of DDIM.
      weight: w of "guidance".
      iterations: of "moments".
      noise: of "moments", the deviation that known numbers may have.
      guidance: w of classifier-free guidance.
      strength: of "sdedit", the share of the process that is run.
    """

    task: TaskName
    method: MethodName
    known: int = 3
    window: int = 2**31
    steps: int = 30
    eta: float = 1.0
    weight: float = 2.0
    iterations: int = 2
    noise: float = 0.3
    guidance: float = 0.0
    strength: float = 0.6

    def check(self, frames: int, config: DenoiserConfig) -> None:
        """Refuses what cannot be done with clips of so many frames, or by this model.

        Raises:
          InputError: naming the flag.
        """
        ends = 2 if self.task == "join" else 1
        most = (min(frames, self.window) - 1) // ends
        if self.task == "loop":
            most -= 1
        if self.task in ("extend", "before", "join", "loop", "long") and not (
            1 <= self.known <= most
        ):
            raise InputError(
                f"known is {self.known} for clips of {frames} frames, expected 1 to {most} for the "
                f"task {self.task}"
            )
        if self.task not in ("long", "sdedit") and frames < 2:
            raise InputError(f"size has {frames} frames, expected two or more")
        if self.task == "long" and not self.window < frames:
            raise InputError(
                f"size has {frames} frames, expected more than those of a window, {self.window}"
            )
        if (self.method == "trained") and not config.known_frames:
            raise InputError(
                "method is 'trained', but the network takes no known frames, expected one of "
                f"{', '.join(get_args(MethodName)[:-1])}"
            )
        if config.known_frames and self.method != "trained":
            raise InputError(
                f"method is {self.method!r}, but the network takes known frames, expected 'trained'"
            )
        self.levels(config)

    def levels(self, config: DenoiserConfig) -> Level:
        """The levels that are gone through."""
        levels = make_steps(config.schedule, self.steps)
        return last_steps(levels, self.strength) if self.task == "sdedit" else levels


def method_of(config: DenoiserConfig) -> MethodName:
    """What a model was trained for: "trained" if it takes known frames, or else "guidance"."""
    return "trained" if config.known_frames else "guidance"


def known_part(task: TaskName, clips: Any, known: int) -> KnownFrames:
    """What is known of clips, or of their parts.

    Args:
      task: "extend" and "long" know the first frames, "before" the last, "join" both,
        "interpolate" every second one, "animate" the first one, "loop" the first ones and, at the
        end, the first of all once more, "sdedit" none.
      clips: [N, T, Y, X, C], bytes or in [-1, 1].
      known: how many at an end.
    """
    frames = clips.shape[1]
    match task:
        case "before":
            return extended_clip(clips[:, frames - known :], before=frames - known)
        case "join":
            ends = clips[:, :known], clips[:, frames - known :]
            return joined_clips(*ends, gap=frames - 2 * known)
        case "interpolate":
            return KnownFrames(clips, frame_mask(frames, range(0, frames, 2)))
        case "loop":
            return closed_clip(clips[:, :known], gap=frames - known - 1)
        case "animate":
            return animated_image(clips[:, 0], frames)
        case "sdedit":
            return KnownFrames(clips, frame_mask(frames, ()))
        case _:
            return extended_clip(clips[:, :known], after=frames - known)


class Complete(Protocol):
    """Completes clips; see `make_complete`."""

    def __call__(
        self, params: Tree, clips: UInt8[np.ndarray, "N T Y X C"], label_N: Any, key: Any
    ) -> Float[np.ndarray, "N T Y X C"]:
        """Clips in about [-1, 1]."""


def make_complete(config: DenoiserConfig, layout: Layout, task: ClipTask) -> Complete:
    """A function that makes what a task leaves open, compiled once.

    Args:
      config: the model.
      layout: of its parameters.
      task: what is to be done.

    Returns:
      ``complete(params, clips, label_N, key)``: float32 [N, T, Y, X, C], the same in every process.
      Clip i depends on the key, on i and on what is known of it.
    """
    run = jax.jit(_completion(config, layout, task), out_shardings=replicated(layout.mesh))

    def complete(params, clips, label_N, key):
        total, shards = len(clips), num_batch_shards(current_mesh())
        size = shards * math.ceil(min(CLIPS_PER_CALL, total) / shards)
        parts = []
        with progress_bar(f"{task.task}, {task.method}", "clip", total) as advance:
            for first in range(0, total, size):
                index_B = np.minimum(np.arange(first, first + size), total - 1).astype(np.int32)
                batch = {"index": index_B, "clip": clips[index_B]}
                if label_N is not None:
                    batch["label"] = np.asarray(label_N, np.int32)[index_B]
                parts.append(np.asarray(run(params, put_batch(batch, current_mesh()), key)))
                advance(min(size, total - first))
        return np.concatenate(parts)[:total]

    return complete


def _completion(config: DenoiserConfig, layout: Layout, task: ClipTask) -> Any:
    """``(params, batch, key) -> clips [B, T, Y, X, C]``."""
    levels = task.levels(config)

    def run(params: Tree, batch: Batch, key: Array) -> Float[Array, "B T Y X C"]:
        params, index_B = gather_fsdp(params, layout), batch["index"]
        given = known_part(task.task, batch["clip"], task.known)

        def denoiser(given: KnownFrames | None = None, clip: bool = False) -> Denoiser:
            w = task.guidance or None
            return config.make_denoiser(params, batch.get("label"), w, clip=clip, given=given)

        def complete(given: KnownFrames, key: Array) -> Float[Array, "B T Y X C"]:
            if task.method == "trained":
                z = initial_noise(key, index_B, given.x.shape[1:], levels)
                # What the network is given, once more in samples: its own window, bit by bit.
                seeing = with_known(denoiser(given, clip=True), given.known, given.x)
                return sample(DDIM(task.eta), seeing, z, levels, key, index_B)
            return complete_frames(
                DDIM(task.eta),
                *(denoiser(), given, levels, key, index_B),
                method=task.method,
                weight=task.weight,
                iterations=task.iterations,
                noise=task.noise,
                clip=True,
            )

        if task.task == "sdedit":
            seeing = clip_x(denoiser(given if config.known_frames else None))
            return sdedit(DDIM(task.eta), seeing, batch["clip"], levels, key, index_B)
        if task.task == "long":
            return sample_windows(complete, given, task.window, task.known, key)
        return complete(given, key)

    return run
