"""Folders of captioned pictures and clips, in all the forms that captions have."""

import json
import zipfile

import numpy as np
import pytest
from image_files import random_images, write_image
from PIL import Image

from jaxgen.data.captions.captioned_folder import read_captioned_clips, read_captioned_images
from jaxgen.errors import InputError

NAMES = ("a.png", "deep/b.png", "c.png")
TEXTS = ("the a", "the b", "the c")
PICTURES = random_images(3, 5, 6, 3)


def write_pictures(folder):
    for name, picture in zip(NAMES, PICTURES, strict=True):
        write_image(folder / name, picture)
    return folder


def write_lines(folder, *entries, name="captions.jsonl"):
    lines = [entry if isinstance(entry, str) else json.dumps(entry) for entry in entries]
    (folder / name).write_text("\n".join(lines) + "\n")


def with_texts(folder):
    for name, text in zip(NAMES, TEXTS, strict=True):
        (folder / name).with_suffix(".txt").write_text(f"{text}\n")


def with_lines(folder):
    entries = [{"file": n, "caption": t} for n, t in zip(NAMES, TEXTS, strict=True)]
    write_lines(folder, *reversed(entries))


def with_metadata(folder):
    entries = [{"file_name": n, "text": t} for n, t in zip(NAMES, TEXTS, strict=True)]
    write_lines(folder, *entries, name="metadata.jsonl")


def with_json(folder):
    (folder / "captions.json").write_text(json.dumps(dict(zip(NAMES, TEXTS, strict=True))))


def with_dots(folder):
    paths = ("./a.png", "deep\\b.png", "./deep/../c.png")
    write_lines(folder, *({"file": p, "caption": t} for p, t in zip(paths, TEXTS, strict=True)))


def with_lines_and_texts(folder):
    with_texts(folder)
    write_lines(folder, {"file": "a.png", "text": "the a"}, {"file": "deep/b.png", "class": "b"})


def in_order(found):
    """Captions and images in the order of the captions."""
    order = np.argsort(found.short)
    return [found.short[i] for i in order], found.images[order]


@pytest.mark.parametrize(
    "write",
    [with_texts, with_lines, with_metadata, with_json, with_dots, with_lines_and_texts],
)
def test_every_picture_has_its_caption(tmp_path, write):
    write(write_pictures(tmp_path))
    (tmp_path / "README.txt").write_text("about")
    found = read_captioned_images(tmp_path)
    captions, images = in_order(found)
    assert captions == list(TEXTS)
    np.testing.assert_array_equal(images, PICTURES)
    assert found.descriptive == found.short
    assert found.attributes is None
    assert found.left_out == ("README.txt",)


def test_archives_count_as_lying_where_they_lie(tmp_path):
    inside = write_pictures(tmp_path / "inside")
    with_texts(inside)
    for folder, keep in (("with", (".png", ".txt")), ("beside", (".png",))):
        (tmp_path / folder).mkdir()
        with zipfile.ZipFile(tmp_path / folder / "pictures.zip", "w") as archive:
            for file in inside.rglob("*.*"):
                if file.suffix in keep:
                    archive.write(file, file.relative_to(inside).as_posix())
    with_json(tmp_path / "beside")
    for path in ("with", "with/pictures.zip", "beside", "beside/pictures.zip"):
        captions, images = in_order(read_captioned_images(tmp_path / path))
        assert captions == list(TEXTS)
        np.testing.assert_array_equal(images, PICTURES)


def test_several_captions_and_other_fields(tmp_path):
    write_pictures(tmp_path)
    write_lines(
        tmp_path,
        {"file": "a.png", "captions": ["the very  old a", "an a"], "group": ["x", "y"]},
        {"file": "deep/b.png", "captions": ["the b"], "group": "z"},
        "",
        {"file": "c.png", "captions": ["c", "a c of\nwood"], "group": ["x", "y"]},
    )
    found = read_captioned_images(tmp_path, fields=["group"])
    pairs = sorted(zip(found.short, found.descriptive, strict=True))
    assert pairs == [
        ("an a", "the very old a, x y"),
        ("c", "a c of wood, x y"),
        ("the b", "the b, z"),
    ]
    assert found.attributes.values == {"group": ("x y", "z")}
    codes = dict(zip(found.short, found.attribute_of("group").tolist(), strict=True))
    assert codes == {"an a": 0, "c": 0, "the b": 1}
    with pytest.raises(InputError, match=r"png: size is None, expected a text, or a list of texts"):
        read_captioned_images(tmp_path, fields=["size"])


@pytest.mark.parametrize("on_disk", ["caf\u00e9.png", "cafe\u0301.png"])
def test_accents_may_be_written_in_either_way(tmp_path, on_disk):
    write_image(tmp_path / on_disk, PICTURES[0])
    for key in ("caf\u00e9.png", "cafe\u0301.png"):
        write_lines(tmp_path, {"file": key, "caption": "a caf\u00e9"})
        assert read_captioned_images(tmp_path).short == ("a caf\u00e9",)


def test_parts_sizes_and_channels(tmp_path):
    for part, count in (("train", 12), ("val", 3), ("test", 4)):
        for i in range(count):
            grey = random_images(8, 9, seed=i)
            file = write_image(tmp_path / part / f"{i}.png", grey)
            file.with_suffix(".txt").write_text(f"{part} {i}")
    found = read_captioned_images(tmp_path)
    assert found.parts == {"train": (0, 12), "validation": (12, 15), "test": (15, 19)}
    assert set(found.part("validation").short) == {"val 0", "val 1", "val 2"}
    assert found.images.shape == (19, 8, 9, 1)
    write_image(tmp_path / "test/0.png", random_images(8, 9, 3))
    colour = read_captioned_images(tmp_path)
    assert colour.images.shape == (19, 8, 9, 3)  # grey ones have three equal channels
    np.testing.assert_array_equal(colour.images[:12, ..., 1:2], found.images[:12])
    assert read_captioned_images(tmp_path, size=4, channels=1).images.shape == (19, 4, 4, 1)
    write_image(tmp_path / "val/1.png", random_images(7, 9, seed=1))
    with pytest.raises(InputError, match=r"an image of shape \[7, 9, 3\], but .* has \[8, 9, 3\];"):
        read_captioned_images(tmp_path)


def line_of(name, **fields):
    return {"file": name, "caption": f"the {name}", **fields}


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (
            [line_of("a.png")],
            r"has captions for 1 of 3 pictures, none for c\.png, deep/b\.png, expected one for",
        ),
        (
            [line_of(name) for name in (*NAMES, "d.png", "e.png", "f.png", "g.png", "h.png")],
            r"5 captions without a file beside those of 3 pictures, for d\.png, e\.png, f\.png and "
            "2 more, expected a file for each",
        ),
        (
            [line_of("a.png"), line_of("c.png", caption=" "), line_of("deep/b.png", caption=None)],
            r"captions\.jsonl: 2 of 3 are empty or no texts, first c\.png with caption ' ', expe",
        ),
        (
            [{"file": name, "captions": ["a", ""][: i + 1]} for i, name in enumerate(NAMES)],
            r"2 of 3 are empty or no texts, first c\.png with captions \['a', ''\]",
        ),
        (
            ['{"file": "a.png", "caption": "x", "caption": "y"}'],
            r"captions\.jsonl: line 1: 'caption' stands twice in an object, expected once",
        ),
        (["[" * 100_000], r"captions\.jsonl: line 1: not JSON \(maximum recursion depth"),
        ([line_of("a.png"), "{"], r"captions\.jsonl: line 2: not JSON \(Expecting property name"),
        ([line_of("a.png"), {"caption": "whose"}], "entry 1 names no file, expected file or file_"),
        ([line_of("a.png")] * 2, r"entry 1 is a second one of a\.png, expected one entry for each"),
        ([line_of(name, caption=[]) for name in NAMES], "3 of 3 are empty or no texts"),
        ([{"file": name, "words": "x"} for name in NAMES], "entries without captions, give capti"),
        (
            [line_of(f"{i}.png") for i in range(3)],
            r"captions\.jsonl names 3 files, none of which is there \(first 0\.png\), expected the "
            r"3 pictures, such as a\.png$",
        ),
        ([], r"captions\.jsonl names 0 files, expected the 3 pictures, such as a\.png$"),
        (
            [line_of("a.png"), line_of("./a.png")],
            r"a\.png: caption is .* and .*, expected the same",
        ),
    ],
)
def test_faults_are_counted_and_named(tmp_path, entries, message):
    write_pictures(tmp_path)
    write_lines(tmp_path, *entries)
    with pytest.raises(InputError, match=message) as caught:
        read_captioned_images(tmp_path)
    assert "\n" not in str(caught.value)


def test_faults_of_texts_and_of_folders(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_captioned_images(tmp_path / "nowhere")
    with pytest.raises(InputError, match="no pictures in it"):
        read_captioned_images(tmp_path)
    write_pictures(tmp_path)
    with pytest.raises(InputError, match=r"no captions of its 3 pictures, expected NAME\.txt bes"):
        read_captioned_images(tmp_path)
    with_texts(tmp_path)
    (tmp_path / "d.txt").write_text("the d")
    with pytest.raises(InputError, match=r"1 captions without a file .* for d\.txt, expected a fi"):
        read_captioned_images(tmp_path)
    (tmp_path / "d.txt").unlink()
    (tmp_path / "a.txt").write_text("")
    (tmp_path / "c.txt").write_text(" \n")
    with pytest.raises(InputError, match=r"a\.txt, c\.txt, deep/b\.txt: 2 of 3 are empty or no te"):
        read_captioned_images(tmp_path)
    with_texts(tmp_path)
    (tmp_path / "c.txt").write_text("another c")
    write_lines(tmp_path, {"file": "a.png", "text": "the a"}, line_of("c.png"))
    with pytest.raises(
        InputError,
        match=r"c\.png: caption is \('another c',\) in c\.txt and \('the c\.png',\) in .*, expect",
    ):
        read_captioned_images(tmp_path)
    (tmp_path / "captions.jsonl").unlink()
    (tmp_path / "c.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"c\.png: not a readable image"):
        read_captioned_images(tmp_path)


def write_gif(path, count, value, side=8):
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = [Image.new("L", (side, side), value + i) for i in range(count)]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=100)


def test_clips_of_a_folder(tmp_path):
    pytest.importorskip("av", reason="needs PyAV: jaxgen[video]")
    write_gif(tmp_path / "a.gif", 8, 10)
    write_gif(tmp_path / "b.gif", 4, 110)
    write_lines(
        tmp_path,
        {"file": "a.gif", "captions": ["a long clip", "clip"], "class": "x"},
        {"file": "b.gif", "captions": ["the b"], "class": "y"},
    )
    found = read_captioned_clips(tmp_path, frames=4, channels=1)
    assert found.images.shape == (3, 4, 8, 8, 1)
    np.testing.assert_array_equal(found.images[:, 0, 0, 0, 0], [10, 14, 110])
    assert found.short == ("clip", "clip", "the b")
    assert found.descriptive == ("a long clip", "a long clip", "the b")
    np.testing.assert_array_equal(found.attribute_of("class"), [0, 0, 1])
    assert found.frames == 4
    write_gif(tmp_path / "b.gif", 4, 110, side=10)
    with pytest.raises(InputError, match=r"b\.gif: clips of \[4, 10, 10, 3\], but .*a\.gif has"):
        read_captioned_clips(tmp_path, frames=4)
    write_lines(tmp_path, line_of("a.gif"), line_of("b.gif"), line_of("c.gif"))
    with pytest.raises(InputError, match=r"1 captions without a file beside those of 2 videos, fo"):
        read_captioned_clips(tmp_path, frames=4)
    (tmp_path / "captions.jsonl").unlink()
    with pytest.raises(InputError, match=r"no captions of its 2 videos, expected NAME\.txt beside"):
        read_captioned_clips(tmp_path, frames=4)
