"""Encoding and decoding in chunks: equal to the whole, in memory that does not grow."""

import numpy as np
import pytest
from causal_networks import CASES, SMALL, clip, programs

from jaxgen.compressors.causal_autoencoder import CausalAutoencoderConfig
from jaxgen.compressors.streaming import (
    jitted_stream_step,
    latent_chunks,
    stream_bytes,
    stream_chunks,
    stream_step,
    video_chunks,
)
from jaxgen.errors import InputError


@pytest.mark.parametrize("name", CASES)
def test_chunks_give_what_the_whole_gives(name):
    config = CASES[name]
    params, encode, decode = programs(name)
    video = clip(config)
    h = encode(params, video)
    z = h[..., : config.latent_channels]
    x = decode(params, z)
    found = np.concatenate(
        list(stream_chunks(config, params, video_chunks(video, config), "encode")), axis=1
    )
    np.testing.assert_allclose(found, h, atol=1e-5 * np.abs(h).max())
    found = np.concatenate(list(stream_chunks(config, params, latent_chunks(z), "decode")), axis=1)
    np.testing.assert_allclose(found, x, atol=1e-5 * np.abs(x).max())


def test_chunks_of_any_lengths_and_one_compiled_step():
    config = CASES["first_frame"]
    params, encode, _ = programs("first_frame")
    video = clip(config)
    h = encode(params, video)
    step = jitted_stream_step(config, "encode")
    for _ in stream_chunks(config, params, video_chunks(video, config), "encode"):
        pass
    assert step._cache_size() == 2  # the first chunk, and all later ones
    # A first chunk of one latent, then two; of two, then one.
    for cut in (1, 3):
        cuts = np.split(video, [cut], axis=1)
        found = np.concatenate(list(stream_chunks(config, params, cuts, "encode")), axis=1)
        np.testing.assert_allclose(found, h, atol=1e-5 * np.abs(h).max())
    sizes = [chunk.shape[1] for chunk in video_chunks(clip(config, latents=9), config, 3)]
    assert sizes == [1, 6, 6, 4]


@pytest.mark.parametrize("way", ["encode", "decode"])
def test_memory_does_not_depend_on_the_length(way):
    small = {"width": 16, "blocks": 1, "decoder_blocks": 1, "shortcut": False}
    config = CausalAutoencoderConfig.patch_first(**small)
    found = [stream_bytes(config, (frames, 32, 32), way) for frames in (17, 257)]
    assert len({each.chunk for each in found}) == 1
    whole = [each.whole for each in found]
    assert whole[0] < whole[1] / 4
    assert found[-1].chunk < whole[-1] / 4
    print([(each.whole, each.chunk) for each in found])


def test_what_is_wrong_with_chunks_is_named():
    config = CASES["first_frame"]
    params, _, _ = programs("first_frame")
    video = clip(config, latents=3)
    state, _ = jitted_stream_step(config, "encode")(params, None, video[:, :1])
    with pytest.raises(InputError, match="a later chunk has 3 frames, expected a multiple of 2"):
        stream_step(config, params, state, video[:, 1:4], "encode")
    with pytest.raises(InputError, match="4 x 5 pixels, expected multiples of 2 x 2"):
        stream_step(config, params, state, np.zeros((1, 2, 4, 5, 3), np.float32), "encode")
    z = np.zeros((2, 1, 3, 2, config.latent_channels), np.float32)
    with pytest.raises(InputError, match="the state has encoder, expected decoder"):
        stream_step(config, params, state, z, "decode")
    with pytest.raises(InputError, match=r"a chunk has shape \(2, 6, 4, 3\), expected"):
        stream_step(config, params, None, video[:, 0], "encode")
    with pytest.raises(InputError, match="way is 'both', expected 'encode' or 'decode'"):
        stream_step(config, params, None, video[:, :1], "both")
    with pytest.raises(InputError, match=r"4 frames, expected 1 \+ 2 k"):
        video_chunks(video[:, :4], config)
    with pytest.raises(InputError, match="0 latent frames, expected 1 or more"):
        latent_chunks(video, 0)


def test_the_first_chunk_has_a_frame_at_least():
    config = CausalAutoencoderConfig(**SMALL)
    params, _, _ = programs("wan")
    with pytest.raises(InputError, match="0 frames, expected"):
        stream_step(config, params, None, np.zeros((1, 0, 4, 4, 3), np.float32), "encode")
