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
from jaxgen.diffusion.denoiser import thousandths
from jaxgen.diffusion.objectives.losses import draw_noised, prediction_loss
from jaxgen.diffusion.objectives.time_distributions import LowDiscrepancy
from jaxgen.diffusion.objectives.weightings import SNRPlus
from jaxgen.parallel import init_sharded, make_mesh


@pytest.mark.parametrize("name", ["dit", "mdt"])
def test_the_loss_by_hand(name):
    """MDT's two predictions, of all patches and of the visible ones, have their losses added."""
    flags = NetworkFlags(network=name, width=32, depth=3, patch=4)
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
