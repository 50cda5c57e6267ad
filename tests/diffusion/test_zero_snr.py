"""Networks that predict the noise, where nothing else is left: refused, however deep they lie."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.diffusion.conditioning.diffusion_classifier import classify
from jaxgen.diffusion.conditioning.editing import decode, encode, last_steps, sdedit
from jaxgen.diffusion.conditioning.guidance import (
    classifier_free_guidance,
    classifier_guidance,
    guide_network,
)
from jaxgen.diffusion.conditioning.inpainting import RePaint, Replacement
from jaxgen.diffusion.conditioning.reconstruction import reconstruction_guidance
from jaxgen.diffusion.denoiser import clip_x, make_denoiser
from jaxgen.diffusion.distillation.progressive import distillation_loss
from jaxgen.diffusion.exact import gaussian_denoiser
from jaxgen.diffusion.objectives.decoders import continuous_decoder
from jaxgen.diffusion.objectives.variational import discrete_bound
from jaxgen.diffusion.process.levels import Level
from jaxgen.diffusion.process.step_levels import make_steps
from jaxgen.diffusion.process.table_schedules import DiscreteSchedule
from jaxgen.diffusion.samplers import DDIM
from jaxgen.diffusion.samplers.sampling import sample, sample_with_table
from jaxgen.errors import InputError

KEY = jax.random.key(0)
Z = np.random.default_rng(0).normal(size=(3, 5, 2)).astype(np.float32)
ZERO = DiscreteSchedule(zero_terminal_snr=True)
BEGIN = make_steps(ZERO, 4, "trailing")
"""Levels that begin with a = 0."""


def ways_to_sample(target):
    """name -> a call that comes to a = 0 with a network of a target."""
    denoiser = make_denoiser(lambda z, time: 0.1 * z, target)
    guided = classifier_free_guidance(clip_x(denoiser), denoiser, 0.5)
    on_doubled = guide_network(
        lambda z, time, label: 0.1 * z, np.array([0, 1, 0]), 2, 0.5, target=target
    )
    gaussian = gaussian_denoiser(np.zeros(2), np.eye(2))
    until_noise = Level(*(value[:-1] for value in BEGIN))
    wrapped = classifier_guidance(guided, lambda z, level: -(z**2).sum((1, 2)))
    known = reconstruction_guidance(denoiser, lambda x: x[:, :1], jnp.zeros((3, 1, 2)))

    def run(denoiser, sampler=None):
        return sample(sampler or DDIM(), denoiser, Z, BEGIN, KEY)

    return {
        "asked itself": lambda: denoiser(Z, ZERO.at(1.0)),
        "at one of many levels": lambda: denoiser(Z, ZERO.at(np.array([0.5, 1.0, 0.1]))),
        "sampled": lambda: run(denoiser),
        "jitted": lambda: jax.jit(lambda z: sample(DDIM(), denoiser, z, BEGIN, KEY))(Z),
        "with a table": lambda: sample_with_table(DDIM(), denoiser, Z, DDIM().table(BEGIN), KEY),
        "clipped and guided": lambda: run(guided),
        "guided on a doubled batch": lambda: run(on_doubled),
        "by a classifier": lambda: run(wrapped),
        "by reconstruction": lambda: run(known),
        "inpainting": lambda: run(denoiser, Replacement(DDIM(), jnp.ones(2), 0 * Z)),
        "resampled": lambda: run(denoiser, RePaint(DDIM(), jnp.ones(2), 0 * Z, 2, 2)),
        "edited": lambda: sdedit(DDIM(), denoiser, 0 * Z, last_steps(BEGIN, 1.0), KEY),
        "decoded": lambda: decode(denoiser, Z, BEGIN),
        "as a teacher": lambda: distillation_loss(gaussian, denoiser, 0 * Z, KEY, BEGIN),
        "in a bound": lambda: discrete_bound(
            denoiser, 0 * Z, KEY, levels=until_noise, decoder=continuous_decoder
        ),
        "as a classifier": lambda: classify(
            lambda z, level, _: denoiser(z, level), Z, 2, until_noise, KEY
        ),
    }


@pytest.mark.parametrize("target", ["e", "score"])
def test_sampling_from_pure_noise_wants_more_than_the_noise(target):
    """However deep the network lies; the levels a > 0 of the same schedule are fine."""
    for name, call in ways_to_sample(target).items():
        with pytest.raises(InputError, match=f"target is '{target}' at a level with a = 0"):
            print(name, call())
    denoiser = make_denoiser(lambda z, time: 0.1 * z, target)
    later = last_steps(BEGIN, 0.8)
    assert bool(jnp.isfinite(sample(DDIM(), denoiser, Z, later, KEY)).all())
    # And encoding ends there without asking.
    assert bool(jnp.isfinite(encode(denoiser, Z, BEGIN)).all())


def test_v_says_all_where_noise_says_nothing():
    z = ways_to_sample("v")["sampled"]()
    assert float(jnp.abs(z).max()) > 0.01
    gaussian = gaussian_denoiser(np.zeros(2), np.eye(2))
    rescaled = classifier_free_guidance(gaussian, gaussian, 1.0, rescale=0.5, rescale_target="e")
    with pytest.raises(InputError, match="target is 'e' at a level with a = 0"):
        sample(DDIM(), rescaled, Z, BEGIN, KEY)
