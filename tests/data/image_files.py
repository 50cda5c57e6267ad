"""Small image sets in the formats that the readers take."""

import gzip
import pathlib
import pickle
import struct

import numpy as np
from PIL import Image


def random_images(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(256, size=shape, dtype=np.uint8)


def idx_bytes(values: np.ndarray) -> bytes:
    header = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
    return header + values.tobytes()


def write_mnist(folder: pathlib.Path, train: int = 23, test: int = 7, **changes: bytes):
    """MNIST's files, the training ones compressed; `changes` replace the content of a file."""
    images = random_images(train + test, 5, 4)
    labels = (np.arange(train + test) % 10).astype(np.uint8)
    contents = {
        "train-images-idx3-ubyte.gz": gzip.compress(idx_bytes(images[:train])),
        "train-labels-idx1-ubyte.gz": gzip.compress(idx_bytes(labels[:train])),
        "t10k-images-idx3-ubyte": idx_bytes(images[train:]),
        "t10k-labels-idx1-ubyte": idx_bytes(labels[train:]),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in (contents | changes).items():
        (folder / name).write_bytes(content)
    return images, labels


CIFAR_SIZES = {"data_batch_1": 6, "data_batch_2": 5, "data_batch_10": 4, "test_batch": 3}


def cifar_batches() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Images [N, 32, 32, 3] and labels of some batches, by name."""
    images = {
        name: random_images(size, 32, 32, 3, seed=i)
        for i, (name, size) in enumerate(CIFAR_SIZES.items())
    }
    return images, {name: random_images(size) % 10 for name, size in CIFAR_SIZES.items()}


def planes(images: np.ndarray) -> np.ndarray:
    """Rows of a red, a green and a blue plane, [N, 3072]."""
    return images.transpose(0, 3, 1, 2).reshape(len(images), -1)


def write_cifar(folder: pathlib.Path, form: str):
    """CIFAR-10 as "pickle", "binary" or "sheets"."""
    folder.mkdir(parents=True, exist_ok=True)
    images, labels = cifar_batches()
    for name in images:
        if form == "binary":
            content = np.concatenate([labels[name][:, None], planes(images[name])], 1).tobytes()
            (folder / f"{name}.bin").write_bytes(content)
        elif form == "pickle":
            batch = {b"data": planes(images[name]), b"labels": labels[name].tolist()}
            (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
    if form == "sheets":
        write_sheets(folder, images, labels)
    return images, labels


def write_sheets(folder: pathlib.Path, images, labels):
    import json

    from jaxgen.data.images.cifar import CLASSES

    numbers = {name: int(name.rsplit("_")[-1]) if "data" in name else 50 for name in images}
    sheets = {name: f"cifar10_batch_{number}.png" for name, number in numbers.items()}
    for name, sheet in sheets.items():
        Image.fromarray(images[name].reshape(-1, 1024, 3)).save(folder / sheet)
    content = {"classes": CLASSES, "labels": {sheets[n]: labels[n].tolist() for n in sheets}}
    (folder / "labels.json").write_text(json.dumps(content))


def write_image(path: pathlib.Path, array: np.ndarray, **options) -> pathlib.Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return path
