"""The scan: what is compiled when, previews, and what a sample depends on."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxgen.diffusion.denoiser import Estimate
from jaxgen.diffusion.exact import gaussian_mixture_denoiser
from jaxgen.diffusion.process.schedules import CosineSchedule, KarrasSchedule
from jaxgen.diffusion.process.step_levels import make_steps
from jaxgen.diffusion.samplers import (
    DDIM,
    Ancestral,
    DPMSolver,
    Euler,
    Heun,
    LangevinCorrector,
    SASolver,
    SingleStepDPMSolver,
    StochasticKarras,
)
from jaxgen.diffusion.samplers.sampling import fill_up, initial_noise, sample, sample_with_table
from jaxgen.errors import InputError
from jaxgen.parallel import make_mesh

SCHEDULE = CosineSchedule(-12, 12)
DENOISER = gaussian_mixture_denoiser(
    np.array([0.3, 0.7]), np.array([[1.0, -0.5], [-1.0, 0.8]]), np.array([0.2, 0.4])
)
SAMPLERS = {
    "ddim": DDIM(0.6),
    "ancestral": Ancestral(0.4),
    "euler": Euler(),
    "heun": Heun(),
    "dpm": DPMSolver(3),
    "sde": DPMSolver(2, stochastic=True),
    "single": SingleStepDPMSolver(3),
    "churn": StochasticKarras(SCHEDULE, churn=5.0, low=0.01, high=100.0),
    "langevin": LangevinCorrector(Ancestral(), 0.1),
    "sa": SASolver(2, 2),
}


@functools.partial(jax.jit, static_argnames=("sampler", "previews"))
def run(sampler, seed, index_B, previews=False):
    levels, key = make_steps(SCHEDULE, 6), jax.random.key(seed)
    z = initial_noise(key, index_B, (2,), levels)
    return sample(sampler, DENOISER, z, levels, key, index_B, previews=previews)


def test_levels_and_their_table_give_the_same_samples():
    """And neither is taken for the other."""
    sampler, levels, key = DDIM(1.0), make_steps(SCHEDULE, 4), jax.random.key(0)
    z, table = np.ones((3, 2), np.float32), sampler.table(levels)
    wanted = jax.jit(lambda table: sample_with_table(sampler, DENOISER, z, table, key))(table)
    found = jax.jit(lambda: sample(sampler, DENOISER, z, levels, key))()
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    with pytest.raises(InputError, match=r"levels is a LinearRow, .* goes to sample_with_table"):
        sample(sampler, DENOISER, z, table, key)
    with pytest.raises(InputError, match=r"levels are traced, .*sample_with_table"):
        jax.jit(lambda levels: sample(sampler, DENOISER, z, levels, key))(levels)


class Counted:
    """A jitted sampler with a guided denoiser, and how often it was traced and compiled."""

    def __init__(self, sampler):
        self.traces = 0

        def guided(w):
            def denoiser(z, level):
                self.traces += 1
                estimate = DENOISER(z, level)
                return Estimate(estimate.x * (1 + w), estimate.e * (1 + w))

            return denoiser

        def run(table, z, key, index_B, w):
            return sample_with_table(sampler, guided(w), z, table, key, index_B)

        self.run = jax.jit(run)

    @property
    def programs(self):
        return self.run._cache_size()


@pytest.mark.parametrize("name", SAMPLERS)
def test_nothing_is_recompiled(name):
    """For another seed, guidance scale, place or width of the same number of steps."""
    sampler = SAMPLERS[name]
    counted = Counted(sampler)
    z, index_B = jnp.ones((3, 2)), jnp.arange(3)

    def go(seed=0, w=0.0, levels=None, offset=0):
        levels = make_steps(SCHEDULE, 6) if levels is None else levels
        table = sampler.table(levels)
        return np.asarray(counted.run(table, z, jax.random.key(seed), index_B + offset, w))

    first = go()
    traces = counted.traces
    assert counted.programs == 1
    others = [
        go(seed=1),
        go(w=0.5),
        go(offset=7),
        go(levels=make_steps(SCHEDULE, 6, "uniform_angle")),
        go(levels=make_steps(CosineSchedule(-9, 7), 6)),
    ]
    assert counted.programs == 1
    assert counted.traces == traces
    # w and the steps' values matter to all, the seed to all that draw noise.
    assert all(np.abs(other - first).max() > 1e-4 for other in (others[1], *others[3:]))
    draws = name not in ("euler", "heun", "dpm", "single")
    assert (np.abs(others[0] - first).max() > 1e-4) == draws
    go(levels=make_steps(SCHEDULE, 7))
    assert counted.programs == 2  # the counter does count


@pytest.mark.parametrize("name", SAMPLERS)
def test_one_program_for_any_number_of_steps(name):
    sampler, key, index_B = SAMPLERS[name], jax.random.key(0), jnp.arange(3)

    @jax.jit
    def sampled(table, rows):
        z = initial_noise(key, index_B, (2,), make_steps(SCHEDULE, 6))
        return sample_with_table(sampler, DENOISER, z, table, key, index_B, rows=rows)

    table = sampler.table(make_steps(SCHEDULE, 6))
    six = sampled(*fill_up(table, 32))
    np.testing.assert_allclose(six, run(sampler, 0, index_B), rtol=1e-5, atol=1e-6)
    two = sampled(*fill_up(sampler.table(make_steps(SCHEDULE, 2)), 32))
    assert np.abs(two - six).max() > 1e-3
    assert sampled._cache_size() == 1
    with pytest.raises(InputError, match="previews are asked for with rows"):
        sample_with_table(sampler, DENOISER, six, table, key, rows=1, previews=True)


@pytest.mark.parametrize(
    ("sampler", "others"),
    [
        (DDIM(0.0), [DDIM(0.3), DDIM(1.0)]),
        (Ancestral(0.0), [Ancestral(1.0)]),
        (DPMSolver(2), [DPMSolver(2, "exact")]),
        (
            StochasticKarras(SCHEDULE, 1.0),
            [StochasticKarras(SCHEDULE, 9.0, 0.2, 7.0, inflation=1.1)],
        ),
        (LangevinCorrector(DDIM(0.5), 0.1), [LangevinCorrector(DDIM(0.9), 0.2)]),
    ],
)
def test_nor_for_other_numbers_of_the_method(sampler, others):
    """Eta, gamma, churn and step sizes are in the table."""
    counted = Counted(sampler)
    levels = make_steps(SCHEDULE, 6)
    z, index_B = jnp.ones((3, 2)), jnp.arange(3)
    results = [
        np.asarray(counted.run(one.table(levels), z, jax.random.key(0), index_B, 0.0))
        for one in (sampler, *others)
    ]
    assert counted.programs == 1
    assert all(np.abs(result - results[0]).max() > 1e-5 for result in results[1:])


def scanned(jaxpr):
    """The body of the only scan."""
    [scan] = [eqn for eqn in jaxpr.eqns if str(eqn.primitive) == "scan"]
    return scan.params["jaxpr"]


@pytest.mark.parametrize("sampler", [DDIM(), DPMSolver(3)], ids=["ddim", "dpm"])
def test_size_of_the_program_does_not_grow_with_the_steps(sampler):
    def size(count):
        table = sampler.table(make_steps(SCHEDULE, count))
        args = (table, jnp.ones((3, 2)), jax.random.key(0))
        jaxpr = jax.make_jaxpr(lambda t, z, key: sample_with_table(sampler, DENOISER, z, t, key))(
            *args
        )
        return [str(eqn.primitive) for inner in (jaxpr, scanned(jaxpr)) for eqn in inner.eqns]

    assert size(4) == size(400)


@pytest.mark.parametrize("name", SAMPLERS)
def test_one_evaluation_per_row(name):
    """The denoiser is evaluated once for each row (twice with a corrector), by count at run
    time.
    """
    evaluated = []

    def denoiser(z, level):
        jax.debug.callback(lambda t: evaluated.append(float(t)), level.t[0])
        return DENOISER(z, level)

    sampler = SAMPLERS[name]
    table = sampler.table(make_steps(SCHEDULE, 6))
    sample_with_table(
        sampler, denoiser, jnp.ones((2, 2)), table, jax.random.key(0)
    ).block_until_ready()
    jax.effects_barrier()
    rows = {"heun": 11, "churn": 11, "langevin": 12}.get(name, 6)
    assert len(evaluated) == rows
    times = np.repeat(table.now.t, 2 if name == "langevin" else 1)
    np.testing.assert_allclose(sorted(evaluated), sorted(times), rtol=1e-6)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sample_depends_on_key_and_index_alone(name):
    """Not on the others or their order; indices and keys do matter."""
    sampler = SAMPLERS[name]
    other = np.array([5, 2, 0, 0, 6, 1, 3])
    whole = np.asarray(run(sampler, 0, np.arange(7)))
    np.testing.assert_allclose(run(sampler, 0, other), whole[other], rtol=2e-5, atol=2e-6)
    assert np.abs(whole[:, None] - whole[None])[~np.eye(7, dtype=bool)].max(-1).min() > 1e-4
    assert np.abs(run(sampler, 1, np.arange(7)) - whole).max() > 1e-3


@pytest.mark.parametrize("name", ["ddim", "sa", "churn", "langevin"])
def test_nor_on_the_mesh(name):
    """Eight devices, two along each axis, give what one does, for part of the examples too."""
    sampler = SAMPLERS[name]
    levels = make_steps(SCHEDULE, 5)
    table = sampler.table(levels)

    def draw(key, index_B):
        z = initial_noise(key, index_B, (2,), levels)
        return sample_with_table(sampler, DENOISER, z, table, key, index_B)

    key, index_B = jax.random.key(4), np.arange(16)
    wanted = np.asarray(jax.jit(draw)(key, index_B))
    mesh = make_mesh("data=2,fsdp=2,model=2")
    with jax.set_mesh(mesh):
        spread = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
        sharded = jax.jit(draw, out_shardings=spread)(key, jax.device_put(index_B[4:12], spread))
    assert len(sharded.sharding.device_set) == 8
    np.testing.assert_allclose(sharded, wanted[4:12], rtol=2e-5, atol=2e-6)


def test_previews_are_the_estimates():
    """x^ of every row; the last one is the sample where the end is clean."""
    levels, index_B = make_steps(SCHEDULE, 6), np.arange(7)
    level = jax.tree.map(lambda value: np.float32(value[0]), levels)

    @jax.jit
    def first_estimate():
        return DENOISER(initial_noise(jax.random.key(0), index_B, (2,), levels), level).x

    for name in ("ddim", "heun"):
        z, previews = map(np.asarray, run(SAMPLERS[name], 0, index_B, previews=True))
        assert previews.shape == (11 if name == "heun" else 6, 7, 2)
        np.testing.assert_allclose(z, run(SAMPLERS[name], 0, index_B), rtol=1e-6)
        np.testing.assert_allclose(previews[0], first_estimate(), rtol=1e-5, atol=1e-6)
        if name == "ddim":
            np.testing.assert_allclose(previews[-1], z, rtol=1e-4, atol=1e-5)


def test_initial_noise():
    """Its deviation, and that it is that of the first level."""
    karras = KarrasSchedule()
    many = make_steps(SCHEDULE, 5), make_steps(karras, 5, "karras"), karras.at(1.0)

    @jax.jit
    def run(key):
        return [initial_noise(key, jnp.arange(4000), (3, 2), levels) for levels in many]

    vp, ve, of_one = map(np.asarray, run(jax.random.key(0)))
    assert vp.shape == (4000, 3, 2)
    assert vp.dtype == np.float32
    assert vp.std() == pytest.approx(1, rel=0.02)
    np.testing.assert_allclose(ve, vp * np.hypot(1, 80), rtol=1e-5)
    np.testing.assert_array_equal(ve, of_one)


def test_bfloat16_networks_leave_the_latents_in_float32():
    def denoiser(z, level):
        estimate = DENOISER(z, level)
        return Estimate(estimate.x.astype(jnp.bfloat16), estimate.e.astype(jnp.bfloat16))

    levels, z = make_steps(SCHEDULE, 6), jnp.asarray(np.ones((5, 2)), jnp.bfloat16)
    for sampler in (SAMPLERS["heun"], SAMPLERS["churn"]):
        table, key = sampler.table(levels), jax.random.key(0)
        run = jax.jit(sample_with_table, static_argnums=(0, 1))
        x = run(sampler, denoiser, z, table, key)
        assert x.dtype == jnp.float32
        assert np.isfinite(x).all()
