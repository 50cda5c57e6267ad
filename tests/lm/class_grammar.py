"""A text whose best predictions are known, and networks trained on it in seconds."""

import jax
import numpy as np
import optax
from placed_params import initial_params

CLASSES = 6


def grammar(length, seed, words_per_class=5):
    """A text of six classes of words and P(word) at each position from the third on.

    A class depends on the two classes before, a word is any of its class: word w is of class
    ``w // words_per_class``.
    """
    rng = np.random.default_rng(seed)
    rows = np.random.default_rng(99).dirichlet(np.full(CLASSES, 0.3), size=(CLASSES, CLASSES))
    classes = [0, 1]
    for _ in range(length - 2):
        classes.append(rng.choice(CLASSES, p=rows[classes[-2], classes[-1]]))
    classes = np.array(classes)
    text = (words_per_class * classes + rng.integers(0, words_per_class, length)).astype(np.int32)
    return text, rows[classes[:-2], classes[1:-1], classes[2:]] / words_per_class


def trained_params(config, windows, steps=1000):
    """Parameters of a network of order 3 after `steps` batches of 128 windows [N, 3]."""
    model, tx = config.make_model(), optax.adam(1e-2)
    params = initial_params(config)

    def step(carry, batch):
        params, state = carry
        loss_of = lambda p: model.apply({"params": p}, batch[:, :2], batch[:, 2], method="loss")  # noqa: E731
        gradients, _ = jax.grad(loss_of, has_aux=True)(params)
        updates, state = tx.update(gradients, state, params)
        return (optax.apply_updates(params, updates), state), ()

    rows = np.random.default_rng(0).integers(0, len(windows), (steps, 128))
    train = lambda params, batches: jax.lax.scan(step, (params, tx.init(params)), batches)[0][0]  # noqa: E731
    # Its running time is longer than the compiler's.
    options = {"xla_backend_optimization_level": 3}
    return jax.jit(train, compiler_options=options)(params, windows[rows])
