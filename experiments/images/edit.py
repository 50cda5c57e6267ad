"""What a trained diffusion model of images is good for besides samples: guided, known, classified.

``python -m experiments.images.edit --data mnist --model runs/images_train``

Takes a model that ``experiments.images.train`` has trained, and its classifier. In the working
folder:

  guidance.md         Fréchet distance and accuracy of samples by guidance; or why there are none
  guidance.png        samples by guidance, the same noise in every row
  inpainting.png      images with a part resampled: by replacement, RePaint, and reconstruction
                      guidance of two kinds
  upsampling.png      images made from small ones by the same guidance
  metrics.json        all figures: of the diffusion classifier too, which says for test images under
                      which class the model tells their noise best
"""

import functools
import pathlib
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from experiments.images.support.image_quality import (
    ACCURACY,
    NOT_EVALUATED,
    Evaluator,
    make_evaluator,
    quality_table,
    show_text,
)
from experiments.images.support.image_training import check_fits, open_image_model
from experiments.shared.denoiser_sampling import even_labels, make_draw
from experiments.shared.digests import images_digest
from experiments.shared.image_plots import plot_images
from experiments.shared.launch import ExperimentConfig, LaunchConfig, open_workdir, report, run
from experiments.shared.output import progress_bar
from experiments.shared.training_runs import OpenedModel
from jaxgen.data import ImageSet, load_images, to_unit
from jaxgen.diffusion import Denoiser, Estimate, Level, clip_x
from jaxgen.diffusion.conditioning.diffusion_classifier import classify, even_times
from jaxgen.diffusion.conditioning.image_to_image import downsample
from jaxgen.diffusion.conditioning.inpainting import RePaint, Replacement
from jaxgen.diffusion.conditioning.masks import box_mask
from jaxgen.diffusion.conditioning.reconstruction import (
    Operator,
    masked,
    moment_guidance,
    reconstruction_guidance,
)
from jaxgen.diffusion.process.step_levels import make_steps
from jaxgen.diffusion.samplers import DDIM
from jaxgen.diffusion.samplers.sampling import Sampler, initial_noise, sample_with_table
from jaxgen.errors import InputError
from jaxgen.files import as_path
from jaxgen.training.saved_names import register_config

SHOWN = 10
"""Images of a picture's row."""

IMAGES_PER_CALL = 50


@register_config("images.edit", first_format=["experiments.image_uses:Config"])
@dataclass(frozen=True, kw_only=True)
class Config(ExperimentConfig):
    """Flags of this experiment.

    Attributes:
      launch: where to run and on what.
      model: the folder of a run of ``experiments.images.train``.
      data: the images that the model was trained on.
      size: as there.
      skip_unreadable: as there.
      guidances: guidance weights to compare, w of (1 + w) e(z, c) - w e(z).
      evaluate: samples at each weight; 0 leaves the comparison out.
      steps: of all samplers.
      classify: test images for the diffusion classifier; 0 for none.
      levels: noise levels that it looks at, at most.
      inpaint: images whose inpaintings the classifier evaluates; 0 leaves the pictures out.
      resamplings: of RePaint, how often each stretch is gone through.
      weight: w of reconstruction guidance where a part is known (and replaced besides).
      upsampling: by how much the small images are smaller.
      upsampling_weight: w of reconstruction guidance from small images, which nothing else holds:
        above 2 it drives samples away from them.
      iterations: of moment guidance, each costs a backward pass.
    """

    launch: LaunchConfig = LaunchConfig(workdir="runs/images_edit")
    model: str
    data: str = "mnist"
    size: int | None = None
    skip_unreadable: bool = False
    guidances: tuple[float, ...] = (0.0, 0.5, 1.0, 2.0, 4.0)
    evaluate: int = 1000
    steps: int = 32
    classify: int = 500
    levels: int = 64
    inpaint: int = 100
    resamplings: int = 5
    weight: float = 20.0
    upsampling: int = 4
    upsampling_weight: float = 1.0
    iterations: int = 5

    def __post_init__(self) -> None:
        for name in ("evaluate", "classify", "inpaint"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} is {getattr(self, name)}, expected 0 or more")
        for name in ("steps", "levels", "resamplings", "upsampling", "iterations"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}, expected 1 or more")


def main(config: Config) -> dict[str, Any]:
    """All that is asked for."""
    images = load_images(config.data, size=config.size, skip_unreadable=config.skip_unreadable)
    teacher = as_path(config.model)
    model = open_image_model(teacher)
    check_fits(model.config, images)
    for guidance in config.guidances if config.evaluate else ():
        model.config.check_guidance(guidance)
    held = images.part("test" if "test" in images.parts else "validation")
    if config.classify and (held.labels is None or not model.config.classes):
        raise InputError(f"classify is {config.classify}, expected 0 for images without classes")
    if config.inpaint and any(side % config.upsampling for side in model.config.image_shape[:2]):
        height, width, _ = model.config.image_shape
        raise InputError(
            f"upsampling is {config.upsampling}, expected a divisor of both sides of the images "
            f"({height} x {width})"
        )
    if config.inpaint and model.config.classes and model.config.null_label is None:
        raise InputError(
            f"inpaint is {config.inpaint}, but the network has no null class (class_dropout is 0), "
            "which inpainting needs, expected inpaint 0"
        )
    folder = open_workdir(
        config, data={images.name: images_digest(images), config.model: model.digest}
    )
    evaluator = make_evaluator(images, teacher / "classifier", seed=config.seed)
    figures: dict[str, Any] = {}
    if config.evaluate:
        figures["guidance"] = compare_guidance(config, folder, model, evaluator)
    if config.classify:
        figures["diffusion classifier"] = classify_held_out(config, model, held)
    if config.inpaint:
        figures["inpainting"] = show_inpainting(config, folder, model, held, evaluator)
        figures["upsampling"] = show_upsampling(config, folder, model, held)
    return figures


def compare_guidance(
    config: Config, folder: pathlib.Path, model: OpenedModel, evaluator: Evaluator
) -> dict[str, dict[str, float]]:
    """Evaluates samples by guidance weight, if possible, and shows some, from the same noise."""
    evaluated = evaluator.features is not None
    count = config.evaluate if evaluated else min(config.evaluate, SHOWN)
    levels = make_steps(model.config.schedule, config.steps)
    draw = make_draw(model.config, model.layout)
    labels = even_labels(count, len(model.config.classes))
    key = jax.random.key(config.seed + 1)
    figures, rows = {}, []
    for w in config.guidances:
        x = draw(
            model.params,
            DDIM(),
            levels,
            labels,
            key,
            guidance=w,
            count=count,
            name=f"sampling, guidance {w:g}",
        )
        figures[f"{w:g}"] = evaluator.figures(x, labels)
        rows.append(x[:SHOWN])
    table = quality_table("guidance", figures) if evaluated else f"{NOT_EVALUATED}."
    show_text(folder / "guidance.md", table)
    plot_images(
        folder / "guidance.png",
        np.stack(rows),
        f"The same noise under guidance w (DDIM, {config.steps} steps)",
        columns=[] if labels is None else [model.config.classes[label] for label in labels[:SHOWN]],
        rows=[f"w = {w:g}" for w in config.guidances],
    )
    return figures


def classify_held_out(config: Config, model: OpenedModel, held: ImageSet) -> dict[str, float]:
    """The accuracy of the diffusion classifier, which drops unlikely classes on the way."""
    count = min(config.classify, len(held))
    classes = len(model.config.classes)

    def denoiser(z: Array, level: Level, label_B: Array) -> Estimate:
        return model.config.make_denoiser(model.params, label_B, clip=False)(z, level)

    levels = even_times(model.config.schedule, config.levels)
    stages = [(config.levels // 8, min(4, classes)), (config.levels // 2, min(2, classes))]
    stages = [(until, kept) for until, kept in stages if until]
    run_batch = jax.jit(
        lambda x, index_B: (
            classify(
                denoiser,
                x,
                classes,
                levels,
                jax.random.key(config.seed),
                index_B=index_B,
                stages=stages,
                batch=256,
            ).label_B
        )
    )
    found = []
    with progress_bar("diffusion classifier", "image", count) as advance:
        for first in range(0, count, IMAGES_PER_CALL):
            index_B = np.minimum(np.arange(first, first + IMAGES_PER_CALL), count - 1)
            found.append(np.asarray(run_batch(to_unit(held.images[index_B]), index_B)))
            advance(min(IMAGES_PER_CALL, count - first))
    right = float((np.concatenate(found)[:count] == held.labels[:count]).mean())
    report(f"diffusion classifier: {right:.1%} of {count} held-out images")
    return {"images": count, "levels": config.levels, "accuracy": right}


def show_inpainting(
    config: Config, folder: pathlib.Path, model: OpenedModel, held: ImageSet, evaluator: Evaluator
) -> dict[str, float]:
    """Shows images with their lower half resampled; how many keep their class, by method.

    The denoiser gets the null label, where it was trained with one: the class has to follow from
    what is known.
    """
    x = to_unit(held.images[: config.inpaint])
    height, width, _ = model.config.image_shape
    known = box_mask((height, width), (height // 2, height), (0, width))
    unguided = unconditional_denoiser(model, len(x))
    replacement = Replacement(DDIM(eta=1.0), known, x)
    jump = min(4, config.steps - 1)  # one step leaves nothing to resample
    resamplings = config.resamplings if jump else 1
    repaint = RePaint(DDIM(eta=1.0), known, x, jump_length=max(jump, 1), resamplings=resamplings)
    guided = guided_denoisers(config, model, masked(known), known * x, config.weight)
    methods: dict[str, tuple[Sampler, Denoiser]] = {
        "replacement": (replacement, unguided),
        "RePaint": (repaint, unguided),
        **{name: (replacement, denoiser) for name, denoiser in guided.items()},
    }
    rows, figures = {"image": x, "known": np.where(known > 0.5, x, 0.0)}, {}
    for name, (method, denoiser) in methods.items():
        rows[name] = sample_known(config, model, method, denoiser, len(x), f"inpainting, {name}")
        found = evaluator.figures(
            rows[name], None if held.labels is None else held.labels[: len(x)]
        )
        figures[name] = found.get(ACCURACY)
    plot_images(
        folder / "inpainting.png",
        np.stack([row[:SHOWN] for row in rows.values()]),
        f"The lower half resampled: {config.steps} steps, null label",
        rows=[*rows],
    )
    shown = {name: value for name, value in figures.items() if value is not None}
    if shown:
        kept = ", ".join(f"{name} {value:.1%}" for name, value in shown.items())
        report(f"inpaintings that keep their class: {kept}")
    return shown


def show_upsampling(
    config: Config, folder: pathlib.Path, model: OpenedModel, held: ImageSet
) -> dict[str, float]:
    """Shows images made from small ones; how far from these they are, made small, by method."""
    x = to_unit(held.images[:SHOWN])
    factor = config.upsampling
    operator = functools.partial(downsample, factor=factor)
    small = downsample(x, factor)
    # In units of A A^T, which is 1 / factor^2 for means over blocks.
    weight = config.upsampling_weight * factor**2
    rows, figures = {"image": x, "given": np.repeat(np.repeat(small, factor, 1), factor, 2)}, {}
    for name, denoiser in guided_denoisers(config, model, operator, small, weight).items():
        made = sample_known(config, model, DDIM(eta=1.0), denoiser, len(x), f"upsampling, {name}")
        figures[name] = float(np.sqrt(np.mean((operator(made) - small) ** 2)))
        rows[name] = made
    plot_images(
        folder / "upsampling.png",
        np.stack([*rows.values()]),
        f"Made from images {factor} times smaller: {config.steps} steps, null label",
        rows=[*rows],
    )
    report(
        "made small again, they differ from what was given by "
        + ", ".join(f"{error:.4f} ({name})" for name, error in figures.items())
    )
    return figures


def unconditional_denoiser(model: OpenedModel, count: int, *, clip: bool = True) -> Denoiser:
    """The denoiser under the null label."""
    null = model.config.null_label
    labels = None if null is None else jnp.full(count, null)
    return model.config.make_denoiser(model.params, labels, clip=clip)


def guided_denoisers(
    config: Config,
    model: OpenedModel,
    operator: Operator,
    observed: Float[Array, "B ..."],
    weight: float,
) -> dict[str, Denoiser]:
    """The same, led to agree with what is observed, in two ways.

    They are clipped last, for clipping has no gradient.
    """
    plain = unconditional_denoiser(model, len(observed), clip=False)
    by_moments = moment_guidance(plain, operator, observed, iterations=config.iterations)
    return {
        "guidance": clip_x(reconstruction_guidance(plain, operator, observed, weight)),
        "moment guidance": clip_x(by_moments),
    }


def sample_known(
    config: Config,
    model: OpenedModel,
    method: Sampler,
    denoiser: Denoiser,
    count: int,
    name: str,
) -> Float[np.ndarray, "N Y X C"]:
    """Samples of a method and a denoiser that know a part of the images."""
    levels = make_steps(model.config.schedule, config.steps)
    key, index_N = jax.random.key(config.seed + 2), jnp.arange(count)

    @jax.jit
    def run_all(table: Any) -> Array:
        z = initial_noise(key, index_N, model.config.image_shape, levels)
        return sample_with_table(method, denoiser, z, table, key, index_N)

    with progress_bar(name, "image", count) as advance:
        made = np.asarray(run_all(method.table(levels)))
        advance(count)
    return made


if __name__ == "__main__":
    run(main, Config)
