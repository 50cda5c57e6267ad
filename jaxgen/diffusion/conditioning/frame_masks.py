"""Training with known frames: masks drawn per example, and known frames as input of the network.

The network gets, beside the noisy video, the known frames (zero where nothing is known) and the
mask, as further channels: ``[z, m x, m]``, C + C + 1 (Open-Sora 2, Peng et al. 2025). In training
every example draws by its own key which of its frames are known::

    kind     none    first    last    both             prefix
    known    -       0        T - 1   0 and T - 1      0 .. k - 1, k uniform in 1 .. T - 1

so that one network makes videos, animates images, joins and extends clips. At least one frame is to
be made: where a kind would leave none, nothing is known (of images, always). The loss is on the
frames to be made alone, known ones counting zero. `FrameMasks` is a task as those of
`jaxgen.diffusion.conditioning.image_to_image` are::

    given = masks(video_BTYXC, keys_B)
    network = with_known_channels(network, given.condition_BYXC)
    denoiser = with_known(make_denoiser(network, "v"), given.known_BYX1, video_BTYXC)
    loss_B, level = denoiser_loss(denoiser, video_BTYXC, key, schedule=schedule)

**Packs.** `known_of_packs` draws the same for packed examples, and `join_channels` lays the known
numbers of each token beside the noisy ones, channel by channel, so that the packed network and the
network of whole videos are one::

    given = known_of_packs(masks, tokens_BLF, frame_BL, segment_BL, index_BE, key, channels)
    network = lambda z_BLF, time_BE: model.apply(
        params, join_channels(z_BLF, given.condition_BLF, channels), ..., method="packed")
    found = packed_loss(network, tokens_BLF, ..., known_BL=given.known_BL)

Frames are those of patches there: a tubelet of P_t frames is known as a whole.

With ``noise`` the known frames that the network sees are noisy in training, each example's by a
deviation of its own between 0 and that, so that frames which a model made itself may follow ("noise
conditioning augmentation", Ho et al. 2022).
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, Shaped

from jaxgen.diffusion.conditioning.image_to_image import Given, Task
from jaxgen.diffusion.conditioning.masks import known_channels
from jaxgen.diffusion.objectives.packed_loss import (
    token_noise,
    token_numbers,
)
from jaxgen.diffusion.process.example_keys import example_keys, normal, step_keys, uniform
from jaxgen.diffusion.process.levels import expand
from jaxgen.errors import InputError
from jaxgen.nn.packs import of_tokens, own_tokens
from jaxgen.pixels import as_data

KINDS = "none", "first", "last", "both", "prefix"


@dataclasses.dataclass(frozen=True)
class FrameMasks(Task):
    """How often which frames are known; weights of the kinds, in any unit.

    Attributes:
      none: of videos without any known frame.
      first: the first frame.
      last: the last frame.
      both: the first and the last frame.
      prefix: the first k frames, k uniform.
      noise: the largest deviation of the noise on what the network sees of known frames.

    Raises:
      InputError: for a negative weight or noise, or where all weights are zero; when called, for
        what is not [B, T, ...].
    """

    none: float = 4.0
    first: float = 2.0
    last: float = 1.0
    both: float = 1.0
    prefix: float = 2.0
    noise: float = 0.0

    def __post_init__(self) -> None:
        for name in (*KINDS, "noise"):
            if not getattr(self, name) >= 0:
                raise InputError(f"{name} is {getattr(self, name)}, expected 0 or more")
        if not sum(self.weights()):
            raise InputError("all weights of frame masks are 0, expected one above it")

    def weights(self) -> tuple[float, ...]:
        """Those of the kinds, in order."""
        return tuple(getattr(self, name) for name in KINDS)

    def condition_channels(self, channels: int) -> int:
        """Channels of the condition for videos of so many: theirs, and the mask."""
        return channels + 1

    def draw_ends(
        self, keys_N: Key[Array, "N"], frames_N: Int[Array, "N"]
    ) -> tuple[Int[Array, "N"], Int[Array, "N"]]:
        """How many frames are known at the start and at the end of each example.

        Args:
          keys_N: the examples' keys.
          frames_N: how many frames each has.

        Returns:
          Two numbers each, whose sum is less than the frames there are.
        """
        share_N2 = uniform(keys_N, (2,))
        ends = np.cumsum(self.weights()) / sum(self.weights())
        kind_N = jnp.searchsorted(jnp.asarray(ends, jnp.float32), share_N2[:, 0], side="right")
        # Rounding may leave the last end below the largest share there is.
        kind_N = jnp.minimum(kind_N, int(np.flatnonzero(self.weights()).max()))
        prefix_N = 1 + jnp.floor(share_N2[:, 1] * (frames_N - 1)).astype(jnp.int32)
        one_N = jnp.ones_like(prefix_N)
        lead_N = jnp.choose(kind_N, [0 * one_N, one_N, 0 * one_N, one_N, prefix_N], mode="clip")
        tail_N = ((kind_N == 2) | (kind_N == 3)).astype(jnp.int32)
        some_N = lead_N + tail_N < frames_N
        return jnp.where(some_N, lead_N, 0), jnp.where(some_N, tail_N, 0)

    def __call__(self, x: Shaped[Array, "B T ..."], keys_B: Key[Array, "B"]) -> Given:
        """The known frames of videos [B, T, ...] and their mask, [B, T, ..., C + 1] and [B, T, 1].

        Example b depends on its own key alone.
        """
        if x.ndim < 3:
            raise InputError(f"videos have shape {x.shape}, expected [B, T, ..., C]")
        frames = x.shape[1]
        lead_B, tail_B = self.draw_ends(step_keys(keys_B, 0), jnp.full(len(x), frames))
        known_BT = _is_known(jnp.arange(frames), lead_B[:, None], tail_B[:, None], frames)
        known = expand(known_BT.astype(jnp.float32), x)
        x = as_data(x).astype(jnp.float32)
        deviation = expand(self.noise * uniform(step_keys(keys_B, 1)), x)
        seen = x + deviation * normal(step_keys(keys_B, 2), x.shape[1:]) if self.noise else x
        return Given(known_channels(seen, known), known)


def _is_known(frame: Array, lead: Array, tail: Array, frames: Array | int) -> Bool[Array, "..."]:
    return (frame < lead) | (frame >= frames - tail)


def with_frame_channels(
    network: Callable[..., Array], condition: Float[Array, "B T ... C"] | None
) -> Callable[..., Array]:
    """A network that gets known frames beside z: ``network([z, m x, m], time, ...)``.

    Args:
      network: takes C + C + 1 channels.
      condition: ``known_channels(x, known)``, or what `FrameMasks` draws. Under `guide_network`,
        whose batch has every example twice in a row, so will the condition. None: nothing is known.

    Raises:
      InputError: when called with latents of another batch or size.
    """

    def conditioned(z: Float[Array, "B ..."], time: Array, *rest: Any, **named: Any) -> Array:
        beside = (
            known_channels(jnp.zeros_like(z), jnp.zeros(())) if condition is None else condition
        )
        if z.shape[1:-1] != beside.shape[1:-1] or len(z) % len(beside):
            raise InputError(
                f"known frames have shape {beside.shape} for latents of shape {z.shape}, expected "
                "the same in all but the channels"
            )
        beside = jnp.repeat(beside, len(z) // len(beside), axis=0)
        return network(jnp.concatenate([z, beside], axis=-1), time, *rest, **named)

    return conditioned


class PackedKnown(NamedTuple):
    """What is known of packed examples.

    Attributes:
      condition_BLF: of each token the known numbers and the mask, pixel by pixel.
      known_BL: which tokens are of known frames.
    """

    condition_BLF: Array
    known_BL: Array


def known_of_packs(
    masks: FrameMasks,
    tokens_BLF: Shaped[Array, "B L F"],
    frame_BL: Int[Array, "B L"],
    segment_BL: Int[Array, "B L"],
    index_BE: Int[Array, "B E"],
    key: Key[Array, ""],
    channels: int,
) -> PackedKnown:
    """The known frames of packed examples, drawn for each by its own index.

    Args:
      masks: how often which frames are known.
      tokens_BLF: the data as tokens, bytes or in [-1, 1].
      frame_BL: the frame of each token in its example, in patches.
      segment_BL: which example each token is of: e + 1, or 0 for padding.
      index_BE: the examples' indices.
      key: randomness.
      channels: C of the data.

    Raises:
      InputError: for tokens that are no patches of so many channels.
    """
    example_BLE = own_tokens(segment_BL, index_BE.shape[1])
    frames_BE = jnp.where(example_BLE, frame_BL[..., None] + 1, 0).max(axis=1)
    keys_N = example_keys(key, index_BE.reshape(-1))
    ends = masks.draw_ends(step_keys(keys_N, 0), frames_BE.reshape(-1))
    lead_BL, tail_BL, frames_BL = (
        of_tokens(value.reshape(index_BE.shape), segment_BL) for value in (*ends, frames_BE)
    )
    known_BL = _is_known(frame_BL, lead_BL, tail_BL, frames_BL) & (segment_BL > 0)
    x_BLF = as_data(tokens_BLF).astype(jnp.float32)
    if masks.noise:
        deviation_BE = masks.noise * uniform(step_keys(keys_N, 1)).reshape(index_BE.shape)
        e_BLF = token_noise(
            step_keys(key[None], 2)[0],
            of_tokens(index_BE, segment_BL),
            token_numbers(example_BLE),
            x_BLF.shape[-1],
        )
        x_BLF = x_BLF + of_tokens(deviation_BE, segment_BL)[..., None] * e_BLF
    pixels_BLPC = _pixels(x_BLF, channels)
    condition_BLPC = known_channels(pixels_BLPC, known_BL[..., None, None])
    return PackedKnown(condition_BLPC.reshape(*known_BL.shape, -1), known_BL)


def join_channels(
    tokens_BLF: Float[Array, "B L F"], condition_BLF: Float[Array, "B L F2"], channels: int
) -> Float[Array, "B L F3"]:
    """Tokens with a condition beside each pixel: those of the videos with the condition's channels.

    Args:
      tokens_BLF: noisy patches, P pixels of `channels` each.
      condition_BLF: as many pixels, of any number of channels.
      channels: C of the tokens.

    Raises:
      InputError: for tokens that are no patches of so many channels.
    """
    pixels_BLPC = _pixels(tokens_BLF, channels)
    pairs_BLPC = condition_BLF.reshape(*pixels_BLPC.shape[:3], -1)
    return jnp.concatenate([pixels_BLPC, pairs_BLPC], -1).reshape(*tokens_BLF.shape[:2], -1)


def _pixels(tokens_BLF: Array, channels: int) -> Float[Array, "B L P C"]:
    """The numbers of each token as pixels of channels."""
    if channels < 1 or tokens_BLF.shape[-1] % channels:
        raise InputError(
            f"tokens have shape {tokens_BLF.shape}, expected patches of pixels of {channels} "
            "channels"
        )
    return tokens_BLF.reshape(*tokens_BLF.shape[:2], -1, channels)
