"""From noise to latents with guidance: the program that a pipeline compiles."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxgen.diffusion.conditioning.guidance import guide_conditions
from jaxgen.diffusion.conditioning.inpainting import Replacement
from jaxgen.diffusion.conditioning.masks import keep_known
from jaxgen.diffusion.samplers.sampling import sample_with_table
from jaxgen.pretrained.schedulers import SchedulerRecipe
from jaxgen.typing import Tree

Conditions = dict[str, Array]
"""``text_BNC``, and ``beside``, which is laid beside the latents."""


def make_sampling(config: Any, recipe: SchedulerRecipe) -> Callable[..., Array]:
    """``(params, conditions, nulls, w, z, known, table, key) -> latents``, compiled.

    All of them are values: w the guidance weight, z the latents to start from, known a mask and
    latents that stay where it is 1 (None: nothing does), table that of the sampler's steps.

    Args:
      config: of the network.
      recipe: noise schedule, target and sampler.
    """
    model = config.make_model()

    def network(params: Tree, z: Array, time: Array, conditions: Conditions) -> Array:
        given = dict(conditions)
        beside = [given.pop("beside")] if "beside" in given else []
        return model.apply({"params": params}, jnp.concatenate([z, *beside], -1), time, **given)

    @jax.jit
    def run(
        params: Tree,
        conditions: Conditions,
        nulls: Conditions,
        w: Array,
        z: Array,
        known: tuple[Array, Array] | None,
        table: Any,
        key: Array,
    ) -> Array:
        guided = guide_conditions(
            functools.partial(network, params),
            conditions,
            nulls,
            w,
            target=recipe.target,
            time_input=recipe.time_input,
        )
        denoiser = recipe.limit(guided)
        if known is None:
            return sample_with_table(recipe.sampler, denoiser, z, table, key)
        sampler = Replacement(recipe.sampler, *known)
        # Stable Diffusion's last level has a little noise, which known latents would keep.
        return keep_known(*known, sample_with_table(sampler, denoiser, z, table, key))

    return run
