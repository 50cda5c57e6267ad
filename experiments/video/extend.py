"""What a trained diffusion model of videos makes of clips: extended, joined, filled in, looped.

``python -m experiments.video.extend --model runs/video_train --task extend``

Takes a model that ``experiments.video.train`` has trained, and real clips that it has not seen. A
part of each is known (``--task``), the rest is made (``--method``). In the working folder:

  TASK.mp4       what is known, what was made, and the real clips, side by side
  TASK.png       the same frame by frame, for the first clips
  metrics.json   how far known frames are from those given; of digits, too, how many of the frames
                 made show the digit's class, and how far centres are from where it really went

Tasks, T frames each: "extend" and "before" know so many (``--known``) frames at the start or at the
end, "join" at both, "interpolate" every second frame, "animate" the first one; "loop" makes the way
from the first frames back to the very first; "long" extends beyond the length of a window, one
window after the other; "sdedit" makes another clip that is like the real one.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Int

from experiments.shared.launch import ExperimentConfig, LaunchConfig, open_workdir, report, run
from experiments.shared.training_runs import open_trained_model
from experiments.video.support.clip_tasks import ClipTask, MethodName, TaskName, method_of
from experiments.video.support.completed_clips import (
    complete_clips,
    completed_figures,
    show_completed,
)
from experiments.video.support.frame_evaluator import make_frame_evaluator
from experiments.video.support.video_streams import Size, open_videos, parse_sizes
from jaxgen.diffusion.model import DenoiserConfig
from jaxgen.errors import InputError
from jaxgen.files import as_path
from jaxgen.training.saved_names import register_config


@register_config("video.extend")
@dataclass(frozen=True, kw_only=True)
class Config(ExperimentConfig):
    """Flags of this experiment.

    Attributes:
      launch: where to run and on what.
      model: the folder of a run of ``experiments.video.train``.
      data: "digits", or a folder of video files, as there.
      task: "extend", "before", "join", "interpolate", "loop", "animate", "sdedit" or "long".
      method: "moments" (guidance by the denoiser's own covariance), "guidance" (reconstruction
        guidance and replacement, Ho et al. 2022), "replacement" alone, or "trained" for a network
        that takes known frames; none: "trained" for such a network, "guidance" for another.
      size: of the clips, frames x height x width; none: the model's, and twice the frames for
        "long".
      known: frames known at an end, and those that windows of "long" have in common.
      clips: how many are made.
      steps: of the sampler, DDIM.
      eta: share of its noise, 0 to 1.
      weight: w of "guidance".
      iterations: of "moments", each a backward pass.
      noise: of "moments", the deviation that known numbers may have, which keeps it stable.
      labels: "own", that of the clip, or "null", so that the class has to follow from the known
        frames.
      guidance: w of classifier-free guidance, for labels "own"; none: 1 where the network has a
        null class, or else 0.
      strength: of "sdedit": how much of the process is run, up to 1.
    """

    launch: LaunchConfig = LaunchConfig(workdir="runs/video_extend")
    model: str
    data: str = "digits"
    task: TaskName = "extend"
    method: MethodName | None = None
    size: str | None = None
    known: int = ClipTask.known
    clips: int = 40
    steps: int = ClipTask.steps
    eta: float = ClipTask.eta
    weight: float = ClipTask.weight
    iterations: int = ClipTask.iterations
    noise: float = ClipTask.noise
    labels: Literal["null", "own"] = "own"
    guidance: float | None = None
    strength: float = ClipTask.strength

    def __post_init__(self) -> None:
        for name in ("clips", "steps", "iterations"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}, expected 1 or more")
        if not 0 <= self.eta <= 1:
            raise InputError(f"eta is {self.eta}, expected 0 to 1")
        if not self.noise >= 0:
            raise InputError(f"noise is {self.noise}, expected 0 or more")
        if self.guidance and self.labels == "null":
            raise InputError(f"guidance is {self.guidance} with labels null, expected labels own")


def main(config: Config) -> dict[str, Any]:
    """Opens, completes, shows, evaluates."""
    teacher = as_path(config.model)
    model = open_trained_model(teacher, DenoiserConfig, "a model of videos")
    if len(model.config.image_shape) != 4:
        raise InputError(f"{teacher} holds a model of images, expected one of videos")
    size, task = size_of(config, model.config), task_of(config, model.config)
    task.check(size[0], model.config)
    data = open_videos(config.data, (size,), config.seed)
    if (data.classes, data.channels) != (model.config.classes, model.config.image_shape[-1]):
        raise InputError(
            f"{data.name}: {data.channels} channels and {len(data.classes)} classes; the model has "
            f"{model.config.image_shape[-1]} and {len(model.config.classes)}"
        )
    real, label_N = data.unseen_clips(size, config.clips)
    shown_labels = labels_for(config, model.config, label_N)
    folder = open_workdir(config, data={data.name: data.digest, config.model: model.digest})
    clips = complete_clips(model, task, real, shown_labels, config.seed + 3)
    show_completed(folder, task, clips)
    evaluator = None
    if data.digits is not None:
        kept = as_path(config.model) / "evaluator"
        evaluator = make_frame_evaluator(data.digits, (size,), kept, config.seed)
    figures = completed_figures(task, clips, label_N, data, evaluator)
    for name, value in figures.items():
        report(f"{name}: {value:.3f}" if isinstance(value, float) else f"{name}: {value}")
    return figures


def size_of(config: Config, model: DenoiserConfig) -> Size:
    """Frames, height and width of the clips."""
    if config.size is not None:
        return parse_sizes((config.size,), getattr(model.network, "patch", (1, 1, 1)), "size")[0]
    frames, height, width, _ = model.image_shape
    return (2 * frames if config.task == "long" else frames), height, width


def task_of(config: Config, model: DenoiserConfig) -> ClipTask:
    """The task that flags ask for."""
    return ClipTask(
        task=config.task,
        method=config.method or method_of(model),
        known=config.known,
        window=model.image_shape[0] if config.task == "long" else ClipTask.window,
        steps=config.steps,
        eta=config.eta,
        weight=config.weight,
        iterations=config.iterations,
        noise=config.noise,
        guidance=guidance_of(config, model),
        strength=config.strength,
    )


def guidance_of(config: Config, model: DenoiserConfig) -> float:
    """The weight of classifier-free guidance.

    Raises:
      InputError: for one that the network does not allow.
    """
    if config.guidance is None:
        return float(config.labels == "own" and model.null_label is not None)
    model.check_guidance(config.guidance)
    return config.guidance


def labels_for(
    config: Config, model: DenoiserConfig, label_N: Int[np.ndarray, "N"] | None
) -> Int[np.ndarray, "N"] | None:
    """The labels that the network is conditioned on.

    Raises:
      InputError: for null labels of a network without.
    """
    if not model.classes or label_N is None:
        return None
    if config.labels == "own":
        return label_N
    if model.null_label is None:
        raise InputError(
            "labels is 'null', but the network has no null class (class_dropout is 0), expected "
            "labels own"
        )
    return np.full_like(label_N, model.null_label)


if __name__ == "__main__":
    run(main, Config)
