"""Captions of images and clips by a trained CoCa, and texts continued by a language model."""

import functools
from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array, Shaped

from jaxgen.encoders.causal_text import CausalTextConfig
from jaxgen.encoders.coca_model import CoCaConfig
from jaxgen.errors import InputError
from jaxgen.nn.decoding import Decoding, write_texts
from jaxgen.nn.written_texts import Decoded, Marks, Prompt
from jaxgen.typing import Tree


def make_captioner(
    config: CoCaConfig,
    params: Tree,
    marks: Marks,
    start_id: int,
    length: int | None = None,
    how: Decoding | None = None,
) -> Callable[..., Decoded]:
    """``caption(images, key_B)`` with parameters, compiled once for each shape.

    Args:
      config: of the captioner.
      params: its parameters.
      marks: the end token and padding.
      start_id: the token that captions begin with.
      length: tokens of a caption at most, start and end among them; None: as the text decoder has.
      how: the method; None: greedy.

    Returns:
      A function of images or clips, and for nucleus sampling of a key for each.

    Raises:
      InputError: for a length without positions, or a token that is not in the vocabulary.
    """
    length = config.text.length if length is None else length
    if not 2 <= length <= config.text.length:
        raise InputError(
            f"length is {length}, expected 2 to {config.text.length}, for which the text decoder "
            "has positions"
        )
    _check_tokens(config.text.vocabulary, start_id=start_id, **marks._asdict())

    def caption(images: Shaped[Array, "B *T Y X C"], key_B: Array | None = None) -> Decoded:
        config.image.check_input(images)
        return write_captions_of(params, images, key_B, config, marks, start_id, length, how)

    return caption


@functools.partial(jax.jit, static_argnums=(3, 4, 5, 6, 7))
def write_captions_of(
    params: Tree,
    images: Shaped[Array, "B *T Y X C"],
    key_B: Array | None,
    config: CoCaConfig,
    marks: Marks,
    start_id: int,
    length: int,
    how: Decoding | None = None,
) -> Decoded:
    """Captions; arguments as those of `make_captioner`."""
    model = config.make_model()
    kept = model.apply({"params": params}, images, length, method=model.start)
    prompt = Prompt.first(len(images), length, start_id)
    return write_texts(_step_of(model, params), kept, prompt, marks, how, key_B)


def make_text_writer(
    config: CausalTextConfig, params: Tree, marks: Marks, how: Decoding | None = None
) -> Callable[..., Decoded]:
    """``write(prompt, key_B)``: what a language model makes of the beginnings of texts.

    Args:
      config: of the language model.
      params: its parameters.
      marks: the end token and padding.
      how: the method; None: greedy.

    Raises:
      InputError: for a token that is not in the vocabulary.
    """
    _check_tokens(config.vocabulary, **marks._asdict())

    def write(prompt: Prompt, key_B: Array | None = None) -> Decoded:
        config.check_input(prompt.ids_BL)
        return _continue_texts(params, prompt, key_B, config, marks, how)

    return write


@functools.partial(jax.jit, static_argnums=(3, 4, 5))
def _continue_texts(
    params: Tree,
    prompt: Prompt,
    key_B: Array | None,
    config: CausalTextConfig,
    marks: Marks,
    how: Decoding | None,
) -> Decoded:
    model = config.make_model()
    kept = model.apply({"params": params}, *prompt.ids_BL.shape, method=model.start)
    return write_texts(_step_of(model, params), kept, prompt, marks, how, key_B)


def _check_tokens(vocabulary: int, **ids: int) -> None:
    """Raises InputError for the first id that is not in the vocabulary."""
    for name, i in ids.items():
        if not 0 <= i < vocabulary:
            raise InputError(f"{name} is {i}, expected 0 to {vocabulary - 1}, the ids of the model")


def _step_of(model: Any, params: Tree) -> Callable[..., Any]:
    """The network's step, as `jaxgen.nn.decoding` calls it."""
    return functools.partial(model.apply, {"params": params}, method=model.step)
