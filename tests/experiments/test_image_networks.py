"""The loss of the image experiments, written out by hand from the same randomness."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.images.support.image_networks import (
    NetworkFlags,
    make_config,
    make_loss,
)
from jaxgen.diffusion import EDM, DiscreteSchedule, KarrasSchedule
from jaxgen.diffusion.denoiser import thousandths
from jaxgen.diffusion.model import DenoiserConfig
from jaxgen.diffusion.objectives.losses import draw_noised, prediction_loss
from jaxgen.diffusion.objectives.time_distributions import LowDiscrepancy
from jaxgen.diffusion.objectives.weightings import SNR, SNRPlus
from jaxgen.parallel import init_sharded, make_mesh
from jaxgen.spacetime import DiTConfig


@pytest.mark.parametrize("name", ["dit", "mdt"])
def test_the_loss_by_hand(name):
    """MDT's two predictions, of all patches and of the visible ones, have their losses added."""
    flags = NetworkFlags(network=name, width=32, depth=3 if name == "mdt" else 1, patch=4)
    config = make_config(flags, (8, 8, 1), ("a", "b"), "epsilon")
    assert config.target == "e"
    key, images = jax.random.key(1), jax.random.uniform(jax.random.key(2), (4, 8, 8, 1))
    batch = {"image": images, "label": jnp.array([0, 1, 0, 1])}
    mesh = make_mesh("data=1", jax.devices()[:1])
    with jax.set_mesh(mesh):
        params, layout = init_sharded(config.make_init(), jax.random.key(0), mesh=mesh)
        params = jax.tree.map(lambda p: p + 0.02, params)
        found, metrics = jax.jit(make_loss(config, SNRPlus(), layout))(params, batch, key)

    def by_hand(params):
        noise_key, dropout_key, mask_key = jax.random.split(key, 3)
        noised = draw_noised(images, noise_key, schedule=config.schedule, times=LowDiscrepancy())
        outputs = config.make_model().apply(
            {"params": params},
            noised.z,
            thousandths(noised.level),
            batch["label"],
            train=True,
            rngs={"dropout": dropout_key, "mask": mask_key},
            method="full_and_masked" if name == "mdt" else None,
        )
        several = outputs if name == "mdt" else (outputs,)
        return sum(
            prediction_loss(
                output, images, noised.e, noised.level, target="e", weighting=SNRPlus()
            ).mean()
            for output in several
        )

    np.testing.assert_allclose(found, jax.jit(by_hand)(params), rtol=1e-6)
    parts = [metrics[f"loss_snr_{i}"] for i in range(4)]
    np.testing.assert_allclose(sum(parts), found, rtol=1e-6)


@pytest.mark.parametrize("kind", ["step", "edm"])
def test_the_loss_of_other_networks(kind):
    """Steps of a table with a learnt variance, as imported networks have; and EDM by hand."""
    network = DiTConfig(
        width=16, depth=1, heads=2, num_classes=2, in_channels=1, out_channels=1 + (kind == "step")
    )
    if kind == "step":
        options = {"time_input": "step", "learned_variance": True}
        config = DenoiserConfig(network, (4, 4, 1), ("a", "b"), "e", DiscreteSchedule(), **options)
    else:
        config = DenoiserConfig(
            network, (4, 4, 1), ("a", "b"), "x", KarrasSchedule(), sigma_data=0.5
        )
    key, images = jax.random.key(1), jax.random.uniform(jax.random.key(2), (4, 4, 4, 1))
    batch = {"image": images, "label": jnp.array([0, 1, 0, 1])}
    mesh = make_mesh("data=1", jax.devices()[:1])
    with jax.set_mesh(mesh):
        params, layout = init_sharded(config.make_init(), jax.random.key(0), mesh=mesh)
        params = jax.tree.map(lambda p: p + 0.02, params)
        found, _ = jax.jit(make_loss(config, SNR(), layout))(params, batch, key)

    def output_of(params, z, time, dropout_key):
        rngs = {"dropout": dropout_key}
        label = batch["label"]
        return config.make_model().apply({"params": params}, z, time, label, train=True, rngs=rngs)

    def by_hand(params):
        noise_key, dropout_key, _ = jax.random.split(key, 3)
        times = LowDiscrepancy() if kind == "step" else LowDiscrepancy(EDM().times)
        noised = draw_noised(images, noise_key, schedule=config.schedule, times=times)
        level = noised.level
        if kind == "step":
            output = output_of(params, noised.z, 1000 * level.t - 1, dropout_key)
            return jnp.square(output[..., :1] - noised.e).mean()
        sigma = level.s.reshape(-1, 1, 1, 1)
        total = jnp.sqrt(sigma**2 + 0.25)
        output = output_of(params, noised.z / total, 1000 * level.t, dropout_key)
        wanted = (images - 0.25 / total**2 * noised.z) * total / (0.5 * sigma)
        return jnp.square(output - wanted).mean()

    np.testing.assert_allclose(found, jax.jit(by_hand)(params), rtol=1e-4)
