"""Weights in brackets."""

import numpy as np
import pytest

from jaxgen.data.tokenizers import encode_weighted, parse_weights, train_tokenizer


@pytest.mark.parametrize(
    ("prompt", "parts"),
    [
        ("", []),
        ("a red cube", [("a red cube", 1)]),
        ("a (red:1.3) cube", [("a ", 1), ("red", 1.3), (" cube", 1)]),
        ("a (red) [cube]", [("a ", 1), ("red", 1.1), (" ", 1), ("cube", 1 / 1.1)]),
        ("((red))", [("red", 1.1**2)]),
        ("(a (red:2) cube:0.5)", [("a ", 0.5), ("red", 1), (" cube", 0.5)]),
        ("(red: -0.5 )", [("red", -0.5)]),
        (r"\(red\) [a\]]", [("(red) ", 1), ("a]", 1 / 1.1)]),
        ("a\\b \\\\c\\", [("ab \\c", 1)]),
        ("at 12:30, ratio 1:2", [("at 12:30, ratio 1:2", 1)]),
        ("a (red cube", [("a ", 1), ("red cube", 1.1)]),
        ("(red:1.0)(cube)", [("red", 1), ("cube", 1.1)]),
        ("(red:5.) (cube:.5)", [("red", 5), (" ", 1), ("cube", 0.5)]),
        ("a smile :) at 12:30)", [("a smile :) at 12:30)", 1)]),
        ("red] [cube:2)", [("red] ", 1), ("cube:2)", 1 / 1.1)]),
        ("(red :) cube)", [("red :", 1.1), (" cube)", 1)]),
        ("(a [red) cube]", [("a ", 1.1), ("red", 1), (" cube", 1 / 1.1)]),
    ],
)
def test_parts(prompt, parts):
    found = parse_weights(prompt)
    assert [text for text, _ in found] == [text for text, _ in parts]
    assert [weight for _, weight in found] == pytest.approx([weight for _, weight in parts])


def test_weights_of_tokens():
    texts = ["a red cube on a ball"]
    for kind, size in (("words", 20), ("bpe", 520), ("unigram", 30)):
        tokenizer = train_tokenizer(texts, size, kind, length=40)
        tokenized, weights = encode_weighted(tokenizer, ["a (red:1.5) cube on a [ball]", "a cube"])
        assert tokenized.texts == ("a red cube on a ball", "a cube")
        np.testing.assert_array_equal(tokenized.ids, tokenizer.encode(tokenized.texts).ids)
        assert weights.dtype == np.float32
        expected = np.ones_like(weights)
        expected[0, tokenized.positions(0, "red")] = 1.5
        expected[0, tokenized.positions(0, "ball")] = 1 / 1.1
        np.testing.assert_allclose(weights, expected, rtol=1e-6)
