"""VideoDiT's patterns of attention and conditions: packed as unpacked, who sees whom."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from networks import apply, randomised

from jaxgen.nn import grid_places
from jaxgen.nn.video_rotary import clip_spacing
from jaxgen.parallel import make_mesh, put_batch
from jaxgen.spacetime import VideoDiTConfig, patchify
from jaxgen.spacetime.attention_patterns import block_patterns

CLASSES, C, TEXT = 4, 2, 5
BASE = VideoDiTConfig(
    patch=(1, 2, 2),
    in_channels=C,
    out_channels=C,
    width=24,
    heads=2,
    depth=2,
    mlp_ratio=2.0,
    num_classes=CLASSES,
)
ROTARY = {"positions": "rotary"}
PATTERNS = {
    "factorised": {"attention_pattern": "factorised"},
    "factorised causal rotary": {"attention_pattern": "factorised", "causal": True, **ROTARY},
    "interleaved window": {"attention_pattern": "interleaved", "window": 1},
    "interleaved Latte": {"attention_pattern": "interleaved", "time_waves": "first_time_block"},
    "space then time": {"attention_pattern": "space_then_time", "positions": "absolute"},
    "heads split": {"attention_pattern": "split_heads", **ROTARY, "rotary": "ltx"},
    "joint causal": {"causal": True, "positions": "learned"},
    "joint window": {"window": 1, "causal": True, "positions": "fractional"},
}
CONDITIONS = {
    "shared, frame times": {"conditioning": "adaln_shared", "attention_pattern": "factorised"},
    "cross, frame times": {"conditioning": "cross", "attention_pattern": "factorised"},
    "in context": {"conditioning": "in_context", "text_width": TEXT, "text": "in_context"},
    "numbers": {"numbers": ("motion", "fps"), "qk_norm": "all_heads"},
    "text": {"text_width": TEXT, "pooled_width": 3, "conditioning": "adaln", "qk_norm": True},
    "text in context": {"text_width": TEXT, "text": "in_context", **ROTARY},
}
SIZES = [(3, 4, 4), (1, 2, 6), (3, 4, 4)]  # two of one size: one program has them as a batch
L, E, N = 30, 4, 4


@functools.cache
def given():
    """Videos, and everything that they can be conditioned on; example 1 has no text."""
    rng = np.random.default_rng(0)
    return [
        {
            "z": rng.normal(size=(1, *size, C)).astype(np.float32),
            "time": rng.uniform(0, 1000, (1, size[0])).astype(np.float32),
            "label": np.array([i], np.int32),
            "numbers": np.array([[np.nan, 24.0]] if i == 1 else [[3.0 + i, 8.0]], np.float32),
            "text": rng.normal(size=(1, (3, 0, 3)[i], TEXT)).astype(np.float32),
            "pooled": np.array([[i - 0.5, 1.0, 0.3]], np.float32),
        }
        for i, size in enumerate(SIZES)
    ]


def options(config, example):
    """What one example is called with beside its video, time and label."""
    rest = {"numbers_BP": example["numbers"]} if config.numbers else {}
    rest |= {"pooled_BC": example["pooled"]} if config.pooled_width else {}
    return rest | ({"text_BNC": example["text"]} if config.text_width else {})


def pack(examples, config, frame_times):
    """The examples in one pack, with padding at its end."""
    patched = [patchify(example["z"], config.patch)[0] for example in examples]
    tokens = np.zeros((1, L, patched[0].shape[1]), np.float32)
    place, segment = np.zeros((1, L, 3), np.int32), np.zeros((1, L), np.int32)
    time, label = np.zeros((1, E, N), np.float32), np.zeros((1, E), np.int32)
    numbers, pooled = np.zeros((1, E, 2), np.float32), np.zeros((1, E, 3), np.float32)
    start = 0
    for e, (example, own) in enumerate(zip(examples, patched, strict=True)):
        span = slice(start, start := start + len(own))
        grid = [s // p for s, p in zip(example["z"].shape[1:4], config.patch, strict=True)]
        tokens[0, span], place[0, span], segment[0, span] = own, grid_places(tuple(grid)), e + 1
        time[0, e, : grid[0]] = example["time"][0]
        label[0, e], numbers[0, e] = example["label"][0], example["numbers"][0]
        pooled[0, e] = example["pooled"][0]
    texts = [example["text"][0] for example in examples]
    ids = np.repeat(np.arange(1, len(texts) + 1), [len(text) for text in texts])
    rest = {"numbers_BEP": numbers} if config.numbers else {}
    if config.text_width:
        padding = np.ones((2, TEXT), np.float32)
        rest["text_BNC"] = np.concatenate([*texts, padding])[None]
        rest["text_segment_BN"] = np.r_[ids, 0, 0][None].astype(np.int32)
    rest |= {"pooled_BEC": pooled} if config.pooled_width else {}
    if not frame_times:
        time = time[..., 0]
    return [jnp.asarray(x) for x in (tokens, place, segment, time, label)], rest


@functools.partial(jax.jit, static_argnums=(0, 1))
def both(config, frame_times, params, examples, packed):
    """Outputs packed and unpacked, and the gradient of the sum of their squares by each way."""
    model = config.make_model()

    def of_packed(params):
        arrays, rest = packed
        found = model.apply({"params": params}, *arrays, **rest, method="packed")
        return jnp.sum(jnp.where(arrays[2][..., None] > 0, found, 0) ** 2), found

    def unpacked(params):
        first, other, last = examples
        alike = jax.tree.map(lambda *x: jnp.concatenate(x), first, last)
        found = []
        for batch in (alike, other):
            time = batch["time"] if frame_times else batch["time"][:, 0]
            own = options(config, batch)
            z = model.apply({"params": params}, batch["z"], time, batch["label"], **own)
            found.extend(patchify(z, config.patch))
        first, last, other = found
        return sum(jnp.sum(own**2) for own in found), jnp.concatenate([first, other, last])

    (_, a), da = jax.value_and_grad(of_packed, has_aux=True)(params)
    (_, b), db = jax.value_and_grad(unpacked, has_aux=True)(params)
    return a, b, da, db


@functools.cache
def params_of(config):
    """Random parameters, no number of them zero."""
    example = given()[0]
    init = config.make_model().init
    label = example["label"] if config.num_classes else None
    arrays = example["z"], example["time"][:, 0], label
    shapes = jax.eval_shape(init, jax.random.key(0), *arrays, **options(config, example))
    return randomised(nn.meta.unbox(shapes["params"]))


QUICK = ("interleaved window", "shared, frame times", "text")  # the second is factorised
ALL = [
    pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow)
    for name in (*PATTERNS, *CONDITIONS)
]


@pytest.mark.parametrize("name", ALL)
def test_packed_is_unpacked(name):
    """Outputs and gradients to 1e-5, for every pattern of attention and every kind of condition."""
    config = dataclasses.replace(BASE, **(PATTERNS | CONDITIONS)[name])
    config = dataclasses.replace(config, depth=1 if name in CONDITIONS else 2)
    frame_times, examples, params = "frame times" in name, given(), params_of(config)
    packed = pack(examples, config, frame_times)
    found, expected, gradient, own = both(config, frame_times, params, examples, packed)
    assert abs(expected).max() > 0.1
    np.testing.assert_allclose(found[0, : len(expected)], expected, atol=1e-5)
    for ours, theirs in zip(jax.tree.leaves(gradient), jax.tree.leaves(own), strict=True):
        scale = max(float(abs(theirs).max()), 1e-2)
        np.testing.assert_allclose(ours / scale, theirs / scale, atol=1e-5)


def clip(frames=4):
    rng = np.random.default_rng(5)
    z = rng.normal(size=(1, frames, 4, 4, C)).astype(np.float32)
    return z, np.array([300.0], np.float32), np.array([1], np.int32)


def frames_seen(config):
    """Whether the prediction of frame i depends on frame j, [T, T]."""
    params, (z, time, label) = params_of(config), clip()
    whole = np.asarray(apply(config, params, z, time, label))
    seen = np.zeros((4, 4), bool)
    for j in range(4):
        moved = z.copy()
        moved[:, j] += 1
        other = np.asarray(apply(config, params, moved, time, label))
        seen[:, j] = (other != whole).any(axis=(0, 2, 3, 4))
    return seen


def test_who_sees_whom():
    """Causal: nothing later. A window of 1 in each of two blocks: two frames back and ahead."""
    lower = np.tril(np.ones((4, 4), bool))
    at = np.arange(4)
    for change, expected in (
        ({"causal": True}, lower),
        ({"window": 1}, abs(at[:, None] - at) <= 2),
        (
            {"attention_pattern": "factorised", "causal": True, "window": 1},
            lower & ~np.tri(4, 4, -3, dtype=bool),
        ),
        ({"attention_pattern": "interleaved"}, np.ones((4, 4), bool)),
    ):
        np.testing.assert_array_equal(frames_seen(dataclasses.replace(BASE, **change)), expected)


def test_blocks_of_every_pattern():
    names = {
        "joint": ["all"] * 4,
        "factorised": ["space+"] * 4,
        "interleaved": ["space", "time", "space", "time"],
        "space_then_time": ["space", "space", "time", "time"],
        "split_heads": ["space time"] * 4,
    }
    for pattern, expected in names.items():
        found = block_patterns(pattern, 4)
        assert [" ".join(b.over) + "+" * b.then_in_time for b in found] == expected


def test_latte_has_as_many_parameters_as_published():
    """Latte-XL/2 without labels: 28 blocks of DiT that alternate, 673,681,568 parameters.

    Four of them are made, and counted seven times.
    """
    config = VideoDiTConfig(
        width=1152,
        depth=4,
        heads=16,
        num_classes=0,
        class_dropout=0.0,
        attention_pattern="interleaved",
    )
    z, time = (
        jax.ShapeDtypeStruct((1, 2, 4, 4, 4), jnp.float32),
        jax.ShapeDtypeStruct((1,), jnp.float32),
    )
    shapes = jax.eval_shape(config.make_model().init, jax.random.key(0), z, time)["params"]
    sizes = {name: sum(x.size for x in jax.tree.leaves(own)) for name, own in shapes.items()}
    space, time, *again = (sizes[f"blocks_{i}"] for i in range(4))
    assert again == [space, time]
    assert sum(sizes.values()) + 12 * (space + time) == 673_681_568


@pytest.mark.parametrize("name", ["factorised", "text in context"])
def test_an_example_with_nan_leaves_the_others_untouched(name):
    """In its tokens, time, text or spacing: others to the bit, its own prediction nan."""
    config = dataclasses.replace(BASE, **(PATTERNS | CONDITIONS)[name])
    config = dataclasses.replace(config, depth=1)
    params = params_of(config)
    arrays, rest = pack(given(), config, False)
    ones = np.ones((*arrays[3].shape[:2], 3), np.float32)
    rest["spacing_BE3"] = ones

    @jax.jit
    def predict(params, arrays, rest):
        """Predictions, and the gradient of those of the first two examples."""

        def total(params):
            found = config.make_model().apply({"params": params}, *arrays, **rest, method="packed")
            kept = (arrays[2] == 1) | (arrays[2] == 2)
            return jnp.sum(jnp.where(kept[..., None], found, 0) ** 2), found

        return jax.grad(total, has_aux=True)(params)

    expected, clean = predict(params, arrays, rest)
    clean = np.asarray(clean)
    segment = np.asarray(arrays[2])
    spoiled = [(0, arrays[0].at[0, 16].set(np.nan)), (3, arrays[3].at[0, 2].set(np.nan))]
    cases = [([*arrays[:i], value, *arrays[i + 1 :]], rest) for i, value in spoiled]
    if config.text_width:
        text = rest["text_BNC"].copy()
        text[0, 4] = np.nan
        cases.append((arrays, rest | {"text_BNC": text}))
    spacing = ones.copy()
    spacing[0, 2, 0] = np.nan
    cases.append((arrays, rest | {"spacing_BE3": spacing}))
    assert segment[0, 16] == 3
    for case in cases:
        gradient, found = predict(params, *case)
        found = np.asarray(found)
        np.testing.assert_array_equal(found[segment < 3], clean[segment < 3])
        assert np.isnan(found[segment == 3]).all()
        for ours, theirs in zip(jax.tree.leaves(gradient), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_shifting_an_example_changes_nothing_under_rotary_positions():
    """In packs, by whole and by fractional places, whatever the form and the pattern."""
    for form, change in (("wan", {}), ("ltx", {"attention_pattern": "factorised"})):
        config = dataclasses.replace(BASE, positions="rotary", rotary=form, depth=1, **change)
        (tokens, place, segment, *rest), _ = pack(given(), config, False)

        @jax.jit
        def predict(place, config=config, tokens=tokens, segment=segment, rest=rest):
            model, params = config.make_model(), params_of(config)
            return model.apply({"params": params}, tokens, place, segment, *rest, method="packed")

        moved = place + jnp.where(segment == 1, 7.0, -2.5)[..., None] * jnp.array([1.0, 2.0, -1.0])
        real = np.asarray(segment) > 0
        found, expected = np.asarray(predict(moved)), np.asarray(predict(place.astype(jnp.float32)))
        np.testing.assert_allclose(found[real], expected[real], atol=1e-5)


def test_spacing_gives_frame_rates_their_meaning():
    """Half of the frames at half of the rate have the places of every other frame."""
    config = dataclasses.replace(BASE, positions="rotary", depth=1)
    z, time, label = clip()
    params = params_of(config)
    spacing = clip_spacing(np.array([12.0]))
    np.testing.assert_allclose(spacing, [[2, 1, 1]])
    found = apply(config, params, z, time, label, spacing=spacing)
    place = jnp.asarray(grid_places((4, 2, 2)))[None] * jnp.array([2, 1, 1])
    tokens = patchify(z, config.patch)
    segment = jnp.ones((1, 16), jnp.int32)
    expected = apply(
        config, params, tokens, place, segment, time[:, None], label[:, None], method="packed"
    )
    np.testing.assert_allclose(patchify(found, config.patch), expected, atol=1e-5)
    assert abs(np.asarray(apply(config, params, z, time, label)) - found).max() > 1e-3


def test_times_of_frames_and_of_tokens():
    """The same time for all is the time of the example; a token's own time is heeded."""
    for change, shapes in (({}, [(1, 16)]), ({"conditioning": "cross"}, [(1, 4), (1, 16)])):
        config = dataclasses.replace(BASE, depth=1, **change)
        params, (z, time, label) = params_of(config), clip()
        expected = np.asarray(apply(config, params, z, time, label))
        for shape in shapes:
            same = np.full(shape, time[0], np.float32)
            found = apply(config, params, z, same, label)
            np.testing.assert_allclose(found, expected, atol=1e-5)
            same[0, -1] += 50
            assert abs(np.asarray(apply(config, params, z, same, label)) - expected).max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("how", ["remat", "mesh", "bfloat16"])
def test_packs_computed_again_over_devices_and_in_half_precision(how):
    """A factorised, causal network with texts: the same numbers, to what the type holds."""
    plain = dataclasses.replace(
        BASE, attention_pattern="factorised", causal=True, text_width=TEXT, num_classes=0
    )
    plain = dataclasses.replace(plain, class_dropout=0.0)
    config = dataclasses.replace(plain, remat=how == "remat")
    config = dataclasses.replace(config, dtype="bfloat16" if how == "bfloat16" else "float32")
    params = params_of(plain)
    (*arrays, _), rest = pack(given(), plain, False)
    arrays, rest = jax.tree.map(lambda x: np.concatenate([x, x]), (arrays, rest))

    def gradient(config, given_to):
        def total(params):
            arrays, rest = given_to
            found = config.make_model().apply({"params": params}, *arrays, **rest, method="packed")
            return jnp.mean(jnp.where(arrays[2][..., None] > 0, found, 0) ** 2)

        return jax.jit(jax.grad(total))(params)

    expected = gradient(plain, (arrays, rest))
    if how == "mesh":
        with jax.set_mesh(made := make_mesh("data=2", jax.devices()[:2])):
            found = gradient(config, put_batch((arrays, rest), made))
    else:
        found = gradient(config, (arrays, rest))
    tolerance = 0.1 if how == "bfloat16" else 1e-5
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        scale = max(float(abs(theirs).max()), 1e-2)
        np.testing.assert_allclose(ours / scale, theirs / scale, atol=tolerance)
