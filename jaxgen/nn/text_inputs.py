"""The texts that a network reads, checked: states of tokens, their mask, a pooled vector."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxgen.errors import InputError


def check_text_widths(config: Any) -> None:
    """Refuses widths of texts and of their vectors that are none.

    Raises:
      InputError: naming the field.
    """
    for name in ("text_width", "pooled_width"):
        if getattr(config, name) < 0:
            raise InputError(f"{name} is {getattr(config, name)}, expected 0 or more")


def check_text_tokens(config: Any, text: Any, batch: int, *, needed: bool = True) -> None:
    """Refuses tokens of texts that do not fit a network.

    Args:
      config: of the network, with ``text_width``.
      text: the tokens, or None.
      batch: rows of the batch.
      needed: whether there must be some: the network has nothing that stands for no text.

    Raises:
      InputError: with the shape and what was expected.
    """
    if text is None:
        if config.text_width and needed:
            raise InputError(
                f"text is None, expected tokens [{batch}, N, {config.text_width}]: the network has "
                "no null text"
            )
        return
    if not config.text_width or text.ndim != 3 or text.shape[::2] != (batch, config.text_width):
        wanted = f"[{batch}, N, {config.text_width}]"
        wanted = wanted if config.text_width else "None: the network reads none"
        raise InputError(f"text has shape {text.shape}, expected {wanted}")


def check_text_mask(mask: Any, text: Any) -> None:
    """Refuses a mask that is not that of the tokens.

    Raises:
      InputError: with the shapes.
    """
    if mask is None:
        return
    expected = None if text is None else text.shape[:2]
    if mask.shape != expected:
        wanted = None if expected is None else list(expected)
        raise InputError(f"text_mask has shape {mask.shape}, expected {wanted}, as the text")


def check_pooled(config: Any, pooled: Any, leading: tuple[int, ...]) -> None:
    """Refuses pooled vectors that do not fit a network.

    Args:
      config: of the network, with ``pooled_width``.
      pooled: the vectors, or None.
      leading: their axes but the last.

    Raises:
      InputError: with the shape and what was expected.
    """
    wanted = (*leading, config.pooled_width) if config.pooled_width else None
    found = None if pooled is None else pooled.shape
    if found != wanted:
        expected = None if wanted is None else list(wanted)
        raise InputError(f"pooled vectors have shape {found}, expected {expected}")


def without_padding(
    text_BNC: Float[Array, "B N C"], mask_BN: Bool[Array, "B N"] | None
) -> Float[Array, "B N C"]:
    """Texts with zeros where they are masked: what is there may be anything, for gradients too."""
    return text_BNC if mask_BN is None else jnp.where(mask_BN[..., None], text_BNC, 0)
