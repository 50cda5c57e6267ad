"""Decoding of a small recurrent network: greedy, nucleus and beam search against numpy."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.errors import InputError
from jaxgen.nn.attention import SelfAttention
from jaxgen.nn.decoding import Decoding, nucleus, write_texts
from jaxgen.nn.key_values import KeyValues
from jaxgen.nn.written_texts import Marks, Prompt

V, D, L, B, START, END, PAD = 4, 6, 5, 6, 1, 2, 0
MARKS = Marks(END, PAD)
RNG = np.random.default_rng(0)
TABLE, WEIGHTS, OUTPUT = (RNG.normal(size=s).astype(np.float32) for s in ((V, D), (D, D), (D, V)))
PLACES = RNG.normal(size=(L, D)).astype(np.float32)
STATES = RNG.normal(size=(B, D)).astype(np.float32)


def step(state_BD, ids_B, place):
    """A network whose logits depend on all tokens so far and on where they stand."""
    table, places = jnp.asarray(TABLE), jnp.asarray(PLACES)
    state_BD = jnp.tanh(state_BD @ WEIGHTS + table[ids_B] + places[place])
    return 0.4 * state_BD @ OUTPUT, state_BD


def log_p_after(state_D, tokens):
    """Of the next token after some, in float64."""
    for place, token in enumerate(tokens):
        state_D = np.tanh(state_D @ WEIGHTS.astype(np.float64) + TABLE[token] + PLACES[place])
    logits_V = 0.4 * state_D @ OUTPUT
    return logits_V - np.log(np.exp(logits_V).sum())


def written(state_D, tokens, given):
    """Log p of what was not given."""
    places = [i for i in range(1, len(tokens)) if i >= given]
    return sum(log_p_after(state_D, tokens[:i])[tokens[i]] for i in places)


run = functools.partial(jax.jit, static_argnames="how")(
    lambda prompt, how, key_B=None: write_texts(
        step, jnp.asarray(STATES)[: len(prompt.ids_BL)], prompt, MARKS, how, key_B
    )
)


def of_prompts(*prompts):
    """Beginnings of texts, each of any length."""
    ids_BL = np.array([[*p, *[3] * (L - len(p))] for p in prompts], np.int32)
    return Prompt(ids_BL, np.arange(L) < np.array([[len(p)] for p in prompts]))


PROMPTS = [[START], [START, 3], [START, END, 0], [START, 3, 3, 0, 1], [START], [START, 1]]
PROMPT = of_prompts(*PROMPTS)


def texts(decoded):
    """Tokens without padding; what follows is padding alone."""
    found = []
    for ids_L, mask_L in zip(np.asarray(decoded.ids_BL), np.asarray(decoded.mask_BL), strict=True):
        count = mask_L.sum()
        assert mask_L[:count].all()
        assert not np.any(ids_L[count:] != PAD)
        found.append(ids_L[:count].tolist())
    return found


def test_greedy_takes_the_likeliest_token_and_keeps_what_is_given():
    found = run(PROMPT, Decoding())
    for b, (prompt, text) in enumerate(zip(PROMPTS, texts(found), strict=True)):
        expected = list(prompt)
        while len(expected) < L and (len(expected) == len(prompt) or expected[-1] != END):
            expected.append(int(log_p_after(STATES[b], expected).argmax()))
        assert text == expected
        total = written(STATES[b], text, len(prompt))
        np.testing.assert_allclose(found.log_p_B[b], total, rtol=1e-4, atol=1e-5)
    assert any(text[-1] == END and len(text) < L for text in texts(found))


def all_texts(prompt):
    """Each text that ends, or fills the room."""
    for rest in itertools.product(range(V), repeat=L - len(prompt)):
        if END not in rest[:-1]:
            yield [*prompt, *rest]
    for count in range(1, L - len(prompt)):
        for rest in itertools.product(set(range(V)) - {END}, repeat=count - 1):
            yield [*prompt, *rest, END]


@pytest.mark.parametrize("power", [0.0, 1.0])
def test_beam_search_with_room_for_all_is_exhaustive(power):
    """81 texts of four tokens without an end, and fewer that have one."""
    found = run(PROMPT, Decoding("beam", beams=108, length_power=power))
    greedy = run(PROMPT, Decoding())
    better = 0
    for b, (prompt, text) in enumerate(zip(PROMPTS, texts(found), strict=True)):
        scores = {
            tuple(each): written(STATES[b], each, len(prompt))
            / max(len(each) - len(prompt), 1) ** power
            for each in all_texts(prompt)
        }
        assert tuple(text) == max(scores, key=scores.get)
        total = written(STATES[b], text, len(prompt))
        np.testing.assert_allclose(found.log_p_B[b], total, rtol=1e-4, atol=1e-5)
        better += texts(greedy)[b] != text
    assert better


def reference_beams(state_D, prompt, beams, power):
    """Beam search by lists: of 2 K grown texts those that end, and the K best others."""
    going, finished = [(0.0, list(prompt))], []

    def score(text):
        return text[0] / max(len(text[1]) - len(prompt), 1) ** power

    for _ in range(len(prompt), L):
        grown = [
            (total + gain, [*text, token])
            for total, text in going
            for token, gain in enumerate(log_p_after(state_D, text))
        ]
        grown = sorted(grown, reverse=True)[: 2 * beams]
        finished += [text for text in grown if text[1][-1] == END]
        finished = sorted(finished, key=score, reverse=True)[:beams]
        going = [text for text in grown if text[1][-1] != END][:beams]
    return max(finished + going, key=score)[1]


def test_few_beams_are_those_of_lists():
    for beams, power in ((1, 0.0), (2, 1.0), (3, 0.6)):
        found = texts(run(PROMPT, Decoding("beam", beams=beams, length_power=power)))
        expected = [reference_beams(STATES[b], p, beams, power) for b, p in enumerate(PROMPTS)]
        assert found == expected


def test_the_nucleus_is_the_smallest_set():
    p_BV = np.array([[0.5, 0.3, 0.15, 0.05], [0.05, 0.15, 0.2, 0.6]], np.float32)
    inside = jax.jit(lambda log_p, top_p: jnp.isfinite(nucleus(log_p, top_p)))
    for top_p, counts in (
        (0.4, (1, 1)),
        (0.55, (2, 1)),
        (0.79, (2, 2)),
        (0.9, (3, 3)),
        (1, (4, 4)),
    ):
        found = np.asarray(inside(np.log(p_BV), top_p))
        np.testing.assert_array_equal(found.sum(axis=1), counts)
        for row, p in zip(found, p_BV, strict=True):
            assert p[row].min() > p[~row].max(initial=0)
    equal = np.full((1, 8), 1 / 8, np.float32)
    np.testing.assert_array_equal(inside(np.log(equal), 0.3), np.arange(8)[None] < 3)


def test_nucleus_sampling_has_the_frequencies_of_numpy():
    """The second token of 4,000 texts, and the third behind the likeliest second."""
    how = Decoding("nucleus", top_p=0.8, temperature=0.7)
    count = 4000
    key_B = jax.random.split(jax.random.key(3, impl="rbg"), count)
    states = jnp.broadcast_to(STATES[0], (count, D))
    draw = jax.jit(lambda p, k: write_texts(step, states, p, MARKS, how, k))
    found = draw(Prompt.first(count, 4, START), key_B)
    ids_BL = np.asarray(found.ids_BL)

    def expected(tokens):
        log_p_V = log_p_after(STATES[0], tokens) / how.temperature
        p_V = np.exp(log_p_V) / np.exp(log_p_V).sum()
        order = np.argsort(-p_V)
        kept = order[: 1 + np.searchsorted(np.cumsum(p_V[order]), how.top_p)]
        return np.where(np.isin(np.arange(V), kept), p_V, 0) / p_V[kept].sum()

    def compare(tokens, drawn):
        share_V, p_V = np.bincount(drawn, minlength=V) / len(drawn), expected(tokens)
        assert np.all(share_V[p_V == 0] == 0)
        assert 0 < np.sum(p_V == 0) < V
        deviation_V = np.sqrt(p_V * (1 - p_V) / len(drawn))
        assert np.all(np.abs(share_V - p_V) < 4 * deviation_V + 1e-9)

    compare([START], ids_BL[:, 1])
    likeliest = int(np.bincount(ids_BL[:, 1][ids_BL[:, 1] != END], minlength=V).argmax())
    compare([START, likeliest], ids_BL[ids_BL[:, 1] == likeliest, 2])


def test_a_text_depends_on_its_key_alone():
    how = Decoding("nucleus", top_p=1.0)
    key_B = jax.random.split(jax.random.key(0), B)
    both = run(of_prompts(*[[START]] * B), how, key_B)
    first = run(of_prompts(*[[START]] * 2), how, key_B[:2])
    np.testing.assert_array_equal(first.ids_BL, both.ids_BL[:2])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Decoding("best"), "method is 'best', expected one of"),
        (lambda: Decoding(beams=0), "beams is 0, expected 1 or more"),
        (lambda: Decoding(top_p=0.0), "top_p is 0.0, expected 0 < top_p <= 1"),
        (lambda: Decoding(temperature=0.0), "temperature is 0.0, expected a finite number > 0"),
        (lambda: Decoding(length_power=-1.0), "length_power is -1.0, expected 0 or more"),
        (lambda: run(PROMPT, Decoding("nucleus")), "key_B is None, expected one key for each"),
        (
            lambda: write_texts(step, STATES, Prompt(np.zeros((B, 1)), np.ones((B, 1))), MARKS),
            r"a prompt has ids \(6, 1\) and given ones \(6, 1\), expected \[B, L\]",
        ),
    ],
)
def test_invalid_options(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_earlier_tokens_come_without_other_rules():
    layer, x_BLD = SelfAttention(2, causal=True), jnp.zeros((1, 2, 4))
    past, ids_BL = KeyValues.empty(1, 3, 2, 2, "float32"), jnp.zeros((1, 2), int)
    with pytest.raises(InputError, match="segment ids, a bias or views are given with earlier"):
        layer.init(jax.random.key(0), x_BLD, segments_BL=ids_BL, past=past)
