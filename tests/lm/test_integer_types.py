"""One text, whatever integers it is kept in: every function that takes ids gives the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.data import Corpus, Vocabulary, windows_at
from jaxgen.errors import InputError
from jaxgen.lm import perplexity, span_probabilities
from jaxgen.lm.classes.class_merging import merge_classes
from jaxgen.lm.classes.clustering import (
    class_bigram_log_likelihood,
    class_bigrams,
    exchange_clustering,
    frequency_classes,
)
from jaxgen.lm.contexts import windows
from jaxgen.lm.generate import generate, make_generator, restrict
from jaxgen.lm.mixture import FrequencyBins, fit_mixture, learn_weights, mix
from jaxgen.lm.network import NetworkModel
from jaxgen.lm.ngram import (
    BackoffModel,
    count_ngrams,
    fit_class_model,
    fit_interpolated,
    fit_kneser_ney,
)
from jaxgen.lm.ngram.interpolation_weights import frequency_bins
from jaxgen.lm.nplm import NPLMConfig
from jaxgen.lm.outputs.oov import context_weights
from jaxgen.lm.outputs.short_list import tail_probabilities
from jaxgen.lm.outputs.word_tree import class_tree, tree_from_merges
from jaxgen.lm.word_maps import nearest_words, neighbours, word_map

TYPES = (*(np.int8, np.int16, np.int32), *(np.uint8, np.uint16, np.uint32, np.uint64))
WORDS = 12
TEXT = np.random.default_rng(0).zipf(1.6, 600).clip(max=WORDS) - 1
CLASSES = np.arange(WORDS) % 3
pytestmark = pytest.mark.filterwarnings("ignore:Kneser-Ney discounts")


def flat(result):
    """All the arrays of a result."""
    return [np.asarray(leaf) for leaf in jax.tree.leaves(result)]


def ngram_results(text, classes):
    counts = count_ngrams(text[:400], 3, WORDS)
    bins = FrequencyBins(counts.context_frequencies, counts.tokens)
    trigram, bigram = fit_kneser_ney(counts), fit_kneser_ney(counts.up_to(2))
    interpolated = fit_interpolated(counts, text, 400, 500)
    mixture = fit_mixture([bigram, interpolated], text, 400, 500, bins)
    ngrams, *logs = trigram.tables()
    again = BackoffModel.from_tables([rows.astype(text.dtype) for rows in ngrams], *logs, WORDS)
    contexts, targets = windows(text, 3, 500, 600), text[500:]
    by_class = fit_class_model(text[:400], classes, 2)
    return {
        "windows": windows(text, 4, 0, 9),
        "windows_at": windows_at(text, np.arange(3, 40).astype(text.dtype), 4),
        "counts": [counts.counts, counts.totals, [index.keys for index in counts.indexes]],
        "frequencies": counts.context_frequencies(np.stack([text[:-1], text[1:]], axis=1)),
        "bins": frequency_bins(text, 600),
        "perplexity": perplexity(trigram, text, 0, 600),
        "from_tables": span_probabilities(again, text, 400, 600),
        "mixture": [mixture.weight_CJ, span_probabilities(mixture, text, 500, 600)],
        "mix": mix(
            np.tile([[0.2, 0.4]], (len(classes), 1)),
            learn_weights(np.tile([[0.2, 0.4]], (len(classes), 1)), classes, 3),
            classes,
        ),
        "class model": span_probabilities(by_class, text, 400, 600),
        "targets": trigram.probabilities(contexts, targets),
        "text": generate(mixture, text[:5], 30, 1, forbid=text[:1]),
        "restrict": restrict(np.full(WORDS, 1 / WORDS), forbid=text[:2]),
        "short list": tail_probabilities(bigram, 2, contexts[targets >= 2], targets[targets >= 2]),
    }


def class_results(text, classes):
    clustering = exchange_clustering(text, WORDS, 3, sweeps=3)
    tree = class_tree(text, classes)
    merges = np.array([[0, 1], [2, 3]]).astype(text.dtype)
    features = np.random.default_rng(1).normal(size=(WORDS, 3))
    return {
        "clusters": [clustering.classes_V, clustering.log_likelihoods],
        "frequency classes": frequency_classes(text, WORDS, 4),
        "likelihood": class_bigram_log_likelihood(text, classes),
        "bigrams": class_bigrams(text, classes, 3),
        "merges": merge_classes(class_bigrams(text[:90], classes, 3).astype(text.dtype)),
        "tree": [tree.paths_VD, tree.bits_VD, tree.lengths_V],
        "from merges": tree_from_merges(merges).paths_VD,
        "neighbours": neighbours(features, classes, 2),
        "excluded": nearest_words(features, features[classes], 2, classes),
        "map": word_map(features, list("abcdefghijkl"), 5, text[:2]).points_N2,
    }


@pytest.mark.parametrize("results_of", [ngram_results, class_results])
def test_all_types_are_one_text(results_of, tmp_path):
    expected = results_of(TEXT.astype(np.int64), CLASSES.astype(np.int64))
    texts = [(TEXT.astype(dtype), CLASSES.astype(dtype)) for dtype in TYPES]
    TEXT.astype(np.uint16).tofile(tmp_path / "text.bin")
    texts.append((np.memmap(tmp_path / "text.bin", np.uint16, "r"), texts[-1][1]))
    for text, classes in texts:
        text.setflags(write=False)
        results = results_of(text, classes)
        for name, result in results.items():
            for got, wanted in zip(flat(result), flat(expected[name]), strict=True):
                np.testing.assert_array_equal(got, wanted, err_msg=f"{name}, {text.dtype}")


def test_a_network_reads_every_type():
    config = NPLMConfig(WORDS, order=3, features=2, hidden=3)
    network = config.make_model()
    params = network.init(jax.random.key(0), jnp.zeros((1, 2), jnp.int32))["params"]
    params = jax.tree.map(lambda x: x.unbox(), params, is_leaf=lambda x: hasattr(x, "unbox"))
    model, write = NetworkModel(network, params), make_generator(network, params, 3, forbid=[0])
    expected = span_probabilities(model, TEXT, 2, 40)
    texts = write(TEXT[None, :2], jax.random.key(1))
    for dtype in TYPES:
        text = TEXT.astype(dtype)
        np.testing.assert_array_equal(span_probabilities(model, text, 2, 40), expected)
        np.testing.assert_array_equal(write(text[None, :2], jax.random.key(1)), texts)
    for prompt, fault in (
        ("the cat", "contexts have shape"),
        ([[0.0, 1.0]], "contexts have type float64, expected integer ids"),
        ([[True, False]], "contexts have type bool, expected integer ids"),
    ):
        with pytest.raises(InputError, match=fault):
            write(prompt, jax.random.key(1))
    expected = context_weights(config, params, [TEXT[None, :2]])
    found = context_weights(config, params, [TEXT[None, :2].astype(np.uint8)])
    np.testing.assert_array_equal(found, expected)
    for contexts in (["the cat"], "the cat", [[[0.0, 1.0]]]):
        with pytest.raises(InputError, match=r"contexts .*, expected integer ids"):
            context_weights(config, params, contexts)
    with pytest.raises(InputError, match="words have type float32, expected integer ids"):
        network.apply({"params": params}, jnp.zeros((1, 2)))


def test_a_corpus_of_any_type():
    vocabulary = Vocabulary(tuple("abcdefghijkl"))
    for dtype in TYPES:
        corpus = Corpus("c", vocabulary, TEXT.astype(dtype), {"train": (0, 600)})
        assert corpus.tokens.dtype == np.int32
        np.testing.assert_array_equal(corpus.tokens, TEXT)
    for tokens, fault in (
        (TEXT + 1, r"c: tokens contain the id 12, expected ids in \[0, 12\)"),
        (TEXT - 1, r"c: tokens contain the id -1"),
        (TEXT * 1.0, "c: tokens have type float64, expected integer ids"),
        (TEXT > 0, "c: tokens have type bool, expected integer ids"),
        (TEXT[None], r"c: tokens have shape \(1, 600\)"),
        ("the cat", "c: tokens are the string 'the cat'"),
    ):
        with pytest.raises(InputError, match=fault):
            Corpus("c", vocabulary, tokens, {"train": (0, 600)})


def test_what_is_no_text_is_refused_everywhere():
    counts = count_ngrams(TEXT, 2, WORDS)
    model = fit_kneser_ney(counts)
    takers = {
        "windows": lambda text: windows(text, 2, 0, 2),
        "counts": lambda text: count_ngrams(text, 2, WORDS),
        "spans": lambda text: span_probabilities(model, text, 0, 2),
        "interpolated": lambda text: fit_interpolated(counts, text, 0, 2),
        "classes": lambda text: fit_class_model(text, CLASSES, 2),
        "clusters": lambda text: exchange_clustering(text, WORDS, 3),
        "tree": lambda text: class_tree(text, CLASSES),
        "prompt": lambda text: generate(model, text, 2, 0),
        "forbid": lambda text: generate(model, [1], 2, 0, forbid=text),
        "mixture": lambda text: fit_mixture([model], text, 0, 2),
        "decode": Vocabulary(tuple("abcdefghijkl")).decode,
        "neighbours": lambda text: neighbours(np.ones((3, 2)), text, 1),
    }
    for name, take in takers.items():
        for text in ("the cat", b"the cat", [0.0, 1.0, 2.0], [True, False, True], ["a", "b", "c"]):
            with pytest.raises(InputError, match="integer ids") as caught:
                take(text)
            assert "\n" not in str(caught.value), name
