"""Texts written token by token by a causal network: greedily, by sampling, or by beam search.

The network is a function ``step(kept, ids [B], place) -> (logits [B, V], kept)``: it is given the
tokens at ``place`` and returns the logits of those at ``place + 1``. What it keeps (keys and
values, `jaxgen.nn.key_values`) is a tree of arrays whose first axis is that of the texts, so that
rows can be taken. Captions, continued prompts and tokens of any other kind are written alike.

A text of L tokens is an array that is partly given: its first token always, and of a prompt more.
One scan over the places writes the rest, so there is one program for each shape and method. What
follows the first end token that was written is padding.

* *greedy*: the likeliest token.
* *nucleus* (Holtzman et al. 2020): a token drawn from the smallest set of likeliest ones that have
  the probability ``top_p`` together, after logits were divided by a temperature.
* *beam*: see `jaxgen.nn.beam_search`.
"""

import dataclasses
from collections.abc import Callable
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgen.errors import InputError, check_positive, check_sizes
from jaxgen.nn.beam_search import beam_search
from jaxgen.nn.written_texts import Decoded, Marks, Prompt, Step, check_prompt
from jaxgen.typing import Tree

DecodingMethod = Literal["greedy", "nucleus", "beam"]


@dataclasses.dataclass(frozen=True)
class Decoding:
    """How texts are written.

    Attributes:
      method: "greedy", "nucleus" or "beam".
      top_p: of the nucleus.
      temperature: logits are divided by it before a token is drawn.
      beams: texts that beam search follows.
      length_power: beam search ranks by log p over the number of written tokens to this power.
    """

    method: DecodingMethod = "greedy"
    top_p: float = 0.9
    temperature: float = 1.0
    beams: int = 4
    length_power: float = 1.0

    def __post_init__(self) -> None:
        """Validates the fields."""
        if self.method not in get_args(DecodingMethod):
            raise InputError(
                f"method is {self.method!r}, expected one of {get_args(DecodingMethod)}"
            )
        check_sizes(self, "beams")
        check_positive("temperature", self.temperature)
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p is {self.top_p}, expected 0 < top_p <= 1")
        if self.length_power < 0:
            raise InputError(f"length_power is {self.length_power}, expected 0 or more")


def write_texts(
    step: Step,
    kept: Tree,
    prompt: Prompt,
    marks: Marks,
    how: Decoding | None = None,
    key_B: Array | None = None,
) -> Decoded:
    """Writes texts.

    Args:
      step: the network, see above.
      kept: what its first call is given.
      prompt: what is given of the texts.
      marks: the end token and padding.
      how: the method; None: greedy.
      key_B: of nucleus sampling, a key for each text, on which alone its tokens depend.

    Raises:
      InputError: for a prompt of other shapes, or sampling without keys.
    """
    how = Decoding() if how is None else how
    check_prompt(prompt)
    if how.method == "beam":
        return beam_search(step, kept, prompt, marks, how.beams, how.length_power)
    if how.method == "greedy":
        return _write(step, kept, prompt, marks, lambda log_p_BV, place: log_p_BV.argmax(axis=-1))
    if key_B is None or key_B.shape != prompt.ids_BL.shape[:1]:
        raise InputError(f"key_B is {key_B}, expected one key for each of the texts")

    def draw(log_p_BV: Array, place: Array) -> Array:
        keys = jax.vmap(jax.random.fold_in, (0, None))(key_B, place)
        kept_BV = nucleus(jax.nn.log_softmax(log_p_BV / how.temperature), how.top_p)
        return jax.vmap(jax.random.categorical)(keys, kept_BV)

    return _write(step, kept, prompt, marks, draw)


def nucleus(log_p_BV: Float[Array, "*B V"], top_p: float) -> Float[Array, "*B V"]:
    """Log-probabilities, -inf outside of the smallest set of likeliest tokens.

    Of equally likely ones at its edge those with smaller ids are inside.

    Args:
      log_p_BV: of all tokens.
      top_p: what the tokens of the set have together, at least.
    """
    order_BV = jnp.argsort(log_p_BV, axis=-1, descending=True, stable=True)
    p_BV = jnp.exp(jnp.take_along_axis(log_p_BV, order_BV, axis=-1))
    ranked_BV = jnp.cumsum(p_BV, axis=-1) - p_BV < top_p
    inside_BV = jnp.take_along_axis(ranked_BV, jnp.argsort(order_BV, axis=-1), axis=-1)
    return jnp.where(inside_BV, log_p_BV, -jnp.inf)


def _write(
    step: Step,
    kept: Tree,
    prompt: Prompt,
    marks: Marks,
    choose: Callable[[Array, Array], Array],
) -> Decoded:
    """Writes texts by a rule that chooses among the next tokens of each."""
    batch, length = prompt.ids_BL.shape

    def at_place(carry: tuple, place: Array) -> tuple[tuple, tuple[Array, Array]]:
        kept, token_B, ended_B, total_B = carry
        logits_BV, kept = step(kept, token_B, place)
        log_p_BV = jax.nn.log_softmax(logits_BV.astype(jnp.float32))
        chosen_B = choose(log_p_BV, place).astype(jnp.int32)
        given_B = prompt.given_BL[:, place + 1]
        gain_B = jnp.take_along_axis(log_p_BV, chosen_B[:, None], axis=-1)[:, 0]
        total_B = total_B + jnp.where(given_B | ended_B, 0, gain_B)
        token_B = jnp.where(ended_B, marks.pad, chosen_B)
        token_B = jnp.where(given_B, prompt.ids_BL[:, place + 1], token_B)
        is_text_B = given_B | ~ended_B
        ended_B = ended_B | (~given_B & (token_B == marks.end))
        return (kept, token_B, ended_B, total_B), (token_B, is_text_B)

    first_B = prompt.ids_BL[:, 0].astype(jnp.int32)
    start = kept, first_B, jnp.zeros(batch, bool), jnp.zeros(batch)
    carry, (ids_LB, mask_LB) = jax.lax.scan(at_place, start, jnp.arange(length - 1))
    ids_BL = jnp.concatenate([first_B[:, None], ids_LB.T], axis=1)
    return Decoded(ids_BL, jnp.pad(mask_LB.T, ((0, 0), (1, 0)), constant_values=True), carry[3])
