"""Two kinds of guidance from end to end: what is counted, what is chosen, what is drawn."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.image import imread
from picture_folder import run_here

from experiments.shared.denoiser_sampling import SamplingFlags
from experiments.shared.training_runs import OpenedModel
from experiments.text_to_image.guidance import (
    ALONE,
    CLIP,
    FRECHET,
    FREE,
    NONE,
    best_weight,
    network_calls,
)
from experiments.text_to_image.support.noisy_clip import (
    SCHEDULE,
    noisy_clip_loss,
    noisy_vectors,
    vectors_by_time,
)
from jaxgen.data import to_unit
from jaxgen.diffusion.model import DenoiserConfig
from jaxgen.encoders import CLIPConfig, CLIPImageConfig, CLIPTextConfig
from jaxgen.encoders.encoded import encoder_init

FAMILY = {"family": "text_to_image"}
BOTH = {"width": 16, "depth": 1, "heads": 2, "mlp_units": 16, "projection": 8}
HALF = (0.5,) * 3
TOWERS = CLIPConfig(
    CLIPTextConfig(vocabulary=9, length=4, end_id=8, **BOTH),
    CLIPImageConfig(size=8, patch=4, mean=HALF, deviation=HALF, noisy=True, **BOTH),
)


@pytest.fixture(scope="module")
def params():
    return jax.jit(encoder_init(TOWERS))(jax.random.key(0))


def test_every_picture_of_a_batch_gets_noise_of_its_own_time(params):
    """The loss is that of the pictures with noise: other keys, another loss; no noise, none."""
    rng = np.random.default_rng(0)
    image = rng.uniform(-1, 1, (6, 8, 8, 3)).astype(np.float32)
    text = np.concatenate([rng.integers(0, 8, (6, 3)), np.full((6, 1), 8)], 1).astype(np.int32)
    loss_fn = jax.jit(noisy_clip_loss(TOWERS))
    batch = {"image": image, "ids": text}
    first, again, other = (float(loss_fn(params, batch, jax.random.key(i))[0]) for i in (0, 0, 1))
    assert first == again != other
    assert 0 < first < 6


def test_vectors_by_time(params):
    """Those of a x + s e at the level of the time; at time 0 of the pictures themselves."""
    images = np.random.default_rng(1).integers(0, 256, (5, 8, 8, 3)).astype(np.uint8)
    found = vectors_by_time(TOWERS.image, params["image"], images, (0.0, 0.9))
    level = jax.tree.map(jnp.float32, SCHEDULE.at(0.0))
    plain = noisy_vectors(TOWERS.image, params["image"])(to_unit(images), level)
    np.testing.assert_allclose(found[0.0], plain, atol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(found[0.9], axis=1), 1, rtol=1e-5)
    assert np.abs(found[0.9] - found[0.0]).max() > 0.05
    fewer = vectors_by_time(TOWERS.image, params["image"], images[:2], (0.9,))
    np.testing.assert_allclose(fewer[0.9], found[0.9][:2], atol=1e-5)


def test_kinds_have_equal_network_calls():
    model = OpenedModel(DenoiserConfig(None, (8, 8, 3), ()), None, None)
    for sampler, calls in (("ddim", 12), ("dpm_solver", 12), ("heun", 22)):
        flags = SamplingFlags(sampler=sampler, steps=6)
        found = [network_calls(kind, model, flags) for kind in (FREE, CLIP, ALONE)]
        assert set(found) == {calls}, sampler
    assert network_calls(NONE, model, SamplingFlags(steps=6)) == 12


def test_the_weight_with_most_attributes_is_chosen():
    shares = {1.0: (0.5, 3.0), 2.0: (0.7, 4.0), 4.0: (0.7, 3.5), 8.0: (0.6, 1.0)}
    rows = {(CLIP, w): {"all": a, FRECHET: d} for w, (a, d) in shares.items()}
    rows[FREE, 3.0] = {"all": 1.0, FRECHET: 0.0}
    assert best_weight(rows, CLIP) == 4.0


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, pathlib.Path]:
    """Tiny runs of a text-to-image model and of both kinds of CLIP."""
    folder = tmp_path_factory.mktemp("runs")
    sizes = ["--training-steps", 8, "--batch-size", 8, "--width", 32, "--depth", 1, "--size", 16]
    sizes += ["--checkpoint-every", 8]
    texts = ["--text-width", 32, "--text-depth", 1, "--steps", 2, "--evaluate", 0]
    made = {
        "model": ("train", [*sizes, *texts]),
        "noisy": ("clip", [*sizes, "--projection", 8, "--noisy"]),
        "clean": ("clip", [*sizes, "--projection", 8]),
    }
    with pytest.MonkeyPatch.context() as monkeypatch:
        for name, (program, flags) in made.items():
            arguments = [*flags, "--workdir", folder / name]
            assert run_here(program, arguments, monkeypatch, **FAMILY) == 0
    return {name: folder / name for name in made}


@pytest.mark.slow
def test_both_kinds_from_end_to_end(runs, tmp_path, monkeypatch, short_classifiers, capfd):
    figures = json.loads((runs["noisy"] / "metrics.json").read_text())
    assert {f"the same at t = {t:g}" for t in (0.1, 0.5, 0.9)} <= set(figures)
    assert imread(runs["noisy"] / "noise.png").std() > 0.02

    folder = tmp_path / "guidance"
    arguments = ["--run", runs["model"], "--weights", 1, "--clip-weights", 1, 5]
    arguments += ["--steps", 2, "--evaluate", 8, "--workdir", folder]
    assert (
        run_here("guidance", [*arguments, "--clip-model", runs["noisy"]], monkeypatch, **FAMILY)
        == 0
    )
    tables = json.loads((folder / "metrics.json").read_text())
    assert len(tables["validation"]) == 6
    assert len(tables["test"]) == 4
    assert {row["network calls"] for rows in tables.values() for row in rows.values()} == {4}
    for name in ("guidance.png", "samples.png"):
        assert imread(folder / name).std() > 0.02

    arguments[-1] = tmp_path / "other"
    assert (
        run_here("guidance", [*arguments, "--clip-model", runs["clean"]], monkeypatch, **FAMILY)
        == 2
    )
    assert "noisy is False, expected True" in capfd.readouterr()[1]
    assert not (tmp_path / "other").exists()


@pytest.mark.slow
def test_holes_are_filled_from_end_to_end(runs, tmp_path, monkeypatch, short_classifiers):
    folder = tmp_path / "filled"
    arguments = ["--run", runs["model"], "--training-steps", 8, "--batch-size", 8, "--count", 6]
    arguments += ["--steps", 2, "--workdir", folder]
    assert run_here("inpaint", arguments, monkeypatch, **FAMILY) == 0
    rows = json.loads((folder / "metrics.json").read_text())
    for way in ("inpainting model", "guidance, with text", "guidance, without text"):
        assert 0 <= rows[way]["all"] <= 1
    assert imread(folder / "filled.png").std() > 0.02
