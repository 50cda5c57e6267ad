"""A small classifier with logical axes, its configuration, loss and data, shared by these tests."""

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxgen.parallel import current_mesh, shardings_of
from jaxgen.training.saved_names import register_config
from jaxgen.training.state import create_state

FEATURES = 8


@register_config("test.mlp")
@dataclass(frozen=True)
class MLPConfig:
    """Output units are padded to `blocks * ceil(classes / blocks)`, as a language model's are."""

    hidden: int = 8
    classes: int = 5
    blocks: int = 1
    dropout: float = 0.0

    @property
    def padded(self) -> int:
        return self.blocks * -(-self.classes // self.blocks)

    def make_model(self) -> "MLP":
        return MLP(self)


class MLP(nn.Module):
    config: MLPConfig

    @nn.compact
    def __call__(self, x_BD, deterministic=True):
        c = self.config
        x_BF = jnp.tanh(self.dense("hidden", c.hidden, ("embed", "mlp"))(x_BD))
        x_BF = nn.Dropout(c.dropout, deterministic=deterministic)(x_BF)
        logits_BV = self.dense("output", c.padded, ("embed", "vocab"), c.classes)(x_BF)
        return jnp.where(jnp.arange(c.padded) < c.classes, logits_BV, -jnp.inf)

    def dense(self, name, size, axes, true_size=None):
        def kernel(key, shape, dtype=jnp.float32):
            drawn = jax.random.normal(key, (shape[0], true_size or size), dtype)
            drawn = drawn / np.sqrt(shape[0])
            return jnp.pad(drawn, ((0, 0), (0, size - drawn.shape[1])))

        return nn.Dense(
            size,
            name=name,
            kernel_init=nn.with_logical_partitioning(kernel, axes),
            bias_init=nn.with_logical_partitioning(nn.initializers.zeros, axes[1:]),
        )


def init_fn(config):
    return lambda key: config.make_model().init(key, jnp.zeros((1, FEATURES)))["params"]


def fresh_state(config, tx, ema=False):
    """`create_state` on the current mesh, whose programs are compiled once; and the layout."""
    return fresh_state_of(_initial(config), tx, ema)


def fresh_state_of(init, tx, ema=False):
    """The same for a function without arguments."""
    state, shardings, layout = _created(init, tx, ema, current_mesh())
    copied = jax.tree.map(np.array, state)  # a step may overwrite it
    return jax.device_put(copied, shardings), layout


@functools.cache
def _initial(config):
    return lambda: init_fn(config)(jax.random.key(1))


@functools.cache
def _created(init, tx, ema, mesh):
    state, layout = create_state(init, tx=tx, ema=ema)
    return jax.device_get(state), shardings_of(state), layout


def make_loss(config):
    model = config.make_model()

    def loss_fn(params, batch, key):
        logits_BV = model.apply(
            {"params": params}, batch["x"], deterministic=False, rngs={"dropout": key}
        )
        is_target_BV = jnp.arange(config.padded) == batch["y"][:, None]
        nll_B = -jnp.sum(jnp.where(is_target_BV, jax.nn.log_softmax(logits_BV), 0), axis=1)
        right_B = jnp.argmax(logits_BV, axis=1) == batch["y"]
        if "mask" not in batch:
            return nll_B.mean(), {"accuracy": right_B.mean()}
        weight = batch["mask"].sum()
        mean = lambda x_B: jnp.sum(x_B * batch["mask"]) / jnp.maximum(weight, 1)  # noqa: E731
        return mean(nll_B), {"accuracy": mean(right_B), "weight": weight}

    return loss_fn


def make_batch(index, size=16, classes=5):
    """The batch of a step: a fixed random teacher's labels on fresh inputs."""
    teacher = np.random.default_rng(7).normal(size=(FEATURES, classes))
    x = np.random.default_rng([3, index]).normal(size=(size, FEATURES)).astype(np.float32)
    return {"x": x, "y": np.argmax(x @ teacher, axis=1).astype(np.int32)}
