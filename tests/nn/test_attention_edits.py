"""The hook on the weights of attention: what it is given, where, and what comes of it."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.nn.attention import CrossAttention, SelfAttention, attention
from jaxgen.nn.attention_edits import editing_attention

RNG = np.random.default_rng(0)
Q, K, V = (RNG.normal(size=(2, n, 2, 4)).astype(np.float32) for n in (5, 6, 6))


def test_weights_that_stay_change_nothing_and_rows_add_up_to_one():
    ids = np.zeros((2, 5), np.int32), np.array([[0, 0, 0, 0, 1, 1], [0] * 6], np.int32)
    seen = []

    def edit(weights):
        seen.append(weights)
        return weights

    found = attention(Q, K, V, segments=ids, edit=edit)
    np.testing.assert_allclose(found, attention(Q, K, V, segments=ids), atol=1e-6)
    (weights,) = seen
    np.testing.assert_allclose(weights.sum(axis=-1), 1, rtol=1e-6)
    assert weights.shape == (2, 2, 5, 6)
    np.testing.assert_array_equal(weights[0, :, :, 4:], 0)


def test_edited_weights_are_not_normalised_again():
    found = attention(Q, K, V, edit=lambda weights: jnp.full_like(weights, 0.5))
    wanted = np.broadcast_to(0.5 * V.sum(axis=1, keepdims=True), found.shape)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_modules_say_where_they_are_and_only_inside():
    x, text = jnp.asarray(Q.reshape(2, 5, 8)), jnp.asarray(K.reshape(2, 6, 8))
    for module, given, kind in (
        (SelfAttention(2, name="own"), (x,), "self"),
        (CrossAttention(2, name="text"), (x, text), "cross"),
    ):
        variables = module.init(jax.random.key(0), *given)
        plain = module.apply(variables, *given)
        places = []

        def halve(weights, place, places=places):
            places.append(place)
            return 0.5 * weights

        with editing_attention(halve):
            found = module.apply(variables, *given)
        assert [place.kind for place in places] == [kind]
        bias = plain - 2 * found  # the output projection's, which starts at zero
        np.testing.assert_allclose(bias, 0, atol=1e-6)
        module.apply(variables, *given)
        assert len(places) == 1
