"""Denoisers of images over data, fsdp and model: as on one device, and no more sent than must be.

The communication volume, per device: gradients of all parameters are summed over the devices that
share the batch; parameters that are stored in parts (fsdp) are gathered once; and every block is
summed over ``model`` twice forward and twice backward, after attention and after the MLP.
"""

import functools
import math

import jax
import numpy as np
import pytest

from experiments.images.support.image_programs import published_model, training_program
from experiments.images.support.image_training import TrainingFlags
from experiments.shared.denoiser_programs import sampling_program
from experiments.shared.denoiser_sampling import SamplingFlags, put_samples
from jaxgen.diffusion.model import DenoiserConfig
from jaxgen.diffusion.process.schedules import CosineSchedule
from jaxgen.errors import InputError
from jaxgen.parallel import communication, make_mesh, plan_layout, put_batch
from jaxgen.spacetime import DiTConfig
from jaxgen.training import make_optimizer
from jaxgen.training.state import state_from_params

B, L, D, DEPTH, CLASSES = 16, 16, 32, 2, 3
SHAPE = (8, 8, 2)
NETWORK = DiTConfig(
    in_channels=2, out_channels=2, width=D, depth=DEPTH, heads=4, num_classes=CLASSES
)
CONFIG = DenoiserConfig(NETWORK, SHAPE, ("a", "b", "c"), schedule=CosineSchedule())
TRAINING = TrainingFlags(training_steps=8, batch_size=B, learning_rate=0.01)
STEPS = 3
MESHES = ["data=8", "fsdp=8", "data=2,fsdp=2,model=2", "data=2,model=4"]
SAMPLERS = ["ddim", "DPM++ 2M SDE"]  # the second draws noise in every step
FAST = {"xla_backend_optimization_level": 0}
"""Half the time to compile, the same collectives."""

every_mesh = pytest.mark.parametrize("mesh", MESHES)


def mesh_of(description):
    return make_mesh(description, None if description != "data=1" else jax.devices()[:1])


def layout_on(mesh):
    return plan_layout(CONFIG.make_init(), jax.random.key(0), mesh=mesh)


def random_params(layout):
    """Every number random, the gates too, so that every path counts."""
    rng = np.random.default_rng(0)

    def draw(x):
        size = max(math.prod(x.shape[:-1]), 4) ** -0.5
        return rng.normal(0, size, x.shape).astype(np.float32)

    return jax.device_put(jax.tree.map(draw, layout.abstract), layout.shardings)


def batch(step):
    rng = np.random.default_rng(step)
    images = rng.uniform(-1, 1, (B, *SHAPE)).astype(np.float32)
    return {"image": images, "label": rng.integers(0, CLASSES, B).astype(np.int32)}


def named(tree):
    """Path -> numpy array."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): np.array(leaf) for path, leaf in leaves}


@functools.cache
def training(description):
    """Metrics and states of three updates, and what the program communicates."""
    mesh = mesh_of(description)
    with jax.set_mesh(mesh):
        layout = layout_on(mesh)
        program, arguments = training_program(CONFIG, layout, B, TRAINING)
        compiled = program.lower(*arguments).compile(FAST)
        tx = make_optimizer(TRAINING.optimizer())
        state = state_from_params(random_params(layout), layout, tx=tx, ema=True)
        metrics, states = [], [named(state)]
        for step in range(3):
            state, found = compiled(state, put_batch(batch(step), mesh), jax.random.key(7))
            metrics.append(named(found))
            states.append(named(state))
        return metrics, states, communication(compiled)


@functools.cache
def sampling(description, sampler):
    """Guided samples, and what the program communicates."""
    mesh = mesh_of(description)
    flags = SamplingFlags(sampler=sampler, steps=STEPS, guidance=1.5, clip=False)
    with jax.set_mesh(mesh):
        layout = layout_on(mesh)
        program, arguments = sampling_program(CONFIG, layout, B, flags)
        compiled = program.lower(*arguments).compile(FAST)
        _, _, table, noisiest, _, _, guidance_weight = arguments
        labels = (np.arange(B) % CLASSES).astype(np.int32)
        given = put_batch({"index": np.arange(B, dtype=np.int32), "condition": labels}, mesh)
        samples = compiled(
            random_params(layout), table, noisiest, given, jax.random.key(3), guidance_weight
        )
        return np.asarray(samples), communication(compiled)


@every_mesh
def test_training_on_a_mesh_is_training_on_one_device(mesh):
    """Losses, gradients (first moments after an update), parameters and their average."""
    metrics, states, _ = training(mesh)
    expected_metrics, expected_states, _ = training("data=1")
    for found, expected in zip(metrics, expected_metrics, strict=True):
        for name in expected:
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, err_msg=name)
    assert expected_metrics[0]["['loss']"] > 2 * expected_metrics[2]["['loss']"] > 0
    moments = [path for path in states[1] if ".mu" in path]
    assert len(moments) == len(jax.tree.leaves(layout_on(mesh_of("data=1")).abstract))
    for path in moments:
        scale = np.abs(expected_states[1][path]).max()
        difference = np.abs(states[1][path] - expected_states[1][path]).max()
        assert difference < 1e-5 * scale + 1e-9, path
    for path in states[3]:
        if ".params" in path or ".ema" in path:
            start, found, expected = (
                run[path] for run in (states[0], states[3], expected_states[3])
            )
            assert np.abs(expected - start).max() > 5e-3, path
            if path.endswith("['qkv']['bias']"):
                # A bias of the keys moves no weight of attention: its gradient is rounding.
                found, expected = found[:, [0, 2]], expected[:, [0, 2]]
            np.testing.assert_allclose(found, expected, atol=2e-4, err_msg=path)


@every_mesh
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samples_on_a_mesh_are_those_of_one_device(mesh, sampler):
    found, _ = sampling(mesh, sampler)
    expected, _ = sampling("data=1", sampler)
    assert expected.std() > 0.3
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-5)


def split(description):
    """The layout, sizes of the mesh axes, examples on a device, and which axes share a batch."""
    layout = layout_on(mesh_of(description))
    sizes = dict(layout.mesh.shape)
    sharing = tuple(axis for axis in ("data", "fsdp") if sizes[axis] > 1)
    return layout, sizes, B // (sizes["data"] * sizes["fsdp"]), sharing


def parts(layout, axes):
    """The parameters that are sharded along some axes: what a device has of each, in numbers.

    Args:
      layout: of the parameters.
      axes: along those of them that are longer than 1.
    """
    shape = layout.mesh.shape
    for x in jax.tree.leaves(layout.abstract):
        cut = [axis for axis in x.sharding.spec if axis in axes and shape[axis] > 1]
        yield cut, x.size // math.prod(shape[axis] for axis in cut)


@every_mesh
def test_a_training_step_sends_what_must_travel(mesh):
    *_, report = training(mesh)
    layout, sizes, examples, sharing = split(mesh)
    assert {c.kind for c in report} <= {"all-reduce", "all-gather"}, report.table()
    # Parameters in parts are gathered once.
    gathers = report.of_kind("all-gather")
    assert {c.axes for c in gathers} <= {("fsdp",)}
    assert gathers.bytes == 4 * sum(
        n for cut, n in parts(layout, ("fsdp", "model")) if "fsdp" in cut
    )
    # Gradients are summed once over the devices that share the batch, and tokens over `model` twice
    # a block forward and twice backward.
    summed = [
        (c.axes, operand)
        for c in report.of_kind("all-reduce")
        for operand in c.operands
        if operand.shape
    ]
    gradients = sum(operand.bytes for axes, operand in summed if axes != ("model",))
    assert gradients == 4 * sum(n for _, n in parts(layout, ("model",)))
    assert {axes for axes, _ in summed} <= {sharing, ("model",)}
    tokens = [operand.shape for axes, operand in summed if axes == ("model",)]
    assert tokens == [(examples * L, D)] * (4 * DEPTH * (sizes["model"] > 1))
    # Besides: the loss and what ranges of noise levels share in it, and the squares of gradients in
    # parts for their norm (XLA may compute that of clipping and that of the metrics apart).
    numbers = sum(not o.shape for c in report.of_kind("all-reduce") for o in c.operands)
    in_parts = sum(len(cut) for cut, _ in parts(layout, ("fsdp", "model")))
    assert 9 + in_parts <= numbers <= 9 + 2 * in_parts


@every_mesh
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_sampling_sends_two_sums_a_block_and_nothing_else_in_a_step(mesh, sampler):
    """So where parameters are whole it sends nothing; guidance sends no example anywhere."""
    _, report = sampling(mesh, sampler)
    layout, sizes, examples, sharing = split(mesh)
    each_step = [c for c in report if c.times != 1]
    sums = 2 * DEPTH * (sizes["model"] > 1)
    assert [(c.kind, c.axes, c.times) for c in each_step] == [
        ("all-reduce", ("model",), STEPS)
    ] * sums
    # Every example is there twice, with its class and without.
    assert {o.shape for c in each_step for o in c.operands} <= {(2 * examples * L, D)}
    # Before the first step parameters in parts are gathered, after the last one the samples.
    *parameters, images = (c for c in report if c.times == 1)
    assert (images.kind, images.axes) == ("all-gather", sharing)
    assert images.bytes == 4 * examples * math.prod(SHAPE)
    assert {(c.kind, c.axes) for c in parameters} <= {("all-gather", ("fsdp",))}
    stored = sum(n for cut, n in parts(layout, ("fsdp", "model")) if "fsdp" in cut)
    assert sum(c.bytes for c in parameters) == 4 * stored


def test_published_models_by_name():
    model = published_model("DiT-S/2", (32, 32, 4), 1000, remat=True)
    assert (model.network.width, model.network.out_channels, model.network.remat) == (384, 4, True)
    assert published_model("U-ViT-S-Deep/2", (16, 16, 4), 10).network.input_size == (16, 16)
    with pytest.raises(InputError, match="model 'nplm2' is unknown, expected a published DiT, U-"):
        published_model("nplm2", SHAPE, 10)
    with pytest.raises(InputError, match="network 'DiT-Q/2' is unknown"):
        published_model("DiT-Q/2", SHAPE, 10)


def test_a_sample_has_the_label_of_its_index():
    with jax.set_mesh(make_mesh(devices=jax.devices()[:1])):
        batch = put_samples(np.array([2, 0, 3]), np.array([7, 1, 5, 9]))
        unlabelled = put_samples(np.array([2, 0]), None)
    np.testing.assert_array_equal(batch["index"], [2, 0, 3])
    np.testing.assert_array_equal(batch["condition"], [5, 7, 9])
    assert set(unlabelled) == {"index"}
