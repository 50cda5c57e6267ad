"""Image files and folders of them."""

import io
import struct
import zlib

import jaxtyping._decorator
import numpy as np
import pytest
from image_files import random_images, write_image
from PIL import Image

from jaxgen.data import load_images, open_image_folder, read_image
from jaxgen.data.images.image_files import check_same_shape
from jaxgen.errors import InputError

COLOUR = random_images(6, 9, 3)

CHECKS = jaxtyping._decorator.__file__
"""Where the caller is, for a function whose shapes are checked (`tests/shapes.py`)."""


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "ppm"])
def test_lossless_formats_come_back_as_they_were(tmp_path, suffix):
    np.testing.assert_array_equal(read_image(write_image(tmp_path / f"a.{suffix}", COLOUR)), COLOUR)
    grey = COLOUR[..., 0]
    read = read_image(write_image(tmp_path / f"b.{suffix}", grey))
    np.testing.assert_array_equal(read, grey[..., None])


@pytest.mark.parametrize("suffix", ["jpg", "webp", "gif"])
def test_lossy_formats_come_back_nearly(tmp_path, suffix):
    flat = np.full((8, 8, 3), (200, 100, 50), np.uint8)
    np.testing.assert_allclose(
        read_image(write_image(tmp_path / f"a.{suffix}", flat)).astype(int), flat, atol=6
    )


def png_of_16_bits(path, values):
    """A PNG with grey, grey and alpha, color, or colour and alpha (Pillow writes none of them)."""
    height, width, channels = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n"
    for name, data in ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")):
        content += struct.pack(">I", len(data)) + name + data
        content += struct.pack(">I", zlib.crc32(name + data))
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_16_bits_that_hold_fewer_are_said(tmp_path, channels):
    colors = channels if channels % 2 else channels - 1
    values = np.random.default_rng(0).integers(0, 65536, (5, 6, channels))
    values[..., colors:] = 65535
    file = png_of_16_bits(tmp_path / "full.png", values)
    expected = np.broadcast_to(values[..., :colors] >> 8, (5, 6, 3))
    np.testing.assert_array_equal(read_image(file, channels=3), expected)
    for bits in (8, 10, 12):  # a camera's or a scanner's values, or bytes, in 16 bits
        values[..., :colors] = np.random.default_rng(1).integers(0, 2**bits, (5, 6, colors))
        file = png_of_16_bits(tmp_path / "few.png", values)
        with pytest.warns(UserWarning, match=r"few\.png: 16-bit pixels of small values") as caught:
            read_image(file)
        assert len(caught) == 1
        assert caught[0].filename in (__file__, CHECKS)
    values[..., :colors] = np.random.default_rng(1).integers(0, 2**14, (5, 6, colors))
    read_image(png_of_16_bits(tmp_path / "dark.png", values))  # 64 of 256 levels are left
    read_image(png_of_16_bits(tmp_path / "black.png", np.zeros((5, 6, 1), int)))


def test_other_kinds_of_pixels_keep_their_range(tmp_path):
    bits = COLOUR[..., 0] > 127
    np.testing.assert_array_equal(
        read_image(write_image(tmp_path / "b.png", bits))[..., 0], bits * 255
    )
    Image.fromarray(COLOUR).convert("CMYK").save(tmp_path / "c.tif")
    np.testing.assert_allclose(read_image(tmp_path / "c.tif"), COLOUR, atol=1)
    for maximum, values in ((15, COLOUR // 16), (1, bits)):
        header = f"P5 9 6 {maximum}\n".encode()
        grey = values[..., 0] if values.ndim == 3 else values
        (tmp_path / "p.pgm").write_bytes(header + grey.astype(np.uint8).tobytes())
        expected = np.rint(grey * (255 / maximum))
        np.testing.assert_allclose(read_image(tmp_path / "p.pgm")[..., 0], expected, atol=1)
    palette = Image.fromarray(COLOUR).quantize(8)
    palette.save(tmp_path / "q.png", transparency=3)
    clear = np.asarray(palette) == 3
    read = read_image(tmp_path / "q.png")
    assert (read[clear] == 255).all()
    np.testing.assert_array_equal(read[~clear], np.asarray(palette.convert("RGB"))[~clear])


def test_what_is_left_out_of_a_folder_of_images_is_said(tmp_path):
    for name in ("a/1.png", "a/2.PNG", "b/3.Jpg", "b/.hidden.png", "._4.png", "__MACOSX/a/1.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        write_image(tmp_path / name, np.full((4, 4, 3), 90, np.uint8))
    for name in ("labels.csv", "a/5.heic", ".DS_Store", "a/Thumbs.db"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "x.png").mkdir()
    (tmp_path / "c").symlink_to("a")
    folder = open_image_folder(tmp_path)
    assert [file.name for file in sorted(folder.files)] == ["1.png", "2.PNG", "3.Jpg"]
    assert folder.left_out == ("a/5.heic", "labels.csv", "b/.hidden.png", "c/")
    line = folder.part("train").read_all().describe()
    assert line.endswith("2 classes; left out: a/5.heic, labels.csv, b/.hidden.png and 1 more")
    with pytest.raises(InputError, match=r"labels\.csv: a file, where a folder"):
        open_image_folder(tmp_path / "labels.csv")
    (tmp_path / "a" / "6.png").symlink_to("nowhere")
    for channels in (None, 3):
        with pytest.raises(InputError, match=r"6\.png: a link to nothing, or no regular file"):
            open_image_folder(tmp_path, channels=channels)


def test_channels_are_converted_on_demand(tmp_path):
    color = write_image(tmp_path / "c.png", COLOUR)
    grey = write_image(tmp_path / "g.png", COLOUR[..., 0])
    luma = COLOUR @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(read_image(color, channels=1)[..., 0], luma, atol=1)
    np.testing.assert_array_equal(
        read_image(grey, channels=3), np.repeat(COLOUR[..., :1], 3, axis=-1)
    )


def test_transparency_lies_over_white(tmp_path):
    alpha = np.zeros((6, 9, 1), np.uint8)
    alpha[:3] = 255
    seen = np.where(alpha == 255, COLOUR, 255)
    file = write_image(tmp_path / "a.png", np.concatenate([COLOUR, alpha], -1))
    np.testing.assert_array_equal(read_image(file), seen)
    file = write_image(tmp_path / "la.png", np.concatenate([COLOUR[..., :1], alpha], -1))
    np.testing.assert_array_equal(read_image(file), seen[..., :1])
    palette = Image.fromarray(np.eye(4, dtype=np.uint8)).convert("P")
    palette.save(tmp_path / "p.gif", transparency=palette.getpixel((1, 0)))
    assert (read_image(tmp_path / "p.gif")[0, 1] == 255).all()


def test_grey_of_16_bits_keeps_the_high_byte(tmp_path):
    deep = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    read = read_image(write_image(tmp_path / "d.png", deep))
    np.testing.assert_array_equal(read[..., 0], deep >> 8)
    np.testing.assert_array_equal(read_image(tmp_path / "d.png", channels=3)[..., 2], deep >> 8)
    file = write_image(tmp_path / "f.tiff", deep.astype(np.float32))
    with pytest.raises(InputError, match=r"f\.tiff: pixels of 32 bits \(mode F\)"):
        read_image(file)


def test_a_photograph_is_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned a quarter counter-clockwise by the camera
    file = write_image(tmp_path / "t.png", COLOUR, exif=exif)
    np.testing.assert_array_equal(read_image(file), np.rot90(COLOUR, -1))


def test_resizing_keeps_the_middle(tmp_path):
    wide = np.zeros((8, 24, 3), np.uint8)
    wide[:, 8:16] = (10, 200, 30)
    file = write_image(tmp_path / "w.png", wide)
    for size in (8, 4):
        read = read_image(file, size=size)
        assert read.shape == (size, size, 3)
        middle = read[:, size // 4 : size - size // 4].astype(int)
        np.testing.assert_allclose(middle, np.broadcast_to([10, 200, 30], middle.shape), atol=12)
    np.testing.assert_array_equal(read_image(file, size=8), wide[:, 8:16])
    np.testing.assert_array_equal(
        read_image(write_image(tmp_path / "h.png", wide.transpose(1, 0, 2)), size=8),
        wide[:, 8:16].transpose(1, 0, 2),
    )


def test_shrinking_averages(tmp_path):
    """Antialiased: a fine checkerboard becomes grey, and not black or white."""
    board = (255 * (np.indices((32, 32)).sum(0) % 2)).astype(np.uint8)
    small = read_image(write_image(tmp_path / "b.png", board), size=8)
    assert np.abs(small[2:-2, 2:-2].astype(int) - 128).max() < 8


def encoded(suffix: str) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(random_images(40, 40, 3)).save(stream, suffix)
    return stream.getvalue()


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # about damaged metadata
@pytest.mark.parametrize("suffix", ["png", "jpeg", "webp", "bmp", "gif", "tiff", "ppm"])
@pytest.mark.parametrize("keep", [0.02, 0.1, 0.5, 0.9])
def test_truncated_files_are_named(tmp_path, suffix, keep):
    content = encoded(suffix)
    file = tmp_path / f"cut.{suffix}"
    file.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(InputError, match=rf"cut\.{suffix}: not a readable image") as error:
        read_image(file)
    assert "\n" not in str(error.value)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # about damaged metadata
@pytest.mark.parametrize("suffix", ["png", "jpeg", "webp", "bmp", "gif", "tiff", "ppm"])
def test_damaged_files_are_read_or_named(tmp_path, suffix):
    """Whatever bytes are hurt, what comes out is an image or one line."""
    content = encoded(suffix)
    rng = np.random.default_rng(0)
    for _ in range(40):
        hurt = bytearray(content)
        for place in rng.integers(len(content) // 4, size=8):
            hurt[place] = rng.integers(256)
        (tmp_path / "hurt").write_bytes(hurt)
        try:
            assert read_image(tmp_path / "hurt", size=8).shape[:2] == (8, 8)
        except InputError as error:
            assert "hurt: " in str(error)  # noqa: PT017
            assert "\n" not in str(error)  # noqa: PT017


@pytest.mark.parametrize("content", [b"", b"hello", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_image(tmp_path, content):
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(InputError, match=r"x\.png: not a readable image, or a truncated one"):
        read_image(tmp_path / "x.png")


def test_pixels_of_a_bomb_are_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(InputError, match=r"b\.png: not a readable image.*exceeds limit"):
        read_image(write_image(tmp_path / "b.png", COLOUR))


def write_classes(root, count=12, **options):
    """Image i of both classes is filled with i, in classes "ash" and "birch"."""
    for name, offset in (("birch", 100), ("ash", 0)):
        for i in range(count):
            filled = np.full((4, 6, 3), offset + i, np.uint8)
            write_image(root / name / "deep" / f"{i:02}.png", filled, **options)
    return root


def test_subfolders_are_classes(tmp_path):
    folder = open_image_folder(write_classes(tmp_path))
    assert folder.classes == ("ash", "birch")
    assert folder.parts == {"train": (0, 20), "validation": (20, 22), "test": (22, 24)}
    images = folder.read_all()
    first = images.images[:, 0, 0, 0]
    np.testing.assert_array_equal(images.labels, first >= 100)
    assert sorted(first) == [*range(12), *range(100, 112)]
    test = folder.part("test")
    assert len(test) == 2
    np.testing.assert_array_equal(test[1]["image"], images.part("test").images[1])
    assert test[1]["label"] == images.part("test").labels[1]


def test_a_flat_folder_has_no_labels(tmp_path):
    for i in range(5):
        write_image(tmp_path / f"{i}.PNG", COLOUR)
    (tmp_path / "README.md").write_text("no image")
    for hidden in (".hidden.png", "._0.PNG", ".cache/0.png", "__MACOSX/._0.png"):
        (tmp_path / hidden).parent.mkdir(exist_ok=True)
        (tmp_path / hidden).write_bytes(b"no image")
    folder = open_image_folder(tmp_path)
    assert len(folder) == 5
    assert (folder.labels, folder.classes, folder.parts) == (None, (), {"train": (0, 5)})
    assert set(folder[0]) == {"image"}
    np.testing.assert_array_equal(folder.read_all().images, [COLOUR] * 5)


@pytest.mark.parametrize("validation", ["val", "validation", None])
def test_folders_of_parts(tmp_path, validation):
    write_classes(tmp_path / "train", 10)
    write_classes(tmp_path / "test", 2)
    if validation:
        write_classes(tmp_path / validation, 3)
    folder = open_image_folder(tmp_path)
    expected = (
        {"train": (0, 20), "validation": (20, 26), "test": (26, 30)}
        if validation
        else {"train": (0, 18), "validation": (18, 20), "test": (20, 24)}
    )
    assert folder.parts == expected
    assert folder.classes == ("ash", "birch")
    assert {file.parts[len(tmp_path.parts)] for file in folder.part("test").files} == {"test"}
    values = folder.read_all().images[:, 0, 0, 0]
    np.testing.assert_array_equal(folder.labels, values >= 100)


def test_without_validation_the_last_class_is_not_all_that_is_held_out(tmp_path):
    write_classes(tmp_path / "train", 10)
    folder = open_image_folder(tmp_path)
    assert set(folder.part("validation").labels) == {0, 1}


def test_records_for_the_pipeline(tmp_path):
    pytest.importorskip("grain", reason="needs grain: jaxgen[data]")
    from jaxgen.data import from_unit, make_transform
    from jaxgen.data.pipeline import make_batches

    train = open_image_folder(write_classes(tmp_path), size=3, channels=1).part("train")
    batch = make_batches(train, 8, seed=1, transform=make_transform(flip=True))[3]
    assert batch["image"].shape == (8, 3, 3, 1)
    assert batch["label"].dtype == np.int32
    np.testing.assert_array_equal(from_unit(batch["image"])[:, 1, 1, 0] >= 100, batch["label"])


def test_faults_of_folders(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        open_image_folder(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"no images in it \(\.bmp \.gif"):
        open_image_folder(tmp_path)
    write_image(write_classes(tmp_path) / "stray.png", COLOUR)
    with pytest.raises(InputError, match=r"stray\.png: lies in no class, while .*ash, birch"):
        open_image_folder(tmp_path)


@pytest.mark.parametrize("odd", ["a/00", "a/05", "b/09"])
def test_grey_images_among_others_in_color_are_in_color(tmp_path, odd):
    """All parts and single records, wherever the one in colour is, without loss."""
    for name in ("a", "b"):
        for i in range(10):
            write_image(tmp_path / name / f"{i:02}.png", COLOUR[..., 0])
    grey = open_image_folder(tmp_path)
    assert (grey.channels, grey[0]["image"].shape) == (1, (6, 9, 1))
    write_image(tmp_path / f"{odd}.png", COLOUR)
    folder = open_image_folder(tmp_path)
    file = folder.files.index(tmp_path / f"{odd}.png")
    expected = np.repeat(COLOUR[..., :1], 3, axis=-1)
    for i, image in enumerate(folder.read_all().images):
        np.testing.assert_array_equal(image, COLOUR if i == file else expected)
        np.testing.assert_array_equal(folder[i]["image"], image)
    for part in folder.parts:
        assert folder.part(part).read_all().images.shape[1:] == (6, 9, 3)
    np.testing.assert_array_equal(open_image_folder(tmp_path, channels=1)[0]["image"].shape[-1], 1)


def test_what_makes_images_alike_is_said():
    """Only what is needed: experiments have a flag for the size, and none for channels."""
    with pytest.raises(InputError, match=r"b: .* give size to make them alike"):
        check_same_shape(["a", "b"], [COLOUR, COLOUR[:5]])
    with pytest.raises(InputError, match=r"b: .* give channels \(1 or 3\) to make them alike"):
        check_same_shape(["a", "b"], [COLOUR, COLOUR[..., :1]])


def test_mixed_images_are_named(tmp_path):
    for name, array in (("a", COLOUR), ("b", COLOUR), ("odd", COLOUR[:5, :, 0])):
        write_image(tmp_path / f"{name}.png", array)
    with pytest.raises(InputError, match=r"odd\.png: an image of shape .*a\.png has \[6, 9, 3\]"):
        open_image_folder(tmp_path).read_all()
    assert open_image_folder(tmp_path, size=4, channels=1).read_all().images.shape == (3, 4, 4, 1)
    (tmp_path / "b.png").write_bytes(b"no")
    with pytest.raises(InputError, match=r"b\.png: not a readable image"):
        open_image_folder(tmp_path, size=4, channels=1).read_all()


def test_targets_that_no_image_can_have(tmp_path):
    file = write_image(tmp_path / "a.png", COLOUR)
    with pytest.raises(InputError, match="size is 0, expected 1 or more"):
        read_image(file, size=0)
    with pytest.raises(InputError, match="channels is 2, expected 1"):
        open_image_folder(tmp_path, channels=2)
    with pytest.raises(InputError, match="channels is 0, expected 1"):
        open_image_folder(tmp_path, channels=0)


def test_unreadable_images_are_skipped_and_listed(tmp_path):
    """Truncated, empty and foreign files; without the option the first is one error."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(6):
            Image.fromarray(random_images(5, 5, 3, seed=i)).save(tmp_path / name / f"{i}.png")
    whole = (tmp_path / "a" / "2.png").read_bytes()
    (tmp_path / "a" / "2.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "b" / "0.png").write_bytes(b"")
    (tmp_path / "b" / "9.jpg").write_text("no image")
    with pytest.raises(InputError, match=r"(2|0)\.png: not a readable image"):
        load_images(tmp_path)
    found = load_images(tmp_path, skip_unreadable=True)
    assert found.unreadable == ("a/2.png", "b/0.png", "b/9.jpg")
    assert len(found) == 10
    assert np.bincount(found.labels).tolist() == [5, 5]
    assert found.describe().endswith("3 unreadable, skipped: a/2.png, b/0.png, b/9.jpg")
    for file in tmp_path.glob("*/*"):
        file.write_bytes(b"x")
    with pytest.raises(InputError, match=r"no image can be read; .*not a readable image"):
        load_images(tmp_path, skip_unreadable=True)
