"""The contrastive loss against numpy, and over devices against one device."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import CLIP_CONFIG, B, ids, images, params_of

from jaxgen.encoders import clip_loss, contrastive_loss
from jaxgen.errors import InputError
from jaxgen.parallel import communication, gather_fsdp, make_mesh, plan_layout, put_batch

D = 8


def vectors(seed, count=B):
    x_BD = np.random.default_rng(seed).normal(size=(count, D))
    return (x_BD / np.linalg.norm(x_BD, axis=1, keepdims=True)).astype(np.float32)


def reference(image_BD, text_BD, scale, meaning_B=None):
    """Pair after pair, in float64."""
    losses, found = [], []
    meaning_B = np.arange(len(image_BD)) if meaning_B is None else meaning_B
    for own_BD, other_BD in ((image_BD, text_BD), (text_BD, image_BD)):
        for b in range(len(own_BD)):
            counts = [c for c in range(len(own_BD)) if c == b or meaning_B[c] != meaning_B[b]]
            logits = scale * other_BD[counts].astype(np.float64) @ own_BD[b]
            losses.append(np.log(np.exp(logits).sum()) - logits[counts.index(b)])
            found.append(counts[logits.argmax()] == b)
    return np.mean(losses), np.mean(found)


MEANINGS = np.arange(B) // 3 * 7
whole = jax.jit(contrastive_loss)


@pytest.mark.parametrize("meaning", [None, MEANINGS], ids=["all", "equal captions"])
def test_the_loss_is_the_equation(meaning):
    pair = vectors(0), 0.6 * vectors(0) + 0.4 * vectors(1)
    expected = reference(*pair, 9.0, meaning)
    np.testing.assert_allclose(whole(*pair, 9.0, meaning), expected, rtol=1e-5)
    assert 0 < expected[1] < 1
    if meaning is not None:
        assert expected[0] < reference(*pair, 9.0)[0]


def test_equal_vectors_give_log_b_and_equal_captions_no_floor():
    same_BD = np.tile(vectors(0, 1), (B, 1))
    np.testing.assert_allclose(whole(same_BD, same_BD, 50.0)[0], np.log(B), rtol=1e-5)
    few_BD = vectors(0)[MEANINGS // 7]  # one vector for each caption
    floor, _ = whole(few_BD, few_BD, 100.0)
    loss, accuracy = whole(few_BD, few_BD, 100.0, MEANINGS)
    assert floor > 0.9  # about log 3
    assert loss < 1e-4
    assert accuracy == 1


def test_shapes_are_checked():
    with pytest.raises(InputError, match=r"texts \(3, 8\) and meanings \(16,\), expected \[B, D\]"):
        contrastive_loss(vectors(0), vectors(0, 3), 1.0)


MESHES = ["data=8", "data=2,fsdp=2,model=2"]


def loss_of_vectors(image_BD, text_BD, log_scale, meaning_B):
    return contrastive_loss(image_BD, text_BD, jnp.exp(log_scale), meaning_B)


gradients = jax.value_and_grad(loss_of_vectors, argnums=(0, 1, 2), has_aux=True)


@pytest.mark.parametrize("description", MESHES)
def test_over_devices_it_is_the_same_in_loss_and_gradient(description):
    given = vectors(0), vectors(1), np.float32(2.0), MEANINGS
    expected = jax.jit(gradients)(*given)
    mesh = make_mesh(description)
    with jax.set_mesh(mesh):
        image_BD, text_BD, meaning_B = put_batch((*given[:2], MEANINGS), mesh)
        found = jax.jit(gradients)(image_BD, text_BD, given[2], meaning_B)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7)
    jax.tree.map(close, found, expected)


def test_a_batch_that_devices_do_not_divide_is_computed_by_each():
    given = vectors(0, 5), vectors(1, 5), np.float32(2.0), np.arange(5)
    expected = jax.jit(gradients)(*given)
    with jax.set_mesh(make_mesh("data=8")):
        found = jax.jit(gradients)(*given)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), found, expected)


def test_what_is_gathered():
    """Both kinds of vectors and the meanings, once; back go sums of the vectors' gradients."""
    mesh = make_mesh("data=8")
    with jax.set_mesh(mesh):
        batch = put_batch((vectors(0), vectors(1), MEANINGS), mesh)

        def run(image_BD, text_BD, meaning_B):
            return gradients(image_BD, text_BD, jnp.float32(2.0), meaning_B)

        report = communication(jax.jit(run), *batch)
    own = B // 8 * D * 4
    sizes = {kind: report.of_kind(kind).bytes for kind in {c.kind for c in report}}
    assert sizes.pop("all-gather") == 2 * own + B // 8 * 4, report.table()
    assert sizes.pop("reduce-scatter") == 2 * 8 * own, report.table()
    assert sizes == {"all-reduce": 4 * 4}, report.table()  # loss, accuracy, the scale's gradient
    assert {c.axes for c in report} == {("data",)}


@pytest.mark.parametrize(
    "description", [pytest.param("data=8", marks=pytest.mark.slow), "data=2,fsdp=2,model=2"]
)
def test_training_over_devices_is_training_on_one(description):
    """Loss, metrics and the gradient of every parameter of both towers."""
    loss_fn, params = clip_loss(CLIP_CONFIG), params_of(CLIP_CONFIG)
    batch = {"image": images(), "ids": ids(), "meaning": MEANINGS}
    key = jax.random.key(0)
    expected = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))(params, batch, key)
    mesh = make_mesh(description)
    with jax.set_mesh(mesh):
        init = CLIP_CONFIG.make_model().init
        layout = plan_layout(lambda: init(key, images(1), ids(1))["params"], mesh=mesh)

        @jax.jit
        def step(params, batch):
            def loss(params):
                return loss_fn(gather_fsdp(params, layout), batch, key)

            return jax.value_and_grad(loss, has_aux=True)(params)

        found = step(jax.device_put(params, layout.shardings), put_batch(batch, mesh))
    np.testing.assert_allclose(found[0][0], expected[0][0], rtol=1e-5)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5)
    jax.tree.map(close, found, expected)
    specs = layout.shardings["text"]["blocks_0"]
    assert tuple(specs["attention"]["qkv"]["kernel"].spec) == ("fsdp", "model", None, None)
    assert tuple(specs["mlp"]["hidden"]["kernel"].spec) == ("fsdp", "model")


@pytest.mark.slow
def test_a_few_updates_tell_pairs_apart():
    """Eight pairs, by gradient descent: the loss falls from about log 8 to near 0."""
    loss_fn = clip_loss(CLIP_CONFIG)
    batch = {"image": images(8), "ids": ids(8)}

    @jax.jit
    def train(params):
        def step(params, _):
            (loss, metrics), slope = jax.value_and_grad(loss_fn, has_aux=True)(
                params, batch, jax.random.key(0)
            )
            return jax.tree.map(lambda p, g: p - 0.02 * g, params, slope), (loss, metrics)

        return jax.lax.scan(step, params, length=100)[1]

    loss, metrics = train(params_of(CLIP_CONFIG))
    assert loss[0] > 1.5
    assert loss[-1] < 0.1
    assert metrics["accuracy"][-1] == 1
