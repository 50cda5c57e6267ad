"""Networks of images as the start of networks of videos: each frame keeps its own prediction."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from networks import initial, randomised, shapes

from jaxgen.errors import InputError
from jaxgen.spacetime import DiTConfig, VideoDiTConfig
from jaxgen.spacetime.image_start import video_from_image_params

SHARED = {
    "in_channels": 2,
    "out_channels": 4,
    "width": 16,
    "heads": 2,
    "mlp_ratio": 2.0,
    "num_classes": 3,
}
IMAGE = DiTConfig(patch=2, depth=2, **SHARED)
VIDEO = VideoDiTConfig(patch=(1, 2, 2), depth=2, attention_pattern="factorised", **SHARED)
VIDEOS = {
    "factorised": VIDEO,
    "interleaved": dataclasses.replace(VIDEO, attention_pattern="interleaved", depth=4),
    "space_then_time": dataclasses.replace(VIDEO, attention_pattern="space_then_time", depth=4),
    "factorised cross": dataclasses.replace(VIDEO, conditioning="cross"),
    "interleaved adaln": dataclasses.replace(
        VIDEO, attention_pattern="interleaved", depth=4, conditioning="adaln"
    ),
    "factorised text causal": dataclasses.replace(VIDEO, text_width=5, causal=True),
}


def inputs(frames):
    """24 frames, so that operations of both networks have the same shapes, compiled once."""
    rng, batch = np.random.default_rng(frames), 24 // frames
    z = rng.normal(size=(batch, frames, 4, 4, 2)).astype(np.float32)
    return z, rng.uniform(0, 1000, batch).astype(np.float32), np.arange(batch, dtype=np.int32) % 4


@functools.cache
def started(config):
    """Random parameters of images, and the tree of the videos that starts with them."""
    has_own_blocks = config.attention_pattern in ("interleaved", "space_then_time")
    depth = config.depth // 2 if has_own_blocks else config.depth
    image = dataclasses.replace(IMAGE, conditioning=config.conditioning, depth=depth)
    z, time, label = inputs(1)
    params = randomised(shapes(image, z[:, 0], time, label))
    # Random values, but where parts start with zeros by themselves: attention to texts.
    given = inputs(1)
    own = initial(config, *given) if config.text_width else randomised(shapes(config, *given))
    return image, params, video_from_image_params(params, own, config)


@pytest.mark.parametrize("name", VIDEOS)
def test_frames_are_predicted_as_images_bit_by_bit(name):
    """Beside the frames as a batch of images: sums depend on how many rows a matrix has."""
    config = VIDEOS[name]
    image, params, video = started(config)
    with jax.disable_jit():
        for frames in (1, 3, 8) if name == "factorised" else (3,):
            z, time, label = inputs(frames)
            found = config.make_model().apply({"params": video}, z, time, label)
            images = z.reshape(-1, *z.shape[2:]), np.repeat(time, frames), np.repeat(label, frames)
            own = image.make_model().apply({"params": params}, *images)
            assert abs(np.asarray(own)).max() > 0.1
            if config.conditioning == "cross":  # tokens of all frames ask, not frame by frame
                np.testing.assert_allclose(found.reshape(own.shape), own, atol=3e-6)
            else:
                np.testing.assert_array_equal(found.reshape(own.shape), own)


def test_temporal_parts_get_gradients():
    """Not two zeros in one product: whatever is new moves after two updates."""
    z, time, label = inputs(3)
    for name in ("factorised", "interleaved adaln"):
        config = dataclasses.replace(VIDEOS[name], depth=VIDEOS[name].depth // 2)
        _, _, params = started(config)
        new = "time_attention" if name == "factorised" else "attention"
        block = "blocks_0" if name == "factorised" else "blocks_1"

        def loss(params, config=config):
            return (config.make_model().apply({"params": params}, z, time, label) ** 2).mean()

        step = jax.jit(lambda p: jax.tree.map(lambda x, g: x - 0.1 * g, p, jax.grad(loss)(p)))
        later = step(step(params))
        for leaf in ("qkv", "output"):
            before, after = (tree[block][new][leaf]["kernel"] for tree in (params, later))
            assert abs(after - before).max() > 0


def test_what_cannot_leave_frames_alone_is_refused():
    _, params, _ = started(VIDEO)
    own = randomised(shapes(VIDEO, *inputs(1)))
    for change, message in (
        ({"attention_pattern": "split_heads"}, "attention_pattern is 'split_heads', expected ano"),
        ({"time_waves": "tokens"}, "time_waves is 'tokens', expected 'time_attention'"),
        ({"depth": 1}, "blocks_1/.* of the images has no place in the video network"),
    ):
        config = dataclasses.replace(VIDEO, **change)
        tree = {k: v for k, v in own.items() if k != "blocks_1"} if "depth" in change else own
        with pytest.raises(InputError, match=message):
            video_from_image_params(params, tree, config)
    wide = dataclasses.replace(VIDEO, width=32)
    with pytest.raises(InputError, match=r"has shape .* expected .* as in the video network"):
        video_from_image_params(params, randomised(shapes(wide, *inputs(1))), wide)
