"""Beam search: the likeliest text that is found by following several at once.

Of each prompt K unfinished texts are kept, those with the largest log p, and the K best finished
ones. Texts are ranked by ``log p / n^a`` with n written tokens, the end among them (Wu et al. 2016
have a smoothed n): with a = 0 short texts win, as each token costs something. A text that has not
ended when the room for it is used up counts as it stands. If K reaches the number of all possible
texts, the search is exhaustive.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxgen.nn.written_texts import Decoded, Marks, Prompt, Step, check_prompt
from jaxgen.typing import Tree


class Beams(NamedTuple):
    """Texts of one kind, finished or not, of all prompts.

    Attributes:
      ids_BKL: their tokens.
      log_p_BK: of what was written; -inf where there is no text.
      count_BK: written tokens.
    """

    ids_BKL: Int[Array, "B K L"]
    log_p_BK: Float[Array, "B K"]
    count_BK: Int[Array, "B K"]

    def score(self, length_power: float) -> Float[Array, "B K"]:
        """What texts are ranked by."""
        return self.log_p_BK / jnp.maximum(self.count_BK, 1) ** length_power

    def best(self, rank_BK: Float[Array, "B K"], count: int) -> "Beams":
        """Those that rank highest."""
        return self.taken(jax.lax.top_k(rank_BK, count)[1])

    def taken(self, which_BK: Int[Array, "B K2"]) -> "Beams":
        """Some of them."""
        return jax.tree.map(lambda x: _take(x, which_BK), self)

    def joined(self, others: "Beams") -> "Beams":
        """These and others."""
        return jax.tree.map(lambda a, b: jnp.concatenate([a, b], axis=1), self, others)


def beam_search(
    step: Step, kept: Tree, prompt: Prompt, marks: Marks, beams: int, length_power: float = 1.0
) -> Decoded:
    """The best text that is found for each prompt.

    Args:
      step: the network, see `jaxgen.nn.decoding`; called with B K texts.
      kept: what its first call is given, of B texts.
      prompt: what is given of the texts.
      marks: the end token and padding.
      beams: K.
      length_power: a.

    Raises:
      InputError: for a prompt of other shapes.
    """
    check_prompt(prompt)
    batch, length = prompt.ids_BL.shape
    empty = jnp.full((batch, beams), -jnp.inf)
    none = jnp.zeros((batch, beams), jnp.int32)
    ids_BKL = jnp.full((batch, beams, length), marks.pad, jnp.int32)
    finished = Beams(ids_BKL, empty, none)
    # All beams begin with the same tokens, so the first alone counts until they part.
    going = Beams(
        ids_BKL.at[:, :, 0].set(prompt.ids_BL[:, :1].astype(jnp.int32)),
        empty.at[:, 0].set(0),
        none,
    )
    kept = jax.tree.map(lambda x: jnp.repeat(x, beams, axis=0), kept)

    def at_place(carry: tuple, place: Array) -> tuple[tuple, None]:
        going, finished, kept = carry
        token_BK = going.ids_BKL[:, :, place]
        logits, kept = step(kept, token_BK.reshape(-1), place)
        log_p_BKV = jax.nn.log_softmax(logits.astype(jnp.float32)).reshape(batch, beams, -1)
        given_B, next_B = prompt.given_BL[:, place + 1], prompt.ids_BL[:, place + 1]
        log_p_BKV = _with_given(log_p_BKV, given_B, next_B)
        total = going.log_p_BK[..., None] + log_p_BKV
        # With twice as many as beams, as many are left when each beam has one that ends.
        candidates, source_BK = _grow(going, total, given_B, place)
        ends_BK = (candidates.ids_BKL[:, :, place + 1] == marks.end) & ~given_B[:, None]
        ended = candidates._replace(log_p_BK=jnp.where(ends_BK, candidates.log_p_BK, -jnp.inf))
        finished = finished.joined(ended)
        finished = finished.best(finished.score(length_power), beams)
        unended_BK = jnp.where(ends_BK, -jnp.inf, candidates.log_p_BK)
        which_BK = jax.lax.top_k(unended_BK, beams)[1]
        going = candidates._replace(log_p_BK=unended_BK).taken(which_BK)
        kept = _rows_of(kept, _take(source_BK, which_BK))
        return (going, finished, kept), None

    start = going, finished, kept
    (going, finished, _), _ = jax.lax.scan(at_place, start, jnp.arange(length - 1))
    found = finished.joined(going)
    best = found.best(found.score(length_power), 1)
    ids_BL = best.ids_BKL[:, 0]
    return Decoded(ids_BL, _mask_of(ids_BL, prompt, marks), best.log_p_BK[:, 0])


def _with_given(
    log_p_BKV: Float[Array, "B K V"], given_B: Bool[Array, "B"], next_B: Int[Array, "B"]
) -> Float[Array, "B K V"]:
    """The same, where the next token is given with no choice and at no cost."""
    own_BV = jax.nn.one_hot(next_B, log_p_BKV.shape[-1], dtype=bool)
    forced_BV = jnp.where(own_BV, 0.0, -jnp.inf)
    return jnp.where(given_B[:, None, None], forced_BV[:, None], log_p_BKV)


def _grow(
    going: Beams, total_BKV: Float[Array, "B K V"], given_B: Bool[Array, "B"], place: Array
) -> tuple[Beams, Int[Array, "B K2"]]:
    """The likeliest texts that are one token longer, and the beam that each comes from."""
    batch, beams, words = total_BKV.shape
    count = min(2 * beams, beams * words)
    log_p_BK, index_BK = jax.lax.top_k(total_BKV.reshape(batch, -1), count)
    source_BK, token_BK = index_BK // words, index_BK % words
    grown = going.taken(source_BK)
    ids_BKL = grown.ids_BKL.at[:, :, place + 1].set(token_BK.astype(jnp.int32))
    written_BK = grown.count_BK + ~given_B[:, None]
    return Beams(ids_BKL, log_p_BK, written_BK), source_BK


def _take(x: Array, which_BK: Int[Array, "B K"]) -> Array:
    """Some of the second axis, in each row."""
    return jnp.take_along_axis(x, which_BK.reshape(*which_BK.shape, *[1] * (x.ndim - 2)), axis=1)


def _rows_of(kept: Tree, source_BK: Int[Array, "B K"]) -> Tree:
    """What was kept of the beams that the new ones come from."""
    batch, beams = source_BK.shape
    rows = (jnp.arange(batch)[:, None] * beams + source_BK).reshape(-1)
    return jax.tree.map(lambda x: x[rows], kept)


def _mask_of(ids_BL: Int[Array, "B L"], prompt: Prompt, marks: Marks) -> Bool[Array, "B L"]:
    """True up to the first end token that was written."""
    ends_BL = (ids_BL == marks.end) & ~prompt.given_BL
    return prompt.given_BL | (jnp.cumsum(ends_BL, axis=1) - ends_BL == 0)
