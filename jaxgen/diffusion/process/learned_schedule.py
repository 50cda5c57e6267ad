"""A schedule that is learnt, and monotone whatever is learnt (Kingma et al. 2021, appendix H).

Symbols: t in [0, 1], q = 2 t - 1, N features with positive weights w and sigmoids between::

    g(t)       = w_1 q + 1/N sum_n w_3n sigmoid(w_2n q + b_n)
    lambda(t)  = lambda_max - (lambda_max - lambda_min) (g(t) - g(0)) / (g(1) - g(0))

Weights are softplus of what is stored, so g rises strictly; the ends are parameters too. In
continuous time the bound depends on the ends alone. What is between them changes only how much an
estimate of it varies, and is trained to make ``E[diffusion^2]`` small (appendix I.2 there)::

    schedule = LearnedSchedule(params, config)
    bound = continuous_bound(denoiser, x, key, schedule=schedule, decoder=decoder)
    bound.total.mean()              the loss of the ends, and of the denoiser
    (bound.diffusion ** 2).mean()   the loss of w_1, w_2, w_3, b

Denoisers should then be conditioned on the log-SNR itself, not t.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from jaxgen.diffusion.process.levels import (
    ArrayLike,
    Scaling,
    as_numbers,
    namespace,
    sigmoid,
    softplus,
)
from jaxgen.diffusion.process.schedules import (
    Schedule,
    bisect_time,
    check_falling,
    check_scaling,
    newton_step,
)
from jaxgen.errors import InputError


@dataclass(frozen=True)
class LearnedScheduleConfig:
    """Size and beginning of a learnt schedule.

    Attributes:
      features: N.
      log_snr_min: lambda(1), at first.
      log_snr_max: lambda(0), at first.
      learn_ends: whether the ends are learnt; only the variational bound says where they belong.
      scaling: how latents are scaled.

    Raises:
      InputError: for no features, ends that are not finite and falling, or an unknown frame.
    """

    features: int = 1024
    log_snr_min: float = -5.0
    log_snr_max: float = 13.3
    learn_ends: bool = True
    scaling: Scaling = "vp"

    def __post_init__(self) -> None:
        if self.features < 1:
            raise InputError(f"features is {self.features}, expected 1 or more")
        check_falling(self.log_snr_max, self.log_snr_min)
        check_scaling(self.scaling)
        if not math.isfinite(self.log_snr_max - self.log_snr_min):
            raise InputError(
                f"log_snr_min is {self.log_snr_min}, log_snr_max is {self.log_snr_max}, expected "
                "finite ends of a learnt schedule"
            )

    def make_model(self) -> "MonotoneLogSNR":
        """The module that holds the parameters."""
        return MonotoneLogSNR(self)


class MonotoneLogSNR(nn.Module):
    """lambda(t); its parameters make a `LearnedSchedule`."""

    config: LearnedScheduleConfig

    @nn.compact
    def __call__(self, t: Float[Array, "..."]) -> Float[Array, "..."]:
        """The log-SNR at t, of its shape."""
        config, wide = self.config, (self.config.features,)
        params = {
            "slope": self._param("slope", (), (), _constant(1.0)),
            "inner": self._param("inner", ("hidden",), wide, _constant(4.0)),
            "outer": self._param("outer", ("hidden",), wide, _constant(1.0)),
            "bias": self._param(
                "bias",
                ("hidden",),
                wide,
                lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -4.0, 4.0),
            ),
        }
        if config.learn_ends:
            fall = config.log_snr_max - config.log_snr_min
            top = nn.initializers.constant(config.log_snr_max)
            params["top"] = self._param("top", (), (), top)
            params["fall"] = self._param("fall", (), (), _constant(fall))
        return LearnedSchedule(params, config).log_snr(jnp.asarray(t))

    def _param(self, name: str, axes: tuple[str, ...], shape: tuple[int, ...], init: Any) -> Array:
        return self.param(name, nn.with_logical_partitioning(init, axes), shape, jnp.float32)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class LearnedSchedule(Schedule):
    """A schedule around parameters: a pytree, through which gradients flow.

    Given numpy numbers, and parameters that are not being traced, it computes in float64 as all
    schedules do, so that steps of samplers are made from it in the same way.

    Attributes:
      params: of `MonotoneLogSNR`, unboxed.
      config: static.
    """

    params: Mapping[str, Any]
    config: LearnedScheduleConfig = field(
        default=LearnedScheduleConfig(), metadata={"static": True}
    )

    @property
    def scaling(self) -> Scaling:
        """How latents are scaled."""
        return self.config.scaling

    def log_snr(self, t: ArrayLike) -> Any:
        """lambda(t); see the module."""
        t, params = self._numbers(t)
        top, fall = self._ends(params)
        zero = t * 0
        return top - fall * (_rise(params, t) - _rise(params, zero)) / _height(params, zero)

    def derivative(self, t: ArrayLike) -> Any:
        """d lambda / dt, in closed form."""
        t, params = self._numbers(t)
        fall = self._ends(params)[1]
        return -fall * _slope(params, t) / _height(params, t * 0)

    def time(self, log_snr: ArrayLike) -> Any:
        """The inverse by bisection, and a step of Newton through which gradients flow."""
        log_snr, params = self._numbers(log_snr)
        top, fall = self._ends(params)
        log_snr = namespace(log_snr, top).clip(log_snr, top - fall, top)
        held = self if isinstance(log_snr, np.ndarray) else _without_gradient(self)
        wanted = log_snr if held is self else jax.lax.stop_gradient(log_snr)
        t = bisect_time(held.log_snr, wanted)
        t = t - newton_step(self.log_snr(t), log_snr, held.derivative(t))
        return namespace(t).clip(t, 0.0, 1.0)

    def _numbers(self, value: ArrayLike) -> tuple[Any, Mapping[str, Any]]:
        """The value and the parameters, all in numpy and float64 or all in JAX."""
        traced = any(isinstance(leaf, jax.core.Tracer) for leaf in self.params.values())
        if traced or isinstance(value, jax.Array):
            return as_numbers(jnp.asarray(value)), self.params
        return as_numbers(value), {k: np.asarray(v, np.float64) for k, v in self.params.items()}

    def _ends(self, params: Mapping[str, Any]) -> tuple[Any, Any]:
        """lambda(0) and how far it falls."""
        if self.config.learn_ends:
            return params["top"], softplus(params["fall"])
        top = self.config.log_snr_max
        return top, top - self.config.log_snr_min


def _rise(params: Mapping[str, Any], t: Any) -> Any:
    """g(t)."""
    q = 2 * t - 1
    inner = softplus(params["inner"]) * q[..., None] + params["bias"]
    curve = (softplus(params["outer"]) * sigmoid(inner)).mean(-1)
    return softplus(params["slope"]) * q + curve


def _slope(params: Mapping[str, Any], t: Any) -> Any:
    """dg / dt."""
    weight = softplus(params["inner"])
    inner = weight * (2 * t - 1)[..., None] + params["bias"]
    bell = sigmoid(inner) * sigmoid(-inner)
    return 2 * (softplus(params["slope"]) + (softplus(params["outer"]) * weight * bell).mean(-1))


def _height(params: Mapping[str, Any], zero: Any) -> Any:
    """g(1) - g(0)."""
    return _rise(params, zero + 1) - _rise(params, zero)


def _without_gradient(schedule: LearnedSchedule) -> LearnedSchedule:
    return jax.tree.map(jax.lax.stop_gradient, schedule)


def _constant(value: float) -> Any:
    """An initial value that softplus takes to the given one."""
    return nn.initializers.constant(value + math.log(-math.expm1(-value)))
