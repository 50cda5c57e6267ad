"""A cascade: a base model of small pictures and two super-resolvers, as in Imagen.

``python -m experiments.text_to_image.cascade``

Trains a base model of 16 x 16 pixels that reads captions (a transformer), and super-resolvers to 32
and to 64 (Efficient U-Nets) that read captions and a small picture under noise; the same
super-resolvers without the noise; and a model of 64 x 64 without a cascade, for as long as the
three together. On captions of the validation part the noise on the small pictures is sought that
suits the cascade (Saharia et al. 2022, "noise conditioning augmentation"); then captions of the
test part are sampled. In the working folder:

  samples.png        what each stage makes of some captions, side by side
  levels.png         Fréchet distance against the noise on the small pictures
  thresholding.png   samples at a large guidance weight, by how x^ is kept within range
  table.md           stages; attributes as asked and Fréchet distance; levels; thresholding
  metrics.json       the same and more, by name
  tokenizer/         the vocabulary (jaxgen.data.tokenizers.open_tokenizer opens it)
  base/, small/, large/, small_plain/, large_plain/, direct/
                     of each stage curves.png, metrics.jsonl and checkpoints/
                     (jaxgen.training.load_model opens them)
  evaluator/         the classifier of attributes

Each stage trains and is sampled alone: ``--stages large`` trains that one, and a super-resolver
without the stages before it enlarges small versions of real pictures. What the folder holds of
others is used as it is. Started again with the same working folder it resumes.
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from experiments.shared.denoiser_sampling import SamplingFlags
from experiments.shared.launch import LaunchConfig, open_workdir, report, run
from experiments.shared.output import figures_table, format_table, write_text
from experiments.shared.process_flags import ProcessFlags
from experiments.shared.restarts import SampledConfig, check_not_shorter, keep_training_seed
from experiments.shared.training_runs import TrainedModel, check_layout, open_trained_model
from experiments.shared.workdir import check_checkpoints, saved_config
from experiments.text_to_image.support.attribute_evaluator import (
    AttributeEvaluator,
    make_attribute_evaluator,
)
from experiments.text_to_image.support.captioned_data import pictures_digest, plan_batches
from experiments.text_to_image.support.cascade_evaluation import (
    CASCADE,
    SHOWN,
    CascadeCaptions,
    evaluate_cascade,
    show_cascade,
)
from experiments.text_to_image.support.cascade_sampling import SampledStage, StageSampler
from experiments.text_to_image.support.cascade_stages import (
    ResolverFlags,
    Stage,
    equal_updates,
    resolver_model,
    train_stage,
)
from experiments.text_to_image.support.text_networks import (
    TextEncoder,
    TextNetworkFlags,
    encoder_of,
)
from experiments.text_to_image.support.text_samples import sample_key
from experiments.text_to_image.support.text_training import TextTrainingFlags
from jaxgen.data import CaptionedSet, load_captioned, tokenise_captions
from jaxgen.data.captions.captioned_set import CaptionKind
from jaxgen.data.tokenizers import save_tokenizer
from jaxgen.diffusion.text_to_image import TextToImageConfig
from jaxgen.errors import InputError
from jaxgen.evaluation import ClassifierConfig
from jaxgen.files import as_path
from jaxgen.parallel import is_main_process
from jaxgen.training.saved_names import register_config

StageName = Literal["base", "small", "large", "small_plain", "large_plain", "direct"]
STAGES: tuple[StageName, ...] = get_args(StageName)

LARGEST_DEFAULT = 32
"""The side above which the evaluator is of half the default widths."""


@register_config("text_to_image.cascade")
@dataclass(frozen=True, kw_only=True)
class Config(SampledConfig):
    """Flags of this experiment.

    Attributes:
      launch: where to run and on what.
      seed: of training, and of samples without a seed of their own.
      sampling_seed: of samples; may differ when the run is started again.
      stages: which are trained; of the others it is used what the folder holds.
      data: a set of `jaxgen.data.load_captioned`.
      sides: of the pictures of base and super-resolvers, in pixels.
      captions: which captions are trained on and sampled.
      encoder: a folder with a text encoder that stays as it is, for all stages; None: each stage
        has one that is trained with it.
      network: the base.
      process: what all stages learn.
      training: how all are trained; steps and batch size are the base's.
      resolvers: super-resolvers and direct model.
      sampling: of base and direct model.
      resolver_sampling_steps: steps of the sampler of super-resolvers.
      resolver_guidance: their guidance weight.
      levels: candidates for the noise on small pictures.
      large_guidance: the guidance weight of the base where ways of thresholding are compared.
      evaluator_examples: training pictures that the classifier of attributes learns from.
    """

    launch: LaunchConfig = LaunchConfig(workdir="runs/cascade")
    stages: tuple[StageName, ...] = STAGES
    data: str = "shapes"
    sides: tuple[int, int, int] = (16, 32, 64)
    captions: CaptionKind = "descriptive"
    encoder: str | None = None
    network: TextNetworkFlags = TextNetworkFlags()
    process: ProcessFlags = ProcessFlags()
    # Super-resolvers train for 600 updates: a longer average would still hold the first ones.
    training: TextTrainingFlags = TextTrainingFlags(
        training_steps=2500, batch_size=32, ema_decay=0.98
    )
    resolvers: ResolverFlags = ResolverFlags()
    sampling: SamplingFlags = SamplingFlags(
        sampler="dpm_solver", steps=15, guidance=1.0, evaluate=192
    )
    resolver_sampling_steps: int = 8
    resolver_guidance: float = 1.0
    levels: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3, 0.45)
    large_guidance: float = 7.0
    evaluator_examples: int = 3000

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.process.preconditioning != "none":
            raise InputError(f"preconditioning is {self.process.preconditioning!r}, expected none")
        if not self.levels or not all(0 <= level <= 1 for level in self.levels):
            raise InputError(f"levels are {self.levels}, expected one or more from 0 to 1")
        for name in ("resolver_sampling_steps", "evaluator_examples"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}, expected 1 or more")
        unknown = set(self.stages) - set(STAGES)
        if unknown or not self.stages:
            raise InputError(f"stages are {self.stages}, expected some of {', '.join(STAGES)}")


def main(config: Config) -> dict[str, Any]:
    """Trains, searches, samples, evaluates, shows."""
    config = keep_training_seed(config)
    pictures = load_captioned(config.data, size=config.sides[-1])
    encoder = encoder_of(config.encoder, config.network, pictures)
    stages = make_stages(config, pictures, encoder)
    folder = open_cascade_run(config, pictures, stages)
    if is_main_process():
        save_tokenizer(encoder.tokenizer, folder / "tokenizer")
    report(pictures.describe())
    opened, figures = train_stages(config, stages, pictures, encoder, folder)
    write_text(folder / "table.md", stage_table(figures))
    sampled = {name: sampled_stage(config, name, model) for name, model in opened.items()}
    sampler = StageSampler(encoder.tokenizer, sample_key(config.seed_of_samples))
    count = config.sampling.evaluate
    shapes = config.data == "shapes"
    captions = CascadeCaptions(
        pictures, config.sides, config.captions, count or SHOWN, shapes=shapes
    )
    evaluator = evaluator_for(config, pictures, folder) if count else None
    if evaluator is None:
        show_cascade(folder, sampled, sampler, captions)
        return figures
    found = evaluate_cascade(
        folder, sampled, sampler, captions, evaluator, config.levels, config.large_guidance
    )._asdict()
    tables = [figures_table(name, rows) for name, rows in found.items() if rows]
    text = "\n\n".join([stage_table(figures), *tables])
    write_text(folder / "table.md", text)
    report("\n" + text)
    return figures | found


def make_stages(
    config: Config, pictures: CaptionedSet, encoder: TextEncoder
) -> dict[StageName, Stage]:
    """All stages, of which some are trained."""
    channels, flags, training = pictures.images.shape[-1], config.resolvers, config.training
    target, drops = config.process.target, config.training.text_dropout > 0
    first, second, third = config.sides
    crop = flags.crop or None
    if crop is not None and (crop > third or crop % (2 * third // second)):
        raise InputError(
            f"crop is {crop}, expected at most {third} and a multiple of {2 * third // second}"
        )

    def resolver(side: int, small: int | None, noise: bool, pixels: bool) -> TextToImageConfig:
        return resolver_model(
            (side, side, channels),
            encoder,
            flags,
            target=target,
            small_side=small,
            highest=flags.highest if noise else 0.0,
            pixels=pixels,
            null_text=drops,
        )

    def trained_for(steps: int) -> TextTrainingFlags:
        batch = flags.resolver_batch
        return dataclasses.replace(training, training_steps=steps, batch_size=batch)

    small, large = trained_for(flags.small_steps), trained_for(flags.large_steps)
    direct = trained_for(flags.direct_steps or 1)
    shape = (first, first, channels)
    base = config.network.config(shape, target, encoder, null_text=drops)
    found = [
        Stage("base", base, training),
        Stage("small", resolver(second, first, True, True), small),
        Stage("large", resolver(third, second, True, False), large, crop),
        Stage("small_plain", resolver(second, first, False, True), small),
        Stage("large_plain", resolver(third, second, False, False), large, crop),
        Stage("direct", resolver(third, None, False, True), direct),
    ]
    return {name: stage for name, stage in zip(STAGES, found, strict=True)}


def open_cascade_run(
    config: Config, pictures: CaptionedSet, stages: Mapping[StageName, Stage]
) -> pathlib.Path:
    """The working folder, where nothing is left of another run.

    Raises:
      InputError: for a network that the mesh cannot share, sides that do not fit each other or the
        pictures, or a folder of another run or of a longer one.
    """
    workdir = as_path(config.launch.workdir)
    for name in config.stages:
        stage = stages[name]
        check_layout(stage.model)
        plan_batches(pictures, stage.training.batch_size, config.seed)
        steps = stage.training.training_steps
        if name != "direct" or config.resolvers.direct_steps is not None:
            check_not_shorter(workdir / name, steps, f"{name}: steps are {steps}")
    folder = open_workdir(
        config,
        may_differ=(
            *("stages", "sampling", "sampling_seed", "resolver_sampling_steps"),
            *("resolver_guidance", "levels", "large_guidance"),
            *trained_longer(config),
        ),
        data={pictures.name: pictures_digest(pictures)},
        check=lambda folder: [
            check_checkpoints(folder / name, stage.model) for name, stage in stages.items()
        ],
    )
    return folder


def trained_longer(config: Config) -> tuple[str, ...]:
    """The flags that differ from those of the folder's run in numbers of updates alone."""
    found = saved_config(config)
    if found is None:
        return ()
    steps = {
        "training": ("training_steps",),
        "resolvers": ("small_steps", "large_steps", "direct_steps"),
    }
    same = []
    for name, fields in steps.items():
        now = getattr(config, name)
        changed = {field: getattr(now, field) for field in fields}
        if dataclasses.replace(getattr(found, name), **changed) == now:
            same.append(name)
    return tuple(same)


def train_stages(
    config: Config,
    stages: Mapping[StageName, Stage],
    pictures: CaptionedSet,
    encoder: TextEncoder,
    folder: pathlib.Path,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Trains stages, and opens those that the folder holds already.

    Returns:
      The models by name, and figures of their training.
    """
    tokens = tokenise_captions(pictures.captions(config.captions), encoder.tokenizer)
    how: dict[str, Any] = {
        "weighting": config.process.weighting,
        "encoder": encoder.params,
        "seed": config.seed,
    }
    opened: dict[str, Any] = {}
    figures: dict[str, Any] = {}
    for name, stage in stages.items():
        where = folder / name
        if name not in config.stages:
            if (where / "checkpoints").is_dir():
                opened[name] = open_trained_model(where, TextToImageConfig, "a stage")
            continue
        if name == "direct" and config.resolvers.direct_steps is None:
            others = [stages[part] for part in CASCADE]
            count = equal_updates(folder / "updates.json", others, stage, pictures, tokens, **how)
            training = dataclasses.replace(stage.training, training_steps=count)
            stage = dataclasses.replace(stage, training=training)
        report(f"training {name}: {stage.side} pixels, {stage.training.training_steps:,} updates")
        trained: TrainedModel = train_stage(
            stage, pictures, tokens, folder, tensorboard=config.launch.tensorboard, **how
        )
        opened[name] = trained
        figures[name] = {"side": stage.side, **trained.figures()}
    return opened, figures


def sampled_stage(config: Config, name: str, model: Any) -> SampledStage:
    """A stage with the flags of its sampling."""
    flags = config.sampling
    if model.config.augmentation is not None:
        flags = dataclasses.replace(
            flags, steps=config.resolver_sampling_steps, guidance=config.resolver_guidance
        )
    return SampledStage(model, flags, thresholding="static" if flags.clip else "none")


def evaluator_for(
    config: Config, pictures: CaptionedSet, folder: pathlib.Path
) -> AttributeEvaluator | None:
    """The evaluator of pictures of the full size, half as wide as others where they are large."""
    widths = ClassifierConfig.for_images(pictures.images.shape[1:], 2).widths
    if pictures.images.shape[1] > LARGEST_DEFAULT:
        widths = tuple(width // 2 for width in widths)
    return make_attribute_evaluator(
        pictures,
        folder / "evaluator",
        seed=config.seed,
        widths=widths,
        examples=config.evaluator_examples,
    )


def stage_table(figures: Mapping[str, Mapping[str, float]]) -> str:
    """The stages that were trained, as Markdown."""
    rows = [
        (name, *(f"{row[c]:,.0f}" for c in ("side", "parameters", "updates", "seconds")))
        for name, row in figures.items()
    ]
    return format_table(("stage", "side", "parameters", "updates", "seconds"), rows)


if __name__ == "__main__":
    run(main, Config)
