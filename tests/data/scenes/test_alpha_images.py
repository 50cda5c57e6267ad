"""Images with transparency: as they are read, and as they shrink."""

import io

import numpy as np
import pytest
from image_files import random_images, write_image
from PIL import Image

from jaxgen.data.images.deep_png import encode_deep_png
from jaxgen.data.scenes.alpha_images import read_with_alpha, shrink, shrunk_size
from jaxgen.errors import InputError

COLOUR = random_images(6, 9, 4)


def premultiplied(image: np.ndarray) -> np.ndarray:
    values = image.astype(float)
    return np.concatenate([values[..., :3] * values[..., 3:] / 255, values[..., 3:]], -1)


def test_bytes_come_back_with_and_without_alpha(tmp_path):
    """Also the colours of pixels that are transparent."""
    clear = COLOUR.copy()
    clear[:3, :, 3] = 0
    np.testing.assert_array_equal(read_with_alpha(write_image(tmp_path / "a.png", clear)), clear)
    file = write_image(tmp_path / "b.png", COLOUR[..., :3])
    np.testing.assert_array_equal(read_with_alpha(file), COLOUR[..., :3])


def test_other_kinds_of_pixels_become_colours(tmp_path):
    grey, alpha = COLOUR[..., :1], COLOUR[..., 3:]
    three = np.repeat(grey, 3, -1)
    file = write_image(tmp_path / "l.png", grey[..., 0])
    np.testing.assert_array_equal(read_with_alpha(file), three)
    file = write_image(tmp_path / "la.png", np.concatenate([grey, alpha], -1))
    np.testing.assert_array_equal(read_with_alpha(file), np.concatenate([three, alpha], -1))
    palette = Image.fromarray(COLOUR[..., :3]).quantize(8)
    palette.save(tmp_path / "p.png")
    np.testing.assert_array_equal(
        read_with_alpha(tmp_path / "p.png"), np.asarray(palette.convert("RGB"))
    )
    palette.save(tmp_path / "q.png", transparency=3)
    seen = 255 * (np.asarray(palette) != 3)
    np.testing.assert_array_equal(read_with_alpha(tmp_path / "q.png")[..., 3], seen)
    deep = np.linspace(0, 65535, 54).astype(np.uint16).reshape(6, 9)
    file = write_image(tmp_path / "d.png", deep)
    np.testing.assert_array_equal(read_with_alpha(file)[..., 1], deep)
    file = write_image(tmp_path / "d.tiff", deep)
    np.testing.assert_array_equal(read_with_alpha(file)[..., 2], deep)
    file = write_image(tmp_path / "f.tiff", deep.astype(np.float32))
    with pytest.raises(
        InputError, match=r"f\.tiff: pixels of 32 bits \(mode F\), expected 8 or 16"
    ):
        read_with_alpha(file)


def test_16_bits_come_back(tmp_path):
    """Also through FFmpeg's rows, which are longer than those of 5 pixels; greys become colours."""
    for channels in (1, 2, 3, 4):
        values = np.random.default_rng(0).integers(0, 65536, (5, 7, channels)).astype(np.uint16)
        (tmp_path / "a.png").write_bytes(encode_deep_png(values))
        found = read_with_alpha(tmp_path / "a.png")
        expected = values
        if channels < 3:
            expected = np.concatenate([np.repeat(values[..., :1], 3, axis=-1), values[..., 1:]], -1)
        assert found.dtype == np.uint16
        np.testing.assert_array_equal(found, expected)
        with Image.open(tmp_path / "a.png") as image:  # other programs read it, too
            assert image.size == (7, 5)
            assert image.getpixel((3, 2)) is not None
    shrunk = shrink(np.full((4, 6, 4), 60_001, np.uint16), (2, 3))
    assert shrunk.dtype == np.uint16
    np.testing.assert_array_equal(shrunk, 60_001)


def test_damaged_files_of_16_bits_are_named(tmp_path):
    content = encode_deep_png(np.arange(60, dtype=np.uint16).reshape(4, 5, 3))
    wrong = content[:50] + bytes([content[50] ^ 1]) + content[51:]
    for damaged in (content[:-12], content[:60], content[:30], wrong):
        (tmp_path / "x.png").write_bytes(damaged)
        with pytest.raises(InputError, match=r"^here: .*x\.png: not a readable image"):
            read_with_alpha(tmp_path / "x.png", "here")


def test_damaged_files_are_named(tmp_path):
    stream = io.BytesIO()
    Image.fromarray(COLOUR).save(stream, "png")
    for content in (b"", b"hello", stream.getvalue()[:60]):
        (tmp_path / "x.png").write_bytes(content)
        with pytest.raises(InputError, match=r"^here: .*x\.png: not a readable image") as error:
            read_with_alpha(tmp_path / "x.png", "here")
        assert "\n" not in str(error.value)
    with pytest.raises(FileNotFoundError, match=r"y\.png: no such file"):
        read_with_alpha(tmp_path / "y.png")


@pytest.mark.parametrize("size", [1, 4, 6, 8, 12])
def test_whole_factors_average_what_is_seen(size):
    """Composites over any background shrink as the image does, but for the rounding of bytes."""
    image = random_images(24, 24, 4)
    small, factor = shrink(image, (size, size)), 24 // size
    assert small.dtype == np.uint8
    means = premultiplied(image).reshape(size, factor, size, factor, 4).mean((1, 3))
    np.testing.assert_allclose(small[..., 3], means[..., 3], atol=0.5)
    colors = means[..., :3] * 255 / means[..., 3:]
    np.testing.assert_allclose(small[..., :3], colors, atol=0.5 + 1e-9)
    plain = image[..., :3]
    means = plain.astype(float).reshape(size, factor, size, factor, 3).mean((1, 3))
    np.testing.assert_allclose(shrink(plain, (size, size)), means, atol=0.5)


@pytest.mark.parametrize("size", [5, 7, 16, 23])
def test_other_factors_average_areas(size):
    """Against whole factors: every pixel is first made into size x size equal ones."""
    image = random_images(24, 24, 4)
    fine = image.repeat(size, 0).repeat(size, 1)
    means = premultiplied(fine).reshape(size, 24, size, 24, 4).mean((1, 3))
    small = shrink(image, (size, size))
    np.testing.assert_allclose(small[..., 3], means[..., 3], atol=0.5 + 1e-9)
    np.testing.assert_allclose(
        small[..., :3], means[..., :3] * 255 / means[..., 3:], atol=0.5 + 1e-9
    )


def test_what_is_transparent_has_no_part_in_colours():
    image = np.zeros((6, 6, 4), np.uint8)
    image[..., :3] = 255, 0, 0
    image[::2, :, :] = 10, 200, 30, 255
    np.testing.assert_array_equal(shrink(image, (6, 6)), image)
    for size in (3, 1, 2, 4):
        small = shrink(image, (size, size))
        seen = small[..., 3] > 0
        np.testing.assert_array_equal(
            small[seen][:, :3], np.broadcast_to([10, 200, 30], (seen.sum(), 3))
        )
    assert (shrink(image, (3, 3))[..., 3] == 128).all()  # of 127.5
    np.testing.assert_array_equal(shrink(image[1::2, :3], (1, 1)), np.zeros((1, 1, 4)))


@pytest.mark.parametrize("shape", [(3, 8), (4, 5), (7, 9), (9, 12)])
def test_sides_shrink_by_their_own_factors(shape):
    """Against whole factors, and one row and one column at a time."""
    image = random_images(9, 12, 4)
    image[..., 3] |= 1
    fine = image.repeat(shape[0], 0).repeat(shape[1], 1)
    means = premultiplied(fine).reshape(shape[0], 9, shape[1], 12, 4).mean((1, 3))
    small = shrink(image, shape)
    assert small.shape == (*shape, 4)
    np.testing.assert_allclose(small[..., 3], means[..., 3], atol=0.5 + 1e-9)
    np.testing.assert_allclose(
        small[..., :3], means[..., :3] * 255 / means[..., 3:], atol=0.5 + 1e-9
    )


def test_the_longer_side_becomes_the_size():
    sizes = [(480, 640, 320), (640, 480, 320), (3, 1000, 10), (5, 5, 5), (378, 504, 100)]
    found = [shrunk_size(*size) for size in sizes]
    assert found == [(240, 320), (320, 240), (1, 10), (5, 5), (75, 100)]
    assert shrunk_size(7, 9, None) == (7, 9)
    with pytest.raises(InputError, match=r"^an image of 7 x 9 pixels, expected 10 or more on its"):
        shrunk_size(7, 9, 10)
