"""Configurations as JSON: frozen dataclasses written with their saved name, and read back checked.

A dataclass becomes ``{"class": NAME, "fields": {...}}`` (names: `jaxgen.training.saved_names`),
the outermost with ``"format": 2`` beside them; inside it, a tuple becomes ``{"tuple": [...]}``, a
member of an enum ``{"enum": NAME, "member": MEMBER}``, a mapping ``{"mapping": {...}}`` and a float
that JSON lacks ``{"float": "inf"}``. Everything else is what JSON knows.

The first format had no number and ``module:class`` in the place of names; it is still read.
"""

import dataclasses
import enum
import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from jaxgen.errors import InputError
from jaxgen.training.saved_names import FIRST_FORMAT, RENAMED_FIELDS, class_of, saved_name

Json = Any

FORMAT = 2
"""The format that is written; it and all before it are read."""


def config_to_json(value: Any) -> Json:
    """What `json.dump` can write, from a configuration or a part of one.

    Args:
      value: a dataclass whose fields are dataclasses, tuples, lists, mappings with string keys,
        enum members, strings, numbers, booleans and None.

    Raises:
      InputError: for anything else, and for a class without a saved name.
    """
    data = _to_json(value)
    return {"format": FORMAT, **data} if _is_instance_of_dataclass(value) else data


def _to_json(value: Any) -> Json:
    match value:
        case enum.Enum():
            return {"enum": saved_name(type(value)), "member": value.name}
        case float() if not math.isfinite(value):
            return {"float": repr(value)}
        case None | bool() | int() | float() | str():
            return value
        case tuple():
            return {"tuple": [_to_json(item) for item in value]}
        case list():
            return [_to_json(item) for item in value]
        case Mapping() if all(isinstance(key, str) for key in value):
            return {"mapping": {key: _to_json(item) for key, item in value.items()}}
    if _is_instance_of_dataclass(value):
        fields = {f.name: _to_json(getattr(value, f.name)) for f in _fields(type(value))}
        return {"class": saved_name(type(value)), "fields": fields}
    raise InputError(
        f"{value!r} of type {type(value).__name__} cannot be written into a configuration file"
    )


def config_from_json(data: Json, where: str = "configuration") -> Any:
    """The value that `config_to_json` was given.

    A field that has a default may be missing: what was saved before the field existed is read as it
    was meant, provided that the default of a new field stands for the old behaviour.

    Args:
      data: parsed JSON.
      where: what error messages call the file.

    Raises:
      InputError: for a newer format; where a name is unknown, or fields are unknown, or missing
        without a default; the message names them. What the classes raise themselves passes through.
    """
    found = data.get("format", 1) if isinstance(data, dict) else FORMAT
    if found not in range(1, FORMAT + 1):
        raise InputError(
            f"{where}: its format is {found!r}, expected at most {FORMAT}; "
            "was it written by a newer version of jaxgen?"
        )
    return _from_json(data, where)


def _from_json(data: Json, where: str) -> Any:
    match data:
        case {"class": str(name), "fields": dict(fields)}:
            cls = _class_named(name, where, dataclasses.is_dataclass, "dataclass")
            renamed = RENAMED_FIELDS.get(FIRST_FORMAT.get(name, name), {})
            fields = {renamed.get(key, key): value for key, value in fields.items()}
            _check_fields(cls, fields, where)
            return cls(**{k: _from_json(v, f"{where}: {k}") for k, v in fields.items()})
        case {"enum": str(name), "member": str(member)}:
            cls = _class_named(name, where, lambda c: issubclass(c, enum.Enum), "enum")
            if member not in cls.__members__:
                raise InputError(
                    f"{where}: {member!r} is no member of {name}, "
                    f"expected one of {', '.join(cls.__members__)}"
                )
            return cls[member]
        case {"tuple": list(items)}:
            return tuple(_from_json(item, where) for item in items)
        case {"mapping": dict(items)}:
            return {key: _from_json(item, where) for key, item in items.items()}
        case {"float": "inf" | "-inf" | "nan" as text}:
            return float(text)
        case list():
            return [_from_json(item, where) for item in data]
        case dict():
            raise InputError(f"{where}: {data!r} is no configuration, expected a 'class'")
    return data


def config_differences(found: Any, expected: Any, where: str = "") -> dict[str, tuple[Any, Any]]:
    """Where two configurations differ: dotted field name -> (found, expected)."""
    if type(found) is not type(expected) or not dataclasses.is_dataclass(found):
        # Compared as JSON, where nan equals nan and 1 differs from True.
        same = json.dumps(config_to_json(found)) == json.dumps(config_to_json(expected))
        return {} if same else {where or "configuration": (found, expected)}
    differences: dict[str, tuple[Any, Any]] = {}
    for field in _fields(type(found)):
        name = f"{where}.{field.name}" if where else field.name
        values = getattr(found, field.name), getattr(expected, field.name)
        differences |= config_differences(*values, name)
    return differences


def _fields(cls: Any) -> list[dataclasses.Field]:
    return [field for field in dataclasses.fields(cls) if field.init]


def _is_instance_of_dataclass(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _class_named(name: str, where: str, fits: Callable[[Any], bool], kind: str) -> Any:
    cls = class_of(FIRST_FORMAT.get(name, name))
    if cls is None or not fits(cls):
        raise InputError(
            f"{where}: {kind} {name!r} is unknown; was it saved by a newer version, or by a "
            "program that is not imported?"
        )
    return cls


def _check_fields(cls: Any, fields: Mapping[str, Json], where: str) -> None:
    known = {field.name for field in _fields(cls)}
    needed = {
        field.name
        for field in _fields(cls)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    }
    for problem, names in (("unknown", set(fields) - known), ("missing", needed - set(fields))):
        if names:
            raise InputError(
                f"{where}: {problem} fields of {cls.__qualname__}: {', '.join(sorted(names))}"
            )
