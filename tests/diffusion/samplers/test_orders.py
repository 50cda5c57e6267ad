"""Orders of the samplers of the ODE: slopes of log error against log steps, where it is solved."""

import jax
import numpy as np
import pytest

from jaxgen.diffusion.exact import gaussian_denoiser
from jaxgen.diffusion.process.derived_schedules import Rescaled
from jaxgen.diffusion.process.levels import Level
from jaxgen.diffusion.process.schedules import CosineSchedule
from jaxgen.diffusion.samplers import (
    DDIM,
    Adams,
    AngularDDIM,
    DPMSolver,
    Euler,
    Heun,
    Midpoint,
    SASolver,
    SingleStepDPMSolver,
    StochasticKarras,
    UniPC,
)
from jaxgen.diffusion.samplers.orders import (
    DEVIATIONS,
    MEANS,
    fitted_order,
    ode_errors,
    ode_solution,
)

COSINE = CosineSchedule(-8, 8)
COSINE_VE = Rescaled(CosineSchedule(-3, 3), "ve")

FIRST = {"DDIM": DDIM(), "angular": AngularDDIM(), "Euler": Euler(), "Euler vp": Euler("vp")}
SECOND = {
    "Heun": Heun(),
    "Heun ve": Heun("ve"),
    "2M": DPMSolver(2, lower_order_final=False),
    "2M exact": DPMSolver(2, "exact", lower_order_final=False),
    "2M of e": DPMSolver(2, predicts="e", lower_order_final=False),
    "2S": SingleStepDPMSolver(2, lower_order_final=False),
    "2S exact": SingleStepDPMSolver(2, "exact", lower_order_final=False),
    "Karras": StochasticKarras(COSINE, churn=0.0),
    "midpoint": Midpoint(COSINE),
    "LMS": Adams(2),
    "LMS after a step of Runge and Kutta": Adams(2, runge_kutta=COSINE),
    "UniPC of first order": UniPC(1, lower_order_final=False),
    "SA-Solver": SASolver(1, 2, tau=0.0, lower_order_final=False),
}
THIRD = {
    "3M": DPMSolver(3, lower_order_final=False),
    "3M of e": DPMSolver(3, "exact", predicts="e", lower_order_final=False),
    "3S": SingleStepDPMSolver(3, lower_order_final=False),
    "3S exact": SingleStepDPMSolver(3, "exact", lower_order_final=False),
    "UniPC": UniPC(2, lower_order_final=False),
    "UniPC bh1": UniPC(2, "bh1", lower_order_final=False),
    "SA-Solver": SASolver(2, 3, tau=0.0, lower_order_final=False),
}


@pytest.mark.parametrize("scaling", ["vp", "ve", "flow"])
def test_first_and_second_order(scaling):
    counts = (48, 96)
    errors = ode_errors({**FIRST, **SECOND}, Rescaled(COSINE, scaling), counts)
    orders = {name: fitted_order(counts, values) for name, values in errors.items()}
    for name in FIRST:
        assert orders[name] == pytest.approx(1, abs=0.1), name
    for name in SECOND:
        assert orders[name] == pytest.approx(2, abs=0.15), name
    # Second order is worth it: smaller errors with as many evaluations.
    assert max(errors[name][0] for name in SECOND) < min(errors[name][1] for name in FIRST)


def test_third_order():
    """Where rounding does not yet matter. Multistep solvers are still better than their order."""
    errors = ode_errors(THIRD, COSINE, (12, 24, 48, 96))
    for name, part in {"3S": slice(0, 3), "3S exact": slice(1, 4)}.items():
        assert fitted_order((1, 2, 4), errors[name][part]) == pytest.approx(3, abs=0.35), name
    for name in ("3M", "3M of e", "UniPC", "UniPC bh1", "SA-Solver"):
        assert fitted_order((1, 2, 4), errors[name][:3]) > 2.8, name


def test_a_start_of_fourth_order():
    """Runge and Kutta's first steps keep the order that LMS loses in its first one."""
    counts = (24, 48)
    samplers = {"LMS": Adams(4), "Runge-Kutta": Adams(4, runge_kutta=COSINE_VE)}
    errors = ode_errors(samplers, COSINE_VE, counts, "karras")
    orders = {name: fitted_order(counts, values) for name, values in errors.items()}
    assert orders["Runge-Kutta"] > 3.6
    assert errors["Runge-Kutta"][1] < errors["LMS"][1] / 5


def test_half_of_the_curvature_is_of_second_order():
    """What the widespread form of 3M loses."""
    counts = (48, 96)
    solvers = {
        half: DPMSolver(3, lower_order_final=False, halve_curvature=half == "half")
        for half in ("half", "whole")
    }
    errors = ode_errors(solvers, COSINE, counts)
    assert fitted_order(counts, errors["half"]) == pytest.approx(2, abs=0.25)
    assert errors["whole"][-1] < errors["half"][-1] / 20


def test_the_solution_satisfies_the_ode():
    """dz/dphi = v^ along the closed form, by central differences in float64."""
    mean, deviation = np.array(MEANS), np.array(DEVIATIONS)
    denoiser = jax.jit(gaussian_denoiser(mean, np.diag(deviation**2)))
    z = np.array([[1.0, -0.7], [0.3, 2.0]])

    def level(phi):
        return Level(phi, 2 * np.log(1 / np.tan(phi)), np.cos(phi), np.sin(phi))

    for phi in (0.2, 0.8, 1.4):
        here, step = level(phi), 1e-4
        ends = [ode_solution(z, here, level(phi + d)) for d in (-step, step)]
        slope = (ends[1] - ends[0]) / (2 * step)
        estimate = denoiser(np.float32(z), Level(*(np.float32(v) for v in here)))
        v = here.a * estimate.e - here.s * estimate.x
        np.testing.assert_allclose(slope, v, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(ode_solution(z, level(0.3), level(0.3)), z)
