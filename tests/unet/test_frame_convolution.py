"""Convolutions over frames: the layer in numpy, which frames see each other, the whole network."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import randomised

from jaxgen.errors import InputError
from jaxgen.unet import UNetConfig, unet_video_params
from jaxgen.unet.frame_convolution import FrameConvolution
from tests.unet.small_unets import shapes

OPTIONS = UNetConfig(channels=(8,), attention_levels=(), head_size=4, groups=2).block_options_at(0)
IMAGE = UNetConfig(
    in_channels=1, out_channels=1, channels=(8,), blocks=1, attention_levels=(), groups=4,
    head_size=4,
)  # fmt: skip
VIDEO = dataclasses.replace(IMAGE, temporal=True, temporal_layer="convolution")


@pytest.mark.parametrize("segments", [None, [[0, 0, 0, 1, 1], [0, 1, 2, 2, 2]]])
def test_the_layer_in_numpy(segments):
    """Three frames at a time, zeros beyond the ends and in place of other segments."""
    batch, frames, channels = 2, 5, 8
    x = np.random.default_rng(0).normal(size=(batch * frames, 3, 2, channels)).astype(np.float32)
    layer = FrameConvolution(OPTIONS, frames)
    params = randomised(shapes(layer.init, x))
    segment_BT = np.zeros((batch, frames), int) if segments is None else np.array(segments)
    given = None if segments is None else jnp.array(segments)
    found = jax.jit(layer.apply)({"params": params}, x, given)
    groups = x.reshape(-1, 3, 2, 2, channels // 2)
    mean, variance = (f(groups, axis=(1, 2, 4), keepdims=True) for f in (np.mean, np.var))
    h = ((groups - mean) / np.sqrt(variance + 1e-5)).reshape(x.shape)
    h = h * params["norm"]["scale"] + params["norm"]["bias"]
    h = (h / (1 + np.exp(-h))).reshape(batch, frames, 3, 2, channels)
    kernel = params["output"]["kernel"].reshape(3, channels, channels)
    wanted = x.reshape(h.shape) + params["output"]["bias"]
    for b in range(batch):
        for t in range(frames):
            for tap, other in enumerate((t - 1, t, t + 1)):
                if 0 <= other < frames and segment_BT[b, other] == segment_BT[b, t]:
                    wanted[b, t] += h[b, other] @ kernel[tap]
    np.testing.assert_allclose(found, wanted.reshape(x.shape), rtol=0, atol=2e-5)


def test_a_network_starts_as_that_of_images_and_frames_meet_in_convolutions():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(2, 6, 4, 4, 1)).astype(np.float32)
    time = rng.uniform(0, 1000, 2).astype(np.float32)
    model = VIDEO.make_model()
    abstract = shapes(model.init, z, time)
    assert {name for name in abstract if "temporal" in name} == {
        f"{place}_temporal_{i}" for place, i in
        (("down_0", 0), ("middle", 0), ("up_0", 0), ("up_0", 1))
    }  # fmt: skip
    video = randomised(abstract)
    apply = jax.jit(lambda params, z, **rest: model.apply({"params": params}, z, time, **rest))
    image = randomised(shapes(IMAGE.make_model().init, z[:, 0], time))
    opened = unet_video_params(image, jax.jit(model.init)(jax.random.key(0), z, time)["params"])
    single = IMAGE.make_model().apply({"params": image}, z.reshape(-1, 4, 4, 1), time.repeat(6))
    np.testing.assert_allclose(apply(opened, z), single.reshape(z.shape), rtol=0, atol=2e-5)
    # Four convolutions reach four frames to each side, and none where each frame is alone.
    moved = z.copy()
    moved[:, 0] += 1
    differ = np.abs(apply(video, z) - apply(video, moved)).max(axis=(2, 3, 4)) > 1e-6
    np.testing.assert_array_equal(differ, [[True] * 5 + [False]] * 2)
    alone = jnp.ones(2, bool)
    found = [apply(video, given, alone_B=alone) for given in (z, moved)]
    differ = np.abs(found[0] - found[1]).max(axis=(2, 3, 4)) > 1e-6
    np.testing.assert_array_equal(differ, [[True] + [False] * 5] * 2)


def test_an_unknown_layer_is_refused():
    with pytest.raises(InputError, match="temporal_layer is 'mean', expected one of attention, co"):
        dataclasses.replace(VIDEO, temporal_layer="mean")
