"""Videos of animated characters, composed of the layers of LPC sprite sheets.

The Liberated Pixel Cup's sheets have 13 x 21 frames of 64 x 64 pixels: a row for each action and
direction. Sheets of bodies, feet, legs, torsos and hair are drawn for one another, so that any five
laid over each other are a character. Three actions in three directions are the classes, as in the
Sprites set of Li & Mandt (2018, "Disentangled sequential autoencoder"); characters of the parts of
the set differ. Example i is a function of the seed and of i alone, for any i.
"""

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8

from jaxgen.data.archives import Path, list_members
from jaxgen.data.batch_plan import permute
from jaxgen.data.scenes.alpha_images import read_with_alpha
from jaxgen.data.video.moving_digits import Size
from jaxgen.errors import InputError
from jaxgen.files import as_path

LAYERS = "body", "feet", "legs", "torso", "hair"
"""Sub-folders of sheets, from below to above."""

ADD_ONS = "arms", "shoulders", "spikes", "jacket"
"""In names of torsos that are worn over another one."""

SIDE, COLUMNS, ROWS = 64, 13, 21
"""Pixels of a frame, and frames of a sheet."""

FRAMES = 6
"""Of a clip, at most: those of the shortest action."""

ACTIONS = {"spellcast": (0, 0), "walk": (8, 1), "slash": (12, 0)}
"""The row of an action seen from the back, and its first frame; walking begins with standing."""

DIRECTIONS = {"left": 1, "front": 2, "right": 3}
"""Rows below that of an action."""

CLASSES = tuple(f"{action} {direction}" for action in ACTIONS for direction in DIRECTIONS)

SHARES = {"validation": 0.1, "test": 0.1, "train": 0.8}
"""Of all characters."""


@dataclass(frozen=True, eq=False)
class SpriteSheets:
    """The frames of the classes of all sheets.

    Attributes:
      name: where they come from.
      layers: of each of `LAYERS` [sheets, classes, T, Y, X, 4], straight alpha.
    """

    name: str
    layers: tuple[UInt8[np.ndarray, "N V T Y X 4"], ...]

    @functools.cached_property
    def counts(self) -> tuple[int, ...]:
        """Sheets of each layer."""
        return tuple(len(sheets) for sheets in self.layers)

    def characters(self, part: str) -> Int[np.ndarray, "M"]:
        """The numbers of the characters of a part, whose order means nothing.

        Raises:
          InputError: for a part that there is not.
        """
        if part not in SHARES:
            raise InputError(f"part is {part!r}, expected one of {', '.join(SHARES)}")
        count = math.prod(self.counts)
        order_M = permute(np.arange(count), count, 0, 0)
        ends = np.rint(np.cumsum([0, *SHARES.values()]) * count).astype(int)
        place = list(SHARES).index(part)
        return order_M[ends[place] : ends[place + 1]]

    def clip(self, character: int, label: int) -> UInt8[np.ndarray, "T Y X 3"]:
        """A character over white.

        Args:
          character: less than the product of `counts`.
          label: of `CLASSES`.
        """
        sheet_of_layer = np.unravel_index(character, self.counts)
        frames = np.full((FRAMES, SIDE, SIDE, 3), 255.0)
        for sheets, sheet in zip(self.layers, sheet_of_layer, strict=True):
            layer = sheets[sheet, label].astype(np.float64)
            alpha = layer[..., 3:] / 255
            frames = alpha * layer[..., :3] + (1 - alpha) * frames
        return np.rint(frames).astype(np.uint8)


@dataclass(frozen=True, eq=False)
class SpriteClips:
    """A stream of animated characters without end.

    Attributes:
      sheets: what they are made of.
      part: whose characters: "train", "validation" or "test".
      sizes: of the videos, which take turns; pixels are averaged over squares. Shorter ones than
        six frames begin anywhere.
      seed: all randomness follows from it.

    Raises:
      InputError: for a part that there is not, and sizes that frames cannot be shrunk to.
    """

    sheets: SpriteSheets
    part: str
    sizes: tuple[Size, ...]
    seed: int = 0

    def __post_init__(self) -> None:
        self.sheets.characters(self.part)
        for size in self.sizes:
            if not 1 <= size[0] <= FRAMES or size[1] != size[2] or SIDE % size[1]:
                raise InputError(
                    f"size is {'x'.join(map(str, size))}, expected up to {FRAMES} square frames "
                    f"whose side divides {SIDE}, as 6x32x32"
                )

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes."""
        return CLASSES

    @functools.cached_property
    def _characters(self) -> Int[np.ndarray, "M"]:
        return self.sheets.characters(self.part)

    def __getitem__(self, index: int, /) -> dict[str, Any]:
        """Example `index`: ``"video"`` uint8 [T, Y, X, 3] and ``"label"`` int32."""
        frames, side, _ = self.sizes[index % len(self.sizes)]
        generator = np.random.default_rng((self.seed, index))
        character = int(self._characters[generator.integers(len(self._characters))])
        label, start = generator.integers(len(CLASSES)), generator.integers(FRAMES - frames + 1)
        clip = self.sheets.clip(character, int(label))[start : start + frames]
        factor = SIDE // side
        squares = clip.reshape(frames, side, factor, side, factor, 3)
        video = np.rint(squares.mean(axis=(2, 4))).astype(np.uint8)
        return {"video": video, "label": np.int32(label)}


def open_sprite_sheets(folder: Path) -> SpriteSheets:
    """The sheets of a folder, whose sub-folders are called as `LAYERS`.

    Args:
      folder: with PNG files of 832 x 1344 pixels, anywhere below each sub-folder.

    Raises:
      FileNotFoundError: There is no such folder.
      InputError: A sub-folder has no sheets, or a file is not one.
    """
    layers = []
    for name in LAYERS:
        root = as_path(folder) / name
        files = [
            file
            for file in sorted(list_members(root).names)
            if file.endswith(".png") and not any(word in file for word in ADD_ONS)
        ]
        if not files:
            raise InputError(f"{root}: no sprite sheets, expected PNG files")
        layers.append(np.stack([_frames_of_sheet(str(root / file)) for file in files]))
    return SpriteSheets(str(folder), tuple(layers))


def _frames_of_sheet(path: str) -> UInt8[np.ndarray, "V T Y X 4"]:
    """The frames of all classes."""
    sheet = read_with_alpha(path)
    expected = (ROWS * SIDE, COLUMNS * SIDE, 4)
    if sheet.shape != expected:
        raise InputError(f"{path}: an image of shape {sheet.shape}, expected {expected}")
    frames = sheet.reshape(ROWS, SIDE, COLUMNS, SIDE, 4).swapaxes(1, 2)
    return np.stack(
        [
            frames[row + below, first : first + FRAMES]
            for row, first in ACTIONS.values()
            for below in DIRECTIONS.values()
        ]
    )
