"""Euler and Maruyama's method for the SDE in reversed time (Song et al. 2021b, section 4.1).

Symbols: z = a x + s e at time t, D = t - t' the step, lambda. = d lambda / dt < 0. Latents follow
``dz = f z dt + g dw`` with f = d log a / dt and g^2 = -s^2 lambda.. Backwards in time, for any
share c of the noise (equation 6 there has c = 1, the ODE of equation 13 c = 0; the score is -e/s)::

    z' = z - D (f z - (1 + c^2) / 2 s lambda. e^) + c sqrt(-D lambda.) s noise

    "vp"   f = s^2 lambda. / 2        (-beta / 2, where g^2 = beta)
    "ve"   f = 0
    "flow" f = s lambda. / 2

With c = 0 this is Euler's method on the velocity ``f z - s lambda. e^ / 2``, that is ``(da/dt) x^
+ (ds/dt) e^``; with any c latents have the same distribution in the limit. `Ancestral` steps have
the limit of c = 1 and are exact in more, for any length of the step.
"""

from dataclasses import dataclass

import numpy as np

from jaxgen.diffusion.process.levels import Level
from jaxgen.diffusion.process.schedules import Schedule, check_schedule
from jaxgen.diffusion.samplers.linear import (
    LinearRow,
    LinearSampler,
    Term,
    from_noise_to_data,
    make_table,
)
from jaxgen.errors import InputError, check_not_negative


@dataclass(frozen=True)
class EulerMaruyama(LinearSampler):
    """Steps in the schedule's own time; a last step to clean data returns its mean.

    An explicit method: where the log-SNR is steep (near pure noise, in some schedules) steps that
    are even in time are too long for it, and those of ``uniform_log_snr`` are better.

    Attributes:
      schedule: that of the levels; its time and its derivative matter.
      eta: c, how much noise is drawn: 1 as the forward SDE has, 0 none; more is allowed.

    Raises:
      InputError: for an eta that is negative or infinite, and for a schedule that is none.
    """

    schedule: Schedule
    eta: float = 1.0

    def __post_init__(self) -> None:
        check_schedule(self.schedule)
        check_not_negative("eta", self.eta)

    @property
    def terms(self) -> tuple[Term, ...]:
        """See `LinearSampler`."""
        return ("z", 0), ("e", 0)

    @property
    def noisy(self) -> bool:
        """Whatever eta is, so that changing it does not recompile."""
        return True

    def table(self, levels: Level) -> LinearRow:
        """See `jaxgen.diffusion.samplers.sampling.Sampler`.

        Raises:
          InputError: for levels of another schedule, and where the log-SNR has an infinite slope.
        """
        now, after = from_noise_to_data(levels)
        there = self.schedule.at(now.t)
        same = np.isclose(now.log_snr, there.log_snr, atol=0.1) & np.isclose(now.a, there.a, 0.1)
        if not same.all():
            i = int((~same).argmax())
            raise InputError(
                f"level {i} at t={now.t[i]:.6g} has log-SNR {now.log_snr[i]:.6g} and a="
                f"{now.a[i]:.6g}, expected those of {type(self.schedule).__name__}, "
                f"{there.log_snr[i]:.6g} and {there.a[i]:.6g}"
            )
        step, slope = now.t - after.t, np.asarray(self.schedule.derivative(now.t), np.float64)
        if not np.isfinite(slope).all():
            i = int((~np.isfinite(slope)).argmax())
            raise InputError(
                f"level {i} at t={now.t[i]:.6g}, where the log-SNR of "
                f"{type(self.schedule).__name__} has an infinite slope, expected finite ones"
            )
        share = {"vp": now.s**2 / 2, "ve": 0.0, "flow": now.s / 2}[self.schedule.scaling]
        noise = np.where(after.s == 0, 0.0, self.eta * now.s * np.sqrt(-step * slope))
        e = (1 + self.eta**2) / 2 * step * slope * now.s
        return make_table(now, after, [1 - step * slope * share, e], noise)
