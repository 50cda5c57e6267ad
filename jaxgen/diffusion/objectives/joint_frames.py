"""Training on clips and images at once (Ho et al. 2022, "Video diffusion models", section 4.1).

I independent images are appended to each clip of T frames, [B, T + I, Y, X, C]; the network keeps
them apart (`jaxgen.unet`: ``image_frames=I``). They are frames of other clips here, chosen by the
example's index. With l_f the loss of frame f at the example's level::

    loss = (sum over the clip of l_f + w sum over images of l_f) / (T + w I)

Separately, with probability p, all frames of an example are denoised alone (``alone_B``).
"""

from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, Shaped

from jaxgen.diffusion.denoiser import TimeInput, check_target_fits, thousandths
from jaxgen.diffusion.objectives.losses import UNIFORM, V_LOSS, draw_noised, prediction_loss
from jaxgen.diffusion.objectives.time_distributions import Times
from jaxgen.diffusion.objectives.weightings import Weighting
from jaxgen.diffusion.process.example_keys import example_keys, uniform
from jaxgen.diffusion.process.levels import Level
from jaxgen.diffusion.process.predictions import TargetName
from jaxgen.diffusion.process.schedules import Schedule
from jaxgen.errors import InputError


class Clips(Protocol):
    """Videos by number."""

    def __getitem__(self, index: int, /) -> dict[str, Any]:
        """``"video"`` [T, Y, X, C] and, where there are classes, ``"label"``."""


def clip_with_images(
    clips: Clips, index: int, image_frames: int, count: int, seed: int = 0
) -> dict[str, Any]:
    """An example and frames of others, a function of its index alone.

    Args:
      clips: the examples, all of one height and width.
      index: of the clip.
      image_frames: I, how many images are appended.
      count: examples to take them from, numbers 0 to count - 1; the clip itself is left out.
      seed: of the choice.

    Returns:
      The example with ``"video"`` [T + I, Y, X, C] and, where it has a label, ``"label"`` [1 + I],
      that of the clip and those of the images.

    Raises:
      InputError: for fewer than two clips, or another's frames of another size.
    """
    if image_frames < 0:
        raise InputError(f"image_frames is {image_frames}, expected 0 or more")
    if image_frames and count < 2:
        raise InputError(f"count is {count}, expected 2 clips or more to take images from")
    example = clips[index]
    video, labels = example["video"], [example.get("label")]
    rng = np.random.default_rng([seed, index])
    images = []
    for _ in range(image_frames):
        other = clips[(index + 1 + int(rng.integers(count - 1))) % count]
        if other["video"].shape[1:] != video.shape[1:]:
            raise InputError(
                f"a clip has frames of shape {other['video'].shape[1:]}, expected "
                f"{video.shape[1:]}, as those of clip {index}"
            )
        images.append(other["video"][rng.integers(len(other["video"]))])
        labels.append(other.get("label"))
    joint = {**example, "video": np.concatenate([video, np.stack(images)]) if images else video}
    if labels[0] is not None:
        joint["label"] = np.array(labels, np.int32)
    return joint


def joint_loss(
    network: Callable[[Array, Any], Array],
    x: Shaped[Array, "B T Y X C"],
    key: Key[Array, ""],
    *,
    image_frames: int,
    schedule: Schedule,
    target: TargetName = "v",
    weighting: Weighting = V_LOSS,
    times: Times = UNIFORM,
    image_weight: float = 1.0,
    index_B: Int[Array, "B"] | None = None,
    time_input: TimeInput = thousandths,
) -> tuple[Float[Array, "B"], Level]:
    """`jaxgen.diffusion.objectives.losses.diffusion_loss` with a weight for each frame.

    Args:
      network: ``(z, time [B]) -> prediction``, its conditions and masks closed over.
      x: clips with images as their last frames, bytes or in [-1, 1].
      key: randomness.
      image_frames: I.
      schedule: the noise schedule.
      target: what the network predicts.
      weighting: the weight of |x - x^|^2.
      times: how the times of examples are drawn.
      image_weight: w, the weight of an image beside a frame's 1.
      index_B: example indices, folded into the key; places in the batch unless given.
      time_input: the network's conditioning on the level.

    Returns:
      The losses, [B], and the levels at which they were taken.

    Raises:
      InputError: as `diffusion_loss`, and for images that are not fewer than the frames, or a
        negative weight.
    """
    batch, frames = x.shape[:2]
    if not 0 <= image_frames < frames:
        raise InputError(
            f"image_frames is {image_frames} of {frames} frames, expected 0 to {frames - 1}"
        )
    if not image_weight >= 0:
        raise InputError(f"image_weight is {image_weight}, expected 0 or more")
    target = check_target_fits(schedule, target)
    noised = draw_noised(x, key, schedule=schedule, times=times, index_B=index_B)
    prediction = network(noised.z, time_input(noised.level))
    level_N: Level = jax.tree.map(lambda value: jnp.repeat(value, frames), noised.level)
    prediction, x, e = (v.reshape(-1, *v.shape[2:]) for v in (prediction, x, noised.e))
    loss_N = prediction_loss(prediction, x, e, level_N, target=target, weighting=weighting)
    weight_T = np.where(np.arange(frames) < frames - image_frames, 1.0, image_weight)
    share_T = jnp.asarray(weight_T / weight_T.sum(), jnp.float32)
    return (loss_N.reshape(batch, frames) * share_T).sum(axis=1), noised.level


def draw_alone(
    key: Key[Array, ""], index_B: Int[Array, "B"], probability: float
) -> Bool[Array, "B"]:
    """Which examples have each frame alone, by the examples' own indices.

    Args:
      key: randomness.
      index_B: the examples' indices.
      probability: how often.
    """
    return uniform(example_keys(key, index_B)) < probability
