"""unCLIP: the decoder of image vectors, and its diffusion prior as a denoiser of vectors."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import linen as nn

from jaxgen.diffusion import DDIM, make_steps
from jaxgen.diffusion.conditioning.guidance import classifier_free_guidance
from jaxgen.diffusion.denoiser import make_denoiser
from jaxgen.diffusion.image_decoder import ImageDecoderConfig, VectorsAndTexts
from jaxgen.diffusion.model import DenoiserConfig
from jaxgen.diffusion.objectives.losses import diffusion_loss
from jaxgen.diffusion.objectives.weightings import Constant
from jaxgen.diffusion.process.schedules import CosineSchedule
from jaxgen.diffusion.samplers.sampling import sample
from jaxgen.diffusion.text_to_image import Texts, TextToImageConfig
from jaxgen.encoders import CLIPTextConfig, ImagePriorConfig
from jaxgen.errors import InputError
from jaxgen.spacetime import DiTConfig, UViTConfig
from jaxgen.training.saved_configs import config_from_json, config_to_json

B, L, WIDTH, C, T = 3, 4, 8, 6, 2
NETWORK = {"in_channels": 3, "out_channels": 3, "width": 16, "depth": 1, "heads": 2}
DIT = DiTConfig(**NETWORK, num_classes=0, text_width=WIDTH, pooled_width=C)
TOWER = {"width": WIDTH, "depth": 1, "heads": 2, "mlp_units": 16}
ENCODER = CLIPTextConfig(**TOWER, vocabulary=20, length=L, end_id=19, projection=None)
BASE = TextToImageConfig(DenoiserConfig(DIT, (4, 4, 3), ()), ENCODER)
DECODER = ImageDecoderConfig(BASE, vector_scale=C**0.5, context_tokens=T)
PRIOR_NETWORK = ImagePriorConfig(**TOWER, text_width=WIDTH, text_length=L, pooled_width=C)
PRIOR = TextToImageConfig(
    DenoiserConfig(PRIOR_NETWORK, (C,), (), "x"),
    dataclasses.replace(ENCODER, projection=C),
    pooled_scale=C**0.5,
)
IDS = np.array([[1, 2, 3, 19], [5, 19, 0, 0], [7, 8, 19, 0]], np.int32)
MASK = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]], bool)
NULLS = np.array([[19, 0, 0, 0]] * B, np.int32), np.array([[1, 0, 0, 0]] * B, bool)
TEXTS = Texts(IDS, MASK, *NULLS)


def random_params(config):
    """Every number random, so that every path counts."""
    found = jax.eval_shape(config.make_init(), jax.random.key(0))
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32), nn.meta.unbox(found)
    )


@pytest.fixture(scope="module")
def params():
    return random_params(DECODER)


def numbers(*shape, seed=1):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def level_at(time):
    return jax.tree.map(np.float32, CosineSchedule().at(time))


def test_a_vector_is_tokens_before_the_captions_and_the_networks_vector(params):
    """The denoiser is the network with T tokens linear in the vector, whatever the caption."""
    vector, z, level = numbers(B, C), numbers(B, 4, 4, 3, seed=2), level_at(0.5)
    given = VectorsAndTexts(vector, TEXTS)
    found = jax.jit(lambda z: DECODER.make_denoiser(params, given, clip=False)(z, level))(z)
    context = params["context"]
    tokens = (vector @ context["kernel"] + context["bias"]).reshape(B, T, WIDTH)

    @jax.jit
    def wanted(z):
        states, _, _ = ENCODER.make_model().apply({"params": params["encoder"]}, IDS, MASK)
        text = {
            "text_BNC": np.concatenate([tokens, np.zeros((B, L, WIDTH), np.float32)], 1)
            + jax.numpy.pad(states, ((0, 0), (T, 0), (0, 0))),
            "text_mask_BN": np.pad(MASK, ((0, 0), (T, 0)), constant_values=True),
        }

        def network(z, time):
            variables = {"params": params["denoiser"]}
            return DIT.make_model().apply(variables, z, time, None, **text, pooled_BC=vector)

        return make_denoiser(network, "v")(z, level)

    np.testing.assert_allclose(found.x, wanted(z).x, atol=1e-5)


def test_guidance_is_away_from_no_vector_and_no_caption(params):
    vector, z, level = numbers(B, C), numbers(B, 4, 4, 3, seed=2), level_at(0.5)
    given = VectorsAndTexts(vector, TEXTS)

    @jax.jit
    def both(z):
        guided = DECODER.make_denoiser(params, given, 2.0, clip=False)
        nothing = VectorsAndTexts(np.zeros((B, C), np.float32), Texts(*NULLS))
        pair = [DECODER.make_denoiser(params, each, clip=False) for each in (given, nothing)]
        two = classifier_free_guidance(*pair, 2.0)
        return guided(z, level).x, two(z, level).x, pair[1](z, level).x

    found, wanted, without = both(z)
    np.testing.assert_allclose(found, wanted, atol=2e-5)
    assert np.abs(found - without).max(axis=(1, 2, 3)).min() > 1e-2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pooled_width": 0}, "network has pooled_width 0, expected one that takes tokens and"),
        ({"text_width": 0}, "network has text_width 0, expected one that takes tokens and"),
    ],
)
def test_networks_that_take_no_vector(change, message):
    denoiser = dataclasses.replace(BASE.denoiser, network=dataclasses.replace(DIT, **change))
    with pytest.raises(InputError, match=message):
        ImageDecoderConfig(dataclasses.replace(BASE, denoiser=denoiser), 1.0)


def test_wrong_input(params):
    uvit = UViTConfig(**NETWORK, num_classes=0, input_size=(4, 4), text_width=WIDTH, text_length=L)
    base = dataclasses.replace(BASE, denoiser=DenoiserConfig(uvit, (4, 4, 3), ()))
    with pytest.raises(InputError, match="network has pooled_width 0"):
        ImageDecoderConfig(base, 1.0)
    given = VectorsAndTexts(numbers(B, 5), TEXTS)
    with pytest.raises(InputError, match=r"image vectors have shape \(3, 5\), expected \[3, 6\]"):
        DECODER.encode(params, given)
    given = VectorsAndTexts(numbers(B, C), Texts(IDS, MASK))
    with pytest.raises(InputError, match="guidance is given without null texts"):
        DECODER.make_denoiser(params, given, guidance=1.0)
    with pytest.raises(InputError, match="vector_scale is 0"):
        dataclasses.replace(DECODER, vector_scale=0)
    with pytest.raises(InputError, match="pooled_scale is -1"):
        dataclasses.replace(PRIOR, pooled_scale=-1.0)


def test_configurations_are_saved_with_the_length_of_vectors():
    for config in (DECODER, PRIOR):
        saved = config_to_json(config)
        assert config_from_json(saved) == config
    assert config_to_json(PRIOR)["fields"]["pooled_scale"] == C**0.5


def test_the_prior_is_a_denoiser_of_vectors():
    """A network of which nothing but a bias is left finds the one vector that there is.

    Its loss is 0 and every sample is that vector; text vectors have the length that was asked for.
    """
    params = jax.tree.map(np.zeros_like, random_params(PRIOR))
    vector = numbers(C)
    params["denoiser"]["output"]["bias"] = vector
    params["encoder"] = random_params(PRIOR)["encoder"]

    @jax.jit
    def run(key):
        pooled = PRIOR.encode(params, IDS, MASK)["pooled_BC"]
        denoiser = PRIOR.make_denoiser(params, TEXTS, 1.5, clip=False)
        z = numbers(B, C, seed=3)
        drawn = sample(DDIM(), denoiser, z, make_steps(PRIOR.schedule, 4), key)
        conditions = PRIOR.encode(params, IDS, MASK)
        network = PRIOR.denoiser.make_network(params["denoiser"])
        data = np.broadcast_to(vector, (B, C))
        loss, _ = diffusion_loss(
            lambda z, time: network(z, time, None, **conditions),
            data,
            key,
            schedule=PRIOR.schedule,
            target="x",
            weighting=Constant(),
        )
        return pooled, drawn, loss

    pooled, drawn, loss = run(jax.random.key(0))
    np.testing.assert_allclose(np.linalg.norm(pooled, axis=1), C**0.5, rtol=1e-5)
    np.testing.assert_allclose(drawn, np.broadcast_to(vector, (B, C)), atol=1e-4)
    np.testing.assert_allclose(loss, 0, atol=1e-10)
