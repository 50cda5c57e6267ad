"""A network with more input channels answers at first as the one that it came from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxgen.errors import InputError
from jaxgen.nn.widening import widen_input


class Patches(nn.Module):
    """Kernels that see the input in both usual ways: a convolution, and patches of 2 x 2 pixels."""

    @nn.compact
    def __call__(self, z_BYXC):
        x = nn.Conv(5, (3, 3), name="conv")(z_BYXC)
        batch, height, width, channels = z_BYXC.shape
        z = z_BYXC.reshape(batch, height // 2, 2, width // 2, 2, channels).swapaxes(2, 3)
        patches = z.reshape(batch, height // 2, width // 2, 4 * channels)
        return x, nn.Dense(7, name="patches")(patches), nn.Dense(3, name="after")(x)


def test_new_channels_are_ignored_until_they_are_learned():
    key = jax.random.key(0)
    z, more = jax.random.normal(key, (2, 4, 4, 3)), jax.random.normal(key, (2, 4, 4, 2))
    both = jnp.concatenate([z, more], -1)
    params = jax.jit(Patches().init)(key, z)
    apply = jax.jit(Patches().apply)
    wider = jax.eval_shape(Patches().init, key, both)
    widened = widen_input(params, wider, 3, 2)
    assert jax.tree.map(jnp.shape, widened) == jax.tree.map(jnp.shape, wider)
    for new, old in zip(apply(widened, both), apply(params, z), strict=True):
        np.testing.assert_allclose(new, old, atol=1e-6)
    total = lambda p: sum(jnp.sin(y).sum() for y in Patches().apply(p, both))  # noqa: E731
    gradient = jax.jit(jax.grad(total))(widened)["params"]
    assert np.abs(gradient["conv"]["kernel"][:, :, 3:]).min() > 0
    assert np.abs(gradient["patches"]["kernel"].reshape(4, 5, 7)[:, 3:]).min() > 0


def test_new_channels_stand_where_they_are_put():
    key = jax.random.key(0)
    z, more = jax.random.normal(key, (2, 4, 4, 3)), jax.random.normal(key, (2, 4, 4, 2))
    both = jnp.concatenate([z[..., :1], more, z[..., 1:]], -1)
    params = jax.jit(Patches().init)(key, z)
    wider = jax.eval_shape(Patches().init, key, both)
    apply = jax.jit(Patches().apply)
    widened = widen_input(params, wider, 3, 2, place=1)
    for new, old in zip(apply(widened, both), apply(params, z), strict=True):
        np.testing.assert_allclose(new, old, atol=1e-6)
    with pytest.raises(InputError, match="place is 4, expected 0 to 3"):
        widen_input(params, wider, 3, 2, place=4)


@pytest.mark.parametrize(
    ("params", "wider", "message"),
    [
        ({"a": (3, 4)}, {"b": (5, 4)}, "expected parameters of the same names"),
        ({"a": (3, 4)}, {"a": (6, 4)}, r"\['a'\] has shape \(3, 4\), and \(6, 4\) in the wider"),
        ({"a": (3, 3)}, {"a": (5, 5)}, "expected one axis with 2 more for each 3"),
        ({"a": (4, 4)}, {"a": (6, 4)}, "expected one axis with 2 more for each 3"),
        ({"a": (3,)}, {"a": (5, 1)}, "expected one axis with 2 more for each 3"),
    ],
)
def test_other_differences_are_named(params, wider, message):
    params, wider = (
        {name: np.zeros(shape) for name, shape in tree.items()} for tree in (params, wider)
    )
    with pytest.raises(InputError, match=message):
        widen_input(params, wider, 3, 2)
