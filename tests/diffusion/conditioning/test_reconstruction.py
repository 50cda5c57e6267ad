"""Reconstruction guidance against the exact conditional of Gaussian data; replacement beside it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxgen.diffusion.conditioning.image_to_image import downsample
from jaxgen.diffusion.conditioning.inpainting import RePaint, Replacement
from jaxgen.diffusion.conditioning.masks import frame_mask
from jaxgen.diffusion.conditioning.reconstruction import (
    conjugate_gradients,
    masked,
    moment_guidance,
    reconstruction_guidance,
    white_weight,
)
from jaxgen.diffusion.denoiser import Estimate
from jaxgen.diffusion.exact import gaussian_denoiser, gaussian_mixture_denoiser
from jaxgen.diffusion.process.levels import Level
from jaxgen.diffusion.process.schedules import CosineSchedule, KarrasSchedule, RectifiedFlow
from jaxgen.diffusion.process.step_levels import make_steps
from jaxgen.diffusion.samplers import DDIM, Ancestral, DPMSolver, Heun, LangevinCorrector
from jaxgen.diffusion.samplers.sampling import initial_noise, sample, sample_with_table
from jaxgen.errors import InputError
from jaxgen.parallel import make_mesh

SCHEDULES = {"vp": CosineSchedule(), "ve": KarrasSchedule(), "flow": RectifiedFlow()}
MEAN = np.array([0.5, -0.3, 0.2, 0.0])
ROOT = np.random.default_rng(0).normal(size=(4, 4))
COVARIANCE = ROOT @ ROOT.T / 4 + 0.05 * np.eye(4)
KNOWN = np.array([1.0, 0.0, 1.0, 0.0], np.float32)


def level_at(schedule, t):
    return Level(*(np.float32(value) for value in schedule.at(np.asarray(t))))


def conditional(mean, covariance, matrix, observed, noise=0.0):
    """Mean and covariance of x given y = A x + noise e, by the textbook."""
    gram = matrix @ covariance @ matrix.T + noise**2 * np.eye(len(matrix))
    gain = covariance @ matrix.T @ np.linalg.inv(gram)
    return mean + gain @ (observed - matrix @ mean), covariance - gain @ matrix @ covariance


def latents(level, count=8, width=4, seed=0):
    x, e = np.random.default_rng(seed).normal(size=(2, count, width)).astype(np.float32)
    return level.a * x + level.s * e


def assert_same(found, wanted, tolerance):
    np.testing.assert_allclose(found.x, wanted.x, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(found.e, wanted.e, rtol=tolerance, atol=tolerance)


MATRICES = {
    "mask": np.eye(4)[[0, 2]],
    "blur": np.array([[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]]),
    "any": np.random.default_rng(1).normal(size=(3, 4)),
}


@pytest.mark.parametrize("scaling", SCHEDULES)
@pytest.mark.parametrize("t", [0.05, 0.5, 0.95])
def test_moment_guidance_is_the_exact_conditional_denoiser(scaling, t):
    """For correlated Gaussian data, every linear operator, with noise and without."""
    level = level_at(SCHEDULES[scaling], t)
    z = latents(level)
    for name, noise in NOISE.items():
        guided, wanted = guided_and_exact(name, z, level)
        assert_same(guided, wanted, 5e-3)
        if not noise:
            matrix = MATRICES[name]
            x, y = np.asarray(guided.x), np.linspace(-1, 1, len(matrix))
            np.testing.assert_allclose(x @ matrix.T, np.tile(y, (8, 1)), atol=1e-3)


NOISE = {"mask": 0.0, "blur": 0.3, "any": 0.1}


@functools.partial(jax.jit, static_argnums=0)
def guided_and_exact(name, z, level):
    """By moment guidance, and by the denoiser of the exact conditional."""
    matrix, noise = MATRICES[name], NOISE[name]
    observed = np.linspace(-1, 1, len(matrix))
    wanted = gaussian_denoiser(*conditional(MEAN, COVARIANCE, matrix, observed, noise))
    y = jnp.broadcast_to(np.float32(observed), (len(z), len(matrix)))
    operator = lambda x: x @ np.float32(matrix.T)  # noqa: E731
    denoiser = gaussian_denoiser(MEAN, COVARIANCE)
    guided = moment_guidance(denoiser, operator, y, noise=noise)(z, level)
    return guided, wanted(z, level)


@pytest.mark.parametrize("scaling", SCHEDULES)
@pytest.mark.parametrize("t", [0.05, 0.5, 0.95])
def test_reconstruction_guidance_is_exact_for_masks_on_white_data(scaling, t):
    """w = 1 + s^2 / (a^2 c^2); the usual w = 1 falls short of it."""
    level = level_at(SCHEDULES[scaling], t)
    guided, plain, wanted, w, missing = jax.device_get(of_white_data(latents(level), level))
    assert_same(guided, wanted, 1e-3)
    error = np.abs(plain.x - wanted.x).max()
    # What is left of the difference: 1 - 1/w of it.
    np.testing.assert_allclose(error, (1 - 1 / w) * np.abs(missing).max(), rtol=2e-2, atol=1e-4)


@jax.jit
def of_white_data(z, level):
    x = np.broadcast_to(np.float32([0.4, np.nan, -1.0, np.nan]), (8, 4))
    covariance, observed = 0.7**2 * np.eye(4), np.array([0.4, -1.0])
    white = gaussian_denoiser(MEAN, covariance)
    exact = gaussian_denoiser(*conditional(MEAN, covariance, MATRICES["mask"], observed))
    operator, weight = masked(KNOWN), white_weight(0.7)
    guided, plain = (
        reconstruction_guidance(white, operator, operator(x), w)(z, level) for w in (weight, 1.0)
    )
    missing = operator(x) - operator(white(z, level).x)
    return guided, plain, exact(z, level), weight(level), missing


def test_reconstruction_guidance_is_exact_for_one_number_of_correlated_data():
    """w = s^2 / (a^2 V), V the variance of what is observed, given z."""
    matrix, observed = np.array([[0.2, -0.4, 0.9, 0.1]]), np.array([0.8])
    wanted = gaussian_denoiser(*conditional(MEAN, COVARIANCE, matrix, observed))
    operator = lambda x: x @ np.float32(matrix.T)  # noqa: E731
    y = np.full((8, 1), 0.8, np.float32)

    @jax.jit
    def run(z, level, w):
        denoiser = gaussian_denoiser(MEAN, COVARIANCE)
        return reconstruction_guidance(denoiser, operator, y, w)(z, level), wanted(z, level)

    for t in (0.1, 0.5, 0.9):
        level = level_at(CosineSchedule(), t)
        a, s = float(level.a), float(level.s)
        total = a * a * COVARIANCE + s * s * np.eye(4)
        left = s * s * COVARIANCE @ np.linalg.inv(total)
        w = s * s / (a * a * (matrix @ left @ matrix.T).item())
        assert_same(*run(latents(level), level, w), 1e-3)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_a_step_leaves_one_minus_q_w_of_what_is_missing(eta):
    """In directions where the data vary much; so w > 2 / q drives samples away from y."""
    levels = make_steps(CosineSchedule(), 10)
    now, after = (Level(*(value[i] for value in levels)) for i in (6, 7))
    h = after.log_snr - now.log_snr
    q = -np.expm1(-h if eta else -h / 2)
    y, sampler = np.full((2000, 1), 40.0, np.float32), DDIM(eta)
    denoiser = gaussian_denoiser(np.zeros(1), np.array([[300.0**2]]))
    z = np.float32(now.a * np.full((2000, 1), 90.0))
    row = jax.tree.map(lambda value: value[6], sampler.table(levels))

    @jax.jit
    def step(z, w):
        guided = reconstruction_guidance(denoiser, lambda x: x, y, w)
        keys = jax.random.split(jax.random.key(0), 2000)
        return sampler.step(guided, sampler.start(z), row, keys).z

    for w in (0.5, 1.0, 1.8, 2.5, 6.0):
        missing = (np.asarray(step(z, w)) / after.a - y).mean()
        noise = float(row.noise / after.a / np.sqrt(2000))
        assert abs(missing - (1 - q * w) * 50) < 0.02 + 5 * noise, w


def test_a_smooth_field_from_its_block_means_by_weight_of_guidance():
    """32 steps, as in docs: w = 1 ends on the means, w = 5 far away; moments are exact."""
    places = np.stack(np.indices((8, 8)), -1).reshape(64, 2)
    distance = np.linalg.norm(places[:, None] - places, axis=-1)
    covariance = 0.25 * np.exp(-distance / 3) + 1e-4 * np.eye(64)
    blocks = 2 * (places[:, 0] // 4) + places[:, 1] // 4
    matrix = np.eye(4)[blocks].T / 16
    truth = np.linalg.cholesky(covariance) @ np.random.default_rng(0).normal(size=64)
    means = matrix @ truth
    mean, wanted = conditional(np.zeros(64), covariance, matrix, means)
    count = 400
    y = np.broadcast_to(np.float32(means), (count, 4))
    operator = lambda x: x @ np.float32(matrix.T)  # noqa: E731
    denoiser = gaussian_denoiser(np.zeros(64), covariance)

    @functools.partial(jax.jit, static_argnums=1)
    def draw(w, by_moments):
        if by_moments:
            guided = moment_guidance(denoiser, operator, y)
        else:
            guided = reconstruction_guidance(denoiser, operator, y, w)
        index_B, key = jnp.arange(count), jax.random.key(0)
        levels, method = make_steps(CosineSchedule(), 32), DDIM(eta=1.0)
        z = initial_noise(key, index_B, (64,), levels)
        return sample_with_table(method, guided, z, method.table(levels), key, index_B)

    def run_all(w, by_moments=False):
        x = np.asarray(draw(w, by_moments))
        missing = np.sqrt(np.mean((x @ matrix.T - means) ** 2))
        return missing, np.sqrt(np.mean((x.mean(0) - mean) ** 2)), x.var(0).mean()

    found = {w: run_all(16.0 * w) for w in (1, 5)}
    found["moments"] = run_all(0.0, by_moments=True)
    noise = np.sqrt(np.diag(wanted).mean() / count)
    assert found[1][0] < 1e-3 < 0.2 < found[5][0]
    assert found["moments"][0] < 1e-5
    for name in (1, "moments"):
        assert found[name][1] < 2 * noise
        assert 0.7 < found[name][2] / np.diag(wanted).mean() < 1
    assert found[5][2] / np.diag(wanted).mean() > 5


def test_the_exact_weight_tends_to_one_with_the_noise():
    weights = white_weight(0.5)(level_at(CosineSchedule(), [0.5, 0.1, 0.01, 0.0]))
    np.testing.assert_allclose(weights[0], 5, rtol=1e-4)
    assert (np.diff(weights) < 0).all()
    assert abs(float(weights[-1]) - 1) < 1e-6


def test_the_equation_by_finite_differences():
    """x^ - (w a / 2) grad |y - A x^(z)|^2 in numpy, for a denoiser that is not linear."""
    mixture = jax.jit(
        gaussian_mixture_denoiser(
            np.array([0.4, 0.6]), np.array([[1.0, 0.0], [-1.0, 0.5]]), np.array([0.3, 0.4])
        )
    )
    level, y, w = level_at(CosineSchedule(), 0.5), np.float32([[0.7, 0.0]]), 3.0
    operator = masked(np.float32([1.0, 0.0]))
    z = np.float32([[0.2, 0.4]])

    def loss(z):
        return float(((y - np.asarray(mixture(np.float32(z), level).x)) ** 2)[0, 0])

    h = 1e-2
    gradient = [(loss(z + h * unit) - loss(z - h * unit)) / (2 * h) for unit in np.eye(2)]
    expected = mixture(z, level).x - w * level.a / 2 * np.array(gradient)
    guided = jax.device_get(jax.jit(reconstruction_guidance(mixture, operator, y, w))(z, level))
    np.testing.assert_allclose(guided.x, expected, atol=2e-3)
    np.testing.assert_allclose(level.a * guided.x + level.s * guided.e, z, atol=1e-5)


def sample_moments(sampler, denoiser, steps=256, count=4096):
    levels = make_steps(CosineSchedule(), steps)
    start = np.random.default_rng(1).normal(size=(count, 2)).astype(np.float32)

    @jax.jit
    def run(z):
        return sample(sampler, denoiser, z, levels, jax.random.key(2))

    samples = np.asarray(run(start), np.float64)
    return samples.mean(0), np.cov(samples.T)


PAIR = np.array([[1.0, 0.8], [0.8, 1.0]])


def test_guidance_samples_the_exact_conditional_and_replacement_does_not():
    """Two numbers with correlation 0.8, the first known to be 2: the other is N(1.6, 0.36)."""
    known, x = np.float32([1, 0]), np.broadcast_to(np.float32([2, np.nan]), (4096, 2))
    prior, ancestral = gaussian_denoiser(np.zeros(2), PAIR), DDIM(eta=1.0)
    operator = masked(known)
    guided = moment_guidance(prior, operator, operator(x), iterations=1)
    for sampler in (DDIM(), ancestral):
        mean, covariance = sample_moments(sampler, guided)
        np.testing.assert_allclose(mean, [2.0, 1.6], atol=4 * 0.6 / 64 + 0.01)
        np.testing.assert_allclose(covariance, [[0, 0], [0, 0.36]], atol=0.03)

    # The method of Ho et al. too, with the weight that the variance of what is known asks for;
    # with a constant weight it falls short, the less the larger it is up to here.
    def exact_weight(level):
        total = level.a[0] ** 2 * PAIR + level.s[0] ** 2 * jnp.eye(2)
        return 1 / (level.a[0] ** 2 * (PAIR @ jnp.linalg.inv(total))[0, 0])

    means = []
    for w in (1.0, 2.0, exact_weight):
        by_gradient = reconstruction_guidance(prior, operator, operator(x), w)
        mean, covariance = sample_moments(ancestral, by_gradient)
        means.append(mean[1])
    np.testing.assert_allclose(mean, [2.0, 1.6], atol=4 * 0.6 / 64 + 0.01)
    np.testing.assert_allclose(covariance, [[0, 0], [0, 0.36]], atol=0.03)
    assert means[0] < means[1] - 0.2 < means[2] - 0.3

    replaced = Replacement(ancestral, known, x)
    mean, covariance = sample_moments(replaced, prior)
    expected = replacement_mean(256, 2.0)
    np.testing.assert_allclose(mean, [2.0, expected], atol=4 * 0.7 / 64)
    assert expected < 1.5, "replacement pulls too little towards what is known"

    # Together they are the method of Ho et al.: the known part noisy data, the rest guided.
    mean, covariance = sample_moments(replaced, guided)
    np.testing.assert_allclose(mean, [2.0, 1.6], atol=4 * 0.6 / 64 + 0.01)
    np.testing.assert_allclose(covariance[1, 1], 0.36, atol=0.03)


@pytest.mark.parametrize(
    "sampler",
    [
        Heun(),
        DPMSolver(order=2),
        Ancestral(),
        LangevinCorrector(DDIM(), 0.1, 2, "fixed"),
    ],
    ids=lambda sampler: type(sampler).__name__,
)
def test_any_sampler_can_be_guided_and_replaced(sampler):
    """And Langevin steps leave the exact conditional where it is."""
    known, x = np.float32([1, 0]), np.broadcast_to(np.float32([2, np.nan]), (4096, 2))
    operator, prior = masked(known), gaussian_denoiser(np.zeros(2), PAIR)
    guided = moment_guidance(prior, operator, operator(x), iterations=1)
    for method in (sampler, Replacement(sampler, known, x)):
        mean, covariance = sample_moments(method, guided, steps=64)
        np.testing.assert_allclose(mean, [2.0, 1.6], atol=4 * 0.6 / 64 + 0.02)
        np.testing.assert_allclose(covariance, [[0, 0], [0, 0.36]], atol=0.05)


def replacement_mean(steps, x_known):
    """The mean of the unknown number under replacement, from the recursion of means in numpy."""
    levels = make_steps(CosineSchedule(), steps)
    m = 0.0
    for i in range(steps):
        a, s, a1, s1 = (float(v[j]) for j in (i, i + 1) for v in (levels.a, levels.s))
        total = a * a * PAIR + s * s * np.eye(2)
        z = np.array([a * x_known if i else 0.0, m])
        x, e = a * PAIR @ np.linalg.solve(total, z), s * np.linalg.solve(total, z)
        d = s1 * np.sqrt(-np.expm1(levels.log_snr[i] - levels.log_snr[i + 1]))
        m = a1 * x[1] + np.sqrt(s1 * s1 - d * d) * e[1]
    return m


def test_small_images_from_their_block_means():
    """Super-resolution of 4 x 4 images with exponential correlations: the exact denoiser."""
    place = np.stack(np.meshgrid(*[np.arange(4)] * 2, indexing="ij"), -1).reshape(16, 2)
    distance = np.linalg.norm(place[:, None] - place, axis=-1)
    covariance = np.exp(-distance / 2)
    flat = gaussian_denoiser(np.zeros(16), covariance)

    def denoiser(z, level):
        estimate = flat(z.reshape(len(z), 16), level)
        return Estimate(*(value.reshape(z.shape) for value in estimate[:2]))

    operator = functools.partial(downsample, factor=2)
    units = np.eye(16, dtype=np.float32).reshape(16, 4, 4, 1)
    matrix = np.asarray(jax.jit(operator)(units)).reshape(16, 4).T
    observed = np.array([1.0, -0.5, 0.2, 0.7])
    wanted = gaussian_denoiser(*conditional(np.zeros(16), covariance, matrix, observed))
    level = level_at(CosineSchedule(), 0.6)
    z = latents(level, 3, 16)
    y = np.broadcast_to(np.float32(observed).reshape(2, 2, 1), (3, 2, 2, 1))

    @jax.jit
    def run(z):
        guided = moment_guidance(denoiser, operator, y)(z.reshape(3, 4, 4, 1), level)
        return guided.x.reshape(3, 16), wanted(z, level).x, operator(guided.x)

    x, exact, seen = run(z)
    np.testing.assert_allclose(x, exact, atol=5e-3)
    np.testing.assert_allclose(seen, y, atol=1e-3)


def test_guidance_in_time():
    """A random walk of 5 frames, the first and last known: the mean is the straight line."""
    walk = np.minimum.outer(np.arange(1.0, 6), np.arange(1.0, 6))
    flat = gaussian_denoiser(np.zeros(5), walk)

    def denoiser(z, level):
        estimate = flat(z[..., 0, 0, 0], level)
        return Estimate(*(value[..., None, None, None] for value in estimate[:2]))

    operator = masked(frame_mask(5, (0, 4)))
    x = np.float32([1, 0, 0, 0, 3])[None, :, None, None, None]
    levels, ddim = make_steps(CosineSchedule(), 128), DDIM()
    # The mean of the samples: DDIM is affine for Gaussian data, so noise zero leads there.

    @jax.jit
    def run(z):
        guided = moment_guidance(denoiser, operator, operator(x))
        return sample(ddim, guided, z, levels, jax.random.key(0))

    mean = np.asarray(run(np.zeros((1, 5, 1, 1, 1), np.float32)))
    np.testing.assert_allclose(mean.ravel(), [1, 1.5, 2, 2.5, 3], atol=5e-3)


def test_conjugate_gradients():
    rng = np.random.default_rng(3)
    roots = rng.normal(size=(3, 6, 6))
    matrices = roots @ roots.transpose(0, 2, 1) + np.eye(6)
    matrices[2] = 0  # singular, with a target in its range: zero
    targets = rng.normal(size=(3, 6))
    targets[2] = 0
    system = lambda u: jnp.einsum("bij,bj->bi", np.float32(matrices), u)  # noqa: E731
    u = np.asarray(jax.jit(lambda b: conjugate_gradients(system, b, 30))(np.float32(targets)))
    expected = np.linalg.solve(matrices[:2], targets[:2, :, None])[..., 0]
    np.testing.assert_allclose(u[:2], expected, rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(u[2], 0)


def test_an_example_does_not_depend_on_its_neighbours():
    level, other = level_at(CosineSchedule(), 0.5), np.array([3, 0, 7, 7, 1, 2, 5, 3])
    z, x = latents(level), np.random.default_rng(9).normal(size=(8, 4)).astype(np.float32)
    operator, denoiser = masked(KNOWN), gaussian_denoiser(MEAN, COVARIANCE)
    run = jax.jit(lambda x, z: moment_guidance(denoiser, operator, operator(x))(z, level).x)
    whole = np.asarray(run(x, z))
    np.testing.assert_allclose(run(x[other], z[other]), whole[other], rtol=1e-4, atol=1e-5)


def test_sharded_guidance_with_resampling_is_the_unsharded_one():
    known = np.float32([1, 0])
    x, z = np.random.default_rng(3).normal(size=(2, 16, 2)).astype(np.float32)
    operator, prior = masked(known), gaussian_denoiser(np.zeros(2), PAIR)
    levels = make_steps(CosineSchedule(), 8)
    table = RePaint(DDIM(eta=1.0), known, x, 2, 2).table(levels)

    @jax.jit
    def run(x, z):
        guided = moment_guidance(prior, operator, operator(x), iterations=1)
        sampler = RePaint(DDIM(eta=1.0), known, x, 2, 2)
        return sample_with_table(sampler, guided, z, table, jax.random.key(2))

    expected = run(x, z)
    mesh = make_mesh("data=4,fsdp=2")
    with jax.set_mesh(mesh):
        spread = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
        found = run(*jax.device_put((x, z), spread))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_values_and_gradients_are_finite_at_both_ends():
    z = latents(level_at(RectifiedFlow(), 0.5))
    operator, y = masked(KNOWN), np.broadcast_to(KNOWN, (8, 4))
    denoiser = gaussian_denoiser(MEAN, COVARIANCE)

    def total(z, w, t, moments):
        level = Level(t, jnp.where(t > 0, -jnp.inf, jnp.inf), 1 - t, t)
        guided = (
            moment_guidance(denoiser, operator, y, noise=0.1 * w, iterations=2)
            if moments
            else reconstruction_guidance(denoiser, operator, y, white_weight(w))
        )
        estimate = guided(z, level)
        return (estimate.x**2).sum() + (estimate.e**2).sum()

    run = jax.jit(jax.value_and_grad(total, (0, 1)), static_argnums=3)
    for moments in (False, True):
        for t in (0.0, 1.0):
            found = run(z, 1.0, t, moments)
            assert all(np.isfinite(value).all() for value in jax.tree.leaves(found))


def test_bad_input_is_named():
    denoiser, level = gaussian_denoiser(MEAN, COVARIANCE), level_at(CosineSchedule(), 0.5)
    operator = masked(jnp.asarray(KNOWN))
    with pytest.raises(InputError, match=r"observed has shape \(8, 2\), expected \(8, 4\)"):
        reconstruction_guidance(denoiser, operator, jnp.zeros((8, 2)))(latents(level), level)
    with pytest.raises(InputError, match="iterations is 0, expected at least 1"):
        moment_guidance(denoiser, operator, jnp.zeros((8, 4)), iterations=0)
