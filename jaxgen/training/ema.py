"""The exponential moving average of parameters (EMA).

Symbols: theta parameters, d the decay, t the number of good updates so far (this one included).

Plain ``e <- d e + (1-d) theta`` remembers its start for 1/(1-d) steps; instead the average is
divided by the weight that it has seen, all in one update::

    e_t = e_{t-1} + (1-d)/(1-d^t) (theta_t - e_{t-1})      =>   e_t = sum_i d^{t-i} theta_i
                                                                      / sum_i d^{t-i},  i = 1..t

so that ``e_1 = theta_1`` and the initial parameters never count.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgen.errors import InputError
from jaxgen.typing import Tree


def check_decay(decay: float | None) -> None:
    """Validates the decay of an average.

    Raises:
      InputError: unless it is None or within [0, 1).
    """
    if decay is not None and not 0 <= decay < 1:
        raise InputError(f"ema_decay is {decay}, expected 0 <= ema_decay < 1, or None")


def average_dtype(leaf: Any) -> Any:
    """Averages are kept at least in float32: half precision would lose the small increments."""
    return jnp.promote_types(leaf.dtype, jnp.float32)


def start_average(params: Tree) -> Tree:
    """An average before any update: copies, since what is donated to a step must not share memory.

    Args:
      params: the parameters, of the same shapes.
    """
    return jax.tree.map(lambda x: jnp.array(x, average_dtype(x), copy=True), params)


def update_average(ema: Tree, params: Tree, decay: float, t: Float[Array, ""]) -> Tree:
    """e_t of the formula above, leaf by leaf; ``1 - d^t`` by expm1, exact for d near one.

    Args:
      ema: e_{t-1}.
      params: theta_t, of the same shapes.
      decay: d.
      t: good updates so far, this one included.

    Example:
      >>> average = update_average({"w": jnp.ones(1)}, {"w": jnp.zeros(1)}, 0.9, jnp.float32(1000))
      >>> round(float(average["w"][0]), 4)
      0.9
    """
    if decay == 0:
        return jax.tree.map(lambda e, p: p.astype(e.dtype), ema, params)
    rate = (1 - decay) / -jnp.expm1(t * math.log(decay))
    return jax.tree.map(lambda e, p: e + rate * (p - e), ema, params)
