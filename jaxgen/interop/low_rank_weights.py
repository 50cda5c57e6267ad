"""Files of low-rank adapters of Stable Diffusion, by the tensors of the model that they change.

====================================================  ==========================================
name                                                  written by
====================================================  ==========================================
``unet.PLACE.lora_A.weight``, ``.lora_B.weight``      diffusers with peft
``base_model.model.PLACE.lora_A.weight``              peft, of a network
``unet.PLACE.lora.down.weight``, ``.lora.up.weight``  diffusers before
``unet.ATTN.processor.to_q_lora.down.weight``         diffusers at first
``lora_unet_PLACE.lora_down.weight``, ``.lora_up``    kohya's scripts, dots as underscores
====================================================  ==========================================

``text_encoder.``, ``lora_te_`` and ``lora_te1_`` stand for the (first) text encoder (there also
``.lora_linear_layer.down``), ``text_encoder_2.`` and ``lora_te2_`` for the second; names without
any of these are of the network. The scale of a pair is alpha / r of a tensor ``.alpha`` beside it,
else of `adapter_settings`, else 1::

    W' = W + s alpha / r up down          W (out, in), up (out, r), down (r, in)

Of convolutions the sides of the kernel belong to ``down``.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxgen.errors import InputError
from jaxgen.interop.safetensors import TensorFile
from jaxgen.interop.tensors import name_of

NETWORK_PART, TEXT_PART, SECOND_TEXT_PART = "unet", "text_encoder", "text_encoder_2"

_ENDS = (
    (r"(\.lora_A|\.lora\.down|\.lora_down|_lora\.down|\.lora_linear_layer\.down)\.weight", "down"),
    (r"(\.lora_B|\.lora\.up|\.lora_up|_lora\.up|\.lora_linear_layer\.up)\.weight", "up"),
    (r"\.alpha", "alpha"),
)
_PREFIXES = {
    "unet.": NETWORK_PART,
    "text_encoder.": TEXT_PART,
    "text_encoder_2.": SECOND_TEXT_PART,
    "lora_unet_": NETWORK_PART,
    "lora_te_": TEXT_PART,
    "lora_te1_": TEXT_PART,
    "lora_te2_": SECOND_TEXT_PART,
    "base_model.model.": NETWORK_PART,
    "": NETWORK_PART,
}
_EARLY_LAYERS = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "out_proj"}
"""What diffusers called a text encoder's layers at first."""

_SETTINGS_KEY, _SETTINGS_FILE = "lora_adapter_metadata", "adapter_config.json"


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


def adapter_settings(file: TensorFile) -> dict[str, dict[str, Any]]:
    """The fields of peft's configuration by part of a model, from where a file has them.

    That is its header, where diffusers writes them (``unet.lora_alpha``), or of a network that peft
    wrote ``adapter_config.json`` beside it.

    Raises:
      InputError: for text that is no JSON object; for DoRA.
    """
    where, beside = f"{file.path}: {_SETTINGS_KEY}", file.path.with_name(_SETTINGS_FILE)
    text, start = file.metadata.get(_SETTINGS_KEY), ""
    if text is None and beside.is_file():
        where, text, start = str(beside), beside.read_text("utf-8"), f"{NETWORK_PART}."
    try:
        fields = json.loads(text or "{}")
    except ValueError as error:
        raise InputError(f"{where}, expected JSON ({error})") from None
    if not isinstance(fields, dict):
        raise InputError(f"{where} is a JSON {type(fields).__name__}, expected an object of fields")
    found: dict[str, dict[str, Any]] = {}
    for name, value in fields.items():
        part, _, field = f"{start}{name}".partition(".")
        if field == "use_dora" and value:
            raise InputError(f"{where}: {name} is {value!r}, expected False")
        found.setdefault(part, {})[field] = value
    return found


def low_rank_pairs(
    tensors: Mapping[str, np.ndarray],
    names: Mapping[str, Sequence[str]],
    file: str | None = None,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, dict[str, LowRankPair]]:
    """The pairs of a file by part of a model and by the tensor that they change.

    Args:
      tensors: arrays by name, for instance a `TensorFile`.
      names: of the model's tensors, ``PLACE.weight``, by part: "unet", "text_encoder" and, where
        there is one, "text_encoder_2".
      file: what errors call it, see `name_of`.
      settings: `adapter_settings` of the file.

    Raises:
      InputError: for a file that names no tensor of the model, or one that it has not; for half a
        pair; for an alpha that is no number.
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
    if not found:
        raise InputError(f"{where} has no tensors, expected pairs of an adapter")
    pairs: dict[str, dict[str, LowRankPair]] = {part: {} for part in names}
    for (part, flat), own in found.items():
        name = known[part, flat]
        missing = [each for each in ("down", "up") if each not in own]
        if missing:
            raise InputError(f"{where}: {name} has no {missing[0]}, expected both of a pair")
        if "alpha" in own:
            if np.size(own["alpha"]) != 1:
                shape = list(np.shape(own["alpha"]))
                raise InputError(f"{where}: alpha of {name} has shape {shape}, expected one number")
            scale = float(np.asarray(own["alpha"]).item()) / len(own["down"])
        else:
            own_settings = (settings or {}).get(part, {})
            try:
                scale = _scale_of(own_settings, name.removesuffix(".weight"), len(own["down"]))
            except InputError as error:
                raise InputError(f"{where}: {part}.{error}") from None
        pairs[part][name] = LowRankPair(own["down"], own["up"], scale)
    return pairs


def _scale_of(settings: Mapping[str, Any], place: str, rank: int) -> float:
    """alpha / r, or alpha / sqrt(r), of peft's fields; the first pattern of a place wins."""
    alpha = settings.get("lora_alpha", rank)
    for pattern, own in (settings.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", place):
            alpha = own
            break
    if isinstance(alpha, bool) or not isinstance(alpha, int | float):
        raise InputError(f"lora_alpha is {alpha!r}, expected a number")
    return alpha / rank ** (0.5 if settings.get("use_rslora") else 1.0)


def _place(name: str) -> tuple[str, str, str] | None:
    """Part, place and kind of a tensor of a file; None for another."""
    for pattern, kind in _ENDS:
        match = re.fullmatch(f"(.+?)(?:{pattern})", name)
        if match is not None:
            prefix, part = next(each for each in _PREFIXES.items() if name.startswith(each[0]))
            return part, _flat(_present(part, match[1].removeprefix(prefix))), kind
    return None


def _present(part: str, place: str) -> str:
    """A place that diffusers may have called otherwise at first."""
    stem, dot, layer = place.replace(".processor.", ".").rpartition(".")
    if part == NETWORK_PART:
        layer = "to_out.0" if layer == "to_out" else layer
    else:
        layer = _EARLY_LAYERS.get(layer, layer)
    return f"{stem}{dot}{layer}"


def _flat(place: str) -> str:
    """A place as kohya writes it; that of a lone text encoder has no prefix of its own."""
    return place.replace(".", "_").removeprefix("text_model_")
