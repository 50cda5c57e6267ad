"""What is known of the videos of a folder beside their frames: captions, and other fields.

Three forms are read: ``captions.json``, a list of objects that name their ``file``, or an object of
captions by file; ``captions.jsonl`` or ``metadata.jsonl``, an object a line with its ``file_name``;
and ``NAME.txt`` beside ``NAME.mp4``.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxgen.data.archives import decode_text
from jaxgen.errors import InputError

CAPTION_FILES = ("captions.json", "captions.jsonl", "metadata.jsonl")
FILE_FIELDS = ("file", "file_name")
CAPTION_FIELDS = ("caption", "text", "name")
"""What the caption is called in an entry: the first of these that the entries have."""
CLASS_FIELDS = ("class", "label", "category")
"""What the class is called, likewise."""

Entry = Mapping[str, Any]


@dataclass(frozen=True)
class FoundCaptions:
    """The entries of the videos of a folder.

    Attributes:
      entries: By the names of the videos, one for each.
      files: The names of the files that hold them.
    """

    entries: Mapping[str, Entry]
    files: frozenset[str]

    def captions(self, field: str | None = None) -> dict[str, str]:
        """The captions by the names of the videos; empty where the entries have none.

        Args:
          field: What they are called; by default the first of `CAPTION_FIELDS` that there is.

        Raises:
          InputError: An entry has no such field; names the video.
        """
        return self._texts(field, CAPTION_FIELDS)

    def classes(self, field: str | None = None) -> dict[str, str]:
        """The names of the classes by those of the videos; as `captions`, with `CLASS_FIELDS`."""
        return self._texts(field, CLASS_FIELDS)

    def _texts(self, field: str | None, usual: Sequence[str]) -> dict[str, str]:
        fields = {key for entry in self.entries.values() for key in entry}
        field = field or next((name for name in usual if name in fields), None)
        if field is None:
            return {}
        texts = {}
        for name, entry in self.entries.items():
            value = entry.get(field)
            if not isinstance(value, str | int) or not str(value).strip():
                raise InputError(
                    f"{', '.join(sorted(self.files))}: {name} has {field} {value!r}, expected a"
                    " text"
                )
            texts[name] = str(value).strip()
        return texts


def find_captions(
    folder: str,
    videos: Sequence[str],
    others: Iterable[str],
    read: Callable[[str], bytes],
    plain: Callable[[str], str],
) -> FoundCaptions | None:
    """The entries of all videos of a folder; None where there are no captions.

    Args:
      folder: What errors call it.
      videos: The names of the videos, with folders.
      others: The names of the other files.
      read: The content of a file by its name.
      plain: A name without the archives in it.

    Raises:
      InputError: A file of captions is damaged, or has none for a video; names the first.
    """
    by_plain = {plain(name): name for name in videos}
    entries: dict[str, Entry] = {}
    files: set[str] = set()
    stems = {_stem(plain(name)): name for name in videos}
    for other in others:
        parent, _, last = other.rpartition("/")
        if last in CAPTION_FILES:
            found = _parse(f"{folder}/{other}", read(other))
            named = {_match(plain(parent), key, by_plain): entry for key, entry in found.items()}
            entries |= {name: entry for name, entry in named.items() if name is not None}
            files |= {other} if set(named) - {None} else set()
        elif last.endswith(".txt") and _stem(plain(other)) in stems:
            text = decode_text(read(other), f"{folder}/{other}")
            entries[stems[_stem(plain(other))]] = {"caption": text}
            files.add(other)
    if not files:
        return None
    for name in videos:
        if name not in entries:
            raise InputError(
                f"{folder}: has captions for {len(entries)} of {len(videos)} videos, none for"
                f" {name}, expected one for each"
            )
    return FoundCaptions({name: entries[name] for name in videos}, frozenset(files))


def _stem(name: str) -> str:
    folder, _, last = name.rpartition("/")
    return f"{folder}/{last.rpartition('.')[0] or last}"


def _match(parent: str, key: str, by_plain: Mapping[str, str]) -> str | None:
    """The video of an entry: by its path from the file of captions, or by its last name alone."""
    whole = f"{parent}/{key}" if parent else key
    if whole in by_plain:
        return by_plain[whole]
    ends = [name for end, name in by_plain.items() if end.rpartition("/")[2] == key]
    return ends[0] if len(ends) == 1 else None


def _parse(source: str, content: bytes) -> dict[str, Entry]:
    text = decode_text(content, source)
    try:
        if source.endswith(".jsonl"):
            loaded: Any = [json.loads(line) for line in text.splitlines() if line.strip()]
        else:
            loaded = json.loads(text)
    except ValueError as error:
        raise InputError(f"{source}: not JSON ({error})") from error
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
        found[name] = fields
    return found


def _entry(source: str, name: str, value: Any) -> Entry:
    if isinstance(value, dict):
        return value
    if isinstance(value, str):
        return {"caption": value}
    raise InputError(f"{source}: {name} is {value!r}, expected a caption, or an object with one")
