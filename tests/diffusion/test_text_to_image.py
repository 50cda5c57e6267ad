"""Denoisers of texts: an encoder and a network as one model; guidance against two denoisers."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxgen.diffusion import classify, make_steps
from jaxgen.diffusion.conditioning.diffusion_classifier import even_times
from jaxgen.diffusion.conditioning.guidance import classifier_free_guidance, guide_conditions
from jaxgen.diffusion.conditioning.noise_augmentation import Augmentation
from jaxgen.diffusion.denoiser import make_denoiser
from jaxgen.diffusion.distillation.progressive import with_guidance_weight
from jaxgen.diffusion.model import DenoiserConfig
from jaxgen.diffusion.process.example_keys import example_keys
from jaxgen.diffusion.process.schedules import CosineSchedule
from jaxgen.diffusion.text_to_image import Texts, TextToImageConfig
from jaxgen.encoders import CLIPTextConfig
from jaxgen.errors import InputError
from jaxgen.spacetime import DiTConfig
from jaxgen.training.saved_configs import config_from_json, config_to_json

B, L, WIDTH, VECTOR = 3, 5, 8, 6
DIT = DiTConfig(
    in_channels=3,
    out_channels=3,
    width=16,
    depth=1,
    heads=2,
    num_classes=0,
    text_width=WIDTH,
    pooled_width=VECTOR,
)
ENCODER = CLIPTextConfig(
    width=WIDTH,
    depth=1,
    heads=2,
    mlp_units=16,
    vocabulary=20,
    length=L,
    end_id=19,
    projection=VECTOR,
)
CONFIG = TextToImageConfig(DenoiserConfig(DIT, (4, 4, 3), ()), ENCODER)
IDS = np.array([[1, 2, 3, 4, 19], [5, 6, 19, 0, 0], [7, 19, 0, 0, 0]], np.int32)
MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 0, 0, 0]], bool)
NULLS = np.array([[19, 0, 0, 0, 0]] * B, np.int32), np.array([[1, 0, 0, 0, 0]] * B, bool)


def random_params(config):
    """Of the shapes that a model has."""
    found = jax.eval_shape(config.make_init(), jax.random.key(0))
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32), nn.meta.unbox(found)
    )


@pytest.fixture(scope="module")
def params():
    """Every number random, so that every path counts."""
    return random_params(CONFIG)


@pytest.fixture(scope="module")
def latents():
    level = jax.tree.map(lambda value: jnp.float32(value[3]), make_steps(CONFIG.schedule, 8))
    return np.random.default_rng(1).normal(size=(B, 4, 4, 3)).astype(np.float32), level


def test_guidance_is_that_of_two_denoisers(params, latents):
    """One call on twice the batch, text by text, against (1 + w) x(z, text) - w x(z, null)."""
    z, level = latents
    w = jnp.array([0.0, 1.5, 3.0])
    texts = Texts(IDS, MASK, *NULLS)
    found = jax.jit(lambda z: CONFIG.make_denoiser(params, texts, w, clip=False)(z, level))(z)

    @jax.jit
    def two(z):
        pair = [
            CONFIG.make_denoiser(params, Texts(*given), clip=False)
            for given in ((IDS, MASK), NULLS)
        ]
        return classifier_free_guidance(*pair, w)(z, level), pair[0](z, level)

    wanted, alone = two(z)
    np.testing.assert_allclose(found.x, wanted.x, atol=1e-5)
    np.testing.assert_allclose(found.e, wanted.e, atol=1e-5)
    np.testing.assert_allclose(found.x[0], alone.x[0], atol=1e-5)
    assert abs(found.x[1:] - alone.x[1:]).max(axis=(1, 2, 3)).min() > 1e-2


def test_the_network_reads_what_the_encoder_says(params, latents):
    """The denoiser is the network applied to states, mask and pooled vector of the encoder."""
    z, level = latents
    found = jax.jit(CONFIG.make_denoiser(params, Texts(IDS, MASK), clip=False))(z, level)
    encoded = jax.jit(ENCODER.make_model().apply)({"params": params["encoder"]}, IDS, MASK)

    def network(z, time):
        texts = {"text_BNC": encoded.states_BLD, "text_mask_BN": MASK}
        given = {"params": params["denoiser"]}, z, time, None
        return DIT.make_model().apply(*given, **texts, pooled_BC=encoded.pooled_BD)

    wanted = jax.jit(make_denoiser(network, "v"))(z, level)
    np.testing.assert_allclose(found.x, wanted.x, atol=1e-6)


def test_what_is_laid_beside_the_latents_stays_there_without_a_text():
    """The denoiser of a super-resolver against the network on wider inputs, guided by hand."""
    augmentation = Augmentation(CosineSchedule(), 2)
    wide = dataclasses.replace(DIT, in_channels=7)
    denoiser = DenoiserConfig(wide, (4, 4, 3), (), beside_channels=4)
    config = TextToImageConfig(denoiser, ENCODER, augmentation=augmentation)
    params = random_params(config)
    rng = np.random.default_rng(1)
    z = rng.normal(size=(B, 4, 4, 3)).astype(np.float32)
    small = rng.uniform(-1, 1, (B, 2, 2, 3)).astype(np.float32)
    beside = augmentation.at(small, 0.3, example_keys(jax.random.key(0), jnp.arange(B)))
    level = jax.tree.map(lambda value: jnp.float32(value[3]), make_steps(config.schedule, 8))
    texts = Texts(IDS, MASK, *NULLS, beside=beside)
    found = jax.jit(config.make_denoiser(params, texts, 2.0, clip=False))(z, level)

    @jax.jit
    def alone(ids, mask):
        given = config.encode(params, ids, mask)

        def network(z, time):
            inputs = jnp.concatenate([z, beside], -1)
            variables = {"params": params["denoiser"]}
            return wide.make_model().apply(variables, inputs, time, None, **given)

        return make_denoiser(network, "v")(z, level).x

    wanted = 3 * alone(IDS, MASK) - 2 * alone(*NULLS)
    np.testing.assert_allclose(found.x, wanted, atol=1e-4)
    assert config_from_json(config_to_json(config)) == config


def test_a_network_that_was_distilled_takes_the_weight_as_input_and_no_null_text(latents):
    z, level = latents
    wide = dataclasses.replace(DIT, in_channels=3 + 4)
    config = TextToImageConfig(
        DenoiserConfig(wide, (4, 4, 3), (), guidance_channels=4), ENCODER, null_text=False
    )
    params, w_B = random_params(config), jnp.array([0.0, 1.0, 4.0])
    found = jax.jit(config.make_denoiser(params, Texts(IDS, MASK), w_B, clip=False))(z, level)
    given = jax.jit(config.encode)(params, IDS, MASK)

    def network(z, time):
        conditioned = with_guidance_weight(
            lambda z, time: wide.make_model().apply(
                {"params": params["denoiser"]}, z, time, None, **given
            ),
            4,
        )
        return conditioned(z, time, w_B)

    wanted = jax.jit(make_denoiser(network, "v"))(z, level).x
    np.testing.assert_allclose(found.x, wanted, atol=1e-5)


def test_beside_has_the_sizes_of_the_latents(params):
    wide = DenoiserConfig(dataclasses.replace(DIT, in_channels=4), (4, 4, 3), (), beside_channels=1)
    z, time = jnp.zeros((2, 4, 4, 3)), jnp.zeros(2)
    for config, beside, message in (
        (wide, None, r"beside is None, expected shape \(2, 4, 4, 1\)"),
        (wide, z, r"beside is of shape \(2, 4, 4, 3\), expected shape \(2, 4, 4, 1\)"),
        (CONFIG.denoiser, z, r"beside is of shape .*, expected None"),
    ):
        with pytest.raises(InputError, match=message):
            config.apply(params, z, time, beside=beside)
    with pytest.raises(InputError, match="beside_channels is 1, expected 4"):
        TextToImageConfig(wide, ENCODER, augmentation=Augmentation(CosineSchedule(), 2))


def test_padding_matters_only_where_it_is_not_masked(params, latents):
    z, level = latents
    other = np.where(MASK, IDS, 7).astype(np.int32)
    seen = dataclasses.replace(CONFIG, masked=False)
    for config, same in ((CONFIG, True), (seen, False)):
        first, second = (
            np.asarray(
                jax.jit(config.make_denoiser(params, Texts(ids, MASK), clip=False))(z, level).x
            )
            for ids in (IDS, other)
        )
        assert (abs(first - second).max() < 1e-5) == same


def test_a_condition_that_is_no_null_stays_a_condition():
    """What is in both trees alike is given to both copies."""
    z = jnp.ones((2, 3))
    level = jax.tree.map(lambda value: jnp.float32(value[3]), make_steps(CONFIG.schedule, 8))

    def network(z, time, given):
        return given["text"] * z + given["image"]

    given = {"text": jnp.array([[2.0], [3.0]]), "image": jnp.array([[5.0], [7.0]])}
    nulls = {**given, "text": jnp.zeros((2, 1))}
    guided = guide_conditions(network, given, nulls, 1.0, target="x")(z, level)
    np.testing.assert_allclose(guided.x, [[9.0] * 3, [13.0] * 3], rtol=1e-6)  # 2 text + image


def test_the_caption_of_an_image_is_the_one_with_the_least_error(params):
    """`classify` over candidate texts against losses of one text at a time."""
    x = np.random.default_rng(2).uniform(-1, 1, (2, 4, 4, 3)).astype(np.float32)
    levels = even_times(CONFIG.schedule, 4)
    candidates = Texts(IDS, MASK)
    numbered = CONFIG.make_caption_denoiser(params, candidates)
    found = jax.jit(lambda x: classify(numbered, x, B, levels, jax.random.key(3)))(x)

    @jax.jit
    def alone(x, ids, mask):
        texts = Texts(*(jnp.repeat(array[None], 2, axis=0) for array in (ids, mask)))
        denoiser = CONFIG.make_denoiser(params, texts, clip=False)
        one = classify(lambda z, level, _: denoiser(z, level), x, 1, levels, jax.random.key(3))
        return one.loss_BK[:, 0]

    losses = np.stack([alone(x, *row) for row in zip(IDS, MASK, strict=True)], axis=1)
    np.testing.assert_allclose(found.loss_BK, losses, rtol=1e-5)
    np.testing.assert_array_equal(found.label_B, losses.argmin(axis=1))


def test_guidance_without_a_null_text_warns(params):
    config = dataclasses.replace(CONFIG, null_text=False)
    with pytest.warns(UserWarning, match="trained without the empty text"):
        config.make_denoiser(params, Texts(IDS, MASK, *NULLS), 1.0)


def test_the_saved_configuration_is_the_same():
    assert config_from_json(json.loads(json.dumps(config_to_json(CONFIG)))) == CONFIG


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda p: CONFIG.make_denoiser(p, Texts(IDS, MASK), 1.0),
            "guidance is given without null texts, expected null_ids_BL",
        ),
        (
            lambda p: dataclasses.replace(
                CONFIG,
                denoiser=dataclasses.replace(
                    CONFIG.denoiser, network=dataclasses.replace(DIT, text_width=0, pooled_width=0)
                ),
            ),
            "text_width 0 and pooled_width 0, expected a network that reads texts",
        ),
        (
            lambda p: CONFIG.denoiser.make_denoiser(p["denoiser"], None, 1.0),
            r"labels are None, expected \[B\] classes to guide with",
        ),
        (
            lambda p: CONFIG.denoiser.make_denoiser(
                p["denoiser"], None, 1.0, conditions={"pooled_BC": jnp.zeros((B, VECTOR))}
            ),
            r"conditions have shapes .*pooled_BC.* those of none .*, expected the same",
        ),
    ],
)
def test_what_does_not_belong_together_is_refused(params, call, message):
    with pytest.raises(InputError, match=message):
        call(params)
