"""Small texts with something to learn: sentences of a random grammar."""

import pathlib
import zipfile

import numpy as np

WORDS = 220


def sentences(count, seed=0):
    """Sentences of 4 to 9 words; each word mostly draws its successor from six of its own."""
    rng = np.random.default_rng(seed)
    successors = rng.integers(WORDS, size=(WORDS, 6))
    word, result = 0, []
    for _ in range(count):
        sentence = []
        for _ in range(rng.integers(4, 10)):
            usual = rng.random() < 0.85
            word = int(successors[word, rng.integers(6)] if usual else rng.integers(WORDS))
            sentence.append(f"w{word}")
        result.append([*sentence, "."])
    return result


def write_text(path: pathlib.Path, count=500):
    """A plain text file."""
    path.write_text("\n\n".join(" ".join(words) for words in sentences(count)))
    return path


def write_brown(path: pathlib.Path, count=900):
    """A zip archive in the form of the Brown corpus: word/tag, a sentence a line."""
    with zipfile.ZipFile(path, "w") as archive:
        for i, part in enumerate(np.array_split(np.arange(count), 3), start=1):
            lines = [" ".join(f"{w}/nn" for w in words) for words in sentences(len(part), seed=0)]
            archive.writestr(f"brown/ca{i:02}", "\n\n".join(lines))
    return path
