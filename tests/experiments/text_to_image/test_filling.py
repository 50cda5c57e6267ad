"""Models that fill in what is missing: their start, their loss, and what is measured."""

import jax
import numpy as np
import pytest

from experiments.shared.training_runs import OpenedModel, plan_layout_of
from experiments.shared.widened_models import widened_params
from experiments.text_to_image.inpaint import PSNR, fill_figures, holes_of_test
from experiments.text_to_image.support.filling import filling_config, filling_loss
from jaxgen.diffusion.conditioning.masks import known_channels
from jaxgen.diffusion.model import DenoiserConfig
from jaxgen.diffusion.text_to_image import Texts, TextToImageConfig
from jaxgen.encoders import CLIPTextConfig
from jaxgen.errors import InputError
from jaxgen.spacetime import DiTConfig

B, SIDE, WIDTH = 3, 8, 8
ENCODER = CLIPTextConfig(
    width=WIDTH, depth=1, heads=2, mlp_units=16, vocabulary=9, length=4, end_id=8, projection=None
)
DIT = DiTConfig(
    in_channels=3,
    out_channels=3,
    patch=4,
    width=16,
    depth=1,
    heads=2,
    num_classes=0,
    text_width=WIDTH,
    pooled_width=WIDTH,
)
BASE = TextToImageConfig(DenoiserConfig(DIT, (SIDE, SIDE, 3), ()), ENCODER)
TEXTS = Texts(np.array([[1, 2, 3, 8]] * B, np.int32), np.ones((B, 4), bool))


@pytest.fixture(scope="module")
def base():
    """Every number random, so that every path counts."""
    layout = plan_layout_of(BASE)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32), layout.abstract
    )
    return OpenedModel(BASE, params, layout)


def test_the_widened_model_ignores_what_is_known_at_first(base):
    rng = np.random.default_rng(1)
    z, x = (rng.normal(size=(B, SIDE, SIDE, 3)).astype(np.float32) for _ in range(2))
    known = (rng.random((B, SIDE, SIDE, 1)) > 0.5).astype(np.float32)
    wider = filling_config(BASE)
    assert wider.network.in_channels == 2 * 3 + 1
    params = widened_params(base, wider)
    level = jax.tree.map(np.float32, BASE.schedule.at(0.4))
    texts = TEXTS._replace(beside=np.asarray(known_channels(x, known)))
    found = jax.jit(lambda z: wider.make_denoiser(params, texts, clip=False)(z, level))(z)
    wanted = jax.jit(lambda z: BASE.make_denoiser(base.params, TEXTS, clip=False)(z, level))(z)
    np.testing.assert_allclose(found.x, wanted.x, atol=1e-5)
    with pytest.raises(InputError, match="the model takes 4 channels beside z, expected none"):
        filling_config(wider)


def test_the_loss_gets_the_known_part_and_its_mask():
    """Holes of each key; where the mask is 1 the picture is as it was, elsewhere 0."""
    x = np.random.default_rng(2).uniform(-1, 1, (4, 16, 16, 3)).astype(np.float32)
    seen = jax.jit(
        lambda key: filling_loss(lambda params, batch, key: batch["beside"])(
            None, {"image": x}, key
        )
    )
    first, other = seen(jax.random.key(0)), seen(jax.random.key(1))
    mask = np.asarray(first[..., 3:])
    assert set(np.unique(mask)) == {0, 1}
    assert (mask.mean((1, 2, 3)) < 1).all()
    np.testing.assert_array_equal(first[..., :3], mask * x)
    assert (first != other).any(axis=(1, 2, 3)).all()


def test_psnr_is_of_the_known_part_alone():
    class Evaluator:
        """Finds nothing."""

        def figures(self, images, wanted_NF):
            return {}

    x = np.zeros((2, 10, 10, 3), np.float32)
    known = np.ones((2, 10, 10, 1), np.float32)
    known[:, :5] = 0
    made = x.copy()
    made[:, :5] = 1.0
    made[0, 5:] = 0.2
    made[1, 5:] = 0.02
    found = fill_figures(Evaluator(), made, x, known, None)
    assert found == {PSNR: pytest.approx((20 + 40) / 2, abs=1e-4)}


def test_holes_of_test_pictures_are_boxes():
    known = holes_of_test(6, (16, 16), seed=0)
    for mask in known[..., 0]:
        rows, columns = (np.flatnonzero((mask == 0).any(axis)) for axis in (1, 0))
        assert 8 <= len(rows) <= 13
        assert 8 <= len(columns) <= 13
        assert (mask == 0).sum() == len(rows) * len(columns)
