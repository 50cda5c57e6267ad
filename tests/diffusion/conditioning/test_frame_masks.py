"""Training with known frames: which are drawn, what the network sees, packs, whole models."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.data.packing import PackedExample, pack_arrays
from jaxgen.diffusion.conditioning.frame_masks import (
    FrameMasks,
    join_channels,
    known_channels,
    known_of_packs,
    with_frame_channels,
)
from jaxgen.diffusion.conditioning.image_to_image import with_known
from jaxgen.diffusion.conditioning.known_frames import animated_image, extended_clip
from jaxgen.diffusion.denoiser import make_denoiser
from jaxgen.diffusion.model import DenoiserConfig
from jaxgen.diffusion.objectives.losses import denoiser_loss
from jaxgen.diffusion.objectives.packed_loss import packed_loss
from jaxgen.diffusion.process.example_keys import example_keys
from jaxgen.diffusion.process.levels import Level
from jaxgen.diffusion.process.schedules import CosineSchedule
from jaxgen.diffusion.process.step_levels import make_steps
from jaxgen.diffusion.samplers import DDIM
from jaxgen.diffusion.samplers.sampling import initial_noise, sample
from jaxgen.errors import InputError
from jaxgen.nn.patches import patch_grid, patchify
from jaxgen.nn.positions import grid_places
from jaxgen.spacetime import VideoDiTConfig

KEY = jax.random.key(0)
ONLY = {kind: 0.0 for kind in ("none", "first", "last", "both", "prefix")}


def only(kind, noise=0.0):
    return FrameMasks(**{**ONLY, kind: 1.0}, noise=noise)


@functools.partial(jax.jit, static_argnums=0)
def ends_of(masks, frames_N):
    return masks.draw_ends(example_keys(KEY, jnp.arange(len(frames_N))), frames_N)


@functools.partial(jax.jit, static_argnums=0)
def drawn(masks, x, index_B):
    return masks(x, example_keys(KEY, index_B))


def test_how_often_which_frames_are_known():
    """Frequencies of 4,000 draws are the weights; prefixes are uniform in length."""
    masks = FrameMasks(none=1, first=2, last=3, both=4, prefix=10)
    lead_N, tail_N = map(np.asarray, ends_of(masks, np.full(4000, 6)))
    found = [((lead_N == a) & (tail_N == b)).mean() for a, b in ((0, 0), (0, 1), (1, 1))]
    np.testing.assert_allclose(found, [0.05, 0.15, 0.2], atol=0.025)
    lengths = np.bincount(lead_N[tail_N == 0], minlength=6)[1:] / 4000
    np.testing.assert_allclose(lengths, [0.2, 0.1, 0.1, 0.1, 0.1], atol=0.025)
    kinds = {"first": (1, 0), "last": (0, 1), "both": (1, 1), "none": (0, 0)}
    frames_N = np.array([5, 3, 1, 2])
    found = jax.jit(lambda: {kind: ends_of(only(kind), frames_N) for kind in kinds})()
    for kind, ends in kinds.items():
        lead_N, tail_N = found[kind]
        wanted = [(0, 0) if sum(ends) >= frames else ends for frames in (5, 3, 1, 2)]
        assert [*zip(lead_N.tolist(), tail_N.tolist(), strict=True)] == wanted


def test_what_the_network_sees():
    x = np.random.default_rng(0).normal(size=(3, 4, 2, 2, 2)).astype(np.float32)
    index_B = np.arange(3)
    given = jax.device_get(drawn(only("both"), x, index_B))
    assert given.condition_BYXC.shape == (3, 4, 2, 2, 3)
    for t, known in enumerate((1, 0, 0, 1)):
        np.testing.assert_array_equal(given.condition_BYXC[:, t, ..., :2], known * x[:, t])
        np.testing.assert_array_equal(given.condition_BYXC[:, t, ..., 2], known)
        assert (given.known_BYX1[:, t] == known).all()
    # Noise: each example's own deviation, uniform up to the limit; the mask is as it was.
    zeros = np.zeros((2000, 2, 2, 2, 2), np.float32)
    noisy = drawn(only("first", noise=0.5), zeros, np.arange(2000))
    seen = np.asarray(noisy.condition_BYXC)[:, 0, ..., :2].reshape(2000, -1)
    assert not np.asarray(noisy.condition_BYXC)[:, 1].any()
    np.testing.assert_allclose((seen**2).mean(), 0.5**2 / 3, rtol=0.1)
    # An example at another place, beside others, is the same.
    masks, other = FrameMasks(noise=0.3), np.array([2, 1, 1])
    whole = jax.device_get(drawn(masks, x, index_B))
    moved = jax.device_get(drawn(masks, x[other], other))
    for value, part in zip(whole, moved, strict=True):
        np.testing.assert_array_equal(part, value[other])
    # What is not known may be anything.
    spoilt = np.where(given.known_BYX1 > 0, x, np.float32(np.nan))
    seen = jax.jit(known_channels)(spoilt, given.known_BYX1)
    np.testing.assert_array_equal(seen, given.condition_BYXC)


known_in_packs = jax.jit(known_of_packs, static_argnums=(0, 6))
PATCH, CHANNELS = (2, 2, 2), 2
SIZES = ((4, 4, 4), (2, 4, 6), (6, 4, 4), (8, 2, 2))


def a_pack(packs=((0, 1), (2, 3)), length=40):
    """Examples of several sizes in two packs, the tokens of each from its own index."""
    examples = []
    for index, size in enumerate(SIZES):
        video = np.random.default_rng(index).integers(0, 256, (1, *size, CHANNELS), np.uint8)
        places = grid_places(patch_grid(video.shape, PATCH))
        examples.append(PackedExample(index + 10, patchify(video, PATCH)[0], places, 0))
    return pack_arrays([[examples[index] for index in pack] for pack in packs], length, 3)


def test_packed_examples_draw_what_they_draw_alone():
    """Frames of patches, by the example's own index; tokens of padding are never known."""
    masks, whole = FrameMasks(none=0.5, noise=0.4), a_pack()

    def known_in(batch):
        places = batch["place"][..., 0], batch["segment"], batch["index"]
        return jax.device_get(known_in_packs(masks, batch["tokens"], *places, KEY, CHANNELS))

    given, seen = known_in(whole), set()
    for e in (0, 1):
        batch = a_pack(((e,), (2 + e,)))
        alone = known_in(batch)
        for b in (0, 1):
            here, there = whole["segment"][b] == e + 1, batch["segment"][b] == 1
            frames = SIZES[2 * b + e][0] // PATCH[0]
            np.testing.assert_array_equal(given.known_BL[b, here], alone.known_BL[b, there])
            found = given.condition_BLF[b, here]
            np.testing.assert_array_equal(found, alone.condition_BLF[b, there])
            share = given.known_BL[b, here].reshape(frames, -1)
            assert (share == share[:, :1]).all(), "frames are known as a whole"
            assert not share.all()
            seen.add(int(share[:, 0].sum()))
    assert len(seen) > 1
    assert not given.known_BL[whole["segment"] == 0].any()


def a_model():
    network = VideoDiTConfig(
        in_channels=2 * CHANNELS + 1,
        out_channels=CHANNELS,
        patch=PATCH,
        width=32,
        depth=1,
        heads=2,
        num_classes=3,
        null_class=True,
        positions="rotary",
    )
    return DenoiserConfig(network, (4, 4, 4, CHANNELS), ("a", "b", "c"), known_frames=True)


def made_params(model):
    """Parameters none of which is zero, so that every input matters."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(model.make_init(), KEY)
    return jax.tree.map(lambda v: rng.normal(size=v.shape, scale=0.2).astype(v.dtype), shapes)


def test_the_network_of_packs_is_that_of_videos():
    """Tokens with known numbers beside each pixel: outputs equal to 1e-5; the frames matter."""
    model = a_model()
    module, rng = model.make_model(), np.random.default_rng(0)
    z = rng.normal(size=(2, 4, 4, 4, CHANNELS)).astype(np.float32)
    clip = rng.normal(size=(2, 2, 4, 4, CHANNELS)).astype(np.float32)
    time_B, label_B = np.array([100.0, 700.0], np.float32), np.array([0, 2])
    places = np.broadcast_to(grid_places((2, 2, 2)), (2, 8, 3))

    @jax.jit
    def run(params):
        given = extended_clip(clip, after=2)
        whole = model.make_network(params, given)(z, time_B, label_B)
        condition_BLF = patchify(known_channels(*given), PATCH)
        tokens_BLF = join_channels(patchify(z, PATCH), condition_BLF, CHANNELS)
        beside = jnp.ones((2, 8), jnp.int32), time_B[:, None], label_B[:, None]
        packed = module.apply({"params": params}, tokens_BLF, places, *beside, method="packed")
        without = model.make_network(params)(z, time_B, label_B)
        return packed, patchify(whole, PATCH), patchify(without, PATCH)

    packed, whole, without = jax.device_get(run(made_params(model)))
    np.testing.assert_allclose(packed, whole, atol=1e-5)
    assert abs(without - whole).max() > 1e-2


def test_the_loss_of_packs_counts_what_is_to_be_made():
    """A network that knows the answer on known tokens alone has the loss of the others."""
    batch, key = a_pack(), jax.random.key(5)
    arrays = batch["tokens"], batch["segment"], batch["index"]
    places = batch["place"][..., 0], *arrays[1:]
    known_BL = known_in_packs(only("first"), arrays[0], *places, KEY, CHANNELS).known_BL

    @jax.jit
    def run(prediction, known_BL):
        network = lambda z, time: jnp.broadcast_to(prediction, z.shape)  # noqa: E731
        return packed_loss(network, *arrays, key, schedule=CosineSchedule(), known_BL=known_BL)

    known_BL = np.asarray(known_BL)
    zero_BL1 = np.zeros((*known_BL.shape, 1), np.float32)
    everything, made = run(zero_BL1, None), run(zero_BL1, known_BL)
    spoilt = run(np.where(known_BL[..., None], np.float32(np.inf), zero_BL1), known_BL)
    np.testing.assert_array_equal(made.loss, spoilt.loss)
    rest = run(zero_BL1, ~known_BL)
    parts = np.asarray(made.loss) + np.asarray(rest.loss)
    np.testing.assert_allclose(parts, everything.loss, rtol=1e-5)
    present = np.asarray(everything.present)
    # One of T frames does not count, of T = 1 (in patches) none is known.
    share = np.asarray(made.loss)[present] / np.asarray(everything.loss)[present]
    np.testing.assert_allclose(share, [1 / 2, 1, 2 / 3, 3 / 4], atol=0.2)
    assert share[1] == 1


def test_a_loss_of_videos_and_a_denoiser_that_holds_what_it_knows():
    model = a_model()
    params = made_params(model)
    x = np.random.default_rng(0).uniform(-1, 1, (4, 4, 4, 4, CHANNELS)).astype(np.float32)
    label_B, index_B = np.arange(4) % 3, np.arange(4)

    @jax.jit
    def loss(x, index_B, label_B):
        given = FrameMasks()(x, example_keys(KEY, index_B))
        network = model.make_model()
        seeing = with_frame_channels(
            lambda z, time: network.apply({"params": params}, z, time, label_B),
            given.condition_BYXC,
        )
        denoiser = with_known(make_denoiser(seeing, "v"), given.known_BYX1, x)
        return denoiser_loss(denoiser, x, KEY, schedule=model.schedule, index_B=index_B)[0]

    other = np.array([2, 0, 1, 1])
    whole = np.asarray(loss(x, index_B, label_B))
    moved = loss(x[other], index_B[other], label_B[other])
    np.testing.assert_allclose(moved, whole[other], rtol=1e-4)
    assert np.isfinite(whole).all()

    levels = make_steps(model.schedule, 4)

    @jax.jit
    def draw(x, label_B, index_B, guidance):
        given = animated_image(x[:, 0], 4)
        denoiser = model.make_denoiser(params, label_B, guidance, given=given)
        z = initial_noise(KEY, index_B, model.image_shape, levels)
        return sample(DDIM(), denoiser, z, levels, KEY, index_B)

    for guidance in (None, 2.0):  # two programs
        found = np.asarray(draw(x, label_B, index_B, guidance))
        np.testing.assert_allclose(found[:, 0], x[:, 0], atol=1e-5)
        moved = draw(x[other], label_B[other], index_B[other], guidance)
        np.testing.assert_allclose(moved, found[other], atol=1e-4)
        negative = np.asarray(draw(-x, label_B, index_B, guidance))
        assert abs(negative[:, 1:] - found[:, 1:]).max() > 1e-3


def test_known_frames_of_another_size_are_refused():
    network = with_frame_channels(lambda z, time: z, jnp.zeros((2, 4, 2, 2, 3)))
    message = r"known frames have shape \(2, 4, 2, 2, 3\) for latents of shape \(2, 5, 2, 2, 2\)"
    with pytest.raises(InputError, match=message):
        network(jnp.zeros((2, 5, 2, 2, 2)), jnp.zeros(2))


def test_a_model_without_known_frames_is_as_it_was():
    model = a_model()
    plain = DenoiserConfig(
        VideoDiTConfig(
            in_channels=2, out_channels=2, patch=PATCH, width=32, depth=1, heads=2, num_classes=0
        ),
        (4, 4, 4, CHANNELS),
        (),
    )
    assert plain.condition_channels == 0
    assert model.condition_channels == 3
    z = np.ones((1, 4, 4, 4, CHANNELS), np.float32)
    params = jax.eval_shape(plain.make_init(), KEY)
    level = Level(*(np.float32(v) for v in CosineSchedule().at(0.3)))
    found = jax.eval_shape(lambda params: plain.make_denoiser(params, None)(z, level), params)
    assert found.x.shape == z.shape
    with pytest.raises(InputError, match="given are known frames, but the network was trained"):
        plain.make_denoiser(params, None, given=animated_image(z[:, 0], 4))


def test_bad_input_is_named():
    tokens = jnp.zeros((1, 2, 15))
    cases = [
        (lambda: FrameMasks(last=-1.0), "last is -1.0, expected 0 or more"),
        (lambda: FrameMasks(noise=float("nan")), "noise is nan, expected 0 or more"),
        (lambda: FrameMasks(**ONLY), "all weights of frame masks are 0"),
        (
            lambda: FrameMasks()(jnp.zeros((2, 3)), example_keys(KEY, jnp.arange(2))),
            r"videos have shape \(2, 3\), expected \[B, T, ..., C\]",
        ),
        (
            lambda: join_channels(tokens, jnp.zeros((1, 2, 16)), 2),
            r"tokens have shape \(1, 2, 15\), expected patches of pixels of 2 channels",
        ),
    ]
    for call, message in cases:
        with pytest.raises(InputError, match=message):
            call()
