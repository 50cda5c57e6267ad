"""Language models in files of any kind: saved ones, ARPA files, checkpoints of networks."""

import pathlib

from jaxgen.errors import InputError
from jaxgen.files import as_path, is_remote, open_file
from jaxgen.interop.arpa import NgramTables, read_arpa, write_arpa
from jaxgen.lm import TextModel, open_model
from jaxgen.lm.network import NetworkModel
from jaxgen.lm.ngram import BackoffModel
from jaxgen.text_rules import has_suffix
from jaxgen.training import load_model

_ZIP = b"PK"


def read_language_model(path: str) -> TextModel:
    """A model with its words.

    Args:
      path: a file of `TextModel.save`, an ARPA file (plain or gzip), or the folder of a run of
        `experiments.lm.nplm` (its best network) or of its checkpoints.

    Raises:
      FileNotFoundError: there is no such file or folder.
      InputError: it is none of these, or damaged.
    """
    folder = pathlib.Path(path)
    if folder.is_dir():
        return _read_network(folder)
    with open_file(path) as handle:
        is_zip = handle.read(len(_ZIP)) == _ZIP
    return open_model(path) if is_zip else TextModel.from_tables(read_arpa(path))


def _read_network(folder: pathlib.Path) -> TextModel:
    checkpoints = folder / "checkpoints" if (folder / "checkpoints").is_dir() else folder
    loaded = load_model(checkpoints, "best")
    if "vocabulary.txt" not in loaded.files:
        raise InputError(f"{folder}: its checkpoints have no vocabulary, expected a language model")
    words = loaded.files["vocabulary.txt"].removesuffix("\n").split("\n")
    return TextModel(NetworkModel(loaded.config.make_model(), loaded.params), tuple(words))


def write_language_model(path: str, model: TextModel) -> None:
    """Writes a model: an ARPA file under a name in ``.arpa`` or ``.arpa.gz``, else a saved model.

    Raises:
      InputError: for an ARPA file of a model that is no back-off model.
    """
    check_can_be_written(path, model)
    if isinstance(model.model, BackoffModel) and is_arpa(path):
        write_arpa(path, NgramTables(model.words, *model.model.tables()), sentence_marks=True)
    else:
        model.save(path)


def check_folder_of(path: str) -> None:
    """Refuses a file whose folder is missing, before there is anything to lose.

    Raises:
      InputError: naming both.
    """
    folder = as_path(path).parent
    if not is_remote(folder) and not folder.is_dir():
        raise InputError(f"{path}: there is no folder {folder} to write it to")


def check_can_be_written(path: str, model: TextModel) -> None:
    """Refuses a name in ``.arpa`` for a model that this format cannot hold."""
    if is_arpa(path) and not isinstance(model.model, BackoffModel):
        raise InputError(
            f"{path}: an ARPA file cannot hold a {type(model.model).__name__}, expected another "
            "name, for a saved model"
        )


def is_arpa(path: str) -> bool:
    """Whether a name says that a file is to be in the ARPA format."""
    return has_suffix(path, ".arpa", ".arpa.gz")
