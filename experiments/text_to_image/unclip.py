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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from experiments.shared.denoiser_sampling import SamplingFlags
from experiments.shared.image_plots import plot_images
from experiments.shared.launch import LaunchConfig, open_workdir, report, run
from experiments.shared.output import format_table, three_decimals, write_text
from experiments.shared.process_flags import ProcessFlags
from experiments.shared.restarts import SampledConfig, keep_training_seed, may_train_longer
from experiments.shared.training_runs import OpenedModel, TrainedModel, check_layout, plot_training
from experiments.shared.workdir import check_checkpoints
from experiments.text_to_image import clip
from experiments.text_to_image.support.attribute_evaluator import (
    AttributeEvaluator,
    codes_of,
    make_attribute_evaluator,
)
from experiments.text_to_image.support.captioned_data import pictures_digest, plan_batches
from experiments.text_to_image.support.clip_scores import ClipScorer, open_clip_scorer
from experiments.text_to_image.support.text_networks import TextNetworkFlags
from experiments.text_to_image.support.text_samples import (
    Prompts,
    prompts_of_part,
    sample_key,
    show_prompts,
)
from experiments.text_to_image.support.text_training import TextTrainingFlags
from experiments.text_to_image.support.vector_decoder import (
    PictureEditor,
    decoder_config,
    picture_drawer,
    train_decoder,
)
from experiments.text_to_image.support.vector_priors import (
    PriorFlags,
    Vectors,
    codes_of_vectors,
    draw_candidates,
    find_vectors,
    train_prior,
)
from jaxgen.data import CaptionedSet, load_captioned, to_unit, tokenise_captions
from jaxgen.data.captions.shape_captions import read_captions, write_captions
from jaxgen.data.captions.shape_vocabulary import ShapeVocabulary
from jaxgen.data.tokenizers import save_tokenizer
from jaxgen.diffusion.conditioning.editing import slerp
from jaxgen.diffusion.conditioning.image_vectors import text_difference
from jaxgen.diffusion.objectives.weightings import weighting_named
from jaxgen.errors import InputError, check_share, check_sizes
from jaxgen.nn.counting import parameter_count
from jaxgen.parallel import is_main_process
from jaxgen.training.saved_names import register_config

REAL, TEXT = "image's own vector", "caption's vector as the image's"
PRIORS = {"prior": "diffusion prior", "code_prior": "autoregressive prior"}
SHOWN, ETAS, BETWEEN = 8, (0.0, 0.5, 1.0), 7
"""Captions or pictures that are shown; resampled noise of variations; steps between pictures."""


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
    network: TextNetworkFlags = TextNetworkFlags()
    process: ProcessFlags = ProcessFlags()
    training: TextTrainingFlags = TextTrainingFlags(training_steps=1000, text_dropout=0.5)
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


class Models(NamedTuple):
    """Everything that was trained.

    Attributes:
      vectors: the set with CLIP's vectors.
      priors: both priors, by `PRIORS`.
      decoder: the decoder.
      evaluator: of attributes.
    """

    vectors: Vectors
    priors: Mapping[str, OpenedModel]
    decoder: OpenedModel
    evaluator: AttributeEvaluator


def main(config: Config) -> dict[str, Any]:
    """Trains, samples, evaluates, shows."""
    config = keep_training_seed(config)
    pictures = load_captioned("shapes", size=config.size)
    for size in (config.training.batch_size, config.priors.prior_batch):
        plan_batches(pictures, size, config.seed)
    shape = tuple(pictures.images.shape[1:])
    given = open_clip_scorer(config.clip_model, shape)
    folder = open_workdir(
        config,
        may_differ=(
            *("sampling", "sampling_seed", "edited", "edit_steps", "shares"),
            *may_train_longer(config, "training_steps"),
        ),
        data={pictures.name: pictures_digest(pictures)},
    )
    report(pictures.describe())
    towers = given or train_clip(config, folder / "clip", shape)
    models = train_all(config, pictures, towers, folder)
    figures = {
        f"{name}: {what}": value
        for name, model in {**models.priors, "decoder": models.decoder}.items()
        for what, value in _training_figures(model).items()
    }
    _, kept = codes_of_vectors(models.priors["code_prior"].config, models.vectors)
    figures["code_prior: variance kept"] = kept
    figures |= evaluate_ways(models, config, folder)
    if config.shares:
        figures |= evaluate_edits(models, config, folder)
    return figures


def train_clip(config: Config, folder: pathlib.Path, shape: tuple[int, ...]) -> ClipScorer:
    """CLIP on the same pictures, by its own program; one that is there is opened."""
    report("training CLIP ...")
    flags = clip.Config(
        launch=replace(config.launch, workdir=str(folder)),
        size=config.size,
        training=clip.ClipTrainingFlags(training_steps=config.clip_updates),
        seed=config.seed,
    )
    clip.main(flags)
    towers = open_clip_scorer(str(folder), shape)
    assert towers is not None
    return towers


def train_all(
    config: Config, pictures: CaptionedSet, towers: ClipScorer, folder: pathlib.Path
) -> Models:
    """Trains both priors, the decoder and the evaluator, or opens them."""
    tokens = tokenise_captions(pictures.descriptive, towers.tokenizer)
    vectors = find_vectors(pictures, tokens, towers, folder / "vectors.npz")
    network = decoder_config(
        config.network,
        tuple(pictures.images.shape[1:]),
        config.process.target,
        towers.tokenizer,
        towers.config,
    )
    kinds = {
        "prior": config.priors.diffusion_prior(towers.config),
        "code_prior": config.priors.code_prior(towers.config),
    }
    for name, model in {**kinds, "decoder": network}.items():
        check_layout(model)
        check_checkpoints(folder / name, model)
    if is_main_process():
        save_tokenizer(towers.tokenizer, folder / "tokenizer")
    priors = {}
    for name, model in kinds.items():
        report(f"training the {PRIORS[name]} ...")
        priors[name] = train_prior(model, vectors, folder / name, config.priors, config.seed)
    report("training the decoder ...")
    decoder = train_decoder(
        network,
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
    return Models(vectors, priors, decoder, evaluator)


def evaluate_ways(models: Models, config: Config, folder: pathlib.Path) -> dict[str, Any]:
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
    models: Models, config: Config, prompts: Prompts
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
    chosen = np.linspace(0, len(prompts.texts) - 1, min(SHOWN, len(prompts.texts))).astype(int)
    chosen = np.unique(chosen)
    x = draw(np.concatenate([vector_NC[chosen] for vector_NC in found.values() for _ in range(2)]))
    rows = x.reshape(2 * len(found), len(chosen), *x.shape[1:]).swapaxes(0, 1)
    title = f"Two pictures each by: {', '.join(found)}"
    show_prompts(path, rows.reshape(x.shape), [prompts.texts[i] for i in chosen], title)


def evaluate_edits(models: Models, config: Config, folder: pathlib.Path) -> dict[str, Any]:
    """Figures of variations and text differences, and pictures of them and of interpolations."""
    vectors, test = models.vectors, models.vectors.pictures.part("test")
    prompts = prompts_of_part(vectors.pictures, "test", "descriptive", config.edited, shapes=True)
    x, vector_NC = to_unit(test.images[prompts.row_N]), vectors.of_part("test", prompts.row_N)
    editor = PictureEditor(models.decoder, vectors.clip.tokenizer, config.edit_steps)
    z = editor.invert(x, vector_NC)
    varied = {f"eta {eta:g}": editor.draw(z, vector_NC, eta) for eta in ETAS}
    few = slice(0, None, max(1, len(x) // SHOWN))
    rows = np.stack([x[few][:SHOWN], *(each[few][:SHOWN] for each in varied.values())])
    names = ["original", *varied]
    plot_images(folder / "variations.png", rows, "Variations of test pictures", rows=names)
    was_NF = codes_of(test)[prompts.row_N]
    figures: dict[str, Any] = {
        f"variations, {name}": models.evaluator.figures(each, was_NF)
        for name, each in varied.items()
    }
    show_between(folder / "interpolations.png", editor, z, vector_NC)
    named_N, wanted_NF, captions = changed_captions(prompts.texts, was_NF, models.evaluator)
    texts_NC, before_NC = vectors.texts(captions), vectors.texts(prompts.texts)
    edited = {}
    for share in config.shares:
        moved_NC = np.asarray(text_difference(vector_NC, texts_NC, before_NC, share))
        edited[share] = editor.draw(z, moved_NC)
        _, found_NF = models.evaluator.look(edited[share])
        name = f"text difference, share {share:g}"
        figures[name] = difference_figures(
            models.evaluator.names, found_NF, was_NF, wanted_NF, named_N
        )
    chosen = {k: v for k, v in figures.items() if k.startswith("text difference")}
    write_rows(folder / "differences.md", "moved by", chosen)
    pictures = np.stack([x[:SHOWN], *(each[:SHOWN] for each in edited.values())])
    columns = [models.evaluator.values[f][wanted_NF[i, f]] for i, f in enumerate(named_N[:SHOWN])]
    plot_images(
        folder / "text_differences.png",
        pictures,
        "Test pictures moved towards what a caption with another word says",
        [f"to {value}" for value in columns],
        ["original", *(f"share {share:g}" for share in edited)],
    )
    return figures


def changed_captions(
    captions: Sequence[str], was_NF: Int[np.ndarray, "N F"], evaluator: AttributeEvaluator
) -> tuple[Int[np.ndarray, "N"], Int[np.ndarray, "N F"], tuple[str, ...]]:
    """Captions with one attribute changed, each attribute in turn.

    Returns:
      Which attribute is changed, what is then asked for, and the captions that say so.
    """
    vocabulary, count = ShapeVocabulary(), len(captions)
    named_N = np.arange(count) % len(evaluator.names)
    wanted_NF = was_NF.copy()
    for i, f in enumerate(named_N):
        values = len(evaluator.values[f])
        step = 1 + (i // len(evaluator.names)) % (values - 1)
        wanted_NF[i, f] = (was_NF[i, f] + step) % values
    code_NF = read_captions(vocabulary, captions)
    said = list(vocabulary.values)
    for f, name in enumerate(evaluator.names):
        code_NF[:, said.index(name)] = wanted_NF[:, f]
    return named_N, wanted_NF, write_captions(vocabulary, code_NF)


def difference_figures(
    names: Sequence[str],
    found_NF: Int[np.ndarray, "N F"],
    was_NF: Int[np.ndarray, "N F"],
    wanted_NF: Int[np.ndarray, "N F"],
    named_N: Int[np.ndarray, "N"],
) -> dict[str, float]:
    """What text differences reached, by the attribute that was to change, and what else changed."""
    row_N = np.arange(len(named_N))
    reached_N = found_NF[row_N, named_N] == wanted_NF[row_N, named_N]
    other_NF = named_N[:, None] != np.arange(len(names))
    of_each = {
        f"{name} as asked": float(reached_N[named_N == f].mean())
        for f, name in enumerate(names)
        if (named_N == f).any()
    }
    changed_NF = found_NF != was_NF
    return of_each | {
        "named attribute as asked": float(reached_N.mean()),
        "others changed": float(changed_NF[other_NF].mean()),
    }


def show_between(
    path: pathlib.Path,
    editor: PictureEditor,
    z: Float[np.ndarray, "N Y X C"],
    vector_NC: Float[np.ndarray, "N C"],
) -> None:
    """Shows pictures from one to the next, noise and vectors both along the sphere."""
    shares = np.linspace(0, 1, BETWEEN)
    half = min(len(z) // 2, SHOWN // 2)
    if not half:
        return
    first, last = np.arange(half), len(z) - 1 - np.arange(half)
    rows = []
    for share in shares:
        between = np.asarray(slerp(vector_NC[first], vector_NC[last], share))
        noise = np.asarray(slerp(z[first], z[last], share))
        rows.append(editor.draw(noise, between))
    shown = np.stack(rows, axis=1)
    plot_images(
        path, shown, "From one test picture to another", [f"{share:.2f}" for share in shares]
    )


def write_rows(path: pathlib.Path, first: str, rows: Mapping[str, Mapping[str, float]]) -> None:
    """Writes figures as a table, and shows it."""
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    cells = [(name, *(three_decimals(row.get(c)) for c in columns)) for name, row in rows.items()]
    table = format_table((first, *columns), cells)
    write_text(path, table)
    report("\n" + table)


def _training_figures(model: Any) -> dict[str, float]:
    """Size and training of a model."""
    assert isinstance(model, TrainedModel)
    return {
        "parameters": parameter_count(model.params),
        "updates": model.steps,
        "seconds": model.seconds,
        **model.last("train/loss"),
    }


if __name__ == "__main__":
    run(main, Config)
