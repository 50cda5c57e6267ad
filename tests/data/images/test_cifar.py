"""CIFAR-10 in its three forms."""

import json
import pickle

import numpy as np
import pytest
from image_files import cifar_batches, planes, write_cifar, write_image

from jaxgen.data.images.cifar import CLASSES, is_cifar_folder, read_cifar10
from jaxgen.errors import InputError

ORDER = ["data_batch_1", "data_batch_2", "data_batch_10", "test_batch"]


@pytest.mark.parametrize("form", ["pickle", "binary", "sheets"])
def test_the_three_forms_hold_the_same(tmp_path, form):
    images, labels = write_cifar(tmp_path, form)
    assert is_cifar_folder(tmp_path)
    cifar = read_cifar10(tmp_path)
    np.testing.assert_array_equal(cifar.images, np.concatenate([images[name] for name in ORDER]))
    np.testing.assert_array_equal(cifar.labels, np.concatenate([labels[name] for name in ORDER]))
    assert cifar.parts == {"train": (0, 14), "validation": (14, 15), "test": (15, 18)}
    assert cifar.classes == CLASSES


def test_a_subset_without_a_test_batch(tmp_path):
    write_cifar(tmp_path, "binary")
    (tmp_path / "test_batch.bin").unlink()
    assert set(read_cifar10(tmp_path).parts) == {"train", "validation"}
    for name in ("data_batch_1", "data_batch_2", "data_batch_10"):
        (tmp_path / f"{name}.bin").unlink()
    assert not is_cifar_folder(tmp_path)
    with pytest.raises(InputError, match=r"no training batch of CIFAR-10"):
        read_cifar10(tmp_path)


class Evil:
    """A pickle that calls a function when it is read."""

    def __init__(self, function):
        self.function = function

    def __reduce__(self):
        return self.function, ("this must not run",)


BATCH = {b"data": planes(cifar_batches()[0]["test_batch"]), b"labels": [1, 2, 3]}


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "the file is empty"),
        (b"no pickle at all", "not a pickled batch of CIFAR-10, or a truncated one"),
        (pickle.dumps(BATCH)[:-100], "not a pickled batch of CIFAR-10, or a truncated one"),
        (pickle.dumps(Evil(print)), r"it asks for builtins\.print"),
        (pickle.dumps(Evil(np.fromfile)), r"it asks for numpy.*\.fromfile"),
        (pickle.dumps([1, 2]), "expected a pickled dict with an array 'data' and 'labels'"),
        (pickle.dumps({**BATCH, b"data": 3}), "expected a pickled dict with an array 'data'"),
        (pickle.dumps({**BATCH, b"labels": [1, 2]}), r"labels are int64 \[2\], expected 3 whole"),
        (pickle.dumps({**BATCH, b"labels": [1, 2, 10]}), "labels from 1 to 10, expected 0 to 9"),
        (
            pickle.dumps({**BATCH, b"data": BATCH[b"data"][:, 1:]}),
            r"images are uint8 \[3, 3071\], expected uint8 \[N, 3072\]",
        ),
    ],
    ids=range(10),
)
def test_bad_pickles(tmp_path, capsys, content, fault):
    (tmp_path / "data_batch_1").write_bytes(content)
    with pytest.raises(InputError, match=f"data_batch_1.*{fault}") as error:
        read_cifar10(tmp_path)
    assert "\n" not in str(error.value)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_of_every_protocol(tmp_path, protocol):
    names = {key.decode(): value for key, value in BATCH.items()}
    (tmp_path / "data_batch_1").write_bytes(pickle.dumps(names, protocol=protocol))
    np.testing.assert_array_equal(planes(read_cifar10(tmp_path).images), BATCH[b"data"])


def test_a_truncated_binary_batch(tmp_path):
    write_cifar(tmp_path, "binary")
    file = tmp_path / "data_batch_2.bin"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"batch_2\.bin: 15,364 bytes, expected a multiple of 3,0"):
        read_cifar10(tmp_path)


def change_labels(folder, change):
    file = folder / "labels.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps(change(content)))


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda c: [], "labels.json is no object, expected one with 'classes' and 'labels'"),
        (lambda c: {**c, "labels": {}}, r"labels.json: no labels for cifar10_batch_1\.png"),
        (
            lambda c: {**c, "labels": c["labels"] | {"cifar10_batch_7.png": [1]}},
            "cifar10_batch_7.png: no such file, but labels.json has labels for it",
        ),
        (
            lambda c: {**c, "labels": c["labels"] | {"cifar10_batch_2.png": [1, 2]}},
            r"cifar10_batch_2.png: a sheet of \[5, 1024, 3\], expected \[2, 1024, 3\]",
        ),
        (lambda c: {**c, "classes": ["a"]}, "expected 0 to 0"),
    ],
)
def test_labels_that_do_not_fit_the_sheets(tmp_path, change, fault):
    write_cifar(tmp_path, "sheets")
    change_labels(tmp_path, change)
    with pytest.raises(InputError, match=fault):
        read_cifar10(tmp_path)


def test_sheets_that_cannot_be_read(tmp_path):
    write_cifar(tmp_path, "sheets")
    write_image(tmp_path / "cifar10_batch_2.png", np.zeros((5, 1024), np.uint8))
    with pytest.raises(InputError, match=r"batch_2\.png: a sheet of \[5, 1024, 1\]"):
        read_cifar10(tmp_path)
    (tmp_path / "cifar10_batch_2.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(InputError, match=r"batch_2\.png: not a readable image"):
        read_cifar10(tmp_path)
    (tmp_path / "labels.json").write_text("{")
    with pytest.raises(InputError, match=r"labels\.json: not JSON"):
        read_cifar10(tmp_path)
    (tmp_path / "labels.json").unlink()
    with pytest.raises(InputError, match=r"labels\.json: no such file; the PNG sheets of CIFAR"):
        read_cifar10(tmp_path)


def test_the_real_one(data_folder):
    cifar = read_cifar10(data_folder / "cifar10")
    assert cifar.parts == {
        "train": (0, 9000),
        "validation": (9000, 10_000),
        "test": (10_000, 11_000),
    }
    counts = [1005, 974, 1032, 1016, 999, 937, 1030, 1001, 1025, 981]
    assert np.bincount(cifar.labels[:10_000]).tolist() == counts
    assert cifar.labels[:10].tolist() == [6, 9, 9, 4, 1, 1, 2, 7, 8, 3]
    assert cifar.part("test").labels[:10].tolist() == [3, 8, 8, 0, 6, 6, 1, 6, 3, 1]
    # The first image of data_batch_1, a frog: its first pixel and last row are well known.
    assert cifar.images[0, 0, 0].tolist() == [59, 62, 63]
