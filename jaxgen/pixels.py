"""Pixels as numbers: bytes to [-1, 1] and back, and the check of what functions on images take.

::

    x = u / 127.5 - 1            u in 0..255, x in [-1, 1]
    u = round((x + 1) 127.5)     after clipping x to [-1, 1]; halves go to the even number
"""

from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Float32, Shaped, UInt8

from jaxgen.errors import InputError, can_be_checked

IMAGE_LIMIT = 2.0
"""How far pixels may lie from zero: samples may leave [-1, 1] a little, bytes are far outside."""

DATA_LIMIT = 16.0
"""The same for any data of about unit variance, latents of a compressor among them."""


def to_unit(images: UInt8[Any, "*shape"]) -> Float32[Any, "*shape"]:
    """Bytes as numbers in [-1, 1]: ``u / 127.5 - 1``, in float32.

    Args:
      images: uint8 of any shape, of numpy or of JAX (then traceable).

    Raises:
      InputError: for another type, which would be scaled a second time.

    Example:
      >>> to_unit(np.array([0, 51, 255], np.uint8))
      array([-1. , -0.6,  1. ], dtype=float32)
    """
    if images.dtype != np.uint8:
        raise InputError(f"images have type {images.dtype}, expected uint8, bytes of 0 to 255")
    return images.astype(np.float32) / np.float32(127.5) - np.float32(1)


def from_unit(images: Shaped[Any, "*shape"]) -> UInt8[np.ndarray, "*shape"]:
    """Numbers in [-1, 1] as bytes: clipped, then rounded to the nearest byte (halves to even).

    The inverse of `to_unit` on all 256 bytes.

    Args:
      images: Real numbers of any shape, of numpy or JAX; those outside [-1, 1] are clipped.

    Raises:
      InputError: A number is NaN, or these are no real numbers but bytes already.

    Example:
      >>> from_unit(np.array([-1.0, -0.6, 0.0, 2.0]))
      array([  0,  51, 128, 255], dtype=uint8)
    """
    values = np.asarray(images)
    if not jax.numpy.issubdtype(values.dtype, np.floating):
        raise InputError(f"images have type {values.dtype}, expected real numbers in [-1, 1]")
    values = values.astype(np.float32)
    if np.isnan(values).any():
        raise InputError(f"images of shape {values.shape} contain NaN, expected numbers in [-1, 1]")
    return np.rint((np.clip(values, -1, 1) + 1) * np.float32(127.5)).astype(np.uint8)


def as_unit(
    images: Shaped[Any, "*shape"], name: str = "images", limit: float = IMAGE_LIMIT
) -> Float[Any, "*shape"]:
    """Images as real numbers of about [-1, 1], whatever of the two forms they come in.

    Args:
      images: uint8, which `to_unit` converts, or real numbers, which stay as they are; of numpy or
        JAX. Under tracing types are looked at, values are not.
      name: what they are called in an error.
      limit: the largest absolute value. NaN is passed over: it may stand where nothing is known.

    Raises:
      InputError: for other types, and for numbers beyond the limit, such as 0 to 255 as floats.
    """
    if not hasattr(images, "dtype"):
        images = np.asarray(images)
    if images.dtype == np.uint8:
        return to_unit(images)
    if not jax.numpy.issubdtype(images.dtype, np.floating):
        raise InputError(
            f"{name} have type {images.dtype}, expected uint8 or real numbers in [-1, 1]"
        )
    if can_be_checked(images):
        values = np.asarray(images)
        low, high = (
            float(reduce(values, axis=None, initial=0))
            for reduce in (np.fmin.reduce, np.fmax.reduce)
        )
        if max(-low, high) > limit:
            raise InputError(
                f"{name} have values from {low:.4g} to {high:.4g}, expected about [-1, 1]; bytes "
                "are given as uint8, or scaled by u / 127.5 - 1"
            )
    return images


def as_data(x: Shaped[Any, "*shape"], name: str = "x") -> Float[Any, "*shape"]:
    """`as_unit` of any data of a diffusion model, which are about of unit variance, no larger."""
    return as_unit(x, name, DATA_LIMIT)
