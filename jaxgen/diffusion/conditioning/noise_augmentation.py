"""Noise-conditioning augmentation for cascades (Ho et al. 2022, CDM; Saharia et al. 2022, Imagen).

A super-resolver that was trained on small versions of real images sees, when it is used, the small
images that another model made, which are not quite alike. Noise on the small image, in training and
in use, hides the difference; the network is conditioned on how much there is, so it knows what to
trust.

Symbols: y the small image, c = a_t y + s_t e the noisy one at level t of a schedule, t in [0, 1].
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, Shaped

from jaxgen.diffusion.conditioning.image_to_image import upsample
from jaxgen.diffusion.process.example_keys import normal, step_keys, uniform
from jaxgen.diffusion.process.forward import add_noise
from jaxgen.diffusion.process.levels import broadcast_level, expand
from jaxgen.diffusion.process.schedules import Schedule
from jaxgen.errors import InputError
from jaxgen.pixels import as_data


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Makes the condition of a super-resolver from the small image.

    Attributes:
      schedule: what t means.
      factor: sides of the large image in units of the small one's.
      lowest: the least noise in training, as a time.
      highest: the most; below 1 where the small image shall never be quite hidden.

    Raises:
      InputError: for a factor below 1, or unless 0 <= lowest <= highest <= 1.
    """

    schedule: Schedule
    factor: int
    lowest: float = 0.0
    highest: float = 1.0

    def __post_init__(self) -> None:
        if self.factor < 1:
            raise InputError(f"factor is {self.factor}, expected at least 1")
        if not 0 <= self.lowest <= self.highest <= 1:
            raise InputError(
                f"lowest is {self.lowest}, highest is {self.highest}, expected "
                "0 <= lowest <= highest <= 1"
            )

    def condition_channels(self, channels: int) -> int:
        """Channels of the condition for small images of so many: one more, for the level."""
        return channels + 1

    def at_random(
        self, y_BYXC: Float[Array, "B Y X C"], keys_B: Key[Array, "B"]
    ) -> Float[Array, "B Y2 X2 C1"]:
        """The condition at a time drawn for each example: for training."""
        share_B = uniform(step_keys(keys_B, 1))
        return self.at(y_BYXC, self.lowest + (self.highest - self.lowest) * share_B, keys_B)

    def at(
        self,
        y_BYXC: Shaped[Array, "B Y X C"],
        t: float | Float[Array, "..."],
        keys_B: Key[Array, "B"],
    ) -> Float[Array, "B Y2 X2 C1"]:
        """The condition at a known time: for sampling, where t is worth a search (Imagen, 2.4).

        Args:
          y_BYXC: small images.
          t: noise on them, [] or [B], traced.
          keys_B: the examples' keys.

        Returns:
          [B, Y * factor, X * factor, C + 1]: the noisy images, enlarged, of unit scale whatever the
          schedule's scaling; and a last channel that holds 2 t - 1 everywhere.
        """
        y_BYXC = as_data(y_BYXC, "images")
        level = broadcast_level(self.schedule.at(jnp.asarray(t, jnp.float32)), len(y_BYXC))
        e_BYXC = normal(step_keys(keys_B, 0), y_BYXC.shape[1:])
        scale_B = jax.lax.rsqrt(level.a**2 + level.s**2)
        noisy_BYXC = add_noise(y_BYXC, e_BYXC, level) * expand(scale_B, y_BYXC)
        large_BYXC = upsample(noisy_BYXC, self.factor)
        place = jnp.broadcast_to(expand(2 * level.t - 1, large_BYXC), (*large_BYXC.shape[:-1], 1))
        return jnp.concatenate([large_BYXC, place], -1)
