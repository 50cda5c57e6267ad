"""Prompt-to-Prompt on one layer of attention, against its equations in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxgen.data.tokenizers.prompt_maps import PromptMap
from jaxgen.diffusion import CosineSchedule
from jaxgen.diffusion.conditioning.guidance import guide_conditions
from jaxgen.diffusion.conditioning.prompt_to_prompt import (
    LocalBlend,
    edit_by_prompt,
    same_noise,
)
from jaxgen.diffusion.denoiser import make_denoiser
from jaxgen.errors import InputError
from jaxgen.nn.attention import CrossAttention, SelfAttention

SIDE, C, N, H = 8, 6, 5, 2
RNG = np.random.default_rng(0)
TEXT = 4 * RNG.normal(size=(4, N, 3)).astype(np.float32)  # original, edited; twice
NULL = np.broadcast_to(RNG.normal(size=(N, 3)), TEXT.shape).astype(np.float32)
Z = RNG.normal(size=(4, SIDE, SIDE, C)).astype(np.float32)
MAP = PromptMap(
    RNG.uniform(size=(N, N)).astype(np.float32),
    np.array([1, 1, 0, 1, 0], np.float32),
    np.array([1, 2, 1, -1, 1], np.float32),
)
CROSS, OWN = CrossAttention(H), SelfAttention(H)
TOKENS = jnp.zeros((1, SIDE * SIDE, C))
CROSS_PARAMS = CROSS.init(jax.random.key(0), TOKENS, TEXT[:1])
OWN_PARAMS = OWN.init(jax.random.key(1), TOKENS)


def crossing(z, time, text):
    """A network: attention of pixels to a text."""
    tokens = z.reshape(len(z), -1, C)
    return CROSS.apply(CROSS_PARAMS, tokens, text).reshape(z.shape)


def owning(z, time, text):
    """A network: attention of pixels to each other, and the text's first number."""
    tokens = z.reshape(len(z), -1, C)
    return OWN.apply(OWN_PARAMS, tokens + text[:, :1, :1]).reshape(z.shape)


def level_at(t):
    return jax.tree.map(jnp.float32, CosineSchedule().at(t))


def guided(network, w=2.0):
    return guide_conditions(network, TEXT, NULL, w, target="x")


def numpy_cross(z, text, change=None):
    """The layer in numpy; `change` of the weights [H, L, N]."""
    p = jax.tree.map(np.asarray, nn.meta.unbox(CROSS_PARAMS))["params"]
    x = z.reshape(-1, C)
    q = np.einsum("lc,chk->hlk", x, p["query"]["kernel"]) + p["query"]["bias"][:, None]
    kv = np.einsum("nc,chpk->phnk", text, p["key_value"]["kernel"])
    kv = kv + np.moveaxis(p["key_value"]["bias"], 1, 0)[:, :, None]
    logits = np.einsum("hlk,hnk->hln", q, kv[0]) / np.sqrt(q.shape[-1])
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    weights = weights if change is None else change(weights)
    seen = np.einsum("hln,hnk->lhk", weights, kv[1])
    out = np.einsum("lhk,hkd->ld", seen, p["output"]["kernel"]) + p["output"]["bias"]
    return out.reshape(z.shape), weights


def test_weights_of_the_edited_image_are_those_of_the_paper():
    """c (k (M A) + (1 - k) M*), in the conditional half alone."""
    w = 2.0
    found = edit_by_prompt(guided(crossing, w), MAP, cross_share=0.8)(Z, level_at(0.5))
    for pair in (0, 2):
        original, m = numpy_cross(Z[pair], TEXT[pair])

        def change(own, m=m):
            return MAP.factor_M * (MAP.kept_M * (m @ MAP.map_NM) + (1 - MAP.kept_M) * own)

        edited, _ = numpy_cross(Z[pair + 1], TEXT[pair + 1], change)
        for i, conditional in ((pair, original), (pair + 1, edited)):
            unconditional, _ = numpy_cross(Z[i], NULL[i])
            wanted = (1 + w) * conditional - w * unconditional
            np.testing.assert_allclose(found.x[i], wanted, atol=1e-5)


def test_late_steps_keep_their_own_weights():
    denoiser = edit_by_prompt(guided(crossing), MAP, cross_share=0.8)
    own = guided(crossing)
    for t, same in ((0.1, True), (0.3, False)):
        found, plain = denoiser(Z, level_at(t)).x, own(Z, level_at(t)).x
        assert np.allclose(found, plain, atol=1e-6) == same
        np.testing.assert_allclose(found[::2], plain[::2], atol=1e-5)  # the originals


def test_pixels_of_the_edited_image_attend_to_each_other_as_the_originals():
    z = np.array(same_noise(Z))
    np.testing.assert_array_equal(z[1], z[0])
    np.testing.assert_array_equal(z[3], Z[2])
    denoiser = edit_by_prompt(guided(owning, 0.0), MAP, self_share=0.4)
    p = jax.tree.map(np.asarray, nn.meta.unbox(OWN_PARAMS))["params"]

    def parts(i):
        x = Z[i].reshape(-1, C) + TEXT[i, 0, 0]
        qkv = np.einsum("lc,chpk->phlk", x, p["qkv"]["kernel"])
        qkv = qkv + np.moveaxis(p["qkv"]["bias"], 1, 0)[:, :, None]
        logits = np.einsum("hlk,hnk->hln", qkv[0], qkv[1]) / np.sqrt(qkv.shape[-1])
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        return weights / weights.sum(-1, keepdims=True), qkv[2]

    seen = np.einsum("hln,hnk->lhk", parts(0)[0], parts(1)[1])
    wanted = np.einsum("lhk,hkd->ld", seen, p["output"]["kernel"]) + p["output"]["bias"]
    found = np.asarray(denoiser(Z, level_at(0.7)).x[1])
    np.testing.assert_allclose(found, wanted.reshape(Z[1].shape), atol=1e-5)


def test_outside_of_the_mask_the_edited_image_is_the_original():
    blend = LocalBlend((1, 2), (3,), threshold=0.8)
    found = edit_by_prompt(guided(crossing), MAP, cross_share=0.0, blend=blend)
    plain = guided(crossing)(Z, level_at(0.5))
    mixed = found(Z, level_at(0.5))
    for pair in (0, 2):
        mask = np.zeros((SIDE, SIDE), bool)
        for i, positions in ((pair, [1, 2]), (pair + 1, [3])):
            _, weights = numpy_cross(Z[i], TEXT[i])
            seen = weights[..., positions].mean(axis=(0, 2)).reshape(SIDE, SIDE)
            padded = np.pad(seen, 1, constant_values=-np.inf)
            windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3))
            pooled = windows.max(axis=(2, 3))
            mask |= pooled / pooled.max() > 0.8
        assert 0 < mask.mean() < 1
        for name in ("x", "e"):
            was, now = (np.asarray(getattr(one, name)) for one in (plain, mixed))
            np.testing.assert_allclose(now[pair], was[pair], atol=1e-5)
            wanted = np.where(mask[..., None], was[pair + 1], was[pair])
            np.testing.assert_allclose(now[pair + 1], wanted, atol=1e-5)


def test_networks_without_guidance_are_edited_too():
    plain = make_denoiser(lambda z, time: crossing(z, time, TEXT), "x")
    found = edit_by_prompt(plain, MAP, cross_share=1.0)(Z, level_at(0.5))
    _, m = numpy_cross(Z[0], TEXT[0])
    edited, _ = numpy_cross(
        Z[1],
        TEXT[1],
        lambda own: MAP.factor_M * (MAP.kept_M * (m @ MAP.map_NM) + (1 - MAP.kept_M) * own),
    )
    np.testing.assert_allclose(found.x[1], edited, atol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: edit_by_prompt(guided(crossing), MAP)(Z[:3], level_at(0.5)),
            r"latents have shape \(3, 8, 8, 6\), expected original and edited by turns",
        ),
        (
            lambda: edit_by_prompt(guided(crossing), MAP, cross_share=1.5),
            "cross_share is 1.5, expected 0 <= cross_share <= 1",
        ),
        (
            lambda: edit_by_prompt(guided(crossing), MAP._replace(map_NM=np.eye(3)))(
                Z, level_at(0.5)
            ),
            r"the map of prompts has shape \(3, 3\), expected \(5, 5\)",
        ),
        (
            lambda: edit_by_prompt(guided(owning), MAP, blend=LocalBlend((1,), (1,)))(
                Z, level_at(0.5)
            ),
            "blend is given, but the network has no attention to texts",
        ),
    ],
)
def test_what_does_not_belong_together_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()
