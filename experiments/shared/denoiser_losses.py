"""The loss that a denoiser of images is trained with, whatever its network is conditioned on."""

from collections.abc import Callable
from typing import Any

from jaxtyping import Array, Float

from jaxgen.diffusion.edm import EDM
from jaxgen.diffusion.model import DenoiserConfig
from jaxgen.diffusion.objectives.losses import diffusion_loss
from jaxgen.diffusion.objectives.time_distributions import LowDiscrepancy, NormalLogSNR, Times
from jaxgen.diffusion.objectives.weightings import Weighting
from jaxgen.diffusion.process.levels import Level

NetworkLoss = Callable[[Callable[..., Any], Any, Array], tuple[Float[Array, "B"], Level]]
"""``(network, x, key) -> (losses [B], levels)``."""


def make_network_loss(config: DenoiserConfig, weighting: Weighting) -> NetworkLoss:
    """The loss of a network, ``(z, time) -> prediction``, at times spread evenly over the batch.

    A model that is preconditioned as in Karras et al. (2022) is trained with their weighting and
    times.

    Args:
      config: the model.
      weighting: the weight of |x - x^|^2.
    """
    times: Times = LowDiscrepancy()
    if config.sigma_data is not None:
        edm = EDM(config.sigma_data)
        weighting = edm.weighting
        times = LowDiscrepancy(NormalLogSNR(config.schedule, edm.times.mean, edm.times.deviation))

    def loss_of(network: Callable[..., Any], x: Any, key: Array) -> tuple[Float[Array, "B"], Level]:
        return diffusion_loss(
            config.adapt(network),
            x,
            key,
            schedule=config.schedule,
            target=config.target,
            weighting=weighting,
            times=times,
        )

    return loss_of
