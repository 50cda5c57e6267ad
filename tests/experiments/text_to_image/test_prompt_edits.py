"""Edits by prompts from end to end: what is asked for, what is measured."""

import json

import numpy as np
import pytest
from matplotlib.image import imread
from picture_folder import run_here

from experiments.text_to_image.prompt_edits import (
    colour_pairs,
    edit_prompts,
    maps_of,
    pictures_of,
    psnr_outside,
    with_originals,
    words_to_blend,
)
from experiments.text_to_image.support.captioned_data import make_tokenizer
from jaxgen.data import load_captioned

ALONE, BLENDED = "same noise alone", "with local blend"
FAMILY = {"family": "text_to_image"}


def test_pairs_differ_in_the_colour_alone():
    pictures = load_captioned("shapes", size=16)
    pairs = colour_pairs(pictures, 40)
    colours = set(pictures.attributes.values["colour"])
    held_out = set(pictures.part("test").descriptive)
    for old, new in pairs:
        changed = [(a, b) for a, b in zip(old.split(), new.split(), strict=True) if a != b]
        assert len(changed) == 1
        assert set(changed[0]) <= colours
        assert old in held_out


def test_maps_of_each_edit():
    """One token of a word: a colour that is added has its own attention; a factor is its alone."""
    pairs = [("a red star at the left", "a blue star at the left")]
    pairs += [("a white square at the left", "a red square at the left")]
    tokenizer = make_tokenizer([text for pair in pairs for text in pair])
    for edit in ("colour", "refine", "reweight"):
        prompts = edit_prompts(pairs, edit)
        tokens = tokenizer.encode(prompts)
        found = maps_of(tokens, prompts, edit, 4.0)
        blend = words_to_blend(tokens, 0.3)
        at = blend.edited[0]
        assert [tokens.words(1)[0], tokenizer.decode(tokens.ids[1:2, at : at + 1])] == [
            "a",
            [prompts[1].split()[1]],
        ]
        assert list(blend.edited) == [at, at + 1]
        assert list(blend.original) == ([at] if edit == "refine" else [at, at + 1])
        one = np.ones_like(found.kept_M)
        is_colour = np.arange(one.shape[1]) == at
        kept = one * ~is_colour if edit == "refine" else one
        # What is padding of the longer prompt has no partner there.
        read = tokens.mask[1::2]
        np.testing.assert_array_equal(found.kept_M[read], kept[read])
        factor = np.where(is_colour, 4.0, one) if edit == "reweight" else one
        np.testing.assert_array_equal(found.factor_M, factor)
        assert (found.map_NM.sum(axis=1)[read] == kept[read]).all()


def test_psnr_counts_what_is_outside_of_the_object():
    original = np.full((1, 16, 16, 3), -0.5, np.float32)
    original[0, 6:10, 6:10, 0] = 1.0
    edited = original.copy()
    edited[0, 6:10, 6:10] = -1.0  # the object may change
    edited[0, 4:12, 4:12] += 0.5  # and what is within two pixels of it
    assert psnr_outside(original, edited) == pytest.approx(10 * np.log10(4 / 1e-10))
    edited[0, :4] += 0.2
    share = 4 * 16 / (16 * 16 - 8 * 8)
    assert psnr_outside(original, edited) == pytest.approx(
        10 * np.log10(4 / (share * 0.04)), abs=1e-3
    )


def test_pictures_without_a_background_are_left_out():
    noise = np.random.default_rng(0).uniform(-1, 1, (2, 16, 16, 3)).astype(np.float32)
    assert psnr_outside(noise, -noise) is None
    plain = np.zeros((1, 16, 16, 3), np.float32)
    original, edited = np.concatenate([noise, plain]), np.concatenate([-noise, plain + 0.2])
    assert psnr_outside(original, edited) == pytest.approx(20)


@pytest.mark.slow
def test_a_run_is_edited(tmp_path, monkeypatch, short_classifiers):
    run = tmp_path / "run"
    sizes = ["--training-steps", 8, "--batch-size", 8, "--width", 32, "--depth", 1, "--size", 16]
    sizes += ["--text-width", 32, "--text-depth", 1, "--steps", 2, "--evaluate", 0]
    sizes += ["--checkpoint-every", 8]
    assert run_here("train", [*sizes, "--workdir", run], monkeypatch, **FAMILY) == 0
    folder = tmp_path / "edits"
    arguments = ["--run", run, "--count", 4, "--steps", 2, "--workdir", folder]
    assert run_here("prompt_edits", arguments, monkeypatch, **FAMILY) == 0
    rows = json.loads((folder / "metrics.json").read_text())
    assert set(rows) >= {ALONE, "Prompt-to-Prompt", BLENDED}
    for row in (ALONE, BLENDED):
        assert 0 <= rows[row]["colour as asked"] <= 1
        assert 0 <= rows[row]["other attributes kept"] <= 1
    assert imread(folder / "edits.png").std() > 0.02
    refined = [*arguments, "--edit", "refine"]
    assert run_here("prompt_edits", refined, monkeypatch, **FAMILY) == 0
    assert set(json.loads((folder / "metrics.json").read_text())) >= {ALONE, BLENDED}
    arguments += ["--edit", "reweight", "--real"]
    assert run_here("prompt_edits", arguments, monkeypatch, **FAMILY) == 0
    rows = json.loads((folder / "metrics.json").read_text())
    assert rows["drawn again"]["PSNR, dB"] > 5
    assert 0 <= rows[BLENDED]["other attributes kept"] <= 1


def test_real_pictures_are_those_of_the_captions():
    pictures = load_captioned("shapes", size=16)
    test = pictures.part("test")
    caption = test.descriptive[0]
    rows = [i for i, text in enumerate(test.descriptive) if text == caption][:2]
    assert len(rows) == 2
    found = pictures_of(pictures, [caption, test.descriptive[-1], caption])
    expected = test.images[[rows[0], test.descriptive.index(test.descriptive[-1]), rows[1]]]
    np.testing.assert_allclose(found, expected / 127.5 - 1, atol=1e-6)
    drawn = np.arange(6 * 2, dtype=np.float32).reshape(6, 2)
    mixed = with_originals(drawn, -np.ones((3, 2), np.float32))
    np.testing.assert_array_equal(mixed[::2], -1)
    np.testing.assert_array_equal(mixed[1::2], drawn[1::2])


@pytest.mark.parametrize("program", ["prompt_edits", "guidance", "inpaint"])
def test_runs_on_other_data_are_refused(program, tmp_path, monkeypatch, capfd):
    saved = {"class": "text_to_image.train", "fields": {"data": "emoji"}}
    (tmp_path / "config.json").write_text(json.dumps(saved))
    opener = "open_text_to_image" if program == "prompt_edits" else "open_trained_model"
    module = f"experiments.text_to_image.{program}.{opener}"
    monkeypatch.setattr(module, lambda *_: None)
    arguments = ["--run", tmp_path, "--workdir", tmp_path / "new"]
    arguments += ["--clip-model", tmp_path] if program == "guidance" else []
    assert run_here(program, arguments, monkeypatch, **FAMILY) == 2
    wanted = f"{tmp_path} was trained on emoji, expected a run on captioned shapes"
    assert wanted in capfd.readouterr().err
    assert not (tmp_path / "new").exists()
