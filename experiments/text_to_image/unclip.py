"""Images by way of CLIP's image vectors: DALL-E 2, or unCLIP (Ramesh et al. 2022).

``python -m experiments.text_to_image.unclip``

Captions become image vectors by a *prior*, image vectors become pictures by a *decoder*. Trains
CLIP on captioned shapes first (or takes ``--clip-model``, the folder of a run of
``experiments.text_to_image.clip``), then two priors, by diffusion and code by code, then the
decoder. Captions are of combinations of attributes that nothing was trained on; a classifier of
attributes, trained apart, says what the pictures show. Compared as the decoder's input are the
vectors of real pictures, those that each prior makes of the caption, and the caption's own vector
fed as if it were an image's. In the working folder:

  samples.png            captions, and pictures by each way
  variations.png         pictures of a real picture's vector and noise, some of it resampled
  interpolations.png     pictures between two
  text_differences.png   pictures moved towards what another caption says
  table.md               attributes as asked and Fréchet distance, by way; with the caption too
  differences.md         text differences: attributes that were to change, and that were not
  metrics.json           the same and more, by name
  curves.png             the decoder's losses in the course of training
  clip/                  CLIP, where none is given, as the program for it leaves it
  prior/, code_prior/, decoder/    checkpoints (jaxgen.training.load_model opens them)
  tokenizer/             the vocabulary of all of them
  vectors.npz            CLIP's vectors of all pictures

Started again with the same working folder it resumes; flags of sampling may then be other ones.
"""

import pathlib
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from experiments.shared.denoiser_sampling import SamplingFlags
from experiments.shared.figure_tables import write_rows
from experiments.shared.image_plots import plot_images
from experiments.shared.launch import LaunchConfig, open_workdir, report, run
from experiments.shared.process_flags import ProcessFlags
from experiments.shared.restarts import (
    SampledConfig,
    check_not_shorter,
    keep_training_seed,
    may_train_longer,
)
from experiments.shared.training_runs import check_layout, plot_training
from experiments.shared.workdir import check_checkpoints
from experiments.text_to_image import clip
from experiments.text_to_image.support.attribute_evaluator import (
    codes_of,
    make_attribute_evaluator,
)
from experiments.text_to_image.support.captioned_data import (
    evenly_spread,
    make_tokenizer,
    pictures_digest,
    plan_batches,
)
from experiments.text_to_image.support.clip_scores import ClipScorer, open_clip_scorer
from experiments.text_to_image.support.text_networks import TextNetworkFlags
from experiments.text_to_image.support.text_samples import (
    Prompts,
    prompts_of_part,
    sample_key,
)
from experiments.text_to_image.support.text_training import TextTrainingFlags
from experiments.text_to_image.support.vector_decoder import (
    UnclipModels,
    decoder_config,
    picture_drawer,
    train_decoder,
)
from experiments.text_to_image.support.vector_edits import evaluate_edits
from experiments.text_to_image.support.vector_priors import (
    PriorFlags,
    codes_of_vectors,
    draw_candidates,
    find_vectors,
    train_prior,
)
from jaxgen.data import CaptionedSet, load_captioned, to_unit, tokenise_captions
from jaxgen.data.tokenizers import save_tokenizer
from jaxgen.diffusion.objectives.weightings import weighting_named
from jaxgen.errors import InputError, check_share, check_sizes
from jaxgen.files import as_path
from jaxgen.parallel import is_main_process
from jaxgen.training.saved_names import register_config

REAL, TEXT = "image's own vector", "caption's vector as the image's"
PRIORS = {"prior": "diffusion prior", "code_prior": "autoregressive prior"}
SHOWN = 8
"""Captions that are shown."""


@register_config("text_to_image.unclip")
@dataclass(frozen=True, kw_only=True)
class Config(SampledConfig):
    """Flags of this experiment.

    Attributes:
      launch: where to run and on what.
      seed: of training, and of samples without a seed of their own. Where the folder holds a run
        already, that keeps its seed, and another one is for samples alone.
      sampling_seed: of samples; may differ when the run is started again.
      size: pixels along the side of the captioned shapes; None: 32.
      clip_model: the folder of a run of experiments.text_to_image.clip on captioned shapes; None:
        one is trained first.
      clip_updates: of a CLIP that is trained first.
      priors: both priors.
      network: the decoder, a DiT, and the text transformer that is trained with it.
      process: what the decoder learns.
      training: how it is trained; a share text_dropout of its captions becomes the empty text.
      vector_dropout: the share of its image vectors that become 0.
      sampling: how the decoder is sampled and evaluated.
      edited: test pictures that are changed by text differences.
      edit_steps: of DDIM, from a picture to noise and back.
      shares: of the way towards a text difference.
    """

    launch: LaunchConfig = LaunchConfig(workdir="runs/unclip")
    size: int | None = None
    clip_model: str | None = None
    clip_updates: int = 400
    priors: PriorFlags = PriorFlags()
    network: TextNetworkFlags = TextNetworkFlags(depth=3, text_depth=1)
    process: ProcessFlags = ProcessFlags()
    training: TextTrainingFlags = TextTrainingFlags(
        training_steps=2000, batch_size=32, learning_rate=2e-3, text_dropout=0.5
    )
    vector_dropout: float = 0.1
    sampling: SamplingFlags = SamplingFlags(
        sampler="dpm_solver", steps=20, guidance=1.0, evaluate=160
    )
    edited: int = 128
    edit_steps: int = 30
    shares: tuple[float, ...] = (0.25, 0.35, 0.5)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.process.preconditioning != "none":
            raise InputError(f"preconditioning is {self.process.preconditioning!r}, expected none")
        if self.network.network != "dit":
            raise InputError(
                f"network is {self.network.network!r}, expected 'dit', which takes a vector"
            )
        check_share("vector_dropout", self.vector_dropout)
        check_sizes(self, "clip_updates", "edited", "edit_steps")
        for share in self.shares:
            check_share("shares", share)


def main(config: Config) -> dict[str, Any]:
    """Trains, samples, evaluates, shows."""
    config = keep_training_seed(config)
    pictures = load_captioned("shapes", size=config.size)
    for size in (config.training.batch_size, config.priors.prior_batch):
        plan_batches(pictures, size, config.seed)
    given = open_clip_scorer(config.clip_model, tuple(pictures.images.shape[1:]))
    networks = plan_networks(config, pictures, given)
    steps = config.training.training_steps
    place = as_path(config.launch.workdir) / "decoder"
    check_not_shorter(place, steps, f"training_steps is {steps}")
    folder = open_workdir(
        config,
        may_differ=(
            *("sampling", "sampling_seed", "edited", "edit_steps", "shares"),
            *may_train_longer(config, "training_steps"),
        ),
        data={pictures.name: pictures_digest(pictures)},
        check=lambda folder: [check_checkpoints(folder / n, m) for n, m in networks.items()],
    )
    report(pictures.describe())
    towers = given or train_clip(config, folder / "clip", pictures)
    models = train_all(config, pictures, towers, networks, folder)
    figures = {
        f"{name}: {what}": value
        for name, model in {**models.priors, "decoder": models.decoder}.items()
        for what, value in model.figures().items()
    }
    _, kept = codes_of_vectors(models.priors["code_prior"].config, models.vectors)
    figures["code_prior: variance kept"] = kept
    if config.sampling.evaluate:
        figures |= evaluate_ways(models, config, folder)
    if config.shares:
        figures |= evaluate_edits(
            models, folder, count=config.edited, steps=config.edit_steps, shares=config.shares
        )
    return figures


def plan_networks(
    config: Config, pictures: CaptionedSet, towers: ClipScorer | None
) -> dict[str, Any]:
    """Both priors and the decoder, for CLIP's towers or those that will be trained.

    Raises:
      InputError: for sizes that do not fit each other.
    """
    if towers is None:
        tokenizer = make_tokenizer(pictures.distinct("descriptive"))
        found = clip.ClipNetworkFlags().config(pictures, tokenizer)
    else:
        tokenizer, found = towers.tokenizer, towers.config
    shape, target = tuple(pictures.images.shape[1:]), config.process.target
    networks = {
        "prior": config.priors.diffusion_prior(found),
        "code_prior": config.priors.code_prior(found),
        "decoder": decoder_config(config.network, shape, target, tokenizer, found),
    }
    for network in networks.values():
        check_layout(network)
    return networks


def train_clip(config: Config, folder: pathlib.Path, pictures: CaptionedSet) -> ClipScorer:
    """CLIP on the same pictures, by its own program; one that is there is opened."""
    report("training CLIP ...")
    flags = clip.Config(
        launch=replace(config.launch, workdir=str(folder)),
        size=config.size,
        training=clip.ClipTrainingFlags(training_steps=config.clip_updates),
        seed=config.seed,
    )
    clip.main(flags)
    towers = open_clip_scorer(str(folder), tuple(pictures.images.shape[1:]))
    assert towers is not None
    return towers


def train_all(
    config: Config,
    pictures: CaptionedSet,
    towers: ClipScorer,
    networks: Mapping[str, Any],
    folder: pathlib.Path,
) -> UnclipModels:
    """Trains both priors, the decoder and the evaluator, or opens them."""
    tokens = tokenise_captions(pictures.descriptive, towers.tokenizer)
    vectors = find_vectors(pictures, tokens, towers, folder / "vectors.npz")
    if is_main_process():
        save_tokenizer(towers.tokenizer, folder / "tokenizer")
    priors = {}
    for name, what in PRIORS.items():
        report(f"training the {what} ...")
        model = networks[name]
        priors[name] = train_prior(model, vectors, folder / name, config.priors, config.seed)
    report("training the decoder ...")
    decoder = train_decoder(
        networks["decoder"],
        vectors,
        folder / "decoder",
        config.training,
        weighting_named(config.process.weighting),
        config.vector_dropout,
        config.seed,
    )
    plot_training(folder / "curves.png", decoder)
    evaluator = make_attribute_evaluator(pictures, folder / "evaluator", seed=config.seed)
    assert evaluator is not None
    return UnclipModels(vectors, priors, decoder, evaluator)


def evaluate_ways(models: UnclipModels, config: Config, folder: pathlib.Path) -> dict[str, Any]:
    """What pictures show by each way from a caption to a vector, with the caption and without."""
    count = config.sampling.evaluate
    prompts = prompts_of_part(models.vectors.pictures, "test", "descriptive", count, shapes=True)
    found = vectors_by_way(models, config, prompts)
    key = sample_key(config.seed_of_samples)
    draw = picture_drawer(
        models.decoder, models.vectors.clip.tokenizer, config.sampling, jax.random.fold_in(key, 2)
    )
    show_ways(folder / "samples.png", draw, found, prompts)
    test, length = models.vectors.pictures.part("test"), models.vectors.length
    real = to_unit(test.images[prompts.row_N])
    wanted_NF = codes_of(test)[prompts.row_N]
    rows = {"real pictures": models.evaluator.figures(real, wanted_NF)}
    for name, vector_NC in found.items():
        cosine = (vector_NC * found[REAL]).sum(axis=1).mean() / length**2
        for captions, with_caption in ((None, ""), (prompts.texts, ", and the caption")):
            x = draw(vector_NC, captions)
            figures = models.evaluator.figures(x, wanted_NF)
            rows[name + with_caption] = figures | {"cosine": float(cosine)}
    write_rows(folder / "table.md", "decoder's input", rows)
    return rows


def vectors_by_way(
    models: UnclipModels, config: Config, prompts: Prompts
) -> dict[str, Float[np.ndarray, "N C"]]:
    """Image vectors of prompts by each way."""
    found = {
        REAL: models.vectors.of_part("test", prompts.row_N),
        TEXT: models.vectors.texts(prompts.texts),
    }
    key = sample_key(config.seed_of_samples)
    for number, (name, prior) in enumerate(models.priors.items()):
        own = jax.random.fold_in(key, number)
        found[PRIORS[name]] = draw_candidates(
            prior, models.vectors, config.priors, prompts.texts, own
        )
    return found


def show_ways(
    path: pathlib.Path,
    draw: Callable[..., Any],
    found: Mapping[str, Float[np.ndarray, "N C"]],
    prompts: Prompts,
) -> None:
    """Shows pictures of some captions, a row of each, two by each way."""
    chosen = evenly_spread(len(prompts.texts), SHOWN)
    x = draw(np.concatenate([vector_NC[chosen] for vector_NC in found.values() for _ in range(2)]))
    rows = x.reshape(2 * len(found), len(chosen), *x.shape[1:]).swapaxes(0, 1)
    columns = [
        text for name in found for text in (textwrap.fill(name, 10, break_long_words=False), "")
    ]
    captions = [textwrap.fill(prompts.texts[i], 30) for i in chosen]
    plot_images(path, rows, "Captions that were not trained on", columns, captions)


if __name__ == "__main__":
    run(main, Config)
