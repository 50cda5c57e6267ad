"""Pictures of any texts, from a trained text-to-image model.

``python -m experiments.text_to_image.sample --run runs/text_to_image --prompts "a red circle"``

Draws pictures of each prompt from a run of ``experiments.text_to_image.train``. In the working
folder:

  images/     a PNG of each, numbered, with its prompt in the name
  sheet.png   all of them, a row of each prompt

``--negative TEXT`` says what pictures shall not show: guidance leads away from it, in place of the
empty text.
"""

import pathlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax

from experiments.shared.denoiser_sampling import make_draw
from experiments.shared.launch import ExperimentConfig, LaunchConfig, open_workdir, report, run
from experiments.shared.sample_files import write_samples
from experiments.text_to_image.support.stored_texts import open_text_to_image
from experiments.text_to_image.support.text_samples import as_texts, show_prompts
from jaxgen.data.tokenizers import Tokenizer, open_tokenizer
from jaxgen.diffusion.model_sampling import guidance_weight
from jaxgen.diffusion.named_samplers import sampler_named
from jaxgen.errors import InputError
from jaxgen.training.saved_names import register_config

DEFAULT_GUIDANCE = 1.0


@register_config("text_to_image.sample")
@dataclass(frozen=True, kw_only=True)
class Config(ExperimentConfig):
    """Flags of this experiment.

    Attributes:
      launch: where to run and on what.
      seed: of the samples.
      run: the folder of a run of experiments.text_to_image.train.
      prompts: what pictures shall show.
      negative: what they shall not show; "" for nothing in particular.
      count: pictures of each prompt.
      sampler: its name, here or in another program: "DDIM", "Euler a", "DPM++ 2M Karras", ...
      steps: of the sampler.
      guidance: w of (1 + w) e(z, text) - w e(z, negative); 0 is the conditional model.
      scale: the guidance scale of other programs, 1 + w; in place of guidance.
      clip: keep the estimate of the data within the range of pixels.
    """

    launch: LaunchConfig = LaunchConfig(workdir="runs/text_to_image_sample")
    run: str
    prompts: tuple[str, ...]
    negative: str = ""
    count: int = 8
    sampler: str = "DPM++ 2M"
    steps: int = 20
    guidance: float | None = None
    scale: float | None = None
    clip: bool = True

    def __post_init__(self) -> None:
        for name in ("count", "steps"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}, expected 1 or more")
        if not self.prompts:
            raise InputError("prompts are empty, expected one or more texts")
        guidance_weight(self.guidance, self.scale)


def main(config: Config) -> dict[str, Any]:
    """Samples, and writes what came of it."""
    source = pathlib.Path(config.run)
    model = open_text_to_image(source)
    tokenizer = open_tokenizer(source / "tokenizer")
    w = guidance_weight(config.guidance, config.scale)
    w = DEFAULT_GUIDANCE if w is None else w
    named = sampler_named(config.sampler, model.config.schedule)
    prompts = [prompt for prompt in config.prompts for _ in range(config.count)]
    texts = as_texts(tokenizer, prompts, config.negative)
    report_unknown_words(tokenizer, (*config.prompts, config.negative))
    folder = open_workdir(config, may_differ=[f for f in vars(config) if f != "launch"])
    x = make_draw(model.config, model.layout, clip=config.clip)(
        model.params,
        named.sampler,
        named.levels(model.config.schedule, config.steps),
        texts,
        jax.random.key(config.seed),
        guidance=w,
    )
    write_samples(folder / "images", x, prompts)
    how = f"{config.sampler}, {config.steps} steps, guidance {w:g}, seed {config.seed}"
    show_prompts(folder / "sheet.png", x, config.prompts, f"Samples: {how}")
    report(f"{len(x)} images are in {folder / 'images'}, all of them in {folder / 'sheet.png'}")
    return {"images": len(x)}


def report_unknown_words(tokenizer: Tokenizer, texts: Sequence[str]) -> None:
    """Says which words are not in the vocabulary: to the model they are all one word."""
    known = tokenizer.decode(tokenizer.encode(texts).ids)
    pairs = zip(texts, known, strict=True)
    unknown = {word for text, read in pairs for word in set(text.split()) - set(read.split())}
    if unknown:
        report(f"not in the vocabulary of the model: {', '.join(sorted(unknown))}")


if __name__ == "__main__":
    run(main, Config)
