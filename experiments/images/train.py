"""A diffusion model of images, from training to the quality of its samples, in a few minutes.

``python -m experiments.images.train``

Trains a class-conditional denoiser, by default a transformer that predicts v on the digits that
scikit-learn carries; samples it with classifier-free guidance; and evaluates the samples by the
features of a small classifier that it trains on the same images (of two classes or more; others are
evaluated with ``--inception`` alone, without accuracy). In the working folder:

  samples.png        samples of every class
  denoising.png      what the network sees in the noise, step by step
  curves.png         losses in the course of training, and by noise level
  table.md           Fréchet distance, precision, recall, accuracy; or why there are none
  metrics.json       the same and more, by name
  checkpoints/       the network (jaxgen.training.load_model opens it)
  classifier/        the classifier, and features of real images

``--recipe mnist`` asks for a result that is known (`experiments.images.support.image_recipes`), and
``--start FOLDER`` trains on, with other data too: a run, a checkpoint, or weights of other
programs; ``--train-only PATTERN`` then trains some parameters alone. ``--preconditioning edm`` is
that of Karras et al. (2022).

Started again with the same working folder it resumes. Flags of sampling may then be other ones,
``--sampling-seed`` among them. With more ``--training-steps`` a finished run is trained further:
the learning rate's cosine is then the one for the new length, from the step on that was reached.
MNIST and CIFAR-10 are looked for in the folder that the variable JAXGEN_DATA names.
"""

import functools
import pathlib
import re
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import numpy as np

from experiments.images.support.image_networks import (
    NetworkFlags,
    Shape,
    make_config,
    make_loss,
)
from experiments.images.support.image_quality import (
    COLUMNS,
    NOT_EVALUATED,
    REAL,
    Evaluator,
    held_out_count,
    held_out_figures,
    images_a_row,
    make_evaluator,
    open_inception,
    open_resnet,
    quality_table,
    show_text,
)
from experiments.images.support.image_recipes import recipe_named
from experiments.images.support.image_training import (
    TrainingFlags,
    check_image_batches,
    train_denoiser,
)
from experiments.shared.denoiser_sampling import (
    SamplingFlags,
    draw_previews,
    even_labels,
    make_draw,
)
from experiments.shared.digests import images_digest
from experiments.shared.image_plots import plot_images, some_of
from experiments.shared.launch import LaunchConfig, open_workdir, report, run
from experiments.shared.output import remove_table
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
    plan_layout_of,
    plot_training,
)
from experiments.shared.workdir import check_checkpoints
from jaxgen.data import ImageSet, load_images
from jaxgen.diffusion.model import DenoiserConfig
from jaxgen.diffusion.objectives.weightings import weighting_named
from jaxgen.errors import InputError
from jaxgen.files import as_path
from jaxgen.nn.counting import parameter_count
from jaxgen.pretrained import LoadedNetwork, adapt_to_data, open_denoiser
from jaxgen.pretrained.denoisers import describe_denoiser
from jaxgen.training import trainable
from jaxgen.training.saved_names import register_config
from jaxgen.typing import Tree

GRID_ROWS, STRIP_ROWS, STRIP_COLUMNS, MOST_COLUMNS = 8, 10, 12, 10


@register_config("images.train", first_format=["experiments.image_diffusion:Config"])
@dataclass(frozen=True, kw_only=True)
class Config(SampledConfig):
    """Flags of this experiment.

    Attributes:
      launch: where to run and on what.
      seed: of training, and of samples without a seed of their own. Where the folder holds a run
        already, that keeps its seed, and another one is for samples alone.
      sampling_seed: of samples; may differ when the run is started again.
      data: "digits", "mnist", "cifar10", "tfds:NAME", or a folder of images whose subfolders are
        classes. Grey images among others in colour count as colour.
      size: resize and crop images to so many pixels; None keeps them as they are.
      skip_unreadable: leave out (and list) images of a folder that nothing can read, instead of
        stopping at the first.
      recipe: flags of a result that is known, by its name
        (`experiments.images.support.image_recipes`); others that are given change it.
      start: train on: the folder of a run, a checkpoint, or weights of other programs; its network,
        target and schedule are kept. Without a network's flags.
      train_only: a regular expression; only parameters in whose path it is found are trained, and
        the optimizer keeps no state for others.
      inception: a file (safetensors) with Inception's weights, to evaluate samples by its features.
      resnet: a file (safetensors) with the weights of a ResNet for CIFAR-10, to evaluate samples by
        in place of a small classifier that is trained here.
      network: the network.
      process: what it learns.
      training: how it is trained.
      sampling: how it is sampled and evaluated.
    """

    launch: LaunchConfig = LaunchConfig(workdir="runs/images_train")
    data: str = "digits"
    size: int | None = None
    skip_unreadable: bool = False
    recipe: str | None = None
    start: str | None = None
    train_only: str | None = None
    inception: str | None = None
    resnet: str | None = None
    recipes: ClassVar[Any] = staticmethod(recipe_named)
    network: NetworkFlags = NetworkFlags()
    process: ProcessFlags = ProcessFlags()
    training: TrainingFlags = TrainingFlags()
    sampling: SamplingFlags = SamplingFlags()


def main(config: Config) -> dict[str, Any]:
    """Trains, samples, evaluates, shows."""
    config = keep_training_seed(config)
    found = open_start(config)
    images = load_images(config.data, size=config.size, skip_unreadable=config.skip_unreadable)
    model, start = model_for(config, images, found)
    model.check_guidance(config.sampling.guidance)
    table = config.sampling.method(model).table(config.sampling.levels(model))
    check_image_batches(images, config.training.batch_size, config.seed)
    check_layout(model)
    if config.train_only is not None:
        trainable(plan_layout_of(model).abstract, config.train_only)
    inception, resnet = open_inception(config.inception), open_resnet(config.resnet, images)
    steps = config.training.training_steps
    check_not_shorter(as_path(config.launch.workdir), steps, f"training_steps is {steps}")
    longer = may_train_longer(config, "training_steps")
    folder = open_workdir(
        config,
        may_differ=("sampling", "sampling_seed", "inception", "resnet", "recipe", *longer),
        data={images.name: images_digest(images)},
        check=lambda folder: check_checkpoints(folder, model),
    )
    report(images.describe())
    trained = train_denoiser(
        model,
        images,
        folder,
        config.training,
        functools.partial(make_loss, model, weighting_named(config.process.weighting)),
        seed=config.seed,
        tensorboard=config.launch.tensorboard,
        start=start,
        train_only=config.train_only,
    )
    plot_training(folder / "curves.png", trained)
    key = jax.random.key(config.seed_of_samples + 1)
    show_samples(folder, trained, config.sampling, key)
    figures = {
        "parameters": parameter_count(trained.params),
        "updates": trained.steps,
        "skipped updates": trained.skipped,
        "training seconds": trained.seconds,
        "NFE per sample": len(table.now.t) * (2 if config.sampling.guidance else 1),
        **trained.last("train/loss", VALIDATION_LOSS),
    }
    evaluator = None
    if config.sampling.evaluate:
        kept = folder / "classifier"
        evaluator = make_evaluator(
            images, kept, inception=inception, resnet=resnet, seed=config.seed
        )
    if evaluator is None:
        # A table would be of other samples than the pictures show.
        remove_table(folder / "table.md", COLUMNS, NOT_EVALUATED)
    elif evaluator.features is None:
        show_text(folder / "table.md", f"{NOT_EVALUATED}, or from Inception: --inception FILE.")
    else:
        tables = evaluate_samples(evaluator, images, trained, config.sampling, key)
        named = {images_a_row(count): rows for count, rows in tables.items()}
        texts = [quality_table(name, rows) for name, rows in named.items()]
        show_text(folder / "table.md", "\n\n".join(texts))
        for rows in tables.values():
            figures |= rows
        figures |= named if len(named) > 1 else {}
    return figures


def open_start(config: Config) -> LoadedNetwork | None:
    """The model that training starts from; None for a new one.

    Raises:
      InputError: as `open_denoiser`; for flags of a network, of which there is one already, and
        for a pattern that is found in none of its parameters.
    """
    if config.start is None:
        return None
    if config.network != NetworkFlags():
        raise InputError(
            f"network is {config.network.network} with flags of its own and start {config.start}, "
            "expected no flags of a network: training continues with the one that is there"
        )
    if config.process not in (ProcessFlags(), ProcessFlags(weighting=config.process.weighting)):
        raise InputError(
            f"target is {config.process.target!r} and preconditioning "
            f"{config.process.preconditioning} with start {config.start}, expected neither: what "
            "the model predicts stays"
        )
    found = open_denoiser(config.start)
    if config.train_only is not None:
        trainable(found.params, config.train_only)
    return found


def model_for(
    config: Config, images: ImageSet, found: LoadedNetwork | None
) -> tuple[DenoiserConfig, Tree | None]:
    """The model that the flags ask for, and the parameters that its training starts from, if any.

    Raises:
      InputError: as `make_config` and `adapt_to_data`.
    """
    shape: Shape = tuple(images.images.shape[1:])
    if found is None:
        model = make_config(
            config.network, shape, images.classes, config.process.target, edm=config.process.edm
        )
        return model, None
    adapted, fresh = adapt_to_data(found, shape, images.classes, jax.random.key(config.seed))
    report(f"from {config.start}: {describe_denoiser(adapted.config)}")
    if fresh:
        report(f"newly initialised parameters: {', '.join(fresh)}")
    pattern = config.train_only
    kept = [] if pattern is None else [path for path in fresh if not re.search(pattern, path)]
    if kept:
        report(
            f"warning: train_only is {pattern!r}, which keeps newly initialised "
            f"parameters as they are, random: {', '.join(kept)}"
        )
    return adapted.config, adapted.params


def show_samples(
    folder: pathlib.Path, trained: TrainedModel, flags: SamplingFlags, key: jax.Array
) -> None:
    """Shows samples of every class, and how some of them came out of the noise."""
    model = trained.config
    columns = min(len(model.classes), MOST_COLUMNS) or MOST_COLUMNS
    labels = even_labels(GRID_ROWS * columns, columns) if model.classes else None
    draw = make_draw(model, trained.layout, clip=flags.clip)
    x = draw(
        trained.params,
        flags.method(model),
        flags.levels(model),
        labels,
        key,
        guidance=flags.guidance,
        count=GRID_ROWS * columns,
    )
    names = model.classes[:columns]
    how = f"{flags.sampler}, {flags.steps} steps, guidance {flags.guidance:g}"
    grid = x.reshape(GRID_ROWS, columns, *x.shape[1:])
    plot_images(folder / "samples.png", grid, f"Samples: {how}", columns=names)
    rows = min(STRIP_ROWS, columns)
    labels = even_labels(rows, columns) if model.classes else None
    xs = draw_previews(model, trained.layout, trained.params, flags, labels, key, rows)
    number, shown = some_of(xs, STRIP_COLUMNS)
    plot_images(
        folder / "denoising.png",
        np.moveaxis(shown, 0, 1),
        f"Estimates of the data by network evaluations: {how}",
        columns=[str(i + 1) for i in number],
        rows=names[:rows],
    )


def evaluate_samples(
    evaluator: Evaluator,
    images: ImageSet,
    trained: TrainedModel,
    flags: SamplingFlags,
    key: jax.Array,
) -> dict[int, dict[str, dict[str, float]]]:
    """Figures of samples, without guidance and with, beside those of real images.

    All rows of a table are of equally many images, because figures depend on the number. Where
    there are fewer held-out images than samples, there are two tables: real images beside means
    over blocks of as many samples, and all samples together.

    Returns:
      Images a row -> name -> figures.
    """
    model = trained.config
    draw = make_draw(model, trained.layout, clip=flags.clip)
    labels = even_labels(flags.evaluate, len(model.classes))
    size = held_out_count(images, flags.evaluate)

    tables = {size: {REAL: held_out_figures(evaluator, images, size)}}
    for guidance in dict.fromkeys((0.0, flags.guidance)):
        x = draw(
            trained.params,
            flags.method(model),
            flags.levels(model),
            labels,
            key,
            guidance=guidance,
            count=flags.evaluate,
            name=f"sampling, guidance {guidance:g}",
        )
        for count in dict.fromkeys((size, flags.evaluate)):
            found = evaluator.figures_in_blocks(x, labels, count)
            tables.setdefault(count, {})[f"samples, guidance {guidance:g}"] = found
    return tables


if __name__ == "__main__":
    run(main, Config)
