"""Prompt-to-Prompt: editing an image by its prompt (Hertz et al. 2023).

The original and the edited image are denoised side by side from the same noise. While the noise is
large, the pixels of the edited one pay the attention to its tokens that those of the original pay
to theirs (`jaxgen.data.tokenizers.prompt_maps`), so that the layout stays::

    cross-attention   M* <- c (k (M A) + (1 - k) M*)     while t > 1 - cross_share
    self-attention    S* <- S                            while t > 1 - self_share
    local blend       z* <- z + mask (z* - z)            mask: where attention to some words is high

with M, M* the weights of the original and of the edited image, A, k, c those of a `PromptMap`. The
mask is the mean attention to the words over all blocks and heads, its maximum over 3 x 3 places,
divided by its largest value, above a threshold, in either image. (The paper's code adds up the
attention of all earlier steps; here it is that of the step at hand.)

Under classifier-free guidance it is the conditional half of the batch that is edited::

    denoiser = config.make_denoiser(params, texts, guidance=w)    # texts: original, edited, ...
    denoiser = edit_by_prompt(denoiser, prompt_map)
    x = sample(DDIM(), denoiser, same_noise(z), levels, key)      # original, edited, ...
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxgen.diffusion.denoiser import Denoiser, Estimate
from jaxgen.diffusion.process.levels import Level
from jaxgen.errors import InputError, check_share
from jaxgen.nn.attention_edits import AttentionPlace, editing_attention

MOST_PLACES = 256
"""Self-attention over more places keeps its own weights (maps up to 16 x 16, as in the paper)."""


class LocalBlend(NamedTuple):
    """Where an image may change.

    Attributes:
      original: positions of tokens of the original prompt, whose attention says where.
      edited: the same of the edited prompt.
      threshold: of the attention, as a share of its largest value.
    """

    original: Sequence[int]
    edited: Sequence[int]
    threshold: float = 0.3


def edit_by_prompt(
    denoiser: Denoiser,
    prompt_map: Any,
    *,
    cross_share: float = 0.8,
    self_share: float = 0.4,
    blend: LocalBlend | None = None,
) -> Denoiser:
    """A denoiser of pairs, originals and edited ones, that keeps the layout of the originals.

    Args:
      denoiser: of B latents, original and edited by turns, guided or not: of a network whose
        attention is that of `jaxgen.nn.attention`, without ``remat``.
      prompt_map: the map of the prompts' tokens (`jaxgen.data.tokenizers.prompt_maps`); its
        arrays may have an axis of pairs in front.
      cross_share: the share of times, from pure noise on, with the original's attention to texts.
      self_share: the same of the attention of pixels to each other.
      blend: where images may change; None: anywhere.

    Returns:
      A denoiser of the same B.

    Raises:
      InputError: for shares that are none; when called, for an odd B or a map of another length.
    """
    check_share("cross_share", cross_share)
    check_share("self_share", self_share)

    def edited(z: Float[Array, "B ..."], level: Level) -> Estimate:
        if len(z) % 2:
            raise InputError(f"latents have shape {z.shape}, expected original and edited by turns")
        time = jnp.ravel(jnp.asarray(level.t))[0]
        maps: list[Array] = []

        def edit(weights_BHLN: Array, place: AttentionPlace) -> Array:
            pairs = _in_pairs(weights_BHLN, len(z))
            if place.kind == "self":
                if weights_BHLN.shape[-1] > MOST_PLACES:
                    return weights_BHLN
                return _with_edited(pairs, pairs[:, 0, 0], time > 1 - self_share)
            new = _mapped(pairs[:, 0, 0], pairs[:, 1, 0], prompt_map)
            found = _with_edited(pairs, new, time > 1 - cross_share)
            maps.append(_in_pairs(found, len(z))[:, :, 0].mean(axis=2))
            return found

        with editing_attention(edit):
            estimate = denoiser(z, level)
        return estimate if blend is None else _blended(estimate, maps, blend)

    return edited


def same_noise(z: Float[Array, "B ..."]) -> Float[Array, "B ..."]:
    """Latents in which each edited one starts as its original does."""
    pairs = z.reshape(-1, 2, *z.shape[1:])
    return jnp.repeat(pairs[:, :1], 2, axis=1).reshape(z.shape)


def _in_pairs(weights_BHLN: Array, batch: int) -> Float[Array, "P 2 G H L N"]:
    """Weights by pair, original and edited, conditional first where there are unconditional ones.

    `jaxgen.diffusion.conditioning.guidance.guide_conditions` has each example followed by its
    unconditional copy.
    """
    rows, *shape = weights_BHLN.shape
    if rows % batch:
        raise InputError(
            f"attention has {rows} rows for {batch} latents, expected a multiple: one for each"
        )
    return weights_BHLN.reshape(batch // 2, 2, rows // batch, *shape)


def _with_edited(
    pairs: Float[Array, "P 2 G H L N"], new: Float[Array, "P H L N"], when: Bool[Array, ""]
) -> Float[Array, "B H L N"]:
    """The weights in which the conditional ones of the edited images are new."""
    replaced = pairs.at[:, 1, 0].set(jnp.where(when, new, pairs[:, 1, 0]))
    return replaced.reshape(-1, *pairs.shape[3:])


def _mapped(
    original: Float[Array, "P H L N"], edited: Float[Array, "P H L N"], prompt_map: Any
) -> Float[Array, "P H L N"]:
    """c (k (M A) + (1 - k) M*)."""
    map_NM, kept_M, factor_M = (jnp.asarray(part, jnp.float32) for part in prompt_map)
    if map_NM.shape[-2:] != (original.shape[-1], edited.shape[-1]):
        raise InputError(
            f"the map of prompts has shape {map_NM.shape}, expected "
            f"{(original.shape[-1], edited.shape[-1])}, the tokens that the network attends to"
        )
    map_PNM = jnp.broadcast_to(map_NM, (len(original), *map_NM.shape[-2:]))
    from_original = jnp.einsum("PHLN,PNM->PHLM", original, map_PNM)
    kept, factor = (part[..., None, None, :] for part in (kept_M, factor_M))
    return factor * (kept * from_original + (1 - kept) * edited)


def _blended(estimate: Estimate, maps: Sequence[Array], blend: LocalBlend) -> Estimate:
    """The estimate in which the edited image is the original one outside of the mask."""
    height, width = estimate.x.shape[1:3]
    mask_PYX = _mask(maps, blend, (height, width))
    mask = mask_PYX[..., None]

    def blended(value: Array) -> Array:
        pairs = value.reshape(-1, 2, *value.shape[1:])
        edited = jnp.where(mask, pairs[:, 1], pairs[:, 0])
        return jnp.stack([pairs[:, 0], edited], axis=1).reshape(value.shape)

    return estimate._replace(x=blended(estimate.x), e=blended(estimate.e))


def _mask(
    maps: Sequence[Float[Array, "P 2 L N"]], blend: LocalBlend, size: tuple[int, int]
) -> Bool[Array, "P Y X"]:
    """Where the attention to the words is high, in either image.

    Args:
      maps: attention to texts, mean over heads, of each block.
      blend: the words.
      size: height and width of images.
    """
    if not maps:
        raise InputError("blend is given, but the network has no attention to texts")
    sides = {math.isqrt(one.shape[2]) for one in maps}
    found = []
    for number, positions in enumerate((blend.original, blend.edited)):
        grids = []
        for one in maps:
            seen_PL = one[:, number][..., np.asarray(positions)].mean(axis=-1)
            side = math.isqrt(seen_PL.shape[1])
            if side * side != seen_PL.shape[1]:
                raise InputError(f"attention of {seen_PL.shape[1]} places, expected a square")
            grid = seen_PL.reshape(len(seen_PL), side, side)
            grids.append(jax.image.resize(grid, (len(grid), max(sides), max(sides)), "nearest"))
        mean = jnp.mean(jnp.stack(grids), axis=0)
        pooled = jax.lax.reduce_window(mean, -jnp.inf, jax.lax.max, (1, 3, 3), (1, 1, 1), "SAME")
        large = jax.image.resize(pooled, (len(pooled), *size), "nearest")
        found.append(large / large.max(axis=(1, 2), keepdims=True) > blend.threshold)
    return found[0] | found[1]
