"""What all transformers keep: the contract of a denoiser, precision, layout over devices."""

import dataclasses
import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import CLASSES, TINY, B, C, X, Y, apply, initial, inputs, params_of, paths, shapes

from jaxgen.errors import InputError
from jaxgen.parallel import gather_fsdp, init_sharded, make_mesh, plan_layout, put_batch
from jaxgen.training.saved_configs import config_from_json, config_to_json

every_family = pytest.mark.parametrize("family", TINY)


def loss_fn(config, params, z_BYXC, time_B, label_B):
    """A number that depends on every output of everything that is trained."""
    model = config.make_model()
    if hasattr(model, "full_and_masked"):
        outputs = model.apply(
            {"params": params},
            *(z_BYXC, time_B, label_B),
            train=False,
            method="full_and_masked",
            rngs={"mask": jax.random.key(5)},
        )
    else:
        outputs = (model.apply({"params": params}, z_BYXC, time_B, label_B),)
    target = jnp.sin(jnp.arange(outputs[0].size)).reshape(outputs[0].shape)
    return sum(jnp.mean((output - target) ** 2) for output in outputs)


value_and_gradient = jax.jit(jax.value_and_grad(loss_fn, 1), static_argnums=0)


@every_family
def test_outputs_have_the_promised_shape_and_type(family):
    config = TINY[family]
    found = apply(config, params_of(config), *inputs())
    assert found.shape == (B, Y, X, 2 * C)
    assert found.dtype == jnp.float32
    assert np.std(found) > 0.01


@every_family
def test_an_example_does_not_depend_on_the_others(family):
    config, (z, time, label) = TINY[family], inputs()
    together = np.asarray(apply(config, params_of(config), z, time, label))
    given = [x[::-1].copy() for x in (z, time, label)]
    for own, x in zip(given, (z, time, label), strict=True):
        own[2:4] = x[2:4]
    among_others = np.asarray(apply(config, params_of(config), *given))
    np.testing.assert_allclose(among_others[2:4], together[2:4], rtol=1e-4, atol=1e-5)
    assert abs(among_others[0] - together[0]).max() > 1e-3


@every_family
def test_time_and_class_change_the_output_and_one_class_is_null(family):
    config, (z, time, _) = TINY[family], inputs()
    label = np.zeros(B, np.int32)
    seen = [
        apply(config, params_of(config), z, t, label + i) for t, i in [(time, 0), (50 + time, 0)]
    ]
    seen += [apply(config, params_of(config), z, time, label + i) for i in range(1, CLASSES + 1)]
    for i, a in enumerate(seen):
        for b in seen[:i]:
            assert np.abs(a - b).max(axis=(1, 2, 3)).min() > 1e-3


@every_family
def test_dropped_labels_are_the_null_class(family):
    """Drawn for each example from the stream "dropout"; off without ``train``."""
    config, (z, time, label) = TINY[family], inputs()
    config = dataclasses.replace(config, class_dropout=0.5)
    label = np.zeros_like(label)
    params = params_of(TINY[family])
    outputs = apply(config, params, z, time, label, train=True, rngs={"dropout": jax.random.key(2)})
    kept = apply(config, params, z, time, label)
    null = apply(config, params, z, time, label + CLASSES)
    is_null = [np.allclose(o, n, atol=1e-5) for o, n in zip(outputs, null, strict=True)]
    is_kept = [np.allclose(o, k, atol=1e-5) for o, k in zip(outputs, kept, strict=True)]
    assert np.all(np.not_equal(is_null, is_kept))
    assert 0 < np.sum(is_null) < B


@every_family
def test_gradients_are_finite_reach_every_parameter_and_survive_remat(family):
    config, given = TINY[family], inputs()
    loss, gradients = value_and_gradient(config, params_of(config), *given)
    for path, gradient in paths(gradients).items():
        assert np.all(np.isfinite(gradient)), path
        assert np.any(gradient), path
    again = dataclasses.replace(config, remat=True)
    assert paths(shapes(again, *given)).keys() == paths(gradients).keys()
    loss_again, gradients_again = value_and_gradient(again, params_of(config), *given)
    np.testing.assert_allclose(loss_again, loss, rtol=1e-6)
    close = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
    jax.tree.map(close, gradients_again, gradients)


@every_family
def test_extreme_input_stays_finite(family):
    config, (z, time, label) = TINY[family], inputs()
    for scale, when in [(0.0, 0.0), (1e4, 1000.0)]:
        loss, gradients = value_and_gradient(
            config, params_of(config), scale * z, 0 * time + np.float32(when), label
        )
        assert np.isfinite(loss)
        assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(gradients))


@every_family
def test_bfloat16_is_close_with_the_same_float32_parameters(family):
    config, given = TINY[family], inputs()
    half = dataclasses.replace(config, dtype="bfloat16")
    assert {x.dtype for x in jax.tree.leaves(shapes(half, *given))} == {jnp.dtype("float32")}
    expected = apply(config, params_of(config), *given)
    found = apply(half, params_of(config), *given)
    assert found.dtype == jnp.float32
    error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    assert 1e-5 < error < 0.03


@every_family
def test_query_key_norm_adds_two_scales_to_each_attention(family):
    config, given = TINY[family], inputs()
    normed = dataclasses.replace(config, qk_norm=True)
    added = paths(shapes(normed, *given)).keys() - paths(shapes(config, *given)).keys()
    blocks = config.depth + (family == "mdt")  # the side block
    assert len(added) == 2 * blocks
    assert {path.split("/")[-2] for path in added} == {"query_norm", "key_norm"}


@every_family
def test_networks_without_classes(family):
    config, (z, time, _) = TINY[family], inputs()
    free = dataclasses.replace(config, num_classes=0)
    tree = shapes(free, z, time)
    assert not [path for path in paths(tree) if "label" in path]
    assert jax.eval_shape(free.make_model().apply, {"params": tree}, z, time).shape == (B, Y, X, 6)


def init_fn(config):
    return lambda key: config.make_model().init(key, *inputs(batch=1))["params"]


def test_initial_values_do_not_depend_on_the_mesh():
    config, mesh = TINY["dit"], make_mesh("data=2,fsdp=2,model=2")
    with jax.set_mesh(mesh):
        born, _ = init_sharded(init_fn(config), jax.random.key(0), mesh=mesh)
    unsharded = initial(config, *inputs(batch=1))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6), born, unsharded)


@every_family
def test_a_sharded_network_is_the_unsharded_one(family):
    """Values, loss and gradients under data, fsdp and model; heads and units over model."""
    config, given = TINY[family], inputs()
    params = params_of(config)
    expected = value_and_gradient(config, params, *given)
    mesh = make_mesh("data=2,fsdp=2,model=2")
    with jax.set_mesh(mesh):
        layout = plan_layout(init_fn(config), jax.random.key(0), mesh=mesh)
        sharded = jax.device_put(params, layout.shardings)

        @jax.jit
        def step(params, batch):
            return jax.value_and_grad(
                lambda params: loss_fn(config, gather_fsdp(params, layout), *batch)
            )(params)

        loss, gradients = step(sharded, put_batch(given, mesh))
    np.testing.assert_allclose(loss, expected[0], rtol=1e-5)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5), gradients, expected[1])
    specs = {path: tuple(s.spec) for path, s in paths(layout.shardings).items()}
    qkv = [spec for path, spec in specs.items() if path.endswith("/qkv/kernel")]
    hidden = [spec for path, spec in specs.items() if path.endswith("mlp/hidden/kernel")]
    assert len(qkv) == len(hidden) == config.depth + (family == "mdt")
    assert set(qkv) == {("fsdp", "model", None, None)}
    assert set(hidden) == {("fsdp", "model")}


@every_family
def test_configurations_survive_a_checkpoint(family):
    text = json.dumps(config_to_json(TINY[family]))
    assert config_from_json(json.loads(text)) == TINY[family]
    assert hash(config_from_json(json.loads(text))) == hash(TINY[family])


@every_family
@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda z, t, y: (z[:, :3], t, y), r"images have shape \(8, 3, 8, 3\), expected \[B, Y, X"),
        (lambda z, t, y: (z[:, :, :7], t, y), "height and width divisible by the patch size 2"),
        (lambda z, t, y: (z[..., :2], t, y), r"with 2 channels, expected \[B, Y, X, 3\]"),
        (lambda z, t, y: (z[0], t, y), r"images have shape \(4, 8, 3\), expected \[B, Y, X, 3\]"),
        (lambda z, t, y: (z, t[:3], y), r"time has shape \(3,\), expected \[8\]"),
        (lambda z, t, y: (z, t, y[:3]), r"labels have shape \(3,\), expected \[8\]"),
        (lambda z, t, y: (z, t, None), r"labels are None, expected \[8\] ids below 4"),
    ],
    ids=["height", "width", "channels", "rank", "time", "labels", "no labels"],
)
def test_input_that_does_not_fit_is_refused(family, change, fault):
    with pytest.raises(InputError, match=fault):
        shapes(TINY[family], *change(*inputs()))


@pytest.mark.parametrize("family", ["uvit", "mdt", "diffit"])
def test_learned_positions_have_one_size(family):
    with pytest.raises(InputError, match=r"expected \[B, 4, 8, 3\]: the network's positions are"):
        shapes(TINY[family], *inputs(size=(8, 4)))
    with pytest.raises(
        InputError, match=r"input_size is \(4, 7\), expected height and width, both"
    ):
        dataclasses.replace(TINY[family], input_size=(4, 7))


@every_family
@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"width": 0}, "width is 0, expected 1 or more"),
        ({"in_channels": 0}, "in_channels is 0, expected 1 or more"),
        ({"depth": 0}, "depth is 0, expected 1 or more"),
        ({"num_classes": -1}, "num_classes is -1, expected 0 or more"),
        ({"heads": 3}, "width is 16, expected a multiple of heads=3"),
        ({"mlp_ratio": 0.0}, "mlp_ratio is 0.0, expected a positive number"),
        ({"class_dropout": 1.0}, "class_dropout is 1.0, expected 0 <= p < 1"),
        ({"null_class": False}, "class_dropout is 0.1 without a null class"),
        ({"dtype": "float16"}, "dtype is 'float16', expected 'float32' or 'bfloat16'"),
        ({"attention": "flash"}, "attention is 'flash', expected one of"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_configurations_that_are_no_network(family, change, fault):
    with pytest.raises(InputError, match=fault):
        dataclasses.replace(TINY[family], **change)


@every_family
def test_an_unknown_name_is_refused_with_the_known_ones(family):
    cls = type(TINY[family])
    with pytest.raises(InputError, match=r"'Big/2' is unknown, expected one of .*/2"):
        cls.named("Big/2")
