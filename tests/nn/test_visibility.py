"""Which keys a query sees: skipped blocks, reach, views, and numbers that are not finite."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.errors import InputError
from jaxgen.nn import SelfAttention, attention
from jaxgen.nn.attention import attention_of_views
from jaxgen.nn.block_attention import block_attention
from jaxgen.nn.visibility import Reach, View
from jaxgen.parallel import make_mesh

B, H, K = 2, 2, 4
CUTS = [[5, 9, 3, 7], [11, 1, 6, 4]]


def packs(length=29, seed=0):
    """q, k, v and ids of two packs of four examples, with padding at their ends."""
    rng = np.random.default_rng(seed)
    q, k, v = (rng.normal(size=(B, length, H, K)).astype(np.float32) for _ in range(3))
    ids = np.zeros((B, length), np.int32)
    for row, cuts in zip(ids, CUTS, strict=True):
        row[: sum(cuts)] = np.repeat(np.arange(1, 5), cuts)
    return (q, k, v), ids


def reach_of(ids, before, after):
    at = np.broadcast_to(np.arange(ids.shape[1], dtype=np.int32) // 2, ids.shape)
    return Reach(at, at, before, after)


@functools.partial(jax.jit, static_argnames=("how", "block"))
def run(qkv, ids, reach=None, how="plain", block=None):
    """What is seen, and the gradient of a sum of it."""

    def total(q, k, v):
        if block is None:
            found = attention(q, k, v, segments=(ids, ids), reach=reach, implementation=how)
        else:
            found = block_attention(q, k, v, (ids, ids), reach, block)
        return jnp.sum(jnp.sin(found)), found

    (_, found), gradient = jax.value_and_grad(total, (0, 1, 2), has_aux=True)(*qkv)
    return found, gradient


@pytest.mark.parametrize("limits", [None, (None, 0), (2, 1)], ids=str)
def test_skipped_blocks_change_nothing(limits):
    """Values and gradients, with lengths that blocks do not divide, ids in and out of order."""
    qkv, ids = packs()
    for own in (ids, ids % 3, ids * 7 + np.arange(29) % 5):
        reach = None if limits is None else reach_of(own, *limits)
        found, gradient = run(qkv, own, reach, block=8)
        expected, theirs = run(qkv, own, reach)
        np.testing.assert_allclose(found, expected, atol=1e-6)
        for a, b in zip(gradient, theirs, strict=True):
            np.testing.assert_allclose(a, b, atol=2e-6)


def test_blocks_of_queries_and_keys_of_other_lengths_and_types():
    (q, _, _), ids = packs()
    k, v = (np.roll(x, 3, axis=0)[:, :21] for x in packs(seed=1)[0][1:])
    ids_of_keys = np.sort(ids, axis=1)[:, 4:25]
    segments = ids, ids_of_keys
    found_by = jax.jit(attention, static_argnames="implementation")
    for dtype, tolerance in ((jnp.float32, 1e-6), (jnp.bfloat16, 0.02)):
        q2, k2, v2 = (jnp.asarray(x, dtype) for x in (q, k, v))
        found = found_by(q2, k2, v2, segments=segments, implementation="blocks")
        expected = found_by(q2, k2, v2, segments=segments, implementation="plain")
        assert found.dtype == dtype
        np.testing.assert_allclose(
            np.asarray(found, np.float32), np.asarray(expected, np.float32), atol=tolerance
        )
    whole = found_by(q, k, v, implementation="blocks")
    np.testing.assert_allclose(whole, found_by(q, k, v, implementation="plain"), atol=1e-6)


def test_what_is_not_finite_stays_among_those_who_see_it():
    """Of one example of a pack, in one number of q, k or v: values and gradients of all others."""
    qkv, ids = packs()
    for how in ("plain", "blocks"):

        def total(q, k, v, how=how):
            found = attention(q, k, v, segments=(ids, ids), implementation=how)
            kept = jnp.asarray(ids != 2)[..., None, None]
            return jnp.sum(jnp.where(kept, jnp.sin(found), 0)), found

        own = jax.jit(jax.value_and_grad(total, (0, 1, 2), has_aux=True))
        (_, clean), gradient = own(*qkv)
        for which, value in ((0, np.nan), (1, np.inf), (2, np.nan), (2, -np.inf)):
            spoiled = [x.copy() for x in qkv]
            spoiled[which][0, 7, 1, 2] = value  # token 7 is of example 2 of the first pack
            (_, found), theirs = own(*spoiled)
            others = np.ones(ids.shape, bool)
            others[0] = ids[0] != 2
            np.testing.assert_array_equal(np.asarray(found)[others], np.asarray(clean)[others])
            seen = np.asarray(found)[0, 7] if which == 0 else np.asarray(found)[0, ids[0] == 2]
            assert np.isnan(seen).all()
            for a, b in zip(theirs, gradient, strict=True):
                own_rows = others & (ids != 2)
                np.testing.assert_allclose(
                    np.asarray(a)[own_rows], np.asarray(b)[own_rows], atol=1e-6
                )


def test_views_fold_frames_and_places():
    """In space and in time as by segment ids; heads that have a view each."""
    rng = np.random.default_rng(0)
    frames, places = 3, 4
    q, k, v = (rng.normal(size=(B, 12, H, K)).astype(np.float32) for _ in range(3))
    t = np.repeat(np.arange(frames), places)[None].repeat(B, 0)
    s = np.tile(np.arange(places), frames)[None].repeat(B, 0)
    one = np.arange(frames, dtype=np.int32)[None]
    causal = View("time", (frames, places), reach=Reach(one, one, None, 0))
    space = View("space", (frames, places))

    @jax.jit
    def found_and_expected(q, k, v):
        expected_causal = attention(q, k, v, segments=(s, s), reach=Reach(t, t, None, 0))
        expected = attention(q, k, v, segments=(t, t)), expected_causal
        alone = [attention_of_views(q, k, v, [view]) for view in (space, causal)]
        return alone, attention_of_views(q, k, v, [space, causal]), expected

    alone, split, (expected_space, expected_causal) = found_and_expected(q, k, v)
    np.testing.assert_allclose(alone[0], expected_space, atol=1e-6)
    np.testing.assert_allclose(alone[1], expected_causal, atol=1e-6)
    for view in (space, causal):
        np.testing.assert_array_equal(view.unfold(view.fold(q)), q)
    np.testing.assert_allclose(split[:, :, :1], expected_space[:, :, :1], atol=1e-6)
    np.testing.assert_allclose(split[:, :, 1:], expected_causal[:, :, 1:], atol=1e-6)


def test_packs_in_blocks_on_a_mesh_are_those_on_one_device():
    qkv, ids = packs()
    expected, gradient = run(qkv, ids, block=8)
    with jax.set_mesh(make_mesh("data=2", jax.devices()[:2])):
        spec = jax.sharding.PartitionSpec(("data", "fsdp"))
        given = jax.device_put((qkv, ids), spec)
        found, sharded = run(*given, block=8)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    for a, b in zip(sharded, gradient, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6)


def test_what_does_not_belong_together_is_refused():
    (q, k, v), ids = packs()
    at = np.zeros((B, 3), np.int32)
    with pytest.raises(
        InputError, match=r"reach have shapes \(\(2, 3\), \(2, 3\)\), expected \[2, 29"
    ):
        attention(q, k, v, reach=Reach(at, at, 1, 1))
    with pytest.raises(InputError, match="heads are 2 for 3 views, expected a multiple of 3"):
        attention_of_views(q, k, v, [View()] * 3)
    x = np.zeros((1, 4, 8), np.float32)
    with pytest.raises(InputError, match="views are given with a bias or segment ids, expected e"):
        SelfAttention(2).init(jax.random.key(0), x, segments_BL=ids[:1, :4], views=[View()])
