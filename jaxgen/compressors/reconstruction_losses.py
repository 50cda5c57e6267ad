"""What compressors are trained on: reconstruction, perceptual and adversarial losses.

Rombach et al. 2022, appendix G, after Esser et al. 2021 (VQGAN)::

    L = (|x - x^| + w_p LPIPS(x, x^)) / exp(v) + v      Laplace likelihood of learnt log-scale v
        + w L_G + L_bottleneck                          KL, commitment or entropy
    L_G = -D(x^),   L_D = (max(0, 1 - D(x)) + max(0, 1 + D(x^))) / 2       hinge
    w   = 0.5 |grad L_rec| / (|grad L_G| + 1e-4)        at the decoder's last layer, at most 1e4

Losses are means over the numbers of an example: weights then do not depend on its size. The
published ones are sums, and published weights of the KL belong to those.
"""

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgen.errors import InputError
from jaxgen.typing import Tree

Distance = Literal["absolute", "squared"]
"""|x - x^|, sharper, or (x - x^)^2, for the highest PSNR."""

Features = Callable[[Array], Sequence[Array]]
"""Images [N, Y, X, C] in [-1, 1] to the activations [N, Y', X', D] of some layers of a network."""

GAN_SHARE, MOST_GAN_WEIGHT = 0.5, 1e4


def reconstruction_loss(
    x: Float[Array, "B ..."], reconstruction: Float[Array, "B ..."], distance: Distance = "squared"
) -> Float[Array, "B"]:
    """The mean distance of each example.

    Raises:
      InputError: for shapes that differ, or another distance.
    """
    if x.shape != reconstruction.shape:
        raise InputError(f"reconstruction has shape {reconstruction.shape}, expected {x.shape}")
    if distance not in get_args(Distance):
        raise InputError(f"distance is {distance!r}, expected one of {get_args(Distance)}")
    difference = (x - reconstruction).reshape(len(x), -1)
    if distance == "absolute":
        return jnp.abs(difference).mean(1)
    return jnp.square(difference).mean(1)


def perceptual_loss(
    x: Float[Array, "B ..."], reconstruction: Float[Array, "B ..."], features: Features
) -> Float[Array, "B"]:
    """``sum_layers mean |f / |f| - f^ / |f^||^2`` (LPIPS with equal weights; Zhang et al. 2018).

    Args:
      x: images [B, Y, X, C], or videos, whose frames are taken one by one.
      reconstruction: of the same shape.
      features: of images.
    """
    frames = [y.reshape(-1, *y.shape[-3:]) for y in (x, reconstruction)]
    distance = jnp.zeros(())
    for f, g in zip(features(frames[0]), features(frames[1]), strict=True):
        difference = jnp.square(_unit(f) - _unit(g)).sum(-1)
        distance = distance + difference.reshape(len(x), -1).mean(1)
    return distance


def _unit(f: Float[Array, "... D"]) -> Float[Array, "... D"]:
    return f * jax.lax.rsqrt(jnp.square(f).sum(-1, keepdims=True) + 1e-10)


def laplace_likelihood(
    distance_B: Float[Array, "B"], log_scale: Float[Array, ""]
) -> Float[Array, "B"]:
    """``distance / exp(v) + v``: the scale v learns how large distances are."""
    return distance_B / jnp.exp(log_scale) + log_scale


def discriminator_loss(real: Float[Array, "..."], fake: Float[Array, "..."]) -> Float[Array, ""]:
    """The hinge loss of a discriminator, from its logits of real data and of reconstructions."""
    return (jax.nn.relu(1 - real).mean() + jax.nn.relu(1 + fake).mean()) / 2


def generator_loss(fake: Float[Array, "..."]) -> Float[Array, ""]:
    """``-D(x^)``: what the decoder gets of the discriminator."""
    return -fake.mean()


def adversarial_weight(reconstruction_gradient: Tree, generator_gradient: Tree) -> Float[Array, ""]:
    """w of the generator's loss, which makes its gradient half of the reconstruction's (see above).

    Args:
      reconstruction_gradient: of the reconstruction loss by the decoder's last layer.
      generator_gradient: of the generator's loss by the same.
    """
    norms = [_norm(tree) for tree in (reconstruction_gradient, generator_gradient)]
    weight = GAN_SHARE * norms[0] / (norms[1] + 1e-4)
    return jax.lax.stop_gradient(jnp.clip(weight, 0.0, MOST_GAN_WEIGHT))


def _norm(tree: Tree) -> Float[Array, ""]:
    return jnp.sqrt(sum(jnp.square(x).sum() for x in jax.tree.leaves(tree)))
