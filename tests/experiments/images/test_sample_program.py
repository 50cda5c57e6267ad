"""Images of a trained model as a program and in five lines; training on with other data."""

import dataclasses
import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from matplotlib.image import imread
from picture_folder import run_here, write_pictures
from random_weights import randomly

from experiments.images import train
from jaxgen.compressors.bottlenecks.gaussian_bottleneck import KLConfig
from jaxgen.compressors.compressor import CompressorConfig
from jaxgen.compressors.frame_autoencoder import FrameAutoencoderConfig
from jaxgen.data import from_unit, load_images
from jaxgen.diffusion import sample_model
from jaxgen.errors import InputError
from jaxgen.pretrained import open_decoder, open_denoiser, save_autoencoder, save_dit
from jaxgen.pretrained.networks import abstract_params
from jaxgen.spacetime import DiTConfig

FLAGS = ["--training-steps", "8", "--batch-size", "8", "--evaluate", "0", "--steps", "2"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> pathlib.Path:
    return write_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def model(pictures, tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("model")
    network = ["--width", "32", "--depth", "1", "--patch", "4"]
    with pytest.MonkeyPatch.context() as monkeypatch:
        arguments = [*FLAGS, *network, "--data", pictures, "--workdir", folder]
        assert run_here("train", arguments, monkeypatch) == 0
    return folder


SIDE = {"sample_size": 4}


def small(tree):
    return jax.tree.map(lambda leaf: 0.3 * leaf, randomly(tree, 0))


def images_in(folder: pathlib.Path) -> dict[str, np.ndarray]:
    read = {path.name: imread(path) for path in sorted((folder / "images").glob("*.png"))}
    return {name: np.rint(255 * image[..., :1]).astype(np.uint8) for name, image in read.items()}


def test_images_of_chosen_classes(model, tmp_path, monkeypatch):
    """By name and number, from run and checkpoints, by guidance and by scale; and in five lines."""
    shared = ["--classes", "dot", "3", "--count", "2", "--steps", "3", "--seed", "5"]
    shared += ["--sampler", "DPM++ 2M Karras", "--workdir", tmp_path]
    assert run_here("sample", [*shared, "--run", model, "--scale", "2.5"], monkeypatch) == 0
    found = images_in(tmp_path)
    assert list(found) == ["00000_dot.png", "00001_dot.png", "00002_wall.png", "00003_wall.png"]
    assert min(imread(tmp_path / "sheet.png").shape[:2]) > 100
    assert json.loads((tmp_path / "metrics.json").read_text())["NFE per sample"] == 6

    opened = open_denoiser(model / "checkpoints")
    key, names = jax.random.key(5), {"sampler": "DPM++ 2M Karras", "steps": 3, "guidance": 1.5}
    x = sample_model(opened.config, opened.params, key, [1, 1, 3, 3], **names)
    for image, own in zip(found.values(), from_unit(x), strict=True):
        assert np.abs(image.astype(int) - own).max() <= 1

    fewer = [*shared, "--run", model / "checkpoints", "--guidance", "1.5", "--count", "1"]
    assert run_here("sample", fewer, monkeypatch) == 0
    assert list(images_in(tmp_path)) == ["00000_dot.png", "00001_wall.png"]
    np.testing.assert_array_equal(images_in(tmp_path)["00000_dot.png"], found["00000_dot.png"])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--classes", "cat"], "class 'cat' is none of the model's, expected one of circle, dot"),
        (["--guidance", "1", "--scale", "2"], "expected one of them: scale = 1 + guidance"),
        (["--sampler", "best"], "sampler is 'best', expected one of DDIM"),
    ],
)
def test_what_cannot_be_sampled(model, tmp_path, monkeypatch, capfd, flags, message):
    arguments = ["--run", model, "--workdir", tmp_path / "none", *flags]
    assert run_here("sample", arguments, monkeypatch) == 2
    assert message in capfd.readouterr()[1]
    assert not (tmp_path / "none").exists()


def test_latents_are_not_written_as_colours(tmp_path, monkeypatch, capfd):
    config = DiTConfig(in_channels=4, out_channels=4, width=32, depth=1, heads=2, num_classes=3)
    inputs = jnp.zeros((1, 8, 8, 4)), jnp.zeros(1), jnp.zeros(1, int)
    shapes = jax.eval_shape(config.make_model().init, jax.random.key(0), *inputs)["params"]
    params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), nn.meta.unbox(shapes))
    save_dit(tmp_path / "latents", config, params, sample_size=8)
    arguments = ["--run", tmp_path / "latents", "--workdir", tmp_path / "none"]
    assert run_here("sample", arguments, monkeypatch) == 2
    assert "a model of 4 channels, expected 1 or 3" in capfd.readouterr()[1]
    assert not (tmp_path / "none").exists()


def test_latents_are_decoded_by_the_autoencoder_beside_them(tmp_path, monkeypatch, capfd):
    """A pipeline of latents as DiT's; classes by any of the names that its index has."""
    shape = {"in_channels": 4, "out_channels": 8, "width": 24, "depth": 1, "heads": 2}
    network = DiTConfig(**shape, num_classes=4)
    save_dit(tmp_path / "transformer", network, small(abstract_params(network, (4, 4))), **SIDE)
    frames = FrameAutoencoderConfig(channels=(4, 4), groups=2, blocks=1)
    autoencoder = CompressorConfig(frames, KLConfig(4), (2, 2, 3))
    decoder = small(nn.meta.unbox(jax.eval_shape(autoencoder.make_init(), jax.random.key(0))))
    scale = {"mean": np.zeros(4, np.float32), "deviation": np.full(4, 5.49, np.float32)}
    save_autoencoder(tmp_path / "vae", autoencoder, {**decoder, "statistics": scale})
    names = {"0": "tench", "1": "golden retriever", "2": "crane", "3": "crane, heron"}
    (tmp_path / "model_index.json").write_text(json.dumps({"id2label": names}))
    shared = ["--run", tmp_path, "--workdir", tmp_path / "out", "--count", "2", "--steps", "2"]
    assert (
        run_here("sample", [*shared, "--classes", "crane, heron", "heron", "1"], monkeypatch) == 0
    )
    found = [imread(path) for path in sorted((tmp_path / "out" / "images").glob("*.png"))]
    assert (tmp_path / "out" / "images" / "00004_golden-retriever.png").is_file()

    opened, own = open_denoiser(tmp_path), open_decoder(tmp_path)
    assert open_decoder(tmp_path / "transformer") is not None
    z = sample_model(*opened, jax.random.key(0), [3, 3, 3, 3, 1, 1], steps=2, clip=False)
    x = own.config.make_compressor(own.params).decode(jnp.asarray(z))
    assert x.shape == (6, 8, 8, 3)
    assert x.std() > 0.05
    for image, expected in zip(found, from_unit(np.asarray(x)), strict=True):
        assert np.abs(np.rint(255 * image[..., :3]) - expected).max() <= 1
    assert run_here("sample", [*shared, "--classes", "stork"], monkeypatch) == 2
    assert "class 'stork' is none of the model's, expected one of tench" in capfd.readouterr()[1]
    (tmp_path / "model_index.json").write_text(json.dumps({"id2label": {**names, "3": "crane"}}))
    assert run_here("sample", [*shared, "--classes", "crane"], monkeypatch) == 2
    assert (
        "class 'crane' names several of the model's, expected one of 2, 3" in capfd.readouterr()[1]
    )
    (tmp_path / "model_index.json").write_text(json.dumps({"id2label": {"4": "stork"}}))
    with pytest.raises(InputError, match="id2label has '4', expected numbers below 4"):
        open_denoiser(tmp_path)


def test_what_training_starts_from_is_seen_before_the_data(model, monkeypatch, pictures, capsys):
    """A folder or pattern that is wrong is said first; random parameters that stay so are named."""

    def load(name, **_):
        raise AssertionError("the data were loaded")

    with monkeypatch.context() as context:
        context.setattr(train, "load_images", load)
        with pytest.raises(FileNotFoundError, match="nowhere"):
            train.main(train.Config(data="digits", start="nowhere"))
        with pytest.raises(InputError, match="the pattern 'finale' is found in no parameter"):
            train.main(train.Config(data="digits", start=str(model), train_only="finale"))
    images = dataclasses.replace(load_images(str(pictures)), classes=("a", "b", "c", "d"))
    for pattern, words in (
        ("final", "which keeps newly initialised parameters as they are, random: condition/label"),
        ("final|label", None),
    ):
        config = train.Config(data=str(pictures), start=str(model), train_only=pattern)
        train.model_for(config, images, train.open_start(config))
        said = [line for line in capsys.readouterr()[0].splitlines() if "warning" in line]
        assert len(said) == (words is not None)
        assert words is None or words in said[0]


@pytest.mark.slow
def test_training_on_with_other_data(model, pictures, tmp_path, monkeypatch, capfd):
    """Three of the classes, one file damaged: the table is initialised, what is frozen stays."""
    others = tmp_path / "others"
    for name in ("circle", "stripe", "wall"):
        shutil.copytree(pictures / name, others / name)
    (others / "wall" / "0.png").write_bytes(b"no image")
    flags = [*FLAGS, "--data", others, "--workdir", tmp_path / "run", "--start", model]
    flags += ["--train-only", "label|final", "--skip-unreadable"]
    assert run_here("train", flags[:-1], monkeypatch) == 2
    assert "0.png: not a readable image" in capfd.readouterr()[1]
    assert run_here("train", flags, monkeypatch) == 0
    said = capfd.readouterr()[0]
    assert "1 unreadable, skipped: wall/0.png" in said
    assert "newly initialised parameters: condition/label/table" in said
    old, new = open_denoiser(model), open_denoiser(tmp_path / "run")
    assert new.config.classes == ("circle", "stripe", "wall")
    changed = set()
    for path, leaf in jax.tree_util.tree_leaves_with_path(new.params):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        before = jax.tree_util.tree_leaves_with_path(old.params)
        former = {jax.tree_util.keystr(p, simple=True, separator="/"): v for p, v in before}[name]
        if former.shape != leaf.shape or not np.array_equal(former, leaf):
            changed.add(name.split("/")[0])
    assert changed == {"condition", "final"}
    network = [*flags, "--width", "64"]
    assert run_here("train", network, monkeypatch) == 2
    assert "expected no flags of a network" in capfd.readouterr()[1]


@pytest.mark.slow
def test_preconditioned_training(pictures, tmp_path, monkeypatch, capfd):
    """Trained as EDM, opened as EDM; flags that it has of its own are refused beside it."""
    flags = [*FLAGS, "--width", "32", "--depth", "1", "--patch", "4", "--data", pictures]
    flags += ["--workdir", tmp_path, "--preconditioning", "edm"]
    assert run_here("train", [*flags, "--target", "e"], monkeypatch) == 2
    assert "with preconditioning edm, expected none of them" in capfd.readouterr()[1]
    assert run_here("train", flags, monkeypatch) == 0
    config = open_denoiser(tmp_path).config
    assert (config.sigma_data, config.target, config.schedule.sigma_max) == (0.5, "x", 80.0)
    loss = json.loads((tmp_path / "metrics.json").read_text())["train/loss"]
    assert 0.1 < loss < 3  # |F's error|^2, about one for data of deviation 0.5
