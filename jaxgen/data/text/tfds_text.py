"""Sets of TensorFlow Datasets, read without TensorFlow: how they are opened, and those of text.

`tfds.data_source` gives random access to sets that were prepared in the array_record format
(``tfds build --file_format=array_record``, or `download_and_prepare(file_format="array_record")`);
neither that nor this module imports TensorFlow. The packages are in the extra ``jaxgen[data]``.
Image sets are read by `jaxgen.data.images.tfds_images`.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from jaxgen.data.archives import Path, decode_text
from jaxgen.data.text.corpus import PARAGRAPH, PARTS, Spans, TokenStream
from jaxgen.data.text.plain_text import tokenise_text
from jaxgen.data.text.token_files import PART_NAMES
from jaxgen.errors import InputError

VALIDATION_SHARE = 10
"""Where a set has no validation part, one word or image of so many at its training part's end."""

_SHOWN = 160  # characters of a fault that tfds reports

_is_name = re.compile(r"[A-Za-z_]\w*(?:/[\w.+-]+)*(?::[\d*]+\.[\d*]+\.[\d*]+)?", re.ASCII).fullmatch


def read_tfds(
    name: str,
    *,
    feature: str | None = None,
    data_dir: Path | None = None,
    record_mark: str | None = PARAGRAPH,
) -> TokenStream:
    """Reads a text set of TensorFlow Datasets as one stream (`jaxgen.data.text.plain_text`).

    Args:
      name: The set, with configuration and version where it has them: ``"lm1b"``,
        ``"wikipedia/20230601.en"``, ``"tiny_shakespeare:1.0.0"``.
      feature: Which feature of a record is the text; needed only if there are several texts.
      data_dir: Where the prepared set lies; by default where tfds keeps its sets.
      record_mark: Word put after each paragraph and each record, or None.

    Returns:
      The parts one after another, with spans if the set has a test part; validation is its own
      part, or else the last tenth of its training part. A set without a test part has no spans.

    Raises:
      InputError: The packages or the set are not there, the set is not in the array_record format,
        or has no training part or no single text feature.
    """
    builder = open_builder(name, data_dir)
    feature = single_feature(name, builder.info.features, feature, "text", is_text)
    tokens: list[str] = []
    ends: dict[str, int] = {}
    for part, split in splits_of_parts(name, builder.info.splits).items():
        for text in _texts(name, builder, split, feature):
            tokens += tokenise_text(text, record_mark)
        ends[part] = len(tokens)
    return TokenStream(f"tfds:{name}", tokens, spans=_spans(ends))


def open_builder(name: str, data_dir: Path | None) -> Any:
    """The tfds builder of a prepared set.

    Raises:
      InputError: The name is none of a set, the packages or the set are not there, or the set is
        not prepared.
    """
    if not _is_name(name):
        raise InputError(
            f"tfds:{name}, expected tfds:NAME, tfds:NAME/CONFIGURATION or tfds:NAME:VERSION, such"
            " as tfds:lm1b or tfds:mnist:3.0.1"
        )
    try:
        import array_record  # noqa: F401
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise InputError(
            f"tfds:{name}: needs the packages tensorflow-datasets and array_record, which the extra"
            f" jaxgen[data] installs ({error})"
        ) from error
    try:
        builder = tfds.builder(name, data_dir=data_dir and str(data_dir))
    except tfds.core.DatasetNotFoundError as error:
        raise InputError(f"tfds:{name}: no such set in {data_dir or 'tfds'}") from error
    except (AssertionError, KeyError, OSError, TypeError, ValueError) as error:
        # What builders raise for configurations and versions that they do not have.
        fault = " ".join(str(error).split())[-_SHOWN:]
        raise InputError(
            f"tfds:{name}: no such configuration or version in {data_dir or 'tfds'} ({fault})"
        ) from error
    if not builder.info.splits:
        raise InputError(f"tfds:{name}: not prepared, no files in {builder.data_dir}")
    return builder


def single_feature(
    name: str,
    features: Mapping[str, Any],
    wanted: str | None,
    kind: str,
    fits: Callable[[Any], bool],
) -> str:
    """Which feature of a record holds what is read.

    Args:
      name: The set.
      features: Its features.
      wanted: The one asked for; None: the only one there is.
      kind: What it holds, for an error: "image".
      fits: Whether a feature holds that.

    Raises:
      InputError: The feature does not fit, or none or several do.
    """
    found = [key for key, value in features.items() if fits(value)]
    if wanted in found:
        return wanted
    if wanted is None and len(found) == 1:
        return found[0]
    fault = f"no single {kind} feature" if wanted is None else f"no {kind} {wanted!r}"
    raise InputError(f"tfds:{name}: {fault}; its {kind} features are: {', '.join(found) or 'none'}")


def label_feature(features: Mapping[str, Any]) -> str | None:
    """The only ClassLabel feature of a set, or None."""
    found = [key for key, value in features.items() if type(value).__name__ == "ClassLabel"]
    return found[0] if len(found) == 1 else None


def is_text(feature: Any) -> bool:
    """Whether a feature of a set is a text."""
    return type(feature).__name__ == "Text"


def splits_of_parts(name: str, available: Iterable[str]) -> dict[str, str]:
    """Part -> the set's name of it, in the order train, validation, test.

    Raises:
      InputError: There is no training part.
    """
    found = {PART_NAMES[split]: split for split in available if split in PART_NAMES}
    if "train" not in found:
        raise InputError(f"tfds:{name}: no split 'train'; it has {', '.join(available) or 'none'}")
    return {part: found[part] for part in PARTS if part in found}


def open_split(name: str, builder: Any, split: str) -> Any:
    """The records of one split, by number.

    Raises:
      InputError: The set is not in the array_record format.
    """
    try:
        return builder.as_data_source(split=split)
    except (AssertionError, NotImplementedError, ValueError) as error:
        fault = str(error).strip().split("\n")[0]
        raise InputError(
            f"tfds:{name}: cannot be read; prepare it with file_format='array_record' ({fault})"
        ) from error


def _texts(name: str, builder: Any, split: str, feature: str) -> Iterator[str]:
    records = open_split(name, builder, split)
    for i in range(len(records)):
        text = records[i][feature]
        yield decode_text(text, f"tfds:{name}: {split} record {i}") if text else ""


def _spans(ends: Mapping[str, int]) -> Spans | None:
    """Spans of consecutive parts, from where each ends."""
    if "test" not in ends:
        return None
    train, test = ends["train"], ends["test"]
    validation = ends.get("validation", train)
    if "validation" not in ends:
        train -= train // VALIDATION_SHARE
    return {"train": (0, train), "validation": (train, validation), "test": (validation, test)}
