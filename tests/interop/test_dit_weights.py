"""DiT's weights in both namings: a forward pass in numpy from a file's own names, round trips."""

import dataclasses
import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxgen.errors import InputError
from jaxgen.interop.dit_weights import dit_naming, dit_options, dit_params, dit_tensors
from jaxgen.interop.safetensors import TensorFile, read_safetensors, write_safetensors
from jaxgen.spacetime.dit import DiTConfig

SMALL = DiTConfig(
    in_channels=3, out_channels=6, patch=2, width=24, depth=11, heads=2, num_classes=5
)
GRID = 3
D, P, CLASSES = SMALL.width, SMALL.patch, 6


def original_tensors(depth=SMALL.depth, seed=0):
    """A checkpoint of the original code, written down name by name."""
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return (rng.normal(size=shape) / math.sqrt(max(math.prod(shape[1:]), 4))).astype(np.float32)

    tensors = {"x_embedder.proj.weight": draw(D, 3, P, P), "x_embedder.proj.bias": draw(D)}
    linears = {"t_embedder.mlp.0": (D, 256), "t_embedder.mlp.2": (D, D)}
    for i in range(depth):
        linears |= {
            f"blocks.{i}.attn.qkv": (3 * D, D),
            f"blocks.{i}.attn.proj": (D, D),
            f"blocks.{i}.mlp.fc1": (4 * D, D),
            f"blocks.{i}.mlp.fc2": (D, 4 * D),
            f"blocks.{i}.adaLN_modulation.1": (6 * D, D),
        }
    linears |= {
        "final_layer.adaLN_modulation.1": (2 * D, D),
        "final_layer.linear": (P * P * 6, D),
    }
    for name, shape in linears.items():
        tensors |= {f"{name}.weight": draw(*shape), f"{name}.bias": draw(shape[0])}
    return tensors | {"y_embedder.embedding_table.weight": draw(CLASSES, D)}


def normalised(x):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)


def softmax(x):
    weights = np.exp(x - x.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def silu(x):
    return x / (1 + np.exp(-x))


def gelu(x):
    return x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))) / 2


def waves(p, size):
    w = 10_000.0 ** (-np.arange(size // 2) / (size // 2))
    return np.sin(p * w), np.cos(p * w)


def numpy_dit(t, z_CYX, time, label, heads):
    """One example through the network that a checkpoint with the original names describes."""

    def linear(name, x):
        return x @ t[f"{name}.weight"].astype(np.float64).T + t[f"{name}.bias"]

    rows = z_CYX.shape[1] // P
    tokens = []
    for y in range(rows):
        for x in range(rows):
            square = z_CYX[:, y * P : y * P + P, x * P : x * P + P]
            place = np.concatenate([*waves(x, D // 2), *waves(y, D // 2)])
            token = np.einsum("dcpq,cpq->d", t["x_embedder.proj.weight"], square)
            tokens.append(token + t["x_embedder.proj.bias"] + place)
    h = np.stack(tokens)
    sines, cosines = waves(time, 256)
    c = linear("t_embedder.mlp.0", np.concatenate([cosines, sines]))
    c = linear("t_embedder.mlp.2", silu(c)) + t["y_embedder.embedding_table.weight"][label]
    for i in range(len([name for name in t if name.endswith("qkv.weight")])):
        block = f"blocks.{i}."
        parts = linear(f"{block}adaLN_modulation.1", silu(c)).reshape(6, D)
        qkv = linear(f"{block}attn.qkv", normalised(h) * (1 + parts[1]) + parts[0])
        seen = []
        for head in np.split(np.arange(D), heads):
            q, k, v = (qkv[:, n * D + head] for n in range(3))
            seen.append(softmax(q @ k.T / np.sqrt(len(head))) @ v)
        h = h + parts[2] * linear(f"{block}attn.proj", np.concatenate(seen, axis=1))
        hidden = gelu(linear(f"{block}mlp.fc1", normalised(h) * (1 + parts[4]) + parts[3]))
        h = h + parts[5] * linear(f"{block}mlp.fc2", hidden)
    shift, scale = linear("final_layer.adaLN_modulation.1", silu(c)).reshape(2, D)
    out = linear("final_layer.linear", normalised(h) * (1 + scale) + shift)
    out = out.reshape(rows, rows, P, P, -1)
    return np.einsum("yxpqc->cypxq", out).reshape(-1, rows * P, rows * P)


@functools.cache
def like(config=SMALL):
    """The abstract parameters of the model."""
    label = jnp.zeros(1, int) if config.num_classes else None
    inputs = jnp.zeros((1, 6, 6, config.in_channels)), jnp.zeros(1), label
    boxed = jax.eval_shape(config.make_model().init, jax.random.key(0), *inputs)["params"]
    return jax.tree.map(
        lambda x: x.value, boxed, is_leaf=lambda x: isinstance(x, nn.meta.AxisMetadata)
    )


def assert_equal(found, expected):
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert found[name].dtype == value.dtype, name
        assert found[name].shape == value.shape, name
        assert found[name].tobytes() == value.tobytes(), name


def test_the_network_of_a_checkpoint_in_numpy():
    tensors = original_tensors()
    rng = np.random.default_rng(1)
    z = rng.normal(size=(2, 6, 6, 3)).astype(np.float32)
    time, label = np.array([3.0, 812.5], np.float32), np.array([2, 5], np.int32)
    params = dit_params(tensors, like(), P)
    found = jax.jit(SMALL.make_model().apply)({"params": params}, z, time, label)
    for b in range(2):
        expected = numpy_dit(tensors, z[b].transpose(2, 0, 1), time[b], label[b], SMALL.heads)
        error = np.abs(found[b].transpose(2, 0, 1) - expected).max() / np.abs(expected).max()
        assert error < 1e-5


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_round_trips_are_bit_exact(dtype, tmp_path):
    """Original names -> ours -> diffusers' -> ours -> original, through files."""
    tensors = {name: x.astype(jnp.dtype(dtype)) for name, x in original_tensors().items()}
    write_safetensors(tmp_path / "original.safetensors", tensors)
    first = dit_params(TensorFile(tmp_path / "original.safetensors"), like(), P)
    assert {x.dtype for x in jax.tree.leaves(first)} == {np.dtype(np.float32)}
    theirs = dit_tensors(first, "diffusers", P, dtype=dtype)
    write_safetensors(tmp_path / "diffusers.safetensors", theirs, max_bytes=30_000)
    second = dit_params(TensorFile(tmp_path / "diffusers.safetensors.index.json"), like(), P, None)
    assert {x.dtype for x in jax.tree.leaves(second)} == {np.dtype(jnp.dtype(dtype))}
    assert_equal(dit_tensors(second, "original", P), tensors)
    again = dit_tensors(dit_params(theirs, like(), P), "diffusers", P, dtype=dtype)
    assert_equal(again, theirs)


def test_what_diffusers_calls_the_tensors():
    """Queries, keys and values apart; a copy of the embeddings in every block."""
    ours = original_tensors()
    theirs = dit_tensors(dit_params(ours, like(), P), "diffusers", P)
    for i in range(SMALL.depth):
        block, old = f"transformer_blocks.{i}.", f"blocks.{i}."
        for kind in ("weight", "bias"):
            qkv = [theirs[f"{block}attn1.to_{part}.{kind}"] for part in "qkv"]
            np.testing.assert_array_equal(np.concatenate(qkv), ours[f"{old}attn.qkv.{kind}"])
            for name, name_there in {
                f"{block}attn1.to_out.0": f"{old}attn.proj",
                f"{block}ff.net.0.proj": f"{old}mlp.fc1",
                f"{block}ff.net.2": f"{old}mlp.fc2",
                f"{block}norm1.linear": f"{old}adaLN_modulation.1",
                f"{block}norm1.emb.timestep_embedder.linear_1": "t_embedder.mlp.0",
                f"{block}norm1.emb.timestep_embedder.linear_2": "t_embedder.mlp.2",
                "pos_embed.proj": "x_embedder.proj",
                "proj_out_1": "final_layer.adaLN_modulation.1",
                "proj_out_2": "final_layer.linear",
            }.items():
                np.testing.assert_array_equal(
                    theirs[f"{name}.{kind}"], ours[f"{name_there}.{kind}"]
                )
        np.testing.assert_array_equal(
            theirs[f"{block}norm1.emb.class_embedder.embedding_table.weight"],
            ours["y_embedder.embedding_table.weight"],
        )
    assert len(theirs) == 6 + SMALL.depth * (2 * 7 + 5)


@pytest.mark.parametrize("naming", ["original", "diffusers"])
def test_the_configuration_that_the_shapes_tell(naming):
    tensors = dit_tensors(dit_params(original_tensors(), like(), P), naming, P)
    assert dit_naming(tensors) == naming
    config = DiTConfig(**dit_options(tensors, heads=2))
    assert config == SMALL
    no_null = dit_options(tensors, null_class=False)
    assert (no_null["num_classes"], no_null["null_class"]) == (6, False)


@pytest.mark.parametrize("name", ["DiT-S/2", "DiT-B/4", "DiT-L/8", "DiT-XL/2"])
def test_published_networks_are_told_by_their_shapes_heads_included(name):
    config = DiTConfig.named(name)
    inputs = jnp.zeros((1, 32, 32, 4)), jnp.zeros(1), jnp.zeros(1, int)
    boxed = jax.eval_shape(config.make_model().init, jax.random.key(0), *inputs)["params"]
    zeros = jax.tree.map(lambda x: np.broadcast_to(np.uint8(0), x.shape), nn.meta.unbox(boxed))
    assert DiTConfig(**dit_options(dit_tensors(zeros, "original", config.patch))) == config


def test_positions_are_written_and_checked():
    params = dit_params(original_tensors(), like(), P)
    tensors = dit_tensors(params, "original", P, grid=GRID)
    positions = tensors["pos_embed"]
    assert positions.shape == (1, GRID * GRID, D)
    for y in range(GRID):
        for x in range(GRID):
            expected = np.concatenate([*waves(x, D // 2), *waves(y, D // 2)])
            np.testing.assert_allclose(positions[0, y * GRID + x], expected, atol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, dit_params(tensors, like(), P), params)
    for dtype in (np.float16, jnp.bfloat16):
        dit_params(tensors | {"pos_embed": positions.astype(dtype)}, like(), P)
    with pytest.raises(InputError, match=r"'pos_embed' differs by 0\.01 from the sines"):
        dit_params(tensors | {"pos_embed": positions + np.float32(0.01)}, like(), P)
    with pytest.raises(InputError, match=r"'pos_embed' differs by nan from the sines"):
        dit_params(tensors | {"pos_embed": positions * np.float32(np.nan)}, like(), P)


@pytest.mark.parametrize("shape", [(1, 8, 24), (2, 9, 24), (9, 24), (1, 9, 26), (1, 9, 28)])
def test_positions_of_another_shape(shape):
    tensors = original_tensors() | {"pos_embed": np.zeros(shape, np.float32)}
    fault = rf"'pos_embed' has shape {re.escape(str(shape))}, expected \[1, L, D\] .* D = 24"
    with pytest.raises(InputError, match=fault):
        dit_params(tensors, like(), P)


def without(name):
    tensors = original_tensors()
    del tensors[name]
    return tensors


@pytest.mark.parametrize(
    ("tensors", "fault"),
    [
        ({}, "no weights of a DiT, expected a tensor 'x_embedder.proj.weight'"),
        ({"conv_in.weight": np.zeros(3)}, "no weights of a DiT"),
        (
            without("blocks.9.mlp.fc1.bias"),
            r"no tensor 'blocks.9.mlp.fc1.bias', expected shape \(96,\) for blocks_9/mlp/hidden",
        ),
        (original_tensors(depth=10), r"no tensor 'blocks.10.attn.proj.bias'"),
        (
            original_tensors(depth=12),
            "tensor 'blocks.11.adaLN_modulation.1.bias' is no part",
        ),
        (
            original_tensors()
            | {
                "blocks.10.attn.qkv.weight": np.zeros((72, 25), np.float32),
                "blocks.2.mlp.fc2.weight": np.zeros((24, 95), np.float32),
            },
            r"'blocks.2.mlp.fc2.weight' has shape \(24, 95\), expected \(24, 96\) for blocks_2",
        ),
        (
            original_tensors() | {"x_embedder.proj.weight": np.zeros((24, 3, 4, 4), np.float32)},
            r"'x_embedder.proj.weight' has shape \(24, 3, 4, 4\), expected \(24, 3, 2, 2\)",
        ),
        (
            original_tensors() | {"final_layer.linear.bias": np.zeros(24, np.int8)},
            "'final_layer.linear.bias' has type int8, expected floating-point numbers",
        ),
    ],
)
def test_a_checkpoint_that_does_not_fit(tensors, fault, tmp_path):
    """The first differing tensor in the order of the model is named, and the file."""
    write_safetensors(tmp_path / "m.safetensors", tensors)
    for given, name, where in (
        (tensors, None, "checkpoint: "),
        (TensorFile(tmp_path / "m.safetensors"), None, f"{tmp_path}/m.safetensors: "),
        (read_safetensors(tmp_path / "m.safetensors"), "m.safetensors", "m.safetensors: "),
    ):
        with pytest.raises(InputError, match=fault) as error:
            dit_params(given, like(), P, name=name)
        assert str(error.value).startswith(where)
        assert "\n" not in str(error.value)


def test_blocks_with_embeddings_of_their_own_are_refused():
    tensors = dit_tensors(dit_params(original_tensors(), like(), P), "diffusers", P)
    name = "transformer_blocks.3.norm1.emb.timestep_embedder.linear_2.bias"
    tensors[name] = tensors[name] + np.float32(1e-3)
    with pytest.raises(InputError, match=f"{name!r} differs from 'transformer_blocks.0"):
        dit_params(tensors, like(), P)


def test_what_has_no_place_in_dits_checkpoints():
    params = dit_params(original_tensors(), like(), P)
    with pytest.raises(InputError, match="naming is 'timm', expected one of original, diffusers"):
        dit_tensors(params, "timm", P)
    normed = like(dataclasses.replace(SMALL, qk_norm=True))
    with pytest.raises(InputError, match="blocks_0/attention/key_norm/scale has no counterpart"):
        dit_params(original_tensors(), normed, P)
    with pytest.raises(InputError, match=r"no tensor 'final_layer.linear.weight', expected"):
        dit_options(without("final_layer.linear.weight"))


@pytest.mark.parametrize("naming", ["original", "diffusers"])
@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        (
            {"conditioning": "adaln"},
            "blocks_0/modulation/bias has 4 vectors, expected shift, scale",
        ),
        ({"num_classes": 0}, "no parameter condition/label/table, expected a network with classes"),
        ({"conditioning": "cross"}, "parameter blocks_0/attention_norm/bias has no counterpart"),
        ({"conditioning": "in_context"}, "parameter blocks_0/attention_norm/bias has no counter"),
    ],
    ids=str,
)
def test_networks_that_no_reader_knows_are_not_written(changes, fault, naming):
    config = dataclasses.replace(SMALL, **changes)
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), like(config))
    with pytest.raises(InputError, match=fault):
        dit_tensors(zeros, naming, P)


def damaged(file, damage):
    """A file of weights with something done to its bytes."""
    write_safetensors(file, original_tensors())
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    file.write_bytes(
        {
            "empty": b"",
            "in its length": data[:5],
            "in its header": data[: length // 2],
            "in its data": data[:-1],
            "pickle": b"PK\x03\x04" + bytes(100),
            "text": b"version https://git-lfs.github.com/spec/v1\n",
        }[damage]
    )


@pytest.mark.parametrize("read", [read_safetensors, TensorFile])
@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        ("empty", "not a safetensors file"),
        ("in its length", "not a safetensors file"),
        ("in its header", "truncated in its header"),
        ("in its data", "truncated: [0-9]+ bytes, tensor"),
        ("pickle", "not a safetensors file"),
        ("text", "not a safetensors file"),
    ],
)
def test_files_that_are_cut_off_or_foreign(damage, fault, read, tmp_path):
    damaged(tmp_path / "m.safetensors", damage)
    with pytest.raises(InputError, match=rf"^{tmp_path}/m\.safetensors: {fault}") as error:
        dit_options(read(tmp_path / "m.safetensors"))
    assert "\n" not in str(error.value)


def test_a_file_that_is_cut_off_after_it_was_opened(tmp_path):
    file = tmp_path / "m.safetensors"
    write_safetensors(file, original_tensors())
    tensors = TensorFile(file)
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(InputError, match=rf"^{file}: cut off in tensor '.*' since it was opened"):
        dit_params(tensors, like(), P)


def test_a_file_of_another_type_is_named(tmp_path):
    write_safetensors(tmp_path / "m.safetensors", {"a": np.zeros(3, np.float32)})
    with pytest.raises(InputError, match=r"m\.safetensors: no weights of a DiT"):
        dit_options(TensorFile(tmp_path / "m.safetensors"))
    for function in (dit_naming, dit_options):
        with pytest.raises(InputError, match=r"^m\.safetensors: no weights of a DiT"):
            function(read_safetensors(tmp_path / "m.safetensors"), name="m.safetensors")
    with pytest.raises(InputError, match=r"^f: no tensor 'final_layer.linear.weight', expected"):
        dit_options(without("final_layer.linear.weight"), name="f")
    assert list(read_safetensors(tmp_path / "m.safetensors")) == ["a"]
