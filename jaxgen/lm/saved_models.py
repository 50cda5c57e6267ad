"""Files of language models: JSON and arrays in one zip archive, without pickle.

::

    model.json      {"format": 1, "words": [...], "model": {...}}
    arrays/0.npy    the arrays that the description names, in numpy's format

A part of a model is written as ``{"class": NAME, "fields": {...}}`` with a short name from
`CLASSES`, never with a module path; an array as ``{"array": NUMBER}``, a tuple as a list, and a
tree of parameters as ``{"tree": {...}}``.
"""

import dataclasses
import importlib
import json
import zipfile
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from jaxgen.errors import InputError
from jaxgen.files import Path, open_file, replacing
from jaxgen.lm.ngram.counts import NgramCounts
from jaxgen.lm.protocol import LanguageModel

FORMAT = 1

CLASSES: dict[str, str] = {
    "backoff": "jaxgen.lm.ngram.backoff:BackoffModel",
    "class-ngram": "jaxgen.lm.ngram.class_based:ClassModel",
    "context-trie": "jaxgen.lm.ngram.counts:ContextTrie",
    "frequency-bins": "jaxgen.lm.mixture:FrequencyBins",
    "interpolated": "jaxgen.lm.ngram.interpolated:InterpolatedModel",
    "mixture": "jaxgen.lm.mixture:Mixture",
    "ngram-counts": "jaxgen.lm.ngram.counts:NgramCounts",
    "ngram-index": "jaxgen.lm.ngram.counts:NgramIndex",
    "nplm": "jaxgen.lm.nplm:NPLMConfig",
    "nplm-energy": "jaxgen.lm.outputs.energy:EnergyNPLMConfig",
    "nplm-sampled": "jaxgen.lm.outputs.importance_sampling:SampledNPLMConfig",
    "nplm-short-list": "jaxgen.lm.outputs.short_list:ShortListConfig",
    "nplm-tree": "jaxgen.lm.outputs.tree_softmax:TreeNPLMConfig",
    "sentence-marks": "jaxgen.lm.contexts:SentenceMarks",
    "sentences": "jaxgen.lm.sentences:SentenceModel",
    "short-list": "jaxgen.lm.outputs.short_list:ShortListModel",
    "tree-code": "jaxgen.lm.outputs.tree_softmax:TreeCode",
}
"""Saved name -> ``module:class`` of the parts whose fields are written as they are. Names are for
ever; only what they lead to may change."""

NETWORK = "network"
"""The name of a `jaxgen.lm.network.NetworkModel`, whose module is made from its configuration."""

_ARPA_HINT = "; an ARPA file opens with TextModel.from_tables(jaxgen.interop.arpa.read_arpa(path))"
_FREQUENCIES = "context-frequencies"
_DESCRIPTION = "model.json"
_EARLIEST = (1980, 1, 1, 0, 0, 0)  # no time in the archive: equal models give equal files

Json = Any


def write_model_file(path: Path, model: LanguageModel, words: tuple[str, ...]) -> None:
    """Writes a model and its words, whole or not at all.

    Raises:
      InputError: if a part of the model has no saved form.
    """
    arrays: list[np.ndarray] = []
    description = {"format": FORMAT, "words": list(words), "model": _encode(model, arrays)}
    with (
        replacing(path) as handle,
        zipfile.ZipFile(handle, "w", zipfile.ZIP_STORED) as archive,
    ):
        text = json.dumps(description, ensure_ascii=True)
        archive.writestr(zipfile.ZipInfo(_DESCRIPTION, _EARLIEST), text)
        for i, array in enumerate(arrays):
            info = zipfile.ZipInfo(f"arrays/{i}.npy", _EARLIEST)
            with archive.open(info, "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def read_model_file(path: Path) -> tuple[LanguageModel, tuple[str, ...]]:
    """The model and the words of a file that `write_model_file` wrote.

    Raises:
      FileNotFoundError: if there is no such file.
      InputError: if it is no such file, is damaged, or has a newer format.
    """
    with open_file(path) as handle:
        try:
            with zipfile.ZipFile(handle) as archive:
                description = json.loads(archive.read(_DESCRIPTION))
                _check_format(path, description)
                model = _decode(description["model"], lambda i: _read_array(archive, i))
                return model, tuple(description["words"])
        except InputError:
            raise
        except (zipfile.BadZipFile, zlib.error, KeyError, TypeError, ValueError, EOFError) as error:
            hint = _ARPA_HINT if isinstance(error, zipfile.BadZipFile) else ""
            raise InputError(
                f"{path}: no saved language model, or a damaged one ({error}){hint}"
            ) from error


def _check_format(path: Path, description: Json) -> None:
    if description["format"] not in range(1, FORMAT + 1):
        raise InputError(
            f"{path}: its format is {description['format']!r}, expected at most {FORMAT}; "
            "was it written by a newer version of jaxgen?"
        )


def _read_array(archive: zipfile.ZipFile, number: int) -> np.ndarray:
    with archive.open(f"arrays/{number}.npy") as member:
        array = np.lib.format.read_array(member, allow_pickle=False)
        member.read()  # to its end, where the checksum is compared
        return array


def _encode(value: Any, arrays: list[np.ndarray]) -> Json:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple | list):
        return [_encode(item, arrays) for item in value]
    if isinstance(value, Mapping):
        return {"tree": {key: _encode(item, arrays) for key, item in value.items()}}
    if isinstance(value, np.ndarray | jax.Array):
        return {"array": _add(np.asarray(value), arrays)}
    location = f"{type(value).__module__}:{type(value).__qualname__}"
    if location == "jaxgen.lm.network:NetworkModel":
        fields = {"config": value.network.config, "params": value.params, "batch": value.batch}
        return {"class": NETWORK, "fields": _encode(fields, arrays)["tree"]}
    counts = getattr(value, "__self__", None)
    if isinstance(counts, NgramCounts) and value == counts.context_frequencies:
        return {"class": _FREQUENCIES, "fields": {"counts": _encode(counts, arrays)}}
    name = next((name for name, where in CLASSES.items() if where == location), None)
    if name is None:
        raise InputError(f"model has a part {value!r} without a saved form, expected one of jaxgen")
    fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.init}
    return {"class": name, "fields": _encode(fields, arrays)["tree"]}


def _add(array: np.ndarray, arrays: list[np.ndarray]) -> int:
    if array.dtype.kind not in "biuf":
        raise InputError(f"model has an array of type {array.dtype}, expected plain numbers")
    arrays.append(np.ascontiguousarray(array))
    return len(arrays) - 1


def _decode(data: Json, read: Callable[[int], np.ndarray]) -> Any:
    match data:
        case {"array": int(number)}:
            return read(number)
        case {"tree": dict(items)}:
            return {key: _decode(item, read) for key, item in items.items()}
        case {"class": str(name), "fields": dict(fields)}:
            return _make(name, {key: _decode(item, read) for key, item in fields.items()})
        case list():
            return tuple(_decode(item, read) for item in data)
    return data


def _make(name: str, fields: Mapping[str, Any]) -> Any:
    if name == NETWORK:
        from jaxgen.lm.network import NetworkModel

        network = fields["config"].make_model()
        return NetworkModel(
            network, jax.tree.map(jax.numpy.asarray, fields["params"]), fields["batch"]
        )
    if name == _FREQUENCIES:
        return fields["counts"].context_frequencies
    if name not in CLASSES:
        raise InputError(
            f"saved model has a part {name!r} that is unknown; was it written by a newer version?"
        )
    module, _, attribute = CLASSES[name].partition(":")
    return getattr(importlib.import_module(module), attribute)(**fields)
