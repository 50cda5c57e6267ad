"""The preconditioning of Karras et al. (2022, table 1), in any scaling of the latents.

Symbols: z = a x + s e, sigma = s / a, d the standard deviation of the data, F a network whose input
and output have unit variance at every level::

    x^ = c_skip z + c_out F(c_in z, c_noise)            r = sqrt(s^2 + d^2 a^2)
    c_skip = d^2 a / r^2      c_out = d s / r      c_in = 1 / r      c_noise = ln(sigma) / 4

In the scaling "ve" (a = 1) these are the paper's. Paths that end at sigma_min and not at clean data
(consistency models: Song et al. 2023, appendix C) have s - sigma_min a in place of s in c_skip and
in c_out's numerator, so that x^ is z / a there.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgen.diffusion.denoiser import Denoiser, Estimate, Network, TimeInput, noise_given
from jaxgen.diffusion.process.levels import Level, broadcast_level, expand
from jaxgen.diffusion.process.schedules import Schedule
from jaxgen.errors import InputError


class Scales(NamedTuple):
    """What a network's input and output are multiplied by, of the shape of a level.

    Attributes:
      skip: c_skip.
      out: c_out.
      into: c_in.
    """

    skip: Any
    out: Any
    into: Any


def scales_of(level: Level, sigma_data: float = 0.5, sigma_min: float = 0.0) -> Scales:
    """c_skip, c_out and c_in at a noise level.

    Args:
      level: of any shape.
      sigma_data: d.
      sigma_min: where paths end.
    """
    noise, data = level.s - sigma_min * level.a, sigma_data * level.a
    r = jnp.sqrt(level.s * level.s + data * data)
    skip = sigma_data * data / (noise * noise + data * data)
    return Scales(skip, sigma_data * noise / r, 1 / r)


def quarter_log_sigma(level: Level) -> Any:
    """c_noise = ln(sigma) / 4."""
    return -level.log_snr / 8


def precondition(
    network: Network,
    sigma_data: float = 0.5,
    *,
    sigma_min: float = 0.0,
    time_input: TimeInput = quarter_log_sigma,
) -> Denoiser:
    """The denoiser whose x^ is ``c_skip z + c_out F(c_in z, c_noise)``.

    Args:
      network: F, ``(z, time) -> [B, ...]``.
      sigma_data: d.
      sigma_min: where paths end.
      time_input: the network's conditioning on the noise level, c_noise.

    Raises:
      InputError: unless sigma_min >= 0 and sigma_data > 0.
    """
    if not (0 <= sigma_min < math.inf and 0 < sigma_data < math.inf):
        raise InputError(
            f"sigma_min is {sigma_min}, sigma_data is {sigma_data}, expected sigma_min >= 0 and "
            "sigma_data > 0"
        )

    def denoiser(z: Float[Array, "B ..."], level: Level) -> Estimate:
        level = broadcast_level(level, len(z))
        skip, out, into = (expand(c, z) for c in scales_of(level, sigma_data, sigma_min))
        x = skip * z + out * network(into * z, time_input(level))
        return Estimate(x, noise_given(x, z, level))

    return denoiser


def precondition_network(
    network: Callable[..., Any], schedule: Schedule, sigma_data: float
) -> Callable[..., Any]:
    """F as a network that predicts x, for all that takes networks: ``(z, time, ...) -> x^``.

    Args:
      network: F, ``(z, time, ...) -> prediction`` or several; it gets the same time.
      schedule: tells the level of a time, which is 1,000 t
        (`jaxgen.diffusion.denoiser.thousandths`).
      sigma_data: d.
    """

    def preconditioned(z: Float[Array, "B ..."], time: Array, *args: Any, **kwargs: Any) -> Any:
        level = broadcast_level(schedule.at(jnp.asarray(time) / 1000), len(z))
        skip, out, into = (expand(c, z) for c in scales_of(level, sigma_data))
        outputs = network(into * z, time, *args, **kwargs)
        if isinstance(outputs, tuple):
            return tuple(skip * z + out * output for output in outputs)
        return skip * z + out * outputs

    return preconditioned
