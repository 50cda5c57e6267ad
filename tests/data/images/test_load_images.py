"""The front door for images, and its sets that need no download."""

import sys

import jaxtyping._decorator
import numpy as np
import pytest
from image_files import idx_bytes, random_images, write_cifar, write_image, write_mnist

from jaxgen.data import load_images
from jaxgen.data.images.image_files import read_image
from jaxgen.errors import InputError

pytest.importorskip("sklearn", reason="needs scikit-learn: jaxgen[data]")

CHECKS = jaxtyping._decorator.__file__
"""Where the caller is, for a function whose shapes are checked (`tests/shapes.py`)."""


def test_digits_are_the_default():
    digits = load_images()
    assert digits.describe() == (
        "digits: 1,797 images of 8x8x1 (train 1,439, validation 179, test 179), 10 classes"
    )
    assert sorted(set(digits.images.ravel())) == [round(255 * v / 16) for v in range(17)]
    for part in digits.parts:  # all classes in all parts
        assert np.bincount(digits.part(part).labels, minlength=10).min() >= 9
    from sklearn.datasets import load_digits

    theirs = load_digits()
    counts = np.bincount(theirs.target)
    np.testing.assert_array_equal(np.bincount(digits.labels), counts)
    known = {
        (255 * image / 16).round().astype(np.uint8).tobytes(): int(label)
        for image, label in zip(theirs.images, theirs.target, strict=True)
    }
    assert [known[image.tobytes()] for image in digits.images] == digits.labels.tolist()


def test_sets_that_are_nearly_black_are_said(tmp_path):
    """Shares in [0, 1] or classes, kept as bytes."""
    dark = random_images(23 + 7, 5, 4) // 128
    write_mnist(tmp_path / "mnist", **{"train-images-idx3-ubyte.gz": idx_bytes(dark[:23])})
    (tmp_path / "mnist" / "t10k-images-idx3-ubyte").write_bytes(idx_bytes(dark[23:]))
    (tmp_path / "mnist" / "README").write_text("about")
    with pytest.warns(
        UserWarning, match=r"mnist: pixels reach 1 of 255, all nearly black"
    ) as caught:
        images = load_images(tmp_path / "mnist")
    assert caught[0].filename in (__file__, CHECKS)
    assert images.describe().endswith("10 classes; left out: README")
    write_image(tmp_path / "some" / "a.png", dark[0])
    with pytest.warns(UserWarning, match="some: pixels reach 1 of 255"):
        load_images(tmp_path / "some")
    write_image(tmp_path / "black" / "a.png", dark[0] * 0)
    load_images(tmp_path / "black")


def test_named_sets_are_found_in_a_folder_of_sets(tmp_path, monkeypatch):
    images, _ = write_mnist(tmp_path / "mnist")
    write_cifar(tmp_path / "cifar-10-batches-py", "pickle")
    mnist = load_images("mnist", data_dir=tmp_path)
    assert mnist.name == "mnist"
    np.testing.assert_array_equal(mnist.images[..., 0], images)
    monkeypatch.setenv("JAXGEN_DATA", str(tmp_path))
    np.testing.assert_array_equal(load_images("mnist").images, mnist.images)
    assert load_images("cifar10").images.shape == (18, 32, 32, 3)
    # An argument comes before the variable, and the folder itself is looked in, too.
    monkeypatch.setenv("JAXGEN_DATA", str(tmp_path / "nowhere"))
    assert len(load_images("mnist", data_dir=tmp_path / "mnist")) == 30
    with pytest.raises(InputError, match=r"cifar10: its files are not in .*nowhere, nor in cifar1"):
        load_images("cifar10")
    monkeypatch.delenv("JAXGEN_DATA")
    with pytest.raises(InputError, match="mnist: no folder to look in; give data_dir, or set"):
        load_images("mnist")


def test_folders_are_recognised_by_what_they_hold(tmp_path):
    write_mnist(tmp_path / "a")
    assert load_images(tmp_path / "a").images.shape == (30, 5, 4, 1)
    write_cifar(tmp_path / "b", "sheets")
    assert load_images(str(tmp_path / "b")).images.shape == (18, 32, 32, 3)
    for i in range(3):
        write_image(tmp_path / "c" / f"{i}.png", random_images(4, 4, 3))
    assert load_images(tmp_path / "c").images.shape == (3, 4, 4, 3)
    assert load_images(tmp_path / "c", size=2, channels=1).images.shape == (3, 2, 2, 1)


def test_every_set_can_be_resized_and_recolored(tmp_path):
    write_cifar(tmp_path, "binary")
    small = load_images(tmp_path, size=16, channels=1)
    assert small.images.shape == (18, 16, 16, 1)
    whole = load_images(tmp_path)
    file = write_image(tmp_path / "one.png", whole.images[4])
    np.testing.assert_array_equal(small.images[4], read_image(file, 16, 1))
    assert small.parts == whole.parts
    same = load_images(tmp_path, size=32, channels=3)
    np.testing.assert_array_equal(same.images, whole.images)


def test_what_is_no_set_of_images(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: no such set or folder; images are 'dig"):
        load_images("nowhere")
    (tmp_path / "x.png").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match=r"x\.png: not a folder; images are"):
        load_images(tmp_path / "x.png")
    with pytest.raises(InputError, match="channels is 4, expected 1"):
        load_images("digits", channels=4)
    with pytest.raises(InputError, match="no images in it"):
        load_images((tmp_path / "empty").mkdir() or tmp_path / "empty")


@pytest.mark.parametrize(
    ("module", "name", "fault"),
    [
        ("sklearn.datasets", "digits", "digits: needs the package scikit-learn"),
        ("tensorflow_datasets", "tfds:mnist", "tfds:mnist: needs the packages"),
        ("PIL.Image", "folder", r"x\.png: .* needs the package pillow"),
    ],
)
def test_without_the_packages(tmp_path, monkeypatch, module, name, fault):
    write_image(tmp_path / "folder" / "x.png", random_images(4, 4, 3))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=rf"{fault}.*jaxgen\[data\]"):
        load_images(name)
