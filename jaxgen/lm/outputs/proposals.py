"""Proposal distributions for importance sampling: interpolated n-grams, drawn from on the device.

For a context c with mixture weights a (Bengio & Senecal 2003, 2008)::

    Q(w | c) = a_0 / V + a_1 p_1(w) + a_2 p_2(w | last word of c) + ... + a_n p_n(w | last n-1)

with relative frequencies p_1 ... p_n of the training part. The uniform part makes Q positive
everywhere, which importance sampling requires. After a context that the training part lacks, the
weight of the orders that it leaves undefined goes to the longest defined one.

A draw costs O(1): choose an order by the weights, then an occurrence of its context at random, and
take the word that follows. Occurrences lie sorted by context in one array, so relative frequencies
need no table of cumulative sums and no alias table. The density of a given word wants its count
after c: a bisection among the words seen after c.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Int32, Key

from jaxgen.errors import InputError
from jaxgen.lm.ngram.counts import NgramCounts, NgramIndex
from jaxgen.lm.ngram.interpolation_weights import frequency_bin_count, frequency_bins


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("orders", "bin_C"),
    meta_fields=("vocabulary_size", "bins"),
)
@dataclasses.dataclass(frozen=True)
class NgramProposal:
    """The tables of Q; mixture weights are an argument, because they follow the network.

    Attributes:
      orders: the tables of p_1 ... p_n.
      bin_C: int32 [contexts + 1], the bin of frequency of each context of n-1 words; the last entry
        is for contexts never seen.
      vocabulary_size: V.
      bins: how many bins of frequency there are, each with mixture weights of its own.
    """

    orders: tuple["OrderTables", ...]
    bin_C: Int32[Array, "C"]
    vocabulary_size: int
    bins: int

    @property
    def order(self) -> int:
        """n."""
        return len(self.orders)


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("first_C", "words_N", "count_N", "first_occurrence_C", "occurrences_T", "longer"),
    meta_fields=("bisections",),
)
@dataclasses.dataclass(frozen=True)
class OrderTables:
    """The n-grams of order k in the order of their contexts (`jaxgen.lm.ngram.counts`).

    Order 1 has every word, those of count 0 too.

    Attributes:
      first_C: int32 [contexts + 1], the first n-gram of each context of k-1 words.
      words_N: int32 [n-grams], the last word of each, rising within a context.
      count_N: int32 [n-grams], how often each occurs.
      first_occurrence_C: int32 [contexts + 1], where each context's occurrences begin.
      occurrences_T: int32 [occurrences], the word that follows each.
      longer: how to find the contexts of k words, or None at the highest order.
      bisections: steps that find a word among those of the context with most of them.
    """

    first_C: Int32[Array, "C"]
    words_N: Int32[Array, "N"]
    count_N: Int32[Array, "N"]
    first_occurrence_C: Int32[Array, "C"]
    occurrences_T: Int32[Array, "T"]
    longer: "LongerContexts | None"
    bisections: int


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("first_C", "words_N"),
    meta_fields=("bisections",),
)
@dataclasses.dataclass(frozen=True)
class LongerContexts:
    """From a context of k-1 words and one more word on the left to the context of k words.

    Attributes:
      first_C: int32 [contexts + 1], the first of the longer contexts that end in each context.
      words_N: int32 [longer contexts], the oldest word of each, rising within a context.
      bisections: steps that find a word.
    """

    first_C: Int32[Array, "C"]
    words_N: Int32[Array, "N"]
    bisections: int


@dataclasses.dataclass(frozen=True)
class ContextState:
    """What Q needs to know of a batch of contexts.

    Attributes:
      nodes: for each order k the number of the context of k-1 words, -1 where never seen, [B].
      weight_BJ: [B, n+1] mixture weights with those of undefined orders moved down.
    """

    nodes: tuple[Int[Array, "B"], ...]
    weight_BJ: Float[Array, "B J"]


def make_proposal(counts: NgramCounts) -> NgramProposal:
    """The tables of the orders that were counted, on the default device.

    Args:
      counts: n-gram counts of the training part, of order 1 or more.

    Raises:
      InputError: where there are more than 2^31 - 1 tokens.
    """
    if counts.tokens > np.iinfo(np.int32).max:
        raise InputError(f"{counts.tokens} tokens, expected fewer than 2^31 for a proposal")
    bin_C = frequency_bins(np.append(counts.totals[-1], 0), counts.tokens)
    orders = tuple(_order_tables(counts, k) for k in range(counts.order))
    bins = frequency_bin_count(counts.tokens)
    if counts.order == 1:  # one context only
        bin_C, bins = np.zeros_like(bin_C), 1
    return NgramProposal(orders, _int32(bin_C), counts.vocabulary_size, bins)


def _order_tables(counts: NgramCounts, length: int) -> OrderTables:
    """The tables of the order whose contexts have this length."""
    index, count_N = counts.indexes[length], counts.counts[length]
    if length == 0:
        index, count_N = _all_words(index, count_N)
    first_C = _starts(index.contexts, counts.contexts.size(length))
    longer = None
    if length + 1 < counts.order:
        trie, parents = counts.contexts, counts.contexts.parents(length + 1)
        start_C = _starts(parents, trie.size(length))
        oldest = trie.keys[length] % counts.vocabulary_size
        longer = LongerContexts(_int32(start_C), _int32(oldest), _bisections(start_C))
    return OrderTables(
        _int32(first_C),
        _int32(index.words),
        _int32(count_N),
        _int32(np.concatenate([[0], np.cumsum(count_N)])[first_C]),
        _int32(np.repeat(index.words, count_N)),
        longer,
        _bisections(first_C),
    )


def _all_words(index: NgramIndex, count_N: np.ndarray) -> tuple[NgramIndex, np.ndarray]:
    """The unigrams with those of count 0, so that a word is its own index."""
    count_V = np.zeros(index.vocabulary_size, np.int64)
    count_V[index.words] = count_N
    return NgramIndex(index.vocabulary_size, np.arange(index.vocabulary_size)), count_V


def _starts(sorted_contexts_N: np.ndarray, contexts: int) -> np.ndarray:
    return np.searchsorted(sorted_contexts_N, np.arange(contexts + 1))


def _int32(x: np.ndarray) -> Int32[Array, "..."]:
    return jnp.asarray(x, jnp.int32)


def _bisections(start_C: np.ndarray) -> int:
    """Halvings after which a range as long as the longest one is empty."""
    return math.ceil(math.log2(int(np.diff(start_C).max(initial=1)) + 1))


def look_up(
    proposal: NgramProposal, contexts_BL: Int[Array, "B L"], mixture_CJ: Float[Array, "bins J"]
) -> ContextState:
    """Finds the contexts and their mixture weights.

    Args:
      proposal: the tables.
      contexts_BL: ids with the nearest word last, at least n-1 columns; -1 for "no word".
      mixture_CJ: [bins, n+1] weights of p_0 ... p_n, each row with sum one.
    """
    node_B = jnp.zeros(contexts_BL.shape[0], jnp.int32)
    nodes = [node_B]
    for k, tables in enumerate(proposal.orders[:-1], start=1):
        assert tables.longer is not None
        longer, word_B = tables.longer, contexts_BL[:, -k]
        found_B = _find(longer.first_C, longer.words_N, longer.bisections, node_B, word_B)
        node_B = jnp.where((node_B >= 0) & (word_B >= 0), found_B, -1)
        nodes.append(node_B)
    # A number -1 reads the last entry of the bins, which is for contexts never seen.
    weight_BJ = mixture_CJ[proposal.bin_C[node_B]]
    for j in range(proposal.order, 1, -1):
        moved_B = jnp.where(nodes[j - 1] < 0, weight_BJ[:, j], 0.0)
        weight_BJ = weight_BJ.at[:, j - 1].add(moved_B).at[:, j].add(-moved_B)
    return ContextState(tuple(nodes), weight_BJ)


def draw(
    proposal: NgramProposal, state: ContextState, key: Key[Array, ""], samples: int
) -> Int32[Array, "B S"]:
    """Independent draws from Q(. | c), ``samples`` for each context.

    Args:
      proposal: the tables.
      state: from `look_up`.
      key: a key of ``jax.random.key``.
      samples: S.

    Returns:
      ids [B, S].
    """
    order_key, occurrence_key = jax.random.split(key)
    weight_BJ = state.weight_BJ
    shape = weight_BJ.shape[0], samples
    # Component j is drawn where u lies in the j-th part of [0, total weight).
    bound_BJ = jnp.cumsum(weight_BJ, axis=1)
    u_BS = jax.random.uniform(order_key, shape) * bound_BJ[:, -1:]
    first_BS = jnp.zeros(shape, jnp.int32)
    stop_BS = jnp.full(shape, proposal.vocabulary_size, jnp.int32)
    component_BS = jnp.zeros(shape, jnp.int32)
    for j, (tables, node_B) in enumerate(zip(proposal.orders, state.nodes, strict=True), start=1):
        mine_BS = (u_BS >= bound_BJ[:, j - 1 : j]) & (node_B >= 0)[:, None]
        component_BS = jnp.where(mine_BS, j, component_BS)
        starts_C = tables.first_occurrence_C
        first_BS = jnp.where(mine_BS, starts_C[node_B][:, None], first_BS)
        stop_BS = jnp.where(mine_BS, starts_C[node_B + 1][:, None], stop_BS)
    place_BS = jax.random.randint(occurrence_key, shape, first_BS, stop_BS)
    ids_BS = place_BS
    for j, tables in enumerate(proposal.orders, start=1):
        word_BS = jnp.take(tables.occurrences_T, place_BS, mode="clip")
        ids_BS = jnp.where(component_BS == j, word_BS, ids_BS)
    return ids_BS


def components(
    proposal: NgramProposal, state: ContextState, ids_BS: Int[Array, "B S"]
) -> Float[Array, "B S J"]:
    """p_0 ... p_n of words after their contexts; zero where an order is undefined.

    ``components @ weights`` is Q, with the weights of `look_up`.
    """
    uniform_BS = jnp.full(ids_BS.shape, 1 / proposal.vocabulary_size, jnp.float32)
    result = [uniform_BS]
    for tables, node_B in zip(proposal.orders, state.nodes, strict=True):
        index_BS = _find(tables.first_C, tables.words_N, tables.bisections, node_B[:, None], ids_BS)
        count_BS = jnp.where(index_BS >= 0, tables.count_N[index_BS], 0)
        starts_C = tables.first_occurrence_C
        total_B1 = (starts_C[node_B + 1] - starts_C[node_B])[:, None]
        seen_BS = (node_B >= 0)[:, None] & (count_BS > 0)
        result.append(jnp.where(seen_BS, count_BS / jnp.maximum(total_B1, 1), 0.0))
    return jnp.stack(result, axis=-1)


def _counts(
    tables: OrderTables, node_B1: Int[Array, "B 1"], ids_BS: Int[Array, "B S"]
) -> Int32[Array, "B S"]:
    """How often the text has each word after its context."""
    index_BS = _find(tables.first_C, tables.words_N, tables.bisections, node_B1, ids_BS)
    return jnp.where(index_BS >= 0, tables.count_N[index_BS], 0)


def _find(
    first_C: Int32[Array, "C"],
    words_N: Int32[Array, "N"],
    bisections: int,
    node: Int[Array, "..."],
    word: Int[Array, "..."],
) -> Int32[Array, "..."]:
    """The index of a word among ``words_N[first_C[node] : first_C[node + 1]]``, -1 if not there.

    The lower bound by bisection, the same number of steps for all. A node -1 gives no answer that
    means anything.
    """
    low, stop = jnp.broadcast_arrays(first_C[node], first_C[node + 1], word)[:2]

    def halve(_, bounds):
        low, high = bounds
        middle = (low + high) // 2
        less = jnp.take(words_N, middle, mode="clip") < word
        open_ = low < high
        return jnp.where(open_ & less, middle + 1, low), jnp.where(open_ & ~less, middle, high)

    low, _ = jax.lax.fori_loop(0, bisections, halve, (low, stop))
    found = (low < stop) & (jnp.take(words_N, low, mode="clip") == word)
    return jnp.where(found, low, -1)
