"""What files beside a vocabulary say: lengths, padding, start and end."""

import json
import pathlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxgen.data.tokenizers.json_vocabulary import Definition
from jaxgen.errors import InputError

CONFIG_FILE = "tokenizer_config.json"
MAP_FILE = "special_tokens_map.json"

NO_LENGTH = 10**9
"""transformers writes 10^30 where nobody said a length; all above this counts as that."""

TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token")
"""Fields that name special tokens."""

PAD_TOKENS = ("<pad>", "[PAD]")
"""Padding of vocabularies beside which nothing names it."""


@dataclass(frozen=True)
class TokenizerSettings:
    """The fields of tokenizer_config.json; special tokens as special_tokens_map.json has them.

    Of Stable Diffusion 2's two files the first names another padding than the second; transformers
    follows the second.

    Attributes:
      fields: The content of the first file, with the tokens of the second.
    """

    fields: Mapping[str, Any]

    def token(self, name: str) -> str | None:
        """The spelling of ``"pad_token"``, ``"bos_token"``, ...; None where it is not named."""
        found = self.fields.get(name)
        content = found.get("content") if isinstance(found, dict) else found
        return content if isinstance(content, str) else None

    def special_tokens(self) -> list[str]:
        """The spellings of all tokens that are named, as transformers takes them for special."""
        names = [*self.fields.get("additional_special_tokens", ()), *map(self.token, TOKENS)]
        return [name for name in dict.fromkeys(names) if isinstance(name, str)]

    def length(self, default: int | None, own: int | None = None) -> int | None:
        """Tokens of a text; None where a file says null, as `save_tokenizer` writes it.

        Args:
          default: That of the kind of vocabulary, where no file says one.
          own: That of the vocabulary's file, where no file beside it has the field.
        """
        found = self.fields.get("model_max_length", own or default)
        if found is not None and found >= NO_LENGTH:
            found = default
        return None if found is None else int(found)


def read_tokenizer_settings(folder: pathlib.Path) -> TokenizerSettings:
    """What the files of a folder say; nothing where there are none.

    Raises:
      InputError: One of them is no JSON object, or its length is no whole number.
    """
    fields = {**_read_object(folder / CONFIG_FILE), **_read_object(folder / MAP_FILE)}
    length = fields.get("model_max_length")
    if length is not None and not (isinstance(length, int | float) and length > 0):
        raise InputError(f"{folder / CONFIG_FILE}: model_max_length is {length!r}, expected a size")
    return TokenizerSettings(fields)


def _read_object(path: pathlib.Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: damaged, expected JSON ({error})") from error
    if not isinstance(found, dict):
        raise InputError(f"{path}: is a JSON {type(found).__name__}, expected an object of fields")
    return found


def tokens_around(definition: Definition, source: str) -> tuple[int | None, int | None]:
    """Ids of start and end that a tokenizer.json puts around a text; None for none.

    Raises:
      InputError: It does so in another way than by one token before and one after.
    """
    found: list[tuple[int | None, int | None]] = []
    processor = definition.get("post_processor") or {}
    for part in processor.get("processors", [processor]):
        kind = part.get("type")
        if kind in ("RobertaProcessing", "BertProcessing"):
            found.append((part["cls"][1], part["sep"][1]))
        elif kind == "TemplateProcessing":
            found.append(_around_template(part, source))
        elif kind not in (None, "ByteLevel"):
            raise InputError(f"{source}: post_processor is {kind}, expected TemplateProcessing")
    return found[0] if found else (None, None)


def _around_template(part: Mapping[str, Any], source: str) -> tuple[int | None, int | None]:
    """Of a template such as ``[CLS] $A [SEP]``."""
    before: list[int] = []
    after: list[int] = []
    place = before
    for item in part["single"]:
        if "Sequence" in item:
            place = after
        else:
            place += part["special_tokens"][item["SpecialToken"]["id"]]["ids"]
    if len(before) > 1 or len(after) > 1:
        raise InputError(
            f"{source}: {len(before)} tokens before a text and {len(after)} after it, expected at "
            "most one each"
        )
    return next(iter(before), None), next(iter(after), None)


def padding_id(
    ids: Mapping[str, int], named: str | None, definition: Definition, end: int | None, source: str
) -> int:
    """The id of padding: that of a named token, of the file's own padding, "<pad>", or the end.

    Raises:
      InputError: None of these is there, or the named token is not in the vocabulary.
    """
    if named is not None:
        if named not in ids:
            raise InputError(f"{source}: pad_token is {named!r}, expected one of its tokens")
        return ids[named]
    if definition.get("padding"):
        return int(definition["padding"]["pad_id"])
    found = next((ids[token] for token in PAD_TOKENS if token in ids), end)
    if found is None:
        raise InputError(f"{source}: no file says what padding is, expected pad=ID")
    return found
