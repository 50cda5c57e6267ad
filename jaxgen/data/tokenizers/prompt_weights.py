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

BRACKET_FACTOR = 1.1
"""What a pair of round brackets without a number multiplies by, and square ones divide by."""

FACTORS = {"(": BRACKET_FACTOR, "[": 1 / BRACKET_FACTOR}
OPENS = {")": "(", "]": "["}

_find_parts = re.compile(
    r"\\(?P<literal>[()\[\]\\]?)|(?P<open>[(\[])|(?P<close>[)\]])"
    r"|:\s*(?P<weight>[-+]?(?:\d+\.?\d*|\.\d+))\s*\)"
    r"|(?P<text>[^\\()\[\]:]+|.)",
    re.DOTALL,
).finditer


def parse_weights(prompt: str) -> list[tuple[str, float]]:
    r"""A prompt in parts of one weight each, without the brackets that say so.

    ``(text)`` multiplies by 1.1, ``[text]`` divides by it, ``(text:1.3)`` multiplies by the number;
    brackets may be nested, ``\(`` is a bracket, and a backslash before anything else is left out.
    This is what AUTOMATIC1111's web interface made usual. A number without a bracket is text, and
    so is a bracket that none has opened (":)", "at 12:30)"); one that nothing closes counts to the
    end.

    Example:
      >>> parse_weights("a (red:1.3) cube")
      [('a ', 1.0), ('red', 1.3), (' cube', 1.0)]
    """
    parts: list[tuple[str, float]] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}  # the parts that they stand before

    def multiply(first: int, factor: float) -> None:
        parts[first:] = [(text, weight * factor) for text, weight in parts[first:]]

    for found in _find_parts(prompt):
        kind, value = str(found.lastgroup), found[str(found.lastgroup)]
        if kind == "open":
            opened[value].append(len(parts))
        elif kind == "weight" and opened["("]:
            multiply(opened["("].pop(), float(value))
        elif kind == "close" and opened[OPENS[value]]:
            multiply(opened[OPENS[value]].pop(), FACTORS[OPENS[value]])
        else:
            parts.append((value if kind == "literal" else found[0], 1.0))
    for bracket, places in opened.items():
        for first in places:
            multiply(first, FACTORS[bracket])
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
      InputError: As `Tokenizer.encode`.
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
