"""The U-Net of videos: it starts as the image network; who sees whom; training, devices, sizes."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from networks import randomised

from jaxgen.diffusion.model import DenoiserConfig
from jaxgen.diffusion.objectives.joint_frames import draw_alone, joint_loss
from jaxgen.diffusion.objectives.losses import diffusion_loss
from jaxgen.diffusion.process.schedules import CosineSchedule
from jaxgen.diffusion.process.step_levels import make_steps
from jaxgen.diffusion.samplers.ddim import DDIM
from jaxgen.diffusion.samplers.sampling import sample
from jaxgen.errors import InputError
from jaxgen.parallel import gather_fsdp, make_mesh, plan_layout, put_batch
from jaxgen.training.saved_configs import config_from_json, config_to_json
from jaxgen.unet import UNetConfig, unet_video_params
from tests.unet.small_unets import assert_same, shapes

IMAGE = UNetConfig(
    in_channels=1,
    out_channels=1,
    channels=(8,),
    blocks=1,
    attention_levels=(0,),
    head_size=4,
    groups=4,
    num_classes=3,
    class_dropout=0.5,
)
VIDEO = dataclasses.replace(IMAGE, temporal=True)
B, T, IMAGES = 8, 3, 2


def example(seed=0, batch=B, frames=T + IMAGES):
    rng = np.random.default_rng(seed)
    z_BTYXC = rng.normal(size=(batch, frames, 4, 4, 1)).astype(np.float32)
    time_B = rng.uniform(0, 1000, batch).astype(np.float32)
    return z_BTYXC, time_B, rng.integers(0, 4, batch).astype(np.int32)


@functools.cache
def params():
    """Every number random, those of attention over frames, too."""
    return randomised(shapes(VIDEO.make_model().init, *example()))


@functools.partial(jax.jit, static_argnums=(0,), static_argnames=("image_frames", "train"))
def apply(config, params, *inputs, **rest):
    return config.make_model().apply({"params": params}, *inputs, **rest)


def test_an_image_network_opened_as_video_gives_its_own_frames():
    """Bit by bit, not compiled; every number of the image network random.

    24 frames each time, so that operations of both networks have the same shapes.
    """
    init = jax.jit(VIDEO.make_model().init)
    initial = init(jax.random.key(0), *example(batch=1, frames=1))["params"]
    image_params = randomised(shapes(IMAGE.make_model().init, *first_frames()))
    opened = unet_video_params(image_params, initial)
    for frames in (1, 3):
        z, time, label = example(seed=frames, batch=24 // frames, frames=frames)
        found = VIDEO.make_model().apply({"params": opened}, z, time, label)
        images = z.reshape(24, *z.shape[2:]), time.repeat(frames), label.repeat(frames)
        expected = IMAGE.make_model().apply({"params": image_params}, *images)
        np.testing.assert_array_equal(found, expected.reshape(z.shape))
        assert np.abs(expected).max() > 0.1


def first_frames():
    z, time, label = example()
    return z[:, 0], time, label


def test_what_is_no_image_network_of_the_video_network():
    video = params()
    image = {name: value for name, value in video.items() if "_temporal_" not in name}
    same = unet_video_params(image, video)
    assert jax.tree.all(jax.tree.map(lambda a, b: a is b, same, video))
    assert jax.tree.all(jax.tree.map(lambda a, b: a is b, unet_video_params(video, video), video))
    wrong = {
        r"conv_in/bias has shape \(3,\), expected \(8,\)": {
            **image,
            "conv_in": {**image["conv_in"], "bias": np.zeros(3)},
        },
        "new/bias is not in the video network": {**image, "new": {"bias": np.zeros(3)}},
        "conv_in/bias is not in the image network": {
            name: value for name, value in image.items() if name != "conv_in"
        },
    }
    for fault, given in wrong.items():
        with pytest.raises(InputError, match=fault):
            unet_video_params(given, video)


def changed_frames(found, other):
    """[B, T], where predictions differ at all."""
    return np.asarray(found != other).any(axis=(2, 3, 4))


def test_an_appended_image_changes_no_other_frame():
    z, time, label = example()
    whole = apply(VIDEO, params(), z, time, label, image_frames=IMAGES)
    for frame, seen_by in ((0, [1, 1, 1, 0, 0]), (3, [0, 0, 0, 1, 0]), (4, [0, 0, 0, 0, 1])):
        moved = z.copy()
        moved[:, frame] += 1
        other = apply(VIDEO, params(), moved, time, label, image_frames=IMAGES)
        assert (changed_frames(whole, other) == np.array(seen_by, bool)).all()
    clip = apply(VIDEO, params(), z[:, :T], time, label)
    np.testing.assert_allclose(whole[:, :T], clip, rtol=0, atol=2e-5)
    together = apply(VIDEO, params(), z, time, label, alone_B=np.zeros(B, bool))
    assert np.abs(together - whole).max() > 0.01


def frame_by_frame(z, time, label):
    """Each frame as a video of one; times and labels [B, T]."""
    rows = z.reshape(-1, 1, *z.shape[2:]), time.reshape(-1), label.reshape(-1)
    return apply(VIDEO, params(), *rows).reshape(z.shape)


def test_each_frame_alone_is_frame_by_frame():
    z, time, label = example()
    alone = np.arange(B) % 2 == 0
    found = apply(VIDEO, params(), z, time, label, alone_B=alone)
    spread = [value[:, None].repeat(T + IMAGES, axis=1) for value in (time, label)]
    singly = frame_by_frame(z, *spread)
    together = apply(VIDEO, params(), z, time, label, alone_B=np.zeros(B, bool))
    expected = np.where(alone[:, None, None, None, None], singly, together)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)
    assert np.abs(singly - together).max(axis=(1, 2, 3, 4)).min() > 0.01


def test_times_of_frames_and_labels_of_images():
    """With each frame alone, a network of frames at times of their own."""
    z, _, _ = example()
    rng = np.random.default_rng(1)
    time_BT = rng.uniform(0, 1000, z.shape[:2]).astype(np.float32)
    label_BP = rng.integers(0, 4, (B, 1 + IMAGES)).astype(np.int32)
    found = apply(
        VIDEO, params(), z, time_BT, label_BP, image_frames=IMAGES, alone_B=np.ones(B, bool)
    )
    label_BT = np.concatenate([label_BP[:, :1].repeat(T, axis=1), label_BP[:, 1:]], axis=1)
    expected = frame_by_frame(z, time_BT, label_BT)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)


def test_a_label_is_dropped_of_all_frames_or_of_none():
    """With each frame alone, frames that are the same image have one prediction."""
    z, time, label = example()
    z[:] = z[:, :1]
    alone = np.ones(B, bool)
    found = apply(
        *(VIDEO, params(), z, time, np.zeros_like(label)),
        alone_B=alone,
        train=True,
        rngs={"dropout": jax.random.key(0)},
    )
    np.testing.assert_allclose(found, np.broadcast_to(found[:, :1], z.shape), rtol=0, atol=1e-5)
    null = apply(VIDEO, params(), z, time, np.full_like(label, 3), alone_B=alone)
    dropped = np.abs(found - null).max(axis=(1, 2, 3, 4)) < 1e-4
    assert 0 < dropped.sum() < B


def test_bfloat16_is_close_to_float32():
    inputs, rest = example(), {"image_frames": IMAGES}
    exact = apply(VIDEO, params(), *inputs, **rest)
    found = apply(dataclasses.replace(VIDEO, dtype="bfloat16"), params(), *inputs, **rest)
    error = np.abs(found - exact).max() / np.abs(exact).max()
    assert 1e-4 < error < 0.05


def loss_fn(params, batch, key, config=VIDEO):
    """The joint loss, half of the examples with each frame alone, some labels dropped."""
    model, index = config.make_model(), batch["index"]
    noise_key, alone_key, dropout_key = jax.random.split(key, 3)
    alone_B = draw_alone(alone_key, index, 0.5)

    def network(z, time):
        rest = {"image_frames": IMAGES, "alone_B": alone_B, "rngs": {"dropout": dropout_key}}
        return model.apply({"params": params}, z, time, batch["label"], train=True, **rest)

    loss_B, _ = joint_loss(
        network,
        batch["video"],
        noise_key,
        image_frames=IMAGES,
        schedule=CosineSchedule(),
        image_weight=0.5,
        index_B=index,
    )
    return loss_B.mean()


def joint_batch():
    z, _, _ = example()
    label_BP = np.random.default_rng(2).integers(0, 4, (B, 1 + IMAGES)).astype(np.int32)
    video = np.tanh(z)
    return {"video": video, "label": label_BP, "index": np.arange(B, dtype=np.int32)}


@functools.cache
def unsharded():
    return jax.jit(jax.value_and_grad(loss_fn))(params(), joint_batch(), jax.random.key(1))


def test_gradients_of_joint_training_are_finite_and_reach_every_parameter():
    value, gradients = unsharded()
    assert np.isfinite(value)
    for path, gradient in jax.tree.leaves_with_path(gradients):
        name = jax.tree_util.keystr(path)
        assert np.isfinite(gradient).all(), name
        assert (np.abs(gradient) > 0).any(), name


@pytest.mark.slow
def test_remat_changes_nothing():
    remat = functools.partial(loss_fn, config=dataclasses.replace(VIDEO, remat=True))
    value, gradients = jax.jit(jax.value_and_grad(remat))(
        params(), joint_batch(), jax.random.key(1)
    )
    np.testing.assert_allclose(value, unsharded()[0], rtol=1e-6)
    assert_same(gradients, unsharded()[1], 1e-4)


@pytest.mark.slow
def test_joint_training_on_eight_devices_is_that_on_one():
    mesh = make_mesh("data=2,fsdp=2,model=2")
    init = VIDEO.make_model().init
    layout = plan_layout(lambda key: init(key, *example())["params"], jax.random.key(0), mesh=mesh)

    def whole_loss(placed, batch):
        return loss_fn(gather_fsdp(placed, layout), batch, jax.random.key(1))

    with jax.set_mesh(mesh):
        placed = jax.device_put(params(), layout.shardings)
        batch = put_batch(joint_batch(), mesh)
        value, gradients = jax.jit(jax.value_and_grad(whole_loss))(placed, batch)
    np.testing.assert_allclose(value, unsharded()[0], rtol=1e-5)
    assert_same(gradients, unsharded()[1], 1e-4)


def test_a_denoiser_of_videos_trains_and_is_sampled():
    """As the image networks are: loss, gradient step, DDIM with guidance."""
    network = dataclasses.replace(VIDEO, attention_levels=())
    config = DenoiserConfig(network, (8, 16, 16, 1), ("a", "b", "c"))
    assert config_from_json(config_to_json(config)) == config
    params = nn.meta.unbox(jax.jit(config.make_init())(jax.random.key(0)))
    rng = np.random.default_rng(0)
    video = rng.integers(0, 256, (2, 1, 16, 16, 1), np.uint8).repeat(8, axis=1)
    label = np.array([0, 2], np.int32)
    model = config.make_model()

    def loss(params, key):
        def denoise(z, time):
            variables, rngs = {"params": params}, {"dropout": jax.random.key(2)}
            return model.apply(variables, z, time, label, train=True, rngs=rngs)

        return diffusion_loss(denoise, video, key, schedule=config.schedule)[0].mean()

    @jax.jit
    def step(params):
        value, gradients = jax.value_and_grad(loss)(params, jax.random.key(1))
        return value, jax.tree.map(lambda p, g: p - 0.02 * g, params, gradients)

    first, params = step(params)
    second, params = step(params)
    assert second < first

    @jax.jit
    def run(params, z):
        denoiser = config.make_denoiser(params, jnp.asarray(label), 1.0)
        levels = make_steps(config.schedule, 3)
        return sample(DDIM(), denoiser, z, levels, jax.random.key(0))

    z = jax.random.normal(jax.random.key(3), video.shape)
    found = run(params, z)
    assert found.shape == video.shape
    assert np.isfinite(found).all()
    assert np.abs(found).max() <= 1


@pytest.mark.parametrize(
    ("data", "parameters"),
    [("ucf101", 1_238_570_755), ("bair", 158_677_187), ("text", 325_308_291)],
)
def test_published_sizes(data, parameters):
    """What attention over frames adds is counted by hand; totals are not published."""
    config = UNetConfig.video_diffusion(data)
    z = jax.ShapeDtypeStruct((1, 16, 64, 64, 3), jnp.float32)
    time = jax.ShapeDtypeStruct((1,), jnp.float32)
    init = config.make_model().init_with_output
    out, variables = jax.eval_shape(init, jax.random.key(0), z, time)
    assert out.shape == z.shape
    counts = dict.fromkeys((False, True), 0)
    for name, layer in nn.meta.unbox(variables["params"]).items():
        counts["_temporal_" in name] += sum(math.prod(x.shape) for x in jax.tree.leaves(layer))
    channels = [*config.channels[1:] * (2 * config.blocks + 1), config.channels[-1]]
    assert counts[True] == sum(4 * c * c + 6 * c + 32 * (c // 64) for c in channels)
    assert sum(counts.values()) == parameters


def test_two_published_networks_are_one():
    assert UNetConfig.video_diffusion("kinetics") == UNetConfig.video_diffusion("ucf101")


def test_input_that_does_not_fit():
    z, time, label = example()
    for config, inputs, rest, fault in (
        (VIDEO, (z[:, 0], time, label), {}, r"\(8, 4, 4, 1\), expected \[B, T, Y, X, 1\]"),
        (IMAGE, (z, time, label), {}, r"images have shape .*, expected \[B, Y, X, 1\]"),
        (IMAGE, (z[:, 0], time, label), {"image_frames": 1}, "given for images, expected videos"),
        (VIDEO, (z, time, label), {"image_frames": 5}, "image_frames is 5 of 5 frames"),
        (
            VIDEO,
            (z, time[:, None], label),
            {},
            r"time has shape \(8, 1\), expected \[8\] or \[8, 5",
        ),
        (VIDEO, (z, time[:3], label), {}, r"time has shape \(3,\), expected \[8\]"),
        (VIDEO, (z, time, label[:, None]), {"image_frames": 2}, r"\[8\] or \[8, 3\]"),
        (VIDEO, (z, time, None), {}, "labels are None"),
        (VIDEO, (z, time, label), {"alone_B": np.zeros(3, bool)}, r"alone_B has shape \(3,\)"),
    ):
        with pytest.raises(InputError, match=fault):
            config.make_model().apply({"params": {}}, *inputs, **rest)
    for changes, fault in (
        ({"temporal_buckets": 30}, "buckets is 30, expected a positive multiple of 4"),
        ({"temporal_distance": 8}, "largest distance is 8, expected more than 8"),
    ):
        with pytest.raises(InputError, match=fault):
            dataclasses.replace(VIDEO, **changes)
    with pytest.raises(InputError, match="data is 'sky', expected one of ucf101, bair"):
        UNetConfig.video_diffusion("sky")
