"""Cold diffusion: what the two algorithms promise, and the degradations against closed forms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxgen.diffusion.objectives.time_distributions import Steps
from jaxgen.diffusion.other_corruptions.cold import Blur, Erase, Pixelate, cold_loss, cold_sample
from jaxgen.errors import InputError
from jaxgen.parallel import make_mesh

DEGRADATIONS = {
    "blur": jax.jit(Blur(2.0)),
    "pixelate": jax.jit(Pixelate(3)),
    "erase": jax.jit(Erase(0.3, 4.0)),
}


def images(count=3, size=16, seed=0):
    x = np.random.default_rng(seed).normal(size=(count, size, size, 2))
    return x.astype(np.float32)


def at(t, count=3):
    return np.full(count, t, np.float32)


def wrong(z, t_B):
    """A restorer that is wrong in a way of its own at every step."""
    return 3 * jnp.sin(5 * z) + t_B[:, None, None, None]


# --- the algorithms ---


def test_algorithm_2_recovers_the_data_whatever_the_restorer_says():
    """Section 3.3: exact for D(x, t) = x + t d; algorithm 1 is not."""
    x, d = images(), images(seed=1)
    degradation = lambda x, t_B: x + t_B[:, None, None, None] * d  # noqa: E731
    z, restorers = x + d, (wrong, lambda z, t_B: 0 * z, lambda z, t_B: z)

    @jax.jit
    def run(z):
        first = cold_sample(wrong, degradation, z, 7, algorithm=1)
        return first, *(cold_sample(restorer, degradation, z, 7) for restorer in restorers)

    first, *second = run(z)
    for found in second:
        np.testing.assert_allclose(found, x, atol=2e-5)
    assert np.abs(first - x).mean() > 0.5


@functools.partial(jax.jit, static_argnums=(0, 1))
def restored(name, algorithm, z, answer):
    """A sample of a restorer that always gives one answer."""
    return cold_sample(lambda z, t_B: answer, DEGRADATIONS[name], z, 6, algorithm=algorithm)


@pytest.mark.parametrize("name", DEGRADATIONS)
@pytest.mark.parametrize("algorithm", [1, 2])
def test_a_restorer_that_knows_brings_the_data_back(name, algorithm):
    x, degradation = images(), DEGRADATIONS[name]
    z = degradation(x, at(1.0))
    np.testing.assert_allclose(restored(name, algorithm, z, x), x, atol=1e-5)


@pytest.mark.parametrize("name", DEGRADATIONS)
def test_what_an_error_of_the_restorer_leaves(name):
    """All three are linear in x: r - D(r, 1) by algorithm 2, r by algorithm 1."""
    x, r, degradation = images(), 0.3 * images(seed=1), DEGRADATIONS[name]
    z = degradation(x, at(1.0))
    left = r - np.asarray(degradation(r, at(1.0)))
    first, second = (np.asarray(restored(name, k, z, x + r)) for k in (1, 2))
    np.testing.assert_allclose(second - x, left, atol=1e-5)
    np.testing.assert_allclose(first - x, r, atol=1e-5)
    assert (left**2).mean() < 0.99 * (r**2).mean()


def test_the_cost_of_a_step_does_not_depend_on_their_number():
    """One scan: the program of 100 steps is the program of 2."""
    sizes = [
        len(str(jax.make_jaxpr(lambda z, n=n: cold_sample(wrong, Blur(), z, n))(images())))
        for n in (2, 100)
    ]
    assert abs(sizes[1] - sizes[0]) < 200


# --- the loss ---


def test_the_loss_is_the_mean_distance():
    x, blur, key = images(8), DEGRADATIONS["blur"], jax.random.key(0)

    @jax.jit
    def run(x):
        loss_B, t_B = cold_loss(wrong, blur, x, key, times=Steps(4))
        answer = [wrong(blur(x[b : b + 1], t_B[b : b + 1]), t_B[b : b + 1]) for b in range(8)]
        perfect, _ = cold_loss(lambda z, t_B: x, blur, x, key)
        return loss_B, t_B, jnp.concatenate(answer), perfect

    loss_B, t_B, answer, perfect = map(np.asarray, run(x))
    assert set(t_B) <= {0.25, 0.5, 0.75, 1.0}
    np.testing.assert_allclose(loss_B, np.abs(answer - x).mean((1, 2, 3)), rtol=1e-4)
    assert perfect.max() == 0


@pytest.mark.parametrize("name", DEGRADATIONS)
def test_examples_stand_alone_and_devices_do_not_matter(name):
    find = jax.jit(
        lambda x, index_B: cold_loss(
            wrong, DEGRADATIONS[name], x, jax.random.key(0), index_B=index_B
        )[0]
    )
    x, index_B = images(8), np.arange(8)
    whole = np.asarray(find(x, index_B))
    mesh = make_mesh("data=4", devices=jax.devices()[:4])
    with jax.set_mesh(mesh):
        shards = NamedSharding(mesh, PartitionSpec("data"))
        some = find(*jax.device_put((x[3:7], index_B[3:7]), shards))
    np.testing.assert_allclose(some, whole[3:7], rtol=1e-5)


# --- degradations ---


@pytest.mark.parametrize("name", DEGRADATIONS)
def test_nothing_happens_at_zero_and_gradients_are_finite(name):
    x, degradation = images(), DEGRADATIONS[name]
    np.testing.assert_allclose(degradation(x, at(0.0)), x, atol=1e-6)
    assert np.abs(np.asarray(degradation(x, at(1.0))) - x).max() > 0.5
    gradient = jax.jit(jax.grad(lambda x, t_B: (degradation(x, t_B) ** 2).sum()))
    for t in (0.0, 1.0):
        assert np.isfinite(gradient(x, at(t))).all()


@pytest.mark.parametrize("size", [(16, 12), (9, 15)])
def test_blur_of_waves(size):
    height, width = size
    y, x = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    blur = jax.jit(Blur(2.0))
    for p, q in ((1, 0), (2, 3), (0, 5)):
        w_y, w_x = 2 * np.pi * p / height, 2 * np.pi * q / width
        wave = np.cos(w_y * y + w_x * x)[None, ..., None]
        found = blur(wave.astype(np.float32), at(0.5, 1))
        np.testing.assert_allclose(found, wave * np.exp(-(w_y**2 + w_x**2) / 2), atol=1e-5)


def test_blur_twice_adds_variances():
    x = images()
    blur = jax.jit(Blur(5.0))
    np.testing.assert_allclose(blur(blur(x, at(0.3)), at(0.4)), blur(x, at(0.5)), atol=1e-5)
    found = np.asarray(blur(x, at(0.7)))
    np.testing.assert_allclose(found.mean((1, 2)), x.mean((1, 2)), atol=1e-6)


def test_pixelate_has_means_of_blocks():
    x = images()
    found = np.asarray(DEGRADATIONS["pixelate"](x, np.float32([0.0, 1 / 3, 1.0])))
    np.testing.assert_array_equal(found[0], x[0])
    np.testing.assert_allclose(found[1, 2:4, 6:8, 1], x[1, 2:4, 6:8, 1].mean(), rtol=1e-5)
    np.testing.assert_allclose(found[2, 8:, :8, 0], x[2, 8:, :8, 0].mean(), rtol=1e-4, atol=1e-6)


def test_erase_fades_the_middle_and_adds_up():
    x, jitted = images(size=17), jax.jit(Erase(0.2, 6.0))
    erase = lambda x, t_B: np.asarray(jitted(x, t_B))  # noqa: E731
    np.testing.assert_allclose(erase(x, at(0.5))[:, 8, 8], x[:, 8, 8] * np.exp(-3), rtol=1e-5)
    far = np.exp(-6 * np.exp(-((0.0 + 64) / (2 * 3.4**2))))
    np.testing.assert_allclose(erase(x, at(1.0))[:, 8, 0], x[:, 8, 0] * far, rtol=1e-4)
    np.testing.assert_allclose(
        erase(erase(x, at(0.3)), at(0.4)), erase(x, at(0.7)), rtol=1e-5, atol=1e-7
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Blur(0.0), "largest is 0.0, expected a finite number > 0"),
        (lambda: Pixelate(0), "levels is 0, expected at least 1"),
        (
            lambda: Pixelate(3)(images(size=12), at(1.0)),
            "factor is 8, expected a divisor of both 12 and 12",
        ),
        (lambda: Erase(radius=-1.0), "radius is -1.0, expected a finite number > 0"),
        (lambda: Erase(depth=np.inf), "depth is inf, expected a finite number > 0"),
        (lambda: cold_sample(wrong, Blur(), images(), 0), "count is 0, expected at least 1"),
        (
            lambda: cold_sample(wrong, Blur(), images(), 2, algorithm=3),
            "algorithm is 3, expected 1",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call()
