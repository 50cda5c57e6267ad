"""The variational bound of -log p(x), in bits per dimension, in discrete and in continuous time.

Symbols: x data, e noise, z_t = a_t x + s_t e, lambda the log-SNR, SNR = a^2 / s^2, D the numbers of
an example; t now and u < t next, h = lambda_u - lambda_t > 0. For any process from z_1 to a least
noisy z_0 (Kingma et al. 2021, equation 11) ::

    -log p(x) <= KL(q(z_1 | x), p(z_1))  +  sum or integral  -  E log p(x | z_0)
                 prior                      diffusion           reconstruction

p(z_1) is N(0, (a^2 + s^2) I), which is N(0, I) in the scaling "vp". A step whose variance is that
of q(z_u | z_t, x), or learnt and exp(L) times that (Nichol & Dhariwal 2021, equation 15), costs for
each number ::

    KL = 1/2 (L + exp(-L) - 1 + exp(-L) (SNR_u - SNR_t) (x - x^)^2)       SNR_u - SNR_t = SNR_t
                                                                          (exp(h) - 1)

and infinitely many steps cost (equation 17 there; |e - e^|^2 is SNR |x - x^|^2) ::

    1/2 integral_0^1 (-d lambda/dt) E |e - e^|^2 dt

Sums over an example's numbers are divided by D log 2. Every estimate has the right mean, whatever
the distribution that its steps or times are drawn from.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, Shaped

from jaxgen.diffusion.denoiser import Denoiser, Estimate, visiting
from jaxgen.diffusion.objectives.decoders import Decoder, total
from jaxgen.diffusion.objectives.time_distributions import LowDiscrepancy, Steps, Times
from jaxgen.diffusion.process.example_keys import example_indices, example_keys, normal, step_keys
from jaxgen.diffusion.process.forward import add_noise
from jaxgen.diffusion.process.levels import Level, broadcast_level, expand, softplus
from jaxgen.diffusion.process.schedules import Schedule, check_ends
from jaxgen.diffusion.process.step_levels import pair_levels
from jaxgen.errors import InputError
from jaxgen.pixels import as_data

EVENLY = LowDiscrepancy()


class Bound(NamedTuple):
    """The terms of the bound in bits per dimension, [B] each.

    Attributes:
      prior: what z_1 still says of the data.
      diffusion: what the steps cost.
      reconstruction: what is left to say once z_0 is known.
    """

    prior: Array
    diffusion: Array
    reconstruction: Array

    @property
    def total(self) -> Float[Array, "B"]:
        """The bound."""
        return self.prior + self.diffusion + self.reconstruction


class Transition(NamedTuple):
    """A step of a discrete process, or many: arrays of equal shape.

    Attributes:
      now: the level t.
      log_snr: lambda_u of the next, less noisy level.
      gap: h.
      spread: log of the forward variance over that of q(z_u | z_t, x), which is log s_t^2 / s_u^2.
    """

    now: Level
    log_snr: Any
    gap: Any
    spread: Any


def bits_per_dimension(nats: Float[Array, "B"], size: int) -> Float[Array, "B"]:
    """Nats for an example with so many numbers, as bits for each."""
    return nats / (size * math.log(2))


def make_transitions(levels: Level) -> Transition:
    """The steps through levels [N + 1], in float64 on the host, handed over as float32.

    Args:
      levels: from noise to the least noisy level, as `make_steps` with ``final="first"`` or, for
        all steps of a table, ``schedule.at_index(np.arange(N)[::-1])``.

    Returns:
      N steps.

    Raises:
      InputError: where the log-SNR does not rise, or the last level has no noise.
    """
    now, after = pair_levels(levels)
    if not after.s[-1] > 0 or now.log_snr[0] > after.log_snr[0]:
        raise InputError(
            f"levels with log-SNR from {now.log_snr[0]:.6g} to {after.log_snr[-1]:.6g}, expected "
            "them to go from noise to a last level that still has some, where the decoder begins"
        )
    steps = Transition(now, after.log_snr, after.log_snr - now.log_snr, 2 * np.log(now.s / after.s))
    return jax.tree.map(lambda value: jnp.asarray(value, jnp.float32), steps)


def prior_loss(x: Float[Array, "B ..."], level: Level) -> Float[Array, "B"]:
    """KL(N(a x, s^2 I), N(0, (a^2 + s^2) I)) in nats, at the noisiest level ([B] or [])."""
    log_snr = jnp.asarray(level.log_snr, jnp.float32)
    share = expand(jax.nn.sigmoid(log_snr), x)  # of the data in z_1's variance
    return total((share * (x**2 - 1) + expand(softplus(log_snr), x)) / 2)


def step_loss(
    estimate: Estimate, x: Float[Array, "B ..."], e: Float[Array, "B ..."], step: Transition
) -> Float[Array, "B"]:
    """KL(q(z_u | z_t, x), p(z_u | z_t)) in nats, with the variance that the estimate asks for.

    Args:
      estimate: the denoiser's, from z_t; its fraction, if there is one, is log variance from
        that of q (0) to the forward one (1).
      x: data, [B, ...].
      e: the noise in z_t.
      step: of [B] or [] each.

    Returns:
      [B].
    """
    now = jax.tree.map(jnp.asarray, step.now)
    gap, log_snr = (expand(value, x) for value in (step.gap, step.log_snr))
    # Both are (SNR_u - SNR_t) (x - x^)^2; where there is more noise than data, e says little of x.
    by_e = jnp.expm1(jnp.minimum(gap, 80.0)) * (e - estimate.e) ** 2
    by_x = jnp.exp(log_snr) * -jnp.expm1(-gap) * (x - estimate.x) ** 2
    mean = jnp.where(expand(now.a > now.s, x), by_e, by_x)
    if estimate.fraction is None:
        return total(mean) / 2
    log_ratio = estimate.fraction * expand(step.spread, x)
    return total(log_ratio + jnp.expm1(-log_ratio) + jnp.exp(-log_ratio) * mean) / 2


def discrete_bound(
    denoiser: Denoiser,
    x: Shaped[Array, "B ..."],
    key: Key[Array, ""],
    *,
    levels: Level,
    decoder: Decoder,
    steps: Steps | None = None,
    index_B: Int[Array, "B"] | None = None,
) -> Bound:
    """The bound of a process of N steps, with one draw of noise for every step.

    Args:
      denoiser: ``(z, level) -> Estimate``.
      x: data, [B, ...].
      key: randomness.
      levels: of the process, [N + 1]; see `make_transitions`.
      decoder: the log-likelihood of x at the last of them.
      steps: how one step of the N is drawn for each example (0 the noisiest); all are summed if
        it is not given. With probabilities in proportion to the root mean square of the steps'
        losses the estimate varies least.
      index_B: example indices, folded into the key; places in the batch unless given.

    Returns:
      The terms, [B] each.

    Raises:
      InputError: as `make_transitions`, or where `steps` counts other than N.
    """
    table = make_transitions(levels)
    count = len(table.gap)
    if steps is not None and steps.count != count:
        raise InputError(f"steps.count is {steps.count}, expected {count}, as the levels have")
    x = as_data(x).astype(jnp.float32)
    index_B = example_indices(index_B, len(x))
    time_key, noise_key, last_key = jax.random.split(key, 3)
    keys_B = example_keys(noise_key, index_B)

    def loss_of(row: Transition, e: Array) -> Float[Array, "B"]:
        now = broadcast_level(row.now, len(x))
        return step_loss(denoiser(add_noise(x, e, now), now), x, e, row)

    if steps is None:

        def add(sum_B: Array, numbered: Any) -> tuple[Array, None]:
            i, row = numbered
            return sum_B + loss_of(row, normal(step_keys(keys_B, i), x.shape[1:])), None

        with visiting(table.now):
            diffusion_B, _ = jax.lax.scan(add, jnp.zeros(len(x)), (jnp.arange(count), table))
    else:
        t_B = steps.draw(time_key, index_B)
        row = jax.tree.map(lambda value: value[steps.index(t_B)], table)
        with visiting(table.now):
            losses_B = loss_of(row, normal(keys_B, x.shape[1:]))
        diffusion_B = count * losses_B / steps.density(t_B)
    first, last = (Level(*(value[i] for value in levels)) for i in (0, -1))
    return _bound(denoiser, x, example_keys(last_key, index_B), first, last, diffusion_B, decoder)


def continuous_bound(
    denoiser: Denoiser,
    x: Shaped[Array, "B ..."],
    key: Key[Array, ""],
    *,
    schedule: Schedule,
    decoder: Decoder,
    times: Times = EVENLY,
    index_B: Int[Array, "B"] | None = None,
) -> Bound:
    """The bound in continuous time, at one time for each example; what likelihoods train on.

    Args:
      denoiser: ``(z, level) -> Estimate``.
      x: data, [B, ...].
      key: randomness.
      schedule: between finite log-SNRs, or t = 0 and t = 1 cost infinitely much.
      decoder: the log-likelihood of x at t = 0.
      times: how times are drawn; another density than a uniform one is divided by.
      index_B: example indices, folded into the key; places in the batch unless given.

    Returns:
      The terms, [B] each; differentiable by what a learnt schedule has learnt.

    Raises:
      InputError: for a schedule that ends at clean data or pure noise.
    """
    check_ends(schedule, "a bound in continuous time")
    x = as_data(x).astype(jnp.float32)
    index_B = example_indices(index_B, len(x))
    time_key, noise_key, last_key = jax.random.split(key, 3)
    t_B = times.draw(time_key, index_B)
    level = schedule.at(t_B)
    e = normal(example_keys(noise_key, index_B), x.shape[1:])
    estimate = denoiser(add_noise(x, e, level), level)
    by_e = (e - estimate.e) ** 2
    by_x = jnp.exp(expand(jnp.minimum(level.log_snr, 80.0), x)) * (x - estimate.x) ** 2
    error_B = total(jnp.where(expand(level.a > level.s, x), by_e, by_x))
    diffusion_B = -schedule.derivative(t_B) * error_B / (2 * times.density(t_B))
    keys_B = example_keys(last_key, index_B)
    first, last = schedule.at(jnp.ones(())), schedule.at(jnp.zeros(()))
    return _bound(denoiser, x, keys_B, first, last, diffusion_B, decoder)


def _bound(
    denoiser: Denoiser,
    x: Shaped[Array, "B ..."],
    keys_B: Key[Array, "B"],
    first: Level,
    last: Level,
    diffusion_B: Float[Array, "B"],
    decoder: Decoder,
) -> Bound:
    """The terms in bits per dimension, from the diffusion term in nats and the two end levels."""
    first, last = (
        broadcast_level(jax.tree.map(lambda value: jnp.asarray(value, jnp.float32), level), len(x))
        for level in (first, last)
    )
    z = add_noise(x, normal(keys_B, x.shape[1:]), last)
    nats = prior_loss(x, first), diffusion_B, -decoder(x, z, denoiser(z, last), last)
    return Bound(*(bits_per_dimension(value, x[0].size) for value in nats))
