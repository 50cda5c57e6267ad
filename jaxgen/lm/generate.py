"""Text from a language model, one word after the other.

Which words may follow, and how likely, is settled in this order, for any model::

    p = P(. | context)                                          the model
    p_w = 0 for forbidden w
    p_w = 0 but for the k likeliest words                       top_k
    p_w <- p_w^(1/T) / sum_v p_v^(1/T)                          temperature T; 0 is the likeliest
    p_w = 0 but for the smallest set of likeliest words whose
          probability reaches the mass                          top_p (Holtzman et al. 2020)

Words as likely as the last one kept stay in. `generate` does this in numpy for any
`jaxgen.lm.protocol.LanguageModel`; `make_generator` does it for networks on the device, for several
texts at once, without ever gathering the logits of a mesh.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float64, Int, Int32, Integer, Key

from jaxgen.errors import InputError
from jaxgen.ids import as_ids
from jaxgen.lm.contexts import NO_WORD, check_contexts, check_text
from jaxgen.lm.network import WordNetwork, compile_with
from jaxgen.lm.protocol import LanguageModel
from jaxgen.parallel.softmax.sharded_logits import check_sampling
from jaxgen.typing import Tree


def generate(
    model: LanguageModel,
    prompt_L: Integer[np.ndarray, "L"] | Sequence[int],
    length: int,
    seed: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    forbid: Sequence[int] = (),
    stop: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Int32[np.ndarray, "N"]:
    """The continuation of a prompt, from any language model.

    Args:
      model: the language model.
      prompt_L: ids of the words before; may be empty for n-grams, whose missing words are
        `NO_WORD`. A network needs ``order - 1`` of them.
      length: words to write.
      seed: of `np.random.default_rng`; the same seed writes the same text.
      temperature: 0 takes the likeliest word each time.
      top_k: keep the k likeliest words.
      top_p: keep the smallest set of likeliest words with this much probability.
      forbid: ids that are never written, such as the mark of merged rare words.
      stop: the id after which nothing more is written, such as that of ``</s>``.
      progress: called after each word with 1.

    Returns:
      int32 [N], the words after the prompt; N = `length` unless `stop` came.

    Raises:
      InputError: for options out of range, ids outside the vocabulary, or a prompt too short.
    """
    forbid = _ids_of(forbid)
    check_sampling(model.vocabulary_size, temperature, top_k, top_p, forbid)
    _check_length(length)
    prompt_L = check_text(as_ids(prompt_L, "prompt"), model.vocabulary_size, "prompt")
    rng = np.random.default_rng(seed)
    before = model.order - 1
    text = [*[NO_WORD] * max(0, before - len(prompt_L)), *prompt_L]
    written: list[int] = []
    while len(written) < length and (not written or written[-1] != stop):
        context_1L = np.array(text[len(text) - before :], np.int32).reshape(1, before)
        p_V = model.distributions(context_1L)[0]
        p_V = restrict(p_V, temperature=temperature, top_k=top_k, top_p=top_p, forbid=forbid)
        written.append(_draw(p_V, rng.random()))
        text.append(written[-1])
        if progress is not None:
            progress(1)
    return np.array(written, np.int32)


def restrict(
    p_V: Float64[np.ndarray, "... V"],
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    forbid: Sequence[int] = (),
) -> Float64[np.ndarray, "... V"]:
    """Distributions [..., V] after the options of the module's docstring; each sums to one.

    Args:
      p_V: probabilities.
      temperature: T; 0 leaves the likeliest word, the lowest id among equals.
      top_k: keep the k likeliest words.
      top_p: keep the smallest set of likeliest words with this much probability.
      forbid: ids that get none.

    Raises:
      InputError: for options out of range, or if only forbidden words have any probability.
    """
    p_V = np.array(p_V, np.float64)
    size, forbid = p_V.shape[-1], _ids_of(forbid)
    check_sampling(size, temperature, top_k, top_p, forbid)
    p_V[..., list(forbid)] = 0
    best_1 = p_V.max(axis=-1, keepdims=True)
    if not np.all(best_1 > 0):
        raise InputError("forbid leaves no word with any probability")
    if top_k is not None:
        kth_1 = np.partition(p_V, size - top_k, axis=-1)[..., size - top_k, None]
        p_V = np.where(p_V >= kth_1, p_V, 0.0)
    if temperature == 0:
        return np.eye(size)[p_V.argmax(axis=-1)]
    p_V = _normalised((p_V / best_1) ** (1 / temperature))
    if top_p is not None:
        falling_V = -np.sort(-p_V, axis=-1)
        before_V = np.cumsum(falling_V, axis=-1) - falling_V
        last = np.maximum(np.sum(before_V < top_p, axis=-1, keepdims=True), 1) - 1
        p_V = np.where(p_V >= np.take_along_axis(falling_V, last, axis=-1), p_V, 0.0)
    return _normalised(p_V)


def _normalised(p_V: np.ndarray) -> np.ndarray:
    return p_V / p_V.sum(axis=-1, keepdims=True)


def _draw(p_V: Float64[np.ndarray, "V"], uniform: float) -> int:
    """The word at which the cumulative probability passes a number of [0, 1)."""
    cumulative_V = np.cumsum(p_V)
    word = int(np.searchsorted(cumulative_V, uniform * cumulative_V[-1], side="right"))
    # Rounding may leave the number at the very end: the last word with any probability is meant.
    return min(word, int(np.flatnonzero(p_V)[-1]))


Generator = Callable[[Int[np.ndarray, "B L"], Key[Array, ""]], Int32[np.ndarray, "B N"]]
"""``(prompts [B, L], key) -> ids [B, length]``, the words after each prompt."""


def make_generator(
    network: WordNetwork,
    params: Tree,
    length: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    forbid: Sequence[int] = (),
) -> Generator:
    """A compiled function that writes several texts at once on the devices of a network.

    The word at step t of text b depends on the key, t, b and the text before it alone, so neither
    the mesh nor the number of texts changes a text. On a mesh, words are drawn from sharded logits
    (`jaxgen.parallel.softmax.sharded_logits.sample_sharded`).

    Args:
      network: a network that predicts all its words (no short list).
      params: its parameters, a plain tree, on a mesh or not.
      length: words to write.
      temperature: 0 takes the likeliest word each time.
      top_k: keep the k likeliest words.
      top_p: keep the smallest set of likeliest words with this much probability.
      forbid: ids that are never written.

    Returns:
      A function of prompts [B, L >= order - 1] (the last ``order - 1`` words of each count) and a
      key of ``jax.random.key``, which gives int32 [B, length]. It is compiled once for each B. It
      raises an `InputError` for prompts that are too short or have ids out of range.

    Raises:
      InputError: for options out of range, or a network that predicts fewer ids than it reads.
    """
    config, before = network.config, network.config.order - 1
    forbid = _ids_of(forbid)
    check_sampling(config.predicted, temperature, top_k, top_p, forbid)
    _check_length(length)
    if config.predicted != config.vocabulary_size:
        raise InputError(
            f"the network predicts {config.predicted} ids of {config.vocabulary_size} words, "
            "expected one that predicts every word"
        )
    options = dict(temperature=temperature, top_k=top_k, top_p=top_p, forbid=forbid)

    def write(params: Tree, window_BL: Int[Array, "B L"], key: Key[Array, ""]):
        def step(window_BL, t):
            word_B = network.apply(
                {"params": params},
                window_BL,
                jax.random.fold_in(key, t),
                method="sample",
                **options,
            )
            return jnp.concatenate([window_BL[:, 1:], word_B[:, None]], axis=1), word_B

        return jax.lax.scan(step, window_BL, jnp.arange(length))[1].T

    run = compile_with(params, write)

    def generate_texts(prompts_BL, key):
        window_BL = check_contexts(prompts_BL, config.order, config.vocabulary_size)
        if np.any(window_BL == NO_WORD):
            raise InputError(
                f"prompts contain {NO_WORD} (no word), of which a network knows nothing, "
                f"expected {before} words in each"
            )
        return np.asarray(run(window_BL, key))

    return generate_texts


def _ids_of(forbid: Sequence[int]) -> tuple[int, ...]:
    """Forbidden ids as plain numbers, which compiled functions can be told."""
    return tuple(as_ids(forbid, "forbidden words").ravel().tolist())


def _check_length(length: int) -> None:
    if length < 0:
        raise InputError(f"length is {length}, expected 0 or more words")
