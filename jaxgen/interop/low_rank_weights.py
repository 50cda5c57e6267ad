"""Files of low-rank adapters of Stable Diffusion, by the tensors of the model that they change.

====================================================  ==========================================
name                                                  written by
====================================================  ==========================================
``unet.PLACE.lora_A.weight``, ``.lora_B.weight``      diffusers with peft
``unet.PLACE.lora.down.weight``, ``.lora.up.weight``  diffusers before
``lora_unet_PLACE.lora_down.weight``, ``.lora_up``    kohya's scripts, dots as underscores
====================================================  ==========================================

``text_encoder.`` and ``lora_te_`` stand for the text encoder (there also
``.lora_linear_layer.down``). A tensor ``.alpha`` beside a pair makes its scale alpha / r, which
else is 1::

    W' = W + s alpha / r up down          W (out, in), up (out, r), down (r, in)

Of convolutions the sides of the kernel belong to ``down``.
"""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxgen.errors import InputError
from jaxgen.interop.tensors import name_of

NETWORK_PART, TEXT_PART = "unet", "text_encoder"

_ENDS = (
    (r"\.(lora_A|lora\.down|lora_down|lora_linear_layer\.down)\.weight", "down"),
    (r"\.(lora_B|lora\.up|lora_up|lora_linear_layer\.up)\.weight", "up"),
    (r"\.alpha", "alpha"),
)
_PREFIXES = {
    "unet.": NETWORK_PART,
    "text_encoder.": TEXT_PART,
    "lora_unet_": NETWORK_PART,
    "lora_te_": TEXT_PART,
}


class LowRankPair(NamedTuple):
    """What a file has for one tensor of a model.

    Attributes:
      down: (r, in) or (r, in, sides).
      up: (out, r), or with sides of 1.
      scale: alpha / r.
    """

    down: np.ndarray
    up: np.ndarray
    scale: float

    def product(self, shape: tuple[int, ...]) -> np.ndarray:
        """What is added to a tensor of a shape, float32.

        Raises:
          InputError: where it has another number of inputs or outputs.
        """
        rank = len(self.down)
        down, up = self.down.reshape(rank, -1), self.up.reshape(len(self.up), -1)
        size = int(np.prod(shape[1:]))
        if up.shape != (shape[0], rank) or down.shape != (rank, size):
            raise InputError(
                f"shapes {self.down.shape} and {self.up.shape}, expected a rank between the axes "
                f"of {tuple(shape)}"
            )
        product = up.astype(np.float32) @ down.astype(np.float32)
        return (self.scale * product).reshape(shape)


def low_rank_pairs(
    tensors: Mapping[str, np.ndarray], names: Mapping[str, Sequence[str]], file: str | None = None
) -> dict[str, dict[str, LowRankPair]]:
    """The pairs of a file by part of a model and by the tensor that they change.

    Args:
      tensors: arrays by name, for instance a `TensorFile`.
      names: of the model's tensors, ``PLACE.weight``, by part: "unet" and "text_encoder".
      file: what errors call it, see `name_of`.

    Raises:
      InputError: for a file that names no tensor of the model, or one that it has not; for half a
        pair.
    """
    where = name_of(tensors, file)
    known = {
        (part, _flat(place)): name
        for part, those in names.items()
        for name in those
        for place in [name.removesuffix(".weight")]
    }
    found: dict[tuple[str, str], dict[str, np.ndarray]] = {}
    strange = []
    for name in tensors:
        place = _place(name)
        if place is None or place[:2] not in known:
            strange.append(name)
        else:
            found.setdefault(place[:2], {})[place[2]] = tensors[name]
    if strange:
        rest = f" and {len(strange) - 3} more" if len(strange) > 3 else ""
        what = "matches nothing in" if not found else "has tensors that are not of"
        raise InputError(
            f"{where} {what} the model: {', '.join(strange[:3])}{rest}, expected names such as "
            f"unet.PLACE.lora_A.weight or lora_unet_PLACE.lora_down.weight"
        )
    pairs: dict[str, dict[str, LowRankPair]] = {part: {} for part in names}
    for (part, flat), own in found.items():
        name = known[part, flat]
        missing = [each for each in ("down", "up") if each not in own]
        if missing:
            raise InputError(f"{where}: {name} has no {missing[0]}, expected both of a pair")
        scale = float(np.asarray(own["alpha"]).item()) / len(own["down"]) if "alpha" in own else 1.0
        pairs[part][name] = LowRankPair(own["down"], own["up"], scale)
    return pairs


def _place(name: str) -> tuple[str, str, str] | None:
    """Part, place and kind of a tensor of a file; None for another."""
    for pattern, kind in _ENDS:
        match = re.fullmatch(f"(.+?)(?:{pattern})", name)
        if match is None:
            continue
        for prefix, part in _PREFIXES.items():
            if match[1].startswith(prefix):
                return part, _flat(match[1].removeprefix(prefix)), kind
    return None


def _flat(place: str) -> str:
    """A place as kohya writes it; that of a lone text encoder has no prefix of its own."""
    return place.replace(".", "_").removeprefix("text_model_")
