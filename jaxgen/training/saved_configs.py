"""Configurations as JSON: frozen dataclasses written with their class, and read back checked.

A dataclass becomes ``{"class": "module:QualName", "fields": {...}}``; inside it, a tuple becomes
``{"tuple": [...]}``, a member of an enum ``{"enum": "module:QualName", "member": NAME}``, a mapping
``{"mapping": {...}}`` and a float that JSON lacks ``{"float": "inf"}``. Everything else is what
JSON knows.
"""

import dataclasses
import enum
import importlib
import json
import math
import sys
from collections.abc import Callable, Mapping
from typing import Any

from jaxgen.errors import InputError

Json = Any


def config_to_json(value: Any) -> Json:
    """What `json.dump` can write, from a configuration or a part of one.

    Args:
      value: a dataclass whose fields are dataclasses, tuples, lists, mappings with string keys,
        enum members, strings, numbers, booleans and None.

    Raises:
      InputError: for anything else, and for a class that cannot be found again by its name.
    """
    match value:
        case enum.Enum():
            return {"enum": _name_of(type(value)), "member": value.name}
        case float() if not math.isfinite(value):
            return {"float": repr(value)}
        case None | bool() | int() | float() | str():
            return value
        case tuple():
            return {"tuple": [config_to_json(item) for item in value]}
        case list():
            return [config_to_json(item) for item in value]
        case Mapping() if all(isinstance(key, str) for key in value):
            return {"mapping": {key: config_to_json(item) for key, item in value.items()}}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: config_to_json(getattr(value, f.name)) for f in _fields(type(value))}
        return {"class": _name_of(type(value)), "fields": fields}
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
      InputError: where a class does not exist or is no dataclass, or fields are unknown, or missing
        without a default; the message names them. What the classes raise themselves passes through.
    """
    match data:
        case {"class": str(name), "fields": dict(fields)}:
            cls = _class_named(name, where, dataclasses.is_dataclass, "dataclass")
            _check_fields(cls, fields, where)
            return cls(**{k: config_from_json(v, f"{where}: {k}") for k, v in fields.items()})
        case {"enum": str(name), "member": str(member)}:
            cls = _class_named(name, where, lambda c: issubclass(c, enum.Enum), "enum")
            if member not in cls.__members__:
                raise InputError(
                    f"{where}: {member!r} is no member of {name}; "
                    f"expected one of {', '.join(cls.__members__)}"
                )
            return cls[member]
        case {"tuple": list(items)}:
            return tuple(config_from_json(item, where) for item in items)
        case {"mapping": dict(items)}:
            return {key: config_from_json(item, where) for key, item in items.items()}
        case {"float": "inf" | "-inf" | "nan" as text}:
            return float(text)
        case list():
            return [config_from_json(item, where) for item in data]
        case dict():
            raise InputError(f"{where}: {data!r} is no configuration; expected a 'class'")
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


def _name_of(cls: type) -> str:
    """``module:QualName``, checked to lead back to the class."""
    module = _main_module() if cls.__module__ == "__main__" else cls.__module__
    name = f"{module}:{cls.__qualname__}"
    if _find(name) is not cls:
        raise InputError(f"{name} cannot be found by its name; expected a class of a module")
    return name


def _main_module() -> str:
    """What the program calls itself when others import it: `python -m MODULE` runs as __main__."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec.name if spec else "__main__"


def _find(name: str) -> Any:
    """The object of a name ``module:QualName``, or None."""
    module, _, qualified = name.partition(":")
    try:
        found: Any = importlib.import_module("__main__" if module == _main_module() else module)
        for part in qualified.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError):
        return None
    return found


def _class_named(name: str, where: str, fits: Callable[[Any], bool], kind: str) -> Any:
    cls = _find(name)
    if not (isinstance(cls, type) and fits(cls)):
        raise InputError(f"{where}: there is no {kind} {name!r}; was it renamed, or not installed?")
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
