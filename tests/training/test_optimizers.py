"""Each recipe against a few lines of numpy; schedules against formulas; bad values refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.errors import InputError
from jaxgen.training.optimizers import OptimizerConfig, make_optimizer, make_schedule

RATE, DECAY = 0.1, 0.01
START = {"kernel": np.array([[1.0, -2.0], [0.5, 3.0]]), "bias": np.array([0.3, -0.7])}


def gradient(t):
    rng = np.random.default_rng(t)
    return {name: rng.normal(size=array.shape) for name, array in START.items()}


def run_jax(config, steps=6, **kwargs):
    tx = make_optimizer(config, **kwargs)
    as_float32 = lambda tree: jax.tree.map(lambda x: np.asarray(x, np.float32), tree)  # noqa: E731

    def updated(carry, grads):
        params, state = carry
        updates, state = tx.update(grads, state, params)
        return (jax.tree.map(jnp.add, params, updates), state), None

    grads = jax.tree.map(lambda *x: np.stack(x), *[as_float32(gradient(t)) for t in range(steps)])
    run = jax.jit(lambda params, grads: jax.lax.scan(updated, (params, tx.init(params)), grads))
    return run(as_float32(START), grads)[0][0]


def run_numpy(rule, rate=lambda t: RATE, coupled=DECAY, decays=("kernel",), clip=None, steps=6):
    """``rule(memory, g, t) -> direction``, with memory a dict of its own per parameter."""
    params = {name: array.copy() for name, array in START.items()}
    memory = {name: {} for name in params}
    for t in range(steps):
        grads = gradient(t)
        norm = np.sqrt(sum(np.sum(g**2) for g in grads.values()))
        for name, theta in params.items():
            g = grads[name] * (min(1, clip / norm) if clip else 1)
            g = g + coupled * theta * (name in decays)
            params[name] = theta - rate(t) * rule(memory[name], g, t + 1)
    return params


def sgd(memory, g, t):
    return g


def momentum(memory, g, t):
    memory["m"] = 0.8 * memory.get("m", 0) + g
    return memory["m"]


def adagrad(memory, g, t):
    memory["s"] = memory.get("s", 0.2) + g**2
    return g / np.sqrt(memory["s"] + 1e-3)


def adam(memory, g, t):
    memory["m"] = 0.7 * memory.get("m", 0) + 0.3 * g
    memory["v"] = 0.9 * memory.get("v", 0) + 0.1 * g**2
    return memory["m"] / (1 - 0.7**t) / (np.sqrt(memory["v"] / (1 - 0.9**t)) + 1e-3)


FIELDS = {
    "sgd": {},
    "momentum": {"momentum": 0.8},
    "adagrad": {"initial_accumulator": 0.2, "eps": 1e-3},
    "adam": {"b1": 0.7, "b2": 0.9, "eps": 1e-3},
    "adamw": {"b1": 0.7, "b2": 0.9, "eps": 1e-3},
}
RULES = {"sgd": sgd, "momentum": momentum, "adagrad": adagrad, "adam": adam}


def close(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-5, atol=1e-6), a, b)


def config_of(name, **fields):
    return OptimizerConfig(
        name=name, learning_rate=RATE, weight_decay=DECAY, **FIELDS[name], **fields
    )


@pytest.mark.parametrize("name", RULES)
def test_recipes_with_coupled_decay_match_numpy(name):
    close(run_jax(config_of(name)), run_numpy(RULES[name]))


def test_adamw_decays_besides_the_step():
    params = {name: array.copy() for name, array in START.items()}
    memory = {name: {} for name in params}
    for t in range(6):
        for name, theta in params.items():
            shrink = RATE * DECAY * theta * (name == "kernel")
            params[name] = theta - RATE * adam(memory[name], gradient(t)[name], t + 1) - shrink
    close(run_jax(config_of("adamw")), params)


def test_clipping_uses_the_norm_over_all_parameters():
    close(run_jax(config_of("sgd", clip_norm=0.7)), run_numpy(sgd, clip=0.7))
    close(run_jax(config_of("sgd", clip_norm=1e6)), run_numpy(sgd))


@pytest.mark.parametrize(
    ("pattern", "decays"), [(None, ["kernel"]), ("bias", ["bias"]), ("^(kernel|bias)$", [*START])]
)
def test_decay_is_chosen_by_rank_or_by_pattern(pattern, decays):
    close(run_jax(config_of("sgd", decay_pattern=pattern)), run_numpy(sgd, decays=decays))


def test_decay_is_chosen_by_name_whatever_the_rank():
    """Weights decay, also vectors; biases and scales over several axes do not."""
    decays = {
        "kernel": (3,),
        "deep/dense/kernel": (2, 2, 2, 2),
        "label/table": (2, 2),
        "relative/table": (2, 2),
        "bias": (3, 2, 2),
        "norm/scale": (2, 2),
        "encoder_positions": (2, 2),
        "mask_token": (2, 2),
        "biased": (2, 2),  # not of those names, so by its rank
        "other": (2,),
    }
    params = {name: jnp.ones(shape) for name, shape in decays.items()}
    tx = make_optimizer(OptimizerConfig("sgd", 1.0, weight_decay=0.5))
    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    chosen = {name for name, update in updates.items() if float(jnp.abs(update).max()) > 0}
    assert chosen == {"kernel", "deep/dense/kernel", "label/table", "biased"}


def test_decay_is_chosen_by_a_function():
    mask = lambda path, array: path == "bias" and array.shape == (2,)  # noqa: E731
    close(run_jax(config_of("sgd"), decay_mask=mask), run_numpy(sgd, decays=["bias"]))


def test_decay_that_chooses_nothing_is_refused():
    with pytest.raises(InputError, match=r"no parameter \(decay_pattern='kernle'\)"):
        run_jax(config_of("sgd", decay_pattern="kernle"))


def inverse_time(t):
    return 1 / (1 + 0.25 * t)


def cosine(t):
    return 0.2 + 0.8 * 0.5 * (1 + np.cos(np.pi * min(1, (t - 4) / 16)))


def linear(t):
    return 0.2 + 0.8 * (1 - min(1, (t - 4) / 16))


@pytest.mark.parametrize(
    ("schedule", "factor"),
    [
        ("constant", lambda t: 1.0),
        ("inverse_time", inverse_time),
        ("cosine", cosine),
        ("linear", linear),
    ],
)
def test_schedules_match_their_formulas(schedule, factor):
    config = OptimizerConfig(
        learning_rate=0.5,
        schedule=schedule,
        inverse_time_rate=0.25,
        warmup_steps=4,
        total_steps=20,
        final_fraction=0.2,
    )
    rates = jax.jit(jax.vmap(make_schedule(config)))(np.arange(25, dtype=np.int32))
    expected = [0.5 * ((t + 1) / 5 if t < 4 else factor(t)) for t in range(25)]
    np.testing.assert_allclose(rates, expected, rtol=1e-6)


def test_the_papers_recipe_is_inverse_time_from_the_first_update():
    config = OptimizerConfig("sgd", 1e-3, "inverse_time", 1e-8, weight_decay=1e-4)
    rate = jax.jit(make_schedule(config))
    for t in (0, 1, 10**6, 10**8):
        assert float(rate(np.int32(t))) == pytest.approx(1e-3 / (1 + 1e-8 * t), rel=1e-6)
    slow = lambda t: RATE / (1 + 0.5 * t)  # noqa: E731
    config = OptimizerConfig("sgd", RATE, "inverse_time", 0.5, weight_decay=DECAY)
    close(run_jax(config), run_numpy(sgd, rate=slow))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "lion"}, "name is 'lion', expected one of sgd, momentum, adagrad, adam, adamw"),
        (
            {"schedule": "step"},
            "schedule is 'step', expected one of constant, inverse_time, cosine",
        ),
        ({"learning_rate": -1e-3}, "learning_rate is -0.001"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"inverse_time_rate": -1.0}, "inverse_time_rate is -1.0"),
        ({"weight_decay": -0.1}, "weight_decay is -0.1"),
        ({"clip_norm": 0.0}, "clip_norm is 0.0"),
        ({"momentum": 1.0}, "momentum is 1.0"),
        ({"b2": 1.5}, "b2 is 1.5"),
        ({"eps": 0.0}, "eps is 0.0"),
        ({"final_fraction": 2.0}, "final_fraction is 2.0"),
        ({"warmup_steps": -1}, "warmup_steps is -1"),
        ({"schedule": "cosine"}, "total_steps is 0, expected more than warmup_steps=0"),
        (
            {"schedule": "linear", "warmup_steps": 10, "total_steps": 10},
            "total_steps is 10, expected more than warmup_steps=10",
        ),
        (
            {"decay_pattern": "(kernel"},
            "decay_pattern is '\\(kernel', expected a regular expression",
        ),
    ],
)
def test_bad_values_name_the_field(fields, message):
    with pytest.raises(InputError, match=message):
        OptimizerConfig(**fields)
