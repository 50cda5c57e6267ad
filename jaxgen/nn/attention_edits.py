"""A look at the weights of attention, and a change of them, while a network is called.

What editing by prompts needs (`jaxgen.diffusion.conditioning.prompt_to_prompt`), and pictures of
attention::

    def edit(weights_BHLN, place):
        maps.append((place, weights_BHLN))
        return weights_BHLN

    with editing_attention(edit):
        prediction = model.apply(variables, z, time, text_BNC=states)

Inside, every attention is computed the plain way. The function is called while the network is
traced, once for each attention and in its order, and may return traced values; what it keeps is
valid within the same trace, so a network with ``remat`` cannot be looked at.
"""

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

from jaxtyping import Array, Float


class AttentionPlace(NamedTuple):
    """Which attention of a network it is.

    Attributes:
      kind: of tokens to each other, or to those of another sequence.
      path: names of the modules that it is in, from the outermost to its own.
    """

    kind: Literal["self", "cross"]
    path: tuple[str, ...]


AttentionEdit = Callable[[Float[Array, "B H L N"], AttentionPlace], Float[Array, "B H L N"]]
"""``(weights, place) -> weights``; rows of weights add up to 1, and may then be anything."""

_EDIT: contextvars.ContextVar[AttentionEdit | None] = contextvars.ContextVar("edit", default=None)


@contextlib.contextmanager
def editing_attention(edit: AttentionEdit) -> Iterator[None]:
    """Inside, the attention of networks goes by edited weights."""
    token = _EDIT.set(edit)
    try:
        yield
    finally:
        _EDIT.reset(token)


def edit_at(
    kind: Literal["self", "cross"], path: tuple[str, ...]
) -> Callable[[Float[Array, "B H L N"]], Float[Array, "B H L N"]] | None:
    """The change of weights at a place; None outside of `editing_attention`."""
    edit = _EDIT.get()
    if edit is None:
        return None
    place = AttentionPlace(kind, path)
    return lambda weights_BHLN: edit(weights_BHLN, place)
