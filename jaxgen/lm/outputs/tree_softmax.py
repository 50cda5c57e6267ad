"""Tree-structured output probabilities: the hierarchical softmax.

Bengio et al. (2003), section 5.2; Morin & Bengio (2005); Mnih & Hinton (2009). The words are the
leaves of a binary tree (`jaxgen.lm.outputs.word_tree`); every internal node v has a vector and a
bias, and decides between its two children by logistic regression on the hidden layers::

    y_v = b_v + U_v . a + W_v . x                       a, x as in `jaxgen.lm.nplm`
    P(child 1 | v, context) = sigmoid(y_v)
    P(w | context) = product over the nodes v from the root to w of sigmoid(+-y_v)

It sums to one by construction, and a training example touches the nodes of one path (12 on average
on Brown, for the tree of 500 word classes) instead of |V| units.

What it saves: processor time on CPU at |V| = 17,906, n = 5, m = 30, h = 100, batches of 512, full
softmax against tree: loss and gradient 100 ms, 4.5 ms; a whole update with Adagrad 103 ms, 6 ms;
``log P(target)`` 42 ms, 0.8 ms; all of P(. | context) 80 ms, 190 ms (one matrix product with all
nodes, and one pass over the levels of the tree, which costs more than the product).

The gradient of the node vectors is a dense array that the optimizer visits whole: that is most of
an update. Updating only the rows that were touched (`jnp.unique`, gather, scatter; exact for SGD
and Adagrad) takes 6.4 ms instead of 5.8 ms on CPU, the sorting costs more than the visit saves; so
it is not done. With an optimizer that divides by past gradients (Adagrad), start its squares above
zero: a rare node's first visit is a step of full length otherwise (on the built-in corpus, in
benchmarks/softmax_alternatives.py, perplexity 82.0 from 1e-3 and 84.6 from zero).

Sharding: nodes are sharded over the mesh axis ``model``, which spreads their memory and not their
arithmetic (`jaxgen.parallel.softmax.chosen_units`): the collectives along it are the logits of a
path, and the gradient with respect to a and x. For distributions over all words the node logits are
gathered.
"""

import base64
import binascii
import dataclasses
import functools
import zlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Float64, Int, Int8, Int32, Int64, Key

from jaxgen.errors import InputError
from jaxgen.lm.nplm import NPLM, NPLMConfig
from jaxgen.lm.outputs.word_tree import BinaryTree, tree_from_merges
from jaxgen.parallel.softmax import output_units
from jaxgen.parallel.softmax.chosen_units import chosen_logits
from jaxgen.parallel.softmax.output_units import Units


@dataclasses.dataclass(frozen=True, repr=False)
class TreeCode:
    """A binary tree as text: hashable, comparable, and fit for a configuration file.

    Attributes:
      text: base 64 of little-endian uint32 [V-1, 2], the two nodes that each merge joins (in the
        form of `jaxgen.lm.outputs.word_tree.tree_from_merges`). 11 characters a word.
    """

    text: str

    def __repr__(self) -> str:
        return f"TreeCode({len(self.text)} characters, crc32 {zlib.crc32(self.text.encode()):08x})"

    @classmethod
    def of(cls, tree: BinaryTree) -> "TreeCode":
        """The code of a tree; trees that differ have codes that differ."""
        words, children_N2 = tree.vocabulary_size, node_children(tree)
        # A child w >= 0 is the node w of the merges, a child v is -1 - v: node 2V - 2 - v.
        merged_N2 = np.where(children_N2 >= 0, children_N2, 2 * words - 1 + children_N2)
        return cls(base64.b64encode(merged_N2[::-1].astype("<u4").tobytes()).decode())

    def tree(self) -> BinaryTree:
        """The tree.

        Raises:
          InputError: for text that is no code of a tree.
        """
        try:
            merges_M2 = np.frombuffer(base64.b64decode(self.text, validate=True), "<u4")
            merges_M2 = merges_M2.reshape(-1, 2).astype(np.int64)
        except (binascii.Error, ValueError) as error:
            raise InputError(f"tree: {self!r} is no code of a tree ({error})") from None
        return tree_from_merges(merges_M2)


@dataclasses.dataclass(frozen=True)
class TreeNPLMConfig(NPLMConfig):
    """The network with a tree instead of one output unit for each word.

    Attributes:
      tree: the tree, whose leaves are the ``vocabulary_size`` words. Use ``TreeCode.of(tree)``.
    """

    tree: TreeCode = TreeCode("")

    def __post_init__(self) -> None:
        """Refuses a tree that does not have the vocabulary's words."""
        super().__post_init__()
        words = _plan(self.tree).vocabulary_size
        if words != self.vocabulary_size:
            raise InputError(
                f"tree has {words} words, expected vocabulary_size = {self.vocabulary_size}"
            )

    @property
    def outputs(self) -> int:
        """Internal nodes of the tree: |V| - 1."""
        return self.vocabulary_size - 1

    def make_model(self) -> "TreeNPLM":
        """The network."""
        return TreeNPLM(self)


class TreeNPLM(NPLM):
    """The paper's network with tree-structured output probabilities.

    The parameters have the names of `NPLM`; U and W have a row for each node, [nodes, h] and
    [nodes, (n-1)m], and so have the kernels of ``output_layer``.

    Attributes:
      config: the options.
    """

    config: TreeNPLMConfig

    def _output_kernel(self, name: str, inputs: int, units: int) -> Array:
        size = self.config.outputs

        def unpadded_normal(key, shape, dtype=jnp.float32):
            kernel_VD = jax.random.normal(key, (size, inputs), dtype) * 0.1 / inputs**0.5
            return jnp.pad(kernel_VD, ((0, shape[0] - size), (0, 0)))

        initial = nn.with_logical_partitioning(unpadded_normal, ("vocab", "embed"))
        return self.param(name, initial, (units, inputs))

    def __call__(self, contexts_BL: Int[Array, "B L"]) -> Float[Array, "B V"]:
        """``log P(w | context)`` of every word, [B, V] in nats.

        Args:
          contexts_BL: [B, n-1] ids in the order of the text (nearest word last).
        """
        hidden, (kernels, bias, nodes) = self.output_layer(contexts_BL)
        units = Units(tuple(k_VD.T for k_VD in kernels), bias, nodes)
        node_logits_BN = output_units.logits(hidden, units)[:, :nodes]
        return word_log_probabilities(node_logits_BN, _plan(self.config.tree))

    def loss(
        self,
        contexts_BL: Int[Array, "B L"],
        targets_B: Int[Array, "B"],
        weights_B: Float[Array, "B"] | None = None,
        train: bool = True,
    ) -> tuple[Float[Array, ""], Float[Array, "B"]]:
        """Mean negative log-likelihood in nats (differentiable), and that of each example [B]."""
        nll_B = -self._log_probabilities(contexts_BL, targets_B, train)
        loss = jnp.sum(nll_B * output_units.mean_weights(weights_B, len(targets_B)))
        return loss, jax.lax.stop_gradient(nll_B)

    def log_probabilities(
        self, contexts_BL: Int[Array, "B L"], targets_B: Int[Array, "B"]
    ) -> Float[Array, "B"]:
        """``log P(target | context)`` [B] in nats, at the cost of one path."""
        return self._log_probabilities(contexts_BL, targets_B, train=False)

    def _log_probabilities(self, contexts_BL, targets_B, train: bool) -> Float[Array, "B"]:
        hidden, (kernels, bias, _) = self.output_layer(contexts_BL, train)
        plan = _plan(self.config.tree)
        y_BK = chosen_logits(hidden, kernels, bias, jnp.asarray(plan.paths_VD)[targets_B])
        return path_log_probabilities(y_BK, jnp.asarray(plan.signs_VD)[targets_B])

    def top_k(
        self, contexts_BL: Int[Array, "B L"], k: int
    ) -> tuple[Float[Array, "B K"], Int[Array, "B K"]]:
        """The k likeliest next words: log-probabilities [B, k] in nats and ids [B, k]."""
        if not 1 <= k <= self.config.vocabulary_size:
            raise InputError(f"top_k is {k}, expected 1 to |V| = {self.config.vocabulary_size}")
        log_p_BK, ids_BK = jax.lax.top_k(self(contexts_BL), k)
        return log_p_BK, ids_BK

    def sample(
        self, contexts_BL: Int[Array, "B L"], key: Key[Array, ""], **options: Any
    ) -> Int[Array, "B"]:
        """A next word for each context [B], with the options of `sharded_logits.sample`."""
        return output_units.sample_logits(self(contexts_BL), key, **options)


def path_log_probabilities(
    logits_BK: Float[Array, "B K"], signs_BK: Int8[Array, "B K"]
) -> Float[Array, "B"]:
    """``log P(w)`` from the logits of the nodes on w's path: ``sum_k log sigmoid(sign_k y_k)``.

    Args:
      logits_BK: y of each node.
      signs_BK: 1 where child 1 is taken, -1 where child 0 is, 0 where the path has ended.
    """
    log_p_BK = jax.nn.log_sigmoid(signs_BK * logits_BK)
    return jnp.where(signs_BK == 0, 0.0, log_p_BK).sum(axis=1)


def word_log_probabilities(
    node_logits_BN: Float[Array, "B N"], plan: "TreePlan"
) -> Float[Array, "B V"]:
    """``log P(w)`` of every word, [B, V] in nats, from the logits of all V - 1 nodes.

    One pass from the root down: every node adds the log-probability of each of its children to its
    own. Groups of 64 examples take turns, so that what a pass writes and reads stays in the cache
    (on CPU 4 times as fast at V = 17,906).
    """
    examples, nodes = node_logits_BN.shape
    turns = examples // _GROUP if examples % _GROUP == 0 else 1
    # Group g has the examples g, g + turns, ...: examples of one device stay with it.
    groups = jnp.moveaxis(node_logits_BN.reshape(-1, turns, nodes), 1, 0)
    log_p = jax.lax.map(lambda y_BN: _descend(y_BN, plan), groups)
    return jnp.moveaxis(log_p, 0, 1).reshape(examples, -1)


_GROUP = 64
"""Examples that descend the tree together."""


def _descend(node_logits_BN: Float[Array, "B N"], plan: "TreePlan") -> Float[Array, "B V"]:
    # Rows are nodes here, so that choosing some of them moves whole rows.
    y_NB = node_logits_BN.T[plan.order_N]
    both_NB = jnp.log1p(jnp.exp(-jnp.abs(y_NB)))
    down_NB, up_NB = jnp.minimum(-y_NB, 0) - both_NB, jnp.minimum(y_NB, 0) - both_NB
    log_p_NB = jnp.zeros((1, y_NB.shape[1]), y_NB.dtype)
    words, first = [], 0
    for level in plan.levels:
        rows = slice(first, first + level.nodes)
        first += level.nodes
        children_NB = jnp.concatenate([log_p_NB + down_NB[rows], log_p_NB + up_NB[rows]])
        words.append(children_NB[level.leaves])
        log_p_NB = children_NB[level.inner]
    return jnp.concatenate(words)[plan.places_V].T


class Level(NamedTuple):
    """One level of a tree; its children are all child 0s and then all child 1s of its nodes.

    Attributes:
      nodes: N, how many internal nodes the level has.
      leaves: which of the 2N children are words.
      inner: which of them are internal nodes: those of the next level, in its order.
    """

    nodes: int
    leaves: Int64[np.ndarray, "leaves"]
    inner: Int64[np.ndarray, "inner"]


class TreePlan(NamedTuple):
    """A tree in the forms that the network needs.

    Attributes:
      paths_VD: int32 [V, D] nodes from the root to each word; 0 after the end.
      signs_VD: int8 [V, D] 1 for child 1, -1 for child 0, 0 after the end.
      order_N: [V-1] the nodes, one level after the other.
      levels: the levels, from the root down.
      places_V: [V] where each word is among the leaves of the levels, one level after the other.
    """

    paths_VD: Int32[np.ndarray, "V D"]
    signs_VD: Int8[np.ndarray, "V D"]
    order_N: Int64[np.ndarray, "N"]
    levels: tuple[Level, ...]
    places_V: Int64[np.ndarray, "V"]

    @property
    def vocabulary_size(self) -> int:
        """V."""
        return len(self.places_V)


def plan_tree(tree: BinaryTree) -> TreePlan:
    """Signs instead of bits, and the levels of a tree."""
    inside_VD = np.arange(tree.depth) < tree.lengths_V[:, None]
    signs_VD = np.where(inside_VD, 2 * tree.bits_VD - 1, 0).astype(np.int8)
    children_N2 = node_children(tree)
    order, levels, words = [], [], []
    nodes_N = np.zeros(1, np.int64)
    while len(nodes_N):
        child_C = children_N2[nodes_N].T.reshape(-1)
        leaf_C = child_C >= 0
        levels.append(Level(len(nodes_N), np.flatnonzero(leaf_C), np.flatnonzero(~leaf_C)))
        order.append(nodes_N)
        words.append(child_C[leaf_C])
        nodes_N = -1 - child_C[~leaf_C]
    places_V = np.argsort(np.concatenate(words))
    return TreePlan(tree.paths_VD, signs_VD, np.concatenate(order), tuple(levels), places_V)


def node_children(tree: BinaryTree) -> Int64[np.ndarray, "N 2"]:
    """Children 0 and 1 of each internal node: a word w as w, an internal node v as -1 - v."""
    words, depth = tree.paths_VD.shape
    next_VD = np.concatenate([-1 - tree.paths_VD[:, 1:], np.zeros((words, 1), np.int32)], axis=1)
    ends_VD = np.arange(depth) == tree.lengths_V[:, None] - 1
    next_VD = np.where(ends_VD, np.arange(words)[:, None], next_VD)
    inside_VD = np.arange(depth) < tree.lengths_V[:, None]
    children_N2 = np.empty((words - 1, 2), np.int64)
    children_N2[tree.paths_VD[inside_VD], tree.bits_VD[inside_VD]] = next_VD[inside_VD]
    return children_N2


def node_log_odds(tree: BinaryTree, weight_V: Float[np.ndarray, "V"]) -> Float64[np.ndarray, "N"]:
    """The bias of each node with which the tree alone gives every word its share of the weight.

    A good start for b: with ``weight_V`` the words' counts, the untrained network is a unigram
    model.

    Args:
      tree: the tree.
      weight_V: a weight > 0 for each word (counts with something added).

    Returns:
      float64 [V-1], log of the weight below child 1 over that below child 0.
    """
    inside_VD = np.arange(tree.depth) < tree.lengths_V[:, None]
    weight_N2 = np.zeros((tree.vocabulary_size - 1, 2))
    repeated = np.repeat(np.asarray(weight_V, float), tree.lengths_V)
    np.add.at(weight_N2, (tree.paths_VD[inside_VD], tree.bits_VD[inside_VD]), repeated)
    return np.log(weight_N2[:, 1]) - np.log(weight_N2[:, 0])


@functools.lru_cache(maxsize=16)
def _plan(code: TreeCode) -> TreePlan:
    return plan_tree(code.tree())
