"""Samples of a model in one call: labels, guidance, starts, preconditioning, steps of a table."""

import dataclasses
import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxgen.diffusion import (
    EDM,
    DiscreteSchedule,
    guide_network,
    initial_noise,
    make_steps,
    model_sampling,
    sample,
    sample_model,
    start_from,
)
from jaxgen.diffusion.denoiser import clip_x, make_denoiser, step_index, thousandths
from jaxgen.diffusion.model import DenoiserConfig
from jaxgen.diffusion.process.levels import Level
from jaxgen.diffusion.samplers import DDIM, DPMSolver
from jaxgen.errors import InputError

SHAPE = (2, 2, 1)
KEY = jax.random.key(7)


class Tiny(nn.Module):
    out: int

    @nn.compact
    def __call__(self, z, time, label=None, *, train=False):
        shift = self.param("shift", nn.initializers.ones, (4,))
        by_label = 0.0 if label is None else shift[label][:, None, None, None]
        wave = jnp.cos(time / 150).reshape(-1, 1, 1, 1)
        return jnp.concatenate([jnp.tanh(z + 0.3 * by_label) + 0.1 * wave] * self.out, -1)


@dataclass(frozen=True)
class TinyConfig:
    num_classes: int = 3
    null_class: bool = True
    out: int = 1

    def make_model(self):
        return Tiny(self.out)


PARAMS = {"shift": np.float32([0.5, -1.0, 2.0, 0.0])}
CONFIG = DenoiserConfig(TinyConfig(), SHAPE, ("a", "b", "c"))
LABELS = np.array([0, 1, 2, 2, 0], np.int32)


def network(z, time, label=None):
    return Tiny(1).apply({"params": PARAMS}, z, time, label)


@functools.partial(jax.jit, static_argnums=0)
def noise_from(count, level):
    return initial_noise(KEY, jnp.arange(count), SHAPE, level)


def noise_of(levels, count=5):
    return np.asarray(noise_from(count, Level(*(np.float32(v[0]) for v in levels))))


def sampled(sampler, denoiser, z, levels):
    return np.asarray(jax.jit(lambda z: sample(sampler, denoiser, z, levels, KEY))(z))


def test_guided_samples_in_batches():
    """As by hand, however many there are at a time, and by the scale of other programs."""
    levels = make_steps(CONFIG.schedule, 6)
    denoiser = clip_x(guide_network(network, LABELS, 3, 1.5, target="v"))
    wanted = sampled(DDIM(), denoiser, noise_of(levels), levels)
    for options in ({"guidance": 1.5}, {"scale": 2.5, "batch": 2}):
        found = sample_model(CONFIG, PARAMS, KEY, LABELS, steps=6, **options)
        np.testing.assert_allclose(found, wanted, atol=1e-5)
    own = noise_of(levels) / np.hypot(levels.a[0], levels.s[0]).astype(np.float32)
    found = sample_model(CONFIG, PARAMS, KEY, LABELS, steps=6, guidance=1.5, noise=own)
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_a_model_that_is_sampled_again_is_not_compiled_again():
    """Neither with other keys and labels, nor as an equal configuration."""
    sample_model(CONFIG, PARAMS, KEY, [0, 1], steps=3, guidance=1.0)
    compiled = model_sampling._sample_batch._cache_size()
    again = dataclasses.replace(CONFIG)
    sample_model(again, PARAMS, jax.random.key(1), [2, 1], steps=3, guidance=2.5)
    assert model_sampling._sample_batch._cache_size() == compiled
    sample_model(CONFIG, PARAMS, KEY, [0, 1], steps=4, guidance=1.0)
    assert model_sampling._sample_batch._cache_size() == compiled + 1


def test_starting_from_data_and_noise():
    levels, x = make_steps(CONFIG.schedule, 6), 0.3 * np.ones((5, *SHAPE), np.float32)
    noise = np.random.default_rng(1).normal(size=x.shape).astype(np.float32)
    later = type(levels)(*(value[4:] for value in levels))
    denoiser = clip_x(make_denoiser(lambda z, time: network(z, time, LABELS), "v"))
    wanted = sampled(DDIM(), denoiser, start_from(x, noise, later), later)
    found = sample_model(CONFIG, PARAMS, KEY, LABELS, steps=6, skip=4, x=x, noise=noise)
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    drawn = sample_model(CONFIG, PARAMS, KEY, LABELS, steps=6, skip=4, x=x)
    assert 0.01 < np.abs(drawn - found).max() < 2
    with pytest.raises(InputError, match="skip is 4, expected data x to start from"):
        sample_model(CONFIG, PARAMS, KEY, LABELS, steps=6, skip=4)


def test_preconditioned_model():
    """A saved model that says EDM is sampled, and conditioned on its own times, as EDM is."""
    edm = EDM()
    config = DenoiserConfig(TinyConfig(), SHAPE, "abc", "x", edm.schedule, sigma_data=0.5)
    denoiser = edm.make_denoiser(lambda z, time: network(z, time, LABELS), thousandths)
    levels = edm.levels(8)
    wanted = sampled(DPMSolver(2), denoiser, noise_of(levels), levels)
    found = sample_model(
        config, PARAMS, KEY, LABELS, steps=8, sampler="DPM++ 2M Karras", clip=False
    )
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    with pytest.raises(
        InputError, match=r"sigma_data is 0\.5 with target 'v', expected target 'x'"
    ):
        DenoiserConfig(TinyConfig(), SHAPE, "abc", "v", edm.schedule, sigma_data=0.5)


def test_steps_of_a_table_and_learnt_variance():
    """What networks of tables are told, and a second half of the output."""
    table = DiscreteSchedule()
    config = DenoiserConfig(
        TinyConfig(num_classes=0, out=2),
        SHAPE,
        (),
        "e",
        table,
        time_input="step",
        learned_variance=True,
    )
    levels = make_steps(table, 5, "trailing")
    denoiser = make_denoiser(network, "e", time_input=step_index(table))
    wanted = sampled(DDIM(), denoiser, noise_of(levels, 4), levels)
    found = sample_model(config, PARAMS, KEY, count=4, steps=5, sampler="DDIM trailing", clip=False)
    np.testing.assert_allclose(found, wanted, atol=1e-4 * np.abs(wanted).max())
    network_of = config.make_network(PARAMS)
    plain = jax.eval_shape(lambda z: network_of(z, jnp.full(4, 500.0), None), found)
    assert plain.shape == found.shape
    with pytest.raises(InputError, match="time_input is 'step' with CosineSchedule"):
        DenoiserConfig(TinyConfig(), SHAPE, (), time_input="step")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": None}, "labels are None"),
        ({"labels": [0, 4]}, "labels are 0 to 4, expected 0 to 3"),
        ({"labels": [0.5]}, r"labels have shape \(1,\) and type float64"),
        ({"labels": [0], "guidance": 1.0, "scale": 2.0}, "expected one of them"),
        ({"labels": [0], "noise": np.ones(3)}, r"noise has shape \(3,\)"),
        ({"labels": [0], "sampler": "best"}, "sampler is 'best'"),
    ],
)
def test_what_cannot_be_sampled(change, message):
    with pytest.raises(InputError, match=message):
        sample_model(CONFIG, PARAMS, KEY, **change)
