"""Reconstruction guidance: samples that agree with an observation y = A x (+ noise).

A is linear: a mask in space or time (`masked`), a low-pass filter (`tasks.downsample`), or any
other function. Symbols: z = a x + s e; x^(z) the denoiser's estimate, J its derivative dx^/dz.

The denoiser of p(x | y) is that of p(x), moved along the score of the observation::

    E[x | z, y] = x^ + (s^2 / a) grad_z log p(y | z)

and p(y | z) is taken as Gaussian around A x^(z). What differs is its covariance::

    s^2 / (w a^2) I                 `reconstruction_guidance`: x^ - (w a / 2) grad_z |y - A x^(z)|^2
                                    Ho et al. 2022 (video diffusion models), section 3.1
    A (s^2/a) J A^T + noise^2 I     `moment_guidance`: Cov[x | z] = (s^2/a) J is Tweedie's formula
                                    Boys et al. 2023 (Tweedie moment projection)

**Where they are exact.** For Gaussian data p(y | z) is Gaussian, so the second is exact for every
A, at every level with a > 0. The first is exact where A Cov[x | z] A^T is a multiple of I and w
makes it the right one: for a mask on white data of deviation c with ``w = 1 + s^2 / (a^2 c^2)``
(`white_weight`, which for c = 1 is the guidance of Song et al. 2023, PiGDM), and for a single
observed number with the w that its variance asks for. That w is never below one and tends to one
with s, which is why w > 1 is often best. For other data both are approximations, good at little
noise.

**How strong it may be.** Where the data vary much more than the noise, x^ = z / a = u in the
observed directions and J = I / a, so that the first gives ``u + w (y - u)``. A step of DDIM to the
next level, h = lambda' - lambda, goes a part of that way::

    u' - y = (1 - q w) (u - y),    q = 1 - e^(-h / 2) without noise, 1 - e^-h with eta = 1

With w < 1/q the sample approaches what is observed, with w > 1/q it oscillates around it, and with
w > 2/q it leaves it, further with every step. A last step to clean data has q = 1: w = 1 ends on
the observation, and w > 2 is right only where a clip of x^ or the replacement of what is known
holds the samples. The second kind has the right weight by itself. (w >> 1 in papers goes with many
steps and with the replacement, where what is guided is the unknown part.)

At a = 0 the latent says nothing of x and J = 0: there nothing is guided.

The plain *replacement* of the known part of z by noisy data is `inpainting.Replacement`. Alone it
evaluates the denoiser's E[x | z], not E[x | z, y], and samples the wrong conditional whenever the
known part is correlated with the rest; together with guidance it is the method of Ho et al. for
known frames, where ``grad_z`` acts on the unknown part. Langevin corrector steps go with either.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from jaxgen.diffusion.conditioning.guidance import GuidanceWeight, add_to_x, guidance_weight_at
from jaxgen.diffusion.conditioning.masks import keep_known
from jaxgen.diffusion.denoiser import Denoiser, Estimate
from jaxgen.diffusion.process.levels import Level, expand
from jaxgen.diffusion.process.predictions import divide
from jaxgen.errors import InputError
from jaxgen.pixels import as_unit

OBSERVED_LIMIT = 100.0
"""How far observations may lie from zero: sums of pixels lie further than pixels, bytes further."""

Operator = Callable[[Array], Array]
"""A linear function of each example, ``x [B, ...] -> observations [B, ...]``."""


def masked(known: Float[Array, "..."]) -> Operator:
    """Observes what a mask calls known, and zero elsewhere.

    Args:
      known: 1 where known; it broadcasts against the data (in space, time, or both).
    """
    return lambda x: keep_known(known, x, jnp.zeros_like(x))


def white_weight(deviation: float | Array = 1.0) -> GuidanceWeight:
    """w = 1 + s^2 / (a^2 c^2): exact for masks on white Gaussian data of deviation c.

    Args:
      deviation: c, that of the data, [] or [B]; traced.
    """

    def weight(level: Level) -> Float[Array, "..."]:
        a, s = jnp.asarray(level.a), jnp.asarray(level.s)
        return 1 + divide(s * s, (a * deviation) ** 2)

    return weight


def reconstruction_guidance(
    denoiser: Denoiser,
    operator: Operator,
    observed: Shaped[Array, "B ..."],
    w: GuidanceWeight = 1.0,
) -> Denoiser:
    """x^ - (w a / 2) grad_z |y - A x^(z)|^2 (Ho et al. 2022, section 3.1).

    It costs one backward pass through the denoiser.

    Args:
      denoiser: what is guided.
      operator: A; it need not be linear.
      observed: y, of the shape of A x; for `masked` A applied to the known data.
      w: weight w_r; for other operators than masks it is in units of A A^T. Too large ones (see
        the module) send samples away from y.

    Returns:
      The guided denoiser.

    Raises:
      InputError: when called, where A x^ has not the shape of y.
    """

    observed = as_unit(observed, "observed", OBSERVED_LIMIT)

    def guided(z: Float[Array, "B ..."], level: Level) -> Estimate:
        estimate, missing, pull_back = _compare(denoiser, operator, observed, z, level)
        weight = expand(guidance_weight_at(w, level), z) * expand(level.a, z)
        return add_to_x(estimate, weight * pull_back(missing), level)

    return guided


def moment_guidance(
    denoiser: Denoiser,
    operator: Operator,
    observed: Shaped[Array, "B ..."],
    *,
    noise: float | Array = 0.0,
    iterations: int = 10,
) -> Denoiser:
    """Guidance with the covariance that the denoiser itself implies (Boys et al. 2023).

    ``x^ + V A^T (A V A^T + noise^2 I)^-1 (y - A x^)`` with ``V = (s^2/a) J``; the linear system is
    solved by conjugate gradients, one backward pass through the denoiser each. Without noise the
    guided x~ agrees with the observation: A x~ = y.

    Args:
      denoiser: what is guided.
      operator: A, linear.
      observed: y, of the shape of A x.
      noise: standard deviation of the noise in y, traced.
      iterations: conjugate gradient steps; as many as there are different eigenvalues of A V A^T
        solve the system.

    Returns:
      The guided denoiser, exact for Gaussian data.

    Raises:
      InputError: for no iterations; when called, where A x^ has not the shape of y.
    """
    if iterations < 1:
        raise InputError(f"iterations is {iterations}, expected at least 1")

    observed = as_unit(observed, "observed", OBSERVED_LIMIT)

    def guided(z: Float[Array, "B ..."], level: Level) -> Estimate:
        estimate, missing, pull_back = _compare(denoiser, operator, observed, z, level)
        a, s = expand(level.a, z), expand(level.s, z)
        gain = divide(s * s, a)

        def system(u: Float[Array, "B ..."]) -> Float[Array, "B ..."]:
            return operator(gain * pull_back(u)) + noise**2 * u

        solution = conjugate_gradients(system, missing, iterations)
        return add_to_x(estimate, gain * pull_back(solution), level)

    return guided


def conjugate_gradients(
    system: Callable[[Array], Array], target: Float[Array, "B ..."], iterations: int
) -> Float[Array, "B ..."]:
    """u with ``system(u) = target`` for each example by itself.

    Args:
      system: linear, symmetric and positive on every example; it may be singular where the target
        lies in its range.
      target: [B, ...].
      iterations: steps; an example rests once its error is 1e-6 of what it was.
    """

    def dot(u: Array, v: Array) -> Float[Array, "B ..."]:
        return expand((u * v).reshape(len(u), -1).sum(1), u)

    first = dot(target, target)

    def iterate(state, _):
        u, rest, direction, square = state
        image = system(direction)
        active = square > 1e-12 * first
        step = jnp.where(active, divide(square, dot(direction, image)), 0.0)
        u, rest = u + step * direction, rest - step * image
        now = dot(rest, rest)
        direction = rest + divide(now, square) * direction
        return (u, rest, direction, now), None

    start = (jnp.zeros_like(target), target, target, first)
    return jax.lax.scan(iterate, start, length=iterations)[0][0]


def _compare(
    denoiser: Denoiser, operator: Operator, observed: Array, z: Array, level: Level
) -> tuple[Estimate, Array, Callable[[Array], Array]]:
    """The estimate, y - A x^, and the function ``u -> J^T A^T u``."""

    def see(z: Float[Array, "B ..."]) -> tuple[Array, Estimate]:
        estimate = denoiser(z, level)
        return operator(estimate.x), estimate

    seen, pull_back, estimate = jax.vjp(see, z, has_aux=True)
    if seen.shape != jnp.shape(observed):
        raise InputError(
            f"observed has shape {jnp.shape(observed)}, expected {seen.shape}, what the operator "
            f"makes of data of shape {estimate.x.shape}"
        )
    return estimate, observed - seen, lambda u: pull_back(u)[0]
