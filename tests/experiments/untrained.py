"""The folder that a run would leave, of a model with random numbers in place of trained ones."""

import pathlib

import jax
import optax
from random_params import random_params

from jaxgen.diffusion.model import DenoiserConfig
from jaxgen.parallel import make_mesh, plan_layout
from jaxgen.training import Checkpoints
from jaxgen.training.state import state_from_params


def save_untrained(config: DenoiserConfig, folder: pathlib.Path) -> None:
    """Writes its checkpoint; no parameter is zero, so that all inputs count."""
    mesh = make_mesh("data=1", jax.devices()[:1])
    with jax.set_mesh(mesh):
        layout = plan_layout(config.make_init(), jax.random.key(0), mesh=mesh)
        params = jax.device_put(random_params(config.make_init()), layout.shardings)
        state = state_from_params(params, layout, tx=optax.identity())
        with Checkpoints(folder / "checkpoints", config=config, keep=1) as checkpoints:
            checkpoints.save(state)
