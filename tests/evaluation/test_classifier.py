"""The classifier: its forward pass, loss, batches and layouts."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgen.data import load_images, to_unit
from jaxgen.errors import InputError
from jaxgen.evaluation import ClassifierConfig, apply_classifier, class_accuracy, classifier_loss
from jaxgen.evaluation.features import apply_in_batches
from jaxgen.parallel import gather_fsdp, init_sharded, make_mesh, put_batch

SMALL = ClassifierConfig(10, widths=(8, 16), dropout=0.5)


def images(count, side=8, channels=1, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (count, side, side, channels)).astype("f4")


def start(config, channels=1, mesh=None):
    """Parameters and their layout, on a mesh (of one device by default)."""
    mesh = mesh or make_mesh("data=1", devices=jax.devices()[:1])
    image = jnp.zeros((1, 8, 8, channels))
    return init_sharded(
        lambda key: config.make_model().init(key, image)["params"], jax.random.key(0), mesh=mesh
    )


def reference(params, config, images_BYXC):
    """The forward pass in numpy and float64, convolutions as sums over shifts."""

    def convolve(x, name, stride=1):
        kernel = np.asarray(params[name]["kernel"], np.float64)
        size = -(-x.shape[1] // stride)
        before = max((size - 1) * stride + 3 - x.shape[1], 0) // 2  # TensorFlow's "SAME"
        x = np.pad(x, ((0, 0), (before, 3), (before, 3), (0, 0)))
        y = sum(
            x[:, i : i + stride * size : stride, j : j + stride * size : stride] @ kernel[i, j]
            for i in range(3)
            for j in range(3)
        )
        groups = y.reshape(len(y), -1, 8, y.shape[-1] // 8)
        mean = groups.mean((1, 3), keepdims=True)
        groups = (groups - mean) / np.sqrt(groups.var((1, 3), keepdims=True) + 1e-6)
        norm = params[f"{name}_norm"]
        y = groups.reshape(y.shape) * np.asarray(norm["scale"]) + np.asarray(norm["bias"])
        return np.maximum(y, 0)

    x = convolve(np.asarray(images_BYXC, np.float64), "stem")
    for i in range(len(config.widths) - 1):
        x = convolve(convolve(x, f"down_{i}", stride=2), f"same_{i}")
    features = x.mean((1, 2))
    return features, features @ params["logits"]["kernel"] + params["logits"]["bias"]


@pytest.mark.parametrize(("side", "channels"), [(8, 1), (13, 3)])
def test_forward_pass_against_numpy(side, channels):
    config = ClassifierConfig(5, channels, widths=(8, 16, 24))
    params, _ = start(config, channels)
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda p: p + rng.normal(0, 0.1, p.shape).astype("f4"), params)
    given = images(3, side, channels)
    found = jax.jit(config.make_model().apply)({"params": params}, given)
    for ours, expected in zip(found, reference(params, config, given), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=2e-4, atol=2e-5)


CLIPS = ClassifierConfig(5, widths=(8, 16), dropout=0.0, temporal=True)


def start_clips():
    """Parameters of a network of clips, none of them at a special value."""
    clip = jnp.zeros((1, 3, 8, 8, 1))
    params, _ = init_sharded(
        lambda key: CLIPS.make_model().init(key, clip)["params"],
        jax.random.key(0),
        mesh=make_mesh("data=1", devices=jax.devices()[:1]),
    )
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda p: p + rng.normal(0, 0.1, p.shape).astype("f4"), params)


def random_clips(count, frames, side=9):
    return images(count * frames, side).reshape(count, frames, side, side, 1)


def test_comparison_of_frames_against_numpy():
    """Frames of a network without convolutions in space: kernels with the middle entry alone."""
    params = jax.tree.map(np.asarray, start_clips())
    for name in ("stem", "down_0", "same_0"):
        kernel = np.zeros_like(params[name]["kernel"])
        kernel[1, 1] = params[name]["kernel"][1, 1]
        params[name] = {"kernel": kernel}
    clips = random_clips(2, 4, 1)  # one pixel, so that strides do nothing

    def normed(x, name):
        groups = x.reshape(*x.shape[:2], 8, -1)
        groups = groups - groups.mean(-1, keepdims=True)
        groups = groups / np.sqrt(groups.var(-1, keepdims=True) + 1e-6)
        norm = params[f"{name}_norm"]
        return groups.reshape(x.shape) * norm["scale"] + norm["bias"]

    x_BTC = clips[:, :, 0, 0].astype(np.float64)
    for *layers, time in (("stem", "stem_time"), ("down_0", "same_0", "time_0")):
        for name in layers:
            x_BTC = np.maximum(normed(x_BTC @ params[name]["kernel"][1, 1], name), 0)
        kernel_3CF = params[time]["kernel"].reshape(3, x_BTC.shape[-1], -1)
        total = np.zeros_like(x_BTC)
        for t in range(4):
            for i, near in enumerate((t - 1, t, t + 1)):
                if 0 <= near < 4:
                    total[:, t] += x_BTC[:, near] @ kernel_3CF[i]
        x_BTC = np.maximum(x_BTC + normed(total, time), 0)
    features, _ = apply_classifier(CLIPS, params, clips)
    np.testing.assert_allclose(features, x_BTC.mean(axis=1), rtol=2e-4, atol=2e-5)


def test_clips_of_any_length_and_their_order():
    """Frames too far apart to meet in the kernels: features add up; other orders differ."""
    params = start_clips()
    answer = jax.jit(lambda clips: CLIPS.make_model().apply({"params": params}, clips)[0])
    for frames in (1, 2, 7):
        found = answer(random_clips(3, frames))
        assert found.shape == (3, 16)
        assert np.isfinite(found).all()
    clip = random_clips(1, 7)
    turned = clip[:, np.array([0, 4, 2, 6, 1, 3, 5])]
    assert np.abs(answer(clip) - answer(turned)).max() > 1e-3
    rounded = np.round((clip + 1) * 127.5).astype(np.uint8)
    np.testing.assert_allclose(answer(rounded), answer(to_unit(rounded)), rtol=1e-5, atol=1e-6)


def test_gradients_of_clips():
    """All parameters, those of the comparison in time too, have one; it is finite."""
    batch = {"image": random_clips(4, 3), "label": np.array([0, 1, 2, 4], np.int32)}
    loss_fn = classifier_loss(CLIPS)
    gradient = jax.jit(jax.grad(lambda p: loss_fn(p, batch, KEY)[0]))(start_clips())
    for leaf in jax.tree.leaves(gradient):
        assert np.isfinite(leaf).all()
        assert np.abs(leaf).max() > 0


def test_clips_are_no_images():
    params = start_clips()
    with pytest.raises(InputError, match=r"clips have shape \(2, 8, 8, 1\), expected \[B, T, Y, X"):
        apply_classifier(CLIPS, params, images(2))
    with pytest.raises(InputError, match=r"images have shape \(2, 3, 8, 8, 1\), expected \[B, Y"):
        apply_classifier(SMALL, start(SMALL)[0], random_clips(2, 3, 8))
    expected = ClassifierConfig(7, 3, (32, 64), temporal=True)
    assert ClassifierConfig.for_images((8, 16, 20, 3), 7) == expected


@pytest.mark.parametrize(("side", "channels"), [(8, 1), (28, 1), (64, 3), (1, 3)])
def test_one_configuration_for_all_sizes(side, channels):
    model = ClassifierConfig(10, channels, widths=(32, 64, 128)).make_model()
    shape = jax.ShapeDtypeStruct((2, side, side, channels), jnp.float32)
    (features, logits), variables = jax.eval_shape(model.init_with_output, jax.random.key(0), shape)
    assert (features.shape, logits.shape) == ((2, 128), (2, 10))
    count = sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"]))
    kernels = 9 * (32 * channels + 32 * 64 + 64 * 64 + 64 * 128 + 128 * 128)
    assert count == kernels + 2 * (32 + 64 + 64 + 128 + 128) + 128 * 10 + 10


@pytest.mark.parametrize(
    ("shape", "widths"),
    [
        ((8, 8, 1), (16, 32, 64)),
        ((28, 28, 1), (16, 32, 64, 128)),
        ((32, 40, 3), (16, 32, 64, 128)),
        ((64, 64, 3), (16, 32, 64, 128, 256)),
        ((1, 1, 3), (16, 32, 64)),
    ],
)
def test_larger_images_are_halved_more_often(shape, widths):
    assert ClassifierConfig.for_images(shape, 7) == ClassifierConfig(7, shape[2], widths)


def test_batches_do_not_change_the_answers():
    params, _ = start(SMALL)
    given = images(23)
    features, probabilities = apply_classifier(SMALL, params, given, batch_size=23)
    assert (features.shape, probabilities.shape) == ((23, 16), (23, 10))
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)
    expected = jax.jit(SMALL.make_model().apply)({"params": params}, given)
    np.testing.assert_allclose(features, expected[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(probabilities, jax.nn.softmax(expected[1]), rtol=1e-5)
    for size in (1, 8, 100):
        found = apply_classifier(SMALL, params, given, batch_size=size)
        np.testing.assert_allclose(found[0], features, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found[1], probabilities, rtol=1e-5, atol=1e-6)


def test_every_call_uses_one_program():
    traced = 0

    def forward(params, images_BYXC):
        nonlocal traced
        traced += 1
        return images_BYXC.sum((1, 2, 3)) * params

    for scale in (1.0, 2.0):
        found = apply_in_batches(forward, scale, images(20), 8)
        np.testing.assert_allclose(found, scale * images(20).sum((1, 2, 3)), rtol=1e-5, atol=1e-5)
    assert traced == 1


def test_a_mesh_does_not_change_answers_and_gradients():
    config = ClassifierConfig(10, widths=(8, 16), dropout=0.0)
    batch = {"image": images(16), "label": np.arange(16, dtype=np.int32) % 10}
    alone, _ = start(config)
    gradient_of = jax.grad(lambda params, batch: classifier_loss(config)(params, batch, KEY)[0])
    expected = jax.jit(gradient_of)(alone, batch)
    answers = apply_classifier(config, alone, batch["image"][:11])
    mesh = make_mesh("data=2,fsdp=2,model=2")
    with jax.set_mesh(mesh):
        params, layout = start(config, mesh=mesh)
        assert len(params["same_0"]["kernel"].sharding.device_set) == 8
        found = jax.jit(lambda p, b: gradient_of(gather_fsdp(p, layout), b))(
            params, put_batch(batch, mesh)
        )
        spread = apply_classifier(config, params, batch["image"][:11])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-4, 1e-5), found, expected)
    for ours, theirs in zip(spread, answers, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


KEY = jax.random.key(3)


def test_the_loss_is_the_cross_entropy():
    config = ClassifierConfig(10, widths=(8, 16), dropout=0.0)
    params, _ = start(config)
    label = np.array([3, 0, 9, 3], np.int32)
    loss_fn = jax.jit(classifier_loss(config))
    loss, metrics = loss_fn(params, {"image": images(4), "label": label}, KEY)
    _, probabilities = apply_classifier(config, params, images(4))
    np.testing.assert_allclose(loss, -np.log(probabilities[range(4), label]).mean(), rtol=1e-5)
    assert metrics["accuracy"] == pytest.approx(class_accuracy(probabilities, label))


def test_dropout_belongs_to_training():
    params, _ = start(SMALL)
    batch = {"image": images(4), "label": np.zeros(4, np.int32)}
    loss_fn = jax.jit(classifier_loss(SMALL))
    losses = [loss_fn(params, batch, jax.random.key(i))[0] for i in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]
    np.testing.assert_array_equal(
        *[apply_classifier(SMALL, params, images(4))[1] for _ in range(2)]
    )


@jax.jit
def loss_and_gradient(params, batch):
    return jax.value_and_grad(lambda p: classifier_loss(SMALL)(p, batch, KEY)[0])(params)


@pytest.mark.parametrize("value", [0.0, 1.0, 1e-20, 1e15])
def test_finite_at_the_extremes(value):
    params, _ = start(SMALL)
    batch = {"image": np.full((2, 8, 8, 1), value, "f4"), "label": np.array([0, 9], np.int32)}
    loss, gradient = loss_and_gradient(params, batch)
    assert np.isfinite(loss)
    for leaf in jax.tree.leaves(gradient):
        assert np.isfinite(leaf).all()


def test_it_learns_digits():
    """To 90 % of the test part in 60 small steps; a longer run reaches 98 % and more."""
    pytest.importorskip("sklearn", reason="needs scikit-learn: jaxgen[data]")
    digits = load_images("digits")
    train, test = digits.part("train"), digits.part("test")
    config = ClassifierConfig.for_images(digits.images.shape[1:], 10)
    params, _ = start(config)
    tx = optax.adam(5e-3)
    loss_fn = classifier_loss(config)

    @jax.jit
    def step(params, state, batch, key):
        gradient = jax.grad(lambda p: loss_fn(p, batch, key)[0])(params)
        updates, state = tx.update(gradient, state)
        return optax.apply_updates(params, updates), state

    state = tx.init(params)
    rng = np.random.default_rng(0)
    for i in range(60):
        rows = rng.integers(len(train), size=64)
        batch = {"image": to_unit(train.images[rows]), "label": train.labels[rows]}
        params, state = step(params, state, batch, jax.random.key(i))
    _, probabilities = apply_classifier(config, params, to_unit(test.images))
    assert class_accuracy(probabilities, test.labels) > 0.9


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"num_classes": 1}, "num_classes is 1, expected 2 or more"),
        ({"channels": 0}, "channels is 0, expected 1 or more"),
        ({"widths": ()}, r"widths is \(\), expected one or more multiples of 8"),
        ({"widths": (8, 12)}, r"widths is \(8, 12\), expected one or more multiples of 8"),
        ({"dropout": 1.0}, "dropout is 1.0, expected 0 <= dropout < 1"),
    ],
)
def test_configurations_that_are_no_classifier(fields, fault):
    with pytest.raises(InputError, match=fault):
        ClassifierConfig(**({"num_classes": 10} | fields))


def test_images_that_do_not_fit():
    params, _ = start(SMALL)
    with pytest.raises(InputError, match=r"shape \(2, 8, 8, 3\), expected \[B, Y, X, 1\]"):
        apply_classifier(SMALL, params, images(2, channels=3))
    with pytest.raises(InputError, match="batch_size is 256 for 0 images"):
        apply_classifier(SMALL, params, images(0))
    with pytest.raises(InputError, match="batch_size is 0 for 2 images"):
        apply_classifier(SMALL, params, images(2), batch_size=0)
