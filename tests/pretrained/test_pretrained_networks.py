"""U-ViT and MDT under published names: forward passes in numpy from a file's own names."""

import math

import jax
import numpy as np
import pytest

from jaxgen.errors import InputError
from jaxgen.interop.learned_positions import resize_positions
from jaxgen.interop.mdt_weights import mdt_tensors
from jaxgen.interop.safetensors import write_safetensors
from jaxgen.interop.uvit_weights import uvit_tensors
from jaxgen.pretrained import load_dit, load_mdt, load_uvit, save_dit
from jaxgen.spacetime import DiTConfig

D, H, P, C, SIDE, CLASSES = 12, 2, 2, 3, 4, 5
GRID = SIDE // P


def draw(rng, *shape):
    return (rng.normal(size=shape) / math.sqrt(max(math.prod(shape[1:]), 4))).astype(np.float32)


def linears(rng, shapes):
    tensors = {}
    for name, shape in shapes.items():
        tensors |= {f"{name}.weight": draw(rng, *shape), f"{name}.bias": draw(rng, shape[0])}
    return tensors


def uvit_checkpoint(depth=3):
    rng = np.random.default_rng(0)
    shapes = {"patch_embed.proj": (D, C, P, P), "decoder_pred": (P * P * C, D)}
    shapes |= {"final_layer": (C, C, 3, 3), "norm": (D,)}
    blocks = [f"{part}_blocks.{i}" for part in ("in", "out") for i in range(depth // 2)]
    tensors = {}
    for block in [*blocks, "mid_block"]:
        shapes |= {f"{block}.attn.proj": (D, D), f"{block}.mlp.fc1": (4 * D, D)}
        shapes |= {f"{block}.mlp.fc2": (D, 4 * D), f"{block}.norm1": (D,), f"{block}.norm2": (D,)}
        tensors[f"{block}.attn.qkv.weight"] = draw(rng, 3 * D, D)
        if block.startswith("out"):
            shapes[f"{block}.skip_linear"] = (D, 2 * D)
    tensors |= {"label_emb.weight": draw(rng, CLASSES + 1, D)}
    tensors |= {"pos_embed": draw(rng, 1, 2 + GRID**2, D)}
    return tensors | linears(rng, shapes)


def mdt_checkpoint(depth=3):
    rng = np.random.default_rng(0)
    shapes = {"x_embedder.proj": (D, C, P, P), "t_embedder.mlp.0": (D, 256)}
    shapes |= {"t_embedder.mlp.2": (D, D), "final_layer.adaLN_modulation.1": (2 * D, D)}
    shapes |= {"final_layer.linear": (P * P * 2 * C, D)}
    tensors = {"mask_token": draw(rng, 1, 1, D)}
    for block in [*(f"blocks.{i}" for i in range(depth)), "sideblocks.0"]:
        shapes |= {f"{block}.attn.qkv": (3 * D, D), f"{block}.attn.proj": (D, D)}
        shapes |= {f"{block}.mlp.fc1": (4 * D, D), f"{block}.mlp.fc2": (D, 4 * D)}
        shapes |= {f"{block}.adaLN_modulation.1": (6 * D, D)}
        table = draw(rng, (2 * GRID - 1) ** 2 + 3, H)
        table[-3:] = 0  # nothing reads them
        tensors[f"{block}.attn.rel_pos_bias.relative_position_bias_table"] = table
        tensors[f"{block}.attn.rel_pos_bias.relative_position_index"] = np.zeros((4, 4), np.int64)
    tensors |= {name: draw(rng, 1, GRID**2, D) for name in ("pos_embed", "decoder_pos_embed")}
    tensors |= {"y_embedder.embedding_table.weight": draw(rng, CLASSES + 1, D)}
    return tensors | linears(rng, shapes)


def linear(t, name, x):
    return x @ t[f"{name}.weight"].astype(np.float64).T + t.get(f"{name}.bias", 0)


def normalised(x, epsilon):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + epsilon)


def attention(t, block, x, bias=0.0):
    qkv = linear(t, f"{block}.attn.qkv", x)
    heads = []
    for h, head in enumerate(np.split(np.arange(D), H)):
        q, k, v = (qkv[:, n * D + head] for n in range(3))
        logits = q @ k.T / np.sqrt(D // H) + (bias if np.isscalar(bias) else bias[h])
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        heads.append(weights / weights.sum(-1, keepdims=True) @ v)
    return linear(t, f"{block}.attn.proj", np.concatenate(heads, 1))


def tokens_of(t, name, z_YXC):
    squares = z_YXC.reshape(GRID, P, GRID, P, C).transpose(0, 2, 4, 1, 3).reshape(GRID**2, -1)
    kernel = t[f"{name}.weight"].astype(np.float64).reshape(D, -1)
    return squares @ kernel.T + t[f"{name}.bias"]


def image_of(outputs_LF):
    parts = outputs_LF.reshape(GRID, GRID, P, P, -1)
    return parts.transpose(0, 2, 1, 3, 4).reshape(SIDE, SIDE, -1)


def waves(time, size):
    w = 10_000.0 ** (-np.arange(size // 2) / (size // 2))
    return np.concatenate([np.cos(time * w), np.sin(time * w)])


def numpy_uvit(t, z_YXC, time, label):
    def norm(name, x):
        return normalised(x, 1e-6) * t[f"{name}.weight"] + t[f"{name}.bias"]

    def block(name, x):
        x = x + attention(t, name, norm(f"{name}.norm1", x))
        hidden = linear(t, f"{name}.mlp.fc1", norm(f"{name}.norm2", x))
        erf = np.vectorize(math.erf)
        return x + linear(t, f"{name}.mlp.fc2", hidden * (1 + erf(hidden / np.sqrt(2))) / 2)

    first = [t["label_emb.weight"][label], waves(time, D)]
    x = np.concatenate([first, tokens_of(t, "patch_embed.proj", z_YXC)]) + t["pos_embed"][0]
    skip = x = block("in_blocks.0", x)
    x = block("mid_block", x)
    x = linear(t, "out_blocks.0.skip_linear", np.concatenate([x, skip], 1))
    x = linear(t, "decoder_pred", norm("norm", block("out_blocks.0", x)))[2:]
    padded = np.pad(image_of(x), ((1, 1), (1, 1), (0, 0)))
    kernel = t["final_layer.weight"].astype(np.float64)
    out = np.zeros((SIDE, SIDE, C)) + t["final_layer.bias"]
    for i in range(3):
        for j in range(3):
            out += padded[i : i + SIDE, j : j + SIDE] @ kernel[:, :, i, j].T
    return out


def numpy_mdt(t, z_YXC, time, label, depth=3, decoder=1):
    def silu(x):
        return x / (1 + np.exp(-x))

    def bias(block):
        table = t[f"{block}.attn.rel_pos_bias.relative_position_bias_table"]
        places = [(i, j) for i in range(GRID) for j in range(GRID)]
        n = 2 * GRID - 1
        rows = [[(a - c + GRID - 1) * n + b - d + GRID - 1 for c, d in places] for a, b in places]
        return table[np.array(rows)].transpose(2, 0, 1)

    c = linear(t, "t_embedder.mlp.0", waves(time, 256))
    c = linear(t, "t_embedder.mlp.2", silu(c)) + t["y_embedder.embedding_table.weight"][label]
    x = tokens_of(t, "x_embedder.proj", z_YXC) + t["pos_embed"][0]
    for i in range(depth):
        block = f"blocks.{i}"
        if i == depth - decoder:
            x = x + t["decoder_pos_embed"][0]
        parts = linear(t, f"{block}.adaLN_modulation.1", silu(c)).reshape(6, D)
        y = attention(t, block, normalised(x, 1e-6) * (1 + parts[1]) + parts[0], bias(block))
        x = x + parts[2] * y
        h = linear(t, f"{block}.mlp.fc1", normalised(x, 1e-6) * (1 + parts[4]) + parts[3])
        h = h * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3))) / 2
        x = x + parts[5] * linear(t, f"{block}.mlp.fc2", h)
    shift, scale = linear(t, "final_layer.adaLN_modulation.1", silu(c)).reshape(2, D)
    return image_of(linear(t, "final_layer.linear", normalised(x, 1e-6) * (1 + scale) + shift))


CASES = {
    "uvit": (
        uvit_checkpoint,
        numpy_uvit,
        lambda path, **size: load_uvit(path, heads=H, **size),
        uvit_tensors,
    ),
    "mdt": (
        mdt_checkpoint,
        numpy_mdt,
        lambda path, **size: load_mdt(path, decoder_depth=1, **size),
        mdt_tensors,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_published_names(case, tmp_path):
    checkpoint, reference, load, tensors_of = CASES[case]
    tensors = checkpoint()
    write_safetensors(tmp_path / "model.safetensors", tensors)
    config, params = load(tmp_path)
    assert (config.input_size, config.num_classes) == ((SIDE, SIDE), CLASSES)
    z = np.random.default_rng(1).normal(size=(2, SIDE, SIDE, C)).astype(np.float32)
    time, label = np.array([3.0, 700.0], np.float32), np.array([1, CLASSES], np.int32)
    found = jax.jit(config.make_model().apply)({"params": params}, z, time, label)
    expected = [reference(tensors, *example) for example in zip(z, time, label, strict=True)]
    assert np.abs(found - np.array(expected)).max() < 1e-5 * np.abs(expected).max()
    back = tensors_of(params, P)
    wanted = {name: value for name, value in tensors.items() if not name.endswith("_index")}
    assert set(back) == set(wanted)
    assert all(back[name].tobytes() == wanted[name].tobytes() for name in wanted)
    # At another size: positions are interpolated, all else stays, and the network takes it.
    large = load(tmp_path, size=(8, 12))
    assert large.config.grid == (4, 6)
    names = ("positions",) if case == "uvit" else ("encoder_positions", "decoder_positions")
    for name in names:
        old, new = params[name], large.params[name]
        extra = len(old) - GRID**2
        np.testing.assert_array_equal(new[:extra], old[:extra])
        np.testing.assert_array_equal(new[extra:], resize_positions(old[extra:], (2, 2), (4, 6)))
    jax.eval_shape(
        large.config.make_model().apply,
        {"params": large.params},
        np.zeros((2, 8, 12, C)),
        time,
        label,
    )


def test_positions_between_places():
    """Straight lines stay straight away from the edges, constants are constants everywhere."""
    rows, columns = np.meshgrid(np.arange(6.0), np.arange(6.0), indexing="ij")
    values = np.stack([rows, columns, np.ones((6, 6))], -1).reshape(-1, 3).astype(np.float32)
    found = resize_positions(values, (6, 6), (12, 12)).reshape(12, 12, 3)
    centres = (np.arange(12) + 0.5) / 2 - 0.5
    np.testing.assert_allclose(found[5, 4:8, 1], centres[4:8], atol=1e-5)
    np.testing.assert_allclose(found[4:8, 5, 0], centres[4:8], atol=1e-5)
    np.testing.assert_allclose(found[..., 2], 1, atol=1e-6)


def test_what_a_folder_has_not(tmp_path):
    config = DiTConfig(width=12, depth=1, heads=2, num_classes=3, in_channels=3, out_channels=3)
    params = jax.jit(config.make_model().init)(
        jax.random.key(0), np.zeros((1, 4, 4, 3)), np.zeros(1), np.zeros(1, int)
    )["params"]
    params = jax.tree.map(
        lambda x: np.asarray(getattr(x, "value", x)),
        params,
        is_leaf=lambda x: hasattr(x, "value"),
    )
    for naming in ("original", "diffusers"):
        save_dit(tmp_path, config, params, sample_size=4, naming=naming)
        again = load_dit(tmp_path)  # a frequency shift of 0 is in the configuration
        assert (again.config.frequency_shift, again.config.heads) == (0.0, 2)
        jax.tree.map(np.testing.assert_array_equal, again.params, params)
    with pytest.raises(InputError, match="expected one set of weights of variant fp16"):
        load_dit(tmp_path, variant="fp16")
    with pytest.raises(InputError, match="sample_size is 5, expected a multiple of the patch, 2"):
        save_dit(tmp_path, config, params, sample_size=5)
    with pytest.raises(InputError, match=r"mlp_ratio is 2\.0, expected 4\.0"):
        save_dit(tmp_path, DiTConfig(mlp_ratio=2.0), params, sample_size=4)
    with pytest.raises(InputError, match=r"no tensor 'patch_embed\.proj\.weight'"):
        load_uvit(tmp_path)
    with pytest.raises(FileNotFoundError):
        load_dit(tmp_path / "none")
