"""Photographs with masks and depth, in one size."""

import numpy as np
import pytest
from image_files import random_images, write_image

from jaxgen.data.images.deep_png import encode_deep_png
from jaxgen.data.scenes.alpha_images import shrink
from jaxgen.data.scenes.photographs import Photograph, read_photographs
from jaxgen.data.scenes.views import unit_colours
from jaxgen.errors import InputError

IMAGES = random_images(2, 9, 12, 3)


def photographs(folder, **options) -> list[Photograph]:
    files = [write_image(folder / f"{i}.png", image) for i, image in enumerate(IMAGES)]
    return [Photograph(f"frame {i}", file, **options) for i, file in enumerate(files)]


def refuse(given: list[Photograph], message: str, size: int | None = None) -> None:
    with pytest.raises(InputError, match=message) as error:
        read_photographs(given, size)
    assert "\n" not in str(error.value)


def test_pixels_and_scale(tmp_path):
    given = photographs(tmp_path, shape=(9, 12))
    for size, shape in ((None, (9, 12)), (12, (9, 12)), (4, (3, 4)), (5, (4, 5))):
        pixels = read_photographs(given, size)
        np.testing.assert_array_equal(pixels.images, [shrink(image, shape) for image in IMAGES])
        assert pixels.scale == (shape[1] / 12, shape[0] / 9)
        assert pixels.masks is None
        assert pixels.depth is None


def test_16_bits_beside_8_make_all_16(tmp_path):
    deep = np.random.default_rng(1).integers(0, 65536, (9, 12, 3)).astype(np.uint16)
    (tmp_path / "deep.png").write_bytes(encode_deep_png(deep))
    first, *_ = photographs(tmp_path)
    images = read_photographs([first, Photograph("frame 1", tmp_path / "deep.png")], None).images
    assert images.dtype == np.uint16
    np.testing.assert_array_equal(images[1], deep)
    np.testing.assert_allclose(unit_colours(images[0]), unit_colours(IMAGES[0]), atol=1e-7)


def test_masks_keep_pixels_whose_whole_area_they_keep(tmp_path):
    """In any kind of image; what is not black counts, whatever its alpha."""
    mask = np.random.default_rng(0).random((9, 12)) > 0.1
    bytes_ = mask.astype(np.uint8)
    clear = np.full_like(bytes_, 255)
    for i, stored in enumerate(
        (
            *(bytes_ * 255, bytes_, mask, bytes_.astype(np.uint16) * 9),
            np.stack([bytes_, bytes_ * 0, bytes_ * 0], -1),
            *(np.stack([bytes_, clear], -1), np.stack([*[bytes_] * 3, clear], -1)),
        )
    ):
        file = write_image(tmp_path / f"mask{i}.png", stored)
        given = photographs(tmp_path, mask=file)
        np.testing.assert_array_equal(read_photographs(given, None).masks, [mask] * 2)
        whole = mask.reshape(3, 3, 4, 3).all(axis=(1, 3))
        np.testing.assert_array_equal(read_photographs(given, 4).masks, [whole] * 2)


def test_depth_is_that_of_the_pixel_at_the_centre(tmp_path):
    depth = np.arange(108, dtype=np.uint16).reshape(9, 12) * 500
    given = photographs(tmp_path, depth=write_image(tmp_path / "d.png", depth))
    found = read_photographs(given, None).depth
    assert np.isnan(found[:, 0, 0]).all()
    np.testing.assert_array_equal(np.nan_to_num(found), [depth] * 2)
    np.testing.assert_array_equal(read_photographs(given, 4).depth, [depth[1::3, 1::3]] * 2)
    found = read_photographs(given, 8).depth  # of 9 x 12 now 6 x 8
    rows, columns = [0, 2, 3, 5, 6, 8], [0, 2, 3, 5, 6, 8, 9, 11]
    np.testing.assert_array_equal(np.nan_to_num(found), [depth[np.ix_(rows, columns)]] * 2)


def test_faults(tmp_path):
    given = photographs(tmp_path)
    small = write_image(tmp_path / "small.png", np.ones((3, 4), np.uint8))
    black = write_image(tmp_path / "black.png", np.zeros((9, 12), np.uint8))
    alpha = write_image(tmp_path / "alpha.png", random_images(9, 12, 4))
    (tmp_path / "text.png").write_bytes(b"no image")
    first, second = given
    for other, message in (
        ({"file": small}, r"^frame 1: .*small\.png has shape \[3, 4, 3\], expected \[9, 12, 3\] a"),
        ({"file": alpha}, r"^frame 1: .*alpha\.png has shape \[9, 12, 4\], expected \[9, 12, 3\]"),
        ({"file": tmp_path / "text.png"}, r"^frame 1: .*text\.png: not a readable image"),
        ({"shape": (12, 9)}, r"^frame 1: .*1\.png has 9 x 12 pixels, expected 12 x 9"),
        ({"mask": black}, r"^frame 0: no mask, expected one, as other frames have"),
        ({"depth": black}, r"^frame 0: no depth, expected one, as other frames have"),
    ):
        refuse([first, second._replace(**other)], message)
    for other, message in (
        ({"mask": black}, r"^frame 0: .*black\.png leaves no pixel"),
        ({"mask": small}, r"^frame 0: .*small\.png: a mask of 3 x 4 pixels, expected 9 x 12"),
        ({"depth": small}, r"^frame 0: .*small\.png: a depth of 3 x 4 pixels, expected 9 x 12"),
        ({"mask": tmp_path / "gone.png"}, r"^frame 0: no mask .*gone\.png, expected a file"),
    ):
        refuse([photograph._replace(**other) for photograph in given], message)
    refuse(given, r"^frame 0: .*0\.png: an image of 9 x 12 pixels, expected 13 or more", 13)
