"""Noise-conditioning augmentation for cascades (Ho et al. 2022, CDM; Saharia et al. 2022, Imagen).

A super-resolver that was trained on small versions of real images sees, when it is used, the small
images that another model made, which are not quite alike. Noise on the small image, in training and
in use, hides the difference; the network is conditioned on how much there is, so it knows what to
trust.

Videos are enlarged in space, in time, or in both: each of their frames is repeated (Ho et al. 2022,
Imagen Video, section 2.3).

Symbols: y the small image, c = a_t y + s_t e the noisy one at level t of a schedule, t in [0, 1].
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, Shaped

from jaxgen.diffusion.conditioning.image_to_image import downsample, upsample
from jaxgen.diffusion.process.example_keys import normal, step_keys, uniform
from jaxgen.diffusion.process.forward import add_noise
from jaxgen.diffusion.process.levels import broadcast_level, expand
from jaxgen.diffusion.process.schedules import Schedule
from jaxgen.errors import InputError, check_sizes
from jaxgen.pixels import as_data


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Makes the condition of a super-resolver from the small image or video.

    Attributes:
      schedule: what t means.
      factor: sides of the large image in units of the small one's.
      lowest: the least noise in training, as a time.
      highest: the most; below 1 where the small image shall never be quite hidden.
      frames: frames of the large video for each of the small one; 1 for images.

    Raises:
      InputError: for a factor or frames below 1, or unless 0 <= lowest <= highest <= 1.
    """

    schedule: Schedule
    factor: int
    lowest: float = 0.0
    highest: float = 1.0
    frames: int = 1

    def __post_init__(self) -> None:
        check_sizes(self, "factor", "frames")
        if not 0 <= self.lowest <= self.highest <= 1:
            raise InputError(
                f"lowest is {self.lowest}, highest is {self.highest}, expected "
                "0 <= lowest <= highest <= 1"
            )

    def condition_channels(self, channels: int) -> int:
        """Channels of the condition for small images of so many: one more, for the level."""
        return channels + 1

    def small_of(self, x: Shaped[Array, "B *T Y X C"]) -> Float[Array, "B *T2 Y2 X2 C"]:
        """What the large image or video x is made from: means of pixels, the first of each frames.

        Raises:
          InputError: where factor or frames do not divide the sizes of x.
        """
        if self.frames > 1:
            if x.ndim != 5 or x.shape[1] % self.frames:
                raise InputError(
                    f"x has shape {x.shape}, expected [B, T, Y, X, C] with T a multiple of "
                    f"{self.frames}"
                )
            x = x[:, :: self.frames]
        return downsample(x, self.factor)

    def at_random(
        self, y: Float[Array, "B *T Y X C"], keys_B: Key[Array, "B"]
    ) -> Float[Array, "B *T2 Y2 X2 C1"]:
        """The condition at a time drawn for each example: for training."""
        share_B = uniform(step_keys(keys_B, 1))
        return self.at(y, self.lowest + (self.highest - self.lowest) * share_B, keys_B)

    def at(
        self,
        y: Shaped[Array, "B *T Y X C"],
        t: float | Float[Array, "..."],
        keys_B: Key[Array, "B"],
    ) -> Float[Array, "B *T2 Y2 X2 C1"]:
        """The condition at a known time: for sampling, where t is worth a search (Imagen, 2.4).

        Args:
          y: small images or videos.
          t: noise on them, [] or [B], traced.
          keys_B: the examples' keys.

        Returns:
          [B, T * frames, Y * factor, X * factor, C + 1], without T for images: the noisy ones,
          enlarged, of unit scale whatever the schedule's scaling; and a last channel that holds
          2 t - 1 everywhere.
        """
        y = as_data(y, "images")
        level = broadcast_level(self.schedule.at(jnp.asarray(t, jnp.float32)), len(y))
        e = normal(step_keys(keys_B, 0), y.shape[1:])
        scale_B = jax.lax.rsqrt(level.a**2 + level.s**2)
        noisy = add_noise(y, e, level) * expand(scale_B, y)
        large = upsample(noisy, self.factor)
        if self.frames > 1:
            large = jnp.repeat(large, self.frames, axis=1)
        place = jnp.broadcast_to(expand(2 * level.t - 1, large), (*large.shape[:-1], 1))
        return jnp.concatenate([large, place], -1)
