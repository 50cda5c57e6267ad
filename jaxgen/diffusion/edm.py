"""EDM by name: schedule, preconditioning, loss and sampler of Karras et al. (2022, table 1).

Symbols as in `jaxgen.diffusion.preconditioning`; with P_mean and P_std of the paper::

    training    ln sigma ~ N(P_mean, P_std^2),  loss (sigma^2 + d^2) / (sigma d)^2 |x - x^|^2
    sampling    Heun's method (algorithm 1), or with churn algorithm 2, through
                sigma_i = (A + i / (N - 1) (B - A))^rho and from sigma_min to clean data,
                with A = sigma_max^(1/rho) and B = sigma_min^(1/rho)

The weight is ``1 / c_out^2``, so the loss is the mean of |F's error|^2::

    edm = EDM()
    loss_B, level = edm.loss(network, x, key)
    levels = edm.levels(18)
    x = sample(edm.sampler(), edm.make_denoiser(network), initial_noise(...), levels, key)
"""

from dataclasses import dataclass

from jaxtyping import Array, Float, Int, Key, Shaped

from jaxgen.diffusion.denoiser import Denoiser, Network, TimeInput
from jaxgen.diffusion.objectives.losses import denoiser_loss
from jaxgen.diffusion.objectives.time_distributions import NormalLogSNR
from jaxgen.diffusion.objectives.weightings import SNRPlus
from jaxgen.diffusion.preconditioning import precondition, quarter_log_sigma
from jaxgen.diffusion.process.levels import Level
from jaxgen.diffusion.process.schedules import KarrasSchedule
from jaxgen.diffusion.process.step_levels import make_steps
from jaxgen.diffusion.samplers.ode import Heun
from jaxgen.diffusion.samplers.sampling import Sampler
from jaxgen.diffusion.samplers.stochastic import StochasticKarras
from jaxgen.errors import check_positive


@dataclass(frozen=True)
class EDM:
    """The choices of Karras et al. (2022); defaults are the paper's.

    Attributes:
      sigma_data: d, the standard deviation of the data; 0.5 for images in [-1, 1].
      sigma_min: the least noise.
      sigma_max: the most.
      rho: the power of the steps.
      log_mean: P_mean, the mean of ln sigma in training.
      log_deviation: P_std, its deviation.

    Raises:
      InputError: for numbers that are not positive where they must be, or sigmas out of order.
    """

    sigma_data: float = 0.5
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0
    log_mean: float = -1.2
    log_deviation: float = 1.2

    def __post_init__(self) -> None:
        for name in ("sigma_data", "log_deviation"):
            check_positive(name, getattr(self, name))
        check_positive("rho", self.schedule.rho)

    @property
    def schedule(self) -> KarrasSchedule:
        """sigma as a function of the time."""
        return KarrasSchedule(self.sigma_min, self.sigma_max, self.rho)

    @property
    def weighting(self) -> SNRPlus:
        """SNR + 1 / d^2 of |x - x^|^2."""
        return SNRPlus(1 / self.sigma_data**2)

    @property
    def times(self) -> NormalLogSNR:
        """How times are drawn in training: the log-SNR is -2 ln sigma."""
        return NormalLogSNR(self.schedule, -2 * self.log_mean, 2 * self.log_deviation)

    def levels(self, count: int) -> Level:
        """The N + 1 levels of a sampler with N steps."""
        return make_steps(self.schedule, count, "karras", rho=self.rho)

    def sampler(
        self,
        churn: float = 0.0,
        low: float = 0.0,
        high: float = float("inf"),
        inflation: float = 1.0,
    ) -> Sampler:
        """Heun's method, or with churn the stochastic sampler.

        Args:
          churn: S_churn; 40 for ImageNet-64.
          low: S_tmin; 0.05 there.
          high: S_tmax; 50 there.
          inflation: S_noise; 1.003 there.
        """
        if not churn:
            return Heun("ve")
        return StochasticKarras(self.schedule, churn, low, high, inflation)

    def make_denoiser(
        self, network: Network, time_input: TimeInput = quarter_log_sigma
    ) -> Denoiser:
        """The denoiser of a network F; see `jaxgen.diffusion.preconditioning.precondition`."""
        return precondition(network, self.sigma_data, time_input=time_input)

    def loss(
        self,
        network: Network,
        x: Shaped[Array, "B ..."],
        key: Key[Array, ""],
        *,
        time_input: TimeInput = quarter_log_sigma,
        index_B: Int[Array, "B"] | None = None,
    ) -> tuple[Float[Array, "B"], Level]:
        """The loss of a network F at a random level for each example.

        Args:
          network: F, its conditions closed over.
          x: data, [B, ...]; images as uint8 or in [-1, 1].
          key: randomness.
          time_input: c_noise.
          index_B: example indices, folded into the key; places in the batch unless given.

        Returns:
          The losses, [B], and the levels at which they were taken.
        """
        return denoiser_loss(
            self.make_denoiser(network, time_input),
            x,
            key,
            schedule=self.schedule,
            target="x",
            weighting=self.weighting,
            times=self.times,
            index_B=index_B,
        )
