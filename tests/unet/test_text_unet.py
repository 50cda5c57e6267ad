"""The U-Net that reads texts: attention in numpy, padding, videos, layout, bad input."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from networks import randomised

from jaxgen.diffusion.model import DenoiserConfig
from jaxgen.diffusion.process.schedules import CosineSchedule
from jaxgen.errors import InputError
from jaxgen.parallel import gather_fsdp, make_mesh, plan_layout, put_batch
from jaxgen.unet.residual_blocks import PixelAttention
from jaxgen.unet.text_attention import TextTransformer
from jaxgen.unet.text_states import TextStates
from jaxgen.unet.unet import UNetConfig
from tests.unet.small_unets import assert_same, shapes

B, N, C, P = 3, 5, 6, 7
CROSS = UNetConfig(
    channels=(4, 8),
    blocks=1,
    attention_levels=(1,),
    head_size=None,
    heads=(1, 2),
    groups=2,
    adaptive_norm=False,
    text_width=C,
    pooled_width=P,
)
BESIDE = dataclasses.replace(CROSS, text_attention="beside", pooled_width=0)
LENGTHS = np.array([2, 5, 1])
MASK = np.arange(N) < LENGTHS[:, None]


def texts(config=CROSS, seed=0):
    rng = np.random.default_rng(seed)
    found = {"text_BNC": rng.normal(size=(B, N, C)).astype(np.float32)}
    if config.pooled_width:
        found["pooled_BC"] = rng.normal(size=(B, P)).astype(np.float32)
    return found


def images(seed=1, frames=()):
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(B, *frames, 4, 6, 3)).astype(np.float32)
    return z, rng.uniform(0, 1000, B).astype(np.float32)


@functools.cache
def params_of(config):
    return randomised(shapes(lambda key: config.make_model().init(key, *images(), **texts(config))))


@functools.partial(jax.jit, static_argnums=0)
def apply(config, params, *inputs, **texts):
    return config.make_model().apply({"params": params}, *inputs, **texts)


def softmax(logits):
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def group_norm(x, p, groups, epsilon):
    """In float64, each example's groups by themselves."""
    parts = x.reshape(len(x), -1, groups, x.shape[-1] // groups)
    mean, variance = (f(parts, axis=(1, 3), keepdims=True) for f in (np.mean, np.var))
    return ((parts - mean) / np.sqrt(variance + epsilon)).reshape(x.shape) * p["scale"] + p["bias"]


@pytest.mark.parametrize("mask", [None, MASK], ids=["all", "padded"])
def test_keys_of_texts_beside_those_of_pixels_in_numpy(mask):
    """One softmax over both, pixel by pixel and head by head."""
    options = BESIDE.block_options_at(1)
    layer = PixelAttention(options, groups=2)
    x = np.random.default_rng(0).normal(size=(B, 2, 3, 8))
    states = texts(BESIDE)["text_BNC"]
    p = randomised(shapes(layer.init, x, TextStates(states)))
    found = jax.jit(layer.apply)({"params": p}, x, TextStates(states, mask))

    tokens = group_norm(x, p["norm"], 2, 1e-5).reshape(B, 6, 8)
    project = functools.partial(np.einsum, "blc,chpk->blhpk")
    qkv = project(tokens, p["qkv"]["kernel"]) + p["qkv"]["bias"]
    kv = project(states, p["text"]["kernel"]) + p["text"]["bias"]
    expected = x.copy().reshape(B, 6, 8)
    for b in range(B):
        kept = slice(0, N if mask is None else LENGTHS[b])
        for head in range(2):
            k = np.concatenate([kv[b, kept, head, 0], qkv[b, :, head, 1]])
            v = np.concatenate([kv[b, kept, head, 1], qkv[b, :, head, 2]])
            seen = softmax(qkv[b, :, head, 0] @ k.T / np.sqrt(4)) @ v
            expected[b] += seen @ p["output"]["kernel"][head]
    expected += p["output"]["bias"]
    np.testing.assert_allclose(found, expected.reshape(x.shape), rtol=0, atol=1e-5)


@pytest.mark.parametrize("config", [CROSS, BESIDE], ids=["cross", "beside"])
def test_padding_is_seen_without_a_mask_and_hidden_with_one(config):
    """A masked text is that text cut off; what stands in the padding does not matter."""
    given = texts(config)
    short = {**given, "text_BNC": given["text_BNC"][:, :2]}
    mask = np.broadcast_to(np.arange(N) < 2, (B, N))
    other = np.where(mask[..., None], given["text_BNC"], np.nan)
    run = functools.partial(apply, config, params_of(config), *images())
    expected = run(**short)
    np.testing.assert_allclose(run(**given, text_mask_BN=mask), expected, atol=1e-5)
    hidden = run(**{**given, "text_BNC": other}, text_mask_BN=mask)
    np.testing.assert_array_equal(hidden, run(**given, text_mask_BN=mask))
    assert np.abs(run(**given) - expected).max() > 1e-2
    all_seen = run(**given, text_mask_BN=np.ones((B, N), bool))
    np.testing.assert_allclose(all_seen, run(**given), atol=1e-5)


def test_an_example_depends_on_its_own_text_and_its_own_vector():
    given = texts()
    run = functools.partial(apply, CROSS, params_of(CROSS), *images())
    before = np.asarray(run(**given))
    for name, value in given.items():
        changed = value.copy()
        changed[1] += 1
        after = np.asarray(run(**{**given, name: changed}))
        np.testing.assert_allclose(after[[0, 2]], before[[0, 2]], atol=1e-6)
        assert np.abs(after[1] - before[1]).max() > 1e-2, name


def test_an_example_without_any_token_still_has_a_result():
    """All of its text hidden: pixels read each other alone, and nothing is not a number."""
    given, mask = texts(), MASK.copy()
    mask[0] = False
    found = apply(CROSS, params_of(CROSS), *images(), **given, text_mask_BN=mask)
    assert np.isfinite(found).all()
    given["text_BNC"][0] = 7.0
    again = apply(CROSS, params_of(CROSS), *images(), **given, text_mask_BN=mask)
    np.testing.assert_array_equal(found, again)


def test_a_transformer_starts_by_handing_on():
    layer = TextTransformer(CROSS.block_options_at(1), depth=2, linear=False)
    x, text = np.random.default_rng(0).normal(size=(B, 2, 3, 8)), TextStates(texts()["text_BNC"])

    @jax.jit
    def start(key):
        return layer.apply(layer.init(key, x, text), x, text)

    np.testing.assert_allclose(start(jax.random.key(0)), x, rtol=1e-6)


def test_convolutions_and_linear_layers_are_the_same_numbers():
    linear = dataclasses.replace(CROSS, linear_projection=True)
    params = dict(params_of(CROSS))
    for place, value in params.items():
        if "attention" in place:
            inner = {name: part for name, part in value.items() if not name.startswith("conv")}
            for way in ("in", "out"):
                kernel, bias = (value[f"conv_{way}"][each] for each in ("kernel", "bias"))
                inner[f"linear_{way}"] = {"kernel": kernel[0, 0], "bias": bias}
            params[place] = inner
    found = apply(linear, params, *images(), **texts())
    expected = apply(CROSS, params_of(CROSS), *images(), **texts())
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_depth_and_heads_of_each_level():
    config = dataclasses.replace(CROSS, transformer_depth=(1, 3), attention_levels=(0, 1))
    tree = shapes(lambda key: config.make_model().init(key, *images(), **texts()))
    blocks = {
        place: sum(name.startswith("blocks") for name in value)
        for place, value in tree.items()
        if "attention" in place
    }
    assert blocks["down_0_attention_0"] == blocks["up_1_attention_1"] == 1
    assert blocks["down_1_attention_0"] == blocks["middle_attention_0"] == 3
    for place, heads in (("down_0", 1), ("up_0", 2)):
        block = tree[f"{place}_attention_0"]["blocks_0"]
        assert block["pixels"]["qkv"]["kernel"].shape == (4 * heads, heads, 3, 4)
        assert set(block["text"]["key_value"]) == {"kernel"}  # no bias


def test_frames_of_a_video_read_its_text():
    """A video of equal frames, whose attention over frames starts at zero, is its image."""
    config = dataclasses.replace(CROSS, temporal=True)
    z, time = images()
    video = np.repeat(z[:, None], 2, axis=1)
    tree = shapes(lambda key: config.make_model().init(key, video, time, **texts()))
    params = {
        name: params_of(CROSS).get(name, jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), value))
        for name, value in tree.items()
    }
    found = apply(config, params, video, time, **texts(), text_mask_BN=MASK)
    expected = apply(CROSS, params_of(CROSS), z, time, **texts(), text_mask_BN=MASK)
    for frame in range(2):
        np.testing.assert_allclose(found[:, frame], expected, atol=1e-5)


def test_rematerialised_gradients_are_the_same():
    def gradient(config):
        def loss(params):
            return jnp.sum(apply(config, params, *images(), **texts(), text_mask_BN=MASK) ** 2)

        return jax.jit(jax.grad(loss))(params_of(CROSS))

    expected = gradient(CROSS)
    assert_same(gradient(dataclasses.replace(CROSS, remat=True)), expected, 1e-4)


def test_the_output_on_eight_devices_is_that_on_one():
    batch = {name: np.repeat(value, 4, axis=0)[:8] for name, value in texts().items()}
    batch |= dict(zip(("z", "time"), (np.repeat(x, 4, axis=0)[:8] for x in images()), strict=True))
    batch["text_mask_BN"] = np.repeat(MASK, 4, axis=0)[:8]

    def output(params, batch):
        given = dict(batch)
        inputs = given.pop("z"), given.pop("time")
        return CROSS.make_model().apply({"params": params}, *inputs, **given)

    def init(key):
        return CROSS.make_model().init(key, *images(), **texts())["params"]

    layout = plan_layout(init, jax.random.key(0), mesh=make_mesh("data=2,fsdp=2,model=2"))
    with jax.set_mesh(layout.mesh):
        params = jax.device_put(params_of(CROSS), layout.shardings)
        spread = put_batch(batch, layout.mesh)
        found = jax.jit(lambda p, b: output(gather_fsdp(p, layout), b))(params, spread)
    np.testing.assert_allclose(found, jax.jit(output)(params_of(CROSS), batch), atol=1e-5)


def test_a_denoiser_guided_by_texts():
    """Guidance w of a denoiser on the network is that of its two predictions."""
    config = DenoiserConfig(CROSS, (4, 6, 3), (), "e", CosineSchedule())
    like = nn.meta.unbox(jax.eval_shape(config.make_init(), jax.random.key(0)))
    assert jax.tree.structure(like) == jax.tree.structure(params_of(CROSS))
    z, _ = images()
    level = CosineSchedule().at(jnp.array([0.3, 0.6, 0.9]))

    @jax.jit
    def estimate(given, nulls, w):
        options = {"conditions": given, "nulls": nulls, "clip": False}
        return config.make_denoiser(params_of(CROSS), None, w, **options)(z, level).e

    others = texts(seed=5)
    guided = estimate(texts(), others, 1.5)
    plain, other = (
        apply(CROSS, params_of(CROSS), z, 1000 * level.t, **given) for given in (texts(), others)
    )
    np.testing.assert_allclose(guided, 2.5 * plain - 1.5 * other, atol=2e-5)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"text_width": -1}, "text_width is -1, expected 0 or more"),
        ({"pooled_width": -1}, "pooled_width is -1, expected 0 or more"),
        ({"text_attention": "over"}, "text_attention is 'over', expected one of cross, beside, al"),
        ({"transformer_depth": 0}, "transformer_depth is 0, expected 1 or more"),
        ({"transformer_depth": (1,)}, "transformer_depth has 1 entries, expected one or 2"),
        ({"heads": (1, 2, 3)}, "heads has 3 entries, expected one or 2: one for each level"),
        ({"heads": (1, 3)}, r"channels\[1\] is 8, expected a multiple of heads=3"),
        ({"heads": (0, 1)}, r"heads is \(0, 1\), expected 1 or more"),
        ({"skip_divisor": 2.0}, "skip_divisor is 2.0 with transformer blocks"),
        ({"middle_groups": 2}, "middle_groups is 2 with transformer blocks"),
    ],
    ids=str,
)
def test_options_that_are_no_network(changes, fault):
    with pytest.raises(InputError, match=fault):
        dataclasses.replace(CROSS, **changes)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"text_BNC": None}, r"text is None, expected tokens \[3, N, 6\]"),
        (
            {"text_BNC": np.zeros((B, N, 4))},
            r"text has shape \(3, 5, 4\), expected \[3, N, 6",
        ),
        ({"text_BNC": np.zeros((2, N, C))}, r"has shape \(2, 5, 6\), expected \[3, N, 6\]"),
        ({"pooled_BC": None}, r"pooled vectors have shape None, expected \[3, 7\]"),
        (
            {"pooled_BC": np.zeros((B, 1, P))},
            r"vectors have shape \(3, 1, 7\), expected \[3, 7",
        ),
        ({"text_mask_BN": np.ones((B, 4))}, r"text_mask has shape \(3, 4\), expected \[3, 5\]"),
    ],
    ids=str,
)
def test_texts_that_do_not_fit(changes, fault):
    with pytest.raises(InputError, match=fault):
        CROSS.make_model().apply({"params": {}}, *images(), **{**texts(), **changes})


def test_a_network_without_texts_takes_none():
    plain = dataclasses.replace(CROSS, text_width=0, pooled_width=0)
    for name, value in {**texts(), "text_mask_BN": MASK}.items():
        with pytest.raises(InputError, match=r"ha(s|ve) shape .*, expected"):
            plain.make_model().apply({"params": {}}, *images(), **{name: jnp.asarray(value)})
