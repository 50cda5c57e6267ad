"""Animated characters of sprite sheets: which frames they have, parts, order, sizes, faults."""

import numpy as np
import pytest
from PIL import Image

from jaxgen.data.video.sprite_sheets import (
    ACTIONS,
    CLASSES,
    COLUMNS,
    DIRECTIONS,
    FRAMES,
    LAYERS,
    ROWS,
    SIDE,
    SpriteClips,
    open_sprite_sheets,
)
from jaxgen.errors import InputError

COUNTS = 3, 2, 1, 2, 5


def numbered_sheet(layer: int, sheet: int) -> np.ndarray:
    """A sheet whose frames say, by colour, layer, sheet, row and column; a band of it is opaque."""
    frames = np.zeros((ROWS, COLUMNS, SIDE, SIDE, 4), np.uint8)
    frames[..., 0] = 10 * layer + sheet
    frames[..., 1] = np.arange(ROWS)[:, None, None, None]
    frames[..., 2] = np.arange(COLUMNS)[:, None, None]
    frames[:, :, 8 * layer : 8 * layer + 16, :, 3] = 255
    return frames.swapaxes(1, 2).reshape(ROWS * SIDE, COLUMNS * SIDE, 4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("layers")
    for layer, (name, count) in enumerate(zip(LAYERS, COUNTS, strict=True)):
        for sheet in range(count):
            path = root / name / "male" / f"{sheet}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(numbered_sheet(layer, sheet)).save(path)
    Image.fromarray(numbered_sheet(3, 9)).save(root / "torso" / "arms_male.png")  # an add-on
    return root


@pytest.fixture(scope="module")
def sheets(folder):
    return open_sprite_sheets(folder)


def test_frames_of_a_clip(sheets):
    assert sheets.counts == COUNTS
    for character in (0, 37, 59):
        own = np.unravel_index(character, COUNTS)
        for label, name in enumerate(CLASSES):
            action, direction = name.split()
            row, first = ACTIONS[action]
            clip = sheets.clip(character, label)
            assert clip.shape == (FRAMES, SIDE, SIDE, 3)
            for layer, sheet in enumerate(own):  # the upper eight rows of a band are covered later
                lines = slice(8 * layer, 8 * layer + 8)
                assert (clip[:, lines, :, 0] == 10 * layer + sheet).all()
                assert (clip[:, lines, :, 1] == row + DIRECTIONS[direction]).all()
                columns = np.arange(first, first + FRAMES)[:, None, None]
                assert (clip[:, lines, :, 2] == columns).all()
            assert (clip[:, 48:] == 255).all()  # nothing over white


def test_parts_share_no_character(sheets):
    parts = [sheets.characters(part) for part in ("train", "validation", "test")]
    assert [len(part) for part in parts] == [48, 6, 6]
    assert sorted(np.concatenate(parts)) == list(range(60))


def test_example_i_follows_from_i(sheets):
    sizes = (6, 32, 32), (1, 16, 16), (3, 64, 64)
    one, two = (SpriteClips(sheets, "train", sizes, seed=3) for _ in range(2))
    late = two[17]
    np.testing.assert_array_equal(one[17]["video"], late["video"])
    assert [one[i]["video"].shape for i in range(3)] == [(*size, 3) for size in sizes]
    other = SpriteClips(sheets, "train", sizes, seed=4)
    assert any(one[i]["label"] != other[i]["label"] for i in range(20))
    labels = [int(one[i]["label"]) for i in range(200)]
    assert set(labels) == set(range(len(CLASSES)))
    starts = {int(one[i]["video"][0, 0, 0, 2]) for i in range(2, 200, 3)}  # of three frames
    assert starts == {0, 1, 2, 3, 4}  # from 0 or, walking, from 1 on


def test_pixels_are_means_of_squares(sheets):
    clip = SpriteClips(sheets, "test", ((6, 16, 16),))[0]["video"]
    whole = SpriteClips(sheets, "test", ((6, 64, 64),))[0]["video"]
    means = whole.reshape(6, 16, 4, 16, 4, 3).mean(axis=(2, 4))
    np.testing.assert_array_equal(clip, np.rint(means))


@pytest.mark.parametrize("size", [(7, 32, 32), (6, 32, 16), (6, 24, 24), (0, 32, 32)])
def test_sizes_that_there_are_not(sheets, size):
    with pytest.raises(InputError, match="expected up to 6 square frames whose side divides 64"):
        SpriteClips(sheets, "train", (size,))


def test_faults_are_named(sheets, folder, tmp_path):
    with pytest.raises(InputError, match="part is 'all', expected one of validation, test, train"):
        SpriteClips(sheets, "all", ((6, 32, 32),))
    with pytest.raises(FileNotFoundError, match="nowhere"):
        open_sprite_sheets(tmp_path / "nowhere")
    (tmp_path / "body").mkdir()
    with pytest.raises(InputError, match="body: no sprite sheets, expected PNG files"):
        open_sprite_sheets(tmp_path)
    Image.fromarray(np.zeros((4, 4, 4), np.uint8)).save(tmp_path / "body" / "small.png")
    with pytest.raises(InputError, match=r"small\.png: an image of shape \(4, 4, 4\), expected"):
        open_sprite_sheets(tmp_path)
