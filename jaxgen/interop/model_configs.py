"""``config.json`` as other programs lay it beside weights: read, and compared with what is known.

Fields that no shape of a tensor tells (heads, epsilons) come from it; what it says and what the
shapes say must agree.
"""

import json
import pathlib
from collections.abc import Collection, Mapping
from typing import Any

from jaxgen.errors import InputError

CONFIG = "config.json"


def read_model_config(folder: pathlib.Path, name: str = CONFIG) -> dict[str, Any] | None:
    """The fields of a folder's ``config.json``, or of another file; None without one.

    Raises:
      InputError: where it is no JSON object.
    """
    path = folder / name
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise InputError(f"{path}, expected JSON ({error})") from error
    if not isinstance(found, dict):
        raise InputError(f"{path}: is a JSON {type(found).__name__}, expected an object of fields")
    return found


def check_class(where: str, config: Mapping[str, Any], names: Collection[str]) -> None:
    """Refuses the configuration of another model, where it names its class.

    Raises:
      InputError: naming both.
    """
    found = config.get("_class_name")
    if found is not None and found not in names:
        raise InputError(f"{where}: _class_name is {found!r}, expected {' or '.join(names)}")


def check_model_type(where: str, config: Mapping[str, Any], types: Collection[str]) -> None:
    """Refuses a configuration of transformers that is of another model.

    Raises:
      InputError: naming both.
    """
    found = config.get("model_type")
    if found not in types:
        raise InputError(f"{where}: model_type is {found!r}, expected {' or '.join(types)}")


def check_agrees(where: str, config: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    """Refuses a configuration that contradicts what is known; fields that it lacks are passed over.

    Args:
      where: the file.
      config: what it says.
      known: field -> the value that shapes tell, or that the model here always has.

    Raises:
      InputError: naming the first field, its value and the right one.
    """
    for name, value in known.items():
        if config.get(name, value) != value:
            raise InputError(f"{where}: {name} is {config[name]!r}, expected {value!r}")
