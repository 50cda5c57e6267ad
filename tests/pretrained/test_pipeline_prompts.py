"""Prompts of pipelines: words that are weighed, several at once, and rescaled guidance."""

import numpy as np
import pytest
from tiny_pipelines import KEY, pipeline, tokenizer

from jaxgen.data.tokenizers import encode_weighted
from jaxgen.encoders import make_encoder
from jaxgen.encoders.word_weights import weigh_states
from jaxgen.errors import InputError

STEPS = 2


def latents(prompt="a red cube", negative="", also=(), **options):
    made = pipeline()
    noise = np.random.default_rng(3).normal(size=(1, 4, 4, 4)).astype(np.float32)
    texts = made.encode([prompt]), made.encode([negative])
    others = [(made.encode([text]), weight) for text, weight in also]
    given = {"steps": STEPS, "guidance_scale": 3.0, **options}
    return np.asarray(made.sample_latents(*texts, KEY, noise, also=others, **given))


def test_words_are_weighed_where_that_is_asked_for():
    made, prompts = pipeline(), ["a (red:1.5) cube", "a [blue] ball"]
    tokens, weights_BL = encode_weighted(tokenizer(), prompts)
    states = make_encoder(*made.encoder)(tokens.ids).states_BLD
    expected = weigh_states(states, weights_BL)
    found = made.encode(prompts, weighted=True)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    plain = made.encode(["a red cube", "a blue ball"])
    np.testing.assert_allclose(states, plain, atol=1e-6)
    assert np.abs(found - plain).max() > 1e-2
    long = "(red:2) cube blue ball red cube blue"
    windows = tokenizer().count_windows([long.replace("(red:2)", "red")])
    whole = made.encode([long], weighted=True, windows=windows)
    tokens, weights_BN = encode_weighted(tokenizer(), [long], windows=windows)
    rows = windows, tokenizer().length
    parts = make_encoder(*made.encoder)(tokens.ids.reshape(rows)).states_BLD
    by_hand = weigh_states(parts, weights_BN.reshape(rows))
    np.testing.assert_allclose(whole[0], by_hand.reshape(whole.shape[1:]), atol=1e-6)
    unopened = made.encode(["a red) cube"], weighted=True)
    np.testing.assert_allclose(unopened, made.encode(["a red) cube"]), atol=1e-6)


def test_several_prompts_add_up():
    """e + g sum_i w_i (e_i - e): the same prompt twice is one with another scale, and so on."""
    alone = latents()
    np.testing.assert_allclose(latents(also=[("a ball", 0.0)]), alone, atol=1e-5)
    twice = latents(also=[("a red cube", 0.5)], guidance_scale=2.0)
    np.testing.assert_allclose(twice, alone, atol=1e-5)
    away = latents(also=[("a red cube", -1.0)])
    np.testing.assert_allclose(away, latents(guidance_scale=0.0), atol=1e-5)
    assert np.abs(latents(also=[("a ball", 1.0)]) - alone).max() > 1e-3
    programs = pipeline()._sampling._cache_size()
    latents("a cube", also=[("a blue ball", 0.3)], guidance_scale=5.0)
    assert pipeline()._sampling._cache_size() == programs


def test_a_call_takes_what_the_steps_take():
    made, also = pipeline(), [("a ball", 0.7), (["a blue cube"], -0.5)]
    noise = np.random.default_rng(3).normal(size=(1, 4, 4, 4)).astype(np.float32)
    found = made(["a (red:1.5) cube"], KEY, weighted=True, also=also, steps=STEPS, noise=noise)
    texts = made.encode(["a (red:1.5) cube"], weighted=True), made.encode([""])
    others = [(made.encode(["a ball"]), 0.7), (made.encode(["a blue cube"]), -0.5)]
    z = made.sample_latents(*texts, KEY, noise, also=others, steps=STEPS)
    expected = np.clip((np.asarray(made.decode(z)) + 1) * 127.5, 0, 255)
    assert np.abs(found - expected).max() <= 0.51


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ({"rescale": 1.5}, "rescale is 1.5, expected 0 <= rescale <= 1"),
        ({"rescale": 0.5, "also": [("a ball", 1)]}, "rescale is 0.5 with 2 prompts, expected 0"),
        ({"also": [(["a", "b"], 1.0)]}, "also has a list of 2 texts, expected a string, or 1"),
    ],
    ids=str,
)
def test_prompts_that_do_not_fit(given, fault):
    with pytest.raises(InputError, match=fault):
        pipeline()(["a red cube"], KEY, steps=STEPS, **given)
