"""Text from language models, in numpy and on the device: the same rules, told apart by supports."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
import scipy.stats
from placed_params import initial_params, layout_on

from jaxgen.errors import InputError
from jaxgen.lm.contexts import NO_WORD
from jaxgen.lm.generate import generate, make_generator, restrict
from jaxgen.lm.network import NetworkModel
from jaxgen.lm.nplm import NPLMConfig
from jaxgen.lm.outputs.short_list import ShortListConfig
from jaxgen.parallel import make_mesh

V = 9


@dataclasses.dataclass(frozen=True)
class Chain:
    """A bigram model with given rows; row -1 is for no word."""

    rows: np.ndarray
    order: int = 2
    vocabulary_size: int = V

    def distributions(self, contexts_NL):
        return self.rows[contexts_NL[:, -1]]

    def probabilities(self, contexts_NL, targets_N):
        return self.distributions(contexts_NL)[np.arange(len(targets_N)), targets_N]


RNG = np.random.default_rng(0)
CHAIN = Chain(RNG.dirichlet(np.ones(V), size=V + 1))


def by_hand(p, temperature=1.0, top_k=None, top_p=None, forbid=()):
    """The rules on one distribution, word by word."""
    p = {w: x for w, x in enumerate(p) if w not in forbid and x > 0}
    ranked = sorted(p, key=lambda w: (-p[w], w))
    if top_k is not None:
        ranked = [w for w in ranked if p[w] >= p[ranked[min(top_k, len(ranked)) - 1]]]
    if temperature == 0:
        return {ranked[0]: 1.0}
    q = {w: p[w] ** (1 / temperature) for w in ranked}
    q = {w: x / sum(q.values()) for w, x in q.items()}
    if top_p is not None:
        mass, kept = 0.0, []
        for w in ranked:
            if kept and mass >= top_p and q[w] < q[kept[-1]]:
                break
            kept.append(w)
            mass += q[w]
        q = {w: q[w] / sum(q[w] for w in kept) for w in kept}
    return q


OPTIONS = [
    {},
    {"temperature": 0.5},
    {"temperature": 3.0},
    {"temperature": 0.0},
    {"top_k": 3},
    {"top_p": 0.6},
    {"top_p": 0.0},
    {"forbid": (0, 4)},
    {"temperature": 2.0, "top_k": 5, "top_p": 0.7, "forbid": (1,)},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_restrict_follows_the_rules(options):
    q_NV = restrict(CHAIN.rows, **options)
    np.testing.assert_allclose(q_NV.sum(1), 1, rtol=1e-12)
    for p, q in zip(CHAIN.rows, q_NV, strict=True):
        expected = np.zeros(V)
        for w, x in by_hand(p, **options).items():
            expected[w] = x
        np.testing.assert_allclose(q, expected, rtol=1e-9, atol=1e-15)


def test_ties_and_zeros():
    p = np.array([0.1, 0.2, 0.2, 0.2, 0.3, 0.0])
    assert np.flatnonzero(restrict(p, top_k=2)).tolist() == [1, 2, 3, 4]
    assert np.flatnonzero(restrict(p, top_p=0.4)).tolist() == [1, 2, 3, 4]
    assert np.flatnonzero(restrict(p, temperature=0, forbid=(4,))).tolist() == [1]
    assert np.flatnonzero(restrict(p, top_k=6)).tolist() == [0, 1, 2, 3, 4]
    # Very cold is finite, and nearly the arg-max.
    np.testing.assert_allclose(restrict(p, temperature=1e-3)[4], 1, rtol=1e-12)
    assert restrict(np.stack([p, p]), top_k=1).shape == (2, 6)


def test_frequencies_are_those_of_the_chain():
    """Transitions out of the most frequent word, chi-square at the 0.1 % level."""
    text = generate(CHAIN, [0], 6000, seed=1)
    assert text.dtype == np.int32
    word = np.bincount(text).argmax()
    following = text[1:][text[:-1] == word]
    counts = np.bincount(following, minlength=V)
    assert scipy.stats.chisquare(counts, counts.sum() * CHAIN.rows[word]).pvalue > 1e-3


def test_a_seed_writes_one_text():
    text = generate(CHAIN, [3, 5], 40, seed=7, top_k=4)
    assert np.array_equal(text, generate(CHAIN, np.array([3, 5]), 40, seed=7, top_k=4))
    assert not np.array_equal(text, generate(CHAIN, [3, 5], 40, seed=8, top_k=4))
    # The beginning does not depend on how much is asked for; a run can be watched.
    calls = []
    assert np.array_equal(text[:9], generate(CHAIN, [5], 9, seed=7, top_k=4, progress=calls.append))
    assert calls == [1] * 9


def test_contexts_reach_back_into_the_prompt_and_no_further():
    @dataclasses.dataclass(frozen=True)
    class Recorder(Chain):
        seen: list = dataclasses.field(default_factory=list)

        def distributions(self, contexts_NL):
            self.seen.append(contexts_NL[0].tolist())
            return np.eye(V)[(contexts_NL[:, -1] + 1) % V]

    model = Recorder(CHAIN.rows, order=4)
    assert generate(model, [5, 6], 3, seed=0).tolist() == [7, 8, 0]
    assert model.seen == [[NO_WORD, 5, 6], [5, 6, 7], [6, 7, 8]]
    unigram = Recorder(CHAIN.rows[0], order=1)
    with pytest.raises(IndexError):  # this one looks at a word that it must not be given
        generate(unigram, [5, 6], 1, seed=0)
    assert generate(CHAIN, [], 5, seed=0).shape == (5,)
    assert generate(CHAIN, [1], 0, seed=0).shape == (0,)


def test_greedy_and_forbidden():
    text = generate(CHAIN, [2], 30, seed=0, temperature=0)
    words = [2]
    for _ in range(30):
        words.append(int(CHAIN.rows[words[-1]].argmax()))
    assert text.tolist() == words[1:]
    assert not np.isin(generate(CHAIN, [2], 500, seed=0, forbid=(0, 5)), (0, 5)).any()


CONFIG = NPLMConfig(vocabulary_size=V, order=3, features=4, hidden=6, direct=True)
PROMPTS = RNG.integers(0, V, (4, 2), dtype=np.int32)


@functools.cache
def network(config=CONFIG, mesh=None):
    params = initial_params(config, scale=12)
    if mesh is not None:
        params = jax.device_put(params, layout_on(mesh, config).shardings)
    return config.make_model(), params


@pytest.mark.parametrize(
    "mesh", [pytest.param("data=2,model=4", marks=pytest.mark.slow), "data=2,fsdp=2,model=2"]
)
def test_texts_do_not_depend_on_the_mesh_or_on_how_many_are_written(mesh):
    key, options = jax.random.key(3), {"top_p": 0.8, "temperature": 1.5, "forbid": (1,)}
    alone = make_generator(*network(), 12, **options)
    text_BN = alone(PROMPTS, key)
    assert text_BN.shape == (4, 12)
    assert text_BN.dtype == np.int32
    assert not np.any(text_BN == 1)
    assert len(np.unique(text_BN, axis=0)) == 4
    assert np.array_equal(text_BN[:1], alone(PROMPTS[:1], key))
    wide = np.concatenate([PROMPTS[::-1], PROMPTS], axis=1)
    assert np.array_equal(text_BN, alone(wide, key))
    assert not np.array_equal(text_BN, alone(PROMPTS, jax.random.key(4)))
    mesh = make_mesh(mesh)
    config = dataclasses.replace(CONFIG, output_blocks=mesh.shape["model"])
    sharded = make_generator(*network(config, mesh), 12, **options)
    assert np.array_equal(text_BN, sharded(PROMPTS, key))
    assert np.array_equal(text_BN[:1], sharded(PROMPTS[:1], key))


@functools.cache
def wrapped():
    return NetworkModel(*network())


def test_greedy_on_the_device_is_greedy_in_numpy():
    found = make_generator(*network(), 15, temperature=0.0)(PROMPTS, jax.random.key(0))
    for prompt, text in zip(PROMPTS, found, strict=True):
        assert generate(wrapped(), prompt, 15, seed=0, temperature=0).tolist() == text.tolist()


@pytest.mark.parametrize("options", [OPTIONS[i] for i in (0, 4, 5, 8)], ids=str)
def test_both_ways_keep_the_same_words(options):
    """First words of 1,500 texts from one prompt: the support and frequencies of `restrict`."""
    prompts = np.repeat(PROMPTS[:1], 1500, axis=0)
    words = make_generator(*network(), 1, **options)(prompts, jax.random.key(5))[:, 0]
    p_V = restrict(wrapped().distributions(PROMPTS[:1])[0], **options)
    counts, support = np.bincount(words, minlength=V), p_V > 0
    assert not counts[~support].any()
    if support.sum() > 1:
        assert scipy.stats.chisquare(counts[support], 1500 * p_V[support]).pvalue > 1e-3


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"temperature": -0.5}, "temperature is -0.5, expected 0 or more"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_k": 0}, r"top_k is 0, expected 1 to \|V\| = 9"),
        ({"top_k": 10}, r"top_k is 10, expected 1 to \|V\| = 9"),
        ({"top_p": 1.1}, "top_p is 1.1, expected 0 <= top_p <= 1"),
        ({"forbid": (9,)}, r"forbid has the id 9, expected some of the ids in \[0, 9\)"),
        ({"forbid": tuple(range(V))}, "forbid has every id"),
        ({"length": -1}, "length is -1, expected 0 or more"),
    ],
    ids=str,
)
def test_options_that_cannot_be_meant(options, fault):
    options = {"length": 3, **options}
    with pytest.raises(InputError, match=fault):
        generate(CHAIN, [0], seed=0, **options)
    with pytest.raises(InputError, match=fault):
        make_generator(*network(), **options)


def test_prompts_that_do_not_fit():
    with pytest.raises(InputError, match="prompt contain the id 9"):
        generate(CHAIN, [9], 3, seed=0)
    with pytest.raises(InputError, match="forbid leaves no word"):
        generate(Chain(np.eye(V)), [2], 3, seed=0, forbid=(2,))
    with pytest.raises(InputError, match="contexts contain -1"):
        generate(wrapped(), [1], 3, seed=0)
    write = make_generator(*network(), 3)
    with pytest.raises(InputError, match=r"prompts contain -1 .* expected 2 words in each"):
        write(np.array([[-1, 2]]), jax.random.key(0))
    with pytest.raises(InputError, match=r"contexts have shape \(1, 1\)"):
        write(np.array([[2]]), jax.random.key(0))
    short = ShortListConfig(**dataclasses.asdict(CONFIG), short_list=4)
    with pytest.raises(InputError, match="predicts 5 ids of 9 words"):
        make_generator(*network(short), 3)
