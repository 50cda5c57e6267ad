"""CoCa: poolers, the class token, clips, losses against numpy and over devices, errors."""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest
from tiny import COCA_CONFIG, SIDE, B, L, P, V, clips, ids, images, params_of

from jaxgen.encoders import CoCaConfig, CoCaImageConfig, CoCaTextConfig, coca_loss, make_encoder
from jaxgen.encoders.coca_loss import next_token_loss
from jaxgen.errors import InputError
from jaxgen.parallel import communication, gather_fsdp, make_mesh, plan_layout, put_batch
from jaxgen.training import config_from_json, config_to_json

IMAGE = COCA_CONFIG.image
CLIPS = dataclasses.replace(COCA_CONFIG, image=dataclasses.replace(IMAGE, frames=3))
MODEL = COCA_CONFIG.make_model()
MEANINGS = np.arange(B) // 3 * 7
KEY = jax.random.key(0)


def lengths(ids_BL):
    return 1 + np.argmax(ids_BL == V - 1, axis=1)


def padding_mask(ids_BL):
    return np.arange(ids_BL.shape[1]) < lengths(ids_BL)[:, None]


def in_numpy(function):
    """A compiled function whose results are numpy's, so that comparing them compiles nothing."""
    compiled = jax.jit(function)
    return lambda *given: jax.tree.map(np.asarray, compiled(*given))


def encoder(config, params):
    encode = make_encoder(config, params)
    return lambda *given: jax.tree.map(np.asarray, encode(*given))


@in_numpy
def encode_text(params, ids_BL, mask_BL):
    return MODEL.apply({"params": params}, ids_BL, mask_BL, method=MODEL.encode_text)


@in_numpy
def caption_logits(params, given, ids_BL):
    return MODEL.apply({"params": params}, given, ids_BL, method=MODEL.caption_logits)


whole_model = in_numpy(lambda params, *given: MODEL.apply({"params": params}, *given))


def test_the_class_token_sees_the_text_and_no_padding():
    params, ids_BL = params_of(COCA_CONFIG), ids()
    mask_BL = padding_mask(ids_BL)
    found = encode_text(params, ids_BL, mask_BL)
    other = encode_text(params, np.where(mask_BL, ids_BL, 7).astype(np.int32), mask_BL)
    np.testing.assert_array_equal(found.pooled_BD, other.pooled_BD)
    longer = [np.pad(x, ((0, 0), (0, 2))) for x in (ids_BL, mask_BL)]
    same = encode_text(params, *longer)
    np.testing.assert_allclose(same.pooled_BD, found.pooled_BD, rtol=1e-5, atol=1e-6)
    for place in (0, 1):  # every text has two tokens
        changed = ids_BL.copy()
        changed[:, place] = 1 + changed[:, place] % (V - 2)
        moved = np.abs(encode_text(params, changed, mask_BL).pooled_BD - found.pooled_BD)
        assert moved.max(axis=1).min() > 1e-4
    assert found.states_BLD.shape == (B, L, 16)
    assert found.pooled_BD.shape == (B, P)


def test_a_later_token_does_not_change_earlier_logits():
    params, ids_BL = params_of(COCA_CONFIG), ids()
    before = caption_logits(params, images(), ids_BL)
    for place in range(1, L):
        changed = ids_BL.copy()
        changed[:, place] = (changed[:, place] + 3) % V
        after = caption_logits(params, images(), changed)
        np.testing.assert_array_equal(after[:, :place], before[:, :place])
        assert np.abs(after - before)[:, place:].max(axis=(1, 2)).min() > 1e-4
    other = caption_logits(params, images(seed=9), ids_BL)
    assert np.abs(other - before).max(axis=(1, 2)).min() > 1e-3  # the image is read


def test_both_ways_to_logits_agree_and_both_poolers_read_the_image():
    params, ids_BL = params_of(COCA_CONFIG), ids()
    whole = whole_model(params, images(), ids_BL, padding_mask(ids_BL))
    alone = caption_logits(params, images(), ids_BL)[:, :-1]
    mask_BL = padding_mask(ids_BL)[:, :-1]
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
    close(whole.logits_BLV[mask_BL], alone[mask_BL])
    for vectors in (whole.image_BP, whole.text_BP):
        close(np.linalg.norm(vectors, axis=1), 1)
    encoded = encoder(IMAGE, params["image"])(images())
    assert encoded.states_BLD.shape == (B, IMAGE.queries, P)
    unit = encoded.pooled_BD / np.linalg.norm(encoded.pooled_BD, axis=1, keepdims=True)
    close(unit, whole.image_BP)
    alone = encoder(COCA_CONFIG.text, params["text"])(ids_BL, padding_mask(ids_BL)).pooled_BD
    close(alone / np.linalg.norm(alone, axis=1, keepdims=True), whole.text_BP)
    assert "vector_pooler" in params["image"]
    shared = dataclasses.replace(IMAGE, shared_pooler=True)
    own = params_of(dataclasses.replace(COCA_CONFIG, image=shared))["image"]
    assert "vector_pooler" not in own
    assert own["pooler"]["queries"].shape == (IMAGE.queries + 1, P)
    assert encoder(shared, own)(images()).states_BLD.shape == (B, IMAGE.queries, P)


def test_a_clip_is_one_sequence_of_its_frames_tokens():
    """Of one frame it is the picture; in any order it is the same, unless frames have positions."""
    params = params_of(COCA_CONFIG)["image"]
    encode = encoder(IMAGE, params)
    single, picture = encode(images()[:, None]), encode(images())
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), single, picture)
    forwards, backwards = encode(clips()), encode(clips()[:, ::-1])
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), forwards, backwards)
    assert np.abs(forwards.pooled_BD - picture.pooled_BD).max() > 1e-3

    ordered = encoder(CLIPS.image, {**params, "frame_positions": np.zeros((3, 16))})
    close = functools.partial(np.testing.assert_allclose, atol=1e-6)
    jax.tree.map(close, ordered(clips()), forwards)
    moved = params_of(CLIPS)["image"]["frame_positions"]
    ordered = encoder(CLIPS.image, {**params, "frame_positions": moved})
    for a, b in zip(ordered(clips()), ordered(clips()[:, ::-1]), strict=True):
        assert a.dtype == bool or np.abs(a - b).max() > 1e-3
    start = jax.jit(CLIPS.make_init())(jax.random.key(0, impl="rbg"))
    assert not np.any(start["image"]["frame_positions"].value)


next_tokens = jax.jit(next_token_loss)


def test_next_tokens_against_numpy():
    rng = np.random.default_rng(0)
    logits, ids_BL = rng.normal(size=(4, 5, V)), rng.integers(0, V, (4, 5))
    counted = np.arange(5) < np.array([[5], [1], [3], [2]])
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    own = p[np.arange(4)[:, None], np.arange(5), ids_BL]
    logits[0, :3, :] += 9 * np.eye(V)[ids_BL[0, :3]]
    right = (logits.argmax(-1) == ids_BL)[counted].mean()
    found = next_tokens(logits.astype(np.float32), ids_BL, counted)
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    own = p[np.arange(4)[:, None], np.arange(5), ids_BL]
    np.testing.assert_allclose(found, (-np.log(own)[counted].mean(), right), rtol=1e-5)
    assert 0 < right < 1
    assert next_tokens(logits.astype(np.float32), ids_BL, np.zeros_like(counted))[0] == 0


def some_batch(**changes):
    ids_BL = ids()
    batch = {"image": images(), "ids": ids_BL, "mask": padding_mask(ids_BL), "meaning": MEANINGS}
    return {**batch, **changes}


gradient = {
    weight: in_numpy(
        jax.value_and_grad(coca_loss(COCA_CONFIG, weight, 2.0 if weight else 0.7), has_aux=True)
    )
    for weight in (1.0, 0.0)
}


def test_the_loss_is_the_weighted_sum():
    params = params_of(COCA_CONFIG)
    (loss, metrics), _ = gradient[1.0](params, some_batch(), KEY)
    np.testing.assert_allclose(loss, metrics["contrastive"] + 2 * metrics["caption"], rtol=1e-6)
    assert set(metrics) == {"caption", "words", "contrastive", "accuracy", "scale"}
    mask_BL = padding_mask(ids())
    other = np.where(mask_BL, ids(), 7).astype(np.int32)
    (same, _), _ = gradient[1.0](params, some_batch(ids=other), KEY)
    np.testing.assert_allclose(same, loss, rtol=1e-6)
    (more, _), _ = gradient[1.0](params, some_batch(mask=np.ones_like(mask_BL)), KEY)
    assert abs(more - loss) > 1e-2


def test_a_plain_captioner_computes_nothing_contrastive():
    params = params_of(COCA_CONFIG)
    (loss, metrics), slope = gradient[0.0](params, some_batch(), KEY)
    assert set(metrics) == {"caption", "words"}
    np.testing.assert_allclose(loss, 0.7 * metrics["caption"], rtol=1e-6)
    (_, both), _ = gradient[1.0](params, some_batch(), KEY)
    np.testing.assert_allclose(metrics["caption"], both["caption"], rtol=1e-5)
    unused = [
        slope["logit_scale"],
        slope["image"]["vector_pooler"],
        slope["image"]["projection"],
        slope["text"]["projection"],
        slope["text"]["class_token"],
    ]
    assert not any(np.any(x) for x in jax.tree.leaves(unused))
    used = [x for x in jax.tree.leaves(slope) if np.any(x)]
    assert len(used) == len(jax.tree.leaves(slope)) - len(jax.tree.leaves(unused)) - 2


@pytest.mark.parametrize(
    "description", [pytest.param("data=8", marks=pytest.mark.slow), "data=2,fsdp=2,model=2"]
)
def test_training_over_devices_is_training_on_one(description):
    """Loss, metrics and every gradient; padding is not shared out evenly among the devices."""
    loss_fn, params, batch = coca_loss(COCA_CONFIG), params_of(COCA_CONFIG), some_batch()
    expected = gradient[1.0](params, batch, KEY)
    mesh = make_mesh(description)
    with jax.set_mesh(mesh):
        layout = plan_layout(COCA_CONFIG.make_init(), KEY, mesh=mesh)

        @jax.jit
        def step(params, batch):
            def loss(params):
                return loss_fn(gather_fsdp(params, layout), batch, KEY)

            return jax.value_and_grad(loss, has_aux=True)(params)

        found = step(jax.device_put(params, layout.shardings), put_batch(batch, mesh))
    close = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5)
    jax.tree.map(close, found, expected)
    specs = layout.shardings["decoder"]
    assert tuple(specs["words"]["kernel"].spec) == ("fsdp", "model")
    query = specs["image_blocks_0"]["attention"]["query"]["kernel"]
    assert tuple(query.spec) == ("fsdp", "model", None)


def test_a_plain_captioner_gathers_nothing_but_gradients():
    mesh = make_mesh("data=8")
    kinds = {}
    for weight in (0.0, 1.0):
        loss_fn = coca_loss(COCA_CONFIG, weight)
        with jax.set_mesh(mesh):
            batch = put_batch(some_batch(), mesh)
            report = communication(
                jax.jit(lambda p, b, f=loss_fn: f(p, b, KEY)[0]), params_of(COCA_CONFIG), batch
            )
        kinds[weight] = {collective.kind for collective in report}
    assert kinds == {0.0: {"all-reduce"}, 1.0: {"all-reduce", "all-gather"}}


@pytest.mark.slow
def test_a_few_updates_learn_captions_and_pairs():
    """Eight pictures with texts of their own, by gradient descent."""
    loss_fn = coca_loss(COCA_CONFIG)
    batch = {k: v[:8] for k, v in some_batch(meaning=np.arange(B)).items()}

    @jax.jit
    def train(params):
        def step(params, _):
            (loss, metrics), slope = jax.value_and_grad(loss_fn, has_aux=True)(params, batch, KEY)
            return jax.tree.map(lambda p, g: p - 0.03 * g, params, slope), (loss, metrics)

        return jax.lax.scan(step, params, length=400)[1]

    loss, metrics = train(params_of(COCA_CONFIG))
    assert loss[-1] < 0.15 * loss[0]
    assert metrics["words"][-1] > 0.95
    assert metrics["accuracy"][-1] == 1


def test_configurations_survive_json():
    for config in (COCA_CONFIG, CLIPS, CoCaConfig.named("ViT-L-14")):
        assert config_from_json(json.loads(json.dumps(config_to_json(config)))) == config


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CoCaConfig.named("ViT-B/32"), "model 'ViT-B/32' is unknown, expected one of ViT-"),
        (lambda: CoCaImageConfig(pooler_heads=7), "projection is 512, expected a multiple of pool"),
        (lambda: CoCaImageConfig(queries=0), "queries is 0, expected 1 or more"),
        (lambda: CoCaImageConfig(frames=1), "frames is 1, expected 2 or more"),
        (lambda: CoCaTextConfig(projection=None), "projection is None, expected the width"),
        (lambda: CoCaTextConfig(image_depth=0), "image_depth is 0, expected 1 or more"),
        (lambda: CoCaConfig(CoCaTextConfig(projection=64)), "projection is 64 of texts and 512"),
        (lambda: coca_loss(COCA_CONFIG, -1.0), "contrastive_weight is -1.0, expected a finite"),
        (lambda: coca_loss(COCA_CONFIG, 0.0, 0.0), "are 0, expected one above 0"),
        (
            lambda: make_encoder(CLIPS.image, {})(np.zeros((2, 4, SIDE, SIDE, 3))),
            r"clips have shape \(2, 4, 8, 8, 3\), expected 3 frames",
        ),
    ],
)
def test_invalid_options(make, message):
    with pytest.raises(InputError, match=message):
        make()
