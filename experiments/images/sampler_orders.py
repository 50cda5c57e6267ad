"""How fast samplers come to the solution of the probability-flow ODE, where it is a formula.

``python -m experiments.images.sampler_orders``

For Gaussian data the best denoiser and the ODE's solution are known, so the error of a sampler can
be measured without any trained network. On doubly logarithmic axes it falls along a line whose
slope is the order of the method. In the working folder:

  convergence.png    errors by steps
  table.md           fitted slopes, and the errors
"""

from collections.abc import Sequence
from dataclasses import dataclass

from experiments.shared.image_plots import plot_by_steps
from experiments.shared.launch import ExperimentConfig, LaunchConfig, open_workdir, report, run
from experiments.shared.output import format_table, write_text
from jaxgen.diffusion import DDIM, CosineSchedule, DPMSolver, Euler, Heun
from jaxgen.diffusion.samplers import SingleStepDPMSolver, UniPC
from jaxgen.diffusion.samplers.orders import fitted_order, ode_errors
from jaxgen.errors import InputError
from jaxgen.training.saved_names import register_config

SAMPLERS = {
    "DDIM": DDIM(),
    "Euler": Euler(),
    "Heun": Heun(),
    "DPM-Solver++ 2M": DPMSolver(2, lower_order_final=False),
    "DPM-Solver++ 2S": SingleStepDPMSolver(2, lower_order_final=False),
    "DPM-Solver++ 3M": DPMSolver(3, lower_order_final=False),
    "UniPC-2": UniPC(2, lower_order_final=False),
}


@register_config("images.sampler_orders", first_format=["experiments.sampler_convergence:Config"])
@dataclass(frozen=True, kw_only=True)
class Config(ExperimentConfig):
    """Flags of this experiment.

    Attributes:
      launch: where to run and on what.
      log_snr: the log-SNR of the data end; minus this at the noise end.
      counts: numbers of steps, rising.
      fitted: the slope is fitted to so many of the largest counts.
    """

    launch: LaunchConfig = LaunchConfig(workdir="runs/images_sampler_orders")
    log_snr: float = 8.0
    counts: tuple[int, ...] = (8, 16, 32, 64, 128)
    fitted: int = 3

    def __post_init__(self) -> None:
        if len(self.counts) < 2 or min(self.counts) < 4 or sorted(self.counts) != [*self.counts]:
            raise InputError(f"counts is {self.counts}, expected two or more rising, 4 at least")
        if not 2 <= self.fitted <= len(self.counts):
            raise InputError(f"fitted is {self.fitted}, expected 2 to {len(self.counts)}")


def main(config: Config) -> dict[str, float]:
    """Measures, and shows; the figures are the fitted orders."""
    schedule = CosineSchedule(-config.log_snr, config.log_snr)
    folder = open_workdir(config)
    errors = ode_errors(SAMPLERS, schedule, config.counts)
    orders = {name: order_of(config, values) for name, values in errors.items()}
    rows = [(name, f"{orders[name]:.2f}", *(f"{e:.1e}" for e in errors[name])) for name in errors]
    table = format_table(("sampler", "order", *(f"{n} steps" for n in config.counts)), rows)
    report(f"\n{table}\n")
    write_text(folder / "table.md", table)
    plot_by_steps(
        folder / "convergence.png",
        {f"{name}, order {orders[name]:.2f}": (config.counts, errors[name]) for name in errors},
        "Largest error against the ODE's solution, Gaussian data",
        "error",
        x_label="steps",
    )
    return orders


def order_of(config: Config, errors: Sequence[float]) -> float:
    """The slope over the largest counts."""
    return fitted_order(config.counts[-config.fitted :], errors[-config.fitted :])


if __name__ == "__main__":
    run(main, Config)
