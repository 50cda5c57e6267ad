"""Weights of words written into a prompt, "a (red:1.3) cube", as Stable Diffusion's users do."""

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32

from jaxgen.data.tokenizers.clean_text import clean_openai
from jaxgen.data.tokenizers.text_checks import check_texts
from jaxgen.data.tokenizers.tokenized import Tokenized
from jaxgen.data.tokenizers.tokenizer import Tokenizer
from jaxgen.errors import InputError

BRACKET_FACTOR = 1.1
"""What a pair of round brackets without a number multiplies by, and square ones divide by."""

_find_parts = re.compile(
    r"\\(?P<literal>[()\[\]\\])|(?P<open>[(\[])|:\s*(?P<weight>[-+]?\d*\.?\d+)\s*\)|(?P<close>[)\]])"
    r"|(?P<text>[^\\()\[\]:]+|.)",
    re.DOTALL,
).finditer


def parse_weights(prompt: str) -> list[tuple[str, float]]:
    r"""A prompt in parts of one weight each, without the brackets that say so.

    ``(text)`` multiplies by 1.1, ``[text]`` divides by it, ``(text:1.3)`` multiplies by the number;
    brackets may be nested, and ``\(`` is a bracket. This is what AUTOMATIC1111's web interface made
    usual. A number without a bracket is text, and a bracket that nothing closes counts to the end.

    Raises:
      InputError: A bracket closes that none has opened.

    Example:
      >>> parse_weights("a (red:1.3) cube")
      [('a ', 1.0), ('red', 1.3), (' cube', 1.0)]
    """
    parts: list[tuple[str, float]] = []
    opened: list[tuple[str, int]] = []
    for found in _find_parts(prompt):
        kind, value = str(found.lastgroup), found[str(found.lastgroup)]
        if kind == "open":
            opened.append((value, len(parts)))
        elif kind in ("close", "weight"):
            bracket = ")" if kind == "weight" else value
            if not opened or opened[-1][0] + bracket not in ("()", "[]"):
                raise InputError(
                    f"the prompt {prompt!r} closes {bracket!r} at character {found.end() - 1}, "
                    f"expected \\{bracket} or an open bracket before it"
                )
            _, first = opened.pop()
            factor = float(value) if kind == "weight" else BRACKET_FACTOR
            factor = 1 / factor if bracket == "]" else factor
            parts[first:] = [(text, weight * factor) for text, weight in parts[first:]]
        else:
            parts.append((value, 1.0))
    for bracket, first in reversed(opened):
        factor = BRACKET_FACTOR if bracket == "(" else 1 / BRACKET_FACTOR
        parts[first:] = [(text, weight * factor) for text, weight in parts[first:]]
    return _joined(parts)


def encode_weighted(
    tokenizer: Tokenizer, prompts: Sequence[str], **options: Any
) -> tuple[Tokenized, Float32[np.ndarray, "B L"]]:
    """Prompts without their brackets as tokens, and the weight of each token, float32 [B, L].

    A token has the weight of its first character; start, end and padding have 1.

    Args:
      tokenizer: Its cleaning comes before brackets are read.
      prompts: B prompts, each as `parse_weights` reads it.
      options: Of `Tokenizer.encode`.

    Raises:
      InputError: As `parse_weights` and `Tokenizer.encode`.
    """
    check_texts(prompts)
    if tokenizer.clean == "openai":
        prompts = [clean_openai(prompt) for prompt in prompts]
        tokenizer = dataclasses.replace(tokenizer, clean="plain")
    parsed = [parse_weights(prompt) for prompt in prompts]
    texts = ["".join(text for text, _ in parts) for parts in parsed]
    tokenized = tokenizer.encode(texts, **options)
    weights = np.ones(tokenized.ids.shape, np.float32)
    for b, parts in enumerate(parsed):
        of_characters = np.repeat([w for _, w in parts], [len(text) for text, _ in parts])
        first = tokenized.first_characters[b]
        weights[b, first >= 0] = of_characters[first[first >= 0]]
    return tokenized, weights


def _joined(parts: Sequence[tuple[str, float]]) -> list[tuple[str, float]]:
    """Neighbours of one weight as one part."""
    joined: list[tuple[str, float]] = []
    for text, weight in parts:
        if joined and math.isclose(joined[-1][1], weight):
            joined[-1] = (joined[-1][0] + text, weight)
        else:
            joined.append((text, weight))
    return joined
