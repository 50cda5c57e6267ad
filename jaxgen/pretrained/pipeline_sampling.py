"""From noise to latents with guidance: the program that a pipeline compiles."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxgen.diffusion.conditioning.guidance import compose_conditions, guide_conditions
from jaxgen.diffusion.conditioning.inpainting import Replacement
from jaxgen.diffusion.conditioning.masks import keep_known
from jaxgen.diffusion.denoiser import Denoiser, make_denoiser
from jaxgen.diffusion.model import Conditions
from jaxgen.diffusion.samplers.sampling import sample_with_table
from jaxgen.pretrained.schedulers import SchedulerRecipe
from jaxgen.typing import Tree


class Guide(NamedTuple):
    """How samples are guided; all of it are values.

    Attributes:
      scale: g, of all or of each.
      weights: of further prompts, beside the first one's 1.
      rescale: share of the prediction that gets the deviation of the conditional one; None: none.
    """

    scale: Array
    weights: tuple[Array, ...] = ()
    rescale: Array | None = None


def make_latent_sampling(config: Any, recipe: SchedulerRecipe) -> Callable[..., Array]:
    """``(params, conditions, guide, z, known, table, rows, key) -> latents``, compiled.

    All of them are values. Conditions, ``text_BNC`` and what is laid ``beside`` the latents, are
    those of the prompt, of the negative prompt, and of further prompts; z are the latents to start
    from; known are a mask and latents that stay where it is 1 (None: nothing does); table and
    rows are those of the sampler's steps (`jaxgen.diffusion.samplers.sampling.fill_up`).

    Args:
      config: of the network.
      recipe: noise schedule, target and sampler.
    """
    model = config.make_model()

    def network(params: Tree, z: Array, time: Array, conditions: Conditions) -> Array:
        given = dict(conditions)
        beside = [given.pop("beside")] if "beside" in given else []
        return model.apply({"params": params}, jnp.concatenate([z, *beside], -1), time, **given)

    def guided(params: Tree, conditions: Sequence[Conditions], guide: Guide) -> Denoiser:
        given: dict[str, Any] = {"target": recipe.target, "time_input": recipe.time_input}
        run = functools.partial(network, params)
        if not guide.weights:
            rescale = 0.0 if guide.rescale is None else guide.rescale
            prompt, nothing = conditions
            weight = guide.scale - 1
            return guide_conditions(run, prompt, nothing, weight, rescale=rescale, **given)
        first, empty, *others = (
            make_denoiser(functools.partial(run, conditions=own), **given) for own in conditions
        )
        weights = [guide.scale, *(guide.scale * weight for weight in guide.weights)]
        return compose_conditions(empty, [first, *others], weights)

    @jax.jit
    def run(
        params: Tree,
        conditions: Sequence[Conditions],
        guide: Guide,
        z: Array,
        known: tuple[Array, Array] | None,
        table: Any,
        rows: Array,
        key: Array,
    ) -> Array:
        denoiser = recipe.limit(guided(params, conditions, guide))
        if known is None:
            return sample_with_table(recipe.sampler, denoiser, z, table, key, rows=rows)
        sampler = Replacement(recipe.sampler, *known)
        # Stable Diffusion's last level has a little noise, which known latents would keep.
        found = sample_with_table(sampler, denoiser, z, table, key, rows=rows)
        return keep_known(*known, found)

    return run
