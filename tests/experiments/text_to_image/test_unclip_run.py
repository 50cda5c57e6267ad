"""unCLIP from end to end: priors, decoder, text differences, and what is measured of them."""

import json
import types

import jax
import numpy as np
import pytest
from matplotlib.image import imread
from picture_folder import run_here

from experiments.shared.denoiser_sampling import put_samples
from experiments.text_to_image.support.attribute_evaluator import codes_of, evaluated_names
from experiments.text_to_image.support.captioned_data import make_tokenizer
from experiments.text_to_image.support.text_samples import as_texts
from experiments.text_to_image.support.vector_edits import changed_captions, difference_figures
from experiments.text_to_image.unclip import PRIORS, REAL, TEXT
from jaxgen.data import load_captioned
from jaxgen.data.tokenizers import open_tokenizer
from jaxgen.diffusion.image_decoder import ImageDecoderConfig, VectorsAndTexts
from jaxgen.diffusion.text_to_image import TextToImageConfig
from jaxgen.encoders import CLIPConfig, TextToVectorConfig, VectorCodes
from jaxgen.parallel import make_mesh
from jaxgen.training import load_model

FAMILY = {"family": "text_to_image"}
FLAGS = [
    *("--size", 16, "--clip-updates", 2, "--prior-updates", 2, "--code-updates", 2),
    *("--prior-batch", 8, "--codes", 4),
    *("--prior-width", 32, "--prior-depth", 1, "--buckets", 4, "--products", 4),
    *("--prior-steps", 2, "--training-steps", 2, "--batch-size", 8, "--width", 32, "--depth", 1),
    *("--text-width", 32, "--text-depth", 1, "--steps", 2, "--evaluate", 8, "--edited", 8),
    *("--edit-steps", 2, "--shares", 0.25, 0.5, "--checkpoint-every", 100),
]


def test_one_attribute_of_each_caption_is_changed():
    pictures = load_captioned("shapes", size=16).part("test")
    names = evaluated_names(pictures)
    values = tuple(pictures.attributes.values[name] for name in names)
    chosen = np.arange(0, len(pictures), 13)
    captions, was = [pictures.descriptive[i] for i in chosen], codes_of(pictures)[chosen]
    evaluator = types.SimpleNamespace(names=names, values=values)
    named, wanted, changed = changed_captions(captions, was, evaluator)
    assert set(named) == set(range(len(names)))
    different = wanted != was
    np.testing.assert_array_equal(different.sum(axis=1), 1)
    np.testing.assert_array_equal(different.argmax(axis=1), named)
    possible = set(load_captioned("shapes", size=16).descriptive)
    assert set(changed) <= possible
    for i, (old, new) in enumerate(zip(captions, changed, strict=True)):
        assert old != new
        assert values[named[i]][wanted[i, named[i]]] in new


def test_figures_of_text_differences():
    names = ("shape", "colour")
    was = np.array([[0, 0], [0, 0], [1, 1], [1, 1]])
    wanted = np.array([[1, 0], [0, 1], [0, 1], [1, 0]])
    named = np.array([0, 1, 0, 1])
    found = np.array([[1, 0], [0, 0], [0, 2], [1, 0]])
    figures = difference_figures(names, found, was, wanted, named)
    assert figures["shape as asked"] == 1
    assert figures["colour as asked"] == 0.5
    assert figures["named attribute as asked"] == 0.75
    assert figures["others changed"] == 0.25


def test_vectors_that_samples_are_given_stay_numbers():
    texts = as_texts(make_tokenizer(["a red circle"]), ["a red circle"] * 3)
    given = VectorsAndTexts(np.linspace(0, 1, 12).reshape(3, 4).astype(np.float32), texts)
    with jax.set_mesh(make_mesh("data=1", jax.devices()[:1])):
        found = put_samples(np.array([2, 0]), given)["condition"]
    np.testing.assert_array_equal(found.vector_BC, given.vector_BC[[2, 0]])
    assert found.texts.ids_BL.dtype == np.int32
    assert found.texts.mask_BL.dtype == bool


@pytest.mark.slow
def test_a_run_and_its_resumption(tmp_path, monkeypatch, short_classifiers):
    folder = tmp_path / "run"
    arguments = [*FLAGS, "--workdir", folder]
    assert run_here("unclip", arguments, monkeypatch, **FAMILY) == 0
    rows = json.loads((folder / "metrics.json").read_text())
    for way in (REAL, TEXT, *PRIORS.values()):
        for row in (way, f"{way}, and the caption"):
            assert 0 <= rows[row]["all"] <= 1
    assert rows[REAL]["cosine"] == pytest.approx(1, abs=1e-4)
    assert -1 <= rows[TEXT]["cosine"] < 1
    assert 0 <= rows["text difference, share 0.25"]["others changed"] <= 1
    pictures = ("samples", "variations", "interpolations", "text_differences", "curves")
    for name in pictures:
        assert imread(folder / f"{name}.png").std() > 0.02
    assert "diffusion prior" in (folder / "table.md").read_text()
    assert "share 0.5" in (folder / "differences.md").read_text()

    kinds = {"clip": CLIPConfig, "prior": TextToImageConfig, "code_prior": TextToVectorConfig}
    models = {name: load_model(folder / name / "checkpoints") for name in kinds}
    for name, kind in kinds.items():
        assert isinstance(models[name].config, kind)
    for name in ("prior", "code_prior"):
        kept, given = models[name].params["encoder"], models["clip"].params["text"]
        np.testing.assert_array_equal(kept["positions"], given["positions"])
    codes = VectorCodes(**models["code_prior"].params["codes"])
    assert (np.asarray(codes.largest_K) > np.asarray(codes.least_K)).all()
    decoder = load_model(folder / "decoder" / "checkpoints").config
    assert isinstance(decoder, ImageDecoderConfig)
    assert decoder.vector_scale == models["prior"].config.pooled_scale == 8
    assert open_tokenizer(folder / "tokenizer").size == decoder.base.encoder.vocabulary

    before = (folder / "decoder" / "metrics.jsonl").read_text()
    given = [*FLAGS, "--workdir", folder, "--shares", 0.3, "--evaluate", 4]
    assert run_here("unclip", given, monkeypatch, **FAMILY) == 0
    assert (folder / "decoder" / "metrics.jsonl").read_text() == before
    assert "text difference, share 0.3" in json.loads((folder / "metrics.json").read_text())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--network", "uvit"], "network is 'uvit', expected 'dit', which takes a vector"),
        (["--shares", "2"], "shares is 2.0, expected 0 <= shares <= 1"),
        (["--vector-dropout", "-1"], "vector_dropout is -1.0, expected 0 <= vector_dropout <= 1"),
        (["--buckets", "1"], "buckets is 1, expected 2 or more"),
        (["--prior-width", "40"], "prior_width is 40, expected a multiple of 32"),
        (["--preconditioning", "edm"], "preconditioning is 'edm', expected none"),
        (["--clip-model", "nowhere"], "nowhere"),
        (["--patch", "5"], "patch is 5, expected a divisor of both sides of the images (16 x 16)"),
        (["--codes", "65"], "codes is 65, expected at most pooled_width=64"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(arguments, message, tmp_path, monkeypatch, capfd):
    folder = tmp_path / "run"
    given = [*FLAGS, "--workdir", folder, *arguments]
    assert run_here("unclip", given, monkeypatch, **FAMILY) == 2
    printed = capfd.readouterr()[1]
    assert message in printed
    assert not folder.exists()
