"""A prompt expander: a small language model that turns short captions into descriptive ones.

A model that was trained on descriptive captions is sampled with such (Betker et al. 2023), and
people write short ones. A text is "start, short caption, end, descriptive caption, end"; only the
second caption is learned, and the first is given when one is written. What it adds it makes up, so
captions are drawn (nucleus sampling) rather than searched for.
"""

import pathlib
from collections.abc import Callable, Sequence

import jax
import numpy as np

from experiments.shared.training_runs import (
    OptimizationFlags,
    TrainedModel,
    open_trained_model,
    train_model,
)
from experiments.text_to_image.support.captioned_data import told_by
from experiments.text_to_image.support.captioners import (
    SEEDS_OF_TEXTS,
    table_rows,
    text_length,
    text_marks,
    texts_of,
)
from experiments.text_to_image.support.text_pairs import loss_on
from jaxgen.data import BatchPlan, CaptionedSet
from jaxgen.data.tokenizers import Tokenizer, open_tokenizer
from jaxgen.encoders import CausalTextConfig, causal_text_loss, make_text_writer
from jaxgen.nn.decoding import Decoding
from jaxgen.nn.written_texts import Prompt
from jaxgen.typing import Batch, Tree

WIDTH, DEPTH, BATCH, LEARNING_RATE = 64, 2, 64, 3e-3

Expander = Callable[[Sequence[str]], list[str]]
"""``short captions -> descriptive captions``."""


def expander_config(tokenizer: Tokenizer) -> CausalTextConfig:
    """The network for a vocabulary."""
    return CausalTextConfig(
        width=WIDTH,
        depth=DEPTH,
        heads=2,
        mlp_units=4 * WIDTH,
        vocabulary=table_rows(tokenizer),
        length=2 * text_length(tokenizer) - 1,
    )


def pairs_as_texts(
    tokenizer: Tokenizer, short: Sequence[str], descriptive: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Ids [N, 2 L - 1] of both captions of each, and which belong to the second."""
    first, second = tokenizer.encode(short), tokenizer.encode(descriptive)
    size = 2 * text_length(tokenizer) - 1
    ids_NL = np.full((len(short), size), tokenizer.pad, np.int32)
    counted_NL = np.zeros(ids_NL.shape, bool)
    for i, (a, b) in enumerate(zip(first.mask.sum(axis=1), second.mask.sum(axis=1), strict=True)):
        ids_NL[i, :a] = first.ids[i, :a]
        ids_NL[i, a : a + b - 1] = second.ids[i, 1:b]
        counted_NL[i, a : a + b - 1] = True
    return ids_NL, counted_NL


def train_expander(
    pictures: CaptionedSet,
    tokenizer: Tokenizer,
    folder: pathlib.Path,
    steps: int,
    *,
    seed: int,
    tensorboard: bool,
) -> TrainedModel:
    """Trains an expander on the captions of the part "train", or resumes.

    Args:
      pictures: whose captions are used.
      tokenizer: of their words.
      folder: its own.
      steps: updates.
      seed: of all randomness.
      tensorboard: whether to write event files too.
    """
    config, train = expander_config(tokenizer), pictures.part("train")
    ids_NL, counted_NL = pairs_as_texts(tokenizer, train.short, train.descriptive)
    batch_size = min(BATCH, len(train))
    plan = BatchPlan(0, len(train), batch_size, seed=seed, name=pictures.name)

    def data(step: int) -> Batch:
        chosen = plan.positions(step)
        return {"ids": ids_NL[chosen], "counted": counted_NL[chosen]}

    flags = OptimizationFlags(training_steps=steps, learning_rate=LEARNING_RATE, ema_decay=0.98)
    return train_model(
        config,
        data,
        folder,
        flags,
        lambda layout: loss_on(layout, causal_text_loss(config)),
        make_evaluation=lambda loss_fn: None,
        seed=seed,
        tensorboard=tensorboard,
    )


def prompt_expander(
    config: CausalTextConfig, params: Tree, tokenizer: Tokenizer, how: Decoding, seed: int = 0
) -> Expander:
    """An expander as a function.

    Args:
      config: its configuration.
      params: its parameters.
      tokenizer: of its words.
      how: the method.
      seed: of texts that are drawn, each by its number.
    """
    _, marks = text_marks(tokenizer)
    write = make_text_writer(config, params, marks, how)

    def expand(short: Sequence[str]) -> list[str]:
        ids_NL, counted_NL = pairs_as_texts(tokenizer, short, [""] * len(short))
        count_N1 = counted_NL.argmax(axis=1)[:, None]
        prompt = Prompt(ids_NL, np.arange(ids_NL.shape[1]) < count_N1)
        key = jax.random.key(seed + SEEDS_OF_TEXTS)
        key_N = jax.vmap(jax.random.fold_in, (None, 0))(key, np.arange(len(short)))
        found = write(prompt, key_N)
        behind_NL = _behind(np.asarray(found.ids_BL), count_N1[:, 0], tokenizer)
        return texts_of(behind_NL, tokenizer)

    return expand


def open_prompt_expander(run: str, seed: int) -> Expander:
    """The expander of a run of ``experiments.text_to_image.recaption``.

    Args:
      run: the run's folder.
      seed: of texts that are drawn.

    Raises:
      FileNotFoundError: where there is no checkpoint.
      InputError: where it is not one of an expander.
    """
    folder = pathlib.Path(run)
    model = open_trained_model(folder / "expander", CausalTextConfig, "a prompt expander")
    tokenizer = open_tokenizer(folder / "tokenizer")
    return prompt_expander(model.config, model.params, tokenizer, Decoding("nucleus"), seed)


def _behind(ids_NL: np.ndarray, count_N: np.ndarray, tokenizer: Tokenizer) -> np.ndarray:
    """Texts without so many of their first tokens, begun with a start token."""
    start, marks = text_marks(tokenizer)
    texts_NL = np.full((len(ids_NL), ids_NL.shape[1] + 1), marks.pad, np.int32)
    texts_NL[:, 0] = start
    for text_L, ids_L, count in zip(texts_NL, ids_NL, count_N.tolist(), strict=True):
        text_L[1 : 1 + len(ids_L) - count] = ids_L[count:]
    return texts_NL


def expansion_figures(
    pictures: CaptionedSet, tokenizer: Tokenizer, short: Sequence[str], expanded: Sequence[str]
) -> dict[str, float]:
    """How many expansions are captions of the set, of what was asked for, and how many differ.

    Args:
      pictures: whose captions belong to each other.
      tokenizer: of their words.
      short: what was expanded, some several times.
      expanded: what came out.
    """
    pairs = dict(zip(pictures.descriptive, pictures.short, strict=True))
    short_of = dict(zip(told_by(tokenizer, list(pairs)), pairs.values(), strict=True))
    fits = [short_of.get(text) == asked for text, asked in zip(expanded, short, strict=True)]
    different = set(zip(short, expanded, strict=True))
    return {
        "expansions that are captions of what was asked for": float(np.mean(fits)),
        "different expansions of a short caption": len(different) / len(set(short)),
    }
