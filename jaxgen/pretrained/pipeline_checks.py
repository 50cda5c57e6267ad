"""Whether the parts of a pipeline belong together, and what sizes and options they take."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxgen.data.tokenizers import Tokenizer, check_vocabulary
from jaxgen.errors import InputError, check_share
from jaxgen.ids import check_not_string
from jaxgen.pretrained.schedulers import SchedulerRecipe


def check_encoder(tokenizer: Tokenizer, text: Any) -> None:
    """Refuses a tokenizer that is not of an encoder.

    Args:
      tokenizer: of prompts.
      text: the configuration of their encoder.

    Raises:
      InputError: naming both.
    """
    check_vocabulary(tokenizer, text.vocabulary, "the text encoder's table")
    length = tokenizer.length
    if length is None or length > text.length:
        raise InputError(
            f"the tokenizer's length is {length}, expected at most {text.length} tokens, for "
            "which the text encoder has positions"
        )


def check_network(network: Any, autoencoder: Any, text_width: int, pooled_width: int) -> None:
    """Refuses a network that does not belong to the other parts.

    Args:
      network: the configuration of the denoiser.
      autoencoder: that of the images'.
      text_width: of the states that it reads.
      pooled_width: of the vector that it reads.

    Raises:
      InputError: naming both.
    """
    channels = autoencoder.network.latent_channels
    for name, found, expected in (
        ("text_width", network.text_width, text_width),
        ("pooled_width", network.pooled_width, pooled_width),
        ("out_channels", network.out_channels, channels),
    ):
        if found != expected:
            raise InputError(
                f"the network's {name} is {found}, expected {expected}, that of the other parts"
            )
    if network.in_channels not in (channels, 2 * channels + 1):
        raise InputError(
            f"the network's in_channels is {network.in_channels}, expected {channels}, that of "
            f"the other parts, or {2 * channels + 1} with mask and masked image"
        )


def check_pipeline_scheduler(scheduler: SchedulerRecipe) -> None:
    """Refuses schedulers of other networks.

    Raises:
      InputError: naming what is not known here.
    """
    if scheduler.sigma_data is not None or scheduler.learned_variance:
        raise InputError(
            f"the scheduler is {scheduler.name} with sigma_data={scheduler.sigma_data} and "
            f"learned_variance={scheduler.learned_variance}, expected None and False"
        )


def check_call(
    prompts: Sequence[str],
    key: Any,
    *,
    also: Sequence[tuple[Any, float]],
    guidance_scale: Any,
    steps: int,
    noise: Any,
) -> None:
    """Refuses arguments of a call before anything is computed; see `TextToImagePipeline`.

    Raises:
      InputError: naming the argument.
    """
    check_not_string(prompts, "prompts", f"a list, [{prompts!r}]")
    if not hasattr(prompts, "__len__"):
        raise InputError(f"prompts is a {type(prompts).__name__}, expected a list")
    if not prompts:
        raise InputError("prompts are empty, expected one or more")
    if not isinstance(key, jax.Array | np.ndarray) or key.ndim == _is_typed_key(key):
        seed = key if isinstance(key, int | np.integer) else 0
        raise InputError(f"key is {key!r}, expected a key such as jax.random.key({seed})")
    if isinstance(also, str) or not all(_is_pair(one) for one in also):
        raise InputError(f"also is {also!r}, expected pairs of a prompt and its weight")
    try:
        scale = np.asarray(guidance_scale, np.float32)
        np.asarray([weight for _, weight in also], np.float32)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"guidance_scale is {guidance_scale!r} and also is {also!r}, expected numbers, and "
            "pairs of a prompt and its weight"
        ) from error
    if scale.shape not in ((), (len(prompts),)):
        raise InputError(
            f"guidance_scale has shape {scale.shape}, expected one number, or {len(prompts)}, one "
            "for each prompt"
        )
    if not np.isfinite(scale).all():
        raise InputError(f"guidance_scale is {guidance_scale}, expected finite numbers")
    if isinstance(steps, bool) or not isinstance(steps, int | np.integer) or steps < 1:
        raise InputError(f"steps is {steps!r}, expected a whole number, 1 or more")
    if noise is not None and not isinstance(noise, jax.Array | np.ndarray):
        raise InputError(f"noise is a {type(noise).__name__}, expected an array [B, Y, X, C]")


def _is_pair(value: Any) -> bool:
    return isinstance(value, tuple | list) and len(value) == 2


def _is_typed_key(key: Any) -> bool:
    return jax.dtypes.issubdtype(key.dtype, jax.dtypes.prng_key)


def check_rescale(rescale: float, others: int) -> None:
    """Refuses shares out of range, and those of several prompts.

    Args:
      rescale: share of the guided prediction that is rescaled.
      others: prompts beside the first.

    Raises:
      InputError: naming it.
    """
    check_share("rescale", rescale)
    if rescale and others:
        raise InputError(
            f"rescale is {rescale} with {others + 1} prompts, expected 0 or one prompt"
        )


def sides_of_images(
    image: Any, height: int | None, width: int | None, count: int
) -> tuple[int | None, int | None]:
    """Height and width in pixels; those of the images that samples start from, if there are any.

    Args:
      image: [B, Y, X, 3], or None.
      height: what is asked for; None: nothing.
      width: likewise.
      count: B.

    Raises:
      InputError: for another number of images, or another size than theirs.
    """
    if image is None:
        return height, width
    shape = np.shape(image)
    if len(shape) != 4 or shape[0] != count or shape[3] != 3:
        raise InputError(
            f"image has shape {shape}, expected [{count}, Y, X, 3], one of each prompt"
        )
    for name, given, own in zip(("height", "width"), (height, width), shape[1:3], strict=True):
        if given not in (None, own):
            raise InputError(f"{name} is {given}, expected None or {own}, that of the image")
    return shape[1], shape[2]


def sides_of_latents(
    height: int | None, width: int | None, factor: int, levels: int, usual: tuple[int, int]
) -> tuple[int, int]:
    """Height and width of the latents of images of a size.

    Args:
      height: in pixels; None: the usual one.
      width: likewise.
      factor: pixels along the side of a latent.
      levels: of the network, which halves latents once less.
      usual: sides of latents.

    Raises:
      InputError: for a size that autoencoder or network does not take.
    """
    multiple = factor * 2 ** (levels - 1)
    sides = []
    for name, side, own in zip(("height", "width"), (height, width), usual, strict=True):
        pixels = own * factor if side is None else side
        if not isinstance(pixels, int | np.integer) or pixels < 1 or pixels % multiple:
            raise InputError(
                f"{name} is {pixels!r}, expected a whole number, a multiple of {multiple}: it is "
                f"divided by {factor} for latents, which the network halves {levels - 1} times"
            )
        sides.append(pixels // factor)
    return sides[0], sides[1]
