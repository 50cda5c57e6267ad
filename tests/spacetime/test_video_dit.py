"""VideoDiT: DiT at one frame, packed as unpacked, sharded as unsharded."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import apply, randomised, shapes

from jaxgen.data.packing import PackedExample, pack_arrays
from jaxgen.diffusion import CosineSchedule
from jaxgen.diffusion.objectives.packed_loss import drop_labels, packed_loss, token_noise
from jaxgen.errors import InputError
from jaxgen.nn import grid_places
from jaxgen.parallel import make_mesh, put_batch
from jaxgen.spacetime import DiTConfig, VideoDiTConfig, patchify

CLASSES, C = 4, 2
SHARED = {
    "in_channels": C,
    "out_channels": C,
    "width": 16,
    "heads": 2,
    "depth": 1,
    "mlp_ratio": 2.0,
    "num_classes": CLASSES,
}
CONFIGS = {
    "sincos": VideoDiTConfig(patch=(1, 2, 2), **SHARED),
    "rotary": VideoDiTConfig(patch=(2, 2, 2), positions="rotary", **SHARED),
}
SIZES = [(4, 4, 4), (2, 2, 4), (2, 2, 4), (6, 2, 2), (2, 2, 4)]
L, E = 24, 4


def video_inputs(config, size, batch=2, seed=0):
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(batch, *size, C)).astype(np.float32)
    return z, rng.uniform(0, 1000, batch).astype(np.float32), np.arange(batch, dtype=np.int32)


@functools.cache
def params_of(positions):
    config = CONFIGS[positions]
    return randomised(shapes(config, *video_inputs(config, (2, 2, 2))))


def test_at_one_frame_it_is_dit():
    """The same parameters, and the same prediction to 1e-6."""
    dit = DiTConfig(patch=2, **SHARED)
    z, time, label = video_inputs(CONFIGS["sincos"], (1, 4, 8))
    params = randomised(shapes(dit, z[:, 0], time, label))
    video = apply(CONFIGS["sincos"], params, z, time, label)
    image = apply(dit, params, z[:, 0], time, label)
    assert abs(np.asarray(image)).max() > 0.1
    np.testing.assert_allclose(video[:, 0], image, atol=1e-6)


def test_frames_are_told_apart_and_see_each_other():
    z, time, label = video_inputs(CONFIGS["sincos"], (3, 4, 4))
    for positions, config in CONFIGS.items():
        z2 = np.repeat(z[:, :1], 4, axis=1)  # the same frame four times
        same = np.asarray(apply(config, params_of(positions), z2, time, label))
        other = z2.copy()
        other[:, 3] += 1
        seen = np.asarray(apply(config, params_of(positions), other, time, label))
        assert abs(seen[:, 0] - same[:, 0]).max() > 1e-3
        if positions == "sincos":
            assert abs(same[:, 0] - same[:, 2]).max() > 1e-3


PACKS_OF_SIX = ((0, 1), (2, 3, 4), (), (), (), ())
"""As many packs as there are of single examples and one more: one program serves both."""


def packed_batch(config, packs=((0, 1), (2, 3, 4))):
    """Examples of all sizes in two packs, bytes; and the same examples one by one."""
    rng = np.random.default_rng(1)
    videos = [rng.integers(256, size=(*size, C)).astype(np.uint8) for size in SIZES]
    examples = []
    for i, video in enumerate(videos):
        grid = [s // p for s, p in zip(video.shape[:3], config.patch, strict=True)]
        tokens = patchify(video[None], config.patch)[0]
        examples.append(PackedExample(10 + i, tokens, grid_places(tuple(grid)), i % CLASSES))
    return videos, examples, pack_arrays([[examples[i] for i in pack] for pack in packs], L, E)


@pytest.mark.parametrize("positions", CONFIGS)
def test_packed_outputs_are_the_unpacked_ones(positions):
    config = CONFIGS[positions]
    videos, examples, batch = packed_batch(config)
    time_BE = np.random.default_rng(2).uniform(0, 1000, (2, E)).astype(np.float32)
    tokens = np.asarray(batch["tokens"], np.float32) / 255
    rest = batch["place"], batch["segment"], time_BE, batch["label"]
    found = apply(config, params_of(positions), tokens, *rest, method="packed")
    for row, e in ((0, 0), (0, 1), (1, 0), (1, 1), (1, 2)):
        i = batch["index"][row, e] - 10
        z = np.asarray(videos[i][None], np.float32) / 255
        label = np.array([examples[i].label], np.int32)
        alone = apply(config, params_of(positions), z, time_BE[row, e][None], label)
        expected = patchify(np.asarray(alone), config.patch)[0]
        own = np.asarray(found)[row][batch["segment"][row] == e + 1]
        np.testing.assert_allclose(own, expected, atol=1e-5)


@functools.partial(jax.jit, static_argnums=0)
def losses_and_gradient(config, params, batch, key):
    """Losses [B, E], and the gradient of their sum."""
    noise_key, dropout_key = jax.random.split(key)
    label = drop_labels(dropout_key, batch["index"], batch["label"], CLASSES, 0.5)

    def total(params):
        def network(z, time):
            model, rest = config.make_model(), (batch["place"], batch["segment"])
            return model.apply({"params": params}, z, *rest, time, label, method="packed")

        found = packed_loss(
            network,
            batch["tokens"],
            batch["segment"],
            batch["index"],
            noise_key,
            schedule=CosineSchedule(),
        )
        return found.loss.sum(), found

    (_, found), gradient = jax.value_and_grad(total, has_aux=True)(params)
    return found, gradient


@pytest.mark.parametrize("positions", CONFIGS)
def test_packed_losses_and_gradients_are_the_unpacked_ones(positions):
    """Times, dropped labels and noise follow from the examples' indices, not from their packs."""
    config, key = CONFIGS[positions], jax.random.key(3)
    _, examples, batch = packed_batch(config, PACKS_OF_SIX)
    found, gradient = losses_and_gradient(config, params_of(positions), batch, key)
    np.testing.assert_array_equal(found.present[:2], [[1, 1, 0, 0], [1, 1, 1, 0]])
    assert found.present.sum() == len(SIZES)
    alone = pack_arrays([*([example] for example in examples), []], L, E)
    single, expected = losses_and_gradient(config, params_of(positions), alone, key)
    order = batch["index"][np.asarray(found.present)] - 10
    np.testing.assert_allclose(
        found.loss[found.present], np.asarray(single.loss)[order, 0], rtol=1e-5
    )
    assert float(found.mean()) == pytest.approx(
        float(single.loss[: len(SIZES), 0].mean()), rel=1e-5
    )
    assert np.unique(single.level.t[: len(SIZES), 0]).size == len(SIZES)
    for ours, theirs in zip(jax.tree.leaves(gradient), jax.tree.leaves(expected), strict=True):
        scale = max(float(abs(theirs).max()), 1e-3)
        np.testing.assert_allclose(ours / scale, theirs / scale, atol=1e-5)


def test_noise_is_that_of_the_example_and_the_number_of_the_token():
    key, index, number = jax.random.key(0), np.array([[4, 4, 9]]), np.array([[0, 1, 1]])
    found = np.asarray(jax.jit(token_noise, static_argnums=3)(key, index, number, 6))
    for place, (i, n) in enumerate(zip(index[0], number[0], strict=True)):
        own = jax.random.fold_in(jax.random.fold_in(key, i), n)
        np.testing.assert_array_equal(found[0, place], jax.random.normal(own, (6,)))
    assert abs(found[0, 0] - found[0, 1]).min() > 0  # another token
    assert abs(found[0, 1] - found[0, 2]).min() > 0  # another example


def test_packs_on_a_mesh_are_those_on_one_device():
    config, key = CONFIGS["sincos"], jax.random.key(3)
    _, _, batch = packed_batch(config, PACKS_OF_SIX)
    expected, gradient = losses_and_gradient(config, params_of("sincos"), batch, key)
    with jax.set_mesh(made := make_mesh("fsdp=2,model=2", jax.devices()[:4])):
        found, sharded = losses_and_gradient(
            config, params_of("sincos"), put_batch(batch, made), key
        )
    np.testing.assert_allclose(found.loss, expected.loss, rtol=2e-5)
    for ours, theirs in zip(jax.tree.leaves(sharded), jax.tree.leaves(gradient), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5 * max(1, float(abs(theirs).max())))


def test_the_saved_configuration_and_its_options():
    config = VideoDiTConfig(patch=[1, 4, 4], positions="rotary", **SHARED | {"width": 64})
    assert config.patch == (1, 4, 4)
    assert config.patch_outputs == 32
    for change, message in (
        ({"patch": (1, 2)}, r"patch is \(1, 2\), expected 3 sides"),
        ({"positions": "learnt"}, "positions is 'learnt', expected one of sincos, rotary"),
        ({"positions": "rotary", "width": 8, "heads": 2}, "head size is 4, expected an even"),
        ({"width": 18, "heads": 2}, "width is 18, expected a multiple of 4"),
    ):
        with pytest.raises(InputError, match=message):
            dataclasses.replace(CONFIGS["sincos"], **change)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (0, np.zeros((2, L, 9)), r"tokens have shape \(2, 24, 9\), expected \[B, L, 8\]"),
        (1, np.zeros((2, L, 2)), r"places have shape \(2, 24, 2\), expected \[2, 24, 3\]"),
        (2, np.zeros((2, 3), int), r"segment ids have shape \(2, 3\), expected \[2, 24\]"),
        (4, None, r"labels have shape None, expected \[2, 4\]"),
    ],
)
def test_arrays_that_make_no_pack_are_refused(name, value, message):
    config = CONFIGS["sincos"]
    _, _, batch = packed_batch(config)
    given = [
        jnp.asarray(batch["tokens"], jnp.float32),
        *(batch["place"], batch["segment"], np.zeros((2, E), np.float32), batch["label"]),
    ]
    given[name] = value
    with pytest.raises(InputError, match=message):
        config.make_model().apply({"params": params_of("sincos")}, *given, method="packed")


def test_sizes_that_no_patch_divides_are_refused():
    config = CONFIGS["sincos"]
    z, time, label = video_inputs(config, (2, 3, 4))
    with pytest.raises(InputError, match=r"videos have shape \(2, 2, 3, 4, 2\), expected "):
        config.make_model().apply({"params": params_of("sincos")}, z, time, label)
