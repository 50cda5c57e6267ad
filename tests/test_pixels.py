"""Pixels: the two forms in which images come, and the one check of both."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_params import random_params

from jaxgen.diffusion import DDIM, CosineSchedule, diffusion_loss, make_steps
from jaxgen.diffusion.conditioning.diffusion_classifier import classify, even_times
from jaxgen.diffusion.conditioning.editing import encode, last_steps, sdedit
from jaxgen.diffusion.conditioning.image_to_image import (
    Colorize,
    Inpaint,
    Uncrop,
    Upsample,
    downsample,
    with_known,
)
from jaxgen.diffusion.conditioning.inpainting import replace_known
from jaxgen.diffusion.conditioning.noise_augmentation import Augmentation
from jaxgen.diffusion.conditioning.reconstruction import moment_guidance, reconstruction_guidance
from jaxgen.diffusion.denoiser import Estimate
from jaxgen.diffusion.distillation.consistency import consistency_training_loss
from jaxgen.diffusion.distillation.progressive import distillation_loss
from jaxgen.diffusion.objectives.decoders import continuous_decoder
from jaxgen.diffusion.objectives.likelihood import dequantise, log_likelihood
from jaxgen.diffusion.objectives.losses import denoiser_loss, draw_noised
from jaxgen.diffusion.objectives.variational import continuous_bound
from jaxgen.diffusion.other_corruptions.cold import Erase, cold_loss, cold_sample
from jaxgen.errors import InputError
from jaxgen.evaluation import ClassifierConfig, apply_classifier, classifier_loss
from jaxgen.pixels import as_data, as_unit, from_unit, to_unit

KEY, COSINE = jax.random.key(0), CosineSchedule()
LEVELS = make_steps(COSINE, 2)
BYTES = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3), dtype=np.uint8)
BYTES[0, 0, 0] = 255
UNIT = to_unit(BYTES)
KEYS_B = jax.random.split(KEY, 2)


def denoiser(z, level):
    return Estimate(0.5 * z, 0.1 * z)


def labelled(z, level, label):
    return Estimate(0.5 * z + label[:, None, None, None], 0.1 * z)


def network(z, time):
    return 0.5 * z


CONFIG = ClassifierConfig(2, 3, widths=(8,))
PARAMS = random_params(lambda key: CONFIG.make_model().init(key, UNIT))["params"]

TAKES_IMAGES = {
    "apply_classifier": lambda x: apply_classifier(CONFIG, PARAMS, x),
    "classifier_loss": lambda x: classifier_loss(CONFIG)(
        PARAMS, {"image": x, "label": jnp.array([0, 1])}, KEY
    ),
    "diffusion_loss": lambda x: diffusion_loss(network, x, KEY, schedule=COSINE),
    "denoiser_loss": lambda x: denoiser_loss(denoiser, x, KEY, schedule=COSINE),
    "draw_noised": lambda x: draw_noised(x, KEY, schedule=COSINE),
    "distillation_loss": lambda x: distillation_loss(denoiser, denoiser, x, KEY, LEVELS),
    "consistency_training_loss": lambda x: consistency_training_loss(
        denoiser, denoiser, x, KEY, LEVELS
    ),
    "continuous_bound": lambda x: continuous_bound(
        denoiser, x, KEY, schedule=COSINE, decoder=continuous_decoder
    ),
    "log_likelihood": lambda x: log_likelihood(denoiser, x, KEY, schedule=COSINE, count=1),
    "dequantise": lambda x: dequantise(x, KEY),
    "classify": lambda x: classify(labelled, x, 2, even_times(COSINE, 2), KEY),
    "sdedit": lambda x: sdedit(DDIM(), denoiser, x, last_steps(LEVELS, 0.5), KEY),
    "encode": lambda x: encode(denoiser, x, LEVELS),
    "replace_known": lambda x: replace_known(
        jnp.zeros(BYTES.shape), jnp.ones(3), x, COSINE.at(0.5), KEYS_B
    ),
    "with_known": lambda x: with_known(denoiser, jnp.ones(3), x)(UNIT, COSINE.at(0.5)),
    "reconstruction_guidance": lambda x: reconstruction_guidance(denoiser, lambda x: x, x)(
        jnp.asarray(UNIT), COSINE.at(0.5)
    ),
    "moment_guidance": lambda x: moment_guidance(denoiser, lambda x: x, x)(
        jnp.asarray(UNIT), COSINE.at(0.5)
    ),
    "Colorize": lambda x: Colorize()(x, KEYS_B),
    "Inpaint": lambda x: Inpaint("boxes")(x, KEYS_B),
    "Uncrop": lambda x: Uncrop()(x, KEYS_B),
    "Upsample": lambda x: Upsample(2)(x, KEYS_B),
    "Augmentation": lambda x: Augmentation(COSINE, 2).at(x, 0.5, KEYS_B),
    "cold_loss": lambda x: cold_loss(lambda z, t: z, Erase(), x, KEY),
    "cold_sample": lambda x: cold_sample(lambda z, t: z, Erase(), x, 2),
}
"""Name -> a call with images."""


@pytest.mark.parametrize("name", TAKES_IMAGES)
def test_bytes_are_the_same_images_and_other_numbers_are_refused(name):
    """uint8 is converted; 0 to 255 as floats and other whole numbers are not taken for it."""
    call = TAKES_IMAGES[name]
    both = lambda *given: [jax.tree.leaves(call(x)) for x in given]  # noqa: E731
    # `apply_classifier` is a loop over batches of its own.
    for found, wanted in zip(
        *(both if name == "apply_classifier" else jax.jit(both))(BYTES, UNIT), strict=True
    ):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    with pytest.raises(InputError, match=r"have values from 0 to 255, expected about \[-1, 1\]"):
        call(BYTES.astype(np.float32))
    with pytest.raises(InputError, match=r"have type int32, expected uint8 or real numbers"):
        call(BYTES.astype(np.int32))


def test_downsampling_takes_bytes_as_well():
    np.testing.assert_allclose(downsample(BYTES, 2), downsample(UNIT, 2), atol=1e-6)


def test_values_are_looked_at_where_they_can_be():
    """Under tracing types alone; numbers that stand where nothing is known may be nan."""
    wide = 3 * jnp.ones(4)
    assert as_data(wide) is wide
    with pytest.raises(InputError, match="images have values from 0 to 3"):
        as_unit(wide)
    np.testing.assert_array_equal(jax.jit(as_unit)(wide), wide)
    assert jax.eval_shape(as_unit, jnp.zeros(3, jnp.uint8)).dtype == jnp.float32
    with pytest.raises(InputError, match="images have type bool"):
        jax.eval_shape(as_unit, jnp.zeros(3, bool))
    assert np.isnan(as_unit(np.array([np.nan, 1.0]))[0])
    assert as_unit(np.zeros((0, 2))).shape == (0, 2)


def test_what_is_a_number_already_is_no_byte_and_the_other_way_round():
    with pytest.raises(InputError, match="images have type float32, expected uint8"):
        to_unit(UNIT)
    with pytest.raises(InputError, match="images have type uint8, expected real numbers"):
        from_unit(BYTES)
