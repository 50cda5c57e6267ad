"""Relocation against its closed form and against images; noise against its covariance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.nerf import (
    SplatConfig,
    add_noise_to_means,
    make_cameras,
    move_splats,
    orbit_cameras,
    relocate,
)
from jaxgen.nerf.splat_projection import rotations
from jaxgen.nerf.splat_relocation import share_opacity


def logit(opacity):
    return np.log(opacity / (1 - np.asarray(opacity)))


@pytest.mark.parametrize("opacity", [0.02, 0.5, 0.97])
def test_many_in_one_place_look_as_one(opacity):
    """As opaque in the middle, with the same integral of alpha along a line."""
    x = np.linspace(-12, 12, 4001)
    together = np.array([1, 2, 3, 10, 51])
    found, growth = jax.jit(share_opacity)(
        jnp.full(5, logit(opacity), jnp.float32), jnp.asarray(together)
    )
    for count, share_logit, scale in zip(
        together, np.asarray(found), np.asarray(growth), strict=True
    ):
        share = 1 - (1 - opacity) ** (1 / count)
        assert 1 / (1 + np.exp(-share_logit)) == pytest.approx(max(share, 0.005), rel=1e-4)
        alpha = 1 - (1 - share * np.exp(-((x / scale) ** 2) / 2)) ** count
        expected = opacity * np.exp(-(x**2) / 2)
        assert alpha.sum() == pytest.approx(expected.sum(), rel=1e-3)
    assert growth[0] == pytest.approx(1, abs=1e-5)


def test_the_dead_move_onto_the_living_and_the_image_stays():
    """Nine dead Gaussians, one that lives: then ten of them, and nearly the same image."""
    config = SplatConfig(10, degree=0, background=(0, 0, 0))
    rng = np.random.default_rng(0)
    opacity = np.full(10, 0.001)
    opacity[4] = 0.8
    params = config.params_of_points(rng.uniform(-1, 1, (10, 3)), rng.uniform(size=(10, 3)))
    params["opacity_logits"] = jnp.asarray(logit(opacity), jnp.float32)
    params["log_scales"] = jnp.log(jnp.full((10, 3), 0.4).at[4].set(jnp.array([0.2, 0.3, 0.4])))
    params["means"] = params["means"].at[4].set(0)
    moved, changed = jax.jit(relocate)(params, jax.random.key(0))
    assert changed.all()
    np.testing.assert_array_equal(moved["means"], np.zeros((10, 3)))
    for name in ("harmonics", "quaternions"):
        np.testing.assert_array_equal(moved[name], np.repeat(params[name][4:5], 10, axis=0))
    pose = np.concatenate([np.eye(3), [[0], [0], [4]]], axis=1)[None]
    render = jax.jit(config.make_render())
    before, after = (
        np.asarray(render(given, make_cameras(pose, 60.0, height=32, width=32)).colour)
        for given in (params, moved)
    )
    assert before.max() > 0.3
    # The middle is the same, the flanks are a little steeper.
    assert np.abs(after - before)[0, 15:17, 15:17].max() < 0.02
    assert np.abs(after - before).max() < 0.12 * before.max()
    # In a plane scales grow as on a line: a few percent are lost.
    assert after.sum() == pytest.approx(before.sum(), rel=0.1)


def test_living_ones_are_chosen_by_their_opacity():
    """A third of 3,000 dead ones go to an opacity of 0.3, the others to one of 0.6."""
    opacity = np.full(3002, 0.001)
    opacity[[7, 2000]] = 0.3, 0.6
    params = jax.jit(SplatConfig(3002, degree=0).make_init())(jax.random.key(0))
    params["opacity_logits"] = jnp.asarray(logit(opacity), jnp.float32)
    moved, changed = jax.jit(relocate)(params, jax.random.key(1))
    place = np.asarray(moved["means"])
    counts = [(place == np.asarray(params["means"])[i]).all(axis=1).sum() for i in (7, 2000)]
    assert sum(counts) == 3002
    assert counts[0] == pytest.approx(1000, abs=100)
    assert changed.all()
    # Nobody is dead, or everybody: nothing changes.
    for logits in (np.zeros(3002), np.full(3002, -9.0)):
        same = {**params, "opacity_logits": jnp.asarray(logits, jnp.float32)}
        moved, changed = jax.jit(relocate)(same, jax.random.key(1))
        assert not changed.any()
        jax.tree.map(np.testing.assert_array_equal, moved, same)


def test_moved_splats_look_the_same_from_moved_cameras():
    """Colours of all degrees turn along."""
    config, rng = SplatConfig(30, tile=8), np.random.default_rng(0)
    params = jax.jit(config.make_init())(jax.random.key(0))
    params["harmonics"] = jnp.asarray(rng.normal(0, 0.4, (30, 16, 3)), jnp.float32)
    params["quaternions"] = jnp.asarray(rng.normal(size=(30, 4)), jnp.float32)
    params["log_scales"] += jnp.asarray(rng.normal(size=(30, 3)), jnp.float32) / 2
    camera = orbit_cameras(1, radius=4, elevation=20, focal=20, height=21, width=27)
    turn = np.asarray(rotations(jnp.asarray(rng.normal(size=4), jnp.float32)), np.float64)
    shift, scale = np.array([1.0, -2.0, 3.0]), 2.5
    pose = np.asarray(camera.camera_to_world, np.float64)[0]
    place = scale * turn @ pose[:, 3] + shift
    there = np.concatenate([turn @ pose[:, :3], place[:, None]], axis=1)[None]
    render = jax.jit(config.make_render())
    expected = render(params, camera)
    found = render(
        move_splats(params, scale, turn, shift), make_cameras(there, 20, height=21, width=27)
    )
    assert expected.colour.std() > 0.05
    np.testing.assert_allclose(found.colour, expected.colour, atol=2e-5)
    np.testing.assert_allclose(found.depth, scale * expected.depth, rtol=1e-4, atol=1e-5)


def test_noise_has_the_shape_of_a_gaussian_and_spares_the_opaque():
    count = 20_000
    params = SplatConfig(count, degree=0).make_init()(jax.random.key(0))
    quaternion, scales = np.array([0.5, -0.1, 0.7, 0.3]), np.array([0.1, 0.3, 0.6])
    opacity = np.where(np.arange(count) < count // 2, 0.005, 0.5)
    params["opacity_logits"] = jnp.asarray(logit(opacity), jnp.float32)
    params["quaternions"] = jnp.tile(jnp.asarray(quaternion, jnp.float32), (count, 1))
    params["log_scales"] = jnp.tile(jnp.log(jnp.asarray(scales, jnp.float32)), (count, 1))
    moved = jax.jit(add_noise_to_means)(params, jax.random.key(0), 2.0)
    noise = np.asarray(moved["means"] - params["means"])
    turn = np.asarray(rotations(jnp.asarray(quaternion)))
    sigma = turn @ np.diag(scales**2) @ turn.T
    found = np.cov(noise[: count // 2].T)
    # sigmoid(0) = 1/2 times a rate of 2.
    np.testing.assert_allclose(found, sigma @ sigma, atol=0.04 * found.max())
    assert np.abs(noise[count // 2 :]).max() < 1e-6
