"""What the comparisons with diffusers share: the network, both loops, and the tables.

The network is a smooth function of latents and time, the same on both sides; noise is drawn here
and handed to diffusers.
"""

import contextlib
import functools
import importlib

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import torch

from jaxgen.diffusion.denoiser import make_denoiser
from jaxgen.diffusion.process.example_keys import example_keys, normal, step_keys
from jaxgen.diffusion.process.table_schedules import CustomTable, DiscreteSchedule

TABLES = {
    "linear": DiscreteSchedule(),
    "scaled_linear": DiscreteSchedule("scaled_linear", beta_first=0.00085, beta_last=0.012),
    "squaredcos_cap_v2": DiscreteSchedule("squared_cosine"),
}
BETAS = {"scaled_linear": {"beta_start": 0.00085, "beta_end": 0.012}}
TARGETS = {"epsilon": "e", "v_prediction": "v", "sample": "x", "flow_prediction": "flow"}
SHAPE = (3, 4, 4, 2)
KEY = jax.random.key(5)
TOLERANCE = 1e-5


@jax.jit
def network(z, time):
    """Smooth in both, and neither odd in z nor the same for all examples."""
    time = jnp.asarray(time, jnp.float32).reshape(-1, 1, 1, 1)
    return 0.7 * jnp.tanh(z + 0.3) + 0.2 * jnp.sin(3 * z) + 0.3 * jnp.cos(time / 150) + 0.1 * z


def twice(z, time):
    """A mean and an output in [-1, 1] for the variance."""
    return jnp.concatenate([network(z, time), jnp.sin(z + time.reshape(-1, 1, 1, 1))], -1)


def latents(scale=1.0):
    return scale * np.asarray(jax.random.normal(jax.random.key(3), SHAPE))


def ours(sampler, denoiser, z, levels, table=None):
    """Latents after every row, and the noise of every row."""
    table = sampler.table(levels) if table is None else table
    keys = example_keys(KEY, jnp.arange(len(z)))
    state, zs, noises = sampler.start(jnp.asarray(z)), [], []
    for i in range(len(table.now.t)):
        row = jax.tree.map(lambda value, i=i: jnp.asarray(value[i]), table)
        row_keys, noise = keys_and_noise(keys, np.int32(i), z.shape[1:])
        state = sampler.step(denoiser, state, row, row_keys)
        zs.append(np.asarray(state.z))
        noises.append(np.asarray(noise))
    return zs, noises


@functools.partial(jax.jit, static_argnums=2)
def keys_and_noise(keys, i, shape):
    row_keys = step_keys(keys, i)
    return row_keys, normal(row_keys, shape)


def swap(array):
    """Channels last to channels first."""
    return np.moveaxis(np.asarray(array), -1, 1)


@contextlib.contextmanager
def given_noise(scheduler, noises):
    """The noises, one after the other, instead of random ones."""
    module = importlib.import_module(type(scheduler).__module__)
    if not hasattr(module, "randn_tensor"):
        yield
        return
    original, rest = module.randn_tensor, iter(noises)
    module.randn_tensor = lambda *_, **__: torch.from_numpy(np.moveaxis(next(rest), -1, 1).copy())
    try:
        yield
    finally:
        module.randn_tensor = original


def theirs(scheduler, z, noises=(), net=network, times=None, **options):
    """Latents after every step (at their times, or those given), channels last."""
    return loop(
        scheduler,
        z,
        scheduler.timesteps if times is None else times,
        lambda i, output, t, sample: scheduler.step(output, t, sample, **options).prev_sample,
        noises,
        net,
        getattr(scheduler, "scale_model_input", as_it_is),
    )


def as_it_is(sample, time):
    """What the network sees of the latents, unless something else is asked for."""
    return sample


def loop(scheduler, z, times, step, noises=(), net=network, see=as_it_is):
    """As `theirs`, for schedulers whose steps want more: ``step(i, output, t, sample)``."""
    sample, zs = torch.from_numpy(swap(z).copy()), []
    with given_noise(scheduler, noises):
        for i, t in enumerate(times):
            now = np.moveaxis(see(sample, t).float().numpy(), 1, -1)
            output = np.asarray(net(now, np.full(len(z), float(t), np.float32)))
            sample = step(i, torch.from_numpy(swap(output).copy()), t, sample)
            zs.append(np.moveaxis(sample.numpy(), 1, -1))
    return zs


def assert_same_steps(found, wanted, scales=None, tolerance=TOLERANCE):
    assert len(found) == len(wanted)
    for i, (a, b) in enumerate(zip(found, wanted, strict=True)):
        b = b if scales is None else b * scales[i]
        assert np.isfinite(b).all()
        assert np.abs(a - b).max() <= tolerance * np.abs(b).max(), (
            f"step {i}: {np.abs(a - b).max() / np.abs(b).max():.2e}"
        )


def in_float64(scheduler):
    """Lets a scheduler compute its coefficients in float64, where high orders cancel."""
    scheduler.sigmas = scheduler.sigmas.double()
    return scheduler


def rounded(level):
    return jnp.round(1000 * level.t - 1)


def fractional(level):
    return 1000 * level.t - 1


def make(target="e", time=rounded, **kwargs):
    return make_denoiser(network, target, time_input=time, **kwargs)


def log_sigma(level):
    """The time input of the networks of Karras et al. (2022)."""
    return jnp.log(level.s) / 4


def edm_denoiser(sigma_data, prediction, time=log_sigma):
    """The preconditioning of Karras et al. (2022, table 1), for latents in the scaling "ve"."""

    def denoiser(z, level):
        sigma = level.s.reshape(-1, 1, 1, 1)
        total = jnp.sqrt(sigma**2 + sigma_data**2)
        sign = 1 if prediction == "epsilon" else -1
        output = network(z / total, time(level))
        x = sigma_data**2 / total**2 * z + sign * sigma * sigma_data / total * output
        return make_denoiser(lambda *_: x, "x")(z, level)

    return denoiser


def table_of(scheduler):
    """The scheduler's table, as it is after rounding to float32 (`test_tables` compares with ours).

    Its last entries are what most of the difference would come from: 1 - 0.999 in float32 is off by
    5e-5, and latents in the scaling "ve" are divided by what follows from it.
    """
    a2 = scheduler.alphas_cumprod.numpy().astype(np.float64)
    with np.errstate(divide="ignore"):
        return CustomTable(tuple((np.log(a2) - np.log1p(-a2)).tolist()))


def scheduler_of(name, beta_schedule="linear", **config):
    kind = getattr(diffusers, name)
    return kind(beta_schedule=beta_schedule, **BETAS.get(beta_schedule, {}), **config)


def in_ve(levels, repeated=1):
    """What latents of the scaling "ve" are multiplied by after each step."""
    ends = np.repeat(levels.a[1:], repeated)
    return ends if repeated == 1 else ends[: len(ends) - 1]


SIGMAS = [
    ({"use_karras_sigmas": True}, "karras"),
    ({"use_exponential_sigmas": True}, "uniform_log_snr"),
]
