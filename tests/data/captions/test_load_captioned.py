"""The front door for captioned pictures and clips."""

import json
import zipfile

import numpy as np
import pytest
from image_files import random_images, write_image, write_mnist

from jaxgen.data import load_captioned
from jaxgen.errors import InputError


def test_shapes_are_the_default():
    shapes = load_captioned(size=16)
    assert shapes.describe() == (
        "captioned shapes: 10,000 images of 16x16x3 (train 8,000, validation 1,000, test 1,000), 32"
        " short and 320 descriptive captions"
    )


def test_classes_become_captions(tmp_path):
    write_mnist(tmp_path / "mnist")
    found = load_captioned("mnist", data_dir=tmp_path, size=4)
    assert found.images.shape == (30, 4, 4, 1)
    assert found.short[:3] == ("the digit zero", "the digit one", "the digit two")
    assert found.descriptive[0].endswith(" of the digit zero")
    pytest.importorskip("sklearn", reason="needs scikit-learn: jaxgen[data]")
    assert len(load_captioned("digits").distinct("short")) == 10


def test_named_sets_are_found_in_a_folder_of_sets(tmp_path, monkeypatch):
    pictures = random_images(3, 4, 4, 3)
    names = [f"mon/{i}.png" for i in range(3)]
    for name, picture in zip(names, pictures, strict=True):
        write_image(tmp_path / "inside" / name, picture)
    folder = tmp_path / "tiles_dcss"
    folder.mkdir()
    with zipfile.ZipFile(folder / "tiles.zip", "w") as archive:
        for name in names:
            archive.write(tmp_path / "inside" / name, name)
    entries = [{"file": n, "caption": f"imp {n[4]}", "group": ["mon", "x"]} for n in names]
    (folder / "captions.json").write_text(json.dumps(entries))
    monkeypatch.setenv("JAXGEN_DATA", str(tmp_path))
    tiles = load_captioned("tiles")
    assert tiles.name == "tiles"
    assert sorted(tiles.descriptive) == ["imp 0, mon x", "imp 1, mon x", "imp 2, mon x"]
    assert tiles.images.shape == (3, 4, 4, 3)
    assert len(load_captioned(folder)) == 3
    with pytest.raises(FileNotFoundError, match=r"^tile: no such .* shapes, digits, .*, tiles, em"):
        load_captioned("tile")
    with pytest.raises(InputError, match="emoji: no folder emoji_noto64 in "):
        load_captioned("emoji")
    monkeypatch.delenv("JAXGEN_DATA")
    with pytest.raises(InputError, match="emoji: no folder to look in; give data_dir, or set"):
        load_captioned("emoji")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("tiles", {"frames": 4}, "tiles: frames is 4, expected None, it has pictures"),
        ("mnist", {"frames": 4}, "mnist: frames is 4, expected None"),
        ("tfds:x", {"frames": 4}, "tfds:x: frames is 4, expected None"),
        ("emoji_clips", {}, "emoji_clips: frames is None, expected the frames of its clips"),
        ("emoji", {"fps": 5}, "emoji: fps is 5, expected None for pictures"),
        ("shapes", {"channels": 1}, "shapes: channels is 1, expected 3"),
    ],
)
def test_options_that_do_not_fit(name, options, message):
    with pytest.raises(InputError, match=message):
        load_captioned(name, **options)


def test_the_published_tiles(data_folder):
    tiles = load_captioned("tiles", data_dir=data_folder)
    assert tiles.images.shape == (2670, 32, 32, 3)
    entries = json.loads((data_folder / "tiles_dcss/captions.json").read_text())
    assert sorted(tiles.short) == sorted(entry["caption"] for entry in entries)


@pytest.mark.slow
def test_the_published_emoji(data_folder):
    emoji = load_captioned("emoji", data_dir=data_folder, size=32)
    assert emoji.images.shape == (1391, 32, 32, 3)
    assert len(emoji.attributes.values["category"]) == 8
    place = emoji.short.index("grinning face")
    assert emoji.descriptive[place] == "grinning face, face-smiling, Smileys & Emotion"
    yellow = emoji.images[place, 10, 16].astype(int)
    assert yellow[0] > 200
    assert yellow[0] - yellow[2] > 100
    assert (emoji.images[place, 0, 0] == 255).all()  # transparent pixels are white


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:left out:UserWarning")
def test_the_published_clips(data_folder):
    clips = load_captioned("emoji_clips", frames=16, fps=10, size=32, data_dir=data_folder)
    assert clips.images.shape == (269, 16, 32, 32, 3)
    assert "rainbow" in clips.short
    assert np.abs(np.diff(clips.images.astype(np.int16), axis=1)).max((1, 2, 3, 4)).min() > 0
