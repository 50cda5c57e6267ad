"""The idx format and MNIST's four files."""

import gzip

import numpy as np
import pytest
from image_files import idx_bytes, random_images, write_mnist

from jaxgen.data.images.idx_files import read_idx, read_mnist
from jaxgen.errors import InputError


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
@pytest.mark.parametrize("shape", [(7,), (3, 4, 5), (0, 4, 5)])
def test_values_come_back_whatever_the_name_says(tmp_path, compress, shape):
    values = random_images(*shape)
    file = tmp_path / "any.gz"
    file.write_bytes(compress(idx_bytes(values)))
    np.testing.assert_array_equal(read_idx(file, len(shape)), values)


def test_the_four_files(tmp_path):
    images, labels = write_mnist(tmp_path / "mnist")
    mnist = read_mnist(tmp_path / "mnist")
    np.testing.assert_array_equal(mnist.images[..., 0], images)
    np.testing.assert_array_equal(mnist.labels, labels)
    assert mnist.parts == {"train": (0, 21), "validation": (21, 23), "test": (23, 30)}
    assert mnist.classes == tuple("0123456789")
    assert mnist.labels.dtype == np.int32


def test_other_spellings(tmp_path):
    images, _ = write_mnist(tmp_path)
    for file in list(tmp_path.iterdir()):
        file.rename(tmp_path / file.name.replace("-idx", ".idx"))
    np.testing.assert_array_equal(read_mnist(tmp_path).images[..., 0], images)


SOUND = idx_bytes(random_images(3, 2, 2))
HUGE = SOUND[:4] + b"\xff" * 12 + b"\0" * 8


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "the file is empty"),
        (b"\x89PNG\r\n\x1a\n", "begins with 89 50 4e 47, expected 00 00 08 03, the mark of an idx"),
        (idx_bytes(random_images(9)), "begins with 00 00 08 01, expected 00 00 08 03"),
        (b"\0\0\x0d\x03" + SOUND[4:], "begins with 00 00 0d 03, expected 00 00 08 03"),
        (SOUND[:3], "begins with 00 00 08, expected"),
        (SOUND[:9], "truncated in its header of 16 bytes"),
        (SOUND[:-1], "11 bytes after the header, expected 12 = 3 x 2 x 2"),
        (SOUND + b"\0", "13 bytes after the header, expected 12"),
        (HUGE, "8 bytes after the header, expected 79,228,162,458,924,105,385,300,197,375"),
        (gzip.compress(SOUND, mtime=0)[:-9], "a damaged or truncated gzip file"),
        (gzip.compress(SOUND, mtime=0)[:12] + b"\xff" * 20, "a damaged or truncated gzip file"),
    ],
    ids=str,
)
def test_bad_files_name_the_file_and_what_was_expected(tmp_path, content, fault):
    file = tmp_path / "images"
    file.write_bytes(content)
    with pytest.raises(InputError, match=f"images: {fault}") as error:
        read_idx(file, 3)
    assert "\n" not in str(error.value)


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing: no such file"):
        read_idx(tmp_path / "nothing", 1)
    write_mnist(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(InputError, match=r"no file t10k-labels-idx1-ubyte, plain or with \.gz"):
        read_mnist(tmp_path)


@pytest.mark.parametrize(
    ("file", "values", "fault"),
    [
        (
            "t10k-labels-idx1-ubyte",
            random_images(6),
            "t10k-images-idx3-ubyte: 7 images, but 6 labels in t10k-labels-idx1-ubyte",
        ),
        (
            "t10k-images-idx3-ubyte",
            random_images(7, 4, 4),
            "training and test images of 5x4 and 4x4, expected one size",
        ),
    ],
)
def test_files_that_do_not_fit_each_other(tmp_path, file, values, fault):
    write_mnist(tmp_path, **{file: idx_bytes(values)})
    with pytest.raises(InputError, match=fault):
        read_mnist(tmp_path)


def test_the_real_one(data_folder):
    mnist = read_mnist(data_folder / "mnist")
    assert mnist.parts == {
        "train": (0, 54_000),
        "validation": (54_000, 60_000),
        "test": (60_000, 70_000),
    }
    assert mnist.images.shape == (70_000, 28, 28, 1)
    # Class counts and the mean brightness as they are commonly given for the set.
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(mnist.labels[:60_000]).tolist() == counts
    assert mnist.labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert mnist.images[:60_000].mean() / 255 == pytest.approx(0.1307, abs=5e-5)
