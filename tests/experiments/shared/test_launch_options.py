"""Flags that every program has, where they arrive: checkpoints, the loop, rules, devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.shared import launch, training_runs
from experiments.shared.launch import ExperimentConfig, LaunchConfig, launch_options, parse_flags
from experiments.shared.training_runs import OptimizationFlags, kept_checkpoints, loop_options
from jaxgen.axes import DEFAULT_RULES
from jaxgen.errors import InputError
from jaxgen.parallel import current_mesh, current_rules
from jaxgen.training import compile_step
from jaxgen.training.profiles import Profile

FLAGS = [
    *("--keep", "5", "--keep-every", "1000", "--checkpoint-every", "500", "--prefetch", "3"),
    *("--profile", "100:105", "--rules", "embed=none,vocab=model", "--local-device-ids", "2,3"),
]


def test_options_arrive(tmp_path):
    options = parse_flags(ExperimentConfig, FLAGS).launch
    assert options.device_ids == [2, 3]
    flags = OptimizationFlags(training_steps=10_000)
    with launch._options(options):
        assert launch_options() == options
        assert kept_checkpoints() == {"keep": 5, "keep_every": 1000}
        profile = Profile(100, 105, tmp_path / "profile")
        assert loop_options(tmp_path) == {"prefetch": 3, "profile": profile}
        assert flags.loop(8).checkpoint_every == 504  # whole calls
        assert current_rules() == {**DEFAULT_RULES, "embed": None}
    assert current_rules() is DEFAULT_RULES
    assert (launch_options(), flags.loop(8).checkpoint_every) == (LaunchConfig(), 1000)


@pytest.mark.parametrize(
    ("flags", "fault"),
    [
        (["--keep", "0"], "keep is 0, expected 1 or more"),
        (["--prefetch", "-1"], "prefetch is -1, expected 0 or more"),
        (["--profile", "5"], "profile is '5', expected two steps"),
        (["--rules", "embed"], "'embed' has no '='"),
        (["--local-device-ids", "all"], "local_device_ids is 'all', expected numbers"),
    ],
)
def test_odd_options_are_refused(flags, fault):
    with pytest.raises(InputError, match=fault):
        parse_flags(ExperimentConfig, flags)


class Slope:
    """A model of one number, and its loss."""

    def make_init(self):
        return lambda key: {"kernel": jnp.ones(())}

    def make_loss(self, layout):
        def loss_fn(params, batch, key):
            return jnp.square(params["kernel"] * batch["x"] - 1).mean(), {}

        return loss_fn


def test_microbatches_and_moments_are_those_of_the_flags():
    """Four microbatches make the update of the whole batch; the moment has its dtype."""
    config, batch = Slope(), {"x": np.linspace(0, 1, 8, dtype=np.float32)}
    results = []
    for accumulate, dtype in ((1, "float32"), (4, "bfloat16")):
        flags = OptimizationFlags(training_steps=5, accumulate=accumulate, moment_dtype=dtype)
        state, _, _, step = training_runs._prepare(
            config, flags, config.make_loss, 0, None, 1, None, None
        )
        moments = {x.dtype.name for x in jax.tree.leaves(state.opt_state) if x.dtype != jnp.int32}
        assert moments == {"float32", dtype}
        state, metrics = compile_step(step, state)(state, batch, jax.random.key(0))
        results.append((float(metrics["loss"]), float(state.params["kernel"])))
        rate = flags.optimizer().learning_rate
        assert float(metrics["learning_rate"]) == pytest.approx(rate)
    np.testing.assert_allclose(*results, rtol=1e-4)
    with pytest.raises(InputError, match="accumulate is 0"):
        OptimizationFlags(accumulate=0)


def test_each_process_reads_its_rows():
    """Alone, that is all of them."""
    data, put = training_runs._own_rows(lambda step, rows: {"x": 10 * step + rows}, 4)
    assert put(data(2), current_mesh())["x"].tolist() == [20, 21, 22, 23]
