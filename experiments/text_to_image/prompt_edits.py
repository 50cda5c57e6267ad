"""Images edited by their prompts: another colour, the same picture (Hertz et al. 2023).

``python -m experiments.text_to_image.prompt_edits --run runs/text_to_image``

Takes a run of ``experiments.text_to_image.train`` on captioned shapes. For captions of its test
part another colour is asked for, and both pictures are drawn from the same noise: without control,
with Prompt-to-Prompt, and with its local blend. With ``--real`` it is the noise that DDIM finds for
a real picture of the caption, with which edits are compared. ``--edit refine`` has originals whose
prompts name no colour, which is added; with ``--edit reweight`` prompts stay, and the attention to
the colour's word is multiplied by ``--factor``. In the working folder:

  edits.png      originals, and what became of them by each way
  table.md       the share with the colour asked for, with the other attributes of the original, and
                 the PSNR outside of the object, in dB
  metrics.json   the same, by name
"""

import functools
import pathlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from experiments.shared.denoiser_sampling import draw_in_parts, put_samples
from experiments.shared.figure_tables import write_rows
from experiments.shared.image_plots import plot_images
from experiments.shared.launch import ExperimentConfig, LaunchConfig, open_workdir, run
from experiments.shared.training_runs import OpenedModel
from experiments.text_to_image.support.attribute_evaluator import (
    AttributeEvaluator,
    make_attribute_evaluator,
)
from experiments.text_to_image.support.masked_psnr import masked_psnr
from experiments.text_to_image.support.stored_texts import check_run_of_shapes, open_text_to_image
from experiments.text_to_image.support.text_samples import as_texts, sample_key
from jaxgen.data import CaptionedSet, load_captioned, to_unit
from jaxgen.data.captions.shape_vocabulary import COLOURS
from jaxgen.data.tokenizers import Tokenized, Tokenizer, open_tokenizer
from jaxgen.data.tokenizers.prompt_maps import PromptMap, refinement_map, reweighted, swap_map
from jaxgen.diffusion.conditioning.editing import encode
from jaxgen.diffusion.conditioning.prompt_to_prompt import (
    LocalBlend,
    edit_by_prompt,
    same_noise,
)
from jaxgen.diffusion.process.level_lists import first_level
from jaxgen.diffusion.process.step_levels import make_steps
from jaxgen.diffusion.samplers import DDIM
from jaxgen.diffusion.samplers.sampling import initial_noise, sample_with_table
from jaxgen.errors import InputError, check_share
from jaxgen.parallel import gather_fsdp, replicated
from jaxgen.training.saved_names import register_config

COLOUR, DECIBELS = "colour", "PSNR, dB"
Edit = Literal["colour", "refine", "reweight"]
TITLES: dict[Edit, str] = {
    "colour": "Another colour by the prompt",
    "refine": "A colour added to the prompt",
    "reweight": "Another weight of the colour's word",
}
SHOWN, NEAR, PAIRS_PER_CALL = 8, 2, 16
"""Columns of the picture; pixels around the object that belong to it; pairs that are drawn at a
time."""
CONTRAST = 0.25
"""From the background on, of 2, what is object."""


@register_config("text_to_image.prompt_edits")
@dataclass(frozen=True, kw_only=True)
class Config(ExperimentConfig):
    """Flags of this experiment.

    Attributes:
      launch: where to run and on what.
      seed: of the noise.
      run: the folder of a run of experiments.text_to_image.train.
      count: pictures to edit.
      edit: another "colour"; "refine", one where there was none; "reweight", more of the same one.
      factor: of the attention to the colour's word, of "reweight"; below 0 against it.
      steps: of DDIM.
      guidance: w of classifier-free guidance.
      cross_share: the share of times, from pure noise on, with the original's attention to words.
      self_share: the same of the attention of pixels to each other.
      threshold: of the local blend, of the largest attention to the colour's word and its noun.
      real: whether real pictures are edited, in place of drawn ones. Edited pictures alone are
        guided then: a picture is drawn again by what its noise was found by.
    """

    launch: LaunchConfig = LaunchConfig(workdir="runs/prompt_edits")
    run: str
    count: int = 64
    edit: Edit = "colour"
    factor: float = 4.0
    steps: int = 30
    guidance: float = 3.0
    cross_share: float = 0.8
    self_share: float = 0.4
    threshold: float = 0.3
    real: bool = False

    def __post_init__(self) -> None:
        for name in ("count", "steps"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}, expected 1 or more")
        for name in ("cross_share", "self_share", "threshold"):
            check_share(name, getattr(self, name))


def main(config: Config) -> dict[str, Any]:
    """Edits, evaluates, shows."""
    source = pathlib.Path(config.run)
    model = open_text_to_image(source)
    check_run_of_shapes(source)
    tokenizer = open_tokenizer(source / "tokenizer")
    pictures = load_captioned("shapes", size=model.config.image_shape[0])
    folder = open_workdir(config, may_differ=[f for f in vars(config) if f != "launch"])
    evaluator = make_attribute_evaluator(pictures, source / "evaluator")
    assert evaluator is not None
    pairs = colour_pairs(pictures, config.count)
    prompts = edit_prompts(pairs, config.edit)
    real = pictures_of(pictures, [old for old, _ in pairs]) if config.real else None
    ways = draw_edits(model, tokenizer, prompts, config, real)
    rows: dict[str, dict[str, float]] = {}
    if real is not None:
        again = next(iter(ways.values()))[::2]
        rows["drawn again"] = {DECIBELS: float(masked_psnr(real, again, np.ones_like(real)).mean())}
        ways = {way: with_originals(x, real) for way, x in ways.items()}
    rows |= {way: edit_figures(evaluator, x, prompts[1::2]) for way, x in ways.items()}
    write_rows(folder / "table.md", "edited", rows)
    show_edits(folder / "edits.png", ways, prompts[1::2], TITLES[config.edit])
    return dict(rows)


def colour_pairs(pictures: CaptionedSet, count: int) -> list[tuple[str, str]]:
    """Captions of the test part, each with the same in another colour."""
    captions = pictures.part("test").distinct("descriptive")
    assert pictures.attributes is not None
    colours = pictures.attributes.values[COLOUR]
    pairs = []
    for i in range(count):
        caption = captions[i % len(captions)]
        words = caption.split()
        at = colour_place(words)
        step = 1 + i % (len(colours) - 1)
        words[at] = colours[(colours.index(words[at]) + step) % len(colours)]
        pairs.append((caption, " ".join(words)))
    return pairs


def edit_prompts(pairs: Sequence[tuple[str, str]], edit: Edit) -> list[str]:
    """Prompts of originals and edited pictures by turns."""
    prompts = []
    for old, new in pairs:
        words = old.split()
        del words[colour_place(words)]
        edited = {"colour": (old, new), "refine": (" ".join(words), new), "reweight": (old, old)}
        prompts += edited[edit]
    return prompts


def maps_of(tokens: Tokenized, prompts: Sequence[str], edit: Edit, factor: float) -> PromptMap:
    """The maps of pairs, along an axis in front."""
    maps = []
    for i in range(0, len(prompts), 2):
        if edit == "refine":
            maps.append(refinement_map(tokens, i, i + 1))
            continue
        found = swap_map(tokens, i, i + 1)
        if edit == "reweight":
            found = reweighted(found, tokens, {_colour_of(prompts[i + 1]): factor}, i + 1)
        maps.append(found)
    return PromptMap(*(np.stack(parts) for parts in zip(*maps, strict=True)))


def pictures_of(pictures: CaptionedSet, captions: Sequence[str]) -> Float[np.ndarray, "P Y X C"]:
    """Pictures of the test part with some captions, in [-1, 1]; of equal ones another each time."""
    test = pictures.part("test")
    rows: dict[str, list[int]] = {}
    for row, caption in enumerate(test.descriptive):
        rows.setdefault(caption, []).append(row)
    used: Counter[str] = Counter()
    chosen = []
    for caption in captions:
        chosen.append(rows[caption][used[caption] % len(rows[caption])])
        used[caption] += 1
    return to_unit(test.images[chosen])


def with_originals(
    x: Float[np.ndarray, "N Y X C"], real: Float[np.ndarray, "P Y X C"]
) -> Float[np.ndarray, "N Y X C"]:
    """Pairs of pictures, the real originals in place of those that were drawn."""
    return np.stack([real, x[1::2]], axis=1).reshape(x.shape)


def draw_edits(
    model: OpenedModel,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    config: Config,
    real: Float[np.ndarray, "P Y X C"] | None = None,
) -> dict[str, Float[np.ndarray, "N Y X C"]]:
    """Originals and edited pictures by turns, for each way of editing.

    Args:
      model: what draws them.
      tokenizer: of its texts.
      prompts: those of originals and edited pictures by turns.
      config: flags.
      real: the originals whose noise is found; None: they are drawn from any.
    """
    tokens = tokenizer.encode(prompts)
    prompt_map = maps_of(tokens, prompts, config.edit, config.factor)
    blend = words_to_blend(tokens, config.threshold)
    shares = {"cross_share": config.cross_share, "self_share": config.self_share}
    ways: dict[str, Any] = {
        "same noise alone": {"cross_share": 0.0, "self_share": 0.0},
        "Prompt-to-Prompt": shares,
        "with local blend": {**shares, "blend": blend},
    }
    condition: dict[str, Any] = {
        "texts": as_texts(tokenizer, prompts),
        "weight": np.full(len(prompts), config.guidance, np.float32),
    }
    if real is not None:
        condition["weight"][::2] = 0
        condition["x"] = np.repeat(real, 2, axis=0)
    levels = make_steps(model.config.schedule, config.steps)
    table, noisiest = DDIM().table(levels), first_level(levels)
    key = sample_key(config.seed)

    @functools.partial(jax.jit, static_argnums=0, out_shardings=replicated(model.layout.mesh))
    def sampled(way: str, params: Any, batch: Any, maps: PromptMap) -> Array:
        params, given = gather_fsdp(params, model.layout), batch["condition"]
        denoiser = model.config.make_denoiser(params, given["texts"], given["weight"])
        denoiser = edit_by_prompt(denoiser, maps, **ways[way])
        if real is None:
            z = initial_noise(key, batch["index"], model.config.image_shape, noisiest)
        else:
            z = encode(model.config.make_denoiser(params, given["texts"]), given["x"], levels)
        x = sample_with_table(DDIM(), denoiser, same_noise(z), table, key, batch["index"])
        return x.reshape(-1, 2, *x.shape[1:])

    def drawn(way: str) -> Float[np.ndarray, "N Y X C"]:
        def part(pair_P: Int[np.ndarray, "P"]) -> Array:
            batch = put_samples((2 * pair_P[:, None] + np.arange(2)).ravel(), condition)
            own = PromptMap(*(each[pair_P] for each in prompt_map))
            return sampled(way, model.params, batch, own)

        x = draw_in_parts(part, len(prompts) // 2, PAIRS_PER_CALL, way, "pair")
        return x.reshape(-1, *x.shape[2:])

    return {way: drawn(way) for way in ways}


def words_to_blend(tokens: Tokenized, threshold: float) -> LocalBlend:
    """The colour's word, where there is one, and the noun behind it, at one place in all captions
    here.
    """
    words = tokens.words(1)
    seen = {*COLOURS, words[colour_place(words) + 1]}
    original, edited = (
        [int(tokens.positions(row, word)[0]) for word in tokens.words(row) if word in seen]
        for row in (0, 1)
    )
    return LocalBlend(original, edited, threshold)


def edit_figures(
    evaluator: AttributeEvaluator, x: Float[np.ndarray, "N Y X C"], prompts: Sequence[str]
) -> dict[str, float]:
    """What edits reached, and what they left as it was.

    Args:
      evaluator: of attributes.
      x: originals and edited pictures by turns, in [-1, 1].
      prompts: those of the edited pictures.
    """
    _, code_NF = evaluator.look(x)
    was_NF, now_NF = code_NF[::2], code_NF[1::2]
    column = evaluator.names.index(COLOUR)
    colours = list(evaluator.values[column])
    wanted_N = [colours.index(_colour_of(text)) for text in prompts]
    others = np.delete(np.arange(code_NF.shape[1]), column)
    kept_NF = was_NF[:, others] == now_NF[:, others]
    outside = psnr_outside(x[::2], x[1::2])
    return {
        "colour as asked": float((now_NF[:, column] == np.array(wanted_N)).mean()),
        "other attributes kept": float(kept_NF.all(axis=1).mean()),
        **({} if outside is None else {"PSNR outside, dB": outside}),
    }


def psnr_outside(
    original: Float[np.ndarray, "N Y X C"], edited: Float[np.ndarray, "N Y X C"]
) -> float | None:
    """PSNR of pixels that are not of the original's object, mean over pictures.

    The object is what differs from the median colour of a picture, and what is near to it. Pictures
    without anything else, as a model makes them that has learned little, are left out; None where
    there are no others.
    """
    background = np.median(original, axis=(1, 2), keepdims=True)
    object_NYX = np.abs(original - background).max(axis=-1) > CONTRAST
    grown = np.pad(object_NYX, [(0, 0), (NEAR, NEAR), (NEAR, NEAR)])
    window = (2 * NEAR + 1,) * 2
    near_NYX = np.lib.stride_tricks.sliding_window_view(grown, window, axis=(1, 2)).any((-2, -1))
    psnr_M = masked_psnr(original, edited, ~near_NYX[..., None])
    return float(psnr_M.mean()) if len(psnr_M) else None


def show_edits(
    path: pathlib.Path,
    ways: dict[str, Float[np.ndarray, "N Y X C"]],
    prompts: Sequence[str],
    title: str,
) -> None:
    """Shows originals, and edits by each way below them, with the colours of their prompts."""
    count = min(SHOWN, len(prompts))
    first = next(iter(ways.values()))
    rows = [first[::2][:count], *(x[1::2][:count] for x in ways.values())]
    columns = [_colour_of(prompt) for prompt in prompts[:count]]
    names = ["original", *ways]
    plot_images(path, np.stack(rows), title, columns, names)


def colour_place(words: Sequence[str]) -> int:
    """Where the first word for a colour stands."""
    return next(i for i, word in enumerate(words) if word in COLOURS)


def _colour_of(text: str) -> str:
    words = text.split()
    return words[colour_place(words)]


if __name__ == "__main__":
    run(main, Config)
