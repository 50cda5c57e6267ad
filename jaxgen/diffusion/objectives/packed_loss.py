"""The loss of packed examples, one number per example of each pack.

Tokens of several examples share a sequence (Dehghani et al. 2023, "Patch n' Pack"); segment e + 1
marks those of example e, 0 is padding. All randomness of an example follows from its own index: its
time, whether its label is dropped, and the noise of its n-th token,
``fold_in(fold_in(key, index), n)``. So an example's loss does not depend on the pack that it is in,
and `packed_loss` of a pack with one example is that of the example alone.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, Shaped

from jaxgen.diffusion.denoiser import TimeInput, check_target_fits, thousandths
from jaxgen.diffusion.objectives.losses import UNIFORM, V_LOSS, draw_level
from jaxgen.diffusion.objectives.time_distributions import Times
from jaxgen.diffusion.objectives.weightings import Weighting
from jaxgen.diffusion.process.example_keys import example_keys, uniform
from jaxgen.diffusion.process.forward import add_noise
from jaxgen.diffusion.process.levels import Level
from jaxgen.diffusion.process.predictions import TargetName, make_target
from jaxgen.diffusion.process.schedules import Schedule
from jaxgen.errors import InputError
from jaxgen.nn.packs import of_tokens, own_tokens
from jaxgen.pixels import as_data

PackedNetwork = Callable[[Array, Array], Array]
"""``(z [B, L, F], time [B, E]) -> prediction [B, L, F]``, places and segments closed over."""


class PackedLoss(NamedTuple):
    """What packed examples cost.

    Attributes:
      loss: of each example, [B, E]; 0 where a pack has none.
      level: at which noise level, [B, E].
      present: where a pack has an example, [B, E].
    """

    loss: Float[Array, "B E"]
    level: Level
    present: Bool[Array, "B E"]

    def mean(self) -> Float[Array, ""]:
        """The mean over the examples that there are."""
        return jnp.sum(self.loss) / jnp.maximum(jnp.sum(self.present), 1)


def packed_loss(
    network: PackedNetwork,
    tokens_BLF: Shaped[Array, "B L F"],
    segment_BL: Int[Array, "B L"],
    index_BE: Int[Array, "B E"],
    key: Key[Array, ""],
    *,
    schedule: Schedule,
    target: TargetName = "v",
    weighting: Weighting = V_LOSS,
    times: Times = UNIFORM,
    time_input: TimeInput = thousandths,
    known_BL: Bool[Array, "B L"] | None = None,
) -> PackedLoss:
    """The loss of a network at a random level for each example of each pack.

    Args:
      network: ``(z, time) -> prediction``.
      tokens_BLF: the data as tokens, bytes or in [-1, 1].
      segment_BL: which example each token is of: e + 1, or 0 for padding.
      index_BE: the examples' indices.
      key: randomness.
      schedule: the noise schedule.
      target: what the network predicts; not "both".
      weighting: the weight of |x - x^|^2.
      times: how times are drawn; `LowDiscrepancy` would make an example's time depend on its pack.
      time_input: the network's conditioning on the level.
      known_BL: tokens that the network is given without noise as well, whose errors count zero
        (see `jaxgen.diffusion.conditioning.frame_masks`).

    Returns:
      Losses, means over the numbers of an example as those of
      `jaxgen.diffusion.objectives.losses.diffusion_loss`; and their levels.

    Raises:
      InputError: for a target that the schedule does not allow, for "both", and for shapes that do
        not belong together.
    """
    target = check_target_fits(schedule, target)
    if target == "both":
        raise InputError("target is 'both', expected one prediction for each number of a pack")
    if segment_BL.shape != tokens_BLF.shape[:2] or len(index_BE) != len(tokens_BLF):
        raise InputError(
            f"tokens have shape {tokens_BLF.shape}, segments {segment_BL.shape} and indices "
            f"{index_BE.shape}, expected [B, L, F], [B, L] and [B, E]"
        )
    x_BLF = as_data(tokens_BLF).astype(jnp.float32)
    time_key, noise_key = jax.random.split(key)
    level_N = draw_level(time_key, index_BE.reshape(-1), schedule, times)
    level_BE: Level = jax.tree.map(lambda value: value.reshape(index_BE.shape), level_N)
    example_BLE = own_tokens(segment_BL, index_BE.shape[1])
    level_BL = jax.tree.map(lambda value: of_tokens(value, segment_BL), level_BE)
    e_BLF = token_noise(
        noise_key,
        of_tokens(index_BE, segment_BL),
        token_numbers(example_BLE),
        x_BLF.shape[-1],
    )
    prediction_BLF = network(add_noise(x_BLF, e_BLF, level_BL), time_input(level_BE))
    if prediction_BLF.shape != x_BLF.shape:
        raise InputError(
            f"prediction has shape {prediction_BLF.shape}, expected {x_BLF.shape}, as the tokens"
        )
    error_BLF = make_target(target, x_BLF, e_BLF, level_BL) - prediction_BLF.astype(jnp.float32)
    square_BL = jnp.square(error_BLF).mean(axis=-1)
    made_BLE = example_BLE if known_BL is None else example_BLE & ~known_BL[..., None]
    # Chosen rather than multiplied, where 0 times an infinite error would be nan.
    sum_BE = jnp.where(made_BLE, square_BL[..., None], 0.0).sum(axis=1)
    count_BE = example_BLE.sum(axis=1)
    weight_BE = weighting.weight(level_BE, target)
    present_BE = count_BE > 0
    loss_BE = jnp.where(present_BE, weight_BE * sum_BE / jnp.maximum(count_BE, 1), 0.0)
    return PackedLoss(loss_BE, level_BE, present_BE)


def token_numbers(example_BLE: Bool[Array, "B L E"]) -> Int[Array, "B L"]:
    """The number of each token within its example, from 0; of padding 0."""
    number_BLE = jnp.cumsum(example_BLE, axis=1) - 1
    return jnp.where(example_BLE, number_BLE, 0).sum(axis=-1)


def token_noise(
    key: Key[Array, ""], index_BL: Int[Array, "B L"], number_BL: Int[Array, "B L"], features: int
) -> Float[Array, "B L F"]:
    """Standard normal noise that depends on the key, an example's index and a token's number alone.

    Args:
      key: randomness.
      index_BL: the index of the example that each token is of.
      number_BL: the number of each token within its example.
      features: F.
    """

    def of_token(index: Array, number: Array) -> Array:
        own = jax.random.fold_in(jax.random.fold_in(key, index), number)
        return jax.random.normal(own, (features,), jnp.float32)

    return jax.vmap(jax.vmap(of_token))(index_BL, number_BL)


def drop_labels(
    key: Key[Array, ""],
    index: Int[Array, "*B"],
    label: Int[Array, "*B"],
    null_label: int,
    probability: float,
) -> Int[Array, "*B"]:
    """Condition dropout by the examples' own indices: some labels become the null label.

    Args:
      key: randomness.
      index: the examples' indices, of any shape.
      label: their labels.
      null_label: what stands for no condition.
      probability: how often a label is dropped.
    """
    draws = uniform(example_keys(key, index.reshape(-1))).reshape(index.shape)
    return jnp.where(draws < probability, null_label, label)
