"""Optimizer recipes: a configuration, and the Optax transformation that it stands for.

Symbols: theta parameters, g gradient of the mean loss, t updates done before this one (skipped
steps do not count), e_t learning rate, lambda weight decay, c clipping norm.

**Updates**, with s, m and v starting at `initial_accumulator`, 0 and 0::

    sgd        theta <- theta - e_t g'
    momentum   m <- mu m + g'                       theta <- theta - e_t m
    adagrad    s <- s + g'^2                        theta <- theta - e_t g' / sqrt(s + eps)
    adam       m <- b1 m + (1 - b1) g'              theta <- theta - e_t m^ / (sqrt(v^) + eps)
               v <- b2 v + (1 - b2) g'^2            m^ = m / (1 - b1^(t+1)), v^ = v / (1 - b2^(t+1))
    adamw      as adam with g in place of g', and   theta <- theta - e_t lambda theta  besides

**Coupled** decay, in all but adamw: ``g' = g + lambda theta``, the gradient of the loss plus
``lambda/2 |theta|^2`` (Bengio et al. 2003). **Decoupled** decay, in adamw: the parameters shrink by
``e_t lambda`` besides the step (Loshchilov & Hutter 2019). Either touches weights only, that is
what multiplies features: kernels, and the tables of classes and words, which multiply one-hot
vectors. What is added to features or only scales them does not decay: biases, those by relative
position included, scales of norms, embeddings of positions, learnt tokens.

**Clipping**, where asked for, comes first: ``g <- g min(1, c / |g|)`` with one norm over all
parameters; the decay is not clipped.

**Learning rates**, with f for `final_fraction` and T for `total_steps`::

    constant       e_t = e_0
    inverse_time   e_t = e_0 / (1 + r t)                              (Bengio et al. 2003)
    cosine         e_t = e_0 (f + (1 - f) (1 + cos(pi u)) / 2)        u = min(1, (t - w) / (T - w))
    linear         e_t = e_0 (f + (1 - f) (1 - u))

Each may start with a linear warm-up: ``e_t = e_0 (t + 1) / (w + 1)`` for t < w = `warmup_steps`.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from jaxgen.errors import InputError

OptimizerName = Literal["sgd", "momentum", "adagrad", "adam", "adamw"]
ScheduleName = Literal["constant", "inverse_time", "cosine", "linear"]
MomentDtype = Literal["float32", "bfloat16"]
DecayMask = Callable[[str, Any], bool]
"""``(path, array) -> whether weight decay applies``; paths look like ``hidden/kernel``."""


@dataclass(frozen=True)
class OptimizerConfig:
    """An optimizer with its learning rate, weight decay and clipping; formulas in the module.

    Attributes:
      name: which update.
      learning_rate: e_0.
      schedule: how the learning rate changes.
      inverse_time_rate: r, for the schedule ``inverse_time``.
      warmup_steps: w; 0 for none.
      total_steps: T, for the schedules ``cosine`` and ``linear``.
      final_fraction: f, for the same: what is left of the learning rate at T.
      weight_decay: lambda.
      decay_pattern: a regular expression; weight decay applies to the parameters in whose path it
        is found. None: to weights and never biases, by their names whatever their rank: ``kernel``
        and ``table`` decay; ``bias``, ``scale``, ``positions``, ``token``, also as the last word
        of a longer name (``mask_token``), and ``relative/table`` do not. Of other names, arrays of
        two or more dimensions do.
      clip_norm: c; None for no clipping.
      momentum: mu, for momentum.
      b1, b2: for adam and adamw.
      eps: for adagrad, adam and adamw.
      initial_accumulator: for adagrad.
      moment_dtype: of m, the mean of gradients that momentum, adam and adamw keep; "bfloat16"
        halves it. v and s stay in float32: where b2 is 0.999 a step changes v by less than half of
        the last of bfloat16's 8 bits, so that it would stand still.

    Raises:
      InputError: for an unknown name or a value out of range, naming the field.
    """

    name: OptimizerName = "adamw"
    learning_rate: float = 1e-3
    schedule: ScheduleName = "constant"
    inverse_time_rate: float = 1e-8
    warmup_steps: int = 0
    total_steps: int = 0
    final_fraction: float = 0.0
    weight_decay: float = 0.0
    decay_pattern: str | None = None
    clip_norm: float | None = None
    momentum: float = 0.9
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    initial_accumulator: float = 0.1
    moment_dtype: MomentDtype = "float32"

    def __post_init__(self) -> None:
        _check(self)


def make_optimizer(
    config: OptimizerConfig, decay_mask: DecayMask | None = None
) -> optax.GradientTransformation:
    """The Optax transformation of a configuration.

    Args:
      config: the recipe.
      decay_mask: overrides the configuration's choice of the parameters that decay.

    Raises:
      InputError: when the transformation first sees parameters, where weight decay is asked for and
        no parameter is chosen.
    """
    mask = _mask_of(decay_mask or _default_mask(config.decay_pattern), config)
    decay = optax.add_decayed_weights(config.weight_decay, mask)
    coupled = config.weight_decay > 0 and config.name != "adamw"
    decoupled = config.weight_decay > 0 and config.name == "adamw"
    return optax.chain(
        *([optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm is not None else []),
        *([decay] if coupled else []),
        *_direction(config),
        *([decay] if decoupled else []),
        optax.scale_by_learning_rate(make_schedule(config)),
    )


def _direction(config: OptimizerConfig) -> list[optax.GradientTransformation]:
    """What turns the gradient into a direction, before the learning rate."""
    match config.name:
        case "sgd":
            return []
        case "momentum":
            return [optax.trace(config.momentum, accumulator_dtype=_dtype_of(config))]
        case "adagrad":
            return [optax.scale_by_rss(config.initial_accumulator, config.eps)]
        case "adam" | "adamw":
            return [
                optax.scale_by_adam(config.b1, config.b2, config.eps, mu_dtype=_dtype_of(config))
            ]


def _dtype_of(config: OptimizerConfig) -> Any:
    """The dtype of moments; None: that of the parameters."""
    return jnp.bfloat16 if config.moment_dtype == "bfloat16" else None


def make_schedule(config: OptimizerConfig) -> Callable[[Int[Array, ""]], Float[Array, ""]]:
    """The learning rate as a function of t, the number of updates done before."""
    warmup, peak = config.warmup_steps, config.learning_rate
    floor = config.final_fraction

    def schedule(count: Int[Array, ""]) -> Float[Array, ""]:
        t = jnp.asarray(count, jnp.float32)
        u = jnp.clip((t - warmup) / max(config.total_steps - warmup, 1), 0.0, 1.0)
        match config.schedule:
            case "constant":
                factor = jnp.ones(())
            case "inverse_time":
                factor = 1 / (1 + config.inverse_time_rate * t)
            case "cosine":
                factor = floor + (1 - floor) * (1 + jnp.cos(math.pi * u)) / 2
            case "linear":
                factor = floor + (1 - floor) * (1 - u)
        return peak * jnp.where(t < warmup, (t + 1) / (warmup + 1), factor)

    return schedule


_NO_WEIGHT = re.compile(r"(^|[/_])(bias|scale|positions|token|relative/table)$")
_WEIGHT = re.compile(r"(^|[/_])(kernel|table)$")


def _default_mask(pattern: str | None) -> DecayMask:
    if pattern is None:
        return _is_weight
    found = re.compile(pattern)
    return lambda path, array: found.search(path) is not None


def _is_weight(path: str, array: Any) -> bool:
    if _NO_WEIGHT.search(path):
        return False
    return array.ndim >= 2 or _WEIGHT.search(path) is not None


def _mask_of(decay_mask: DecayMask, config: OptimizerConfig) -> Callable[[Any], Any]:
    """A mask as Optax wants it: parameters -> tree of booleans."""

    def mask(params: Any) -> Any:
        chosen = jax.tree_util.tree_map_with_path(
            lambda path, array: bool(
                decay_mask(jax.tree_util.keystr(path, simple=True, separator="/"), array)
            ),
            params,
        )
        if not any(jax.tree.leaves(chosen)):
            raise InputError(
                f"weight_decay is {config.weight_decay} but applies to no parameter "
                f"(decay_pattern={config.decay_pattern!r}), expected at least one"
            )
        return chosen

    return mask


_CHOICES = {"name": OptimizerName, "schedule": ScheduleName, "moment_dtype": MomentDtype}


def _check(config: OptimizerConfig) -> None:
    """Raises InputError for the first invalid field."""
    for field, names in _CHOICES.items():
        value = getattr(config, field)
        if value not in get_args(names):
            raise InputError(f"{field} is {value!r}, expected one of {', '.join(get_args(names))}")
    for field in ("learning_rate", "inverse_time_rate", "weight_decay", "initial_accumulator"):
        _check_range(config, field, "a finite number >= 0", lambda x: x >= 0)
    _check_range(config, "eps", "a finite number > 0", lambda x: x > 0)
    for field in ("momentum", "b1", "b2"):
        _check_range(config, field, "0 <= value < 1", lambda x: 0 <= x < 1)
    _check_range(config, "final_fraction", "0 <= value <= 1", lambda x: 0 <= x <= 1)
    if config.clip_norm is not None:
        _check_range(config, "clip_norm", "a finite number > 0, or None", lambda x: x > 0)
    _check_range(config, "warmup_steps", "an integer >= 0", lambda x: x >= 0)
    if config.schedule in ("cosine", "linear"):
        expected = f"more than warmup_steps={config.warmup_steps} for schedule {config.schedule!r}"
        _check_range(config, "total_steps", expected, lambda x: x > config.warmup_steps)
    if config.decay_pattern is not None:
        try:
            re.compile(config.decay_pattern)
        except re.error as error:
            raise InputError(
                f"decay_pattern is {config.decay_pattern!r}, expected a regular expression: {error}"
            ) from None


def _check_range(
    config: OptimizerConfig, field: str, expected: str, holds: Callable[[float], bool]
) -> None:
    value = getattr(config, field)
    if not (math.isfinite(value) and holds(value)):
        raise InputError(f"{field} is {value}, expected {expected}")
