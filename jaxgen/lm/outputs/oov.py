"""Words that the network has not learnt: features and a probability from the contexts seen.

Bengio et al. (2003), section 5.1. A new word j that is met in a context c gets the features that
the network expects there, and one met in several contexts the mean of what each gives::

    C(j) = (1/N) sum_{c of its N contexts} sum_{i in V} P(i | c) C(i) = sum_i q_j(i) C(i)

where ``q_j(i)`` is the mean of ``P(i | c)``. Every other number that belongs to a word is made in
the same way:

* In the energy network that is b alone: ``b_j = sum_i q_j(i) b_i``. The word then has an energy of
  its own, and probabilities are normalised over V + 1 words.
* In the softmax network it is also the word's column of U and W. (The paper leaves this open: there
  an output unit does not depend on features.) As the logits are linear in them, ``y_j = sum_i
  q_j(i) y_i``: in any context the word is as likely, next to the others, as the geometric mean of
  the words that fill its contexts.

Either way nothing of the old words changes but the normaliser: the ratio of any two of their
probabilities in any context stays. The new word is as frequent as the words it resembles; to make
it rarer by a factor r, take ``log r`` from its b (add it in the energy network).
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Float, Float64, Integer

from jaxgen.errors import InputError
from jaxgen.ids import as_ids
from jaxgen.lm.network import NetworkModel
from jaxgen.lm.nplm import NPLMConfig
from jaxgen.lm.outputs.energy import EnergyNPLMConfig
from jaxgen.typing import Tree

Config = TypeVar("Config", NPLMConfig, EnergyNPLMConfig)

_WORD_AXIS = {"C": 0, "U": 1, "W": 1, "b": 0}
"""Which dimension of a parameter counts words."""

_ROWS = 512
"""Contexts whose distributions are computed at a time; bounds the memory of [rows, V]."""


def extend_vocabulary(
    config: Config, params: Tree, contexts: Sequence[Integer[np.ndarray, "N L"]]
) -> tuple[Config, Tree]:
    """The network with further words, from the contexts in which they were met.

    Args:
      config: of the network.
      params: its parameters, a plain tree of arrays that this process can read whole.
      contexts: for each new word the contexts before it, [N_j, n-1 or more] known ids with the
        nearest word last, N_j >= 1. The words get the ids V, V + 1, ... in this order.

    Returns:
      The configuration with the larger vocabulary, and the parameters as numpy arrays.

    Raises:
      InputError: for a network without a vector per word (a tree, a short list), a word without
        contexts, or contexts that the network refuses.
    """
    return add_words(config, params, context_weights(config, params, contexts))


def context_weights(
    config: Config, params: Tree, contexts: Sequence[Integer[np.ndarray, "N L"]]
) -> Float64[np.ndarray, "J V"]:
    """q [J, V]: for each list of contexts the mean of ``P(. | context)``; rows sum to one.

    Arguments and errors as for `extend_vocabulary`.
    """
    _check_config(config)
    model = NetworkModel(config.make_model(), params)
    weights_JV = np.zeros((len(contexts), config.vocabulary_size))
    for j, contexts_NL in enumerate(as_ids(rows, "contexts") for rows in contexts):
        if len(contexts_NL) == 0:
            raise InputError(f"new word {j} has no contexts, expected one or more")
        for first in range(0, len(contexts_NL), _ROWS):
            weights_JV[j] += model.distributions(contexts_NL[first : first + _ROWS]).sum(axis=0)
        weights_JV[j] /= len(contexts_NL)
    return weights_JV


def add_words(
    config: Config, params: Tree, weights_JV: Float[np.ndarray, "J V"]
) -> tuple[Config, Tree]:
    """The network with J further words, each a weighted mean of the words it has.

    Args:
      config: of the network.
      params: its parameters, a plain tree of arrays that this process can read whole.
      weights_JV: what each new word takes of each old one; rows sum to one.

    Returns:
      The configuration with the larger vocabulary, and the parameters as numpy arrays.

    Raises:
      InputError: for a network without a vector per word, or weights of another shape or sum.
    """
    _check_config(config)
    size, weights_JV = config.vocabulary_size, np.asarray(weights_JV, np.float64)
    if weights_JV.ndim != 2 or weights_JV.shape[1] != size or len(weights_JV) == 0:
        raise InputError(f"weights have shape {weights_JV.shape}, expected [J, {size}], J >= 1")
    if not np.allclose(weights_JV.sum(axis=1), 1, atol=1e-6):
        raise InputError("weights of a new word do not sum to one")
    larger = dataclasses.replace(config, vocabulary_size=size + len(weights_JV))

    def extend(path: Any, old: Any, new: jax.ShapeDtypeStruct) -> np.ndarray:
        name = jax.tree_util.keystr(path, simple=True, separator="/").split("/")[-1]
        old = np.asarray(old)
        if name not in _WORD_AXIS:
            return old
        rows: np.ndarray = np.moveaxis(old, _WORD_AXIS[name], 0)[:size]
        means = np.tensordot(weights_JV, rows, axes=1).astype(old.dtype)
        padding = new.shape[_WORD_AXIS[name]] - size - len(means)
        zeros = np.zeros((padding, *rows.shape[1:]), old.dtype)
        return np.moveaxis(np.concatenate([rows, means, zeros]), 0, _WORD_AXIS[name])

    return larger, jax.tree_util.tree_map_with_path(extend, params, _shapes(larger))


def _shapes(config: NPLMConfig | EnergyNPLMConfig) -> Tree:
    """What the parameters of a network look like."""
    contexts_BL = jnp.zeros((1, config.order - 1), jnp.int32)
    variables = jax.eval_shape(config.make_model().init, jax.random.key(0), contexts_BL)
    return nn.meta.unbox(variables)["params"]


def _check_config(config: Any) -> None:
    if type(config) not in (NPLMConfig, EnergyNPLMConfig):
        raise InputError(
            f"a {type(config).__name__} has no parameters of its own for each word, "
            "expected an NPLMConfig or an EnergyNPLMConfig"
        )
