"""Texts that a network writes token by token: what it is, what is given, what comes out."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxgen.errors import InputError

Step = Callable[[Any, Array, Array], tuple[Array, Any]]
"""``step(kept, ids_B, place) -> (logits_BV, kept)``."""


class Prompt(NamedTuple):
    """Texts of which some tokens are given.

    Attributes:
      ids_BL: the tokens; those that are not given may be anything.
      given_BL: where they are given, at the first place at least.
    """

    ids_BL: Int[Array, "B L"]
    given_BL: Bool[Array, "B L"]

    @classmethod
    def first(cls, batch: int, length: int, start_id: int) -> "Prompt":
        """Texts of which the first token alone is given."""
        ids_BL = jnp.full((batch, length), start_id, jnp.int32)
        return cls(ids_BL, jnp.broadcast_to(jnp.arange(length) == 0, ids_BL.shape))


class Marks(NamedTuple):
    """Tokens that mean something.

    Attributes:
      end: what ends a text.
      pad: what follows it.
    """

    end: int
    pad: int = 0


class Decoded(NamedTuple):
    """Texts that were written.

    Attributes:
      ids_BL: all tokens, those that were given among them.
      mask_BL: False for padding.
      log_p_B: of all that was written, the end among it, given the rest.
    """

    ids_BL: Int[Array, "B L"]
    mask_BL: Bool[Array, "B L"]
    log_p_B: Float[Array, "B"]


def check_prompt(prompt: Prompt) -> None:
    """Raises InputError for ids and a mask that are not [B, L] both, with L of 2 or more."""
    shapes = prompt.ids_BL.shape, prompt.given_BL.shape
    if shapes[0] != shapes[1] or len(shapes[0]) != 2 or shapes[0][1] < 2:
        raise InputError(
            f"a prompt has ids {shapes[0]} and given ones {shapes[1]}, expected [B, L] of both, "
            "with L of 2 or more"
        )
