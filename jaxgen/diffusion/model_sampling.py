"""Samples of a trained model in one call, on one device or on those of the parameters::

    model = load_model("runs/images_train")                                  # jaxgen.training
    x = sample_model(model.config, model.params, jax.random.key(0), labels=[3, 3, 7],
                     sampler="DPM++ 2M Karras", steps=20, guidance=1.0)      # in [-1, 1]

Sample i depends on the key and on i alone.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from jaxgen.diffusion.model import DenoiserConfig
from jaxgen.diffusion.named_samplers import sampler_named
from jaxgen.diffusion.process.level_lists import scale_noise, skip_steps, start_from
from jaxgen.diffusion.process.levels import Level
from jaxgen.diffusion.samplers.sampling import Sampler, initial_noise, sample_with_table
from jaxgen.errors import InputError
from jaxgen.typing import Tree


def guidance_weight(guidance: float | None, scale: float | None) -> float | None:
    """The guidance weight w, also from what other programs call the guidance scale, 1 + w.

    Raises:
      InputError: where both are given.
    """
    if scale is None:
        return guidance
    if guidance is not None:
        raise InputError(
            f"guidance is {guidance} and scale is {scale}, expected one of them: "
            "scale = 1 + guidance"
        )
    return scale - 1


def sample_model(
    config: DenoiserConfig,
    params: Tree,
    key: Key[Array, ""],
    labels: Any = None,
    *,
    count: int | None = None,
    sampler: str | Sampler = "DDIM",
    steps: int = 50,
    levels: Level | None = None,
    guidance: float | None = None,
    scale: float | None = None,
    clip: bool = True,
    skip: int = 0,
    x: Any = None,
    noise: Any = None,
    step_noise: Any = None,
    batch: int = 64,
) -> Float[np.ndarray, "N ... C"]:
    """Samples of a model.

    Args:
      config: what the model is.
      params: its parameters.
      key: randomness.
      labels: a class for each sample, [N]; None for a model without.
      count: N, for a model without labels.
      sampler: a name of `jaxgen.diffusion.named_samplers`, or a sampler (with even steps).
      steps: of the sampler.
      levels: its levels, [steps + 1], in place of those of the name; see
        `jaxgen.diffusion.process.level_lists` for what may be done to them.
      guidance: w of ``(1 + w) e(z, c) - w e(z)``; None or 0: the conditional model alone.
      scale: 1 + w, what other programs ask for; in place of `guidance`.
      clip: whether x^ is kept within [-1, 1].
      skip: steps left out at the noisy end; sampling then starts from `x` with noise.
      x: data to start from, [N, ...] in [-1, 1], where steps are skipped.
      noise: standard normal numbers to start with, [N, ...], in place of random ones.
      step_noise: those of each row of the sampler's table, [R, N, ...].
      batch: samples at a time.

    Returns:
      [N, Y, X, C] (or videos), about [-1, 1].

    Raises:
      InputError: for labels that the model has not, an unknown sampler, guidance without a null
        class, noise of another shape, or steps that are skipped without data to start from.
    """
    w = guidance_weight(guidance, scale) or None
    config.check_guidance(w or 0.0)
    label_N, total = _labels(config, labels, count)
    named = sampler_named(sampler if isinstance(sampler, str) else "DDIM", config.schedule)
    method = named.sampler if isinstance(sampler, str) else sampler
    whole = named.levels(config.schedule, steps) if levels is None else levels
    given = skip_steps(whole, skip)
    if skip and x is None:
        raise InputError(f"skip is {skip}, expected data x to start from, [N, ...] in [-1, 1]")
    shape = (total, *config.image_shape)
    for name, value in (("x", x), ("noise", noise)):
        if value is not None and jnp.shape(value) != shape:
            raise InputError(f"{name} has shape {jnp.shape(value)}, expected {shape}")
    index_N = jnp.arange(total)
    drawn = _standard(key, index_N, config) if noise is None else jnp.asarray(noise)
    z_N = scale_noise(drawn, given) if x is None else start_from(jnp.asarray(x), drawn, given)
    static = {"config": config, "sampler": method, "clip": clip}
    table, parts = method.table(given), []
    for first in range(0, total, batch):
        # The last batch repeats the last sample, so that there is one shape to compile.
        index_B = np.minimum(np.arange(first, first + min(batch, total)), total - 1)
        own = None if step_noise is None else jnp.asarray(step_noise)[:, index_B]
        label_B = None if label_N is None else label_N[index_B]
        arrays = params, table, z_N[index_B], index_B, label_B, key, w, own
        parts.append(np.asarray(_sample_batch(*arrays, **static)))
    return np.concatenate(parts)[:total]


def _standard(key: Key[Array, ""], index_N: Int[Array, "N"], config: DenoiserConfig) -> Array:
    """Random numbers of deviation one for each sample."""
    one = Level(*(np.float32(value) for value in (1.0, -np.inf, 0.0, 1.0)))
    return initial_noise(key, index_N, config.image_shape, one)


def _labels(
    config: DenoiserConfig, labels: Any, count: int | None
) -> tuple[Int[np.ndarray, "N"] | None, int]:
    """The labels, checked, and how many samples there are."""
    if not config.network.num_classes:
        if labels is not None or not count or count < 1:
            raise InputError(
                f"labels are {labels}, count is {count}, expected None and a number of samples: "
                "the model has no labels"
            )
        return None, count
    if labels is None:
        raise InputError("labels are None, expected the class of every sample, [N] integers")
    label_N = np.asarray(labels)
    most = config.network.num_classes - (config.null_label is None)
    if label_N.ndim != 1 or not np.issubdtype(label_N.dtype, np.integer) or not len(label_N):
        raise InputError(
            f"labels have shape {label_N.shape} and type {label_N.dtype}, expected [N] integers"
        )
    if label_N.min() < 0 or label_N.max() > most:
        raise InputError(f"labels are {label_N.min()} to {label_N.max()}, expected 0 to {most}")
    if count not in (None, len(label_N)):
        raise InputError(f"count is {count} for {len(label_N)} labels, expected None")
    return label_N.astype(np.int32), len(label_N)


@functools.partial(jax.jit, static_argnames=("config", "sampler", "clip"))
def _sample_batch(
    params, table, z, index_B, label_B, key, w, own, *, config, sampler, clip
) -> Float[Array, "B ... C"]:
    """Samples of a batch; compiled once for equal models, samplers and shapes."""
    denoiser = config.make_denoiser(params, label_B, w, clip=clip)
    return sample_with_table(sampler, denoiser, z, table, key, index_B, noise=own)
