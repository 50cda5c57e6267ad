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
from experiments.shared.training_runs import OpenedModel, check_layout, plot_training
from experiments.shared.workdir import check_checkpoints
from experiments.text_to_image.support.attribute_evaluator import make_attribute_evaluator
from experiments.text_to_image.support.captioned_data import (
    make_tokenizer,
    pictures_digest,
    plan_examples,
)
from experiments.text_to_image.support.text_networks import TextNetworkFlags
from experiments.text_to_image.support.video_cascade import (
    StageData,
    StageSampler,
    VideoCascadeTrainingFlags,
    distil_stage,
    train_stage,
)
from experiments.text_to_image.support.video_results import (
    VideoLook,
    evaluate_cascades,
    show_alone,
    show_cascades,
)
from experiments.text_to_image.support.video_stages import VideoStage, VideoStageFlags
from jaxgen.data import load_captioned, tokenise_captions
from jaxgen.data.captions.captioned_set import CAPTION_KINDS
from jaxgen.data.tokenizers import save_tokenizer
from jaxgen.errors import InputError
from jaxgen.nn.counting import parameter_count
from jaxgen.parallel import is_main_process
from jaxgen.training.saved_names import register_config

OSCILLATING = 3
"""The first stages, whose guidance may oscillate."""


@register_config("text_to_image.imagen_video")
@dataclass(frozen=True, kw_only=True)
class Config(ExperimentConfig):
    """Flags of this experiment.

    Attributes:
      launch: where to run and on what.
      seed: all randomness follows from it.
      data: "shapes", which move; or another set of clips with captions.
      train: names of the stages to train, "base", "space_16", ...; none: all, and then sample.
      distil: whether stages are distilled.
      distil_stop: steps of the last students; those of sampling are a power of two times these.
      distil_updates: updates of each student.
      level: noise on what super-resolvers enlarge, in sampling, as a time.
      constant: steps of constant guidance before it oscillates, in the row of that name.
      stages: the stages and their networks.
      training: how they are trained.
      sampling: how they are sampled and evaluated.
    """

    launch: LaunchConfig = LaunchConfig(workdir="runs/imagen_video")
    data: str = "shapes"
    train: tuple[str, ...] = ()
    distil: bool = True
    distil_stop: int = 8
    distil_updates: int = 40
    level: float = 0.1
    constant: int = 4
    stages: VideoStageFlags = VideoStageFlags()
    training: VideoCascadeTrainingFlags = VideoCascadeTrainingFlags()
    sampling: SamplingFlags = SamplingFlags(sampler="ddim", steps=32, guidance=2.0, evaluate=64)

    def __post_init__(self) -> None:
        names = [stage.name for stage in self.stages.stages()]
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
    stages = config.stages.stages()
    last = stages[-1]
    clips = load_captioned(config.data, size=last.side, frames=last.frames)
    plan_examples(clips, config.training.batch_size, config.seed)
    captions = {text for kind in CAPTION_KINDS for text in clips.distinct(kind)}
    words = TextNetworkFlags(
        text_width=config.stages.text_width, text_depth=config.stages.text_depth
    )
    encoder = words.encoder(make_tokenizer(sorted(captions)))
    tokens = tokenise_captions(clips.captions("descriptive"), encoder.tokenizer)
    models = {
        stage.name: config.stages.model(stage, encoder, config.training.text_dropout > 0)
        for stage in stages
    }
    for model in models.values():
        check_layout(model)
    folder = open_workdir(
        config,
        may_differ=("train", "sampling", "level", "constant", "distil"),
        data={clips.name: pictures_digest(clips)},
        check=lambda folder: [
            check_checkpoints(folder / name, model) for name, model in models.items()
        ],
    )
    if is_main_process():
        save_tokenizer(encoder.tokenizer, folder / "tokenizer")
    report(clips.describe())
    data = StageData(clips, tokens, config.seed)
    trained: dict[str, OpenedModel] = {}
    figures: dict[str, Any] = {}
    for stage in stages:
        if config.train and stage.name not in config.train:
            continue
        report(f"stage {stage.name}: {stage.frames} frames of {stage.side} x {stage.side}")
        one = train_stage(
            *(stage, models[stage.name], data, folder / stage.name, config.training),
            tensorboard=config.launch.tensorboard,
        )
        plot_training(folder / stage.name / "curves.png", one)
        trained[stage.name] = one
        figures[stage.name] = {
            "parameters": parameter_count(one.params),
            "updates": one.steps,
            "training seconds": one.seconds,
        }
    chosen = [stage for stage in stages if stage.name in trained]
    looked = VideoLook(clips, encoder.tokenizer, config.level, config.sampling, config.seed)
    show_alone(folder / "alone.png", looked, chosen, trained)
    if config.train:
        return figures
    students = distil_all(config, stages, trained, data, folder) if config.distil else {}
    cascades = {
        f"{config.sampling.steps} steps, guided": make_samplers(config, trained),
        "the same, oscillating": make_samplers(config, trained, config.constant),
    }
    if students:
        cascades[f"distilled to {config.distil_stop} steps"] = [
            StageSampler(student, config.sampling, config.distil_stop)
            for student in students.values()
        ]
    evaluator = make_attribute_evaluator(clips, folder / "evaluator", seed=config.seed)
    figures |= evaluate_cascades(folder, looked, cascades, evaluator)
    show_cascades(folder, looked, cascades)
    return figures


def make_samplers(
    config: Config, trained: Mapping[str, OpenedModel], constant: int | None = None
) -> list[StageSampler]:
    """Of all stages; guidance oscillates in the base and the first two super-resolvers alone."""
    return [
        StageSampler(
            model, config.sampling, config.sampling.steps, constant if i < OSCILLATING else None
        )
        for i, model in enumerate(trained.values())
    ]


def distil_all(
    config: Config,
    stages: Sequence[VideoStage],
    trained: Mapping[str, OpenedModel],
    data: StageData,
    folder: pathlib.Path,
) -> dict[str, OpenedModel]:
    """The last student of every stage."""
    flags = dataclasses.replace(
        config.training,
        training_steps=config.distil_updates,
        learning_rate=config.training.learning_rate / 3,
        ema_decay=0.9,
    )
    students = {}
    for stage in stages:
        report(f"distilling {stage.name}")
        students[stage.name] = distil_stage(
            *(stage, trained[stage.name], data, folder / stage.name, flags),
            start=config.sampling.steps,
            stop=config.distil_stop,
            max_guidance_weight=2 * max(config.sampling.guidance, 1.0),
        )
    return students


if __name__ == "__main__":
    run(main, Config)
