"""Parameters of a model for one whose network looks at more, which it ignores at first."""

import functools
from typing import Any

import jax

from experiments.shared.training_runs import OpenedModel, plan_layout_of
from jaxgen.nn.widening import widen_input
from jaxgen.typing import Tree


def widened_params(base: OpenedModel, wider: Any, place: int | None = None) -> Tree:
    """The parameters of a model for one with more channels in its network's input.

    Args:
      base: the model.
      wider: the configuration of the other one.
      place: how many of the old channels come before the new ones; None: all.
    """
    layout = plan_layout_of(wider)
    channels = base.config.network.in_channels
    widen = functools.partial(
        widen_input,
        wider=layout.abstract,
        channels=channels,
        added=wider.network.in_channels - channels,
        place=place,
    )
    return jax.jit(widen, out_shardings=layout.shardings)(base.params)
