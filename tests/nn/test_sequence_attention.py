"""Attention of tokens spread over `sequence`: as on one device, and what it sends."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxgen.errors import InputError
from jaxgen.nn import Dense
from jaxgen.nn.attention import attention, attention_of_views
from jaxgen.nn.sequence_attention import to_context
from jaxgen.nn.token_sharding import sequence_shards, shard_tokens
from jaxgen.nn.visibility import Reach, View
from jaxgen.parallel import communication, make_mesh

B, T, S, H, K = 2, 4, 6, 8, 4
L, MESH = T * S, "sequence=4,model=2"
RNG = np.random.default_rng(0)
QKV = tuple(RNG.normal(size=(B, L, H, K)).astype(np.float32) for _ in range(3))
IDS = np.sort(RNG.integers(0, 3, (B, L)).astype(np.int32), axis=1)
FRAME = np.arange(T, dtype=np.int32)[None]
AT = np.repeat(FRAME, S, axis=1)
VIEWS = {
    "packed": View(segments_BL=IDS, reach=Reach(IDS % 2, IDS % 2, 0, None)),
    "causal": View(reach=Reach(AT, AT, None, 0)),
    "space": View("space", (T, S)),
    "time": View("time", (T, S), reach=Reach(FRAME, FRAME, 1, 0)),
}


def each_view(q, k, v):
    """What is seen in each view."""
    return {name: attention_of_views(q, k, v, [view], "auto") for name, view in VIEWS.items()}


def with_gradients(q, k, v):
    """The same, and the gradients of the sum of its sines, view by view."""

    def total(name, q, k, v):
        return jnp.sin(attention_of_views(q, k, v, [VIEWS[name]])).sum()

    found = {name: jax.grad(total, (1, 2, 3))(name, q, k, v) for name in VIEWS}
    return each_view(q, k, v), found


def test_each_view_is_that_of_one_device_and_sends_tokens_once_to_their_heads_and_back():
    expected = jax.jit(with_gradients)(*QKV)
    mesh = make_mesh(MESH)
    with jax.set_mesh(mesh):
        given = jax.device_put(QKV, NamedSharding(mesh, P(None, "sequence", "model")))
        found = jax.jit(with_gradients)(*given)
        assert found[0]["causal"].sharding.spec == P(None, "sequence", "model")
        report = communication(each_view, *given)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    # q, k, v (here those of all views together) and what is seen in each, L / 4 tokens and H / 2
    # heads of them; whole frames send nothing.
    assert {(c.kind, c.axes) for c in report} == {("all-to-all", ("sequence",))}
    assert report.bytes == (3 + 3) * 4 * (B * L // 4 * H // 2 * K)


def test_queries_that_are_spread_see_a_text_that_is_not():
    k, v = (x[:, :5] for x in QKV[1:])
    ids = IDS, IDS[:, :5]

    def attend(q, k, v, segments):
        return attention(q, k, v, segments=segments)

    expected = attend(QKV[0], k, v, ids)
    with jax.set_mesh(make_mesh(MESH)):
        found = jax.jit(lambda *given: to_context(attend, *given, ids))(QKV[0], k, v)
        assert found.sharding.spec == P(None, "sequence", "model")
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_tokens_that_do_not_divide_stay_whole_and_heads_that_do_not_are_refused():
    x = jnp.zeros((B, 7, H, K))
    assert (sequence_shards(7), sequence_shards(8)) == (1, 1)
    with jax.set_mesh(make_mesh(MESH)):
        assert (sequence_shards(7), sequence_shards(8)) == (1, 4)
        assert shard_tokens(x) is x
        assert attention_of_views(x, x, x, [View()]).shape == x.shape
        q, k, v = (x[:, :, :4] for x in QKV)
        with pytest.raises(
            InputError, match="over the same are 4, expected a multiple of 8: model=2 times seq"
        ):
            attention_of_views(q, k, v, [View()])


def test_a_linear_layer_keeps_tokens_apart():
    """No token is sent, forward or backward; only the gradient of the weights is summed."""
    layer, x = Dense((6,), ("embed", None)), RNG.normal(size=(4, 8, 5)).astype(np.float32)
    params = layer.init(jax.random.key(0), x)

    def total(params, x):
        return jnp.sin(layer.apply(params, x)).sum()

    with jax.set_mesh(mesh := make_mesh("data=2,sequence=4")):
        given = jax.device_put(x, NamedSharding(mesh, P("data", "sequence")))
        report = communication(jax.grad(total, (0, 1)), params, given)
    assert {c.kind for c in report} == {"all-reduce"}
    assert report.bytes <= 2 * 4 * (6 * 5 + 6)
