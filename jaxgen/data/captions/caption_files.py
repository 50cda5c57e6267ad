"""What is known of the pictures or videos of a folder beside their pixels: captions, other fields.

Three forms are read: ``captions.json``, a list of objects that name their ``file``, or an object of
captions by file; ``captions.jsonl`` or ``metadata.jsonl``, an object a line with its ``file_name``;
and ``NAME.txt`` beside ``NAME.mp4``. An entry has one ``caption``, or a list of ``captions``.
Several files may tell of one picture where they do not contradict each other.
"""

import json
import posixpath
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxgen.data.archives import MOST_NAMED, decode_text
from jaxgen.errors import InputError
from jaxgen.text_rules import RepeatedName, has_suffix, unique_names

CAPTION_FILES = ("captions.json", "captions.jsonl", "metadata.jsonl")
FILE_FIELDS = ("file", "file_name")
CAPTION_FIELDS = ("caption", "captions", "text", "name")
"""What the caption is called in an entry: the first of these that the entries have."""
CLASS_FIELDS = ("class", "label", "category")
"""What the class is called, likewise."""
ABOUT_FILES = frozenset({"readme", "license", "licence", "notice", "fps"})
"""Text files of these names tell of the folder and are no captions."""

Entry = Mapping[str, Any]


@dataclass(frozen=True)
class FoundCaptions:
    """The entries of the files of a folder.

    Attributes:
      entries: By the names of the files, one for each.
      files: The names of the files that hold them.
      unmatched: The names that entries give to files that are not there.
    """

    entries: Mapping[str, Entry]
    files: frozenset[str]
    unmatched: tuple[str, ...] = ()

    def captions(self, field: str | None = None) -> dict[str, tuple[str, ...]]:
        """The captions by the names of the files; empty where the entries have none.

        Args:
          field: What they are called; by default the first of `CAPTION_FIELDS` that there is.

        Raises:
          InputError: Some are empty or no texts; says how many, and names the first.
        """
        return self._texts(field, CAPTION_FIELDS)

    def classes(self, field: str | None = None) -> dict[str, str]:
        """The names of the classes by those of the files; as `captions`, with `CLASS_FIELDS`.

        Of a list (folders in folders) they are the words in their order.
        """
        return {name: " ".join(found) for name, found in self._texts(field, CLASS_FIELDS).items()}

    def _texts(self, field: str | None, usual: Sequence[str]) -> dict[str, tuple[str, ...]]:
        fields = {key for entry in self.entries.values() for key in entry}
        field = field or next((name for name in usual if name in fields), None)
        if field is None:
            return {}
        texts = {name: _as_texts(entry.get(field)) for name, entry in self.entries.items()}
        empty = [name for name, found in texts.items() if not found or not all(found)]
        if empty:
            value = self.entries[empty[0]].get(field)
            raise InputError(
                f"{', '.join(sorted(self.files))}: {len(empty)} of {len(texts)} are empty or no"
                f" texts, first {empty[0]} with {field} {value!r}, expected a text each"
            )
        return texts


def _as_texts(value: Any) -> tuple[str, ...]:
    values = value if isinstance(value, list) else [value]
    return tuple(" ".join(str(v).split()) if isinstance(v, str | int) else "" for v in values)


def most_words(captions: Sequence[str]) -> str:
    """The caption with most words, of several the first: the descriptive one."""
    return max(captions, key=lambda caption: len(caption.split()))


def fewest_words(captions: Sequence[str]) -> str:
    """The caption with fewest words, of several the first: the short one."""
    return min(captions, key=lambda caption: len(caption.split()))


def find_captions(
    folder: str,
    names: Sequence[str],
    others: Iterable[str],
    read: Callable[[str], bytes],
    plain: Callable[[str], str],
    what: str = "videos",
    *,
    others_too: bool = False,
) -> FoundCaptions | None:
    """The entries of all pictures or videos of a folder; None where there are no captions.

    Args:
      folder: What errors call it.
      names: The names of the pictures or videos, with folders.
      others: The names of the other files.
      read: The content of a file by its name.
      plain: A name without the archives in it.
      what: What errors call the pictures or videos.
      others_too: Whether a file of captions may name other pictures or videos alone.

    Raises:
      InputError: A file of captions is damaged, has none for some file, or names files of which
        none is there; says how many, and names the first. Or two files contradict each other.
    """
    by_plain = {plain(name): name for name in names}
    by_last = defaultdict(list)
    for end, name in by_plain.items():
        by_last[end.rpartition("/")[2]].append(name)
    by_plain |= {_composed(end): name for end, name in by_plain.items()}
    entries: dict[str, Entry] = {}
    files: set[str] = set()
    sources: dict[str, str] = {}
    unmatched: list[str] = []
    lonely: list[str] = []
    foreign: dict[str, list[str]] = {}
    stems = {_stem(plain(name)): name for name in names}
    for other in others:
        parent, _, last = other.rpartition("/")
        if last in CAPTION_FILES:
            found = _parse(f"{folder}/{other}", read(other))
            named = {key: _match(plain(parent), key, by_plain, by_last) for key in found}
            there = {key: name for key, name in named.items() if name is not None}
            if not there:
                foreign[other] = list(found)
                continue
            for key, name in there.items():
                _add_entry(entries, sources, name, found[key], other)
            files.add(other)
            unmatched += [key for key in found if key not in there]
        elif has_suffix(last, ".txt") and last[: -len(".txt")].lower() not in ABOUT_FILES:
            matched = stems.get(_stem(plain(other)))
            if matched is None:
                lonely.append(other)
                continue
            content = read(other)
            text = decode_text(content, f"{folder}/{other}") if content else ""
            _add_entry(entries, sources, matched, {"caption": text}, other)
            files.add(other)
    if foreign and not files and not others_too:
        file, keys = next(iter(foreign.items()))
        first = f", none of which is there (first {keys[0]})" if keys else ""
        raise InputError(
            f"{folder}: {file} names {len(keys)} files{first}, expected the {len(names)} {what}, "
            f"such as {plain(names[0])}"
        )
    if not files:
        return None
    missing = [name for name in names if name not in entries]
    if missing:
        raise InputError(
            f"{folder}: has captions for {len(entries)} of {len(names)} {what}, none for"
            f" {name_some(missing)}, expected one for each"
        )
    if any(has_suffix(file, ".txt") for file in files):
        unmatched += lonely
    return FoundCaptions(
        {name: entries[name] for name in names}, frozenset(files), tuple(unmatched)
    )


def _add_entry(
    entries: dict[str, Entry], sources: dict[str, str], name: str, entry: Entry, source: str
) -> None:
    """Joins what a file says of a picture or video with what others have said."""
    old = entries.get(name, {})
    for field, value in entry.items():
        said = _caption_of(old) if field in CAPTION_FIELDS else old.get(field)
        says = _caption_of(entry) if field in CAPTION_FIELDS else value
        if said and says != said and field not in FILE_FIELDS:
            raise InputError(
                f"{name}: {field} is {said!r} in {sources[name]} and {says!r} in {source}, expected"
                " the same, or one of them alone"
            )
    entries[name] = {**entry, **old}
    sources[name] = source


def _caption_of(entry: Entry) -> tuple[str, ...]:
    """What an entry says under the first field that captions usually have."""
    return _as_texts(next((entry[field] for field in CAPTION_FIELDS if field in entry), []))


def name_some(names: Sequence[str]) -> str:
    """The first names of several, and how many more there are."""
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return f"{', '.join(names[:MOST_NAMED])}{more}"


def _stem(name: str) -> str:
    folder, _, last = name.rpartition("/")
    return f"{folder}/{last.rpartition('.')[0] or last}"


def _composed(name: str) -> str:
    """A name with accents as part of their letters; macOS writes both apart."""
    return unicodedata.normalize("NFC", name)


def _match(
    parent: str, key: str, by_plain: Mapping[str, str], by_last: Mapping[str, Sequence[str]]
) -> str | None:
    """The file of an entry: by its path from the file of captions, or by its last name alone."""
    whole = f"{parent}/{key}" if parent else key
    usual = posixpath.normpath(whole.replace("\\", "/"))  # "./a.png", and "deep\\a.png" of Windows
    for path in (whole, _composed(usual)):
        if path in by_plain:
            return by_plain[path]
    ends = by_last.get(key, ())
    return ends[0] if len(ends) == 1 else None


def _parse(source: str, content: bytes) -> dict[str, Entry]:
    loaded = _load(source, decode_text(content, source))
    if isinstance(loaded, dict):
        return {name: _entry(source, name, value) for name, value in loaded.items()}
    if not isinstance(loaded, list):
        raise InputError(f"{source}: is a {type(loaded).__name__}, expected a list or an object")
    found: dict[str, Entry] = {}
    for number, value in enumerate(loaded):
        fields = value if isinstance(value, dict) else {}
        name = next((fields[field] for field in FILE_FIELDS if field in fields), None)
        if not isinstance(name, str):
            raise InputError(
                f"{source}: entry {number} names no file, expected {' or '.join(FILE_FIELDS)}"
            )
        if name in found:
            raise InputError(
                f"{source}: entry {number} is a second one of {name}, expected one entry for each"
                " file, with a list of captions where it has several"
            )
        found[name] = fields
    return found


def _load(source: str, text: str) -> Any:
    """The content of a JSON file, or of a file with JSON on each line as a list."""
    if not source.endswith(".jsonl"):
        return _parsed(source, text)
    loaded = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            loaded.append(_parsed(f"{source}: line {number}", line))
    return loaded


def _parsed(where: str, text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=unique_names)
    except RepeatedName as error:
        raise InputError(
            f"{where}: {error.name!r} stands twice in an object, expected once"
        ) from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not JSON ({error})") from error


def _entry(source: str, name: str, value: Any) -> Entry:
    if isinstance(value, dict):
        return value
    if isinstance(value, str | list):
        return {"caption": value}
    raise InputError(f"{source}: {name} is {value!r}, expected a caption, or an object with one")
