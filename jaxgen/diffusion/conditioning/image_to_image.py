"""Image-to-image tasks by conditioning, in the manner of Palette (Saharia et al. 2022).

A task spoils an image x and says what is left of it as channels that lie beside the noisy image in
the network's input. Training and sampling use the same function::

    given = task(x_BYXC, keys_B)                                 what is left of x
    network = with_condition(network, given.condition_BYXC)      z -> [z, condition]
    denoiser = make_denoiser(network, "v")
    denoiser = with_known(denoiser, given.known_BYX1, x_BYXC)    known pixels stay
    loss_B, level = denoiser_loss(denoiser, x_BYXC, key, schedule=schedule)

=============  ====================================  =================================  =========
task           condition                             known                              channels
=============  ====================================  =================================  =========
`Colorize`     luma                                  nothing                            1
`Inpaint`      x, noise in strokes or boxes          the rest                           C
`Uncrop`       x, noise on one side or all four      the rest                           C
`Upsample`     block means, enlarged again           nothing                            C
=============  ====================================  =================================  =========

Images lie in [-1, 1], or are bytes (uint8), which are converted. Holes are filled with
standard normal noise, as in the paper, which also shows the network where they are.
"""

import abc
import dataclasses
import math
from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, Shaped

from jaxgen.diffusion.conditioning.masks import (
    keep_known,
    known_data,
    random_borders,
    random_boxes,
    random_strokes,
)
from jaxgen.diffusion.denoiser import Denoiser, change_x
from jaxgen.diffusion.process.example_keys import normal, step_keys
from jaxgen.errors import InputError
from jaxgen.pixels import as_data, as_unit

LUMA_C = np.array([0.299, 0.587, 0.114], np.float32)
"""Shares of red, green and blue in the luma (ITU-R BT.601)."""

Masks = Literal["strokes", "boxes", "both"]


class Given(NamedTuple):
    """What a task leaves of images.

    Attributes:
      condition_BYXC: channels for the network's input.
      known_BYX1: 1 where the image itself is known, 0 where it is to be made.
    """

    condition_BYXC: Array
    known_BYX1: Array


class Task(abc.ABC):
    """A function from images and the examples' keys to what is left of them."""

    def condition_channels(self, channels: int) -> int:
        """Channels of the condition for images of so many."""
        return channels

    @abc.abstractmethod
    def __call__(self, x_BYXC: Shaped[Array, "B Y X C"], keys_B: Key[Array, "B"]) -> Given:
        """What is left of the images; example b depends on its own key alone."""


@dataclasses.dataclass(frozen=True)
class Colorize(Task):
    """Grey to colour: the condition is the luma.

    Raises:
      InputError: when called, for images that have not three channels.
    """

    def condition_channels(self, channels: int) -> int:
        """One."""
        return 1

    def __call__(self, x_BYXC: Shaped[Array, "B Y X 3"], keys_B: Key[Array, "B"]) -> Given:
        """The luma [B, Y, X, 1]; the keys are not used."""
        if x_BYXC.shape[-1] != 3:
            raise InputError(f"images have shape {x_BYXC.shape}, expected three channels, RGB")
        x_BYXC = as_unit(x_BYXC)
        return Given((x_BYXC * LUMA_C).sum(-1, keepdims=True), jnp.zeros((*x_BYXC.shape[:-1], 1)))


@dataclasses.dataclass(frozen=True)
class Inpaint(Task):
    """Holes to fill.

    Attributes:
      masks: "strokes" (free-form), "boxes", or "both", one or the other with equal chance.

    Raises:
      InputError: for other masks; when called, for what is not [B, Y, X, C].
    """

    masks: Masks = "both"

    def __post_init__(self) -> None:
        if self.masks not in get_args(Masks):
            raise InputError(
                f"masks is {self.masks!r}, expected one of {', '.join(get_args(Masks))}"
            )

    def __call__(self, x_BYXC: Shaped[Array, "B Y X C"], keys_B: Key[Array, "B"]) -> Given:
        """The images with noise in the holes."""
        size, x_BYXC = _sides(x_BYXC), as_data(x_BYXC, "images")
        choice_B, mask_B, noise_B = (step_keys(keys_B, i) for i in range(3))
        if self.masks == "boxes":
            known = random_boxes(mask_B, size)
        elif self.masks == "strokes":
            known = random_strokes(mask_B, size)
        else:
            heads = jax.vmap(jax.random.bernoulli)(choice_B)[:, None, None, None]
            known = jnp.where(heads, random_boxes(mask_B, size), random_strokes(mask_B, size))
        return _with_holes(x_BYXC, known, noise_B)


@dataclasses.dataclass(frozen=True)
class Uncrop(Task):
    """Images to continue beyond one side, or beyond all four.

    Attributes:
      share: of the area that is to be made.

    Raises:
      InputError: unless 0 < share < 1; when called, for what is not [B, Y, X, C].
    """

    share: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise InputError(f"share is {self.share}, expected 0 < share < 1")

    def __call__(self, x_BYXC: Shaped[Array, "B Y X C"], keys_B: Key[Array, "B"]) -> Given:
        """The images with noise at the border."""
        x_BYXC = as_data(x_BYXC, "images")
        mask_B, noise_B = (step_keys(keys_B, i) for i in range(2))
        return _with_holes(x_BYXC, random_borders(mask_B, _sides(x_BYXC), self.share), noise_B)


@dataclasses.dataclass(frozen=True)
class Upsample(Task):
    """Small to large: the condition is the image shrunk by a factor and enlarged again.

    Attributes:
      factor: of both sides.

    Raises:
      InputError: for a factor below 2; when called, for sides that it does not divide.
    """

    factor: int = 4

    def __post_init__(self) -> None:
        if self.factor < 2:
            raise InputError(f"factor is {self.factor}, expected at least 2")

    def __call__(self, x_BYXC: Shaped[Array, "B Y X C"], keys_B: Key[Array, "B"]) -> Given:
        """The blurred images; the keys are not used."""
        x_BYXC = as_data(x_BYXC, "images")
        condition = upsample(downsample(x_BYXC, self.factor), self.factor)
        return Given(condition, jnp.zeros((*x_BYXC.shape[:-1], 1)))


def with_condition(
    network: Callable[..., Array], condition_BYXC: Float[Array, "B Y X C"]
) -> Callable[..., Array]:
    """A network that gets condition channels beside z: ``network([z, condition], time, ...)``.

    Under `guide_network`, whose batch is twice as long, it takes ``twice(condition)``.

    Args:
      network: takes C_z + C_condition channels.
      condition_BYXC: [B, Y, X, C_condition], or with frames, as z.

    Raises:
      InputError: when called with latents of another batch or size.
    """

    def conditioned(z: Float[Array, "B ..."], time: Array, *rest: Array) -> Array:
        if z.shape[:-1] != condition_BYXC.shape[:-1]:
            raise InputError(
                f"condition has shape {condition_BYXC.shape} for latents of shape {z.shape}, "
                "expected the same in all but the channels"
            )
        return network(jnp.concatenate([z, condition_BYXC], -1), time, *rest)

    return conditioned


def with_known(
    denoiser: Denoiser, known: Shaped[Array, "..."], x: Shaped[Array, "B ..."]
) -> Denoiser:
    """A denoiser that knows a part of the data, and estimates the rest.

    In training the loss is then on what is to be made alone (Palette, section 4; a mean over all
    pixels, those that are known counting zero); in sampling known pixels come out as they are.

    Args:
      denoiser: for the rest.
      known: 1 where known; broadcasts against x.
      x: data, [B, ...]; where it is not known it does not matter, and may even be nan.
    """
    x = known_data(known, x)
    return change_x(denoiser, lambda made: keep_known(known, x, made))


def downsample(x: Shaped[Array, "*B Y X C"], factor: int) -> Float[Array, "*B Y2 X2 C"]:
    """Means over blocks of factor x factor pixels: a linear low-pass filter.

    Raises:
      InputError: where the factor does not divide both sides.
    """
    *lead, height, width, channels = x.shape
    if factor < 1 or height % factor or width % factor:
        raise InputError(f"factor is {factor}, expected a divisor of both {height} and {width}")
    x = as_unit(x, "x", limit=math.inf)
    blocks = x.reshape(*lead, height // factor, factor, width // factor, factor, channels)
    return blocks.mean((-4, -2))


def upsample(x: Float[Array, "*B Y X C"], factor: int) -> Float[Array, "*B Y2 X2 C"]:
    """Bilinear interpolation to factor times the sides."""
    *lead, height, width, channels = x.shape
    shape = (*lead, height * factor, width * factor, channels)
    return jax.image.resize(as_unit(x, "x", limit=math.inf), shape, "bilinear")


def _sides(x_BYXC: Array) -> tuple[int, int]:
    """Height and width of images, and of nothing else."""
    if x_BYXC.ndim != 4:
        raise InputError(f"images have shape {x_BYXC.shape}, expected [B, Y, X, C]")
    return x_BYXC.shape[1], x_BYXC.shape[2]


def _with_holes(x_BYXC: Array, known_BYX1: Array, keys_B: Key[Array, "B"]) -> Given:
    """Noise where nothing is known."""
    noise_BYXC = normal(keys_B, x_BYXC.shape[1:])
    return Given(keep_known(known_BYX1, x_BYXC, noise_BYXC), known_BYX1)
