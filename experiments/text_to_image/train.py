"""A text-to-image diffusion model, from training to whether samples show what was asked for.

``python -m experiments.text_to_image.train``

Trains a transformer that predicts v and reads captions, by default of captioned shapes; samples
captions of combinations of attributes that it was not trained on, with classifier-free guidance;
and has a classifier of attributes, trained apart, find shape, colour, size and place in the
samples. In the working folder:

  samples.png        samples of some captions
  guidance.png       attributes as asked, and Fréchet distance, against the guidance weight
  curves.png         losses in the course of training, and by noise level
  table.md           attributes as asked, Fréchet distance, CLIP score, by guidance weight
  metrics.json       the same and more, by name
  tokenizer/         the vocabulary (jaxgen.data.tokenizers.open_tokenizer opens it)
  checkpoints/       network and text encoder (jaxgen.training.load_model opens them)
  evaluator/         the classifier of attributes

The encoder of the texts is trained with the network, or with ``--encoder FOLDER`` it is CLIP's, of
a run of ``experiments.text_to_image.clip`` or as published, and stays as it is; with
``--cached-states FOLDER`` its states are computed once, and it is not in memory while the network
is trained. ``--clip-model FOLDER`` adds the CLIP score of such a run to the table.

Started again with the same working folder it resumes; flags of sampling may then be other ones.
``experiments.text_to_image.sample`` draws pictures of any text.
"""

import dataclasses
import pathlib
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from experiments.shared.denoiser_sampling import SamplingFlags, make_draw
from experiments.shared.figure_tables import write_rows
from experiments.shared.launch import LaunchConfig, open_workdir, report, run
from experiments.shared.process_flags import ProcessFlags
from experiments.shared.restarts import (
    SampledConfig,
    check_not_shorter,
    keep_training_seed,
    may_train_longer,
)
from experiments.shared.training_runs import (
    VALIDATION_LOSS,
    TrainedModel,
    check_layout,
    plot_training,
)
from experiments.shared.workdir import check_checkpoints
from experiments.text_to_image.support.attribute_evaluator import (
    FRECHET,
    AttributeEvaluator,
    codes_of,
    make_attribute_evaluator,
)
from experiments.text_to_image.support.captioned_data import (
    evenly_spread,
    pictures_digest,
    plan_batches,
)
from experiments.text_to_image.support.clip_scores import ClipScorer, open_clip_scorer
from experiments.text_to_image.support.prompt_expander import Expander, open_prompt_expander
from experiments.text_to_image.support.stored_texts import (
    store_states,
    with_states,
    with_text_encoder,
)
from experiments.text_to_image.support.text_classifier import caption_accuracy_by_errors
from experiments.text_to_image.support.text_networks import (
    TextEncoder,
    TextNetworkFlags,
    encoder_of,
)
from experiments.text_to_image.support.text_samples import (
    COLUMNS,
    ROWS,
    draw_prompts,
    plot_guidance,
    prompts_of_part,
    sample_key,
    show_prompts,
)
from experiments.text_to_image.support.text_training import (
    TextTrainingFlags,
    loss_at_times,
    train_text_to_image,
)
from jaxgen.data import (
    CaptionedSet,
    load_captioned,
    to_unit,
    tokenise_captions,
)
from jaxgen.data.captions.captioned_set import CaptionKind
from jaxgen.data.tokenizers import save_tokenizer
from jaxgen.diffusion.objectives.weightings import weighting_named
from jaxgen.errors import InputError
from jaxgen.files import as_path
from jaxgen.nn.counting import parameter_count
from jaxgen.parallel import is_main_process
from jaxgen.training.saved_names import register_config

CLIP_SCORE = "CLIP score"
TIMES = (0.1, 0.3, 0.5, 0.7, 0.9)
"""At which the loss on test pictures is reported."""


@register_config("text_to_image.train")
@dataclass(frozen=True, kw_only=True)
class Config(SampledConfig):
    """Flags of this experiment.

    Attributes:
      launch: where to run and on what.
      seed: of training, and of samples without a seed of their own. Where the folder holds a run
        already, that keeps its seed, and another one is for samples alone.
      sampling_seed: of samples; may differ when the run is started again.
      data: "shapes"; "digits", "mnist" or "cifar10" with captions of their classes; "tiles" or
        "emoji"; "tfds:NAME"; or a folder or archive of pictures with captions.
      size: resize and crop pictures to so many pixels; None keeps them as they are (shapes: 32).
      captions: which captions are trained on.
      prompts: which captions of the test part are sampled; None: those that are trained on.
      expander: the folder of a run of experiments.text_to_image.recaption, whose prompt expander
        makes descriptive captions of the prompts (of --prompts short).
      encoder: a folder with a text encoder that stays as it is; None: one is trained with the
        network.
      cached_states: a folder for the states that the encoder has for each caption, written where
        there are none; None: the encoder is called in training.
      states_dtype: of the numbers in it.
      clip_model: the folder of a run of experiments.text_to_image.clip, for the CLIP score.
      weights: guidance weights w of the table, beside that of the flags of sampling.
      network: the network, and the text transformer that is trained with it.
      process: what it learns.
      training: how it is trained.
      sampling: how it is sampled and evaluated.
    """

    launch: LaunchConfig = LaunchConfig(workdir="runs/text_to_image")
    data: str = "shapes"
    size: int | None = None
    captions: CaptionKind = "descriptive"
    prompts: CaptionKind | None = None
    expander: str | None = None
    encoder: str | None = None
    cached_states: str | None = None
    states_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    clip_model: str | None = None
    weights: tuple[float, ...] = (0.0, 1.0, 3.0, 7.0)
    network: TextNetworkFlags = TextNetworkFlags()
    process: ProcessFlags = ProcessFlags()
    training: TextTrainingFlags = TextTrainingFlags()
    sampling: SamplingFlags = SamplingFlags(
        sampler="dpm_solver", steps=20, guidance=1.0, evaluate=320
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.process.preconditioning != "none":
            raise InputError(f"preconditioning is {self.process.preconditioning!r}, expected none")
        if self.cached_states is not None and self.encoder is None:
            raise InputError("cached_states without an encoder, expected --encoder FOLDER")
        if self.expander is not None and self.prompt_kind != "short":
            raise InputError("expander of descriptive prompts, expected --prompts short")

    @property
    def prompt_kind(self) -> CaptionKind:
        """Which captions are sampled."""
        return self.captions if self.prompts is None else self.prompts


def main(config: Config) -> dict[str, Any]:
    """Trains, samples, evaluates, shows."""
    config = keep_training_seed(config)
    pictures = load_captioned(config.data, size=config.size)
    plan = plan_batches(pictures, config.training.batch_size, config.seed)
    encoder = encoder_of(config.encoder, config.network, pictures)
    tokens = tokenise_captions(pictures.captions(config.captions), encoder.tokenizer)
    shape = tuple(pictures.images.shape[1:])
    drops = config.training.text_dropout > 0
    model = config.network.config(shape, config.process.target, encoder, null_text=drops)
    if config.cached_states is not None:
        model = dataclasses.replace(model, encoder=None)
    check_layout(model)
    scorer = open_clip_scorer(config.clip_model, shape)
    expand = expander_of(config)
    steps = config.training.training_steps
    check_not_shorter(as_path(config.launch.workdir), steps, f"training_steps is {steps}")
    longer = may_train_longer(config, "training_steps")
    folder = open_workdir(
        config,
        may_differ=(
            *("sampling", "sampling_seed", "weights", "prompts", "expander", "clip_model"),
            *longer,
        ),
        data={pictures.name: pictures_digest(pictures)},
        check=lambda folder: check_checkpoints(folder, model),
    )
    if is_main_process():
        save_tokenizer(encoder.tokenizer, folder / "tokenizer")
    report(pictures.describe())
    states = None
    if config.cached_states is not None:
        states = store_states(config.cached_states, encoder, tokens, config.states_dtype)
        encoder = encoder._replace(params=None)
    trained = train_text_to_image(
        *(model, pictures, tokens, plan, folder, config.training),
        weighting=config.process.weighting,
        encoder=encoder.params,
        named=lambda batch: with_states(batch, states),
        seed=config.seed,
        tensorboard=config.launch.tensorboard,
    )
    if states is not None:
        encoder = encoder_of(config.encoder, config.network, pictures)
        trained = with_text_encoder(trained, encoder)
    plot_training(folder / "curves.png", trained)
    figures = {
        "parameters": parameter_count(trained.params),
        "updates": trained.steps,
        "skipped updates": trained.skipped,
        "training seconds": trained.seconds,
        **trained.last("train/loss", VALIDATION_LOSS),
    }
    weighting = weighting_named(config.process.weighting)
    losses = loss_at_times(trained, pictures, tokens, weighting, np.array(TIMES))
    figures |= {f"test loss at t = {t:g}": float(v) for t, v in zip(TIMES, losses, strict=True)}
    show_captions(folder, trained, pictures, encoder, config, expand)
    if config.sampling.evaluate:
        evaluator = make_attribute_evaluator(pictures, folder / "evaluator", seed=config.seed)
        rows = evaluate_prompts(trained, pictures, encoder, config, evaluator, scorer, expand)
        if any(rows.values()):
            write_rows(folder / "table.md", "samples", rows)
        weights = {w: rows[row_name(w)] for w in guidance_weights(config)}
        if evaluator is not None:
            plot_guidance(folder / "guidance.png", weights, (*evaluator.names, "all"), FRECHET)
        figures |= rows | caption_accuracy_by_errors(
            trained, encoder.tokenizer, pictures, config.captions
        )
    return figures


def expander_of(config: Config) -> Expander:
    """What is done to prompts before they are sampled."""
    if config.expander is None:
        return list
    return open_prompt_expander(config.expander, config.seed_of_samples)


def guidance_weights(config: Config) -> list[float]:
    """The weights of the table, rising."""
    return sorted({*config.weights, config.sampling.guidance})


def row_name(weight: float) -> str:
    """What a row of the table is called."""
    return f"guidance {weight:g}"


def show_captions(
    folder: pathlib.Path,
    trained: TrainedModel,
    pictures: CaptionedSet,
    encoder: TextEncoder,
    config: Config,
    expand: Expander,
) -> None:
    """Shows samples of captions of the test part, a row of each."""
    captions = pictures.part("test").distinct(config.prompt_kind)
    chosen = evenly_spread(len(captions), ROWS)
    prompts = expand([captions[i] for i in chosen])
    flags = config.sampling
    x = draw_prompts(
        make_draw(trained.config, trained.layout, clip=flags.clip),
        trained,
        encoder.tokenizer,
        flags,
        [prompt for prompt in prompts for _ in range(COLUMNS)],
        flags.guidance,
        sample_key(config.seed_of_samples),
    )
    how = f"{flags.sampler}, {flags.steps} steps, guidance {flags.guidance:g}"
    show_prompts(folder / "samples.png", x, prompts, f"Captions of the test part: {how}")


def evaluate_prompts(
    trained: TrainedModel,
    pictures: CaptionedSet,
    encoder: TextEncoder,
    config: Config,
    evaluator: AttributeEvaluator | None,
    scorer: ClipScorer | None,
    expand: Expander,
) -> dict[str, dict[str, float]]:
    """Figures of real test pictures, and of samples of their captions by guidance weight."""
    flags, test = config.sampling, pictures.part("test")
    shapes = config.data == "shapes"
    prompts = prompts_of_part(pictures, "test", config.prompt_kind, flags.evaluate, shapes=shapes)

    def figures(images: Any, wanted: Any, texts: Any) -> dict[str, float]:
        found = {} if evaluator is None else evaluator.figures(images, wanted)
        return found | ({} if scorer is None else {CLIP_SCORE: scorer.score(images, texts)})

    real = to_unit(test.images[prompts.row_N])
    wanted = None if evaluator is None else codes_of(test)[prompts.row_N]
    texts = [test.captions(config.captions)[i] for i in prompts.row_N]
    rows = {"real pictures": figures(real, wanted, texts)}
    prompts = prompts._replace(texts=tuple(expand(prompts.texts)))
    draw = make_draw(trained.config, trained.layout, clip=flags.clip)
    key = sample_key(config.seed_of_samples)
    for weight in guidance_weights(config):
        x = draw_prompts(draw, trained, encoder.tokenizer, flags, prompts.texts, weight, key)
        rows[row_name(weight)] = figures(x, prompts.wanted_NF, prompts.texts)
    return rows


if __name__ == "__main__":
    run(main, Config)
