"""Videos from texts by a cascade, as Imagen Video (Ho et al. 2022), and its distillation.

``python -m experiments.text_to_image.imagen_video``

Trains a base that makes four frames of 8 x 8 from a text, and super-resolvers in space and in time
up to 16 frames of 32 x 32, on clips of captioned shapes that move. Each stage reads the text and
predicts v; super-resolvers are trained on crops and on inputs with noise. Then every stage is
distilled: two network evaluations of a guided step become one, and its steps are halved. Captions
of combinations of attributes that were not trained on are sampled before and after, and a
classifier of attributes, trained apart, finds shape, colour, size, place, direction and speed. In
the working folder:

  samples.mp4        samples of some captions: the whole cascade, and distilled
  samples.png        some frames of them
  stages.png         what each stage made of one caption
  alone.png          super-resolvers alone, of real small clips
  table.md           attributes as asked, Fréchet distance and seconds of a clip
  metrics.json       the same by name
  tokenizer/         the vocabulary (jaxgen.data.tokenizers.open_tokenizer opens it)
  STAGE/             checkpoints of a stage (jaxgen.training.load_model opens them)
  STAGE/matched/, STAGE/STEPS/   its students
  evaluator/         the classifier of attributes

``--train base space_16`` trains some stages alone and stops there. Started again with the same
working folder it resumes.
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.shared.denoiser_sampling import SamplingFlags
from experiments.shared.guided_distillation import student_names
from experiments.shared.launch import ExperimentConfig, LaunchConfig, open_workdir, report, run
from experiments.shared.training_runs import OpenedModel, check_layout
from experiments.shared.workdir import check_checkpoints
from experiments.text_to_image.support.attribute_evaluator import make_attribute_evaluator
from experiments.text_to_image.support.captioned_data import pictures_digest, plan_examples
from experiments.text_to_image.support.cascade_sampling import SampledStage, StageSampler
from experiments.text_to_image.support.cascade_stages import Stage, train_stage
from experiments.text_to_image.support.text_networks import TextNetworkFlags, encoder_of
from experiments.text_to_image.support.text_samples import sample_key
from experiments.text_to_image.support.text_training import TextTrainingFlags
from experiments.text_to_image.support.video_results import (
    evaluate_cascades,
    show_alone,
    show_cascades,
)
from experiments.text_to_image.support.video_stages import VideoStageFlags, distil_stage
from jaxgen.data import CaptionedSet, load_captioned, tokenise_captions
from jaxgen.data.captions.caption_batches import CaptionTokens
from jaxgen.data.tokenizers import save_tokenizer
from jaxgen.errors import InputError, check_sizes
from jaxgen.nn.counting import parameter_count
from jaxgen.parallel import is_main_process
from jaxgen.training.saved_names import register_config
from jaxgen.typing import Tree

OSCILLATING = 3
"""The first stages, whose guidance may oscillate (Imagen Video, section 2.6)."""

CLIPS_PER_CALL = 16


@register_config("text_to_image.imagen_video")
@dataclass(frozen=True, kw_only=True)
class Config(ExperimentConfig):
    """Flags of this experiment.

    Attributes:
      launch: where to run and on what.
      seed: all randomness follows from it.
      data: "shapes", which move; or another set of clips with captions.
      encoder: a folder with a text encoder that stays as it is, for all stages, as T5 in the paper;
        None: each stage has one that is trained with it.
      train: names of the stages to train, "base", "space_16", ...; none: all, and then sample.
      distil: whether stages are distilled.
      distil_stop: steps of the last students; those of sampling are a power of two times these.
      distil_updates: updates of each student.
      level: noise on what super-resolvers enlarge, in sampling, as a time.
      constant: steps of constant guidance before it oscillates, in the row of that name.
      evaluator_examples: training clips that the classifier of attributes learns from.
      evaluator_updates: of its training; after half as many it does not tell shapes.
      stages: the stages and their networks.
      training: how they are trained; steps and batch size are the base's.
      sampling: how they are sampled and evaluated.
    """

    launch: LaunchConfig = LaunchConfig(workdir="runs/imagen_video")
    data: str = "shapes"
    encoder: str | None = None
    train: tuple[str, ...] = ()
    distil: bool = True
    distil_stop: int = 8
    distil_updates: int = 40
    level: float = 0.1
    constant: int = 4
    evaluator_examples: int = 4900
    evaluator_updates: int = 1200
    stages: VideoStageFlags = VideoStageFlags()
    # Runs are short: an average over more updates would still hold the first ones.
    training: TextTrainingFlags = TextTrainingFlags(
        training_steps=800, batch_size=32, learning_rate=2e-3, ema_decay=0.98
    )
    sampling: SamplingFlags = SamplingFlags(sampler="ddim", steps=32, guidance=2.0, evaluate=64)

    def __post_init__(self) -> None:
        check_sizes(self, "distil_updates", "evaluator_examples", "evaluator_updates")
        names = list(self.stages.shapes())
        for name in self.train:
            if name not in names:
                raise InputError(f"train has {name!r}, expected some of {', '.join(names)}")
        if self.distil:
            student_names(self.sampling.steps, self.distil_stop)
        if not 0 <= self.level <= self.stages.highest_level:
            raise InputError(
                f"level is {self.level}, expected 0 to {self.stages.highest_level}, the highest "
                "trained on"
            )


def main(config: Config) -> dict[str, Any]:
    """Trains, distils, samples, evaluates, shows."""
    frames, side, _ = list(config.stages.shapes().values())[-1]
    clips = load_captioned(config.data, size=side, frames=frames)
    words = TextNetworkFlags(
        text_width=config.stages.text_width, text_depth=config.stages.text_depth
    )
    encoder = encoder_of(config.encoder, words, clips)
    tokens = tokenise_captions(clips.captions("descriptive"), encoder.tokenizer)
    stages = config.stages.stages(encoder, config.training)
    check_stages(stages, clips, config.seed)
    folder = open_workdir(
        config,
        may_differ=("train", "sampling", "level", "constant", "distil"),
        data={clips.name: pictures_digest(clips)},
        check=lambda folder: [
            check_checkpoints(folder / stage.name, stage.model) for stage in stages
        ],
    )
    if is_main_process():
        save_tokenizer(encoder.tokenizer, folder / "tokenizer")
    report(clips.describe())
    chosen = [stage for stage in stages if not config.train or stage.name in config.train]
    trained, figures = train_video_stages(config, chosen, clips, tokens, encoder.params, folder)
    sampler = StageSampler(encoder.tokenizer, sample_key(config.seed), CLIPS_PER_CALL)
    show_alone(folder / "alone.png", sampled_stages(config, trained), sampler, clips)
    if config.train:
        return figures
    cascades: dict[str, Sequence[SampledStage]] = {
        f"{config.sampling.steps} steps": list(sampled_stages(config, trained).values()),
        "oscillating": list(sampled_stages(config, trained, config.constant).values()),
    }
    if config.distil:
        students = distil_all(config, stages, trained, clips, tokens, folder)
        few = dataclasses.replace(config.sampling, steps=config.distil_stop)
        cascades[f"distilled to {config.distil_stop} steps"] = [
            SampledStage(student, few, config.level) for student in students
        ]
    count = config.sampling.evaluate
    if count:
        evaluator = make_attribute_evaluator(
            *(clips, folder / "evaluator", config.seed),
            examples=config.evaluator_examples,
            updates=config.evaluator_updates,
        )
        figures |= evaluate_cascades(folder, cascades, sampler, clips, count, evaluator)
    show_cascades(folder, cascades, sampler, clips)
    return figures


def check_stages(stages: Sequence[Stage], clips: CaptionedSet, seed: int) -> None:
    """Refuses, before anything is written, networks and batches that do not fit mesh or clips."""
    for stage in stages:
        check_layout(stage.model)
        plan_examples(clips, stage.training.batch_size, seed)


def train_video_stages(
    config: Config,
    stages: Sequence[Stage],
    clips: CaptionedSet,
    tokens: CaptionTokens,
    encoder: Tree | None,
    folder: pathlib.Path,
) -> tuple[dict[str, OpenedModel], dict[str, Any]]:
    """The models by name, and figures of their training."""
    trained: dict[str, OpenedModel] = {}
    figures: dict[str, Any] = {}
    for stage in stages:
        report(f"training {stage.name}: {stage.frames} frames of {stage.side} x {stage.side}")
        one = train_stage(
            *(stage, clips, tokens, folder),
            weighting="snr_plus_one",
            encoder=encoder,
            seed=config.seed,
            tensorboard=config.launch.tensorboard,
        )
        trained[stage.name] = one
        figures[stage.name] = {
            "parameters": parameter_count(one.params),
            "updates": one.steps,
            "training seconds": one.seconds,
            **one.last("train/loss"),
        }
    return trained, figures


def sampled_stages(
    config: Config, trained: Mapping[str, OpenedModel], constant: int | None = None
) -> dict[str, SampledStage]:
    """Stages as they are sampled; guidance oscillates in the first ones alone."""
    return {
        name: SampledStage(
            model, config.sampling, config.level, constant=constant if i < OSCILLATING else None
        )
        for i, (name, model) in enumerate(trained.items())
    }


def distil_all(
    config: Config,
    stages: Sequence[Stage],
    trained: Mapping[str, OpenedModel],
    clips: CaptionedSet,
    tokens: CaptionTokens,
    folder: pathlib.Path,
) -> list[OpenedModel]:
    """The last student of every stage."""
    students = []
    for stage in stages:
        training = dataclasses.replace(
            stage.training,
            training_steps=config.distil_updates,
            learning_rate=config.training.learning_rate / 3,
            ema_decay=0.9,
        )
        report(f"distilling {stage.name}")
        student = distil_stage(
            dataclasses.replace(stage, training=training),
            *(trained[stage.name], clips, tokens, folder / stage.name),
            start=config.sampling.steps,
            stop=config.distil_stop,
            max_guidance_weight=2 * max(config.sampling.guidance, 1.0),
            seed=config.seed,
        )
        students.append(student)
    return students


if __name__ == "__main__":
    run(main, Config)
