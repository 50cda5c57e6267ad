"""The diffusion classifier (Li et al. 2023; Clark & Jaini 2023): the class that denoises best.

Symbols: z = a x + s e; e^(z, y) the noise that a class-conditional denoiser sees; D numbers in x::

    log p(x | y) >= const - D/2 integral mean |e - e^(z, y)|^2 d lambda         the bound
    y^ = argmin_y  sum_i w_i mean |e_i - e^(z_i, y)|^2                          the classifier

with the *same* levels and noise e_i for all classes, so that what they have in common cancels (Li
et al., section 3.2). Levels are even in time with weight one on the noise (Li et al.), or anything
else: with levels even in log-SNR the sum is the bound itself, and softmax(-D/2 (range of lambda)
losses) are the posterior probabilities of equally frequent classes.

Most classes are soon seen to be unlikely: *stages* drop them after a few levels (Li et al.,
algorithm 2). One `jax.lax.scan` over levels, so memory does not grow with their number.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, Shaped

from jaxgen.diffusion.denoiser import Estimate, visiting
from jaxgen.diffusion.objectives.losses import mean_square
from jaxgen.diffusion.objectives.weightings import SNR, Weighting
from jaxgen.diffusion.process.example_keys import example_indices, example_keys, normal, step_keys
from jaxgen.diffusion.process.forward import add_noise
from jaxgen.diffusion.process.levels import Level
from jaxgen.diffusion.process.predictions import make_target
from jaxgen.diffusion.process.schedules import Schedule
from jaxgen.errors import InputError
from jaxgen.pixels import as_data

LabelledDenoiser = Callable[[Array, Level, Array], Estimate]
"""``(z [B, ...], level, labels [B]) -> Estimate``."""

NOISE_LOSS = SNR()


class Classified(NamedTuple):
    """What the diffusion classifier found.

    Attributes:
      label_B: the classes, [B].
      loss_BK: mean loss of every class over the levels that it was tried at, [B, K].
      levels_BK: how many these were, int32; fewer where a class was dropped.
    """

    label_B: Array
    loss_BK: Array
    levels_BK: Array


def even_times(schedule: Schedule, count: int) -> Level:
    """The midpoints of so many equal intervals of time, [N], numpy float64 (Li et al. 2023).

    Raises:
      InputError: for a count below 1.
    """
    if count < 1:
        raise InputError(f"count is {count}, expected at least 1")
    return schedule.at((np.arange(count) + 0.5) / count)


def even_log_snrs(schedule: Schedule, count: int) -> Level:
    """The midpoints of so many equal intervals of the log-SNR, [N], numpy float64.

    Raises:
      InputError: for a count below 1, or a schedule whose log-SNR is infinite at an end.
    """
    if count < 1:
        raise InputError(f"count is {count}, expected at least 1")
    high, low = (float(value) for value in schedule.log_snr(np.array([0.0, 1.0])))
    if not math.isfinite(high - low):
        raise InputError(
            f"log-SNR from {low} to {high}, expected finite ends, to be divided evenly"
        )
    return schedule.at_log_snr(high + (np.arange(count) + 0.5) / count * (low - high))


def classify(
    denoiser: LabelledDenoiser,
    x: Shaped[Array, "B ..."],
    classes: int,
    levels: Level,
    key: Key[Array, ""],
    *,
    index_B: Int[Array, "B"] | None = None,
    stages: Sequence[tuple[int, int]] = (),
    weighting: Weighting = NOISE_LOSS,
    batch: int | None = None,
) -> Classified:
    """The class of each image under which its noise is predicted best.

    Args:
      denoiser: class-conditional: ``lambda z, level, label: make_denoiser(lambda z, time:
        network(z, time, label), "v")(z, level)``.
      x: images, [B, ...].
      classes: K; labels are 0 to K - 1.
      levels: [N] noise levels on the host, from `even_times` or `even_log_snrs`.
      key: the noise; level i of example b draws from ``fold_in(fold_in(key, index_b), i)``.
      index_B: which example each is; 0 .. B-1 if not given.
      stages: pairs (levels, kept): after so many levels in all, spread evenly over the N, so many
        classes of each image are kept. N more levels than the last pair are seen by what is left.
      weighting: of |x - x^|^2; the SNR is weight one on the noise.
      batch: (image, class) pairs in one call of the denoiser; all, B K, unless given.

    Returns:
      Labels and losses.

    Raises:
      InputError: for no classes, levels that are not [N], stages that do not continue or keep too
        many, or a batch below 1.
    """
    count = np.size(levels.t)
    _check(classes, levels, stages, batch)
    x, index_B = as_data(x), example_indices(index_B, len(x))
    keys_B, order_N = example_keys(key, index_B), spread(count)
    label_BM = jnp.broadcast_to(jnp.arange(classes), (len(x), classes))
    rows_B1 = jnp.arange(len(x))[:, None]
    total_BK = jnp.zeros((len(x), classes))
    levels_BK = jnp.zeros((len(x), classes), jnp.int32)
    done = 0
    for until, kept in [*stages, (count, 1)]:
        chosen_N = order_N[done:until]
        sum_BM = _losses(denoiser, x, label_BM, levels, chosen_N, keys_B, weighting, batch)
        total_BK = total_BK.at[rows_B1, label_BM].add(sum_BM)
        levels_BK = levels_BK.at[rows_B1, label_BM].add(until - done)
        _, best_BM = jax.lax.top_k(-jnp.take_along_axis(total_BK, label_BM, 1), kept)
        label_BM, done = jnp.take_along_axis(label_BM, best_BM, 1), until
    return Classified(label_BM[:, 0], total_BK / levels_BK, levels_BK)


def spread(count: int) -> np.ndarray:
    """0 .. N-1 in an order whose every beginning is spread over all (van der Corput), [N]."""
    bits = max(count - 1, 1).bit_length()
    backwards = [int(f"{i:0{bits}b}"[::-1], 2) for i in range(2**bits)]
    return np.array([i for i in backwards if i < count])


def _losses(
    denoiser: LabelledDenoiser,
    x: Array,
    label_BM: Array,
    levels: Level,
    chosen_N: np.ndarray,
    keys_B: Array,
    weighting: Weighting,
    batch: int | None,
) -> Float[Array, "B M"]:
    """The weighted losses of M classes for each image, summed over levels."""
    size = label_BM.shape[1]

    def at_level(sum_BM, numbered):
        i, level = numbered
        e = normal(step_keys(keys_B, i), x.shape[1:])
        z = add_noise(x, e, level)
        v = make_target("v", x, e, level)

        def loss_of(z_P, v_P, label_P):
            estimate = denoiser(z_P, level, label_P)
            return mean_square(v_P - make_target("v", estimate.x, estimate.e, level))

        pairs = _each(z, size), _each(v, size), label_BM.reshape(-1)
        loss_BM = _in_batches(loss_of, pairs, batch).reshape(label_BM.shape)
        return sum_BM + weighting.weight(level, "v") * loss_BM, None

    chosen = jax.tree.map(lambda value: jnp.asarray(value[chosen_N], jnp.float32), levels)
    numbered = (jnp.asarray(chosen_N), chosen)
    with visiting(levels):
        return jax.lax.scan(at_level, jnp.zeros(label_BM.shape), numbered)[0]


def _each(value: Float[Array, "B ..."], times: int) -> Float[Array, "P ..."]:
    """Every example so many times in a row; examples keep their sharding."""
    shape = (len(value), times, *value.shape[1:])
    return jnp.broadcast_to(value[:, None], shape).reshape(-1, *value.shape[1:])


def _in_batches(
    function: Callable[..., Array], arrays: tuple[Array, ...], batch: int | None
) -> Float[Array, "P"]:
    """A function of arrays [P, ...] that treats rows alike, so many rows at a time."""
    count = len(arrays[0])
    if batch is None or batch >= count:
        return function(*arrays)
    rounds = -(-count // batch)
    rows_RP = jnp.minimum(jnp.arange(rounds * batch), count - 1).reshape(rounds, batch)
    results = jax.lax.map(lambda row_P: function(*(value[row_P] for value in arrays)), rows_RP)
    return results.reshape(-1)[:count]


def _check(
    classes: int, levels: Level, stages: Sequence[tuple[int, int]], batch: int | None
) -> None:
    if classes < 1:
        raise InputError(f"classes is {classes}, expected at least 1")
    if np.ndim(levels.t) != 1 or not np.size(levels.t):
        raise InputError(f"levels have shape {np.shape(levels.t)}, expected [N] with N >= 1")
    if batch is not None and batch < 1:
        raise InputError(f"batch is {batch}, expected at least 1, or None for all")
    done, left = 0, classes
    for until, kept in stages:
        if not (done < until < np.size(levels.t) and 1 <= kept <= left):
            raise InputError(
                f"stages is {tuple(stages)}, expected rising numbers of levels below "
                f"{np.size(levels.t)}, and 1 to {classes} classes kept, ever fewer"
            )
        done, left = until, kept
