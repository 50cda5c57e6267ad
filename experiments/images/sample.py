"""Images of a trained diffusion model: one file each, and all of them on one sheet.

``python -m experiments.images.sample --run runs/images_train --classes 3 7 --count 4``

From the folder of a run, of its checkpoints or of one of them, or from a folder of diffusers (a
``DiTTransformer2DModel`` or ``UNet2DModel`` with its scheduler; one of latents with the autoencoder
of its pipeline, ``vae/``, which decodes them). In the working folder:

  images/            00000_CLASS.png, 00001_CLASS.png, ...
  sheet.png          a row for each class
  metrics.json       how many there are, network evaluations, seconds

Image i depends on the seed and on i alone. Samplers go by the names of other programs too, see
`jaxgen.diffusion.named_samplers`; ``--scale 7.5``, the guidance scale of other programs, is
``--guidance 6.5``. The working folder may be used again: what it held is replaced.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int

from experiments.shared.denoiser_sampling import draw_in_parts, make_draw
from experiments.shared.image_plots import plot_images
from experiments.shared.launch import ExperimentConfig, LaunchConfig, open_workdir, report, run
from experiments.shared.sample_files import write_samples
from experiments.shared.training_runs import plan_layout_of
from jaxgen.diffusion.model import DenoiserConfig
from jaxgen.diffusion.model_sampling import guidance_weight
from jaxgen.diffusion.named_samplers import sampler_named
from jaxgen.errors import InputError
from jaxgen.pretrained import LoadedNetwork, open_decoder, open_denoiser
from jaxgen.pretrained.denoisers import describe_denoiser
from jaxgen.training.saved_names import register_config

ROW = 10
"""Images in a row of the sheet, of models without classes."""

DECODED_PER_CALL = 8
"""Latents that are decoded at a time."""


@register_config("images.sample")
@dataclass(frozen=True, kw_only=True)
class Config(ExperimentConfig):
    """Flags of this experiment.

    Attributes:
      launch: where to run and on what.
      seed: of the samples.
      run: the folder of the model.
      variant: which weights of a folder of diffusers, "fp16" say.
      classes: names or numbers of the classes to sample; none: all of them. Of several names with
        commas between them, as ImageNet's classes have, one is enough.
      count: images of each class.
      sampler: its name, here or in another program: "DDIM", "Euler a", "DPM++ 2M Karras", ...
      steps: of the sampler.
      guidance: w of (1 + w) e(z, c) - w e(z); 0 is the conditional model.
      scale: the guidance scale of other programs, 1 + w; in place of guidance.
      clip: keep the estimate of the data within the range of pixels; latents are not clipped.
    """

    launch: LaunchConfig = LaunchConfig(workdir="runs/images_sample")
    run: str
    variant: str | None = None
    classes: tuple[str, ...] = ()
    count: int = 8
    sampler: str = "DDIM"
    steps: int = 50
    guidance: float | None = None
    scale: float | None = None
    clip: bool = True

    def __post_init__(self) -> None:
        for name in ("count", "steps"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}, expected 1 or more")
        guidance_weight(self.guidance, self.scale)


def main(config: Config) -> dict[str, Any]:
    """Samples, and writes what came of it."""
    model, params = open_denoiser(config.run, config.variant)
    autoencoder = decoder_of(model, config)
    label_N, rows = chosen_labels(model, config)
    w = guidance_weight(config.guidance, config.scale) or 0.0
    model.check_guidance(w)
    named = sampler_named(config.sampler, model.schedule)
    levels = named.levels(model.schedule, config.steps)
    layout = plan_layout_of(model)
    draw = make_draw(model, layout, clip=config.clip and autoencoder is None)
    folder = open_workdir(config, may_differ=[f for f in vars(config) if f != "launch"])
    report(describe_denoiser(model))
    start = time.monotonic()
    x = draw(
        jax.device_put(params, layout.shardings),
        named.sampler,
        levels,
        label_N,
        jax.random.key(config.seed),
        guidance=w,
        count=config.count if label_N is None else None,
    )
    if autoencoder is not None:
        x = decode_latents(autoencoder, x)
    seconds = time.monotonic() - start
    names = [""] * len(x) if label_N is None else [model.classes[i] for i in label_N]
    write_samples(folder / "images", x, names)
    across = config.count if rows else min(ROW, len(x))
    grid = _in_rows(x, across)
    how = f"{config.sampler}, {config.steps} steps, guidance {w:g}, seed {config.seed}"
    plot_images(folder / "sheet.png", grid, f"Samples: {how}", rows=rows)
    report(f"{len(x)} images are in {folder / 'images'}, all of them in {folder / 'sheet.png'}")
    evaluations = len(named.sampler.table(levels).now.t) * (2 if w else 1)
    return {"images": len(x), "NFE per sample": evaluations, "seconds": seconds}


def chosen_labels(
    model: DenoiserConfig, config: Config
) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """The class of every image and the names of the rows; None for a model without classes.

    Raises:
      InputError: for a class that the model has not.
    """
    if not model.classes:
        if config.classes:
            raise InputError(
                f"classes are {', '.join(config.classes)}, but the model has none, expected no "
                "--classes"
            )
        return None, ()
    numbers = numbers_by_name(model.classes)
    for name in config.classes:
        if name not in numbers:
            some = ", ".join(model.classes[:10])
            raise InputError(
                f"class {name!r} is none of the model's, expected one of {some}"
                + (", ..." if len(model.classes) > 10 else "")
            )
        if len(numbers[name]) > 1:
            several = ", ".join(map(str, numbers[name]))
            raise InputError(
                f"class {name!r} names several of the model's, expected one of {several}"
            )
    chosen = [numbers[name][0] for name in config.classes] or list(range(len(model.classes)))
    return np.repeat(chosen, config.count), tuple(model.classes[i] for i in chosen)


def numbers_by_name(classes: Sequence[str]) -> dict[str, list[int]]:
    """The classes of each name, of each of several with commas between them, and of each number."""
    found: dict[str, list[int]] = {}
    parts: dict[str, list[int]] = {}
    for i, name in enumerate(classes):
        found.setdefault(name, []).append(i)
        for part in dict.fromkeys(name.split(", ")):
            parts.setdefault(part, []).append(i)
    return {str(i): [i] for i in range(len(classes))} | parts | found


def decoder_of(model: DenoiserConfig, config: Config) -> LoadedNetwork | None:
    """The autoencoder beside a model of latents; None for a model of pixels.

    Raises:
      InputError: for other channels than those of pixels without one, or those of its latents.
    """
    channels = model.image_shape[-1]
    autoencoder = open_decoder(config.run, config.variant)
    if autoencoder is None and channels not in (1, 3):
        raise InputError(
            f"{config.run}: a model of {channels} channels, expected 1 or 3, those of pixels, or a "
            "pipeline with the autoencoder of its latents (vae/); others are sampled from Python "
            "(jaxgen.pretrained.open_denoiser) and then decoded"
        )
    if autoencoder is not None and autoencoder.config.network.latent_channels != channels:
        raise InputError(
            f"{config.run}: an autoencoder of {autoencoder.config.network.latent_channels} "
            f"channels, expected {channels}, the model's"
        )
    return autoencoder


def decode_latents(
    autoencoder: LoadedNetwork, z: Float[np.ndarray, "N Y X C"]
) -> Float[np.ndarray, "N Y2 X2 3"]:
    """Images of latents, so many at a time, under a bar."""
    params = jax.device_put(autoencoder.params)
    decode = jax.jit(lambda params, z: autoencoder.config.make_compressor(params).decode(z))

    def part(index_B: Int[np.ndarray, "B"]) -> Any:
        return decode(params, z[index_B])

    return draw_in_parts(part, len(z), DECODED_PER_CALL, "decoding", "image")


def _in_rows(x: np.ndarray, across: int) -> np.ndarray:
    """Images in rows, the last one filled up with white."""
    missing = -len(x) % across
    white = np.ones((missing, *x.shape[1:]), x.dtype)
    return np.concatenate([x, white]).reshape(-1, across, *x.shape[1:])


if __name__ == "__main__":
    run(main, Config)
