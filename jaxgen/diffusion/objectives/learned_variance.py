"""Training a network that predicts its variances too (Nichol & Dhariwal 2021, section 3.1).

Symbols: L_simple the weighted loss of the mean, L_vlb the variational bound over N steps. The
network predicts twice as many numbers; the second half is where the log-variance of a step lies
between its bounds, f = (output + 1) / 2, and learns from ::

    L_hybrid = L_simple + 0.001 L_vlb          (equation 16)

in which the mean counts as constant within L_vlb: no gradient reaches it from there.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from jaxgen.diffusion.denoiser import (
    Estimate,
    Network,
    TimeInput,
    check_target_fits,
    split_variance,
    step_index,
)
from jaxgen.diffusion.objectives.decoders import Decoder, cell_decoder
from jaxgen.diffusion.objectives.losses import draw_noised, prediction_loss
from jaxgen.diffusion.objectives.time_distributions import Steps
from jaxgen.diffusion.objectives.variational import bits_per_dimension, make_transitions, step_loss
from jaxgen.diffusion.objectives.weightings import SNR, Weighting
from jaxgen.diffusion.process.levels import Level
from jaxgen.diffusion.process.predictions import Target, to_x_and_e
from jaxgen.diffusion.process.table_schedules import TableSchedule

E_LOSS = SNR()


def hybrid_loss(
    network: Network,
    x: Float[Array, "B ..."],
    key: Key[Array, ""],
    *,
    schedule: TableSchedule,
    target: Target = "e",
    weighting: Weighting = E_LOSS,
    scale: float = 0.001,
    index_B: Int[Array, "B"] | None = None,
    time_input: TimeInput | None = None,
    count: int = 256,
) -> tuple[Float[Array, "B"], Level]:
    """The loss of a network with learnt variances, at a random step of a table for each example.

    L_vlb is estimated by N times the cost of that step, in bits per dimension, as is usual.

    Args:
      network: ``(z, time) -> [B, ..., 2 C]``, the prediction and the output for its variance.
      x: data, [B, ..., C]; for the cost of the last step 8-bit values, see
        `jaxgen.diffusion.objectives.decoders`.
      key: randomness.
      schedule: the table, in the scaling "vp".
      target: what is predicted.
      weighting: the weight of |x - x^|^2 in L_simple.
      scale: what L_vlb counts.
      index_B: example indices, folded into the key; places in the batch unless given.
      time_input: the network's conditioning on the level; the number of the step unless given.
      count: how many values a number of x can have, evenly spaced from -1 to 1.

    Returns:
      The losses, [B], and the levels at which they were taken.

    Raises:
      InputError: for a target that the schedule does not allow, or a prediction of another shape.
    """
    check_target_fits(schedule, target)
    steps = Steps(schedule.steps)
    noised = draw_noised(x, key, schedule=schedule, times=steps, index_B=index_B)
    output = network(noised.z, (time_input or step_index(schedule))(noised.level))
    prediction, variance = split_variance(output.astype(jnp.float32))
    simple_B = prediction_loss(
        prediction, x, noised.e, noised.level, target=target, weighting=weighting
    )
    held = to_x_and_e(jax.lax.stop_gradient(prediction), noised.z, noised.level, target)
    estimate = Estimate(*held, (variance + 1) / 2)
    levels = all_levels(schedule)
    i_B = steps.index(noised.level.t)
    table = make_transitions(levels)
    row = jax.tree.map(
        lambda value: value[jnp.clip(steps.count - 1 - i_B, 0, len(value) - 1)], table
    )
    decode = learned_cell_decoder(levels, count)
    last_B = -decode(x, noised.z, estimate, noised.level)
    nats_B = jnp.where(i_B == 0, last_B, step_loss(estimate, x, noised.e, row))
    bound_B = steps.count * bits_per_dimension(nats_B, x[0].size)
    return simple_B + scale * bound_B, noised.level


def all_levels(schedule: TableSchedule) -> Level:
    """Every step of a table from noise to data: the levels of its variational bound, [N]."""
    return schedule.at_index(np.arange(schedule.steps)[::-1])


def learned_cell_decoder(levels: Level, count: int = 256) -> Decoder:
    """The last step of a process with learnt variances, for 8-bit data.

    The deviation's bounds are s of the last level and, since the posterior has no width there, the
    posterior's of the step before (as in the programs of Ho et al. 2020).
    """
    s, gap = float(levels.s[-1]), float(levels.log_snr[-1] - levels.log_snr[-2])
    return cell_decoder(s * float(np.sqrt(-np.expm1(-gap))), s, count)
