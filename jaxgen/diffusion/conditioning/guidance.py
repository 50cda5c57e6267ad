"""Guidance: functions from denoisers to denoisers that pull samples towards a condition.

Symbols: z = a x + s e with log-SNR lambda; y a condition; e(z, y) and e(z) the noise that denoisers
with and without it see; score = -e / s. Guidance mixes scores, and so noise and data alike::

    classifier-free   e~ = (1 + w) e(z, y) - w e(z)             Ho & Salimans 2022, equation 6
                      x~ = (1 + w) x(z, y) - w x(z)             the same, since z = a x~ + s e~
    composition       e~ = e(z) + sum_i w_i (e(z, y_i) - e(z))  Liu et al. 2022, equation 11
    classifier        e~ = e(z) - w s grad log p(y | z)         Dhariwal & Nichol 2021, algorithm 2
                      x~ = x(z) + w s^2/a grad log p(y | z)

w is the paper's: w = 0 is the conditional model, w = -1 the unconditional one. Many programs take a
*guidance scale* g instead, with ``e~ = e(z) + g (e(z, y) - e(z))``: g = 1 + w.

The same extrapolation from a weak model to a good one of the same condition is autoguidance
(Karras et al. 2024): ``classifier_free_guidance(good, weak, w)``.

Weights are numbers, traced arrays ([] or one for each example, [B]), or functions of the noise
level (`within`, `power_cosine`, `oscillating`, or any other): none of them recompiles anything.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped

from jaxgen.diffusion.denoiser import (
    Denoiser,
    Estimate,
    TimeInput,
    check_level_fits,
    make_denoiser,
    thousandths,
)
from jaxgen.diffusion.process.levels import Level, broadcast_level, expand
from jaxgen.diffusion.process.predictions import (
    TargetName,
    check_target,
    divide,
    make_target,
    to_x_and_e,
)
from jaxgen.errors import InputError, can_be_checked

GuidanceWeight = float | Array | Callable[[Level], Any]
"""A number, an array ([] or [B]), or a function of the noise level."""

LabelledNetwork = Callable[[Array, Array, Array], Array]
"""``(z [B, ...], time [B], labels [B]) -> prediction [B, ...]``."""

ConditionedNetwork = Callable[[Array, Array, Any], Array]
"""``(z [B, ...], time [B], conditions: a tree of [B, ...]) -> prediction [B, ...]``."""


def guidance_weight_at(w: GuidanceWeight, level: Level) -> Float[Array, "..."]:
    """A guidance weight at a noise level, [] or [B]."""
    return jnp.asarray(w(level) if callable(w) else w, jnp.float32)


def within(w: GuidanceWeight, low: float = 0.0, high: float = math.inf) -> GuidanceWeight:
    """Guidance in an interval of noise levels only (Kynkäänniemi et al. 2024).

    Elsewhere the weight is zero, which is the conditional model.

    Args:
      w: the guidance weight inside.
      low: the interval's end at little noise, in units of s / a (sigma of Karras et al. 2022),
        itself outside.
      high: the end at much noise, inside.

    Raises:
      InputError: unless 0 <= low < high.
    """
    if can_be_checked(low, high) and not 0 <= low < high:
        raise InputError(f"low is {low}, high is {high}, expected 0 <= low < high, as ratios s / a")

    def guidance_weight(level: Level) -> Float[Array, "..."]:
        sigma = jnp.exp(-jnp.asarray(level.log_snr) / 2)
        return jnp.where((sigma > low) & (sigma <= high), guidance_weight_at(w, level), 0.0)

    return guidance_weight


def power_cosine(w: GuidanceWeight, power: float = 4.0) -> GuidanceWeight:
    """w (1 - cos(pi (1 - t)^power)) / 2: none at noise, full at data (Gao et al. 2023, MDT).

    Args:
      w: the guidance weight at t = 0.
      power: the larger, the later it sets in.
    """
    return lambda level: (
        guidance_weight_at(w, level)
        * (1 - jnp.cos(jnp.pi * (1 - jnp.asarray(level.t)) ** power))
        / 2
    )


def oscillating(
    levels: Level, w: GuidanceWeight, other: GuidanceWeight = 0.0, constant: int = 0
) -> GuidanceWeight:
    """w in the first steps, then w and another weight by turns (Ho et al. 2022, Imagen Video, 2.6).

    High weights follow the text, low ones undo the saturation that comes with them. The paper has
    scales 15 and 1 (w 14 and 0).

    Args:
      levels: the sampler's, [N + 1] from noise to data; a level between two belongs to the nearer.
      w: the weight of even steps, counted from where turns begin.
      other: the weight of odd ones.
      constant: how many steps have w before turns begin.

    Raises:
      InputError: for a negative number of steps.
    """
    if constant < 0:
        raise InputError(f"constant is {constant}, expected 0 or more steps")
    time_N = jnp.asarray(levels.t, jnp.float32)

    def guidance_weight(level: Level) -> Float[Array, "..."]:
        distance = jnp.abs(jnp.asarray(level.t, jnp.float32)[..., None] - time_N)
        turn = jnp.argmin(distance, axis=-1) - constant
        low = (turn > 0) & (turn % 2 == 1)
        return jnp.where(low, guidance_weight_at(other, level), guidance_weight_at(w, level))

    return guidance_weight


def classifier_free_guidance(
    conditional: Denoiser,
    unconditional: Denoiser,
    w: GuidanceWeight,
    *,
    rescale: float | Array = 0.0,
    rescale_target: TargetName = "v",
    channels: int | None = None,
) -> Denoiser:
    """``(1 + w)`` times the conditional estimate less ``w`` times the unconditional one.

    Args:
      conditional: with the condition (or the good model, for autoguidance).
      unconditional: without it (or with a negative condition, or the weak model).
      w: the guidance weight; the guidance scale of other programs is 1 + w.
      rescale: phi of Lin et al. 2024 (equations 15 and 16): share of the guided prediction that is
        brought to the standard deviation of the conditional one, 0 to 1.
      rescale_target: the prediction whose deviation is meant: what the network predicts, to agree
        with programs that rescale its output (v in the paper).
      channels: guide the first so many channels (last axis) only and leave the others conditional;
        DiT's public code guides three of four. None for all.

    Returns:
      The guided denoiser; a learnt variance is the conditional one's.

    Raises:
      InputError: for rescale outside of [0, 1], an unknown target, or no channels.
    """
    rescale_target = check_target(rescale_target)
    _check_options(rescale, channels)

    def denoiser(z: Float[Array, "B ..."], level: Level) -> Estimate:
        pair = conditional(z, level), unconditional(z, level)
        return _guide(pair, z, level, w, rescale, rescale_target, channels)

    return denoiser


def guide_network(
    network: LabelledNetwork,
    labels_B: Int[Array, "B"],
    null_label: int | None,
    w: GuidanceWeight,
    *,
    target: TargetName,
    time_input: TimeInput = thousandths,
    learned_variance: bool = False,
    rescale: float | Array = 0.0,
    channels: int | None = None,
) -> Denoiser:
    """Classifier-free guidance of classes: `guide_conditions` with the null label for nothing.

    Args:
      network: ``(z, time, labels) -> prediction``.
      labels_B: [B] class ids below the null label.
      null_label: the id of the null class.
      w: the guidance weight, see `classifier_free_guidance`.
      target: what the network predicts.
      time_input: its conditioning on the noise level.
      learned_variance: as in `make_denoiser`.
      rescale: as in `classifier_free_guidance`, of the network's target.
      channels: as there.

    Returns:
      The guided denoiser, for latents of the same B.

    Raises:
      InputError: without labels or null label, for labels that are no classes, and as
        `guide_conditions`.
    """
    labels_B, nulls_B = labels_and_nulls(labels_B, null_label)
    return guide_conditions(
        network,
        labels_B,
        nulls_B,
        w,
        target=target,
        time_input=time_input,
        learned_variance=learned_variance,
        rescale=rescale,
        channels=channels,
    )


def guide_conditions(
    network: ConditionedNetwork,
    conditions: Any,
    nulls: Any,
    w: GuidanceWeight,
    *,
    target: TargetName,
    time_input: TimeInput = thousandths,
    learned_variance: bool = False,
    rescale: float | Array = 0.0,
    channels: int | None = None,
) -> Denoiser:
    """Classifier-free guidance with one call of the network, on a batch of twice the size.

    Every example is followed by its unconditional copy (`twice`), so a batch that is spread over
    devices stays where it is.

    Args:
      network: ``(z, time, conditions) -> prediction``.
      conditions: labels, or the arrays of a text, or any tree of arrays [B, ...].
      nulls: what stands for no condition, or for what samples shall not show (a negative prompt): a
        tree like that of the conditions, of arrays [B, ...]. A condition that is in both as it is
        remains a condition.
      w: the guidance weight, see `classifier_free_guidance`.
      target: what the network predicts.
      time_input: its conditioning on the noise level.
      learned_variance: as in `make_denoiser`.
      rescale: as in `classifier_free_guidance`, of the network's target.
      channels: as there.

    Returns:
      The guided denoiser, for latents of the same B.

    Raises:
      InputError: for nulls that are not like the conditions, latents of another B, and as
        `classifier_free_guidance`.
    """
    check_nulls(conditions, nulls)
    target = check_target(target)
    _check_options(rescale, channels)
    both = jax.tree.map(_by_turns, conditions, nulls)
    double = make_denoiser(
        lambda z, time: network(z, time, both),
        target,
        time_input=time_input,
        learned_variance=learned_variance,
    )

    def denoiser(z: Float[Array, "B ..."], level: Level) -> Estimate:
        for given in jax.tree.leaves(conditions):
            if len(given) != len(z):
                raise InputError(
                    f"conditions have shape {given.shape}, expected [{len(z)}, ...], as the latents"
                )
        check_level_fits(level, target)
        level = broadcast_level(level, len(z))
        estimate = double(twice(z), jax.tree.map(twice, level))
        pair = _every_second(estimate, 0), _every_second(estimate, 1)
        return _guide(pair, z, level, w, rescale, target, channels)

    return denoiser


def twice(value_B: Shaped[Array, "B ..."]) -> Shaped[Array, "2*B ..."]:
    """Every example two times in a row, [2 B, ...]: the order of `guide_conditions`."""
    return _by_turns(value_B, value_B)


def _by_turns(
    first_B: Shaped[Array, "B ..."], second_B: Shaped[Array, "B ..."]
) -> Shaped[Array, "2*B ..."]:
    """An example of the first, one of the second, and so on."""
    return jnp.stack([first_B, second_B], 1).reshape(-1, *first_B.shape[1:])


def check_nulls(conditions: Any, nulls: Any) -> None:
    """Refuses what cannot stand for no condition.

    Raises:
      InputError: for another tree, or arrays of other shapes.
    """
    given, wanted = (jax.tree.map(jnp.shape, tree) for tree in (nulls, conditions))
    if given != wanted or not jax.tree.leaves(conditions):
        raise InputError(
            f"conditions have shapes {wanted}, those of none {given}, expected the same, and one "
            "or more to guide with"
        )


def _every_second(estimate: Estimate, first: int) -> Estimate:
    """One of the two copies that `twice` made."""
    return jax.tree.map(lambda value: value.reshape(-1, 2, *value.shape[1:])[:, first], estimate)


def labels_and_nulls(
    labels_B: Any, null_label: int | None
) -> tuple[Int[Array, "B"], Int[Array, "B"]]:
    """The labels as an array, and as many null labels, if guidance can be done with them.

    Raises:
      InputError: naming what is missing or wrong: no labels, no null label, labels that are not
        [B] integers, or, where they are no tracers, labels out of range.
    """
    if labels_B is None:
        raise InputError("labels are None, expected the class of every example, [B] integers")
    if null_label is None:
        raise InputError(
            "null_label is None, expected the id of the null class of a "
            "network that was trained with one (null_class=True)"
        )
    if can_be_checked(labels_B, null_label):
        labels_B = np.asarray(labels_B)
        if null_label < 1:
            raise InputError(
                f"null_label is {null_label}, expected one after the classes, at least 1"
            )
    if labels_B.ndim != 1 or not jnp.issubdtype(labels_B.dtype, jnp.integer):
        raise InputError(
            f"labels have shape {labels_B.shape} and type {labels_B.dtype}, expected [B] integers"
        )
    if isinstance(labels_B, np.ndarray):
        outside_B = (labels_B < 0) | (labels_B >= null_label)
        if outside_B.any():
            i = int(outside_B.argmax())
            raise InputError(
                f"labels[{i}] is {labels_B[i]}, expected a class, 0 to {null_label - 1} "
                f"(null_label={null_label})"
            )
    labels_B = jnp.asarray(labels_B, jnp.int32)  # the null label may be beyond a type of bytes
    return labels_B, jnp.full_like(labels_B, null_label)


def compose_conditions(
    unconditional: Denoiser, conditionals: Sequence[Denoiser], weights: Sequence[GuidanceWeight]
) -> Denoiser:
    """Several conditions at once: e(z) + sum_i w_i (e(z, y_i) - e(z)) (Liu et al. 2022).

    It is the score of p(z) prod_i (p(z | y_i) / p(z))^w_i; negative weights lead away.

    Args:
      unconditional: without any condition.
      conditionals: with one condition each.
      weights: their weights; one condition of weight 1 + w is `classifier_free_guidance`.

    Returns:
      The composition; a learnt variance is the unconditional one's.

    Raises:
      InputError: unless there are as many weights as conditions.
    """
    if len(conditionals) != len(weights):
        raise InputError(f"{len(weights)} weights for {len(conditionals)} conditions")

    def denoiser(z: Float[Array, "B ..."], level: Level) -> Estimate:
        base = unconditional(z, level)
        x, e = base.x, base.e
        for conditional, weight in zip(conditionals, weights, strict=True):
            estimate, share = conditional(z, level), expand(guidance_weight_at(weight, level), z)
            x, e = x + share * (estimate.x - base.x), e + share * (estimate.e - base.e)
        return base._replace(x=x, e=e)

    return denoiser


def classifier_guidance(
    denoiser: Denoiser,
    log_likelihood: Callable[[Array, Level], Float[Array, "B"]],
    scale: GuidanceWeight = 1.0,
) -> Denoiser:
    """Follows the gradient of a classifier of noisy latents (Dhariwal & Nichol 2021, algorithm 2).

    With the exact classifier and scale 1 an exact unconditional denoiser becomes the conditional
    one (Bayes' rule in gradients) wherever a > 0; at a = 0 the latent says nothing of y, and x
    stays the unconditional mean.

    Args:
      denoiser: what is guided.
      log_likelihood: ``(z, level) -> log p(y | z)``, [B] in nats, the wanted y closed over.
      scale: factor of the gradient.
    """

    def guided(z: Float[Array, "B ..."], level: Level) -> Estimate:
        gradient = jax.grad(lambda z: log_likelihood(z, level).sum())(z)
        share = expand(guidance_weight_at(scale, level), z)
        return add_to_score(denoiser(z, level), share * gradient, level)

    return guided


def add_to_score(estimate: Estimate, gradient: Float[Array, "B ..."], level: Level) -> Estimate:
    """An estimate whose score is larger by `gradient`: e - s gradient and x + s^2/a gradient.

    At a = 0 the data stay as they are.
    """
    a, s = expand(level.a, gradient), expand(level.s, gradient)
    return estimate._replace(
        x=estimate.x + divide(s * s * gradient, a), e=estimate.e - s * gradient
    )


def add_to_x(estimate: Estimate, change: Float[Array, "B ..."], level: Level) -> Estimate:
    """An estimate whose data are larger by `change` and whose noise still makes up the latent.

    At s = 0 the noise stays as it is.
    """
    a, s = expand(level.a, change), expand(level.s, change)
    return estimate._replace(x=estimate.x + change, e=estimate.e - divide(a * change, s))


def _guide(
    pair: tuple[Estimate, Estimate],
    z: Array,
    level: Level,
    w: GuidanceWeight,
    rescale: float | Array,
    target: TargetName,
    channels: int | None,
) -> Estimate:
    """The conditional estimate moved away from the unconditional one."""
    conditional, unconditional = pair
    share = expand(guidance_weight_at(w, level), z)
    if channels is not None:
        if channels > z.shape[-1]:
            raise InputError(f"channels is {channels}, expected at most the latents' {z.shape[-1]}")
        share = share * (jnp.arange(z.shape[-1]) < channels)
    guided = conditional._replace(
        x=conditional.x + share * (conditional.x - unconditional.x),
        e=conditional.e + share * (conditional.e - unconditional.e),
    )
    if isinstance(rescale, int | float) and rescale == 0:
        return guided
    check_level_fits(level, target)
    wanted = make_target(target, conditional.x, conditional.e, level)
    prediction = make_target(target, guided.x, guided.e, level)
    axes = max(1, jnp.ndim(level.a))
    ratio = _deviation(wanted, axes) / _deviation(prediction, axes)
    phi = expand(jnp.asarray(rescale), ratio)
    prediction = prediction * expand(phi * ratio + (1 - phi), prediction)
    x, e = to_x_and_e(prediction, z, level, target)
    return guided._replace(x=x, e=e)


def _deviation(value: Float[Array, "B ..."], axes: int) -> Float[Array, "B ..."]:
    """Standard deviation of the numbers that share a level, [B] or [B, T], kept from zero."""
    variance = jnp.var(value, tuple(range(axes, value.ndim)))
    return jnp.sqrt(jnp.maximum(variance, 1e-20))


def _check_options(rescale: float | Array, channels: int | None) -> None:
    if can_be_checked(rescale) and not all(0 <= phi <= 1 for phi in np.ravel(rescale)):
        raise InputError(f"rescale is {rescale}, expected 0 <= rescale <= 1")
    if channels is not None and channels < 1:
        raise InputError(f"channels is {channels}, expected at least 1, or None for all")
