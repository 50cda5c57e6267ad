"""A cascade from end to end in a tiny form, and its parts."""

import collections
import dataclasses
import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.image import imread
from picture_folder import run_here

from experiments.text_to_image.support import cascade_stages
from experiments.text_to_image.support.cascade_sampling import saturated_shares, search_levels
from experiments.text_to_image.support.cascade_stages import pictures_at
from experiments.text_to_image.support.text_training import random_crops
from jaxgen.data import load_captioned
from jaxgen.diffusion.conditioning.image_to_image import downsample
from jaxgen.training import load_model

FAMILY = {"family": "text_to_image"}
FLAGS = [
    *("--sides", 4, 8, 16, "--training-steps", 8, "--batch-size", 8, "--width", 32, "--depth", 1),
    *("--text-width", 32, "--text-depth", 1, "--patch", 2, "--steps", 2, "--evaluate", 8),
    *("--resolver-width", 8, "--resolver-depth", 1, "--resolver-batch", 4, "--small-steps", 3),
    *("--large-steps", 3, "--direct-steps", 3, "--resolver-sampling-steps", 2, "--levels", 0, 0.4),
    *("--evaluator-examples", 64, "--checkpoint-every", 100),
]


def test_smaller_pictures_are_means_of_blocks():
    pictures = load_captioned("shapes", size=16)
    small = pictures_at(pictures, 4)
    whole = pictures.images[:50].astype(float)
    expected = np.array(
        [
            [whole[:, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4].mean((1, 2)) for x in range(4)]
            for y in range(4)
        ]
    )
    assert abs(small.images[:50] - expected.transpose(2, 0, 1, 3)).max() <= 0.5
    assert pictures_at(pictures, 16) is pictures
    assert small.short == pictures.short


def test_a_crop_of_the_small_picture_is_the_small_picture_of_the_crop():
    x = jax.random.uniform(jax.random.key(0), (6, 8, 12, 3))
    crops = random_crops(x, 4, 2, jax.random.key(1))
    small = downsample(x, 2)
    places = set()
    for image, whole, crop in zip(x, small, crops, strict=True):
        at = [
            (r, c)
            for r in range(0, 5, 2)
            for c in range(0, 9, 2)
            if np.array_equal(image[r : r + 4, c : c + 4], crop)
        ]
        ((r, c),) = at
        places.add((r, c))
        part = whole[r // 2 : r // 2 + 2, c // 2 : c // 2 + 2]
        np.testing.assert_allclose(downsample(crop[None], 2)[0], part, atol=1e-6)
    assert len(places) > 2
    assert jnp.array_equal(random_crops(x[:, :4, :4], 4, 2, jax.random.key(1)), x[:, :4, :4])


def test_saturated_shares():
    x = np.array([0.0, 0.5, 1.0, -1.0, 1.2, -3.0, 0.999, 0.98]).reshape(1, 2, 4, 1)
    assert saturated_shares(x) == {"saturated": 5 / 8, "out of range": 2 / 8}


@dataclasses.dataclass(frozen=True)
class Stub:
    """A stage that makes numbers: those it is given, and its level behind them."""

    side: int
    level: float = 0.0

    @property
    def config(self):
        return SimpleNamespace(image_shape=(self.side, self.side, 3))

    def changed(self, level):
        return dataclasses.replace(self, level=level)


class StubSampler:
    """Counts how often each stage is sampled."""

    def __init__(self):
        self.calls = collections.Counter()

    def sample(self, stages, prompts, small=None):
        made = []
        for stage in stages:
            self.calls[stage.side] += 1
            small = np.append([] if small is None else small, stage.level)
            made.append(small)
        return made


def test_levels_are_sought_for_all_and_then_for_each():
    sampler, levels = StubSampler(), (0.0, 0.2, 0.4)

    def distance(made):
        _, small, large = made
        return (small - 0.4) ** 2 + 2 * (large - 0.1) ** 2 + 0.01 * (large == 0)

    chain, table = search_levels(sampler, [Stub(4), Stub(8), Stub(16)], ["a"], levels, distance)
    assert [stage.level for stage in chain] == [0.0, 0.4, 0.2]
    assert table["all super-resolvers"] == {t: pytest.approx(distance([0, t, t])) for t in levels}
    assert table["16 pixels alone"] == {t: pytest.approx(distance([0, 0.2, t])) for t in levels}
    assert table["8 pixels alone"] == {t: pytest.approx(distance([0, t, 0.2])) for t in levels}
    assert sampler.calls == {4: 1, 8: 3 + 1 + 2, 16: 3 + 2 + 2}


@pytest.mark.slow
def test_a_cascade(tmp_path, monkeypatch, short_classifiers):
    monkeypatch.setattr(cascade_stages, "LEVELS", 1)  # more are more to compile, and no news
    folder = tmp_path / "cascade"
    flags = [*FLAGS, "--workdir", folder]
    alone = [*flags, "--stages", "large", "--evaluate", 0]
    assert run_here("cascade", alone, monkeypatch, **FAMILY) == 0
    assert not (folder / "base").exists()
    first = (folder / "large" / "metrics.jsonl").read_text()
    assert run_here("cascade", flags, monkeypatch, **FAMILY) == 0
    assert (folder / "large" / "metrics.jsonl").read_text() == first
    found = json.loads((folder / "metrics.json").read_text())
    assert found["large"]["updates"] == 3
    assert {"real pictures", "cascade trained without augmentation", "direct"} <= set(
        found["samples"]
    )
    assert "real pictures of 4 pixels, enlarged" in found["samples"]
    assert set(found["levels"]["all super-resolvers"]) == {"t = 0", "t = 0.4"}
    assert found["thresholding"]["static"]["base, out of range"] == 0
    assert all(0 <= row["saturated"] <= 1 for row in found["thresholding"].values())
    table = (folder / "table.md").read_text()
    assert "dynamic" in table
    for name in ("samples.png", "levels.png", "thresholding.png"):
        assert imread(folder / name).std() > 0.02
    model = load_model(folder / "small" / "checkpoints")
    assert model.config.augmentation.factor == 2
    assert model.config.augmentation.highest == 0.6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sides", 4, 6, 16], "sides 4 and 6, expected a multiple of the first"),
        (["--levels", 2], "levels are (2.0,), expected one or more from 0 to 1"),
        (["--resolver-width", 12], "resolver_width is 12, expected a multiple of 8"),
        (["--crop", 6], "crop is 6, expected at most 16 and a multiple of 4"),
    ],
)
def test_bad_flags_are_one_line_and_leave_nothing(arguments, message, tmp_path, monkeypatch, capfd):
    folder = tmp_path / "run"
    flags = [*FLAGS, "--workdir", folder, *arguments]
    assert run_here("cascade", flags, monkeypatch, **FAMILY) == 2
    assert message in capfd.readouterr()[1]
    assert not folder.exists()
